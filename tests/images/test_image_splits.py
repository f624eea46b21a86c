from __future__ import annotations

import numpy as np
import pytest

from zookeeper.errors import InputError
from zookeeper.images.source import RawImages
from zookeeper.images.splits import cut_splits, keep_share
from zookeeper.images.streams import draw_bits, draw_permutation


@pytest.mark.parametrize("num", [5, 10, 101, 1797])
@pytest.mark.parametrize("split", [(0.6, 0.2, 0.2), (0.34, 0.33, 0.33), (0.5, 0.0, 0.5), (0.4, 0.2, 0.4)])
def test_parts_cover_the_set_without_overlap(num: int, split: tuple[float, float, float]) -> None:
    fractions = dict(zip(("train", "val", "test"), split, strict=True))
    parts = cut_splits(num, 0, fractions, seed=1, name="toy")
    assert list(parts) == ["train", "val", "test"]
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(num))
    for part, numbers in parts.items():
        assert numbers.dtype == np.int64
        assert np.array_equal(numbers, np.sort(numbers))
        assert abs(len(numbers) - num * fractions[part]) <= 1


def test_sizes_do_not_depend_on_float_noise() -> None:
    parts = cut_splits(1000, 0, {"train": 0.7, "val": 0.1, "test": 0.2}, seed=0, name="toy")
    assert [len(numbers) for numbers in parts.values()] == [700, 100, 200]
    parts = cut_splits(10, 0, {"train": 0.1 + 0.2, "val": 0.05, "test": 0.65}, seed=0, name="toy")
    assert [len(numbers) for numbers in parts.values()] == [3, 1, 6]


def test_order_of_keys_plays_no_part() -> None:
    first = cut_splits(50, 0, {"train": 0.7, "val": 0.1, "test": 0.2}, seed=0, name="toy")
    second = cut_splits(50, 0, {"test": 0.2, "train": 0.7, "val": 0.1}, seed=0, name="toy")
    assert all(np.array_equal(first[part], second[part]) for part in first)


def test_seeds_draw_different_splits() -> None:
    draws = {
        cut_splits(100, 0, {"train": 0.5, "val": 0.25, "test": 0.25}, seed=seed, name="toy")["train"].tobytes()
        for seed in range(20)
    }
    assert len(draws) == 20


def test_official_test_part_stays_whole() -> None:
    for split in ({"train": 0.9, "val": 0.1}, {"train": 0.9, "val": 0.1, "test": 0.0}):
        parts = cut_splits(70, 10, split, seed=0, name="toy")
        assert parts["test"].tolist() == list(range(60, 70))
        assert len(parts["train"]) == 54
        assert np.array_equal(np.sort(np.concatenate([parts["train"], parts["val"]])), np.arange(60))
    assert len(cut_splits(70, 10, {"train": 1.0}, seed=0, name="toy")["val"]) == 0


@pytest.mark.parametrize(
    ("split", "official", "message"),
    [
        ({"train": 0.8, "val": 0.1, "test": 0.1}, 10, "official test part, .* got test: 0.1. Remove test"),
        ({"train": 0.9, "val": 0.1}, 0, r"images\.split\.test: missing or 0; toy needs"),
        ({"val": 0.5, "test": 0.5}, 0, r"images\.split\.train: missing or 0"),
        ({"val": 1.0}, 10, r"images\.split\.train: missing or 0"),
        ({"train": 0.8, "val": 0.1, "test": 0.2}, 0, "must add up to 1, got 1.1"),
        ({"train": 0.8, "val": 0.1}, 10, "must add up to 1, got 0.9"),
        ({"train": 1.2, "val": -0.2}, 10, r"images\.split\.train: expected a fraction from 0 to 1, got 1.2"),
        ({"train": float("nan"), "val": 0.1}, 10, "expected a fraction from 0 to 1, got nan"),
        ({"train": 0.9, "valid": 0.1}, 10, "unknown part 'valid'; expected train, val, test"),
        ({"train": 0.999, "val": 0.001}, 10, r"images\.split\.val: 0.001 of the 60 images of toy is none"),
    ],
)
def test_bad_fractions_are_refused(split: dict[str, float], official: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut_splits(70, official, split, seed=0, name="toy")


def test_streams_are_fixed_for_ever() -> None:
    assert draw_bits(7, "purpose", 2).tolist() == [3714063847471807771, 7697049221232607931]
    assert draw_permutation(0, "split", 8).tolist() == [1, 5, 4, 6, 7, 3, 2, 0]


def test_streams_depend_on_seed_and_purpose() -> None:
    assert len({draw_bits(seed, purpose, 1)[0] for seed in (0, 1, 10) for purpose in ("a", "b", "a/1")}) == 9


def test_permutations_are_permutations() -> None:
    for num in (0, 1, 2, 1000):
        assert np.array_equal(np.sort(draw_permutation(0, "split", num)), np.arange(num))


def toy_images(cut: int, val: int, test: int) -> RawImages:
    num = cut + val + test
    return RawImages(np.zeros((num, 1, 2, 2), np.uint8), np.arange(num), num, test, val)


def test_a_share_keeps_parts_apart_and_grows() -> None:
    raw = toy_images(100, 20, 40)
    small, large = (keep_share(raw, share, seed=3, name="toy") for share in (0.1, 0.5))
    assert (len(small.labels), small.num_official_val, small.num_official_test) == (16, 2, 4)
    assert np.searchsorted(small.labels, (100, 120)).tolist() == [10, 12]
    assert np.array_equal(small.labels, np.sort(small.labels))
    assert set(small.labels) < set(large.labels)
    assert not np.array_equal(small.labels, keep_share(raw, 0.1, seed=4, name="toy").labels)
    assert keep_share(raw, 1, seed=0, name="toy") is raw


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"images\.share: expected a share above 0 and at most 1, got 1\.5"):
        keep_share(toy_images(9, 0, 0), 1.5, seed=0, name="toy")
    with pytest.raises(InputError, match=r"images\.share: 0\.1 of the 4 images of the test part of toy is none"):
        keep_share(toy_images(90, 0, 4), 0.1, seed=0, name="toy")
