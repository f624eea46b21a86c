"""The storage benchmarks run as a whole on toys and write their sections."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from zookeeper.nets.layout import WeightLayout
from zookeeper.store.caches import finalise
from zookeeper.store.header import CohortEntry, ZooHeader, create_zoo
from zookeeper.store.writer import Block, commit_block

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "storage": ("--rounds", "1", "--shards", "1"),
    "storage_large": ("--rounds", "1", "--models", "100", "--epochs", "3"),
    "storage_others": ("--rounds", "1", "--slow-rounds", "1", "--cohorts", "1", "--epochs", "2"),
}


def make_zoo(root: Path) -> None:
    layout = WeightLayout.from_shapes({"fc.weight": ((5, 8), "weight"), "fc.bias": ((5,), "bias")})
    cohort = CohortEntry(("aa", "bb", "cc"), (0, 1))
    create_zoo(root, ZooHeader("toy", {"c": cohort}, {layout.digest: layout.to_json()}))
    rows = np.random.default_rng(0).standard_normal((3, 2, layout.num_weights), np.float32)
    table = {"lr": [0.1] * 6, "init": ["uniform"] * 6, "test_acc": np.linspace(0, 1, 6), "split": ["train"] * 6}
    commit_block(root, Block("c", (0, 1), rows, table, layout.digest))
    finalise(root)


def test_all_storage_benchmarks_run_on_toys(tmp_path: Path) -> None:
    make_zoo(tmp_path / "toy")
    running = []
    for name, more in SMALL.items():
        where = ["--zoo", tmp_path / "toy", "--out", tmp_path / f"{name}.md"]
        command = [sys.executable, f"benchmarks/{name}.py", *where, *more]
        running.append(
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    written = {name: (tmp_path / f"{name}.md").read_text() for name in SMALL}
    assert "| hdf5 float32 none |" in written["storage"]
    assert "| synthetic | 300 |" in written["storage_large"]
    assert written["storage_others"].count("| one pickled list |") == 2
    assert {len(runs) for runs in json.loads((tmp_path / "storage_large.json").read_text())["opened"].values()} == {1}
    assert json.loads((tmp_path / "storage_others.json").read_text())["toy, 6 x 45"]["open"]
