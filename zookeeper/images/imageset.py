"""A labelled image set in memory, cut into train, val and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from zookeeper.errors import InputError

SPLITS = ("train", "val", "test")
ScalarT = TypeVar("ScalarT", bound=np.generic)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, labels, the split and the normalisation; a value whose arrays are read-only.

    Two sets are the same where their fingerprints are. ``images`` are ``[n, C, H, W]`` in 0..255, ``labels`` ``[n]``
    in 0..K-1, ``indices`` sorted image numbers of "train", "val" and "test" without overlap, ``mean`` and ``std``
    one number per channel on the scale where pixels are 0..1. ``augment`` says how training is to change images at
    random; it is only carried, and no part of the fingerprint.

    Raises
    ------
    InputError
        If arrays, indices and statistics do not belong together.

    Examples
    --------
    >>> parts = {"train": np.array([0, 1]), "val": np.array([], dtype=np.int64), "test": np.array([2])}
    >>> pixels = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * 51
    >>> images = ImageSet("toy", pixels, np.array([0, 1, 1]), parts, mean=(0.2,), std=(0.5,), num_classes=2)
    >>> images.image_shape, images.count("train")
    ((1, 1, 1), 2)
    >>> images.normalised("test").ravel().tolist() == [np.float32((2 * 51 / 255 - 0.2) / 0.5)]
    True
    """

    name: str
    images: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    indices: Mapping[str, NDArray[np.int64]] = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    augment: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check()
        frozen = {split: _read_only(self.indices[split], np.int64) for split in SPLITS}
        object.__setattr__(self, "images", _read_only(self.images, np.uint8))
        object.__setattr__(self, "labels", _read_only(self.labels, np.int64))
        object.__setattr__(self, "indices", frozen)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.images.shape
        return int(channels), int(height), int(width)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits (XXH3, 128 bit) of the pixels, labels, split and normalisation, the same on every machine."""
        digest = xxhash.xxh3_128()
        digest.update(repr((self.images.shape, self.num_classes, [self.count(split) for split in SPLITS])).encode())
        digest.update(self.images.data)
        for array in (self.labels, *(self.indices[split] for split in SPLITS)):
            digest.update(array.astype("<i8").tobytes())
        digest.update(np.array([self.mean, self.std], dtype="<f8").tobytes())
        text: str = digest.hexdigest()
        return text

    def count(self, split: str) -> int:
        """Number of images in a split."""
        return len(self._numbers(split))

    def normalised(self, which: str | NDArray[np.integer]) -> NDArray[np.float32]:
        """Compute ``(pixel / 255 - mean) / std`` of a split or of numbered images, as a new array ``[n, C, H, W]``.

        Parameters
        ----------
        which
            "train", "val", "test", or image numbers in any order.
        """
        numbers = self._numbers(which)
        result = np.empty((len(numbers), *self.image_shape), dtype=np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            table = ((np.arange(256) / 255 - mean) / std).astype(np.float32)
            result[:, channel] = table[self.images[numbers, channel]]
        return result

    def labels_of(self, which: str | NDArray[np.integer]) -> NDArray[np.int64]:
        """Labels of a split or of numbered images, as a new array ``[n]`` in the order of `normalised`."""
        labels: NDArray[np.int64] = self.labels[self._numbers(which)]
        return labels

    def _numbers(self, which: str | NDArray[np.integer]) -> NDArray[np.integer]:
        if not isinstance(which, str):
            return np.asarray(which)
        if which not in self.indices:
            raise InputError(f"image set {self.name}: unknown split {which!r}; expected {', '.join(SPLITS)}.")
        return self.indices[which]

    def _check(self) -> None:
        where = f"image set {self.name}"
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise InputError(
                f"{where}: images must be uint8 [n, C, H, W], got {self.images.dtype} {self.images.shape}."
            )
        total, channels = self.images.shape[:2]
        if self.labels.shape != (total,):
            raise InputError(f"{where}: expected one label per image ({total}), got shape {self.labels.shape}.")
        if total and not 0 <= self.labels.min() <= self.labels.max() < self.num_classes:
            raise InputError(
                f"{where}: labels must lie in 0..{self.num_classes - 1}, "
                f"got {self.labels.min()}..{self.labels.max()}. Check the label file."
            )
        if set(self.indices) != set(SPLITS):
            raise InputError(f"{where}: expected indices of {', '.join(SPLITS)}, got {', '.join(self.indices)}.")
        joined = np.concatenate([self.indices[split] for split in SPLITS])
        if len(np.unique(joined)) != len(joined) or (len(joined) and not 0 <= joined.min() <= joined.max() < total):
            raise InputError(f"{where}: indices must be different image numbers in 0..{total - 1}.")
        if any((np.diff(self.indices[split]) < 0).any() for split in SPLITS):
            raise InputError(f"{where}: indices of a split must be sorted.")
        if len(self.mean) != channels or len(self.std) != channels:
            raise InputError(
                f"{where}: expected {channels} means and standard deviations, one per channel, "
                f"got {len(self.mean)} and {len(self.std)}."
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and min(self.std) > 0):
            raise InputError(
                f"{where}: means must be finite and standard deviations above 0, got {self.mean} and {self.std}."
            )


def measure_channels(
    images: NDArray[np.uint8], which: NDArray[np.integer] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of ``images[n, C, H, W]``, or of some of them, on the 0..1 scale.

    Guaranteed: the same numbers on every machine, since pixels are counted, not added as floats. A channel of
    one value gets standard deviation 1.

    >>> measure_channels(np.array([0, 255], dtype=np.uint8).reshape(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    means, stds = [], []
    values = np.arange(256, dtype=np.int64)
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images if which is None else which), 4096):
            part = slice(start, start + 4096) if which is None else which[start : start + 4096]
            counts += np.bincount(images[part, channel].ravel(), minlength=256)
        total, first, second = (int((counts * power).sum()) for power in (values**0, values, values**2))
        if total == 0:
            raise InputError("normalise: the train split has no images; expected at least one.")
        means.append(first / total / 255)
        variance = (second * total - first * first) / (total * total * 255 * 255)
        stds.append(variance**0.5 if variance > 0 else 1.0)
    return tuple(means), tuple(stds)


def _read_only(array: NDArray[ScalarT], dtype: type[ScalarT]) -> NDArray[ScalarT]:
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view
