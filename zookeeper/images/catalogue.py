"""Image sets by name. A new one is a function from `Source` to `RawImages` and a line in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zookeeper.errors import InputError
from zookeeper.images.bundled import load_digits, load_tetris
from zookeeper.images.files import load_cifar10, load_fashion_mnist, load_mnist
from zookeeper.images.imageset import ImageSet, measure_channels
from zookeeper.images.source import RawImages, Source
from zookeeper.images.splits import cut_splits

DEFAULT_ROOT = Path("data")

_LOADERS: Mapping[str, Callable[[Source], RawImages]] = MappingProxyType(
    {
        "cifar10": load_cifar10,
        "digits": load_digits,
        "fashion-mnist": load_fashion_mnist,
        "mnist": load_mnist,
        "tetris": load_tetris,
    }
)


def image_set_names() -> tuple[str, ...]:
    """Known names, sorted.

    >>> "digits" in image_set_names()
    True
    """
    return tuple(sorted(_LOADERS))


def load_images(
    name: str,
    *,
    split: Mapping[str, float],
    seed: int,
    normalise: str | Mapping[str, Any] = "auto",
    root: Path | None = None,
    download: bool = False,
) -> ImageSet:
    """Load an image set, cut it into train, val and test, and fix its normalisation.

    Guaranteed: the same arguments give the same fingerprint on every machine.

    Parameters
    ----------
    name
        One of `image_set_names`.
    split
        Fractions by name; see `zookeeper.images.splits.cut_splits`. Sets with an official test part (mnist,
        fashion-mnist, cifar10) take ``train`` and ``val`` alone, fractions of the official training part.
    seed
        Seed of the split, and of the images themselves where they are synthetic.
    normalise
        "auto": mean and standard deviation of the train split per channel; "none": pixels from 0 to 1;
        ``{"mean": [...], "std": [...]}``: one number per channel each, on the 0..1 scale.
    root
        Folder with the image files, by default ``data`` below the working directory.
    download
        Fetch missing files into ``root``.

    Raises
    ------
    InputError
        If a name or a fraction is wrong, or files are missing or damaged.

    Examples
    --------
    >>> images = load_images("tetris", split={"train": 0.7, "val": 0.1, "test": 0.2}, seed=0)
    >>> images.image_shape, images.num_classes, [images.count(part) for part in ("train", "val", "test")]
    ((1, 4, 4), 4, [700, 100, 200])
    """
    if name not in _LOADERS:
        near = get_close_matches(name, _LOADERS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"images.name: unknown image set {name!r}; expected {', '.join(image_set_names())}.{hint}")
    raw = _LOADERS[name](Source(DEFAULT_ROOT if root is None else Path(root), download, seed))
    indices = cut_splits(len(raw.images), raw.num_official_test, split, seed=seed, name=name)
    mean, std = _statistics(raw, indices["train"], normalise)
    return ImageSet(name, raw.images, raw.labels, indices, mean, std, raw.num_classes)


def _statistics(raw: RawImages, train: Any, normalise: str | Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    channels = raw.images.shape[1]
    if isinstance(normalise, Mapping):
        if set(normalise) != {"mean", "std"}:
            raise InputError(f"images.normalise: expected mean and std, got {', '.join(normalise) or 'nothing'}.")
        return tuple(tuple(float(value) for value in normalise[key]) for key in ("mean", "std"))
    if normalise == "auto":
        return measure_channels(raw.images[train])
    if normalise == "none":
        return (0.0,) * channels, (1.0,) * channels
    raise InputError(f"images.normalise: unknown value {normalise!r}; expected auto, none, or mean and std.")
