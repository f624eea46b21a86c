"""A folder that exists while a publication is sent from it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zookeeper.store.files import TEMPORARY


def scratch_parent(near: Path) -> Path | None:
    """The folder beside ``near``, where links work and there is room, or None: the system's own place."""
    parent = near.resolve().parent
    return parent if os.access(parent, os.W_OK) else None


@contextmanager
def staged(zoo: Path) -> Iterator[Path]:
    """Give a name for a folder beside a zoo, so that its shards can be linked; what is there is removed after."""
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}publish-", dir=scratch_parent(zoo)) as folder:
        yield Path(folder) / (zoo.resolve().name or "zoo")
