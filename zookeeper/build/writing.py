"""Commit blocks beside training: one at a time, in order, each after the one before it stands.

While a block is compressed, hashed and flushed to disk, the next epochs train: on a GPU the host has nothing else to
do, on a CPU the waiting for the disk is won. One block is under way at most, so memory stays bounded; a block that
comes earlier waits. What goes wrong in the background is raised by the next call, in the thread that builds.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

Commit = Callable[[], object]


class BlockWriter:
    """Run commits in the background; leaving the context waits for the one that is under way.

    After an error in the builder (Ctrl-C too) what is under way is still committed, and an error of its own is
    dropped: the block is then not in the zoo, and the next run makes it again. A process that is killed leaves what
    any killed writer leaves.

    Examples
    --------
    >>> done = []
    >>> with BlockWriter() as writer:
    ...     writer.put(lambda: done.append("first"))
    ...     writer.put(lambda: done.append("second"))
    ...     writer.finish()
    >>> done
    ['first', 'second']
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._under_way: Future[object] | None = None

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True)
        if error is None:
            self.finish()

    def put(self, commit: Commit) -> None:
        """Begin a commit, after the one before has ended; raises that one's error in place of beginning."""
        self.finish()
        self._under_way = self._executor.submit(commit)

    def finish(self) -> None:
        """Wait for the commit that is under way; raises its error."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()
