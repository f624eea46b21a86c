"""Any image set as one ``.npz`` file of arrays. Objects are never unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from zookeeper.errors import InputError
from zookeeper.images.source import RawImages, Source

_ONE_PART = ("images", "labels")
_TWO_PARTS = ("x_train", "y_train", "x_test", "y_test")
_NUM_CLASSES = "num_classes"
_MAX_BYTES = 1 << 36
_CHANNELS = (1, 3)


def load_npz(source: Source) -> RawImages:
    """Load the ``.npz`` file at ``source.path``.

    It holds ``images`` and ``labels``, or ``x_train``, ``y_train``, ``x_test`` and ``y_test``, of which the last two
    are the official test part. Images are uint8 ``[n, H, W]``, ``[n, H, W, C]`` or ``[n, C, H, W]`` with 1 or 3
    channels, labels whole numbers ``[n]`` or ``[n, 1]`` from 0. There are as many classes as ``num_classes``, a
    single number, says; without it every class from 0 to the largest label must occur.

    Raises
    ------
    InputError
        If the file is missing, is no ``.npz`` or damaged, or its arrays are not as described.
    """
    path = source.inner_path("npz")
    arrays = _read(path)
    if set(_ONE_PART) <= set(arrays):
        parts = [_labelled(arrays, *_ONE_PART, path)]
    else:
        parts = [_labelled(arrays, *_TWO_PARTS[:2], path), _labelled(arrays, *_TWO_PARTS[2:], path)]
    if len({images.shape[1:] for images, _ in parts}) > 1:
        shapes = " and ".join(str(images.shape) for images, _ in parts)
        raise InputError(f"{path}: x_train and x_test have shapes {shapes}; expected images of one size.")
    images, labels = (np.concatenate(pair) if len(pair) > 1 else pair[0] for pair in zip(*parts, strict=True))
    num_test = len(parts[1][1]) if len(parts) > 1 else 0
    return RawImages(images, labels, _count_classes(arrays, labels, path), num_official_test=num_test)


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the arrays that are wanted, after a look at each header."""
    if not path.is_file():
        raise InputError(f"{path}: expected a .npz file, got a folder. Correct images.path.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).stem for name in archive.namelist() if name.endswith(".npy")}
            wanted = _choose(names, path)
            for name in wanted:
                with archive.open(f"{name}.npy") as member:
                    _check_header(member, archive.getinfo(f"{name}.npy").file_size, f"{path} {name}")
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in wanted}
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{path}: not a readable .npz file ({reason}). Write it again with numpy.savez.") from error


def _choose(names: set[str], path: Path) -> tuple[str, ...]:
    complete = [keys for keys in (_ONE_PART, _TWO_PARTS) if set(keys) <= names]
    if len(complete) != 1:
        raise InputError(
            f"{path}: expected the arrays {' and '.join(_ONE_PART)}, or {', '.join(_TWO_PARTS)}, and not both; "
            f"got {', '.join(sorted(names)) or 'no array'}."
        )
    return (*complete[0], _NUM_CLASSES) if _NUM_CLASSES in names else complete[0]


def _check_header(member: IO[bytes], num_bytes: int, where: str) -> None:
    """Refuse Python objects and sizes that the file cannot hold before memory is asked for."""
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{where}: .npy version {version} is not supported. Write it again with numpy.savez.")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    if dtype.hasobject:
        raise InputError(f"{where}: holds Python objects, which are never opened; expected an array of numbers.")
    expected = math.prod(shape) * dtype.itemsize
    if expected > _MAX_BYTES or expected + member.tell() != num_bytes:
        raise InputError(
            f"{where}: shape {shape} of {dtype} needs {expected} bytes, but {num_bytes - member.tell()} are there. "
            "The file is damaged."
        )


def _labelled(
    arrays: dict[str, NDArray[np.generic]], images_key: str, labels_key: str, path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = arrays[images_key], arrays[labels_key]
    if images.dtype != np.uint8:
        raise InputError(
            f"{path} {images_key}: expected uint8 in 0..255, got {images.dtype}. Scale, round and convert the images."
        )
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise InputError(
            f"{path} {images_key}: expected shape [n, H, W], [n, H, W, C] or [n, C, H, W], got {images.shape}."
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise InputError(
            f"{path} {labels_key}: expected {len(images)} whole numbers, one per image, got {labels.dtype} "
            f"{labels.shape}."
        )
    if labels.min() < 0 or labels.max() >= 1 << 31:
        raise InputError(
            f"{path} {labels_key}: labels must be class numbers from 0, got {labels.min()}..{labels.max()}."
        )
    return _channels_first(images, f"{path} {images_key}"), labels.astype(np.int64)


def _channels_first(images: NDArray[np.generic], where: str) -> NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[:, None]
    else:
        first, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
        if first == last:
            problem = "both could be channels" if first else "neither the second nor the last axis has 1 or 3 channels"
            raise InputError(
                f"{where}: cannot tell where the channels are in shape {images.shape}: {problem}; "
                "expected 1 or 3 channels second or last."
            )
        images = images if first else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images, dtype=np.uint8)


def _count_classes(arrays: dict[str, NDArray[np.generic]], labels: NDArray[np.int64], path: Path) -> int:
    found, largest = np.unique(labels), int(labels.max())
    if _NUM_CLASSES not in arrays:
        if len(found) != largest + 1:
            absent = next(number for number, label in enumerate([*found, -1]) if number != label)
            raise InputError(
                f"{path}: no image has label {absent}, though labels go up to {largest}; expected every class from 0. "
                f"Renumber the labels, or store {_NUM_CLASSES}."
            )
        return largest + 1
    stated = arrays[_NUM_CLASSES]
    if stated.size != 1 or stated.dtype.kind not in "iu":
        raise InputError(f"{path} {_NUM_CLASSES}: expected one whole number, got {stated.dtype} {stated.shape}.")
    num_classes = int(stated.ravel()[0])
    if largest >= num_classes:
        raise InputError(
            f"{path}: labels must lie in 0..{num_classes - 1}, as {_NUM_CLASSES} is {num_classes}; "
            f"got {labels.min()}..{largest}."
        )
    return num_classes
