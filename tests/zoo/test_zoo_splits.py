"""Splits of a zoo: by model and by group, seeded, stratified; and what their sides share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zookeeper
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.spec.grid import expand
from zookeeper.spec.schema import load_spec
from zookeeper.zoo import Zoo, find_leaks, write_rows

LAYOUT = WeightLayout.from_shapes({"fc.weight": ((1, 3), "weight")})
INITS = ("kaiming_uniform", "normal", "uniform")
NUM_SEEDS = 20


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """3 inits x 2 learning rates x 20 seeds, 2 epochs; models of one draw start from the same weights."""
    lines = []
    for seed in range(NUM_SEEDS):
        for init in INITS:
            for lr in (0.001, 0.0001):
                for epoch in (0, 5):
                    acc = float("nan") if seed == 7 else seed / NUM_SEEDS + lr
                    lines.append((f"{init[0]}{lr:g}-{seed}", epoch, init, lr, seed, acc))
    frame = pd.DataFrame(lines, columns=["model_id", "epoch", "init", "lr", "seed", "test_acc"])
    rows = np.random.default_rng(0).standard_normal((len(frame), 3)).astype(np.float32)
    start = {}
    for number, line in enumerate(frame.itertuples()):
        if line.epoch == 0:
            rows[number] = start.setdefault((line.init, line.seed), rows[number])
    return write_rows(tmp_path_factory.mktemp("splits") / "grid", rows, frame, LAYOUT)


def models_of(zoo: Zoo) -> set[str]:
    return set(zoo.frame["model_id"])


@pytest.mark.parametrize(
    ("by", "columns"),
    [
        ("model", ["model_id"]),
        ("seed", ["seed"]),
        ("init", ["init"]),
        ("configuration", ["init", "lr"]),
        (["seed", "lr"], ["lr", "seed"]),
    ],
)
def test_groups_stay_together_and_nothing_is_lost(grid: Zoo, by: str | list[str], columns: list[str]) -> None:
    splits = grid.divide(train=0.5, val=0.25, test=0.25, by=by, seed=3)
    assert sum(len(side) for side in splits) == len(grid)
    assert set().union(*map(models_of, splits)) == models_of(grid)
    groups = [set(side.frame[columns].itertuples(index=False)) for side in splits]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    total = sum(map(len, groups))
    assert all(abs(len(g) - share * total) < 1 for g, share in zip(groups, (0.5, 0.25, 0.25), strict=True))
    assert all(side.frame.groupby("model_id")["epoch"].apply(list).tolist()[0] == [0, 5] for side in splits)
    assert splits.by == tuple(columns)
    assert splits.frame["groups"].tolist() == [len(g) for g in groups]


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["model", "seed"]), st.sampled_from([None, "test_acc"]))
def test_sides_depend_on_no_order_of_rows(grid: Zoo, random: object, by: str, stratify: str | None) -> None:
    numbers = list(range(len(grid)))
    random.shuffle(numbers)  # type: ignore[attr-defined]
    one = grid.divide(by=by, stratify=stratify, seed=1)
    other = grid.take(numbers).divide(by=by, stratify=stratify, seed=1)
    assert [models_of(side) for side in one] == [models_of(side) for side in other]


def test_seeds_give_other_sides_and_equal_seeds_the_same(grid: Zoo) -> None:
    sides = [frozenset(models_of(grid.divide(seed=seed).test)) for seed in (0, 1, 0)]
    assert sides[0] == sides[2] != sides[1]


@pytest.mark.parametrize("by", ["model", "seed", ["init", "seed"]])
def test_a_division_as_the_spec_says_is_the_stored_split(by: str | list[str], tmp_path: Path) -> None:
    text = f"""
version: 1
name: toy
images: {{name: digits, split: {{train: 0.8, test: 0.2}}}}
model: {{architecture: mlp, activation: tanh}}
training: {{batch_size: 32, epochs: 2}}
grid: {{lr: [0.001, 0.0001], init: [normal, uniform], weight_decay: [0, 0.5], seed: {{range: [0, 9]}}}}
split: {{train: 0.6, val: 0.15, test: 0.25, by: {by}, seed: 5}}
"""
    (tmp_path / "toy.yaml").write_text(text)
    configs = expand(load_spec(tmp_path / "toy.yaml"))
    frame = pd.DataFrame([dataclasses.asdict(config) for config in configs])
    zoo = write_rows(tmp_path / "zoo", np.zeros((len(frame), 3)), frame, LAYOUT)
    splits = zoo.divide(train=0.6, val=0.15, test=0.25, by=by, seed=5)
    assert [models_of(side) for side in splits] == [models_of(side) for side in zoo.splits]
    assert [len(side) for side in splits] == [len(zoo.split(name)) for name in ("train", "val", "test")]


def test_strata_are_spread_over_the_sides(grid: Zoo) -> None:
    by_factor = grid.divide(train=0.6, val=0.2, test=0.2, stratify="init", seed=2)
    for side, share in zip(by_factor, (0.6, 0.2, 0.2), strict=True):
        counts = side.models["init"].value_counts()
        assert all(abs(counts[init] - share * 40) <= 1 for init in INITS)
    assert [len(side.models) for side in by_factor] == [72, 24, 24]
    binned = grid.divide(train=0.5, val=0.25, test=0.25, by="seed", stratify="test_acc", bins=4, seed=2)
    low = [(side.frame["seed"] < 4).any() for side in binned]
    high = [(side.frame["seed"] > 15).any() for side in binned]
    assert all(low)
    assert all(high)
    nan = [side for side in binned if 7 in set(side.frame["seed"])]
    assert len(nan) == 1
    few = grid.query("seed < 3").divide(train=0.9, val=0.05, test=0.05, by="seed", stratify="test_acc", bins=2)
    assert [len(side.models) for side in few] == [6, 6, 6]


def test_stored_splits(zoo: Zoo, grid: Zoo) -> None:
    splits = zoo.splits
    assert [len(side) for side in splits] == [16, 4, 4]
    assert repr(splits) == "ZooSplits of 'toy' by model_id; models: train 4, val 1, test 1"
    assert splits.frame.loc["train"].to_dict() == {"groups": 4, "models": 4, "checkpoints": 16, "share": 4 / 6}
    assert splits.leaks().shared("configuration") == ("the only one",)  # the third of three learning rates, twice
    assert len(splits.leaks().frame) == 3 * 4 + 3
    assert not zoo.query("split != 'test'").splits.leaks()
    assert len(zoo.query("split == 'train'").splits.test) == 0
    with pytest.raises(InputError, match="Make one with divide"):
        _ = grid.splits
    with pytest.raises(dataclasses.FrozenInstanceError):
        splits.train = zoo  # type: ignore[misc]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: z.divide(train=0.9), "which add to 1.2"),
        (lambda z: z.divide(train=1.2, val=-0.1, test=-0.1), "must lie in 0..1"),
        (lambda z: z.divide(by="sed"), "unknown column 'sed'. Did you mean seed"),
        (lambda z: z.divide(by=[]), "by: is empty"),
        (lambda z: z.divide(by="epoch"), "'epoch' has several values in model"),
        (lambda z: z.divide(by="init", train=0.7, val=0.1, test=0.1), "add to 1"),
        (lambda z: z.query("init == 'normal'").divide(by="init"), "too few groups"),
        (lambda z: z.divide(stratify="acc"), "stratify: unknown column 'acc'"),
        (lambda z: z.divide(by="seed", stratify="init"), "groups hold several values of 'init'"),
        (lambda z: z.divide(stratify="test_acc", bins=1), "bins: expected at least 2"),
        (lambda z: z[:0].divide(), "too few groups"),
    ],
)
def test_mistakes_in_divisions(grid: Zoo, call: Callable[[Zoo], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(grid)


def test_leaks_of_a_split_by_model_are_named(grid: Zoo) -> None:
    leaks = grid.divide(train=0.5, val=0, test=0.5, by="model").leaks(weights=True)
    train, _, test = grid.divide(train=0.5, val=0, test=0.5, by="model")
    seeds = set(train.frame["seed"]) & set(test.frame["seed"])
    assert leaks.shared("model") == ()
    assert set(leaks.shared("seed")) == {f"seed={seed}" for seed in seeds}
    pairs = set(train.models[["init", "seed"]].itertuples(index=False))
    twins = pairs & set(test.models[["init", "seed"]].itertuples(index=False))
    assert set(leaks.shared("initial draw")) == {f"init={one.init} seed={one.seed}" for one in twins}
    assert len(leaks.shared("configuration")) == 6
    assert len(leaks.shared("weights")) == len(twins)
    assert all(name.endswith("@0") for name in leaks.shared("weights"))
    lines = leaks.frame.set_index("kind")
    assert lines.loc["initial draw", "models_first"] == sum(
        tuple(one) in twins for one in train.models[["init", "seed"]].itertuples(index=False)
    )
    assert lines.loc["model", "shared"] == 0
    assert set(lines["of_first"]) == {60}
    assert "bit-identical row" in str(leaks)
    assert leaks


def test_leaks_of_a_split_by_seed(grid: Zoo) -> None:
    leaks = grid.divide(by="seed").leaks(weights=True)
    assert [pair.sides for pair in leaks.pairs] == [("train", "val"), ("train", "test"), ("val", "test")]
    assert {leak.kind for pair in leaks.pairs for leak in pair.leaks} == {"configuration"}
    assert leaks.shared("configuration", "train", "test") == leaks.shared("configuration", "test", "train")
    by_configuration = grid.divide(by="configuration", train=0.6, val=0.2, test=0.2).leaks()
    assert {leak.kind for pair in by_configuration.pairs for leak in pair.leaks} == {"seed", "initial draw"}


def test_leaks_between_two_zoos_with_different_columns(grid: Zoo, tmp_path: Path) -> None:
    bare = write_rows(tmp_path / "bare", grid[:2].weights(), {"model_id": ["x", grid.frame["model_id"][0]]}, LAYOUT)
    found = find_leaks(bare, grid, weights=True)
    assert {leak.kind for leak in found.pairs[0].leaks} == {"model", "weights"}
    assert found.pairs[0].models == (2, 120)
    empty = find_leaks(grid[:0], grid, weights=True)
    assert not empty
    assert str(empty) == "first (0 models) and second (120 models) share nothing"
    assert zookeeper.find_leaks is find_leaks
