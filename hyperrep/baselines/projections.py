"""Classical projections of flat weights: linear, cosine and RBF principal components, and UMAP.

Each is fitted on train rows and applied to any rows, so a probe on it never sees test models before the score.
Source: Schürholt et al., "Self-Supervised Representation Learning on Neural Network Weights for Model
Characteristic Prediction" (2021), section 4.2, baselines PCA_l, PCA_c, PCA_r and U_m.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from sklearn.decomposition import PCA, KernelPCA

from zookeeper.errors import InputError

ProjectionName = Literal["PCA linear", "PCA cosine", "PCA RBF", "UMAP"]
PROJECTIONS: tuple[ProjectionName, ...] = get_args(ProjectionName)
MAX_LANDMARKS = 1_500  # of the RBF kernel: its matrix of landmarks takes 18 MB, its columns for N rows 12 kB each
_TILE = 4_096
_POWER = 15  # steps of the randomised decomposition: then it is exact to single precision on weights

Projection = Callable[[np.ndarray], np.ndarray]


def fit_projection(
    name: ProjectionName, rows: np.ndarray, num_components: int, *, seed: int = 0, max_landmarks: int = MAX_LANDMARKS
) -> Projection:
    """Fit a projection to train rows and return the function that applies it.

    *PCA cosine* is the kernel PCA with a cosine kernel: linear PCA of rows of length 1, which is the same
    thing. *PCA RBF* has the kernel ``exp(-|x - y|^2 / P)`` and is fitted on at most ``max_landmarks`` rows,
    drawn by the seed. *UMAP* needs the package ``umap-learn``.

    Parameters
    ----------
    rows
        Train rows ``[N, P]``, finite.
    num_components
        Width of the result; at most N - 1 and P are used.

    Returns
    -------
    Function from rows ``[M, P]`` to float64 ``[M, C]``; one seed gives one result.

    Raises
    ------
    InputError
        If the name is unknown, fewer than 3 rows are given, a row is not finite, or ``umap-learn`` is absent.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(20, 6))
    >>> fit_projection("PCA linear", rows, 3)(rows[:2]).shape
    (2, 3)
    """
    if name not in PROJECTIONS:
        raise InputError(f"projection: unknown name {name!r}; expected one of {', '.join(PROJECTIONS)}.")
    matrix = np.asarray(rows)
    if matrix.ndim != 2 or len(matrix) < 3 or not np.isfinite(matrix).all():
        raise InputError(
            f"projection {name}: expected finite train rows [N >= 3, P], got {matrix.dtype} {matrix.shape}. "
            "Leave diverged models out."
        )
    num = max(1, min(num_components, len(matrix) - 1, matrix.shape[1]))
    if name == "UMAP":
        return _fit_umap(matrix, num, seed)
    if name == "PCA RBF":
        drawn = np.random.default_rng(seed).permutation(len(matrix))[:max_landmarks]
        matrix = matrix[np.sort(drawn)]
        num = min(num, len(matrix) - 1)
        model: Any = KernelPCA(num, kernel="rbf", eigen_solver="randomized", iterated_power=_POWER, random_state=seed)
    else:
        model = PCA(num, svd_solver="randomized", iterated_power=_POWER, random_state=seed)
    prepare = _unit_length if name == "PCA cosine" else _as_float64
    model.fit(prepare(matrix))
    return _in_tiles(lambda tile: model.transform(prepare(tile)))


def _fit_umap(rows: np.ndarray, num: int, seed: int) -> Projection:
    try:
        with warnings.catch_warnings():  # it warns that TensorFlow, which nothing here needs, is absent
            warnings.simplefilter("ignore", ImportWarning)
            import umap
    except ImportError as error:
        raise InputError(
            "projection UMAP: needs the package umap-learn. Install it (pip install 'weight-zookeeper[umap]')."
        ) from error
    neighbours = min(15, len(rows) - 1)
    model = umap.UMAP(n_components=num, n_neighbors=neighbours, random_state=seed, n_jobs=1, init="pca").fit(rows)
    return lambda others: _as_float64(model.transform(others))


def _in_tiles(apply: Projection) -> Projection:
    """Apply to some rows at a time: a kernel between all rows and all landmarks would not be bounded."""

    def project(rows: np.ndarray) -> np.ndarray:
        starts = range(0, max(1, len(rows)), _TILE)
        return np.concatenate([_as_float64(apply(rows[start : start + _TILE])) for start in starts])

    return project


def _as_float64(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows, dtype=np.float64)


def _unit_length(rows: np.ndarray) -> np.ndarray:
    matrix = _as_float64(rows)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    units: np.ndarray = matrix / np.where(lengths > 0, lengths, 1.0)
    return units
