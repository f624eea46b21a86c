"""Weights by row number: whole rows copied out of the shards into one preallocated array.

Rows are addressed by their stored number: the position in the sequence of all committed blocks, ordered
by (cohort, first epoch), and of the rows in each. Where float32 rows lie plain in a file, runs of rows that
lie together are read with one positioned read straight into the destination: no decoding, no second copy,
no mapping that could fault if a file shrinks. Other rows are decoded group by group, or converted. A shard
is checked against its size and hash when a process first touches it.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zookeeper.errors import InputError, StoreError
from zookeeper.store.encoding import Floats
from zookeeper.store.files import hash_bytes, hash_file
from zookeeper.store.records import CommitRecord, StoredFile
from zookeeper.store.shards import OpenFile, RowDecoder, SpanDecoder, read_exactly, spread_spans

_MAX_OPEN = 256
_MAX_DECODERS = 16
_verified: set[tuple[str, str, int, int, int]] = set()


class RowReader:
    """Read weights of committed rows; safe in threads, after a fork and across pickling."""

    def __init__(
        self, root: Path, records: tuple[CommitRecord, ...], locate: Callable[[StoredFile], Path] | None = None
    ) -> None:
        self._root = root
        self._records = records
        self._remote = locate  # where shards are, if not below the root; checks them as `check_file` does
        self._starts = np.cumsum([0, *(record.num_rows for record in records)], dtype=np.int64)
        self._offsets: npt.NDArray[np.int64] | None = None
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._decoders: OrderedDict[int, RowDecoder | SpanDecoder] = OrderedDict()
        self._lock = threading.RLock()
        weakref.finalize(self, _close_all, self._open, self._decoders)

    @property
    def num_rows(self) -> int:
        """Rows in all blocks."""
        return int(self._starts[-1])

    @property
    def num_blocks(self) -> int:
        """Committed blocks; each is one shard."""
        return len(self._records)

    def blocks_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Number of the block that holds each row, in stored order."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    def records_of(self, rows: npt.NDArray[np.int64]) -> tuple[CommitRecord, ...]:
        """The blocks that hold some of ``rows``, in stored order."""
        return tuple(self._records[int(block)] for block in np.unique(self.blocks_of(rows)))

    def layouts_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
        """Digest of the layout of each row."""
        digests = np.array([record.layout for record in self._records], dtype=np.str_)
        return digests[np.searchsorted(self._starts, rows, side="right") - 1]

    def read(self, rows: npt.NDArray[np.int64], out: Floats) -> None:
        """Copy rows [N] by stored number into ``out`` [N, P], in the order given, as the type of ``out``.

        Raises
        ------
        InputError
            If a number is out of range, or a row has another width than ``out``.
        StoreError
            If a shard is missing or damaged; nothing wrong is ever returned.
        """
        if len(rows) == 0:
            return
        if rows.min() < 0 or rows.max() >= self.num_rows:
            raise InputError(f"{self._root}: row numbers must lie in 0..{self.num_rows - 1}.")
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for record in (self._records[int(shard)] for shard in np.unique(shards)):
            if record.num_weights != out.shape[1]:
                raise InputError(
                    f"{self._root}: rows of different widths; expected {out.shape[1]} weights, got "
                    f"{record.num_weights}. Query one architecture at a time."
                )
        offsets = self._row_offsets()[rows] if out.dtype == np.float32 else np.full(len(rows), -1, np.int64)
        with self._lock:
            if (offsets >= 0).any():
                self._copy_runs(shards, offsets, out)
            for shard in np.unique(shards[offsets < 0]).tolist():
                here = np.flatnonzero((shards == shard) & (offsets < 0))
                decoder = self._decoder(shard)
                for other in self._decoders.values():
                    if other is not decoder:
                        other.forget()
                decoder.read(rows[here] - self._starts[shard], out, here)

    def close(self) -> None:
        """Close open files; reading opens them again."""
        with self._lock:
            _close_all(self._open, self._decoders)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self._root, "records": self._records, "locate": self._remote}

    def __setstate__(self, state: dict[str, Any]) -> None:
        RowReader.__init__(self, state["root"], state["records"], state["locate"])

    def _locate(self, file: StoredFile) -> Path:
        return check_file(self._root, file) if self._remote is None else self._remote(file)

    def _copy_runs(
        self,
        shards: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        out: Floats,
    ) -> None:
        row_bytes = 4 * out.shape[1]
        follows = (np.diff(offsets) == row_bytes) & (np.diff(shards) == 0)
        starts = np.concatenate([[0], np.flatnonzero(~follows) + 1])
        stops = np.append(starts[1:], len(offsets))
        target = memoryview(out.data).cast("B")
        runs = zip(shards[starts].tolist(), offsets[starts].tolist(), starts.tolist(), stops.tolist(), strict=True)
        for shard, offset, start, stop in runs:
            if offset >= 0:
                read_exactly(self._file(shard), offset, target[row_bytes * start : row_bytes * stop])

    def _file(self, shard: int) -> OpenFile:
        file = self._open.get(shard)
        if file is None:
            file = self._open[shard] = OpenFile.of(self._locate(self._records[shard].shard))
            most = _MAX_OPEN if self._remote is None else _MAX_DECODERS  # open files keep their place on the disk
            if len(self._open) > min(most, max(8, os.sysconf("SC_OPEN_MAX") // 4)):
                os.close(self._open.popitem(last=False)[1].descriptor)
        else:
            self._open.move_to_end(shard)
        return file

    def _decoder(self, shard: int) -> RowDecoder | SpanDecoder:
        decoder = self._decoders.get(shard)
        if decoder is not None and decoder.usable:
            self._decoders.move_to_end(shard)
            return decoder
        record = self._records[shard]
        path = self._locate(record.shard)
        offsets = _span_offsets(record)
        decoder = RowDecoder(path, record) if offsets is None else SpanDecoder(path, record, offsets)
        self._decoders[shard] = decoder
        if len(self._decoders) > _MAX_DECODERS:
            self._decoders.popitem(last=False)[1].close()
        return decoder

    def _row_offsets(self) -> npt.NDArray[np.int64]:
        """Byte offset of every stored row in its shard; -1 where a shard must be decoded."""
        if self._offsets is None:
            parts = [_float_offsets(record) for record in self._records]
            self._offsets = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return self._offsets


def check_file(root: Path, file: StoredFile) -> Path:
    """Check a file's size always, and its hash once per process and content; return its path.

    Raises
    ------
    StoreError
        If it is missing, has another size, or its bytes changed.
    """
    path = root / file.file
    try:
        status = path.stat()
        if status.st_size != file.size:
            raise StoreError(
                f"{path}: damaged; expected {file.size} bytes, got {status.st_size}. Restore it from a copy."
            )
        key = (str(path), file.xxh3, status.st_size, status.st_mtime_ns, status.st_ino)
        if key not in _verified:
            digest = hash_file(path)
            if digest != file.xxh3:
                raise StoreError(f"{path}: damaged; expected xxh3 {file.xxh3}, got {digest}. Restore it from a copy.")
            _verified.add(key)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing, though a commit record names it. Restore it from a copy.") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return path


def read_checked(root: Path, file: StoredFile) -> bytes:
    """Read a file whole; these very bytes have the size and hash of the record.

    Raises
    ------
    StoreError
        If it is missing or damaged.
    """
    path = root / file.file
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing, though a commit record names it. Restore it from a copy.") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if len(data) != file.size:
        raise StoreError(f"{path}: damaged; expected {file.size} bytes, got {len(data)}. Restore it from a copy.")
    if (digest := hash_bytes(data)) != file.xxh3:
        raise StoreError(f"{path}: damaged; expected xxh3 {file.xxh3}, got {digest}. Restore it from a copy.")
    return data


def _float_offsets(record: CommitRecord) -> npt.NDArray[np.int64]:
    """Byte offset of every row that is plain float32, or -1."""
    offsets = _span_offsets(record) if record.encoding.dtype == "float32" else None
    return np.full(record.num_rows, -1, np.int64) if offsets is None else offsets


def _span_offsets(record: CommitRecord) -> npt.NDArray[np.int64] | None:
    """Byte offset of every row of a shard, if its record says where they lie and it can be so."""
    spans, row_bytes = record.spans, record.encoding.itemsize * record.num_weights
    if spans is None or sys.byteorder != "little" or not hasattr(os, "preadv"):
        return None
    ends = [offset + row_bytes * count for offset, count in zip(spans.offsets, spans.rows, strict=False)]
    plausible = (
        len(spans.offsets) == len(spans.rows)
        and sum(spans.rows) == record.num_rows
        and all(count > 0 for count in spans.rows)
        and all(offset >= 0 for offset in spans.offsets)
        and max(ends, default=0) <= record.shard.size
    )
    return spread_spans(spans, row_bytes) if plausible else None


def _close_all(files: OrderedDict[int, OpenFile], decoders: OrderedDict[int, RowDecoder | SpanDecoder]) -> None:
    """Close what a reader holds open; at the exit of the interpreter this runs while modules are still there."""
    while files:
        os.close(files.popitem()[1].descriptor)
    while decoders:
        decoders.popitem()[1].close()
