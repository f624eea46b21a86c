"""Read .npy, .npz and .safetensors of others: sizes are checked against the bytes before anything is allocated."""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zookeeper.errors import InputError
from zookeeper.interop.folder import MAX_WEIGHT_BYTES, check_entry_name, check_size, inflates_too_much
from zookeeper.interop.tensors import MAX_RANK

Array = npt.NDArray[Any]
_MAX_HEADER = 100_000_000
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "?",
}


def map_npy(path: Path) -> Array:
    """Map a .npy file of numbers read-only; no byte of it is read before it is used.

    Raises
    ------
    InputError
        If it is damaged, holds objects, or its shape does not fit its size.
    """
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = _npy_header(file, str(path))
            start = file.tell()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    _check_size(shape, dtype, path.stat().st_size - start, str(path))
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def load_npz(path: Path) -> dict[str, Array]:
    """Read the named arrays of a .npz file, compressed or not; objects (pickles) are refused.

    Raises
    ------
    InputError
        If it is damaged, names lead outside it, or it inflates to more than it says or may.
    """
    arrays: dict[str, Array] = {}
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(info.file_size for info in archive.infolist())
            if inflates_too_much(declared, size):
                raise InputError(
                    f"{path}: declares {declared:,} bytes in a file of {size:,}; refused, it may be a "
                    "decompression bomb. Is it the right file?"
                )
            for info in archive.infolist():
                name = check_entry_name(info.filename, str(path)).removesuffix(".npy")
                with archive.open(info) as entry:
                    data = entry.read(info.file_size + 1)
                if name in arrays or len(data) != info.file_size:
                    raise InputError(f"{path}: entry {name!r} is there twice or not of its declared size; refused.")
                arrays[name] = _decode_npy(data, f"{path}: entry {name!r}")
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise InputError(f"{path}: damaged or cut off ({error}). Fetch it again.") from error
    return arrays


def load_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read the tensors and the metadata of a .safetensors file; bfloat16 becomes float32, without loss.

    Raises
    ------
    InputError
        If it is damaged or cut off, or tensors overlap or leave gaps.
    """
    check_size(path, MAX_WEIGHT_BYTES)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_MAX_HEADER, len(data) - 8):
        raise InputError(f"{path}: a header of {size:,} bytes in a file of {len(data):,}; damaged or cut off.")
    try:
        header = json.loads(data[8 : 8 + size])
        metadata = {str(key): str(text) for key, text in header.pop("__metadata__", {}).items()}
        entries = sorted(
            ((*map(int, e["data_offsets"]), str(name), str(e["dtype"]), e["shape"]) for name, e in header.items()),
            key=lambda entry: entry[:3],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a safetensors header ({error!r}). Fetch the file again.") from error
    body, last = memoryview(data)[8 + size :], 0
    arrays: dict[str, Array] = {}
    for start, stop, name, kind, shape in entries:
        where = f"{path}: {name}"
        if kind not in _DTYPES or start != last or stop < start:
            raise InputError(f"{where}: type {kind}, bytes {start} to {stop}; expected a known type, without gaps.")
        if not isinstance(shape, list):
            raise InputError(f"{where}: shape {shape!r}; expected a list.")
        dtype = np.dtype(_DTYPES[kind])
        if stop > len(body):
            raise InputError(f"{where}: needs bytes up to {stop:,}, the file has {len(body):,}. It is cut off.")
        _check_size(tuple(shape), dtype, stop - start, where, exact=True)
        array = np.frombuffer(body[start:stop], dtype).reshape(shape)
        arrays[name] = (array.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else array
        last = stop
    if last != len(body):
        raise InputError(f"{path}: {len(body) - last:,} bytes belong to no tensor; the file is damaged.")
    return arrays, metadata


def _decode_npy(data: bytes, where: str) -> Array:
    stream = io.BytesIO(data)
    shape, fortran, dtype = _npy_header(stream, where)
    _check_size(shape, dtype, len(data) - stream.tell(), where, exact=True)
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")


def _npy_header(stream: Any, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except (ValueError, KeyError, EOFError, SyntaxError, TypeError) as error:
        raise InputError(f"{where}: not a .npy array ({error}). Fetch it again.") from error
    if dtype.hasobject or dtype.kind not in "fiub":
        raise InputError(f"{where}: an array of {dtype}; expected plain numbers, for objects are pickles. Refused.")
    return tuple(shape), bool(fortran), dtype


def _check_size(shape: tuple[Any, ...], dtype: np.dtype[Any], size: int, where: str, *, exact: bool = False) -> None:
    sound = len(shape) <= MAX_RANK and all(type(length) is int and length >= 0 for length in shape)
    want = math.prod(shape) * dtype.itemsize if sound else -1
    if not sound or want > size or (exact and want != size):
        raise InputError(
            f"{where}: shape {str(shape)[:80]} of {dtype} does not fit {size:,} bytes; it is cut off or damaged. "
            "Fetch it again."
        )
