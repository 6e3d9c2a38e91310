"""A hundred images of noise in MNIST's four files, and a run on them that takes a second."""

from __future__ import annotations

import gzip
import struct

import numpy as np


def write_mnist(folder, num_images=100, magic=2051, said=None, size=28, label=None, cut=0, flip=0):
    """Write the four files, with a fault in each pair where one is asked for.

    Args:
        said: the number of images that the header names, where it is another.
        label: the class of the first sample.
        cut: how many bytes the archive of images lacks at its end.
        flip: a byte of that archive's checksum, counted from its end, is turned over.
    """
    folder.mkdir(exist_ok=True)
    random = np.random.RandomState(0)
    for part in ("train", "t10k"):
        pixels = random.randint(0, 256, num_images * size * size).astype("uint8").tobytes()
        labels = (np.arange(num_images) % 10).astype("uint8")
        if label is not None:
            labels[0] = label
        header = struct.pack(">IIII", magic, said or num_images, size, size)
        # The images are noise, so packing them harder only takes longer.
        archive = bytearray(gzip.compress(header + pixels, 1, mtime=0))
        if flip:
            archive[-flip] ^= 1
        images = folder / f"{part}-images-idx3-ubyte.gz"
        images.write_bytes(archive[: len(archive) - cut])
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 2049, num_images) + labels.tobytes())


def data_keys(folder, *keys):
    """Return the arguments that have a tool read both parts of MNIST from `folder`."""
    folders = [f"{part}Dataset.dataset_dir={folder}" for part in ("Train", "Eval")]
    return ("-o", *folders, "epoch=1", "snapshot_iter=1", "use_vdl=false", *keys)
