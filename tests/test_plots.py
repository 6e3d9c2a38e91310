"""Pictures: what is drawn, named and marked, and that a disk that refuses leaves the old one."""

from __future__ import annotations

import math

import pytest

from ppema.errors import StorageError
from ppema.plots import (
    Band,
    CurvePanel,
    Gain,
    MeanPanel,
    MeanRow,
    Run,
    SweepPoint,
    compare,
    curves,
    headline,
    plot_curves,
    plot_headline,
    plot_mean_curves,
    plot_means,
    plot_runs,
    plot_sweep,
    study,
)

RECORDS = [
    *({"split": "train", "step": s, "loss": 2.0 / s} for s in range(1, 9)),
    *(
        {"split": "eval", "step": s, "average": name, "top1": top1, "loss": 1 - top1}
        for s, row in ((2, (0.90, 0.80, 0.91)), (8, (0.95, 0.97, 0.96)))
        for name, top1 in zip(("raw", "ema", "swa"), row)
    ),
]
EVALUATIONS = [{**r, "epoch": r["step"] // 2} for r in RECORDS if r["split"] == "eval"]
WINNER = {"average": "ema", "step": 8, "top1": 0.97, "loss": 0.1}


@pytest.fixture
def drawn(monkeypatch):
    """Return the figures that would have been saved."""
    figures = []
    for module in (curves, compare, headline, study):
        monkeypatch.setattr(module, "save", lambda figure, *_: figures.append(figure))
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
    (star,) = (line for line in upper.lines if line.get_marker() == "*")
    assert list(zip(*star.get_data())) == [(8, 97.0)]
    for axes in (upper, lower):
        assert list(axes.lines[-1].get_xdata()) == [8, 8]
    assert upper.get_title() == "a run\nbest: ema, 97.00 % at step 8"
    assert lines(lower)[0] == [(s, 2.0 / s) for s in range(1, 9)]
    assert lines(lower)[2] == [(2, pytest.approx(0.2)), (8, pytest.approx(0.03))]
    assert sorted(texts(lower)) == ["ema", "raw", "swa", "training"]
    # The end of the run is what tells curves apart, not where they began.
    assert upper.get_ylim()[0] > 80


def test_names_of_curves_that_end_together_do_not_overlap(drawn, tmp_path):
    records = [{**record, "top1": 0.97} if "top1" in record else record for record in RECORDS]
    plot_curves(records, "a run", tmp_path / "c.png", WINNER)
    from matplotlib.text import Text

    axes = drawn[0].axes[0]
    drawn[0].canvas.draw()
    # Without the lines from the curves to them.
    boxes = [Text.get_window_extent(annotation) for annotation in axes.texts]
    assert len(boxes) == 3
    assert all(upper.y0 > lower.y1 for upper, lower in zip(boxes, boxes[1:]))


def test_a_run_that_was_not_evaluated_shows_its_loss(drawn, tmp_path):
    plot_curves([r for r in RECORDS if r["split"] == "train"], "a run", tmp_path / "c.png")
    (axes,) = drawn[0].axes
    assert (axes.get_title(), axes.get_ylabel()) == ("a run", "loss")


def test_a_figure_that_was_not_finite_is_a_gap(drawn, tmp_path):
    records = [{**r, "loss": None if r["step"] in (3, 4) else r["loss"]} for r in RECORDS]
    plot_curves(records, "a run", tmp_path / "c.png", WINNER)
    losses = drawn[0].axes[1].lines[0].get_ydata()
    assert [math.isnan(loss) for loss in losses] == [False] * 2 + [True] * 2 + [False] * 4


def test_a_run_without_a_finite_loss_says_so(drawn, tmp_path):
    plot_curves([{"split": "train", "step": 1, "loss": None}], "a run", tmp_path / "c.png")
    assert texts(drawn[0].axes[0]) == ["no finite loss"]


def test_the_mean_of_a_long_run_is_drawn_over_its_noise(drawn, tmp_path):
    records = [{"split": "train", "step": s, "loss": 2.0 + s % 2} for s in range(1, 401)]
    plot_curves(records, "a run", tmp_path / "c.png")
    noise, mean = (line.get_ydata() for line in drawn[0].axes[0].lines)
    assert set(noise) == {2.0, 3.0}
    assert set(mean[8:-8]) == {2.5}


def test_a_beginning_far_below_is_cut_off_and_one_not_far_below_is_shown(drawn, tmp_path):
    for first in (0.1, 0.97):
        records = [
            {"split": "eval", "step": s, "average": "raw", "top1": top1, "loss": 0.1}
            for s, top1 in ((1, first), (10, 0.98), (20, 0.985))
        ]
        plot_curves(records, "a run", tmp_path / "c.png")
    far, near = (figure.axes[0].get_ylim()[0] for figure in drawn)
    assert 95 < far < 98
    assert near < 97


def test_runs_are_compared_by_the_weights_that_count_and_their_raw_ones(drawn, tmp_path):
    slower = [{**record, "top1": record["top1"] - 0.1} for record in EVALUATIONS]
    runs = [Run("fast", EVALUATIONS, "ema"), Run("slow", slower, "raw")]
    plot_runs(runs, "two runs", tmp_path / "r.png")
    (axes,) = drawn[0].axes
    assert texts(axes) == ["fast: ema 97.00", "slow: raw 85.00"]
    assert lines(axes) == [
        [(1, 90.0), (4, 95.0)],
        [(1, 80.0), (4, 97.0)],
        [(1, pytest.approx(80.0)), (4, pytest.approx(85.0))],
    ]


def test_of_an_epoch_with_several_evaluations_the_last_is_compared(drawn, tmp_path):
    early = [{**EVALUATIONS[0], "top1": 0.1}, *EVALUATIONS]
    plot_runs([Run("one", early, "raw")], "one run", tmp_path / "r.png")
    assert lines(drawn[0].axes[0]) == [[(1, 90.0), (4, 95.0)]]


def means(name="raw", low=None, is_chosen=False):
    return MeanRow(name, 98.0, low, 99.0 if low else None, f"note of {name}", is_chosen)


def test_means_of_a_study_stand_in_a_panel_for_each_variant(drawn, tmp_path):
    rows = [means(), means("ema", 97.5, True)]
    panels = [MeanPanel("clean", rows, 97.0), MeanPanel("noisy", rows[:1], 98.0)]
    plot_means(panels, "a study", "top-1, %", tmp_path / "m.png")
    upper, lower = drawn[0].axes
    assert [axes.get_title("left") for axes in (upper, lower)] == ["clean", "noisy"]
    assert [label.get_text() for label in upper.get_yticklabels()] == ["raw", "ema"]
    assert texts(upper) == ["note of raw", "note of ema"]
    # The reference, a dot for raw, a bar and a dot for ema.
    assert lines(upper) == [
        [(97.0, 0), (97.0, 1)],
        [(98.0, 0)],
        [(97.5, 1), (99.0, 1)],
        [(98.0, 1)],
    ]
    assert [t.get_fontweight() for t in upper.texts] == ["normal", "bold"]
    assert lower.get_xlabel() == "top-1, %"


def test_mean_curves_of_a_study_carry_their_names_and_the_accuracy_to_reach(drawn, tmp_path):
    curves_by_name = {"raw": ([10, 20], [0.9, 0.97]), "ema": ([10, 20], [0.95, 0.98])}
    plot_mean_curves([CurvePanel("clean", curves_by_name)], [0.96], "a study", tmp_path / "s.png")
    (axes,) = drawn[0].axes
    assert texts(axes) == ["ema 98.00", "raw 97.00"]
    assert lines(axes)[2] == [(0, 96.0), (1, 96.0)]
    low, high = axes.get_ylim()
    assert low < 96 < high


def test_the_headline_has_curves_with_when_they_were_there_and_gains(drawn, tmp_path):
    bands = [
        Band("raw", [10, 20], [0.9, 0.97], [0.01, 0.02], None, ""),
        Band("ema", [10, 20], [0.95, 0.98], [0.0, 0.0], 14.5, "step 14"),
    ]
    gains = [Gain("clean", "ema", 0.5, 0.25, 0.75), Gain("noisy", "swa", 2.0, -1.0, 5.0)]
    plot_headline(bands, 0.96, gains, ("curves", "gains"), tmp_path / "h.png")
    left, right = drawn[0].axes
    assert texts(left) == ["step 14", "ema 98.00", "raw 97.00", "96 %"]
    level, raw, ema, drop, mark = lines(left)
    assert level == [(0, 96.0), (1, 96.0)]
    assert raw == [(10, 90.0), (20, 97.0)]
    assert ema == [(10, 95.0), (20, 98.0)]
    assert (drop[1], mark) == ((14.5, 96.0), [(14.5, 96.0)])
    low, high = left.collections[0].get_datalim(left.transData).intervaly
    assert (low, high) == (pytest.approx(89), pytest.approx(99))
    assert [label.get_text() for label in right.get_yticklabels()] == ["clean", "noisy"]
    assert texts(right) == ["ema +0.50", "swa +2.00"]
    assert lines(right) == [
        [(0, 0), (0, 1)],
        *([(0.25, 0), (0.75, 0)], [(0.5, 0)]),
        *([(-1.0, 1), (5.0, 1)], [(2.0, 1)]),
    ]


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
