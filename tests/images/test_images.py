from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zookeeper.errors import InputError
from zookeeper.images import ImageSet, image_set_names, load_images
from zookeeper.images.imageset import measure_channels
from zookeeper.spec.names import IMAGE_SETS

SPLIT = {"train": 0.7, "val": 0.1, "test": 0.2}


def toy(**changes: Any) -> ImageSet:
    values: dict[str, Any] = {
        "name": "toy",
        "images": np.arange(48, dtype=np.uint8).reshape(4, 3, 2, 2),
        "labels": np.array([0, 1, 2, 1]),
        "indices": {"train": np.array([0, 3]), "val": np.array([1]), "test": np.array([2])},
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "num_classes": 3,
    }
    return ImageSet(**(values | changes))


def test_names_are_those_a_spec_may_use() -> None:
    assert image_set_names() == tuple(sorted(IMAGE_SETS))


def test_digits() -> None:
    images = load_images("digits", split=SPLIT, seed=0)
    assert images.image_shape == (1, 8, 8)
    assert images.images.shape == (1797, 1, 8, 8)
    assert images.num_classes == 10
    assert [images.count(part) for part in ("train", "val", "test")] == [1258, 180, 359]
    assert images.images.dtype == np.uint8
    assert len(np.unique(images.images)) == 17
    assert images.images.max() == 255
    assert np.bincount(images.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_pixels_of_digits_are_those_of_the_source() -> None:
    from sklearn import datasets

    images = load_images("digits", split=SPLIT, seed=0, normalise="none")
    expected = datasets.load_digits().images / 16
    assert np.abs(images.normalised(np.arange(1797))[:, 0] - expected).max() <= 0.5 / 255 + 1e-6


def test_tetris() -> None:
    images = load_images("tetris", split=SPLIT, seed=0)
    assert images.image_shape == (1, 4, 4)
    assert np.bincount(images.labels).tolist() == [250] * 4
    typical = np.stack([images.images[images.labels == k, 0].mean(axis=0) > 128 for k in range(4)])
    assert typical.sum(axis=(1, 2)).tolist() == [4, 4, 4, 4]
    assert len({shape.tobytes() for shape in typical}) == 4
    assert len(np.unique(images.images, axis=0)) == 1000
    noise = images.images[images.labels == 0, 0][:, ~typical[0]].astype(float)
    assert 60 < noise.mean() < 70
    assert 40 < noise.std() < 50


def test_seed_draws_tetris_and_splits() -> None:
    first, again, other = (load_images("tetris", split=SPLIT, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not np.array_equal(first.images, other.images)
    assert not np.array_equal(first.indices["train"], other.indices["train"])


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [("digits", "cfebdbe1e88c124a728f55a12a08e590"), ("tetris", "3e8e98d82cca5e2ca22624163c1b1118")],
)
def test_content_is_the_same_on_every_machine(name: str, fingerprint: str) -> None:
    assert load_images(name, split=SPLIT, seed=0).fingerprint == fingerprint


def test_fingerprint_covers_what_a_network_sees() -> None:
    base = toy()
    assert len(base.fingerprint) == 32
    assert toy().fingerprint == base.fingerprint
    images = base.images.copy()
    images[0, 0, 0, 0] += 1
    changes: list[dict[str, Any]] = [
        {"images": images},
        {"images": base.images.reshape(4, 3, 4, 1)},
        {"labels": np.array([0, 1, 2, 2])},
        {"indices": {"train": np.array([0, 1]), "val": np.array([3]), "test": np.array([2])}},
        {"indices": {"train": np.array([0]), "val": np.array([3, 1][::-1]), "test": np.array([2])}},
        {"mean": (0.1, 0.2, 0.31)},
        {"std": (0.4, 0.5, 0.61)},
        {"num_classes": 4},
    ]
    fingerprints = {toy(**change).fingerprint for change in changes}
    assert len(fingerprints | {base.fingerprint}) == len(changes) + 1


def test_normalised_is_the_formula() -> None:
    images = toy()
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (images.mean, images.std))
    expected = (images.images / 255 - mean) / std
    assert images.normalised("train").dtype == np.float32
    np.testing.assert_allclose(images.normalised("train"), expected[[0, 3]], rtol=1e-6)
    np.testing.assert_allclose(images.normalised(np.array([3, 1, 1])), expected[[3, 1, 1]], rtol=1e-6)
    assert images.labels_of("train").tolist() == [0, 1]
    assert images.labels_of(np.array([2, 0])).tolist() == [2, 0]


def test_auto_standardises_the_train_split() -> None:
    images = load_images("digits", split=SPLIT, seed=3)
    train = images.normalised("train").astype(np.float64)
    assert abs(train.mean()) < 1e-6
    assert abs(train.std() - 1) < 1e-6


def test_normalise_choices() -> None:
    none = load_images("tetris", split=SPLIT, seed=0, normalise="none")
    assert (none.mean, none.std) == ((0.0,), (1.0,))
    given = load_images("tetris", split=SPLIT, seed=0, normalise={"mean": [0.5], "std": [0.25]})
    assert (given.mean, given.std) == ((0.5,), (0.25,))
    half = load_images("tetris", split=SPLIT, seed=0, normalise="half")
    assert (half.mean, half.std) == ((0.5,), (0.5,))


def test_measure_channels_equals_numpy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5000, 3, 2, 2)).astype(np.uint8)
    mean, std = measure_channels(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-12)
    assert measure_channels(np.full((2, 1, 3, 3), 7, dtype=np.uint8))[1] == (1.0,)
    with pytest.raises(InputError, match="no images"):
        measure_channels(images[:0])


def test_is_a_value() -> None:
    images = load_images("tetris", split=SPLIT, seed=0)
    restored = pickle.loads(pickle.dumps(images))
    assert restored.fingerprint == images.fingerprint
    assert "array" not in repr(images)
    with pytest.raises(dataclasses.FrozenInstanceError):
        images.name = "other"  # type: ignore[misc]
    for array in (images.images, images.labels, images.indices["train"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert images.normalised("test").flags.writeable
    assert images.labels_of("test").flags.writeable


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((4, 3, 2, 2))}, "images must be uint8"),
        ({"labels": np.array([0, 1])}, r"one label per image \(4\)"),
        ({"labels": np.array([0, 1, 2, 3])}, r"labels must lie in 0\.\.2, got 0\.\.3"),
        ({"indices": {"train": np.array([0])}}, "expected indices of train, val, test"),
        ({"indices": {"train": np.array([0, 1]), "val": np.array([1]), "test": np.array([2])}}, "different image"),
        ({"indices": {"train": np.array([0, 4]), "val": np.array([1]), "test": np.array([2])}}, "different image"),
        ({"indices": {"train": np.array([3, 0]), "val": np.array([1]), "test": np.array([2])}}, "sorted"),
        ({"mean": (0.5,)}, "expected 3 means"),
        ({"std": (0.4, 0.0, 0.6)}, "above 0"),
        ({"mean": (0.4, float("nan"), 0.6)}, "finite"),
    ],
)
def test_parts_must_belong_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        toy(**changes)


@pytest.mark.parametrize(
    ("name", "normalise", "message"),
    [
        ("digit", "auto", "unknown image set 'digit'; .* Did you mean digits?"),
        ("digits", "imagenets", "unknown value 'imagenets'; expected auto, half, imagenet, none, or"),
        ("digits", "imagenet", "expected 1 means"),
        ("digits", {"mean": [0.5]}, "expected mean and std, got mean"),
        ("digits", {"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "expected 1 means"),
        ("digits", {"mean": [0.5], "std": [0]}, "above 0"),
    ],
)
def test_bad_arguments_are_refused(name: str, normalise: str | Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_images(name, split=SPLIT, seed=0, normalise=normalise)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(InputError, match="unknown split 'valid'"):
        toy().count("valid")


def test_offline_sets_need_no_torch() -> None:
    code = (
        "import sys\nfrom zookeeper.images import load_images\n"
        "load_images('digits', split={'train': 0.7, 'val': 0.1, 'test': 0.2}, seed=0).fingerprint\n"
        "load_images('tetris', split={'train': 0.7, 'val': 0.1, 'test': 0.2}, seed=0).normalised('train')\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
