"""The fast forms give Paddle's bits, layer by layer and run by run, and leave nothing behind."""

from __future__ import annotations

import copy
import re
import threading

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.vision import models

from ppema.fast_cpu import FastLayers
from ppema.models import LeNetBN

DTYPES = ("float32", "float64")
# in and out channels, kernel, and the other arguments.
CONVOLUTIONS = [
    (1, 6, 3, {"padding": 1}),
    (6, 16, 5, {}),
    (3, 64, 1, {}),
    (17, 33, 1, {"stride": 2}),
    (64, 64, 3, {"padding": 1}),
    (3, 8, 7, {"stride": 2, "padding": 3}),
    (5, 7, (3, 1), {"stride": (1, 2), "padding": (0, 2)}),
    (5, 7, 3, {"padding": [1, 0, 2, 1]}),
    (4, 4, 3, {"padding": "same"}),
    (4, 4, 3, {"padding": "valid"}),
    (4, 6, 3, {"dilation": 2}),
    (4, 8, 3, {"groups": 2, "padding": 1}),
    (8, 8, 3, {"groups": 8, "padding": 1}),
    (8, 16, 3, {"groups": 8, "padding": 1, "dilation": 2}),
]
# kernel, and the other arguments.
POOLS = [
    (2, {"stride": 2}),
    (2, {}),
    (3, {"stride": 2, "padding": 1}),
    (3, {"stride": 1}),
    (3, {"stride": 3}),
    (2, {"stride": 3}),
    ((3, 2), {"stride": (2, 1), "padding": (1, 0)}),
    ([2, 3], {"stride": [1, 2]}),
    (3, {"stride": 2, "ceil_mode": True}),
    (3, {"stride": 2, "padding": 1, "ceil_mode": True}),
    (5, {"stride": 2, "padding": 2}),
]
# Of layers that stay as they are.
LEFT_ALONE = [
    nn.Conv2D(2, 3, 3, bias_attr=False),
    nn.Conv2D(2, 3, 3, padding=1, padding_mode="reflect"),
    nn.Conv2D(2, 3, 3, data_format="NHWC"),
    nn.Conv2DTranspose(2, 3, 3),
    nn.Conv1D(2, 3, 3),
    nn.MaxPool2D(2, return_mask=True),
    nn.MaxPool2D(2, data_format="NHWC"),
    nn.MaxPool2D(3, padding="SAME"),
    nn.MaxPool2D(3, padding="VALID"),
    nn.MaxPool2D(3, padding=[1, 0, 1, 0]),
    nn.MaxPool2D(3, padding=[[0, 0], [0, 0], [1, 1], [1, 1]]),
    # Windows outside the image.
    nn.MaxPool2D(1, padding=1),
    nn.MaxPool2D(2, stride=3, ceil_mode=True),
    nn.MaxPool2D(2, stride=2, padding=1, ceil_mode=True),
    nn.AdaptiveMaxPool2D(2),
    nn.AvgPool2D(2),
]


def bits(*tensors):
    return [tensor.numpy().tobytes() for tensor in tensors]


def run(layer, image, is_fast, seed=1):
    """Return the bits of the output and of every gradient, under a random output gradient."""
    x = paddle.to_tensor(image, stop_gradient=False)
    layer.clear_gradients()
    with FastLayers(layer, is_fast).in_use():
        assert ("forward" in vars(layer)) is is_fast
        output = layer(x)
        gradient = np.random.RandomState(seed).randn(*output.shape).astype(image.dtype)
        output.backward(paddle.to_tensor(gradient))
    return bits(output, x.grad, *(p.grad for p in layer.parameters()))


def require_same_bits(layer, image):
    assert run(layer, image, is_fast=True) == run(layer, image, is_fast=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution_gives_paddle_s_bits(case, dtype):
    num_in, num_out, kernel, options = case
    random = np.random.RandomState(0)
    layer = nn.Conv2D(num_in, num_out, kernel, dtype=dtype, **options)
    layer.bias.set_value(random.randn(num_out).astype(dtype))
    for batch, height, width in ((1, 9, 12), (2, 28, 28), (64, 7, 7), (250, 8, 9)):
        require_same_bits(layer, random.randn(batch, num_in, height, width).astype(dtype))


def test_convolution_gives_paddle_s_bits_on_extreme_shapes():
    random = np.random.RandomState(0)
    shapes = [(1, 1, 224, 224), (1, 64, 56, 56), (2048, 16, 1, 1), (4096, 1, 3, 3), (1, 512, 1, 1)]
    for batch, channels, height, width in shapes:
        layer = nn.Conv2D(1, channels, 1)
        layer.bias.set_value(random.randn(channels).astype("float32"))
        require_same_bits(layer, random.randn(batch, 1, height, width).astype("float32"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.0, np.finfo("float32").min])
@pytest.mark.parametrize("layer", [nn.Conv2D(2, 3, 3), nn.MaxPool2D(2), nn.MaxPool2D(3, 2, 1)])
def test_extreme_values_give_paddle_s_bits(layer, bad):
    random = np.random.RandomState(0)
    for share in (0.05, 0.5, 1.0):
        image = np.maximum(random.randn(2, 2, 8, 8), 0).astype("float32")
        image[random.rand(*image.shape) < share] = bad
        require_same_bits(layer, image)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pooling_gives_paddle_s_bits(case, dtype):
    kernel, options = case
    layer = nn.MaxPool2D(kernel, **options)
    random = np.random.RandomState(0)
    for batch, channels, height, width in ((1, 1, 5, 5), (64, 6, 28, 28), (3, 5, 8, 7)):
        image = random.randn(batch, channels, height, width)
        # Ties decide which pixel takes the gradient.
        for values in (image, np.maximum(image, 0), np.round(image) + 0.0):
            require_same_bits(layer, values.astype(dtype))


def test_pooling_takes_an_image_that_is_not_contiguous():
    image = np.random.RandomState(0).randn(4, 9, 7, 3).astype("float32")
    found = []
    for is_fast in (True, False):
        x = paddle.to_tensor(image, stop_gradient=False)
        layer = nn.MaxPool2D(2)
        with FastLayers(layer, is_fast).in_use():
            output = layer(x.transpose([0, 3, 1, 2]))
            output.square().sum().backward()
        found.append(bits(output, x.grad))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [([1, 4, 4], "float32"), ([0, 1, 4, 4], "float32"), ([1, 1, 4, 4], "float16")],
)
def test_pooling_of_odd_inputs_ends_as_paddle_s_own_does(shape, dtype):
    found = []
    for is_fast in (True, False):
        layer, x = nn.MaxPool2D(2), paddle.ones(shape).astype(dtype)
        x.stop_gradient = False
        with FastLayers(layer, is_fast).in_use():
            try:
                found.append(bits(layer(x)))
            except (ValueError, RuntimeError) as error:
                found.append([type(error), str(error).splitlines()[-1]])
    assert found[0] == found[1]


def test_pooling_keeps_the_mask_where_there_is_a_gradient_and_only_there(monkeypatch):
    taken = []
    paddle_s_own = nn.functional.max_pool2d

    def spy(*args, **kwargs):
        taken.append(kwargs["return_mask"])
        return paddle_s_own(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "max_pool2d", spy)
    layer, image = nn.MaxPool2D(2), paddle.randn([1, 1, 4, 4])
    with FastLayers(layer).in_use():
        layer(image)
        image.stop_gradient = False
        layer(image)
        with paddle.no_grad():
            layer(image)
    assert taken == [False, True, False]


@pytest.mark.parametrize("layer", LEFT_ALONE, ids=repr)
def test_layers_of_other_bits_are_left_alone(layer):
    assert len(FastLayers(nn.Sequential(layer))) == 0


def test_a_layer_whose_bias_or_padding_changes_is_looked_at_anew():
    layers = nn.Sequential(nn.Conv2D(1, 2, 3), nn.MaxPool2D(2))
    fast = FastLayers(layers)
    assert len(fast) == 2
    layers[0].bias = None
    layers[1].padding = "SAME"
    assert len(fast) == 0


def test_classes_and_forwards_of_the_user_s_own_are_left_alone():
    class Doubled(nn.Conv2D):
        def forward(self, x):
            return 2 * super().forward(x)

    layers = nn.Sequential(Doubled(1, 1, 3), nn.Conv2D(1, 1, 3), nn.Conv2D(1, 1, 3))
    own = layers[1].forward
    layers[1].forward = own
    fast = FastLayers(layers)
    assert len(fast) == 1
    with fast.in_use():
        assert layers[1].forward is own
    assert layers[1].forward is own


def test_off_or_on_a_gpu_no_layer_is_fast(monkeypatch):
    assert len(FastLayers(models.LeNet())) == 4
    assert len(FastLayers(models.LeNet(), is_enabled=False)) == 0
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    assert len(FastLayers(models.LeNet())) == 0


def test_a_block_inside_another_ends_without_ending_that_one():
    model = models.LeNet()
    fast = FastLayers(model)
    with fast.in_use():
        with fast.in_use(), FastLayers(model).in_use():
            pass
        assert "forward" in vars(model.features[0])
        assert type(model.features[0]) is nn.Conv2D


def test_nothing_is_left_behind_not_even_by_an_exception():
    model = models.LeNet()
    before = [dict(vars(layer)) for layer in model.sublayers()]
    with pytest.raises(ValueError, match="dim"), FastLayers(model).in_use():
        model(paddle.zeros([2, 28, 28]))
    assert [dict(vars(layer)) for layer in model.sublayers()] == before


def test_a_copy_made_meanwhile_has_its_own_weights():
    model, image = models.LeNet(), paddle.randn([2, 1, 28, 28])
    with FastLayers(model).in_use():
        copied = copy.deepcopy(model)
    expected = bits(model(image))
    for parameter in model.parameters():
        parameter.set_value(paddle.zeros_like(parameter))
    assert bits(copied(image)) == expected


def test_threads_that_share_a_model_all_get_its_output():
    model = models.LeNet()
    image = paddle.randn([8, 1, 28, 28])
    expected, found = bits(model(image)), []

    def work():
        for _ in range(20):
            with FastLayers(model).in_use():
                found.append(bits(model(image)) == expected)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 60
    assert not any("forward" in vars(layer) for layer in model.sublayers())


def test_an_export_is_paddle_s_own_even_from_inside(tmp_path):
    spec = [paddle.static.InputSpec([None, 1, 28, 28], "float32")]
    programs = {}
    for is_fast in (True, False):
        with paddle.utils.unique_name.guard():
            model = models.LeNet()
        with FastLayers(model, is_fast).in_use():
            paddle.jit.save(model, str(tmp_path / "export"), input_spec=spec)
        # Paddle counts all layers of a process in the names of the scopes.
        programs[is_fast] = re.sub(r"_\d+", "", (tmp_path / "export.json").read_text())
    assert programs[True] == programs[False]


@pytest.mark.filterwarnings("ignore:.*Tensor do not have 'place' interface:UserWarning")
@pytest.mark.parametrize("full_graph", [True, False])
def test_a_model_that_is_compiled_is_left_alone(full_graph):
    model = models.LeNet()
    fast, image = FastLayers(model), paddle.randn([2, 1, 28, 28])
    compiled = paddle.jit.to_static(model, full_graph=full_graph)
    for layers in (fast, FastLayers(nn.Sequential(compiled))):
        assert len(layers) == 0
    with fast.in_use():
        compiled(image).sum().backward()
    assert model.features[0].bias.grad is not None


def train(network, is_fast, optimizer, num_steps, shape, num_classes=10):
    """Return the bits of every loss, and of the weights at the end."""
    paddle.seed(3)
    random = np.random.RandomState(0)
    with paddle.utils.unique_name.guard():
        model = network()
    optimizer = optimizer(parameters=model.parameters())
    fast, losses = FastLayers(model, is_fast), []
    assert bool(len(fast)) is is_fast
    for _ in range(num_steps):
        image = paddle.to_tensor(random.uniform(-1, 1, shape).astype("float32"))
        label = paddle.to_tensor(random.randint(0, num_classes, shape[:1]))
        with fast.in_use():
            loss = nn.functional.cross_entropy(model(image), label)
            loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses += bits(loss)
    return losses, {name: bits(tensor) for name, tensor in model.state_dict().items()}


def adam(parameters):
    return paddle.optimizer.Adam(1e-3, parameters=parameters)


def momentum(parameters):
    return paddle.optimizer.Momentum(0.01, parameters=parameters)


@pytest.mark.parametrize("optimizer", [adam, momentum])
@pytest.mark.parametrize("network", [models.LeNet, LeNetBN])
def test_eighty_steps_end_in_the_same_bits(network, optimizer):
    arguments = (optimizer, 80, [16, 1, 28, 28])
    assert train(network, True, *arguments) == train(network, False, *arguments)


def vgg():
    layers = []
    for num_in, num_out in ((3, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2D(num_in, num_out, 3, padding=1), nn.ReLU(), nn.MaxPool2D(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 4 * 4, 10))


def resnet():
    return models.resnet18(num_classes=10)


@pytest.mark.parametrize("network", [vgg, resnet])
def test_larger_networks_end_in_the_same_bits(network):
    size = 32 if network is vgg else 64
    arguments = (momentum, 3, [4, 3, size, size])
    assert train(network, True, *arguments) == train(network, False, *arguments)


def test_a_network_without_such_layers_has_none():
    assert len(FastLayers(models.mobilenet_v2(scale=0.25))) == 0
