"""s(W): summary statistics of the weights, the strongest simple baseline.

Source: Unterthiner et al., "Predicting Neural Network Accuracy from Weights" (2020), section 4.1.
"""

from __future__ import annotations

import numpy as np

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout

PERCENTILES: tuple[int, ...] = (1, 25, 50, 75, 99)
_STATISTICS: tuple[str, ...] = ("mean", "var", *(f"p{q}" for q in PERCENTILES))


def statistic_names(layout: WeightLayout) -> tuple[str, ...]:
    """Names of the columns of `weight_statistics`, ``block.statistic``."""
    return tuple(f"{block.name}.{name}" for block in layout.blocks for name in _STATISTICS)


def weight_statistics(rows: np.ndarray, layout: WeightLayout) -> np.ndarray:
    """Describe each layer's weights and biases by mean, variance and percentiles 1, 25, 50, 75, 99.

    Weights and biases of a layer are separate blocks; only real entries enter, never padding.

    Parameters
    ----------
    rows
        ``[N, P]`` in the layout's column order.

    Returns
    -------
    float64 ``[N, 7 * number of blocks]``, columns as in `statistic_names`.

    Raises
    ------
    InputError
        If the rows do not fit the layout.

    Examples
    --------
    >>> layout = WeightLayout.from_shapes({"fc.weight": ((2, 2), "weight"), "fc.bias": ((2,), "bias")})
    >>> features = weight_statistics(np.array([[0.0, 1, 2, 3, 5, 5]]), layout)
    >>> features.shape, float(features[0, 0]), float(features[0, 8])
    ((1, 14), 1.5, 0.0)
    """
    matrix = np.asarray(rows)
    if matrix.ndim != 2 or matrix.shape[1] != layout.num_weights:
        raise InputError(
            f"weight statistics: rows must be [N, {layout.num_weights}], got {matrix.shape}. "
            "Check that the rows belong to this architecture."
        )
    pieces: list[np.ndarray] = []
    for block in layout.blocks:
        values = matrix[:, block.columns].astype(np.float64)
        pieces += [values.mean(axis=1, keepdims=True), values.var(axis=1, keepdims=True)]
        pieces.append(np.percentile(values, PERCENTILES, axis=1).T)
    return np.concatenate(pieces, axis=1)
