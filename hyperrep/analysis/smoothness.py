"""Is the latent space robust and smooth: noise on latents, and the way from one latent to another.

Source: Schürholt et al., "Hyper-Representations as Generative Models" (2022), section 4.2.1, Figure 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from hyperrep.analysis.reconstruction import weights_r2
from hyperrep.analysis.spectrum import Accuracy
from zookeeper.errors import InputError

LEVELS: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
STEPS: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
Decode = Callable[[np.ndarray], np.ndarray]


def add_noise(latents: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of ``level`` times each dimension's standard deviation over the latents ``[N, ...]``.

    >>> latents = np.ones((3, 2))
    >>> bool((add_noise(latents, 1.0, np.random.default_rng(0)) == latents).all())
    True
    """
    spread = latents.std(axis=0, keepdims=True)
    noisy: np.ndarray = latents + level * spread * generator.standard_normal(latents.shape)
    return noisy.astype(latents.dtype)


def probe_robustness(
    latents: np.ndarray,
    rows: np.ndarray,
    decode: Decode,
    accuracy: Accuracy,
    *,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> pd.DataFrame:
    """Disturb latents, decode them, and measure what is left of networks and weights.

    Parameters
    ----------
    latents
        Of test models, ``[N, ...]``.
    rows
        Their weights ``[N, P]``.
    decode
        Latents to rows.
    accuracy
        Rows ``[N, P]`` to accuracies ``[N]``.
    levels
        Noise relative to the spread of each latent dimension; 0 is the reconstruction itself.

    Returns
    -------
    One row per level: ``level``, ``acc``, ``acc_std`` (over networks), ``weights_r2``, ``num``.
    """
    if len(latents) != len(rows):
        raise InputError(f"robustness: expected one latent per row, got {len(latents)} and {len(rows)}.")
    records = []
    for number, level in enumerate(levels):
        decoded = np.asarray(decode(add_noise(latents, level, np.random.default_rng([seed, number]))))
        values = accuracy(decoded)
        records.append(
            {
                "level": level, "acc": float(values.mean()), "acc_std": float(values.std()),
                "weights_r2": weights_r2(rows, decoded), "num": len(rows),
            }
        )  # fmt: skip
    return pd.DataFrame.from_records(records)


def interpolate(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    encode: Decode,
    decode: Decode,
    accuracy: Accuracy,
    *,
    steps: Sequence[float] = STEPS,
) -> pd.DataFrame:
    """Walk in a straight line from one network to another, in latent space and (beside it) in weight space.

    Parameters
    ----------
    pairs
        Name -> rows ``[N, P]`` from which and to which to walk, such as two epochs of the same models (along
        trajectories) and two models (between them).
    encode, decode
        Rows to latents and back.
    steps
        Places on the way, 0 to 1.

    Returns
    -------
    One row per name, space (``latent`` | ``weights``) and step: ``way``, ``space``, ``step``, ``acc``,
    ``acc_std``, ``num``.
    """
    records = []
    for name, (start, end) in pairs.items():
        if start.shape != end.shape or len(start) == 0:
            raise InputError(f"interpolation {name}: expected as many ends as starts, got {start.shape}, {end.shape}.")
        first, last = np.asarray(encode(start)), np.asarray(encode(end))
        for step in steps:
            weight = np.asarray(step, dtype=np.float32)
            ways = {
                "latent": np.asarray(decode((1 - weight) * first + weight * last)),
                "weights": (1 - weight) * start + weight * end,
            }
            for space, rows in ways.items():
                values = accuracy(rows)
                records.append(
                    {
                        "way": name, "space": space, "step": step, "acc": float(values.mean()),
                        "acc_std": float(values.std()), "num": len(values),
                    }
                )  # fmt: skip
    return pd.DataFrame.from_records(records)


def roughness(accuracies: np.ndarray) -> np.ndarray:
    """How much a path ``[..., S]`` fluctuates: its total variation above the distance of its ends; 0 is monotone.

    >>> roughness(np.array([0.1, 0.5, 0.9])), roughness(np.array([0.9, 0.1, 0.9]))
    (array(0.), array(1.6))
    """
    total = np.abs(np.diff(accuracies, axis=-1)).sum(axis=-1)
    result: np.ndarray = np.asarray(np.round(total - np.abs(accuracies[..., -1] - accuracies[..., 0]), 12))
    return result
