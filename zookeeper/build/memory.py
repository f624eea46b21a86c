"""How much memory the training of a cohort takes, predicted from the graph of its networks.

The arithmetic follows the engine: what a forward pass saves for its backward pass, what lives beside it at
every operation, and what stays for a whole epoch. Sizes are of float32 training; scratch memory of a vendor's
kernels is not known to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from zookeeper.nets.graph import Op
from zookeeper.population import Cohort, Population
from zookeeper.population.convolution import GROUPED, UNFOLD
from zookeeper.population.evaluate import _passes as pass_sizes
from zookeeper.population.train import _INPUT_BYTES as INPUT_BYTES
from zookeeper.population.train import tile_slices

_FLOAT, _LONG = 4, 8
_SLOTS = {"adam": 2, "adamw": 2, "rmsprop": 2, "sgd": 1}
_ORDER_COPIES = 3  # of an epoch's order while it is drawn: hashes, their scrambling, the sort
_MASK_BYTES = 17  # per number, beside mask and output, while the mask is drawn from 64-bit hashes


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
        Peaks of three phases beyond the above; only one is under way at a time. ``training`` is one step of
        the largest tile with its batch, activations, gradients and, kept beside it, the epoch's order.
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
    checkpoints: int
    on_host: bool

    @property
    def peak(self) -> int:
        """Most bytes at one time on the device."""
        phases = (self.orders, self.training, self.evaluation)
        return self.images + self.weights + max(phases) + (self.checkpoints if self.on_host else 0)


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
    num_models, layout = cohort.num_models, population.layout
    tiles = tile_slices(population, num_models, cohort.batch_size, torch.device(device))
    largest = max(part.stop - part.start for part in tiles)
    if tile is not None:
        largest = min(largest, tile)
    seeds = max(len(set(cohort.seeds[start : start + largest])) for start in range(0, num_models, largest))
    matrix = _FLOAT * num_models * layout.num_weights
    slots = _SLOTS.get(cohort.optimizer, 2) * _FLOAT * num_models * layout.num_trainable
    total, pixels = sum(num_images.values()), _count(population.image_shape)
    floats = _FLOAT * total * pixels
    order = _LONG * seeds * num_images["train"]
    step = _Step(population, cohort, largest, shared=seeds == 1, from_bytes=floats > INPUT_BYTES)
    together = num_models if tile is None else largest
    models, images = pass_sizes(population, together, max(num_images.values()), torch.device(device))
    checkpoints = 4 * max(commit_bytes, matrix) + 3 * (matrix + slots) if commit_bytes else 0
    return Memory(
        images=total * (pixels + 2 * _LONG) + (2 * floats if floats <= INPUT_BYTES else total * pixels),
        weights=matrix + slots,
        orders=_ORDER_COPIES * order,
        training=order + step.peak(),
        evaluation=_evaluation_bytes(population, models, images) + (images * pixels if floats > INPUT_BYTES else 0),
        checkpoints=checkpoints,
        on_host=device == "cpu",
    )


class _Step:
    """One training step of a tile, walked through forward and backward with everything that is alive."""

    def __init__(self, population: Population, cohort: Cohort, tile: int, *, shared: bool, from_bytes: bool) -> None:
        self.population, self.tile, self.batch = population, tile, cohort.batch_size
        self.ops, self.shared, self.from_bytes = population.graph.ops, shared, from_bytes
        self.drops = any(p > 0 for p in cohort.dropout)
        self.row = _FLOAT * tile * population.layout.num_weights

    def peak(self) -> int:
        """Bytes beyond what stays between steps."""
        images = self.size(0)
        gathered = images * (1 if self.shared or self.population.flattens_first else 2)
        if self.from_bytes:
            gathered = 3 * images
        labels = 2 * _LONG * self.tile * self.batch
        forward, saved = self.forward()
        backward = self.backward(saved)
        update = images + 2 * self.row
        return labels + max(gathered, forward, backward, update)

    def size(self, number: int) -> int:
        """Bytes of the value of operation ``number`` (0: the batch)."""
        copies = 1 if self.is_shared(number) else self.tile
        return _FLOAT * copies * self.batch * _count(self.ops[number].shape)

    def is_shared(self, number: int) -> bool:
        """Whether all models see this value: it depends on the batch alone, and the batch is one for all."""
        op = self.ops[number]
        if not self.shared or op.kind in ("conv", "linear", "batchnorm") or (op.kind == "dropout" and self.drops):
            return False
        return all(self.is_shared(source) for source in op.inputs)

    def home(self, number: int) -> int:
        """The operation whose output holds a value: some operations only pass theirs on."""
        op = self.ops[number]
        idle = op.kind == "output" or (op.kind == "dropout" and not self.drops)
        flat = op.kind == "flatten" and (len(self.ops[op.inputs[0]].shape) == 1 or op.inputs[0] == 0)
        return self.home(op.inputs[0]) if idle or flat else number

    def saved(self, number: int) -> tuple[set[int], int]:
        """Values that the backward pass of an operation reads, and bytes it keeps beside them."""
        op = self.ops[number]
        sources, own = {self.home(source) for source in op.inputs}, self.home(number)
        count = self.size(number) // _FLOAT
        weights = _FLOAT * self.tile * self.num_weights(op)
        if op.kind == "conv" and self.is_shared(op.inputs[0]):
            return set(), self.patches(op) + weights
        if op.kind == "conv" and self.unfolds(op):
            return set(), self.tile * self.patches(op) + weights
        if op.kind == "conv":
            return sources, weights
        if op.kind in ("linear", "batchnorm", "avgpool", "adaptive_avgpool"):
            return sources, 0
        if op.kind == "maxpool":
            return sources, _LONG * count
        if op.kind == "activation":
            return (sources if saves_input(op) else {own}), 0
        if op.kind == "dropout" and self.drops:
            return set(), _FLOAT * count
        return set(), 0

    def forward(self) -> tuple[int, list[tuple[set[int], int]]]:
        """Peak of the forward pass, and what each operation saved."""
        last_use = {self.home(source): number for number, op in enumerate(self.ops) for source in op.inputs}
        saved: list[tuple[set[int], int]] = []
        peak, alive = 0, {0}
        for number, op in enumerate(self.ops):
            saved.append(self.saved(number) if number else ({0}, 0))
            alive.add(self.home(number))
            passing = 2 * _FLOAT * self.tile * self.num_weights(op) if op.kind == "conv" else 0
            passing += self.size(number) if op.kind == "conv" and self.unfolds(op) else 0
            if op.kind == "dropout" and self.drops:
                passing = _MASK_BYTES * self.size(number) // _FLOAT
            kept = set().union(*(values for values, _ in saved))
            beside = sum(more for _, more in saved)
            peak = max(peak, sum(map(self.size, alive | kept)) + beside + passing)
            alive = {value for value in alive if last_use.get(value, 0) > number}
        return peak, saved

    def backward(self, saved: list[tuple[set[int], int]]) -> int:
        """Peak of the backward pass; gradients of weights pile up until they become one matrix."""
        logits = self.size(len(self.ops) - 1)
        gradients = {self.home(len(self.ops) - 1): logits}
        piled, peak = 0, 3 * logits
        for number in reversed(range(1, len(self.ops))):
            op = self.ops[number]
            if self.home(number) != number or self.is_shared(number):
                continue
            kept = sum(map(self.size, set().union(*(values for values, _ in saved[: number + 1]))))
            kept += sum(more for _, more in saved[: number + 1])
            piled += _FLOAT * self.tile * self.num_weights(op)
            for source in op.inputs:
                if not self.is_input(source):
                    gradients[self.home(source)] = self.size(self.home(source))
            passing = 0
            if op.kind == "conv" and self.unfolds(op) and not self.is_input(op.inputs[0]):
                passing = self.tile * self.patches(op)
            peak = max(peak, kept + sum(gradients.values()) + piled + passing)
            gradients.pop(number, None)
        return max(peak, self.size(0) + piled + self.row)

    def is_input(self, number: int) -> bool:
        """Whether a value does not depend on weights, so that it needs no gradient."""
        op = self.ops[number]
        weighted = op.kind in ("conv", "linear", "batchnorm")
        return not weighted and all(self.is_input(source) for source in op.inputs)

    def num_weights(self, op: Op) -> int:
        """Trainable numbers of an operation in one network."""
        if op.kind not in ("conv", "linear", "batchnorm"):
            return 0
        return sum(block.size for block in self.population.layout.blocks if block.name.rpartition(".")[0] == op.layer)

    def unfolds(self, op: Op) -> bool:
        """Whether a convolution copies its patches."""
        unfolded = self.population.lowerings.get(op.layer, GROUPED) == UNFOLD
        return unfolded and int(op.options["groups"]) == 1 and not self.is_shared(op.inputs[0])

    def patches(self, op: Op) -> int:
        """Bytes of the patches of one batch: every window of every image."""
        kernel = self.population.layout.block(f"{op.layer}.weight").shape
        return _FLOAT * self.batch * _count(op.shape[1:]) * _count(kernel[1:])


def saves_input(op: Op) -> bool:
    """Whether the backward pass of an activation reads its input (gelu), not its output (tanh)."""
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    x = torch.zeros(1, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        op.options["fn"](x)
    return any(tensor.data_ptr() == x.data_ptr() for tensor in found)


def _evaluation_bytes(population: Population, models: int, images: int) -> int:
    """Peak of one forward pass without gradients: neighbours of every operation, kernels, patches."""
    ops = population.graph.ops
    last_use = {source: number for number, op in enumerate(ops) for source in op.inputs}
    weighted = [op.kind in ("conv", "linear", "batchnorm") for op in ops]
    shared = [not any(weighted[: number + 1]) for number in range(len(ops))]
    sizes = [_FLOAT * images * _count(op.shape) * (1 if s else models) for op, s in zip(ops, shared, strict=True)]
    peak, alive = 0, {0}
    for number, op in enumerate(ops):
        alive.add(number)
        passing = 0
        if op.kind == "conv":
            kernel = population.layout.block(f"{op.layer}.weight").shape
            passing = 2 * _FLOAT * models * _count(kernel)
            if shared[op.inputs[0]]:
                passing += _FLOAT * images * _count(op.shape[1:]) * _count(kernel[1:])
        elif op.kind == "maxpool":  # indices, which the CPU makes and drops
            passing = 2 * sizes[number]
        peak = max(peak, sum(sizes[value] for value in alive) + passing)
        alive = {value for value in alive if last_use.get(value, 0) > number}
    return peak + 3 * sizes[-1]


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
