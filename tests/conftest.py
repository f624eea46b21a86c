"""What the tests of several rooms share: the command line, run in this process as the console script does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run ``zookeeper`` with arguments; everything written to stdout and stderr is kept, whoever wrote it."""

    def run(*arguments: object) -> Ended:
        from zookeeper.cli import main

        monkeypatch.setattr(sys, "argv", ["zookeeper", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out, err)

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, as in a worker: bits and ways of computing depend on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
