"""The average of anchors: the second of two baselines that a generator of weights must beat.

Source: Zeng et al., "Generative Modeling of Weights: Generalization or Memorization?" (2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperrep.sampling.anchors import Points, check_anchors, check_number
from hyperrep.sampling.crossover import pick_distinct
from zookeeper.errors import InputError


@dataclass(frozen=True, slots=True)
class AnchorAverage:
    """The mean of a few different anchors.

    Parameters
    ----------
    parents
        How many, 2 or more.

    Examples
    --------
    >>> AnchorAverage().fit(np.array([[0.0, 2.0], [1.0, 4.0]])).sample(1, np.random.default_rng(0)).tolist()
    [[0.5, 3.0]]
    """

    parents: int = 2

    def __post_init__(self) -> None:
        if self.parents < 2:
            raise InputError(f"sampler average: parents must be 2 or more, got {self.parents}.")

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedAnchorAverage:
        """Keep flattened latents ``[N, F]``, at least as many as parents; tokens play no part."""
        return FittedAnchorAverage(check_anchors(anchors, "average", at_least=self.parents), self.parents)


@dataclass(frozen=True, slots=True, eq=False)
class FittedAnchorAverage:
    """Anchors ``[N, F]`` and the number of parents."""

    anchors: Points
    parents: int

    def sample(self, num: int, generator: np.random.Generator) -> Points:
        """Draw latents ``[num, F]`` (float64)."""
        check_number(num, "average")
        picked = pick_distinct(len(self.anchors), self.parents, num, generator)
        averages: Points = np.zeros((num, self.anchors.shape[1]))
        for parent in range(self.parents):
            averages += self.anchors[picked[:, parent]] / self.parents
        return averages
