"""Folders as ZIP archives without compression: the same files give the same bytes."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from zookeeper.publish.sending import Item

PART_BYTES = 4 * 10**9


def plan_parts(names: Iterable[str], sizes: Mapping[str, int], limit: int = PART_BYTES) -> tuple[Item, ...]:
    """Distribute files over archives of at most ``limit`` bytes each (one file may be larger), in order.

    >>> [part.members for part in plan_parts("abc", {"a": 5, "b": 4, "c": 3}, limit=9)]
    [('a', 'b'), ('c',)]
    """
    parts: list[list[str]] = []
    room = 0
    for name in names:
        if not parts or sizes[name] > room:
            parts.append([])
            room = limit
        parts[-1].append(name)
        room -= sizes[name]
    return tuple(
        Item(f"files-{number:03d}.zip", sum(sizes[name] for name in part), tuple(part))
        for number, part in enumerate(parts, 1)
    )


def write_part(root: Path, part: Item, target: Path) -> None:
    """Write an archive of files of ``root``; unpacked, they have their paths again."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in part.members:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.create_system = 0o644 << 16, 3
            entry.file_size = (root / name).stat().st_size
            with (root / name).open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink, 1 << 22)
