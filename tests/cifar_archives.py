"""Small archives in CIFAR's formats."""

from __future__ import annotations

import io
import struct
import tarfile

import numpy as np


def python2_pickle(table):
    """Return a table as Python 2 pickled CIFAR's: texts as bytes, arrays of numpy.core."""
    return b"\x80\x02" + _python2(table) + b"."


def _python2(value):
    if isinstance(value, dict):
        items = b"".join(_python2(key) + _python2(item) for key, item in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, str):
        return _python2(value.encode())
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, np.ndarray):
        return _python2_array(value)
    return b"J" + struct.pack("<i", value)


def _python2_array(array):
    dtype = (
        b"cnumpy\ndtype\n(" + _python2(array.dtype.str[1:]) + b"K\x00K\x01tR("
        b"K\x03" + _python2("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"(" + b"".join(map(_python2, array.shape)) + b"t"
    start = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + _python2("b") + b"tR"
    )
    return start + b"(K\x01" + shape + dtype + b"\x89" + _python2(array.tobytes()) + b"tb"


def cifar10_members(count=4, dumps=python2_pickle):
    """Return the members of a small archive in CIFAR-10's format: name to content."""
    random = np.random.RandomState(count)
    members = {"batches.meta": dumps({"label_names": [f"class {k}" for k in range(10)]})}
    for number, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        pixels = random.randint(0, 256, (count, 3072)).astype(np.uint8)
        labels = [(number + k) % 10 for k in range(count)]
        members[name] = dumps({"data": pixels, "labels": labels, "batch_label": name})
    return members


def cifar100_members(count=4, dumps=python2_pickle):
    """Return the same in CIFAR-100's format."""
    random = np.random.RandomState(count)
    members = {"meta": dumps({"fine_label_names": [f"fine {k}" for k in range(100)]})}
    for name in ("train", "test"):
        pixels = random.randint(0, 256, (count, 3072)).astype(np.uint8)
        table = {"data": pixels, "fine_labels": [99 - k for k in range(count)]}
        members[name] = dumps({**table, "coarse_labels": [0] * count})
    return members


def write_tar(path, members, folder="cifar-10-batches-py", extra=()):
    """Write a gzipped tar archive of these members, and of `extra` TarInfo objects."""
    with tarfile.open(path, "w:gz") as archive:
        for info, content in extra:
            archive.addfile(info, io.BytesIO(content))
        for name, content in members.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
