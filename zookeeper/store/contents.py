"""What stored rows say about each other: identities, schedules, and weights against their table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from zookeeper.errors import StoreError
from zookeeper.store.encoding import decode_floats
from zookeeper.store.files import hash_bytes
from zookeeper.store.findings import AGAIN, Finding, Lost
from zookeeper.store.header import CohortEntry, ZooHeader
from zookeeper.store.records import CommitRecord
from zookeeper.store.shards import open_shard
from zookeeper.store.table import DIVERGED

_MAX_LISTED = 5


def layout_width(layout: Mapping[str, Any]) -> int:
    """Number of weights of a layout in plain JSON.

    >>> layout_width({"version": 1, "blocks": [{"shape": [2, 3]}, {"shape": [2]}]})
    8
    """
    return sum(math.prod(block["shape"]) for block in layout["blocks"])


def check_rows(
    header: ZooHeader, records: tuple[CommitRecord, ...], tables: Mapping[str, Mapping[str, list[object]]]
) -> Iterator[Finding]:
    """Find rows that are stored twice, belong to no cohort, or are absent though later ones are there."""
    for record in records:
        table = tables.get(record.file_name)
        if table is not None and (what := _wrong_rows(header, record, table)):
            remedy = "Header, record and table are whole but contradict each other; restore all from one copy."
            yield Finding("contradiction", record.meta.file, what, remedy, record.file_name)
    pairs = Counter(
        (model, epoch)
        for table in tables.values()
        for model, epoch in zip(table["model_id"], table["epoch"], strict=True)
    )
    if twice := [pair for pair, count in pairs.items() if count > 1]:
        shown = ", ".join(f"{model} epoch {epoch}" for model, epoch in twice[:_MAX_LISTED])
        what = f"{len(twice)} checkpoint(s) are stored more than once: {shown}"
        remedy = "Readers take the first by (cohort, epoch); no row is lost."
        yield Finding("duplicate", "meta", what, remedy)
    for name, cohort in header.cohorts.items():
        missing = _missing_epochs(cohort, [record for record in records if record.cohort == name])
        if missing:
            lost = Lost(cohort.models, missing)
            what = f"{len(missing)} epoch(s) of {len(cohort.models)} model(s) are absent, though later ones are stored"
            yield Finding("gap", name, what, AGAIN, lost=lost)


def _missing_epochs(cohort: CohortEntry, records: list[CommitRecord]) -> tuple[int, ...]:
    """Epochs of the schedule before the last stored one that no block holds."""
    last = max((record.last_epoch for record in records), default=-1)
    held = {e for record in records for e in cohort.epochs if record.first_epoch <= e <= record.last_epoch}
    return tuple(epoch for epoch in cohort.epochs if epoch < last and epoch not in held)


def _wrong_rows(header: ZooHeader, record: CommitRecord, table: Mapping[str, list[object]]) -> str | None:
    """Say how a block's rows differ from what the header promises; a cohort's rows are models, then epochs."""
    cohort = header.cohorts.get(record.cohort)
    if cohort is None:
        return f"cohort {record.cohort!r} is not in the header"
    layout = header.layouts.get(record.layout)
    if layout is None:
        return f"layout {record.layout!r} is not in the header"
    width = layout_width(layout)
    if width != record.num_weights:
        return f"rows have {record.num_weights} weights; their layout has {width}"
    if len(table["model_id"]) != record.num_rows:
        return f"the table has {len(table['model_id'])} lines; the record says {record.num_rows}"
    strangers = {str(model) for model in table["model_id"]} - set(cohort.models)
    if strangers:
        return f"model {sorted(strangers)[0]!r} is not in cohort {record.cohort!r}"
    epochs = [int(str(epoch)) for epoch in table["epoch"]]
    if not set(epochs) <= set(cohort.epochs) or (min(epochs), max(epochs)) != (record.first_epoch, record.last_epoch):
        return f"epochs {min(epochs)} to {max(epochs)} are not those of the record or of the schedule"
    if record.final != (record.last_epoch == cohort.epochs[-1]):
        return f"final is {record.final}, though the block ends at epoch {record.last_epoch} of {cohort.epochs[-1]}"
    return None


def check_block(root: Path, record: CommitRecord, table: pa.Table) -> Iterator[str]:
    """Decode a block and say where weights, tables, spans and status disagree."""
    path = root / record.shard.file
    try:
        shard = open_shard(path, record.num_weights, record.encoding)
        own = shard.read_table()
        parts = [shard.read_group(number) for number in range(len(shard.group_rows))]
        shard.close()
    except StoreError as error:
        yield str(error)
        return
    rows = np.concatenate(parts)
    digest = hash_bytes(rows.data.cast("B"))
    if len(rows) != record.num_rows or digest != record.weights_xxh3:
        yield f"expected {record.num_rows} rows with xxh3 {record.weights_xxh3}, got {len(rows)} with {digest}"
        return
    if record.spans is not None:
        data, size = path.read_bytes(), rows.shape[1] * rows.itemsize
        ends = zip(record.spans.offsets, record.spans.rows, strict=True)
        if b"".join(data[offset : offset + count * size] for offset, count in ends) != rows.tobytes():
            yield "the record's spans do not lead to the weights"
    if not _same_table(own, table):
        yield f"its own table is not that of {record.meta.file}"
    if "status" in table.column_names and record.encoding.dtype in ("float32", "float64"):
        floats = np.empty(rows.shape, np.float64)
        decode_floats(rows, record.encoding.dtype, floats)
        ok = np.array(table.column("status").to_pylist()) != DIVERGED
        if wrong := np.flatnonzero(ok & ~np.isfinite(floats).all(axis=1)).tolist():
            line = f"{table.column('model_id')[wrong[0]]} epoch {table.column('epoch')[wrong[0]]}"
            yield f"{len(wrong)} row(s) are not finite but not flagged as diverged, first {line}"


def _same_table(first: pa.Table, second: pa.Table) -> bool:
    """Whether two tables hold the same bits; NaN equals NaN, null equals null only."""
    if first.column_names != second.column_names:
        return False
    for name in first.column_names:
        one, other = first.column(name), second.column(name)
        if one.type != other.type or not one.is_null().equals(other.is_null()):
            return False
        if pa.types.is_floating(one.type):
            bits = [column.fill_null(0.0).to_numpy().tobytes() for column in (one, other)]
            if bits[0] != bits[1]:
                return False
        elif not one.equals(other):
            return False
    return True
