"""Find the files of an image set, or fetch them whole: a download appears under its name only when complete."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from zookeeper.errors import InputError

ROOT_VARIABLE = "ZOO_DATA_ROOT"
DEFAULT_ROOT = Path("data")
_ARCHIVES = (".tar.gz", ".tgz", ".zip")


def find_root(root: Path | None) -> Path:
    """Return the folder with the image files: the given one, else the one ``ZOO_DATA_ROOT`` names, else ``data``.

    >>> find_root(Path("elsewhere")).as_posix()
    'elsewhere'
    """
    if root is not None:
        return root
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT)


def fetch_files(name: str, root: Path, fetch: Callable[[Path], object]) -> None:
    """Let ``fetch`` download into an empty folder below ``root``, then move what it made into ``root``.

    Whatever stops it, nothing half-written stays behind. Archives that were unpacked are not kept.

    Raises
    ------
    InputError
        If the download fails or the disk is full.
    """
    with explained(name, root, "downloading to"):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
            with redirect_stdout(sys.stderr):  # stdout is for data
                fetch(Path(temporary))
            for entry in sorted(Path(temporary).iterdir()):
                if not entry.name.endswith(_ARCHIVES):
                    _move(entry, root / entry.name)


def _move(entry: Path, target: Path) -> None:
    if entry.is_dir() and target.is_dir():
        for inner in sorted(entry.iterdir()):
            _move(inner, target / inner.name)
    else:
        os.replace(entry, target)


@contextmanager
def explained(name: str, root: Path, doing: str = "loading from") -> Iterator[None]:
    """Turn what torchvision and the readers below it raise for bad files into one clear line."""
    try:
        yield
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"image set {name}: {doing} {root} failed ({reason.rstrip('.')}). "
            "Remove damaged files and check the network connection, or copy the files there by hand."
        ) from error


def missing(name: str, where: str, *, remedy: str = "Set images.download: true to fetch them") -> InputError:
    """Return the error for files that are not there."""
    return InputError(
        f"image set {name}: no files found in {where}. {remedy}, or pass --data-root with the folder "
        f"that holds them (without it: images.root of the spec, then the variable {ROOT_VARIABLE}, then ./data)."
    )
