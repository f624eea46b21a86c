"""A user's script passes a strict type checker, and one with mistakes does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

import zookeeper
from zookeeper import CheckpointBatch, Leakage, RowBatch, WeightLayout, Zoo, ZooSplits, ZooStream

zoo: Zoo = zookeeper.open("data/zoo", cache="cache", cache_bytes=10**9)
good: Zoo = zoo.query("test_acc > @least", least=0.5)[:10]
rows: npt.NDArray[np.float32] = good.weights(layers=["conv1"])
lines: pd.DataFrame = good.frame[["lr", "seed"]]
names: tuple[str, ...] = zoo.factors
layout: WeightLayout = good.layout
path: npt.NDArray[np.float32] = zoo.trajectory("0a1b")
network: torch.nn.Module = zoo.network("0a1b", 5)
logits = network(torch.zeros(1, 1, 28, 28))


def parts() -> Iterator[tuple[str, RowBatch]]:
    for digest, part in zoo.by_layout().items():
        for piece in part.batches(100):
            yield digest, piece


splits: ZooSplits = zoo.divide(train=0.8, val=0.1, test=0.1, by=["seed", "init"], stratify="test_acc", seed=3)
train, val, test = splits
reveal_type(train)
leaks: Leakage = splits.leaks(weights=True)
table: pd.DataFrame = leaks.frame
if leaks:
    seeds: tuple[str, ...] = leaks.shared("seed", "train", "test")
both: Zoo = zookeeper.concatenate({"a": zoo, "b": zookeeper.open("hf://datasets/me/zoo", storage_options={})})
stream: ZooStream = train.stream(256, buffer=8192, rank=0, num_ranks=2)
stream.load_state_dict(stream.state_dict())
for batch in stream.loader(num_workers=2):
    reveal_type(batch)
for other in train.dataloader(32, shuffle=True):
    reveal_type(other)
    step: dict[str, torch.Tensor] = other.to("cuda").properties


def epoch_of(one: CheckpointBatch) -> torch.Tensor:
    return one.epochs


zoo.weights(layer=["conv1"])  # wrong: no such argument
splits.train = val  # wrong: frozen
leaks.shared("seeds")  # wrong: no such kind
zoo.divide(by=3)  # wrong: not a column
next(iter(stream)).weihgts  # wrong: no such attribute
"""


def test_a_script_outside_the_package_is_checked_strictly(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file", "pyproject.toml"]
    done = subprocess.run(
        [*command, "--cache-dir", ".mypy_cache", str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = re.findall(r"script\.py:(\d+): (error|note): (.*)", done.stdout)
    revealed = [text.partition('"')[2].rstrip('"') for _, kind, text in found if "Revealed" in text]
    checkpoint_batch = "zookeeper.datasets.CheckpointBatch"
    assert revealed == ["zookeeper.zoo.view.Zoo", checkpoint_batch, checkpoint_batch], done.stdout + done.stderr
    wrong = [number for number, line in enumerate(SCRIPT.splitlines(), 1) if "# wrong" in line]
    assert sorted({int(line) for line, kind, _ in found if kind == "error"}) == wrong, done.stdout
