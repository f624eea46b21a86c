from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zookeeper import build_zoo, load_spec, make_plan
from zookeeper.publish.folder import Publication, Wishes, publish_folder
from zookeeper.store.header import CohortEntry, ImageShape, ZooHeader, create_zoo
from zookeeper.store.writer import Block, commit_block

SPEC = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.5, val: 0.25, test: 0.25}, seed: 0}
model: {architecture: mlp, activation: tanh}
training: {optimizer: adam, batch_size: 64, epochs: 2}
grid:
  init: [uniform, normal]
  lr: [1e-3, 3e-3]
  seed: {range: [0, 3]}
checkpoints: {every: 1}
split: {by: seed, train: 0.4, val: 0.3, test: 0.3, seed: 0}
"""
WISHES = Wishes(authors=("Lovelace, Ada", "The Zoo Group"), licence="CC0-1.0")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished zoo of 12 models and 36 checkpoints, in several shards."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "tiny.yaml").write_text(SPEC)
    build_zoo(make_plan(load_spec(folder / "tiny.yaml"), 6), folder / "zoo", show_progress=False)
    return folder / "zoo"


@pytest.fixture(scope="session")
def published(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Publication:
    return publish_folder(zoo, tmp_path_factory.mktemp("published") / "tiny", WISHES)


def make_unfinished(root: Path) -> Path:
    """A zoo of which the last epoch is not stored, and whose spec names a folder of this machine."""
    layout = {"version": 1, "blocks": [{"name": "fc.weight", "shape": [2, 2], "kind": "weight", "offset": 0}]}
    from zookeeper.nets.layout import WeightLayout

    digest = WeightLayout.from_json(layout).digest
    spec = {"name": "part", "images": {"name": "tetris", "root": "/home/somebody/images"}}
    header = ZooHeader(
        "part", {"all": CohortEntry(("aa", "bb"), (0, 1))}, {digest: layout}, ImageShape("tetris", 1, 4, 4, 4), spec
    )
    create_zoo(root, header)
    rows = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    state = {"step": np.array(3)}
    commit_block(root, Block("all", (0,), rows, {"lr": [0.1, 0.2], "test_acc": [0.5, 0.25]}, digest, state=state))
    return root


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    return make_unfinished(tmp_path / "part")
