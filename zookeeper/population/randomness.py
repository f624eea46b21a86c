"""Random streams keyed by (seed of the model, purpose, step, element).

A counter is hashed, so any number of any stream can be computed on its own, in any order, on any
device, with equal bits: a model does not depend on its neighbours, and a resumed run needs no state.
The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), applied once per key part.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _wrap(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def mix(x: torch.Tensor) -> torch.Tensor:
    """Scramble int64 values; a bijection on 64-bit words.

    >>> mix(torch.tensor([_GOLDEN])).item() == 0xE220A8397B1DCDAF - (1 << 64)
    True
    """
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def stream_keys(seeds: Sequence[int], purpose: str, device: torch.device | str = "cpu") -> torch.Tensor:
    """One int64 key per model, ``[M]``; equal seeds and purposes give equal keys."""
    words = [
        int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:8], "little", signed=True)
        for seed in seeds
    ]
    return torch.tensor(words, dtype=torch.int64, device=device)


def hash_counters(keys: torch.Tensor, counter: int | torch.Tensor, num: int) -> torch.Tensor:
    """Hash (key, counter, element) for ``num`` elements: int64 ``[M, num]``, uniform over 64 bits.

    The counter may be an int64 tensor of one element, so that it can change without the host.
    """
    shift = _wrap(counter * _GOLDEN) if isinstance(counter, int) else counter * _GOLDEN
    base = mix(keys + shift)
    elements = torch.arange(1, num + 1, dtype=torch.int64, device=keys.device) * _GOLDEN
    return mix(base[:, None] + elements)


def uniform_floats(keys: torch.Tensor, counter: int | torch.Tensor, num: int) -> torch.Tensor:
    """Uniform float32 numbers in [0, 1), ``[M, num]``, multiples of 2^-24.

    >>> u = uniform_floats(stream_keys([1, 2], "dropout"), 0, 1000)
    >>> bool(((u >= 0) & (u < 1)).all()), abs(float(u.mean()) - 0.5) < 0.02
    (True, True)
    """
    return _shift_right(hash_counters(keys, counter, num), 40).to(torch.float32) * (2.0**-24)


def epoch_orders(keys: torch.Tensor, epoch: int, num_images: int) -> torch.Tensor:
    """Order of the training images in one epoch: a permutation per key, int64 ``[M, num_images]``.

    >>> orders = epoch_orders(stream_keys([3, 3, 4], "order"), 1, 50)
    >>> bool((orders[0] == orders[1]).all()), bool((orders[0] == orders[2]).all())
    (True, False)
    >>> orders[2].sort().values.tolist() == list(range(50))
    True
    """
    return hash_counters(keys, epoch, num_images).argsort(dim=1)


def train_subsets(keys: torch.Tensor, num_images: int, fraction: float) -> torch.Tensor:
    """Which of the training images a model sees: sorted positions, int64 ``[M, k]``, a subset per key.

    k is the whole part of ``fraction * num_images``, at least 1. The subsets of one key are nested: a larger
    fraction adds images and drops none.

    >>> subsets = train_subsets(stream_keys([3, 4], "subset"), 50, 0.1)
    >>> subsets.shape, bool((subsets[0] == subsets[1]).all())
    (torch.Size([2, 5]), False)
    """
    num = num_train_images(num_images, fraction)
    return hash_counters(keys, 0, num_images).argsort(dim=1)[:, :num].sort(dim=1).values


def num_train_images(num_images: int, fraction: float) -> int:
    """Return how many of the training images a fraction of them is.

    >>> num_train_images(60_000, 0.7), num_train_images(43, 1.0), num_train_images(5, 0.01)
    (42000, 43, 1)
    """
    return max(1, math.floor(round(num_images * fraction, 6)))


class DropoutStream:
    """Dropout masks of M models at one optimiser step.

    The mask of a model is a function of (its key, the place in the network, the step): it does not
    depend on the other models, nor on how the stack lays out its activations.
    """

    def __init__(self, keys: torch.Tensor, step: int | torch.Tensor, probabilities: torch.Tensor) -> None:
        self.keys = keys
        self.step = step
        self.probabilities = probabilities

    def mask(self, place: int, num_images: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Mask of one dropout layer, ``[M, B, *shape]``: 0 where dropped, 1 / (1 - p) where kept."""
        num = num_images
        for side in shape:
            num *= side
        draws = uniform_floats(mix(self.keys + place), self.step, num)
        p = self.probabilities[:, None]
        kept = (draws >= p).to(dtype) / (1.0 - p).to(dtype)
        return kept.view(-1, num_images, *shape)
