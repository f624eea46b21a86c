"""Decoded images on disk, mapped into memory, so that all workers of a machine share one copy.

An entry is a folder ``.zookeeper-cache/KEY`` below the data root. It appears complete under its name or not at all,
the first writer wins, and it may be removed at any time. The key covers the image set, its transforms, and name, size
and time of change of every file that was read.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xxhash

from zookeeper.images.source import RawImages, Source

FOLDER = ".zookeeper-cache"
MIN_SECONDS = 1.0
MIN_BYTES = 1 << 22
_VERSION = 1  # raise it when the same files would be decoded to other bytes


def load_shared(
    name: str, source: Source, list_files: Callable[[Source], Sequence[Path]], load: Callable[[], RawImages]
) -> RawImages:
    """Return what ``load`` returns, from the cache where it is there.

    Guaranteed: the same bytes as without a cache, unless files were changed without a change of their size and time.
    What took longer than a second to load and has some megabytes is put into the cache; if that fails, as on a full
    or read-only disk, the set simply stays in the memory of this process.

    Parameters
    ----------
    name
        Image set.
    source
        Where it comes from and how it is transformed.
    list_files
        Lists the files of the set that are there.
    load
        Reads and transforms the set.
    """
    folder = _folder_if_known(name, source, list_files)
    if folder is not None and (shared := read_entry(folder)) is not None:
        return shared
    start = time.monotonic()
    raw = load()
    if time.monotonic() - start < MIN_SECONDS or raw.images.nbytes < MIN_BYTES:
        return raw
    folder = _folder_if_known(name, source, list_files)  # files may have been downloaded meanwhile
    if folder is None:
        return raw
    try:
        put_entry(folder, raw)
    except OSError:
        return raw
    return read_entry(folder) or raw


def _folder_if_known(name: str, source: Source, list_files: Callable[[Source], Sequence[Path]]) -> Path | None:
    """Return the folder of an entry; None if files are missing, which is for the loader to explain."""
    files = tuple(list_files(source))
    try:
        return entry_folder(name, source, files) if files else None
    except OSError:
        return None


def entry_folder(name: str, source: Source, files: Sequence[Path]) -> Path:
    """Return the folder of an entry; other files, transforms or set give another one."""
    transforms = source.transforms
    described = [_VERSION, name, transforms.resize, transforms.crop, transforms.greyscale]
    digest = hashlib.sha256(json.dumps(described).encode())
    for file in files:
        state = file.stat()
        digest.update(f"{os.path.relpath(file, source.root)}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return source.root / FOLDER / f"{name}-{digest.hexdigest()[:32]}"


def put_entry(folder: Path, raw: RawImages) -> None:
    """Write an entry under its name, unless a sound one is there.

    Raises
    ------
    OSError
        If it cannot be written; nothing appears under the name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".tmp-{os.getpid()}-{secrets.token_hex(8)}"
    temporary.mkdir()
    try:
        np.save(temporary / "images.npy", raw.images, allow_pickle=False)
        np.save(temporary / "labels.npy", raw.labels, allow_pickle=False)
        facts = {
            "num_classes": raw.num_classes,
            "num_official_test": raw.num_official_test,
            "num_official_val": raw.num_official_val,
            "xxh3_128": _digest(raw),
        }
        (temporary / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        if folder.exists() and read_entry(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            try:
                os.rename(temporary, folder)  # fails if another writer was faster: entries are never empty
            except OSError:
                if not folder.exists():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_entry(folder: Path) -> RawImages | None:
    """Map an entry into memory, read-only; None if it is absent or damaged."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        raw = RawImages(
            np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
            np.load(folder / "labels.npy", allow_pickle=False),
            facts["num_classes"],
            facts["num_official_test"],
            facts["num_official_val"],
        )
        is_sound = raw.images.dtype == np.uint8 and raw.images.ndim == 4 and _digest(raw) == facts["xxh3_128"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return raw if is_sound else None


def _digest(raw: RawImages) -> str:
    facts = (raw.images.shape, raw.num_classes, raw.num_official_test, raw.num_official_val)
    digest = xxhash.xxh3_128(repr(facts).encode())
    digest.update(np.ascontiguousarray(raw.images).data)
    digest.update(raw.labels.astype("<i8").tobytes())
    return str(digest.hexdigest())
