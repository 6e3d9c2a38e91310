"""Small archives in MNIST's format."""

from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np

MNIST_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def idx_images(images, magic=2051, num_images=None):
    count, rows, columns = images.shape
    return struct.pack(">4I", magic, num_images or count, rows, columns) + images.tobytes()


def idx_labels(labels, magic=2049, num_labels=None):
    return struct.pack(">2I", magic, num_labels or len(labels)) + bytes(labels)


def random_images(count, size=28, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, size, size)).astype(np.uint8)


def write_mnist(folder, mode="train", count=20, seed=0):
    """Write a part of a data set in MNIST's format; return its images and labels."""
    images_name, labels_name = MNIST_FILES[mode]
    images, labels = random_images(count, seed=seed), np.arange(count, dtype=np.uint8) % 10
    (folder / images_name).write_bytes(gzip.compress(idx_images(images)))
    (folder / labels_name).write_bytes(gzip.compress(idx_labels(labels)))
    return images, labels


def md5(data):
    return hashlib.md5(data).hexdigest()
