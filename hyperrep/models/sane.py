"""SANE: a transformer autoencoder with one latent per token."""

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
from hyperrep.models.transformer import PositionKind, Transformer, position_embeddings, table_sizes
from zookeeper.errors import InputError

STATISTICS = ("mean", "root mean square", "mean magnitude", "mean magnitude of biases")
_SMALLEST_SQUARE = 1e-6  # keeps the gradient of the root finite for a token of zeros
_STATISTICS_GAIN = 3.0  # a statistic is one entry among as many as a token is wide


def append_statistics(tokens: torch.Tensor, mask: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    """Append mean, root mean square and mean magnitude of each token's real entries, and that of its biases, times 3.

    Layer norm hides how large a token is, and sums over its entries know no magnitudes. Biases start at the same
    value in every network of a zoo, weights at a random draw: how far biases have moved tells most about training.

    Parameters
    ----------
    tokens
        ``[..., T, D]``, zero where ``mask`` is False.
    mask, biases
        Which entries are real, and which of these are biases, bool ``[T, D]``.

    Returns
    -------
    ``[..., T, D + 4]``; 0 for the biases of a token without any.

    >>> mask, biases = torch.tensor([[True, True, True, False]]), torch.tensor([[False, False, True, False]])
    >>> append_statistics(torch.tensor([[5.0, -5.0, 0.0, 0.0]]), mask, biases)[0, 4:].round().tolist()
    [0.0, 12.0, 10.0, 0.0]
    """
    count = mask.sum(-1).clamp(min=1)
    mean = tokens.sum(-1) / count
    size = (tokens.square().sum(-1) / count + _SMALLEST_SQUARE).sqrt()
    magnitude = tokens.abs().sum(-1) / count
    of_biases = (tokens.abs() * biases).sum(-1) / biases.sum(-1).clamp(min=1)
    return torch.cat([tokens, _STATISTICS_GAIN * torch.stack([mean, size, magnitude, of_biases], -1)], -1)


class Sane(Autoencoder):
    """Autoencoder of token sequences, whole networks or windows of them, with one latent per token.

    The encoder maps each token to ``d_model``, adds embeddings of its position (sequence, layer,
    channel), applies pre-norm transformer blocks and maps to ``latent`` numbers per token; the
    decoder mirrors it. Attention runs over the tokens of one model, never over the batch.

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
    mlp_width
        Hidden width in a block; None: four times ``d_model``.
    bounded
        Whether latents pass through tanh.
    position_kind
        ``learned`` tables, or ``sinusoidal``, which does not grow with the network.
    sizes
        Lengths of the learned tables; None: what ``positions`` needs. A model of windows is built for the
        mask and positions of one window and told the sizes of the whole.
    layer_widths
        Tokens and real entries of every layer, for a linear map per layer; None: one map for all.
    projection
        Width of the projection head.
    biases
        Which entries are biases, bool ``[T, D]``: the encoder then sees `append_statistics` of each token. For whole
        networks of one architecture, and without ``layer_widths``.
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
    biases: torch.Tensor | None

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
        bounded: bool = False,
        position_kind: PositionKind = "learned",
        sizes: tuple[int, ...] | None = None,
        layer_widths: tuple[tuple[int, int], ...] | None = None,
        projection: int = PROJECTION_WIDTH,
        biases: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_places("Sane", mask, positions)
        num_tokens, width = mask.shape
        self.bounded = bounded
        self.latent_shape = (num_tokens, latent)
        self.register_buffer("mask", mask.clone(), persistent=False)
        self.register_buffer("positions", positions.clone(), persistent=False)
        sizes = table_sizes(positions) if sizes is None else sizes

        def stack(entry: nn.Module, exit: nn.Module) -> Transformer:
            embeddings = position_embeddings(position_kind, sizes, d_model)
            return Transformer(
                entry, embeddings, exit,
                d_model=d_model, num_heads=num_heads, num_layers=num_layers, mlp_width=mlp_width,
            )  # fmt: skip

        self.register_buffer("biases", None if biases is None else biases.clone(), persistent=False)
        width_in = width if biases is None else width + len(STATISTICS)
        inwards = TokenMap(width_in, d_model) if layer_widths is None else LayerMaps(layer_widths, d_model)
        outwards = TokenMap(d_model, width) if layer_widths is None else LayerMaps(layer_widths, d_model, outwards=True)
        self.encoder = stack(inwards, TokenMap(d_model, latent))
        self.decoder = stack(TokenMap(latent, d_model), outwards)
        self.projection = projection_head(num_tokens * latent, projection)
        initialise(self, generator)

    def encode(self, tokens: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        """Map tokens ``[N, S, D]`` to latents ``[N, S, Z]``; padded entries are not read."""
        mask, positions = (self.mask, self.positions) if place is None else place
        seen = tokens.masked_fill(~mask, 0.0)
        if self.biases is not None:
            if place is not None:
                raise InputError("model.statistics: expected whole networks of one architecture, got tokens elsewhere.")
            seen = append_statistics(seen, mask, self.biases)
        return bound(self.encoder(seen, positions), bounded=self.bounded)

    def decode(self, latents: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        """Map latents ``[N, S, Z]`` to tokens ``[N, S, D]``; padded entries carry no meaning."""
        tokens: torch.Tensor = self.decoder(latents, self.positions if place is None else place.positions)
        return tokens
