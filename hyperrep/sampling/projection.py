"""Principal components of the anchors: where densities are fitted that need few dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperrep.sampling.anchors import Points
from zookeeper.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Leading principal components: ``mean [F]``, orthonormal ``components [K, F]``, the anchors' ``scores [N, K]``."""

    mean: Points
    components: Points
    scores: Points

    @classmethod
    def fit(cls, points: Points, num_components: int, sampler: str) -> Projection:
        """Project anchors ``[N, F]`` on their ``num_components`` directions of largest variance.

        Raises
        ------
        InputError
            If there are not more anchors than components, fewer dimensions than components, or the anchors vary in
            fewer directions.
        """
        if len(points) <= num_components:
            raise InputError(
                f"sampler {sampler}: too few anchors; expected more than num_components = {num_components}, "
                f"got {len(points)}. Take a larger share of the train models, or a smaller num_components."
            )
        if points.shape[1] < num_components:
            raise InputError(
                f"sampler {sampler}: latents have {points.shape[1]} dimensions; expected at least "
                f"num_components = {num_components}."
            )
        mean = points.mean(axis=0)
        _, singular, directions = np.linalg.svd(points - mean, full_matrices=False)
        floor = singular[0] * max(points.shape) * np.finfo(np.float32).eps
        num_varying = int((singular > floor).sum()) if singular[0] > 0 else 0
        if num_varying < num_components:
            raise InputError(
                f"sampler {sampler}: the anchors vary in {num_varying} directions; expected at least "
                f"{num_components}. Use distinct anchors or a smaller num_components."
            )
        components = directions[:num_components]
        return cls(mean, components, (points - mean) @ components.T)

    def back(self, scores: Points) -> Points:
        """Points ``[n, F]`` of coordinates ``[n, K]``."""
        points: Points = self.mean + scores @ self.components
        return points


def check_components(num_components: int, sampler: str) -> None:
    """Refuse a projection to less than one dimension."""
    if num_components < 1:
        raise InputError(f"sampler {sampler}: num_components must be 1 or more, got {num_components}.")
