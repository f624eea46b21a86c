"""Any stored model can be trained again alone from what its id stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import zookeeper
from zookeeper import InputError, Plan, Zoo, build_zoo
from zookeeper.build import prepare_zoo, retrain, worker
from zookeeper.build.retrain import retrain_model

MakePlan = Callable[..., Plan]
SPLITS = ("train", "val", "test")
METRICS = {f"{split}_{what}" for split in SPLITS for what in ("loss", "acc")} | {"batch_loss", "generalization_gap"}


def test_every_epoch_of_a_model_comes_again(built: tuple[Plan, Zoo]) -> None:
    plan, zoo = built
    for model_id in zoo.header.models[:: len(zoo.header.models) - 1]:
        again = retrain_model(zoo.path, model_id)
        assert tuple(one.epoch for one in again.epochs) == plan.epochs
        assert again.same_start
        assert again.factors["lr"] == zoo.query(f"model_id == '{model_id}'").frame["lr"].iloc[0]
        stored = zoo.query(f"model_id == '{model_id}'").frame.set_index("epoch")
        for one in again.epochs:
            assert one.weights < 1e-3
            assert one.equal == (one.weights == 0)
            assert set(one.metrics) == METRICS
            assert all(gap < 1e-3 * (1 + stored.loc[one.epoch, name]) for name, gap in one.metrics.items() if gap)


def test_a_model_that_was_built_alone_comes_again_to_the_bit(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of("digits", build={"cohort_size": 1}, grid={"lr": [1e-3], "seed": {"range": [0, 3]}})
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    model_id = plan.cohorts[1].models[0].model_id
    again = retrain_model(tmp_path / "zoo", model_id)
    assert again.equal
    assert {gap for one in again.epochs for gap in one.metrics.values()} == {0.0}


def test_only_the_stored_epochs_up_to_one_are_compared(
    plan_of: MakePlan, tmp_path: Path, tree: Callable[[Path], object]
) -> None:
    plan = plan_of(checkpoints={"at": [2, 5]})
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    before = tree(tmp_path / "zoo")
    model_id = plan.cohorts[0].models[0].model_id
    again = retrain_model(tmp_path / "zoo", model_id, last_epoch=5)
    assert [one.epoch for one in again.epochs] == [0, 2, 5]
    assert [one.epoch for one in retrain_model(tmp_path / "zoo", model_id, last_epoch=4).epochs] == [0, 2]
    assert [one.epoch for one in retrain_model(tmp_path / "zoo", model_id, last_epoch=0).epochs] == [0]
    assert tree(tmp_path / "zoo") == before


def test_a_model_trained_otherwise_is_found_out(built: tuple[Plan, Zoo], monkeypatch: pytest.MonkeyPatch) -> None:
    _, zoo = built
    real = worker.cohort_factors
    with monkeypatch.context() as patch:
        patch.setattr(worker, "cohort_factors", lambda job: dataclasses.replace(real(job), lr=(2e-3,)))
        again = retrain_model(zoo.path, zoo.header.models[0], last_epoch=2)
    assert again.same_start
    assert again.epochs[1].weights > 1e-4
    draw = worker.initial_rows
    monkeypatch.setattr(worker, "initial_rows", lambda layout, models: draw(layout, models) + 1e-6)
    assert not retrain_model(zoo.path, zoo.header.models[0], last_epoch=0).same_start


def test_divergence_in_both_is_no_difference(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of(
        model={"architecture": "mlp", "activation": "relu"},
        training={"optimizer": "sgd", "batch_size": 64, "epochs": 3},
        grid={"lr": [1e30], "seed": {"range": [0, 3]}},
    )
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    last = retrain_model(tmp_path / "zoo", plan.cohorts[0].models[0].model_id).epochs[-1]
    assert last.weights == 0
    assert retrain.difference(np.array([np.nan, 1.0]), np.array([0.0, 1.0])) != 0


def test_what_cannot_be_trained_again_is_refused(built: tuple[Plan, Zoo], plan_of: MakePlan, tmp_path: Path) -> None:
    _, zoo = built
    known = zoo.header.models[3]
    wrong = known[:-1] + ("0" if known[-1] != "0" else "1")
    with pytest.raises(InputError, match=rf"unknown model '{wrong}'. Did you mean .*{known}"):
        retrain_model(zoo.path, wrong)
    with pytest.raises(InputError, match="--epoch: out of range; expected 0 to"):
        retrain_model(zoo.path, known, last_epoch=99)
    plan = plan_of()
    prepare_zoo(plan, tmp_path / "empty")
    with pytest.raises(InputError, match="holds no checkpoint of model"):
        retrain_model(tmp_path / "empty", plan.cohorts[0].models[0].model_id)
    with pytest.raises(InputError, match="no zoo here"):
        retrain_model(tmp_path / "nowhere", known)
    zookeeper.write_rows(tmp_path / "sampled", zoo.weights()[:2], None, layout=zoo.layout, image=zoo.image)
    with pytest.raises(InputError, match="was not made from a spec"):
        retrain_model(tmp_path / "sampled", known)


def test_other_images_are_refused(built: tuple[Plan, Zoo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, zoo = built
    images = retrain.load_spec_images(retrain.image_json(retrain._spec_of(zoo, None)))
    changed = dataclasses.replace(images, labels=(images.labels + 1) % images.num_classes)
    monkeypatch.setattr(retrain, "load_spec_images", lambda images: changed)
    with pytest.raises(InputError, match="images changed"):
        retrain_model(zoo.path, zoo.header.models[0])
