"""Kernel density estimates of the latents: per dimension, per token, or of whole networks.

Source: "Hyper-Representations as Generative Models", section 3.2.2 (S_KDE per dimension, a Gaussian kernel).
Per token and joint are ours: they keep what the numbers of a token, or of a network, have to do with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hyperrep.sampling.anchors import Index, Points, Together, check_anchors, check_number, groups_of
from hyperrep.sampling.bandwidth import Bandwidth, bandwidth_factors, check_bandwidth
from zookeeper.errors import InputError


@dataclass(frozen=True, slots=True)
class Kde:
    """Gaussian kernels on the anchors.

    Parameters
    ----------
    together
        What is drawn from one anchor: every ``dimension`` from its own (the paper's S_KDE), every ``token`` from
        its own, or the whole ``network`` from one.
    bandwidth
        Kernel width: ``scott``, ``silverman``, ``cross-validated`` (`hyperrep.sampling.bandwidth`), or a factor >= 0
        of each dimension's standard deviation over the anchors. 0 recombines the anchors' own numbers.
    kernel
        ``diagonal``: noise independent in every dimension. ``full``: noise with the covariance that the anchors
        have inside a token or network, so it stays in the directions in which they differ.
    spread
        Factor above 0 of the way of every sample from the mean of the anchors; 1 leaves the density as it is. Above
        1 samples are more diverse: decoders pull networks towards their mean.

    Examples
    --------
    >>> anchors = np.random.default_rng(0).normal(size=(50, 6))
    >>> Kde(together="network").fit(anchors).sample(4, np.random.default_rng(1)).shape
    (4, 6)
    """

    together: Together = "dimension"
    bandwidth: Bandwidth = "scott"
    kernel: Literal["diagonal", "full"] = "diagonal"
    spread: float = 1.0

    def __post_init__(self) -> None:
        check_bandwidth(self.bandwidth, "kde")
        if not (np.isfinite(self.spread) and self.spread > 0):
            raise InputError(f"sampler kde: spread must be a finite number > 0, got {self.spread}.")
        if self.kernel == "full" and self.together == "dimension":
            raise InputError("sampler kde: kernel full needs numbers drawn together; set together to token or network.")
        if self.kernel == "full" and self.bandwidth == "cross-validated":
            raise InputError(
                "sampler kde: a full kernel cannot be cross-validated, because fewer anchors than dimensions are all "
                "equally far apart under it. Use kernel diagonal, or another bandwidth."
            )

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedKde:
        """Fit to flattened latents ``[N, F]``, with the token of each column ``[F]`` if drawn per token.

        Raises
        ------
        InputError
            If the anchors are fewer than two, not finite, never vary in a dimension, or tokens are missing.
        """
        points = check_anchors(anchors, "kde")
        return self.fit_points(points, groups_of(self.together, points.shape[1], tokens, "kde"))

    def fit_points(self, points: Points, groups: Index) -> FittedKde:
        """Fit to points that were checked, with the group of every column."""
        factors = bandwidth_factors(self.bandwidth, points, groups)
        if self.spread != 1:
            mean = points.mean(axis=0)
            points = mean + self.spread * (points - mean)
        if self.kernel == "full":
            deviations = (points - points.mean(axis=0)) / np.sqrt(len(points) - 1)
            return FittedKde(points, groups, factors[groups], deviations)
        return FittedKde(points, groups, factors[groups] * points.std(axis=0, ddof=1), None)


@dataclass(frozen=True, slots=True, eq=False)
class FittedKde:
    """A density: ``anchors [N, F]``, ``groups [F]``, ``widths [F]``.

    ``deviations [N, F]``, if given, are the anchors' about their mean over sqrt(N - 1): the covariance of noise.
    """

    anchors: Points
    groups: Index
    widths: Points
    deviations: Points | None

    def sample(self, num: int, generator: np.random.Generator) -> Points:
        """Draw latents ``[num, F]`` (float64); every group of every sample picks its own anchor.

        The generator's state alone decides the draw, and every number has noise of its own.
        """
        check_number(num, "kde")
        num_groups = int(self.groups.max()) + 1
        picked = generator.integers(len(self.anchors), size=(num, num_groups))
        centres = np.take_along_axis(self.anchors, picked[:, self.groups], axis=0)
        drawn: Points = centres + self.widths * self._noise(num, num_groups, generator)
        return drawn

    def _noise(self, num: int, num_groups: int, generator: np.random.Generator) -> Points:
        if self.deviations is None:
            return generator.standard_normal((num, self.anchors.shape[1]))
        noise = np.empty((num, self.anchors.shape[1]))
        for group in range(num_groups):
            columns = self.groups == group
            noise[:, columns] = generator.standard_normal((num, len(self.deviations))) @ self.deviations[:, columns]
        return noise
