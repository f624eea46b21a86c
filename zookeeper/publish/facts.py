"""What a publication says about a zoo, gathered once as plain values; no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zookeeper.errors import StoreError
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.records import CommitRecord, cohort_progress, read_commits
from zookeeper.store.table import DIVERGED
from zookeeper.zoo import Zoo
from zookeeper.zoo import open as open_zoo

_MOST_VALUES = 12


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """Parquet shards that read as one table: the same columns, and weights of the same layout.

    ``columns`` maps names to Arrow types in words, the weights left out.
    """

    name: str
    files: tuple[str, ...]
    columns: Mapping[str, str]
    dtype: str
    layout: WeightLayout
    num_rows: int


@dataclass(frozen=True, slots=True)
class Range:
    """A property over the last checkpoints of the models that did not diverge."""

    name: str
    lowest: float
    median: float
    highest: float


@dataclass(frozen=True, slots=True)
class Facts:
    """A zoo in numbers and names.

    ``factors`` maps each generating factor to its distinct values as text (``None`` where there are too many
    to list) and their number; ``num_planned`` counts checkpoints the header promises.
    """

    name: str
    kind: str
    created: str
    num_models: int
    num_checkpoints: int
    num_planned: int
    num_diverged: int
    epochs: tuple[int, ...]
    factors: Mapping[str, tuple[str | None, int]]
    ranges: tuple[Range, ...]
    splits: Mapping[str, tuple[str, ...]]
    groups: tuple[ShardGroup, ...]
    columns: Mapping[str, str]
    backends: tuple[str, ...]
    num_bytes: int
    image: Mapping[str, Any] | None
    spec: Mapping[str, Any] | None
    provenance: Mapping[str, Any]
    packages: Mapping[str, str]
    layouts: tuple[WeightLayout, ...]
    complete: bool


def gather_facts(root: Path) -> tuple[Facts, Zoo]:
    """Gather what the metadata of a zoo says.

    Raises
    ------
    InputError
        If there is no zoo at ``root``.
    StoreError
        If it holds no row yet, or is damaged.
    """
    zoo = open_zoo(root)
    records = read_commits(root)
    if not records:
        raise StoreError(f"{root}: the zoo holds no checkpoint yet. Build it first: zookeeper build SPEC --out {root}")
    header, models = zoo.header, zoo.models
    planned = sum(len(cohort.models) * len(cohort.epochs) for cohort in header.cohorts.values())
    groups = group_shards(root, records, header.layouts)
    image = None if header.image is None else header.image.to_json()
    facts = Facts(
        name=header.name,
        kind=header.kind,
        created=header.created,
        num_models=len(models),
        num_checkpoints=len(zoo),
        num_planned=planned,
        num_diverged=int((models["status"] == DIVERGED).sum()) if "status" in models else 0,
        epochs=zoo.epochs,
        factors={name: _describe_values(models[name]) for name in zoo.factors},
        ranges=_describe_properties(zoo, models),
        splits=_model_splits(models),
        groups=groups,
        columns={str(name): _plain_type(zoo.frame[name]) for name in zoo.frame.columns},
        backends=tuple(sorted({record.encoding.backend for record in records})),
        num_bytes=sum(record.shard.size + record.meta.size for record in records),
        image=image,
        spec=header.spec,
        provenance=header.provenance,
        packages=header.packages,
        layouts=tuple(WeightLayout.from_json(layout) for layout in header.layouts.values()),
        complete=all(progress.final for progress in cohort_progress(root).values()),
    )
    return facts, zoo


def group_shards(
    root: Path, records: tuple[CommitRecord, ...], layouts: Mapping[str, Mapping[str, Any]]
) -> tuple[ShardGroup, ...]:
    """Group Parquet shards by layout, type and columns: what one ``SELECT`` can read together."""
    found: dict[tuple[str, str, str], list[CommitRecord]] = {}
    schemas: dict[tuple[str, str, str], pa.Schema] = {}
    for record in records:
        if record.encoding.backend != "parquet":
            continue
        schema = _read_schema(root / record.shard.file).remove_metadata()
        key = (record.layout, record.encoding.dtype, str(schema))
        found.setdefault(key, []).append(record)
        schemas[key] = schema
    groups = []
    for number, (key, members) in enumerate(found.items()):
        columns = {field.name: str(field.type) for field in schemas[key] if field.name != "weights"}
        groups.append(
            ShardGroup(
                name="checkpoints" if number == 0 else f"checkpoints-{number + 1}",
                files=tuple(record.shard.file for record in members),
                columns=columns,
                dtype=key[1],
                layout=WeightLayout.from_json(layouts[key[0]]),
                num_rows=sum(record.num_rows for record in members),
            )
        )
    return tuple(groups)


def _read_schema(path: Path) -> pa.Schema:
    try:
        with path.open("rb") as file:  # a path with a colon would be taken for an address
            return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path}: cannot be decoded ({error}). Restore it from a copy.") from error


def _describe_values(column: pd.Series[Any]) -> tuple[str | None, int]:
    values = column.dropna().unique().tolist()
    if len(values) > _MOST_VALUES:
        numbers = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
        return (f"{min(values):g} to {max(values):g}" if numbers else None, len(values))
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in ordered), len(values)


def _describe_properties(zoo: Zoo, models: pd.DataFrame) -> tuple[Range, ...]:
    sound = models[models["status"] != DIVERGED] if "status" in models else models
    ranges = []
    for name in zoo.properties:
        values = pd.to_numeric(sound[name]).dropna()
        if len(values):
            ranges.append(Range(name, float(values.min()), float(values.median()), float(values.max())))
    return tuple(ranges)


def _model_splits(models: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    if "split" not in models:
        return {}
    order = {"train": 0, "val": 1, "test": 2}
    sides = sorted(map(str, models["split"].dropna().unique()), key=lambda side: (order.get(side, 3), side))
    return {side: tuple(map(str, models.loc[models["split"] == side, "model_id"])) for side in sides}


def _plain_type(column: pd.Series[Any]) -> str:
    kinds = {"b": "bool", "i": "int64", "u": "int64", "f": "double"}
    return kinds.get(getattr(column.dtype, "kind", "O"), "string")
