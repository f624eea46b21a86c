"""Write a stored zoo again in another encoding: all of it or nothing, block by block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zookeeper.store.caches import finalise
from zookeeper.store.collection import appear_at_once
from zookeeper.store.encoding import Encoding, Floats, decode_floats, encode_floats, keeps_every_value
from zookeeper.store.header import create_zoo, read_header
from zookeeper.store.parquet import decode_table
from zookeeper.store.reader import RowReader, check_file
from zookeeper.store.records import CommitRecord, read_commits
from zookeeper.store.state import State, load_state
from zookeeper.store.writer import commit_rows


@dataclass(frozen=True)
class Conversion:
    """What a conversion did: rows and bytes of shards, and what it lost.

    ``lossy`` says whether the new type could lose bits; ``num_changed`` weights did, by at most
    ``largest_change`` (absolute, of those that stayed finite), and ``num_overflowed`` became infinite.
    """

    num_rows: int
    bytes_before: int
    bytes_after: int
    lossy: bool
    num_changed: int
    largest_change: float
    num_overflowed: int


def convert_zoo(
    source: Path, target: Path, encoding: Encoding, on_block: Callable[[CommitRecord], None] | None = None
) -> Conversion:
    """Store a zoo again in another encoding; it appears at ``target`` at once or not at all.

    Models, epochs, tables, spec, layouts, creation time and the training states of unfinished cohorts stay
    as they are, so that a build may go on in the new zoo. ``provenance.converted`` says from what. Every file
    of the source is checked against its hash on the way.

    Raises
    ------
    InputError
        If there is no zoo at ``source``, or something at ``target``.
    StoreError
        If the source is damaged, or the target cannot be written; nothing appears at ``target``.
    """
    header = read_header(source)
    records = read_commits(source)
    lossy = any(not keeps_every_value(record.encoding.dtype, encoding.dtype) for record in records)
    before = sorted({tuple(record.encoding.to_json().values()) for record in records})
    converted = {"digest": header.digest, "from": [list(names) for names in before], "lossy": lossy}
    provenance = {**header.provenance, "converted": [*header.provenance.get("converted", []), converted]}
    reader, done = RowReader(source, records), Conversion(0, 0, 0, lossy, 0, 0.0, 0)
    newest = {record.cohort: record for record in records}
    with closing(reader), appear_at_once(target) as temporary:
        create_zoo(temporary, replace(header, store=encoding, provenance=provenance))
        for record in records:
            state = load_state(source, record) if newest[record.cohort] is record and record.state else None
            done = _convert_block(source, temporary, record, encoding, reader, state, done)
            if on_block is not None:
                on_block(record)
        finalise(temporary)
    return done


def _convert_block(
    source: Path,
    target: Path,
    record: CommitRecord,
    encoding: Encoding,
    reader: RowReader,
    state: State | None,
    done: Conversion,
) -> Conversion:
    double = record.encoding.dtype == "float64"
    shape = (record.num_rows, record.num_weights)
    rows: Floats = np.empty(shape, np.float64) if double else np.empty(shape, np.float32)
    reader.read(done.num_rows + np.arange(record.num_rows, dtype=np.int64), rows)
    path = check_file(source, record.meta)
    table = decode_table(path.read_bytes(), str(path))
    made = commit_rows(
        target,
        cohort=record.cohort,
        first_epoch=record.first_epoch,
        last_epoch=record.last_epoch,
        rows=rows,
        table=dict(zip(table.column_names, table.columns, strict=True)),
        layout=record.layout,
        trajectory=_trajectory(record, source),
        state=state,
        final=record.final,
        encoding=encoding,
    )
    changed, largest, overflowed = _loss(rows, encoding) if done.lossy else (0, 0.0, 0)
    return Conversion(
        done.num_rows + record.num_rows,
        done.bytes_before + record.shard.size,
        done.bytes_after + made.shard.size,
        done.lossy,
        done.num_changed + changed,
        max(done.largest_change, largest),
        done.num_overflowed + overflowed,
    )


def _trajectory(record: CommitRecord, source: Path) -> int:
    """Rows of one model in a block; blocks of a header's cohort hold as many of each."""
    models = len(read_header(source).cohorts[record.cohort].models)
    return max(1, record.num_rows // models)


def _loss(rows: Floats, encoding: Encoding) -> tuple[int, float, int]:
    back: Floats = np.empty_like(rows)
    decode_floats(encode_floats(rows, encoding.dtype), encoding.dtype, back)
    changed = (back != rows) & ~(np.isnan(back) & np.isnan(rows))
    overflowed = changed & ~np.isfinite(back)
    kept = changed & ~overflowed
    largest = float(np.abs(back[kept].astype(np.float64) - rows[kept]).max()) if kept.any() else 0.0
    return int(changed.sum()), largest, int(overflowed.sum())
