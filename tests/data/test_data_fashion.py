"""FashionMNIST is MNIST's format under its own name, from its own places, with its own classes."""

from __future__ import annotations

import pytest
from archives import MNIST_FILES, md5, write_mnist

from ppema.data import MNIST, FashionMNIST, load_dataset, load_datasets, mnist
from ppema.errors import ConfigError, DataError


def test_it_is_read_from_a_given_folder(tmp_path):
    images, labels = write_mnist(tmp_path, "test")
    dataset = load_dataset(FashionMNIST("test", str(tmp_path)), "error")
    assert (dataset.images[:, 0] == images).all()
    assert (dataset.labels == labels).all()
    assert dataset.class_names[9] == "Ankle boot"
    assert dataset.kind == "fashion_mnist"
    assert dataset.source == f"data in FashionMNIST's format: test (20 images) from {tmp_path}"


def test_archives_with_the_known_sums_are_called_by_name(tmp_path, monkeypatch):
    write_mnist(tmp_path, "test")
    bodies = [(tmp_path / name).read_bytes() for name in MNIST_FILES["test"]]
    archives = tuple(mnist.Archive(a.name, len(b), md5(b)) for a, b in zip(known("test"), bodies))
    monkeypatch.setattr(mnist, "_FASHION_ARCHIVES", {"test": archives})
    source = load_dataset(FashionMNIST("test", str(tmp_path)), "error").source
    assert source == f"FashionMNIST test (20 images) from {tmp_path}"


def known(mode):
    return mnist._FASHION_ARCHIVES[mode]


def test_it_is_looked_for_where_paddle_keeps_it_and_not_where_mnist_lies(home, cache):
    write_mnist(cache, "train")
    with pytest.raises(DataError) as caught:
        load_dataset(FashionMNIST("train"), "digits")
    text = str(caught.value)
    folder = home / ".cache/paddle/dataset/fashion-mnist"
    assert text.startswith(f"FashionMNIST is not within reach: {folder} lacks train-images")
    folder.mkdir()
    write_mnist(folder, "train")
    assert len(load_dataset(FashionMNIST("train"), "error")) == 20


def test_its_mirrors_are_its_own(monkeypatch):
    asked = []
    monkeypatch.delenv("PPEMA_MIRRORS")

    class Silent(mnist.Downloader):
        def download(self, urls, *_):
            asked.extend(urls)
            raise mnist.NotWithinReachError("nothing is downloaded in a test")

    with pytest.raises(DataError):
        FashionMNIST("train").load(Silent())
    assert len(asked) == 3
    assert all("fashion" in url or "tf-keras-datasets" in url for url in asked)


def test_it_does_not_go_with_mnist(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_datasets(FashionMNIST("train"), MNIST("test"), "digits")
    assert str(caught.value).startswith("TrainDataset and EvalDataset are FashionMNIST and MNIST")


@pytest.mark.parametrize(
    ("kind", "name"), [("mnist", "MNIST"), ("digits", "the embedded digits"), ("user", "a dataset")]
)
def test_a_run_on_other_data_refuses_it(kind, name):
    with pytest.raises(DataError) as caught:
        load_dataset(FashionMNIST("test"), "digits", required_kind=kind)
    text = str(caught.value)
    assert text.startswith(f"the run was trained on {name}")
    assert text.endswith(", but the config names FashionMNIST")
