"""Every network of Paddle is made by its name, for any number of classes and channels."""

from __future__ import annotations

import inspect

import paddle
import pytest
from paddle.vision import models

from ppema.averaging import ArgumentError
from ppema.models import MODEL_HINTS, MODELS, PaddleModel, first_convolution, take_channels

REQUIRED = {
    "ResNet": {"block": "BasicBlock", "depth": 18},
    "SqueezeNet": {"version": "1.1"},
}
PADDLES = [name for name, maker in MODELS.items() if isinstance(maker, PaddleModel)]
# One of each family, with an image that it takes; the others would take too long.
FAMILIES = {
    "LeNetBN": ({}, 28),
    "LeNet": ({}, 28),
    "resnet18": ({}, 32),
    "mobilenet_v1": ({"scale": 0.25}, 32),
    "mobilenet_v2": ({"scale": 0.25}, 32),
    "mobilenet_v3_small": ({}, 32),
    "MobileNetV3Large": ({"scale": 0.35}, 32),
    "DenseNet": ({"layers": 121}, 32),
    "SqueezeNet": ({"version": "1.1"}, 64),
    "googlenet": ({}, 64),
    "shufflenet_v2_x0_25": ({}, 32),
    "shufflenet_v2_swish": ({}, 32),
}
LARGE = {
    "alexnet": ({}, 224),
    "vgg11": ({"batch_norm": True}, 32),
    "inception_v3": ({}, 96),
    "resnext50_32x4d": ({}, 32),
    "wide_resnet50_2": ({}, 32),
}


def make(name, **arguments):
    return MODELS[name](**{**REQUIRED.get(name, {}), **arguments})


def bits(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_every_name_of_paddle_is_to_be_had_or_says_why_not():
    assert set(PADDLES) <= set(models.__all__) <= set(PADDLES) | set(MODEL_HINTS)


@pytest.mark.parametrize("name", PADDLES)
def test_each_takes_a_number_of_classes_and_of_channels(name):
    # Without drawing the weights, which takes a hundred times as long.
    with paddle.LazyGuard():
        model = make(name, num_classes=5, in_channels=2)
    shapes = {key: tensor.shape for key, tensor in model.named_parameters()}
    convolution, layer = first_convolution(model)
    assert shapes[f"{convolution}.weight"][1] == layer._in_channels == 2
    assert 5 in list(shapes.values())[-1]


@pytest.mark.parametrize("name", PADDLES)
def test_each_takes_all_arguments_of_its_signature(name):
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(MODELS[name]).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert "num_classes" in defaults
    with paddle.LazyGuard():
        make(name, **defaults)
    with pytest.raises(TypeError, match="num_clases"):
        make(name, num_clases=5)


def learns(name, arguments, size, channels):
    """Run a forward and backward pass; return whether the first and last weights got gradients."""
    paddle.seed(0)
    model = MODELS[name](num_classes=4, in_channels=channels, **arguments)
    logits = model(paddle.randn([2, channels, size, size]))
    assert logits.shape == [2, 4]
    logits.sum().backward()
    _, layer = first_convolution(model)
    head = model._fc_out if name == "googlenet" else model.sublayers()[-1]
    trained = [layer.weight.grad, *(p.grad for p in head.parameters())]
    return all(grad is not None and grad.abs().sum() > 0 for grad in trained)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_one_of_each_family_learns_from_grey_and_from_colour(name, channels):
    assert learns(name, *FAMILIES[name], channels)


@pytest.mark.torture
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", LARGE)
def test_the_large_ones_learn_too(name, channels):
    assert learns(name, *LARGE[name], channels)


@pytest.mark.parametrize("name", ["LeNet", "resnet18", "mobilenet_v2"])
def test_another_number_of_channels_changes_the_first_weight_and_nothing_else(name):
    found = []
    for channels in (None, 2):
        paddle.seed(3)
        model = make(name, num_classes=4, in_channels=channels)
        found.append(bits(model))
    weight = f"{first_convolution(model)[0]}.weight"
    plain, changed = found
    assert list(plain) == list(changed)
    assert [key for key in plain if plain[key] != changed[key]] == [weight]


def test_the_own_number_of_channels_changes_nothing():
    model = models.LeNet()
    weight = model.features[0].weight
    take_channels(model, 1)
    assert model.features[0].weight is weight


def test_an_impossible_number_of_channels_is_named():
    with pytest.raises(ArgumentError, match="in_channels must be a whole number above 0, got 0"):
        make("LeNet", in_channels=0)


def test_own_channels_are_those_of_paddle_and_nothing_is_drawn():
    paddle.seed(7)
    wanted = paddle.rand([3]).tolist()
    paddle.seed(7)
    assert MODELS["LeNet"].own_channels(num_classes=4, in_channels=3) == 1
    assert MODELS["resnet18"].own_channels(in_channels=1) == 3
    assert paddle.rand([3]).tolist() == wanted


def test_googlenet_gives_the_first_of_the_three_outputs_of_paddle_s():
    paddle.seed(0)
    ours, theirs = make("GoogLeNet", num_classes=4), models.GoogLeNet(num_classes=4)
    theirs.set_state_dict(ours.state_dict())
    ours.eval()
    theirs.eval()
    image = paddle.randn([1, 3, 224, 224])
    with paddle.no_grad():
        assert (ours(image) == theirs(image)[0]).all()


def test_paddle_s_weights_are_named_and_not_fetched():
    url, md5 = MODELS["resnet18"].pretrained_source(pretrained=True, num_classes=4, in_channels=1)
    assert (url, md5) == models.resnet.model_urls["resnet18"]
    url, _ = MODELS["mobilenet_v2"].pretrained_source(scale=1.0)
    assert url.endswith("mobilenet_v2_x1.0.pdparams")
    assert models.resnet.get_weights_path_from_url.__module__ == "paddle.utils.download"


@pytest.mark.parametrize(
    ("name", "arguments"), [("mobilenet_v2", {"scale": 0.3}), ("vgg11", {"batch_norm": True})]
)
def test_where_paddle_has_no_weights_that_is_said(name, arguments):
    with pytest.raises(ArgumentError, match="pretrained must be false: Paddle has no weights"):
        MODELS[name].pretrained_source(pretrained=True, **arguments)
