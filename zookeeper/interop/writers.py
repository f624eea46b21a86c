"""Write a zoo as weight files beside a table, or as one matrix beside a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.interop.exporting import (
    ExportOptions,
    OnRows,
    each_model,
    file_names,
    keys_of,
    read_rows,
    tensors_of,
)
from zookeeper.interop.unterthiner import RENAMED, check_layout, from_torch
from zookeeper.zoo import Zoo

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
_BATCH = 1024


def write_state_dicts(zoo: Zoo, folder: Path, options: ExportOptions, on_rows: OnRows) -> None:
    """One ``torch.save`` of a state dict per checkpoint, in a folder per model."""
    import torch

    def save(tensors: dict[str, Array], path: Path) -> None:
        torch.save(as_torch(tensors), path)

    _write_files(zoo, folder, options, on_rows, ".pt", save)


def write_safetensors(zoo: Zoo, folder: Path, options: ExportOptions, on_rows: OnRows) -> None:
    """One .safetensors file per checkpoint, in a folder per model."""
    from safetensors.numpy import save_file

    _write_files(zoo, folder, options, on_rows, ".safetensors", save_file)


def write_npz(zoo: Zoo, folder: Path, options: ExportOptions, on_rows: OnRows) -> None:
    """One .npz file per checkpoint, in a folder per model."""

    def save(tensors: dict[str, Array], path: Path) -> None:
        np.savez(path, allow_pickle=False, **tensors)

    _write_files(zoo, folder, options, on_rows, ".npz", save)


def write_npy(zoo: Zoo, folder: Path, options: ExportOptions, on_rows: OnRows) -> None:
    """``weights.npy`` [N, P] in the columns of the zoo's layout, and ``metrics``; one architecture only."""
    width = zoo.layout.num_weights  # refuses several layouts before anything is written
    _write_matrix(zoo, folder, width, read_rows, on_rows)
    _write_table(zoo.frame, folder / "metrics", options)


def write_unterthiner(zoo: Zoo, folder: Path, options: ExportOptions, on_rows: OnRows) -> None:
    """``weights.npy`` and ``metrics.csv`` in the order and under the names of the published small CNN zoo."""
    if not check_layout(zoo.layout) or zoo.header.store.dtype == "float64":
        raise InputError(
            f"{zoo.path}: this format holds float32 networks of architecture smallcnn-google with one channel and "
            "ten classes only. Export npy instead."
        )

    def read(view: Zoo) -> Array:
        return from_torch(view.layout.unflatten(view.weights()))

    _write_matrix(zoo, folder, zoo.layout.num_weights, read, on_rows)
    frame = zoo.frame.assign(modeldir=zoo.frame["model_id"], step=zoo.frame["epoch"])
    published = {ours: theirs for theirs, ours in RENAMED.items() if ours in frame and ours != theirs}
    for ours, theirs in published.items():
        frame[theirs] = frame[ours]
    _write_table(frame, folder / "metrics", ExportOptions(table="csv"))


def as_torch(tensors: dict[str, Array]) -> dict[str, torch.Tensor]:
    """Named tensors as a state dict of torch."""
    import torch

    return {name: torch.tensor(array) for name, array in tensors.items()}


def _write_files(
    zoo: Zoo,
    folder: Path,
    options: ExportOptions,
    on_rows: OnRows,
    suffix: str,
    save: Callable[[dict[str, Array], Path], None],
) -> None:
    names = file_names(zoo)
    for model_id, model in each_model(zoo):
        place = folder / "checkpoints" / names[model_id]
        place.mkdir(parents=True)
        for epoch, tensors in tensors_of(model, keys_of(model, published=options.published_names)):
            save(tensors, place / f"epoch_{epoch:06d}{suffix}")
        on_rows(len(model))
    frame = zoo.frame
    pairs = zip(frame["model_id"], frame["epoch"], strict=True)
    files = [f"checkpoints/{names[str(model)]}/epoch_{epoch:06d}{suffix}" for model, epoch in pairs]
    _write_table(frame, folder / "checkpoints", options, files)


def _write_matrix(zoo: Zoo, folder: Path, width: int, read: Callable[[Zoo], Array], on_rows: OnRows) -> None:
    dtype = np.float64 if zoo.header.store.dtype == "float64" else np.float32
    target = np.lib.format.open_memmap(folder / "weights.npy", "w+", dtype, (len(zoo), width))
    for start in range(0, len(zoo), _BATCH):
        piece = zoo[start : start + _BATCH]
        target[start : start + len(piece)] = read(piece)
        on_rows(len(piece))
    target.flush()


def _write_table(frame: pd.DataFrame, stem: Path, options: ExportOptions, files: list[str] | None = None) -> None:
    """The zoo's table, with a column ``file`` where rows are files; a factor of that name gives way."""
    kept = frame.drop(columns=["cohort"], errors="ignore")
    if files is not None:
        if "file" in kept.columns:
            raise InputError("the zoo has a column 'file', which this format needs. Export npy instead.")
        kept.insert(0, "file", files)
    path = stem.with_suffix(f".{options.table}")
    if options.table == "parquet":
        kept.to_parquet(path, index=False)
    else:
        kept.to_csv(path, index=False)
