"""Zoos at URLs: metadata through fsspec, shards fetched whole into a cache and then read as local files.

The cache is a folder. ``zoos/HASH`` is a copy of a zoo's metadata, named by the bytes of its header and commit
records, so that a zoo that grows gets another one; ``shards/HASH.parquet`` is a shard, named by its own hash, which the
commit record promises and which is checked on arrival. Both appear complete or not at all, several processes may use
one cache, and any file may be deleted at any time.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from zookeeper.errors import InputError, StoreError, ZooError
from zookeeper.store.caches import CACHES, read_cache
from zookeeper.store.collection import appear_at_once
from zookeeper.store.files import TEMPORARY, hash_bytes, hash_file, remove_if_present
from zookeeper.store.header import HEADER, ZooHeader, read_header
from zookeeper.store.reader import check_file
from zookeeper.store.records import COMMITS, CommitRecord, StoredFile, commits_digest, read_commits, record_name

CACHE_BYTES = 50 * 10**9
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")
_HASH = re.compile(r"[0-9a-f]{32}")
_CACHE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.parquet")
_CANNOT_LIST = ("http://", "https://")
_SILENCE_SECONDS = 60.0
_IN_USE_SECONDS = 10.0  # a file that was asked for so lately may not be open yet
_ERRORS = {"aiohttp": "ClientError", "httpx": "HTTPError", "requests": "RequestException"}


def is_url(path: str | Path) -> bool:
    """Whether a path is an address for fsspec.

    >>> is_url("https://host/zoo"), is_url("hf://datasets/me/zoo"), is_url("data/zoo"), is_url(Path("https://host"))
    (True, True, False, False)
    """
    return isinstance(path, str) and _URL.match(path) is not None


def cache_folder() -> Path:
    """Where remote zoos are cached by default, in the user's cache folder: ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "weight-zookeeper" / "remote"


@dataclass(frozen=True)
class RemoteZoo:
    """A zoo at a URL, its cache, how many bytes of shards that may hold, and options for its file system."""

    url: str
    cache: Path
    max_bytes: int
    options: Mapping[str, Any]

    def local_path(self) -> Path | None:
        """The zoo's own folder, if the URL is one of this machine."""
        files, base = self._connect()
        protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
        return Path(base) if "file" in protocols else None

    def copy_metadata(self) -> Path:
        """Copy header, commit records and tables as they are now into the cache, unless they are there; their folder.

        Raises
        ------
        InputError
            If there is no zoo at the URL, or its protocol is unknown.
        StoreError
            If the host cannot be reached, or what it sends is damaged.
        """
        with self._scratch() as scratch:
            target = self.cache / "zoos" / self._copy_records(scratch)
            if not (target / HEADER).exists():
                self._copy_tables(scratch)
                self._settle(scratch, target)
        return target

    @contextmanager
    def described(self) -> Iterator[Path]:
        """Give a folder with the zoo's header and commit records as they are now; it is removed afterwards.

        Errors are those of `copy_metadata`.
        """
        with self._scratch() as scratch:
            self._copy_records(scratch)
            read_commits(scratch)
            yield scratch

    def zoos_below(self) -> tuple[RemoteZoo, ...]:
        """The zoos at or below the URL, in order.

        Raises
        ------
        InputError
            If there is no such folder, or the host lists no folders and there is no zoo at the URL itself.
        StoreError
            If the host cannot be reached.
        """
        files, base = self._connect()
        if self._read([HEADER]):
            return (self,)
        if self.url.startswith(_CANNOT_LIST):
            raise InputError(f"{self.url}: no zoo here, and the host lists no folders. Give the address of a zoo.")
        with self._reporting(self.url):
            files.invalidate_cache()
            if not files.isdir(base):
                raise InputError(f"{self.url}: there is no such folder; expected one with zoos below it.")
            names = [str(path) for path in files.find(base)]
        found: list[str] = []
        for place in sorted(name.removesuffix(f"/{HEADER}") for name in names if name.endswith(f"/{HEADER}")):
            if not any(place.startswith(f"{other}/") for other in found):
                found.append(place)
        return tuple(replace(self, url=self.url + place.removeprefix(base)) for place in found)

    def _copy_records(self, scratch: Path) -> str:
        """Copy header and commit records into a folder; the hash of all of them."""
        header = self._read([HEADER])
        if HEADER not in header:
            raise InputError(f"{self.url}: no zoo here; expected a folder with {HEADER}. Check the address.")
        (scratch / HEADER).write_bytes(header[HEADER])
        records = self._read_records(read_header(scratch))
        (scratch / COMMITS).mkdir()
        for name, data in records.items():
            (scratch / COMMITS / name).write_bytes(data)
        return hash_bytes(b"\n".join([header[HEADER], *(records[name] for name in sorted(records))]))

    def locate(self, file: StoredFile) -> Path:
        """Path of a file of the zoo in the cache, fetched if it is not there; its bytes are those of the record.

        Raises
        ------
        StoreError
            If it cannot be fetched, or has another size or hash than its record says.
        """
        if not _HASH.fullmatch(file.xxh3):
            raise StoreError(f"{self.url}/{file.file}: damaged commit record; {file.xxh3!r} is no hash.")
        folder = self.cache / "shards"
        held = replace(file, file=f"{file.xxh3}{Path(file.file).suffix}")
        path = folder / held.file
        try:
            if path.exists():
                check_file(folder, held)
        except StoreError:  # changed in the cache, or gone meanwhile: it is only a copy
            remove_if_present(path)
        if not path.exists():
            self._fetch(file, path)
            _trim(folder, self.max_bytes, path)
        os.utime(path)
        return path

    def _read_records(self, header: ZooHeader) -> dict[str, bytes]:
        """Bytes of every commit record, by file name."""
        files, base = self._connect()
        if self.url.startswith(_CANNOT_LIST):
            return self._follow_records(header)
        with self._reporting(f"{self.url}/{COMMITS}"):
            files.invalidate_cache()
            try:
                paths = files.ls(f"{base}/{COMMITS}", detail=False)
            except FileNotFoundError:
                paths = []
        names = [str(path).rstrip("/").rpartition("/")[2] for path in paths]
        wanted = [name for name in names if name.endswith(".json") and not name.startswith(TEMPORARY)]
        found = self._read([f"{COMMITS}/{name}" for name in wanted])
        return {name.rpartition("/")[2]: data for name, data in found.items()}

    def _follow_records(self, header: ZooHeader) -> dict[str, bytes]:
        """Records of a host that does not list folders: each leads to the next of its cohort.

        Where the chain breaks, all later epochs of the schedule are asked for: a block may be absent before others.
        """
        found: dict[str, bytes] = {}
        wanted = {record_name(name, cohort.epochs[0]): name for name, cohort in header.cohorts.items()}
        broken: set[str] = set()
        while wanted:
            answers = self._read([f"{COMMITS}/{name}" for name in wanted])
            following: dict[str, str] = {}
            for name, cohort in wanted.items():
                data = answers.get(f"{COMMITS}/{name}")
                if data is None:
                    if cohort not in broken:
                        broken.add(cohort)
                        later = (record_name(cohort, epoch) for epoch in header.cohorts[cohort].epochs)
                        following.update({other: cohort for other in later if other not in found and other != name})
                    continue
                found[name] = data
                record = CommitRecord.from_bytes(data, f"{self.url}/{COMMITS}/{name}")
                after = dict(pairwise(header.cohorts[cohort].epochs)).get(record.last_epoch)
                if cohort not in broken and after is not None:
                    following[record_name(cohort, after)] = cohort
            wanted = following
        return found

    def _copy_tables(self, scratch: Path) -> None:
        """Copy the caches of a zoo if they fit its records, else the table of every block."""
        records = read_commits(scratch)
        stamp = self._read([CACHES]).get(CACHES, b"{}")
        try:
            value = json.loads(stamp)
            fits = value["commits"] == commits_digest(records)
            names = [name for name in value["files"] if fits and _CACHE_NAME.fullmatch(name)]
        except (ValueError, KeyError, TypeError):
            names = []
        if names:
            for name, data in self._read([*names]).items():
                (scratch / name).write_bytes(data)
            (scratch / CACHES).write_bytes(stamp)
        if read_cache(scratch, records) is None:
            tables = self._read([record.meta.file for record in records])
            for record in records:
                target = scratch / record.meta.file
                target.parent.mkdir(exist_ok=True)
                if record.meta.file in tables:
                    target.write_bytes(tables[record.meta.file])
                check_file(scratch, record.meta)

    def _fetch(self, file: StoredFile, path: Path) -> None:
        files, base = self._connect()
        where = f"{self.url}/{file.file}"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with self._reporting(where):
                try:
                    files.get_file(f"{base}/{file.file}", str(temporary), callback=_limit(where, file.size))
                except FileNotFoundError as error:
                    raise StoreError(f"{where}: missing, though a commit record names it.") from error
                size, digest = temporary.stat().st_size, hash_file(temporary)
                if (size, digest) != (file.size, file.xxh3):
                    raise StoreError(
                        f"{where}: damaged on arrival; expected {file.size} bytes with xxh3 {file.xxh3}, got "
                        f"{size} with {digest}. Try again; if it stays, the zoo is damaged there."
                    )
                os.replace(temporary, path)
        finally:
            remove_if_present(temporary)

    def _read(self, names: Sequence[str]) -> dict[str, bytes]:
        """Read small files at once; those that do not exist are left out."""
        if not names:
            return {}
        files, base = self._connect()
        paths = {f"{base}/{name}": name for name in names}
        with self._reporting(self.url if len(names) > 1 else f"{self.url}/{names[0]}"):
            answers = files.cat([*paths], on_error="return")
            found = {}
            for path, answer in answers.items():
                if isinstance(answer, bytes):
                    found[paths[path]] = answer
                elif not isinstance(answer, FileNotFoundError):
                    raise answer
            return found

    def _connect(self) -> tuple[Any, str]:
        """The file system, and the zoo's path in it; instances are kept by fsspec, and made anew after a fork."""
        import fsspec

        options = dict(self.options)
        try:
            if self.url.startswith(_CANNOT_LIST) and "client_kwargs" not in options:
                options["client_kwargs"] = {"timeout": _patience()}
            files, base = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise InputError(f"{self.url}: {error}. Install what the protocol needs, e.g. with pip.") from error
        except ValueError as error:
            raise InputError(f"{self.url}: cannot be opened ({error}). Check the address.") from error
        return files, str(base).rstrip("/")

    @contextmanager
    def _reporting(self, where: str) -> Iterator[None]:
        """Turn what file systems raise when a host fails into one error."""
        known = [getattr(sys.modules[name], kind) for name, kind in _ERRORS.items() if name in sys.modules]
        try:
            yield
        except (OSError, ValueError, RuntimeError, *known) as error:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise StoreError(
                f"{where}: cannot be read ({reason}). Check the address and the network, and try again."
            ) from error

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder to copy metadata into; errors about it name the URL."""
        import tempfile

        try:
            (self.cache / "zoos").mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=self.cache / "zoos")
        except OSError as error:
            raise StoreError(f"{self.cache}: cannot be used as a cache ({error.strerror or error}).") from error
        with folder as name:
            try:
                yield Path(name)
            except ZooError as error:
                raise type(error)(str(error).replace(name, self.url)) from error

    def _settle(self, scratch: Path, target: Path) -> None:
        """Give copied metadata its name, unless another process was faster."""
        try:
            with appear_at_once(target) as temporary:
                for entry in scratch.iterdir():
                    os.replace(entry, temporary / entry.name)
        except ZooError:
            if not (target / HEADER).exists():
                raise


def _patience() -> Any:
    """A host may take its time for a large file, but not without sending anything."""
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS)


def _limit(where: str, most: int) -> Any:
    """A callback that stops a transfer which brings more bytes than were promised."""
    from fsspec.callbacks import Callback

    callback = Callback()

    def check(_: int, value: int, **more: object) -> None:
        if value > most:
            raise StoreError(f"{where}: damaged on arrival; expected {most} bytes, got more. The zoo is damaged there.")

    callback.hooks["limit"] = check
    return callback


def _trim(folder: Path, max_bytes: int, newest: Path) -> None:
    """Delete the shards that were not used for longest, until the others fit; those in use now stay."""
    entries = []
    with os.scandir(folder) as found:
        for entry in found:
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            if not entry.name.startswith(TEMPORARY):
                entries.append((status.st_mtime, status.st_size, entry.path))
    total = sum(size for _, size, _ in entries)
    for used, size, path in sorted(entries):
        if total <= max_bytes:
            return
        if path != str(newest) and time.time() - used > _IN_USE_SECONDS:
            remove_if_present(Path(path))
            total -= size
