"""Open a stored zoo, here or at a URL."""

from __future__ import annotations

from pathlib import Path

from zookeeper.store.caches import read_frame
from zookeeper.store.header import read_header
from zookeeper.store.reader import RowReader
from zookeeper.store.records import read_commits
from zookeeper.zoo.view import Zoo


def open(path: str | Path) -> Zoo:
    """Open a stored zoo without reading weights and without importing torch.

    A zoo that is being built opens too and shows what is committed so far.

    Raises
    ------
    InputError
        If there is no zoo at ``path``.
    StoreError
        If its header, a commit record or its metadata is damaged.
    """
    root = Path(path)
    header = read_header(root)
    records = read_commits(root)
    frame, rows = read_frame(root, header, records)
    return Zoo(str(root), header, root, frame, rows, RowReader(root, records))
