"""What the README says to type works as typed, in its order, where there is no MNIST."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paddle
import pytest
from in_process import REPOSITORY, run_in
from PIL import Image
from small_mnist import write_mnist

from ppema.data.digits import load_digits

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
INSTALL = re.compile(r"^python3 -m venv \.venv && \.venv/bin/pip install -e \S+ && ")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a folder with the clone's tools and configs, and some digits; there is no MNIST."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("tools", "configs", "examples"):
        (folder / name).symlink_to(REPOSITORY / name)
    write_mnist(folder / "mnist")
    (folder / "pictures").mkdir()
    for number, image in enumerate(load_digits("test").images[:3]):
        Image.fromarray(image[0]).save(folder / f"pictures/{number}.png")
    return folder


def run(folder, command):
    environment = {**os.environ, "HOME": str(folder), "PPEMA_MIRRORS": ""}
    arguments = command.replace(".venv/bin/python", sys.executable).split()
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_every_block_is_of_a_kind_that_is_tested_here():
    assert {language for language, _ in BLOCKS} == {"bash", "python", "text", "yaml"}
    assert len(PYTHON) == 4


def test_the_first_two_commands_install_and_then_train_or_test():
    assert all(INSTALL.match(command) for command in COMMANDS[:2])
    assert COMMANDS[1].endswith("-m pytest")
    assert not any(INSTALL.match(command) for command in COMMANDS[2:])


def test_each_command_works_as_typed_in_the_order_given(clone, capfd):
    commands = [INSTALL.sub("", command) for command in COMMANDS]
    # As typed, in a process of its own; the others in this one, to the same effect.
    first = run(clone, commands[0])
    assert (first.returncode, first.stderr) == (0, ""), first.stdout
    top1 = float(re.findall(r"^ema +top1 ([\d.]+) %", first.stdout, re.M)[-1])
    assert top1 >= 96.0
    assert "digits" in first.stdout
    run_python_that_loads_the_average(clone)
    for command in commands[1:]:
        if command.endswith("-m pytest") or "dashboard.py" in command:
            continue
        if "serve.py" in command:
            check_server(clone, command)
            continue
        if "paddle.distributed.launch" in command:
            launched = run(clone, command)
            assert launched.returncode == 0, launched.stdout[-2000:]
            assert "64 images x 2 processes = 128 images" in launched.stdout
            continue
        interpreter, script, *arguments = command.split()
        assert (interpreter, (clone / script).is_file()) == (".venv/bin/python", True), command
        run_in(clone, Path(script).stem, *arguments)


@contextmanager
def started(folder, command):
    """Start a server as typed; give the address that it prints. It is killed at the end."""
    with subprocess.Popen(
        command.replace(".venv/bin/python", sys.executable).split(),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            line = next(line for line in server.stdout if line.startswith("http"))
            yield line.split()[0]
        finally:
            server.kill()


def check_server(folder, command):
    """Run the server on a port that is free, and ask it of a picture that `infer.py` named."""
    assert command.endswith(" 8080")
    predictions = json.loads((folder / "output/lenet_mnist/infer/predictions.json").read_text())
    picture = predictions["predictions"][0]
    content = (folder / picture["file"]).read_bytes()
    with started(folder, f"{command[:-5]} 0") as address:
        answer = json.loads(urllib.request.urlopen(address, data=content, timeout=30).read())
    assert [name for name, _ in answer] == [guess["name"] for guess in picture["classes"]]


def run_python_that_loads_the_average(folder):
    namespace = {}
    here = os.getcwd()
    os.chdir(folder)
    try:
        exec(PYTHON[3], namespace)  # noqa: S102
    finally:
        os.chdir(here)
    weights = paddle.load(str(folder / "output/lenet_mnist/best_model/ema.pdparams"))
    loaded = namespace["model"].state_dict()
    assert all((loaded[name] == tensor).all() for name, tensor in weights.items())


def test_the_loop_works_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paddle.seed(1)
    model = paddle.vision.models.LeNet()
    batches = [(paddle.randn([4, 1, 28, 28]), paddle.to_tensor([0, 1, 2, 3]))] * 3
    namespace = {
        "paddle": paddle,
        "model": model,
        "loader": batches,
        "loss_fn": paddle.nn.CrossEntropyLoss(),
        "optimizer": paddle.optimizer.Adam(0.01, parameters=model.parameters()),
        "evaluate": lambda network: network.state_dict()["fc.0.bias"].numpy().copy(),
    }
    exec(PYTHON[0], namespace)  # noqa: S102
    saved = paddle.load("ema.pdparams")
    np.testing.assert_array_equal(saved["fc.0.bias"].numpy(), namespace["accuracy"])
    assert (model.fc[0].bias.numpy() != namespace["accuracy"]).any()
    assert paddle.load("ema.pdstates")["num_updates"] == 3
    exec(PYTHON[1], namespace)  # noqa: S102
    assert namespace["ema"].num_updates == 6
    assert not namespace["ema"].is_attached


class Images(paddle.io.Dataset):
    def __getitem__(self, index):
        image = np.random.RandomState(index).rand(1, 28, 28).astype("float32")
        return image, np.array([index], "int64")

    def __len__(self):
        return 8


# Paddle's own, of its train_batch and its DataLoader.
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
def test_fit_works_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Images()
    namespace = {"train_data": data, "eval_data": data}
    exec(PYTHON[2].replace("epochs=5", "epochs=2, verbose=0"), namespace)  # noqa: S102
    assert namespace["ema"].average.num_updates == 2
    assert namespace["figures"]["loss"]
    network = paddle.vision.models.LeNet()
    served = paddle.load("output/final_average.pdparams")
    assert network.set_state_dict(served) == ([], [])


def test_the_dashboard_answers(tmp_path):
    (command,) = (command for command in COMMANDS if "dashboard.py" in command)
    (tmp_path / "tools").symlink_to(REPOSITORY / "tools")
    (tmp_path / "output").mkdir()
    port = 20_000 + os.getpid() % 20_000
    with started(tmp_path, f"{command} --port {port}") as address:
        assert address == f"http://127.0.0.1:{port}/app/index"
        # Its port is bound before it says where it is.
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.status == 200
