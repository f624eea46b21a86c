"""Mend what can be mended, and set the rest aside so that a build can make it again. Nothing is thrown away.

A block has its weights in the shard, with their hash in the record, and its table twice: in the shard and in
``meta/``; the header has a copy. So a damaged header, table or record, or damage to a shard outside its weights can be
made good. What cannot goes to ``quarantine/`` with the record that named it; then the block is absent, which the next
build sees.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from zookeeper.errors import InputError, StoreError
from zookeeper.store.caches import finalise
from zookeeper.store.contents import layout_width
from zookeeper.store.encoding import Stored
from zookeeper.store.files import hash_bytes, hash_file, sync_directory, write_durable
from zookeeper.store.findings import QUARANTINE, Finding, Report
from zookeeper.store.header import COPY, HEADER, ZooHeader, read_header
from zookeeper.store.header_copy import read_copy
from zookeeper.store.orphans import collect_orphans
from zookeeper.store.parquet import decode_table, encode_table
from zookeeper.store.records import COMMITS, CommitRecord, StoredFile, read_record
from zookeeper.store.shards import describe_shard, encode_shard, open_shard, rows_per_group
from zookeeper.store.verify import recover_weights


def repair_zoo(root: Path, report: Report, *, orphans_after: float = 3600.0) -> tuple[str, ...]:
    """Repair what `report` found; say in a line each what was done. The caller holds the zoo's lock.

    A header without a copy gets one, also if nothing is wrong.

    Raises
    ------
    StoreError
        If a file cannot be written or moved.
    """
    done: list[str] = []
    try:
        mended = _repair_header(root, [finding.where for finding in report.findings if finding.kind == "header"])
        for name in dict.fromkeys(finding.record for finding in report.findings if finding.record is not None):
            kinds = {finding.kind for finding in report.findings if finding.record == name}
            done.extend(_repair_block(root, name, kinds, [f for f in report.findings if f.record == name]))
        if read_copy(root) is not None:
            if any(finding.kind == "orphan" for finding in report.findings):
                removed = collect_orphans(root, older_than=orphans_after)
                done.extend(f"removed {path.relative_to(root)}" for path in removed)
            if done or any(finding.kind == "cache" for finding in report.findings):
                finalise(root)
                done.append("made the caches again")
    except OSError as error:
        raise StoreError(
            f"{root}: cannot be repaired ({error.strerror or error}). Check access and the disk."
        ) from error
    return (*mended, *done)


def _repair_header(root: Path, damaged: list[str]) -> list[str]:
    """Make the header again from its copy, or the copy from the header, whichever is whole."""
    if HEADER in damaged:
        if read_copy(root) is None:
            return []
        good, bad = COPY, HEADER
    elif COPY in damaged or not (root / COPY).exists():
        good, bad = HEADER, COPY
    else:
        return []
    data = (root / good).read_bytes()
    _set_aside(root, [bad])
    write_durable(root / bad, data)
    return [f"made {bad} again from {good}" if bad in damaged else f"copied {good} to {bad}"]


def _repair_block(root: Path, name: str, kinds: set[str], findings: list[Finding]) -> list[str]:
    if "record" in kinds:
        return _remake_record(root, name)
    record = read_record(root / COMMITS / name)
    done: list[str] = []
    if kinds & {"shard", "table", "content"}:
        rows = None if "content" in kinds else recover_weights(root, record)
        table = None if rows is None else _recover_table(root, record, kinds)
        if rows is None or table is None:
            _set_aside(root, [COMMITS + "/" + name, record.shard.file, record.meta.file])
            done.append(f"moved block {name} to {QUARANTINE}/")
        else:
            _write_again(root, record, rows, table)
            done.append(f"wrote the files of block {name} again; every weight proved right")
    if "state" in kinds and record.state is not None:
        _set_aside(root, [record.state.file])
        done.append(f"moved {record.state.file} to {QUARANTINE}/")
    return done


def _recover_table(root: Path, record: CommitRecord, kinds: set[str]) -> pa.Table | None:
    """The table of a block from whichever of its two places is whole."""
    try:
        if "table" not in kinds:
            path = root / record.meta.file
            return decode_table(path.read_bytes(), str(path))
        if "shard" in kinds:
            return None  # its own checksums may agree by chance, and there is no second witness
        shard = open_shard(root / record.shard.file, record.num_weights, record.encoding)
        table = shard.read_table()
        shard.close()
    except (StoreError, OSError):
        return None
    return table


def _write_again(root: Path, record: CommitRecord, rows: Stored, table: pa.Table) -> None:
    """Write shard and table of a block from what was recovered, under a record that names them."""
    models = table.column("model_id").to_pylist()
    group = rows_per_group(len(rows), models.count(models[0]), rows.shape[1])
    data, spans = encode_shard(rows, table, group=group, encoding=record.encoding, layout=record.layout)
    stem = f"{record.cohort}.{record.first_epoch:06d}"
    shard = _name(f"shards/{stem}", record.encoding.suffix, data)
    meta_bytes = encode_table(table)
    meta = _name(f"meta/{stem}", "parquet", meta_bytes)
    write_durable(root / shard.file, data)
    write_durable(root / meta.file, meta_bytes)
    made = replace(record, shard=shard, meta=meta, spans=spans)
    write_durable(root / COMMITS / record.file_name, made.to_bytes())


def _name(stem: str, suffix: str, data: bytes | memoryview) -> StoredFile:
    digest = hash_bytes(data)
    return StoredFile(f"{stem}-{digest[:16]}.{suffix}", len(data), digest)


def _remake_record(root: Path, name: str) -> list[str]:
    """Make a damaged record again from the files it named, whose names carry half of their hashes."""
    stem = name.removesuffix(".json")
    shards, metas, states = (_whole_files(root, folder, stem) for folder in ("shards", "meta", "state"))
    try:
        made = _record_of_files(root, read_header(root), stem, shards, metas, states)
    except (StoreError, InputError):
        made = None
    _set_aside(root, [f"{COMMITS}/{name}"])
    if made is None:
        _set_aside(root, [file.file for file in (*shards, *metas)])
        return [f"moved record {name} and its files to {QUARANTINE}/"]
    _write_again(root, *made)
    return [f"made record {name} again from its files"]


def _record_of_files(
    root: Path,
    header: ZooHeader,
    stem: str,
    shards: list[StoredFile],
    metas: list[StoredFile],
    states: list[StoredFile],
) -> tuple[CommitRecord, Stored, pa.Table] | None:
    """What a record said, with rows and table, if one shard and one table of its name are whole."""
    cohort, _, first_epoch = stem.rpartition(".")
    if len(shards) != 1 or len(metas) != 1 or cohort not in header.cohorts or not first_epoch.isdigit():
        return None
    path = root / shards[0].file
    encoding, width, layout = describe_shard(path)
    fitting = [digest for digest, one in header.layouts.items() if layout_width(one) == width]
    if layout not in header.layouts and len(fitting) != 1:
        return None
    shard = open_shard(path, width, encoding)
    rows = np.concatenate([shard.read_group(number) for number in range(len(shard.group_rows))])
    shard.close()
    table = decode_table((root / metas[0].file).read_bytes(), metas[0].file)
    last = int(max(table.column("epoch").to_pylist()))
    record = CommitRecord(
        cohort=cohort,
        first_epoch=int(first_epoch),
        last_epoch=last,
        num_rows=len(rows),
        num_weights=width,
        layout=layout if layout in header.layouts else fitting[0],
        weights_xxh3=hash_bytes(rows.data.cast("B")),
        shard=shards[0],
        meta=metas[0],
        state=states[0] if len(states) == 1 else None,
        spans=None,
        final=last == header.cohorts[cohort].epochs[-1],
        encoding=encoding,
    )
    return (record, rows, table) if len(table) == len(rows) else None


def _whole_files(root: Path, folder: str, stem: str) -> list[StoredFile]:
    """Files of a block whose bytes hash to what their names say."""
    found = []
    for path in sorted((root / folder).glob(f"{stem}-*")):
        digest = hash_file(path)
        if path.name.removeprefix(f"{stem}-").partition(".")[0] == digest[:16]:
            found.append(StoredFile(f"{folder}/{path.name}", path.stat().st_size, digest))
    return found


def _set_aside(root: Path, names: list[str]) -> None:
    """Move files to quarantine, under their own paths; of several of one name each keeps its place."""
    for name in names:
        source, target = root / name, root / QUARANTINE / name
        if not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while target.exists():
            number, target = number + 1, root / QUARANTINE / f"{name}.{number}"
        os.replace(source, target)
        sync_directory(source.parent)
        sync_directory(target.parent)
