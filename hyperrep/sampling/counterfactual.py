"""Draw where there are no anchors: the check that the density means something.

Source: "Hyper-Representations as Generative Models", section 3.2.2 (S_C): the per-dimension density estimate,
inverted. The paper does not say how; here every dimension is uniform over those places of its range where the
estimate is low.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperrep.sampling.anchors import Points, check_anchors, check_number
from hyperrep.sampling.bandwidth import Bandwidth, bandwidth_factors, check_bandwidth
from hyperrep.sampling.uniform import Box, bounds_of, check_box
from zookeeper.errors import InputError

_CELLS = 512
_DIMENSIONS = 64  # of one pass, so that the working memory does not grow with the latent


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """Every dimension uniform over its places of low density.

    Parameters
    ----------
    quantile
        A place is of low density if the estimate there is below this quantile of the estimate at the anchors;
        in (0, 1].
    bandwidth
        Of the per-dimension estimate, as for `hyperrep.sampling.Kde`; above 0.
    box
        Where to look: the cube of `hyperrep.sampling.Uniform`, or ``anchors``, the range of the anchors and half
        as much again to each side.

    Examples
    --------
    >>> anchors = np.random.default_rng(0).normal(size=(200, 3))
    >>> drawn = Counterfactual().fit(anchors).sample(100, np.random.default_rng(1))
    >>> bool((np.abs(drawn) > 1.2).all())
    True
    """

    quantile: float = 0.05
    bandwidth: Bandwidth = "scott"
    box: Box = "anchors"

    def __post_init__(self) -> None:
        check_bandwidth(self.bandwidth, "counterfactual")
        check_box(self.box, "counterfactual")
        if self.bandwidth == 0:
            raise InputError("sampler counterfactual: bandwidth must be above 0.")
        if not 0 < self.quantile <= 1:
            raise InputError(f"sampler counterfactual: quantile must be in (0, 1], got {self.quantile}.")

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedCounterfactual:
        """Find the places of low density of flattened latents ``[N, F]``; tokens play no part.

        Raises
        ------
        InputError
            If the anchors cannot be used, or a dimension of the cube has no place of low density.
        """
        points = check_anchors(anchors, "counterfactual")
        low, high = bounds_of(self.box, points, "counterfactual")
        if self.box == "anchors":
            low, high = low - (high - low) / 2, high + (high - low) / 2
        factors = bandwidth_factors(self.bandwidth, points, np.arange(points.shape[1]))
        widths = factors * points.std(axis=0, ddof=1)
        parts = [
            self._is_low(points[:, part], widths[part], low[part], high[part])
            for part in (slice(first, first + _DIMENSIONS) for first in range(0, points.shape[1], _DIMENSIONS))
        ]
        is_low = np.concatenate(parts)
        full = np.flatnonzero(~is_low.any(axis=1))
        if len(full):
            raise InputError(
                f"sampler counterfactual: {len(full)} latent dimensions have no place of low density in the cube "
                f"(first: {full[0]}). Use box anchors, a larger quantile or a smaller bandwidth."
            )
        return FittedCounterfactual(low, high, is_low.cumsum(axis=1))

    def _is_low(self, points: Points, widths: Points, low: Points, high: Points) -> np.ndarray:
        """Whether each of the cells between the bounds has low density, bool ``[F, cells]``."""
        centres = low + (high - low) * ((np.arange(_CELLS) + 0.5) / _CELLS)[:, None]
        threshold = np.quantile(_density(points, points, widths), self.quantile, axis=0)
        return np.asarray((_density(centres, points, widths) < threshold).T)


@dataclass(frozen=True, slots=True, eq=False)
class FittedCounterfactual:
    """Bounds ``low [F]``, ``high [F]`` and, of as many equal cells, how many up to each are low ``[F, cells]``."""

    low: Points
    high: Points
    counts: np.ndarray

    def sample(self, num: int, generator: np.random.Generator) -> Points:
        """Draw latents ``[num, F]`` (float64): a cell of low density, and a place in it, both uniform."""
        check_number(num, "counterfactual")
        num_dimensions, num_cells = self.counts.shape
        wanted = generator.integers(self.counts[:, -1], size=(num, num_dimensions))
        cells = np.stack(
            [
                np.searchsorted(counts, chosen, side="right")
                for counts, chosen in zip(self.counts, wanted.T, strict=True)
            ],
            axis=1,
        )
        inside = generator.random((num, num_dimensions))
        drawn: Points = self.low + (self.high - self.low) * (cells + inside) / num_cells
        return drawn


def _density(at: Points, points: Points, widths: Points) -> Points:
    """Kernel sum of every dimension, not normalised: ``[n, F]``."""
    result = np.zeros(at.shape)
    for point in points:  # over anchors: a pass holds [n, F] numbers, not [n, N, F]
        result += np.exp(-0.5 * ((at - point) / widths) ** 2)
    return result
