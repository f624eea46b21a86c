"""Read what ``torch.save`` wrote, old and new containers, without torch and without running the pickle inside.

Shapes, strides and offsets are checked against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zookeeper.errors import InputError
from zookeeper.interop.folder import MAX_WEIGHT_BYTES, check_entry_name, check_size
from zookeeper.interop.pickles import Constructors, Name, read_pickle

Array = npt.NDArray[Any]
MAX_RANK = 16
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_MAX_NESTED = 3
_MAX_GROWTH = 16


@dataclass
class _Storage:
    """Numbers of one tensor storage; of an old container they arrive after the pickle."""

    kind: str
    count: int
    values: Array | None = None


@dataclass
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class _Values:
    """A NumPy array in the making: its pickle sets its content afterwards."""

    array: Array | None = None
    where: str = field(default="")

    def set_pickled_state(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise InputError(f"{self.where}: an array of objects; expected numbers.")
        want = _numel(shape, self.where) * dtype.value.itemsize
        if len(data) != want:
            raise InputError(f"{self.where}: array of shape {shape} needs {want:,} bytes, got {len(data):,}.")
        self.array = np.frombuffer(data, dtype.value).reshape(shape, order="F" if fortran else "C")


@dataclass
class _Dtype:
    value: np.dtype[Any]

    def set_pickled_state(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


def load_torch(path: Path, *, stubs: bool = False, max_bytes: int = MAX_WEIGHT_BYTES) -> Any:
    """Read a file of ``torch.save`` (or of ``pickle.dump`` of tensors); tensors become NumPy arrays.

    bfloat16 becomes float32, without loss. With ``stubs`` instances of unknown classes become
    `zookeeper.interop.pickles.Stub`.

    Raises
    ------
    InputError
        If the file is damaged, names code, or its shapes do not fit its bytes.
    """
    check_size(path, max_bytes)
    return decode_torch(path.read_bytes(), str(path), stubs=stubs)


def decode_torch(data: bytes, where: str, *, stubs: bool = False, depth: int = 0) -> Any:
    """Decode bytes as `load_torch` does a file."""
    if depth > _MAX_NESTED:
        raise InputError(f"{where}: tensors nested {depth} files deep; refused.")
    reader = _Reader(where, stubs, depth)
    reader.budget = _MAX_GROWTH * len(data)
    return reader.read_zip(data) if data[:2] == b"PK" else reader.read_stream(data)


def load_state_dict(path: Path) -> dict[str, Array]:
    """Read named float tensors; a state dict under a key such as ``state_dict`` is found.

    Raises
    ------
    InputError
        If the file holds no state dict, or as `load_torch` does.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"fc.weight": torch.ones(1, 2)}, Path(folder) / "a.pt")
    ...     load_state_dict(Path(folder) / "a.pt")
    {'fc.weight': array([[1., 1.]], dtype=float32)}
    """
    value = load_torch(path)
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
            break
    return named_arrays(value, str(path))


def named_arrays(value: Any, where: str) -> dict[str, Array]:
    """Check that a value is a mapping of names to arrays; the prefix ``module.`` is removed if all names have it."""
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"{where}: holds a {type(value).__name__}; expected a state dict, names and tensors.")
    for name, entry in value.items():
        if not isinstance(name, str) or not isinstance(entry, np.ndarray):
            raise InputError(
                f"{where}: entry {name!r} is a {type(entry).__name__}; expected a state dict, names and tensors."
            )
    prefix = "module." if all(name.startswith("module.") for name in value) else ""
    return {name.removeprefix(prefix): entry for name, entry in value.items()}


class _Reader:
    """One file: its storages, and what a pickle in it may make."""

    def __init__(self, where: str, stubs: bool, depth: int) -> None:
        self._where = where
        self._stubs = stubs
        self._depth = depth
        self._order: Literal["<", ">"] = "<"
        self.budget = 0

    def read_zip(self, data: bytes) -> Any:
        where = self._where
        try:
            archive = zipfile.ZipFile(io.BytesIO(data))
            entries = {check_entry_name(info.filename, where): info for info in archive.infolist()}
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
            raise InputError(f"{where}: damaged or cut off ({error}). Fetch it again.") from error
        declared = sum(info.file_size for info in archive.infolist())
        packed = [info.filename for info in entries.values() if info.compress_type != zipfile.ZIP_STORED]
        if packed or declared > len(data) or len(entries) != len(archive.infolist()):
            raise InputError(
                f"{where}: entries of {declared:,} bytes in a file of {len(data):,}; torch stores each once and "
                "uncompressed. Refused, it may be a decompression bomb."
            )
        roots = [name.removesuffix("data.pkl") for name in entries if name.split("/")[-1] == "data.pkl"]
        if len(roots) != 1:
            raise InputError(f"{where}: holds {len(roots)} pickles named data.pkl; expected a file of torch.save.")
        root = roots[0]

        def content(name: str) -> bytes:
            if root + name not in entries:
                raise InputError(f"{where}: entry {name!r} is missing; the file is damaged. Fetch it again.")
            try:
                return archive.read(entries[root + name])
            except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError, RuntimeError) as error:
                raise InputError(f"{where}: damaged or cut off ({error}). Fetch it again.") from error

        if f"{root}byteorder" in entries and content("byteorder") == b"big":
            self._order = ">"
        storages: dict[str, _Storage] = {}

        def on_persistent(identity: Any) -> _Storage:
            kind, key, count, _ = self._identity(identity)
            if key not in storages:
                if not key.isalnum():
                    raise InputError(f"{where}: storage {key!r} is no plain name; refused.")
                storages[key] = _Storage(kind, count, self._numbers(kind, count, content(f"data/{key}")))
            if (storages[key].kind, storages[key].count) != (kind, count):
                raise InputError(f"{where}: storage {key!r} is used as two types; refused.")
            return storages[key]

        value = self._pickle(io.BytesIO(content("data.pkl")), on_persistent)
        return self._finish(value)

    def read_stream(self, data: bytes) -> Any:
        stream = io.BytesIO(data)
        first = self._pickle(stream, None)
        if first != _MAGIC:
            return self._finish(first)  # a plain pickle
        if self._pickle(stream, None) != _PROTOCOL:
            raise InputError(f"{self._where}: unknown version of the old torch container. Save it again.")
        system = self._pickle(stream, None)
        self._order = "<" if not isinstance(system, dict) or system.get("little_endian", True) else ">"
        storages: dict[str, _Storage] = {}

        def on_persistent(identity: Any) -> _Storage:
            kind, key, count, view = self._identity(identity)
            if view is not None:
                raise InputError(f"{self._where}: a storage that is a view of another; refused. Save it again.")
            if storages.setdefault(key, _Storage(kind, count)) != _Storage(kind, count):
                raise InputError(f"{self._where}: storage {key!r} is used as two types; refused.")
            return storages[key]

        value = self._pickle(stream, on_persistent)
        keys = self._pickle(stream, None)
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
            raise InputError(f"{self._where}: the list of storages does not fit the pickle; the file is damaged.")
        for key in keys:
            storage = storages[str(key)]
            count = int.from_bytes(stream.read(8), "little", signed=True)
            size = storage.count * np.dtype(_STORAGES[storage.kind]).itemsize
            if count != storage.count:
                raise InputError(
                    f"{self._where}: storage {key!r} has {count:,} numbers; expected {storage.count:,}. "
                    "Fetch the file again."
                )
            rest = len(data) - stream.tell()
            storage.values = self._numbers(storage.kind, storage.count, stream.read(min(size, rest)))
        return self._finish(value)

    def _pickle(self, stream: io.BytesIO, on_persistent: Callable[[Any], Any] | None) -> Any:
        return read_pickle(
            stream, self._where, constructors=self._constructors(), on_persistent=on_persistent, stubs=self._stubs
        )

    def _identity(self, identity: Any) -> tuple[str, str, int, Any]:
        """Kind, key and length of a storage, as torch writes them; and the view of old files."""
        parts = identity if isinstance(identity, tuple) else ()
        if len(parts) not in (5, 6) or parts[0] != "storage" or not isinstance(parts[1], Name):
            raise InputError(f"{self._where}: expected a tensor storage, got {str(identity)[:60]!r}.")
        kind, key, count = parts[1].name, parts[2], parts[4]
        if kind not in _STORAGES or not isinstance(key, str) or type(count) is not int or count < 0:
            raise InputError(f"{self._where}: storage {kind} of {count!r} numbers; expected a known type and a count.")
        return kind, key, count, parts[5] if len(parts) == 6 else None

    def _numbers(self, kind: str, count: int, data: bytes) -> Array:
        dtype = np.dtype(_STORAGES[kind])
        if len(data) != count * dtype.itemsize:
            raise InputError(
                f"{self._where}: a storage of {count:,} numbers needs {count * dtype.itemsize:,} bytes, got "
                f"{len(data):,}. The file is cut off or damaged; fetch it again."
            )
        return np.frombuffer(data, dtype.newbyteorder(self._order))

    def _constructors(self) -> Constructors:
        where = self._where

        def tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
            numbers = [offset, *shape, *stride]
            if not isinstance(storage, _Storage) or any(type(number) is not int or number < 0 for number in numbers):
                raise InputError(f"{where}: a tensor of shape {shape}, stride {stride}, offset {offset}; refused.")
            return _checked(_Tensor(storage, offset, tuple(shape), tuple(stride)), where)

        def scalar(dtype: Any, data: Any) -> Any:
            if not isinstance(dtype, _Dtype) or len(data) != dtype.value.itemsize:
                raise InputError(f"{where}: a number of unknown type; expected a plain one.")
            return np.frombuffer(data, dtype.value)[0].item()

        def dtype(code: Any, *_: Any) -> _Dtype:
            made = np.dtype(str(code)) if str(code).lstrip("<>|=")[:1] in "fiub" else np.dtype(object)
            if made.kind not in "fiub":
                raise InputError(f"{where}: an array of type {code!r}; expected numbers.")
            return _Dtype(made)

        def nested(data: Any) -> Any:
            return decode_torch(data, f"{where} (inside)", stubs=self._stubs, depth=self._depth + 1)

        def encoded(text: Any, encoding: Any = "utf-8") -> bytes:
            return str(text).encode("latin1") if encoding == "latin1" else str(text).encode()

        def anything(*_: Any) -> None:
            return None

        made: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): lambda pairs=(): OrderedDict(pairs),
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            ("torch._utils", "_rebuild_tensor"): tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch.storage", "_load_from_bytes"): nested,
            ("torch", "Size"): lambda values=(): tuple(values),
            ("_codecs", "encode"): encoded,
            ("numpy", "dtype"): dtype,
            ("numpy", "ndarray"): anything,
            ("builtins", "object"): anything,
            ("__builtin__", "object"): anything,
        }
        for kind in _STORAGES:
            made["torch", kind] = anything
        for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
            made[core, "scalar"] = scalar
            made[core, "_reconstruct"] = lambda *_: _Values(where=where)
        return made

    def _finish(self, value: Any) -> Any:
        """Turn tensors into arrays, everywhere in a value, without recursion into what was seen."""
        done: dict[int, Any] = {}
        tensors: dict[int, Array] = {}

        def convert(entry: Any) -> Any:
            if isinstance(entry, _Tensor):
                if id(entry) not in tensors:
                    array = _materialise(entry, self._where)
                    self.budget -= array.nbytes
                    if self.budget < 0:
                        raise InputError(f"{self._where}: tensors far larger than the file they share; refused.")
                    tensors[id(entry)] = array
                return tensors[id(entry)]
            if isinstance(entry, _Values):
                return entry.array
            if isinstance(entry, tuple) and any(not isinstance(one, str | int | float) for one in entry):
                return tuple(convert(one) for one in entry)
            waiting.append(entry)
            return entry

        waiting: list[Any] = []
        try:
            value = convert(value)
            while waiting:
                entry = waiting.pop()
                if id(entry) in done:
                    continue
                done[id(entry)] = entry
                if isinstance(entry, dict):
                    entry.update({key: convert(one) for key, one in entry.items()})
                elif isinstance(entry, list):
                    entry[:] = [convert(one) for one in entry]
                elif hasattr(entry, "state") and hasattr(entry, "items"):
                    entry.state = {key: convert(one) for key, one in entry.state.items()}
                    entry.items = [convert(one) for one in entry.items]
        except RecursionError as error:
            raise InputError(f"{self._where}: tuples nested too deep; refused.") from error
        return value


def _numel(shape: tuple[int, ...], where: str) -> int:
    if len(shape) > MAX_RANK or any(type(size) is not int or size < 0 for size in shape):
        raise InputError(f"{where}: shape {str(shape)[:80]}; expected at most {MAX_RANK} sizes from 0.")
    count = 1
    for size in shape:
        count *= size
    return count


def _checked(tensor: _Tensor, where: str) -> _Tensor:
    """Refuse a tensor that reaches beyond its storage, or claims more numbers than the storage has."""
    count = _numel(tensor.shape, where)
    reach = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=False))
    fits = len(tensor.shape) == len(tensor.stride) and (count == 0 or reach < tensor.storage.count)
    if not fits or count > tensor.storage.count:
        raise InputError(
            f"{where}: a tensor of shape {tensor.shape}, stride {tensor.stride}, offset {tensor.offset} does not fit "
            f"its storage of {tensor.storage.count:,} numbers; refused."
        )
    return tensor


def _materialise(tensor: _Tensor, where: str) -> Array:
    values = tensor.storage.values
    if values is None:
        raise InputError(f"{where}: a tensor without its numbers; the file is damaged. Fetch it again.")
    size = values.dtype.itemsize
    if _numel(tensor.shape, where) == 0:
        view = np.empty(tensor.shape, values.dtype)
    else:
        strides = tuple(step * size for step in tensor.stride)
        view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)
    array = np.ascontiguousarray(view, values.dtype.newbyteorder("="))
    if tensor.storage.kind == "BFloat16Storage":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.reshape(tensor.shape)
