"""Store a source as a zoo, block by block: stopped at any moment, the same call goes on, and nothing is half there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.interop.source import FoundModel, ImportOptions, Source, draw_split, stored_dtype, type_factors
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.caches import finalise
from zookeeper.store.encoding import Encoding
from zookeeper.store.header import CohortEntry, ImageShape, ZooHeader, create_zoo
from zookeeper.store.lock import BuildLock
from zookeeper.store.records import read_commits
from zookeeper.store.table import DIVERGED, OK, PROPERTIES
from zookeeper.store.writer import commit_rows

_BLOCK_BYTES = 1 << 26
_READERS = {
    "ray-tune": "zookeeper.interop.ray_tune:find_ray_tune",
    "unterthiner": "zookeeper.interop.unterthiner:find_unterthiner",
    "dataset-pt": "zookeeper.interop.pickled:find_dataset_pt",
    "state-dict": "zookeeper.interop.weight_files:find_state_dicts",
    "safetensors": "zookeeper.interop.weight_files:find_safetensors",
    "npz": "zookeeper.interop.weight_files:find_npz",
    "npy": "zookeeper.interop.matrix:find_npy",
}
IMPORT_FORMATS = tuple(_READERS)


@dataclass(frozen=True)
class ImportSummary:
    """What an import stored, and what it left out.

    ``num_resumed`` checkpoints were there before this run; ``skipped`` lists what this run left out, with reasons.
    ``architectures`` are those recognised; ``other`` says that some models have another, under their own names.
    """

    path: Path
    num_models: int
    num_checkpoints: int
    num_diverged: int
    num_resumed: int
    architectures: tuple[str, ...]
    unknown_architecture: int
    skipped: tuple[dict[str, Any], ...]


def find_source(format: str, source: Path, options: ImportOptions) -> Source:
    """List what a source holds; raises `InputError` for an unknown format, or a source that is refused."""
    import importlib

    if format not in _READERS:
        raise InputError(f"format: unknown {format!r}; expected one of {', '.join(_READERS)}.")
    module, _, name = _READERS[format].partition(":")
    found: Source = getattr(importlib.import_module(module), name)(source, options)
    return found


def import_zoo(
    format: str,
    source: Path,
    target: Path,
    options: ImportOptions | None = None,
    *,
    on_start: Callable[[int], None] | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> ImportSummary:
    """Store what others published as a zoo at ``target``. No pickle is executed.

    Weights get canonical names where the architecture is recognised, else they keep theirs. Provenance,
    licence and what was decided here (the split) are kept in the header.

    Parameters
    ----------
    format
        One of ``IMPORT_FORMATS``.
    options
        What the source does not say itself.
    on_start, on_rows
        Called with the number of all checkpoints, then with the number of each block stored or found.

    Raises
    ------
    InputError
        If the source is refused; what was stored before stays valid.
    StoreError
        If ``target`` holds another zoo, or cannot be written.
    """
    wanted = options or ImportOptions()
    found = find_source(format, source, wanted)
    header = _header(found, wanted)
    factors = type_factors(found.models)
    if on_start is not None:
        on_start(sum(len(model.epochs) for model in found.models))
    places = {model.model_id: number for number, model in enumerate(found.models)}
    header = create_zoo(target, header)  # of a stopped import: what was decided then stands
    resumed = 0
    with BuildLock(target):
        done = {record.cohort: record.num_rows for record in read_commits(target)}
        for name, models in _blocks(found, header.store):
            if name in done:
                resumed += done[name]
            else:
                _commit(target, name, models, found, header, factors, places)
            if on_rows is not None:
                on_rows(sum(len(model.epochs) for model in models))
        finalise(target)
    return _summary(target, found, resumed)


def _blocks(source: Source, encoding: Encoding) -> Iterator[tuple[str, tuple[FoundModel, ...]]]:
    """Models in order, cut where the layout changes and at about 64 MB."""
    block: list[FoundModel] = []
    size, number = 0, 0
    for model in source.models:
        layout = model.network.layout
        bytes_of_model = len(model.epochs) * layout.num_weights * encoding.itemsize
        if block and (block[0].network.layout != layout or size + bytes_of_model > _BLOCK_BYTES):
            yield f"rows-{number:05d}", tuple(block)
            block, size, number = [], 0, number + 1
        block.append(model)
        size += bytes_of_model
    if block:
        yield f"rows-{number:05d}", tuple(block)


def _header(source: Source, options: ImportOptions) -> ZooHeader:
    sidecar = source.sidecar
    ids = [model.model_id for model in source.models]
    if len(set(ids)) != len(ids):
        raise InputError(f"{source.name}: two models are named {max(ids, key=ids.count)!r}; expected unique names.")
    encoding = Encoding(dtype=stored_dtype(options, sidecar))
    layouts = {model.network.layout.digest: model.network.layout.to_json() for model in source.models}
    cohorts = {
        name: CohortEntry(
            tuple(model.model_id for model in models), tuple(sorted({e for model in models for e in model.epochs}))
        )
        for name, models in _blocks(source, encoding)
    }
    details = {key: value for key, value in source.details.items() if value is not None}
    if options.licence is not None:
        details["licence"] = options.licence
    if options.url is not None:
        details["url"] = options.url
    if _makes_split(source, options):
        details["split"] = {"by": "model", "shares": list(options.split or ()), "made_by": "import"}
    if sidecar is not None:
        details["exported"] = {"spec": sidecar.spec, "provenance": dict(sidecar.provenance or {})}
    return ZooHeader(
        name=options.name or (source.name if sidecar is None else sidecar.name),
        cohorts=cohorts,
        layouts=layouts,
        image=options.image or _image(source),
        kind="imported" if sidecar is None else sidecar.kind,
        provenance={"imported": {"format": source.format, "source": source.name, **details}},
        store=encoding,
    )


def _makes_split(source: Source, options: ImportOptions) -> bool:
    ours = source.sidecar is None and not source.has_split
    return ours and options.split is not None and all(model.split is None for model in source.models)


def _image(source: Source) -> ImageShape | None:
    """What the source says, else the smallest usual images that all recognised networks take."""
    if source.sidecar is not None:
        return source.sidecar.image
    if source.image is not None:
        return source.image
    taken = {(model.network.image, model.network.num_classes) for model in source.models}
    image, num_classes = taken.pop()
    if taken or image is None or num_classes is None:
        return None
    return ImageShape(source.name, *image, num_classes, {"inferred": True})


def _commit(
    target: Path,
    name: str,
    models: tuple[FoundModel, ...],
    source: Source,
    header: ZooHeader,
    factors: dict[str, list[Any]],
    places: dict[str, int],
) -> None:
    layout: WeightLayout = models[0].network.layout
    count = sum(len(model.epochs) for model in models)
    rows = np.empty((count, layout.num_weights), np.float64 if header.store.dtype == "float64" else np.float32)
    frames, start = [], 0
    split = header.provenance["imported"].get("split")
    sides = {} if split is None else _sides(source, tuple(split["shares"]))
    for model in models:
        arrays, columns = source.read(model)
        stop = start + len(model.epochs)
        rows[start:stop] = layout.flatten(model.network.rename(arrays))
        fixed = {name: values[places[model.model_id]] for name, values in factors.items()}
        if sides or model.split is not None:
            fixed["split"] = sides.get(model.model_id, model.split)
        identity = {"model_id": model.model_id, "epoch": np.array(model.epochs, np.int64)}
        frames.append(pd.DataFrame({**identity, **fixed, **columns}))
        start = stop
    frame = pd.concat(frames, ignore_index=True)
    frame = _with_status(_without_empty(frame, source), rows)
    epochs = header.cohorts[name].epochs
    commit_rows(
        target,
        cohort=name,
        first_epoch=epochs[0],
        last_epoch=epochs[-1],
        rows=rows,
        table=frame,
        layout=layout.digest,
        trajectory=len(models[0].epochs),
        state=None,
        final=True,
        encoding=header.store,
    )


def _sides(source: Source, shares: tuple[float, float, float]) -> dict[str, str]:
    ids = [model.model_id for model in source.models]
    return dict(zip(ids, draw_split(ids, shares), strict=True))


def _without_empty(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Drop properties the source does not have; a zoo of ours keeps the columns it had."""
    if source.sidecar is not None:
        return frame
    return frame.drop(columns=[name for name in PROPERTIES if name in frame and frame[name].isna().all()])


def _with_status(frame: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """Flag rows with weights that are not finite, whatever the source says."""
    finite = np.isfinite(rows).all(axis=1)
    given = frame["status"].to_numpy(dtype=object) if "status" in frame else np.full(len(frame), OK, object)
    return frame.assign(status=np.where(finite, given, DIVERGED))


def _summary(target: Path, source: Source, resumed: int) -> ImportSummary:
    from zookeeper.zoo import open as open_zoo

    frame = open_zoo(target).frame
    networks = [model.network.architecture for model in source.models]
    return ImportSummary(
        path=target,
        num_models=len(source.models),
        num_checkpoints=len(frame),
        num_diverged=int(frame.loc[frame["status"] == DIVERGED, "model_id"].nunique()),
        num_resumed=resumed,
        architectures=tuple(sorted({name for name in networks if name is not None})),
        unknown_architecture=sum(name is None for name in networks),
        skipped=tuple(source.skipped.to_json()),
    )


def with_image(options: ImportOptions, text: str | None, name: str) -> ImportOptions:
    """Read ``CxHxW:K`` or ``NAME:CxHxW:K`` into the options.

    >>> with_image(ImportOptions(), "mnist:1x28x28:10", "x").image.shape
    (1, 28, 28)
    """
    if text is None:
        return options
    parts = text.split(":")
    try:
        num_classes, shape = int(parts[-1]), [int(size) for size in parts[-2].split("x")]
        channels, height, width = shape
    except (ValueError, IndexError) as error:
        raise InputError(f"--image: expected NAME:CxHxW:K such as mnist:1x28x28:10, got {text!r}.") from error
    return replace(
        options, image=ImageShape(parts[0] if len(parts) == 3 else name, channels, height, width, num_classes)
    )
