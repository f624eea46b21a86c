"""SANE: a transformer autoencoder over the tokens of one model."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.errors import InputError

PROJECTION_WIDTH = 30
_EMBEDDING_STD = 1.0


class Sane(nn.Module):
    """Autoencoder of token sequences with a projection head.

    The encoder maps each token to ``d_model``, adds embeddings of its position (sequence, layer,
    channel), applies pre-norm transformer blocks and maps to ``latent`` numbers per token; the
    decoder mirrors it. Attention runs over the tokens of one model, never over the batch, so a
    model's latent does not depend on its batch-mates. There is no dropout.

    Source: Schürholt et al., "Towards Scalable and Versatile Weight Space Learning" (SANE, 2024).

    Parameters
    ----------
    mask
        True at real entries, bool ``[T, D]``. What a token holds elsewhere has no effect.
    positions
        (sequence, layer, channel) of each token, int64 ``[T, 3]``.
    latent
        Z, numbers per token in the latent.
    d_model, num_heads, num_layers
        Width, attention heads and number of blocks, alike in encoder and decoder.
    generator
        Draws the initial weights; None takes seed 0.

    Examples
    --------
    >>> mask = torch.ones(3, 4, dtype=torch.bool)
    >>> positions = torch.tensor([[0, 0, 0], [1, 0, 1], [2, 1, 0]])
    >>> model = Sane(mask, positions, latent=2, d_model=8, num_heads=2, num_layers=1)
    >>> z = model.encode(torch.zeros(5, 3, 4))
    >>> z.shape, model.decode(z).shape, model.project(z).shape
    (torch.Size([5, 3, 2]), torch.Size([5, 3, 4]), torch.Size([5, 30]))
    """

    mask: torch.Tensor
    positions: torch.Tensor

    def __init__(
        self,
        mask: torch.Tensor,
        positions: torch.Tensor,
        *,
        latent: int,
        d_model: int,
        num_heads: int,
        num_layers: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        num_tokens, width = mask.shape
        if positions.shape != (num_tokens, 3):
            raise InputError(f"Sane: positions have shape {tuple(positions.shape)}; expected ({num_tokens}, 3).")
        if d_model % num_heads:
            raise InputError(f"Sane: d_model {d_model} is not divisible by num_heads {num_heads}.")
        self.register_buffer("mask", mask.clone(), persistent=False)
        self.register_buffer("positions", positions.clone(), persistent=False)
        sizes = tuple(int(n) + 1 for n in positions.amax(0))
        self.encoder = _Stack(width, d_model, latent, sizes, num_heads=num_heads, num_layers=num_layers)
        self.decoder = _Stack(latent, d_model, width, sizes, num_heads=num_heads, num_layers=num_layers)
        self.projection = nn.Sequential(
            nn.Flatten(),
            nn.Linear(num_tokens * latent, PROJECTION_WIDTH),
            nn.LayerNorm(PROJECTION_WIDTH),
            nn.ReLU(),
            nn.Linear(PROJECTION_WIDTH, PROJECTION_WIDTH),
        )
        _initialise(self, torch.Generator().manual_seed(0) if generator is None else generator)

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens ``[N, T, D]`` to latents ``[N, T, Z]``; padded entries are not read."""
        latents: torch.Tensor = self.encoder(tokens.masked_fill(~self.mask, 0.0), self.positions)
        return latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents ``[N, T, Z]`` to tokens ``[N, T, D]``; padded entries carry no meaning."""
        tokens: torch.Tensor = self.decoder(latents, self.positions)
        return tokens

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents ``[N, T, Z]`` to ``[N, 30]`` for the contrastive loss."""
        projected: torch.Tensor = self.projection(latents)
        return projected

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents, decoded tokens and projections of ``tokens``."""
        latents = self.encode(tokens)
        return latents, self.decode(latents), self.project(latents)


class _Stack(nn.Module):
    """Linear map in, position embedding, transformer blocks, linear map out."""

    def __init__(
        self, width_in: int, d_model: int, width_out: int, sizes: tuple[int, ...], *, num_heads: int, num_layers: int
    ) -> None:
        super().__init__()
        self.entry = nn.Linear(width_in, d_model)
        self.embeddings = nn.ModuleList(nn.Embedding(size, d_model) for size in sizes)
        self.blocks = nn.ModuleList(_Block(d_model, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.exit = nn.Linear(d_model, width_out)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        place = sum(embed(positions[:, axis]) for axis, embed in enumerate(self.embeddings))  # [T, d_model]
        x = self.entry(x) + place
        for block in self.blocks:
            x = block(x)
        out: torch.Tensor = self.exit(self.norm(x))
        return out


class _Block(nn.Module):
    """Pre-norm transformer block: attention over the tokens of one model, then two linear maps with GELU."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.merge = nn.Linear(d_model, d_model)
        self.norm_mlp = nn.LayerNorm(d_model)
        self.widen = nn.Linear(d_model, 4 * d_model)
        self.narrow = nn.Linear(4 * d_model, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        num, num_tokens, d_model = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(num, num_tokens, 3, self.num_heads, d_model // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [N, heads, T, d_head]
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.merge(mixed.transpose(1, 2).reshape(num, num_tokens, d_model))
        out: torch.Tensor = x + self.narrow(F.gelu(self.widen(self.norm_mlp(x))))
        return out


def _initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Xavier-uniform linear maps with zero bias, small normal embeddings: every draw from one generator."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=_EMBEDDING_STD, generator=generator)
