"""One SANE for several architectures: the same weights, told which architecture the tokens come from."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from hyperrep.models.autoencoder import Autoencoder, Place, check_places
from zookeeper.errors import InputError


class PlacedAutoencoder(Autoencoder):
    """A shared autoencoder of token sequences with the mask and positions of one architecture.

    All weights are those of ``shared``. Attention runs over the architecture's own tokens, so there is nothing of
    other architectures to mask. The contrastive head, which is as wide as the longest sequence, reads zeros past the
    end of a shorter one.

    Parameters
    ----------
    shared
        Built for the longest of the architectures.
    mask, positions
        Real entries bool ``[T, D]`` and (sequence, layer, channel) int64 ``[T, 3]`` of this one's tokens.

    Raises
    ------
    InputError
        If mask and positions do not belong together, or there are more tokens than ``shared`` was built for.
    """

    mask: torch.Tensor
    positions: torch.Tensor

    def __init__(self, shared: Autoencoder, mask: torch.Tensor, positions: torch.Tensor) -> None:
        super().__init__()
        check_places("PlacedAutoencoder", mask, positions)
        longest, latent = shared.latent_shape
        if len(mask) > longest:
            raise InputError(f"PlacedAutoencoder: {len(mask)} tokens; expected at most {longest}.")
        self.shared = shared
        self.latent_shape = (len(mask), latent)
        self.register_buffer("mask", mask.clone(), persistent=False)
        self.register_buffer("positions", positions.clone(), persistent=False)

    def encode(self, tokens: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        """Map tokens ``[N, T, D]`` to latents ``[N, T, Z]``; padded entries are not read."""
        return self.shared.encode(tokens, Place(self.mask, self.positions) if place is None else place)

    def decode(self, latents: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        """Map latents ``[N, T, Z]`` to tokens ``[N, T, D]``; padded entries carry no meaning."""
        return self.shared.decode(latents, Place(self.mask, self.positions) if place is None else place)

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents ``[N, T, Z]`` to ``[N, E]`` for the contrastive loss."""
        return self.shared.project(F.pad(latents, (0, 0, 0, self.shared.latent_shape[0] - latents.shape[1])))
