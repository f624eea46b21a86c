"""Open a stored zoo, here or at a URL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zookeeper.store.caches import read_frame
from zookeeper.store.header import read_header
from zookeeper.store.reader import RowReader
from zookeeper.store.records import StoredFile, read_commits
from zookeeper.store.remote import CACHE_BYTES, RemoteZoo, cache_folder, is_url
from zookeeper.zoo.view import Zoo


def open(
    path: str | Path,
    *,
    cache: str | Path | None = None,
    cache_bytes: int = CACHE_BYTES,
    storage_options: Mapping[str, Any] | None = None,
) -> Zoo:
    """Open a stored zoo without reading weights and without importing torch.

    A zoo that is being built opens too and shows what is committed so far. Of a zoo at a URL, the metadata is
    fetched now, and a shard as a whole when one of its rows is first read; both are kept in a cache.

    Parameters
    ----------
    path
        A folder, or a URL that fsspec knows: ``https://``, ``hf://datasets/USER/NAME``, ``s3://``, ``memory://``, ...
        A host that lists no folders (``https``) is asked for one record after the other.
    cache
        Folder for what is fetched; default ``weight-zookeeper/remote`` in the user's cache folder.
    cache_bytes
        How much shards may take there; then those go that were not used for longest. What is open stays until it is
        closed: at most 16 shards in each process.
    storage_options
        Options of the remote file system, such as ``{"anon": True}`` for ``s3``; see its documentation.

    Raises
    ------
    InputError
        If there is no zoo at ``path``, or the protocol of a URL is unknown or not installed.
    StoreError
        If its header, a commit record or its metadata is damaged, or a host cannot be reached.
    """
    if not is_url(path):
        return _open(Path(path), str(path), None)
    remote = RemoteZoo(
        str(path).rstrip("/"),
        cache_folder() if cache is None else Path(cache),
        cache_bytes,
        dict(storage_options or {}),
    )
    local = remote.local_path()
    return _open(remote.copy_metadata(), remote.url, remote.locate) if local is None else _open(local, str(local), None)


def _open(root: Path, source: str, locate: Callable[[StoredFile], Path] | None) -> Zoo:
    header = read_header(root)
    records = read_commits(root)
    frame, rows = read_frame(root, header, records)
    return Zoo(source, header, root, frame, rows, RowReader(root, records, locate))
