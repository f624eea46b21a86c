"""Cut an image set into train, val and test: seeded, the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from zookeeper.errors import InputError
from zookeeper.images.imageset import SPLITS
from zookeeper.images.source import RawImages
from zookeeper.images.streams import draw_permutation


def cut_splits(
    num_images: int,
    num_official_test: int,
    split: Mapping[str, float],
    *,
    seed: int,
    name: str,
    num_official_val: int = 0,
) -> dict[str, NDArray[np.int64]]:
    """Draw sorted, disjoint image numbers of "train", "val" and "test".

    A set with an official test part keeps it as "test" (it must be the last ``num_official_test`` images), and
    ``train`` and ``val`` are fractions of the other images; ``test`` is then absent or 0. A set without one needs
    all of ``train``, ``val`` and ``test``, or ``val: 0``. An official validation part, the images before the test
    part, is kept as "val" in the same way. Either way the fractions add up to 1. The draw is not stratified.
    Boundaries are the cumulative fractions times the number of images, rounded half up.

    Parameters
    ----------
    num_images
        Number of all images, the official test part included.
    num_official_test
        How many of them are the official test part; 0 if there is none.
    split
        Fractions in [0, 1] by name.
    seed
        Seed of the draw; other draws with the same seed are unrelated to it.
    name
        Image set, for errors.
    num_official_val
        How many images before the test part are the official validation part.

    Raises
    ------
    InputError
        If a fraction is unknown, missing or out of range, the sum is not 1, or a split with a fraction above 0
        would be empty.

    Examples
    --------
    >>> parts = cut_splits(10, 0, {"train": 0.6, "val": 0.1, "test": 0.3}, seed=0, name="toy")
    >>> {key: len(numbers) for key, numbers in parts.items()}
    {'train': 6, 'val': 1, 'test': 3}
    >>> parts = cut_splits(10, 4, {"train": 0.5, "val": 0.5}, seed=0, name="toy")
    >>> parts["test"]
    array([6, 7, 8, 9])
    """
    official = [part for part, num in (("val", num_official_val), ("test", num_official_test)) if num > 0]
    fractions = _check_fractions(split, official, name=name)
    num_cut = num_images - num_official_test - num_official_val
    order = draw_permutation(seed, "image-split", num_cut)
    parts: dict[str, NDArray[np.int64]] = {}
    start, cumulative = 0, 0.0
    for part, fraction in fractions.items():
        cumulative += fraction
        stop = num_cut if cumulative > 1 - 1e-6 else math.floor(num_cut * cumulative + 0.5 + 1e-9)
        parts[part] = np.sort(order[start:stop])
        start = stop
        if fraction > 0 and not len(parts[part]):
            raise InputError(
                f"images.split.{part}: {fraction} of the {num_cut} images of {name} is none; "
                "expected at least one image. Choose a larger fraction."
            )
    if num_official_val:
        parts["val"] = np.arange(num_cut, num_cut + num_official_val, dtype=np.int64)
    if num_official_test:
        parts["test"] = np.arange(num_images - num_official_test, num_images, dtype=np.int64)
    return {part: parts[part] for part in SPLITS}


def usual_split(raw: RawImages) -> dict[str, float]:
    """Fractions 0.7, 0.1 and 0.2 of train, val and test; without the parts that the set brings along, in proportion.

    >>> raw = RawImages(np.zeros((10, 1, 1, 1), np.uint8), np.arange(10), 10, num_official_test=4)
    >>> usual_split(raw)
    {'train': 0.875, 'val': 0.125}
    """
    official = {"val": raw.num_official_val, "test": raw.num_official_test}
    tenths = {part: num for part, num in {"train": 7, "val": 1, "test": 2}.items() if not official.get(part)}
    return {part: num / sum(tenths.values()) for part, num in tenths.items()}


def keep_share(raw: RawImages, share: float, *, seed: int, name: str) -> RawImages:
    """Keep a share of the images of every part: those that are cut, the official validation and test part.

    Each part keeps the share times its number of images, rounded half up, drawn by ``seed`` and in their old order.
    A larger share of the same seed holds all images of a smaller one. The draw is not stratified.

    Parameters
    ----------
    raw
        All images of the set.
    share
        Above 0 and at most 1; 1 returns ``raw``.
    seed
        Seed of the draw, unrelated to that of the cut.
    name
        Image set, for errors.

    Raises
    ------
    InputError
        If the share is out of range, or leaves a part without an image.

    Examples
    --------
    >>> raw = RawImages(np.zeros((10, 1, 1, 1), np.uint8), np.arange(10), 10, num_official_test=4)
    >>> half = keep_share(raw, 0.5, seed=0, name="toy")
    >>> len(half.labels), half.num_official_test, bool((half.labels[-2:] >= 6).all())
    (5, 2, True)
    """
    if not 0 < share <= 1:
        raise InputError(f"images.share: expected a share above 0 and at most 1, got {share}.")
    if share == 1:
        return raw
    official = {"val": raw.num_official_val, "test": raw.num_official_test}
    sizes = {"cut": len(raw.images) - sum(official.values()), **official}
    kept, start, numbers = {}, 0, []
    for part, size in sizes.items():
        kept[part] = math.floor(size * share + 0.5 + 1e-9)
        if size and not kept[part]:
            whose = name if part == "cut" else f"the {part} part of {name}"
            raise InputError(
                f"images.share: {share} of the {size} images of {whose} is none; expected at least one. "
                "Choose a larger share."
            )
        numbers.append(start + np.sort(draw_permutation(seed, f"image-share-{part}", size)[: kept[part]]))
        start += size
    chosen = np.concatenate(numbers)
    return RawImages(raw.images[chosen], raw.labels[chosen], raw.num_classes, kept["test"], kept["val"])


def _check_fractions(split: Mapping[str, float], official: Sequence[str], *, name: str) -> dict[str, float]:
    for part, fraction in split.items():
        if part not in SPLITS:
            raise InputError(f"images.split: unknown part {part!r}; expected {', '.join(SPLITS)}.")
        if not 0 <= fraction <= 1:
            raise InputError(f"images.split.{part}: expected a fraction from 0 to 1, got {fraction}.")
    wanted = tuple(part for part in SPLITS if part not in official)
    for part in official:
        if split.get(part, 0) > 0:
            alone = f"fractions {' and '.join(wanted)} alone" if len(wanted) > 1 else "train: 1"
            raise InputError(
                f"images.split.{part}: {name} has an official {part} part, which is always the {part} split; "
                f"expected {alone}, got {part}: {split[part]}. Remove {part}."
            )
    fractions = {part: float(split.get(part, 0)) for part in wanted}
    for part in wanted:
        if part != "val" and fractions[part] == 0:
            raise InputError(f"images.split.{part}: missing or 0; {name} needs a fraction above 0 here.")
    total = math.fsum(fractions.values())
    if abs(total - 1) > 1e-6:
        raise InputError(f"images.split: the fractions {', '.join(wanted)} must add up to 1, got {total:g}.")
    return fractions
