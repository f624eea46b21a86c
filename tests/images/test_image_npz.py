from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zookeeper.errors import InputError
from zookeeper.images import ImageSet, load_images

SPLIT = {"train": 0.5, "val": 0.25, "test": 0.25}
OFFICIAL = {"train": 0.75, "val": 0.25}
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 6, 5), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def load(root: Path, split: dict[str, float] = SPLIT) -> ImageSet:
    return load_images("npz", split=split, seed=0, root=root, path="sets/x.npz")


def place(root: Path) -> Path:
    (root / "sets").mkdir(exist_ok=True)
    return root / "sets" / "x.npz"


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.astype(np.uint8)])
def test_one_part(tmp_path: Path, compressed: bool, labels: np.ndarray) -> None:
    (np.savez_compressed if compressed else np.savez)(place(tmp_path), images=IMAGES, labels=labels, other=np.ones(3))
    images = load(tmp_path)
    assert np.array_equal(images.images, IMAGES[:, None])
    assert np.array_equal(images.labels, LABELS)
    assert images.num_classes == 3
    assert [images.count(part) for part in ("train", "val", "test")] == [4, 2, 2]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_two_parts_and_both_places_of_channels(tmp_path: Path, first: bool, channels: int) -> None:
    train, test = (RNG.integers(0, 256, (num, channels, 6, 5), dtype=np.uint8) for num in (8, 3))
    stored = [images if first else images.transpose(0, 2, 3, 1) for images in (train, test)]
    np.savez(place(tmp_path), x_train=stored[0], y_train=LABELS, x_test=stored[1], y_test=LABELS[:3])
    images = load(tmp_path, OFFICIAL)
    assert np.array_equal(images.images, np.concatenate([train, test]))
    assert images.indices["test"].tolist() == [8, 9, 10]


def test_fortran_order_and_stated_number_of_classes(tmp_path: Path) -> None:
    np.savez(place(tmp_path), images=np.asfortranarray(IMAGES), labels=LABELS * 2, num_classes=np.int64(7))
    images = load(tmp_path)
    assert np.array_equal(images.images[:, 0], IMAGES)
    assert images.num_classes == 7


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "expected the arrays images and labels, or x_train, .* got images"),
        ({}, "got no array"),
        (
            {"images": IMAGES, "labels": LABELS} | dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), 0),
            "not both",
        ),
        ({"images": IMAGES / 255, "labels": LABELS}, "images: expected uint8 in 0..255, got float64"),
        ({"images": IMAGES.astype(np.int64), "labels": LABELS}, "expected uint8"),
        ({"images": IMAGES[0], "labels": LABELS}, r"images: expected shape \[n, H, W\], .* got \(6, 5\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"got \(0, 6, 5\)"),
        ({"images": IMAGES[:, None, None], "labels": LABELS}, "expected shape"),
        ({"images": IMAGES.reshape(8, 5, 3, 2), "labels": LABELS}, "neither the second nor the last axis has 1 or 3"),
        ({"images": np.zeros((8, 3, 3, 3), np.uint8), "labels": LABELS}, "both could be channels"),
        ({"images": IMAGES, "labels": LABELS[:7]}, r"labels: expected 8 whole numbers, .* got int64 \(7,\)"),
        ({"images": IMAGES, "labels": LABELS.astype(float)}, "expected 8 whole numbers"),
        ({"images": IMAGES, "labels": np.array(list("abcabcab"))}, "expected 8 whole numbers"),
        ({"images": IMAGES, "labels": np.eye(8, dtype=int)}, r"expected 8 whole numbers.*\(8, 8\)"),
        ({"images": IMAGES, "labels": LABELS - 1}, r"labels must be class numbers from 0, got -1\.\.1"),
        ({"images": IMAGES, "labels": LABELS + (1 << 40)}, "labels must be class numbers from 0"),
        ({"images": IMAGES, "labels": LABELS + 1}, "no image has label 0, though labels go up to 3"),
        ({"images": IMAGES, "labels": LABELS * 2}, "no image has label 1, though labels go up to 4"),
        ({"images": IMAGES, "labels": LABELS, "num_classes": 2}, r"labels must lie in 0\.\.1, .* got 0\.\.2"),
        ({"images": IMAGES, "labels": LABELS, "num_classes": 2.5}, "num_classes: expected one whole number"),
        ({"images": IMAGES, "labels": LABELS, "num_classes": [3, 3]}, "num_classes: expected one whole number"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(place(tmp_path), **arrays)
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(place(tmp_path)))
    assert "\n" not in str(caught.value)


def test_parts_of_different_sizes_are_refused(tmp_path: Path) -> None:
    np.savez(place(tmp_path), x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:, 1:], y_test=LABELS)
    with pytest.raises(InputError, match=r"x_train and x_test have shapes .* one size"):
        load(tmp_path, OFFICIAL)


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("key", ["images", "labels"])
def test_objects_are_never_unpickled(tmp_path: Path, key: str) -> None:
    arrays: dict[str, Any] = {"images": IMAGES, "labels": LABELS}
    arrays[key] = np.array([Hostile(tmp_path / "executed")] * 8, dtype=object)
    np.savez(place(tmp_path), **arrays)
    with pytest.raises(InputError, match=rf"{key}: holds Python objects, which are never opened"):
        load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    place(tmp_path).write_bytes(pickle.dumps(Hostile(tmp_path / "executed")))
    with pytest.raises(InputError, match=r"not a readable .npz file"):
        load(tmp_path)
    assert not (tmp_path / "executed").exists()


def header(shape: tuple[int, ...], version: tuple[int, int] = (1, 0)) -> bytes:
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version < (2, 0) else "<I", len(text)) + text


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (header((1 << 40, 6, 5)), "needs 32985348833280 bytes, but 0 are there"),
        (header((8, 6, 5)) + bytes(239), "needs 240 bytes, but 239 are there"),
        (header((8, 6, 5)) + bytes(241), "needs 240 bytes, but 241 are there"),
        (header((8, 6, 5), (3, 0)) + bytes(240), r"version \(3, 0\) is not supported"),
        (header((-8, 6, 5)) + bytes(240), "needs -240 bytes"),
        (b"\x93NUMPY", "not a readable .npz file"),
        (b"", "not a readable .npz file"),
        (b"just text", "not a readable .npz file"),
    ],
)
def test_headers_that_lie_are_refused_before_memory_is_taken(tmp_path: Path, images: bytes, message: str) -> None:
    labels = io.BytesIO()
    np.save(labels, LABELS)
    with zipfile.ZipFile(place(tmp_path), "w") as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", labels.getvalue())
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = place(tmp_path)
    np.savez_compressed(path, images=IMAGES, labels=LABELS)
    data = path.read_bytes()
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"not a readable .npz file"):
            load(tmp_path)


def test_flipped_bytes_are_refused_or_change_no_pixel(tmp_path: Path) -> None:
    path = place(tmp_path)
    np.savez_compressed(path, images=IMAGES, labels=LABELS)
    data = path.read_bytes()
    num_refused = 0
    for position in range(0, len(data), 5):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            images = load(tmp_path)
        except InputError:
            num_refused += 1
        else:
            assert np.array_equal(images.images[:, 0], IMAGES)
    assert num_refused > len(data) / 5 / 2


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image set npz: nothing found at .*sets/x\.npz"):
        load(tmp_path)
    place(tmp_path).mkdir()
    with pytest.raises(InputError, match=r"expected a .npz file, got a folder"):
        load(tmp_path)
