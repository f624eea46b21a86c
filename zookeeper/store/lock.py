"""One builder at a time: a put-if-absent lock file that names its holder."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from zookeeper.errors import BuildError
from zookeeper.store.files import create_durable, remove_if_present

LOCK = "build.lock"


class BuildLock:
    """Hold the right to build a zoo while the ``with`` block runs.

    The lock file names host, process and the process's start, so that a lock left behind by a killed
    builder on the same host is recognised and taken over; one from another host is never touched.

    Raises
    ------
    BuildError
        On entry, if another builder is at work; the message says who.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / LOCK
        self._token = secrets.token_hex(8)

    def __enter__(self) -> BuildLock:
        mine = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
            "token": self._token,
        }
        try:
            holder = self._acquire(json.dumps(mine).encode())
        except OSError as error:
            raise BuildError(
                f"{self._path}: cannot be created ({error.strerror or error}). Check the directory and the disk."
            ) from error
        if holder is not None:
            raise BuildError(self._complaint(holder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        holder = _read(self._path)
        if holder is not None and holder.get("token") == self._token:
            remove_if_present(self._path)

    def _acquire(self, mine: bytes) -> dict[str, Any] | None:
        """Take the lock and return None, or return who holds it."""
        with _alone_on_this_host(self._path.parent):
            if create_durable(self._path, mine):
                return None
            holder = _read(self._path)
            if holder is not None and _is_stale(holder):
                remove_if_present(self._path)
                holder = None
            if holder is None and create_durable(self._path, mine):
                return None
        return holder or _read(self._path) or {}

    def _complaint(self, holder: dict[str, Any]) -> str:
        who = f"process {holder.get('pid', '?')} on host {holder.get('host', '?')}"
        return (
            f"{self._path.parent}: another builder is at work ({who}). Wait for it or stop it; "
            f"if it no longer exists, remove {self._path}."
        )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_stale(holder: dict[str, Any]) -> bool:
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    started = _process_start(pid)
    return started is not None and holder.get("started") is not None and started != holder["started"]


def _process_start(pid: int) -> str | None:
    """When a process started, as boot id and clock ticks; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    if fields[0] == "Z":  # a zombie holds nothing
        return f"{boot}:zombie"
    return f"{boot}:{fields[19]}"


@contextmanager
def _alone_on_this_host(root: Path) -> Iterator[None]:
    """Serialise take-overs: two builders that both see a stale lock must not both remove it."""
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
