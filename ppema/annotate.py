"""Pictures with what a model takes them for written beneath them."""

from __future__ import annotations

import io
import math
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import numpy as np

from .checkpoint.files import replace_file
from .data.picture import upright
from .ranking import Guess

# Of the picture within an annotated one, in pixels: smaller ones are enlarged to the first.
_LEAST_SIDE, _LARGEST_SIDE = 280, 900
_MARGIN, _ROW, _BAR = 12, 26, 6
_FONT_SIZE = 16
_INK, _PALE, _BAR_FIRST, _BAR_OTHER = "#222222", "#ececec", "#1f77b4", "#b8c4ce"
_ROWS_DRAWN = 3
# Of a sheet.
_COLUMNS, _TILE = 6, 190
SHEET_SIZE = 18


class Annotated(NamedTuple):
    """A picture to be drawn, and the guesses about it, the likeliest first."""

    picture: Any
    guesses: Sequence[Guess]


def open_picture(path: Path, array: Any = None) -> Any:
    """Return a picture for people, upright, in colour, of a size that a screen can show.

    Where it is see-through, what is behind is shown, as the model is fed it.

    Args:
        path: of an image file that was read before.
        array: [C, H, W] in place of a file; its lowest value becomes black, its highest white.
    """
    from PIL import Image

    if array is not None:
        return _enlarge(Image.fromarray(_as_pixels(np.asarray(array))).convert("RGB"))
    with Image.open(path) as image:
        # Before it is decoded, where the format can: a photograph has a hundred times the pixels.
        image.draft("RGB", (_LARGEST_SIDE, _LARGEST_SIDE))
        return _enlarge(upright(image, "RGB"))


def annotate(annotated: Annotated) -> Any:
    """Return the picture with its likeliest classes beneath, a bar of its probability for each."""
    from PIL import Image, ImageDraw

    picture = annotated.picture
    width = max(picture.width, _LEAST_SIDE) + 2 * _MARGIN
    rows = annotated.guesses[:_ROWS_DRAWN]
    height = picture.height + 2 * _MARGIN + len(rows) * (_ROW + _BAR + 4) + _MARGIN // 2
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(picture, ((width - picture.width) // 2, _MARGIN))
    draw = ImageDraw.Draw(canvas)
    top = picture.height + 2 * _MARGIN
    for place, guess in enumerate(rows):
        _draw_row(draw, guess, place == 0, (_MARGIN, top), width - 2 * _MARGIN)
        top += _ROW + _BAR + 4
    return canvas


def sheet(annotated: Sequence[Annotated]) -> Any:
    """Return one picture of many, each with its likeliest class and the probability of it."""
    from PIL import Image, ImageDraw

    columns = min(_COLUMNS, len(annotated))
    step = (_TILE + _MARGIN, _TILE + _MARGIN + _ROW + _BAR)
    rows = math.ceil(len(annotated) / columns)
    canvas = Image.new("RGB", (columns * step[0] + _MARGIN, rows * step[1] + _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (picture, guesses) in enumerate(annotated):
        left = _MARGIN + index % columns * step[0]
        top = _MARGIN + index // columns * step[1]
        small = picture.copy()
        # Whole pixels stay squares in it, as they were in the enlarged picture.
        small.thumbnail((_TILE, _TILE), Image.Resampling.BOX)
        canvas.paste(small, (left + (_TILE - small.width) // 2, top + (_TILE - small.height) // 2))
        _draw_row(draw, guesses[0], True, (left, top + _TILE + 2), _TILE)
    return canvas


def save_picture(picture: Any, path: Path) -> None:
    """Write a picture as PNG; `path` is whole or as it was.

    Raises:
        StorageError: the disk refused.
    """
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    replace_file(path, buffer.getvalue())


def _draw_row(draw: Any, guess: Guess, is_first: bool, at: tuple[int, int], width: int) -> None:
    """Draw a class's name, its probability at the right, and a bar of it beneath."""
    left, top = at
    share = f"{100 * guess.probability:.1f} %"
    if share == "100.0 %" and guess.probability < 1:
        share = "> 99.9 %"
    number_font = _font(share, is_first)
    share_width = math.ceil(number_font.getlength(share))
    name, font = _caption(guess, is_first, width - share_width - _MARGIN)
    draw.text((left, top + _ROW - 6), name, _INK, font, anchor="ls")
    draw.text((left + width, top + _ROW - 6), share, _INK, number_font, anchor="rs")
    bar = (left, top + _ROW, left + width - 1, top + _ROW + _BAR - 1)
    draw.rectangle(bar, _PALE)
    filled = round(guess.probability * width)
    if filled:
        color = _BAR_FIRST if is_first else _BAR_OTHER
        draw.rectangle((bar[0], bar[1], left + filled - 1, bar[3]), color)


def _caption(guess: Guess, is_bold: bool, width: int) -> tuple[str, Any]:
    """Return a class's name as it fits into `width`, and the font that has its letters."""
    name = "".join(c if c.isprintable() else " " for c in guess.name)
    font = _font(name, is_bold)
    if font is None:
        # Boxes in place of letters would say nothing.
        name = f"class {guess.class_id}"
        font = _font(name, is_bold)
    if font.getlength(name) <= width:
        return name, font
    while name and font.getlength(f"{name}…") > width:
        name = name[:-1]
    return f"{name}…", font


def _font(text: str, is_bold: bool) -> Any:
    """Return a font that has every letter of `text`, None where none is installed."""
    from PIL import ImageFont

    letters = {character for character in text if not character.isspace()}
    for path in _font_files(is_bold, any(ord(character) > 0x2FFF for character in letters)):
        if letters <= _letters_of(path):
            return ImageFont.truetype(path, _FONT_SIZE)
    return None


@lru_cache(maxsize=4)
def _font_files(is_bold: bool, is_wide: bool) -> tuple[str, ...]:
    """Return font files to try; the one that matplotlib brings has no Chinese letters."""
    import matplotlib

    own = os.path.join(
        matplotlib.get_data_path(), f"fonts/ttf/DejaVuSans{'-Bold' if is_bold else ''}.ttf"
    )
    if not is_wide:
        return (own,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It looks through all fonts of the machine, once, which takes seconds.
        from matplotlib import font_manager
    names = ("CJK", "SimHei", "YaHei", "PingFang", "WenQuanYi", "Hiragino", "Arial Unicode")
    fonts = font_manager.fontManager.ttflist
    return (own, *(font.fname for font in fonts if any(name in font.name for name in names)))


@lru_cache(maxsize=16)
def _letters_of(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(path).get_charmap()))


def _enlarge(picture: Any) -> Any:
    """Return a picture whose longer side is within the limits; small ones keep sharp pixels."""
    from PIL import Image

    longer = max(picture.size)
    if longer < _LEAST_SIDE:
        factor = math.ceil(_LEAST_SIDE / longer)
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    if longer > _LARGEST_SIDE:
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return picture


def _as_pixels(array: Any) -> Any:
    """Return [C, H, W] of any values as uint8 [H, W] or [H, W, 3]."""
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        array = ((array - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    if array.shape[0] == 3:
        return np.ascontiguousarray(np.moveaxis(array, 0, -1))
    # Of any other number of channels, the first is shown.
    return np.ascontiguousarray(array[0])
