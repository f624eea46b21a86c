"""Rows to tokens and back: index gathers that follow from the layout alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightBlock, WeightLayout


@dataclass(frozen=True)
class Tokeniser:
    """Tokens of fixed width for the rows of one layout.

    Every output channel or neuron gives one run of numbers: its incoming weights, then its bias; a
    channel of a normalisation layer gives scale, shift, running mean and running variance. A run is
    padded with zeros to a multiple of the token width D and cut into tokens. Layers keep the order
    of the layout. `tokenise` and `detokenise` are exact inverses on real entries.

    Source: Schürholt et al., "Towards Scalable and Versatile Weight Space Learning" (SANE, 2024).

    Parameters
    ----------
    layout
        Columns of the rows.
    token_width
        D, at least 1.

    Raises
    ------
    InputError
        If the width is below 1, or blocks of one layer disagree on the number of channels.

    Examples
    --------
    >>> layout = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight"), "fc.bias": ((2,), "bias")})
    >>> tokeniser = Tokeniser(layout, token_width=5)
    >>> tokens = tokeniser.tokenise(torch.arange(8.0)[None])
    >>> tokens[0].tolist()
    [[0.0, 1.0, 2.0, 6.0, 0.0], [3.0, 4.0, 5.0, 7.0, 0.0]]
    >>> tokeniser.detokenise(tokens)[0].tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    >>> tokeniser.positions.tolist()
    [[0, 0, 0], [1, 0, 1]]
    """

    layout: WeightLayout
    token_width: int

    def __post_init__(self) -> None:
        if self.token_width < 1:
            raise InputError(f"tokens.width: expected 1 or more, got {self.token_width}.")
        if not self.layout.blocks:
            raise InputError("tokens: the layout has no weights; expected at least one block.")
        for layer, blocks in _blocks_by_layer(self.layout).items():
            channels = {block.name: block.shape[0] for block in blocks}
            if len(set(channels.values())) != 1:
                raise InputError(
                    f"tokens: blocks of layer {layer!r} have different numbers of output channels ({channels}); "
                    "expected one number per layer."
                )

    @property
    def num_tokens(self) -> int:
        """T, the number of tokens of one model."""
        return int(self.positions.shape[0])

    @cached_property
    def columns(self) -> torch.Tensor:
        """Column of every token entry, int64 ``[T, D]``; P (one past the last column) where padded."""
        return torch.from_numpy(self._plan[0])

    @cached_property
    def positions(self) -> torch.Tensor:
        """(index in the sequence, layer, channel) of every token, int64 ``[T, 3]``."""
        return torch.from_numpy(self._plan[1])

    @cached_property
    def mask(self) -> torch.Tensor:
        """True at real entries, False at padding, bool ``[T, D]``."""
        return self.columns < self.layout.num_weights

    @cached_property
    def _entries(self) -> torch.Tensor:
        """Entry of the flattened tokens that holds each column, int64 ``[P]``."""
        flat = self.columns.flatten()
        entries = torch.empty(self.layout.num_weights, dtype=torch.int64)
        real = flat < self.layout.num_weights
        entries[flat[real]] = torch.arange(flat.numel())[real]
        return entries

    @cached_property
    def _plan(self) -> tuple[np.ndarray, np.ndarray]:
        num_weights, width = self.layout.num_weights, self.token_width
        columns, positions = [], []
        num_tokens = 0
        for layer, blocks in enumerate(_blocks_by_layer(self.layout).values()):
            channels = blocks[0].shape[0]
            runs = np.concatenate(
                [np.arange(b.offset, b.offset + b.size, dtype=np.int64).reshape(channels, -1) for b in blocks], axis=1
            )  # [channels, incoming weights and bias]
            chunks = -(-runs.shape[1] // width)
            padded = np.full((channels, chunks * width), num_weights, dtype=np.int64)
            padded[:, : runs.shape[1]] = runs
            columns.append(padded.reshape(channels * chunks, width))
            index = np.arange(num_tokens, num_tokens + channels * chunks, dtype=np.int64)
            channel = np.repeat(np.arange(channels, dtype=np.int64), chunks)
            positions.append(np.stack([index, np.full_like(index, layer), channel], axis=1))
            num_tokens += channels * chunks
        return np.concatenate(columns), np.concatenate(positions)

    def tokenise(self, rows: torch.Tensor) -> torch.Tensor:
        """Cut rows ``[N, P]`` into tokens ``[N, T, D]``; padding is exactly zero, whatever the rows hold.

        Raises
        ------
        InputError
            If the rows have another number of columns than the layout.
        """
        if rows.ndim != 2 or rows.shape[1] != self.layout.num_weights:
            raise InputError(
                f"tokenise: rows have shape {tuple(rows.shape)}; expected [N, {self.layout.num_weights}]. "
                "Check that the rows belong to this layout."
            )
        tokens: torch.Tensor = _Rearrange.apply(rows, self._on(rows, "columns").flatten(), self._on(rows, "_entries"))
        return tokens.view(rows.shape[0], self.num_tokens, self.token_width)

    def detokenise(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read rows ``[N, P]`` out of tokens ``[N, T, D]``; padded entries are never read.

        Raises
        ------
        InputError
            If the tokens have another number or width than this layout's.
        """
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != (self.num_tokens, self.token_width):
            raise InputError(
                f"detokenise: tokens have shape {tuple(tokens.shape)}; "
                f"expected [N, {self.num_tokens}, {self.token_width}]."
            )
        rows: torch.Tensor = _Rearrange.apply(
            tokens.flatten(1), self._on(tokens, "_entries"), self._on(tokens, "columns").flatten()
        )
        return rows

    def _on(self, like: torch.Tensor, name: str) -> torch.Tensor:
        """An index on the device of ``like``, copied there once."""
        cache: dict[tuple[str, torch.device], torch.Tensor] = self.__dict__.setdefault("_moved", {})
        key = (name, like.device)
        if key not in cache:
            cache[key] = getattr(self, name).to(like.device)
        return cache[key]


class _Rearrange(torch.autograd.Function):
    """Gather columns; an index one past the end gives zero. The backward pass gathers with the inverse index.

    Each source column is used at most once, so the transpose of the gather is a gather as well: no
    scatter, no accumulation, the same bits on every device.
    """

    @staticmethod
    def forward(ctx: Any, source: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index, inverse)
        return _gather_columns(source, index)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        gradient: torch.Tensor = _Rearrange.apply(grads[0], inverse, index)
        return gradient, None, None


def _gather_columns(source: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    if index.numel() > source.shape[1]:  # only then can an index point past the end
        source = torch.nn.functional.pad(source, (0, 1))
    return source.index_select(1, index)


def _blocks_by_layer(layout: WeightLayout) -> dict[str, list[WeightBlock]]:
    blocks: dict[str, list[WeightBlock]] = {layer: [] for layer in layout.layers}
    for block in layout.blocks:
        blocks[block.layer].append(block)
    return blocks
