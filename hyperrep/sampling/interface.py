"""The one small interface of every sampler."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class FittedSampler(Protocol):
    """A density over latents that can be drawn from."""

    def sample(self, num: int, generator: np.random.Generator) -> np.ndarray:
        """Draw latents ``[num, F]``; the generator alone decides which."""
        ...


class Sampler(Protocol):
    """Settings of a density; `fit` leaves them unchanged."""

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedSampler:
        """Fit the density to flattened latents ``[N, F]`` of anchor models.

        ``tokens`` is the token of each column, int ``[F]``, for samplers that keep a token's numbers together.
        """
        ...
