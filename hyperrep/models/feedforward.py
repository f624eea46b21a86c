"""The feed-forward autoencoder of paper 002: layers of linear map and ReLU, narrowing to the latent."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from hyperrep.models.autoencoder import PROJECTION_WIDTH, Autoencoder, Place, bound, initialise, projection_head
from zookeeper.errors import InputError


class FeedForwardAutoencoder(Autoencoder):
    """Linear maps with ReLU between them, from the P real entries to Z numbers and back.

    Widths fall from P to Z in equal steps; the decoder mirrors them. Padding is cut out before the first map,
    so any encoding gives the same autoencoder up to the order of its inputs. The last map of either half has no
    ReLU: a latent and a weight may be negative. Maps before a ReLU start with He's normal weights (2015), which
    keep the spread of the signal through the depth.

    Source: Schürholt et al., "Self-Supervised Representation Learning on Neural Network Weights for Model
    Characteristic Prediction" (2021), section 4.2 (10 layers each way).

    Parameters
    ----------
    mask
        True at real entries, bool ``[T, D]``.
    latent
        Z, numbers per network.
    num_layers
        Linear maps of either half.
    bounded
        Whether latents pass through tanh.
    projection
        Width of the projection head.
    generator
        Draws the initial weights; None takes seed 0.

    Examples
    --------
    >>> mask = torch.tensor([[True, True, False], [True, True, True]])
    >>> model = FeedForwardAutoencoder(mask, latent=1, num_layers=2, bounded=True)
    >>> [layer.weight.shape for layer in model.encoder if isinstance(layer, nn.Linear)]
    [torch.Size([3, 5]), torch.Size([1, 3])]
    >>> model.decode(model.encode(torch.ones(4, 2, 3))).shape
    torch.Size([4, 2, 3])
    """

    real: torch.Tensor

    def __init__(
        self,
        mask: torch.Tensor,
        *,
        latent: int,
        num_layers: int,
        bounded: bool = False,
        projection: int = PROJECTION_WIDTH,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.bounded = bounded
        self.latent_shape = (latent,)
        self.token_shape = (int(mask.shape[0]), int(mask.shape[1]))
        self.register_buffer("real", mask.flatten().nonzero().flatten(), persistent=False)
        widths = layer_widths(len(self.real), latent, num_layers)
        self.encoder = _chain(widths)
        self.decoder = _chain(widths[::-1])
        self.projection = projection_head(latent, projection)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        initialise(self, generator)
        for half in (self.encoder, self.decoder):
            for linear in list(half)[:-1:2]:
                assert isinstance(linear, nn.Linear)
                nn.init.normal_(linear.weight, std=math.sqrt(2 / linear.in_features), generator=generator)

    def encode(self, tokens: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        """Map tokens ``[N, T, D]`` to latents ``[N, Z]``; padded entries are not read."""
        _refuse(place)
        return bound(self.encoder(tokens.flatten(1).index_select(1, self.real)), bounded=self.bounded)

    def decode(self, latents: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        """Map latents ``[N, Z]`` to tokens ``[N, T, D]``; padded entries are zero."""
        _refuse(place)
        entries = self.decoder(latents)
        num_tokens, width = self.token_shape
        empty = entries.new_zeros(len(entries), num_tokens * width)
        tokens: torch.Tensor = empty.index_copy(1, self.real, entries).view(-1, num_tokens, width)
        return tokens


def layer_widths(num_inputs: int, latent: int, num_layers: int) -> tuple[int, ...]:
    """Widths from the inputs to the latent in equal steps, rounded.

    >>> layer_widths(100, 20, 4)
    (100, 80, 60, 40, 20)
    """
    return tuple(round(num_inputs + (latent - num_inputs) * n / num_layers) for n in range(num_layers + 1))


def _chain(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _refuse(place: Place | None) -> None:
    if place is not None:
        raise InputError("model.kind: feedforward encodes whole networks; windows of tokens need the kind sane.")
