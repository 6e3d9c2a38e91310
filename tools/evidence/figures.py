"""The pictures of the evidence, each drawn from kept results alone, and saying from which."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from ppema.errors import ConfigError
from ppema.plots import (
    Band,
    Gain,
    plot_headline,
    plot_mean_curves,
    plot_means,
    plot_reliability,
)
from ppema.study.panels import (
    INTERVALS,
    UNITS,
    curve_panel,
    mean_panel,
    reliability_of,
    summary_of,
)
from ppema.study.plan import Variant
from ppema.study.summary import level_name
from ppema.study.table import number

from .declared import AnyFigure, Diagram, Headline
from .results import Result, Results, require_known

_DECLARED = "drawn"


def facts_of(figure: AnyFigure, results: Results) -> dict[str, str]:
    """Return what a picture says of itself: what was to be drawn, and the sha256 of its sources."""
    sources = {f"{name}.json": results.read(name).sha256 for name in figure.studies}
    return {_DECLARED: repr(figure), **sources}


def draw(figure: AnyFigure, results: Results) -> None:
    """Draw a figure into its file.

    Raises:
        ConfigError: it is declared with a variant or weights that the study has not.
        StorageError: the disk refused.
    """
    facts = facts_of(figure, results)
    if isinstance(figure, Headline):
        _draw_headline(figure, results, facts)
        return
    if isinstance(figure, Diagram):
        _draw_diagram(figure, results, facts)
        return
    result = results.read(figure.study)
    variants = [_variant(result, name) for name in figure.variants] or list(result.plan.variants)
    for variant in variants:
        _require_weights_of(result, variant, figure.weights)
    weights = figure.weights or None
    if figure.is_curves:
        curves = [curve_panel(result.variants, variant, weights) for variant in variants]
        plot_mean_curves(curves, _reach(result), figure.title, figure.path, facts)
        return
    means = [
        mean_panel(result.plan, result.variants, variant, figure.metric, weights)
        for variant in variants
    ]
    plot_means(means, figure.title, f"{UNITS[figure.metric]}; {INTERVALS}", figure.path, facts)


def _draw_diagram(figure: Diagram, results: Results, facts: dict[str, str]) -> None:
    result = results.read(figure.study)
    variant = _variant(result, figure.variant)
    _require_weights_of(result, variant, [figure.weights])
    found = summary_of(result.variants, variant)["weights"][figure.weights]
    plot_reliability(reliability_of(found), figure.title, figure.path, facts)


def _draw_headline(figure: Headline, results: Results, facts: dict[str, str]) -> None:
    result = results.read(figure.study)
    _require_weights_of(result, result.plan.variants[0], figure.weights)
    _require(result, level_name(figure.level), [*map(level_name, _reach(result))], "reach")
    summaries = result.variants[0]["weights"]
    bands = [_band(name, summaries[name], figure.level) for name in figure.weights]
    gains = [_gain(results.read(study), *rest) for study, *rest in figure.gains]
    left, right = figure.titles
    left += f", mean ± std of {result.variants[0]['n']} seeds"
    plot_headline(bands, figure.level, gains, (left, right), figure.path, facts)


def _band(name: str, summary: Mapping[str, Any], level: float) -> Band:
    curve, reached = summary["curve"], summary["reached"][level_name(level)]
    at, num_seeds = reached["steps"], summary["test"]["top1"]["n"]
    note = f"step {number(at['mean'], 'steps')}" if at else ""
    if 0 < reached["n"] < num_seeds:
        # A mean of some seeds alone is not to look like that of all.
        note += f" ({reached['n']} of {num_seeds})"
    mean = at["mean"] if at else None
    return Band(name, curve["steps"], curve["mean"], curve["std"], mean, note)


def _gain(result: Result, name: str, weights: str, label: str) -> Gain:
    variant = _variant(result, name)
    _require_weights_of(result, variant, [weights])
    difference = summary_of(result.variants, variant)["weights"][weights]["difference"]["top1"]
    mean, low, high = (100 * difference[key] for key in ("mean", "low", "high"))
    return Gain(label, weights, mean, low, high)


def _reach(result: Result) -> Sequence[float]:
    if not result.plan.study.reach:
        raise ConfigError(f"{result.plan.study.path}: has no reach, so there are no curves of it")
    return result.plan.study.reach


def _variant(result: Result, name: str) -> Variant:
    variants = {variant.name: variant for variant in result.plan.variants}
    _require(result, name, list(variants), "variant")
    return variants[name]


def _require_weights_of(result: Result, variant: Variant, names: Sequence[str]) -> None:
    known = list(summary_of(result.variants, variant)["weights"])
    for name in names:
        _require(result, name, known, "set of weights")


def _require(result: Result, name: str, known: Sequence[str], what: str) -> None:
    def error(message: str) -> ConfigError:
        return ConfigError(f"tools/evidence/declared.py: {result.plan.study.name}: {message}")

    require_known(name, known, what, error)
