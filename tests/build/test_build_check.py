"""The trust checks hold for the engine as it is, and each fails for an engine that breaks its promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from zookeeper import InputError, Plan
from zookeeper.build import CohortJob, worker
from zookeeper.build.check import TOLERANCES, CheckReport, check_spec, distance, synthetic_images
from zookeeper.population import Cohort, Population, train
from zookeeper.population.convolution import LOWERINGS
from zookeeper.population.optimise import Optimizer
from zookeeper.population.randomness import train_subsets
from zookeeper.spec import ImageSpec, names

MakePlan = Callable[..., Plan]
CHECKS = {
    "alone against cohort",
    "permuted cohort",
    "plain torch against cohort",
    "NaN in a neighbour",
    "resumed against uninterrupted",
}
WIDE = {"activation": ["tanh", "relu"], "optimizer": ["sgd", "adamw"], "dropout": [0.0, 0.4], "seed": [0, 1, 2]}
SECTIONS: dict[str, Any] = {
    "grid": {**WIDE, "init": ["kaiming_uniform", "normal"], "lr": [1e-3], "weight_decay": [1e-2]},
    "model": {"architecture": "cnn-digits"},
    "training": {"batch_size": 32, "epochs": 3},
}


def failing(report: CheckReport) -> set[str]:
    return {check.check for check in report.checks if not check.holds}


def test_every_check_holds_for_every_kind_in_both_precisions(plan_of: MakePlan) -> None:
    report = check_spec(plan_of("digits", **SECTIONS), num_models=3, num_steps=5)
    assert failing(report) == set()
    assert (report.holds, report.synthetic, report.num_steps, report.images) == (True, "", 6, "digits")
    subjects = {check.subject for check in report.checks}
    assert subjects == {f"cnn-digits {a} {o} batch 32" for a in ("tanh", "relu") for o in ("sgd", "adamw")}
    assert len(report.checks) == 4 * (3 * 2 + 2)
    for subject in subjects:
        assert {check.check for check in report.checks if check.subject == subject} == CHECKS
    exact = {check.check for check in report.checks if check.tolerance == 0}
    assert exact == {"NaN in a neighbour", "resumed against uninterrupted"}
    plain = [check for check in report.checks if check.check.startswith("plain") and check.dtype == "float64"]
    assert all(0 < check.difference < 1e-9 for check in plain)  # different code, the same arithmetic


@pytest.mark.parametrize("lowering", LOWERINGS)  # the fused kernels: tests/interpreted, and on GPUs
def test_every_check_holds_on_every_lowering(lowering: str, plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[set[str]] = []
    real = Population.forward_training

    def forward(population: Population, *arguments: Any) -> Any:
        trained.append(set(population.lowerings.values()))
        return real(population, *arguments)

    monkeypatch.setattr(Population, "forward_training", forward)
    plan = plan_of(
        "digits", build={"lowering": lowering}, grid={"lr": [1e-3], "init": ["kaiming_uniform"], "seed": [0, 1, 2]}
    )
    report = check_spec(plan, num_models=2, num_steps=4)
    assert {check.check for check in report.checks} == CHECKS
    assert failing(report) == set()
    assert trained
    assert all(names == {lowering} for names in trained)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_every_optimiser_is_known(optimizer: str, plan_of: MakePlan) -> None:
    training = {"optimizer": optimizer, "batch_size": 64, "epochs": 2, "weight_decay": 0.01}
    if optimizer == "sgd":
        training |= {"momentum": 0.5, "nesterov": True}
    assert failing(check_spec(plan_of(training=training), num_models=2, num_steps=4)) == set()


def sabotage(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, torch.Tensor, torch.Tensor], object]) -> None:
    real = Optimizer.update

    def update(self: Optimizer, rows: torch.Tensor, grads: torch.Tensor, *rest: Any) -> None:
        change(self, rows, grads)
        real(self, rows, grads, *rest)

    monkeypatch.setattr(Optimizer, "update", update)


def test_an_optimiser_that_mixes_neighbours_fails(plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, lambda self, rows, grads: grads.add_(grads.mean(0), alpha=1e-3))
    wrong = failing(check_spec(plan_of(), num_models=4))
    assert wrong == {"alone against cohort", "plain torch against cohort", "NaN in a neighbour"}


def test_an_optimiser_that_looks_at_positions_fails(plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_is_special(self: Optimizer, rows: torch.Tensor, grads: torch.Tensor) -> None:
        if len(rows) > 1:
            rows[0] *= 1 - 1e-4

    sabotage(monkeypatch, first_is_special)
    wrong = failing(check_spec(plan_of(), num_models=4))
    assert wrong == {"alone against cohort", "permuted cohort", "plain torch against cohort"}


def test_an_optimiser_with_wrong_arithmetic_fails(plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, lambda self, rows, grads: rows.mul_(1 - 1e-7))
    wrong = check_spec(plan_of(), num_models=2)
    assert failing(wrong) == {"plain torch against cohort"}
    assert {check.dtype for check in wrong.checks if not check.holds} == {"float64"}


def test_an_optimiser_with_a_memory_of_its_own_fails(plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Optimizer.narrow

    def narrow(self: Optimizer, members: slice) -> Optimizer:
        narrowed = real(self, members)
        narrowed.calls = self.calls = getattr(self, "calls", 0) + 1  # type: ignore[attr-defined]
        return narrowed

    monkeypatch.setattr(Optimizer, "narrow", narrow)
    sabotage(monkeypatch, lambda self, rows, grads: rows.mul_(1 + 1e-5 * self.calls))
    assert failing(check_spec(plan_of(), num_models=2)) == {
        "plain torch against cohort",
        "resumed against uninterrupted",
    }


def test_absent_images_are_replaced_and_named(plan_of: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "nowhere").mkdir()
    sections = {
        "images": {"name": "mnist", "split": {"train": 0.9, "val": 0.1}, "root": "nowhere"},
        "model": {"architecture": "cnn-small", "activation": "tanh"},
        "training": {"optimizer": "adam", "batch_size": 8, "epochs": 2},
    }
    report = check_spec(plan_of(**sections), num_models=2, num_steps=2)
    assert report.holds
    assert "no train-images-idx3-ubyte" in report.synthetic


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_schedules_and_subsets_are_those_of_plain_torch(
    schedule: str, optimizer: str, plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = worker.cohort_factors

    def scheduled(job: CohortJob) -> Cohort:
        factors = real(job)
        return replace(factors, schedules=(schedule,) * factors.num_models, train_fraction=0.4)

    monkeypatch.setattr(worker, "cohort_factors", scheduled)
    plan = plan_of(training={"optimizer": optimizer, "batch_size": 64, "epochs": 1})
    assert failing(check_spec(plan, num_models=2, num_steps=6)) == set()
    monkeypatch.setattr(train, "train_subsets", lambda keys, num, fraction: train_subsets(keys + 1, num, fraction))
    assert failing(check_spec(plan, num_models=2, num_steps=6)) == {"plain torch against cohort"}


def test_stand_ins_go_through_the_changes_of_the_spec(plan_of: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "nowhere").mkdir()
    images: dict[str, Any] = {"name": "svhn", "split": {"train": 0.9, "val": 0.1}, "root": "nowhere"}
    changes = {"crop": 28, "greyscale": True, "augment": {"crop_padding": 2, "flip": True}}
    sections = {
        "images": images | changes,
        "model": {"architecture": "cnn-small", "activation": "tanh"},
        "training": {"optimizer": "adam", "batch_size": 8, "epochs": 2},
    }
    plan = plan_of(**sections)
    made = synthetic_images(plan.spec.images, num_train=8)
    assert (made.image_shape, made.num_classes) == ((1, 28, 28), 10)
    report = check_spec(plan, num_models=2, num_steps=2)
    assert report.holds
    assert "svhn" in report.synthetic


def test_every_set_of_files_has_stand_ins() -> None:
    for name in set(names.IMAGE_SETS) - set(names.IMAGE_SETS_WITH_PATH) - {"digits", "tetris"}:
        spec = ImageSpec.model_validate({"name": name, "split": {"train": 0.9, "val": 0.1}})
        assert synthetic_images(spec, num_train=4).count("train") == 4


def test_absent_images_of_unknown_shape_are_refused(plan_of: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "nowhere").mkdir()
    images = {"name": "npz", "path": "mine.npz", "split": {"train": 0.9, "val": 0.1}, "root": "nowhere"}
    with pytest.raises(InputError, match=r"mine\.npz"):
        check_spec(plan_of(images=images))


def test_too_few_models_or_steps_are_refused(plan_of: MakePlan) -> None:
    with pytest.raises(InputError, match="too few models; expected 2 or more, got 1"):
        check_spec(plan_of(), num_models=1)
    with pytest.raises(InputError, match="too few steps; expected 2 or more, got 0"):
        check_spec(plan_of(), num_steps=0)


def test_one_model_is_checked_beside_copies_with_other_seeds(plan_of: MakePlan) -> None:
    report = check_spec(plan_of(grid={"lr": [1e-3]}, split={"by": "model", "train": 1.0}), num_models=3)
    assert report.holds
    assert report.num_models == 3


def test_distance_counts_divergence_and_rounding() -> None:
    start = torch.ones(2, 4)
    moved = start + 0.5
    assert distance(moved, moved, start) == 0
    assert distance(moved, moved + 0.25, start) == pytest.approx(0.5)
    both = moved.clone()
    both[1, 2] = torch.nan
    assert distance(both, both, start) == 0
    assert distance(both, moved, start) != distance(both, moved, start)  # NaN: only one diverged
    still = start + torch.finfo(torch.float32).eps
    assert distance(still, start, start) < TOLERANCES[torch.float32]
