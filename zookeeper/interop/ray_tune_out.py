"""Write a zoo as a Ray Tune experiment folder, so that published code that reads those reads ours."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zookeeper.errors import InputError
from zookeeper.interop.exporting import ExportOptions, OnRows, each_model, keys_of, tensors_of
from zookeeper.interop.names import PUBLISHED_TYPES
from zookeeper.interop.ray_tune import FACTORS, OWN
from zookeeper.interop.writers import as_torch
from zookeeper.store.table import PROPERTIES
from zookeeper.zoo import Zoo


def write_ray_tune(zoo: Zoo, folder: Path, options: ExportOptions, on_rows: OnRows) -> None:
    """A folder per model with params.json, result.json, progress.csv and a folder per checkpoint.

    Keys are the published ones where the architecture has them. Each result line repeats the zoo's own
    columns under ``zookeeper``, from which an import restores them.
    """
    config: dict[str, list[Any]] = {}
    for number, (model_id, model) in enumerate(each_model(zoo)):
        trial_id = f"00000_{number:05d}" if number < 100_000 else f"{number // 100_000:05x}_{number % 100_000:05d}"
        trial = folder / f"NN_tune_trainable_{trial_id}_{number}"
        trial.mkdir()
        params = _params(model)
        for key, value in params.items():
            if value not in config.setdefault(key, []):
                config[key].append(value)
        (trial / "params.json").write_text(json.dumps({**params, OWN: {"model_id": model_id}}, indent=1))
        _write_results(model, trial, trial_id, params)
        _write_checkpoints(model, trial)
        on_rows(len(model))
    flat = {key: values[0] if len(values) == 1 else {"grid_search": values} for key, values in config.items()}
    (folder / "config.json").write_text(json.dumps(flat, indent=1))


def _params(model: Zoo) -> dict[str, Any]:
    """Generating factors of a model under published keys where there is one, else under ours."""
    line = _plain(model.frame.iloc[0].to_dict())
    theirs = {ours: key for key, ours in FACTORS.items()}
    params = {theirs.get(name, name): line[name] for name in model.factors}
    if "architecture" in line:
        params["model::type"] = PUBLISHED_TYPES.get(line["architecture"], line["architecture"])
    if model.header.image is not None:
        params["model::channels_in"] = model.header.image.channels
        params["model::o_dim"] = model.header.image.num_classes
    params["model::use_bias"] = any(block.kind == "bias" for block in model.layout.blocks)
    return params


def _write_results(model: Zoo, trial: Path, trial_id: str, params: Mapping[str, Any]) -> None:
    frame = model.frame.drop(columns=["cohort"], errors="ignore")
    lines = []
    for record in map(_plain, frame.to_dict("records")):
        metrics = {name: record[name] for name in PROPERTIES if name in record}
        lines.append({**metrics, "training_iteration": record["epoch"], "trial_id": trial_id, "record": record})
    with (trial / "result.json").open("w") as file:
        for line in lines:
            entry = {key: value for key, value in line.items() if key != "record"}
            file.write(json.dumps({**entry, "config": dict(params), OWN: line["record"]}) + "\n")
    with (trial / "progress.csv").open("w", newline="") as file:
        names = [name for name in lines[0] if name != "record"]
        table = csv.DictWriter(file, names, extrasaction="ignore")
        table.writeheader()
        table.writerows(lines)


def _write_checkpoints(model: Zoo, trial: Path) -> None:
    import torch

    try:
        keys = keys_of(model, published=True)
    except InputError:  # an architecture that was never published has no other names
        keys = keys_of(model, published=False)
    for epoch, tensors in tensors_of(model, keys):
        place = trial / f"checkpoint_{epoch:06d}"
        place.mkdir()
        torch.save(as_torch(tensors), place / "checkpoints")


def _plain(record: Mapping[Any, Any]) -> dict[str, Any]:
    """A line as JSON values; missing text is null, missing numbers stay NaN as Ray writes them."""
    plain: dict[str, Any] = {}
    for name, value in record.items():
        entry = value.item() if hasattr(value, "item") else value
        plain[str(name)] = None if entry is not None and not isinstance(entry, str | int | float | bool) else entry
        if isinstance(entry, float) and math.isnan(entry):
            plain[str(name)] = float("nan")
    return plain
