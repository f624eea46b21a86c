"""Find everything that is wrong with a stored zoo: every file, every record, what rows say about each other.

Every byte that a record vouches for is hashed again, whatever was read before. Where a shard is damaged, the
checksums of its pages or chunks tell which models are hurt. Nothing is changed; `zookeeper.store.repair` does that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from zookeeper.errors import InputError, StoreError
from zookeeper.store.caches import CACHES, CACHES_FORMAT, CHECKPOINTS, MODELS, read_cache
from zookeeper.store.contents import check_block, check_rows
from zookeeper.store.files import TEMPORARY, hash_bytes, hash_file
from zookeeper.store.findings import AGAIN, QUARANTINE, Finding, Lost, Report
from zookeeper.store.header import COPY, FOLDERS, HEADER, ZooHeader
from zookeeper.store.header_copy import examine_header
from zookeeper.store.parquet import decode_table
from zookeeper.store.records import COMMITS, CommitRecord, StoredFile, commits_digest, read_record
from zookeeper.store.shards import open_shard

OnFile = Callable[[Path], None]


def verify_zoo(
    root: Path, *, deep: bool = False, orphans_after: float = 3600.0, on_file: OnFile | None = None
) -> Report:
    """Check a zoo, also one that is being built.

    Parameters
    ----------
    deep
        Whether to decode every shard too: page and chunk checksums, the hash of the weights, the shard's own
        table against that of the block, spans, and the status of rows whose weights are not finite.
    orphans_after
        Seconds after which a file that no record names is an orphan; a younger one may be a writer's, and is noted.
    on_file
        Called with each file before it is read.

    Raises
    ------
    InputError
        If there is no zoo at ``root``.
    """
    require_zoo(root)
    look = _Look(root, deep, on_file or (lambda path: None))
    header = look.header()
    records = look.records()
    for record in records.values():
        look.block(record)
    newest = {record.cohort: record for record in records.values()}
    for record in newest.values():
        look.state(record)
    if header is not None:
        look.findings.extend(check_rows(header, tuple(records.values()), look.tables))
        look.notes.extend(_unfinished(header, newest))
        look.caches(tuple(records.values()))
    look.orphans(records, orphans_after)
    num_rows = sum(record.num_rows for record in records.values())
    return Report(tuple(look.findings), tuple(look.notes), look.num_files, look.num_bytes, num_rows)


def require_zoo(root: Path) -> None:
    """Raise `InputError` unless there is a zoo at ``root``, whole or damaged."""
    if not any((root / name).exists() for name in (HEADER, COPY, COMMITS)):
        raise InputError(f"{root}: no zoo here; expected a directory with {HEADER}. Check the path.")


class _Look:
    """One pass over a zoo, and what it found so far."""

    def __init__(self, root: Path, deep: bool, on_file: OnFile) -> None:
        self.root, self.deep, self.on_file = root, deep, on_file
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.known: ZooHeader | None = None
        self.tables: dict[str, Mapping[str, list[object]]] = {}
        self.num_files = self.num_bytes = 0
        # listed before the records are read: a block committed meanwhile cannot look unnamed
        self.listed = [path for name in ("", *FOLDERS) for path in sorted((root / name).glob("*")) if path.is_file()]

    def header(self) -> ZooHeader | None:
        """Read the header, or its copy if that is all there is; damage to either is a finding."""
        header, finding = examine_header(self.root)
        if finding is not None:
            self.findings.append(finding)
        elif not (self.root / COPY).exists():
            self.notes.append(f"{HEADER} has no copy yet; zookeeper verify --repair makes one")
        self.known = header
        return header

    def records(self) -> dict[str, CommitRecord]:
        """Read every record that can be read, ordered by identity."""
        found = []
        for path in sorted((self.root / COMMITS).glob("*.json")):
            if path.name.startswith(TEMPORARY):
                continue
            self.on_file(path)
            try:
                found.append(read_record(path))
            except StoreError as error:
                remedy = "zookeeper verify --repair makes it again from the block's files, if they are whole."
                self.findings.append(Finding("record", f"{COMMITS}/{path.name}", str(error), remedy, path.name))
            self.num_files += 1
        return {record.file_name: record for record in sorted(found, key=lambda record: record.key)}

    def block(self, record: CommitRecord) -> None:
        """Check the files of a block."""
        shard = self.examine(record.shard)
        meta = self.examine(record.meta)
        table = None
        if meta is None:
            path = self.root / record.meta.file
            try:
                table = decode_table(path.read_bytes(), str(path))
                self.tables[record.file_name] = table.select(["model_id", "epoch"]).to_pydict()
            except (StoreError, KeyError) as error:
                meta = f"not a table of checkpoints ({error})"
        if meta is not None:
            remedy = "zookeeper verify --repair makes it again from the shard, if that is whole."
            self.findings.append(Finding("table", record.meta.file, meta, remedy, record.file_name))
        elif shard is None and self.deep:
            for what in check_block(self.root, record, table):
                remedy = f"zookeeper verify --repair moves the block to {QUARANTINE}/. {AGAIN}"
                self.findings.append(Finding("content", record.shard.file, what, remedy, record.file_name))
        if shard is not None:
            lost, detail = self.hurt(record)
            remedy = (
                "zookeeper verify --repair writes the shard again: every weight can still be read, and proves right."
                if lost is None
                else f"Restore the file from a copy, or: zookeeper verify --repair. {AGAIN}"
            )
            what = f"{shard}; {detail}"
            self.findings.append(Finding("shard", record.shard.file, what, remedy, record.file_name, lost))

    def examine(self, file: StoredFile) -> str | None:
        """Say what is wrong with a file, from its size and hash; None if nothing."""
        path = self.root / file.file
        self.on_file(path)
        self.num_files += 1
        try:
            size = path.stat().st_size
            self.num_bytes += size
            if size != file.size:
                return f"expected {file.size} bytes, got {size}"
            digest = hash_file(path)
        except FileNotFoundError:
            return "missing, though a commit record names it"
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        return None if digest == file.xxh3 else f"expected xxh3 {file.xxh3}, got {digest}"

    def hurt(self, record: CommitRecord) -> tuple[Lost | None, str]:
        """Which checkpoints of a damaged shard are lost, and in words; None if every weight proves right."""
        if recover_weights(self.root, record) is not None:
            return None, "all of its weights can still be read"
        models, epochs = self.identity(record)
        bad = _bad_rows(self.root / record.shard.file, record)
        if bad is None or len(models) != record.num_rows:
            lost = Lost(tuple(dict.fromkeys(models)), tuple(dict.fromkeys(epochs)))
            return lost, "none of its weights can be trusted"
        hurt = tuple(dict.fromkeys(models[number] for number in bad))
        return Lost(hurt, tuple(dict.fromkeys(epochs))), f"checksums place the damage in {len(hurt)} of its models"

    def identity(self, record: CommitRecord) -> tuple[list[str], list[int]]:
        """Model and epoch of every row of a block, from its table or from the header."""
        table = self.tables.get(record.file_name)
        if table is not None:
            return [str(model) for model in table["model_id"]], [int(str(epoch)) for epoch in table["epoch"]]
        cohort = None if self.known is None else self.known.cohorts.get(record.cohort)
        if cohort is None:
            return [], [record.first_epoch, record.last_epoch]
        epochs = [epoch for epoch in cohort.epochs if record.first_epoch <= epoch <= record.last_epoch]
        return [model for model in cohort.models for _ in epochs], epochs * len(cohort.models)

    def state(self, record: CommitRecord) -> None:
        """Check the training state of an unfinished cohort."""
        if record.state is None:
            return
        if not (self.root / record.state.file).exists():
            if self.is_newest(record):
                where = f"cohort {record.cohort}: the training state after epoch {record.last_epoch} is not there"
                self.notes.append(f"{where}; the next build trains it from its start and keeps what is stored")
            return
        what = self.examine(record.state)
        if what is not None and self.is_newest(record):
            remedy = f"zookeeper verify --repair sets it aside; stored rows stay. {AGAIN}"
            self.findings.append(Finding("state", record.state.file, what, remedy, record.file_name))

    def is_newest(self, record: CommitRecord) -> bool:
        """Whether no later block of the cohort was committed meanwhile, which retires the state."""
        later = (self.root / COMMITS).glob(f"{record.cohort}.*.json")
        return all(int(path.name.split(".")[-2]) <= record.first_epoch for path in later)

    def caches(self, records: tuple[CommitRecord, ...]) -> None:
        """Check the caches: whole, and made from these records or honestly from others."""
        if not any((self.root / name).exists() for name in (CACHES, CHECKPOINTS, MODELS)):
            self.notes.append("no caches yet: opening reads the table of every block")
            return
        remedy = "zookeeper verify --repair makes them again; readers do without them."
        for what in cache_problems(self.root, records, self.on_file):
            self.findings.append(Finding("cache", CACHES, what, remedy))
        self.num_files += 3

    def orphans(self, records: Mapping[str, CommitRecord], after: float) -> None:
        """Name files that no record vouches for; a damaged record may have named any of them."""
        unreadable = [finding.record for finding in self.findings if finding.kind == "record" and finding.record]
        stems = tuple(f"{name.removesuffix('.json')}-" for name in unreadable)
        newest = {record.cohort: record for record in records.values()}
        named = {file.file for record in records.values() for file in (record.shard, record.meta)}
        named |= {record.state.file for record in newest.values() if record.state is not None}
        limit, young = time.time() - after, 0
        for path in self.listed:
            name = path.relative_to(self.root).as_posix()
            data = path.parent != self.root and path.parent.name != COMMITS
            if not (path.name.startswith(TEMPORARY) or (data and name not in named)) or path.name.startswith(stems):
                continue
            try:
                old = path.stat().st_mtime <= limit
            except FileNotFoundError:
                continue
            if old:
                remedy = "zookeeper verify --repair removes it, and so does the next build."
                self.findings.append(Finding("orphan", name, "no commit record names it", remedy))
            else:
                young += 1
        if young:
            self.notes.append(f"{young} young file(s) that no record names; a builder may be at work on them")
        if (self.root / QUARANTINE).is_dir():
            kept = sum(path.is_file() for path in (self.root / QUARANTINE).rglob("*"))
            self.notes.append(f"{QUARANTINE}/ holds {kept} file(s) that readers ignore")


def recover_weights(root: Path, record: CommitRecord) -> np.ndarray | None:
    """Decode the stored elements [N, P] of a block if they are those its record vouches for, else return None."""
    path = root / record.shard.file
    try:
        shard = open_shard(path, record.num_weights, record.encoding)
        try:
            parts = [shard.read_group(number) for number in range(len(shard.group_rows))]
        finally:
            shard.close()
    except StoreError:
        return None
    rows = np.concatenate(parts) if parts else np.empty((0, record.num_weights), record.encoding.stored)
    right = len(rows) == record.num_rows and hash_bytes(rows.data.cast("B")) == record.weights_xxh3
    return rows if right else None


def _bad_rows(path: Path, record: CommitRecord) -> list[int] | None:
    """Numbers of rows in groups that fail their checksum; None if that cannot be told, or none fails."""
    bad: list[int] = []
    try:
        shard = open_shard(path, record.num_weights, record.encoding)
        starts = np.cumsum([0, *shard.group_rows]).tolist()
    except StoreError:
        return None
    for number in range(len(shard.group_rows)):
        try:
            shard.read_group(number)
        except StoreError:
            bad.extend(range(starts[number], starts[number + 1]))
    shard.close()
    return bad if bad and bad[-1] < record.num_rows else None


def cache_problems(root: Path, records: tuple[CommitRecord, ...], on_file: OnFile) -> Iterator[str]:
    """Say what is wrong with the caches; those of an earlier state of the zoo are right."""
    try:
        stamp = json.loads((root / CACHES).read_bytes())
        files, made_from = dict(stamp.pop("files")), str(stamp.pop("commits"))
        if stamp not in ({}, {"format": CACHES_FORMAT, "format_version": 1}):
            yield f"expected {CACHES_FORMAT} version 1, got {stamp}"
            return
        for name in (CHECKPOINTS, MODELS):
            on_file(root / name)
            data = (root / name).read_bytes()
            if (len(data), hash_bytes(data)) != (files[name]["size"], files[name]["xxh3"]):
                yield f"{name}: its bytes are not those that {CACHES} names"
                return
            keyed = (decode_table(data, name).schema.metadata or {}).get(b"zookeeper.commits", b"").decode()
            if keyed != made_from:
                yield f"{name}: made from commits {keyed}, {CACHES} says {made_from}"
                return
    except (OSError, ValueError, KeyError, TypeError, StoreError) as error:
        yield f"cannot be read ({error})"
        return
    if made_from == commits_digest(records) and read_cache(root, records) is None:
        yield "damaged, or of an unknown version"


def _unfinished(header: ZooHeader, newest: Mapping[str, CommitRecord]) -> Iterator[str]:
    open_cohorts = [name for name in header.cohorts if name not in newest or not newest[name].final]
    if open_cohorts:
        yield f"{len(open_cohorts)} of {len(header.cohorts)} cohort(s) are not complete: {AGAIN}"
