"""A zoo built in this process: what is stored is what was planned, and what the networks really do."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import zookeeper
from zookeeper import InputError, Plan, Workers, Zoo, build_zoo
from zookeeper.build import job as job_module
from zookeeper.build import prepare_zoo
from zookeeper.build.job import image_json, load_spec_images
from zookeeper.errors import BuildError
from zookeeper.nets.initialise import initialise_rows
from zookeeper.store.lock import BuildLock

MakePlan = Callable[..., Plan]
SPLITS = ("train", "val", "test")


def models_of(plan: Plan) -> dict[str, Any]:
    return {model.model_id: model for cohort in plan.cohorts for model in cohort.models}


def test_frame_has_one_row_per_checkpoint_with_factors_and_properties(built: tuple[Plan, Zoo]) -> None:
    plan, zoo = built
    models = models_of(plan)
    frame = zoo.frame
    stored = set(zip(frame["model_id"], frame["epoch"].tolist(), strict=True))
    assert len(frame) == plan.num_checkpoints == len(stored)
    assert stored == {(model_id, epoch) for model_id in models for epoch in plan.epochs}
    for row in frame.to_dict("records"):
        model = models[row["model_id"]]
        assert {name: row[name] for name in model.factors()} == model.factors()
        assert (row["split"], row["status"]) == (model.split, "ok")
        assert row["generalization_gap"] == row["train_acc"] - row["test_acc"]
        assert math.isnan(row["batch_loss"]) == (row["epoch"] == 0)
        assert all(math.isfinite(row[f"{split}_{what}"]) for split in SPLITS for what in ("loss", "acc"))
    assert zoo.factors == tuple(next(iter(models.values())).factors())
    assert {"train_loss", "val_acc", "test_acc", "generalization_gap"} <= set(zoo.properties)
    assert {name: set(zoo.split(name).frame["seed"]) for name in SPLITS} == {
        name: {model.seed for model in models.values() if model.split == name} for name in SPLITS
    }


def test_networks_score_what_is_stored(built: tuple[Plan, Zoo]) -> None:
    """Plain torch on every checkpoint and split: the same accuracies exactly, the same losses to rounding.

    The stacked forward rounds otherwise than the plain one, so an image whose two best logits are equal to
    rounding may be counted either way: at most one in a thousand.
    """
    plan, zoo = built
    images = load_spec_images(image_json(plan.spec))
    inputs = torch.from_numpy(images.normalised(np.arange(len(images.labels))))
    labels = torch.tensor(images.labels)
    index = {split: torch.tensor(images.indices[split]) for split in SPLITS}
    num_tied = 0
    for row in zoo.frame.to_dict("records"):
        network = zoo.network(row["model_id"], row["epoch"])
        assert not network.training
        with torch.inference_mode():
            logits = network(inputs)
        right = logits.argmax(1) == labels
        best = logits.topk(2, dim=1).values
        tied = best[:, 0] - best[:, 1] <= 3e-6 * best.abs().amax(1)
        num_tied += int(tied.sum())
        for split, members in index.items():
            if not tied[members].any():
                assert row[f"{split}_acc"] == int(right[members].sum()) / len(members)
            assert abs(row[f"{split}_acc"] * len(members) - int(right[members].sum())) <= int(tied[members].sum()) + 0.1
            loss = F.cross_entropy(logits[members], labels[members]).item()
            assert row[f"{split}_loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert num_tied <= 1e-3 * len(zoo) * len(labels)
    loss_by_epoch = zoo.frame.groupby("epoch")["train_loss"].median()
    assert loss_by_epoch.iloc[-1] < loss_by_epoch.iloc[0]  # they learn


def test_untrained_rows_are_the_seeded_draw(built: tuple[Plan, Zoo]) -> None:
    plan, zoo = built
    models = models_of(plan)
    untrained = zoo.query("epoch == 0")
    chosen = [models[model_id] for model_id in untrained.frame["model_id"]]
    expected = initialise_rows(zoo.layout, [model.init for model in chosen], [model.seed for model in chosen])
    assert untrained.weights().tobytes() == np.asarray(expected, dtype=np.float32).tobytes()


@pytest.mark.parametrize(
    ("schedule", "epochs"),
    [({"every": 4}, (0, 4, 6)), ({"at": [2, 5]}, (0, 2, 5, 6)), ({"log": 3}, (0, 1, 2, 6))],
    ids=["every", "at", "log"],
)
def test_sparse_schedule_stores_the_same_rows_at_fewer_epochs(
    schedule: dict[str, Any],
    epochs: tuple[int, ...],
    plan_of: MakePlan,
    tmp_path: Path,
    contents: Callable[[Path], Any],
) -> None:
    build_zoo(plan_of(), tmp_path / "full", show_progress=False)
    build_zoo(plan_of(checkpoints=schedule), tmp_path / "sparse", show_progress=False)
    full, sparse = contents(tmp_path / "full"), contents(tmp_path / "sparse")
    assert {epoch for _, epoch in sparse} == set(epochs)
    assert sparse == {key: row for key, row in full.items() if key[1] in epochs}


def test_diverged_models_are_kept_and_harm_no_neighbour(
    plan_of: MakePlan, tmp_path: Path, contents: Callable[[Path], Any]
) -> None:
    training = {"optimizer": "sgd", "batch_size": 64, "epochs": 4}
    sane, poisoned = (
        plan_of(
            model={"architecture": "mlp", "activation": "relu"},
            training=training,
            grid={"lr": [1e-3, 1e-2, last], "seed": {"range": [0, 3]}},
        )
        for last in (2e-2, 1e30)
    )
    shapes = [[[model.lr for model in cohort.models[:-1]] for cohort in plan.cohorts] for plan in (sane, poisoned)]
    assert [len(cohort.models) for cohort in sane.cohorts] == [len(cohort.models) for cohort in poisoned.cohorts]
    assert len(shapes[0]) == len(shapes[1])
    build_zoo(sane, tmp_path / "sane", show_progress=False)
    summary = build_zoo(poisoned, tmp_path / "poisoned", show_progress=False)
    zoo = zookeeper.open(tmp_path / "poisoned")
    assert (summary.num_models, summary.num_diverged) == (9, 3)
    assert len(zoo) == 9 * 5
    last = zoo.query("epoch == 4").frame
    assert set(last.loc[last["status"] == "diverged", "lr"]) == {1e30}
    assert (last["status"] == "diverged").sum() == 3
    assert not np.isfinite(zoo.query("status == 'diverged' and epoch == 4").weights()).all(axis=1).any()
    assert (zoo.query("epoch == 0").frame["status"] == "ok").all()
    before, after = contents(tmp_path / "sane"), contents(tmp_path / "poisoned")
    shared = before.keys() & after.keys()
    assert len(shared) == 6 * 5
    assert all(before[key] == after[key] for key in shared)


def test_a_complete_zoo_is_left_as_it_is(
    plan_of: MakePlan, tmp_path: Path, tree: Callable[[Path], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of()
    first = build_zoo(plan, tmp_path / "zoo")
    before = {name: entry for name, entry in tree(tmp_path / "zoo").items() if "/" in name or name == "zoo.json"}
    capsys.readouterr()
    second = build_zoo(plan, tmp_path / "zoo")
    after = {name: entry for name, entry in tree(tmp_path / "zoo").items() if "/" in name or name == "zoo.json"}
    assert before == after
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)
    assert capsys.readouterr().err == ""
    left = {path.name for path in (tmp_path / "zoo").iterdir()}
    assert not left & {"progress", "build.lock"}
    assert list((tmp_path / "zoo" / "state").iterdir()) == []


def test_another_cohort_size_goes_on_with_the_stored_cohorts(plan_of: MakePlan, tmp_path: Path) -> None:
    first = build_zoo(plan_of(), tmp_path / "zoo", show_progress=False)
    jobs = prepare_zoo(plan_of(build={"cohort_size": 4}), tmp_path / "zoo")
    assert [len(job.cohort.models) for job in jobs] == [6, 6]
    again = build_zoo(plan_of(build={"cohort_size": 4}), tmp_path / "zoo", show_progress=False)
    assert again.num_checkpoints == first.num_checkpoints


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"grid": {"init": ["uniform"], "lr": [1e-3, 3e-3], "seed": {"range": [0, 3]}}}, "init"),
        ({"training": {"optimizer": "adam", "batch_size": 64, "epochs": 7}}, "epochs"),
        ({"checkpoints": {"every": 2}}, "checkpoints"),
        ({"name": "other"}, "name"),
    ],
)
def test_changed_spec_is_refused_with_the_difference(
    sections: dict[str, Any], named: str, plan_of: MakePlan, tmp_path: Path, tree: Callable[[Path], Any]
) -> None:
    build_zoo(plan_of(), tmp_path / "zoo", show_progress=False)
    before = tree(tmp_path / "zoo")
    with pytest.raises(InputError, match=rf"holds a zoo of another spec: .*\b{named}") as caught:
        build_zoo(plan_of(**sections), tmp_path / "zoo", show_progress=False)
    assert caught.value.exit_code == 2
    assert tree(tmp_path / "zoo") == before


def test_changed_images_are_refused(
    plan_of: MakePlan, tmp_path: Path, tree: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of()
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    before = tree(tmp_path / "zoo")
    images = load_spec_images(image_json(plan.spec))
    changed = dataclasses.replace(images, labels=(images.labels + 1) % images.num_classes)
    monkeypatch.setattr(job_module, "load_spec_images", lambda images: changed)
    with pytest.raises(InputError, match="images changed"):
        build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert tree(tmp_path / "zoo") == before


def test_changed_architecture_is_refused(plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of()
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    other = job_module.load_population("mlp", "tanh", (1, 5, 5), 4)
    monkeypatch.setattr(job_module, "population_of", lambda model, images: other)
    with pytest.raises(InputError, match="architecture mlp has changed"):
        build_zoo(plan, tmp_path / "zoo", show_progress=False)


def test_directory_of_something_else_is_refused(plan_of: MakePlan, tmp_path: Path, tree: Callable[[Path], Any]) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    before = tree(folder)
    for target, what in ((folder, "is not a zoo and not empty"), (folder / "thesis.tex", "is a file")):
        with pytest.raises(InputError, match=what) as caught:
            build_zoo(plan_of(), target, show_progress=False)
        assert caught.value.exit_code == 2
    assert tree(folder) == before
    (tmp_path / "empty").mkdir()
    assert build_zoo(plan_of(), tmp_path / "empty", show_progress=False).num_models == 12


def test_what_is_missing_is_said_before_anything_is_written(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mnist = {"name": "mnist", "split": {"train": 0.8, "val": 0.2}, "root": "nowhere"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no train-images-idx3-ubyte"):
        build_zoo(
            plan_of(images=mnist, model={"architecture": "cnn-small", "activation": "tanh"}),
            tmp_path / "zoo",
            show_progress=False,
        )
    with pytest.raises(InputError, match="no GPU") as caught:
        build_zoo(plan_of(), tmp_path / "zoo", Workers(device="cuda"), show_progress=False)
    assert caught.value.exit_code == 2
    with pytest.raises(InputError, match="no_such_module"):
        build_zoo(
            plan_of(model={"architecture": "no_such_module:net", "activation": "tanh"}),
            tmp_path / "zoo",
            show_progress=False,
        )
    assert not (tmp_path / "zoo").exists()


def test_second_build_says_who_holds_the_zoo(plan_of: MakePlan, tmp_path: Path, tree: Callable[[Path], Any]) -> None:
    plan = plan_of()
    prepare_zoo(plan, tmp_path / "zoo")
    with BuildLock(tmp_path / "zoo"):
        before = tree(tmp_path / "zoo")
        with pytest.raises(BuildError) as caught:
            build_zoo(plan, tmp_path / "zoo", show_progress=False)
        assert tree(tmp_path / "zoo") == before
    message = str(caught.value)
    assert f"process {os.getpid()} on host {socket.gethostname()}" in message
    assert "another builder is at work" in message
    assert build_zoo(plan, tmp_path / "zoo", show_progress=False).num_checkpoints == plan.num_checkpoints


def test_images_without_a_validation_part_leave_its_columns_out(plan_of: MakePlan, tmp_path: Path) -> None:
    images = {"name": "tetris", "split": {"train": 0.5, "test": 0.5}, "seed": 0}
    build_zoo(plan_of(images=images), tmp_path / "zoo", show_progress=False)
    frame = zookeeper.open(tmp_path / "zoo").frame
    assert {"train_acc", "test_acc", "generalization_gap"} <= set(frame)
    assert not {"val_acc", "val_loss"} & set(frame)


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({"num_workers": 0}, "num_workers"),
        ({"backend": "slurm"}, "slurm"),
        ({"device": "tpu"}, "tpu"),
        ({"num_cpus": 0.0}, "num_cpus"),
        ({"num_gpus": 1.5, "device": "cuda"}, "num_gpus"),
        ({"num_gpus": 0.5, "device": "cpu"}, "GPUs for a worker on the cpu"),
        ({"backend": "local", "num_workers": 2}, "2 workers"),
        ({"backend": "local", "address": "head:6379"}, "head:6379"),
    ],
)
def test_workers_that_contradict_themselves_are_refused(values: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        Workers(**values)


def test_workers_settle_what_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Workers().resolve().backend == "local"
    assert Workers(num_workers=2).resolve().backend == "ray"
    assert Workers(address="auto").resolve().backend == "ray"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    shared = Workers(num_workers=3, device="auto").resolve()
    assert shared.device == "cuda"
    assert shared.num_gpus is not None
    assert 3 * shared.num_gpus <= 2 < 3 * shared.num_gpus + 1e-3
    assert Workers(num_workers=1, device="cuda").resolve().num_gpus == 1.0
    assert Workers(num_workers=8, device="cuda", address="auto").resolve().num_gpus == 1.0
    assert Workers(device="cpu").resolve().num_gpus == 0.0
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert Workers(num_workers=2).resolve() == dataclasses.replace(Workers(num_gpus=0.0), backend="local")
    with pytest.raises(InputError, match="ray is not installed"):
        Workers(backend="ray").resolve()


def test_header_says_how_the_zoo_was_made(built: tuple[Plan, Zoo]) -> None:
    plan, zoo = built
    value = json.loads((zoo.path / "zoo.json").read_text())
    assert value["spec"] == json.loads(plan.spec.to_json())
    assert value["packages"]["torch"] == torch.__version__.split("+")[0]
    assert value["image"]["fingerprint"] == load_spec_images(image_json(plan.spec)).fingerprint
