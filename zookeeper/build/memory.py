"""How much memory the training of a cohort takes, predicted from the graph of its networks.

The arithmetic follows the engine: what a forward pass saves for its backward pass, what lives beside it at
every operation (`passes`), and what stays for a whole epoch. All of that is counted; what the library of a CPU takes
beside it was measured (docs/scaling.md), that of a GPU is not known to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from zookeeper.build.passes import FLOAT, LONG, Passes, product_of
from zookeeper.population import Cohort, Population
from zookeeper.population.convolution import GROUPED
from zookeeper.population.evaluate import _passes as pass_sizes
from zookeeper.population.pooled import pools_at_once
from zookeeper.population.precision import FLOAT32
from zookeeper.population.tiles import tile_slices
from zookeeper.population.train import _INPUT_BYTES as INPUT_BYTES

_SLOTS = {"adam": 2, "adamw": 2, "rmsprop": 2, "sgd": 1}
_REORDERED = 3  # copies of the kernels of grouped convolutions, in the library's own orders; measured
_ORDER_COPIES = 3  # of an epoch's order while it is drawn: hashes, their scrambling, the sort
_HEAP_BYTES = 16_000_000  # freed pieces that the C library keeps, of sizes that nobody asks for again; measured


@dataclass(frozen=True)
class Memory:
    """Bytes that the training of a cohort takes, by part.

    Parameters
    ----------
    images
        Pixels and labels on the device, in all the forms that are kept.
    weights
        The matrix of the cohort and its optimiser slots.
    orders, training, evaluation
        Peaks of three phases beyond the above. ``training`` is one step of the largest tile with its batch,
        activations, gradients and, kept beside it, the epoch's order.
    scratch
        What a CPU's library takes for convolutions outside of torch's allocator, a measured share of their kernels.
    heap
        What the host's allocator keeps of freed memory; measured (docs/scaling.md), it does not grow with the cohort.
    checkpoints
        The buffer of checkpoints, the block that is committed meanwhile with its copies, and the stored training
        state; on the host, whatever the device.
    on_host
        Whether the device is the host.
    """

    images: int
    weights: int
    orders: int
    training: int
    evaluation: int
    scratch: int
    heap: int
    checkpoints: int
    on_host: bool

    @property
    def peak(self) -> int:
        """Most bytes at one time on the device.

        What one phase gives back is not free for the next: a step that a GPU has captured keeps its memory, and the
        host's allocator keeps it in pieces of other sizes.
        """
        phases = self.training + max(self.orders, self.evaluation)
        always = self.images + self.weights + self.scratch + self.heap
        return always + phases + (self.checkpoints if self.on_host else 0)


def predict_memory(
    population: Population,
    cohort: Cohort,
    num_images: Mapping[str, int],
    *,
    device: str = "cpu",
    tile: int | None = None,
    commit_bytes: int = 0,
) -> Memory:
    """Predict the memory of training a cohort.

    Parameters
    ----------
    num_images
        Images of each split; those of all splits are on the device.
    tile
        Most models in one forward pass; by default as the engine cuts the cohort.
    commit_bytes
        Bytes of checkpoints that come together before a commit; 0 leaves the buffer out.

    Examples
    --------
    >>> from torch import nn
    >>> population = Population(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (1, 2, 2))
    >>> few, many = (
    ...     Cohort(tuple(range(m)), *[(0.1,) * m] * 3, (0.0,) * m, "adam", batch_size=8) for m in (10, 1000)
    ... )
    >>> memory = [predict_memory(population, cohort, {"train": 64}) for cohort in (few, many)]
    >>> memory[1].weights == 100 * memory[0].weights == 1000 * 23 * 3 * 4
    True
    """
    num_models, layout, on_host = cohort.num_models, population.layout, device == "cpu"
    tiles = tile_slices(population, num_models, cohort.batch_size, torch.device(device))
    largest = max(part.stop - part.start for part in tiles)
    if tile is not None:
        largest = min(largest, tile)
    seeds = max(len(set(cohort.seeds[start : start + largest])) for start in range(0, num_models, largest))
    matrix = FLOAT * num_models * layout.num_weights
    slots = _SLOTS.get(cohort.optimizer, 2) * FLOAT * num_models * layout.num_trainable
    total, pixels = sum(num_images.values()), product_of(population.image_shape)
    stays_bytes = FLOAT * total * pixels > INPUT_BYTES
    inputs = (0 if on_host else total * pixels) if stays_bytes else 2 * FLOAT * total * pixels
    order = LONG * seeds * num_images["train"]
    together = num_models if tile is None else largest
    models, images = pass_sizes(population, together, max(num_images.values()), torch.device(device))
    evaluation = Passes(population, models, images, shared=True).evaluation()
    return Memory(
        images=total * (pixels + 2 * LONG) + inputs,
        weights=matrix + slots,
        orders=_ORDER_COPIES * order,
        training=order
        + _step_bytes(population, cohort, largest, shared=seeds == 1, from_bytes=stays_bytes, on_host=on_host),
        evaluation=evaluation + (images * pixels if stays_bytes else 0),
        scratch=_REORDERED * FLOAT * largest * _grouped_weights(population) if on_host else 0,
        heap=_HEAP_BYTES if on_host else 0,
        checkpoints=4 * max(commit_bytes, matrix) + 3 * (matrix + slots) if commit_bytes else 0,
        on_host=on_host,
    )


def _grouped_weights(population: Population) -> int:
    """Numbers in the kernels of one network's grouped convolutions."""
    layers = [op.layer for op in population.graph.ops if op.kind == "conv"]
    return sum(
        population.layout.block(f"{layer}.weight").size
        for layer in layers
        if population.lowerings.get(layer, GROUPED) == GROUPED
    )


def _step_bytes(
    population: Population, cohort: Cohort, tile: int, *, shared: bool, from_bytes: bool, on_host: bool
) -> int:
    """Peak of one training step beyond what stays between steps."""
    passes = Passes(
        population,
        tile,
        cohort.batch_size,
        shared=shared,
        drops=any(p > 0 for p in cohort.dropout),
        precision=cohort.precision,
        pools_at_once=on_host and cohort.precision == FLOAT32 and pools_at_once(),
    )
    images, row = passes.size(0), FLOAT * tile * population.layout.num_weights
    copies = 2 if population.stacks_images and not shared else 1
    gathered = images + copies * images // FLOAT if from_bytes else copies * images
    labels = 2 * LONG * tile * cohort.batch_size
    forward, kept = passes.forward()
    return labels + max(gathered, forward, passes.backward(kept), images + 2 * row)
