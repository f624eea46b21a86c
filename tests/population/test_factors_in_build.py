"""Schedules, train fractions and initial factors reach the engine from a spec, and the stored table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import zookeeper
from zookeeper.build import build_zoo
from zookeeper.build.job import image_json, load_spec_images, population_of
from zookeeper.build.worker import training_data
from zookeeper.nets.initialise import initialise_rows
from zookeeper.population import Cohort, train_cohort
from zookeeper.spec import make_plan, parse_spec
from zookeeper.spec.plan import Plan

SEARCH = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.7, val: 0.15, test: 0.15}}
model: {architecture: mlp}
training: {batch_size: 16, epochs: 3, optimizer: adam}
grid:
  sample: {count: 12, seed: 1}
  init: [normal, truncated_normal, orthogonal]
  init_std: {random: loguniform, low: 1e-2, high: 1}
  schedule: [none, cosine, onecycle]
  train_fraction: [0.25, 1]
  lr: {random: loguniform, low: 1e-3, high: 1e-1}
  seed: {random: int, low: 0, high: 9007199254740992}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    root = tmp_path_factory.mktemp("zoo") / "tiny"
    plan = make_plan(parse_spec(SEARCH))
    summary = build_zoo(plan, root, show_progress=False)
    assert not summary.failures
    return root, plan


def test_stored_weights_are_those_of_the_factors(built: tuple[Path, Plan]) -> None:
    root, plan = built
    zoo = zookeeper.open(root)
    images = load_spec_images(image_json(plan.spec))
    data = training_data(images, torch.device("cpu"))
    models = [model for cohort in plan.cohorts for model in cohort.models]
    assert {m.schedule for m in models} == {"none", "cosine", "onecycle"}
    assert {m.train_fraction for m in models} == {0.25, 1.0}
    for model in models:
        population = population_of(model, images)
        drawn = initialise_rows(population.layout, [model.init], [model.seed], stds=[model.init_std])
        factors = Cohort(
            (model.seed,), (model.lr,), (0.0,), (0.0,), (0.0,), "adam", 16,
            train_fraction=model.train_fraction, schedules=(model.schedule,), num_epochs=3,
        )  # fmt: skip
        plain = replace(factors, schedules=(), train_fraction=1.0)
        stored = zoo.query("model_id == @wanted", wanted=model.model_id).weights()
        np.testing.assert_array_equal(stored[0], drawn[0].astype(np.float32))
        for used, matches in ((factors, True), (plain, (model.schedule, model.train_fraction) == ("none", 1.0))):
            *_, last = train_cohort(population, used, data, torch.from_numpy(drawn).float(), last_epoch=3)
            assert np.allclose(last.rows[0].numpy(), stored[3], rtol=1e-3, atol=1e-4) == matches


def test_the_table_tells_the_factors(built: tuple[Path, Plan]) -> None:
    root, plan = built
    table = zookeeper.open(root).models.set_index("model_id")
    for model in (model for cohort in plan.cohorts for model in cohort.models):
        for name, value in model.factors().items():
            assert table.loc[model.model_id, name] == value


def test_a_second_build_finds_nothing_to_do(built: tuple[Path, Plan]) -> None:
    root, plan = built
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (root / "commits").iterdir())
    assert build_zoo(plan, root, show_progress=False).num_models == 12
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in (root / "commits").iterdir())
