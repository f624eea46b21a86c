"""How two zoos differ, and by how much: specs, models, checkpoints, metrics, weights.

`zookeeper.compare` answers yes or no for zoos that should be equal to the bit; this pairs checkpoints by
(model, epoch), so that zoos of different size or progress can be put beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from zookeeper.zoo import Zoo

Positions = npt.NDArray[np.int64]
_BATCH_FLOATS = 1 << 21
_KEY = ["model_id", "epoch"]
_NOT_COMPARED = ("wall_time", "cohort")


@dataclass(frozen=True, slots=True)
class Change:
    """A place of the header and its value in either zoo, None where one has none."""

    place: str
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """Checkpoints of both zoos in which a column differs: how many, by how much at most, and where that is.

    ``largest`` is an absolute difference, NaN where values have none: text, NaN against a number, or weights
    of another layout.
    """

    column: str
    num_checkpoints: int
    largest: float
    model_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ZooDifference:
    """Everything that `find_differences` found."""

    changes: tuple[Change, ...]
    columns_first: tuple[str, ...]
    columns_second: tuple[str, ...]
    models_first: tuple[str, ...]
    models_second: tuple[str, ...]
    checkpoints_first: int
    checkpoints_second: int
    num_shared: int
    columns: tuple[ColumnDifference, ...]
    weights: ColumnDifference | None

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.weights is None and not (
            self.changes
            or self.columns_first
            or self.columns_second
            or self.checkpoints_first
            or self.checkpoints_second
            or self.columns
        )


def find_differences(first: Zoo, second: Zoo) -> ZooDifference:
    """Compare two zoos checkpoint by checkpoint, with bounded memory for weights.

    Not compared are how a zoo is built and stored (sections ``build`` and ``store`` of its spec, cohorts, encoding),
    wall times, provenance and creation time. NaN equals NaN; weights are compared in double precision.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from zookeeper import WeightLayout, write_rows
    >>> layout, folder = WeightLayout.from_shapes({"fc.weight": ((1, 2), "weight")}), tempfile.TemporaryDirectory()
    >>> table = {"model_id": ["a", "b"], "test_acc": [0.5, 0.6]}
    >>> one = write_rows(Path(folder.name) / "one", [[1, 2], [3, 4]], table, layout, name="toy")
    >>> table = {"model_id": ["b", "c"], "test_acc": [0.5, 0.6]}
    >>> two = write_rows(Path(folder.name) / "two", [[3, 4.5], [5, 6]], table, layout, name="toy")
    >>> found = find_differences(one, two)
    >>> found.models_first, found.models_second, found.num_shared, found.weights.largest
    (('a',), ('c',), 1, 0.5)
    >>> found.columns[0].column, round(found.columns[0].largest, 6), find_differences(one, one).equal
    ('test_acc', 0.1, True)
    >>> folder.cleanup()
    """
    left, right = first.frame, second.frame
    numbered = [frame[_KEY].assign(position=np.arange(len(frame))) for frame in (left, right)]
    pairs = numbered[0].merge(numbered[1], on=_KEY, suffixes=("_first", "_second"))
    mine, theirs = (pairs[f"position_{side}"].to_numpy(dtype=np.int64) for side in ("first", "second"))
    shared = [name for name in left.columns if name in right.columns and name not in (*_KEY, *_NOT_COMPARED)]
    columns = (
        _column(left[name].iloc[mine], right[name].iloc[theirs], pairs[_KEY], name)
        for name in (str(entry) for entry in shared)
    )
    models = [dict.fromkeys(frame["model_id"].astype(str)) for frame in (left, right)]
    return ZooDifference(
        changes=tuple(_changes(_content(first), _content(second))),
        columns_first=_only(left, right),
        columns_second=_only(right, left),
        models_first=tuple(name for name in models[0] if name not in models[1]),
        models_second=tuple(name for name in models[1] if name not in models[0]),
        checkpoints_first=len(left) - len(pairs),
        checkpoints_second=len(right) - len(pairs),
        num_shared=len(pairs),
        columns=tuple(found for found in columns if found is not None),
        weights=_weights(first, second, mine, theirs),
    )


def _only(frame: pd.DataFrame, other: pd.DataFrame) -> tuple[str, ...]:
    return tuple(str(name) for name in frame.columns if name not in other.columns and name not in _NOT_COMPARED)


def _content(zoo: Zoo) -> dict[str, Any]:
    content = zoo.header.content()
    spec = {key: entry for key, entry in (content["spec"] or {}).items() if key not in ("build", "store")}
    layouts = {digest: layout["blocks"] for digest, layout in content["layouts"].items()}
    return {"name": content["name"], "kind": content["kind"], "spec": spec, "image": content["image"], **layouts}


def _changes(first: Any, second: Any, place: str = "") -> Iterator[Change]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            yield from _changes(first.get(key), second.get(key), f"{place}.{key}" if place else str(key))
    elif first != second or type(first) is not type(second):
        yield Change(place, first, second)


def _column(one: pd.Series, other: pd.Series, keys: pd.DataFrame, name: str) -> ColumnDifference | None:
    one, other = one.reset_index(drop=True), other.reset_index(drop=True)
    numeric = all(pd.api.types.is_numeric_dtype(side.dtype) for side in (one, other))
    if numeric:
        left, right = one.to_numpy(dtype=np.float64), other.to_numpy(dtype=np.float64)
        wrong = (left != right) & ~(np.isnan(left) & np.isnan(right))
        amounts = _distance(left, right)
    else:
        same = (one.astype(object) == other.astype(object)) | (one.isna() & other.isna())
        wrong, amounts = ~same.to_numpy(dtype=np.bool_), np.full(len(one), np.nan)
    return _worst(name, np.flatnonzero(wrong), amounts, keys)


def _distance(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Absolute differences; NaN where there is none to speak of: NaN or infinity on one side."""
    with np.errstate(invalid="ignore", over="ignore"):
        amounts: npt.NDArray[np.float64] = np.abs(left - right)
    amounts[~np.isfinite(amounts)] = np.nan
    return amounts


def _worst(
    name: str, wrong: npt.NDArray[np.intp], amounts: npt.NDArray[np.float64], keys: pd.DataFrame
) -> ColumnDifference | None:
    if len(wrong) == 0:
        return None
    here = amounts[wrong]
    place = int(wrong[0] if np.isnan(here).all() else wrong[int(np.nanargmax(here))])
    line = keys.iloc[place]
    return ColumnDifference(name, len(wrong), float(amounts[place]), str(line["model_id"]), int(line["epoch"]))


def _weights(first: Zoo, second: Zoo, mine: Positions, theirs: Positions) -> ColumnDifference | None:
    """Compare weights pair by pair, layout by layout; NaN for pairs of different layouts."""
    digests, others = first.layout_digests[mine], second.layout_digests[theirs]
    amounts = np.zeros(len(mine))
    wrong = digests != others
    amounts[wrong] = np.nan
    with tqdm(total=len(mine), desc="comparing weights", unit="checkpoint", delay=2, disable=None) as bar:
        bar.update(int(wrong.sum()))
        for digest in np.unique(digests[~wrong]):
            rows = np.flatnonzero((digests == digest) & (digests == others))
            step = max(1, _BATCH_FLOATS // first.take(mine[rows[:1]]).layout.num_weights)
            for start in range(0, len(rows), step):
                piece = rows[start : start + step]
                left, right = first.take(mine[piece]).weights_float64(), second.take(theirs[piece]).weights_float64()
                differ = (left != right) & ~(np.isnan(left) & np.isnan(right))
                wrong[piece] = differ.any(axis=1)
                distance = np.where(differ, _distance(left, right), np.nan)
                amounts[piece] = np.fmax.reduce(distance, axis=1)  # NaN only where all are
                bar.update(len(piece))
    frame = first.frame[_KEY].iloc[mine]
    return _worst("weights", np.flatnonzero(wrong), amounts, frame)
