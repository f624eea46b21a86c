"""Ridge regression over all penalties at once, and the cheap probe that a training looks at while it runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALPHAS: tuple[float, ...] = tuple(10.0**power for power in range(-5, 4))


@dataclass(frozen=True, slots=True, eq=False)
class RidgePath:
    """Ridge solutions of one feature matrix for every penalty; ``|y - Xw|^2 + alpha |w|^2``.

    Features are standardised with the training mean and deviation (a constant feature becomes 0);
    targets are centred on the training mean.
    """

    mean: np.ndarray
    scale: np.ndarray
    basis: np.ndarray  # [F, R]: maps standardised features to R coordinates
    energy: np.ndarray  # [R]: squared singular values
    coordinates: np.ndarray  # [N, R]: the training features in those coordinates

    @classmethod
    def of(cls, features: np.ndarray) -> RidgePath:
        """Decompose training features ``[N, F]``."""
        matrix = np.asarray(features, dtype=np.float64)
        mean, scale = matrix.mean(axis=0), matrix.std(axis=0)
        constant = scale <= np.finfo(np.float64).eps * (np.abs(mean) + 1) * 10
        scale = np.where(constant, 1.0, scale)
        matrix = (matrix - mean) / scale
        matrix[:, constant] = 0
        num_rows, num_features = matrix.shape
        wide = num_features > num_rows
        energy, vectors = np.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
        kept = energy > max(energy[-1], 0.0) * max(matrix.shape) * np.finfo(np.float64).eps
        energy, vectors = energy[kept], vectors[:, kept]
        basis = matrix.T @ (vectors / np.sqrt(energy)) if wide else vectors
        return cls(mean, scale, basis, energy, matrix @ basis)

    def project(self, features: np.ndarray) -> np.ndarray:
        """Coordinates ``[M, R]`` of other features ``[M, F]``."""
        standardised = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        coordinates: np.ndarray = standardised @ self.basis
        return coordinates

    def solve(self, targets: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights ``[R, Q]`` in the coordinates and intercepts ``[Q]`` for targets ``[N, Q]``."""
        intercept = targets.mean(axis=0)
        weights = (self.coordinates.T @ (targets - intercept)) / (self.energy + alpha)[:, None]
        return weights, intercept


def r2_scores(targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return R2 = 1 - MSE / Var(targets) ``[S]`` for S row weightings; negative when worse than the mean.

    ``targets`` and ``predictions`` are ``[N, 1]``, ``weights`` ``[S, N]``. NaN where the targets are constant.

    >>> targets = np.array([[0.0], [1.0], [2.0]])
    >>> float(r2_scores(targets, targets, np.ones((1, 3)))[0])
    1.0
    """
    values = targets[:, 0]
    total = weights.sum(axis=1)
    centred = values - values.mean()
    spread = weights @ centred**2 / total - (weights @ centred / total) ** 2
    error = weights @ (values - predictions[:, 0]) ** 2 / total
    with np.errstate(divide="ignore", invalid="ignore"):
        scores: np.ndarray = np.where(spread > 0, 1.0 - error / spread, np.nan)
    return scores


def best_r2(features: np.ndarray, targets: np.ndarray, val_features: np.ndarray, val_targets: np.ndarray) -> float:
    """R2 on validation models of the ridge probe whose penalty is best there; NaN for constant targets.

    The number that `hyperrep.tasks.probe` calls ``val_value``: good for choosing between trainings, a little too high
    as a result.

    Parameters
    ----------
    features, val_features
        ``[N, F]`` and ``[M, F]``.
    targets, val_targets
        ``[N]`` and ``[M]``.

    Examples
    --------
    >>> features = np.arange(6.0)[:, None]
    >>> round(best_r2(features, features[:, 0], features + 1, features[:, 0] + 1), 6)
    1.0
    """
    path = RidgePath.of(features)
    coordinates, wanted = path.project(val_features), val_targets[:, None]
    scores = []
    for alpha in ALPHAS:
        weights, intercept = path.solve(targets[:, None], alpha)
        scores.append(float(r2_scores(wanted, coordinates @ weights + intercept, np.ones((1, len(wanted))))[0]))
    return float(np.max(scores))
