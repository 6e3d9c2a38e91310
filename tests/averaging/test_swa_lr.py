"""The learning rates of SWA, each beside its formula, and which step of a loop has which rate."""

from __future__ import annotations

import math

import paddle
import pytest
from paddle.optimizer import lr

from ppema import SWALR, ArgumentError, CyclicSWALR, RunLength, StochasticWeightAverage
from ppema.averaging import schedule_state, set_schedule_state

RUN = RunLength(num_steps=400, steps_per_epoch=80, images_per_step=64)
ALPHAS = {
    "cos": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "linear": lambda t: t,
}


def rates_of(schedule, num_steps):
    """Return the rates of steps 1 to num_steps, as an optimizer would be given them."""
    rates = []
    for step in range(num_steps):
        assert schedule.last_epoch == step
        rates.append(schedule())
        schedule.step()
    return rates


@pytest.mark.parametrize("strategy", ALPHAS)
@pytest.mark.parametrize(("start", "anneal"), [(7, 5), (7, 1), (7, 0), (7, None), (0, 4), (1, 3)])
def test_the_rate_before_then_the_annealing_then_the_constant(strategy, start, anneal):
    expected = [0.1] * start
    for i in range(1, (anneal or 0) + 1):
        alpha = ALPHAS[strategy](i / anneal)
        expected.append(0.02 * alpha + (1 - alpha) * 0.1)
    expected += [0.02] * (20 - len(expected))
    found = rates_of(SWALR(0.1, 0.02, start, anneal, strategy), 20)
    assert found == pytest.approx(expected, rel=1e-14)
    assert found[:start] == [0.1] * start
    assert set(found[start + max(1, anneal or 0) - 1 :]) == {0.02}


def test_the_annealing_has_the_values_of_torch():
    """torch.optim.swa_utils.SWALR from 0.1 to 0.02 in 4: what it sets at its first 5 steps."""
    cos = [0.08828427124746191, 0.06, 0.03171572875253810, 0.02, 0.02]
    linear = [0.08, 0.06, 0.04, 0.02, 0.02]
    for strategy, values in (("cos", cos), ("linear", linear)):
        found = rates_of(SWALR(0.1, 0.02, 3, 4, strategy), 8)
        assert found == pytest.approx([0.1, 0.1, 0.1, *values], rel=1e-14)


def test_the_annealing_is_the_recursion_that_torch_computes():
    """Each rate from the last one: torch takes the rate before out of it again."""
    rate, previous = 0.1, 0.0
    found = rates_of(SWALR(0.1, 0.02, 1, 10), 10)
    for step in range(1, 10):
        alpha = (1 - math.cos(math.pi * step / 10)) / 2
        before = (rate - previous * 0.02) / (1 - previous)
        rate, previous = 0.02 * alpha + before * (1 - alpha), alpha
        assert found[step] == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(("start", "cycle"), [(0, 4), (3, 4), (5, 1), (2, 7)])
def test_the_cycles_fall_from_max_to_min(start, cycle):
    expected = [0.05] * start
    for i in range(1, 41 - start):
        t = ((i - 1) % cycle + 1) / cycle
        expected.append((1 - t) * 0.4 + t * 0.1)
    found = rates_of(CyclicSWALR(0.05, 0.4, 0.1, start, cycle), 40)
    assert found == pytest.approx(expected, rel=1e-14)
    assert set(found[start + cycle - 1 :: cycle]) == {0.1}
    assert min(found[start:]) == 0.1


def test_a_cycle_of_four():
    found = rates_of(CyclicSWALR(0.05, 0.4, 0.1, 1, 4), 6)
    assert found == pytest.approx([0.05, 0.325, 0.25, 0.175, 0.1, 0.325], rel=1e-14)


BEFORE = {
    "cosine": lambda: lr.CosineAnnealingDecay(0.1, T_max=9),
    "restarts": lambda: lr.CosineAnnealingWarmRestarts(0.1, T_0=3, T_mult=2),
    "linear": lambda: lr.LinearLR(0.1, total_steps=12),
    "warmup": lambda: lr.LinearWarmup(lr.LinearLR(0.1, total_steps=6), 4, 0.0, 0.1),
    "swa": lambda: SWALR(lr.ExponentialDecay(0.1, 0.9), 0.05, start=5, anneal=3),
}
AFTER = {
    "constant": lambda before: SWALR(before, 0.02, start=10, anneal=4),
    "cyclic": lambda before: CyclicSWALR(before, 0.05, 0.01, start=10, cycle=5),
}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("after", AFTER)
def test_the_schedule_before_goes_on_as_alone_and_its_last_rate_is_the_one_left(before, after):
    alone = rates_of(BEFORE[before](), 10)
    found = rates_of(AFTER[after](BEFORE[before]()), 30)
    assert found[:10] == alone
    assert found[10:] == rates_of(AFTER[after](alone[-1]), 30)[10:]


def test_a_loop_has_the_lowest_rate_at_each_point_and_the_mean_of_the_weights_there():
    model = paddle.nn.Linear(1, 1, bias_attr=False)
    model.weight.set_value(paddle.zeros([1, 1]))
    start, cycle = 6, 5
    schedule = CyclicSWALR(lr.CosineAnnealingDecay(0.5, 12), 0.25, 0.0625, start, cycle)
    optimizer = paddle.optimizer.SGD(schedule, parameters=model.parameters())
    swa = StochasticWeightAverage(model, start=start + cycle, every=cycle)
    weights, rates, points = [], [], []
    for step in range(1, 23):
        rates.append(optimizer.get_lr())
        # The gradient is -1, so that each step moves the weight by just its rate.
        (-model.weight.sum()).backward()
        optimizer.step()
        optimizer.clear_grad()
        before = swa.num_points
        swa.update()
        if swa.num_points > before:
            points.append(step)
        schedule.step()
        weights.append(model.weight.item())
    moved = [after - before for before, after in zip([0.0, *weights], weights)]
    assert moved == pytest.approx(rates, abs=1e-6)
    assert points == [11, 16, 21]
    assert [rates[step - 1] for step in points] == [0.0625] * 3
    # 0.25 - (0.25 - 0.0625) / 5, the first of the next cycle.
    assert [rates[step] for step in points] == pytest.approx([0.2125] * 3)
    mean = sum(sum(rates[:step]) for step in points) / 3
    assert swa.averaged_state_dict()["weight"].item() == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("before", ["cosine", "linear", "restarts"])
def test_a_jump_to_a_step_gives_its_rate(before):
    straight = rates_of(AFTER["constant"](BEFORE[before]()), 20)
    jumped = AFTER["constant"](BEFORE[before]())
    for step in (4, 9, 10, 12, 19):
        jumped.step(step)
        assert (jumped.last_epoch, jumped()) == (step, straight[step])


def test_a_jump_back_takes_the_schedule_before_along():
    schedule = SWALR(lr.PolynomialDecay(0.1, 10), 0.02, start=6)
    straight = rates_of(SWALR(lr.PolynomialDecay(0.1, 10), 0.02, start=6), 10)
    for step in (8, 3, 4, 0):
        schedule.step(step)
        assert schedule() == straight[step]


def test_a_schedule_that_has_gone_on_is_put_to_the_step_of_the_one_around_it():
    inner = lr.StepDecay(0.1, 2)
    for _ in range(5):
        inner.step()
    assert rates_of(SWALR(inner, 0.02, start=6), 8) == rates_of(
        SWALR(lr.StepDecay(0.1, 2), 0.02, start=6), 8
    )


def test_last_epoch_says_where_it_begins():
    straight = rates_of(AFTER["cyclic"](BEFORE["linear"]()), 20)
    later = CyclicSWALR(BEFORE["linear"](), 0.05, 0.01, start=10, cycle=5, last_epoch=6)
    assert (later.last_epoch, later()) == (7, straight[7])
    for step in range(8, 20):
        later.step()
        assert later() == straight[step]


def test_verbose_prints_each_rate(capsys):
    SWALR(0.1, 0.02, start=1, verbose=True).step()
    assert capsys.readouterr().out.splitlines()[-1].endswith("SWALR set learning rate to 0.02.")


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("after", AFTER)
def test_a_state_put_into_a_new_schedule_goes_on_with_the_same_rates(before, after):
    straight = rates_of(AFTER[after](BEFORE[before]()), 25)
    schedule = AFTER[after](BEFORE[before]())
    found = []
    for step in range(25):
        found.append(schedule())
        schedule.step()
        state = schedule.state_dict()
        schedule = AFTER[after](BEFORE[before]())
        getattr(schedule, "set_state_dict" if step % 2 else "set_dict")(state)
    assert found == straight


@pytest.mark.parametrize("step", range(1, 12))
def test_paddle_s_own_schedules_too_go_on_from_a_whole_state(step):
    """LinearWarmup's own state_dict lacks the period of the restarts inside it."""

    def make():
        return lr.LinearWarmup(lr.CosineAnnealingWarmRestarts(0.1, 2, 2), 3, 0.0, 0.1)

    straight = rates_of(make(), 20)
    schedule, other = make(), make()
    for _ in range(step):
        schedule.step()
    set_schedule_state(other, schedule_state(schedule))
    rates = [other()]
    for _ in range(step + 1, 20):
        other.step()
        rates.append(other())
    assert rates == straight[step:]


def test_the_state_goes_through_an_optimizer_s_file(tmp_path):
    def make():
        model = paddle.nn.Linear(1, 1)
        schedule = AFTER["constant"](BEFORE["restarts"]())
        return schedule, paddle.optimizer.SGD(schedule, parameters=model.parameters())

    schedule, optimizer = make()
    for _ in range(7):
        schedule.step()
    paddle.save(optimizer.state_dict(), str(tmp_path / "a.pdopt"))
    other, optimizer = make()
    optimizer.set_state_dict(paddle.load(str(tmp_path / "a.pdopt")))
    assert optimizer.get_lr() == schedule()
    assert rates_after(other, 20) == rates_after(schedule, 20)


def rates_after(schedule, num_steps):
    rates = []
    for _ in range(num_steps):
        schedule.step()
        rates.append(schedule())
    return rates


def test_a_state_leaves_the_arguments_as_they_are():
    state = SWALR(0.1, 0.02, start=3).state_dict()
    other = SWALR(0.4, 0.3, start=1, anneal=2, strategy="linear")
    other.set_state_dict(state)
    assert rates_after(other, 3) == pytest.approx([0.35, 0.3, 0.3])


def test_a_state_of_another_kind_changes_nothing():
    alone, around = SWALR(0.1, 0.02, start=3), SWALR(BEFORE["cosine"](), 0.02, start=3)
    wide = SWALR(BEFORE["warmup"](), 0.02, start=3)
    for schedule in (alone, around):
        schedule.step()
    for schedule, state, message in (
        (around, alone.state_dict(), "the state of SWALR lacks learning_rate"),
        (wide, around.state_dict(), r"SWALR\.learning_rate lacks learning_rate"),
        (wide, {}, "SWALR lacks last_epoch, last_lr, learning_rate"),
        (around, {**around.state_dict(), "learning_rate": 0.1}, "is not that of a schedule"),
    ):
        before = schedule.state_dict()
        with pytest.raises(ValueError, match=message):
            schedule.set_state_dict(state)
        assert schedule.state_dict() == before


def test_a_state_is_of_plain_values_and_a_copy():
    class Remembering(lr.LRScheduler):
        def __init__(self, learning_rate):
            self.rates, self.by_step, self.rule = [], {}, lambda rate: rate / 2
            super().__init__(learning_rate)

        def get_lr(self):
            self.rates.append(self.rule(self.last_lr))
            self.by_step[str(self.last_epoch)] = self.rates[-1]
            return self.rates[-1]

    schedule = SWALR(Remembering(0.4), 0.02, start=5)
    state = schedule.state_dict()
    schedule.step()
    inner = state["learning_rate"]
    assert (inner["rates"], inner["by_step"]) == ([0.2], {"0": 0.2})
    assert "rule" not in inner
    schedule.set_state_dict(state)
    schedule.step()
    assert state["learning_rate"]["rates"] == [0.2]


@pytest.mark.parametrize(
    ("start", "steps"), [("75 %", 300), ("3 epochs", 240), ("640 images", 10), ("0 %", 0), (12, 12)]
)
def test_durations_are_counted_as_an_average_counts_them(start, steps):
    schedule = CyclicSWALR(0.1, 0.05, 0.01, start, "1 epochs", run=RUN)
    assert (schedule.start, schedule.cycle) == (steps, 80)
    assert SWALR(0.1, 0.02, 5, start, run=RUN).anneal == steps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SWALR(-0.1, 0.02, 3), "learning_rate must be a finite number, 0 or more"),
        (lambda: SWALR("fast", 0.02, 3), "learning_rate must be a finite number"),
        (
            lambda: SWALR(lr.ReduceOnPlateau(0.1), 0.02, 3),
            "learning_rate must be a rate, or a schedule of steps alone",
        ),
        (lambda: SWALR(0.1, 0.0, 3), "swa_lr must be a finite number above 0"),
        (lambda: SWALR(0.1, math.nan, 3), "swa_lr must be"),
        (lambda: SWALR(0.1, True, 3), "swa_lr must be"),
        (lambda: SWALR(0.1, 0.02, -1), "start must be a finite duration, 0 or more"),
        (lambda: SWALR(0.1, 0.02, 1.5), "start must be a whole number, 0 or more"),
        (lambda: SWALR(0.1, 0.02, "75 %"), r"start must be in steps where no run"),
        (lambda: SWALR(0.1, 0.02, "soon"), "start must be a number of steps"),
        (lambda: SWALR(0.1, 0.02, 3, -2), "anneal must be a finite duration, 0 or more"),
        (lambda: SWALR(0.1, 0.02, 3, False), "anneal must be a whole number, 0 or more"),
        (lambda: SWALR(0.1, 0.02, 3, 2, "cosine"), "strategy must be cos or linear"),
        (lambda: CyclicSWALR(0.1, math.inf, 0.1, 3, 4), "max_lr must be a finite number above 0"),
        (lambda: CyclicSWALR(0.1, 0.1, -0.1, 3, 4), "min_lr must be a finite number, 0 or more"),
        (lambda: CyclicSWALR(0.1, 0.1, 0.2, 3, 4), r"min_lr must be max_lr \(0.1\) or less"),
        (lambda: CyclicSWALR(0.1, 0.2, 0.1, 3, 0), "cycle must be a finite duration above 0"),
        (lambda: CyclicSWALR(0.1, 0.2, 0.1, 3, "0 %", run=RUN), "cycle must be a finite duration"),
    ],
)
def test_a_wrong_argument_is_named(make, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        make()
    assert caught.value.argument == message.split()[0]
