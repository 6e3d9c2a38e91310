"""What a study says of its runs: means, pairs, choices, churn."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from ppema.study.curves import mean_curves
from ppema.study.panels import reliability_of
from ppema.study.plan import Plan, PlannedRun, Variant
from ppema.study.report import render
from ppema.study.schema import SELECTED, Override, Reference, Study
from ppema.study.statistics import summarise
from ppema.study.summary import RunResult, summarise_variants
from ppema.study.table import as_markdown, as_text, rows_of

SEEDS = [0, 1, 2, 3, 4]
# Of validation, and of the test, by variant and weights: top-1 of each seed.
VALIDATION = {
    "a": {"raw": [0.80, 0.81, 0.79, 0.80, 0.82], "ema": [0.90, 0.80, 0.91, 0.90, 0.90]},
    "b": {"raw": [0.70] * 5, "ema": [0.60] * 5},
}
TEST = {
    "a": {"raw": [0.78, 0.80, 0.79, 0.81, 0.80], "ema": [0.88, 0.83, 0.90, 0.87, 0.89]},
    "b": {"raw": [0.71, 0.72, 0.70, 0.71, 0.73], "ema": [0.65] * 5},
}


def figures(top1):
    return {"top1": top1, "top2": 1.0, "loss": 1 - top1, "ece": top1 / 10}


def make_study(**changes):
    values = {
        **{"name": "some", "path": "some.yml", "text": "", "base": "base.yml", "overrides": []},
        **{"axes": {"x": {"a": [], "b": [Override("k", "1", None)]}}, "seeds": SEEDS},
        **{"reference": Reference({}, "raw", None), "metric": "top1", "checkpoint": "last"},
        **{"reach": [0.9], "posthoc": []},
    }
    return Study(**{**values, **changes})


def make_plan_and_results(**changes):
    study = make_study(**changes)
    config = SimpleNamespace(Averages={"ema": None}, Swap=None)
    variants = [Variant(f"x_{label}", {"x": label}, [], config, []) for label in "ab"]
    runs = [PlannedRun(variant, seed, config, []) for seed in SEEDS for variant in variants]
    plan = Plan(study, [], None, variants, runs)
    results = [make_result(run) for run in sorted(runs, key=lambda run: run.variant.name)]
    return plan, results


def make_result(run):
    label, index = run.variant.labels["x"], SEEDS.index(run.seed)
    weights = {
        name: {
            "validation": figures(VALIDATION[label][name][index]),
            "test": figures(TEST[label][name][index]),
            "classes": [0, 1, index % 2, 3],
            "reliability": {"counts": [index, 1], "right": [index, 0], "confidence": [1, 2]},
            # The first two seeds of raw never reach it.
            "reached": {
                "0.9": {"steps": None, "seconds": None}
                if name == "raw" and index < 2
                else {"steps": 100 - 10 * (name == "ema"), "seconds": 5.0}
            },
        }
        for name in ("raw", "ema")
    }
    best = max(weights, key=lambda name: weights[name]["validation"]["top1"])
    weights[SELECTED] = weights[best]
    return RunResult(run, {"data": {}}, [], weights, best, steps=100, seconds=5.0)


def test_weights_are_compared_with_the_reference_of_the_same_seed():
    a, b = summarise_variants(*make_plan_and_results())
    pairs = [e - r for e, r in zip(TEST["a"]["ema"], TEST["a"]["raw"])]
    assert a["weights"]["ema"]["difference"]["top1"] == summarise(pairs).as_dict()
    assert a["weights"]["ema"]["test"]["top1"]["mean"] == pytest.approx(0.874)
    assert a["weights"]["ema"]["validation"]["top1"]["mean"] == pytest.approx(0.882)
    assert "difference" not in a["weights"]["raw"]
    assert b["weights"]["ema"]["difference"]["loss"]["mean"] == pytest.approx(0.064)


def test_a_reference_of_another_variant_is_paired_by_seed_too():
    reference = Reference({"x": "b"}, "raw", None)
    a, b = summarise_variants(*make_plan_and_results(reference=reference))
    pairs = [e - r for e, r in zip(TEST["a"]["raw"], TEST["b"]["raw"])]
    assert a["weights"]["raw"]["difference"]["top1"] == summarise(pairs).as_dict()
    assert "difference" not in b["weights"]["raw"]


def test_validation_chooses_and_the_test_is_only_reported():
    a, b = summarise_variants(*make_plan_and_results())
    # ema of b is worse on validation, and one seed of a would rather have raw.
    assert (a["chosen"], b["chosen"]) == ("ema", "raw")
    chosen = [0.88, 0.80, 0.90, 0.87, 0.89]
    assert a["weights"][SELECTED]["test"]["top1"]["mean"] == pytest.approx(sum(chosen) / 5)
    assert "reached" not in a["weights"][SELECTED]


def test_weights_that_the_test_data_would_choose_are_not_chosen():
    plan, results = make_plan_and_results()
    for result in results[5:]:
        result.weights["ema"]["validation"]["top1"] = 0.9
    _, b = summarise_variants(plan, results)
    assert b["chosen"] == "ema"
    tested = {name: b["weights"][name]["test"]["top1"]["mean"] for name in ("raw", "ema")}
    assert tested["ema"] < tested["raw"]


def test_a_loss_is_the_better_the_lower():
    a, b = summarise_variants(*make_plan_and_results(metric="ece"))
    assert (a["chosen"], b["chosen"]) == ("raw", "ema")


def test_steps_to_an_accuracy_are_of_those_that_reach_it_and_pairs_of_those_where_both_do():
    a, _ = summarise_variants(*make_plan_and_results())
    raw, ema = (a["weights"][name]["reached"]["0.9"] for name in ("raw", "ema"))
    assert (raw["n"], raw["steps"]["n"], raw["steps"]["mean"]) == (3, 3, 100)
    assert raw["steps_difference"] is None
    assert (ema["n"], ema["steps_difference"]["n"]) == (5, 3)
    assert ema["steps_difference"]["mean"] == -10


def test_churn_is_the_mean_over_all_pairs_of_seeds():
    a, _ = summarise_variants(*make_plan_and_results())
    # Of the ten pairs of five seeds, the six of an even with an odd one differ in one image of 4.
    assert a["weights"]["raw"]["churn"] == {
        "mean": pytest.approx(0.6 * 0.25),
        **{"least": 0.0, "largest": 0.25},
    }


def test_the_reliability_of_all_seeds_is_their_sum():
    a, _ = summarise_variants(*make_plan_and_results())
    total = reliability_of(a["weights"]["ema"])
    assert (total.counts.tolist(), total.confidence.tolist()) == ([10, 5], [5, 10])


def test_a_variant_without_a_run_has_no_figures():
    plan, results = make_plan_and_results()
    _, b = summarise_variants(plan, results[:5])
    assert (b["n"], b["chosen"], b["weights"]) == (0, None, {})


def test_the_table_claims_nothing_with_fewer_than_five_seeds():
    plan, results = make_plan_and_results()
    header, raw, ema, *_ = rows_of(plan, summarise_variants(plan, results))
    assert header[:6] == ["variant", "weights", "n", "top1, %", "top1 - raw, %", "95 % interval"]
    assert raw[4:7] == ["-", "-", "-"]
    assert ema[1:7] == ["ema *", "5", "87.40 ± 2.70", "+7.80", "+3.74 to +11.86", "0.006"]
    assert ema[-1] == "90 ± 0 (5)"
    few = [result for result in results if result.run.seed < 4]
    _, _, ema, *_ = rows_of(plan, summarise_variants(plan, few))
    assert ema[4:7] == ["+7.50", "(4 seeds)", "-"]


def test_the_table_says_where_an_accuracy_is_never_reached():
    plan, results = make_plan_and_results()
    for result in results:
        for found in result.weights.values():
            found["reached"] = {"0.9": {"steps": None, "seconds": None}}
    _, raw, ema, selected, *_ = rows_of(plan, summarise_variants(plan, results))
    assert [row[-1] for row in (raw, ema, selected)] == ["never", "never", "-"]


def test_equal_means_of_figures_in_another_order_are_told_apart_by_the_loss():
    plan, results = make_plan_and_results()
    # In floating point the sums differ, and raw has the larger.
    shares = {"raw": [0.1, 0.2, 0.3], "ema": [0.3, 0.2, 0.1]}
    assert sum(shares["raw"]) > sum(shares["ema"])
    for index, result in enumerate(results[:3]):
        for name, loss in (("raw", 2.0), ("ema", 1.0)):
            result.weights[name]["validation"].update(top1=shares[name][index], loss=loss)
    a, _ = summarise_variants(plan, results[:3])
    assert a["chosen"] == "ema"


def test_the_table_has_the_same_cells_on_a_screen_and_in_markdown():
    rows = [["a", "bb"], ["ccc", "d"]]
    assert as_text(rows) == "a    bb\nccc  d"
    assert as_markdown(rows) == "| a | bb |\n|---|---|\n| ccc | d |"
    assert as_markdown([["a|b"]]) == "| a\\|b |\n|---|"


def evaluations(*points, name="raw"):
    return [
        {"split": "train", "step": 1},
        *({"split": "eval", "average": name, "step": step, "top1": top1} for step, top1 in points),
    ]


def test_a_mean_curve_has_the_steps_that_all_runs_have():
    runs = [evaluations((1, 0.2), (2, 0.4)), evaluations((1, 0.4), (2, 0.6), (3, 0.8))]
    deviation = pytest.approx(0.02**0.5)
    assert mean_curves(runs) == {
        "raw": {
            "steps": [1, 2],
            "mean": pytest.approx([0.3, 0.5]),
            "std": [deviation, deviation],
        }
    }
    assert mean_curves(runs[:1])["raw"]["std"] == [None, None]


def test_curves_are_told_where_an_accuracy_is_to_be_reached():
    ema = evaluations((1, 0.2), name="ema")

    def summaries(reach):
        plan, results = make_plan_and_results(reach=reach)
        evaluated = [dataclasses.replace(result, records=ema) for result in results]
        return summarise_variants(plan, evaluated)

    for each in summaries(reach=[0.9]):
        assert each["weights"]["ema"]["curve"] == {"steps": [1], "mean": [0.2], "std": [0.0]}
        assert not {"curve"} & {*each["weights"]["raw"], *each["weights"][SELECTED]}
    for each in summaries(reach=[]):
        assert "curve" not in each["weights"]["ema"]


def test_json_is_one_line_for_what_holds_figures_only():
    assert render({"a": {"b": 1, "c": None}, "d": [], "e": [{"f": "ü"}, [1, 2]]}) == (
        '{\n "a": {"b": 1, "c": null},\n "d": [],\n "e": [\n  {"f": "ü"},\n  [1, 2]\n ]\n}'
    )
