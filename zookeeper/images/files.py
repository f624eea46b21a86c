"""Image sets read from files in the places where torchvision puts them.

Nothing is fetched unless asked for; then torchvision downloads. It is imported for that and for CIFAR-10 alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zookeeper.errors import InputError
from zookeeper.images.idx import read_idx
from zookeeper.images.source import RawImages, Source


def load_mnist(source: Source) -> RawImages:
    """Load MNIST: 60,000 + 10,000 handwritten digits, 28 x 28 grey (LeCun et al., 1998)."""
    return _load_idx(source, "MNIST", "mnist")


def load_fashion_mnist(source: Source) -> RawImages:
    """Load Fashion-MNIST: 60,000 + 10,000 pieces of clothing, 28 x 28 grey (Xiao et al., 2017)."""
    return _load_idx(source, "FashionMNIST", "fashion-mnist")


def load_cifar10(source: Source) -> RawImages:
    """Load CIFAR-10: 50,000 + 10,000 colour photographs, 32 x 32 (Krizhevsky, 2009).

    The files are Python pickles; torchvision checks their published checksums before it opens them.
    """
    folder = source.root / "cifar-10-batches-py"
    if not folder.is_dir() and not source.download:
        raise _missing("cifar10", str(folder))
    from torchvision.datasets import CIFAR10

    with _explained("cifar10", source.root):
        parts: list[Any] = [CIFAR10(source.root, train=train, download=source.download) for train in (True, False)]
    images = np.concatenate([part.data for part in parts]).transpose(0, 3, 1, 2)
    labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in parts])
    return RawImages(np.ascontiguousarray(images), labels, num_classes=10, num_official_test=len(parts[1].data))


def _load_idx(source: Source, folder: str, name: str) -> RawImages:
    names = [
        f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
    ]  # train images, train labels, test images, test labels
    paths = [_find(source.root / folder, file) for file in names]
    if None in paths and source.download:
        _download_idx(source.root, folder, name)
        paths = [_find(source.root / folder, file) for file in names]
    found = [path for path in paths if path is not None]
    if len(found) < len(paths):
        absent = ", ".join(file for file, path in zip(names, paths, strict=True) if path is None)
        raise _missing(name, f"{source.root / folder / 'raw'} (no {absent}, with or without .gz)")
    train, test = _read_pair(*found[:2]), _read_pair(*found[2:])
    if train[0].shape[1:] != test[0].shape[1:]:
        raise InputError(
            f"{found[0]}: images of {train[0].shape[1:]} but test images of {test[0].shape[1:]}; expected one size."
        )
    images, labels = (np.concatenate(arrays) for arrays in zip(train, test, strict=True))
    return RawImages(images[:, None], labels.astype(np.int64), num_classes=10, num_official_test=len(test[0]))


def _read_pair(images_path: Path, labels_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = read_idx(images_path, num_axes=3), read_idx(labels_path, num_axes=1)
    if len(images) != len(labels):
        raise InputError(f"{labels_path}: {len(labels)} labels for {len(images)} images in {images_path.name}.")
    return images, labels


def _find(folder: Path, name: str) -> Path | None:
    candidates = (place / file for place in (folder / "raw", folder) for file in (name, f"{name}.gz"))
    return next((path for path in candidates if path.is_file()), None)


def _download_idx(root: Path, folder: str, name: str) -> None:
    from torchvision import datasets

    with _explained(name, root):
        getattr(datasets, folder)(root, train=True, download=True)


@contextmanager
def _explained(name: str, root: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"image set {name}: loading from {root} failed ({reason}). "
            "Check the files and the network connection, or copy the files there by hand."
        ) from error


def _missing(name: str, where: str) -> InputError:
    return InputError(
        f"image set {name}: no files found in {where}. "
        "Set images.download: true to fetch them, or pass --data-root with the folder that holds them."
    )
