"""WeightAverageCallback in Paddle's own fit, evaluate and predict."""

from __future__ import annotations

import pickle
from functools import partial
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from networks import TinyBN
from twins import EmaTwin, assert_close_to_twin

from ppema import (
    ArgumentError,
    ExponentialMovingAverage,
    LatestWeightAverage,
    PowerFunctionEMA,
    StochasticWeightAverage,
)
from ppema.averaging import kernels
from ppema.errors import CheckpointError, StorageError
from ppema.hapi import WeightAverageCallback

NUM_BATCHES = 7


def make_batches(count=NUM_BATCHES, seed=0, shape=(6,)):
    rng = np.random.RandomState(seed)
    return [
        [rng.randn(8, *shape).astype("float32"), rng.randint(0, 3, (8, 1)).astype("int64")]
        for _ in range(count)
    ]


TRAIN, EVAL = make_batches(), make_batches(5, seed=1)


def make_mlp():
    return paddle.nn.Sequential(paddle.nn.Linear(6, 5), paddle.nn.Tanh(), paddle.nn.Linear(5, 3))


def make_adam(parameters):
    return paddle.optimizer.Adam(0.05, parameters=parameters)


def make_model(
    make_network=make_mlp, make_optimizer=make_adam, model_class=paddle.Model, **prepare
):
    paddle.seed(7)
    network = make_network()
    model = model_class(network)
    loss, accuracy = paddle.nn.CrossEntropyLoss(), paddle.metric.Accuracy()
    model.prepare(make_optimizer(network.parameters()), loss, accuracy, **prepare)
    return model


def make_ema(model, **options):
    return ExponentialMovingAverage(model.network, 0.9, schedule="constant", **options)


def fit(model, callbacks, epochs=2, **options):
    model.fit(TRAIN, epochs=epochs, verbose=0, callbacks=callbacks, **options)


def weights(model):
    return {name: value.numpy().copy() for name, value in model.network.state_dict().items()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value), name)


class Recorder(paddle.callbacks.Callback):
    """Keep what hapi tells callbacks after each evaluation, and what they can see of the model."""

    def __init__(self, average):
        super().__init__()
        self.average = average
        self.figures, self.expected, self.num_updates = [], [], []

    def on_train_batch_end(self, step, logs=None):
        self.num_updates.append(self.average.num_updates)

    def on_eval_end(self, logs=None):
        self.figures.append({"loss": logs["loss"], "acc": logs["acc"]})
        with self.average.average_parameters():
            self.expected.append(self.model.evaluate(EVAL, verbose=0))


# --- when the average moves


def test_average_in_fit_equals_a_manual_loop_and_its_float64_twin():
    model = make_model()
    ema = make_ema(model)
    fit(model, WeightAverageCallback(ema))

    manual = make_model()
    manual_ema, twin = make_ema(manual), EmaTwin(manual.network, 0.9, "constant")
    for _ in range(2):
        for images, labels in TRAIN:
            manual.train_batch([images], [labels])
            manual_ema.update()
            twin.update()
    assert_same(weights(model), weights(manual))
    assert_same(ema.averaged_state_dict(), manual_ema.averaged_state_dict())
    assert_close_to_twin(ema.averaged_state_dict(), twin.shadow, 5e-6)


@pytest.mark.parametrize(
    ("accumulate", "num_iters", "expected"),
    [
        (1, None, [1, 2, 3, 4, 5, 6, 7]),
        # The last group of an epoch has one batch.
        (3, None, [0, 0, 1, 1, 1, 2, 3]),
        # Paddle leaves the last group of a cut epoch without a step.
        (3, 5, [0, 0, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_average_has_moved_once_per_optimizer_step(accumulate, num_iters, expected, is_first):
    model = make_model()
    ema = make_ema(model)
    callback, recorder = WeightAverageCallback(ema), Recorder(ema)
    callbacks = [callback, recorder] if is_first else [recorder, callback]
    fit(model, callbacks, 1, accumulate_grad_batches=accumulate, num_iters=num_iters)
    assert recorder.num_updates == expected


def test_accumulating_fit_equals_a_float64_twin_stepped_at_the_real_steps():
    model = make_model()
    ema = make_ema(model)
    fit(model, WeightAverageCallback(ema), accumulate_grad_batches=3)

    manual = make_model()
    twin = EmaTwin(manual.network, 0.9, "constant")
    for _ in range(2):
        for group in (TRAIN[0:3], TRAIN[3:6], TRAIN[6:7]):
            for index, (images, labels) in enumerate(group):
                manual.train_batch([images], [labels], update=index == len(group) - 1)
            twin.update()
    assert_close_to_twin(ema.averaged_state_dict(), twin.shadow, 5e-6)


@pytest.mark.filterwarnings("ignore:amp_guard can only be enabled:UserWarning")
def test_step_that_the_amp_scaler_skipped_does_not_move_the_average(monkeypatch):
    # Paddle's scaler works on the CPU too, but its constructor wants to see a GPU.
    place = SimpleNamespace(is_gpu_place=lambda: True)
    tracer = SimpleNamespace(_expected_place=place)
    monkeypatch.setattr(paddle.amp.grad_scaler, "_dygraph_tracer", lambda: tracer)
    amp = {"level": "O1", "init_loss_scaling": 8.0, "use_dynamic_loss_scaling": False}
    model = make_model(amp_configs=amp)
    ema = make_ema(model)
    recorder = Recorder(ema)
    overflowing = [np.full_like(TRAIN[1][0], np.inf), TRAIN[1][1]]
    batches = [TRAIN[0], overflowing, TRAIN[2]]
    model.fit(batches, epochs=1, verbose=0, callbacks=[WeightAverageCallback(ema), recorder])
    assert model._scaler.is_enable()
    assert recorder.num_updates == [1, 1, 2]
    assert all(np.isfinite(value).all() for value in weights(model).values())


def test_train_batch_of_a_subclass_that_calls_step_moves_the_average():
    class OwnLoop(paddle.Model):
        def train_batch(self, inputs, labels=None, update=True):
            loss = self._loss(
                self.network(paddle.to_tensor(inputs[0])), paddle.to_tensor(labels[0])
            )
            loss.backward()
            self._optimizer.step()
            self._optimizer.clear_grad()
            return [loss.numpy()], [0.0]

    model = make_model(model_class=OwnLoop)
    ema = make_ema(model)
    fit(model, WeightAverageCallback(ema))
    assert ema.num_updates == 2 * NUM_BATCHES


def test_optimizer_whose_minimize_calls_step_moves_the_average_once():
    class Stepping(paddle.optimizer.SGD):
        def minimize(self, loss, *arguments, **named):
            return self.step()

    model = make_model(make_optimizer=lambda parameters: Stepping(0.1, parameters=parameters))
    ema = make_ema(model)
    fit(model, WeightAverageCallback(ema))
    assert ema.num_updates == 2 * NUM_BATCHES


def test_average_starts_from_the_weights_that_training_starts_from():
    model = make_model()
    ema = make_ema(model)
    with paddle.no_grad():
        for parameter in model.network.parameters():
            parameter.set_value(parameter + 1.0)
    twin = EmaTwin(model.network, 0.9, "constant")
    twin_step = Recorder(ema)
    twin_step.on_train_batch_end = lambda step, logs=None: twin.update()
    fit(model, [twin_step, WeightAverageCallback(ema)])
    assert_close_to_twin(ema.averaged_state_dict(), twin.shadow, 5e-6)


def test_second_fit_continues_the_average():
    once, twice = make_model(), make_model()
    averages = [make_ema(once), make_ema(twice)]
    fit(once, WeightAverageCallback(averages[0]), 2)
    for _ in range(2):
        fit(twice, WeightAverageCallback(averages[1]), 1)
    assert_same(averages[1].averaged_state_dict(), averages[0].averaged_state_dict())


# --- what is evaluated


@pytest.mark.parametrize("is_first", [True, False])
def test_evaluation_in_fit_is_of_the_average(is_first):
    model = make_model()
    ema = make_ema(model)
    callback, recorder = WeightAverageCallback(ema), Recorder(ema)
    callbacks = [callback, recorder] if is_first else [recorder, callback]
    fit(model, callbacks, 2, eval_data=EVAL)
    assert recorder.figures == recorder.expected
    assert len(recorder.figures) == 2
    assert recorder.figures[-1] != model.evaluate(EVAL, verbose=0)


def test_fit_with_evaluation_leaves_the_weights_of_a_fit_without():
    model, plain = make_model(), make_model()
    fit(model, WeightAverageCallback(make_ema(model)), eval_data=EVAL)
    fit(plain, None, eval_data=EVAL)
    assert_same(weights(model), weights(plain))


@pytest.mark.parametrize("is_first", [True, False])
def test_early_stopping_decides_by_the_average_and_saves_raw_weights(tmp_path, is_first):
    model = make_model()
    ema = make_ema(model)
    stopping = paddle.callbacks.EarlyStopping("loss", patience=1, verbose=0)
    callbacks = [WeightAverageCallback(ema), stopping]
    if not is_first:
        callbacks.reverse()
    fit(model, callbacks, 1, eval_data=EVAL, save_dir=str(tmp_path))
    with ema.average_parameters():
        expected = model.evaluate(EVAL, verbose=0)["loss"]
    assert [stopping.best_value] == expected != model.evaluate(EVAL, verbose=0)["loss"]
    assert_same(paddle.load(str(tmp_path / "best_model.pdparams")), weights(model))


def test_evaluate_and_predict_alone_use_the_average():
    model = make_model()
    ema = make_ema(model)
    callback = WeightAverageCallback(ema)
    fit(model, callback)
    raw = weights(model)
    inputs = [[images] for images, _ in EVAL]
    with ema.average_parameters():
        expected = model.evaluate(EVAL, verbose=0)
        predicted = model.predict(inputs, verbose=0)
    assert model.evaluate(EVAL, verbose=0, callbacks=[callback]) == expected
    np.testing.assert_array_equal(model.predict(inputs, verbose=0, callbacks=callback), predicted)
    assert model.evaluate(EVAL, verbose=0) != expected
    assert_same(weights(model), raw)


class FailsAt(paddle.callbacks.Callback):
    """Raise at one event of a callback."""

    def __init__(self, event, error):
        super().__init__()
        self.error = error
        setattr(self, event, self.fail)

    def fail(self, *_):
        raise self.error


class FailsInEval(paddle.nn.Sequential):
    """Raise in the forward of an evaluation."""

    error = None

    def __init__(self):
        super().__init__(paddle.nn.Linear(6, 3))

    def forward(self, x):
        if not self.training and self.error is not None:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["forward", "on_eval_begin", "on_eval_batch_begin"])
@pytest.mark.parametrize("call", ["fit", "evaluate"])
def test_evaluation_that_breaks_off_leaves_the_raw_weights(error, where, call):
    model = make_model(FailsInEval)
    ema = make_ema(model)
    callback = WeightAverageCallback(ema)
    fit(model, callback, 1)
    callbacks = [callback]
    if where == "forward":
        model.network.error = error
    else:
        callbacks.append(FailsAt(where, error))
    run = partial(fit, model, epochs=1, eval_data=EVAL)
    if call == "evaluate":
        run = partial(model.evaluate, EVAL, verbose=0)
    with pytest.raises(type(error)):
        run(callbacks=callbacks)
    assert not ema.is_applied
    model.network.error = None
    # Without the callback the figures are the raw weights', from the first batch on.
    outputs = [np.asarray(model.network(paddle.to_tensor(images))) for images, _ in EVAL]
    predicted = model.predict([[images] for images, _ in EVAL], verbose=0)[0]
    np.testing.assert_allclose(predicted, outputs, rtol=1e-6)
    found = model.eval_batch([EVAL[0][0]], [EVAL[0][1]])[0][0]
    loss = paddle.nn.CrossEntropyLoss()(paddle.to_tensor(outputs[0]), paddle.to_tensor(EVAL[0][1]))
    np.testing.assert_allclose(found, loss.numpy(), rtol=1e-6)


def test_raw_weights_are_bit_identical_after_ctrl_c_in_an_evaluation():
    model = make_model(FailsInEval)
    ema = make_ema(model)
    callback = WeightAverageCallback(ema)
    fit(model, callback)
    raw, averaged = weights(model), ema.averaged_state_dict()
    model.network.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        model.evaluate(EVAL, verbose=0, callbacks=callback)
    assert_same(weights(model), raw)
    assert_same(ema.averaged_state_dict(), averaged)


def test_fit_that_breaks_off_leaves_an_optimizer_that_can_go_on():
    model = make_model()
    ema = make_ema(model)
    callback = WeightAverageCallback(ema)
    with pytest.raises(KeyboardInterrupt):
        fit(model, [callback, FailsAt("on_train_batch_end", KeyboardInterrupt())])
    assert ema.num_updates == 1
    model.train_batch([TRAIN[0][0]], [TRAIN[0][1]])
    assert ema.num_updates == 1
    fit(model, callback, 1)
    assert ema.num_updates == 1 + NUM_BATCHES


def test_fit_leaves_the_methods_of_the_optimizer_as_they_were():
    model = make_model()
    optimizer = model._optimizer
    optimizer.step = own = lambda: None
    fit(model, WeightAverageCallback(make_ema(model)), 1)
    assert optimizer.step is own
    assert "minimize" not in vars(optimizer)


def test_stop_training_ends_with_raw_weights_and_a_final_average(tmp_path):
    class Stop(paddle.callbacks.Callback):
        def on_eval_batch_end(self, step, logs=None):
            self.model.stop_training = True

    model = make_model()
    ema = make_ema(model)
    fit(model, [Stop(), WeightAverageCallback(ema, tmp_path)], 5, eval_data=EVAL)
    assert ema.num_updates == NUM_BATCHES
    assert not ema.is_applied
    final = paddle.load(str(tmp_path / "final_average.pdparams"))
    assert_same(final, ema.averaged_state_dict())


# --- what is saved


@pytest.mark.parametrize("is_first", [True, False])
def test_fit_saves_raw_weights_and_the_callback_averages_into_one_folder(tmp_path, is_first):
    model = make_model()
    ema = make_ema(model)
    seen = {}

    class Remember(paddle.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen[epoch] = (weights(self.model), ema.averaged_state_dict())

    checkpoint = paddle.callbacks.ModelCheckpoint(save_dir=str(tmp_path))
    callbacks = [Remember(), WeightAverageCallback(ema, str(tmp_path)), checkpoint]
    fit(model, callbacks if is_first else callbacks[::-1], 2, eval_data=EVAL)
    kinds = (".pdparams", ".pdopt", "_average.pdparams", "_average.pdstates")
    names = {f"{prefix}{kind}" for prefix in ("0", "1", "final") for kind in kinds}
    assert {path.name for path in tmp_path.iterdir()} == names
    for epoch, (raw, averaged) in seen.items():
        assert_same(paddle.load(str(tmp_path / f"{epoch}.pdparams")), raw)
        assert_same(paddle.load(str(tmp_path / f"{epoch}_average.pdparams")), averaged)
    assert not np.array_equal(raw["0.weight"], averaged["0.weight"])


def test_averaged_file_loads_as_any_model_of_paddle(tmp_path):
    model = make_model()
    ema = make_ema(model)
    fit(model, WeightAverageCallback(ema, tmp_path))
    other = make_model()
    other.load(str(tmp_path / "final_average"))
    assert_same(weights(other), ema.averaged_state_dict())


def test_save_freq_leaves_epochs_out_as_model_checkpoint_does(tmp_path):
    model = make_model()
    callback = WeightAverageCallback(make_ema(model), tmp_path, 2)
    fit(model, callback, 4, save_dir=str(tmp_path), save_freq=2)
    paddles = {path.stem for path in tmp_path.glob("*.pdparams") if "_" not in path.stem}
    ours = {path.stem[: -len("_average")] for path in tmp_path.glob("*_average.pdparams")}
    assert ours == paddles == {"0", "2", "final"}


def test_each_file_written_is_one_line_in_the_log(tmp_path, caplog):
    caplog.set_level("INFO", "ppema.hapi")
    model = make_model()
    fit(model, WeightAverageCallback(make_ema(model), tmp_path), 1)
    assert {record.getMessage() for record in caplog.records} == {
        f"saved {path}" for path in tmp_path.iterdir()
    }


def test_without_save_dir_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make_model()
    fit(model, WeightAverageCallback(make_ema(model)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "failing",
    ["ppema.checkpoint.weight_file.write_weight_file", "ppema.checkpoint.files.os.replace"],
)
def test_a_disk_that_refuses_leaves_the_old_file_whole(tmp_path, monkeypatch, failing):
    model = make_model()
    callback = WeightAverageCallback(make_ema(model), tmp_path)
    fit(model, callback, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(path, *_):
        with open(path, "wb") as file:
            file.write(b"torn")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, refuse)
    with pytest.raises(StorageError, match=r"cannot write .*0_average\.pdparams: no space left"):
        fit(model, callback, 1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_save_dir_that_is_a_file_ends_with_one_line(tmp_path):
    (tmp_path / "output").write_text("")
    model = make_model()
    with pytest.raises(StorageError, match=r"output/0_average\.pdparams: file exists"):
        fit(model, WeightAverageCallback(make_ema(model), tmp_path / "output"), 1)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    model = make_model()
    fit(model, WeightAverageCallback(make_ema(model), tmp_path), save_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


AVERAGES = {
    "ema": make_ema,
    "debiased": lambda model: ExponentialMovingAverage(model.network, 0.9, debias=True),
    "float64": lambda model: make_ema(model, shadow_dtype="float64", update_every=3),
    "swa": lambda model: StochasticWeightAverage(model.network, start=3, every=2),
    "lawa": lambda model: LatestWeightAverage(model.network, k=3, every=4),
    "phema": lambda model: PowerFunctionEMA(model.network, 0.1),
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_resumed_fit_ends_with_the_very_average_of_a_fit_in_one_piece(tmp_path, kind):
    def run(epochs, save_dir=None, resume_from=None):
        # As in a new process, where Paddle counts its names from 0 again.
        with paddle.utils.unique_name.guard():
            model = make_model()
            average = AVERAGES[kind](model)
            callback = WeightAverageCallback(average, save_dir)
            if resume_from is not None:
                model.load(str(resume_from))
                callback.load(resume_from)
                assert average.num_updates == 2 * NUM_BATCHES
            fit(model, callback, epochs, save_dir=save_dir and str(save_dir))
        return weights(model), average

    straight_weights, straight = run(4)
    run(2, save_dir=tmp_path)
    resumed_weights, resumed = run(2, resume_from=tmp_path / "1")
    assert_same(resumed_weights, straight_weights)
    assert_same(resumed.averaged_state_dict(), straight.averaged_state_dict())
    assert resumed.num_updates == straight.num_updates == 4 * NUM_BATCHES


def test_load_says_what_does_not_fit_and_changes_nothing(tmp_path):
    model = make_model()
    ema = make_ema(model)
    callback = WeightAverageCallback(ema, tmp_path)
    fit(model, callback, 1)
    before = ema.averaged_state_dict()
    with pytest.raises(CheckpointError, match=r"3_average\.pdstates: No such file"):
        callback.load(tmp_path / "3")
    (tmp_path / "3_average.pdstates").write_bytes((tmp_path / "0_average.pdparams").read_bytes())
    with pytest.raises(CheckpointError, match=r"3_average\.pdstates: the state of Exponential"):
        callback.load(tmp_path / "3")
    other = WeightAverageCallback(StochasticWeightAverage(model.network))
    with pytest.raises(CheckpointError, match=r"0_average\.pdstates: the state"):
        other.load(tmp_path / "0")
    assert_same(ema.averaged_state_dict(), before)


def test_load_runs_nothing_that_a_file_asks_for(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    model = make_model()
    with open(tmp_path / "0_average.pdstates", "wb") as file:
        pickle.dump({"kind": Hostile()}, file)
    with pytest.raises(CheckpointError, match="asks to import"):
        WeightAverageCallback(make_ema(model)).load(tmp_path / "0")
    assert not (tmp_path / "written").exists()


# --- BN statistics that are recomputed


@pytest.fixture
def with_bn():
    model = make_model(TinyBN)
    images = make_batches(3, shape=(1, 28, 28))
    average = make_ema(model, buffers="recompute")
    return model, average, images


def test_statistics_are_recomputed_before_an_evaluation(with_bn):
    model, average, batches = with_bn
    figures = []

    class Keep(paddle.callbacks.Callback):
        def on_eval_end(self, logs=None):
            figures.append(logs["loss"])

    callback = WeightAverageCallback(average, recompute_loader=batches[:2])
    model.fit(batches, batches, epochs=2, verbose=0, callbacks=[Keep(), callback])

    model = make_model(TinyBN)
    manual = make_ema(model, buffers="recompute")
    expected = []
    for _ in range(2):
        for images, labels in batches:
            model.train_batch([images], [labels])
            manual.update()
        manual.recompute_statistics(batches[:2])
        with manual.average_parameters():
            expected.append(model.evaluate(batches, verbose=0)["loss"])
    assert figures == expected


def test_statistics_are_recomputed_before_a_save(tmp_path, with_bn):
    model, average, batches = with_bn
    callback = WeightAverageCallback(average, tmp_path, recompute_loader=batches)
    model.fit(batches, epochs=1, verbose=0, callbacks=callback)
    average.recompute_statistics(batches)
    saved = paddle.load(str(tmp_path / "final_average.pdparams"))
    assert_same(saved, average.averaged_state_dict())


def test_loader_that_is_missing_runs_out_or_yields_samples_is_refused(with_bn):
    _, average, batches = with_bn
    dataset = paddle.io.TensorDataset([paddle.zeros([2, 1])])
    samples = paddle.io.ChainDataset([paddle.io.IterableDataset()])
    for loader in (None, iter(batches), (batch for batch in batches), dataset, samples):
        with pytest.raises(ArgumentError, match="recompute_loader must be given"):
            WeightAverageCallback(average, recompute_loader=loader)
    WeightAverageCallback(average, recompute_loader=paddle.io.DataLoader(dataset))


# --- misuse


def test_two_averages_in_one_fit_are_refused_before_a_step():
    model = make_model()
    before = weights(model)
    callbacks = [WeightAverageCallback(make_ema(model)) for _ in range(2)]
    with pytest.raises(RuntimeError, match="2 WeightAverageCallbacks in one call"):
        fit(model, callbacks)
    assert_same(weights(model), before)


def test_callbacks_of_other_calls_take_no_part():
    model = make_model()
    first, second = make_ema(model), make_ema(model)
    fit(model, WeightAverageCallback(first), 1)
    fit(model, WeightAverageCallback(second), 1)
    assert (first.num_updates, second.num_updates) == (NUM_BATCHES, NUM_BATCHES)
    fit(model, None, 1)
    assert (first.num_updates, second.num_updates) == (NUM_BATCHES, NUM_BATCHES)


def test_average_of_another_model_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match=r"of another model; make it over model\.network"):
        fit(model, WeightAverageCallback(make_ema(make_model())))


@pytest.mark.parametrize("which", ["the same", "another"])
def test_average_that_is_applied_already_is_refused_before_a_step(which):
    model = make_model()
    ema = make_ema(model)
    applied = ema if which == "the same" else make_ema(model)
    with applied.average_parameters():
        before = weights(model)
        with pytest.raises(RuntimeError, match=r"an average is applied .*restore\(\)"):
            fit(model, WeightAverageCallback(ema))
        assert_same(weights(model), before)


def test_static_graph_mode_is_refused():
    model = make_model()
    callback = WeightAverageCallback(make_ema(model))
    paddle.enable_static()
    try:
        with pytest.raises(RuntimeError, match=r"dynamic-graph mode; call paddle\.disable_static"):
            callback.set_model(model)
    finally:
        paddle.disable_static()


def test_arguments_of_the_wrong_kind_are_refused():
    model = make_model()
    with pytest.raises(TypeError, match=r"a ppema\.WeightAverage, got Sequential"):
        WeightAverageCallback(model.network)
    for save_freq in (0, -1, 1.5, True):
        with pytest.raises(ArgumentError, match="save_freq must be a whole number above 0"):
            WeightAverageCallback(make_ema(model), save_freq=save_freq)


def test_fit_without_an_optimizer_ends_with_what_paddle_says():
    model = make_model()
    model.prepare(loss=paddle.nn.CrossEntropyLoss())
    with pytest.raises(AssertionError, match="model not ready"):
        fit(model, WeightAverageCallback(make_ema(model)))


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_an_average_without_updates_is_of_the_weights_of_now(mode):
    """Made before the model was loaded, it must not bring untrained weights back."""
    model = make_model()
    callback = WeightAverageCallback(make_ema(model))
    for parameter in model.network.parameters():
        parameter.set_value(parameter * 3.0 + 1.0)
    with_average = getattr(model, mode)(EVAL, verbose=0, callbacks=[callback])
    plain = getattr(model, mode)(EVAL, verbose=0)
    np.testing.assert_equal(with_average, plain)


def test_an_average_attached_to_another_optimizer_is_not_left_without_updates():
    model = make_model()
    ema = make_ema(model)
    ema.attach(make_adam(model.network.parameters()))
    with pytest.raises(RuntimeError, match=r"attached already; call detach\(\) first"):
        fit(model, [WeightAverageCallback(ema)])
    ema.detach()
    ema.attach(model._optimizer)
    fit(model, [WeightAverageCallback(ema)], epochs=1)
    assert ema.num_updates == NUM_BATCHES
    assert ema.is_attached


def test_a_callback_that_writes_weights_comes_after_the_update(monkeypatch):
    class Clip(paddle.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            for parameter in self.model.network.parameters():
                parameter.set_value(parameter.clip(-0.05, 0.05))

    monkeypatch.setattr(kernels, "MIN_WEIGHTS_IN_BACKGROUND", 0)
    monkeypatch.setattr(kernels, "num_own_cores", lambda: 2)

    def refuse(job):
        raise AssertionError("beside the callback")

    monkeypatch.setattr(kernels, "start_in_background", refuse)
    model = make_model()
    ema = make_ema(model)
    fit(model, [WeightAverageCallback(ema), Clip()], epochs=1)
    assert ema.num_updates == NUM_BATCHES
