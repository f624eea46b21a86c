"""Tiny zoos of ours, and tiny folders in the formats of others, written here byte for byte as published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network
from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.header import ImageShape
from zookeeper.zoo import Zoo, write_rows

EPOCHS = (0, 1, 5)
SHAPES = {"mlp": (1, 4, 4), "cnn-small": (1, 28, 10), "cnn-large": (3, 32, 10), "smallcnn-google": (1, 28, 10)}


def make_network(architecture: str, seed: int, dropout: float = 0.0) -> torch.nn.Module:
    channels, size, classes = SHAPES[architecture]
    torch.manual_seed(seed)
    return build_network(
        architecture,
        in_channels=channels,
        image_size=(size, size),
        num_classes=classes,
        activation="tanh",
        dropout=dropout,
    ).eval()


@pytest.fixture
def make_zoo(tmp_path: Path) -> Callable[..., Zoo]:
    """A zoo of ours with every kind of column, gaps, and a diverged checkpoint."""

    def make(architecture: str = "mlp", *, dropout: float = 0.0, store: Encoding = PLAIN, name: str = "toy") -> Zoo:
        channels, size, classes = SHAPES[architecture]
        layout = WeightLayout.of(make_network(architecture, 0))
        count = 3 * len(EPOCHS)
        draw = np.random.default_rng(7)
        rows = draw.normal(size=(count, layout.num_weights))
        rows[4, 1] = np.nan
        frame = {
            "model_id": [model for model in ("b0", "a1", "c2") for _ in EPOCHS],
            "epoch": list(EPOCHS) * 3,
            "architecture": [architecture] * count,
            "activation": ["tanh"] * count,
            "dropout": [dropout] * count,
            "lr": np.repeat([1e-3, 0.1 + 0.2, 3e-4], 3),
            "seed": np.repeat([0, 1, 2], 3),
            "nesterov": [True] * 6 + [False] * 3,
            "note": ["0012"] * 3 + [None] * 3 + ["a,b\n'c'"] * 3,
            "train_loss": draw.normal(size=count),
            "test_acc": np.where(np.arange(count) == 4, np.nan, draw.random(count)),
            "split": ["train"] * 6 + ["test"] * 3,
        }
        image = ImageShape("toys", channels, size, size, classes, {"seed": 0})
        return write_rows(tmp_path / f"{name}-zoo", rows, frame, layout, kind="trained", image=image, store=store)

    return make


@pytest.fixture
def ray_folder(tmp_path: Path) -> Callable[..., tuple[Path, dict[tuple[str, int], torch.nn.Module]]]:
    """A published experiment of two models: three checkpoints each, one with dropout, both torch containers."""

    def make(architecture: str = "cnn-small", published: str = "CNN") -> Any:
        root, truth = tmp_path / "published", {}
        (root / "experiment_state-2021").mkdir(parents=True)
        (root / "config.json").write_text(json.dumps({"model::type": published, "seed": "grid_search"}))
        (root / "LICENSE").write_text("CC BY 4.0")
        for number, dropout in enumerate((0.0, 0.5)):
            trial_id = f"75973_{number + 394:05d}"
            trial = root / f"NN_tune_trainable_{trial_id}_{number}_seed={number}_2021-09-25_11-43-53"
            places = ((0, 3, 6, 9, 11), (0, 4, 8, 11, 14))[dropout > 0]
            trial.mkdir()
            params = {
                "model::type": published,
                "model::channels_in": 1,
                "model::nlin": "tanh",
                "model::dropout": dropout,
                "model::init_type": "kaiming_uniform",
                "model::o_dim": 99,
                "optim::optimizer": "adam",
                "optim::lr": 1e-3,
                "optim::wd": 1e-4,
                "optim::momentum": None,
                "seed": number,
                "training::batchsize": 32,
                "resources::cpu": 1,
            }
            (trial / "params.json").write_text(json.dumps(params))
            (trial / "params.pkl").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
            lines = []
            for epoch in EPOCHS:
                network = make_network(architecture, 10 * number + epoch, dropout)
                truth[trial_id, epoch] = network
                layers = iter(places)
                keys: dict[str, int] = {}
                state = {}
                for name, tensor in network.state_dict().items():
                    layer, leaf = name.rsplit(".", 1)
                    keys.setdefault(layer, -1)
                    if keys[layer] < 0:
                        keys[layer] = next(layers)
                    state[f"module.module_list.{keys[layer]}.{leaf}"] = tensor
                place = trial / f"checkpoint_{epoch:06d}"
                place.mkdir()
                torch.save(state, place / "checkpoints", _use_new_zipfile_serialization=number == 0)
                lines.append({"test_acc": 0.1 * epoch + number, "train_loss": 2.0 - epoch, "training_iteration": epoch})
            lines = [
                {"test_acc": -1.0, "training_iteration": 1},
                *lines[::-1],
                {"test_acc": 0.3, "training_iteration": 9},
            ]
            text = "".join(json.dumps({**line, "trial_id": trial_id, "config": params}) + "\n" for line in lines)
            (trial / "result.json").write_text(text)
        (root / "NN_tune_trainable_75973_00999_2_failed").mkdir()
        return root, truth

    return make
