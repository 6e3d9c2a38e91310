"""Pictures: what is drawn, named and marked, and that a disk that refuses leaves the old one."""

from __future__ import annotations

import pytest

from ppema import plots
from ppema.errors import StorageError
from ppema.plots import SweepPoint, plot_curves, plot_sweep

RECORDS = [
    *({"split": "train", "step": s, "loss": 2.0 / s} for s in range(1, 9)),
    *(
        {"split": "eval", "step": s, "average": name, "top1": top1}
        for s, row in ((2, (0.90, 0.80, 0.91)), (8, (0.95, 0.97, 0.96)))
        for name, top1 in zip(("raw", "ema", "swa"), row)
    ),
]
WINNER = {"average": "ema", "step": 8, "top1": 0.97, "loss": 0.1}


@pytest.fixture
def drawn(monkeypatch):
    """Return the figures that would have been saved."""
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    yield figures
    from matplotlib import pyplot

    pyplot.close("all")


def texts(axes):
    return [annotation.get_text() for annotation in axes.texts]


def lines(axes):
    return [list(zip(*line.get_data())) for line in axes.lines]


def test_each_curve_carries_its_name_and_the_winner_is_marked(drawn, tmp_path):
    plot_curves(RECORDS, "a run", tmp_path / "c.png", WINNER)
    upper, lower = drawn[0].axes
    assert texts(upper) == ["ema 97.00", "swa 96.00", "raw 95.00"]
    assert lines(upper)[1] == [(2, 80.0), (8, 97.0)]
    assert lines(upper)[-1] == [(8, 97.0)]
    assert upper.lines[-1].get_marker() == "*"
    assert upper.get_title() == "a run\nbest: ema, 97.00 % at step 8"
    assert lines(lower)[0] == [(s, 2.0 / s) for s in range(1, 9)]
    # The end of the run is what tells curves apart, not where they began.
    assert upper.get_ylim()[0] > 80


def test_names_of_curves_that_end_together_do_not_overlap(drawn, tmp_path):
    records = [{**record, "top1": 0.97} if "top1" in record else record for record in RECORDS]
    plot_curves(records, "a run", tmp_path / "c.png", WINNER)
    axes = drawn[0].axes[0]
    heights = [annotation.xy[1] for annotation in axes.texts]
    low, high = axes.get_ylim()
    assert all(a - b > 0.05 * (high - low) for a, b in zip(heights, heights[1:]))


def test_a_run_that_was_not_evaluated_shows_its_loss(drawn, tmp_path):
    plot_curves([r for r in RECORDS if r["split"] == "train"], "a run", tmp_path / "c.png")
    (axes,) = drawn[0].axes
    assert (axes.get_title(), axes.get_ylabel()) == ("a run", "training loss")


def test_a_sweep_shows_accuracy_and_residual_over_width(drawn, tmp_path):
    points = [SweepPoint(0.05, 0.001, 0.97), SweepPoint(0.1, 0.0, 0.98), SweepPoint(0.2, 0.02, 0.9)]
    plot_sweep(points, points[1], {"raw": 0.95}, "a run", tmp_path / "s.png")
    upper, lower = drawn[0].axes
    assert lines(upper)[0] == [(0.05, 97.0), (0.1, 98.0), (0.2, 90.0)]
    assert lines(upper)[1] == [(0.1, 98.0)]
    assert texts(upper) == ["raw 95.00"]
    assert upper.get_title() == "a run\nbest: 98.00 % at sigma_rel 0.1"
    assert lines(lower)[0] == [(0.05, 0.1), (0.1, 0.0), (0.2, 2.0)]
    assert upper.get_xscale() == "log"


def test_the_picture_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "deep/c.png"
    plot_curves(RECORDS, "a run", path, WINNER)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ppema.checkpoint.files.os.replace", refuse)
    with pytest.raises(StorageError, match="no space left"):
        plot_curves(RECORDS[:3], "a run", path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["c.png"]
