"""MNIST is looked for where it is said to be, and both parts come from one source or none."""

from __future__ import annotations

import gzip
import hashlib
import logging
import subprocess
import sys
import typing

import numpy as np
import pytest
from archives import MNIST_FILES, idx_images, idx_labels, md5, write_mnist
from mirrors import silent

from ppema.data import DATASETS, MNIST, Digits, load_dataset, load_datasets, mnist
from ppema.data.mnist import cache_folder, find_mnist, load_mnist, mirrors
from ppema.errors import ConfigError, DataError

TRAIN, TEST = MNIST(mode="train"), MNIST(mode="test")


@pytest.fixture
def set_mirrors(monkeypatch):
    """Return a function that makes these servers the mirrors, and their files the known ones."""

    def set_to(*servers):
        monkeypatch.setenv("PPEMA_MIRRORS", ",".join(server.url for server in servers))
        archives = {}
        for mode, names in MNIST_FILES.items():
            bodies = [served(servers, name) for name in names]
            archives[mode] = tuple(
                mnist._Archive(name[: -len(".gz")], len(body), md5(body))
                for name, body in zip(names, bodies)
            )
        monkeypatch.setattr(mnist, "_ARCHIVES", archives)

    return set_to


def served(servers, name):
    bodies = [server.files.get(name) for server in servers]
    return next((body for body in bodies if isinstance(body, bytes)), b"")


def serve_mnist(mirror, folder):
    """Let the mirror serve both parts of a small data set."""
    for mode in MNIST_FILES:
        write_mnist(folder, mode)
    for path in folder.iterdir():
        mirror.files[path.name] = path.read_bytes()


def one_line(error_class, load, *arguments, **options):
    with pytest.raises(error_class) as caught:
        load(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_original_archives_are_mnist(real_mnist):
    train, test = load_datasets(
        MNIST("train", str(real_mnist)), MNIST("test", str(real_mnist)), "error"
    )
    assert train.source == f"MNIST train (60,000 images) from {real_mnist}"
    assert test.source == f"MNIST test (10,000 images) from {real_mnist}"
    assert train.images.shape == (60000, 1, 28, 28)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert (train.mean, train.std, train.kind) == (127.5, 127.5, "mnist")


def test_original_archives_have_the_sizes_and_sums_known_of_them(real_mnist):
    for archives in mnist._ARCHIVES.values():
        for archive in archives:
            data = (real_mnist / f"{archive.name}.gz").read_bytes()
            assert (len(data), md5(data)) == (archive.num_bytes, archive.md5)


def test_given_folder_is_read(tmp_path):
    images, labels = write_mnist(tmp_path, "test")
    dataset = load_dataset(MNIST("test", str(tmp_path)), "error")
    np.testing.assert_array_equal(dataset.images, images[:, None])
    np.testing.assert_array_equal(dataset.labels, labels)
    assert dataset.labels.dtype == np.int64
    assert dataset.kind == "mnist"


def test_other_data_in_the_same_format_are_not_called_mnist(tmp_path):
    write_mnist(tmp_path, "test")
    source = load_dataset(MNIST("test", str(tmp_path)), "error").source
    assert source == (f"data in MNIST's format, but not MNIST's: test (20 images) from {tmp_path}")


def test_digest_is_over_images_labels_and_shapes(tmp_path):
    images, labels = write_mnist(tmp_path, "test")
    expected = hashlib.sha256(b"uint8(20, 1, 28, 28) int64(20,)" + images.tobytes())
    expected.update(labels.astype("<i8").tobytes())
    assert load_dataset(MNIST("test", str(tmp_path)), "error").digest == expected.hexdigest()


def test_unpacked_archives_are_read_too(tmp_path):
    images, _ = write_mnist(tmp_path, "train")
    for name in MNIST_FILES["train"]:
        packed = tmp_path / name
        (tmp_path / name[: -len(".gz")]).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    found = load_dataset(MNIST("train", str(tmp_path)), "error")
    np.testing.assert_array_equal(found.images[:, 0], images)


def test_images_of_another_size_are_refused(tmp_path):
    write_mnist(tmp_path, "train")
    path = tmp_path / MNIST_FILES["train"][0]
    path.write_bytes(idx_images(np.zeros((20, 14, 56), np.uint8)))
    text = one_line(DataError, load_dataset, MNIST("train", str(tmp_path)), "digits")
    assert text == f"{path}: images are 14x56, expected 28x28"


def test_home_in_a_folder_s_name_is_understood(home):
    (home / "data").mkdir()
    write_mnist(home / "data", "train")
    assert len(load_dataset(MNIST("train", "~/data"), "error")) == 20


@pytest.mark.parametrize("offline", ["digits", "error"])
def test_given_folder_without_the_data_is_an_error(tmp_path, cache, offline):
    # Neither the cache nor the digits may stand in for what the user asked for.
    write_mnist(cache, "train")
    text = one_line(DataError, load_dataset, MNIST("train", str(tmp_path)), offline)
    assert text == (
        f"dataset_dir {tmp_path} lacks train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz"
    )
    nowhere = str(tmp_path / "nowhere")
    text = one_line(DataError, load_dataset, MNIST("train", nowhere), offline)
    assert text == f"dataset_dir {nowhere}: no such folder"


def test_given_folder_that_lacks_one_file_names_it(tmp_path):
    write_mnist(tmp_path, "train")
    (tmp_path / MNIST_FILES["train"][1]).unlink()
    text = one_line(DataError, load_dataset, MNIST("train", str(tmp_path)), "digits")
    assert text == f"dataset_dir {tmp_path} lacks train-labels-idx1-ubyte.gz"


def test_damaged_file_in_a_given_folder_is_an_error(tmp_path):
    write_mnist(tmp_path, "train")
    path = tmp_path / MNIST_FILES["train"][1]
    path.write_bytes(idx_labels([255] * 20))
    text = one_line(DataError, load_dataset, MNIST("train", str(tmp_path)), "digits")
    assert text == f"{path}: label 255 at sample 0; classes are 0-9"


def test_paddle_s_cache_is_read_without_asking_a_mirror(cache, mirror, monkeypatch):
    monkeypatch.setenv("PPEMA_MIRRORS", mirror.url)
    write_mnist(cache, "train")
    assert str(cache) in load_dataset(TRAIN, "error").source
    assert mirror.requests == []


def test_damaged_file_in_the_cache_is_named_and_never_digits(cache):
    write_mnist(cache, "train")
    path = cache / MNIST_FILES["train"][0]
    path.write_bytes(path.read_bytes()[:-100])
    text = one_line(DataError, load_dataset, TRAIN, "digits")
    assert text == (
        f"{path}: truncated, its gzip stream ends too early; "
        "delete the file, and it is downloaded anew"
    )


def test_cache_lies_where_paddle_keeps_it(home):
    assert cache_folder() == home / ".cache" / "paddle" / "dataset" / "mnist"


def test_what_is_missing_is_downloaded_into_the_cache(mirror, set_mirrors, tmp_path):
    serve_mnist(mirror, tmp_path)
    set_mirrors(mirror)
    train, test = load_datasets(TRAIN, TEST, "error")
    assert (train.kind, test.kind) == ("mnist", "mnist")
    assert sorted(p.name for p in cache_folder().iterdir()) == sorted(
        name for names in MNIST_FILES.values() for name in names
    )
    load_datasets(TRAIN, TEST, "error")
    assert len(mirror.requests) == 4


def test_only_what_is_missing_is_downloaded(mirror, set_mirrors, tmp_path, cache):
    serve_mnist(mirror, tmp_path)
    set_mirrors(mirror)
    write_mnist(cache, "train", seed=5)
    (cache / MNIST_FILES["test"][0]).write_bytes(mirror.files[MNIST_FILES["test"][0]])
    load_datasets(TRAIN, TEST, "error")
    assert mirror.requests == [f"/{MNIST_FILES['test'][1]}"]


def test_dead_mirror_is_asked_once_for_all_files(start_mirror, set_mirrors, tmp_path):
    dead, good = start_mirror(), start_mirror()
    serve_mnist(good, tmp_path)
    set_mirrors(dead, good)
    dead.files.update(dict.fromkeys(good.files, silent()))
    downloader = mnist.Downloader(connect_timeout_s=0.3)
    for mode in ("train", "test"):
        load_mnist(MNIST(mode=mode), downloader)
    assert len(dead.requests) == 1
    assert len(good.requests) == 4


def test_one_downloader_serves_train_and_test(cache, start_mirror, monkeypatch):
    made = []

    class Counted(mnist.Downloader):
        def __init__(self):
            made.append(self)
            super().__init__()

    monkeypatch.setattr("ppema.data.resolve.Downloader", Counted)
    monkeypatch.setattr("ppema.data.mnist.Downloader", Counted)
    load_datasets(TRAIN, TEST, "digits")
    assert len(made) == 1


def test_failure_tells_where_it_looked_what_was_answered_and_the_ways_out(mirror, set_mirrors):
    set_mirrors(mirror)
    text = one_line(DataError, load_datasets, TRAIN, TEST, "error")
    name = MNIST_FILES["train"][0]
    assert text == (
        f"MNIST is not within reach: {cache_folder()} lacks {name} and "
        f"{MNIST_FILES['train'][1]}; {mirror.url}{name}: HTTP 404 Not Found; set offline: digits "
        "to use the digits that come with ppema, or name the folder of the four files: "
        "-o TrainDataset.dataset_dir=... EvalDataset.dataset_dir=..."
    )


def test_offline_digits_are_used_for_both_with_a_warning(mirror, set_mirrors, caplog):
    set_mirrors(mirror)
    with caplog.at_level(logging.WARNING, "ppema"):
        train, test = load_datasets(TRAIN, TEST, "digits")
    assert (train.kind, test.kind) == ("digits", "digits")
    assert (len(train), len(test)) == (7210, 355)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(cache_folder()) in record.getMessage()
    assert f"{mirror.url}train-images-idx3-ubyte.gz: HTTP 404" in record.getMessage()
    assert "NO FIGURE of this run is a figure on MNIST" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_digits_replace_train_data_that_are_there_when_test_data_are_not(cache):
    write_mnist(cache, "train")
    train, test = load_datasets(TRAIN, TEST, "digits")
    assert (train.kind, test.kind) == ("digits", "digits")


def test_cache_that_cannot_be_written_leads_to_digits(mirror, set_mirrors, tmp_path, home, caplog):
    serve_mnist(mirror, tmp_path)
    set_mirrors(mirror)
    (home / ".cache").write_text("a file where the folder should be")
    assert load_dataset(TRAIN, "digits").kind == "digits"
    assert "cannot write" in caplog.text


@pytest.mark.parametrize("given", ["train", "test"])
def test_one_given_folder_and_no_mnist_for_the_other_is_an_error(tmp_path, given):
    write_mnist(tmp_path, given)
    requests = [MNIST(mode, str(tmp_path) if mode == given else None) for mode in MNIST_FILES]
    text = one_line(DataError, load_datasets, *requests, "digits")
    assert text.startswith(f"dataset_dir {tmp_path} is given for one of TrainDataset and Eval")
    assert text.endswith("; give dataset_dir for both")


def test_one_given_folder_goes_with_real_data_from_the_cache(tmp_path, cache):
    write_mnist(tmp_path, "train", count=30)
    write_mnist(cache, "test", count=10)
    train, test = load_datasets(MNIST("train", str(tmp_path)), TEST, "digits")
    assert (len(train), len(test)) == (30, 10)


def test_digits_by_name_ask_no_mirror_and_warn_of_nothing(mirror, set_mirrors, caplog):
    set_mirrors(mirror)
    train, test = load_datasets(Digits("train"), Digits("test"), "error")
    assert (len(train), len(test)) == (7210, 355)
    assert mirror.requests == []
    assert caplog.records == []


def test_different_data_for_training_and_evaluation_are_refused(cache):
    write_mnist(cache, "train")
    text = one_line(ConfigError, load_datasets, TRAIN, Digits("test"), "digits")
    assert text.startswith("TrainDataset and EvalDataset are MNIST and Digits")


def test_data_of_a_class_that_is_not_ours_are_refused():
    text = one_line(ConfigError, load_dataset, object(), "digits")
    assert text == (
        "the data must be MNIST, Digits, FashionMNIST, Cifar10, Cifar100, ImageFolder or a "
        "map-style dataset, got object"
    )


def test_run_on_mnist_refuses_the_digits(mirror, set_mirrors):
    set_mirrors(mirror)
    text = one_line(DataError, load_dataset, TEST, "digits", required_kind="mnist")
    assert text.startswith(
        "the run was trained on MNIST, but only the embedded digits are within reach: "
    )
    assert "HTTP 404" in text
    text = one_line(DataError, load_dataset, Digits("test"), "digits", required_kind="mnist")
    assert text == "the run was trained on MNIST, but the config names the embedded digits"


@pytest.mark.parametrize("offline", ["digits", "error"])
def test_run_on_digits_goes_on_with_them_without_looking(cache, mirror, set_mirrors, offline):
    set_mirrors(mirror)
    write_mnist(cache, "test")
    dataset = load_dataset(TEST, offline, required_kind="digits")
    assert dataset.kind == "digits"
    assert len(dataset) == 355
    assert mirror.requests == []


def test_run_on_digits_refuses_a_given_folder(tmp_path):
    write_mnist(tmp_path, "test")
    request = MNIST("test", str(tmp_path))
    text = one_line(DataError, load_dataset, request, "digits", required_kind="digits")
    assert text.startswith("the run was trained on the embedded digits, but dataset_dir is ")


def test_run_goes_on_with_its_own_bytes_only(cache):
    write_mnist(cache, "train")
    write_mnist(cache, "test")
    train, test = load_datasets(TRAIN, TEST, "error")
    load_dataset(TEST, "error", required_kind="mnist", required_digest=test.digest)
    write_mnist(cache, "test", seed=1)
    text = one_line(DataError, load_dataset, TEST, "error", required_digest=test.digest)
    assert "these are not the data of the run (sha256 " in text
    assert text.endswith(f"the run's is {test.digest[:12]})")
    load_dataset(TRAIN, "error", required_digest=train.digest)


def test_mirrors_are_the_known_three_unless_set(monkeypatch):
    monkeypatch.delenv("PPEMA_MIRRORS")
    assert [address.split("/")[2] for address in mirrors()] == [
        "dataset.bj.bcebos.com",
        "ossci-datasets.s3.amazonaws.com",
        "storage.googleapis.com",
    ]
    monkeypatch.setenv("PPEMA_MIRRORS", " http://a/b , https://c/ ,")
    assert mirrors() == ["http://a/b/", "https://c/"]
    monkeypatch.setenv("PPEMA_MIRRORS", "")
    assert mirrors() == []


@pytest.mark.parametrize("address", ["ftp://a/", "/mnt/mnist", "http://", "http://[a/"])
def test_mirror_that_is_no_web_address_is_an_error(monkeypatch, address):
    monkeypatch.setenv("PPEMA_MIRRORS", f"http://a/,{address}")
    text = one_line(ConfigError, load_dataset, TRAIN, "digits")
    assert text == (f"PPEMA_MIRRORS: a mirror must begin with http:// or https://, got {address!r}")


def test_mirrors_do_not_matter_where_nothing_is_missing(cache, monkeypatch):
    monkeypatch.setenv("PPEMA_MIRRORS", "nonsense")
    write_mnist(cache, "train")
    assert len(load_dataset(TRAIN, "error")) == 20


def test_missing_mirrors_are_told(cache):
    text = one_line(DataError, find_mnist, None, "train")
    assert text.endswith("; no mirrors are set")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dataset_dir": " "}, "dataset_dir must name a folder, got ' '"),
        ({"mode": "eval"}, "mode must be train or test, got 'eval'"),
    ],
)
def test_arguments_of_mnist(arguments, text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        MNIST(**{"mode": "train", **arguments})
    assert str(caught.value) == text


def test_arguments_can_be_read_from_the_signatures():
    mode = typing.Literal["train", "test"]
    hints = typing.get_type_hints(DATASETS["MNIST"].__init__)
    assert hints == {"dataset_dir": typing.Optional[str], "mode": mode, "return": type(None)}
    hints = typing.get_type_hints(DATASETS["Digits"].__init__)
    assert hints == {"mode": mode, "return": type(None)}


def test_data_need_no_paddle():
    code = "import sys, ppema.data; sys.exit('paddle' in sys.modules or 'yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
