"""Alignment as preprocessing: rows of the training and new rows are aligned alike, here and after loading."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zookeeper
from hyperrep.config import TrainConfig
from hyperrep.training.data import FitData
from hyperrep.training.fit import fit
from hyperrep.training.saved import load
from hyperrep.training.zoo import read_fit_data
from hyperrep.weights.alignment import Aligner
from zookeeper.build import build_zoo
from zookeeper.errors import InputError
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population
from zookeeper.spec.plan import make_plan
from zookeeper.spec.schema import load_spec

SPEC = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.6, val: 0.2, test: 0.2}, seed: 0}
model: {architecture: mlp, activation: tanh, dropout: 0}
training: {optimizer: adam, batch_size: 64, epochs: 1, weight_decay: 0, lr: 1e-2}
grid: {init: [normal], seed: {range: [0, 10]}}
split: {by: seed, train: 0.6, val: 0.2, test: 0.2, seed: 0}
"""


pytestmark = pytest.mark.usefixtures("one_thread")


def config(reference: str | None = "first") -> TrainConfig:
    value = {
        "name": "tiny",
        "tokens": {"width": 6},
        "model": {"d_model": 16, "num_heads": 2, "num_layers": 1, "latent": 4},
        "loss": {"gamma": 0.05, "beta": 0.1, "queries": 8},
        "augment": {"permute": False},
        "training": {"steps": 3, "batch_size": 4},
    }
    return TrainConfig.model_validate_json(
        json.dumps(value | ({} if reference is None else {"align": {"reference": reference, "seed": 5}}))
    )


@pytest.fixture(scope="module")
def data() -> FitData:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    population = Population(net, (1, 2, 2))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(18, population.layout.num_weights, generator=generator)
    queries = torch.randn(20, 1, 2, 2, generator=generator)
    return FitData(
        rows[:14], population.layout, population, Symmetry.of(net, (1, 2, 2)), queries, rows[14:], queries[:5]
    )


def test_permuted_networks_have_one_embedding_and_keep_their_places(data: FitData, tmp_path: Path) -> None:
    symmetry = data.permutations
    assert isinstance(symmetry, Symmetry)
    aligned = data.aligned(Aligner(symmetry, data.rows[0], seed=5))
    hyper = fit(config(), aligned, tmp_path)
    permuted = data.rows.gather(1, torch.from_numpy(symmetry.draw(14, np.random.default_rng(0))))
    assert torch.equal(hyper.encode(permuted), hyper.encode(data.rows))
    assert torch.equal(hyper.encode(data.rows), hyper.encode(aligned.rows))
    loaded = load(tmp_path)
    assert torch.equal(loaded.encode(permuted), hyper.encode(permuted))
    assert torch.equal(loaded.reconstruct(permuted), hyper.reconstruct(permuted))
    index = torch.from_numpy(symmetry.draw(1, np.random.default_rng(1))).expand(14, -1)
    assert torch.equal(hyper.reconstruct(data.rows.gather(1, index)), hyper.reconstruct(data.rows).gather(1, index))
    assert loaded.config.format_version == 2
    assert loaded.untrained(3).aligner is not None


def test_data_and_configuration_must_agree(data: FitData, tmp_path: Path) -> None:
    assert isinstance(data.permutations, Symmetry)
    with pytest.raises(InputError, match="expected rows aligned by"):
        fit(config(), data, tmp_path)
    with pytest.raises(InputError, match="or a section align"):
        fit(config(None), data.aligned(Aligner(data.permutations, data.rows[0])), tmp_path)
    with pytest.raises(InputError, match="all finite"):
        data.aligned(Aligner(data.permutations, replace(data, rows=data.rows * torch.nan).rows[0]))


def test_a_damaged_reference_is_refused(data: FitData, tmp_path: Path) -> None:
    assert isinstance(data.permutations, Symmetry)
    fit(config(), data.aligned(Aligner(data.permutations, data.rows[0], seed=5)), tmp_path)
    groups = json.loads((tmp_path / "alignment.json").read_text())
    groups["groups"][0]["size"] = 4
    (tmp_path / "alignment.json").write_text(json.dumps(groups))
    with pytest.raises(InputError, match="does not fit"):
        load(tmp_path)
    (tmp_path / "alignment.safetensors").unlink()
    with pytest.raises(InputError, match=r"alignment\.safetensors: cannot be read"):
        load(tmp_path)


def test_a_zoo_is_aligned_to_its_first_or_best_train_row(tmp_path: Path) -> None:
    (tmp_path / "zoo.yaml").write_text(SPEC)
    build_zoo(make_plan(load_spec(tmp_path / "zoo.yaml")), tmp_path / "zoo", show_progress=False)
    zoo = zookeeper.open(tmp_path / "zoo")
    plain = read_fit_data(config(None), zoo)
    best = int(zoo.split("train").frame["val_acc"].to_numpy().argmax())
    for reference, number in (("first", 0), ("best", best)):
        data = read_fit_data(config(reference), zoo)
        assert data.aligner is not None
        assert torch.equal(data.aligner.reference, plain.rows[number])
        assert torch.equal(data.rows, data.aligner.align(plain.rows))
        assert torch.equal(data.rows[number], plain.rows[number])
        assert data.val_rows is not None
        assert not torch.equal(data.rows, plain.rows)
        assert torch.equal(data.targets, plain.targets)  # type: ignore[arg-type]
