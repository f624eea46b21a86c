"""Find the models of a Ray Tune experiment folder, the layout in which the model-zoo papers publish.

One folder per model: ``params.json``, ``result.json`` (JSON lines) or ``progress.csv``, and a folder per
checkpoint. Results join checkpoints on ``training_iteration``, never on position; a repeated iteration, as a
resumed trial leaves it, counts with its last line. Pickled parameters and events are never opened.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zookeeper.errors import InputError
from zookeeper.interop.folder import MAX_TABLE_BYTES, SourceFolder, parse_json, whole_number
from zookeeper.interop.names import shapes_of
from zookeeper.interop.sidecar import Sidecar, read_sidecar
from zookeeper.interop.source import (
    Array,
    FoundModel,
    ImportOptions,
    Source,
    Tally,
    check_floats,
    clean_factors,
    find_licence,
    identify,
    source_name,
    stack,
    stored_dtype,
    unique_ids,
)
from zookeeper.interop.tensors import load_state_dict
from zookeeper.store.table import PROPERTIES

OWN = "zookeeper"
FACTORS = {
    "model::nlin": "activation",
    "model::dropout": "dropout",
    "model::init_type": "init",
    "optim::optimizer": "optimizer",
    "optim::lr": "lr",
    "optim::wd": "weight_decay",
    "optim::momentum": "momentum",
    "seed": "seed",
    "training::batchsize": "batch_size",
    "training::epochs_train": "epochs_train",
}
_UNTRUE = ("model::o_dim", "model::use_bias")  # the published classes ignore them
_NAMES = {"leakyrelu": "leaky_relu", "leaky-relu": "leaky_relu", "swish": "silu"}
_CHECKPOINT = re.compile(r"checkpoint_(\d{1,9})")
_TRIAL = re.compile(r"([0-9a-f]{5,8}_\d{5})(?=_|$)")
_FILES = ("checkpoints", "checkpoints.pt", "checkpoint")


def find_ray_tune(root: Path, options: ImportOptions) -> Source:
    """List the models below ``root``.

    Raises
    ------
    InputError
        If there are none, or a file is refused.
    """
    folder, skipped = SourceFolder(root), Tally()
    sidecar = read_sidecar(folder)
    trials = []
    for path in sorted(root.iterdir()):
        if not path.is_dir():
            continue
        folder_of_trial = _inside(folder, path)
        epochs = _checkpoints(folder_of_trial, skipped, options.skip_damaged)
        if not epochs:
            skipped.add("folder without checkpoints", path.name)
        elif folder_of_trial.find("params.json") is None:
            skipped.add("model without params.json", path.name)
        else:
            trials.append((folder_of_trial, epochs))
    if not trials:
        raise InputError(
            f"{root}: no models; expected folders with params.json and checkpoint_000000/checkpoints. "
            "Is it the folder above the trials?"
        )
    ids = unique_ids([_trial_id(trial) for trial, _ in trials], [trial.root.name for trial, _ in trials])
    models = []
    for model_id, (trial, epochs) in zip(ids, trials, strict=True):
        params = trial.read_json(trial.root / "params.json")
        if not isinstance(params, dict):
            raise InputError(f"{trial.root / 'params.json'}: expected a JSON object. Fetch it again.")
        first = next(iter(epochs.values()))
        network = identify(shapes_of(load_state_dict(first)), options, sidecar, str(first))
        own = params.get(OWN) if sidecar is not None else None
        if isinstance(own, dict):
            factors: dict[str, Any] = {}
            model_id = str(own.get("model_id", model_id))
        else:
            factors = _factors(params, network.architecture)
        models.append(FoundModel(model_id, tuple(epochs), network, factors, (trial, epochs)))

    def read(model: FoundModel) -> tuple[dict[str, Array], dict[str, Any]]:
        trial, epochs = model.handle
        arrays = [
            check_floats(load_state_dict(path), str(path), stored_dtype(options, sidecar)) for path in epochs.values()
        ]
        return stack(arrays, model, [str(path) for path in epochs.values()]), _columns(
            trial, model, _results(trial, skipped), sidecar, skipped
        )

    config = folder.find("config.json")
    details: dict[str, Any] = {"licence": find_licence(folder)}
    if config is not None and sidecar is None:
        details["config"] = folder.read_json(config)
    return Source("ray-tune", source_name(root), tuple(models), read, skipped, None, sidecar, details)


def _inside(folder: SourceFolder, path: Path) -> SourceFolder:
    """A trial's folder; a link that leaves the source is refused, one that stays is as good as a folder."""
    if not path.resolve().is_relative_to(folder.root.resolve()):
        folder.admit(path)
    return SourceFolder(path)


def _checkpoints(trial: SourceFolder, skipped: Tally, skip_damaged: bool) -> dict[int, Path]:
    """Weight file of every epoch, by epoch."""
    found: dict[int, Path] = {}
    for path in sorted(trial.root.iterdir()):
        match = _CHECKPOINT.fullmatch(path.name)
        if match is None or not path.is_dir():
            continue
        inner = _inside(trial, path)
        file = inner.find(*_FILES)
        where = f"{trial.root.name}/{path.name}"
        if file is None:
            skipped.add("checkpoint without weights", where)
        elif int(match[1]) in found:
            skipped.add("second folder for an epoch", where)
        elif skip_damaged and (reason := damage_of(file)):
            skipped.add("damaged or refused weights", f"{where}: {reason}")
        else:
            found[int(match[1])] = file
    return dict(sorted(found.items()))


def damage_of(file: Path) -> str | None:
    """Why a state dict cannot be read; None if it can."""
    try:
        load_state_dict(file)
    except InputError as error:
        return str(error)
    return None


def _trial_id(trial: SourceFolder) -> str:
    match = _TRIAL.search(trial.root.name)
    return trial.root.name if match is None else match[1]


def _factors(params: Mapping[str, Any], architecture: str | None) -> dict[str, Any]:
    """Generating factors under bare names; other scalars keep theirs with ``_`` for ``::``."""
    named = {FACTORS[key]: value for key, value in params.items() if key in FACTORS and value is not None}
    for key in ("activation", "init", "optimizer"):
        if isinstance(named.get(key), str):
            named[key] = _NAMES.get(named[key].lower(), named[key])
    rest = {k: v for k, v in params.items() if k not in FACTORS and k not in _UNTRUE and k != OWN}
    if architecture is not None:
        named = {"architecture": architecture, **named}
    named.setdefault("dropout", 0.0)
    return {**clean_factors(named), **{k: v for k, v in clean_factors(rest).items() if k not in named}}


def _results(trial: SourceFolder, skipped: Tally) -> dict[int, Mapping[str, Any]]:
    """Result of every iteration; the last line of a repeated one counts."""
    lines: list[Any]
    path = trial.find("result.json")
    if path is not None and path.stat().st_size > 0:
        text = trial.admit(path, MAX_TABLE_BYTES).read_bytes().splitlines()
        lines = [parse_json(line, f"{path}:{number}") for number, line in enumerate(text, start=1) if line.strip()]
    else:
        path = trial.find("progress.csv")
        if path is None or path.stat().st_size == 0:
            skipped.add("model without results; kept with weights only", trial.root.name)
            return {}
        data = trial.admit(path, MAX_TABLE_BYTES).read_bytes()
        try:
            lines = list(csv.DictReader(io.StringIO(data.decode())))
        except (csv.Error, UnicodeError) as error:
            raise InputError(f"{path}: not a table ({error}). Fetch it again.") from error
    results: dict[int, Mapping[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        iteration = line.get("training_iteration") if isinstance(line, dict) else None
        epoch = whole_number(iteration, f"{path}:{number}: training_iteration")
        if epoch in results:
            skipped.add("repeated result, the last counts", f"{trial.root.name} iteration {epoch}")
        results[epoch] = line
    return results


def _columns(
    trial: SourceFolder,
    model: FoundModel,
    results: Mapping[int, Mapping[str, Any]],
    sidecar: Sidecar | None,
    skipped: Tally,
) -> dict[str, Any]:
    epochs = set(model.epochs)
    for iteration in sorted(set(results) - epochs):
        skipped.add("result without checkpoint", f"{trial.root.name} iteration {iteration}")
    if results:
        for epoch in sorted(epochs - set(results)):
            skipped.add("checkpoint without result; kept with weights only", f"{trial.root.name} epoch {epoch}")
    lines = [results.get(epoch, {}) for epoch in model.epochs]
    if sidecar is not None and all(isinstance(line.get(OWN), dict) for line in lines):
        names = [name for name in sidecar.columns if name not in ("model_id", "epoch")]
        return {name: sidecar.type_column(name, [line[OWN].get(name) for line in lines]) for name in names}
    return {name: [_number(line.get(name), trial) for line in lines] for name in PROPERTIES}


def _number(value: Any, trial: SourceFolder) -> float:
    """A metric; what is missing is NaN."""
    if value is None or value == "":
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{trial.root}: a metric is {value!r}; expected a number.") from error
