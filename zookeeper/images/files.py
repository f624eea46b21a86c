"""Image sets that torchvision knows, read from the places where it puts them.

Nothing is fetched unless asked for; then torchvision downloads and checks. The formats: MNIST and Fashion-MNIST are
IDX, SVHN is MATLAB, STL-10 plain bytes, USPS bzip2 text. CIFAR-10 and CIFAR-100 are Python pickles; a pickle can run
code, so they are opened only after their published checksums were found to be right, which torchvision does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zookeeper.errors import InputError
from zookeeper.images.fetching import explained, fetch_files, missing
from zookeeper.images.idx import read_idx
from zookeeper.images.source import RawImages, Source

_IDX_FILES = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
_IDX_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
# folders below the root in the order of looking ("" is the root itself), and files
_HOMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cifar10": (("cifar-10-batches-py",), (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta")),
    "cifar100": (("cifar-100-python",), ("train", "test", "meta")),
    "stl10": (("stl10_binary",), ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin")),
    "svhn": (("svhn", "SVHN", ""), ("train_32x32.mat", "test_32x32.mat")),
    "usps": (("usps", "USPS", ""), ("usps.bz2", "usps.t.bz2")),
}
SETS: tuple[str, ...] = (*_IDX_FOLDERS, *_HOMES)
_PARTS, _TRAIN = ("train", "test"), (True, False)
_MAX_LISTED = 3


def load_mnist(source: Source) -> RawImages:
    """Load MNIST: 60,000 + 10,000 handwritten digits, 28 x 28 grey (LeCun et al., 1998)."""
    return _load_idx(source, "mnist")


def load_fashion_mnist(source: Source) -> RawImages:
    """Load Fashion-MNIST: 60,000 + 10,000 pieces of clothing, 28 x 28 grey (Xiao et al., 2017)."""
    return _load_idx(source, "fashion-mnist")


def load_cifar10(source: Source) -> RawImages:
    """Load CIFAR-10: 50,000 + 10,000 colour photographs, 32 x 32, 10 classes (Krizhevsky, 2009)."""
    return _load_cifar(source, "CIFAR10", "cifar10", num_classes=10)


def load_cifar100(source: Source) -> RawImages:
    """Load CIFAR-100: 50,000 + 10,000 colour photographs, 32 x 32, 100 fine classes (Krizhevsky, 2009)."""
    return _load_cifar(source, "CIFAR100", "cifar100", num_classes=100)


def load_svhn(source: Source) -> RawImages:
    """Load SVHN, cropped digits: 73,257 + 26,032 house numbers, 32 x 32 colour (Netzer et al., 2011).

    The extra part is not used. Label 10 of the files, the digit 0, becomes 0.
    """
    home = find_home(source, "svhn")
    _need(source, "svhn", home, home, lambda root: [_open("SVHN", root, part, download=True) for part in _PARTS])
    with explained("svhn", home):
        parts = [_open("SVHN", home, part) for part in _PARTS]
    return _join("svhn", [(part.data, part.labels) for part in parts], num_classes=10)


def load_stl10(source: Source) -> RawImages:
    """Load STL-10: 5,000 + 8,000 labelled colour photographs, 96 x 96, 10 classes (Coates et al., 2011).

    torchvision checks all files of the set, the unlabelled images included.
    """
    home = find_home(source, "stl10")
    _need(source, "stl10", home, source.root, lambda root: _open("STL10", root, "test", download=True))
    with explained("stl10", home):
        parts = [_open("STL10", source.root, part) for part in _PARTS]
    return _join("stl10", [(part.data, part.labels) for part in parts], num_classes=10)


def load_usps(source: Source) -> RawImages:
    """Load USPS: 7,291 + 2,007 handwritten digits, 16 x 16 grey (Hull, 1994), as LIBSVM distributes them."""
    home = find_home(source, "usps")
    _need(source, "usps", home, home, lambda root: [_open("USPS", root, train, download=True) for train in _TRAIN])
    with explained("usps", home):
        _check_usps(home)
        parts = [_open("USPS", home, train) for train in _TRAIN]
    return _join("usps", [(part.data[:, None], part.targets) for part in parts], num_classes=10)


def _check_usps(home: Path) -> None:
    """Compare checksums, which torchvision does for this set only while it downloads."""
    from torchvision.datasets import USPS
    from torchvision.datasets.utils import check_integrity

    for _, file, checksum in USPS.split_list.values():
        if not check_integrity(home / file, checksum):
            raise InputError(
                f"{home / file}: damaged; its checksum is not {checksum}. Remove the file and download it again."
            )


def find_home(source: Source, name: str) -> Path:
    """Return the folder that holds, or is to hold, the files of svhn, stl10, usps or a cifar set."""
    folders, files = _HOMES[name]
    places = [source.root / folder for folder in folders]
    return next((place for place in places if any((place / file).is_file() for file in files)), places[0])


def known_files(source: Source, name: str) -> tuple[Path, ...]:
    """Return the files of a set that are there, in a fixed order; what they hold is not looked at."""
    if name in _IDX_FOLDERS:
        return tuple(path for path in _idx_paths(source, name) if path is not None)
    home = find_home(source, name)
    return tuple(home / file for file in _HOMES[name][1] if (home / file).is_file())


def _load_cifar(source: Source, kind: str, name: str, *, num_classes: int) -> RawImages:
    home = find_home(source, name)
    _need(source, name, home, source.root, lambda root: _open(kind, root, download=True))
    with explained(name, home):
        parts = [_open(kind, source.root, train) for train in _TRAIN]
    return _join(name, [(part.data.transpose(0, 3, 1, 2), part.targets) for part in parts], num_classes=num_classes)


def _load_idx(source: Source, name: str) -> RawImages:
    folder = _IDX_FOLDERS[name]
    paths = _idx_paths(source, name)
    if None in paths and source.download:
        fetch_files(name, source.root, lambda root: _open(folder, root, train=True, download=True))
        paths = _idx_paths(source, name)
    found = [path for path in paths if path is not None]
    if len(found) < len(paths):
        absent = ", ".join(file for file, path in zip(_IDX_FILES, paths, strict=True) if path is None)
        raise missing(name, f"{source.root / folder / 'raw'} (no {absent}, with or without .gz)")
    train, test = _read_pair(*found[:2]), _read_pair(*found[2:])
    if train[0].shape[1:] != test[0].shape[1:]:
        raise InputError(
            f"{found[0]}: images of {train[0].shape[1:]} but test images of {test[0].shape[1:]}; expected one size."
        )
    return _join(name, [(train[0][:, None], train[1]), (test[0][:, None], test[1])], num_classes=10)


def _read_pair(images_path: Path, labels_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = read_idx(images_path, num_axes=3), read_idx(labels_path, num_axes=1)
    if len(images) != len(labels):
        raise InputError(f"{labels_path}: {len(labels)} labels for {len(images)} images in {images_path.name}.")
    return images, labels


def _idx_paths(source: Source, name: str) -> list[Path | None]:
    folder = source.root / _IDX_FOLDERS[name]
    candidates = ([place / f for place in (folder / "raw", folder) for f in (n, f"{n}.gz")] for n in _IDX_FILES)
    return [next((path for path in paths if path.is_file()), None) for paths in candidates]


def _need(source: Source, name: str, home: Path, target: Path, fetch: Callable[[Path], object]) -> None:
    """Make sure that the files are there; ``fetch`` downloads them into a folder that then moves to ``target``."""
    absent = [file for file in _HOMES[name][1] if not (home / file).is_file()]
    if absent and not source.download:
        listed = ", ".join(absent[:_MAX_LISTED]) + (", ..." if len(absent) > _MAX_LISTED else "")
        raise missing(name, f"{home} (no {listed})")
    if absent:
        fetch_files(name, target, fetch)


def _open(kind: str, *arguments: Any, **options: Any) -> Any:
    from torchvision import datasets

    return getattr(datasets, kind)(*arguments, **options)


def _join(name: str, parts: Sequence[tuple[Any, Any]], *, num_classes: int) -> RawImages:
    """Put the training part and the official test part into one array."""
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([np.asarray(labels, dtype=np.int64) for _, labels in parts])
    if images.dtype != np.uint8 or len(images) != len(labels):
        raise InputError(
            f"image set {name}: {len(labels)} labels for {len(images)} images of {images.dtype}; expected one label "
            "per image of uint8. The files are damaged: remove them and download them again."
        )
    return RawImages(np.ascontiguousarray(images), labels, num_classes, num_official_test=len(parts[1][0]))
