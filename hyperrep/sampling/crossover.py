"""Crossover: every token of a sample comes from one of two anchors.

A baseline that generates nothing new token by token. It asks how much of a sampler's quality is that of its anchors.
Anchors whose units are in different orders mix badly; align them first (`hyperrep.tasks.generate.Anchors.aligned`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperrep.sampling.anchors import Index, Points, Together, check_anchors, check_number, groups_of
from zookeeper.errors import InputError


@dataclass(frozen=True, slots=True)
class Crossover:
    """Mix two different anchors.

    Parameters
    ----------
    share
        Probability, in (0, 1), that a part comes from the second anchor; near 0 samples are near-copies.
    together
        What is taken from one anchor as a whole: each ``token``, or each ``dimension``.

    Examples
    --------
    >>> anchors = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    >>> drawn = Crossover().fit(anchors, tokens=np.array([0, 0, 1])).sample(50, np.random.default_rng(0))
    >>> sorted(set(map(tuple, drawn.tolist())))
    [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0)]
    """

    share: float = 0.5
    together: Together = "token"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"sampler crossover: share must be in (0, 1), got {self.share}.")
        if self.together == "network":
            raise InputError("sampler crossover: together must be token or dimension; whole networks do not mix.")

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedCrossover:
        """Keep flattened latents ``[N, F]`` and the token of each column ``[F]``.

        Raises
        ------
        InputError
            If the anchors cannot be used, or tokens are missing.
        """
        points = check_anchors(anchors, "crossover")
        return FittedCrossover(points, groups_of(self.together, points.shape[1], tokens, "crossover"), self.share)


@dataclass(frozen=True, slots=True, eq=False)
class FittedCrossover:
    """Anchors ``[N, F]``, the group of every column ``[F]`` and the probability of the second parent."""

    anchors: Points
    groups: Index
    share: float

    def sample(self, num: int, generator: np.random.Generator) -> Points:
        """Draw latents ``[num, F]`` (float64), each of two different anchors."""
        check_number(num, "crossover")
        first, second = pick_distinct(len(self.anchors), 2, num, generator).T
        from_second = generator.random((num, int(self.groups.max()) + 1)) < self.share
        mixed: Points = np.where(from_second[:, self.groups], self.anchors[second], self.anchors[first])
        return mixed


def pick_distinct(num_anchors: int, num_parents: int, num: int, generator: np.random.Generator) -> Index:
    """Different anchors for each sample, uniformly: int64 ``[num, num_parents]``.

    >>> pick_distinct(3, 3, 2, np.random.default_rng(0)).tolist()
    [[2, 1, 0], [0, 1, 2]]
    """
    keys = generator.random((num, num_anchors))
    return np.argsort(keys, axis=1)[:, :num_parents]
