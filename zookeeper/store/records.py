"""Commit records: the only statement of what a zoo holds.

A record is one small JSON file per block, created put-if-absent under a name made of its identity
``(cohort, first_epoch)``. It names the block's files with their sizes and hashes, and where in the shard
the weights lie. Files that no record names do not exist for readers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from zookeeper.errors import InputError, StoreError
from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.files import TEMPORARY, hash_bytes
from zookeeper.store.header import canonical_json, read_header

COMMITS = "commits"
RECORD_FORMAT = "zookeeper.commit"
RECORD_VERSIONS = (1, 2)  # 2 names the encoding of the shard; 1 is plain float32 in Parquet
_FILE_NAME = re.compile(r"(shards|meta|state)/[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the zoo, relative to its root, with its size in bytes and xxh3-128 hash."""

    file: str
    size: int
    xxh3: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"file": self.file, "size": self.size, "xxh3": self.xxh3}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StoredFile:
        """Restore from `to_json`; refuses names that could lead out of the zoo."""
        name = str(value["file"])
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"file name {name!r}")
        return cls(name, int(value["size"]), str(value["xxh3"]))


@dataclass(frozen=True, slots=True)
class Spans:
    """Where the weights lie in a shard: byte offset and number of rows of each run of whole rows."""

    offsets: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """One committed block: rows of one cohort at consecutive checkpoint epochs.

    Rows lie model by model, then by epoch. ``weights_xxh3`` hashes the weights alone, so that two runs
    can be compared although their wall times differ; it is taken of the stored elements.
    ``state`` is the training state after ``last_epoch``; its file exists only while this is the cohort's
    newest record. ``encoding`` says how the rows became bytes.
    """

    cohort: str
    first_epoch: int
    last_epoch: int
    num_rows: int
    num_weights: int
    layout: str
    weights_xxh3: str
    shard: StoredFile
    meta: StoredFile
    state: StoredFile | None
    spans: Spans | None
    final: bool
    encoding: Encoding = PLAIN

    @property
    def key(self) -> tuple[str, int]:
        """Identity of the block: (cohort, first epoch)."""
        return (self.cohort, self.first_epoch)

    @property
    def file_name(self) -> str:
        """Name of the record's file; one per identity."""
        return record_name(self.cohort, self.first_epoch)

    def to_json(self) -> dict[str, Any]:
        """The record's document without its check sum."""
        plain = self.encoding == PLAIN
        return {
            "format": RECORD_FORMAT,
            "format_version": 1 if plain else 2,
            "cohort": self.cohort,
            "first_epoch": self.first_epoch,
            "last_epoch": self.last_epoch,
            "num_rows": self.num_rows,
            "num_weights": self.num_weights,
            "layout": self.layout,
            "weights_xxh3": self.weights_xxh3,
            "shard": self.shard.to_json(),
            "meta": self.meta.to_json(),
            "state": None if self.state is None else self.state.to_json(),
            "spans": None if self.spans is None else {"offset": self.spans.offsets, "rows": self.spans.rows},
            "final": self.final,
            **({} if plain else {"encoding": self.encoding.to_json()}),
        }

    def to_bytes(self) -> bytes:
        """The record's file: one line of JSON that carries its own hash."""
        value = self.to_json()
        return json.dumps({**value, "check": hash_bytes(canonical_json(value))}).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> CommitRecord:
        """Restore from `to_bytes`; raises `StoreError` on any damage."""
        try:
            value = json.loads(data)
            check = value.pop("check")
            if value["format"] != RECORD_FORMAT or value["format_version"] not in RECORD_VERSIONS:
                raise StoreError(
                    f"{where}: unknown record; expected {RECORD_FORMAT} version 1 or 2, got "
                    f"{value['format']!r} version {value['format_version']!r}. Install a newer release."
                )
            if check != hash_bytes(canonical_json(value)):
                raise ValueError("its check sum does not agree")
            spans = value["spans"]
            record = cls(
                cohort=str(value["cohort"]),
                first_epoch=int(value["first_epoch"]),
                last_epoch=int(value["last_epoch"]),
                num_rows=int(value["num_rows"]),
                num_weights=int(value["num_weights"]),
                layout=str(value["layout"]),
                weights_xxh3=str(value["weights_xxh3"]),
                shard=StoredFile.from_json(value["shard"]),
                meta=StoredFile.from_json(value["meta"]),
                state=None if value["state"] is None else StoredFile.from_json(value["state"]),
                spans=None if spans is None else Spans(tuple(spans["offset"]), tuple(spans["rows"])),
                final=bool(value["final"]),
                encoding=PLAIN if value["format_version"] == 1 else Encoding.from_json(value["encoding"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
            raise StoreError(
                f"{where}: damaged commit record ({error}). Restore it from a copy; removing it drops the "
                "block from the zoo."
            ) from error
        return record


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a cohort is without a gap: the last record before one, or None if its first block is absent."""

    cohort: str
    record: CommitRecord | None

    @property
    def last_epoch(self) -> int | None:
        """Last committed epoch."""
        return None if self.record is None else self.record.last_epoch

    @property
    def final(self) -> bool:
        """Whether every epoch of the cohort is committed."""
        return self.record is not None and self.record.final


def record_name(cohort: str, first_epoch: int) -> str:
    """File name of a block's record.

    >>> record_name("seed-0003", 10)
    'seed-0003.000010.json'
    """
    return f"{cohort}.{first_epoch:06d}.json"


def read_record(path: Path) -> CommitRecord:
    """Read one record and check it; raises `StoreError` on damage, FileNotFoundError if there is none."""
    record = CommitRecord.from_bytes(path.read_bytes(), str(path))
    if record.file_name != path.name:
        raise StoreError(f"{path}: damaged commit record; its content belongs to {record.file_name}.")
    return record


def read_commits(root: Path) -> tuple[CommitRecord, ...]:
    """Every committed block, ordered by (cohort, first epoch).

    Safe while a builder writes: a record is visible only when all its files are complete.

    Raises
    ------
    StoreError
        If a record is damaged.
    """
    records = []
    for path in sorted((root / COMMITS).glob("*.json")):
        if not path.name.startswith(TEMPORARY):
            records.append(read_record(path))
    return tuple(sorted(records, key=lambda record: record.key))


def cohort_commits(root: Path, cohort: str) -> tuple[CommitRecord, ...]:
    """The committed blocks of one cohort by epoch, reading no other record."""
    pattern = re.compile(re.escape(cohort) + r"\.\d{6,}\.json")
    paths = [path for path in (root / COMMITS).iterdir() if pattern.fullmatch(path.name)]
    return tuple(sorted((read_record(path) for path in paths), key=lambda record: record.key))


def unbroken(records: Sequence[CommitRecord], epochs: Sequence[int]) -> tuple[CommitRecord, ...]:
    """The blocks of a cohort from its first epoch on, up to the first one that is absent.

    A block is absent before others if it was damaged and moved to quarantine.
    """
    found: list[CommitRecord] = []
    following = dict(pairwise(epochs))
    wanted: int | None = epochs[0]
    for record in sorted(records, key=lambda record: record.key):
        if record.first_epoch != wanted:
            break
        found.append(record)
        wanted = following.get(record.last_epoch)
    return tuple(found)


def cohort_progress(root: Path) -> dict[str, Progress]:
    """How far each cohort of the header is without a gap, in the header's order.

    Raises
    ------
    InputError
        If there is no zoo at ``root``.
    StoreError
        If the header or a record is damaged.
    """
    by_cohort: dict[str, list[CommitRecord]] = {}
    for record in read_commits(root):
        by_cohort.setdefault(record.cohort, []).append(record)
    progress = {}
    for name, cohort in read_header(root).cohorts.items():
        whole = unbroken(by_cohort.get(name, []), cohort.epochs)
        progress[name] = Progress(name, whole[-1] if whole else None)
    return progress


def commits_digest(records: Iterable[CommitRecord]) -> str:
    """One hash for a set of commits; caches carry it to show what they were made from."""
    return hash_bytes(b"\n".join(canonical_json(record.to_json()) for record in records))
