"""Do originals and reconstructions come closer while both are fine-tuned, or find solutions of their own?

Source: Schürholt et al., "Hyper-Representations as Generative Models" (2022), section 4.2.2, Figure 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from zookeeper.errors import InputError


def follow_drift(originals: np.ndarray, reconstructions: np.ndarray, epochs: Sequence[int]) -> pd.DataFrame:
    """Measure how far pairs of networks are apart at every epoch of a fine-tuning, and from where they began.

    Parameters
    ----------
    originals, reconstructions
        Weights ``[E, N, P]`` after each of E epochs; the first is before any fine-tuning.

    Returns
    -------
    One row per epoch: ``epoch``; ``l2`` and ``cosine`` between the two of a pair, ``moved_original`` and
    ``moved_reconstruction`` (L2 from the first epoch), means with standard deviations ``*_std``; ``num`` pairs.

    Raises
    ------
    InputError
        If the shapes differ or there is not one entry per epoch.

    Examples
    --------
    >>> still = np.ones((2, 1, 4))
    >>> follow_drift(still, np.stack([still[0], 3 * still[1]]), [0, 1])[["l2", "cosine"]].to_numpy().tolist()
    [[0.0, 1.0], [4.0, 1.0]]
    """
    if originals.shape != reconstructions.shape or originals.ndim != 3 or len(originals) != len(epochs):
        raise InputError(
            f"drift: expected weights [{len(epochs)}, N, P] of both, got {originals.shape} and {reconstructions.shape}."
        )
    first, second = originals.astype(np.float64), reconstructions.astype(np.float64)
    lengths = np.linalg.norm(first, axis=2) * np.linalg.norm(second, axis=2)
    measured = {
        "l2": np.linalg.norm(first - second, axis=2),
        "cosine": np.divide(
            (first * second).sum(axis=2), lengths, out=np.full(lengths.shape, np.nan), where=lengths > 0
        ),
        "moved_original": np.linalg.norm(first - first[:1], axis=2),
        "moved_reconstruction": np.linalg.norm(second - second[:1], axis=2),
    }
    table = pd.DataFrame({"epoch": list(epochs), "num": first.shape[1]})
    for name, values in measured.items():
        table[name], table[f"{name}_std"] = values.mean(axis=1), values.std(axis=1)
    return table
