"""Find models in ``weights.npy`` [N, P] beside a table of N lines (.csv or .parquet), as an export writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zookeeper.errors import InputError
from zookeeper.interop.arrays import map_npy
from zookeeper.interop.folder import SourceFolder, read_bytes, whole_number
from zookeeper.interop.names import Recognised, recognise
from zookeeper.interop.sidecar import Sidecar, read_sidecar, read_table
from zookeeper.interop.source import (
    Array,
    FoundModel,
    ImportOptions,
    Source,
    Tally,
    check_floats,
    find_licence,
    frame_columns,
    plain_columns,
    source_name,
    stored_dtype,
)
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network

_TABLES = ("metrics.parquet", "metrics.csv", "metrics.csv.gz", "table.csv", "table.parquet")


def find_npy(root: Path, options: ImportOptions) -> Source:
    """List the models of a matrix; its columns are in the order of the sidecar's layout or of the architecture.

    Without either, columns stay one block named ``flat.weight``. Lines without ``model_id`` are models of
    their own.

    Raises
    ------
    InputError
        If matrix and table do not fit each other.
    """
    folder = SourceFolder(root)
    sidecar = read_sidecar(folder)
    weights_path, table_path = folder.find("weights.npy"), folder.find(*_TABLES)
    if weights_path is None or table_path is None:
        raise InputError(f"{root}: expected weights.npy beside one of {', '.join(_TABLES)}.")
    weights = map_npy(weights_path)
    table = read_table(table_path, read_bytes(table_path), sidecar)
    if weights.ndim != 2 or len(weights) != len(table) or len(table) == 0 or weights.shape[1] == 0:
        raise InputError(
            f"{weights_path}: shape {list(weights.shape)} and a table of {len(table):,} lines; expected a line per row."
        )
    network = describe_columns(weights.shape[1], options, sidecar, str(weights_path))
    columns = plain_columns(table) if sidecar is None else frame_columns(table, sidecar)
    width = len(str(len(table)))
    ids = (
        list(map(str, table["model_id"])) if "model_id" in table else [f"row-{n:0{width}d}" for n in range(len(table))]
    )
    epochs = [0] * len(table)
    if "epoch" in table:
        epochs = [whole_number(value, f"{table_path}: epoch") for value in table["epoch"].tolist()]
    return matrix_source(
        "npy", root, weights, ids, epochs, columns, network, options, Tally(), sidecar, find_licence(folder)
    )


def matrix_source(
    format: str,
    root: Path,
    weights: Array,
    ids: list[str],
    epochs: list[int],
    columns: dict[str, Any],
    network: Recognised,
    options: ImportOptions,
    skipped: Tally,
    sidecar: Sidecar | None,
    licence: str | None,
) -> Source:
    """A source whose models are rows of one matrix, in the column order of ``network.layout``."""
    groups: dict[str, dict[int, int]] = {}
    for number, (model_id, epoch) in enumerate(zip(ids, epochs, strict=True)):
        own = groups.setdefault(model_id, {})
        if epoch in own:
            raise InputError(f"{root}: model {model_id!r} at epoch {epoch} is there twice; expected each once.")
        own[epoch] = number
    known = {} if network.architecture is None or "architecture" in columns else {"architecture": network.architecture}
    models = tuple(
        FoundModel(model_id, tuple(sorted(own)), network, known, [own[epoch] for epoch in sorted(own)])
        for model_id, own in groups.items()
    )

    def read(model: FoundModel) -> tuple[dict[str, Array], dict[str, Any]]:
        rows = np.asarray(weights[model.handle])
        arrays = check_floats({"weights": rows}, f"{root}: {model.model_id}", stored_dtype(options, sidecar))
        picked = {
            name: values[model.handle] if isinstance(values, np.ndarray) else [values[n] for n in model.handle]
            for name, values in columns.items()
        }
        return network.layout.unflatten(arrays["weights"]), picked

    return Source(
        format, source_name(root), models, read, skipped, None, sidecar, {"licence": licence}, "split" in columns
    )


def describe_columns(width: int, options: ImportOptions, sidecar: Sidecar | None, where: str) -> Recognised:
    """What the columns of a flat matrix are: as the sidecar or the named architecture says, else one block."""
    if sidecar is not None and len(sidecar.layouts) == 1:
        layout = sidecar.layouts[0]
    elif options.architecture is not None:
        if options.image is None:
            raise InputError(f"{where}: --architecture needs --image NAME:CxHxW:K for a flat matrix.")
        image = options.image
        layout = WeightLayout.of(
            build_network(
                options.architecture,
                in_channels=image.channels,
                image_size=(image.height, image.width),
                num_classes=image.num_classes,
            )
        )
    else:
        layout = WeightLayout.from_shapes({"flat.weight": ((1, width), "weight")})
    if layout.num_weights != width:
        raise InputError(f"{where}: rows of {width:,} weights; expected {layout.num_weights:,}, as the layout has.")
    if options.architecture is None:
        return Recognised(None, layout, tuple((block.name, block.name) for block in layout.blocks))
    shapes = tuple((block.name, block.shape) for block in layout.blocks)
    return recognise(shapes, options.architecture)
