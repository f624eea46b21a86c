"""``zookeeper.json``: what an export says about itself, so that importing it gives the zoo back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zookeeper.errors import InputError, StoreError
from zookeeper.interop.folder import SourceFolder
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.header import ImageShape, without_paths
from zookeeper.zoo import Zoo

SIDECAR = "zookeeper.json"
_FORMAT = "zookeeper.export"
_GAPS = frozenset({"", "nan", "NaN", "NA", "None", "null"})
_NAME_LIKE = re.compile(r"[+-]?0\d|.*_")
_WHOLE = re.compile(r"[+-]?\d{1,18}")
_KINDS = {"i": "int", "u": "int", "f": "float", "b": "bool"}


@dataclass(frozen=True)
class Sidecar:
    """Name, kind, images, layouts of an exported zoo, and the type of every column of its table.

    ``columns`` maps names to ``int``, ``float``, ``bool`` or ``text``, in the order of the zoo. ``dtype`` is
    float32 or float64, the type of the exported weights.
    """

    name: str
    kind: str
    image: ImageShape | None
    layouts: tuple[WeightLayout, ...]
    columns: Mapping[str, str]
    dtype: str = "float32"
    spec: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, zoo: Zoo) -> Sidecar:
        """Describe a zoo or a view of one; the column ``cohort``, which says how rows were stored, is left out."""
        header, frame = without_paths(zoo.header), zoo.frame
        digests = list(dict.fromkeys(zoo.layout_digests.tolist()))
        return cls(
            name=header.name,
            kind=header.kind,
            image=header.image,
            layouts=tuple(WeightLayout.from_json(header.layouts[digest]) for digest in digests),
            columns={str(n): _KINDS.get(frame[n].dtype.kind, "text") for n in frame.columns if n != "cohort"},
            dtype="float64" if header.store.dtype == "float64" else "float32",
            spec=header.spec,
            provenance=header.provenance,
        )

    def to_json(self) -> dict[str, Any]:
        """The document ``zookeeper.json``."""
        return {
            "format": _FORMAT,
            "format_version": 1,
            "name": self.name,
            "kind": self.kind,
            "image": None if self.image is None else self.image.to_json(),
            "layouts": [layout.to_json() for layout in self.layouts],
            "columns": dict(self.columns),
            "dtype": self.dtype,
            "spec": None if self.spec is None else dict(self.spec),
            "provenance": dict(self.provenance or {}),
        }

    def type_column(self, name: str, values: Sequence[Any]) -> Any:
        """Values of a column in the type the zoo had; raises `InputError` if they are of another."""
        kind = self.columns[name]
        missing = [value is None or value != value or value == "" for value in values]
        try:
            if kind == "float":
                return np.array([np.nan if gap else float(v) for v, gap in zip(values, missing, strict=True)])
            if kind == "int":
                return np.array([int(value) for value in values], np.int64)
            if kind == "bool":
                truth = {"True": True, "False": False, True: True, False: False}
                return np.array([truth[value] for value in values], np.bool_)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise InputError(
                f"column {name!r}: expected {kind}, as {SIDECAR} says ({error}). Export it again."
            ) from error
        return [None if gap else str(value) for value, gap in zip(values, missing, strict=True)]


def read_sidecar(folder: SourceFolder) -> Sidecar | None:
    """Read ``zookeeper.json`` of a folder; None if there is none, `InputError` if it is not one of ours."""
    path = folder.find(SIDECAR)
    if path is None:
        return None
    value = folder.read_json(path)
    if not isinstance(value, dict) or (value.get("format"), value.get("format_version")) != (_FORMAT, 1):
        raise InputError(f"{path}: expected {_FORMAT} version 1. Remove the file, or install a newer release.")
    try:
        return Sidecar(
            name=str(value["name"]),
            kind=str(value["kind"]),
            image=None if value["image"] is None else ImageShape.from_json(value["image"]),
            layouts=tuple(_sound_layout(layout) for layout in value["layouts"]),
            columns={str(name): _known_kind(kind) for name, kind in value["columns"].items()},
            dtype="float64" if value["dtype"] == "float64" else "float32",
            spec=value["spec"],
            provenance=dict(value["provenance"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, StoreError) as error:
        raise InputError(f"{path}: damaged ({error!r}). Export the zoo again.") from error


def infer_column(values: Sequence[str]) -> Any:
    """Text of a CSV column as integers, floats, truth values or text; every float is the one that was printed.

    Numbers with leading zeros are text, for they are names.

    >>> infer_column(["1", "20"]), infer_column(["0.1", ""]), infer_column(["007", "8"])
    (array([ 1, 20]), array([0.1, nan]), ['007', '8'])
    """
    present = [value for value in values if value not in _GAPS]
    if present and len(present) == len(values) and set(values) <= {"True", "False"}:
        return np.array([value == "True" for value in values])
    if not any(_NAME_LIKE.match(value) for value in present):
        try:
            if len(present) == len(values) and all(_WHOLE.fullmatch(value) for value in values):
                return np.array([int(value) for value in values], np.int64)
            return np.array([float(value) if value not in _GAPS else np.nan for value in values])
        except ValueError:
            pass  # text
    return [None if value == "" else value for value in values]


def read_table(path: Path, data: bytes, sidecar: Sidecar | None) -> pd.DataFrame:
    """Parse a table by its ending (.csv, .json, .parquet, .csv.gz): CSV as text if ``sidecar`` types it."""
    import io

    suffix = [part for part in path.suffixes if part != ".gz"][-1:]
    try:
        if suffix == [".parquet"]:
            return pd.read_parquet(io.BytesIO(data))
        if suffix == [".json"]:
            return pd.DataFrame(pd.read_json(io.BytesIO(data), dtype=False, convert_dates=False))
        text = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
        if sidecar is not None:
            return text
        return pd.DataFrame({name: infer_column(text[name].tolist()) for name in text.columns})
    except (ValueError, OSError, KeyError, TypeError, UnicodeError) as error:
        raise InputError(f"{path}: not a table ({error}). Fetch the file again.") from error


def _sound_layout(value: Any) -> WeightLayout:
    layout = WeightLayout.from_json(value)
    if not layout.blocks or any(size < 1 for block in layout.blocks for size in block.shape):
        raise ValueError("a layout without weights, or with a size below 1")
    return layout


def _known_kind(kind: Any) -> str:
    if kind not in ("int", "float", "bool", "text"):
        raise ValueError(f"a column of kind {kind!r}")
    return str(kind)
