"""Start the processes of a distributed training on this machine, and end all of them when one fails."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

from zookeeper.errors import InputError, ZooError

_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 10.0


class RankFailedError(ZooError):
    """A process of a distributed training failed; carries its exit code, or 1 if a signal ended it."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code if code > 0 else 1


def launch(command: Sequence[str], num: int) -> None:
    """Run a command in ``num`` processes that know of each other as torchrun would tell them; wait for all.

    The first process keeps this one's stdout and stderr; what another writes is shown if it fails.

    Raises
    ------
    InputError
        If ``num`` is below 1.
    RankFailedError
        As soon as one process fails or is killed; the others are ended first. Says which, how, and its last words.
    """
    if num < 1:
        raise InputError(f"--processes: expected at least 1, got {num}.")
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
    }  # fmt: skip
    with ExitStack() as stack:
        words = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(num)]
        processes: list[subprocess.Popen[str]] = []
        stack.callback(_end, processes)
        for rank in range(num):
            processes.append(
                subprocess.Popen(
                    list(command),
                    env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=None if rank == 0 else subprocess.DEVNULL,
                    stderr=None if rank == 0 else words[rank],
                    text=True,
                )
            )
        _wait(processes, words)


def _wait(processes: Sequence[subprocess.Popen[str]], words: Sequence[IO[str]]) -> None:
    """Return when all are done; raise for the first that failed."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [(rank, code) for rank, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            # one that was killed takes the others with it within moments: it is the cause
            rank, code = next(((rank, code) for rank, code in failed if code is not None and code < 0), failed[0])
            assert code is not None
            raise RankFailedError(_describe(rank, code, len(processes), words[rank]), code)
        if all(code == 0 for code in codes):
            return
        time.sleep(_POLL_SECONDS)


def _describe(rank: int, code: int, num: int, words: IO[str]) -> str:
    words.seek(0)
    last = [line for line in words.read().splitlines() if line.strip()][-1:]
    said = f" It said: {last[0].removeprefix('error: ')}" if last else ""
    how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    return (
        f"process {rank} of {num} {how}; the others were ended.{said} "
        "The same command goes on from the last checkpoint."
    )


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Terminate what still runs, and kill what does not listen."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def this_command(*arguments: str) -> list[str]:
    """The ``hyperrep`` command of this Python with arguments."""
    return [sys.executable, "-m", "hyperrep.cli", *arguments]
