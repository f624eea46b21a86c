"""Steps that keep every number on the device give the bits of steps that the host drives; a GPU replays them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from zookeeper.nets.initialise import initialise_rows
from zookeeper.population import Cohort, Population, TrainingData
from zookeeper.population.augment import AugmentSettings
from zookeeper.population.convolution import device_lowerings
from zookeeper.population.optimise import Hyperparameters, Optimizer
from zookeeper.population.schedule import Schedule
from zookeeper.population.train import CohortTrainer

SHARED, OWN, MIXED = (4,) * 6, tuple(range(6)), (1, 1, 2, 5, 1, 2)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need an NVIDIA GPU; none is here")


def cohort_of(seeds: tuple[int, ...], optimizer: str, **changes: Any) -> Cohort:
    num = len(seeds)
    cohort = Cohort(
        seeds=seeds,
        lr=tuple(0.01 / (1 + number) for number in range(num)),
        weight_decay=tuple(0.01 * (number % 3) for number in range(num)),
        momentum=tuple(0.3 * (number % 4) for number in range(num)),
        dropout=tuple(0.2 * (number % 3) for number in range(num)),
        optimizer=optimizer,
        batch_size=8,
        num_epochs=3,
    )
    return replace(cohort, **changes)


def trainer_of(case: Any, cohort: Cohort, data: TrainingData, *, on_device: bool, **options: Any) -> CohortTrainer:
    population = Population(case.build(), case.image_shape)
    rows = torch.from_numpy(initialise_rows(population.layout, ["kaiming_uniform"] * len(cohort.seeds), cohort.seeds))
    rows = rows.to(data.images.device, torch.float32)
    trainer = CohortTrainer(population, cohort, data, rows, **options)
    trainer.steps_on_device = on_device
    return trainer


def assert_same_training(one: CohortTrainer, other: CohortTrainer, epochs: range) -> None:
    for epoch in epochs:
        losses, expected = one.train_epoch(epoch), other.train_epoch(epoch)
        assert torch.equal(losses, expected)
        assert torch.equal(one.rows, other.rows)
        for slot, values in one.optimizer.state.items():
            assert torch.equal(values, other.optimizer.state[slot])
    assert torch.isfinite(one.rows).all()


SCHEDULES = ("none", "cosine", "onecycle", "onecycle", "cosine", "none")
CHANGES: list[tuple[str, tuple[int, ...], str, dict[str, Any]]] = [
    ("mlp", OWN, "adam", {}),
    ("mlp", SHARED, "sgd", {"nesterov": True}),
    ("cnn-digits", MIXED, "adam", {"schedules": SCHEDULES}),
    ("cnn-digits", OWN, "adamw", {"schedules": SCHEDULES, "train_fraction": 0.7}),
    ("cnn-digits", SHARED, "rmsprop", {"dropout": (0.0,) * 6}),
    ("cnn-digits", OWN, "rmsprop", {"schedules": SCHEDULES}),
    ("cnn-digits", MIXED, "sgd", {"schedules": SCHEDULES}),
    ("normed", OWN, "adam", {"batch_size": 43}),  # an epoch is one step
    ("normed", MIXED, "adamw", {"batch_size": 100}),  # which is not even full
]


@pytest.mark.parametrize(("name", "seeds", "optimizer", "changes"), CHANGES, ids=str)
def test_numbers_on_the_device_change_no_bit(
    name: str, seeds: tuple[int, ...], optimizer: str, changes: dict[str, Any], case_named: Callable[[str], Any]
) -> None:
    case = case_named(name)
    cohort, data = cohort_of(seeds, optimizer, **changes), case.data()
    trainers = [trainer_of(case, cohort, data, on_device=on_device, tile=4) for on_device in (True, False)]
    assert_same_training(trainers[0], trainers[1], range(1, 4))


@pytest.mark.parametrize("seeds", [SHARED, OWN], ids=str)
def test_augmentation_draws_by_the_number_on_the_device(
    seeds: tuple[int, ...], case_named: Callable[[str], Any]
) -> None:
    case = case_named("cnn-digits")
    data = replace(case.data(), augment=AugmentSettings(crop_padding=2, flip=True, rotation=20))
    trainers = [trainer_of(case, cohort_of(seeds, "adam"), data, on_device=on_device) for on_device in (True, False)]
    assert_same_training(trainers[0], trainers[1], range(1, 3))


def test_a_run_that_is_resumed_on_the_device_goes_on_with_the_same_bits(case_named: Callable[[str], Any]) -> None:
    case = case_named("cnn-digits")
    cohort, data = cohort_of(MIXED, "adam", schedules=SCHEDULES), case.data()
    whole = trainer_of(case, cohort, data, on_device=True)
    for epoch in (1, 2):
        whole.train_epoch(epoch)
    resumed = trainer_of(case, cohort, data, on_device=True)
    resumed.rows.copy_(whole.rows)
    for slot, values in resumed.optimizer.state.items():
        values.copy_(whole.optimizer.state[slot])
    assert_same_training(whole, resumed, range(3, 4))


def test_a_step_asks_the_host_for_nothing(case_named: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_named("cnn-digits")
    cohort = cohort_of(OWN, "adam", schedules=SCHEDULES)
    data = replace(case.data(), augment=AugmentSettings(crop_padding=1, flip=True, rotation=5))
    trainer = trainer_of(case, cohort, data, on_device=True)
    trainer.train_epoch(1)
    steps = trainer._steps(trainer.tiles[0])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a value went to the host")

    steps._write_tables(2)
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "cpu", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    steps.step(cohort.batch_size)
    steps.step(cohort.batch_size)
    monkeypatch.undo()
    assert steps.number.item() == 2


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_table_holds_the_factors_of_every_step(name: str) -> None:
    vector = torch.tensor([[0.1], [0.02], [0.3]])
    optimizer = Optimizer(name, Hyperparameters(vector, vector, vector), {})
    schedule = Schedule(("none", "cosine", "onecycle"), 40, dtype=torch.float32)
    for first, count, scheduled in ((1, 40, True), (1, 40, False), (7, 3, False), (9, 1, True)):
        settings = [schedule.at(step) for step in range(first, first + count)] if scheduled else None
        table = optimizer.table(first, count, settings)
        for number in range(count):
            found = table.at(torch.tensor([number]))
            expected = optimizer.factors(first + number, None if settings is None else settings[number])
            for field in ("lr", "momentum", "rate", "root", "share"):
                value, wanted = (torch.as_tensor(getattr(one, field), dtype=torch.float32) for one in (found, expected))
                assert torch.equal(value, wanted), field


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("lowering", device_lowerings(torch.device("cuda")))
@pytest.mark.parametrize("seeds", [SHARED, OWN], ids=str)
def test_a_replayed_graph_gives_the_bits_of_eager_steps(
    lowering: str, seeds: tuple[int, ...], case_named: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_named("cnn-digits")
    data = case.data()
    data = replace(
        data,
        images=data.images.cuda(),
        labels=data.labels.cuda(),
        indices={split: index.cuda() for split, index in data.indices.items()},
        mean=data.mean.cuda(),
        std=data.std.cuda(),
    )
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    trainers = []
    for on_device in (True, False):
        trainer = trainer_of(case, cohort_of(seeds, "sgd", schedules=SCHEDULES), data, on_device=on_device)
        convolutions = [op.layer for op in trainer.population.graph.ops if op.kind == "conv"]
        trainer.population = trainer.population.lowered(dict.fromkeys(convolutions, lowering))
        trainers.append(trainer)
    assert_same_training(trainers[0], trainers[1], range(1, 4))
    assert all(steps._graph is not None for steps in trainers[0]._device_steps.values())
