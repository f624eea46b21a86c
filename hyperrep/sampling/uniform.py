"""Uniform in a box: the naive baseline.

Source: "Hyper-Representations as Generative Models", section 3.2.1 (S_U), for latents bounded by a tanh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hyperrep.sampling.anchors import Points, check_anchors, check_number
from zookeeper.errors import InputError

Box = float | Literal["anchors"]


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every dimension uniform between two bounds.

    Parameters
    ----------
    box
        ``anchors``: from each dimension's smallest to its largest value over the anchors, for latents without
        bounds. A number b > 0: from -b to b; 1 is the cube of latents behind a tanh, as in the paper.

    Examples
    --------
    >>> density = Uniform().fit(np.array([[0.0, 5.0], [1.0, 7.0]]))
    >>> density.low.tolist(), density.high.tolist()
    ([0.0, 5.0], [1.0, 7.0])
    """

    box: Box = "anchors"

    def __post_init__(self) -> None:
        check_box(self.box, "uniform")

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedUniform:
        """Take the bounds from flattened latents ``[N, F]``; tokens play no part."""
        return FittedUniform(*bounds_of(self.box, check_anchors(anchors, "uniform"), "uniform"))


@dataclass(frozen=True, slots=True, eq=False)
class FittedUniform:
    """A box: ``low [F]`` and ``high [F]``."""

    low: Points
    high: Points

    def sample(self, num: int, generator: np.random.Generator) -> Points:
        """Draw latents ``[num, F]`` (float64)."""
        check_number(num, "uniform")
        return generator.uniform(self.low, self.high, size=(num, len(self.low)))


def check_box(box: Box, sampler: str) -> None:
    """Refuse a box that is neither ``anchors`` nor a finite number above 0."""
    if box != "anchors" and (isinstance(box, str) or not (np.isfinite(box) and box > 0)):
        raise InputError(f"sampler {sampler}: box must be anchors or a finite number > 0, got {box!r}.")


def bounds_of(box: Box, points: Points, sampler: str) -> tuple[Points, Points]:
    """Lower and upper bound of every dimension, ``[F]`` each.

    Raises
    ------
    InputError
        If the box is a cube that anchors lie outside of: then the latents have no such bound.
    """
    if box == "anchors":
        return points.min(axis=0), points.max(axis=0)
    largest = float(np.abs(points).max())
    if largest > float(box):
        raise InputError(
            f"sampler {sampler}: box {box:g} does not hold the anchors, which reach {largest:.3g}; expected latents "
            "that are bounded. Use box anchors."
        )
    return np.full(points.shape[1], -float(box)), np.full(points.shape[1], float(box))
