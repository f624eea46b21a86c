"""From the graph of one network to the forward pass of a whole population.

No architecture has stacked code of its own: each operation of the traced graph has one stacked form
(`zookeeper.population.operations`).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from zookeeper.errors import InputError
from zookeeper.nets.graph import Graph, trace
from zookeeper.nets.layout import WeightLayout
from zookeeper.population.convolution import LOWERINGS, TRITON, stack_images
from zookeeper.population.operations import Pass, Value, carry_out, plan_instructions

if TYPE_CHECKING:
    from zookeeper.population.randomness import DropoutStream


class Population:
    """The stacked form of one architecture: ``forward(rows[M, P], images) -> logits[M, B, K]``.

    Parameters
    ----------
    module
        One network; its weights are not used, only its graph and the shapes of its layers.
    image_shape
        (C, H, W) of one image.
    lowerings
        How convolutions are carried out, by the path of their layer; `zookeeper.population.choice` finds out what is
        fastest. A layer that is not named is a grouped convolution.

    Raises
    ------
    StackError
        If a layer cannot be stacked; the message names it.
    InputError
        If a lowering is unknown or names no convolution.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> population = Population(net, (1, 2, 2))
    >>> rows = torch.randn(5, population.layout.num_weights)
    >>> population.forward(rows, torch.randn(7, 1, 2, 2)).shape
    torch.Size([5, 7, 2])
    """

    def __init__(
        self, module: nn.Module, image_shape: tuple[int, ...], *, lowerings: Mapping[str, str] | None = None
    ) -> None:
        self.graph: Graph = trace(module, tuple(image_shape))
        self.lowerings = check_lowerings({} if lowerings is None else lowerings, self.graph)
        self.layout = WeightLayout.of(module)
        self._sizes = [block.size for block in self.layout.blocks]
        self._has_buffers = self.layout.num_trainable < self.layout.num_weights
        self.instructions = plan_instructions(self.graph, self.lowerings)

    def lowered(self, lowerings: Mapping[str, str]) -> Population:
        """Return the same population with other lowerings."""
        other = copy(self)
        other.lowerings = check_lowerings(lowerings, self.graph)
        other.instructions = plan_instructions(self.graph, other.lowerings)
        return other

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.graph.image_shape

    @property
    def num_classes(self) -> int:
        """K."""
        return self.graph.num_classes

    @cached_property
    def flattens_first(self) -> bool:
        """Whether images are only ever read as vectors, so that stacking them would be undone at once."""
        return all(op.kind == "flatten" for op in self.graph.ops if 0 in op.inputs)

    @property
    def stacks_images(self) -> bool:
        """Whether images of their own for each network are read in the stack's form, which is then worth preparing."""
        readers = [one for one in self.instructions if 0 in one.inputs]
        return not self.flattens_first and any(one.fusion is None for one in readers)

    @cached_property
    def activation_floats(self) -> int:
        """Numbers that one network produces on its way from one image to its logits."""
        total = 0
        for op in self.graph.ops:
            size = 1
            for side in op.shape:
                size *= side
            total += size
        return total

    def forward(self, rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[M, B, K]`` in evaluation mode; differentiable in ``rows``.

        Parameters
        ----------
        rows
            ``[M, P]``.
        images
            ``[B, C, H, W]``, seen by every network, or ``[M, B, C, H, W]``, one batch for each.

        Raises
        ------
        InputError
            If the number of columns or the image shape does not fit the architecture.
        """
        logits, _ = self._run(rows, images, dropout=None, training=False)
        return logits

    def forward_training(
        self, rows: torch.Tensor, images: torch.Tensor, dropout: DropoutStream | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute logits in training mode: dropout drawn from the stream, batch statistics in norms.

        Returns
        -------
        logits
            ``[M, B, K]``.
        statistics
            Updated running statistics by block name, ``[M, C]`` each; empty without norm layers.
        """
        return self._run(rows, images, dropout=dropout, training=True)

    def _run(
        self, rows: torch.Tensor, images: torch.Tensor, *, dropout: DropoutStream | None, training: bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self._check(rows, images)
        num_models = rows.shape[0]
        shared = images.ndim == 4
        pieces = torch.split(rows, self._sizes, dim=1)
        parts = {
            block.name: piece.view(num_models, *block.shape)
            if piece.is_contiguous()
            else torch.unflatten(piece, 1, block.shape)
            for block, piece in zip(self.layout.blocks, pieces, strict=True)
        }
        state = Pass(
            parts, num_models, images.shape[0 if shared else 1], dropout, self.lowerings, self.activation_floats
        )
        state.training = training
        first = stack_images(images) if self.stacks_images and not shared else images
        values: dict[int, Value] = {0: (first, shared)}
        for one in self.instructions:
            values[one.result] = carry_out(state, one, [values[source] for source in one.inputs])
            for source in one.last_read:
                del values[source]
        logits, still_shared = values[len(self.graph.ops) - 1]
        if still_shared:
            logits = logits.expand(num_models, *logits.shape)
        return logits, state.statistics

    def _check(self, rows: torch.Tensor, images: torch.Tensor) -> None:
        if rows.ndim != 2 or rows.shape[1] != self.layout.num_weights:
            raise InputError(
                f"population.forward: rows have shape {tuple(rows.shape)}; expected [M, {self.layout.num_weights}]. "
                "Check that the rows belong to this architecture."
            )
        shape = tuple(images.shape)
        fits = shape[-3:] == self.image_shape and (len(shape) == 4 or (len(shape) == 5 and shape[0] == rows.shape[0]))
        if not fits:
            raise InputError(
                f"population.forward: images have shape {shape}; expected [B, {', '.join(map(str, self.image_shape))}] "
                "or the same with a leading axis of one batch per model."
            )


def check_lowerings(lowerings: Mapping[str, str], graph: Graph) -> dict[str, str]:
    """Return a copy; raise an InputError if a layer is no convolution of the graph, or a lowering is unknown."""
    layers = [op.layer for op in graph.ops if op.kind == "conv"]
    for layer, lowering in lowerings.items():
        if layer not in layers:
            raise InputError(f"lowerings: {layer!r} is no convolution; expected {', '.join(layers) or 'none'}.")
        if lowering not in (*LOWERINGS, TRITON):
            names = ", ".join((*LOWERINGS, TRITON))
            raise InputError(f"lowerings.{layer}: unknown lowering {lowering!r}; expected {names}.")
    return dict(lowerings)
