"""Training steps that never ask the host: what changes from step to step lies in tensors on the device.

A step reads its number from a tensor, and by it its images, its learning rates and the corrections of its optimiser
from tables that are written once an epoch; losses add up on the device. So on an NVIDIA GPU a whole step (gather,
forward, backward, update) is captured once as a CUDA graph and replayed, hundreds of launches for the price of one.
Everywhere else the same function runs eagerly, which is how it is tested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zookeeper.population.optimise import StepFactors

if TYPE_CHECKING:
    from zookeeper.population.train import CohortTrainer

_WARM_UP = 3  # steps before a capture: libraries choose algorithms, kernels are compiled


class TileSteps:
    """The steps of one tile of a cohort, epoch after epoch.

    Parameters
    ----------
    trainer
        Whose weights, optimiser state and images they work on.
    tile
        Members.
    """

    def __init__(self, trainer: CohortTrainer, tile: slice) -> None:
        self.trainer, self.tile = trainer, tile
        self.rows = trainer.rows[tile]
        self.optimizer = trainer.optimizer.narrow(tile)
        device = self.rows.device
        self.number = torch.zeros(1, dtype=torch.int64, device=device)  # of the step in its epoch
        self.before = torch.zeros(1, dtype=torch.int64, device=device)  # steps of earlier epochs
        self.total = torch.zeros(len(self.rows), dtype=self.rows.dtype, device=device)
        self.lanes = torch.arange(trainer.cohort.batch_size, device=device)
        self._tables: tuple[torch.Tensor, torch.Tensor, StepFactors] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._side: torch.cuda.Stream | None = None
        self._warmed = 0

    def run(self, epoch: int) -> torch.Tensor:
        """Run all steps of an epoch; return the mean batch loss ``[M]``."""
        self._write_tables(epoch)
        size = self.trainer.cohort.batch_size
        whole, rest = divmod(self.trainer.num_images, size)
        for _ in range(whole):
            self._play()
        if rest:
            self.step(rest)
        return self.total / self.trainer.num_images

    def step(self, num_images: int) -> None:
        """Take the step whose number is in ``number``, with batches of ``num_images``, and count it."""
        assert self._tables is not None
        orders, member_of, table = self._tables
        start = self.number * self.trainer.cohort.batch_size
        index = orders.index_select(1, start + self.lanes[:num_images])  # [U, B]
        index = index[0] if len(orders) == 1 else index[member_of]  # [B] or [M, B]
        step = self.before + self.number + 1
        loss = self.trainer.learn(self.rows, self.optimizer, self.tile, index, step, table.at(self.number))
        self.total += loss * num_images
        self.number += 1

    def _write_tables(self, epoch: int) -> None:
        trainer, steps = self.trainer, self.trainer.steps_per_epoch
        first = (epoch - 1) * steps + 1
        settings = None
        if trainer.schedule is not None:
            settings = [trainer.schedule.at(step).narrow(self.tile) for step in range(first, first + steps)]
        orders, member_of = trainer.epoch_images(self.tile, epoch)
        table = self.optimizer.table(first, steps, settings)
        if self._tables is None:
            self._tables = (orders, member_of, table)
        else:  # a captured step reads these addresses
            self._tables[0].copy_(orders)
            self._tables[2].copy_(table)
        self.before.fill_(first - 1)
        self.number.zero_()
        self.total.zero_()

    def _play(self) -> None:
        """Take a full step: eagerly, or by a CUDA graph after a few steps of warming up."""
        size = self.trainer.cohort.batch_size
        if self.rows.device.type != "cuda":
            self.step(size)
        elif self._graph is not None:
            self._graph.replay()
        elif self._warmed < _WARM_UP:
            self._warmed += 1
            if self._side is None:  # one for all: each stream keeps the memory that it once took
                self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            current = torch.cuda.current_stream()
            self._side.wait_stream(current)
            with torch.cuda.stream(self._side):
                self.step(size)
            current.wait_stream(self._side)
        else:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # records, computes nothing
                self.step(size)
            self._graph = graph
            graph.replay()
