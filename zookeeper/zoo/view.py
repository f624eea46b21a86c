"""A view of a zoo: a table of checkpoints beside a matrix of weights. Subsetting one subsets the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.query import select, suggest
from zookeeper.store.header import ImageShape, ZooHeader
from zookeeper.store.table import PROPERTIES, factor_names, widen
from zookeeper.zoo.sources import RowSource

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zookeeper.datasets import CheckpointLoader, ZooDataset
    from zookeeper.streaming import ZooStream
    from zookeeper.zoo.splits import ZooSplits

Rows: TypeAlias = npt.NDArray[np.float32]
ZOO = "zoo"
"""Column of a concatenation that names the zoo a checkpoint comes from."""
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
    `zookeeper.concatenate` makes one view of several zoos.

    ``source`` is the path or URL it was opened from.
    """

    source: str
    header: ZooHeader
    _root: Path | None
    _table: pd.DataFrame
    _rows: npt.NDArray[np.int64]
    _reader: RowSource
    _parts: Mapping[str, ZooHeader] = field(default_factory=dict)
    _lines: npt.NDArray[np.integer[Any]] | None = None

    @property
    def path(self) -> Path:
        """The zoo's folder; of a remote zoo, the local copy of its metadata.

        Raises
        ------
        InputError
            If the view is of several zoos.
        """
        if self._root is None:
            raise InputError(f"{self.source}: has no folder of its own. Ask one of its zoos.")
        return self._root

    @property
    def frame(self) -> pd.DataFrame:
        """One line per checkpoint, index 0..N-1: identity, factors, properties, split, status."""
        return self._spelled_out.copy(deep=False)

    @cached_property
    def models(self) -> pd.DataFrame:
        """One line per model: its factors and the properties of its last checkpoint in this view."""
        if len(self) == 0:
            return self.frame
        last = self._frame.groupby(self.model_key, sort=False)["epoch"].idxmax()
        return widen(self._frame.loc[last.to_numpy()].reset_index(drop=True))

    @property
    def model_key(self) -> list[str]:
        """Columns that tell models apart: ``model_id``, and in a concatenation ``zoo``."""
        return ["model_id", ZOO] if self._parts else ["model_id"]

    @property
    def factors(self) -> tuple[str, ...]:
        """Columns that say how a model was generated."""
        return factor_names(str(name) for name in self._frame.columns if not self._parts or name != ZOO)

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
        """The images the networks take; raises `InputError` if the zoo does not say, or the view mixes sets."""
        image = self.header.image
        if self._parts:
            names = [str(name) for name in self._frame[ZOO].unique()]
            images = [self._parts[name].image for name in names]
            if any(other != images[0] for other in images[1:]):
                raise InputError(
                    f"{self.source}: this view mixes the images of {', '.join(names)}. "
                    f"Query one of them first, such as zoo == {names[0]!r}."
                )
            image = images[0] if images else None
        if image is None:
            raise InputError(f"{self.source}: the zoo does not say what images its networks take.")
        return image

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
                f"{self.source}: this view mixes {len(digests)} layouts of weights. "
                "Query one architecture first, such as architecture == 'cnn-small', or go through by_layout()."
            )
        return WeightLayout.from_json(self.header.layouts[digests.pop()])

    def by_layout(self) -> dict[str, Zoo]:
        """Cut the view by layout: digest to the checkpoints of that layout, in order of first appearance."""
        digests = self.layout_digests
        return {str(digest): self._view(np.flatnonzero(digests == digest)) for digest in pd.unique(digests)}

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
            raise InputError(f"{self.source}: the zoo has no split. Make one with divide().")
        known = self._frame["split"].dropna().unique().tolist()
        if name not in known:
            raise InputError(f"{self.source}: unknown split {name!r}. {suggest(name, known)}")
        return self._view(np.flatnonzero((self._frame["split"] == name).to_numpy()))

    @property
    def splits(self) -> ZooSplits:
        """The stored split; a side that holds nothing is empty. Raises `InputError` if the zoo has no split."""
        from zookeeper.zoo.splits import stored_splits

        return stored_splits(self)

    def divide(
        self,
        *,
        train: float = 0.7,
        val: float = 0.15,
        test: float = 0.15,
        by: str | Sequence[str] = "model",
        stratify: str | None = None,
        bins: int = 4,
        seed: int = 0,
    ) -> ZooSplits:
        """Split the view anew, by model or by group of models; see `zookeeper.zoo.splits.divide`."""
        from zookeeper.zoo.splits import divide

        return divide(self, {"train": train, "val": val, "test": test}, by, stratify, bins, seed)

    def with_split(self, sides: Sequence[str] | npt.NDArray[Any]) -> Zoo:
        """Put the checkpoints on other sides than the stored ones: the same view, ``split`` and `splits` replaced.

        Parameters
        ----------
        sides
            Side of every checkpoint, text [N], such as ``train``.

        Raises
        ------
        InputError
            If there are more or fewer sides than checkpoints.
        """
        if len(sides) != len(self):
            raise InputError(f"{self.source}: expected {len(self)} sides, one per checkpoint, got {len(sides)}.")
        table = self._frame.assign(split=pd.Categorical(np.asarray(sides, dtype=str)))
        return replace(self, _table=table, _lines=None)

    def take(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Zoo:
        """Keep rows by number, in the order given; numbers may repeat; raises `InputError` if out of range."""
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise InputError(
                f"{self.source}: expected a list of row numbers, got {numbers.dtype}{list(numbers.shape)}."
            )
        if numbers.size and (numbers.min() < -len(self) or numbers.max() >= len(self)):
            raise InputError(f"{self.source}: row numbers must lie in 0..{len(self) - 1}, got {numbers.max()}.")
        return self._view(numbers.astype(np.int64) % max(1, len(self)))

    def __getitem__(self, key: int | slice | Sequence[int] | npt.NDArray[Any]) -> Zoo:
        if isinstance(key, slice):
            return self._view(np.arange(len(self))[key])
        if isinstance(key, int | np.integer):
            return self.take([int(key)])
        numbers = np.asarray(key)
        if numbers.dtype == np.bool_:
            if numbers.shape != (len(self),):
                raise InputError(f"{self.source}: a mask needs {len(self)} entries, got {list(numbers.shape)}.")
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
                f"{self.source}: out must be a C-contiguous float32 array [{len(self)}, {width}], "
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
            raise InputError(f"{self.source}: unknown model {model_id!r}. {suggest(model_id, self._positions)}")
        if self._parts and (owners := self._frame[ZOO].iloc[positions].unique().tolist())[1:]:
            raise InputError(
                f"{self.source}: model {model_id!r} is in {' and '.join(owners)}. "
                f"Query one of them first, such as zoo == {owners[0]!r}."
            )
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
                f"{self.source}: model {model_id!r} has no checkpoint at epoch {epoch}; "
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
        from zookeeper.zoo.networks import read_state

        return read_state(self.checkpoint(model_id, epoch))

    def network(self, model_id: str, epoch: int, *, allow_import: bool = False) -> nn.Module:
        """Build one checkpoint's network with its weights, in evaluation mode.

        ``allow_import`` permits an architecture given as ``python.path:factory``, which runs code that the
        zoo names; leave it off for zoos of others.

        Raises
        ------
        InputError
            If the checkpoint is unknown, or the zoo does not say how to build its networks.
        """
        from zookeeper.zoo.networks import build_checkpoint

        return build_checkpoint(self.checkpoint(model_id, epoch), allow_import=allow_import)

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

    def stream(
        self,
        batch_size: int,
        *,
        buffer: int = 4096,
        shards: int = 8,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        properties: Sequence[str] = ("test_acc",),
        layers: Sequence[str] | None = None,
    ) -> ZooStream:
        """Stream batches in bounded memory, shuffled, resumable; see `zookeeper.streaming.ZooStream`."""
        from zookeeper.streaming import StreamOrder, ZooStream

        order = StreamOrder(self._reader.blocks_of(self._rows), self._rows, buffer, shards, shuffle, seed)
        return ZooStream(self.torch_dataset(properties, layers), order, batch_size, rank, num_ranks)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """One column of numbers, float64 [N]; raises `InputError` if it is unknown or holds text."""
        if name not in self._frame.columns:
            raise InputError(f"{self.source}: unknown column {name!r}. {suggest(name, self._frame.columns)}")
        if not pd.api.types.is_numeric_dtype(self._frame[name].dtype):
            raise InputError(f"{self.source}: column {name!r} holds text; expected numbers.")
        return self._frame[name].to_numpy(dtype=np.float64)

    def __repr__(self) -> str:
        num_models = len(self.models)
        lines = [f"Zoo {self.header.name!r} ({self.header.kind}) at {self.source}"]
        planned = sum(len(cohort.models) * len(cohort.epochs) for cohort in self.header.cohorts.values())
        stored = self._reader.num_rows
        unfinished = f" (stored so far: {stored:,} of {planned:,})" if stored < planned else ""
        lines.append(f"  {num_models:,} models, {len(self):,} checkpoints{unfinished}")
        widths = sorted({record.num_weights for record in self._reader.records_of(self._rows)})
        if widths:
            lines.append(f"  {' or '.join(f'{width:,}' for width in widths)} weights per checkpoint")
        if "split" in self._frame.columns:
            sides = self.models["split"].value_counts(sort=False)
            lines.append("  models by split: " + ", ".join(f"{side} {count:,}" for side, count in sides.items()))
        for name in ("test_acc", "val_acc", "train_acc"):
            if name in self.properties and self._frame[name].notna().any():
                best = self._frame.iloc[int(np.nanargmax(self.column(name)))]
                lines.append(f"  best {name}: {best[name]:.4f} ({best['model_id']}, epoch {best['epoch']})")
                break
        return "\n".join(lines)

    @cached_property
    def _frame(self) -> pd.DataFrame:
        """Lines of this view, text as categories; who wants rows only never pays for them."""
        return self._table if self._lines is None else self._table.iloc[self._lines].reset_index(drop=True)

    @cached_property
    def _spelled_out(self) -> pd.DataFrame:
        return widen(self._frame)

    @cached_property
    def _positions(self) -> dict[str, npt.NDArray[np.int64]]:
        groups = self._frame.groupby("model_id", sort=False).indices
        return {str(model): np.asarray(positions, np.int64) for model, positions in groups.items()}

    def _view(self, positions: npt.NDArray[np.integer[Any]]) -> Zoo:
        lines = positions if self._lines is None else self._lines[positions]
        return replace(self, _lines=lines, _rows=self._rows[positions])
