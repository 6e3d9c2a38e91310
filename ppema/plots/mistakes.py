"""Pictures of what a model took for something else, with both names and the probability."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from .figure import font_families, font_manager, write_file

Pixels = npt.NDArray[np.uint8]

# In pixels: the least side of an image, and the width of its caption.
_LEAST_SIDE, _LEAST_WIDTH = 112, 150
_MARGIN, _LINE, _FONT_SIZE = 8, 16, 12
_LONGEST = 20


# eq=False: comparing arrays gives arrays.
@dataclass(frozen=True, eq=False)
class Mistake:
    """An image whose class was not the first.

    Attributes:
        index: of the image in the evaluation data.
        label: its class.
        predicted: the class that was first.
        probability: of that class, as the model has it.
        image: float32 [C, H, W], as it was fed to the model.
    """

    index: int
    label: int
    predicted: int
    probability: float
    image: npt.NDArray[np.float32]


@dataclass(frozen=True)
class PixelScale:
    """How what a model is fed becomes pixels again.

    Attributes:
        mean: what was taken off each pixel of 0 to 255, one number or one for each channel; None
            where the data are no bytes: then each image is stretched from its least to its
            largest value.
        std: what it was divided by.
    """

    mean: Optional[Union[float, Sequence[float]]] = None
    std: Union[float, Sequence[float]] = 1.0

    def to_pixels(self, image: npt.NDArray[np.float32]) -> Pixels:
        """Return [rows, columns, 3] of an image [channels, rows, columns]."""
        values = np.moveaxis(image.astype(np.float64), 0, -1)
        if self.mean is not None:
            values = values * np.array(self.std) + np.array(self.mean)
        else:
            low, high = float(values.min()), float(values.max())
            values = 255 * (values - low) / (high - low or 1.0)
        if values.shape[-1] not in (1, 3):
            # Neither grey nor colour: what all channels have in common.
            values = values.mean(axis=-1, keepdims=True)
        pixels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def draw_mistakes(
    mistakes: Sequence[Mistake],
    scale: PixelScale,
    class_names: Sequence[str],
    title: str = "",
    columns: int = 6,
) -> Pixels:
    """Return a sheet of images as pixels [rows, columns, 3]: true class, predicted one, how sure.

    Args:
        mistakes: one or more, of one shape.
        scale: back to pixels.
        class_names: of all classes.
        title: above them, none where it is empty.
        columns: images beside each other.
    """
    from PIL import Image, ImageDraw

    tiles = [Image.fromarray(np.ascontiguousarray(scale.to_pixels(m.image))) for m in mistakes]
    factor = max(1, -(-_LEAST_SIDE // max(tiles[0].size)))
    size = (tiles[0].width * factor, tiles[0].height * factor)
    width = max(size[0], _LEAST_WIDTH) + _MARGIN
    height = size[1] + 3 * _LINE + 2 * _MARGIN
    top = _LINE + 2 * _MARGIN if title else 0
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    fonts = _Fonts([title, *class_names])
    least_width = fonts.width_of(title) + 2 * _MARGIN
    sheet = Image.new("RGB", (max(columns * width, least_width), top + rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, font=fonts.of(title), fill="black")
    for index, (mistake, tile) in enumerate(zip(mistakes, tiles)):
        row, column = divmod(index, columns)
        x, y = column * width + _MARGIN // 2, top + row * height + _MARGIN // 2
        left = x + (width - _MARGIN - size[0]) // 2
        sheet.paste(tile.resize(size, Image.Resampling.NEAREST), (left, y))
        lines = (
            (f"is {_name(class_names, mistake.label)}", "black"),
            (f"taken for {_name(class_names, mistake.predicted)}", "#b2182b"),
            (f"at {_percent(mistake.probability)}  (no. {mistake.index})", "#555555"),
        )
        for number, (text, color) in enumerate(lines):
            place = (x + _MARGIN // 2, y + size[1] + 2 + number * _LINE)
            draw.text(place, text, font=fonts.of(text), fill=color)
    return np.asarray(sheet)


def plot_mistakes(
    mistakes: Sequence[Mistake],
    scale: PixelScale,
    class_names: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Write a sheet of images as PNG; see `draw_mistakes`.

    Raises:
        StorageError: the disk refused.
    """
    from PIL import Image

    sheet = Image.fromarray(draw_mistakes(mistakes, scale, class_names, title))
    write_file(path, lambda target: sheet.save(target, format="png"))


class _Fonts:
    """The font of matplotlib for what it can write, another for what it cannot."""

    def __init__(self, texts: Sequence[str]) -> None:
        from PIL import ImageFont

        families = font_families(texts)
        paths = [font_manager().findfont(family) for family in (families[0], families[-1])]
        self._plain, self._wide = (ImageFont.truetype(path, _FONT_SIZE) for path in paths)

    def of(self, text: str) -> Any:
        return self._plain if text.isascii() else self._wide

    def width_of(self, text: str) -> int:
        return int(self.of(text).getlength(text))


def _name(class_names: Sequence[str], label: int) -> str:
    name = class_names[label]
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _percent(probability: float) -> str:
    # Two digits, cut off rather than rounded: what is not certain must not read as 100 %.
    return f"{int(probability * 1e4) / 100:.2f} %"
