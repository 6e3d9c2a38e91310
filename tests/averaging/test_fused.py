"""The compiled update beside the plain one, step by step and bit for bit."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from networks import Oddities
from paddle.base.framework import EagerParamBase
from paddle.vision.models import LeNet
from update_paths import bits, use_numba, use_numpy

from ppema import ExponentialMovingAverage, StochasticWeightAverage
from ppema.averaging import kernels

pytest.importorskip("numba")


class Sizes(paddle.nn.Layer):
    """Float parameters of the given shapes."""

    def __init__(self, shapes, dtype="float32"):
        super().__init__()
        for index, shape in enumerate(shapes):
            parameter = self.create_parameter(shape, dtype=dtype)
            self.add_parameter(f"weight_{index}", parameter)


NETWORKS = {
    "oddities": Oddities,
    "lenet": LeNet,
    "odd sizes": lambda: Sizes([[n] for n in (1, 2, 3, 7, 8, 9, 31, 33, 1023, 16385)]),
    "scalar and empty": lambda: Sizes([[], [0], [5], [0, 3], []]),
    "many": lambda: Sizes([[n % 17 + 1] for n in range(500)]),
    "one huge": lambda: Sizes([[1_200_007]]),
    "float64": lambda: Sizes([[3, 7], [], [40_001]], "float64"),
}


def set_random(model, random, low=-3.0, high=3.0):
    for parameter in model.parameters():
        magnitudes = 10.0 ** random.uniform(low, high, parameter.shape)
        values = magnitudes * random.choice([-1.0, 1.0], parameter.shape)
        dtype = str(parameter.dtype).replace("paddle.", "")
        parameter.set_value(np.asarray(values).astype(dtype))


def moved(average, share_of_new):
    """Return the bits that the definition gives, tensor by tensor."""
    expected = {}
    for shadow in average._store.shadows:
        live, old = shadow.live.numpy(), shadow.average.numpy()
        weight = old.dtype.type(share_of_new)
        with np.errstate(all="ignore"):
            new = old + weight * (live - old)
        expected[shadow.name] = live if shadow.is_frozen or share_of_new == 1.0 else new
    return {name: array.tobytes() for name, array in expected.items()}


class Pair:
    """Two averages of one model, one moved by the compiled path and one by NumPy."""

    def __init__(self, make, threads, monkeypatch):
        self.averages = make(), make()
        self._threads, self._monkeypatch = threads, monkeypatch

    def update(self):
        fast, slow = self.averages
        least = 0 if self._threads == 2 else 10**18
        self._monkeypatch.setattr(kernels, "MIN_WEIGHTS_OF_TWO_THREADS", least)
        use_numba(self._monkeypatch)
        kept = fast.update()
        # A frozen weight is copied by every update that folds the weights in.
        expected = moved(slow, 1.0 - kept) if kept < 1.0 else bits(slow)
        use_numpy(self._monkeypatch)
        assert slow.update() == kept
        assert bits(fast) == bits(slow) == expected


@pytest.fixture(params=[1, 2])
def make_pair(request, monkeypatch):
    """Return a maker of pairs, whose fast one runs on one thread or on two."""
    return lambda make: Pair(make, request.param, monkeypatch)


@pytest.mark.parametrize("network", NETWORKS)
def test_each_step_gives_the_same_bits(network, make_pair):
    random = np.random.RandomState(1)
    model = NETWORKS[network]()
    pair = make_pair(lambda: ExponentialMovingAverage(model, 0.98))
    for _ in range(12):
        set_random(model, random)
        pair.update()


@pytest.mark.parametrize(("low", "high"), [(-45, -36), (-30, 38), (36, 38.5)])
def test_denormal_and_huge_weights_give_the_same_bits(low, high, make_pair):
    random = np.random.RandomState(2)
    model = Sizes([[9999], [3]])
    pair = make_pair(lambda: ExponentialMovingAverage(model, 0.75, False))
    for _ in range(5):
        set_random(model, random, low, high)
        model.weight_1.set_value(np.array([0.0, -0.0, 1e-45], "float32"))
        pair.update()


@pytest.mark.parametrize("decay", [0.0, 0.5, 1 - 1e-9, 1 - 1e-16, 1e-9, 1e-17])
def test_tiny_weights_and_nearly_1_give_the_same_bits(decay, make_pair):
    random = np.random.RandomState(3)
    model = Sizes([[257], [2, 2]])
    pair = make_pair(lambda: ExponentialMovingAverage(model, decay, False))
    for _ in range(4):
        set_random(model, random)
        pair.update()


def test_copying_until_the_start_gives_the_same_bits(make_pair):
    random = np.random.RandomState(4)
    model = Oddities()
    pair = make_pair(lambda: StochasticWeightAverage(model, start=4, every=2))
    for _ in range(10):
        set_random(model, random)
        pair.update()


def test_freezing_and_unfreezing_give_the_same_bits(make_pair):
    random = np.random.RandomState(5)
    model = Oddities()
    pair = make_pair(lambda: ExponentialMovingAverage(model, 0.9))
    for step in range(12):
        model.first.weight.stop_gradient = step in (3, 4, 8)
        model.frozen.weight.stop_gradient = step % 3 == 0
        set_random(model, random)
        pair.update()


def swap(model, averages):
    for average in averages:
        with average.average_parameters():
            model.eval()


def load(model, averages):
    for average in averages:
        state = average.state_dict()
        copies = {name: tensor.numpy() * 2 for name, tensor in state["shadow"].items()}
        average.set_state_dict({**state, "shadow": copies})


def repoint(model, averages):
    model.head.weight.data = paddle.randn([16, 10])
    model.head.weight.stop_gradient = False


def repoint_to_no_flat_memory(model, averages):
    model.head.weight.data = paddle.randn([10, 16]).T
    model.head.weight.stop_gradient = False


def register(model, averages):
    for average in averages:
        average.register()


@pytest.mark.parametrize("change", [swap, load, repoint, repoint_to_no_flat_memory, register])
def test_what_comes_between_two_updates_leaves_the_same_bits(change, make_pair):
    random = np.random.RandomState(6)
    model = Oddities()
    pair = make_pair(lambda: ExponentialMovingAverage(model, 0.9))
    for step in range(6):
        set_random(model, random)
        if step % 2:
            paddle.seed(step)
            change(model, pair.averages)
        pair.update()


def test_a_live_tensor_in_another_layout_is_averaged_element_by_element(monkeypatch):
    use_numba(monkeypatch)
    model = paddle.nn.Layer()
    model.weight = EagerParamBase.from_tensor(paddle.zeros([2, 3]))
    ema = ExponentialMovingAverage(model, 0.5, False)
    ema.update()
    model.weight.data = paddle.to_tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]).T
    model.weight.stop_gradient = False
    ema.update()
    assert ema.averaged_state_dict()["weight"].tolist() == [[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]]


def test_the_memory_that_the_table_points_to_stays_while_it_is_used(monkeypatch):
    use_numba(monkeypatch)
    model = Sizes([[1000]])
    ema = ExponentialMovingAverage(model, 0.5, False)
    ema.update()
    # Were the old memory given back, one of these would get it.
    address = model.weight_0.data_ptr()
    model.weight_0.data = paddle.ones([1000])
    assert address not in [paddle.zeros([1000]).data_ptr() for _ in range(50)]


@pytest.mark.parametrize("use", [use_numpy, use_numba])
def test_a_deep_copy_of_an_average_in_use_moves_the_copied_tensors(use, monkeypatch):
    use(monkeypatch)
    model = Sizes([[3]])
    ema = ExponentialMovingAverage(model, 0.5, False)
    model.weight_0.set_value(np.zeros(3, "float32"))
    ema.update()
    twin, before = copy.deepcopy(ema), bits(ema)
    twin.model.weight_0.set_value(np.full(3, 8.0, "float32"))
    twin.update()
    assert bits(ema) == before != bits(twin)


@pytest.mark.parametrize("use", [use_numpy, use_numba])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 24_999, 25_000, 49_998, 50_000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_weight_that_is_not_finite_moves_nothing(use, value, place, dtype, monkeypatch):
    use(monkeypatch)
    monkeypatch.setattr(kernels, "MIN_WEIGHTS_OF_TWO_THREADS", 0)
    model = Sizes([[49_999], [2]], dtype)
    ema = ExponentialMovingAverage(model, 0.5)
    ema.update()
    before = bits(ema)
    index, place = divmod(place, 49_999)
    values = model.parameters()[index].numpy()
    values[place] = value
    model.parameters()[index].set_value(values)
    with pytest.raises(FloatingPointError, match=f"weight_{index} holds NaN or Inf"):
        ema.update()
    assert bits(ema) == before
    assert ema.num_updates == 1


@pytest.mark.parametrize("use", [use_numpy, use_numba])
def test_a_weight_whose_square_overflows_is_finite(use, monkeypatch):
    use(monkeypatch)
    model = Sizes([[3]])
    ema = ExponentialMovingAverage(model, 0.5, False)
    model.weight_0.set_value(np.array([3e38, -3e38, 1e30], "float32"))
    ema.update()
    assert float(ema.averaged_state_dict()["weight_0"][0]) == pytest.approx(1.5e38, rel=1e-6)
