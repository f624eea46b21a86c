"""Batches of relatives, and what a step drops."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from hyperrep.config import BatchSection, TrainConfig
from hyperrep.training.batches import Batches, group_rows
from hyperrep.training.data import FitData
from hyperrep.training.dropout import dropping
from hyperrep.training.fit import fit
from hyperrep.training.saved import load
from hyperrep.weights.views import add_relative_noise
from zookeeper.errors import InputError, SpecError
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population

FRAME = pd.DataFrame({"init": ["normal", "uniform"] * 12, "seed": np.repeat([3, 5, 9], 8)})


def settings(groups: int = 2, **changes: Any) -> BatchSection:
    return BatchSection.model_validate({"by": ("init", "seed"), "groups": groups} | changes)


def groups_of(num: int = 2, batch_size: int = 4) -> torch.Tensor:
    return group_rows(FRAME, settings(num), batch_size, where="zoo")


def test_rows_of_one_group_agree_in_every_factor() -> None:
    groups = groups_of().numpy()
    assert groups.max() == 5
    for number in range(6):
        assert len(FRAME[groups == number].drop_duplicates()) == 1


def test_a_batch_holds_equally_many_rows_of_its_groups_and_a_pass_holds_every_row_once() -> None:
    groups = groups_of()
    batches = Batches(24, 4, groups, groups_per_batch=2)
    for number_of_pass in range(3):
        seen = torch.cat([batches.of_step(6 * number_of_pass + step, seed=0) for step in range(6)])
        assert sorted(seen.tolist()) == list(range(24))
    for step in range(18):
        first, second = batches.of_step(step, seed=0).view(2, 2)
        assert groups[first[0]] == groups[first[1]]
        assert groups[second[0]] == groups[second[1]]


def test_rows_that_do_not_fill_a_piece_take_turns() -> None:
    groups = torch.tensor([0] * 5 + [1] * 3)
    batches = Batches(8, 2, groups)
    per_pass = [torch.cat([batches.of_step(3 * p + step, seed=1) for step in range(3)]) for p in range(40)]
    assert all(len(set(seen.tolist())) == 6 for seen in per_pass)
    counts = Counter(row for seen in per_pass for row in seen.tolist())
    assert set(counts) == set(range(8))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    batches, others = (Batches(24, 4, groups_of(), groups_per_batch=2) for _ in range(2))
    later = batches.of_step(11, seed=0)
    batches.of_step(2, seed=0)
    assert torch.equal(later, others.of_step(11, seed=0))
    assert not torch.equal(later, others.of_step(11, seed=1))
    assert not torch.equal(later, others.of_step(5, seed=0))


@pytest.mark.parametrize(
    ("change", "batch_size", "said"),
    [
        ({"by": ("inti",)}, 4, "unknown factor 'inti'. Did you mean init"),
        ({}, 16, "takes 8 rows of each of 2 groups by init, seed; there are 6 groups, the smallest of 4 rows"),
        ({"groups": 8}, 8, "there are 6 groups"),
    ],
)
def test_groups_that_cannot_fill_a_batch_are_refused(change: dict[str, Any], batch_size: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        group_rows(FRAME, settings(**change), batch_size, where="zoo")


NET = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def config(**training: Any) -> TrainConfig:
    value = {
        "name": "tiny",
        "tokens": {"width": 6},
        "model": {"d_model": 16, "num_heads": 2, "num_layers": 1, "latent": 4, "dropout": 0.25},
        "loss": {"gamma": 0.05, "beta": 0.1, "queries": 8},
        "augment": {"permute": True},
        "training": {"steps": 5, "batch_size": 4, "checkpoint_every": 2, "evaluate_every": 3} | training,
    }
    return TrainConfig.model_validate_json(json.dumps(value))


@pytest.fixture(scope="module")
def data() -> FitData:
    population = Population(NET, (1, 2, 2))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(24, population.layout.num_weights, generator=generator)
    queries = torch.randn(20, 1, 2, 2, generator=generator)
    return FitData(
        rows, population.layout, population, Symmetry.of(NET, (1, 2, 2)), queries, rows[:4], queries[:5],
        groups=groups_of(),
    )  # fmt: skip


class Stopped(BaseException):
    """Stands for a signal between two steps."""


def test_a_training_with_relatives_and_dropout_resumes_to_the_bit(data: FitData, tmp_path: Any) -> None:
    related = config(batches={"by": ["init", "seed"], "groups": 2})

    def stop(count: int, values: Any) -> None:
        if count == 3:
            raise Stopped

    whole = fit(related, data, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(related, data, tmp_path / "parts", on_step=stop)
    torch.randn(7)  # the global stream may stand anywhere
    parts = fit(related, data, tmp_path / "parts")
    for one, other in zip(whole.model.state_dict().values(), parts.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(load(tmp_path / "parts").encode(data.rows), whole.encode(data.rows))  # nothing is dropped now


def test_dropout_changes_the_training(data: FitData, tmp_path: Any) -> None:
    dropped = fit(config(), data, tmp_path / "dropped")
    plain = config().model_copy(update={"model": config().model.model_copy(update={"dropout": 0.0})})
    kept = fit(plain, data, tmp_path / "kept")
    assert not torch.equal(dropped.encode(data.rows), kept.encode(data.rows))


def test_relatives_need_groups_and_groups_fill_a_batch(data: FitData, tmp_path: Any) -> None:
    related = config(batches={"by": ["seed"], "groups": 2})
    bare = FitData(data.rows, data.layout, data.population, data.permutations, data.queries)
    with pytest.raises(InputError, match=r"training.batches needs the groups"):
        fit(related, bare, tmp_path)
    with pytest.raises((SpecError, ValueError), match="evenly"):
        config(batches={"by": ["seed"], "groups": 3})


def test_dropout_leaves_the_global_stream_where_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    with dropping(nn.Dropout(0.5), 0.5, seed=0, step=0):
        torch.randn(3)
    assert torch.equal(torch.randn(3), expected)


def test_dropout_is_zero_outside_of_training_even_after_an_error() -> None:
    layer = nn.Dropout(0.5).eval()

    def fail() -> None:
        with dropping(layer, 0.5, seed=0, step=0):
            assert layer.training
            raise Stopped

    with pytest.raises(Stopped):
        fail()
    assert not layer.training


def test_relative_noise_is_in_units_of_each_weight() -> None:
    tokens = torch.tensor([4.0, -0.25, 0.0]).repeat(20000, 1)[:, None]
    noisy = add_relative_noise(tokens, torch.Generator().manual_seed(0), sigma=0.3)
    spread = (noisy - tokens).std(0)[0]
    assert spread[0].item() == pytest.approx(1.2, rel=0.03)
    assert spread[1].item() == pytest.approx(0.075, rel=0.03)
    assert not noisy[:, 0, 2].any()


@pytest.mark.parametrize(
    "change",
    [
        {
            "model": {
                "kind": "attention",
                "d_model": 16,
                "num_heads": 2,
                "num_layers": 1,
                "latent": 4,
                "statistics": True,
            }
        },
        {
            "tokens": {"encoding": "neuron"},
            "model": {"d_model": 16, "num_heads": 2, "num_layers": 1, "latent": 4, "statistics": True},
        },
        {"model": {"kind": "feedforward", "num_layers": 1, "latent": 4, "dropout": 0.1}},
    ],
)
def test_statistics_and_dropout_belong_to_some_models_alone(change: dict[str, Any]) -> None:
    value = config().model_dump(mode="json") | change
    with pytest.raises(ValueError, match=r"statistics|feedforward has none"):
        TrainConfig.model_validate_json(json.dumps(value))
