"""Rows to tokens and back: index gathers that follow from the layout alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hyperrep.weights.segments import Segment, segments_of
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout


@dataclass(frozen=True)
class Tokeniser:
    """Tokens of one width for the rows of one layout.

    Every output channel or neuron gives one run of numbers: its incoming weights, then its bias; a
    channel of a normalisation layer gives scale, shift, running mean and running variance. A run is
    padded with zeros to a multiple of the token width D and cut into tokens. Layers keep the order
    of the layout. `tokenise` and `detokenise` are exact inverses on real entries. What other encodings
    call a token per weight or a token per neuron is the same cut at another width
    (`hyperrep.weights.encodings`).

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
        segments_of(self.layout, self.token_width)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The layers as stretches of the sequence."""
        return segments_of(self.layout, self.token_width)

    @property
    def width(self) -> int:
        """D, the width of a token."""
        return self.token_width

    @property
    def num_tokens(self) -> int:
        """T, the number of tokens of one model."""
        return self.segments[-1].stop

    @cached_property
    def columns(self) -> torch.Tensor:
        """Column of every token entry, int64 ``[T, D]``; P (one past the last column) where padded."""
        return self.window(0, self.num_tokens).columns

    @cached_property
    def positions(self) -> torch.Tensor:
        """(index in the sequence, layer, channel) of every token, int64 ``[T, 3]``."""
        return torch.from_numpy(np.concatenate([s.positions(s.first, s.stop) for s in self.segments]))

    @cached_property
    def mask(self) -> torch.Tensor:
        """True at real entries, False at padding, bool ``[T, D]``."""
        return self.columns < self.layout.num_weights

    @cached_property
    def biases(self) -> torch.Tensor:
        """True at entries that are biases, bool ``[T, D]``."""
        is_bias = torch.zeros(self.layout.num_weights + 1, dtype=torch.bool)
        for block in self.layout.blocks:
            if block.kind == "bias":
                is_bias[block.columns] = True
        return is_bias[self.columns]

    @cached_property
    def _entries(self) -> torch.Tensor:
        """Entry of the flattened tokens that holds each column, int64 ``[P]``."""
        flat = self.columns.flatten()
        entries = torch.empty(self.layout.num_weights, dtype=torch.int64)
        real = flat < self.layout.num_weights
        entries[flat[real]] = torch.arange(flat.numel())[real]
        return entries

    def window(self, first: int, num: int) -> TokenWindow:
        """Take ``num`` tokens from number ``first`` on as a value; its size does not depend on T.

        Raises
        ------
        InputError
            If the window does not lie inside the sequence.
        """
        stop = first + num
        if first < 0 or num < 1 or stop > self.num_tokens:
            raise InputError(f"window: expected some of the {self.num_tokens} tokens, got tokens {first} to {stop}.")
        parts = [
            (s, max(first, s.first), min(stop, s.stop)) for s in self.segments if s.first < stop and s.stop > first
        ]
        columns = [s.columns(low, high, self.token_width, self.layout.num_weights) for s, low, high in parts]
        positions = [s.positions(low, high) for s, low, high in parts]
        return TokenWindow(
            self.layout.num_weights,
            torch.from_numpy(np.concatenate(columns)),
            torch.from_numpy(np.concatenate(positions)),
        )

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


@dataclass(frozen=True, eq=False)
class TokenWindow:
    """Some consecutive tokens of a model: which columns they hold and where they stand.

    `read` and `write` are exact inverses on the window's own columns.

    Parameters
    ----------
    num_weights
        P, the number of columns of a row.
    columns
        Column of every entry, int64 ``[S, D]``; P where padded.
    positions
        (index in the sequence, layer, channel) of every token, int64 ``[S, 3]``.

    Examples
    --------
    >>> layout = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight"), "fc.bias": ((2,), "bias")})
    >>> window = Tokeniser(layout, token_width=3).window(1, 2)
    >>> tokens = window.read(torch.arange(8.0)[None])
    >>> tokens.tolist()
    [[[6.0, 0.0, 0.0], [3.0, 4.0, 5.0]]]
    >>> window.write(tokens + 10, torch.zeros(1, 8)).tolist()
    [[0.0, 0.0, 0.0, 13.0, 14.0, 15.0, 16.0, 0.0]]
    """

    num_weights: int
    columns: torch.Tensor
    positions: torch.Tensor

    @cached_property
    def mask(self) -> torch.Tensor:
        """True at real entries, bool ``[S, D]``."""
        return self.columns < self.num_weights

    @cached_property
    def real_columns(self) -> torch.Tensor:
        """Columns of the real entries, int64, in the order of the tokens."""
        return self.columns[self.mask]

    def part(self, tokens: slice) -> TokenWindow:
        """Some of the window's tokens, as a window."""
        return TokenWindow(self.num_weights, self.columns[tokens], self.positions[tokens])

    def to(self, device: torch.device) -> TokenWindow:
        """Move the indices to a device."""
        return TokenWindow(self.num_weights, self.columns.to(device), self.positions.to(device))

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Read the window's tokens ``[N, S, D]`` out of rows ``[N, P]``; padding is exactly zero."""
        self._check_rows(rows)
        index = self.columns.clamp(max=self.num_weights - 1).flatten()
        return rows.index_select(1, index).view(-1, *self.columns.shape).masked_fill(~self.mask, 0.0)

    def write(self, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Copy rows ``[N, P]`` with the window's columns replaced by tokens ``[N, S, D]``; padding is never read."""
        self._check_rows(rows)
        if tuple(tokens.shape) != (len(rows), *self.columns.shape):
            raise InputError(
                f"window: tokens have shape {tuple(tokens.shape)}; expected {(len(rows), *self.columns.shape)}."
            )
        return rows.index_copy(1, self.real_columns, tokens[:, self.mask])

    def _check_rows(self, rows: torch.Tensor) -> None:
        if rows.ndim != 2 or rows.shape[1] != self.num_weights:
            raise InputError(f"window: rows have shape {tuple(rows.shape)}; expected [N, {self.num_weights}].")


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
