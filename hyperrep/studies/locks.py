"""One study at a time writes an entry of the cache; others wait for it, and say for whom."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCKS = "locks"


@contextmanager
def hold(cache: Path, name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to make one entry of a cache while the ``with`` block runs.

    If another process on this host holds it, one line says which, and this one waits. Who has waited looks again
    whether the entry is there. The system frees the lock of a process that dies. Where the system has no `fcntl`
    nothing is locked.

    Parameters
    ----------
    name
        Of the entry; ``/`` in it becomes ``-``.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    path = cache / LOCKS / f"{name.replace('/', '-')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            say(f"{name}: waiting for {holder}, which is at work on it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)
