"""Trust checks of the engine on the networks, optimisers and images of one spec; nothing is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np
import torch

from zookeeper.build import worker
from zookeeper.build.job import CohortJob, image_json, load_spec_images, population_of
from zookeeper.build.lowerings import decide_lowerings
from zookeeper.build.reference import train_plainly
from zookeeper.errors import InputError
from zookeeper.images import ImageSet, Transforms
from zookeeper.nets.registry import build_network
from zookeeper.population import Cohort as Factors
from zookeeper.population import Population, TrainingData, train_cohort
from zookeeper.population.precision import FLOAT32
from zookeeper.population.process import prepare_process
from zookeeper.spec import ImageSpec
from zookeeper.spec.grid import ModelConfig
from zookeeper.spec.plan import Cohort, Plan

TOLERANCES = {torch.float32: 5e-2, torch.float64: 1e-6}
"""Largest `distance` of two results. Float64 finds wrong arithmetic; float32 only shows that rounding stays rounding:
where a network is saturated, Adam turns gradients of pure rounding error into whole steps."""

_LEAST_WAY = 1e-4
_MEASURED = 64
_EPOCHS = 2
_SHAPES = {
    "cifar10": (3, 32, 32, 10),
    "cifar100": (3, 32, 32, 100),
    "eurosat": (3, 64, 64, 10),
    "fashion-mnist": (1, 28, 28, 10),
    "mnist": (1, 28, 28, 10),
    "stl10": (3, 96, 96, 10),
    "svhn": (3, 32, 32, 10),
    "tiny-imagenet": (3, 64, 64, 200),
    "usps": (1, 16, 16, 10),
}


@dataclass(frozen=True)
class Check:
    """One line of the table.

    ``difference`` and ``tolerance`` are shares of the distance that training covered; 0 means equal to the bit.
    ``subject`` says which networks: architecture, activation, optimiser, batch size.
    """

    subject: str
    check: str
    dtype: str
    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class CheckReport:
    """All checks of a spec. ``synthetic`` says why random images stood in for the spec's own; empty if they did not."""

    checks: tuple[Check, ...]
    num_models: int
    num_steps: int
    images: str
    synthetic: str
    device: str

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)


@dataclass(frozen=True)
class _Trial:
    """A few models of one kind with a few batches of images, ready to be trained in several ways."""

    population: Population
    models: tuple[ModelConfig, ...]
    data: TrainingData
    image_shape: tuple[int, int, int]
    num_classes: int

    def train(
        self, members: Sequence[int], dtype: torch.dtype, *, poisoned: int | None = None, stop_after: int | None = None
    ) -> torch.Tensor:
        """Train members (by number) together; return their rows ``[m, P]``, in the order given.

        ``poisoned`` fills one of them with NaN before it starts; ``stop_after`` ends the run after that epoch
        and resumes from copies of weights and optimiser state.
        """
        rows = self.start(members, dtype)
        if poisoned is not None:
            rows[list(members).index(poisoned)] = torch.nan
        factors = self.factors(members)
        for result in train_cohort(self.population, factors, self.data, rows, last_epoch=stop_after or _EPOCHS):
            last = result
        if stop_after is None:
            return last.rows.clone()
        state = {slot: values.clone() for slot, values in last.state.items()}
        resumed = train_cohort(
            self.population,
            factors,
            self.data,
            last.rows.clone(),
            last_epoch=_EPOCHS,
            first_epoch=stop_after + 1,
            state=state,
        )
        for result in resumed:
            last = result
        return last.rows.clone()

    def train_plainly(self, number: int, dtype: torch.dtype) -> torch.Tensor:
        """Train one member with plain torch: ``[P]``."""
        model = self.models[number]
        network = build_network(
            model.architecture,
            in_channels=self.image_shape[0],
            image_size=self.image_shape[1:],
            num_classes=self.num_classes,
            activation=model.activation,
        )
        places = [place for place, op in enumerate(self.population.graph.ops) if op.kind == "dropout"]
        factors = self.factors([number])
        row = self.start([number], dtype)[0]
        return train_plainly(network, places, factors, 0, self.data, row, num_epochs=_EPOCHS)

    def factors(self, members: Sequence[int]) -> Factors:
        """Generating factors of members; a schedule runs through its whole course, and no precision is given up."""
        job = CohortJob("", Cohort("check", tuple(self.models[number] for number in members)), (0, _EPOCHS), "", "", "")
        return replace(worker.cohort_factors(job), num_epochs=_EPOCHS, precision=FLOAT32)

    def start(self, members: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Untrained rows ``[m, P]``."""
        models = [self.models[number] for number in members]
        drawn = worker.initial_rows(self.population.layout, models)
        return torch.from_numpy(drawn).to(self.data.images.device, dtype)


def check_spec(plan: Plan, *, num_models: int = 4, num_steps: int = 4, device: str = "cpu") -> CheckReport:
    """Train a few models of every kind in a plan in several ways that must agree.

    A kind is an architecture with its activation, optimiser and batch size. Convolutions are carried out as a
    build of the spec would. If the image files are absent, random images of the same shape stand in, and the report
    says so.

    Parameters
    ----------
    num_models
        Models of each kind that train together, >= 2; spread over the kind's factors.
    num_steps
        Optimiser steps of each, >= 2; in two epochs.

    Raises
    ------
    InputError
        If the numbers are out of range, an architecture does not fit the images, or absent images are of a
        shape that only their files tell.
    """
    for name, value in (("models", num_models), ("steps", num_steps)):
        if value < 2:
            raise InputError(f"check: too few {name}; expected 2 or more, got {value}.")
    prepare_process(torch.get_num_threads())
    images, synthetic = _images(plan)
    checks: list[Check] = []
    for models in _kinds(plan):
        trial = _prepare(models, images, num_models, -(-num_steps // _EPOCHS), torch.device(device))
        batch_size = models[0].batch_size
        lowerings = decide_lowerings(trial.population, plan.spec.build.lowering, num_models, batch_size, device)
        trial = replace(trial, population=trial.population.lowered(lowerings))
        checks.extend(_check_kind(trial))
    return CheckReport(tuple(checks), num_models, -(-num_steps // _EPOCHS) * _EPOCHS, images.name, synthetic, device)


def _check_kind(trial: _Trial) -> list[Check]:
    model = trial.models[0]
    subject = f"{model.architecture} {model.activation} {model.optimizer} batch {model.batch_size}"
    everyone = list(range(len(trial.models)))
    found: list[Check] = []

    def note(check: str, dtype: torch.dtype, first: torch.Tensor, second: torch.Tensor, members: list[int]) -> None:
        start = trial.start(members, dtype)
        name = str(dtype).removeprefix("torch.")
        found.append(Check(subject, check, name, distance(first, second, start), TOLERANCES[dtype]))

    def note_bits(check: str, first: torch.Tensor, second: torch.Tensor) -> None:
        same = torch.equal(first.view(torch.int32), second.view(torch.int32))
        gap = 0.0 if same else max(distance(first, second, torch.zeros_like(first)), torch.finfo(torch.float32).tiny)
        found.append(Check(subject, check, "float32", gap, 0.0))

    whole = {dtype: trial.train(everyone, dtype) for dtype in TOLERANCES}
    for dtype, together in whole.items():
        alone = torch.cat([trial.train([number], dtype) for number in everyone])
        note("alone against cohort", dtype, alone, together, everyone)
    for dtype, together in whole.items():
        order = everyone[::-1]
        note("permuted cohort", dtype, trial.train(order, dtype), together[order], order)
    for dtype, together in whole.items():
        plain = torch.stack([trial.train_plainly(number, dtype) for number in everyone])
        note("plain torch against cohort", dtype, plain, together, everyone)
    healthy = everyone[:-1]
    poisoned = trial.train(everyone, torch.float32, poisoned=everyone[-1])
    note_bits("NaN in a neighbour", poisoned[healthy], whole[torch.float32][healthy])
    note_bits("resumed against uninterrupted", trial.train(everyone, torch.float32, stop_after=1), whole[torch.float32])
    return found


def distance(first: torch.Tensor, second: torch.Tensor, start: torch.Tensor) -> float:
    """Largest distance of two results ``[M, P]`` over models, as a share of the way from ``start``.

    The way counts as at least 1e-4 of the size of the weights, below which all is rounding. Models that
    diverged in both, at the same weights, agree.

    >>> start = torch.zeros(1, 2)
    >>> distance(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.5]]), start)
    0.1
    >>> distance(torch.tensor([[float("nan"), 4.0]]), torch.tensor([[3.0, 4.0]]), start)
    nan
    """
    if not torch.equal(first.isfinite(), second.isfinite()):
        return float("nan")
    one, other, origin = (torch.where(first.isfinite(), v, 0.0).to(torch.float64) for v in (first, second, start))
    gap, way = (one - other).norm(dim=1), (one - origin).norm(dim=1).maximum(_LEAST_WAY * origin.norm(dim=1))
    share = torch.where(gap == 0, 0.0, gap / way)
    return float(share.max())


def _kinds(plan: Plan) -> list[tuple[ModelConfig, ...]]:
    kinds: dict[tuple[object, ...], list[ModelConfig]] = {}
    for model in (model for cohort in plan.cohorts for model in cohort.models):
        kind = (model.architecture, model.activation, model.optimizer, model.nesterov, model.batch_size)
        kinds.setdefault(kind, []).append(model)
    return [tuple(models) for models in kinds.values()]


def _prepare(
    models: tuple[ModelConfig, ...], images: ImageSet, num_models: int, steps_per_epoch: int, device: torch.device
) -> _Trial:
    numbers = np.linspace(0, len(models) - 1, min(num_models, len(models))).round().astype(int)
    chosen = [models[number] for number in numbers]
    # a kind with fewer models lends its factors to more seeds
    extra = (replace(model, seed=model.seed + 1 + turn) for turn, model in enumerate(cycle(chosen)))
    chosen += islice(extra, num_models - len(chosen))
    data = worker.training_data(images, device)
    population = population_of(models[0], images)
    trial = _Trial(population, tuple(chosen), data, images.image_shape, images.num_classes)
    wanted = steps_per_epoch * models[0].batch_size / trial.factors([0]).train_fraction
    few = {split: index[:_MEASURED] for split, index in data.indices.items()}
    few["train"] = data.indices["train"][: math.ceil(wanted)]
    return replace(trial, data=replace(data, indices=few))


def _images(plan: Plan) -> tuple[ImageSet, str]:
    try:
        return load_spec_images(image_json(plan.spec)), ""
    except InputError as error:
        spec = plan.spec.images
        if spec.name not in _SHAPES:
            raise
        largest = max(model.batch_size for cohort in plan.cohorts for model in cohort.models)
        return synthetic_images(spec, num_train=4 * largest), str(error)


def synthetic_images(spec: ImageSpec, *, num_train: int) -> ImageSet:
    """Random images and labels of the shape that a known image set has after its fixed changes.

    >>> spec = ImageSpec.model_validate({"name": "mnist", "split": {"train": 0.9, "val": 0.1}})
    >>> synthetic_images(spec, num_train=8).image_shape
    (1, 28, 28)
    """
    *shape, num_classes = _SHAPES[spec.name]
    draw = np.random.default_rng(0)
    num = num_train + 2 * _MEASURED
    changes = Transforms(resize=spec.resize, crop=spec.crop, greyscale=spec.greyscale)
    images = changes.apply(draw.integers(0, 256, (num, *shape), dtype=np.uint8), spec.name)
    parts = np.split(np.arange(num), [num_train, num_train + _MEASURED])
    made = ImageSet(
        spec.name,
        images,
        draw.integers(0, num_classes, num),
        dict(zip(("train", "val", "test"), parts, strict=True)),
        mean=(0.5,) * images.shape[1],
        std=(0.3,) * images.shape[1],
        num_classes=num_classes,
    )
    return made if spec.augment is None else replace(made, augment=spec.augment.model_dump())
