"""Rows of weights of any origin become a zoo."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.collection import store_collection
from zookeeper.store.encoding import PLAIN, Encoding, Floats
from zookeeper.store.header import ImageShape, ZooHeader
from zookeeper.zoo.opening import open
from zookeeper.zoo.view import Zoo


def write_rows(
    path: str | Path,
    rows: npt.ArrayLike,
    frame: pd.DataFrame | Mapping[str, Any] | None,
    layout: WeightLayout,
    *,
    kind: str = "sampled",
    name: str | None = None,
    image: ImageShape | None = None,
    provenance: Mapping[str, Any] | None = None,
    store: Encoding = PLAIN,
) -> Zoo:
    """Store rows of weights as a new zoo, complete or not at all, and open it.

    Parameters
    ----------
    rows
        Weights [N, P] of any origin; taken as float32, or as float64 if that is what ``store`` keeps.
    frame
        N lines of columns. ``model_id`` defaults to a hash of row and row number, ``epoch`` to 0, ``status``
        to ``diverged`` where a weight is not finite. ``architecture`` and ``activation`` are needed by
        `Zoo.network`.
    layout
        What the columns are.
    image
        The images the networks take, such as ``other_zoo.image``.
    provenance
        Where the rows come from, as plain JSON values.
    store
        How rows become bytes; default float32 in Parquet.

    Raises
    ------
    InputError
        If ``path`` is taken, or shapes do not fit.
    StoreError
        If writing fails; nothing appears at ``path``.

    Examples
    --------
    >>> import tempfile
    >>> layout = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight")})
    >>> folder = tempfile.TemporaryDirectory()
    >>> zoo = write_rows(Path(folder.name) / "a", np.ones((4, 6)), {"test_acc": [0.1, 0.2, 0.3, 0.4]}, layout)
    >>> len(zoo.query("test_acc > .25")), zoo.weights().shape
    (2, (4, 6))
    >>> folder.cleanup()
    """
    double = store.dtype == "float64"
    matrix: Floats = np.ascontiguousarray(rows, np.float64) if double else np.ascontiguousarray(rows, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != layout.num_weights:
        raise InputError(f"rows: expected an array [N, {layout.num_weights}], got {list(matrix.shape)}.")
    table = pd.DataFrame({} if frame is None else frame).reset_index(drop=True)
    if frame is not None and len(table) != len(matrix):
        raise InputError(f"frame: expected {len(matrix)} lines, one per row, got {len(table)}.")
    if "model_id" not in table.columns:
        table["model_id"] = [_row_id(number, row) for number, row in enumerate(matrix)]
    if "epoch" not in table.columns:
        table["epoch"] = np.zeros(len(matrix), np.int64)
    root = Path(path)
    header = ZooHeader(
        name=name or root.name,
        cohorts={},
        layouts={layout.digest: layout.to_json()},
        image=image,
        kind=kind,
        provenance=dict(provenance or {}),
        store=store,
    )
    store_collection(root, header, matrix, table, layout.digest)
    return open(root)


def _row_id(number: int, row: npt.NDArray[Any]) -> str:
    return hashlib.sha256(number.to_bytes(8, "little") + row.tobytes()).hexdigest()[:16]
