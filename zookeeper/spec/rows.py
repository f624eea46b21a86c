"""The rows of a grid: the values of its axes for every model, as a product or as joint random draws."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from zookeeper.spec.axes import OwnSeeds, RandomAxis, RangeAxis, Scalar, draw_from, sort_key
from zookeeper.spec.factors import DEFAULTS, FACTORS, default_momentum, uses_std
from zookeeper.spec.identity import canonical_json

if TYPE_CHECKING:
    from zookeeper.spec.schema import ZooSpec
    from zookeeper.spec.sections import GridSection

AnyAxis = RangeAxis | RandomAxis | OwnSeeds | tuple[Scalar, ...]


def typed_values(factor: str, axis: RangeAxis | RandomAxis | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    """Return the values that an axis of a product stands for, of the factor's type.

    Raises
    ------
    pydantic.ValidationError
        A value is not valid for the factor.
    """
    return axis if isinstance(axis, tuple) else _typed(factor, axis.values())


def typed_bounds(factor: str, axis: RandomAxis) -> tuple[Scalar, ...]:
    """Return the bounds of an axis of a sampled grid, checked like `typed_values`."""
    return _typed(factor, axis.bounds())


@lru_cache(maxsize=4)
def grid_columns(grid: GridSection) -> dict[str, tuple[Scalar, ...]]:
    """Return the values of each axis, one per model: all columns are equally long.

    A product is in the order written, the last axis fastest. In a sampled grid the draw of an axis for a
    model is keyed by the grid's seed, the axis' name and the model's number: neither another axis nor a
    larger count changes it.
    """
    axes: dict[str, AnyAxis] = {name: getattr(grid, name) for name in grid.order}
    if grid.sample is not None:
        count, seed = grid.sample.count, grid.sample.seed
        return {name: _sample(name, axis, count, seed) for name, axis in axes.items()}
    values = {
        name: tuple(range(axis.per_combination)) if isinstance(axis, OwnSeeds) else typed_values(name, axis)
        for name, axis in axes.items()
    }
    columns = dict(zip(values, zip(*itertools.product(*values.values()), strict=True), strict=True)) if values else {}
    if isinstance(own := axes.get("seed"), OwnSeeds):
        columns["seed"] = _own_seeds(own, columns)
    return columns


def _own_seeds(own: OwnSeeds, columns: dict[str, tuple[Scalar, ...]]) -> tuple[Scalar, ...]:
    """Replace the number of each seed within its combination by the seed itself."""
    others = sorted(set(columns) - {"seed"})
    drawn: dict[tuple[Scalar, ...], tuple[int, ...]] = {}
    seeds = []
    for number, *values in zip(columns["seed"], *(columns[name] for name in others), strict=True):
        combination = tuple(values)
        if combination not in drawn:
            drawn[combination] = own.draw(canonical_json(dict(zip(others, values, strict=True))))
        seeds.append(drawn[combination][int(number)])
    return tuple(seeds)


def _sample(factor: str, axis: AnyAxis, count: int, seed: int) -> tuple[Scalar, ...]:
    keys = (f"sample {seed}\n{factor}\n{number}" for number in range(count))
    if isinstance(axis, RandomAxis):
        return _typed(factor, tuple(axis.draw(key) for key in keys))
    assert not isinstance(axis, OwnSeeds)
    values = sorted(typed_values(factor, axis), key=sort_key)  # the order written does not matter
    return tuple(draw_from(values, key) for key in keys)


def _typed(factor: str, values: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    adapter: TypeAdapter[Scalar] = TypeAdapter(FACTORS[factor][1])
    return tuple(adapter.validate_python(value, strict=True) for value in values)


def model_rows(spec: ZooSpec) -> list[dict[str, Scalar]]:
    """Return all factors of every model, in the order of the grid.

    In a sampled grid a factor that has no effect on a drawn model takes its default, so that it is not
    part of the model's identity: `init_std` where the initialisation has its own scale, momentum without sgd,
    nesterov without momentum.
    """
    columns = grid_columns(spec.grid)
    constant = {name: spec.factor_values(name)[0] for name in FACTORS if name not in columns}
    default_momenta = "momentum" not in columns and spec.training.momentum is None
    rows: list[dict[str, Scalar]] = []
    for values in zip(*columns.values(), strict=True) if columns else [()]:
        row = constant | dict(zip(columns, values, strict=True))
        if default_momenta or (spec.grid.sample is not None and row["optimizer"] != "sgd"):
            row["momentum"] = default_momentum(str(row["optimizer"]))
        if spec.grid.sample is not None:
            if not uses_std(row["init"], row["bias_init"]):
                row["init_std"] = DEFAULTS["init_std"]
            if row["momentum"] == 0 or row["optimizer"] != "sgd":
                row["nesterov"] = False
        rows.append(row)
    return rows
