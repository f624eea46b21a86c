"""A publication as a folder: the zoo itself, and everything a stranger needs beside it."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from zookeeper.errors import InputError, StoreError
from zookeeper.publish.card import CARD, describe_zoo, format_card
from zookeeper.publish.checksums import MANIFEST, format_manifest, hash_sha256, list_files, read_manifest
from zookeeper.publish.citation import CITATION, Credits, format_citation, parse_authors
from zookeeper.publish.croissant import CROISSANT, format_croissant
from zookeeper.publish.facts import Facts, gather_facts
from zookeeper.publish.licences import choose_licence, licence_text, quoted_licence
from zookeeper.publish.pictures import draw_figures
from zookeeper.store.caches import finalise
from zookeeper.store.collection import appear_at_once
from zookeeper.store.files import TEMPORARY, sync_directory, write_durable
from zookeeper.store.header import FOLDERS, HEADER, place_header, read_header, without_paths
from zookeeper.store.reader import check_file
from zookeeper.store.records import COMMITS, CommitRecord, StoredFile, read_commits

LICENCE = "LICENSE"
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the publisher decides: title, licence (SPDX), authors, version, address, date; None: from the zoo."""

    title: str | None = None
    licence: str | None = None
    authors: tuple[str, ...] = ()
    version: str = "1.0.0"
    url: str = ""
    date: str | None = None
    allow_incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Publication:
    """A folder that was published: its files with their bytes, and what names it elsewhere."""

    path: Path
    title: str
    description: str
    licence: str
    credits: Credits
    complete: bool
    sizes: Mapping[str, int]

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())


def publish_folder(
    source: Path, target: Path, wishes: Wishes | None = None, on_file: Callable[[str], None] | None = None
) -> Publication:
    """Publish a zoo as a folder, complete or not at all.

    Shards and tables are linked if the file system can, else copied, each checked against its hash; the header
    is written again without the folder of the image files on this machine. The folder is a zoo. An earlier
    publication of a zoo of the same name at ``target`` is replaced. Equal zoos and wishes give equal bytes.

    Raises
    ------
    InputError
        If there is no zoo at ``source``, it is not complete (unless ``wishes`` allow it), a wish cannot be
        fulfilled, or ``target`` holds anything but an earlier publication of this zoo.
    StoreError
        If the zoo is damaged, or the folder cannot be written; ``target`` stays as it was.
    """
    wanted = wishes or Wishes()
    facts, _ = gather_facts(source)
    if not facts.complete and not wanted.allow_incomplete:
        raise InputError(
            f"{source}: the zoo is not complete; {facts.num_checkpoints:,} of {facts.num_planned:,} checkpoints are "
            "stored. Finish the build, or pass --allow-incomplete."
        )
    licence = choose_licence(wanted.licence, facts.spec, facts.provenance)
    credits = Credits(
        parse_authors(wanted.authors, f"The authors of {facts.name}"),
        wanted.date or facts.created[:10],
        wanted.version,
        url=wanted.url,
    )
    title = wanted.title or f"{facts.name}: a zoo of {facts.num_models:,} neural networks"
    _check_target(source, target, facts.name)
    with _replacing(target) as temporary:
        _copy_zoo(source, temporary, on_file)
        facts, zoo = gather_facts(temporary)
        description = describe_zoo(facts)
        figures = draw_figures(zoo, temporary)
        version = metadata.version("weight-zookeeper")
        texts = {
            LICENCE: licence_text(
                licence, title, credits.names, credits.date[:4], quoted_licence(facts.spec, facts.provenance)
            ),
            CITATION: format_citation(title, description, licence, credits),
            CARD: format_card(facts, title=title, licence=licence, credits=credits, figures=figures, version=version),
            **_split_files(facts),
            **_rebuild_files(facts),
        }
        for name, text in texts.items():
            _write(temporary / name, text)
        sums = {name: hash_sha256(temporary / name) for name in list_files(temporary)}
        sizes = {name: (temporary / name).stat().st_size for name in sums}
        document = format_croissant(
            facts, title=title, description=description, licence=licence, credits=credits, sums=sums, sizes=sizes
        )
        _write(temporary / CROISSANT, document)
        sums[CROISSANT] = hash_sha256(temporary / CROISSANT)
        _write(temporary / MANIFEST, format_manifest(sums))
        for name in (CROISSANT, MANIFEST):
            sizes[name] = (temporary / name).stat().st_size
    return Publication(target, title, description, licence.spdx, credits, facts.complete, dict(sorted(sizes.items())))


def _copy_zoo(source: Path, target: Path, on_file: Callable[[str], None] | None) -> None:
    header, records = read_header(source), read_commits(source)
    for folder in FOLDERS:
        (target / folder).mkdir()
    place_header(target, without_paths(header))
    newest = {record.cohort: record for record in records}
    for record in records:
        for file in _files_of(record, newest[record.cohort] is record):
            link_or_copy(check_file(source, file), target / file.file)
            if on_file is not None:
                on_file(file.file)
        link_or_copy(source / COMMITS / record.file_name, target / COMMITS / record.file_name)
    for folder in FOLDERS:
        sync_directory(target / folder)
        if not any((target / folder).iterdir()):
            (target / folder).rmdir()
    finalise(target)


def _files_of(record: CommitRecord, is_newest: bool) -> Iterator[StoredFile]:
    yield record.shard
    yield record.meta
    if is_newest and record.state is not None:
        yield record.state


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot.

    Stored files are never changed in place, so a second name is as good as a copy.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        shutil.copyfile(source, target)


def _split_files(facts: Facts) -> dict[str, str]:
    return {f"splits/{side}.txt": "".join(f"{model}\n" for model in ids) for side, ids in facts.splits.items()}


def _rebuild_files(facts: Facts) -> dict[str, str]:
    files = {}
    if facts.spec is not None:  # JSON is YAML 1.2, so `zookeeper build` reads it
        files["rebuild/spec.yaml"] = json.dumps(facts.spec, indent=1, ensure_ascii=False) + "\n"
    lines = [f"{'# ' if name == 'weight-zookeeper' else ''}{name}=={facts.packages[name]}" for name in facts.packages]
    files["rebuild/environment.txt"] = "# versions that built the zoo\n" + "".join(f"{line}\n" for line in lines)
    return files


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    write_durable(path, text.encode())


def _check_target(source: Path, target: Path, name: str) -> None:
    """Accept a new or empty folder, or an earlier publication of this zoo without files of others."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if target.resolve() == source.resolve():
        raise InputError(f"{target}: is the zoo itself; expected another folder. Choose another path.")
    if not target.is_dir() or not (target / MANIFEST).is_file() or not (target / HEADER).is_file():
        raise InputError(f"{target}: is taken; expected a new or empty folder, or an earlier publication.")
    strangers = sorted(set(list_files(target)) - read_manifest(target).keys())
    if strangers:
        raise InputError(
            f"{target}: holds {strangers[0]!r}, which was not published. Move it away, or choose another path."
        )
    there = read_header(target).name
    if there != name:
        raise InputError(f"{target}: holds a publication of zoo {there!r}, not of {name!r}. Choose another path.")


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """As `appear_at_once`, but an earlier publication steps aside for the moment of the exchange."""
    if not target.exists() or not any(target.iterdir()):
        with appear_at_once(target) as temporary:
            yield temporary
        return
    fresh = target.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{target.name}"
    old = fresh.with_name(f"{fresh.name}-old")
    try:
        with appear_at_once(fresh) as temporary:
            yield temporary
        os.replace(target, old)
        try:
            os.replace(fresh, target)
        except OSError:
            os.replace(old, target)
            raise
        sync_directory(target.parent)
    except OSError as error:
        raise StoreError(f"{target}: cannot be replaced ({error.strerror or error}). It stays as it was.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
