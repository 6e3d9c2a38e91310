"""CIFAR's own archives are read as they are, checked, and can neither run code nor write files."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from archives import md5
from cifar_archives import cifar10_members, cifar100_members, python2_pickle, write_tar

from ppema.data import ArrayReader, Cifar10, Cifar100, cifar, load_dataset, load_datasets, members
from ppema.data.batch_pickle import read_batch
from ppema.errors import DataError

ARCHIVE = "cifar-10-python.tar.gz"
PIXELS = np.zeros((2, 3072), np.uint8)


def python3_pickle(table):
    return pickle.dumps(table, protocol=2)


def load(folder, mode="train", cls=Cifar10):
    return load_dataset(cls(mode, str(folder)), "error")


def fault(folder, mode="train", cls=Cifar10):
    with pytest.raises(DataError) as caught:
        load(folder, mode, cls)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dumps", [python2_pickle, python3_pickle])
def test_cifar10_is_read_from_its_archive(tmp_path, dumps):
    members = cifar10_members(dumps=dumps)
    write_tar(tmp_path / ARCHIVE, members)
    train, test = load_datasets(
        Cifar10("train", str(tmp_path)), Cifar10("test", str(tmp_path)), "error"
    )
    assert train.images.shape == (20, 3, 32, 32)
    assert test.labels.tolist() == [5, 6, 7, 8]
    assert train.labels.tolist() == [(n + k) % 10 for n in range(5) for k in range(4)]
    assert train.class_names == tuple(f"class {k}" for k in range(10))
    assert train.kind == "cifar10"
    assert len({train.digest, test.digest}) == 2


def test_pixels_are_channels_of_rows_as_they_lie_in_the_batch(tmp_path):
    pixels = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
    members = cifar10_members()
    members["test_batch"] = python2_pickle({"data": pixels, "labels": [0, 9]})
    write_tar(tmp_path / ARCHIVE, members)
    images = load(tmp_path, "test").images
    assert images[1, 2, 3, 4] == pixels[1, 2 * 1024 + 3 * 32 + 4]


def test_cifar100_takes_the_fine_labels(tmp_path):
    write_tar(tmp_path / "cifar-100-python.tar.gz", cifar100_members(), "cifar-100-python")
    train = load(tmp_path, cls=Cifar100)
    assert train.labels.tolist() == [99, 98, 97, 96]
    assert train.class_names[:2] == ("fine 0", "fine 1")
    assert (train.kind, len(train.class_names)) == ("cifar100", 100)


@pytest.mark.parametrize("inside", [True, False])
def test_an_unpacked_archive_is_read_too(tmp_path, inside):
    folder = tmp_path / "cifar-10-batches-py"
    unpack(folder, cifar10_members())
    write_tar(tmp_path / "other.tar.gz", cifar10_members())
    from_folder = load(folder if inside else tmp_path)
    (tmp_path / "other.tar.gz").rename(tmp_path / "other")
    (tmp_path / "packed").mkdir()
    write_tar(tmp_path / "packed" / ARCHIVE, cifar10_members())
    assert from_folder.digest == load(tmp_path / "packed").digest
    assert from_folder.source.endswith(f"train (20 images) from {folder}")


def test_a_tar_that_is_not_gzipped_is_read(tmp_path):
    write_tar(tmp_path / ARCHIVE, cifar10_members())
    packed = tmp_path / ARCHIVE
    (tmp_path / "cifar-10-python.tar").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert len(load(tmp_path)) == 20


def test_other_data_in_the_format_are_not_called_cifar(tmp_path, monkeypatch):
    members = cifar10_members()
    write_tar(tmp_path / ARCHIVE, members)
    assert load(tmp_path, "test").source == (
        f"data in CIFAR-10's format, but not CIFAR-10's: test (4 images) from {tmp_path / ARCHIVE}"
    )
    parts = {"test": {"test_batch": md5(members["test_batch"])}}
    layout = replace(cifar._LAYOUTS["cifar10"], parts=parts)
    monkeypatch.setattr(cifar, "_LAYOUTS", {"cifar10": layout})
    assert load(tmp_path, "test").source == f"CIFAR-10 test (4 images) from {tmp_path / ARCHIVE}"


def test_each_channel_has_its_own_mean_and_deviation(tmp_path):
    write_tar(tmp_path / ARCHIVE, cifar10_members())
    dataset = load(tmp_path)
    (batch,) = ArrayReader(dataset, 20, False, False, 0).batches(1)
    for channel, (mean, std) in enumerate(zip(dataset.mean, dataset.std)):
        plain = (dataset.images[:, channel].astype("f4") - np.float32(mean)) / np.float32(std)
        assert batch.image[:, channel].tobytes() == plain.tobytes()
    assert len(set(dataset.mean)) == 3


def test_what_is_missing_is_downloaded_into_paddle_s_cache(home, mirror, monkeypatch, tmp_path):
    monkeypatch.setenv("PPEMA_MIRRORS", mirror.url)
    write_tar(tmp_path / ARCHIVE, cifar10_members())
    body = mirror.files[ARCHIVE] = (tmp_path / ARCHIVE).read_bytes()
    archive = cifar.Archive("cifar-10-python.tar", len(body), md5(body))
    layout = replace(cifar._LAYOUTS["cifar10"], archive=archive)
    monkeypatch.setattr(cifar, "_LAYOUTS", {"cifar10": layout})
    train, test = load_datasets(Cifar10("train"), Cifar10("test"), "digits")
    assert (len(train), len(test), mirror.requests) == (20, 4, [f"/{ARCHIVE}"])
    cached = home / ".cache/paddle/dataset/cifar" / ARCHIVE
    assert cached.read_bytes() == body
    cached.write_bytes(body[:5000])
    with pytest.raises(DataError, match="; delete the file, and it is downloaded anew"):
        load_dataset(Cifar10("train"), "error")


def test_digits_never_stand_in_for_cifar():
    with pytest.raises(DataError) as caught:
        load_datasets(Cifar10("train"), Cifar10("test"), "digits")
    text = str(caught.value)
    assert text.startswith("CIFAR-10 is not within reach: ")
    assert text.endswith(
        "no mirrors are set; name the folder that has it: "
        "-o TrainDataset.dataset_dir=... EvalDataset.dataset_dir=..."
    )


def test_a_folder_that_lacks_it(tmp_path):
    assert fault(tmp_path) == (
        f"dataset_dir {tmp_path} lacks {ARCHIVE}, and cifar-10-batches-py as unpacked from it"
    )
    assert fault(tmp_path / "nowhere") == f"dataset_dir {tmp_path / 'nowhere'}: no such folder"


def test_an_archive_that_lacks_members_names_them(tmp_path):
    members = cifar10_members()
    del members["data_batch_3"], members["batches.meta"]
    write_tar(tmp_path / ARCHIVE, members)
    assert fault(tmp_path) == f"{tmp_path / ARCHIVE} lacks data_batch_3, batches.meta"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_archive_is_one_line(tmp_path, share):
    write_tar(tmp_path / ARCHIVE, cifar10_members())
    whole = (tmp_path / ARCHIVE).read_bytes()
    (tmp_path / ARCHIVE).write_bytes(whole[: int(share * len(whole))])
    assert fault(tmp_path).startswith(f"{tmp_path / ARCHIVE}")


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"data": PIXELS, "labels": [0]}, "1 labels for 2 images"),
        ({"data": PIXELS, "labels": [0, 10]}, "label 10 at sample 1; classes are 0-9"),
        ({"data": PIXELS, "labels": [-1, 0]}, "label -1 at sample 0; classes are 0-9"),
        ({"data": PIXELS, "labels": [0, "1"]}, "'labels' is no list of whole numbers"),
        ({"data": PIXELS}, "'labels' is no list of whole numbers"),
        ({"data": PIXELS[:, :3000], "labels": [0, 1]}, "'data' is [2, 3000], expected [N, 3072]"),
        ({"data": PIXELS[:0], "labels": []}, "'data' is [0, 3072], expected [N, 3072]"),
        ({"data": [1, 2], "labels": [0, 1]}, "'data' is no array"),
        ({"labels": [0, 1]}, "'data' is no array"),
        (
            {"data": PIXELS[0], "labels": [0, 1]},
            "'data' is damaged (an array with an impossible shape)",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_named(tmp_path, table, text):
    write_tar(tmp_path / ARCHIVE, {**cifar10_members(), "test_batch": python2_pickle(table)})
    assert fault(tmp_path, "test") == f"{tmp_path / ARCHIVE}: test_batch: {text}"


@pytest.mark.parametrize("names", [["a"] * 9, list(range(10)), "abc"])
def test_class_names_that_do_not_fit(tmp_path, names):
    meta = python2_pickle({"label_names": names})
    write_tar(tmp_path / ARCHIVE, {**cifar10_members(), "batches.meta": meta})
    assert fault(tmp_path).endswith("batches.meta: 'label_names' is no list of 10 names")


def test_an_array_of_anything_but_bytes_is_refused(tmp_path):
    table = {"data": PIXELS.astype(np.float32), "labels": [0, 1]}
    write_tar(tmp_path / ARCHIVE, {**cifar10_members(), "test_batch": python2_pickle(table)})
    assert "an array of dtype" in fault(tmp_path, "test")


class Shell:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@pytest.mark.parametrize("where", ["alone", "in the table"])
def test_a_batch_that_asks_to_run_a_command_is_refused(tmp_path, where):
    shell = Shell(f"touch {tmp_path}/ran")
    table = shell if where == "alone" else {"data": shell, "labels": [0]}
    write_tar(tmp_path / ARCHIVE, {**cifar10_members(), "test_batch": pickle.dumps(table)})
    text = fault(tmp_path, "test")
    assert text.endswith("test_batch asks to import posix.system, which no data may")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        # A place in memory far out, which alone would take gigabytes.
        b"\x80\x02}r\xff\xff\xff\x0f.",
        *(b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({1: 2})),
        # State given to a function that is allowed, and a call of one with what it does not take.
        b"c_codecs\nencode\n}(X\x01\x00\x00\x00xK\x01ub.",
        b"c_codecs\nencode\n(N}(X\x09\x00\x00\x00_functionK\x01utb.",
        b"cnumpy\ndtype\n(]tR.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x04r\xff\xff\xff\x7f.",
    ],
)
def test_a_batch_that_is_no_table_is_refused(content):
    with pytest.raises(ValueError, match=r"\w"):
        read_batch(content)


def test_an_array_of_another_order_or_content_is_refused(tmp_path):
    turned = python3_pickle({"data": np.asfortranarray(PIXELS + 1), "labels": [0, 1]})
    whole = python2_pickle({"data": PIXELS, "labels": [0, 1]})
    emptied = whole.replace(b"T" + struct.pack("<i", PIXELS.size) + PIXELS.tobytes(), b"]")
    assert len(emptied) < len(whole)
    for content in (turned, emptied):
        write_tar(tmp_path / ARCHIVE, {**cifar10_members(), "test_batch": content})
        assert "test_batch: 'data' is damaged (an array " in fault(tmp_path, "test")


@pytest.mark.parametrize("is_black", [False, True])
def test_flipped_bytes_of_the_archive_give_the_data_or_one_line(tmp_path, is_black):
    contents = cifar10_members(1)
    if is_black:
        # Then gzip has something to compress, and its stream can be damaged too.
        black = python2_pickle({"data": PIXELS, "labels": [0, 1]})
        contents = {name: black if "batch_" in name else c for name, c in contents.items()}
    write_tar(tmp_path / ARCHIVE, contents)
    whole = np.frombuffer((tmp_path / ARCHIVE).read_bytes(), np.uint8)
    random, refusals = np.random.RandomState(0), []
    for place in random.randint(0, len(whole), 100):
        flipped = whole.copy()
        flipped[place] ^= 1 << random.randint(0, 8)
        (tmp_path / ARCHIVE).write_bytes(flipped.tobytes())
        try:
            load(tmp_path, "test")
        except DataError as error:
            refusals.append(str(error))
    # All but those in gzip's header, which holds a name and a time that nobody needs.
    assert len(refusals) >= 90
    faults = (" is truncated or damaged (", " lacks ")
    assert all(any(text in refusal for text in faults) for refusal in refusals)
    assert all(refusal.startswith(f"{tmp_path / ARCHIVE}") for refusal in refusals)


def test_a_gzip_stream_that_makes_no_sense_after_the_data_is_damage(tmp_path):
    write_tar(tmp_path / ARCHIVE, cifar10_members())
    whole = gzip.decompress((tmp_path / ARCHIVE).read_bytes())
    packer = zlib.compressobj(wbits=31)
    stream = packer.compress(whole + bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    # A block of a type that there is not.
    (tmp_path / ARCHIVE).write_bytes(stream + b"\x07")
    assert fault(tmp_path).startswith(f"{tmp_path / ARCHIVE}: is truncated or damaged (")


def test_what_follows_the_archive_is_read_within_bounds(tmp_path, monkeypatch):
    write_tar(tmp_path / ARCHIVE, cifar10_members())
    whole = gzip.decompress((tmp_path / ARCHIVE).read_bytes())
    (tmp_path / ARCHIVE).write_bytes(gzip.compress(whole + bytes(3 << 20)))
    assert len(load(tmp_path)) == 20
    monkeypatch.setattr(members, "_MAX_BYTES", 2 << 20)
    assert fault(tmp_path) == f"{tmp_path / ARCHIVE}: holds more than {2 << 20} bytes"


def unpack(folder, members):
    folder.mkdir(parents=True)
    for name, content in members.items():
        (folder / name).write_bytes(content)


def test_an_unpacked_archive_that_lacks_a_batch_or_holds_too_much(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    members = cifar10_members()
    del members["data_batch_3"]
    unpack(folder, members)
    assert fault(tmp_path) == f"{folder} lacks data_batch_3"
    os.truncate(folder / "test_batch", (1 << 30) + 1)
    assert fault(tmp_path, "test") == f"{folder / 'test_batch'}: holds more than {1 << 30} bytes"


def test_an_unpacked_archive_in_the_cache_asks_no_mirror_and_is_not_downloaded_anew(home, mirror):
    folder = home / ".cache/paddle/dataset/cifar/cifar-10-batches-py"
    unpack(folder, cifar10_members())
    assert len(load_dataset(Cifar10("test"), "error")) == 4
    (folder / "test_batch").write_bytes(b"x")
    with pytest.raises(DataError, match="test_batch: is no batch of images") as caught:
        load_dataset(Cifar10("test"), "error")
    assert "downloaded anew" not in str(caught.value)
    assert mirror.requests == []


def test_flipped_bytes_give_a_batch_or_one_line(tmp_path):
    members = cifar10_members(1)
    random = np.random.RandomState(0)
    whole = np.frombuffer(members["test_batch"], np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes(members["batches.meta"])
    refusals = []
    for _ in range(300):
        flipped = whole.copy()
        # The first bytes and the last are where the structure is.
        place = random.randint(0, 200) if random.rand() < 0.5 else -1 - random.randint(0, 60)
        flipped[place] ^= 1 << random.randint(0, 8)
        (folder / "test_batch").write_bytes(flipped.tobytes())
        try:
            load(tmp_path, "test")
        except DataError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert all(text.startswith(f"{folder}: test_batch") for text in refusals)


def test_no_member_leads_out_of_the_archive(tmp_path):
    outside = tmp_path / "outside"
    secret = tmp_path / "secret"
    secret.write_bytes(cifar10_members()["test_batch"])
    link = tarfile.TarInfo("cifar-10-batches-py/test_batch")
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    climber = tarfile.TarInfo(f"../{outside.name}")
    climber.size = 3
    members = cifar10_members()
    del members["test_batch"]
    folder = tmp_path / "data"
    folder.mkdir()
    write_tar(folder / ARCHIVE, members, extra=[(climber, b"abc"), (link, b"")])
    assert fault(folder, "test") == f"{folder / ARCHIVE} lacks test_batch"
    assert len(load(folder)) == 20
    assert not outside.exists()
    assert [path.name for path in folder.iterdir()] == [ARCHIVE]


def test_an_archive_that_says_it_holds_terabytes_is_refused_unread(tmp_path):
    info = tarfile.TarInfo("cifar-10-batches-py/zeros")
    info.size = 1 << 40
    buffer = io.BytesIO()
    buffer.write(info.tobuf(tarfile.GNU_FORMAT))
    (tmp_path / ARCHIVE).write_bytes(gzip.compress(buffer.getvalue()))
    assert fault(tmp_path) == f"{tmp_path / ARCHIVE}: holds more than {1 << 30} bytes"


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="mode must be train or test, got 'val'"):
        Cifar10("val")
    with pytest.raises(ValueError, match="dataset_dir must name a folder, got ''"):
        Cifar100("train", "")
