"""A zoo as a torch dataset: typed items, batched fetch, safe to send to worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from zookeeper.errors import InputError

if TYPE_CHECKING:
    from zookeeper.zoo.sources import RowSource


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """One checkpoint: weights, float32 [P], its properties and its identity."""

    weights: torch.Tensor
    properties: dict[str, float]
    model_id: str
    epoch: int


@dataclass(frozen=True, slots=True, eq=False)
class CheckpointBatch:
    """B checkpoints: weights, float32 [B, P], each property float32 [B], epochs and row numbers int64 [B]."""

    weights: torch.Tensor
    properties: dict[str, torch.Tensor]
    model_ids: tuple[str, ...]
    epochs: torch.Tensor
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.model_ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> CheckpointBatch:
        """Copy the tensors to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> CheckpointBatch:
        """Copy the tensors to pinned memory; a loader with ``pin_memory=True`` calls this."""
        return self._map(torch.Tensor.pin_memory)

    def select(self, index: npt.NDArray[np.int64]) -> CheckpointBatch:
        """Copy out some checkpoints, by their places in the batch."""
        places = torch.from_numpy(index)
        return self._map(lambda tensor: tensor[places], tuple(self.model_ids[place] for place in index.tolist()))

    def _map(
        self, change: Callable[[torch.Tensor], torch.Tensor], model_ids: tuple[str, ...] | None = None
    ) -> CheckpointBatch:
        return CheckpointBatch(
            change(self.weights),
            {name: change(values) for name, values in self.properties.items()},
            self.model_ids if model_ids is None else model_ids,
            change(self.epochs),
            change(self.rows),
        )


class ZooDataset(Dataset[Checkpoint]):
    """Map-style dataset over a view of a zoo; made by `zookeeper.Zoo.torch_dataset`.

    ``dataset[i]`` is a `Checkpoint`. A loader that fetches lists of indices gets a `CheckpointBatch` in one
    read; use `make_loader` or pass ``collate_fn=keep`` to keep it as it is. Open files stay behind when
    the dataset is pickled.
    """

    def __init__(
        self,
        reader: RowSource,
        rows: npt.NDArray[np.int64],
        *,
        num_weights: int,
        columns: npt.NDArray[np.int64] | None,
        properties: Mapping[str, npt.NDArray[np.float64]],
        model_ids: npt.NDArray[np.object_],
        epochs: npt.NDArray[np.int64],
    ) -> None:
        self._reader = reader
        self._rows = rows
        self._num_weights = num_weights
        self._columns = columns
        self._properties = dict(properties)
        self._model_ids = model_ids
        self._epochs = epochs

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Checkpoint:
        if not -len(self) <= index < len(self):
            raise IndexError(f"dataset index {index} is out of range for {len(self)} checkpoints")
        return Checkpoint(
            self._weights(np.array([index % len(self)]))[0],
            {name: float(values[index]) for name, values in self._properties.items()},
            str(self._model_ids[index]),
            int(self._epochs[index]),
        )

    def __getitems__(self, indices: Sequence[int]) -> CheckpointBatch:
        """Fetch a batch in one read; torch's loader calls this."""
        picked = np.asarray(indices, dtype=np.int64)
        return CheckpointBatch(
            self._weights(picked),
            {name: torch.from_numpy(values[picked].astype(np.float32)) for name, values in self._properties.items()},
            tuple(str(model) for model in self._model_ids[picked]),
            torch.from_numpy(self._epochs[picked]),
            torch.from_numpy(picked),
        )

    def _weights(self, picked: npt.NDArray[np.int64]) -> torch.Tensor:
        out = np.empty((len(picked), self._num_weights), np.float32)
        self._reader.read(self._rows[picked], out)
        return torch.from_numpy(out if self._columns is None else out[:, self._columns])


class CheckpointLoader:
    """Batches of a `ZooDataset`; ``torch_loader`` is the loader of torch behind it, whose items have no type."""

    def __init__(self, torch_loader: DataLoader[Checkpoint]) -> None:
        self.torch_loader = torch_loader

    def __iter__(self) -> Iterator[CheckpointBatch]:
        return iter(self.torch_loader)

    def __len__(self) -> int:
        return len(self.torch_loader)


def keep(batch: CheckpointBatch) -> CheckpointBatch:
    """Collate nothing: a batch that was fetched as one is already one."""
    return batch


def make_loader(
    dataset: ZooDataset,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
) -> CheckpointLoader:
    """Make a loader of `CheckpointBatch`; the order of every pass follows from ``seed``.

    Raises
    ------
    InputError
        If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, got {batch_size}.")
    torch_loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=cast(Callable[[list[Any]], Any], keep),
        drop_last=drop_last,
        num_workers=num_workers,
    )
    return CheckpointLoader(torch_loader)
