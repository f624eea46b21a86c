"""Durable files: a name appears only when its bytes are on disk.

Two primitives carry every promise of the store. `write_durable` makes whole files appear under their name
(write to a temporary name, fsync, rename, fsync the directory). `create_durable` does the same but only if
the name is free, by ``link(2)``, which is atomic on local and network file systems.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import xxhash

from zookeeper.errors import StoreError

TEMPORARY = ".tmp-"
_CHUNK = 1 << 24


def hash_bytes(data: bytes | memoryview) -> str:
    """Hash a buffer with xxh3-128; 32 hex digits.

    >>> hash_bytes(b"zoo")
    '38a35481dc94e52152bae576397ca33a'
    """
    return str(xxhash.xxh3_128_hexdigest(data))


def hash_file(path: Path) -> str:
    """Hash a file with xxh3-128 in bounded memory."""
    state = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_CHUNK // 4))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            state.update(buffer[:count])
    return str(state.hexdigest())


def write_durable(path: Path, data: bytes | memoryview) -> None:
    """Make ``path`` hold exactly ``data``, replacing what was there, or leave it as it was.

    Raises
    ------
    OSError
        If any step fails; no partial file stays under the name or the temporary name.
    """
    temporary = _write_temporary(path, data)
    try:
        os.replace(temporary, path)
    except OSError:
        _forget(temporary)
        raise
    sync_directory(path.parent)


def create_durable(path: Path, data: bytes | memoryview) -> bool:
    """Put ``data`` under ``path`` if the name is free; say whether this call did it.

    Of several writers exactly one gets True. When it returns, the directory entry is on disk.

    Raises
    ------
    StoreError
        If the file system has no hard links.
    OSError
        If writing fails; nothing appears under the name.
    """
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
        created = True
    except FileExistsError:
        created = False
    except PermissionError as error:
        raise StoreError(
            f"{path}: the file system refuses hard links; expected a POSIX file system. Put the zoo on another disk."
        ) from error
    finally:
        _forget(temporary)
    sync_directory(path.parent)
    return created


def sync_directory(path: Path) -> None:
    """Flush the entries of a directory to disk (a no-op where directories cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_if_present(path: Path) -> None:
    """Remove a file that may already be gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _write_temporary(path: Path, data: bytes | memoryview) -> Path:
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}-{path.name}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            view = memoryview(data).cast("B")
            while view:
                view = view[os.write(descriptor, view[:_CHUNK]) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        _forget(temporary)
        raise
    return temporary


def _forget(path: Path) -> None:
    # A temporary file that cannot be removed harms nobody: readers ignore it, `collect_orphans` takes it.
    try:
        os.unlink(path)
    except OSError:
        return
