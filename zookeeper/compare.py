"""Say whether two zoos are the same: every bit of every weight, every metric, every factor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from zookeeper.store.header import differences
from zookeeper.zoo import Zoo

_BATCH = 1024


def compare_zoos(first: Zoo, second: Zoo) -> tuple[str, ...]:
    """Return one line per kind of difference; empty exactly when the zoos are equal.

    Compared are names, models, epochs, layouts, images, spec (but not how it is stored), the table and
    the bits of the weights in double precision; not compared are files, blocks, encoding, provenance and creation time.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from zookeeper import Encoding, WeightLayout, write_rows
    >>> layout, folder = WeightLayout.from_shapes({"fc.weight": ((1, 3), "weight")}), tempfile.TemporaryDirectory()
    >>> rows = np.float32([[1, 2, 3], [4, 5, 6.001]])
    >>> a = write_rows(Path(folder.name) / "a", rows, None, layout, name="toy")
    >>> b = write_rows(Path(folder.name) / "b", rows, None, layout, name="toy", store=Encoding("hdf5"))
    >>> compare_zoos(a, b)
    ()
    >>> c = write_rows(Path(folder.name) / "c", rows, None, layout, name="toy", store=Encoding(dtype="float16"))
    >>> compare_zoos(a, c)
    ('weights: 1 of 2 checkpoints differ, first model 26e20397b422ae08 epoch 0',)
    >>> folder.cleanup()
    """
    return (*_header_lines(first, second), *_row_lines(first, second))


def assert_equal(first: Zoo, second: Zoo) -> None:
    """Raise AssertionError with every difference that `compare_zoos` finds."""
    if lines := compare_zoos(first, second):
        raise AssertionError(f"{first.path} and {second.path} differ: {'; '.join(lines)}")


def _header_lines(first: Zoo, second: Zoo) -> Iterator[str]:
    one, other = first.header.content(), second.header.content()
    for content in (one, other):
        content.pop("store", None)
        content["spec"] = {key: entry for key, entry in (content["spec"] or {}).items() if key != "store"}
        content["epochs"] = {model: c["epochs"] for c in content.pop("cohorts").values() for model in c["models"]}
    yield from differences(one, other)


def _row_lines(first: Zoo, second: Zoo) -> Iterator[str]:
    if len(first) != len(second):
        yield f"{len(first):,} checkpoints against {len(second):,}"
        return
    one, other = first.frame, second.frame
    if list(one.columns) != list(other.columns):
        yield f"columns {', '.join(one.columns)} against {', '.join(other.columns)}"
        return
    for name in one.columns:
        if not _same_column(one[name], other[name]):
            yield f"column {name}"
    wrong = [number for start in range(0, len(first), _BATCH) for number in _different_rows(first, second, start)]
    if wrong:
        line = one.iloc[wrong[0]]
        where = f"first model {line['model_id']} epoch {line['epoch']}"
        yield f"weights: {len(wrong):,} of {len(first):,} checkpoints differ, {where}"


def _same_column(one: pd.Series, other: pd.Series) -> bool:
    if one.dtype != other.dtype or not one.isna().equals(other.isna()):
        return False
    if one.dtype.kind == "f":
        return one.to_numpy().tobytes() == other.to_numpy().tobytes()
    return bool((one[one.notna()].to_numpy() == other[other.notna()].to_numpy()).all())


def _different_rows(first: Zoo, second: Zoo, start: int) -> list[int]:
    """Rows of a batch whose bits differ; views of several layouts go layout by layout."""
    stop = min(start + _BATCH, len(first))
    one, other = first[start:stop], second[start:stop]
    mine, theirs = one.layout_digests, other.layout_digests
    wrong = mine != theirs
    for digest in np.unique(mine[~wrong]):
        here = np.flatnonzero((mine == digest) & ~wrong)
        left, right = (zoo.take(here).weights_float64().view(np.uint64) for zoo in (one, other))
        wrong[here] |= (left != right).any(axis=1)
    return (np.flatnonzero(wrong) + start).tolist()
