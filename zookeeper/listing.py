"""Find the zoos below a folder and say how far each is, from headers and commit records alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zookeeper.errors import InputError, ZooError
from zookeeper.store.header import COPY, HEADER, read_header
from zookeeper.store.records import CommitRecord, read_commits, unbroken

State = Literal["complete", "partial", "empty", "damaged"]


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One zoo of a listing.

    ``num_models`` and ``num_checkpoints`` are what is stored, ``num_planned`` the checkpoints that the header
    asks for, ``num_bytes`` the size of all files. A damaged zoo has zeros and its error as ``problem``.
    """

    path: Path
    name: str
    kind: str
    state: State
    num_models: int
    num_checkpoints: int
    num_planned: int
    num_bytes: int
    problem: str = ""


def list_zoos(folder: str | Path) -> tuple[ZooEntry, ...]:
    """Describe every zoo at or below a folder, by path; reads no weights and follows no links.

    Raises
    ------
    InputError
        If ``folder`` is not a directory.

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
    root = Path(folder)
    if not root.is_dir():
        what = "is a file" if root.exists() else "there is no such folder"
        raise InputError(f"{root}: {what}; expected a folder with zoos below it. Check the path.")
    return tuple(_describe(path) for path in _zoo_paths(root))


def _zoo_paths(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        if HEADER in files or COPY in files:
            folders.clear()
            yield Path(place)
        folders.sort()


def _describe(path: Path) -> ZooEntry:
    size = folder_bytes(path)
    try:
        header, records = read_header(path), read_commits(path)
    except ZooError as error:
        return ZooEntry(path, path.name, "", "damaged", 0, 0, 0, size, str(error))
    by_cohort: dict[str, list[CommitRecord]] = {name: [] for name in header.cohorts}
    for record in records:
        by_cohort.setdefault(record.cohort, []).append(record)
    whole = [unbroken(by_cohort[name], cohort.epochs) for name, cohort in header.cohorts.items()]
    complete = all(blocks and blocks[-1].final for blocks in whole)
    models = {model for name, cohort in header.cohorts.items() if by_cohort[name] for model in cohort.models}
    return ZooEntry(
        path=path,
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
