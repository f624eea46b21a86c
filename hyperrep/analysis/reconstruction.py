"""How much of the variance of weights a reconstruction keeps.

Source: Schürholt et al., "Self-Supervised Representation Learning on Neural Network Weights for Model
Characteristic Prediction" (2021), section 4.2: reconstruction R2.
"""

from __future__ import annotations

import numpy as np

from zookeeper.errors import InputError


def weights_r2(rows: np.ndarray, reconstructions: np.ndarray) -> float:
    """``1 - sum |w - w'|^2 / sum |w - mean(w)|^2`` over all networks and columns; NaN if no column varies.

    The mean of each column over ``rows`` is the reconstruction that reaches 0.

    Parameters
    ----------
    rows, reconstructions
        ``[N, P]`` each.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> rows = np.array([[0.0, 1.0], [2.0, 3.0]])
    >>> weights_r2(rows, rows), weights_r2(rows, np.array([[1.0, 2.0], [1.0, 2.0]]))
    (1.0, 0.0)
    """
    if rows.shape != reconstructions.shape:
        raise InputError(f"reconstruction R2: expected shape {rows.shape} like the rows, got {reconstructions.shape}.")
    values = rows.astype(np.float64)
    total = float(((values - values.mean(axis=0)) ** 2).sum())
    error = float(((values - reconstructions) ** 2).sum())
    return float("nan") if total == 0 else 1 - error / total
