"""Small map-style datasets, good and bad, as a user would write them."""

from __future__ import annotations

import os
import random
import time

import numpy as np
import paddle

SHAPE = (2, 4, 3)


class Images(paddle.io.Dataset):
    """Images that depend on the index alone."""

    class_names = tuple("abc")

    def __init__(self, count=50, dtype="uint8", pause_s=0.0):
        super().__init__()
        self.count, self.dtype, self.pause_s = count, dtype, pause_s

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(self.pause_s)
        image = np.random.RandomState(index).randint(0, 256, SHAPE)
        return image.astype(self.dtype), index % 3


class RandomImages(Images):
    """Images that draw from every generator that Paddle's transforms draw from."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        draws = (random.random(), np.random.rand(), paddle.rand([1]).item())
        image[0, 0] = [255 * draw for draw in draws]
        return image, label


class Tensors(Images):
    """Paddle tensors, labels in an array of one, no names of classes."""

    class_names = None

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return paddle.to_tensor(image), np.array([label], dtype=np.int64)


class BadAt(Images):
    """One sample is what `make` returns, or what it raises."""

    def __init__(self, bad, make, count=50):
        super().__init__(count)
        self.bad, self.make = bad, make

    def __getitem__(self, index):
        return self.make(*super().__getitem__(index)) if index == self.bad else self.good(index)

    def good(self, index):
        return super().__getitem__(index)


class Dying(Images):
    """The process that reads one sample ends, as one does that runs out of memory."""

    def __init__(self, at, die, count=50):
        super().__init__(count)
        self.at, self.die = at, die

    def __getitem__(self, index):
        if index == self.at:
            self.die()
        return super().__getitem__(index)


class Stuck(Images):
    """One sample never comes; its process says so in a file."""

    def __init__(self, at, path, count=50):
        super().__init__(count)
        self.at, self.path = at, path

    def __getitem__(self, index):
        if index == self.at:
            self.path.write_text(str(os.getpid()))
            time.sleep(600)
        return super().__getitem__(index)
