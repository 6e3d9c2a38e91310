"""The networks that a config may name: all of paddle.vision.models, and ppema's own."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, Callable, Iterator, Literal, Mapping, Optional

import paddle
from paddle import nn
from paddle.vision import models

from .averaging import ArgumentError
from .signatures import Signed, keyword, plain_annotation

IN_CHANNELS = "in_channels"
PRETRAINED = "pretrained"
# What a function such as resnet18 is there to choose; it passes on no other value for these.
_CHOSEN_BY_FUNCTIONS = frozenset(
    {"block", "depth", "width", "groups", "features", "layers", "version", "scale", "act"}
)


class LeNetBN(nn.Layer):
    """LeNet with BatchNorm after each convolution and ReLU between the linear layers.

    Takes images [N, in_channels, 28, 28], gives logits [N, num_classes].
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            # The BatchNorm that follows has a bias of its own.
            nn.Conv2D(in_channels, 6, 3, padding=1, bias_attr=False),
            nn.BatchNorm2D(6),
            nn.ReLU(),
            nn.MaxPool2D(2, 2),
            nn.Conv2D(6, 16, 5, bias_attr=False),
            nn.BatchNorm2D(16),
            nn.ReLU(),
            nn.MaxPool2D(2, 2),
        )
        self.fc = nn.Sequential(
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )

    def forward(self, image: Any) -> Any:
        """Return the logits of a batch of images."""
        return self.fc(paddle.flatten(self.features(image), 1))


class GoogLeNet(models.GoogLeNet):
    """Paddle's GoogLeNet as one classifier, for images of any size.

    The two further classifiers, which Paddle returns beside and which take images of 224x224
    only, keep their weights, so that files fit; nothing trains them.
    """

    def forward(self, inputs: Any) -> Any:
        """Return the logits of a batch of images."""
        x = self._pool(self._conv(inputs))
        x = self._pool(self._conv_2(self._conv_1(x)))
        x = self._pool(self._ince3b(self._ince3a(x)))
        for inception in (self._ince4a, self._ince4b, self._ince4c, self._ince4d, self._ince4e):
            x = inception(x)
        x = self._ince5b(self._ince5a(self._pool(x)))
        if self.with_pool:
            x = self._pool_5(x)
        if self.num_classes > 0:
            x = self._fc_out(paddle.flatten(self._drop(x), 1))
        return x


class PaddleModel(Signed):
    """Make a network of paddle.vision.models, for images of any number of channels.

    Args:
        function: the class, or the function that makes one of its objects.
        cls: the class to make, that of `function` or one derived from it.
    """

    def __init__(self, function: Callable[..., Any], cls: type) -> None:
        self._function, self._cls = function, cls
        super().__init__(_parameters_of(function, cls))

    def __call__(self, **arguments: Any) -> Any:
        """Return the network with weights of its own; see `pretrained_source` for others.

        Raises:
            ArgumentError: in_channels is below 1.
        """
        arguments = self.bind(arguments)
        arguments.pop(PRETRAINED, None)
        in_channels = arguments.pop(IN_CHANNELS, None)
        if in_channels is not None and in_channels < 1:
            raise ArgumentError(IN_CHANNELS, "a whole number above 0", in_channels)
        model = self._make()(**self._with_classes(arguments))
        if in_channels is not None:
            take_channels(model, in_channels)
        return model

    def pretrained_source(self, **arguments: Any) -> tuple[str, Optional[str]]:
        """Return the URL of Paddle's own weights for these arguments, and their md5.

        Raises:
            ArgumentError: Paddle has none.
        """
        arguments = self.bind(arguments)
        arguments.pop(IN_CHANNELS, None)
        module: Any = sys.modules[self._function.__module__]
        download = module.get_weights_path_from_url
        # Paddle would load them by paddle.load, which runs what a file asks for. Its tables have
        # names of their own for the networks, so the function itself is asked which file it wants.
        module.get_weights_path_from_url = _tell
        try:
            # Nothing is drawn for weights that are not kept.
            with paddle.LazyGuard(), paddle.utils.unique_name.guard():
                self._function(**{**arguments, PRETRAINED: True})
        except _WantedFile as wanted:
            return wanted.url, wanted.md5
        except AssertionError:
            raise ArgumentError(PRETRAINED, "false: Paddle has no weights for it", True) from None
        finally:
            module.get_weights_path_from_url = download
        raise ArgumentError(PRETRAINED, "false: Paddle loads none for it", True)

    def own_channels(self, **arguments: Any) -> int:
        """Return how many channels Paddle's network takes, whatever `in_channels` says."""
        arguments = self.bind({**arguments, IN_CHANNELS: None})
        # Nothing is drawn, and no name is used up.
        with paddle.LazyGuard(), paddle.utils.unique_name.guard():
            found = first_convolution(self(**arguments))
        assert found is not None
        return int(found[1]._in_channels)

    def _make(self) -> Callable[..., Any]:
        is_derived = inspect.isclass(self._function) or self._cls.__module__ == __name__
        return self._cls if is_derived else self._function

    def _with_classes(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with classes in place of the names of classes."""
        module = sys.modules[self._function.__module__]
        return {
            name: getattr(module, value)
            if _class_names(inspect.signature(self._function).parameters.get(name))
            else value
            for name, value in arguments.items()
        }


def first_convolution(model: Any) -> Optional[tuple[str, Any]]:
    """Return the name and layer of the convolution that takes the images, None without any."""
    for name, layer in model.named_sublayers():
        if isinstance(layer, nn.Conv2D):
            return name, layer
    return None


def take_channels(model: Any, in_channels: int) -> None:
    """Make the first convolution take images of so many channels; nothing else changes.

    Its weight is drawn anew as the layer would draw it, after all others of the model.
    """
    found = first_convolution(model)
    assert found is not None
    _, layer = found
    if layer._in_channels == in_channels:
        return
    arguments = (in_channels, layer._out_channels, layer._kernel_size)
    fitting = nn.Conv2D(*arguments, weight_attr=layer._param_attr, bias_attr=False)
    layer.weight, layer._in_channels = fitting.weight, in_channels


class _WantedFile(Exception):
    """Carry out of Paddle's code which file it would have downloaded."""

    def __init__(self, url: str, md5: Optional[str]) -> None:
        super().__init__(url)
        self.url, self.md5 = url, md5


def _tell(url: str, md5sum: Optional[str] = None) -> str:
    raise _WantedFile(url, md5sum)


def _parameters_of(function: Any, cls: type) -> Iterator[inspect.Parameter]:
    own = inspect.signature(function).parameters
    for parameter in own.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            yield _as_keyword(parameter)
    if not inspect.isclass(function):
        for name, parameter in inspect.signature(cls).parameters.items():
            if name not in own and name not in _CHOSEN_BY_FUNCTIONS:
                yield _as_keyword(parameter)
    yield keyword(IN_CHANNELS, Optional[int], None)


def _as_keyword(parameter: inspect.Parameter) -> Any:
    names = _class_names(parameter)
    annotation = Literal[names] if names else plain_annotation(parameter)  # type: ignore[valid-type]
    return keyword(parameter.name, annotation, parameter.default)


def _class_names(parameter: Optional[inspect.Parameter]) -> tuple[str, ...]:
    """Return the classes that a parameter takes, as `type[BasicBlock | BottleneckBlock]` says."""
    match = re.fullmatch(r"type\[(.+)\]", str(parameter.annotation)) if parameter else None
    return tuple(name.strip() for name in match[1].split("|")) if match else ()


def _discover() -> dict[str, Callable[..., Any]]:
    """Return what makes each network of paddle.vision.models, but for VGG, which takes layers."""
    own = {"GoogLeNet": GoogLeNet}
    makers: dict[str, Callable[..., Any]] = {}
    for name in models.__all__:
        function = getattr(models, name)
        cls_name = name
        if not inspect.isclass(function):
            cls_name = inspect.signature(function).return_annotation
        if name != "VGG":
            makers[name] = PaddleModel(function, own.get(cls_name, getattr(models, cls_name)))
    return makers


MODELS: dict[str, Callable[..., Any]] = {**_discover(), "LeNetBN": LeNetBN}
# What is said of names, and of arguments, that cannot be had.
MODEL_HINTS = {
    "VGG": "takes its layers as an argument: name vgg11, vgg13, vgg16 or vgg19",
    "num_channels": "is in_channels here",
    "class_num": "is num_classes here",
}
