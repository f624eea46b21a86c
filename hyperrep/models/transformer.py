"""Transformer blocks over the tokens of one model, and where each token says it stands."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from hyperrep.models.products import TokenMap
from zookeeper.errors import InputError

PositionKind = Literal["learned", "sinusoidal"]
NUM_FREQUENCIES = 32
LONGEST_PERIOD = 200_000.0  # tokens: beyond ResNet-18 at a width of 64


class Transformer(nn.Module):
    """Map in, position embedding, transformer blocks, layer norm, map out.

    Parameters
    ----------
    entry, exit
        Maps from and to the outer widths.
    embeddings
        Maps positions ``[..., 3]`` to ``[..., d_model]``.
    d_model, num_heads, num_layers
        Width, attention heads and number of blocks.
    mlp_width
        Hidden width of a block's two linear maps; None: four times ``d_model``.
    """

    def __init__(
        self,
        entry: nn.Module,
        embeddings: nn.Module,
        exit: nn.Module,
        *,
        d_model: int,
        num_heads: int,
        num_layers: int,
        mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        if d_model % num_heads:
            raise InputError(f"model: d_model {d_model} is not divisible by num_heads {num_heads}.")
        self.entry = entry
        self.embeddings = embeddings
        self.blocks = nn.ModuleList(Block(d_model, num_heads, mlp_width or 4 * d_model) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.exit = exit

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Run tokens ``[N, T, width in]`` at positions ``[T, 3]`` or ``[N, T, 3]`` to ``[N, T, width out]``."""
        out: torch.Tensor = self.exit(self.mix(self.entry(x) + self.embeddings(positions)))
        return out

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Run ``[N, T, d_model]`` through the blocks and the last layer norm."""
        for block in self.blocks:
            x = block(x)
        out: torch.Tensor = self.norm(x)
        return out


class Block(nn.Module):
    """Pre-norm transformer block: attention over the tokens of one model, then two linear maps with GELU.

    In training mode ``dropout`` is the share of what either adds to the tokens that is dropped, drawn from torch's
    global stream.
    """

    dropout: float = 0.0

    def __init__(self, d_model: int, num_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(d_model)
        self.qkv = TokenMap(d_model, 3 * d_model)
        self.merge = TokenMap(d_model, d_model)
        self.norm_mlp = nn.LayerNorm(d_model)
        self.widen = TokenMap(d_model, mlp_width)
        self.narrow = TokenMap(mlp_width, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[N, T, d_model]`` to the same shape."""
        num, num_tokens, d_model = x.shape
        qkv = self.qkv.after_norm(self.norm_attention, x)
        qkv = qkv.view(num, num_tokens, 3, self.num_heads, d_model // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [N, heads, T, d_head]
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self._drop(self.merge(mixed.transpose(1, 2).reshape(num, num_tokens, d_model)))
        out: torch.Tensor = x + self._drop(self.narrow.after_gelu(self.widen.after_norm(self.norm_mlp, x)))
        return out

    def _drop(self, added: torch.Tensor) -> torch.Tensor:
        return F.dropout(added, self.dropout) if self.training and self.dropout > 0 else added


class PositionTables(nn.ModuleList):
    """A learned vector for every index in the sequence, every layer and every channel; their sum is the embedding.

    The first table is as long as the sequence, so it grows with the network.
    """

    def __init__(self, sizes: tuple[int, ...], d_model: int) -> None:
        super().__init__(nn.Embedding(size, d_model) for size in sizes)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Look positions ``[..., 3]`` up: ``[..., d_model]``."""
        sequence, layer, channel = (embed(positions[..., axis]) for axis, embed in enumerate(self))
        place: torch.Tensor = sequence + layer + channel
        return place


class SinusoidalPositions(nn.Module):
    """Sines and cosines of sequence, layer and channel, mixed by one learned linear map.

    Holds as many weights for a network of a hundred tokens as for one of a million, and a position that training
    never met still has an embedding. Periods run from 2 pi to 200,000 tokens in equal ratios.

    Source: Vaswani et al., "Attention Is All You Need" (2017), section 3.5, on three axes.

    Examples
    --------
    >>> SinusoidalPositions(8)(torch.tensor([[0, 0, 0], [40_000, 60, 511]])).shape
    torch.Size([2, 8])
    """

    frequencies: torch.Tensor

    def __init__(self, d_model: int) -> None:
        super().__init__()
        steps = torch.arange(NUM_FREQUENCIES, dtype=torch.float64) / (NUM_FREQUENCIES - 1)
        frequencies = torch.exp(-steps * math.log(LONGEST_PERIOD / (2 * math.pi)))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mix = nn.Linear(3 * 2 * NUM_FREQUENCIES, d_model)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Embed positions ``[..., 3]`` as ``[..., d_model]``."""
        angles = positions[..., None].double() * self.frequencies.double()  # [..., 3, frequencies]
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        out: torch.Tensor = self.mix(waves.to(self.mix.weight.dtype))
        return out


def position_embeddings(kind: PositionKind, sizes: tuple[int, ...], d_model: int) -> nn.Module:
    """Build the embedding of positions; ``sizes`` are the lengths of the learned tables."""
    if kind == "learned":
        return PositionTables(sizes, d_model)
    if kind == "sinusoidal":
        return SinusoidalPositions(d_model)
    raise InputError(f"model.positions: unknown kind {kind!r}; expected learned or sinusoidal.")


def table_sizes(positions: torch.Tensor) -> tuple[int, ...]:
    """Lengths of the tables that hold every position ``[T, 3]``."""
    return tuple(int(n) + 1 for n in positions.amax(0))
