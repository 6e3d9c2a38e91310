"""Archives are read as written, and each kind of damage is one clear line."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from archives import idx_images, idx_labels, random_images

from ppema.data.idx import read_idx_images, read_idx_labels, read_idx_pair
from ppema.errors import DataError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "images.gz"


def message(read, *arguments, **options):
    with pytest.raises(DataError) as caught:
        read(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_images_and_labels_come_back_as_written(tmp_path, pack):
    images = random_images(7)
    labels = [3, 1, 4, 1, 5, 9, 0]
    (tmp_path / "images").write_bytes(pack(idx_images(images)))
    (tmp_path / "labels").write_bytes(pack(idx_labels(labels)))
    found_images, found_labels = read_idx_pair(tmp_path / "images", tmp_path / "labels", (28, 28))
    np.testing.assert_array_equal(found_images, images)
    np.testing.assert_array_equal(found_labels, labels)
    assert found_images.dtype == found_labels.dtype == np.uint8


def test_original_archives_hold_what_they_are_known_for(real_mnist):
    images, labels = read_idx_pair(
        real_mnist / "t10k-images-idx3-ubyte.gz", real_mnist / "t10k-labels-idx1-ubyte.gz"
    )
    assert images.shape == (10000, 28, 28)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


def test_wrong_magic_of_images(path):
    path.write_bytes(gzip.compress(idx_images(random_images(2), magic=9999)))
    assert message(read_idx_images, path) == f"{path}: magic 9999, expected 2051"


def test_labels_given_as_images(path):
    path.write_bytes(gzip.compress(idx_labels([1, 2])))
    assert message(read_idx_images, path) == f"{path}: magic 2049, expected 2051"


def test_images_given_as_labels(path):
    path.write_bytes(gzip.compress(idx_images(random_images(2))))
    assert message(read_idx_labels, path) == f"{path}: magic 2051, expected 2049"


def test_header_that_promises_more_than_there_is(path):
    path.write_bytes(gzip.compress(idx_images(random_images(10, size=4), num_images=20)))
    assert message(read_idx_images, path) == f"{path}: header says 20 images, data holds 10"


def test_header_that_promises_less_than_there_is(path):
    path.write_bytes(gzip.compress(idx_images(random_images(10, size=4), num_images=9)))
    assert message(read_idx_images, path) == f"{path}: header says 9 images, data holds more"


def test_a_single_missing_byte_counts_as_a_missing_image(path):
    path.write_bytes(gzip.compress(idx_images(random_images(10, size=4))[:-1]))
    assert message(read_idx_images, path) == f"{path}: header says 10 images, data holds 9"


def test_label_out_of_range_is_named_with_its_place(path):
    path.write_bytes(gzip.compress(idx_labels([255, 1])))
    assert message(read_idx_labels, path) == f"{path}: label 255 at sample 0; classes are 0-9"
    path.write_bytes(gzip.compress(idx_labels([0, 9, 10])))
    assert message(read_idx_labels, path) == f"{path}: label 10 at sample 2; classes are 0-9"


def test_classes_can_be_fewer(path):
    path.write_bytes(gzip.compress(idx_labels([0, 2, 3])))
    text = message(read_idx_labels, path, num_classes=3)
    assert text == f"{path}: label 3 at sample 2; classes are 0-2"


def test_more_labels_than_images(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx_images(random_images(2)))
    labels.write_bytes(idx_labels([1, 2, 3]))
    text = message(read_idx_pair, images, labels)
    assert text == f"{labels}: 3 labels for the 2 images in {images}"


def test_images_of_another_size(path):
    path.write_bytes(gzip.compress(idx_images(np.zeros((2, 14, 56), np.uint8))))
    assert read_idx_images(path).shape == (2, 14, 56)
    text = message(read_idx_images, path, (28, 28))
    assert text == f"{path}: images are 14x56, expected 28x28"


@pytest.mark.parametrize("kept", [1, 9, 12, 200, -9, -8, -1])
def test_truncated_gzip(path, kept):
    whole = gzip.compress(idx_images(random_images(3)))
    path.write_bytes(whole[:kept])
    text = message(read_idx_images, path)
    too_short = f"{path}: 1 bytes long, too short for a header"
    truncated = f"{path}: truncated, its gzip stream ends too early"
    # One byte is not enough to know gzip by.
    assert text == (too_short if kept == 1 else truncated)


@pytest.mark.parametrize("place", [-8, -5, -4, -1], ids=["crc", "crc end", "size", "size end"])
def test_flipped_checksum(path, place):
    whole = bytearray(gzip.compress(idx_images(random_images(3))))
    whole[place] ^= 1
    path.write_bytes(whole)
    assert message(read_idx_images, path).startswith(f"{path}: damaged gzip file (")


def test_no_flipped_byte_of_the_data_is_missed(path):
    whole = gzip.compress(idx_images(random_images(1, size=8)))
    for place in range(10, len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 0x55
        path.write_bytes(flipped)
        assert message(read_idx_images, path).startswith(f"{path}: ")


def test_text_after_the_gzip_stream(path):
    path.write_bytes(gzip.compress(idx_images(random_images(3))) + b"<html>")
    assert message(read_idx_images, path).startswith(f"{path}: damaged gzip file (")


@pytest.mark.parametrize("size", [0, 4, 15])
def test_file_shorter_than_its_header(path, size):
    path.write_bytes(idx_images(random_images(1))[:size])
    assert message(read_idx_images, path) == f"{path}: {size} bytes long, too short for a header"


@pytest.mark.parametrize("shape", [(0, 28, 28), (3, 0, 28)])
def test_archive_without_a_pixel(path, shape):
    path.write_bytes(struct.pack(">4I", 2051, *shape))
    assert f"{path}: header says {shape[0]} images of" in message(read_idx_images, path)


def test_missing_file_and_folder(tmp_path):
    text = message(read_idx_images, tmp_path / "none")
    assert text == f"{tmp_path / 'none'}: No such file or directory"
    assert message(read_idx_images, tmp_path) == f"{tmp_path}: Is a directory"


def test_absurd_count_reserves_no_memory(path):
    path.write_bytes(struct.pack(">4I", 2051, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF))
    assert "at most 1073741824 bytes are read" in message(read_idx_images, path)
    # A count just below the limit is believed only as far as there are bytes.
    path.write_bytes(struct.pack(">4I", 2051, 1000, 1000, 1000) + bytes(100))
    tracemalloc.start()
    try:
        message(read_idx_images, path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_bomb_is_not_unpacked_beyond_what_the_header_says(path):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(idx_images(random_images(1)))
    packed += b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    path.write_bytes(packed)
    tracemalloc.start()
    try:
        assert message(read_idx_images, path) == f"{path}: header says 1 images, data holds more"
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
