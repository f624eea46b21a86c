"""Run the command line in this process, as the console script does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from zookeeper import build_zoo, load_spec, make_plan
from zookeeper.cli import main

SPEC = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.5, val: 0.25, test: 0.25}, seed: 0}
model: {architecture: mlp, activation: tanh}
training: {optimizer: adam, batch_size: 64, epochs: 3}
grid:
  init: [uniform, normal]
  lr: [1e-3, 3e-3]
  seed: {range: [0, 3]}
checkpoints: {every: 1}
split: {by: seed, train: 0.4, val: 0.3, test: 0.3, seed: 0}
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["zookeeper", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out, err)

    return run


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "tiny.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="session")
def zoo(spec: Path) -> Path:
    """A finished zoo of 12 models and 48 checkpoints."""
    root = spec.parent / "zoo"
    build_zoo(make_plan(load_spec(spec)), root, show_progress=False)
    return root
