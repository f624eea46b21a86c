"""Write a zoo in a format of others: all of it appears at once, or nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zookeeper.errors import InputError
from zookeeper.interop.names import published_keys
from zookeeper.interop.sidecar import SIDECAR, Sidecar
from zookeeper.store.collection import appear_at_once
from zookeeper.zoo import Zoo

Array = npt.NDArray[Any]
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_WRITERS = {
    "state-dict": "zookeeper.interop.writers:write_state_dicts",
    "safetensors": "zookeeper.interop.writers:write_safetensors",
    "npz": "zookeeper.interop.writers:write_npz",
    "npy": "zookeeper.interop.writers:write_npy",
    "unterthiner": "zookeeper.interop.writers:write_unterthiner",
    "ray-tune": "zookeeper.interop.ray_tune_out:write_ray_tune",
}
EXPORT_FORMATS = tuple(_WRITERS)
# What a format cannot carry, said on every export.
LOST = {
    "state-dict": ("the specification is kept as text only",),
    "safetensors": ("the specification is kept as text only",),
    "npz": ("the specification is kept as text only",),
    "npy": ("the specification is kept as text only",),
    "unterthiner": ("the specification is kept as text only", "names of models become modeldir, epochs become step"),
    "ray-tune": (
        "the specification is kept as text only",
        "dataset.pt (images) is not written",
        "result.json has no times, hosts or process ids",
    ),
}


@dataclass(frozen=True)
class ExportOptions:
    """How to write.

    ``published_names``: keys of the published zoos instead of canonical ones. ``table``: ``csv`` or ``parquet``.
    """

    published_names: bool = False
    table: str = "csv"

    def __post_init__(self) -> None:
        if self.table not in ("csv", "parquet"):
            raise InputError(f"table: unknown {self.table!r}; expected csv or parquet.")


@dataclass(frozen=True)
class ExportSummary:
    """What an export wrote, and what the format cannot carry."""

    path: Path
    format: str
    num_models: int
    num_checkpoints: int
    lost: tuple[str, ...]


OnRows = Callable[[int], None]


def export_zoo(
    format: str,
    zoo: Zoo,
    target: Path,
    options: ExportOptions | None = None,
    *,
    on_rows: OnRows | None = None,
) -> ExportSummary:
    """Write a zoo, or a view of one, to the new folder ``target``; importing it gives the same rows to the bit.

    Parameters
    ----------
    format
        One of ``EXPORT_FORMATS``.
    on_rows
        Called with the number of checkpoints of each model written.

    Raises
    ------
    InputError
        If the format is unknown, cannot hold these networks, the view is empty, or ``target`` is taken.
    StoreError
        If a file of the zoo is damaged, or ``target`` cannot be written; nothing appears there.

    Examples
    --------
    >>> import tempfile
    >>> from zookeeper import WeightLayout, assert_equal, import_zoo, open, write_rows
    >>> folder = tempfile.TemporaryDirectory()
    >>> root, layout = Path(folder.name), WeightLayout.from_shapes({"fc.weight": ((1, 3), "weight")})
    >>> zoo = write_rows(root / "zoo", np.float32([[1, 2, 3], [4, 5, 6]]), {"test_acc": [0.1, 0.2]}, layout)
    >>> export_zoo("safetensors", zoo, root / "out").num_checkpoints
    2
    >>> import_zoo("safetensors", root / "out", root / "again").num_checkpoints
    2
    >>> assert_equal(zoo, open(root / "again"))
    >>> folder.cleanup()
    """
    import importlib

    if format not in _WRITERS:
        raise InputError(f"format: unknown {format!r}; expected one of {', '.join(_WRITERS)}.")
    if len(zoo) == 0:
        raise InputError(f"{zoo.path}: no checkpoint is selected; expected at least one. Check the query.")
    module, _, name = _WRITERS[format].partition(":")
    write: Callable[[Zoo, Path, ExportOptions, OnRows], None] = getattr(importlib.import_module(module), name)
    with appear_at_once(target) as folder:
        write(zoo, folder, options or ExportOptions(), on_rows or (lambda count: None))
        (folder / SIDECAR).write_text(json.dumps(Sidecar.of(zoo).to_json(), indent=1))
    return ExportSummary(target, format, int(zoo.frame["model_id"].nunique()), len(zoo), LOST[format])


def each_model(zoo: Zoo) -> Iterator[tuple[str, Zoo]]:
    """Models in the order of the view, each with its checkpoints by epoch."""
    for model_id in dict.fromkeys(zoo.frame["model_id"]):
        yield str(model_id), zoo.model(str(model_id))


def read_rows(zoo: Zoo) -> Array:
    """Weights [N, P] as float32, or float64 if that is what the zoo stores."""
    return zoo.weights_float64() if zoo.header.store.dtype == "float64" else zoo.weights()


def file_names(zoo: Zoo) -> dict[str, str]:
    """A name for every model that is safe on every file system: its id if it is plain, else a number.

    Ids that a user chose may hold slashes or differ in case only.
    """
    ids = list(dict.fromkeys(map(str, zoo.frame["model_id"])))
    if all(_PLAIN_NAME.fullmatch(model) for model in ids):
        return {model: model for model in ids}
    return {model: f"model-{number:06d}" for number, model in enumerate(ids)}


def keys_of(model: Zoo, *, published: bool) -> Mapping[str, str]:
    """Canonical name to key in the file, of every block of one model.

    Raises
    ------
    InputError
        If published names are asked for and the architecture has none.
    """
    if not published:
        return {block.name: block.name for block in model.layout.blocks}
    line = model.frame.iloc[0]
    if "architecture" not in line.index:
        raise InputError(f"{model.path}: without a column 'architecture' there are no published names.")
    dropout = float(line["dropout"]) if "dropout" in line.index else 0.0
    return published_keys(str(line["architecture"]), dropout=dropout > 0, layout=model.layout)


def tensors_of(model: Zoo, keys: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Array]]]:
    """Epoch and tensors under their keys, of every checkpoint of one model."""
    parts = model.layout.unflatten(read_rows(model))
    for number, epoch in enumerate(model.frame["epoch"].tolist()):
        yield int(epoch), {keys[name]: np.ascontiguousarray(part[number]) for name, part in parts.items()}
