"""SHA-256 manifests that ``sha256sum --check`` reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from zookeeper.errors import StoreError

MANIFEST = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_CHUNK = 1 << 22


def hash_sha256(path: Path) -> str:
    """Hash a file in bounded memory; 64 hex digits."""
    return _digest(path, "sha256")


def hash_md5(path: Path) -> str:
    """Hash a file with MD5, which is what Zenodo answers with; it protects against accidents only."""
    return _digest(path, "md5")


def hash_git(path: Path) -> str:
    """Hash a small file as git names its content: SHA-1 of its size and bytes."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def list_files(root: Path) -> tuple[str, ...]:
    """Every file below a folder but its manifest, as sorted paths with forward slashes."""
    files = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return tuple(sorted(name for name in files if name != MANIFEST))


def format_manifest(sums: Mapping[str, str]) -> str:
    """Write sums as ``sha256sum`` does, one line per file, sorted by name.

    >>> format_manifest({"b": "1" * 64, "a": "0" * 64}).splitlines()[0].endswith("0  a")
    True
    """
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def read_manifest(root: Path) -> dict[str, str]:
    """Read a folder's manifest; raises `StoreError` if it is absent or not one."""
    path = root / MANIFEST
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read ({error}). Publish the zoo again.") from error
    sums = {}
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise StoreError(f"{path}:{number}: expected 64 hex digits, two blanks and a name. Publish the zoo again.")
        sums[found[2]] = found[1]
    return sums


def check_manifest(root: Path, names: Iterable[str] | None = None) -> Iterator[str]:
    """Say which files are missing, changed or not listed; nothing if the folder is whole."""
    sums = read_manifest(root)
    present = set(list_files(root))
    for name in sorted(present - sums.keys()):
        yield f"{name}: not in {MANIFEST}"
    for name in sums if names is None else names:
        if name not in present:
            yield f"{name}: missing"
        elif hash_sha256(root / name) != sums[name]:
            yield f"{name}: changed; its sha256 is not that of {MANIFEST}"


def _digest(path: Path, name: str) -> str:
    state = hashlib.new(name, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()
