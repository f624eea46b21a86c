"""One interface to shards of every backend: encode rows with their table, open a file, read rows of it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from zookeeper.errors import StoreError
from zookeeper.store import parquet
from zookeeper.store.encoding import SUFFIXES, Encoding, Floats, Stored, decode_floats
from zookeeper.store.records import CommitRecord, Spans

_MAX_GROUPS = 1024  # a Parquet footer costs about 800 bytes per row group
_PIECE_BYTES = 1 << 20
_MAX_GROUP_BYTES = 1 << 26  # what reading one row of a compressed shard decodes, and may keep


class ShardFile(Protocol):
    """An open shard: groups of consecutive rows that are decoded together, and the table of all rows."""

    group_rows: tuple[int, ...]
    layout: str

    def read_group(self, number: int) -> Stored:
        """Decode one group: stored elements [n, P]; raises `StoreError` if they are damaged."""
        ...

    def read_table(self) -> pa.Table:
        """Read the shard's own table; raises `StoreError` if it is damaged."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def rows_per_group(num_rows: int, trajectory: int, num_weights: int) -> int:
    """Rows of one group: one trajectory, several of them in very long shards, parts of a huge one.

    >>> rows_per_group(600, 10, 2000), rows_per_group(40_000, 10, 100), rows_per_group(10, 10, 4_000_000)
    (10, 40, 4)
    """
    trajectories = math.ceil(math.ceil(num_rows / trajectory) / _MAX_GROUPS)
    largest = max(1, _MAX_GROUP_BYTES // (4 * num_weights))
    return max(1, min(trajectory * trajectories, largest))


def encode_shard(
    rows: Stored, table: pa.Table, *, group: int, encoding: Encoding, layout: str
) -> tuple[bytes | memoryview, Spans | None]:
    """Encode stored elements [N, P] beside their table as one file; say where they lie, if they lie plain."""
    if encoding.backend == "hdf5":
        from zookeeper.store import hdf5

        return hdf5.encode_shard(rows, table, group=group, encoding=encoding, layout=layout)
    return parquet.encode_shard(rows, table, group=group, encoding=encoding, layout=layout)


def open_shard(path: Path, num_weights: int, encoding: Encoding) -> ShardFile:
    """Open a shard for decoding; raises `StoreError` if it is damaged or not what is expected."""
    if encoding.backend == "hdf5":
        from zookeeper.store import hdf5

        return hdf5.Hdf5Shard(path, num_weights, encoding.dtype)
    return parquet.ParquetShard(path, num_weights, encoding.dtype)


def describe_shard(path: Path) -> tuple[Encoding, int, str]:
    """Read off a shard itself how it is encoded, its width and its layout; raises `StoreError` if it is damaged."""
    if path.suffix == f".{SUFFIXES['hdf5']}":
        from zookeeper.store import hdf5

        return hdf5.describe_shard(path)
    return parquet.describe_shard(path)


class RowDecoder:
    """Rows of one shard in any order, out of its groups; the last decoded group is kept."""

    def __init__(self, path: Path, record: CommitRecord) -> None:
        self._file = open_shard(path, record.num_weights, record.encoding)
        self._dtype = record.encoding.dtype
        counts = self._file.group_rows
        if sum(counts) != record.num_rows:
            raise StoreError(f"{path}: expected {record.num_rows} rows, got {sum(counts)}. Restore it from a copy.")
        self._starts = np.cumsum([0, *counts], dtype=np.int64)
        self._last: tuple[int, Stored] | None = None
        self._pid = os.getpid()

    @property
    def usable(self) -> bool:
        """Whether this process opened the file; libraries do not share open files across a fork."""
        return self._pid == os.getpid()

    def read(self, rows: npt.NDArray[np.int64], out: Floats, where: npt.NDArray[np.int64]) -> None:
        """Decode rows [n], numbered within the shard, into ``out[where]``."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(groups, kind="stable")
        cuts = np.flatnonzero(np.diff(groups[order])) + 1
        for members in np.split(order, cuts):
            number = int(groups[members[0]])
            place, target = rows[members] - self._starts[number], where[members]
            into = _as_slice(target)
            if isinstance(into, slice):
                decode_floats(self._group(number)[_as_slice(place)], self._dtype, out[into])
            else:
                scratch: Floats = np.empty((len(members), out.shape[1]), out.dtype)
                decode_floats(self._group(number)[place], self._dtype, scratch)
                out[target] = scratch

    def forget(self) -> None:
        """Let the kept group go."""
        self._last = None

    def close(self) -> None:
        """Close the file, unless another process opened it."""
        self.forget()
        if self.usable:
            self._file.close()

    def _group(self, number: int) -> Stored:
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        self._last = None
        group = self._file.read_group(number)
        if group.nbytes <= _MAX_GROUP_BYTES:
            self._last = (number, group)
        return group


class SpanDecoder:
    """Rows of one uncompressed shard whose elements are not float32: copied, then converted."""

    def __init__(self, path: Path, record: CommitRecord, offsets: npt.NDArray[np.int64]) -> None:
        self._dtype, self._offsets = record.encoding.dtype, offsets
        self._stored, self._width = record.encoding.stored, record.num_weights
        self._file = OpenFile.of(path)

    usable = True

    def read(self, rows: npt.NDArray[np.int64], out: Floats, where: npt.NDArray[np.int64]) -> None:
        """Read rows [n], numbered within the shard, into ``out[where]``, a piece that fits into a cache at a time."""
        step = max(1, _PIECE_BYTES // (self._stored.itemsize * self._width))
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            self._read_piece(self._offsets[rows[piece]], out, where[piece])

    def _read_piece(self, offsets: npt.NDArray[np.int64], out: Floats, where: npt.NDArray[np.int64]) -> None:
        row_bytes = self._stored.itemsize * self._width
        stored: Stored = np.empty((len(offsets), self._width), self._stored)
        target = stored.data.cast("B")
        starts = np.concatenate([[0], np.flatnonzero(np.diff(offsets) != row_bytes) + 1])
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(offsets)], strict=True):
            run = target[row_bytes * start : row_bytes * stop]
            read_exactly(self._file, int(offsets[start]), run)
        into = _as_slice(where)
        if isinstance(into, slice):
            decode_floats(stored, self._dtype, out[into])
        else:
            scratch: Floats = np.empty(stored.shape, out.dtype)
            decode_floats(stored, self._dtype, scratch)
            out[where] = scratch

    def forget(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Close the file."""
        os.close(self._file.descriptor)


class OpenFile(NamedTuple):
    """A descriptor beside the path it was opened at."""

    descriptor: int
    path: Path

    @classmethod
    def of(cls, path: Path) -> OpenFile:
        """Open a file for reading."""
        return cls(os.open(path, os.O_RDONLY), path)


def read_exactly(file: OpenFile, offset: int, target: memoryview) -> None:
    """Fill ``target`` from a file's bytes at ``offset``; raises `StoreError` if the file ends before."""
    done = 0
    while done < len(target):
        count = os.preadv(file.descriptor, [target[done:]], offset + done)
        if count == 0:
            raise StoreError(
                f"{file.path}: ends at byte {offset + done}; the file was cut while it was open. "
                "Restore it from a copy."
            )
        done += count


def _as_slice(index: npt.NDArray[np.int64]) -> Any:
    """The slice that consecutive increasing numbers are, or the numbers."""
    if len(index) == index[-1] - index[0] + 1 and bool((np.diff(index) == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def spread_spans(spans: Spans, row_bytes: int) -> npt.NDArray[np.int64]:
    """Byte offset of every row of a shard.

    >>> spread_spans(Spans((100, 300), (2, 1)), 8).tolist()
    [100, 108, 300]
    """
    counts: Sequence[int] | npt.NDArray[np.int64] = np.array(spans.rows, np.int64)
    first = np.cumsum(counts) - counts
    within = np.arange(int(np.sum(counts)), dtype=np.int64) - np.repeat(first, counts)
    return np.repeat(np.array(spans.offsets, np.int64), counts) + within * row_bytes
