"""Pictures of a run: curves, sweeps over widths, confusion matrices, reliability, mistakes."""

from .compare import Run, plot_runs
from .confusion import plot_confusion
from .curves import SweepPoint, plot_curves, plot_sweep
from .headline import Band, Gain, plot_headline
from .mistakes import Mistake, PixelScale, draw_mistakes, plot_mistakes
from .reliability import plot_reliability
from .study import CurvePanel, MeanPanel, MeanRow, plot_mean_curves, plot_means

__all__ = [
    "Band",
    "CurvePanel",
    "Gain",
    "MeanPanel",
    "MeanRow",
    "Mistake",
    "PixelScale",
    "Run",
    "SweepPoint",
    "draw_mistakes",
    "plot_confusion",
    "plot_curves",
    "plot_headline",
    "plot_mean_curves",
    "plot_means",
    "plot_mistakes",
    "plot_reliability",
    "plot_runs",
    "plot_sweep",
]
