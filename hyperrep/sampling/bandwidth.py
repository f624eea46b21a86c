"""How wide a kernel is: one rule for every sampler that has kernels."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy.special import logsumexp

from hyperrep.sampling.anchors import Index, Points
from zookeeper.errors import InputError

Rule = Literal["scott", "silverman", "cross-validated"]
Bandwidth = float | Rule
CANDIDATES: Points = np.geomspace(0.05, 2.0, 20)
CANDIDATES.flags.writeable = False
_PASS_NUMBERS = 1 << 23  # of one pass of the cross-validation: 64 MB


def check_bandwidth(bandwidth: Bandwidth, sampler: str) -> None:
    """Refuse an unknown rule, a negative width and one that is not finite."""
    if isinstance(bandwidth, str):
        if bandwidth not in get_args(Rule):
            raise InputError(
                f"sampler {sampler}: unknown bandwidth {bandwidth!r}; expected {', '.join(get_args(Rule))} or a number."
            )
    elif not (np.isfinite(bandwidth) and bandwidth >= 0):
        raise InputError(f"sampler {sampler}: bandwidth must be a finite number >= 0, got {bandwidth}.")


def bandwidth_factors(bandwidth: Bandwidth, points: Points, groups: Index) -> Points:
    """Kernel width of each group of columns, as a factor of each column's standard deviation over the anchors.

    ``scott`` is ``N^(-1 / (d + 4))`` and ``silverman`` ``(N (d + 2) / 4)^(-1 / (d + 4))`` for a group of d columns;
    ``cross-validated`` is the one of `CANDIDATES` under which every anchor, left out in turn, is most likely given
    the others. A number stands for itself.

    Parameters
    ----------
    points
        Anchors ``[N, F]``, N at least 2.
    groups
        Group of every column, 0..G-1, ``[F]``.

    Returns
    -------
    ``[G]``.

    Source: Scott, "Multivariate Density Estimation" (1992), eq. 6.43 and 6.44; Silverman, "Density Estimation"
    (1986), eq. 4.14; Duin, "On the choice of smoothing parameters for Parzen estimators" (1976).

    Examples
    --------
    >>> points = np.random.default_rng(0).normal(size=(100, 3))
    >>> bandwidth_factors("scott", points, np.array([0, 0, 1])).round(3).tolist()
    [0.464, 0.398]
    >>> bandwidth_factors(0.2, points, np.array([0, 0, 1])).tolist()
    [0.2, 0.2]
    """
    sizes = np.bincount(groups)
    num = len(points)
    if bandwidth == "scott":
        return np.asarray(num ** (-1.0 / (sizes + 4)))
    if bandwidth == "silverman":
        return np.asarray((num * (sizes + 2) / 4) ** (-1.0 / (sizes + 4)))
    if bandwidth == "cross-validated":
        return _cross_validated(points / points.std(axis=0, ddof=1), groups, sizes)
    return np.full(len(sizes), float(bandwidth))


def _cross_validated(points: Points, groups: Index, sizes: np.ndarray) -> Points:
    """Factor of each group with the highest leave-one-out likelihood; ``points`` have deviation 1."""
    num = len(points)
    likelihood = np.empty((len(sizes), len(CANDIDATES)))
    together = max(1, _PASS_NUMBERS // (num * num))
    for first in range(0, len(sizes), together):
        part = range(first, min(first + together, len(sizes)))
        squares = np.stack([_squared_distances(points[:, groups == group]) for group in part])
        squares[:, np.arange(num), np.arange(num)] = np.inf  # the anchor itself is left out
        for number, factor in enumerate(CANDIDATES):
            log_kernels = logsumexp(squares / (-2 * factor**2), axis=2)
            likelihood[part, number] = log_kernels.sum(axis=1) - num * sizes[part] * np.log(factor)
    best: Points = CANDIDATES[likelihood.argmax(axis=1)]
    return best


def _squared_distances(points: Points) -> Points:
    norms = (points**2).sum(axis=1)
    distances: Points = np.maximum(norms[:, None] + norms[None] - 2 * points @ points.T, 0.0)
    return distances
