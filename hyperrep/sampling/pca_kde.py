"""PCA, then one kernel density estimate per component, then back.

Source: "Structure and Behavior in Weight Space Representation Learning", section 4.2.3: anchors are
projected to 32 dimensions, the coordinates are taken as independent, new points are drawn from the
per-coordinate densities and projected back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperrep.sampling.anchors import Points, check_anchors
from hyperrep.sampling.bandwidth import Bandwidth, check_bandwidth
from hyperrep.sampling.kde import FittedKde, Kde
from hyperrep.sampling.projection import Projection, check_components


@dataclass(frozen=True, slots=True)
class PcaKde:
    """Gaussian kernels on independent principal components.

    Parameters
    ----------
    num_components
        Dimensions kept by the projection; at least 1 and fewer than the number of anchors.
    bandwidth
        Kernel width in each component, as for `hyperrep.sampling.Kde`.

    Examples
    --------
    >>> anchors = np.random.default_rng(0).normal(size=(50, 6))
    >>> density = PcaKde(num_components=3).fit(anchors)
    >>> first = density.sample(4, np.random.default_rng(1))
    >>> first.shape, bool((first == density.sample(4, np.random.default_rng(1))).all())
    ((4, 6), True)
    """

    num_components: int = 32
    bandwidth: Bandwidth = "scott"

    def __post_init__(self) -> None:
        check_components(self.num_components, "pca-kde")
        check_bandwidth(self.bandwidth, "pca-kde")

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedPcaKde:
        """Fit the projection and the densities to flattened latents ``[N, F]``; tokens play no part.

        Raises
        ------
        InputError
            If the anchors are not a finite matrix, never vary in a dimension, are too few, or vary in fewer than
            ``num_components`` directions.
        """
        projection = Projection.fit(check_anchors(anchors, "pca-kde"), self.num_components, "pca-kde")
        groups = np.arange(self.num_components)
        return FittedPcaKde(projection, Kde(bandwidth=self.bandwidth).fit_points(projection.scores, groups))


@dataclass(frozen=True, slots=True, eq=False)
class FittedPcaKde:
    """A projection, and a density of its coordinates."""

    projection: Projection
    density: FittedKde

    def sample(self, num: int, generator: np.random.Generator) -> Points:
        """Draw latents ``[num, F]`` (float64); every component of every sample picks its own anchor and noise."""
        return self.projection.back(self.density.sample(num, generator))
