"""A training step: LeNet's with the faster layers, and the share of ResNet18's for an average."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Callable, ContextManager, Iterator

import numpy as np
import paddle

import ppema
from ppema.fast_cpu import FastLayers

from ..paths import by_kernels, load_compiled
from ..remote import Remote
from ..rivals import CopiedAverage, StateDictAverage
from ..rows import Findings, Reach, Row
from ..settings import Settings
from ..timing import MILLISECONDS, Contender, Entry, measure_group

BATCH_SIZE = 64
_PADDLE, _FAST = "LeNet, Paddle's own layers", "ppema, fast_cpu"
_DECAY = 0.9998
_RIVALS_EVERY = 3
# Steps of a sample: one before them lets the last update of the sample before it end.
_TIMED_STEPS = 2

_IN_LINE, _OVERLAPPED = "ppema in line", "ppema overlapped"
_REACHES = {_IN_LINE: Reach(3.0, "median"), _OVERLAPPED: Reach(1.0, "median")}

# Attaches an average for the length of a `with` block, and gives what follows each step.
Way = Callable[[], ContextManager[Callable[[], Any]]]


def measure(settings: Settings) -> Findings:
    """Measure LeNet's step, then the share of ResNet18's step that each average takes."""
    findings = _measure_lenet(settings)
    findings.add(_measure_shares(settings))
    return findings


class Step:
    """A model, its optimizer and batches; called, it does one training step.

    Args:
        model: a paddle.nn.Layer.
        batches: images and labels, taken in turn.
        is_fast: whether the layers take the forms of `ppema.fast_cpu`.
    """

    def __init__(self, model: Any, batches: list[tuple[Any, Any]], is_fast: bool) -> None:
        self.model, self._batches = model, batches
        self._layers = FastLayers(model, is_fast)
        self.optimizer = paddle.optimizer.Adam(1e-3, parameters=model.parameters())
        self._loss_fn = paddle.nn.CrossEntropyLoss()
        self._count = 0

    def __call__(self) -> None:
        """Do one step."""
        image, label = self._batches[self._count % len(self._batches)]
        self._count += 1
        with self._layers.in_use():
            self._loss_fn(self.model(image), label).backward()
        self.optimizer.step()
        self.optimizer.clear_grad()


def make_lenet_step(is_fast: bool) -> Step:
    """Return LeNet's step; the same weights and batches each time."""
    paddle.seed(0)
    return Step(paddle.vision.models.LeNet(), make_batches(BATCH_SIZE, (1, 28, 28), 10), is_fast)


def make_batches(
    batch_size: int, shape: tuple[int, ...], num_classes: int
) -> list[tuple[Any, Any]]:
    """Return four batches of noise, the same each time."""
    random = np.random.default_rng(0)
    return [
        (
            paddle.to_tensor(random.standard_normal((batch_size, *shape), dtype=np.float32)),
            paddle.to_tensor(random.integers(0, num_classes, batch_size)),
        )
        for _ in range(4)
    ]


def _measure_lenet(settings: Settings) -> Findings:
    own, fast = make_lenet_step(False), make_lenet_step(True)
    num_steps = 2 if settings.is_quick else 6
    entries = [
        Entry(_PADDLE, _steps(own, num_steps)),
        Entry(_FAST, _steps(fast, num_steps), _PADDLE, Reach(0.48, "ratio")),
    ]
    notes = []
    if settings.torch is not None:
        entries.append(_torch_step(settings.torch, settings.least_s))
    else:
        notes.append("torch is not installed here (see --torch); its step is left out")
    group = f"a training step of LeNet, batch {BATCH_SIZE}"
    rows = measure_group(group, entries, settings.rounds_or(30), MILLISECONDS)
    differing = float(num_differing(own.model, fast.model))
    name = "weights that differ after all steps"
    bits = "the bits of LeNet's steps, with and without fast_cpu"
    rows.append(Row(bits, name, "weights", (differing,), reach=Reach(0.0, "median")))
    return Findings(rows, notes)


def num_differing(model: Any, other: Any) -> int:
    """Return how many weights of two models differ in a bit."""
    pairs = zip(model.parameters(), other.parameters())
    return sum(int((a.numpy().view("i4") != b.numpy().view("i4")).sum()) for a, b in pairs)


def _steps(step: Step, num_steps: int) -> Contender:
    for _ in range(3):
        step()

    def contend() -> float:
        started = time.perf_counter()
        for _ in range(num_steps):
            step()
        return (time.perf_counter() - started) / num_steps

    return contend


def _torch_step(torch: Remote, least_s: float) -> Entry:
    torch.ask("prepare_step", batch_size=BATCH_SIZE)
    return Entry(
        "torch, eager, 1 thread",
        lambda: float(torch.ask("measure", piece="step", threads=1, least_s=least_s)),
        _PADDLE,
    )


def _measure_shares(settings: Settings) -> Findings:
    """Compare steps with each average and steps without, in pairs of short blocks.

    A pair lasts seconds, so that what else the machine does is the same for both; which of the
    two comes first changes. The rivals take so much that a third of the rounds shows it.
    """
    size = 16 if settings.is_quick else 64
    paddle.seed(0)
    model = paddle.vision.models.resnet18(num_classes=10)
    step = Step(model, make_batches(8, (3, size, size), 10), is_fast=True)
    ways = ways_of(step)
    shares: dict[str, list[float]] = {name: [] for name in ways}
    without_s: list[float] = []
    for number in range(settings.rounds_or(18)):
        for name, way in ways.items():
            if name not in _REACHES and number % _RIVALS_EVERY:
                continue
            contenders: list[tuple[str, Way]] = [(name, way), ("", _without)]
            seconds = {label: _block_s(step, each) for label, each in contenders[:: (-1) ** number]}
            shares[name].append(100 * (seconds[name] / seconds[""] - 1))
            without_s.append(seconds[""])
    group = f"the share of a training step of ResNet18, 8x3x{size}x{size}"
    rows = [
        Row(group, name, "%", tuple(samples), reach=_REACHES.get(name))
        for name, samples in shares.items()
    ]
    median = 1e3 * float(np.median(without_s))
    return Findings(rows, [f"a step of ResNet18 without an average takes {median:.1f} ms"])


def _block_s(step: Step, way: Way) -> float:
    """Return the seconds of one step, among steps that all have an update before and after."""
    with way() as after_step:
        step()
        after_step()
        started = time.perf_counter()
        for _ in range(_TIMED_STEPS):
            step()
            after_step()
        return (time.perf_counter() - started) / _TIMED_STEPS


def ways_of(step: Step) -> dict[str, Way]:
    """Return the ways to keep an average beside a step, by name."""
    copied = CopiedAverage(step.model, _DECAY)
    copied.register()
    detection = StateDictAverage(step.model, _DECAY)
    average = ppema.ExponentialMovingAverage(step.model, _DECAY)
    compiled = load_compiled()

    @contextlib.contextmanager
    def in_line() -> Iterator[Callable[[], Any]]:
        with by_kernels(compiled):
            yield average.update

    @contextlib.contextmanager
    def overlapped() -> Iterator[Callable[[], Any]]:
        with by_kernels(compiled):
            average.attach(step.optimizer)
            try:
                yield lambda: None
            finally:
                average.detach()

    return {
        "the copied NumPy class": lambda: contextlib.nullcontext(copied.update),
        "PaddleDetection's arithmetic": lambda: contextlib.nullcontext(detection.update),
        _IN_LINE: in_line,
        _OVERLAPPED: overlapped,
    }


@contextlib.contextmanager
def _without() -> Iterator[Callable[[], Any]]:
    yield lambda: None
