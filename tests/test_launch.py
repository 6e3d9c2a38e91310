"""What a process that was launched does before the others are there, in this process."""

from __future__ import annotations

import signal
from functools import partial
from types import SimpleNamespace

import paddle
import pytest

from ppema import console
from ppema.averaging import ranks
from ppema.builder import processes
from ppema.engine.agreement import SignalAgreement
from ppema.errors import CheckpointError, ConfigError
from ppema.launch import is_first_on_machine, is_launched, launched_rank, num_launched
from ppema.stop_signals import StopRequest, StopSignals, watched


@pytest.fixture
def launched(monkeypatch):
    """Return a function that makes this process one that was launched."""

    def launch(rank, size):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(size))
        monkeypatch.setenv("PADDLE_LOCAL_RANK", str(rank))
        monkeypatch.setenv("PADDLE_LOCAL_SIZE", str(size))

    return launch


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "PADDLE_LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (launched_rank(), num_launched(), is_first_on_machine()) == (0, 1, True)
    assert (ranks.rank(), ranks.num_ranks(), ranks.num_ranks_here()) == (0, 1, 1)
    assert not is_launched()
    # Left from another run: one that is alone has its folder, and says so.
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    assert launched_rank() == 0


def test_the_launcher_s_words_are_taken(launched):
    launched(2, 4)
    assert (launched_rank(), num_launched(), is_first_on_machine()) == (2, 4, False)
    # The cores are shared by then, though the processes have not joined yet.
    assert (ranks.num_ranks_here(), ranks.num_ranks()) == (4, 1)


def test_one_alone_gives_back_what_it_was_given():
    tensor = paddle.to_tensor([1.0, 2.0])
    ranks.all_reduce_sum([tensor])
    ranks.all_reduce_mean([tensor])
    ranks.broadcast_tensors([tensor], source=0)
    ranks.barrier()
    assert tensor.tolist() == [1.0, 2.0]
    assert ranks.gather("a") == ["a"]
    assert ranks.broadcast("a") == "a"
    assert ranks.sum_of([1.5, 2]) == ranks.largest_of([1.5, 2]) == [1.5, 2]


@pytest.mark.parametrize(("device", "way"), [("cpu", "views"), ("gpu:0", "tensors")])
def test_what_lies_on_the_host_is_sent_from_the_gpu_where_there_is_one(device, way, monkeypatch):
    # An average may be kept in main memory, from where NCCL cannot send.
    ways = []
    for name in ("views", "tensors"):
        taken = partial(lambda name, tensors, scale: ways.append(name), name)
        monkeypatch.setattr(ranks, f"_all_reduce_{name}", taken)
    monkeypatch.setattr(ranks, "num_ranks", lambda: 2)
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    ranks.all_reduce_mean([paddle.ones([3]), paddle.zeros([0])])
    assert ways == [way]


def test_a_tool_of_one_process_says_so_and_does_nothing(launched, capfd):
    launched(1, 2)
    called = []
    with pytest.raises(SystemExit) as exit_:
        console.run_tool(lambda argv: called.append(argv) or 0)
    # What other tests of this process look at.
    console.be_quiet(False)
    assert (exit_.value.code, called) == (2, [])
    assert capfd.readouterr().err == "this tool works in one process; start it without a launcher\n"


def test_a_launcher_s_second_signal_is_ignored_and_a_shell_s_ends_the_tool(launched):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # A launcher of one process sends as many.
        for size, handler in ((0, signal.SIG_DFL), (1, signal.SIG_IGN), (2, signal.SIG_IGN)):
            launched(0, size)
            console._reset_signals()
            assert signal.getsignal(signal.SIGTERM) == handler
            with processes.make_signals() as signals:
                signals._note(signal.SIGTERM, None)
                assert signal.getsignal(signal.SIGTERM) == handler
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_processes_ask_each_other_every_few_calls(monkeypatch):
    asked, now = [], [0.0]
    monkeypatch.setattr(ranks, "largest_of", lambda values: asked.append(values) or values)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    agree = SignalAgreement()
    found = []
    for step in range(100):
        now[0] += 1 / 16
        found.append(agree(15 if step == 50 else 0))
    # At each third step of 62.5 ms, the first one of all to begin with.
    assert len(asked) == 1 + 33
    assert found.count(15) in (0, 1)
    # A step that takes a second is asked after each time.
    asked.clear()
    for _ in range(10):
        now[0] += 1.0
        agree(0)
    assert 7 <= len(asked) <= 10


def test_a_signal_stays_until_the_others_are_asked(monkeypatch):
    answers = iter([0, 0, 0, 15])
    told = []
    with StopSignals(lambda number: told.append(number) or next(answers)) as signals:
        signals._note(signal.SIGTERM, None)
        assert list(watched("ab")) == ["a", "b"]
        with pytest.raises(StopRequest):
            list(watched(range(10), num_rounds=10))
    assert told == [15, 15, 15, 15]


def test_rounds_in_which_a_process_has_nothing_are_rounds_for_the_others():
    asked = []
    with StopSignals(lambda number: asked.append(number) or 0):
        assert list(watched("ab", num_rounds=3)) == ["a", "b"]
    assert len(asked) == 3


def test_a_checkpoint_that_another_machine_has_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr(ranks, "is_first", lambda: False)
    monkeypatch.setattr(ranks, "rank", lambda: 3)
    monkeypatch.setattr(ranks, "broadcast", lambda value: str(tmp_path / "step_000000005"))
    with pytest.raises(CheckpointError, match="is not to be seen by process 3; save_dir must lie"):
        processes.find_together(lambda: pytest.fail("only the first looks"))


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_of_a_machine_loads_before_the_others(rank, launched, monkeypatch):
    launched(rank, 2)
    done = []
    monkeypatch.setattr(ranks, "barrier", lambda: done.append("barrier"))
    assert processes.load_in_turn(lambda: done.append("load") or "data") == "data"
    assert done == (["load", "barrier"] if rank == 0 else ["barrier", "load"])


def test_an_error_of_a_connection_says_what_happened_and_others_are_left_alone(
    launched, monkeypatch
):
    launched(0, 2)
    monkeypatch.setattr(paddle.distributed, "init_parallel_env", lambda: None)
    lost = pytest.raises(processes.LostProcessError, match="continue with -r auto")
    with lost, processes.joined("cpu"):
        raise RuntimeError("[/paddle/third_party/gloo/gloo/transport/tcp/pair.cc:576] Read")
    with pytest.raises(RuntimeError, match="of my own"), processes.joined("cpu"):
        raise RuntimeError("of my own")


def test_variables_of_no_launcher_are_a_line_that_says_what_to_do(launched, monkeypatch):
    launched(0, 2)

    def refuse():
        raise ValueError("initialize error,\nvariable PADDLE_CURRENT_ENDPOINT is needed")

    monkeypatch.setattr(paddle.distributed, "init_parallel_env", refuse)
    told = pytest.raises(ConfigError, match=r"one of 2 processes, but .*; start them by python -m")
    with told, processes.joined("cpu"):
        pytest.fail("there are no others")


def config_of(**values):
    values = {"sync_bn": True, "accumulate_steps": 1, "batch_size": 32, **values}
    reader = SimpleNamespace(batch_size=values.pop("batch_size"))
    return SimpleNamespace(TrainReader=reader, **values)


def test_where_there_is_no_synchronised_batch_norm_a_line_says_so(monkeypatch, caplog):
    model = paddle.nn.Sequential(paddle.nn.Conv2D(1, 2, 3), paddle.nn.BatchNorm2D(2))
    assert processes.synchronize_batch_norm(config_of(), model) is model
    assert caplog.text == ""
    monkeypatch.setattr(ranks, "num_ranks", lambda: 2)
    assert processes.synchronize_batch_norm(config_of(sync_bn=False), model) is model
    assert caplog.text == ""
    assert processes.synchronize_batch_norm(config_of(), model) is model
    assert "sync_bn: Paddle has no SyncBatchNorm on a CPU" in caplog.text
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:1")
    converted = processes.synchronize_batch_norm(config_of(), model)
    assert isinstance(converted[1], paddle.nn.SyncBatchNorm)
    assert list(converted.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    ("num_ranks", "accumulate_steps", "expected"),
    [
        (1, 1, []),
        (1, 4, ["a step: 32 images x 4 batches = 128 images, learning rate 0.1"]),
        (2, 1, ["a step: 32 images x 2 processes = 64 images, learning rate 0.1"]),
        (2, 4, ["a step: 32 images x 4 batches x 2 processes = 256 images, learning rate 0.1"]),
    ],
)
def test_what_makes_a_step_is_said(num_ranks, accumulate_steps, expected, monkeypatch):
    monkeypatch.setattr(ranks, "num_ranks", lambda: num_ranks)
    config = config_of(accumulate_steps=accumulate_steps)
    assert processes.describe_processes(config, 0.1) == expected
