"""Which files of a folder of others may be read: regular ones, inside it, of a size that makes sense."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from zookeeper.errors import InputError

MAX_TABLE_BYTES = 1 << 31
MAX_TEXT_BYTES = 1 << 26
MAX_WEIGHT_BYTES = 1 << 32
_CHUNK = 1 << 20
_SMALL, _MAX_RATIO = 1 << 26, 200  # beyond 64 MB, data that shrinks 200 times is no data


@dataclass(frozen=True)
class SourceFolder:
    """A folder whose content others chose; every path is checked before it is opened.

    Raises
    ------
    InputError
        If ``root`` is not a directory.
    """

    root: Path

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such directory; expected the folder to import. Check the path.")

    def admit(self, path: Path, max_bytes: int | None = None) -> Path:
        """Return ``path`` if it is a regular file inside the folder and not larger than ``max_bytes``.

        Raises
        ------
        InputError
            If a link leads outside, it is no regular file, or it is too large.
        """
        real = path.resolve()
        if not real.is_relative_to(self.root.resolve()):
            raise InputError(
                f"{path}: a link that leaves the folder, to {real}; expected files inside {self.root}. "
                "Copy the file in if you trust it."
            )
        if not real.is_file():
            raise InputError(f"{path}: not a regular file; expected one. Remove it from the folder.")
        if max_bytes is not None:
            check_size(real, max_bytes)
        return path

    def find(self, *names: str) -> Path | None:
        """First of several names that is in the folder, admitted; None if none is."""
        for name in names:
            path = self.root / name
            if path.is_symlink() or path.exists():
                return self.admit(path)
        return None

    def files(self, *suffixes: str) -> Iterator[Path]:
        """Every file below the folder with one of the suffixes, by name; links are checked, not followed."""
        stack = [self.root]
        while stack:
            entries = sorted(stack.pop().iterdir())
            for path in entries:
                if path.is_dir():
                    if not path.resolve().is_relative_to(self.root.resolve()):
                        self.admit(path)
                    if not path.is_symlink():
                        stack.append(path)
                elif path.suffix in suffixes:
                    yield self.admit(path)

    def read_json(self, path: Path) -> Any:
        """Parse a JSON file of bounded size; raises `InputError` where it is not JSON."""
        return parse_json(self.admit(path, MAX_TEXT_BYTES).read_bytes(), str(path))


def check_size(path: Path, max_bytes: int) -> None:
    """Raise `InputError` if a file is larger than ``max_bytes``."""
    size = path.stat().st_size
    if size > max_bytes:
        raise InputError(f"{path}: {size:,} bytes; expected at most {max_bytes:,}. Is it the right file?")


def parse_json(data: bytes | str, where: str) -> Any:
    """Parse JSON, NaN and infinities included; raises `InputError` if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); the file is damaged. Fetch it again.") from error


def read_bytes(path: Path, max_bytes: int = MAX_TABLE_BYTES) -> bytes:
    """Read a file, and a ``.gz`` decompressed, but never more than ``max_bytes`` of it.

    Raises
    ------
    InputError
        If it is larger, or the compressed data is damaged.
    """
    parts: list[bytes] = []
    total = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            while part := file.read(_CHUNK):
                total += len(part)
                if total > min(max_bytes, max(_SMALL, _MAX_RATIO * path.stat().st_size)):
                    raise InputError(
                        f"{path}: more than {total:,} bytes once decompressed; refused, it may be a "
                        "decompression bomb. Is it the right file?"
                    )
                parts.append(part)
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: damaged or cut off ({error}). Fetch it again.") from error
    return b"".join(parts)


def inflates_too_much(declared: int, size: int) -> bool:
    """Whether an archive of ``size`` bytes that holds ``declared`` bytes is more likely a bomb than data.

    >>> inflates_too_much(10_000_000, 10_000), inflates_too_much(1 << 30, 1 << 20)
    (False, True)
    """
    return declared > min(MAX_WEIGHT_BYTES, max(_SMALL, _MAX_RATIO * size))


def whole_number(value: Any, where: str) -> int:
    """An epoch: a whole number from 0, as integer, float or text; raises `InputError` for anything else.

    >>> whole_number("12", "a"), whole_number(3.0, "a")
    (12, 3)
    """
    try:
        number = int(value)
        sound = not isinstance(value, bool) and float(value) == number and 0 <= number < 1 << 53
    except (TypeError, ValueError, OverflowError):
        number, sound = 0, False
    if not sound:
        raise InputError(f"{where}: {str(value)[:40]!r}; expected a whole number from 0.")
    return number


def check_entry_name(name: str, where: str) -> str:
    """Return the name of an archive's entry; raises `InputError` if it points outside the archive.

    >>> check_entry_name("archive/data.pkl", "a.pt")
    'archive/data.pkl'
    >>> check_entry_name("../../evil", "a.pt")
    Traceback (most recent call last):
    zookeeper.errors.InputError: a.pt: entry '../../evil' points outside the archive; refused. Do not trust this file.
    """
    slashed = name.replace("\\", "/")
    if PurePosixPath(slashed).is_absolute() or ".." in slashed.split("/") or ":" in slashed.split("/")[0] or not name:
        raise InputError(f"{where}: entry {name!r} points outside the archive; refused. Do not trust this file.")
    return name
