"""Image sets by name. A new one is a function from `Source` to `RawImages` and a line in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zookeeper.errors import InputError
from zookeeper.images import files, folders
from zookeeper.images.bundled import load_digits, load_tetris
from zookeeper.images.cache import load_shared
from zookeeper.images.fetching import find_root
from zookeeper.images.imageset import ImageSet, measure_channels
from zookeeper.images.npz import load_npz
from zookeeper.images.source import RawImages, Source
from zookeeper.images.splits import cut_splits, keep_share, usual_split
from zookeeper.images.transforms import KEEP, Transforms

_LOADERS: Mapping[str, Callable[[Source], RawImages]] = MappingProxyType(
    {
        "cifar10": files.load_cifar10,
        "cifar100": files.load_cifar100,
        "digits": load_digits,
        "eurosat": folders.load_eurosat,
        "fashion-mnist": files.load_fashion_mnist,
        "folder": folders.load_folder,
        "mnist": files.load_mnist,
        "npz": load_npz,
        "stl10": files.load_stl10,
        "svhn": files.load_svhn,
        "tetris": load_tetris,
        "tiny-imagenet": folders.load_tiny_imagenet,
        "usps": files.load_usps,
    }
)
# Files of a set, where loading may be slow: a set that is not in this table is never cached.
_FILES: Mapping[str, Callable[[Source], tuple[Path, ...]]] = MappingProxyType(
    {
        "eurosat": folders.eurosat_files,
        "folder": folders.folder_files,
        "npz": lambda source: (source.inner_path("npz"),),
        "tiny-imagenet": folders.tiny_imagenet_files,
        **{name: partial(files.known_files, name=name) for name in files.SETS},
    }
)
# On the scale where pixels are 0..1; one number stands for every channel. ImageNet: the customary ILSVRC-2012 values.
PRESETS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = MappingProxyType(
    {
        "half": ((0.5,), (0.5,)),
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "none": ((0.0,), (1.0,)),
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
    split: Mapping[str, float] | None,
    seed: int,
    normalise: str | Mapping[str, Any] = "auto",
    root: Path | None = None,
    download: bool = False,
    path: str | None = None,
    transforms: Transforms = KEEP,
    share: float = 1.0,
) -> ImageSet:
    """Load an image set, cut it into train, val and test, and fix its normalisation.

    Guaranteed: the same arguments give the same fingerprint on every machine. Sets that take more than a second to
    load are kept decoded below the root and mapped into memory: workers of one machine share one copy.

    Parameters
    ----------
    name
        One of `image_set_names`.
    split
        Fractions by name; see `zookeeper.images.splits.cut_splits`. Parts that a set brings along (all but digits,
        tetris and eurosat have an official test part, npz and folder may have) are taken as they are; the fractions
        are then those of the other images, without that part. None suits any set: `usual_split` beside it.
    seed
        Seed of the split, and of the images themselves where they are synthetic.
    normalise
        "auto": mean and standard deviation of the train split per channel; "none": pixels from 0 to 1;
        "half": mean and standard deviation 0.5, pixels from -1 to 1; "imagenet": the customary values of ImageNet;
        ``{"mean": [...], "std": [...]}``: one number per channel each, on the 0..1 scale.
    root
        Folder with the image files; None: the one that the environment variable ``ZOO_DATA_ROOT`` names, else
        ``data`` below the working directory.
    download
        Fetch missing files into ``root``.
    path
        Folder or file below ``root``, for the sets "folder" and "npz".
    transforms
        What is done to every image, once.
    share
        Share of the images of every part that is kept, above 0 and at most 1; `zookeeper.images.splits.keep_share`.

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
    source = Source(find_root(root), download, seed, path, transforms)

    def load() -> RawImages:
        raw = _LOADERS[name](source)
        return replace(raw, images=transforms.apply(raw.images, name))

    raw = load_shared(name, source, _FILES[name], load) if name in _FILES else load()
    raw = keep_share(raw, share, seed=seed, name=name)
    indices = cut_splits(
        len(raw.images),
        raw.num_official_test,
        usual_split(raw) if split is None else split,
        seed=seed,
        name=name,
        num_official_val=raw.num_official_val,
    )
    mean, std = _statistics(raw, indices["train"], normalise)
    return ImageSet(name, raw.images, raw.labels, indices, mean, std, raw.num_classes)


def _statistics(raw: RawImages, train: Any, normalise: str | Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    channels = raw.images.shape[1]
    if isinstance(normalise, Mapping):
        if set(normalise) != {"mean", "std"}:
            raise InputError(f"images.normalise: expected mean and std, got {', '.join(normalise) or 'nothing'}.")
        return tuple(tuple(float(value) for value in normalise[key]) for key in ("mean", "std"))
    if normalise == "auto":
        return measure_channels(raw.images, train)
    if normalise not in PRESETS:
        raise InputError(
            f"images.normalise: unknown value {normalise!r}; expected auto, {', '.join(PRESETS)}, or mean and std."
        )
    return tuple(values * channels if len(values) == 1 else values for values in PRESETS[normalise])
