"""Schedules equal those of `torch.optim.lr_scheduler`, step by step and in their effect on the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from zookeeper.errors import InputError
from zookeeper.nets.initialise import initialise_rows
from zookeeper.population import Cohort, Population, train_cohort
from zookeeper.population.optimise import Hyperparameters, Optimizer
from zookeeper.population.schedule import Schedule, schedule_names
from zookeeper.spec import names

LR, DECAY, MOMENTUM = (0.1, 0.01, 1e-3, 0.03), (0.0, 0.1, 1e-3, 0.4), (0.9, 0.5, 0.0, 0.99)


def torch_pair(
    kind: str, schedule: str, parameter: torch.Tensor, *, lr: float, decay: float, momentum: float, num_steps: int
) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    options: dict[str, Any] = {"lr": lr, "weight_decay": decay}
    if kind in ("sgd", "rmsprop"):
        options["momentum"] = momentum
    made = {
        "sgd": torch.optim.SGD,
        "rmsprop": torch.optim.RMSprop,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    optimizer = made[kind]([parameter], **options)
    cycles = kind in ("adam", "adamw") or momentum > 0
    if schedule == "onecycle":
        return optimizer, OneCycleLR(optimizer, max_lr=lr, total_steps=num_steps, cycle_momentum=cycles)
    return optimizer, CosineAnnealingLR(optimizer, T_max=num_steps) if schedule == "cosine" else None


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 7, 10, 40, 1001])
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_factors_equal_torch_at_every_step(schedule: str, num_steps: int) -> None:
    parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer, scheduler = torch_pair("sgd", schedule, parameter, lr=0.25, decay=0.0, momentum=0.9, num_steps=num_steps)
    assert scheduler is not None
    made = Schedule([schedule], num_steps)
    for step in range(1, num_steps + 1):
        setting, group = made.at(step), optimizer.param_groups[0]
        assert 0.25 * setting.lr.item() == pytest.approx(group["lr"], rel=1e-9, abs=1e-15)
        if schedule == "onecycle":
            assert setting.momentum.item() == pytest.approx(group["momentum"], rel=1e-12)
        else:
            assert setting.momentum.isnan().all()
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        if step < num_steps:
            scheduler.step()


def test_one_cycle_reaches_its_bounds() -> None:
    settings = [Schedule(["onecycle"], 100).at(step) for step in range(1, 101)]
    lr, momentum = ([getattr(s, key).item() for s in settings] for key in ("lr", "momentum"))
    assert lr[0] == pytest.approx(1 / 25)
    assert max(lr) == lr[29] == pytest.approx(1.0)
    assert lr[-1] == pytest.approx(1 / 25e4)
    assert (momentum[0], min(momentum), momentum[-1]) == pytest.approx((0.95, 0.85, 0.95))
    assert momentum[29] == min(momentum)


@pytest.mark.parametrize("kind", ["sgd", "rmsprop", "adam", "adamw"])
def test_scheduled_optimisers_equal_torch(kind: str) -> None:
    """Four models with their own rates and schedules, one of them without momentum."""
    num_steps, schedules = 30, ("onecycle", "cosine", "onecycle", "none")
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(4, 40, generator=generator, dtype=torch.float64)
    grads = torch.randn(num_steps, 4, 40, generator=generator, dtype=torch.float64) * torch.logspace(-6, 3, 40).double()
    rows, schedule = start.clone(), Schedule(schedules, num_steps)
    lr, decay, momentum = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (LR, DECAY, MOMENTUM))
    optimizer = Optimizer.fresh(kind, Hyperparameters(lr, decay, momentum), rows)
    for number in range(num_steps):
        optimizer.step(rows, grads[number].clone(), number + 1, schedule.at(number + 1))
    for m in range(4):
        parameter = start[m].clone().requires_grad_()
        reference, scheduler = torch_pair(
            kind, schedules[m], parameter, lr=LR[m], decay=DECAY[m], momentum=MOMENTUM[m], num_steps=num_steps
        )
        for number in range(num_steps):
            parameter.grad = grads[number, m].clone()
            reference.step()
            if scheduler is not None and number < num_steps - 1:
                scheduler.step()
        torch.testing.assert_close(rows[m], parameter.detach(), rtol=1e-10, atol=1e-12)


def cohort_of(schedules: tuple[str, ...], optimizer: str = "sgd", num_epochs: int = 3) -> Cohort:
    num = len(schedules)
    return Cohort(
        seeds=tuple(number // 2 for number in range(num)),
        lr=tuple(0.02 / (1 + number) for number in range(num)),
        weight_decay=(1e-3,) * num,
        momentum=tuple(0.9 * (number % 2) for number in range(num)),
        dropout=(0.2,) * num,
        optimizer=optimizer,
        batch_size=16,
        schedules=schedules,
        num_epochs=num_epochs,
    )


def run(case: Any, cohort: Cohort, dtype: torch.dtype, last_epoch: int = 3, **resume: Any) -> list[tuple[Any, Any]]:
    population = Population(case.build(), case.image_shape)
    rows = resume.pop("rows", None)
    if rows is None:
        inits = ["kaiming_uniform"] * cohort.num_models
        rows = torch.from_numpy(initialise_rows(population.layout, inits, cohort.seeds)).to(dtype)
    results = train_cohort(population, cohort, case.data(), rows, last_epoch=last_epoch, **resume)
    return [(r.rows.clone(), {k: v.clone() for k, v in r.state.items()}) for r in results]


MIXED = ("onecycle", "none", "cosine", "onecycle", "none")


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "adamw"])
def test_resumed_run_has_the_same_bits(optimizer: str, case_named: Callable[[str], Any]) -> None:
    case, cohort = case_named("cnn-digits"), cohort_of(MIXED, optimizer)
    whole = run(case, cohort, torch.float32)
    for epoch in (0, 1, 2):
        rows, state = whole[epoch][0].clone(), {k: v.clone() for k, v in whole[epoch][1].items()}
        rest = run(case, cohort, torch.float32, first_epoch=epoch + 1, rows=rows, state=state)
        for (one, _), (other, _) in zip(whole[epoch + 1 :], rest, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_model_does_not_depend_on_the_schedules_of_its_mates(
    optimizer: str, case_named: Callable[[str], Any]
) -> None:
    case, cohort = case_named("cnn-digits"), cohort_of(MIXED, optimizer)
    together = run(case, cohort, torch.float64)[-1][0]
    for m, name in enumerate(MIXED):
        vectors = {key: (getattr(cohort, key)[m],) for key in ("seeds", "lr", "weight_decay", "momentum", "dropout")}
        alone = run(case, replace(cohort, **vectors, schedules=(name,)), torch.float64)[-1][0]
        torch.testing.assert_close(together[m], alone[0], rtol=1e-9, atol=1e-11)
    plain = run(case, replace(cohort, schedules=()), torch.float64)[-1][0]
    moved = (together - plain).abs().amax(1)
    assert (moved[[0, 2, 3]] > 1e-5).all()
    assert (moved[[1, 4]] < 1e-9).all()


def test_names_without_schedules_leave_the_bits_alone(case_named: Callable[[str], Any]) -> None:
    case, cohort = case_named("cnn-digits"), cohort_of(("none",) * 3)
    plain = replace(cohort, schedules=(), num_epochs=0)
    assert torch.equal(run(case, cohort, torch.float32)[-1][0], run(case, plain, torch.float32)[-1][0])


def test_bad_schedules_are_refused(case_named: Callable[[str], Any]) -> None:
    assert schedule_names() == names.SCHEDULES
    with pytest.raises(InputError, match="unknown schedule 'cosin'; expected cosine, none, onecycle"):
        Schedule(["cosin"], 3)
    with pytest.raises(InputError, match="0 steps; expected at least 1"):
        run(case_named("mlp"), cohort_of(("cosine",), num_epochs=0), torch.float64)
    with pytest.raises(InputError, match="step 7; expected 1 to 6"):
        run(case_named("mlp"), cohort_of(("cosine",), num_epochs=2), torch.float64)
    with pytest.raises(InputError, match="expected one value per model"):
        replace(cohort_of(MIXED), schedules=("none",))
