"""Several processes that train one model together: who has which models of a batch, and what is added up.

Every process draws the views of the whole batch from the same keys, encodes its own models, and adds its gradient to
those of the others. One process is the same arithmetic with nothing to add, so there is one code for both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from zookeeper.errors import InputError, ZooError


class RankError(ZooError):
    """Another process of a distributed training is gone."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together.

    Parameters
    ----------
    rank
        Number of this process, from 0; the first alone writes files.
    size
        How many there are.

    Examples
    --------
    >>> [Ranks(rank, 3).own(8) for rank in range(3)]
    [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints, logs and the saved model."""
        return self.rank == 0

    def own(self, num: int) -> slice:
        """Which of the ``num`` models of a batch are this process's; shares differ by one at most."""
        return slice(num * self.rank // self.size, num * (self.rank + 1) // self.size)

    def share(self, num: int) -> float:
        """This process's share of the ``num`` models of a batch."""
        own = self.own(num)
        return int(own.stop - own.start) / num

    def gather(self, views: torch.Tensor, num: int) -> torch.Tensor:
        """Put the views of all processes together: own ``[V * n, E]`` to ``[V * num, E]``, view after view.

        The gradient of every process reaches its own entries alone. So a loss that every process computes from the
        whole has, summed over processes by `sum_gradients`, the gradient of one process that had the whole batch.
        """
        if self.size == 1:
            return views
        gathered: torch.Tensor = _Gather.apply(views, self, num)
        return gathered

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over processes, in one message."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.sum(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum(self, values: torch.Tensor) -> None:
        """Add up a tensor over processes, in place."""
        if self.size > 1:
            with _peers(self):
                distributed.all_reduce(values)

    def agree(self, compute: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Let the first process compute numbers and tell the others."""
        held: list[Any] = [dict(compute()) if self.is_first else None]
        if self.size > 1:
            with _peers(self):
                distributed.broadcast_object_list(held, src=0)
        numbers: dict[str, float] = held[0]
        return numbers

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.size > 1:
            self.agree(dict)


SINGLE = Ranks()


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that the environment tells of (as torchrun sets it), and leave them in the end.

    Without such an environment this process is alone. Messages go over gloo, or nccl between GPUs; of the GPUs of a
    machine every process takes the one with its local number.

    Raises
    ------
    InputError
        If there are fewer GPUs than processes on this machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {rank} of {size}: expected GPU number {local}, this machine has {torch.cuda.device_count()}. "
                "Start as many processes as there are GPUs."
            )
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank, world_size=size)
    try:
        yield Ranks(rank, size)
    finally:
        distributed.destroy_process_group()


@contextmanager
def _peers(ranks: Ranks) -> Iterator[None]:
    """Say in plain words that a message failed because another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"process {ranks.rank} of {ranks.size}: another process of this training is gone "
            f"({str(error).splitlines()[0]}). Start all of them again; they go on from the checkpoint."
        ) from error


class _Gather(torch.autograd.Function):
    """All processes' views in the order of the batch; backward keeps the own part of the gradient."""

    @staticmethod
    def forward(ctx: Any, views: torch.Tensor, ranks: Ranks, num: int) -> torch.Tensor:
        own = ranks.own(num)
        num_views = len(views) // (own.stop - own.start)
        ctx.own, ctx.num_views = own, num_views
        whole = views.new_zeros(num_views, num, *views.shape[1:])
        whole[:, own] = views.view(num_views, -1, *views.shape[1:])
        ranks.sum(whole)  # zeros elsewhere: the sum of disjoint parts is exact, and shares need not be equal
        return whole.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        whole = grads[0].view(ctx.num_views, -1, *grads[0].shape[1:])
        return whole[:, ctx.own].flatten(0, 1), None, None
