"""Pictures of a run: curves, sweeps over widths, confusion matrices, reliability, mistakes."""

from .compare import Run, plot_runs
from .confusion import plot_confusion
from .curves import SweepPoint, plot_curves, plot_sweep
from .mistakes import Mistake, PixelScale, draw_mistakes, plot_mistakes
from .reliability import plot_reliability
from .study import CurvePanel, MeanPanel, MeanRow, plot_mean_curves, plot_means

__all__ = [
    "CurvePanel",
    "MeanPanel",
    "MeanRow",
    "Mistake",
    "PixelScale",
    "Run",
    "SweepPoint",
    "draw_mistakes",
    "plot_confusion",
    "plot_curves",
    "plot_mean_curves",
    "plot_means",
    "plot_mistakes",
    "plot_reliability",
    "plot_runs",
    "plot_sweep",
]
