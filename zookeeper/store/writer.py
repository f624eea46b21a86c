"""Commit a block: all of it or none of it, and the first writer wins.

The bytes are built in memory, each file is written to a temporary name, flushed and renamed, and only then
the commit record is created under a name that must be free. A process may die, a disk may fill up and a
second writer may race at any point: readers see the block complete or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zookeeper.errors import InputError, StoreError
from zookeeper.store.encoding import PLAIN, Encoding, Floats, encode_floats
from zookeeper.store.files import create_durable, hash_bytes, remove_if_present, write_durable
from zookeeper.store.header import CohortEntry, ZooHeader, read_header
from zookeeper.store.parquet import encode_table
from zookeeper.store.records import (
    COMMITS,
    CommitRecord,
    StoredFile,
    cohort_commits,
    read_record,
    record_name,
)
from zookeeper.store.shards import encode_shard, rows_per_group
from zookeeper.store.state import State, encode_state
from zookeeper.store.table import make_table

if TYPE_CHECKING:
    import pandas as pd


class AlreadyCommitted(StoreError):
    """Another writer committed this block first.

    ``record`` is the record that stands; ``same_weights`` says whether this writer's weights are equal to
    the bit. If they are not, the run is not deterministic, or it cut its blocks differently.
    """

    def __init__(self, record: CommitRecord, *, same_weights: bool, where: str) -> None:
        self.record = record
        self.same_weights = same_weights
        verdict = "the same weights" if same_weights else "different weights"
        super().__init__(f"{where}: block {record.key} is already committed with {verdict}. Read the progress again.")


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of one cohort at consecutive checkpoint epochs, ready to be committed.

    Parameters
    ----------
    cohort
        Name of a cohort of the header.
    epochs
        E epochs that follow each other in the cohort's schedule.
    rows
        Weights, float32 [M, E, P], models in the header's order.
    table
        Columns of M * E values, model by model, then by epoch. ``model_id`` and ``epoch`` are filled in;
        if given they must agree.
    layout
        Digest of the layout of the rows; a key of the header's layouts.
    state
        Arrays needed to go on after the last of ``epochs``; not stored with a cohort's final block.
    """

    cohort: str
    epochs: tuple[int, ...]
    rows: npt.NDArray[np.float32]
    table: Mapping[str, Any] | pd.DataFrame
    layout: str
    state: State | None = None


def commit_block(root: Path, block: Block) -> CommitRecord:
    """Store a block durably; when this returns, it is on disk and visible.

    Raises
    ------
    InputError
        If the block does not fit the header: unknown cohort or layout, wrong shape, epochs out of order.
    AlreadyCommitted
        If a block with this identity exists; it is kept, and this one's files are removed.
    StoreError
        If writing fails (a full disk, say); nothing of the block becomes visible.
    """
    header, cohort = _check_block(root, block)
    num_models, num_epochs, num_weights = block.rows.shape
    matrix = np.ascontiguousarray(block.rows).reshape(num_models * num_epochs, num_weights)
    columns = {str(name): values for name, values in block.table.items()}
    identity = {
        "model_id": np.repeat(np.array(cohort.models, dtype=object), num_epochs),
        "epoch": np.tile(np.array(block.epochs, dtype=np.int64), num_models),
    }
    for name, expected in identity.items():
        if name in columns and not np.array_equal(np.asarray(columns[name], dtype=expected.dtype), expected):
            raise InputError(f"block {block.cohort}: column {name!r} does not list models, then epochs, in order.")
    final = block.epochs[-1] == cohort.epochs[-1]
    return commit_rows(
        root,
        cohort=block.cohort,
        first_epoch=block.epochs[0],
        last_epoch=block.epochs[-1],
        rows=matrix,
        table={**columns, **identity},
        layout=block.layout,
        trajectory=num_epochs,
        state=None if final else block.state,
        final=final,
        encoding=header.store,
    )


def commit_rows(
    root: Path,
    *,
    cohort: str,
    first_epoch: int,
    last_epoch: int,
    rows: Floats,
    table: Mapping[str, Any] | pd.DataFrame,
    layout: str,
    trajectory: int,
    state: State | None,
    final: bool,
    encoding: Encoding = PLAIN,
) -> CommitRecord:
    """Commit rows [N, P] under an identity without looking at the header; `commit_block` checks first.

    ``trajectory`` is the number of rows that are read together (one row group or chunk). ``encoding`` says
    how rows become bytes: by default float32 in Parquet, uncompressed.
    """
    meta_table = make_table(table, rows, cohort=cohort)
    group = rows_per_group(len(rows), trajectory, rows.shape[1])
    stored_rows = encode_floats(rows, encoding.dtype)
    shard_bytes, spans = encode_shard(stored_rows, meta_table, group=group, encoding=encoding, layout=layout)
    stem = f"{cohort}.{first_epoch:06d}"
    shard = _stored(f"shards/{stem}-{{}}.{encoding.suffix}", shard_bytes)
    meta_bytes = encode_table(meta_table)
    meta = _stored(f"meta/{stem}-{{}}.parquet", meta_bytes)
    pending: list[tuple[StoredFile, bytes | memoryview]] = [(shard, shard_bytes), (meta, meta_bytes)]
    stored_state = None
    if state is not None:
        state_bytes = encode_state(state)
        stored_state = _stored(f"state/{stem}-{{}}.safetensors", state_bytes)
        pending.append((stored_state, state_bytes))
    record = CommitRecord(
        cohort=cohort,
        first_epoch=first_epoch,
        last_epoch=last_epoch,
        num_rows=len(rows),
        num_weights=rows.shape[1],
        layout=layout,
        weights_xxh3=hash_bytes(stored_rows.data.cast("B")),
        shard=shard,
        meta=meta,
        state=stored_state,
        spans=spans,
        final=final,
        encoding=encoding,
    )
    earlier = _earlier_commits(root, record, pending)
    try:
        for file, data in pending:
            write_durable(root / file.file, data)
        created = create_durable(root / COMMITS / record.file_name, record.to_bytes())
    except OSError as error:
        raise StoreError(
            f"{root}: cannot commit block {record.key} ({error.strerror or error}); readers see all of it or "
            "nothing. Make room or restore access, then build again."
        ) from error
    if not created:
        raise _lost(root, record, pending)
    if earlier and earlier[-1].state is not None:
        with suppress(OSError):  # superseded: what cannot be removed now is an orphan later
            remove_if_present(root / earlier[-1].state.file)
    return record


def _check_block(root: Path, block: Block) -> tuple[ZooHeader, CohortEntry]:
    header = read_header(root)
    where = f"block {block.cohort}"
    if block.cohort not in header.cohorts:
        raise InputError(f"{where}: the zoo has no such cohort; expected one of {', '.join(header.cohorts)}.")
    cohort = header.cohorts[block.cohort]
    if block.layout not in header.layouts:
        raise InputError(f"{where}: unknown layout {block.layout!r}; expected one of {', '.join(header.layouts)}.")
    start = cohort.epochs.index(block.epochs[0]) if block.epochs and block.epochs[0] in cohort.epochs else -1
    if start < 0 or cohort.epochs[start : start + len(block.epochs)] != tuple(block.epochs):
        raise InputError(f"{where}: epochs {block.epochs} do not follow each other in the schedule {cohort.epochs}.")
    rows = block.rows
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or rows.ndim != 3:
        raise InputError(f"{where}: rows must be a float32 array [M, E, P], got {getattr(rows, 'dtype', type(rows))}.")
    if rows.shape[:2] != (len(cohort.models), len(block.epochs)) or rows.shape[2] == 0:
        raise InputError(
            f"{where}: rows must be [{len(cohort.models)}, {len(block.epochs)}, P], got {list(rows.shape)}."
        )
    commits = cohort_commits(root, block.cohort)
    done = [record for record in commits if record.first_epoch < block.epochs[0]]
    if later := [record for record in commits if block.epochs[0] < record.first_epoch <= block.epochs[-1]]:
        raise InputError(
            f"{where}: epochs {block.epochs} overlap with the block that starts at {later[0].first_epoch}."
        )
    expected = cohort.epochs[cohort.epochs.index(done[-1].last_epoch) + 1] if done else cohort.epochs[0]
    if block.epochs[0] != expected and not (root / COMMITS / record_name(block.cohort, block.epochs[0])).exists():
        raise InputError(f"{where}: the next block must start at epoch {expected}, got {block.epochs[0]}.")
    return header, cohort


def _earlier_commits(
    root: Path, record: CommitRecord, pending: list[tuple[StoredFile, bytes | memoryview]]
) -> tuple[CommitRecord, ...]:
    """The cohort's earlier blocks; raises early if the block itself is already there."""
    commits = cohort_commits(root, record.cohort)
    if any(other.first_epoch == record.first_epoch for other in commits):
        raise _lost(root, record, pending)
    return tuple(other for other in commits if other.first_epoch < record.first_epoch)


def _lost(root: Path, record: CommitRecord, pending: list[tuple[StoredFile, bytes | memoryview]]) -> AlreadyCommitted:
    winner = read_record(root / COMMITS / record.file_name)
    named = {file.file for file in (winner.shard, winner.meta, winner.state) if file is not None}
    for file, _ in pending:
        # A file under the winner's hash is the winner's file; any other can never be named by a record now.
        if file.file not in named:
            remove_if_present(root / file.file)
    same = winner.weights_xxh3 == record.weights_xxh3 and winner.num_rows == record.num_rows
    return AlreadyCommitted(winner, same_weights=same, where=str(root))


def _stored(pattern: str, data: bytes | memoryview) -> StoredFile:
    digest = hash_bytes(data)
    return StoredFile(pattern.format(digest[:16]), len(data), digest)
