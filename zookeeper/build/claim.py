"""Who may build a zoo now: one whole build, or several shards at once, each by one process.

A whole build holds the zoo's lock until it ends. A shard holds a lock of its own below ``builders/`` until it
ends, and the zoo's lock only for the moments in which it enters and, as the last one, completes the zoo. So
a whole build finds the locks of the shards, shards find a whole build, and a shard finds its double.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from zookeeper.errors import BuildError, InputError
from zookeeper.store.lock import BuildLock

FOLDER = "builders"
_PATIENCE = 20.0
_STEP = 0.1
Item = TypeVar("Item")


class Occupied(BuildError):
    """Another builder holds the zoo, or the shard; the message says who."""

    exit_code = 2


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th cohort of a plan, from the ``number``-th on; numbers start at 1.

    Raises
    ------
    InputError
        If the number is not one of 1..count.

    Examples
    --------
    >>> Shard(2, 3).of("abcdefgh")
    ('b', 'e', 'h')
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(
                f"--shard {self.number}/{self.count}: out of range; expected i/n with i from 1 to n. "
                "Shards are counted from 1."
            )

    def of(self, items: tuple[Item, ...] | str) -> tuple[Item, ...]:
        """Return this shard's part; the parts of all shards cover the items once."""
        return tuple(items[self.number - 1 :: self.count])  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Read ``i/n``.

    >>> parse_shard("2/8")
    Shard(number=2, count=8)

    Raises
    ------
    InputError
        If the text is something else.
    """
    number, slash, count = text.partition("/")
    if not slash or not (number.isascii() and number.isdigit() and count.isascii() and count.isdigit()):
        raise InputError(f"--shard {text}: not a shard; expected i/n, such as 1/8.")
    return Shard(int(number), int(count))


@contextmanager
def claim_zoo(root: Path) -> Iterator[None]:
    """Hold a zoo for a whole build.

    Raises
    ------
    Occupied
        If another build, or a shard, is at work.
    BuildError
        If the lock cannot be written.
    """
    with _lock(root):
        for folder in sorted((root / FOLDER).glob("*")):
            with _lock(folder):  # a lock of a dead shard is taken over, and gone afterwards
                pass
        shutil.rmtree(root / FOLDER, ignore_errors=True)
        yield


@contextmanager
def claim_shard(root: Path, shard: Shard, *, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold one shard of a zoo.

    Parameters
    ----------
    patience
        Seconds to wait while others enter, or complete the zoo.

    Raises
    ------
    Occupied
        If a whole build, or this very shard, is at work.
    BuildError
        If the lock cannot be written.
    """
    own = root / FOLDER / f"{shard.number}-of-{shard.count}"
    with ExitStack() as held:
        with hold_briefly(root, patience=patience):
            own.mkdir(parents=True, exist_ok=True)
            held.enter_context(_lock(own))
        try:
            yield
        finally:
            held.close()
            with suppress(OSError, BuildError), hold_briefly(root, patience=1.0):
                own.rmdir()
                own.parent.rmdir()  # fails while others are at work


@contextmanager
def hold_briefly(root: Path, *, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold the zoo's lock for a moment, waiting for others who do the same.

    Raises
    ------
    Occupied
        If someone holds it for longer than ``patience`` seconds: a whole build.
    """
    deadline = time.monotonic() + patience
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(_lock(root))
                break
            except Occupied:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_STEP)
        yield


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    lock = BuildLock(folder)
    try:
        lock.__enter__()
    except BuildError as error:
        if error.__cause__ is not None:
            raise
        raise Occupied(str(error)) from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
