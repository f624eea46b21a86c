"""Store finished rows, sampled ones for instance, as a new zoo in one step."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from zookeeper.errors import InputError, StoreError
from zookeeper.store.caches import finalise
from zookeeper.store.encoding import Floats
from zookeeper.store.files import TEMPORARY, sync_directory
from zookeeper.store.header import CohortEntry, ZooHeader, create_zoo
from zookeeper.store.writer import commit_rows

_SHARD_BYTES = 1 << 28
_GROUP_BYTES = 1 << 22  # what is decoded for one row of a compressed shard; models may have any number of rows here


def store_collection(
    path: Path,
    header: ZooHeader,
    rows: Floats,
    frame: pd.DataFrame,
    layout: str,
) -> None:
    """Write rows [N, P] with their table as a complete zoo, which appears at ``path`` at once or not at all.

    ``frame`` has one line per row with columns ``model_id`` and ``epoch``; pairs must be unique. The
    header's cohorts are ignored: rows are cut into shards of about 256 MB.

    Raises
    ------
    InputError
        If something is at ``path``, or the table does not fit the rows.
    StoreError
        If writing fails; nothing appears at ``path``.
    """
    if len(frame) != len(rows) or len(rows) == 0:
        raise InputError(f"{path}: expected one table line per row and at least one, got {len(frame)} and {len(rows)}.")
    if frame.duplicated(["model_id", "epoch"]).any():
        repeated = frame.loc[frame.duplicated(["model_id", "epoch"])].iloc[0]
        raise InputError(
            f"{path}: model {repeated['model_id']!r} at epoch {repeated['epoch']} is given twice; "
            "expected unique pairs."
        )
    per_shard = max(1, _SHARD_BYTES // (header.store.itemsize * rows.shape[1]))
    pieces = {
        f"rows-{number:05d}": slice(start, min(start + per_shard, len(rows)))
        for number, start in enumerate(range(0, len(rows), per_shard))
    }
    cohorts = {name: _entry(frame.iloc[piece]) for name, piece in pieces.items()}
    with appear_at_once(path) as temporary:
        create_zoo(temporary, replace(header, cohorts=cohorts))
        for name, piece in pieces.items():
            table: Mapping[str, Any] = {str(column): frame[column].iloc[piece] for column in frame.columns}
            commit_rows(
                temporary,
                cohort=name,
                first_epoch=cohorts[name].epochs[0],
                last_epoch=cohorts[name].epochs[-1],
                rows=rows[piece],
                table=table,
                layout=layout,
                trajectory=min(piece.stop - piece.start, max(1, _GROUP_BYTES // (4 * rows.shape[1]))),
                state=None,
                final=True,
                encoding=header.store,
            )
        finalise(temporary)


@contextmanager
def appear_at_once(path: Path) -> Iterator[Path]:
    """Give a new directory to fill; when the block ends well it is at ``path``, else nothing is.

    Raises
    ------
    InputError
        If something is at ``path`` already.
    StoreError
        If the directory cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: already exists; expected a new or empty directory. Choose another path.")
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}-{path.name}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error}). Nothing was stored.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _entry(frame: pd.DataFrame) -> CohortEntry:
    models = tuple(str(model) for model in dict.fromkeys(frame["model_id"]))
    return CohortEntry(models, tuple(sorted({int(epoch) for epoch in frame["epoch"]})))
