"""New latents drawn from a density fitted to anchors; one file per sampler, one small interface."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from hyperrep.sampling.pca_kde import FittedPcaKde, PcaKde

__all__ = ["FittedPcaKde", "FittedSampler", "PcaKde", "Sampler"]


class FittedSampler(Protocol):
    """A density over latents that can be drawn from."""

    def sample(self, num: int, generator: np.random.Generator) -> np.ndarray:
        """Draw latents ``[num, F]``; the generator alone decides which."""
        ...


class Sampler(Protocol):
    """Settings of a density; `fit` leaves them unchanged."""

    def fit(self, anchors: np.ndarray) -> FittedSampler:
        """Fit the density to flattened latents ``[N, F]`` of anchor models."""
        ...
