"""What a run's folder may hold, and what becomes of it: said, used or refused, never lost."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

import paddle
import pytest
from faulty_disk import Fault, FaultyDisk
from in_process import REPOSITORY, contents, line_of
from small_mnist import data_keys, write_mnist

from ppema.checkpoint.manifest import render

pytestmark = pytest.mark.reliability

FOLDER = Path("output/lenet_mnist")
STEP_1, STEP_2 = FOLDER / "step_000000001", FOLDER / "step_000000002"
COMMAND = ("train", "-c", REPOSITORY / "configs/lenet_mnist.yml", "--eval")
AUTO = (*COMMAND, "-r", "auto")


def keys(*more):
    return data_keys("data", *more)


def final_bits():
    """Return the weights that the run ended with, raw and averaged."""
    states = [
        paddle.load(str(FOLDER / "model_final" / name))
        for name in ("model.pdparams", "ema.pdparams")
    ]
    return [{name: tensor.numpy().tobytes() for name, tensor in state.items()} for state in states]


def damage(path, way):
    content = bytearray(path.read_bytes())
    # Of a manifest, whose length depends on the folder's, a letter: half of it may be a quote.
    place = content.index(b"seed") if path.suffix == ".json" else len(content) // 2
    content[place] ^= 1
    path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2]}.get(way, content))


def change_manifest(checkpoint, change):
    """Write a manifest of one's own making, with its digest, which is no secret."""
    path = checkpoint / "manifest.json"
    path.write_text(render({**json.loads(path.read_text()), **change}))


# Resuming.


def test_auto_without_a_folder_starts_and_says_so(run_tool):
    write_mnist(Path("data"))
    result = run_tool(*AUTO, *keys())
    assert (result.code, result.err) == (0, "")
    assert f"no checkpoint in {FOLDER}; starting" in result.out
    assert STEP_2.is_dir()


@pytest.mark.parametrize("flags", [(), ("-r", "auto")], ids=["without -r", "-r auto"])
def test_a_folder_without_a_checkpoint_is_used(run_tool, flags):
    write_mnist(Path("data"))
    FOLDER.mkdir(parents=True)
    (FOLDER / "notes.txt").write_text("mine")
    result = run_tool(*COMMAND, *flags, *keys())
    assert (result.code, result.err) == (0, "")
    assert (f"no checkpoint in {FOLDER}; starting" in result.out) is bool(flags)
    assert STEP_2.is_dir()
    assert (FOLDER / "notes.txt").read_text() == "mine"


def test_a_finished_run_is_said_to_be_so_and_left_alone(run_tool, run_folder):
    before = contents(".")
    result = run_tool(*AUTO, *keys())
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith(f"INFO: {FOLDER} is finished (epoch 1)\n")
    assert contents(".") == before


def test_without_r_a_folder_with_a_checkpoint_is_refused(refuse, run_folder):
    assert refuse(2, *COMMAND, *keys()) == (
        f"{FOLDER} holds a checkpoint (step 2); continue it with -r auto, or start again with "
        "--overwrite"
    )


def test_a_finished_run_of_another_folder_is_not_this_one_s(refuse, run_folder):
    line = refuse(2, *COMMAND, "-r", STEP_2, *keys("save_dir=else"))
    assert line == (
        f"{Path.cwd()}/{STEP_2} is of epoch 1 already, and the config says epoch: 1; set a larger "
        "epoch to train on from it"
    )


def test_an_older_checkpoint_of_a_run_is_refused_where_newer_ones_would_go(refuse, run_folder):
    assert refuse(2, *COMMAND, "-r", STEP_1, *keys()) == (
        f"{FOLDER} holds newer checkpoints (step 2) than {STEP_1}; continue them with -r auto, or "
        "drop them with --overwrite"
    )


def test_overwrite_keeps_the_old_run_where_the_new_one_cannot_start(refuse, run_folder):
    line = refuse(2, *COMMAND, "--overwrite", *keys("Model.num_classes=5"))
    assert line.startswith("-o Model.num_classes: Model (LeNet) gives [2,5] for 2 images")


@pytest.mark.parametrize("way", ["empty", "truncated", "flipped"])
@pytest.mark.parametrize(
    "file", ["model.pdparams", "ema.pdparams", "optimizer.pdopt", "state.pdstates"]
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    run_tool, refuse, config, run_folder, file, way
):
    wanted, whole = final_bits(), contents(STEP_1)
    damage(STEP_2 / file, way)
    if file == "ema.pdparams":
        line = refuse(3, "eval", "-c", config("lenet_mnist"), *keys(f"weights={STEP_2}"))
        assert line == f"{Path.cwd()}/{STEP_2}/{file}: checksum differs"
    result = run_tool(*AUTO, *keys())
    assert (result.code, result.err) == (0, "")
    assert f"WARNING: {STEP_2}/{file}: checksum differs; using {STEP_1.name}\n" in result.out
    assert f"continuing {STEP_1} after step 1 of 2" in result.out
    assert final_bits() == wanted
    assert contents(STEP_1) == whole


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("empty", "is damaged"),
        ("truncated", "is damaged"),
        ("edited", "checksum differs"),
        ("missing", "No such file or directory"),
    ],
)
def test_a_checkpoint_with_a_damaged_manifest_is_passed_over(run_tool, run_folder, way, message):
    wanted = final_bits()
    manifest = STEP_2 / "manifest.json"
    if way == "missing":
        manifest.unlink()
    elif way == "edited":
        manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    else:
        damage(manifest, way)
    result = run_tool(*AUTO, *keys())
    assert (result.code, result.err) == (0, "")
    assert f"WARNING: {manifest}: {message}; using {STEP_1.name}\n" in result.out
    assert final_bits() == wanted


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"epoch": None}, "epoch"),
        ({"best": {"step": "x"}}, "best.step"),
        ({"identity": 3}, "identity"),
        ({"data": {"kind": "mnist"}}, "data.train"),
        ({"config_values": {}}, "config_values.epoch"),
        ({"steps_per_epoch": "x"}, "steps_per_epoch"),
    ],
)
def test_a_manifest_that_no_run_wrote_gives_its_line_and_3(refuse, run_folder, change, missing):
    change_manifest(STEP_2, change)
    line = refuse(3, *AUTO, *keys("epoch=2"))
    assert line == f"{STEP_2}/manifest.json: has no {missing}"


def test_eval_refuses_a_manifest_that_no_run_wrote(refuse, config, run_folder):
    for change, missing in [({"winner": []}, "winner"), ({"averages": 3}, "averages")]:
        change_manifest(STEP_2, change)
        line = refuse(3, "eval", "-c", config("lenet_mnist"), *keys(f"weights={STEP_2}"))
        assert line == f"{Path.cwd()}/{STEP_2}/manifest.json: has no {missing}"


def test_a_checkpoint_of_a_newer_ppema_is_left_alone(refuse, run_folder):
    change_manifest(STEP_2, {"format": 2})
    line = refuse(3, *AUTO, *keys("epoch=2"))
    assert line == f"{STEP_2}/manifest.json: format 2, this ppema reads 1"


@pytest.mark.parametrize("flags", [("--overwrite",), ("-r", STEP_1, "--overwrite")])
def test_a_new_run_that_never_saves_leaves_the_old_one_its_records(run_tool, run_folder, flags):
    wanted = [(FOLDER / name).read_text() for name in ("metrics.jsonl", "train.log")]
    # Twice: what the first try wrote is not the old run's.
    for _ in range(2):
        broken = run_tool(*COMMAND, *flags, *keys("LearningRate.base_lr=1e38", "epoch=2"))
        assert broken.code == 4, broken.out
    assert (FOLDER / "metrics.jsonl").read_text() != wanted[0]
    assert run_tool(*AUTO, *keys()).code == 0
    assert (FOLDER / "metrics.jsonl").read_text() == wanted[0]
    assert (FOLDER / "train.log").read_text().startswith(wanted[1])
    assert not list(FOLDER.glob(".old-*"))


def test_once_the_new_run_has_saved_the_old_records_go(run_tool, run_folder):
    assert run_tool(*COMMAND, "--overwrite", *keys("TrainReader.batch_size=100")).code == 0
    lines = (FOLDER / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 1, 1]
    assert not list(FOLDER.glob(".old-*"))


def test_every_checkpoint_damaged_gives_its_line_and_3(refuse, config, run_folder):
    for step in (STEP_1, STEP_2):
        damage(step / "model.pdparams", "flipped")
    fault = f"{STEP_2}/model.pdparams: checksum differs"
    line = f"no usable checkpoint in {FOLDER} (2 damaged): {fault}"
    assert refuse(3, *AUTO, *keys("epoch=2")) == line
    posthoc = ("average", "posthoc", "--sigma_rel", "0.1", "-c", config("lenet_mnist"))
    assert refuse(3, *posthoc) == line
    evaluate = ("eval", "-c", config("lenet_mnist"), *keys())
    best = (FOLDER / "best_model").resolve()
    assert refuse(3, *evaluate) == f"{best}/model.pdparams: checksum differs"
    for link in ("best_model", "model_final"):
        (FOLDER / link).unlink()
    assert refuse(3, *evaluate) == line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "Optimizer.name=Adagrad",
            "made with Adam, the config says Adagrad; --accept optimizer goes on, with the state "
            "of the optimizer begun anew",
        ),
        (
            "Model.name=LeNetBN",
            "made with LeNet, the config says LeNetBN; --accept model goes on where all of its "
            "weights fit",
        ),
        (
            "LearningRate.schedulers=[{name: StepDecay, step_size: 3}]",
            "made with no schedule, the config says StepDecay; --accept schedule goes on, with "
            "this schedule as it stands after so many steps",
        ),
    ],
)
def test_another_class_on_resume_gives_its_line_and_3(refuse, run_folder, override, message):
    line = refuse(3, *AUTO, *keys("epoch=2", override))
    assert line == f"the checkpoint was {message}"


@pytest.mark.parametrize("flags", [("-r", "auto"), ("--overwrite",)])
def test_a_run_that_was_copied_without_its_links_is_told_what_to_delete(
    refuse, run_tool, run_folder, flags
):
    copy = FOLDER / "best_model"
    found = copy.resolve()
    copy.unlink()
    shutil.copytree(found, copy)
    line = refuse(3, *COMMAND, *flags, *keys("epoch=2"))
    assert line == (
        f"{copy}: is a folder where a link belongs, as copying without links makes; the "
        "checkpoint itself is a step_ folder; delete this one"
    )
    shutil.rmtree(copy)
    assert run_tool(*COMMAND, *flags, *keys("epoch=2")).code == 0
    assert copy.is_symlink()


# What stands in the way of writing.


def test_a_folder_in_use_gives_its_line_and_5(refuse, run_folder):
    (FOLDER / ".lock").write_text("26741")
    with open(FOLDER / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for flags in ((), ("-r", "auto"), ("--overwrite",)):
            line = refuse(5, *COMMAND, *flags, *keys())
            assert line == f"{FOLDER} is in use by process 26741"


@contextlib.contextmanager
def an_ordinary_user():
    """Be someone whom the modes of files bind, where the tests are run by root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        if not os.access(REPOSITORY / "tools/train.py", os.R_OK, effective_ids=True):
            pytest.skip("an ordinary user may not read the project here")
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_folder_gives_its_line_and_6_before_training(run_tool, tmp_path):
    Path("output").mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    with an_ordinary_user():
        result = run_tool(*COMMAND, *keys())
    assert line_of(result, 6) == f"{FOLDER}: cannot be written: Permission denied"
    assert (result.out, list(contents("."))) == ("", ["output"])


def test_a_read_only_disk_gives_its_line_and_6_before_training(refuse, run_folder):
    with FaultyDisk(FOLDER, Fault(0, errno.EROFS, lasts=True)):
        line = refuse(6, *AUTO, *keys("epoch=2"))
    assert line == f"{FOLDER}: cannot be written: Read-only file system"


def test_a_file_in_the_way_gives_its_line_and_6_before_training(refuse):
    Path("output").write_text("a file in the way")
    line = refuse(6, *COMMAND, *keys())
    assert line == f"{FOLDER}: cannot be written: Not a directory"


def first_write_of_step(disk, step):
    """Return the number of the first write to a file of this step's checkpoint."""
    name = f".tmp-step_{step:09d}/"
    numbers = [
        number
        for number, change in enumerate(disk.changes)
        if change.kind == "write" and name in change.path
    ]
    return numbers[0]


@pytest.mark.parametrize("name", [".lock", "train.log", "config.yml", "metrics.jsonl"])
def test_no_link_in_a_folder_leads_to_another_file(run_tool, run_folder, name):
    Path("precious").write_text("mine")
    (FOLDER / name).unlink()
    (FOLDER / name).symlink_to(Path.cwd() / "precious")
    result = run_tool(*AUTO, *keys("epoch=2"))
    if name in (".lock", "train.log"):
        assert line_of(result, 6).startswith(str(FOLDER))
    assert Path("precious").read_text() == "mine"


@pytest.mark.parametrize("name", [".lock", "train.log", "config.yml", "metrics.jsonl"])
def test_no_pipe_in_a_folder_is_waited_for(run_tool, run_folder, name):
    (FOLDER / name).unlink()
    os.mkfifo(FOLDER / name)
    result = run_tool(*AUTO, *keys("epoch=2"))
    if name in (".lock", "train.log"):
        assert line_of(result, 6).startswith(str(FOLDER))
    else:
        assert (result.code, result.err) == (0, "")


def test_a_full_disk_keeps_the_checkpoint_before(run_tool, run_folder):
    shutil.copytree("output", "before", symlinks=True)
    with FaultyDisk(FOLDER) as disk:
        assert run_tool(*AUTO, *keys("epoch=2")).code == 0
    wanted = final_bits()
    shutil.rmtree("output")
    shutil.copytree("before", "output", symlinks=True)
    kept = contents(STEP_1), contents(STEP_2)
    fault = Fault(first_write_of_step(disk, 3), errno.ENOSPC, lasts=True)
    with FaultyDisk(FOLDER, fault):
        result = run_tool(*AUTO, *keys("epoch=2"))
    assert line_of(result, 6) == "cannot save step 3: no space left; step 2 kept"
    assert (contents(STEP_1), contents(STEP_2)) == kept
    assert run_tool(*AUTO, *keys("epoch=2")).code == 0
    assert final_bits() == wanted
