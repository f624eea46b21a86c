"""HDF5: shards whose chunks hold whole trajectories, each with its Fletcher-32 checksum.

A chunk without compression is the plain little-endian elements of its rows followed by four bytes, so a
reader may copy rows out of the file without the HDF5 library, as with Parquet. Files are built in memory
and never opened again for writing: HDF5 that dies while writing, or finds the disk full, leaves no file at
all that a reader could meet.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from zookeeper.errors import InputError, StoreError
from zookeeper.store.encoding import Encoding, Stored
from zookeeper.store.parquet import SHARD_FORMAT, SHARD_VERSION
from zookeeper.store.records import Spans
from zookeeper.store.table import WEIGHTS

_TABLE, _MISSING = "table", "missing"
_OLDEST = ("earliest", "v108")  # readable by every HDF5 since 1.8
_FAILURES = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, pa.ArrowException)


def encode_shard(
    rows: Stored, table: pa.Table, *, group: int, encoding: Encoding, layout: str = ""
) -> tuple[bytes, Spans | None]:
    """Encode stored elements [N, P] beside their table, ``group`` rows per chunk; say where they lie."""
    stored = np.ascontiguousarray(rows, encoding.stored)
    packed: dict[str, Any] = (
        {"compression": "gzip", "compression_opts": 1, "shuffle": True} if encoding.compression == "gzip" else {}
    )
    unique = secrets.token_hex(16)  # only in memory, but two files of one name cannot be open at a time
    with h5py.File(unique, "w", driver="core", backing_store=False, libver=_OLDEST) as file:
        file.attrs.update({"format": SHARD_FORMAT, "format_version": SHARD_VERSION})
        columns = {name: str(table.column(name).type) for name in table.column_names}
        file.attrs.update({"dtype": encoding.dtype, "layout": layout, "columns": json.dumps(columns)})
        weights = file.create_dataset(
            WEIGHTS, data=stored, chunks=(min(group, len(rows)), rows.shape[1]), fletcher32=True, **packed
        )
        _write_table(file, table)
        file.flush()
        chunks: list[tuple[int, int]] = []
        if not packed:
            weights.id.chunk_iter(lambda chunk: chunks.append((int(chunk.chunk_offset[0]), int(chunk.byte_offset))))
        data: bytes = file.id.get_file_image()
    return data, _find_spans(data, stored, group, sorted(chunks))


class Hdf5Shard:
    """An open HDF5 shard, decoded one chunk at a time; every chunk is checked against its checksum.

    Raises
    ------
    StoreError
        If the file is damaged, is a shard of an unknown version, or has another width or type of weights.
    """

    def __init__(self, path: Path, num_weights: int, dtype: str = "float32") -> None:
        self._path = path
        stored = Encoding(dtype=dtype).stored
        try:
            self._file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
            about = dict(self._file.attrs)
            self._weights = self._file[WEIGHTS]
            shape, kind, found = self._weights.shape, self._weights.dtype, about["dtype"]
            step = (self._weights.chunks or shape)[0]
            self.group_rows = tuple(min(step, shape[0] - start) for start in range(0, shape[0], step))
            self.layout = str(about["layout"])
            self._columns = dict(json.loads(about["columns"]))
            version = int(about["format_version"]) if about["format"] == SHARD_FORMAT else about["format"]
        except _FAILURES as error:
            raise self._damaged(error) from error
        if version != SHARD_VERSION:
            raise StoreError(f"{path}: unknown version {version!r} of a shard; expected 1. Install a newer release.")
        if shape[1:] != (num_weights,) or kind != stored or found != dtype:
            raise StoreError(f"{path}: expected rows of {num_weights} {dtype} weights, got {found} {list(shape)}.")

    def read_group(self, number: int) -> Stored:
        """Decode one chunk: stored elements [n, P]."""
        start = number * self.group_rows[0]
        out: Stored = np.empty((self.group_rows[number], self._weights.shape[1]), self._weights.dtype)
        try:
            self._weights.read_direct(out, np.s_[start : start + len(out)])
        except _FAILURES as error:
            raise self._damaged(error) from error
        return out

    def read_table(self) -> pa.Table:
        """Read the shard's own table, without the weights."""
        try:
            return _read_table(self._file, self._columns)
        except _FAILURES as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"{self._path}: cannot be decoded ({error}). Restore it from a copy.")


def describe_shard(path: Path) -> tuple[Encoding, int, str]:
    """Read off a shard itself how it is encoded, its width and its layout; raises `StoreError` if it is damaged."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            encoding = Encoding("hdf5", str(file.attrs["dtype"]), file[WEIGHTS].compression or "none")
            return encoding, int(file[WEIGHTS].shape[1]), str(file.attrs["layout"])
    except (*_FAILURES, InputError) as error:
        raise StoreError(f"{path}: cannot be decoded ({error}). Restore it from a copy.") from error


def _write_table(file: h5py.File, table: pa.Table) -> None:
    """Write a table as one compound dataset, and where values are missing as another."""
    columns = {name: _plain_values(table.column(name)) for name in table.column_names}
    gaps = {name: np.asarray(table.column(name).is_null()) for name in table.column_names}
    for path, parts in ((_TABLE, columns), (_MISSING, {name: gap for name, gap in gaps.items() if gap.any()})):
        if parts:
            lines = np.empty(table.num_rows, [(name, values.dtype) for name, values in parts.items()])
            for name, values in parts.items():
                lines[name] = values
            file.create_dataset(path, data=lines, chunks=lines.shape, fletcher32=True)


def _plain_values(column: pa.ChunkedArray) -> Stored:
    """Values of a column as HDF5 knows them; anything where they are missing."""
    if pa.types.is_string(column.type):
        texts = [(text or "").encode() for text in column.to_pylist()]
        return np.array(texts, h5py.string_dtype("utf-8", max(1, *map(len, texts))))
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.uint8)
    values: Stored = column.fill_null(False if pa.types.is_boolean(column.type) else 0).to_numpy()
    return values


def _read_table(file: h5py.File, types: Mapping[str, str]) -> pa.Table:
    lines = file[_TABLE][:]
    gaps = file[_MISSING][:] if _MISSING in file else None
    columns = {}
    for name, kind in types.items():
        if kind == "null":
            columns[name] = pa.nulls(len(lines))
            continue
        values: Sequence[Any] = lines[name]
        if kind == "string":
            values = [text.decode() for text in lines[name].tolist()]
        mask = gaps[name] if gaps is not None and name in gaps.dtype.names else None
        columns[name] = pa.array(values, mask=mask, type=pa.type_for_alias(kind), from_pandas=False)
    return pa.table(columns)


def _find_spans(data: bytes, rows: Stored, group: int, chunks: list[tuple[int, int]]) -> Spans | None:
    """Where each chunk's elements lie, if they are there byte for byte."""
    if sys.byteorder != "little" or not chunks:
        return None
    row_bytes = rows.shape[1] * rows.itemsize
    counts = tuple(min(group, len(rows) - first) for first, _ in chunks)
    for (first, offset), count in zip(chunks, counts, strict=True):
        if data[offset : offset + count * row_bytes] != rows[first : first + count].tobytes():
            return None
    return Spans(tuple(offset for _, offset in chunks), counts) if sum(counts) == len(rows) else None
