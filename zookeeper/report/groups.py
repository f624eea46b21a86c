"""Group models by a factor: one group per value, or ranges of values where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.query import suggest
from zookeeper.report.svg import short

MOST_GROUPS = 8
_ACCURACIES = ("test_acc", "val_acc", "train_acc")


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """A factor's groups: ``labels`` [G], and the group of every line, int64 [N], -1 for those without a value.

    ``ordered`` says that the groups follow a number.
    """

    factor: str
    labels: tuple[str, ...]
    members: npt.NDArray[np.int64]
    ordered: bool


def accuracy_column(frame: pd.DataFrame) -> str | None:
    """The accuracy to show: of test images if stored, else validation, else train, else None.

    >>> accuracy_column(pd.DataFrame({"test_acc": [float("nan")], "val_acc": [0.5]}))
    'val_acc'
    """
    for name in _ACCURACIES:
        if name in frame and np.isfinite(frame[name].to_numpy(dtype=np.float64)).any():
            return name
    return None


def group_by(frame: pd.DataFrame, factor: str) -> Groups:
    """Group the lines of a frame by a column, in at most eight groups.

    Many numbers become ranges with about the same number of lines; of many names the most frequent stay and the
    others become one group.

    Raises
    ------
    InputError
        If there is no such column.

    Examples
    --------
    >>> groups = group_by(pd.DataFrame({"lr": [0.1, 0.01, 0.1, None]}), "lr")
    >>> groups.labels, groups.members.tolist()
    (('0.01', '0.1'), [1, 0, 1, -1])
    >>> group_by(pd.DataFrame({"seed": range(100)}), "seed").labels[:2]
    ('0 to 11', '12 to 24')
    """
    if factor not in frame:
        raise InputError(f"--color: unknown column {factor!r}. {suggest(factor, frame.columns)}")
    column = frame[factor]
    numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
    if not numeric:
        return _by_name(factor, column)
    values = column.to_numpy(dtype=np.float64)
    known = np.unique(values[~np.isnan(values)])
    if len(known) <= MOST_GROUPS:
        members = np.searchsorted(known, values)
        labels = tuple(short(value) for value in known)
    else:
        edges = np.unique(np.nanquantile(values, np.linspace(0, 1, MOST_GROUPS + 1)[1:-1], method="nearest"))
        members = np.searchsorted(edges, values, side="right")
        _, members = np.unique(members, return_inverse=True)  # no empty range
        parts = [values[(members == number) & ~np.isnan(values)] for number in range(int(members.max()) + 1)]
        labels = tuple(_range(part.min(), part.max()) for part in parts if len(part))
    return Groups(factor, labels, np.where(np.isnan(values), -1, members).astype(np.int64), True)


def varying_factors(models: pd.DataFrame, factors: Sequence[str]) -> tuple[str, ...]:
    """Factors that have more than one value."""
    return tuple(name for name in factors if models[name].nunique(dropna=False) > 1)


def explained(values: npt.NDArray[np.float64], groups: Groups) -> float:
    """Share of the variance of ``values`` [N] that lies between a factor's groups; 0 if there is no variance.

    >>> groups = group_by(pd.DataFrame({"init": ["a", "a", "b", "b"]}), "init")
    >>> explained(np.array([1.0, 1.0, 3.0, 3.0]), groups), explained(np.array([1.0, 3.0, 1.0, 3.0]), groups)
    (1.0, 0.0)
    """
    here = np.isfinite(values) & (groups.members >= 0)
    values, members = values[here], groups.members[here]
    if len(values) < 2 or values.var() == 0:
        return 0.0
    counts = np.bincount(members, minlength=len(groups.labels))
    sums = np.bincount(members, weights=values, minlength=len(groups.labels))
    means = sums / np.maximum(counts, 1)
    return float((counts * (means - values.mean()) ** 2).sum() / len(values) / values.var())


def _range(low: float, high: float) -> str:
    return short(low) if low == high else f"{short(low)} to {short(high)}"


def _by_name(factor: str, column: pd.Series) -> Groups:
    text = column.astype("object").where(column.notna(), None)
    counts = text.dropna().astype(str).value_counts()
    names = sorted(map(str, counts.index))
    if len(names) > MOST_GROUPS:
        names = [*map(str, counts.index[: MOST_GROUPS - 1])]
    numbers = {name: number for number, name in enumerate(names)}
    others = len(counts) > len(names)
    labels = (*names, f"{len(counts) - len(names):,} others") if others else tuple(names)
    members = [-1 if entry is None else numbers.get(str(entry), len(names)) for entry in text]
    return Groups(factor, labels, np.array(members, np.int64), False)
