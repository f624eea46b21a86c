"""Open a zoo: a table of checkpoints beside a matrix of weights. Subsetting one subsets the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.query import select, suggest
from zookeeper.store.caches import read_frame
from zookeeper.store.collection import store_collection
from zookeeper.store.encoding import PLAIN, Encoding, Floats
from zookeeper.store.header import ImageShape, ZooHeader, read_header
from zookeeper.store.reader import RowReader
from zookeeper.store.records import read_commits
from zookeeper.store.table import PROPERTIES, factor_names

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zookeeper.datasets import CheckpointLoader, ZooDataset

Rows: TypeAlias = npt.NDArray[np.float32]
_SCRATCH_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """A piece of a zoo: weights, float32 [B, P], beside their B lines of the frame."""

    weights: Rows
    frame: pd.DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class Zoo:
    """Checkpoints of many networks: a frame of what is known about them and a matrix of their weights.

    A zoo is a view: `query`, `split`, `take` and indexing return smaller zoos over the same files, and
    read no weights. Rows are ordered by model, then epoch, until `take` orders them otherwise. Weights are
    copied out of the files when asked for, and every file is checked against its hash when first touched.
    """

    path: Path
    header: ZooHeader
    _frame: pd.DataFrame
    _rows: npt.NDArray[np.int64]
    _reader: RowReader

    @property
    def frame(self) -> pd.DataFrame:
        """One line per checkpoint, index 0..N-1: identity, factors, properties, split, status."""
        return self._frame.copy(deep=False)

    @cached_property
    def models(self) -> pd.DataFrame:
        """One line per model: its factors and the properties of its last checkpoint in this view."""
        epochs = self._frame["epoch"]
        if len(epochs) == 0:
            return self.frame
        last = epochs.groupby(self._frame["model_id"], sort=False).idxmax()
        return self._frame.loc[last.to_numpy()].reset_index(drop=True)

    @property
    def factors(self) -> tuple[str, ...]:
        """Columns that say how a model was generated."""
        return factor_names(map(str, self._frame.columns))

    @property
    def properties(self) -> tuple[str, ...]:
        """Columns that say how a checkpoint performs."""
        return tuple(name for name in PROPERTIES if name in self._frame.columns)

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """Epochs present in this view, increasing."""
        return tuple(int(epoch) for epoch in np.unique(self._frame["epoch"].to_numpy()))

    @property
    def image(self) -> ImageShape:
        """The images the networks take; raises `InputError` if the zoo does not say."""
        if self.header.image is None:
            raise InputError(f"{self.path}: the zoo does not say what images its networks take.")
        return self.header.image

    @cached_property
    def layout(self) -> WeightLayout:
        """What each column of the weights is.

        Raises
        ------
        InputError
            If the view mixes several layouts.
        """
        if len(self._rows) > 0:
            digests = {record.layout for record in self._reader.records_of(self._rows)}
        else:
            digests = set(self.header.layouts)
        if len(digests) != 1:
            raise InputError(
                f"{self.path}: this view mixes {len(digests)} layouts of weights. "
                "Query one architecture first, such as architecture == 'cnn-small'."
            )
        return WeightLayout.from_json(self.header.layouts[digests.pop()])

    @property
    def layout_digests(self) -> npt.NDArray[np.str_]:
        """Digest of the layout of every checkpoint, [N]; one value unless the view mixes architectures."""
        return self._reader.layouts_of(self._rows)

    def query(self, expression: str, **values: Any) -> Zoo:
        """Keep the checkpoints for which a condition holds.

        Parameters
        ----------
        expression
            A condition on columns in pandas syntax: ``test_acc > .9 and epoch == 50``.
        values
            Values the expression uses as ``@name``.

        Raises
        ------
        InputError
            If the expression cannot be evaluated; unknown columns come with the nearest name.
        """
        return self._view(np.flatnonzero(select(self._frame, expression, values)))

    def split(self, name: str) -> Zoo:
        """Keep one side of the stored split, such as ``train``; raises `InputError` if there is no such side."""
        if "split" not in self._frame.columns:
            raise InputError(f"{self.path}: the zoo has no split.")
        known = self._frame["split"].dropna().unique().tolist()
        if name not in known:
            raise InputError(f"{self.path}: unknown split {name!r}. {suggest(name, known)}")
        return self._view(np.flatnonzero((self._frame["split"] == name).to_numpy()))

    def take(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Zoo:
        """Keep rows by number, in the order given; numbers may repeat; raises `InputError` if out of range."""
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise InputError(f"{self.path}: expected a list of row numbers, got {numbers.dtype}{list(numbers.shape)}.")
        if numbers.size and (numbers.min() < -len(self) or numbers.max() >= len(self)):
            raise InputError(f"{self.path}: row numbers must lie in 0..{len(self) - 1}, got {numbers.max()}.")
        return self._view(numbers.astype(np.int64) % max(1, len(self)))

    def __getitem__(self, key: int | slice | Sequence[int] | npt.NDArray[Any]) -> Zoo:
        if isinstance(key, slice):
            return self._view(np.arange(len(self))[key])
        if isinstance(key, int | np.integer):
            return self.take([int(key)])
        numbers = np.asarray(key)
        if numbers.dtype == np.bool_:
            if numbers.shape != (len(self),):
                raise InputError(f"{self.path}: a mask needs {len(self)} entries, got {list(numbers.shape)}.")
            numbers = np.flatnonzero(numbers)
        return self.take(numbers)

    def __len__(self) -> int:
        return len(self._rows)

    def weights(self, layers: Sequence[str] | None = None, out: Rows | None = None) -> Rows:
        """Read the weights of all checkpoints in the view, float32 [N, P], whatever type they are stored in.

        Parameters
        ----------
        layers
            Names of layers or blocks; only their columns, in matrix order.
        out
            A C-contiguous float32 array [N, P] to fill instead of a new one.

        Raises
        ------
        InputError
            If the view mixes layouts, a layer is unknown, or ``out`` does not fit.
        StoreError
            If a file is missing or damaged.
        """
        columns = None if layers is None else self.layout.columns(layers)
        width = self.layout.num_weights if columns is None else len(columns)
        if out is None:
            out = np.empty((len(self), width), np.float32)
        elif out.shape != (len(self), width) or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise InputError(
                f"{self.path}: out must be a C-contiguous float32 array [{len(self)}, {width}], "
                f"got {out.dtype}{list(out.shape)}."
            )
        if columns is None:
            self._reader.read(self._rows, out)
            return out
        step = max(1, _SCRATCH_BYTES // (4 * self.layout.num_weights))
        scratch = np.empty((min(step, len(self)), self.layout.num_weights), np.float32)
        for start in range(0, len(self), step):
            piece = self._rows[start : start + step]
            self._reader.read(piece, scratch[: len(piece)])
            out[start : start + step] = scratch[: len(piece), columns]
        return out

    def weights_float64(self) -> npt.NDArray[np.float64]:
        """Read the weights in double precision, float64 [N, P]: every bit of a zoo that stores float64."""
        out = np.empty((len(self), self.layout.num_weights), np.float64)
        self._reader.read(self._rows, out)
        return out

    def tensor(self, layers: Sequence[str] | None = None, *, device: str = "cpu") -> torch.Tensor:
        """Read the weights as a torch tensor, float32 [N, P]; see `weights`."""
        import torch

        return torch.from_numpy(self.weights(layers)).to(device)

    def batches(self, batch_size: int, layers: Sequence[str] | None = None) -> Iterator[RowBatch]:
        """Go through the view in order, ``batch_size`` rows at a time; memory is bounded by one batch."""
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, got {batch_size}.")
        for start in range(0, len(self), batch_size):
            piece = self[start : start + batch_size]
            yield RowBatch(piece.weights(layers), piece.frame)

    def model(self, model_id: str) -> Zoo:
        """Keep one model's checkpoints by epoch; raises `InputError` if it is not in the view."""
        positions = self._positions.get(model_id)
        if positions is None:
            raise InputError(f"{self.path}: unknown model {model_id!r}. {suggest(model_id, self._positions)}")
        return self._view(positions[np.argsort(self._frame["epoch"].to_numpy()[positions], kind="stable")])

    def trajectory(self, model_id: str) -> Rows:
        """Read one model's weights over its epochs, float32 [E, P]."""
        return self.model(model_id).weights()

    def checkpoint(self, model_id: str, epoch: int) -> Zoo:
        """Keep one checkpoint; raises `InputError` with the nearest epochs if it is not in the view."""
        model = self.model(model_id)
        epochs = model._frame["epoch"].to_numpy()
        found = np.flatnonzero(epochs == epoch)
        if len(found) == 0:
            near = sorted(sorted(epochs.tolist(), key=lambda known: abs(known - epoch))[:3])
            raise InputError(
                f"{self.path}: model {model_id!r} has no checkpoint at epoch {epoch}; "
                f"the nearest are {', '.join(map(str, near))}."
            )
        return model.take(found[:1])

    def row(self, model_id: str, epoch: int) -> Rows:
        """Read one checkpoint's weights, float32 [P]."""
        row: Rows = self.checkpoint(model_id, epoch).weights()[0]
        return row

    def state_dict(self, model_id: str, epoch: int) -> dict[str, torch.Tensor]:
        """Read one checkpoint as named tensors, ready for ``load_state_dict``.

        Batch-norm step counters, which do not change what a network computes, are not stored.
        """
        checkpoint = self.checkpoint(model_id, epoch)
        parts = checkpoint.layout.unflatten(checkpoint.tensor()[0])
        return {name: part.clone() for name, part in parts.items()}

    def network(self, model_id: str, epoch: int, *, allow_import: bool = False) -> nn.Module:
        """Build one checkpoint's network with its weights, in evaluation mode.

        ``allow_import`` permits an architecture given as ``python.path:factory``, which runs code that the
        zoo names; leave it off for zoos of others.

        Raises
        ------
        InputError
            If the checkpoint is unknown, or the zoo does not say how to build its networks.
        """
        from zookeeper.nets.registry import build_network

        line = self.checkpoint(model_id, epoch)._frame.iloc[0]
        missing = [name for name in ("architecture", "activation") if name not in line.index]
        if missing:
            raise InputError(f"{self.path}: networks cannot be built without column {missing[0]!r}.")
        architecture = str(line["architecture"])
        if ":" in architecture and not allow_import:
            raise InputError(
                f"{self.path}: architecture {architecture!r} would import code. "
                "If you trust it, pass allow_import=True."
            )
        network = build_network(
            architecture,
            in_channels=self.image.channels,
            image_size=(self.image.height, self.image.width),
            num_classes=self.image.num_classes,
            activation=str(line["activation"]),
            dropout=float(line.get("dropout", 0.0)),
        )
        state = self.state_dict(model_id, epoch)
        wanted = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
        for name in {**wanted, **state}:
            stored, expected = (tuple(p[name].shape) if name in p else None for p in (state, wanted))
            if stored != expected:
                raise InputError(
                    f"{self.path}: stored weights do not fit architecture {architecture!r}; "
                    f"{name}: stored {stored}, expected {expected}."
                )
        network.load_state_dict(state, strict=False)
        return network.eval()

    def torch_dataset(
        self, properties: Sequence[str] = ("test_acc",), layers: Sequence[str] | None = None
    ) -> ZooDataset:
        """Wrap the view as a map-style torch dataset of typed items; see `zookeeper.datasets.ZooDataset`."""
        from zookeeper.datasets import ZooDataset

        columns = {name: self.column(name) for name in properties}
        return ZooDataset(
            self._reader,
            self._rows,
            num_weights=self.layout.num_weights,
            columns=None if layers is None else self.layout.columns(layers),
            properties=columns,
            model_ids=self._frame["model_id"].to_numpy(dtype=object),
            epochs=self._frame["epoch"].to_numpy(dtype=np.int64),
        )

    def dataloader(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        properties: Sequence[str] = ("test_acc",),
        layers: Sequence[str] | None = None,
        drop_last: bool = False,
        num_workers: int = 0,
    ) -> CheckpointLoader:
        """Load batches through torch; the order depends on ``seed`` alone. No workers is usually fastest."""
        from zookeeper.datasets import make_loader

        return make_loader(
            self.torch_dataset(properties, layers),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            num_workers=num_workers,
        )

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """One column of numbers, float64 [N]; raises `InputError` if it is unknown or holds text."""
        if name not in self._frame.columns:
            raise InputError(f"{self.path}: unknown column {name!r}. {suggest(name, self._frame.columns)}")
        if not pd.api.types.is_numeric_dtype(self._frame[name].dtype):
            raise InputError(f"{self.path}: column {name!r} holds {self._frame[name].dtype}; expected numbers.")
        return self._frame[name].to_numpy(dtype=np.float64)

    def __repr__(self) -> str:
        num_models = self._frame["model_id"].nunique()
        lines = [f"Zoo {self.header.name!r} ({self.header.kind}) at {self.path}"]
        planned = sum(len(cohort.models) * len(cohort.epochs) for cohort in self.header.cohorts.values())
        stored = self._reader.num_rows
        unfinished = f" (stored so far: {stored:,} of {planned:,})" if stored < planned else ""
        lines.append(f"  {num_models:,} models, {len(self):,} checkpoints{unfinished}")
        widths = sorted({record.num_weights for record in self._reader.records_of(self._rows)})
        if widths:
            lines.append(f"  {' or '.join(f'{width:,}' for width in widths)} weights per checkpoint")
        if "split" in self._frame.columns:
            sides = self._frame.drop_duplicates("model_id")["split"].value_counts(sort=False)
            lines.append("  models by split: " + ", ".join(f"{side} {count:,}" for side, count in sides.items()))
        for name in ("test_acc", "val_acc", "train_acc"):
            if name in self.properties and self._frame[name].notna().any():
                best = self._frame.iloc[int(np.nanargmax(self.column(name)))]
                lines.append(f"  best {name}: {best[name]:.4f} ({best['model_id']}, epoch {best['epoch']})")
                break
        return "\n".join(lines)

    @cached_property
    def _positions(self) -> dict[str, npt.NDArray[np.int64]]:
        groups = self._frame.groupby("model_id", sort=False).indices
        return {str(model): np.asarray(positions, np.int64) for model, positions in groups.items()}

    def _view(self, positions: npt.NDArray[np.integer[Any]]) -> Zoo:
        frame = self._frame.iloc[positions].reset_index(drop=True)
        return Zoo(self.path, self.header, frame, self._rows[positions], self._reader)


def open(path: str | Path) -> Zoo:
    """Open a stored zoo without reading weights and without importing torch.

    A zoo that is being built opens too and shows what is committed so far.

    Raises
    ------
    InputError
        If there is no zoo at ``path``.
    StoreError
        If its header, a commit record or its metadata is damaged.
    """
    root = Path(path)
    header = read_header(root)
    records = read_commits(root)
    frame, rows = read_frame(root, header, records)
    return Zoo(root, header, frame, rows, RowReader(root, records))


def write_rows(
    path: str | Path,
    rows: npt.ArrayLike,
    frame: pd.DataFrame | Mapping[str, Any] | None,
    layout: WeightLayout,
    *,
    kind: str = "sampled",
    name: str | None = None,
    image: ImageShape | None = None,
    provenance: Mapping[str, Any] | None = None,
    store: Encoding = PLAIN,
) -> Zoo:
    """Store rows of weights as a new zoo, complete or not at all, and open it.

    Parameters
    ----------
    rows
        Weights [N, P] of any origin; taken as float32, or as float64 if that is what ``store`` keeps.
    frame
        N lines of columns. ``model_id`` defaults to a hash of row and row number, ``epoch`` to 0, ``status``
        to ``diverged`` where a weight is not finite. ``architecture`` and ``activation`` are needed by
        `Zoo.network`.
    layout
        What the columns are.
    image
        The images the networks take, such as ``other_zoo.image``.
    provenance
        Where the rows come from, as plain JSON values.
    store
        How rows become bytes; default float32 in Parquet.

    Raises
    ------
    InputError
        If ``path`` is taken, or shapes do not fit.
    StoreError
        If writing fails; nothing appears at ``path``.

    Examples
    --------
    >>> import tempfile
    >>> layout = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight")})
    >>> folder = tempfile.TemporaryDirectory()
    >>> zoo = write_rows(Path(folder.name) / "a", np.ones((4, 6)), {"test_acc": [0.1, 0.2, 0.3, 0.4]}, layout)
    >>> len(zoo.query("test_acc > .25")), zoo.weights().shape
    (2, (4, 6))
    >>> folder.cleanup()
    """
    double = store.dtype == "float64"
    matrix: Floats = np.ascontiguousarray(rows, np.float64) if double else np.ascontiguousarray(rows, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != layout.num_weights:
        raise InputError(f"rows: expected an array [N, {layout.num_weights}], got {list(matrix.shape)}.")
    table = pd.DataFrame({} if frame is None else frame).reset_index(drop=True)
    if frame is not None and len(table) != len(matrix):
        raise InputError(f"frame: expected {len(matrix)} lines, one per row, got {len(table)}.")
    if "model_id" not in table.columns:
        table["model_id"] = [_row_id(number, row) for number, row in enumerate(matrix)]
    if "epoch" not in table.columns:
        table["epoch"] = np.zeros(len(matrix), np.int64)
    root = Path(path)
    header = ZooHeader(
        name=name or root.name,
        cohorts={},
        layouts={layout.digest: layout.to_json()},
        image=image,
        kind=kind,
        provenance=dict(provenance or {}),
        store=store,
    )
    store_collection(root, header, matrix, table, layout.digest)
    return open(root)


def _row_id(number: int, row: npt.NDArray[Any]) -> str:
    return hashlib.sha256(number.to_bytes(8, "little") + row.tobytes()).hexdigest()[:16]
