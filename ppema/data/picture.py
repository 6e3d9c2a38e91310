"""Pictures: from a file, upright and in 8 bits, to a size, and to an array and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
import numpy.typing as npt

from ..errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
# Not all that Pillow reads: for EPS it would start Ghostscript, and no file may run code.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# Pillow's names of the pictures that a model is fed, by their channels.
MODES = {1: "L", 3: "RGB"}

# How a picture of other proportions comes to its size.
ResizeMode = Literal["stretch", "crop", "pad"]


def read_image(
    path: Path,
    size: Optional[tuple[int, int]],
    channels: int,
    resize: ResizeMode = "stretch",
) -> npt.NDArray[np.uint8]:
    """Return an image file as uint8 [channels, rows, columns], upright.

    Args:
        path: the file.
        size: rows and columns to scale to; None keeps the picture's own.
        channels: 3 for colour, 1 for grey.
        resize: as of `fit`.

    Raises:
        DataError: the file cannot be read, is damaged, or is no 8-bit image; names it.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as image:
            # A conversion would cut wider pixels off at 255, not scale them.
            if image.mode[0] in "IF":
                raise DataError(f"{path}: has more than 8 bits a channel; save it with 8")
            picture = upright(image, MODES[channels])
            return to_array(picture if size is None else fit(picture, size, resize))
    except DataError:
        raise
    # Pillow's decoders raise whatever they meet in a damaged file.
    except Exception as error:
        raise DataError(f"{path}: {_reason(error)}") from None


def upright(image: Any, mode: str) -> Any:
    """Return an open picture of Pillow's, turned upright and in another mode.

    Alpha is left out: what it hides is seen.
    """
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    if "transparency" in turned.info:
        turned = turned.convert("RGBA")
    return turned.convert(mode)


def fit(picture: Any, size: tuple[int, int], resize: ResizeMode) -> Any:
    """Return a picture of Pillow's at another size, bilinear.

    Args:
        picture: what to scale.
        size: rows and columns.
        resize: stretch gives up the proportions; crop keeps them and what fits of the middle;
            pad keeps them and the whole, with black beside it.
    """
    from PIL import Image, ImageOps

    columns_and_rows, bilinear = (size[1], size[0]), Image.Resampling.BILINEAR
    if resize == "crop":
        return ImageOps.fit(picture, columns_and_rows, bilinear)
    if resize == "pad":
        return ImageOps.pad(picture, columns_and_rows, bilinear)
    return picture.resize(columns_and_rows, bilinear)


def is_picture(value: Any) -> bool:
    """Return whether a value is a picture of Pillow's."""
    from PIL import Image

    return isinstance(value, Image.Image)


def to_array(picture: Any) -> npt.NDArray[np.uint8]:
    """Return a grey or RGB picture of Pillow's as uint8 [C, H, W]."""
    rows: npt.NDArray[np.uint8] = np.asarray(picture, dtype=np.uint8)
    return np.moveaxis(rows.reshape(picture.height, picture.width, -1), -1, 0)


def to_picture(image: npt.NDArray[np.uint8]) -> Any:
    """Return uint8 [C, H, W] as a picture of Pillow's, grey or RGB.

    Raises:
        ValueError: it has neither 1 channel nor 3.
    """
    from PIL import Image

    if image.shape[0] not in MODES:
        raise ValueError(f"a picture has 1 channel or 3, got {image.shape[0]}")
    rows = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
    return Image.fromarray(np.ascontiguousarray(rows))


def known_suffixes() -> str:
    """Return the endings of the files that are taken for images."""
    return " ".join(sorted(IMAGE_SUFFIXES))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__name__ == "UnidentifiedImageError":
        return f"is no image of a known kind ({known_suffixes()})"
    lines: list[Any] = str(error).splitlines() or [type(error).__name__]
    return f"is damaged ({lines[0][:100]})"
