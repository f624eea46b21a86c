"""The metadata of committed blocks, gathered and ordered, without touching a shard of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from zookeeper.store.header import ZooHeader
from zookeeper.store.parquet import decode_hashed_table
from zookeeper.store.reader import read_checked
from zookeeper.store.records import CommitRecord
from zookeeper.store.table import IDENTITY, concatenate

_EMPTY = pa.schema([("model_id", pa.dictionary(pa.int32(), pa.string())), ("epoch", pa.int64())])


def read_tables(root: Path, records: tuple[CommitRecord, ...]) -> pa.Table:
    """Read the metadata tables of ``records`` in stored order, each checked against size and hash.

    Text comes as dictionaries: those of thousands of blocks then cost what they hold, not what they spell.
    """
    if not records:
        return _EMPTY.empty_table()
    tables = [decode_hashed_table(read_checked(root, record.meta), record.meta.file) for record in records]
    return concatenate(tables).unify_dictionaries().combine_chunks()


def order_rows(header: ZooHeader, table: pa.Table) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """Order a table of all stored rows by model and epoch, dropping later duplicates."""
    import pandas as pd

    models = pd.Index(header.models)
    ids = table.column(IDENTITY[0]).combine_chunks()
    rank = models.get_indexer(pd.Index(ids.dictionary.to_pandas()))[ids.indices.to_numpy()]
    epoch = table.column(IDENTITY[1]).to_numpy()
    rows = np.lexsort((np.arange(len(rank)), epoch, rank)).astype(np.int64)
    repeated = np.zeros(len(rows), dtype=bool)
    repeated[1:] = (np.diff(rank[rows]) == 0) & (np.diff(epoch[rows]) == 0)
    rows = rows[~repeated]
    return table.take(pa.array(rows)), rows
