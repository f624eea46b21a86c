"""How a population is cut for a CPU: models into tiles, and the images of a convolution into parts."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from zookeeper.population.lower import Population

_CACHE_BYTES = 40_000_000  # activations of a tile; measured (docs/log.md)
_PART_BYTES = 3_000_000  # output of a convolution of one part; measured
_MIN_TILE = 4


def tile_size(num_floats: int, num_images: int) -> int:
    """How many models go through one forward pass, for their activations to stay in a CPU's cache.

    Parameters
    ----------
    num_floats
        Numbers that one network produces from one image.

    Examples
    --------
    >>> tile_size(30_000, 32), tile_size(100, 16)
    (10, 6250)
    """
    return max(_MIN_TILE, _CACHE_BYTES // (4 * num_floats * num_images))


def tile_slices(population: Population, num_models: int, batch_size: int, device: torch.device) -> list[slice]:
    """Cut M models into even tiles whose activations fit the cache (on a GPU: one tile)."""
    if device.type != "cpu":
        return [slice(0, num_models)]
    num_tiles = -(-num_models // tile_size(population.activation_floats, batch_size))
    bounds = [round(number * num_models / num_tiles) for number in range(num_tiles + 1)]
    return [slice(a, b) for a, b in pairwise(bounds)]


def cut(whole: slice, tile: int) -> list[slice]:
    """Cut a slice of models into even parts of at most ``tile``.

    >>> cut(slice(4, 11), 3)
    [slice(4, 6, None), slice(6, 8, None), slice(8, 11, None)]
    """
    num = whole.stop - whole.start
    count = -(-num // tile)
    bounds = [whole.start + num * number // count for number in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def part_size(num_floats: int, num_outputs: int, num_images: int) -> int:
    """How many images of a batch are convolved together, for their output to stay in a CPU's cache.

    It does not depend on how many models there are, so that a sum over images has one order whatever the cohort.

    Parameters
    ----------
    num_floats, num_outputs
        Numbers that one network, and the convolution alone, produce from one image.

    Examples
    --------
    >>> part_size(30_000, 14_400, 32), part_size(30_000, 2_000, 32)
    (5, 32)
    """
    output = 4 * num_outputs * num_images * tile_size(num_floats, num_images)
    num_parts = min(num_images, -(-output // _PART_BYTES))
    return -(-num_images // num_parts)
