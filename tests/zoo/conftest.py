from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network
from zookeeper.store.caches import finalise
from zookeeper.store.encoding import Encoding
from zookeeper.store.header import CohortEntry, ImageShape, ZooHeader, create_zoo
from zookeeper.store.writer import Block, commit_block
from zookeeper.zoo import Zoo, write_rows
from zookeeper.zoo import open as open_zoo

IMAGE = ImageShape("tetris", 1, 4, 4, 4, {"seed": 0})


def make_network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4, activation="tanh")


@pytest.fixture(scope="session")
def truth() -> np.ndarray:
    """Weights [M, E, P] of the toy zoo."""
    networks = [[make_network(10 * model + epoch) for epoch in range(4)] for model in range(6)]
    layout = WeightLayout.of(networks[0][0])
    rows = [[layout.flatten({n: t.detach() for n, t in net.named_parameters()}) for net in line] for line in networks]
    return np.array([[row.numpy() for row in line] for line in rows])


@pytest.fixture(scope="session")
def build_zoo(truth: np.ndarray) -> Callable[..., Path]:
    def build(root: Path, *, finalised: bool = True, last: int = 4) -> Path:
        layout = WeightLayout.of(make_network(0))
        models = tuple(f"{number:x}" * 4 for number in (10, 3, 12, 1, 2, 15))
        cohorts = {"late": CohortEntry(models[3:], (0, 1, 2, 3)), "early": CohortEntry(models[:3], (0, 1, 2, 3))}
        header = ZooHeader("toy", cohorts, {layout.digest: layout.to_json()}, IMAGE, {"name": "toy"})
        create_zoo(root, header)
        for start in range(0, last, 2):
            for name, first in (("early", 0), ("late", 3)):
                count = 6
                table: dict[str, Any] = {
                    "architecture": ["mlp"] * count,
                    "activation": ["tanh"] * count,
                    "dropout": [0] * count,
                    "lr": np.repeat([0.1, 0.01, 0.001], 2),
                    "seed": np.repeat([first, first + 1, first + 2], 2),
                    "test_acc": [0.1 * (start + e) + 0.05 * (first + m) for m in range(3) for e in range(2)],
                    "train_acc": [float("nan")] * count,
                    "split": ["train", "train", "train", "train"] + ["test" if first else "val"] * 2,
                    "wall_time": [1.0] * count,
                }
                rows = truth[first : first + 3, start : start + 2]
                commit_block(root, Block(name, (start, start + 1), rows, table, layout.digest))
        if finalised:
            finalise(root)
        return root

    return build


@pytest.fixture(scope="session")
def zoo(build_zoo: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return open_zoo(build_zoo(tmp_path_factory.mktemp("zoo") / "toy"))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Four networks on other images, so of another layout; ``1111`` is also in the toy zoo. HDF5, float64."""
    networks = []
    for seed in range(4):
        torch.manual_seed(seed)
        networks.append(build_network("mlp", in_channels=1, image_size=(6, 6), num_classes=3, activation="relu"))
    layout = WeightLayout.of(networks[0])
    rows = [layout.flatten({n: t.detach() for n, t in net.named_parameters()}).numpy() for net in networks]
    frame = pd.DataFrame(
        {
            "model_id": ["1111", "x1", "x2", "x3"],
            "epoch": [1, 1, 1, 2],
            "architecture": "mlp",
            "activation": "relu",
            "lr": [1, 1, 2, 2],
            "momentum": 0.9,
            "seed": [3, 1, 2, 9],
            "test_acc": [0.2, 0.3, 0.9, float("nan")],
            "split": ["train", "val", "test", None],
        }
    )
    path = tmp_path_factory.mktemp("other") / "other"
    return write_rows(
        path, rows, frame, layout, image=ImageShape("rings", 1, 6, 6, 3), store=Encoding("hdf5", "float64")
    )
