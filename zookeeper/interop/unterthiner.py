"""Find the models of the small CNN zoo of Unterthiner et al. (2020): one matrix, kernels HWIO, biases first.

Kernels become OIHW, the dense kernel (in, out) becomes (out, in). A run is a ``modeldir``, an epoch its ``step``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.interop.arrays import map_npy
from zookeeper.interop.folder import SourceFolder, read_bytes, whole_number
from zookeeper.interop.names import recognise
from zookeeper.interop.sidecar import read_sidecar, read_table
from zookeeper.interop.source import (
    Array,
    FoundModel,
    ImportOptions,
    Source,
    Tally,
    check_floats,
    find_licence,
    frame_columns,
    hashed_id,
    plain_columns,
    source_name,
    stored_dtype,
)
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.header import ImageShape

ARCHITECTURE = "smallcnn-google"
WIDTH = 4970
# Name, and shape as stored: biases before kernels, layer by layer.
COLUMNS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("conv1.bias", (16,)),
    ("conv1.weight", (3, 3, 1, 16)),
    ("conv2.bias", (16,)),
    ("conv2.weight", (3, 3, 16, 16)),
    ("conv3.bias", (16,)),
    ("conv3.weight", (3, 3, 16, 16)),
    ("fc1.bias", (10,)),
    ("fc1.weight", (16, 10)),
)
RENAMED = {
    "config.activation": "activation",
    "config.b_init": "bias_init",
    "config.dropout": "dropout",
    "config.init_std": "init_std",
    "config.l2reg": "l2reg",
    "config.learning_rate": "lr",
    "config.optimizer": "optimizer",
    "config.random_seed": "seed",
    "config.train_fraction": "train_fraction",
    "config.w_init": "init",
    "test_accuracy": "test_acc",
    "test_loss": "test_loss",
    "train_accuracy": "train_acc",
    "train_loss": "train_loss",
}


def find_unterthiner(root: Path, options: ImportOptions) -> Source:
    """List the runs of one image set's folder.

    Raises
    ------
    InputError
        If matrix and metrics do not have the published form.
    """
    folder, skipped = SourceFolder(root), Tally()
    sidecar = read_sidecar(folder)
    weights_path, table_path = folder.find("weights.npy"), folder.find("metrics.csv.gz", "metrics.csv")
    if weights_path is None or table_path is None:
        raise InputError(f"{root}: expected weights.npy and metrics.csv.gz, the folder of one image set.")
    weights = map_npy(weights_path)
    table = read_table(table_path, read_bytes(table_path), sidecar)
    missing = [name for name in ("modeldir", "step") if name not in table.columns]
    if missing:
        raise InputError(f"{table_path}: no column {missing[0]!r}; expected the published metrics table.")
    if weights.shape != (len(table), WIDTH) or weights.dtype.newbyteorder("=") != np.float32:
        raise InputError(
            f"{weights_path}: {weights.dtype}{list(weights.shape)}; expected float32[{len(table)}, {WIDTH}], a row "
            "per line of the metrics."
        )
    steps = [whole_number(value, f"{table_path}: step") for value in table["step"].tolist()]
    groups: dict[str, dict[int, int]] = {}
    for number, (run, step) in enumerate(zip(map(str, table["modeldir"]), steps, strict=True)):
        if step in groups.setdefault(run, {}):
            skipped.add("repeated step of a run, the last counts", f"{run} step {step}")
        groups[run][step] = number
    columns = _columns(table) if sidecar is None else frame_columns(table, sidecar)
    side = 28 if "mnist" in root.resolve().name.lower() else 32
    network = recognise(tuple((name, torch_shape(shape)) for name, shape in _in_torch_order()), ARCHITECTURE)
    ids = {run: run if sidecar is not None else hashed_id(run) for run in groups}
    known = {} if "architecture" in columns else {"architecture": ARCHITECTURE}
    models = tuple(
        FoundModel(ids[run], tuple(sorted(own)), network, known, [own[step] for step in sorted(own)])
        for run, own in groups.items()
    )

    def read(model: FoundModel) -> tuple[dict[str, Array], dict[str, Any]]:
        rows = np.asarray(weights[model.handle])
        checked = check_floats({"weights": rows}, f"{root}: {model.model_id}", stored_dtype(options, sidecar))[
            "weights"
        ]
        picked = {name: [values[number] for number in model.handle] for name, values in columns.items()}
        return to_torch(checked), picked

    image = ImageShape(source_name(root), 1, side, side, 10, {"scaling": "[-1, 1]"})
    details = {"licence": find_licence(folder), "epoch": "training step, as published"}
    return Source("unterthiner", source_name(root), models, read, skipped, image, sidecar, details)


def to_torch(rows: Array) -> dict[str, Array]:
    """Published rows [E, 4970] as named tensors [E, ...] in torch's order of axes; `from_torch` is the inverse.

    >>> rows = np.arange(4970, dtype=np.float32)[None]
    >>> parts = to_torch(rows)
    >>> parts["conv1.weight"].shape, parts["conv1.weight"][0, 0, 0, :, 0].tolist()
    ((1, 16, 1, 3, 3), [16.0, 64.0, 112.0])
    >>> bool((from_torch(parts) == rows).all())
    True
    """
    parts, start = {}, 0
    for name, shape in COLUMNS:
        stop = start + int(np.prod(shape))
        parts[name] = np.moveaxis(
            rows[:, start:stop].reshape(len(rows), *shape), _TO_TORCH[len(shape)], _FIRST[len(shape)]
        )
        start = stop
    return parts


def from_torch(parts: dict[str, Array]) -> Array:
    """Named tensors [E, ...] as published rows [E, 4970]: biases first, kernels HWIO."""
    pieces = []
    for name, shape in COLUMNS:
        moved = np.moveaxis(parts[name], _FIRST[len(shape)], _TO_TORCH[len(shape)])
        pieces.append(moved.reshape(len(moved), -1))
    return np.concatenate(pieces, axis=1)


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a published kernel in torch's order of axes.

    >>> torch_shape((3, 3, 1, 16)), torch_shape((16, 10)), torch_shape((16,))
    ((16, 1, 3, 3), (10, 16), (16,))
    """
    return (shape[-1], shape[-2], *shape[:-2]) if len(shape) > 1 else shape


# Axes of [E, H, W, I, O] and [E, I, O] that come first in torch, and where they go.
_TO_TORCH = {1: [], 2: [2, 1], 4: [4, 3]}
_FIRST = {1: [], 2: [1, 2], 4: [1, 2]}


def _in_torch_order() -> list[tuple[str, tuple[int, ...]]]:
    pairs = [COLUMNS[number : number + 2] for number in range(0, len(COLUMNS), 2)]
    return [column for bias, kernel in pairs for column in (kernel, bias)]


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    """Factors and properties under bare names; the directory of the run stays as it is."""
    kept = table.drop(columns=["step"]).rename(columns=RENAMED)
    return plain_columns(kept)


def check_layout(layout: WeightLayout) -> bool:
    """Whether a zoo's networks are the ones this format holds."""
    wanted = {name: torch_shape(shape) for name, shape in COLUMNS}
    return {block.name: block.shape for block in layout.blocks} == wanted
