"""An anchor plus noise: the first of two baselines that a generator of weights must beat.

Source: Zeng et al., "Generative Modeling of Weights: Generalization or Memorization?" (2025): most weight generators
lose to it at an equal distance from the training models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperrep.sampling.anchors import check_anchors
from hyperrep.sampling.kde import FittedKde, Kde
from zookeeper.errors import InputError


@dataclass(frozen=True, slots=True)
class AnchorNoise:
    """One anchor and Gaussian noise in every dimension.

    It is the joint kernel density estimate of a fixed bandwidth, under the name by which it is asked for.

    Parameters
    ----------
    scale
        Deviation of the noise as a factor >= 0 of each dimension's deviation over the anchors.

    Examples
    --------
    >>> anchors = np.random.default_rng(0).normal(size=(50, 6))
    >>> drawn = AnchorNoise(scale=0.0).fit(anchors).sample(1, np.random.default_rng(1))
    >>> bool((drawn == anchors).all(axis=1).any())
    True
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale >= 0):
            raise InputError(f"sampler noise: scale must be a finite number >= 0, got {self.scale}.")

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedKde:
        """Take anchors and spread from flattened latents ``[N, F]``; tokens play no part."""
        points = check_anchors(anchors, "noise")
        return Kde(together="network", bandwidth=self.scale).fit_points(points, np.zeros(points.shape[1], np.int64))
