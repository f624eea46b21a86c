"""Diversity of networks: how far apart two of them are in weights and in what they predict.

Source: "Structure and Behavior in Weight Space Representation Learning", appendix C, Table 6.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.ensemble import logits_by_chunk
from zookeeper.errors import InputError

_TILE = 256


def pairwise_distances(points: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """L2 distances float64 ``[N, M]`` of points ``[N, F]`` to others ``[M, F]`` (to themselves: diagonal 0).

    Exact to float64 also for near-copies: differences are squared, not inner products subtracted.

    >>> pairwise_distances(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    first = torch.from_numpy(np.asarray(points, dtype=np.float64))
    second = first if others is None else torch.from_numpy(np.asarray(others, dtype=np.float64))
    tiles = [
        torch.cdist(first[start : start + _TILE], second, compute_mode="donot_use_mm_for_euclid_dist")
        for start in range(0, len(first), _TILE)
    ]
    distances: np.ndarray = torch.cat(tiles).numpy()
    return distances


def compare_diversity(
    kinds: Mapping[str, np.ndarray], examiner: Examiner, *, reference: str = "anchors", max_networks: int = 500
) -> pd.DataFrame:
    """Measure how diverse each kind of networks is, in absolute terms and against the anchors.

    Parameters
    ----------
    kinds
        Name -> rows ``[M, P]``, at least two each; among them ``reference``.
    max_networks
        Of a kind with more networks, this many evenly spaced ones stand for it.

    Returns
    -------
    One row per kind: ``networks``, ``num``; mean and standard deviation over pairs of the L2 distance of weights
    (``weights``, ``weights_std``), of the L2 distance of class probabilities on the test images per root image, so
    that it lies in [0, sqrt 2] (``outputs``, ``outputs_std``), of the share of test images on which two differ in
    class (``disagreement``); and the ratios to the reference, ``weights_ratio``, ``outputs_ratio``,
    ``disagreement_ratio``.

    Raises
    ------
    InputError
        If the reference is absent, or a kind has fewer than two networks.
    """
    if reference not in kinds:
        raise InputError(f"diversity: expected {reference!r} among the networks, got {', '.join(kinds) or 'none'}.")
    table = pd.DataFrame.from_records([_measure(name, rows, examiner, max_networks) for name, rows in kinds.items()])
    base = table.set_index("networks").loc[reference]
    for name in ("weights", "outputs", "disagreement"):
        table[f"{name}_ratio"] = table[name] / base[name] if base[name] > 0 else np.nan
    return table


def _measure(name: str, rows: np.ndarray, examiner: Examiner, most: int) -> dict[str, object]:
    if len(rows) < 2:
        raise InputError(f"diversity, {name}: expected at least 2 networks, got {len(rows)}.")
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]
    pairs = np.triu_indices(len(rows), k=1)
    weights = pairwise_distances(rows)[pairs]
    outputs, differing, num_images = np.zeros(len(pairs[0])), np.zeros(len(pairs[0])), 0
    for part, logits in logits_by_chunk(examiner, rows, "test"):
        probabilities = logits.softmax(2)
        outputs += pairwise_distances(probabilities.flatten(1).numpy())[pairs] ** 2
        classes = logits.argmax(2)
        same = torch.nn.functional.one_hot(classes, logits.shape[2]).flatten(1).float()
        differing += (classes.shape[1] - (same @ same.T).numpy())[pairs]
        num_images += part.stop - part.start
    outputs = np.sqrt(outputs / num_images)
    return {
        "networks": name,
        "num": len(rows),
        "weights": float(weights.mean()),
        "weights_std": float(weights.std()),
        "outputs": float(outputs.mean()),
        "outputs_std": float(outputs.std()),
        "disagreement": float(differing.mean() / num_images),
    }
