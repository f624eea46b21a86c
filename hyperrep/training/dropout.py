"""What a step of training drops: keyed by (seed, step), and nothing outside of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hyperrep.training.streams import keyed_generator


@contextmanager
def dropping(model: nn.Module, rate: float, *, seed: int, step: int, rank: int = 0) -> Iterator[None]:
    """Put a model into training mode, with torch's global stream keyed by (seed, step, rank), for a ``with`` block.

    The block holds the passes and their gradient. Afterwards the model is in eval mode and the stream where it was.
    With ``rate`` 0 nothing is touched.

    >>> layer = nn.Dropout(0.5).eval()
    >>> with dropping(layer, 0.5, seed=0, step=3):
    ...     first = layer(torch.ones(8))
    >>> with dropping(layer, 0.5, seed=0, step=3):
    ...     again = layer(torch.ones(8))
    >>> torch.equal(first, again), bool((first == 0).any()), bool((layer(first) == first).all())
    (True, True, True)
    """
    if rate == 0:
        yield
        return
    key = keyed_generator(seed, f"dropout {rank}", step).initial_seed()
    model.train()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(key)
            yield
    finally:
        model.eval()
