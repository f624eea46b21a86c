"""Files that no commit record names: harmless to readers, removable when old enough."""

from __future__ import annotations

import time
from pathlib import Path

from zookeeper.errors import InputError
from zookeeper.store.files import TEMPORARY, remove_if_present
from zookeeper.store.header import FOLDERS
from zookeeper.store.records import read_commits


def find_orphans(root: Path, *, older_than: float = 3600.0) -> tuple[Path, ...]:
    """List temporary files, uncommitted shards and superseded training states.

    ``older_than`` is in seconds since the last change; younger files may belong to a writer at work.

    Raises
    ------
    StoreError
        If the header or a record is damaged: then nothing can be called an orphan.
    """
    if older_than < 0:
        raise InputError(f"older_than: expected seconds >= 0, got {older_than}.")
    folders = (root, *(root / name for name in FOLDERS))
    found = [path for folder in folders for path in folder.iterdir() if path.is_file()]
    newest = {}  # listed before the records are read: a block committed meanwhile cannot look unnamed
    named = set()
    for record in read_commits(root):
        newest[record.cohort] = record
        named |= {root / record.shard.file, root / record.meta.file}
    named |= {root / record.state.file for record in newest.values() if record.state is not None}
    limit = time.time() - older_than
    data = {root / name for name in ("shards", "meta", "state")}
    orphans = [path for path in found if path.name.startswith(TEMPORARY) or (path.parent in data and path not in named)]
    return tuple(sorted(path for path in orphans if path.stat().st_mtime <= limit))


def collect_orphans(root: Path, *, older_than: float = 3600.0) -> tuple[Path, ...]:
    """Remove what `find_orphans` lists; return what was removed."""
    orphans = find_orphans(root, older_than=older_than)
    for path in orphans:
        remove_if_present(path)
    return orphans
