"""PCA, then one kernel density estimate per component, then back.

Source: "Structure and Behavior in Weight Space Representation Learning", section 4.2.3: anchors are
projected to 32 dimensions, the coordinates are taken as independent, new points are drawn from the
per-coordinate densities and projected back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from zookeeper.errors import InputError

Bandwidth = float | Literal["scott", "silverman"]


@dataclass(frozen=True, slots=True)
class PcaKde:
    """Gaussian kernels on independent principal components.

    Parameters
    ----------
    num_components
        Dimensions kept by the projection; at least 1 and fewer than the number of anchors.
    bandwidth
        Kernel width: ``"scott"`` (N^-1/5) or ``"silverman"`` ((3N/4)^-1/5), both times the component's
        standard deviation over the anchors, or a fixed factor >= 0 of that standard deviation.
        0 recombines the anchors' own coordinates.

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
        if self.num_components < 1:
            raise InputError(f"sampler pca-kde: num_components must be 1 or more, got {self.num_components}.")
        if isinstance(self.bandwidth, str):
            if self.bandwidth not in ("scott", "silverman"):
                raise InputError(
                    f"sampler pca-kde: unknown bandwidth {self.bandwidth!r}; expected scott, silverman or a number."
                )
        elif not (np.isfinite(self.bandwidth) and self.bandwidth >= 0):
            raise InputError(f"sampler pca-kde: bandwidth must be a finite number >= 0, got {self.bandwidth}.")

    def fit(self, anchors: np.ndarray) -> FittedPcaKde:
        """Fit the projection and the densities to flattened latents.

        A latent dimension that never varies is fine: samples keep its value.

        Parameters
        ----------
        anchors
            Latents ``[N, F]`` of the anchor models.

        Raises
        ------
        InputError
            If the anchors are not a finite matrix, are too few, or vary in fewer than ``num_components``
            directions.
        """
        points = np.asarray(anchors, dtype=np.float64)
        self._check(points)
        mean = points.mean(axis=0)
        _, singular, directions = np.linalg.svd(points - mean, full_matrices=False)
        floor = singular[0] * max(points.shape) * np.finfo(np.float32).eps
        num_varying = int((singular > floor).sum()) if singular[0] > 0 else 0
        if num_varying < self.num_components:
            raise InputError(
                f"sampler pca-kde: the anchors vary in {num_varying} directions; expected at least "
                f"{self.num_components}. Use distinct anchors or a smaller num_components."
            )
        components = directions[: self.num_components]
        scores = (points - mean) @ components.T
        widths = self._factor(len(points)) * scores.std(axis=0, ddof=1)
        return FittedPcaKde(mean, components, scores, widths)

    def _check(self, points: np.ndarray) -> None:
        if points.ndim != 2:
            raise InputError(f"sampler pca-kde: anchors must be a matrix [N, F], got shape {points.shape}.")
        num_bad = int((~np.isfinite(points).all(axis=1)).sum())
        if num_bad:
            raise InputError(
                f"sampler pca-kde: {num_bad} of {len(points)} anchors hold NaN or infinite latents. "
                "Leave diverged models out."
            )
        if len(points) <= self.num_components:
            raise InputError(
                f"sampler pca-kde: too few anchors; expected more than num_components = {self.num_components}, "
                f"got {len(points)}. Lower the accuracy threshold or num_components."
            )
        if points.shape[1] < self.num_components:
            raise InputError(
                f"sampler pca-kde: latents have {points.shape[1]} dimensions; expected at least "
                f"num_components = {self.num_components}."
            )

    def _factor(self, num_anchors: int) -> float:
        if self.bandwidth == "scott":
            return float(num_anchors ** (-1 / 5))
        if self.bandwidth == "silverman":
            return float((3 * num_anchors / 4) ** (-1 / 5))
        return float(self.bandwidth)


@dataclass(frozen=True, slots=True, eq=False)
class FittedPcaKde:
    """A fitted density: ``mean [F]``, ``components [K, F]``, ``scores [N, K]``, ``widths [K]``."""

    mean: np.ndarray
    components: np.ndarray
    scores: np.ndarray
    widths: np.ndarray

    def sample(self, num: int, generator: np.random.Generator) -> np.ndarray:
        """Draw latents ``[num, F]`` (float64).

        Every component of every sample picks its own anchor and its own kernel noise, so the generator's
        state alone decides the draw and two calls with one generator differ.

        Raises
        ------
        InputError
            If ``num`` is below 1.
        """
        if num < 1:
            raise InputError(f"sampler pca-kde: number of samples must be 1 or more, got {num}.")
        num_anchors, num_components = self.scores.shape
        picked = generator.integers(num_anchors, size=(num, num_components))
        centres = np.take_along_axis(self.scores, picked, axis=0)
        drawn = centres + self.widths * generator.standard_normal((num, num_components))
        points: np.ndarray = self.mean + drawn @ self.components
        return points
