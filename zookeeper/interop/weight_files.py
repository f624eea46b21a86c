"""Find models in a folder of weight files (.pt, .safetensors, .npz) beside a table keyed by file name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.interop.arrays import load_npz, load_safetensors
from zookeeper.interop.folder import SourceFolder, read_bytes, whole_number
from zookeeper.interop.names import shapes_of
from zookeeper.interop.sidecar import SIDECAR, Sidecar, read_sidecar, read_table
from zookeeper.interop.source import (
    Array,
    FoundModel,
    ImportOptions,
    Source,
    Tally,
    check_floats,
    find_licence,
    frame_columns,
    identify,
    plain_columns,
    reorder,
    source_name,
    stack,
    stored_dtype,
)
from zookeeper.interop.tensors import load_state_dict, named_arrays

_KEYS = ("file", "filename", "file_name", "path", "checkpoint", "name")
_TABLES = (".csv", ".json", ".parquet", ".gz")
_EPOCH = re.compile(r"(?P<model>.*?)[/_.-]*(?:epoch|checkpoint|step|ep)[_=-]?(?P<epoch>\d{1,9})", re.IGNORECASE)
Load = Callable[[Path], dict[str, Array]]


def find_state_dicts(root: Path, options: ImportOptions) -> Source:
    """List the state dicts below ``root``: .pt, .pth, .bin, .ckpt."""
    return _find("state-dict", root, options, load_state_dict, (".pt", ".pth", ".bin", ".ckpt"))


def find_safetensors(root: Path, options: ImportOptions) -> Source:
    """List the .safetensors files below ``root``."""

    def load(path: Path) -> dict[str, Array]:
        return named_arrays(reorder(load_safetensors(path)[0]), str(path))

    return _find("safetensors", root, options, load, (".safetensors",))


def find_npz(root: Path, options: ImportOptions) -> Source:
    """List the .npz files below ``root``, one array per tensor."""

    def load(path: Path) -> dict[str, Array]:
        return named_arrays(reorder(load_npz(path)), str(path))

    return _find("npz", root, options, load, (".npz",))


def _find(format: str, root: Path, options: ImportOptions, load: Load, suffixes: tuple[str, ...]) -> Source:
    folder, skipped = SourceFolder(root), Tally()
    sidecar = read_sidecar(folder)
    files = {path.relative_to(root).as_posix(): path for path in folder.files(*suffixes)}
    if not files:
        raise InputError(f"{root}: no files {', '.join('*' + suffix for suffix in suffixes)}; expected at least one.")
    table = _table(folder, sidecar)
    lines = _lines_without_table(files) if table is None else _join(table, files, skipped)
    if table is None and sidecar is not None:
        raise InputError(f"{root}: {SIDECAR} is there, but no table. Export it again.")
    if options.skip_damaged:
        lines = [line for line in lines if _sound(files[line[2]], load, line[2], skipped)]
    kept = None if table is None else table.iloc[[line[3] for line in lines]].reset_index(drop=True)
    columns = {} if kept is None else plain_columns(kept) if sidecar is None else frame_columns(kept, sidecar)
    groups: dict[str, dict[int, tuple[str, int]]] = {}
    for number, (model_id, epoch, file, _) in enumerate(lines):
        epochs = groups.setdefault(model_id, {})
        if epoch in epochs:
            raise InputError(f"{root}: {file} and {epochs[epoch][0]} are both model {model_id!r} at epoch {epoch}.")
        epochs[epoch] = (file, number)
    if not groups:
        raise InputError(f"{root}: no file is left to import; see what the table names.")
    models = []
    for model_id, epochs in groups.items():
        ordered = dict(sorted(epochs.items()))
        first, number = next(iter(ordered.values()))
        hint = str(columns["architecture"][number]) if "architecture" in columns else None
        network = identify(shapes_of(load(files[first])), options, sidecar, first, hint)
        own = (
            {} if network.architecture is None or "architecture" in columns else {"architecture": network.architecture}
        )
        models.append(FoundModel(model_id, tuple(ordered), network, own, ordered))

    def read(model: FoundModel) -> tuple[dict[str, Array], dict[str, Any]]:
        names = [file for file, _ in model.handle.values()]
        numbers = [number for _, number in model.handle.values()]
        arrays = [check_floats(load(files[name]), str(files[name]), stored_dtype(options, sidecar)) for name in names]
        picked = {
            name: values[numbers] if isinstance(values, np.ndarray) else [values[number] for number in numbers]
            for name, values in columns.items()
        }
        return stack(arrays, model, names), picked

    details = {"licence": find_licence(folder)}
    return Source(format, source_name(root), tuple(models), read, skipped, None, sidecar, details, "split" in columns)


def _table(folder: SourceFolder, sidecar: Sidecar | None) -> pd.DataFrame | None:
    """The one table in the folder, with a column that names files."""
    paths = [p for p in sorted(folder.root.iterdir()) if p.suffix in _TABLES and p.name != SIDECAR and p.is_file()]
    if not paths:
        return None
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise InputError(f"{folder.root}: several tables ({names}); expected one. Move the others away.")
    path = folder.admit(paths[0])
    table = read_table(path, read_bytes(path), sidecar)
    key = next((name for name in _KEYS if name in table.columns), None)
    if key is None:
        raise InputError(f"{path}: no column names the files; expected one of {', '.join(_KEYS)}.")
    return table.rename(columns={key: "file"})


def _join(table: pd.DataFrame, files: dict[str, Path], skipped: Tally) -> list[tuple[str, int, str, int]]:
    """(model, epoch, file, line of the table) of every line whose file is there."""
    short: dict[str, list[str]] = {}
    for name in files:
        for form in {name, name.rsplit(".", 1)[0], Path(name).name, Path(name).stem}:
            short.setdefault(form, []).append(name)
    lines, used = [], set()
    for number, given in enumerate(map(str, table["file"])):
        found = [given] if given in files else short.get(given, [])
        if len(found) != 1:
            skipped.add("line of the table without a file" if not found else "line with an ambiguous file", given)
            continue
        if found[0] in used:
            raise InputError(f"the table names {found[0]} twice; expected each file once.")
        used.add(found[0])
        guess, epoch = guess_identity(found[0])
        if "epoch" in table.columns:
            epoch = whole_number(table["epoch"].iloc[number], f"{given}: epoch")
            guess = guess if "model_id" in table.columns or guess else found[0]
        model_id = str(table["model_id"].iloc[number]) if "model_id" in table.columns else guess
        lines.append((model_id, epoch, found[0], number))
    for name in files:
        if name not in used:
            skipped.add("file that the table does not name", name)
    return lines


def _lines_without_table(files: dict[str, Path]) -> list[tuple[str, int, str, int]]:
    return [(*guess_identity(name), name, -1) for name in files]


def guess_identity(name: str) -> tuple[str, int]:
    """Model and epoch from a file's name.

    >>> guess_identity("runs/a_epoch_12.pt"), guess_identity("b/checkpoint_000003.pt"), guess_identity("net7.pt")
    (('runs/a', 12), ('b', 3), ('net7', 0))
    """
    stem = name.rsplit(".", 1)[0]
    match = _EPOCH.fullmatch(stem)
    if match is None:
        return stem, 0
    return match["model"] or "model", int(match["epoch"])


def _sound(path: Path, load: Load, name: str, skipped: Tally) -> bool:
    try:
        load(path)
    except InputError as error:
        skipped.add("damaged or refused file", f"{name}: {error}")
        return False
    return True
