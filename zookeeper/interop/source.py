"""A set of models to import, as a value: what was found, what was left out and why, and how to read one."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.interop.folder import SourceFolder
from zookeeper.interop.names import Recognised, Shapes, natural_order, recognise, recognise_as
from zookeeper.interop.sidecar import Sidecar
from zookeeper.nets.registry import architecture_names
from zookeeper.store.header import ImageShape

Array = npt.NDArray[Any]
_RESERVED = frozenset({"weights", "cohort", "model_id", "epoch", "status", "split"})
_MAX_EXAMPLES = 5


@dataclass(frozen=True)
class ImportOptions:
    """What the user says about a source.

    Parameters
    ----------
    architecture
        Registered name, where shapes alone do not tell.
    image
        What images the networks take.
    name, licence, url
        Kept in the zoo.
    dtype
        Stored type of weights; None for what the source has.
    split
        Shares of train, val and test models for a source without a split; None for no split.
    skip_damaged
        Leave files out that cannot be read, and say so, instead of refusing the source.
    """

    architecture: str | None = None
    image: ImageShape | None = None
    name: str | None = None
    licence: str | None = None
    url: str | None = None
    dtype: str | None = None
    split: tuple[float, float, float] | None = (0.7, 0.15, 0.15)
    skip_damaged: bool = False


@dataclass
class Tally:
    """What was left out, by reason, with the first few names."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, what: str) -> None:
        """Count one thing that was left out."""
        self.counts[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _MAX_EXAMPLES:
            shown.append(what)

    def to_json(self) -> list[dict[str, Any]]:
        """One entry per reason, most frequent first."""
        return [
            {"reason": reason, "count": count, "examples": self.examples[reason]}
            for reason, count in self.counts.most_common()
        ]


@dataclass(frozen=True, eq=False)
class FoundModel:
    """One model of a source: E epochs, what generated it, and what its tensors are.

    ``handle`` is what the source's own ``read`` needs to find it again.
    """

    model_id: str
    epochs: tuple[int, ...]
    network: Recognised
    factors: Mapping[str, Any]
    handle: Any
    split: str | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """Models to import. ``read`` gives a model's tensors [E, ...] under its file's keys, and columns of E values.

    ``has_split`` says that one of these columns is a split.
    """

    format: str
    name: str
    models: tuple[FoundModel, ...]
    read: Callable[[FoundModel], tuple[dict[str, Array], dict[str, Any]]]
    skipped: Tally
    image: ImageShape | None = None
    sidecar: Sidecar | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    has_split: bool = False


def identify(
    arrays_shapes: Shapes, options: ImportOptions, sidecar: Sidecar | None, where: str, hint: str | None = None
) -> Recognised:
    """Recognise tensors: as a layout of the sidecar, as the architecture the user names, or as any known one.

    ``hint`` is an architecture that the source names; it counts if it is registered, so that nothing is imported.
    """
    for layout in () if sidecar is None else sidecar.layouts:
        found = recognise_as(layout, arrays_shapes)
        if found is not None:
            return found
    try:
        if options.architecture is None and hint in architecture_names():
            return recognise(arrays_shapes, hint)
        return recognise(arrays_shapes, options.architecture)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def stored_dtype(options: ImportOptions, sidecar: Sidecar | None) -> str:
    """Type in which weights are stored: what the user says, else what the exported zoo had, else float32."""
    return options.dtype or ("float32" if sidecar is None else sidecar.dtype)


def reorder(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays of a container that sorts names, in the order a network would list them."""
    return {name: arrays[name] for name in natural_order(arrays)}


def check_floats(arrays: Mapping[str, Array], where: str, dtype: str | None = None) -> dict[str, Array]:
    """Arrays of floats as float32, or float64 if that is what is stored; counters of batch norms are dropped.

    Raises
    ------
    InputError
        If one holds no floats, or doubles would lose bits and nobody asked for that type.
    """
    kept = {}
    for name, array in arrays.items():
        if name.endswith("num_batches_tracked"):
            continue
        if array.dtype.kind != "f":
            raise InputError(f"{where}: {name} holds {array.dtype}; expected floats. Is it a state dict of weights?")
        if array.dtype.itemsize == 8 and dtype != "float64":
            with np.errstate(over="ignore"):
                small = array.astype(np.float32)
            if not np.array_equal(small.astype(np.float64), array, equal_nan=True):
                raise InputError(
                    f"{where}: {name} holds doubles that float32 cannot hold. Import with --dtype float64 to keep them."
                )
        kept[name] = array.astype(np.float64 if dtype == "float64" else np.float32, copy=False)
    return kept


def stack(checkpoints: Sequence[Mapping[str, Array]], model: FoundModel, where: Sequence[str]) -> dict[str, Array]:
    """Join a model's checkpoints into arrays [E, ...]; raises `InputError` if one has other tensors."""
    first = {name: array.shape for name, array in checkpoints[0].items()}
    for checkpoint, place in zip(checkpoints, where, strict=True):
        if {name: array.shape for name, array in checkpoint.items()} != first:
            raise InputError(f"{place}: other tensors than the first checkpoint of {model.model_id}; refused.")
    return {name: np.stack([checkpoint[name] for checkpoint in checkpoints]) for name in first}


def clean_factors(values: Mapping[str, Any]) -> dict[str, Any]:
    """Scalars under names that can be queried.

    >>> clean_factors({"optim::lr": 0.1, "status": "x", "list": [1], "a": None})
    {'optim_lr': 0.1, 'status_source': 'x'}
    """
    kept = {}
    for key, value in values.items():
        if isinstance(value, str | int | float | bool):
            name = re.sub(r"\W+", "_", key).strip("_") or "factor"
            kept[f"{name}_source" if name in _RESERVED else name] = value
    return kept


def type_factors(models: Sequence[FoundModel]) -> dict[str, list[Any]]:
    """Columns of one value per model, each of one type over the whole source; gaps are None or NaN.

    Numbers and text in one column become text, integers with gaps floats.
    """
    names = dict.fromkeys(name for model in models for name in model.factors)
    columns: dict[str, list[Any]] = {}
    for name in names:
        values = [model.factors.get(name) for model in models]
        present = [value for value in values if value is not None]
        kinds = {type(value) for value in present}
        if str in kinds or (bool in kinds and (len(kinds) > 1 or len(present) < len(values))):
            columns[name] = [None if value is None else str(value) for value in values]
        elif kinds == {bool}:
            columns[name] = values
        elif float in kinds or len(present) < len(values):
            columns[name] = [float("nan") if value is None else float(value) for value in values]
        elif all(-(1 << 63) <= value < 1 << 63 for value in present):
            columns[name] = values
        else:
            columns[name] = [str(value) for value in values]
    return columns


def unique_ids(wanted: Iterable[str], fallback: Iterable[str]) -> list[str]:
    """Ids as wanted if all differ, else the fallback for all."""
    ids = list(wanted)
    return ids if len(set(ids)) == len(ids) else list(fallback)


def draw_split(model_ids: Sequence[str], shares: tuple[float, float, float]) -> list[str]:
    """Side of every model: ids ordered by their hash, cut by shares; it does not depend on the order of files.

    >>> draw_split(["a", "b", "c", "d"], (0.5, 0.25, 0.25))
    ['test', 'val', 'train', 'train']
    """
    order = sorted(model_ids, key=lambda model: hashlib.sha256(model.encode()).digest())
    first = round(shares[0] * len(order))
    second = first + round(shares[1] * len(order))
    sides = {model: "train" if n < first else "val" if n < second else "test" for n, model in enumerate(order)}
    return [sides[model] for model in model_ids]


def parse_split(text: str) -> tuple[float, float, float] | None:
    """Shares of train, val and test from ``a,b,c``; None from ``none``.

    >>> parse_split("0.8,0.1,0.1"), parse_split("none")
    ((0.8, 0.1, 0.1), None)
    """
    if text == "none":
        return None
    try:
        train, val, test = (float(share) for share in text.split(","))
    except ValueError as error:
        raise InputError(f"--split: expected three shares such as 0.7,0.15,0.15, or none, got {text!r}.") from error
    if min(train, val, test) < 0 or abs(train + val + test - 1) > 1e-9:
        raise InputError(f"--split: expected shares from 0 that add up to 1, got {text!r}.")
    return train, val, test


def find_licence(folder: SourceFolder) -> str | None:
    """Text of the folder's licence file, if it has one."""
    path = folder.find("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
    if path is None:
        return None
    return folder.admit(path, 1 << 20).read_bytes().decode("utf-8", "replace")


def hashed_id(text: str) -> str:
    """16 hex digits that stand for a long name."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def frame_columns(frame: pd.DataFrame, sidecar: Sidecar) -> dict[str, Any]:
    """Columns of a table of ours, typed as the sidecar says; identity is left to the importer."""
    missing = [name for name in sidecar.columns if name not in frame.columns]
    if missing:
        raise InputError(f"column {missing[0]!r} is missing from the table; the sidecar names it. Export it again.")
    names = [name for name in sidecar.columns if name not in ("model_id", "epoch")]
    return {name: sidecar.type_column(name, frame[name].tolist()) for name in names}


def plain_columns(frame: pd.DataFrame) -> dict[str, Any]:
    """Columns of a foreign table under names that can be queried: numbers as they are, everything else as text."""
    kept: dict[str, Any] = {}
    for column in frame.columns:
        name = re.sub(r"\W+", "_", str(column)).strip("_") or "column"
        if name in ("model_id", "epoch", "file"):
            continue
        name = f"{name}_source" if name in _RESERVED - {"split"} else name
        values = frame[column]
        if values.dtype.kind in "iufb" and isinstance(values.dtype, np.dtype):
            kept[name] = values.to_numpy()
        else:
            kept[name] = [None if pd.isna(value) else str(value) for value in values]
    return kept


def source_name(path: Path) -> str:
    """Name of a folder or file, without its place on this machine."""
    return path.resolve().name or "zoo"
