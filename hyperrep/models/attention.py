"""The attention autoencoder of paper 002: one latent per network, with or without a compression token."""

from __future__ import annotations

import torch
from torch import nn

from hyperrep.models.autoencoder import (
    PROJECTION_WIDTH,
    Autoencoder,
    LayerMaps,
    Place,
    bound,
    check_places,
    initialise,
    projection_head,
)
from hyperrep.models.products import TokenMap
from hyperrep.models.transformer import PositionTables, Transformer, table_sizes
from zookeeper.errors import InputError


class AttentionAutoencoder(Autoencoder):
    """Attention over the tokens of a network, compressed to one latent of Z numbers.

    Without a compression token the whole output sequence is mapped linearly to the latent, and the latent
    linearly to a sequence for the decoder; both maps grow with the number of tokens. With one, a learned token
    joins the sequence, only its output is mapped to the latent, and the decoder gives every position the same
    linear image of the latent beside its position embedding: no weight depends on the number of tokens but
    those of the position tables.

    Source: Schürholt et al., "Self-Supervised Representation Learning on Neural Network Weights for Model
    Characteristic Prediction" (2021), section 3 and Figure 3.

    Parameters
    ----------
    mask, positions
        Real entries bool ``[T, D]`` and (sequence, layer, channel) int64 ``[T, 3]`` of the tokens.
    latent
        Z, numbers per network.
    d_model, num_heads, num_layers, mlp_width
        Sizes of the transformer blocks, alike in encoder and decoder.
    compression_token
        Whether a learned token gathers the sequence.
    bounded
        Whether latents pass through tanh.
    layer_widths
        Tokens and real entries of every layer, for a linear map per layer; None: one map for all.
    projection
        Width of the projection head.
    generator
        Draws the initial weights; None takes seed 0.

    Examples
    --------
    >>> mask = torch.ones(3, 4, dtype=torch.bool)
    >>> positions = torch.tensor([[0, 0, 0], [1, 0, 1], [2, 1, 0]])
    >>> model = AttentionAutoencoder(
    ...     mask, positions, latent=6, d_model=8, num_heads=2, num_layers=1, compression_token=True
    ... )
    >>> z = model.encode(torch.zeros(5, 3, 4))
    >>> z.shape, model.decode(z).shape, model.project(z).shape
    (torch.Size([5, 6]), torch.Size([5, 3, 4]), torch.Size([5, 30]))
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
        mlp_width: int | None = None,
        compression_token: bool = False,
        bounded: bool = False,
        layer_widths: tuple[tuple[int, int], ...] | None = None,
        projection: int = PROJECTION_WIDTH,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_places("AttentionAutoencoder", mask, positions)
        num_tokens, width = mask.shape
        self.bounded = bounded
        self.latent_shape = (latent,)
        self.register_buffer("mask", mask.clone(), persistent=False)
        self.register_buffer("positions", positions.clone(), persistent=False)
        gathered = d_model if compression_token else num_tokens * d_model

        def stack(entry: nn.Module, exit: nn.Module) -> Transformer:
            embeddings = PositionTables(table_sizes(positions), d_model)
            return Transformer(
                entry, embeddings, exit,
                d_model=d_model, num_heads=num_heads, num_layers=num_layers, mlp_width=mlp_width,
            )  # fmt: skip

        inwards = TokenMap(width, d_model) if layer_widths is None else LayerMaps(layer_widths, d_model)
        outwards = TokenMap(d_model, width) if layer_widths is None else LayerMaps(layer_widths, d_model, outwards=True)
        self.encoder = stack(inwards, nn.Linear(gathered, latent))
        self.decoder = stack(nn.Linear(latent, gathered), outwards)
        self.token = nn.Embedding(1, d_model) if compression_token else None
        self.projection = projection_head(latent, projection)
        initialise(self, generator)

    def encode(self, tokens: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        """Map tokens ``[N, T, D]`` to latents ``[N, Z]``; padded entries are not read."""
        _refuse(place)
        x = self.encoder.entry(tokens.masked_fill(~self.mask, 0.0)) + self.encoder.embeddings(self.positions)
        if self.token is None:
            gathered = self.encoder.mix(x).flatten(1)
        else:
            first = self.token.weight.expand(len(x), 1, -1)
            gathered = self.encoder.mix(torch.cat([first, x], dim=1))[:, 0]
        return bound(self.encoder.exit(gathered), bounded=self.bounded)

    def decode(self, latents: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        """Map latents ``[N, Z]`` to tokens ``[N, T, D]``; padded entries carry no meaning."""
        _refuse(place)
        places = self.decoder.embeddings(self.positions)  # [T, d_model]
        x = self.decoder.entry(latents).view(len(latents), -1, places.shape[1]) + places
        tokens: torch.Tensor = self.decoder.exit(self.decoder.mix(x))
        return tokens


def _refuse(place: Place | None) -> None:
    if place is not None:
        raise InputError("model.kind: attention encodes whole networks; windows of tokens need the kind sane.")
