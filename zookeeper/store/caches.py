"""``models.parquet`` and ``checkpoints.parquet``: metadata in one piece, for fast opening and for other tools.

They are caches: made from the commit records, used only if they were made from exactly the records that
are there, and rebuilt by `finalise` at any time. ``caches.json`` holds their sizes and hashes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from zookeeper.errors import StoreError
from zookeeper.store.files import hash_bytes, write_durable
from zookeeper.store.header import ZooHeader, read_header
from zookeeper.store.metadata import order_rows, read_tables
from zookeeper.store.parquet import decode_hashed_table, encode_table
from zookeeper.store.records import CommitRecord, commits_digest, read_commits
from zookeeper.store.table import spell_out, to_frame

if TYPE_CHECKING:
    import pandas as pd

CACHES = "caches.json"
CACHES_FORMAT = "zookeeper.caches"
CHECKPOINTS = "checkpoints.parquet"
MODELS = "models.parquet"
_ROW = "_row"
_COMMITS_KEY = b"zookeeper.commits"


def finalise(root: Path) -> None:
    """Write the caches from what is committed now; safe to repeat, and at any time.

    ``checkpoints.parquet`` has a line per checkpoint, ``models.parquet`` each model's last one.

    Raises
    ------
    StoreError
        If committed metadata is damaged, or the caches cannot be written.
    """
    header = read_header(root)
    records = read_commits(root)
    digest = commits_digest(records)
    table, rows = order_rows(header, read_tables(root, records))
    table = spell_out(table)
    last = _last_of_each(table.column("model_id"))
    keyed = {_COMMITS_KEY: digest.encode()}
    contents = {
        CHECKPOINTS: table.append_column(_ROW, pa.array(rows)).replace_schema_metadata(keyed),
        MODELS: table.take(pa.array(last)).replace_schema_metadata(keyed),
    }
    encoded = {name: encode_table(content) for name, content in contents.items()}
    stamp = {
        "format": CACHES_FORMAT,
        "format_version": 1,
        "commits": digest,
        "files": {name: {"size": len(data), "xxh3": hash_bytes(data)} for name, data in encoded.items()},
    }
    try:
        for name, data in encoded.items():
            write_durable(root / name, data)
        write_durable(root / CACHES, json.dumps(stamp).encode())
    except OSError as error:
        raise StoreError(
            f"{root}: cannot write the caches ({error.strerror or error}); committed rows are not affected."
        ) from error


def read_frame(
    root: Path, header: ZooHeader, records: tuple[CommitRecord, ...]
) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    """Read the metadata of ``records`` and the stored row number of every line.

    Lines are ordered by model (the header's order), then epoch. If a (model, epoch) pair is stored twice,
    the first by (cohort, first epoch) counts. The cache is used if it was made from exactly these records.

    Returns
    -------
    frame, rows
        N lines with index 0..N-1, text as categories (`widen` spells them out), and int64 [N] stored row numbers
        for `RowReader`.
    """
    table_and_rows = read_cache(root, records)
    if table_and_rows is None:
        table_and_rows = order_rows(header, read_tables(root, records))
    table, rows = table_and_rows
    return to_frame(table), rows


def read_cache(root: Path, records: tuple[CommitRecord, ...]) -> tuple[pa.Table, npt.NDArray[np.int64]] | None:
    """Read ``checkpoints.parquet`` if it is whole and made from exactly ``records``, else return None.

    Text columns are dictionaries.
    """
    try:
        stamp = json.loads((root / CACHES).read_bytes())
        data = (root / CHECKPOINTS).read_bytes()
        entry = stamp["files"][CHECKPOINTS]
        intact = len(data) == entry["size"] and hash_bytes(data) == entry["xxh3"]
        digest = commits_digest(records)
        if not intact or stamp["commits"] != digest or stamp.get("format_version", 1) != 1:
            return None
        table = decode_hashed_table(data, CHECKPOINTS)
    except (OSError, ValueError, KeyError, TypeError, StoreError):
        return None
    if (table.schema.metadata or {}).get(_COMMITS_KEY) != digest.encode():
        return None
    rows: npt.NDArray[np.int64] = np.asarray(table.column(_ROW).to_numpy(), np.int64)
    return table.drop_columns([_ROW]).replace_schema_metadata(None), rows


def _last_of_each(models: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Last line of every run of equal model ids."""
    count = len(models)
    if count == 0:
        return np.empty(0, np.int64)
    changes = pc.not_equal(models.slice(1), models.slice(0, count - 1)).to_numpy()
    return np.concatenate([np.flatnonzero(changes), [count - 1]]).astype(np.int64)
