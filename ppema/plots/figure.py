"""What all pictures share: empty figures, labels beside curves, files that are whole."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence

from ..checkpoint.files import reason, write_atomically
from ..errors import StorageError

# Of curves beside the raw weights, whose grey is their own.
_COLORS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")
_STYLES = ("-", "--", ":", "-.")
RAW_COLOR = "0.4"
# Matplotlib's own font has no Chinese, Japanese or Korean; these are what systems bring along.
_WIDE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Microsoft YaHei", "SimHei", "PingFang SC", "Heiti SC"),
    "Arial Unicode MS",
)
# Between two labels, in points.
_LABEL_STEP = 11.5
# From the left of the label, not from its middle.
_CONNECTOR = {"arrowstyle": "-", "linewidth": 0.6, "relpos": (0.0, 0.5), "shrinkA": 0}


def new_figure(
    rows: int,
    heights: Sequence[float],
    size: tuple[float, float] = (8.4, 5.6),
    shares_axis: bool = True,
) -> Any:
    """Return a figure and its axes, one below the other.

    Their horizontal axis is a common one of whole numbers, or each has one of its own.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        rows,
        1,
        figsize=size,
        sharex=shares_axis,
        squeeze=False,
        gridspec_kw={"height_ratios": list(heights)},
    )
    for each in axes[:, 0]:
        _clear(each)
        if shares_axis:
            count_along(each)
    return figure, axes[:, 0]


def new_row(widths: Sequence[float], size: tuple[float, float]) -> Any:
    """Return a figure and its axes, side by side, each with scales of its own."""
    figure, axes = _pyplot().subplots(
        1, len(widths), figsize=size, squeeze=False, gridspec_kw={"width_ratios": list(widths)}
    )
    for each in axes[0]:
        _clear(each)
    return figure, axes[0]


def count_along(axes: Any) -> None:
    """Have the horizontal axis show whole numbers."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _clear(axes: Any) -> None:
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def style_of(index: int) -> dict[str, Any]:
    """Return colour and dashes of the index-th average, counted from 0."""
    return {
        "color": _COLORS[index % len(_COLORS)],
        "linestyle": _STYLES[index // len(_COLORS) % len(_STYLES)],
    }


def label_ends(axes: Any, ends: Iterable[tuple[str, float, str]]) -> None:
    """Write each text to the right of its curve's end; spread out where they are near.

    To be called last, since what is drawn later would move the axes under the labels.

    Args:
        axes: whose limits and scales are final.
        ends: text, value at the right, colour.
    """
    found = sorted(ends, key=lambda end: -end[1])
    heights = [_height_of(axes, value) for _, value, _ in found]
    step = _LABEL_STEP / 72 * axes.figure.dpi / axes.get_window_extent().height
    places = _spread(heights, step)
    for (text, _, color), height, place in zip(found, heights, places):
        is_moved = abs(place - height) > step / 4
        axes.annotate(
            text,
            xy=(1.0, height),
            xytext=(1.03, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=color,
            fontsize=9,
            annotation_clip=False,
            arrowprops={**_CONNECTOR, "color": color} if is_moved else None,
        )


def _height_of(axes: Any, value: float) -> float:
    """Return where a value lies between the lower (0) and the upper (1) end of the axes."""
    pixels = axes.transData.transform((axes.get_xlim()[0], value))
    return min(max(float(axes.transAxes.inverted().transform(pixels)[1]), 0.0), 1.0)


def _spread(heights: Sequence[float], step: float) -> list[float]:
    """Return heights, from the top, moved so that they are a step apart and not below 0."""
    places = list(heights)
    for index in range(1, len(places)):
        places[index] = min(places[index], places[index - 1] - step)
    lowest = 0.0
    for index in reversed(range(len(places))):
        places[index] = max(places[index], lowest)
        lowest = places[index] + step
    return places


def font_families(texts: Iterable[str]) -> list[str]:
    """Return fonts that have the letters of some texts, the usual one first."""
    families = ["DejaVu Sans"]
    if all(text.isascii() for text in texts):
        return families
    installed = set(font_manager().get_font_names())
    return families + [name for name in _WIDE_FONTS if name in installed]


def save(
    figure: Any,
    path: Path,
    texts: Iterable[str] = (),
    facts: Optional[Mapping[str, str]] = None,
) -> None:
    """Write a figure as PNG; `path` is whole or as it was.

    Args:
        figure: it is closed.
        path: of the file.
        texts: of the user's own, which may need other fonts.
        facts: what the file is to say of itself, by name, beside the picture.

    Raises:
        StorageError: the disk refused.
    """
    pyplot = _pyplot()
    try:
        families = font_families(texts)
        with warnings.catch_warnings():
            # A letter that no font here has is drawn as a box, which says as much.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            for text in figure.findobj(lambda artist: hasattr(artist, "set_fontfamily")):
                text.set_fontfamily(families)
            write_file(path, lambda target: figure.savefig(target, metadata=facts, **_PNG))
    finally:
        pyplot.close(figure)


_PNG: Mapping[str, Any] = {"format": "png", "dpi": 120, "bbox_inches": "tight"}


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file at `path`, which is whole or as it was.

    Raises:
        StorageError: the disk refused.
    """

    def write_and_sync(target: Path) -> None:
        write(target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write_and_sync)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {reason(error)}") from error


def font_manager() -> Any:
    """Return what knows matplotlib's fonts and those of the system."""
    # Imported where it is used: a run without pictures should not wait for it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It tells of the fonts it finds.
        logging.getLogger("matplotlib").setLevel(logging.WARNING)
        from matplotlib import font_manager
    return font_manager


def _pyplot() -> Any:
    font_manager()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    return pyplot
