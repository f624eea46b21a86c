"""Shards: ordinary Parquet files whose float blocks lie at known byte offsets.

A non-nullable fixed-size list of non-null float32, uncompressed and without a dictionary, with one data
page per row group, ends in the plain little-endian floats of its rows. Their offset follows from the
file's own metadata; it is compared with the rows byte for byte before a shard is written, so a reader may
copy whole rows out of the file without decoding. If anything is unexpected, a shard gets no spans and is
decoded by pyarrow.
"""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from zookeeper.errors import StoreError
from zookeeper.store.records import Spans
from zookeeper.store.table import WEIGHTS

_MAX_GROUPS = 1024  # a footer costs about 800 bytes per row group
_MAX_GROUP_BYTES = 1 << 29  # one data page must stay below data_page_size
_PAGE_BYTES = 1 << 30


def rows_per_group(num_rows: int, trajectory: int, num_weights: int) -> int:
    """Rows of one row group: one trajectory, several of them in very long shards, parts of a huge one.

    >>> rows_per_group(600, 10, 2000), rows_per_group(40_000, 10, 100), rows_per_group(10, 10, 40_000_000)
    (10, 40, 3)
    """
    trajectories = math.ceil(math.ceil(num_rows / trajectory) / _MAX_GROUPS)
    largest = max(1, _MAX_GROUP_BYTES // (4 * num_weights))
    return max(1, min(trajectory * trajectories, largest))


def encode_shard(rows: npt.NDArray[np.float32], table: pa.Table, *, group: int) -> tuple[memoryview, Spans | None]:
    """Encode ``rows`` [N, P] beside their table, ``group`` rows per row group; say where the weights lie."""
    num_weights = rows.shape[1]
    element = pa.field("element", pa.float32(), nullable=False)
    field = pa.field(WEIGHTS, pa.list_(element, num_weights), nullable=False)
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    weights = pa.FixedSizeListArray.from_arrays(flat, type=field.type)
    sink = io.BytesIO()
    names = table.column_names
    pq.write_table(
        table.append_column(field, weights),
        sink,
        compression="none",
        use_dictionary=[name for name in names if pa.types.is_string(table.schema.field(name).type)],
        write_statistics=names,
        data_page_size=_PAGE_BYTES,
        write_page_checksum=True,
        row_group_size=group,
    )
    data = sink.getbuffer()
    return data, _find_spans(data, rows)


def encode_table(table: pa.Table) -> bytes:
    """Encode a metadata table as a small Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode_table(data: bytes, where: str) -> pa.Table:
    """Decode `encode_table`; raises `StoreError` if the bytes are damaged."""
    try:
        return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{where}: cannot be decoded ({error}). Restore it from a copy.") from error


def decode_weights(path: Path, num_weights: int) -> npt.NDArray[np.float32]:
    """Decode all weights [N, P] of a shard through pyarrow: slower than spans, and always possible.

    Raises
    ------
    StoreError
        If the file is damaged or has another width.
    """
    try:
        column = pq.read_table(path, columns=[WEIGHTS], page_checksum_verification=True).column(WEIGHTS)
        if column.type.list_size != num_weights:
            raise StoreError(f"{path}: expected {num_weights} weights per row, got {column.type.list_size}.")
        chunks = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in column.chunks]
    except (pa.ArrowException, OSError, KeyError, AttributeError) as error:
        raise StoreError(f"{path}: cannot be decoded ({error}). Restore it from a copy.") from error
    parts = [np.asarray(chunk, dtype=np.float32).reshape(-1, num_weights) for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty((0, num_weights), np.float32)


def _find_spans(data: memoryview, rows: npt.NDArray[np.float32]) -> Spans | None:
    if sys.byteorder != "little":
        return None
    width = rows.shape[1]
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    stored = np.frombuffer(data, np.uint8)
    given = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    offsets: list[int] = []
    counts: list[int] = []
    start = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(group.num_columns - 1)
        size = group.num_rows * width * 4
        offset = chunk.data_page_offset + chunk.total_compressed_size - size
        if not _is_plain(chunk, group.num_rows * width):
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
