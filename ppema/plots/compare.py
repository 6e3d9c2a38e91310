"""The curves of several runs in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

from .curves import draw_curve, limit_top1, values_of
from .figure import label_ends, new_figure, save, style_of


class Run(NamedTuple):
    """A run to be compared: its name, its metrics.jsonl, and the weights that count."""

    name: str
    records: Sequence[Mapping[str, Any]]
    average: str


def plot_runs(runs: Sequence[Run], title: str, path: Path) -> None:
    """Draw top-1 of each run's chosen weights over the epochs, and of its raw ones, thin.

    Over epochs and not steps, since the runs may differ in batch size.

    Raises:
        StorageError: the disk refused.
    """
    figure, (axes,) = new_figure(1, heights=(1,))
    ends, every, later = [], [], []
    last_epoch = max(record["epoch"] for run in runs for record in run.records)
    for index, run in enumerate(runs):
        color = style_of(index)["color"]
        for name in dict.fromkeys(("raw", run.average)):
            # Of an epoch the last, at its end.
            own = list({r["epoch"]: r for r in _evaluations(run, name)}.values())
            epochs, top1 = [r["epoch"] for r in own], [100 * v for v in values_of(own, "top1")]
            is_chosen = name == run.average
            style = {"linewidth": 1.8} if is_chosen else {"linewidth": 0.8, "linestyle": "--"}
            draw_curve(axes, epochs, top1, {"color": color, **style})
            every += top1
            later += [value for epoch, value in zip(epochs, top1) if epoch > last_epoch / 4]
            if is_chosen and top1:
                ends.append((f"{run.name}: {name} {top1[-1]:.2f}", top1[-1], color))
    limit_top1(axes, every, later)
    axes.set_xlabel("epoch")
    axes.set_title(f"{title}\nthick: the weights that count; thin: raw")
    label_ends(axes, ends)
    save(figure, path, [title, *(run.name for run in runs)])


def _evaluations(run: Run, name: str) -> list[Mapping[str, Any]]:
    return [r for r in run.records if r["split"] == "eval" and r["average"] == name]
