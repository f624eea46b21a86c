"""From models to the work that trains them: cohorts that train as one matrix. Knows no scheduler."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from zookeeper.errors import InputError
from zookeeper.spec.axes import Scalar
from zookeeper.spec.grid import ModelConfig, expand
from zookeeper.spec.schema import ZooSpec

SHARED_FACTORS: tuple[str, ...] = (
    "architecture",
    "activation",
    "optimizer",
    "nesterov",
    "train_fraction",
    "precision",
    "batch_size",
    "epochs",
)
"""Factors on which the models of a cohort agree: they decide shapes, steps and the graph.

`train_fraction` decides how many steps an epoch has, `precision` how products are taken. A schedule decides neither,
so it may differ from row to row.
"""

DEFAULT_COHORT_SIZE = 64
SEED_COHORT_SIZES = range(16, 129)


@dataclass(frozen=True, slots=True)
class Cohort:
    """Models that train together as the rows of one matrix.

    They agree on `SHARED_FACTORS`; all else may differ from row to row.

    Parameters
    ----------
    name
        Safe for files, unique in a plan, and made of the models' ids: the same models in the same order
        have the same last part.
    models
        The members, in the order of the rows.
    """

    name: str
    models: tuple[ModelConfig, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All the work a spec asks for.

    Parameters
    ----------
    spec
        The spec it was made from.
    cohorts
        Every model of the spec is in exactly one.
    epochs
        Checkpoint epochs, increasing; 0 is the first and the last epoch of training is the last.
    """

    spec: ZooSpec
    cohorts: tuple[Cohort, ...]
    epochs: tuple[int, ...]

    @property
    def num_models(self) -> int:
        """Number of models in all cohorts."""
        return sum(len(cohort.models) for cohort in self.cohorts)

    @property
    def num_checkpoints(self) -> int:
        """Number of checkpoints, the rows of the stored zoo."""
        return self.num_models * len(self.epochs)


def make_plan(spec: ZooSpec, cohort_size: int | None = None) -> Plan:
    """Return the cohorts of a spec; they do not depend on the order in which axes and values are written.

    Models with the same seed are neighbours, so they share initial draws and data order. Without a
    cohort size, a cohort is one seed where each seed has 16 to 128 models, else at most 64 models;
    chunks of one group differ by at most one model in size.

    Parameters
    ----------
    cohort_size
        Most models in a cohort, >= 1; instead of `build.cohort_size` of the spec.

    Raises
    ------
    InputError
        `cohort_size` is less than 1.
    SpecError
        `expand` refuses the spec.
    """
    if cohort_size is not None and cohort_size < 1:
        raise InputError(f"cohort_size: out of range; expected a whole number >= 1, got {cohort_size}.")
    size = spec.build.cohort_size if cohort_size is None else cohort_size
    ordered = sorted(expand(spec), key=lambda model: (_shared(model), model.seed, tuple(model.factors().values())))
    chunks = [chunk for _, group in itertools.groupby(ordered, key=_shared) for chunk in _chunks(tuple(group), size)]
    cohorts = tuple(Cohort(_name(index, chunk), chunk) for index, chunk in enumerate(chunks))
    return Plan(spec, cohorts, spec.checkpoint_epochs)


def _shared(model: ModelConfig) -> tuple[Scalar, ...]:
    return tuple(getattr(model, name) for name in SHARED_FACTORS)


def _chunks(models: tuple[ModelConfig, ...], size: int | None) -> Iterable[tuple[ModelConfig, ...]]:
    if size is None:
        per_seed = Counter(model.seed for model in models)
        if all(count in SEED_COHORT_SIZES for count in per_seed.values()):
            return [tuple(group) for _, group in itertools.groupby(models, key=lambda model: model.seed)]
        size = DEFAULT_COHORT_SIZE
    return [models[start:stop] for start, stop in chunk_bounds(len(models), size)]


def chunk_bounds(count: int, size: int) -> list[tuple[int, int]]:
    """Cut ``count`` models into as few chunks of at most ``size`` as will do; they differ by one model at most.

    >>> chunk_bounds(7, 3)
    [(0, 2), (2, 4), (4, 7)]
    """
    num_chunks = -(-count // size)
    return list(itertools.pairwise(count * i // num_chunks for i in range(num_chunks + 1)))


def _name(index: int, models: tuple[ModelConfig, ...]) -> str:
    members = "\n".join(model.model_id for model in models)
    return f"c{index:05d}-{hashlib.sha256(members.encode()).hexdigest()[:8]}"
