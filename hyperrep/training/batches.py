"""Which rows of a zoo share a batch: drawn from all, or near relatives side by side.

The contrastive part tells the networks of a batch apart. Among networks drawn from a whole zoo their initial draw
does that best, and an encoder that knows the draws of its train networks says little about others. Among networks of
one draw only what training did to them is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from hyperrep.config import BatchSection
from hyperrep.training.streams import batch_of_step, keyed_generator
from zookeeper.errors import InputError
from zookeeper.query import suggest


@dataclass(frozen=True, eq=False)
class Batches:
    """Row numbers of every batch of a training, a function of (seed, step).

    Parameters
    ----------
    num_rows, batch_size
        Train rows, and how many of them a step sees; all, if they do not fill a batch.
    groups
        Group of each row, int64 ``[N]``, numbered from 0; None draws from all rows.
    groups_per_batch
        How many groups stand side by side in a batch, equally many rows of each.

    Examples
    --------
    >>> first, second = (Batches(7, 3).of_step(step, seed=0).tolist() for step in range(2))
    >>> len({*first, *second})
    6
    >>> related = Batches(6, 2, groups=torch.tensor([0, 1, 0, 1, 0, 1]))
    >>> {row % 2 for row in related.of_step(0, seed=0).tolist()} in ({0}, {1})
    True
    """

    num_rows: int
    batch_size: int
    groups: torch.Tensor | None = None
    groups_per_batch: int = 1

    def of_step(self, step: int, *, seed: int) -> torch.Tensor:
        """Row numbers of the batch of a step (counted from 0); each pass over the rows has its own order."""
        if self.groups is None:
            return batch_of_step(step, self.num_rows, self.batch_size, seed)
        size = self.batch_size // self.groups_per_batch
        per_pass = int((self.groups.bincount() // size).sum()) // self.groups_per_batch
        number_of_pass, number = divmod(step, per_pass)
        pieces = self._pieces(self.groups, size, keyed_generator(seed, "order", number_of_pass))
        return pieces[number * self.groups_per_batch : (number + 1) * self.groups_per_batch].flatten()

    def _pieces(self, groups: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
        """All rows but the odd ones of each group, cut into pieces of one group ``[n, size]``, in random order."""
        order = torch.randperm(len(groups), generator=generator)
        order = order[groups[order].argsort(stable=True)]
        counts = groups.bincount()
        starts = counts.cumsum(0) - counts
        place = torch.arange(len(groups)) - starts[groups[order]]
        kept = place < (counts // size * size)[groups[order]]
        pieces = order[kept].view(-1, size)
        return pieces[torch.randperm(len(pieces), generator=generator)]


def group_rows(frame: pd.DataFrame, settings: BatchSection, batch_size: int, *, where: str) -> torch.Tensor:
    """Number the groups of rows that agree in all factors of ``settings.by``, int64 ``[N]``.

    Raises
    ------
    InputError
        If a factor is unknown, or the groups are too few or too small to fill a batch.
    """
    for name in settings.by:
        if name not in frame:
            raise InputError(f"{where}: training.batches.by: unknown factor {name!r}. {suggest(name, list(frame))}")
    numbers = frame.groupby(list(settings.by), sort=True, observed=True, dropna=False).ngroup().to_numpy()
    groups = torch.from_numpy(numbers.astype("int64"))
    counts, needed = groups.bincount(), batch_size // settings.groups
    if len(counts) < settings.groups or int(counts.min()) < needed:
        raise InputError(
            f"{where}: training.batches: a batch of {batch_size} takes {needed} rows of each of {settings.groups} "
            f"groups by {', '.join(settings.by)}; there are {len(counts)} groups, the smallest of "
            f"{int(counts.min())} rows. Lower training.batch_size, raise training.batches.groups or name fewer factors."
        )
    return groups
