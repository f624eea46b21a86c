"""Random draws of a training, each from its own key: a resumed run needs no state of a generator."""

from __future__ import annotations

import hashlib

import torch


def keyed_generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """Make a CPU generator whose numbers depend on (seed, purpose, step) alone.

    >>> draws = [torch.rand(1, generator=keyed_generator(0, "views", step)).item() for step in (7, 7, 8)]
    >>> draws[0] == draws[1], draws[0] == draws[2]
    (True, False)
    """
    key = hashlib.sha256(f"{seed}:{purpose}:{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)


def batch_of_step(step: int, num_rows: int, batch_size: int, seed: int) -> torch.Tensor:
    """Row numbers of the batch of a step (counted from 0); each pass over the rows has its own order.

    >>> first = [batch_of_step(step, num_rows=7, batch_size=3, seed=0).tolist() for step in range(2)]
    >>> len({row for batch in first for row in batch})
    6
    """
    per_epoch = max(1, num_rows // batch_size)
    epoch, number = divmod(step, per_epoch)
    order = torch.randperm(num_rows, generator=keyed_generator(seed, "order", epoch))
    return order[number * batch_size : (number + 1) * batch_size]
