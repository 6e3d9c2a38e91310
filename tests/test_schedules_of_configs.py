"""Each schedule that a config may name gives the rates of its formula, in the run's own units."""

from __future__ import annotations

import math

import paddle
import pytest
from paddle.optimizer import lr
from trainers import DropoutNet, make_reader, make_trainer

from ppema import SWALR, RunLength, builder
from ppema.averaging import ArgumentError, schedule_state, set_schedule_state
from ppema.builder.parts import check_schedule, make_optimizer, run_length
from ppema.engine.trainer import Hook
from ppema.errors import ConfigError
from ppema.schedules import SCHEDULER_HINTS, SCHEDULERS, ReduceOnPlateau

# Of 20 steps in two epochs, so that 50 % and 1 epoch are 10 steps and 80 images one.
RUN = RunLength(num_steps=20, steps_per_epoch=10, images_per_step=8)


def rates(schedule, num_steps=20):
    found = []
    for _ in range(num_steps):
        found.append(schedule())
        schedule.step()
    return found


def make(name, rate=0.1, run=RUN, **arguments):
    return SCHEDULERS[name](learning_rate=rate, run=run, **arguments)


def test_every_schedule_of_paddle_is_to_be_had_or_says_why_not():
    assert set(lr.__all__) <= set(SCHEDULERS) | set(SCHEDULER_HINTS)


def cyclic(t):
    return 0.1 + 0.2 * (t % 10 / 4 if t % 10 <= 4 else (10 - t % 10) / 6)


FORMULAS = {
    "CosineAnnealingDecay": (
        {"T_max": "100 %", "eta_min": 0.02},
        lambda t: 0.02 + 0.08 * (1 + math.cos(math.pi * t / 20)) / 2,
    ),
    "CosineAnnealingWarmRestarts": (
        {"T_0": "50 %"},
        lambda t: 0.1 * (1 + math.cos(math.pi * (t % 10) / 10)) / 2,
    ),
    "StepDecay": ({"step_size": "0.5 epochs"}, lambda t: 0.1 * 0.1 ** (t // 5)),
    "MultiStepDecay": (
        {"milestones": ["0.5 epochs", 10, "120 images"], "gamma": 0.5},
        lambda t: 0.1 * 0.5 ** sum(t >= at for at in (5, 10, 15)),
    ),
    "PiecewiseDecay": (
        {"boundaries": ["1 epoch", "75 %"], "values": [0.1, 0.03, 0.01]},
        lambda t: 0.1 if t < 10 else 0.03 if t < 15 else 0.01,
    ),
    "PolynomialDecay": (
        {"decay_steps": "50 %", "end_lr": 0.01, "power": 2.0},
        lambda t: 0.09 * (1 - min(t, 10) / 10) ** 2 + 0.01,
    ),
    "LinearLR": (
        {"total_steps": "1 epoch", "start_factor": 0.5},
        lambda t: 0.1 * (0.5 + 0.5 * min(t, 10) / 10),
    ),
    "LinearWarmup": (
        {"warmup_steps": "25 %", "start_factor": 0.2},
        lambda t: 0.02 + 0.08 * min(t, 5) / 5,
    ),
    "ExponentialDecay": ({"gamma": 0.9}, lambda t: 0.1 * 0.9**t),
    "NaturalExpDecay": ({"gamma": 0.1}, lambda t: 0.1 * math.exp(-0.1 * t)),
    "InverseTimeDecay": ({"gamma": 0.1}, lambda t: 0.1 / (1 + 0.1 * t)),
    "NoamDecay": (
        {"d_model": 16, "warmup_steps": "20 %"},
        lambda t: 0.1 * 16**-0.5 * min(max(t, 1) ** -0.5, t * 4**-1.5) if t else 0.0,
    ),
    "OneCycleLR": (
        {"total_steps": "100 %", "phase_pct": 0.5, "anneal_strategy": "linear"},
        lambda t: 0.004 + 0.096 * t / 9 if t <= 9 else 0.1 - 0.0999 * (t - 9) / 10,
    ),
    "CyclicLR": (
        {"max_learning_rate": 0.3, "step_size_up": "20 %", "step_size_down": "30 %"},
        cyclic,
    ),
    "ReduceOnPlateau": ({}, lambda t: 0.1),
    "SWALR": ({"swa_lr": 0.05, "start": "50 %"}, lambda t: 0.1 if t < 10 else 0.05),
    "CyclicSWALR": (
        {"max_lr": 0.05, "min_lr": 0.03, "start": "50 %", "cycle": 2},
        lambda t: 0.1 if t < 10 else (0.04, 0.03)[t % 2],
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rates_are_those_of_the_formula_in_the_run_s_units(name):
    arguments, formula = FORMULAS[name]
    wanted = [formula(t) for t in range(20)]
    assert rates(make(name, **arguments)) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_a_warmup_ends_where_the_schedule_in_it_begins():
    inner = make("CosineAnnealingDecay", T_max="50 %")
    found = rates(make("LinearWarmup", inner, warmup_steps=5, start_factor=0.5), 15)
    warm = [0.05 + 0.01 * t for t in range(5)]
    cool = [0.1 * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)]
    assert found == pytest.approx(warm + cool)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"start_factor": 1.0}, r"start_factor must be in \[0, 1\), got 1.0"),
        ({"start_lr": 0.2}, r"start_lr must be from 0 to below end_lr \(0.1\), got 0.2"),
        ({"start_lr": 0.0, "start_factor": 0.1}, "start_factor must be left out where start_lr"),
        ({"end_lr": 0.0}, "start_lr must be from 0 to below"),
    ],
)
def test_a_warmup_that_does_not_rise_is_refused(arguments, text):
    with pytest.raises(ArgumentError, match=text):
        make("LinearWarmup", warmup_steps=5, **arguments)


def losses_to_rates(losses, **arguments):
    schedule, found = ReduceOnPlateau(0.1, run=RUN, **arguments), []
    for loss in losses:
        found.append(schedule())
        schedule.observe(loss)
        schedule.step()
    return found


def test_a_plateau_is_seen_in_the_mean_loss_of_each_look():
    # Looks after steps 2, 4, …: means 3, 2, 2, 2; the first that is no better than the best counts.
    losses = [4, 2, 1, 3, 3, 1, 2, 2, 0, 0]
    found = losses_to_rates(losses, every=2, patience=0, factor=0.5)
    assert found == pytest.approx([0.1] * 6 + [0.05] * 2 + [0.025] * 2)
    assert losses_to_rates(losses, every=2, patience=1, factor=0.5) == pytest.approx(
        [0.1] * 8 + [0.05] * 2
    )
    # An epoch of 10 steps.
    assert losses_to_rates([1.0] * 21, patience=0, factor=0.5) == [0.1] * 20 + [0.05]


def test_the_trainer_tells_the_plateau_the_mean_loss_of_its_images():
    class Told(Hook):
        def __init__(self):
            self.sums = []

        def after_step(self, trainer):
            self.sums.append(trainer.lr_scheduler._sum_of_losses)

    told = Told()
    trainer = make_trainer(make_reader(), [told], num_epochs=1, accumulate_steps=2)
    trainer.lr_scheduler = ReduceOnPlateau(0.01, every=99)
    trainer.optimizer.set_lr_scheduler(trainer.lr_scheduler)
    trainer.train()
    assert len(told.sums) == 3
    mean = told.sums[-1] / 3
    # Batches of 8, 8 | 8, 8 | 8: the last step counts one batch, each other the mean of two.
    (a, b, c, d, e) = (float(loss) for _, loss, _ in trainer.totals.figures)
    assert mean == pytest.approx(((a + b) / 2 + (c + d) / 2 + e) / 3)


def test_a_step_that_is_left_out_tells_the_plateau_nothing():
    class Net(DropoutNet):
        num_steps = 0

        def forward(self, image):
            Net.num_steps += 1
            return super().forward(image * float("nan") if Net.num_steps == 2 else image)

    trainer = make_trainer(make_reader(), network=Net, num_epochs=1, non_finite="skip")
    trainer.lr_scheduler = ReduceOnPlateau(0.01, every=99)
    trainer.optimizer.set_lr_scheduler(trainer.lr_scheduler)
    trainer.train()
    assert (trainer.step, trainer.lr_scheduler._num_losses) == (5, 4)
    assert math.isfinite(trainer.lr_scheduler._sum_of_losses)


@pytest.mark.parametrize("cls", ["LinearWarmup", "SWALR"])
def test_no_schedule_goes_on_from_a_plateau(cls):
    arguments = {"LinearWarmup": {"warmup_steps": 2}, "SWALR": {"swa_lr": 0.1, "start": 2}}[cls]
    with pytest.raises(ArgumentError, match="learning_rate must be a rate, or a schedule of steps"):
        make(cls, ReduceOnPlateau(0.1, run=RUN), **arguments)


LONGER = RunLength(num_steps=40, steps_per_epoch=10, images_per_step=8)


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR", "CosineAnnealingDecay"])
def test_a_run_that_is_made_longer_goes_on_with_the_rates_of_the_longer_one(name):
    """Paddle makes numbers of the horizon, which must not come back from the checkpoint."""
    arguments, _ = FORMULAS[name]
    short, straight = make(name, **arguments), make(name, run=LONGER, **arguments)
    resumed = make(name, run=LONGER, **arguments)
    rates(short, 6)
    rates(straight, 6)
    set_schedule_state(resumed, schedule_state(short))
    # The rate that was saved is the short run's, and Paddle's cosine goes on from it.
    resumed.step(7)
    straight.step(7)
    assert resumed() == pytest.approx(straight(), rel=1e-9)
    if name != "CosineAnnealingDecay":
        assert rates(resumed, 30) == rates(straight, 30)


@pytest.fixture
def read(tmp_path, pytestconfig):
    """Return a function from one schedule, or a list, to a config."""

    def read(schedulers):
        path = tmp_path / "run.yml"
        base = f"_BASE_: {pytestconfig.rootpath}/configs/lenet_digits.yml\n"
        path.write_text(f"{base}LearningRate: {{base_lr: 0.1, schedulers: [{schedulers}]}}\n")
        return builder.read_config(str(path), [])

    return read


@pytest.mark.parametrize(
    ("schedulers", "reason"),
    [
        ("{name: LambdaDecay}", "'LambdaDecay' takes a function, which a config cannot hold"),
        ("{name: MultiplicativeDecay}", "takes a function"),
        ("{name: LRScheduler}", "'LRScheduler' is the base of all others"),
        ("{name: CosineDecay, max_epochs: 9}", "'CosineDecay' is CosineAnnealingDecay here"),
        ("{name: ExpWarmup, steps: 9}", "LinearWarmup is: {name: LinearWarmup, warmup_steps"),
        ("{name: LinearWarmup, steps: 9}", "0.steps' is warmup_steps here, in steps, epochs or p"),
        ("{name: CosineAnnealingDecay, max_epochs: 9}", "0.max_epochs' is T_max here, in steps"),
        ("{name: CosineAnealingDecay}", "did you mean 'CosineAnnealingDecay'?"),
        ("{name: CosineAnnealingDecay, tmax: 9}", "unknown key 'LearningRate.schedulers.0.tmax'"),
        ("{name: CosineAnnealingDecay, T_max: 9 days}", "0.T_max must be a number of steps, or su"),
        ("{name: CosineAnnealingDecay, T_max: 0}", "0.T_max must be a finite duration above 0"),
        ("{name: StepDecay, step_size: 2.5}", "0.step_size must be a whole number above 0"),
        ("{name: MultiStepDecay, milestones: 3}", "0.milestones must be a list, got 3"),
        ("{name: OneCycleLR, total_steps: 9, max_learning_rate: 1}", "is LearningRate.base_lr her"),
        ("{name: PiecewiseDecay, boundaries: [3], values: [1, 2]}", "the first is base_lr (0.1)"),
        ("{name: PiecewiseDecay, boundaries: [3], values: [0.1]}", "0.values must be 2 rates, one"),
        (
            "{name: StepDecay, step_size: 3}, {name: OneCycleLR, total_steps: 100 %}",
            "1 (OneCycleLR) cannot go on from the schedule before it; those that can are LinearW",
        ),
        (
            "{name: ReduceOnPlateau}, {name: LinearWarmup, warmup_steps: 3}",
            "1.learning_rate must be a rate, or a schedule of steps alone",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line_with_its_place(read, schedulers, reason):
    with pytest.raises(ConfigError) as caught:
        builder.check(read(schedulers))
    (line,) = str(caught.value).splitlines()
    assert "run.yml:2: " in line
    assert reason in line


def test_a_cycle_that_ends_before_the_run_is_refused_once_the_run_is_known(read):
    config = read("{name: OneCycleLR, total_steps: 40}, {name: SWALR, swa_lr: 0.1, start: 10}")
    builder.check(config)
    run = run_length(config, 10)
    _, schedule = make_optimizer(config, paddle.nn.Linear(2, 2), run)
    assert isinstance(schedule, SWALR)
    with pytest.raises(ConfigError) as caught:
        check_schedule(config, schedule, run)
    assert str(caught.value).endswith(
        "run.yml:2: LearningRate.schedulers.0.total_steps must be the 50 steps of the run or more "
        "(100 %), got 40"
    )
