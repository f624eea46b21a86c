"""A specification and a finished zoo for the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from zookeeper import build_zoo, load_spec, make_plan

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
