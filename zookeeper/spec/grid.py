"""From one `ZooSpec` to its models: the product of the axes, each model with a content-hashed name."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, cast

from zookeeper.errors import SpecError
from zookeeper.spec.axes import Scalar
from zookeeper.spec.factors import DEFAULTS, LATER
from zookeeper.spec.identity import canonical_json, image_identity
from zookeeper.spec.rows import model_rows
from zookeeper.spec.schema import ZooSpec

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model of a zoo: everything that decides its weights, and the side of the zoo's split it is on.

    Parameters
    ----------
    model_id
        16 hex digits, the hash of all factors and of the image set's identity. It does not depend on
        the zoo's name, grid, split, checkpoints, cohorts or device.
    architecture, activation, init, init_std, bias_init, dropout
        The generating factors of the network.
    optimizer, lr, weight_decay, momentum, nesterov, schedule, train_fraction, precision, batch_size, epochs, seed
        Those of its training.
    split
        Side of the zoo's split: train, val or test.
    """

    model_id: str
    architecture: str
    activation: str
    init: str
    init_std: float
    bias_init: str
    dropout: float
    optimizer: str
    lr: float
    weight_decay: float
    momentum: float
    nesterov: bool
    schedule: str
    train_fraction: float
    precision: str
    batch_size: int
    epochs: int
    seed: int
    split: SplitName

    def factors(self) -> dict[str, Scalar]:
        """Return the generating factors by name, always in the same order."""
        return {name: getattr(self, name) for name in FACTOR_NAMES}


FACTOR_NAMES: tuple[str, ...] = tuple(
    field.name for field in fields(ModelConfig) if field.name not in ("model_id", "split")
)


def expand(spec: ZooSpec) -> tuple[ModelConfig, ...]:
    """Return the models of a spec: the product of its axes in the order written, the last axis fastest.

    With ``grid.sample`` they are its joint draws, in the order of their numbers.

    The same spec gives the same models and the same split on every machine.

    Raises
    ------
    SpecError
        Two models are equal, or there are fewer groups than non-zero fractions of the split.

    Examples
    --------
    >>> from zookeeper.spec.schema import parse_spec
    >>> spec = parse_spec('''
    ... version: 1
    ... name: tiny
    ... images: {name: digits, split: {train: 0.8, test: 0.2}}
    ... model: {architecture: cnn-digits}
    ... training: {batch_size: 32, epochs: 2}
    ... grid: {lr: [1e-3, 1e-2], seed: [0, 1]}
    ... ''')
    >>> [(model.lr, model.seed) for model in expand(spec)]
    [(0.001, 0), (0.001, 1), (0.01, 0), (0.01, 1)]
    """
    rows = model_rows(spec)
    images = canonical_json(image_identity(spec.images))
    ids = [model_id(row, images) for row in rows]
    if len(set(ids)) != len(ids):
        raise SpecError(f"{spec.name} grid: {len(ids) - len(set(ids))} models are equal; expected distinct models.")
    groups = [canonical_json([row[name] for name in sorted(spec.split.group_factors)]) for row in rows]
    sides = assign_split(groups if spec.split.group_factors else ids, spec.split.fractions(), spec.split.seed)
    return tuple(
        ModelConfig(model_id=i, split=side, **row)  # type: ignore[arg-type]
        for i, side, row in zip(ids, sides, rows, strict=True)
    )


def model_id(factors: Mapping[str, Scalar], images: str) -> str:
    """Return 16 hex digits of the SHA-256 of a model's factors and the canonical JSON of its images' identity."""
    unset = {name for name in LATER if factors[name] == DEFAULTS[name]}
    identity = canonical_json({name: factors[name] for name in FACTOR_NAMES if name not in unset})
    return hashlib.sha256(f"model 1\n{identity}\n{images}".encode()).hexdigest()[:16]


def assign_split(groups: list[str], fractions: Mapping[str, float], seed: int) -> list[SplitName]:
    """Return train, val or test for each model so that equal `groups` share a side.

    Distinct groups are ranked by the SHA-256 of seed and group, so neither the order of the models nor
    any library's generator matters. Numbers of groups follow the fractions by largest remainder.

    Parameters
    ----------
    groups
        Name of each model's group.
    fractions
        Share of train, val and test, adding to 1.

    Raises
    ------
    SpecError
        There are fewer groups than non-zero fractions.

    Examples
    --------
    >>> assign_split(["a", "a", "b", "c"], {"train": 0.5, "val": 0.25, "test": 0.25}, seed=0)
    ['test', 'test', 'train', 'val']
    """
    distinct = rank_groups(groups, seed)
    sizes = apportion(len(distinct), fractions)
    sides = [cast("SplitName", name) for name, size in sizes.items() for _ in range(size)]
    side_of = dict(zip(distinct, sides, strict=True))
    return [side_of[group] for group in groups]


def rank_groups(groups: Iterable[str], seed: int) -> list[str]:
    """Return distinct groups by the SHA-256 of seed and group: an order that depends on nothing else."""
    return sorted(set(groups), key=lambda group: (hashlib.sha256(f"split {seed}\n{group}".encode()).digest(), group))


def apportion(num_groups: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Return how many groups each name gets: largest remainder, at least 1 for each non-zero fraction.

    Raises
    ------
    SpecError
        There are fewer groups than non-zero fractions.

    Examples
    --------
    >>> apportion(20, {"train": 0.80, "val": 0.05, "test": 0.15})
    {'train': 16, 'val': 1, 'test': 3}
    >>> apportion(3, {"train": 0.98, "val": 0.01, "test": 0.01})
    {'train': 1, 'val': 1, 'test': 1}
    """
    wanted = [name for name, fraction in fractions.items() if fraction > 0]
    if num_groups < len(wanted):
        raise SpecError(
            f"split: too few groups for {', '.join(wanted)}; expected at least {len(wanted)} groups, got {num_groups}. "
            "Split by something finer, or set a fraction to 0."
        )
    quotas = {name: round(num_groups * fraction, 9) for name, fraction in fractions.items()}
    sizes = {name: math.floor(quota) for name, quota in quotas.items()}
    by_remainder = sorted(wanted, key=lambda name: sizes[name] - quotas[name])
    for name in itertools.islice(itertools.cycle(by_remainder), num_groups - sum(sizes.values())):
        sizes[name] += 1
    for name in wanted:
        if sizes[name] == 0:
            sizes[max(sizes, key=lambda other: sizes[other])] -= 1
            sizes[name] = 1
    return sizes
