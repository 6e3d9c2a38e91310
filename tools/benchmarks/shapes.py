"""Models by the shapes of their tensors, so that every contender moves the same weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import paddle

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """A model to be averaged: its name and the shapes of its tensors."""

    name: str
    shapes: tuple[Shape, ...]

    @property
    def num_weights(self) -> int:
        """Return the weights of all tensors."""
        return sum(map(math.prod, self.shapes))

    def __str__(self) -> str:
        """Return the name, with weights and tensors."""
        return f"{self.name}: {self.num_weights:,} weights in {len(self.shapes):,} tensors"


def lenet() -> Size:
    """Return LeNet for MNIST."""
    return Size("LeNet", _shapes_of(paddle.vision.models.LeNet()))


def resnet50() -> Size:
    """Return ResNet50, with the BN statistics that Paddle counts among the parameters."""
    return Size("ResNet50", _shapes_of(paddle.vision.models.resnet50()))


def vit_b16() -> Size:
    """Return ViT-B/16 for 224x224 images and 1,000 classes."""
    width, inner = 768, 3072
    block: list[Shape] = [(width,), (width,), (width, 3 * width), (3 * width,)]
    block += [(width, width), (width,), (width,), (width,)]
    block += [(width, inner), (inner,), (inner, width), (width,)]
    stem: list[Shape] = [(1, 1, width), (1, 197, width), (width, 3, 16, 16), (width,)]
    head: list[Shape] = [(width,), (width,), (width, 1000), (1000,)]
    return Size("ViT-B/16", (*stem, *(block * 12), *head))


def equal_tensors(num_tensors: int, weights_each: int) -> Size:
    """Return a model of equal flat tensors."""
    return Size("equal tensors", ((weights_each,),) * num_tensors)


class Tensors(paddle.nn.Layer):
    """A layer that has these tensors as parameters, all training, and computes nothing."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        normal = paddle.nn.initializer.Normal()
        for index, shape in enumerate(size.shapes):
            tensor = self.create_parameter(list(shape), default_initializer=normal)
            self.add_parameter(f"tensor_{index}", tensor)


def _shapes_of(model: Any) -> tuple[Shape, ...]:
    return tuple(tuple(parameter.shape) for parameter in model.parameters())
