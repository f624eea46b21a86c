"""Mean and spread of the weights of every layer, measured on the train split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import torch

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightBlock, WeightLayout

_CHUNK = 1024
Granularity = Literal["layer", "block"]


@dataclass(frozen=True)
class Scaling:
    """One mean and one standard deviation per group of columns.

    A group is a layer (weights and bias together) or one block of a normalisation layer; with ``by="block"``
    every block is a group, so biases, which are small beside weights, get a scale of their own. All columns
    of a group share the two numbers, so scaling commutes with every permutation of units.
    Both are plain floats, so a scaling is stored as JSON without loss.

    Examples
    --------
    >>> layout = WeightLayout.from_shapes({"a.weight": ((1, 2), "weight"), "b.weight": ((1, 1), "weight")})
    >>> scaling = Scaling.fit(torch.tensor([[1.0, 3.0, 5.0], [1.0, 3.0, 9.0]]), layout)
    >>> scaling.means, scaling.stds
    ((2.0, 7.0), (1.0, 2.0))
    >>> scaling.normalise(torch.tensor([[1.0, 3.0, 5.0]])).tolist()
    [[-1.0, 1.0, -1.0]]
    """

    layout: WeightLayout
    means: tuple[float, ...]
    stds: tuple[float, ...]
    by: Granularity = "layer"

    def __post_init__(self) -> None:
        expected = len(scaling_groups(self.layout, self.by))
        if not len(self.means) == len(self.stds) == expected:
            raise InputError(
                f"scaling: {len(self.means)} means and {len(self.stds)} deviations; expected {expected}, one per group "
                "of the layout. Check that the scaling belongs to this layout."
            )
        if not (np.isfinite(self.means).all() and np.isfinite(self.stds).all() and min(self.stds) > 0):
            raise InputError("scaling: expected finite means and positive finite deviations.")

    @classmethod
    def fit(cls, rows: torch.Tensor, layout: WeightLayout, by: Granularity = "layer") -> Scaling:
        """Measure rows ``[N, P]`` of the train split, in float64; a constant group gets deviation 1.

        Raises
        ------
        InputError
            If there is no row, the width is wrong, or a weight is not finite.
        """
        if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] != layout.num_weights:
            raise InputError(f"scaling: rows have shape {tuple(rows.shape)}; expected [N >= 1, {layout.num_weights}].")
        groups = scaling_groups(layout, by)
        group_of_column = torch.from_numpy(_spread(layout, np.arange(len(groups)), by)).to(rows.device)
        counts = torch.bincount(group_of_column, minlength=len(groups)).double() * rows.shape[0]

        def total(columns: torch.Tensor) -> torch.Tensor:
            zeros = torch.zeros(len(groups), dtype=torch.float64, device=rows.device)
            return zeros.index_add(0, group_of_column, columns)

        means = total(sum_over_rows(rows)) / counts
        stds = (total(sum_over_rows(rows, about=means[group_of_column])) / counts).sqrt()
        if not bool(torch.isfinite(stds).all()):
            bad = [name for name, std in zip(groups, stds.tolist(), strict=True) if not np.isfinite(std)]
            raise InputError(
                f"scaling: weights of {', '.join(bad)} are not finite. Leave diverged models out (status == 'ok')."
            )
        stds = torch.where(stds > 0, stds, torch.ones_like(stds))
        return cls(layout, tuple(means.tolist()), tuple(stds.tolist()), by)

    @classmethod
    def identity(cls, layout: WeightLayout) -> Scaling:
        """Mean 0 and deviation 1 everywhere."""
        num_groups = len(scaling_groups(layout))
        return cls(layout, (0.0,) * num_groups, (1.0,) * num_groups)

    @cached_property
    def mean_columns(self) -> torch.Tensor:
        """Mean of every column's group, float32 ``[P]``."""
        return torch.from_numpy(_spread(self.layout, np.array(self.means, dtype=np.float32), self.by))

    @cached_property
    def std_columns(self) -> torch.Tensor:
        """Deviation of every column's group, float32 ``[P]``."""
        return torch.from_numpy(_spread(self.layout, np.array(self.stds, dtype=np.float32), self.by))

    @property
    def is_identity(self) -> bool:
        """Whether scaling changes nothing."""
        return set(self.means) == {0.0} and set(self.stds) == {1.0}

    def normalise(self, rows: torch.Tensor) -> torch.Tensor:
        """Subtract the mean and divide by the deviation, rows ``[N, P]``."""
        if self.is_identity:
            return rows
        return (rows - self.mean_columns.to(rows.device)) / self.std_columns.to(rows.device)

    def denormalise(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply by the deviation and add the mean, rows ``[N, P]``; the inverse of `normalise` up to rounding."""
        if self.is_identity:
            return rows
        return torch.addcmul(self.mean_columns.to(rows.device), rows, self.std_columns.to(rows.device))

    def to_json(self) -> dict[str, Any]:
        """Plain values for storage; `from_json` restores an equal scaling."""
        groups = scaling_groups(self.layout, self.by)
        return {
            "version": 1,
            "by": self.by,
            "groups": [
                {"name": name, "mean": mean, "std": std}
                for name, mean, std in zip(groups, self.means, self.stds, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], layout: WeightLayout) -> Scaling:
        """Restore a scaling from `to_json`.

        Raises
        ------
        InputError
            If the version is unknown or the groups are not the layout's.
        """
        if value.get("version") != 1:
            raise InputError(f"scaling: unknown version {value.get('version')!r}; expected 1.")
        by = value.get("by", "layer")
        if by not in ("layer", "block"):
            raise InputError(f"scaling: unknown granularity {by!r}; expected layer or block.")
        groups = cast(list[dict[str, Any]], value["groups"])
        names = tuple(group["name"] for group in groups)
        if names != scaling_groups(layout, by):
            raise InputError(f"scaling: groups are {names}; expected {scaling_groups(layout, by)}.")
        return cls(layout, tuple(float(g["mean"]) for g in groups), tuple(float(g["std"]) for g in groups), by)


def scaling_groups(layout: WeightLayout, by: Granularity = "layer") -> tuple[str, ...]:
    """Names of the groups in column order: a layer's name, or a block's (always so for normalisation layers)."""
    return tuple(dict.fromkeys(_group_of(block, by) for block in layout.blocks))


def sum_over_rows(rows: torch.Tensor, about: torch.Tensor | None = None) -> torch.Tensor:
    """Sum each column of ``[N, P]`` in float64, or its squared deviation from ``about[P]``, in chunks of rows."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for chunk in torch.split(rows, _CHUNK):
        values = chunk.double()
        total += values.sum(0) if about is None else (values - about).square_().sum(0)
    return total


def _group_of(block: WeightBlock, by: Granularity) -> str:
    return block.layer if by == "layer" and block.kind in ("weight", "bias") else block.name


def _spread(layout: WeightLayout, per_group: np.ndarray, by: Granularity) -> np.ndarray:
    """Repeat one value per group over the group's columns."""
    number = {name: i for i, name in enumerate(scaling_groups(layout, by))}
    columns = np.empty(layout.num_weights, dtype=per_group.dtype)
    for block in layout.blocks:
        columns[block.columns] = per_group[number[_group_of(block, by)]]
    return columns
