"""Find the zoos below a folder or URL and say how far each is, from headers and commit records alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zookeeper.errors import InputError, ZooError
from zookeeper.store.header import COPY, HEADER, read_header
from zookeeper.store.records import CommitRecord, read_commits, unbroken
from zookeeper.store.remote import CACHE_BYTES, RemoteZoo, cache_folder, is_url

if TYPE_CHECKING:
    from zookeeper.zoo import Zoo

State = Literal["complete", "partial", "empty", "damaged"]


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One zoo of a listing.

    ``path`` is its folder, or its URL as text. ``num_models`` and ``num_checkpoints`` are what is stored,
    ``num_planned`` the checkpoints that the header asks for, ``num_bytes`` the size of all files; of a zoo at a URL, of
    those that commit records name. A damaged zoo has zeros and its error as ``problem``.
    """

    path: Path | str
    name: str
    kind: str
    state: State
    num_models: int
    num_checkpoints: int
    num_planned: int
    num_bytes: int
    problem: str = ""


def list_zoos(folder: str | Path) -> tuple[ZooEntry, ...]:
    """Describe every zoo at or below a folder or URL, by path; reads no weights and follows no links.

    Raises
    ------
    InputError
        If ``folder`` is not a directory, or a URL whose host lists no folders and that is no zoo.
    StoreError
        If a host cannot be reached.

    Examples
    --------
    >>> import tempfile
    >>> from zookeeper import WeightLayout, write_rows
    >>> layout, folder = WeightLayout.from_shapes({"fc.weight": ((1, 3), "weight")}), tempfile.TemporaryDirectory()
    >>> _ = write_rows(Path(folder.name) / "a/b", [[1, 2, 3], [4, 5, 6]], None, layout)
    >>> [(entry.name, entry.num_models, entry.num_checkpoints, entry.state) for entry in list_zoos(folder.name)]
    [('b', 2, 2, 'complete')]
    >>> folder.cleanup()
    """
    if is_url(folder):
        there = RemoteZoo(str(folder).rstrip("/"), cache_folder(), CACHE_BYTES, {})
        local = there.local_path()
        if local is None:
            return tuple(_describe_remote(zoo) for zoo in there.zoos_below())
        folder = local
    root = Path(folder)
    if not root.is_dir():
        what = "is a file" if root.exists() else "there is no such folder"
        raise InputError(f"{root}: {what}; expected a folder with zoos below it. Check the path.")
    return tuple(_describe(path, path, folder_bytes(path)) for path in _zoo_paths(root))


def stored_bytes(zoo: Zoo) -> int:
    """Bytes of all files of a zoo; of one at a URL, of those that its commit records name."""
    return _record_bytes(read_commits(zoo.path)) if is_url(zoo.source) else folder_bytes(zoo.path)


def _zoo_paths(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        if HEADER in files or COPY in files:
            folders.clear()
            yield Path(place)
        folders.sort()


def _describe_remote(zoo: RemoteZoo) -> ZooEntry:
    try:
        with zoo.described() as folder:
            return _describe(folder, zoo.url, _record_bytes(read_commits(folder)))
    except ZooError as error:
        return ZooEntry(zoo.url, zoo.url.rpartition("/")[2], "", "damaged", 0, 0, 0, 0, str(error))


def _record_bytes(records: tuple[CommitRecord, ...]) -> int:
    files = (file for record in records for file in (record.shard, record.meta, record.state) if file is not None)
    return sum(file.size for file in files)


def _describe(path: Path, shown: Path | str, size: int) -> ZooEntry:
    try:
        header, records = read_header(path), read_commits(path)
    except ZooError as error:
        return ZooEntry(shown, path.name, "", "damaged", 0, 0, 0, size, str(error))
    by_cohort: dict[str, list[CommitRecord]] = {name: [] for name in header.cohorts}
    for record in records:
        by_cohort.setdefault(record.cohort, []).append(record)
    whole = [unbroken(by_cohort[name], cohort.epochs) for name, cohort in header.cohorts.items()]
    complete = all(blocks and blocks[-1].final for blocks in whole)
    models = {model for name, cohort in header.cohorts.items() if by_cohort[name] for model in cohort.models}
    return ZooEntry(
        path=shown,
        name=header.name,
        kind=header.kind,
        state="complete" if complete else "partial" if records else "empty",
        num_models=len(models),
        num_checkpoints=sum(record.num_rows for record in records),
        num_planned=sum(len(cohort.models) * len(cohort.epochs) for cohort in header.cohorts.values()),
        num_bytes=size,
    )


def folder_bytes(path: Path) -> int:
    """Bytes of all files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for place, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total
