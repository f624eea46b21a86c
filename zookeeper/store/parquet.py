"""Parquet: shards whose float blocks lie at known byte offsets, and small tables of metadata.

A non-nullable fixed-size list of non-null elements, uncompressed and without a dictionary, with one data
page per row group, ends in the plain little-endian elements of its rows. Their offset follows from the
file's own metadata; it is compared with the rows byte for byte before a shard is written, so a reader may
copy whole rows out of the file without decoding. If anything is unexpected, and with compression, a shard
gets no spans and is decoded by pyarrow, row group by row group, page checksums verified.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from zookeeper.errors import InputError, StoreError
from zookeeper.store.encoding import PLAIN, Encoding, Stored
from zookeeper.store.records import Spans
from zookeeper.store.table import WEIGHTS

SHARD_FORMAT = "zookeeper.shard"
SHARD_VERSION = 1
_PAGE_BYTES = 1 << 30
_SMALL = 1 << 20
_TABLE_LINES = 1 << 26  # the most that pyarrow puts into a row group
_ELEMENT = f"{WEIGHTS}.list.element"
_ARROW = {"float32": pa.float32(), "float16": pa.float16(), "bfloat16": pa.binary(2), "float64": pa.float64()}
_FAILURES = (pa.ArrowException, OSError, KeyError, AttributeError, ValueError, TypeError)


def encode_shard(
    rows: Stored, table: pa.Table, *, group: int, encoding: Encoding = PLAIN, layout: str = ""
) -> tuple[memoryview, Spans | None]:
    """Encode stored elements [N, P] beside their table, ``group`` rows per row group; say where they lie."""
    num_weights = rows.shape[1]
    element = pa.field("element", _ARROW[encoding.dtype], nullable=False)
    field = pa.field(WEIGHTS, pa.list_(element, num_weights), nullable=False)
    flat = np.ascontiguousarray(rows, encoding.stored).reshape(-1)
    values = pa.Array.from_buffers(element.type, flat.size, [None, pa.py_buffer(flat)])
    weights = pa.FixedSizeListArray.from_arrays(values, type=field.type)
    sink = io.BytesIO()
    names = table.column_names
    compressed = encoding.compression != "none"
    about = {"format": SHARD_FORMAT, "format_version": SHARD_VERSION, "dtype": encoding.dtype, "layout": layout}
    pq.write_table(
        table.append_column(field, weights).replace_schema_metadata({SHARD_FORMAT: json.dumps(about)}),
        sink,
        compression=encoding.compression,
        compression_level=1 if compressed else None,
        use_dictionary=[name for name in names if pa.types.is_string(table.schema.field(name).type)],
        use_byte_stream_split=[_ELEMENT] if compressed else False,
        write_statistics=names,
        data_page_size=_PAGE_BYTES,
        write_page_checksum=True,
        row_group_size=group,
    )
    data = sink.getbuffer()
    return data, None if compressed else _find_spans(data, flat.reshape(rows.shape))


class ParquetShard:
    """An open Parquet shard, decoded one row group at a time; every page is checked against its checksum.

    Raises
    ------
    StoreError
        If the file is damaged, is a shard of an unknown version, or has another width or type of weights.
    """

    def __init__(self, path: Path, num_weights: int, dtype: str = "float32") -> None:
        self._path, self._num_weights, self._dtype = path, num_weights, dtype
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
            metadata = self._file.metadata
            self.group_rows = tuple(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))
            about = json.loads((self._file.schema_arrow.metadata or {}).get(SHARD_FORMAT.encode(), b"{}"))
            self.layout = str(about.get("layout", ""))
            version = about.get("format_version", 1)
        except _FAILURES as error:
            raise self._damaged(error) from error
        if version != SHARD_VERSION:
            raise StoreError(f"{path}: unknown version {version!r} of a shard; expected 1. Install a newer release.")

    def read_group(self, number: int) -> Stored:
        """Decode one row group: stored elements [n, P]."""
        try:
            column = self._file.read_row_group(number, columns=[WEIGHTS], use_threads=False).column(WEIGHTS)
        except _FAILURES as error:
            raise self._damaged(error) from error
        kind = column.type
        wanted = pa.list_(pa.field("element", _ARROW[self._dtype], nullable=False), self._num_weights)
        if kind != wanted:
            raise StoreError(f"{self._path}: expected rows of {self._num_weights} {self._dtype} weights, got {kind}.")
        values = column.combine_chunks().flatten()
        stored = np.dtype(Encoding(dtype=self._dtype).stored)
        flat = np.frombuffer(values.buffers()[1], stored, len(values), values.offset * stored.itemsize)
        return flat.reshape(-1, self._num_weights)

    def read_table(self) -> pa.Table:
        """Read the shard's own table, without the weights."""
        try:
            names = [name for name in self._file.schema_arrow.names if name != WEIGHTS]
            return self._file.read(columns=names).replace_schema_metadata(None)
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
        with pq.ParquetFile(path) as file:
            about = json.loads((file.schema_arrow.metadata or {}).get(SHARD_FORMAT.encode(), b"{}"))
            group = file.metadata.row_group(0)
            packed = group.column(group.num_columns - 1).compression != "UNCOMPRESSED"
            width = int(file.schema_arrow.field(WEIGHTS).type.list_size)
        encoding = Encoding("parquet", about.get("dtype", "float32"), "zstd" if packed else "none")
    except (*_FAILURES, InputError) as error:
        raise StoreError(f"{path}: cannot be decoded ({error}). Restore it from a copy.") from error
    return encoding, width, str(about.get("layout", ""))


def encode_table(table: pa.Table) -> bytes:
    """Encode a metadata table as a small Parquet file, in one row group so that its columns decode in one piece."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, row_group_size=_TABLE_LINES)
    return sink.getvalue()


def decode_table(data: bytes, where: str) -> pa.Table:
    """Decode `encode_table`; raises `StoreError` if the bytes are damaged."""
    try:
        return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{where}: cannot be decoded ({error}). Restore it from a copy.") from error


def decode_hashed_table(data: bytes, where: str) -> pa.Table:
    """Decode `encode_table` from bytes that were compared with their hash, so that pages need no check of their own.

    Text comes as dictionaries, as it is stored: a zoo of millions of rows is opened without spelling them out.
    """
    try:
        about = pq.read_metadata(pa.BufferReader(data))
        texts = [field.name for field in about.schema.to_arrow_schema() if pa.types.is_string(field.type)]
        with pq.ParquetFile(pa.BufferReader(data), metadata=about, read_dictionary=texts) as file:
            # whole columns: `read_table` hands out thousands of lines at a time; threads cost more than a small table
            return file.read(use_threads=len(data) > _SMALL)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{where}: cannot be decoded ({error}). Restore it from a copy.") from error


def _find_spans(data: memoryview, rows: Stored) -> Spans | None:
    if sys.byteorder != "little":
        return None
    row_bytes = rows.shape[1] * rows.itemsize
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    stored = np.frombuffer(data, np.uint8)
    given: npt.NDArray[np.uint8] = rows.reshape(-1).view(np.uint8)
    offsets: list[int] = []
    counts: list[int] = []
    start = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(group.num_columns - 1)
        size = group.num_rows * row_bytes
        offset = chunk.data_page_offset + chunk.total_compressed_size - size
        if not _is_plain(chunk, group.num_rows * rows.shape[1]):
            return None
        if offset < 0 or not np.array_equal(stored[offset : offset + size], given[start : start + size]):
            return None
        offsets.append(int(offset))
        counts.append(int(group.num_rows))
        start += size
    return Spans(tuple(offsets), tuple(counts)) if start == given.size else None


def _is_plain(chunk: Any, num_values: int) -> bool:
    return bool(
        chunk.path_in_schema.split(".")[0] == WEIGHTS
        and chunk.compression == "UNCOMPRESSED"
        and not chunk.has_dictionary_page
        and set(chunk.encodings) <= {"PLAIN", "RLE"}
        and chunk.num_values == num_values
    )
