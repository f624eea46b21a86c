"""Training in tiles that fit the memory at hand: they change what runs at once, never which models come out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeVar

import torch

from zookeeper.errors import BuildError
from zookeeper.population import Cohort, EpochResult, Evaluation, Population, TrainingData, evaluate, train_cohort
from zookeeper.population.train import CohortTrainer

Result = TypeVar("Result")
_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory")


class TiledTrainer(CohortTrainer):
    """A trainer whose passes, of training and of evaluation, hold at most ``tile`` models."""

    def __init__(
        self,
        population: Population,
        cohort: Cohort,
        data: TrainingData,
        rows: torch.Tensor,
        state: dict[str, torch.Tensor] | None = None,
        *,
        tile: int,
    ) -> None:
        super().__init__(population, cohort, data, rows, state)
        self.tiles = [part for whole in self.tiles for part in cut(whole, tile)]

    def evaluate(self) -> dict[str, Evaluation]:
        """Loss and accuracy on every split, tile by tile."""
        found: dict[str, Evaluation] = {}
        for split, (images, labels) in self._parts.items():
            parts = [evaluate(self.population, self.rows[tile], images, labels) for tile in self.tiles]
            found[split] = Evaluation(
                torch.cat([part.loss for part in parts]), torch.cat([part.accuracy for part in parts])
            )
        return found


def cut(whole: slice, tile: int) -> list[slice]:
    """Cut a slice of models into even parts of at most ``tile``.

    >>> cut(slice(4, 11), 3)
    [slice(4, 6, None), slice(6, 8, None), slice(8, 11, None)]
    """
    num = whole.stop - whole.start
    count = -(-num // tile)
    bounds = [whole.start + num * number // count for number in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def train_in_tiles(
    population: Population,
    cohort: Cohort,
    data: TrainingData,
    rows: torch.Tensor,
    *,
    tile: int | None,
    last_epoch: int,
    first_epoch: int = 0,
    state: dict[str, torch.Tensor] | None = None,
) -> Iterator[EpochResult]:
    """Train like `train_cohort`, with at most ``tile`` models in one pass; None leaves the choice to the engine."""
    if tile is None:
        yield from train_cohort(
            population, cohort, data, rows, last_epoch=last_epoch, first_epoch=first_epoch, state=state
        )
        return
    trainer = TiledTrainer(population, cohort, data, rows, state, tile=tile)
    if first_epoch == 0:
        nothing = torch.full((cohort.num_models,), torch.nan, dtype=rows.dtype, device=rows.device)
        yield trainer.result(0, nothing)
    for epoch in range(max(1, first_epoch), last_epoch + 1):
        yield trainer.result(epoch, trainer.train_epoch(epoch))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(RuntimeError("bad shape"))
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def with_smaller_tiles(work: Callable[[int | None], Result], tile: int | None, num_models: int, where: str) -> Result:
    """Do ``work(tile)``; each time memory runs out, again with tiles of half the size.

    Parameters
    ----------
    work
        Something that may be begun again, since it goes on from what is stored.
    tile
        The first size; None is the engine's choice for ``num_models``.

    Raises
    ------
    BuildError
        If memory runs out with one model at a time.
    """
    while True:
        try:
            return work(tile)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        size = num_models if tile is None else min(tile, num_models)
        if size == 1:
            raise BuildError(
                f"{where}: out of memory with one model at a time ({reason}). Take a device with more memory, fewer "
                "workers beside each other, or a smaller batch."
            )
        tile = size // 2
        gc.collect()  # what the failed attempt left behind
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
