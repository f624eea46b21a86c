"""Find models in a preprocessed weight dataset: one pickle of objects whose classes no longer import.

The file is ``{"trainset": ..., "valset": ..., "testset": ...}``. Of each object only plain attributes are used:
``data``, ``paths``, ``epochs``, ``properties``. Nothing in the pickle is imported or called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.interop.folder import SourceFolder, whole_number
from zookeeper.interop.matrix import describe_columns, matrix_source
from zookeeper.interop.names import Recognised, shapes_of
from zookeeper.interop.pickles import Stub
from zookeeper.interop.source import (
    Array,
    ImportOptions,
    Source,
    Tally,
    check_floats,
    hashed_id,
    identify,
    plain_columns,
)
from zookeeper.interop.tensors import load_torch, named_arrays

_MAX_BYTES = 1 << 36
_SETS = {"trainset": "train", "valset": "val", "testset": "test"}


@dataclass
class _Found:
    """Checkpoints of all sets, one entry per row."""

    ids: list[str] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    sides: list[str] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    properties: list[dict[str, Any]] = field(default_factory=list)


def find_dataset_pt(path: Path, options: ImportOptions) -> Source:
    """List the models of ``dataset.pt``, a file or the folder that holds it; the stored split is kept.

    Flat weights are taken in the order layer by layer, weight then bias, which is the order of our layouts;
    name the architecture, or they stay one block.

    Raises
    ------
    InputError
        If no set is in the file, or its lists do not fit each other.
    """
    folder = SourceFolder(path if path.is_dir() else path.parent)
    file = folder.admit(path / "dataset.pt" if path.is_dir() else path)
    value, skipped, found = load_torch(file, stubs=True, max_bytes=_MAX_BYTES), Tally(), _Found()
    sets = {} if not isinstance(value, dict) else {name: value[name] for name in _SETS if value.get(name) is not None}
    if not sets:
        raise InputError(f"{file}: expected a dict with {', '.join(_SETS)}, got a {type(value).__name__}.")
    for name, entry in sets.items():
        _read_set(found, name, entry, skipped, str(file))
    if not found.rows:
        raise InputError(f"{file}: the sets hold no weights. Is it a data set of images?")
    rows, network = _join(found.rows, options, str(file))
    columns = {**plain_columns(pd.DataFrame(found.properties)), "split": found.sides}
    return matrix_source(
        "dataset-pt", path, rows, found.ids, found.epochs, columns, network, options, skipped, None, None
    )


def _read_set(found: _Found, name: str, entry: Any, skipped: Tally, where: str) -> None:
    attributes = _attributes(entry)
    data = next((attributes[key] for key in ("data", "data_in", "weights") if attributes.get(key) is not None), None)
    if data is None and not isinstance(entry, dict | Stub):
        data = entry
    if not isinstance(data, list | tuple | np.ndarray):
        raise InputError(f"{where}: {name} has no list or tensor 'data' but {sorted(map(str, attributes))[:8]}.")
    paths, epochs = attributes.get("paths"), attributes.get("epochs")
    properties = attributes.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    for key in sorted(map(str, set(attributes) - {"data", "data_in", "weights", "paths", "epochs", "properties"})):
        skipped.add("attribute that is not weights or properties", f"{name}.{key}")
    for number, item in enumerate(data):
        nested = isinstance(item, list | tuple)
        checkpoints = item if nested else [item]
        given = _at(epochs, number)
        own = list(given) if isinstance(given, list | tuple | np.ndarray) else [given]
        for place, checkpoint in enumerate(checkpoints):
            epoch = own[place] if place < len(own) and own[place] is not None else (place if nested else 0)
            path = _at(paths, number)
            label = str(path) if isinstance(path, str) else f"{name}-{number:06d}"
            values = {str(key): _scalar(_at(_at(column, number), place)) for key, column in properties.items()}
            _append(found, label, epoch, _SETS[name], checkpoint, values, where)


def _append(
    found: _Found, label: str, epoch: Any, side: str, checkpoint: Any, values: dict[str, Any], where: str
) -> None:
    number = epoch.item() if isinstance(epoch, np.ndarray | np.generic) and epoch.size == 1 else epoch
    found.ids.append(label if label.startswith(tuple(_SETS)) else hashed_id(label))
    found.epochs.append(whole_number(number, f"{where}: {label}: epoch"))
    found.sides.append(side)
    found.rows.append(checkpoint)
    found.properties.append({key: value for key, value in values.items() if value is not None})


def _join(checkpoints: Sequence[Any], options: ImportOptions, where: str) -> tuple[Array, Recognised]:
    """All checkpoints as one matrix, and what its columns are."""
    dtype = options.dtype
    if isinstance(checkpoints[0], Mapping):
        states = [check_floats(named_arrays(state, where), where, dtype) for state in checkpoints]
        network = identify(shapes_of(states[0]), options, None, where)
        shapes = shapes_of(states[0])
        if any(shapes_of(state) != shapes for state in states):
            raise InputError(f"{where}: checkpoints of several architectures; expected one.")
        rows = np.stack([network.layout.flatten(network.rename(state)) for state in states])
        return rows, replace(network, keys=tuple((block.name, block.name) for block in network.layout.blocks))
    for checkpoint in checkpoints:
        if not isinstance(checkpoint, np.ndarray) or checkpoint.ndim != 1 or checkpoint.shape != checkpoints[0].shape:
            raise InputError(f"{where}: a checkpoint is no flat tensor of {np.shape(checkpoints[0])} numbers; refused.")
    rows = check_floats({"weights": np.stack(checkpoints)}, where, dtype)["weights"]
    return rows, describe_columns(rows.shape[1], options, None, where)


def _attributes(entry: Any) -> dict[str, Any]:
    if isinstance(entry, Stub):
        return entry.state
    return dict(entry) if isinstance(entry, dict) else {}


def _at(values: Any, place: int) -> Any:
    """Entry of a list or array; None beyond its end, the value itself if it is no list."""
    if not isinstance(values, list | tuple | np.ndarray) or np.ndim(values) == 0:
        return values
    return values[place] if place < len(values) else None


def _scalar(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.item() if value.size == 1 else None
    return value if isinstance(value, str | int | float | bool) else None
