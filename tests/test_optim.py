"""Optimizers, clips, decays and losses do what a config says, each compared by hand."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from trainers import make_reader

from ppema import builder
from ppema.averaging import ArgumentError
from ppema.builder.parts import make_loss, make_optimizer, run_length
from ppema.engine.evaluate import evaluate
from ppema.errors import ConfigError
from ppema.optim import LOSSES, OPTIMIZER_HINTS, OPTIMIZERS, spare_from_decay

HEAD = "_BASE_: {}/configs/lenet_digits.yml\n"


@pytest.fixture
def read(tmp_path, pytestconfig):
    """Return a function from a line of YAML to a config."""

    def read(text):
        path = tmp_path / "run.yml"
        path.write_text(HEAD.format(pytestconfig.rootpath) + text)
        return builder.read_config(str(path), [])

    return read


def optimizer_of(config, model):
    return make_optimizer(config, model, run_length(config, 10))[0]


def test_every_optimizer_of_paddle_is_to_be_had_or_says_why_not():
    assert set(paddle.optimizer.__all__) <= set(OPTIMIZERS) | set(OPTIMIZER_HINTS)
    assert not set(OPTIMIZERS) & set(OPTIMIZER_HINTS)


def stepped(optimizer_cls, **arguments):
    """Return the weights and biases of a layer after three steps with gradients of 0."""
    layer = paddle.nn.Linear(2, 2)
    layer.weight.set_value(np.full([2, 2], 0.5, np.float32))
    layer.bias.set_value(np.full([2], 0.5, np.float32))
    spared = arguments.pop("no_weight_decay", None)
    if spared:
        arguments.update(spare_from_decay(optimizer_cls, arguments, layer, spared))
    optimizer = optimizer_cls(learning_rate=0.01, parameters=layer.parameters(), **arguments)
    for _ in range(3):
        for parameter in layer.parameters():
            parameter.grad = paddle.zeros_like(parameter)
        optimizer.step()
    return layer.weight.numpy(), layer.bias.numpy()


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Rprop"])
def test_spared_weights_do_not_decay_and_the_others_do_as_before(name):
    key = "lamb_weight_decay" if name == "Lamb" else "weight_decay"
    everywhere = stepped(OPTIMIZERS[name], **{key: 0.1})
    spared = stepped(OPTIMIZERS[name], **{key: 0.1}, no_weight_decay=["*bias"])
    assert (everywhere[0] < 0.5).all()
    assert (everywhere[1] < 0.5).all()
    assert spared[0].tobytes() == everywhere[0].tobytes()
    assert (spared[1] == 0.5).all()


def test_clipping_by_the_norm_of_all_counts_spared_weights_too():
    found = []
    for spared in (None, ["bias"]):
        paddle.seed(0)
        layer = paddle.nn.Linear(3, 3)
        arguments = {"weight_decay": 0.0001}
        if spared:
            arguments.update(spare_from_decay(paddle.optimizer.SGD, arguments, layer, spared))
        clip = paddle.nn.ClipGradByGlobalNorm(0.5)
        optimizer = paddle.optimizer.SGD(
            1.0, parameters=layer.parameters(), grad_clip=clip, **arguments
        )
        before = layer.weight.numpy().copy()
        layer.weight.grad, layer.bias.grad = paddle.ones([3, 3]), paddle.full([3], 4.0)
        optimizer.step()
        found.append((before - layer.weight.numpy()).tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("SGD", {"weight_decay": 0.1}, "patterns that match a weight's name .*got 'norm.*'"),
        ("SGD", {}, "left out, since there is no weight_decay"),
        ("Rprop", {}, "left out, since it takes no weight_decay"),
    ],
)
def test_sparing_that_does_nothing_is_an_error(name, arguments, text):
    patterns = ["norm.*"] if arguments else ["weight"]
    with pytest.raises(ArgumentError, match=f"no_weight_decay must be {text}"):
        spare_from_decay(OPTIMIZERS[name], arguments, paddle.nn.Linear(2, 2), patterns)


CLIPS = {
    "{name: ClipGradByGlobalNorm, clip_norm: 0.5}": lambda w, b: (
        0.5 / np.sqrt((w**2).sum() + (b**2).sum())
    ),
    "{name: ClipGradByNorm, clip_norm: 0.5}": lambda w, b: 0.5 / np.sqrt((w**2).sum()),
}


@pytest.mark.parametrize("clip", CLIPS)
def test_a_clip_of_the_config_scales_the_gradients(read, clip):
    layer = paddle.nn.Linear(3, 2)
    config = read(f"Optimizer: {{name: SGD, grad_clip: {clip}}}\nLearningRate: {{base_lr: 1.0}}")
    optimizer = optimizer_of(config, layer)
    before = layer.weight.numpy().copy()
    w, b = np.full([3, 2], 2.0, np.float32), np.full([2], 3.0, np.float32)
    layer.weight.grad, layer.bias.grad = paddle.to_tensor(w), paddle.to_tensor(b)
    optimizer.step()
    np.testing.assert_allclose(before - layer.weight.numpy(), w * CLIPS[clip](w, b), rtol=1e-6)


def test_a_config_with_sections_in_a_section_reads_back_as_itself(read, tmp_path):
    config = read(
        "Optimizer: {name: Momentum, weight_decay: {name: L1Decay, coeff: 0.1}, grad_clip: "
        "{name: ClipGradByValue, max: 0.5}, no_weight_decay: ['*.bias']}"
    )
    (tmp_path / "dumped.yml").write_text(config.dump())
    assert builder.read_config(str(tmp_path / "dumped.yml"), []) == config
    optimizer = optimizer_of(config, paddle.vision.models.LeNet())
    assert isinstance(optimizer.regularization, paddle.regularizer.L1Decay)
    assert (optimizer._grad_clip.min, optimizer._grad_clip.max) == (-0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Optimizer: {name: LBFGS}", "Optimizer.name: 'LBFGS' evaluates the loss several times"),
        ("Optimizer: {name: Optimizer}", "'Optimizer' is the base of all others"),
        ("Optimizer: {name: Adan}", "there is no 'Adan'; did you mean 'Adam'?"),
        (
            "Optimizer: {name: Adam, clip_grad_by_norm: 1.0}",
            "'Optimizer.clip_grad_by_norm' is written as a section here: grad_clip: {name: ClipGr",
        ),
        (
            "Optimizer: {name: Adam, regularizer: {type: L2}}",
            "'Optimizer.regularizer' is one key here: weight_decay: 0.0005",
        ),
        ("OptimizerBuilder: {optimizer: {}}", "'OptimizerBuilder' is one section here: Optimizer"),
        (
            "Optimizer: {name: Adam, grad_clip: {name: ClipGradByNrm, clip_norm: 1}}",
            "Optimizer.grad_clip.name: there is no 'ClipGradByNrm'; did you mean 'ClipGradByNorm'?",
        ),
        (
            "Optimizer: {name: Adam, grad_clip: {name: ClipGradByNorm}}",
            "'Optimizer.grad_clip.clip_norm' is missing",
        ),
        (
            "Optimizer: {name: Adam, grad_clip: {name: ClipGradByNorm, clip_norm: 0}}",
            "Optimizer.grad_clip.clip_norm must be a number above 0, got 0.0",
        ),
        ("Optimizer: {name: Adam, grad_clip: 1.0}", "'grad_clip' should be an instance of"),
        (
            "Optimizer: {name: AdamW, no_weight_decay: [norm*]}",
            "Optimizer.no_weight_decay must be patterns that match a weight's name (such as featu",
        ),
        ("Optimizer: {name: AdamW, no_weight_decay: bias}", "must be a list, got 'bias'"),
        (
            "Optimizer: {name: AdamW, apply_decay_param_fun: x}",
            "'Optimizer.apply_decay_param_fun' is set by ppema; leave it out",
        ),
        ("Loss: {name: NLLLoss}", "'NLLLoss' takes log-probabilities, and a model gives logits"),
        ("Loss: {name: CrossEntropyLoss, reduction: sum}", "Loss.reduction must be mean: all figu"),
        ("Loss: {name: CrossEntropyLoss, label_smothing: 0.1}", "did you mean 'label_smoothing'?"),
        ("Loss: {name: CrossEntropyLoss, label_smoothing: a}", "label_smoothing must be a number"),
        ("Model: {name: VGG}", "Model.name: 'VGG' takes its layers as an argument: name vgg11"),
        ("Model: {name: resnet81}", "there is no 'resnet81'; did you mean 'resnet18'?"),
        ("Model: {name: resnet18, num_clases: 4}", "did you mean 'num_classes'?"),
        ("Model: {name: resnet18, num_channels: 1}", "'Model.num_channels' is in_channels here"),
        ("Model: {name: resnet18, width: 4}", "unknown key 'Model.width'"),
        ("Model: {name: LeNet, in_channels: -1}", "Model.in_channels must be a whole number abov"),
        ("Model: {name: ResNet, block: Basic}", "Model.block must be one of BasicBlock, Bottlene"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_with_its_place(read, text, reason):
    with pytest.raises(ConfigError) as caught:
        builder.check(read(text))
    (line,) = str(caught.value).splitlines()
    assert "run.yml:2: " in line
    assert reason in line


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_in_training_and_in_evaluation(read, smoothing):
    """A share of each label goes to all classes alike; evaluation takes the same loss."""
    loss_fn = make_loss(read(f"Loss: {{name: CrossEntropyLoss, label_smoothing: {smoothing}}}"))
    model = paddle.nn.Sequential(paddle.nn.Flatten(), paddle.nn.Linear(784, 10))
    # Batches of 8, 8 and 4: the mean is over images, not over batches.
    reader = make_reader(20)
    batches = list(reader.batches(1))
    images = np.concatenate([batch.image for batch in batches]).astype("float64")
    labels = np.concatenate([batch.label for batch in batches])
    weight, bias = (p.numpy().astype("float64") for p in model.parameters())
    scores = log_softmax(images.reshape(20, -1) @ weight + bias)
    target = np.full([20, 10], smoothing / 10)
    target[np.arange(20), labels] += 1 - smoothing
    wanted = -(target * scores).sum(axis=1).mean()
    assert evaluate(model, loss_fn, reader).loss == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_takes_logits_and_labels(name):
    loss = LOSSES[name]()(paddle.randn([4, 3]), paddle.to_tensor([0, 1, 2, 0]))
    assert loss.size == 1
    assert float(loss) > 0


class OneEach(paddle.nn.Layer):
    """A loss of one's own that forgets the mean."""

    def forward(self, logits, labels):
        return paddle.nn.functional.cross_entropy(logits, labels, reduction="none")


def test_a_loss_that_is_not_one_number_is_said_before_training(read):
    config = read(f"Loss: {{name: {__name__}.OneEach}}")
    data = builder.load_data(config, None)
    trainer = builder.make_trainer(config, data)
    with pytest.raises(ConfigError, match=r"Loss \(.*OneEach\) gives \[2\], not one number"):
        builder.try_one_batch(config, trainer, data)
