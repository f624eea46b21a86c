"""What every autoencoder of tokens is: encode, decode, project, and the shape of a latent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.errors import InputError

PROJECTION_WIDTH = 30
_EMBEDDING_STD = 1.0


class Place(NamedTuple):
    """Where tokens stand in a network: mask bool ``[S, D]`` and positions int64 ``[S, 3]``.

    With a leading axis ``[N, ...]`` every item of a batch has a place of its own.
    """

    mask: torch.Tensor
    positions: torch.Tensor


class Autoencoder(nn.Module, ABC):
    """Autoencoder of token sequences with a projection head.

    A model's latent does not depend on its batch-mates: nothing is computed over the batch. Padding has no
    part in the latent. Outside of training mode nothing is dropped.

    Attributes
    ----------
    latent_shape
        Shape of one latent: ``(T, Z)`` if there is one per token, ``(Z,)`` if there is one per network.
    projection
        Head of the contrastive loss; maps ``[N, *latent_shape]`` to ``[N, E]``.
    """

    latent_shape: tuple[int, ...]
    projection: nn.Module

    @abstractmethod
    def encode(self, tokens: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        """Map tokens ``[N, T, D]`` to latents ``[N, *latent_shape]``; padded entries are not read.

        ``place`` says where the tokens stand; None: where the model was built for.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        """Map latents ``[N, *latent_shape]`` to tokens ``[N, T, D]``; padded entries carry no meaning."""

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents ``[N, *latent_shape]`` to ``[N, E]`` for the contrastive loss."""
        projected: torch.Tensor = self.projection(latents)
        return projected

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents, decoded tokens and projections of ``tokens``."""
        latents = self.encode(tokens)
        return latents, self.decode(latents), self.project(latents)


def projection_head(num_inputs: int, width: int = PROJECTION_WIDTH) -> nn.Sequential:
    """Flatten, linear map, layer norm, ReLU, linear map: the head of SANE.

    >>> projection_head(6, width=4)(torch.zeros(5, 3, 2)).shape
    torch.Size([5, 4])
    """
    return nn.Sequential(
        nn.Flatten(), nn.Linear(num_inputs, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width)
    )


def bound(latents: torch.Tensor, *, bounded: bool) -> torch.Tensor:
    """Squash latents into the cube (-1, 1) with tanh, the bounded bottleneck of paper 002, or leave them."""
    return latents.tanh() if bounded else latents


def initialise(model: nn.Module, generator: torch.Generator | None) -> None:
    """Xavier-uniform linear maps with zero bias, normal embeddings: every draw from one generator (None: seed 0)."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=_EMBEDDING_STD, generator=generator)


class LayerMaps(nn.Module):
    """A linear map for each layer of the network whose tokens come in, or go out: only real entries are touched.

    Parameters
    ----------
    widths
        Number of tokens and of real entries per token of every layer.
    d_model
        The width on the other side.
    outwards
        From ``d_model`` to tokens (padded with zeros to the widest), instead of from tokens to ``d_model``.

    Examples
    --------
    >>> maps = LayerMaps(((2, 3), (1, 2)), 8)
    >>> maps(torch.zeros(5, 3, 3)).shape, LayerMaps(((2, 3), (1, 2)), 8, outwards=True)(torch.zeros(5, 3, 8)).shape
    (torch.Size([5, 3, 8]), torch.Size([5, 3, 3]))
    """

    def __init__(self, widths: tuple[tuple[int, int], ...], d_model: int, *, outwards: bool = False) -> None:
        super().__init__()
        self.widths, self.outwards = widths, outwards
        self.widest = max(width for _, width in widths)
        self.maps = nn.ModuleList(nn.Linear(*((d_model, w) if outwards else (w, d_model))) for _, w in widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[N, T, widest]`` to ``[N, T, d_model]``, or back."""
        parts, first = [], 0
        for (num, width), linear in zip(self.widths, self.maps, strict=True):
            tokens = x[:, first : first + num]
            if self.outwards:
                parts.append(F.pad(linear(tokens), (0, self.widest - width)))
            else:
                parts.append(linear(tokens[..., :width]))
            first += num
        return torch.cat(parts, dim=1)


def check_places(name: str, mask: torch.Tensor, positions: torch.Tensor) -> None:
    """Raise an InputError if mask ``[T, D]`` and positions ``[T, 3]`` do not belong together."""
    if mask.ndim != 2 or positions.shape != (mask.shape[0], 3):
        raise InputError(f"{name}: positions have shape {tuple(positions.shape)}; expected ({mask.shape[0]}, 3).")
