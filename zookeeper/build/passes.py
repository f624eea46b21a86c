"""What one pass through a stack of networks keeps in memory, walked through operation by operation.

The walk is over the population's own instructions, so it knows the lowering of every convolution: a grouped one keeps
its input, an unfolded one copies its patches, a fused one never writes what lies inside of it, a pooled one on a CPU
writes it in parts. Under bfloat16 autocast values are as wide as the engine leaves them: products give two bytes, what
dropout multiplies is float32 again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zookeeper.nets.graph import Op
from zookeeper.population import Population
from zookeeper.population.convolution import GROUPED, UNFOLD, takes_patches
from zookeeper.population.fusion import Fusion, pools_by_two
from zookeeper.population.precision import BF16
from zookeeper.population.tiles import part_size
from zookeeper.population.triton_convolution import BLOCKS, KEPT_BEFORE

FLOAT, LONG = 4, 8
_MASK_BYTES = 17  # per number, beside mask and output, while the mask is drawn from 64-bit hashes
_BLOCK = 16  # channels that a CPU's library keeps together
_LOSS_FLOATS = 4  # per image, beside logits and their gradient, while the loss is computed
_PRODUCTS = ("conv", "linear")
_WEIGHTED = (*_PRODUCTS, "batchnorm")
_ANY_FORM = ("flatten", "activation", "dropout", "output")


@dataclass(frozen=True)
class Unit:
    """One operation, or several that are one: the number of their value, what they read, the first of them.

    ``fusion`` is that of a fused kernel; ``part`` is how many images a pooled convolution of a CPU takes at once, or 0.
    """

    number: int
    inputs: tuple[int, ...]
    op: Op
    fusion: Fusion | None = None
    part: int = 0


@dataclass(frozen=True)
class Kept:
    """What a unit keeps for its backward pass: values by number, and bytes beside them."""

    values: frozenset[int] = frozenset()
    beside: int = 0


class Passes:
    """The passes of ``num_models`` networks over batches of ``num_images``.

    Parameters
    ----------
    shared
        Whether all networks see the same batch.
    drops
        Whether a network has dropout above 0.
    precision
        Of products; evaluation is float32.
    pools_at_once
        Whether convolutions run with their pooling as one (`zookeeper.population.pooled`): in training on a CPU.
    """

    def __init__(
        self,
        population: Population,
        num_models: int,
        num_images: int,
        *,
        shared: bool,
        drops: bool = False,
        precision: str = "float32",
        pools_at_once: bool = False,
    ) -> None:
        self.population, self.ops = population, population.graph.ops
        self.num_models, self.num_images, self.shared, self.drops = num_models, num_images, shared, drops
        self.product = 2 if precision == BF16 else FLOAT
        self.units = [Unit(0, (), self.ops[0])]
        for one in population.instructions:
            first = one.ops[0][1]
            if one.fusion is not None:
                self.units.append(Unit(one.result, one.inputs, first, one.fusion))
            elif pools_at_once and any(op.kind == "maxpool" and pools_by_two(op.options) for _, op in one.ops[1:]):
                part = part_size(population.activation_floats, product_of(first.shape), num_images)
                self.units.append(Unit(one.result, one.inputs, first, part=part))
            elif one.ops[-1][1].kind == "maxpool" and len(one.ops) == 3:  # ReLU comes last, and small
                self.units += [
                    Unit(one.ops[0][0], one.inputs, first),
                    Unit(one.result, one.ops[1][1].inputs, one.ops[2][1]),
                ]
            else:
                self.units += [Unit(number, op.inputs, op) for number, op in one.ops]
        self.fused = {unit.number for unit in self.units if unit.fusion is not None}
        self.last = self.units[-1].number

    def width(self, number: int) -> int:
        """Bytes of one number of a value."""
        op = self.ops[number]
        if number in self.fused or op.kind in _PRODUCTS:
            return self.product
        if op.kind == "input" or (op.kind == "dropout" and self.drops):
            return FLOAT
        return max(self.width(source) for source in op.inputs)

    def count(self, number: int) -> int:
        """How many numbers a value has."""
        copies = 1 if self.is_shared(number) else self.num_models
        return copies * self.num_images * product_of(self.ops[number].shape)

    def size(self, number: int) -> int:
        """Bytes of a value."""
        return self.width(number) * self.count(number)

    def is_shared(self, number: int) -> bool:
        """Whether all models see this value: it depends on the batch alone, and the batch is one for all."""
        op = self.ops[number]
        if not self.shared or number in self.fused or op.kind in _WEIGHTED or (op.kind == "dropout" and self.drops):
            return False
        return all(self.is_shared(source) for source in op.inputs)

    def is_input(self, number: int) -> bool:
        """Whether a value does not depend on weights, so that it needs no gradient."""
        op = self.ops[number]
        if number in self.fused or op.kind in _WEIGHTED:
            return False
        return all(self.is_input(source) for source in op.inputs)

    def home(self, number: int) -> int:
        """The operation whose output holds a value: some operations only pass theirs on."""
        op = self.ops[number]
        idle = op.kind == "output" or (op.kind == "dropout" and not self.drops)
        flat = op.kind == "flatten" and (len(self.ops[op.inputs[0]].shape) == 1 or op.inputs[0] == 0)
        return self.home(op.inputs[0]) if idle or flat else number

    def num_weights(self, op: Op) -> int:
        """Trainable numbers of an operation in one network."""
        if op.kind not in _WEIGHTED:
            return 0
        return sum(block.size for block in self.population.layout.blocks if block.name.rpartition(".")[0] == op.layer)

    def kept(self, unit: Unit) -> Kept:
        """Everything the backward pass of a unit reads."""
        op, count = unit.op, self.count(unit.number)
        choice = count if unit.part else 0
        sources = frozenset(self.home(source) for source in unit.inputs)
        weights = self.num_models * self.num_weights(op)
        if unit.number == 0:
            return Kept(frozenset({0}))
        if unit.fusion is not None:
            choice = count if unit.fusion.pool > 1 else 0
            beside = self.product * weights + choice
            if unit.fusion.activation in KEPT_BEFORE:
                return self._of_sources(unit, beside + self.size(unit.number))
            found = self._of_sources(unit, beside)
            return Kept(found.values | {self.home(unit.number)}, found.beside)
        if self.copies_patches(unit):
            return Kept(frozenset(), self.product * (self.patches(unit) + weights) + choice)
        if op.kind == "conv":
            return self._of_sources(unit, self.product * weights + choice)
        if op.kind == "linear":
            return self._of_sources(unit, 0 if self.product == FLOAT else self.product * weights)
        if op.kind in ("batchnorm", "avgpool", "adaptive_avgpool"):
            return self._of_sources(unit, 0)
        if op.kind == "maxpool":
            return self._of_sources(unit, LONG * count)
        if op.kind == "activation":
            return Kept(sources if saves_input(op) else frozenset({self.home(unit.number)}))
        if op.kind == "dropout" and self.drops:
            return Kept(frozenset(), FLOAT * count)
        return Kept()

    def _of_sources(self, unit: Unit, beside: int) -> Kept:
        """Keep what a unit reads, or the copies that it makes of it."""
        values = set()
        for source in unit.inputs:
            if unit.op.kind in _PRODUCTS and self.width(source) > self.product:
                beside += self.product * self.count(source)
            elif self.restacks(unit, source):
                beside += self.size(source)
            else:
                values.add(self.home(source))
        return Kept(frozenset(values), beside)

    def restacks(self, unit: Unit, source: int) -> bool:
        """Whether a unit brings what a fused kernel gave it into the stack's form, a copy."""
        return unit.fusion is None and unit.op.kind not in _ANY_FORM and self._leads_from_fused(source)

    def _leads_from_fused(self, number: int) -> bool:
        op = self.ops[number]
        if number in self.fused:
            return True
        return op.kind in ("activation", "dropout") and self._leads_from_fused(op.inputs[0])

    def unfolds(self, unit: Unit) -> bool:
        """Whether a convolution copies the patches of every network."""
        unfolded = self.population.lowerings.get(unit.op.layer, GROUPED) == UNFOLD
        return unfolded and int(unit.op.options["groups"]) == 1 and not self.is_shared(unit.inputs[0])

    def copies_patches(self, unit: Unit) -> bool:
        """Whether a convolution copies patches, of every network or of the images that all share."""
        if unit.op.kind != "conv":
            return False
        in_channels = self.ops[unit.inputs[0]].shape[0]
        return self.unfolds(unit) or (self.is_shared(unit.inputs[0]) and takes_patches(in_channels))

    def patches(self, unit: Unit) -> int:
        """Numbers in the patches of a batch: every window of every image."""
        kernel = self.population.layout.block(f"{unit.op.layer}.weight").shape
        copies = 1 if self.is_shared(unit.inputs[0]) else self.num_models
        return copies * self.num_images * product_of(unit.op.shape[1:]) * product_of(kernel[1:])

    def whole(self, unit: Unit) -> int:
        """Bytes of the output of a convolution before its pooling, of the images that are taken together."""
        return FLOAT * self.num_models * unit.part * product_of(unit.op.shape)

    def blocked(self, unit: Unit) -> int:
        """Bytes of the gradient of kernels as a CPU's library sums it up: channels of a network in blocks of 16."""
        out_channels, channels, *kernel = self.population.layout.block(f"{unit.op.layer}.weight").shape
        blocks = [-(-count // _BLOCK) * _BLOCK for count in (out_channels, channels)]
        return FLOAT * self.num_models * product_of((*blocks, *kernel))

    def passing(self, unit: Unit) -> int:
        """Bytes that live only while a unit runs forward."""
        op = unit.op
        if unit.part:
            return 2 * FLOAT * self.num_models * self.num_weights(op) + self.whole(unit)
        copies = sum(self.size(source) for source in unit.inputs if self.restacks(unit, source))
        if op.kind == "dropout" and self.drops:
            return _MASK_BYTES * self.count(unit.number)
        if op.kind != "conv":
            return copies
        weights = FLOAT * self.num_models * self.num_weights(op)
        if unit.fusion is not None:
            return weights
        weights *= 2
        if self.copies_patches(unit):
            wide = self.width(unit.inputs[0]) if self.width(unit.inputs[0]) > self.product else 0
            return weights + wide * self.patches(unit) + (self.size(unit.number) if self.unfolds(unit) else 0)
        return weights + copies

    def forward(self) -> tuple[int, list[Kept]]:
        """Peak of the forward pass of training, and what each unit keeps."""
        last_read = {self.home(source): place for place, unit in enumerate(self.units) for source in unit.inputs}
        kept: list[Kept] = []
        peak, alive = 0, {0}
        for place, unit in enumerate(self.units):
            kept.append(self.kept(unit))
            alive.add(self.home(unit.number))
            peak = max(peak, self.held(kept, alive) + self.passing(unit))
            alive = {value for value in alive if last_read.get(value, 0) > place}
        return peak, kept

    def held(self, kept: list[Kept], alive: set[int]) -> int:
        """Bytes of what is kept and of values that are alive beside it."""
        values = frozenset(alive).union(*(one.values for one in kept))
        return sum(map(self.size, values)) + sum(one.beside for one in kept)

    def backward(self, kept: list[Kept]) -> int:
        """Peak of the backward pass; gradients of weights pile up until they become one matrix."""
        last = self.home(self.last)
        gradients = {last: self.size(last)}
        loss = 2 * FLOAT * self.count(last) + _LOSS_FLOATS * FLOAT * self.num_models * self.num_images
        piled, peak = 0, self.held(kept, {last}) + loss
        for place in reversed(range(1, len(self.units))):
            unit = self.units[place]
            if self.home(unit.number) != unit.number or self.is_shared(unit.number):
                continue
            piled += FLOAT * self.num_models * self.num_weights(unit.op)
            for source in unit.inputs:
                if not self.is_input(source):
                    gradients[self.home(source)] = self.size(self.home(source))
            now = self.held(kept[: place + 1], set()) + sum(gradients.values()) + piled
            peak = max(peak, now + self._passing_back(unit))
            gradients.pop(unit.number, None)
        return max(peak, self.size(0) + piled + FLOAT * self.num_models * self.population.layout.num_weights)

    def _passing_back(self, unit: Unit) -> int:
        """Bytes that live only while a unit runs backward."""
        if unit.part:
            images = FLOAT * self.num_models * self.num_images
            returned = 0 if self.is_input(unit.inputs[0]) else self.size(self.home(unit.inputs[0]))
            biases, part = images * unit.op.shape[0], returned * unit.part // self.num_images
            return self.whole(unit) + biases + self.blocked(unit) + (part if unit.part < self.num_images else 0)
        if unit.fusion is not None:
            places = self.num_images * product_of(self.ops[unit.number].shape[1:])
            parts = -(-places // BLOCKS.part) * FLOAT * self.num_models * self.num_weights(unit.op)
            return parts + (0 if self.is_input(unit.inputs[0]) else self.size(unit.number))
        if unit.op.kind == "conv" and self.unfolds(unit) and not self.is_input(unit.inputs[0]):
            return self.product * self.patches(unit)
        return 0

    def evaluation(self) -> int:
        """Peak of a pass without gradients, one of several: neighbours of every operation, what passes, the loss."""
        last_read = {self.home(source): place for place, unit in enumerate(self.units) for source in unit.inputs}
        peak, alive = 0, {0}
        for place, unit in enumerate(self.units):
            alive.add(self.home(unit.number))
            passing = self.passing(unit)
            if unit.fusion is None and unit.op.kind == "conv":
                passing += FLOAT * self.patches(unit) if self.copies_patches(unit) else 0
            elif unit.op.kind == "maxpool":  # halves of rows, or indices: as many bytes
                passing += LONG * self.count(unit.number)
            peak = max(peak, sum(map(self.size, alive)) + passing)
            alive = {value for value in alive if last_read.get(value, 0) > place}
        logits, each = self.size(self.last), self.num_models * self.num_images
        before = logits + FLOAT * each  # of the pass before: its logits and losses
        return max(peak + before, 2 * logits + (FLOAT + LONG) * each)


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


def product_of(shape: tuple[int, ...]) -> int:
    """How many numbers have a shape.

    >>> product_of((3, 4)), product_of(())
    (12, 1)
    """
    count = 1
    for side in shape:
        count *= side
    return count
