"""Out of zoo: a probe fitted on one zoo ranks the models of another; rank correlation with its ceiling.

Source: Schürholt et al., "Self-Supervised Representation Learning on Neural Network Weights for Model
Characteristic Prediction" (2021), section 4.2, out-of-distribution experiments; Kendall (1938, 1945).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from hyperrep.tasks.features import FeatureSets
from hyperrep.tasks.probe import choose_alpha
from hyperrep.tasks.split import ROLES, Role, ZooSplit
from hyperrep.training.ridge import ALPHAS, RidgePath, r2_scores
from zookeeper.errors import InputError

NUMERIC: tuple[str, ...] = ("test_acc", "generalization_gap", "epoch")
_NUM_BOOTSTRAP = 200


class TauCeiling(NamedTuple):
    """Largest Kendall's tau that a prediction without ties can reach."""

    tau_a: float
    tau_b: float


def tau_ceiling(targets: np.ndarray) -> TauCeiling:
    """Return what ties among the targets leave of Kendall's tau for a prediction without ties.

    Of n0 = n (n - 1) / 2 pairs, n2 are tied in the targets. A prediction that orders every other pair rightly has
    C = n0 - n2 concordant pairs and D = 0 discordant ones; a prediction without ties has n1 = 0 tied pairs, so

        tau_a = (C - D) / n0                             <=  1 - n2 / n0
        tau_b = (C - D) / sqrt((n0 - n1) (n0 - n2))      <=  sqrt(1 - n2 / n0)

    and any order that sorts the targets attains both. A prediction that is tied exactly where the targets are
    would reach tau_b = 1; a regression is practically never tied. NaN if all targets are equal or n < 2.

    >>> ceiling = tau_ceiling(np.array([0, 0, 1, 2]))
    >>> round(ceiling.tau_a, 4), round(ceiling.tau_b, 4)
    (0.8333, 0.9129)
    """
    values = np.asarray(targets)
    _, counts = np.unique(values, return_counts=True)
    num_pairs = len(values) * (len(values) - 1) / 2
    num_tied = float((counts * (counts - 1) / 2).sum())
    if num_pairs == 0 or num_tied == num_pairs:
        return TauCeiling(float("nan"), float("nan"))
    share = 1 - num_tied / num_pairs
    return TauCeiling(share, float(np.sqrt(share)))


def probe_out_of_zoo(
    source: Mapping[Role, ZooSplit],
    targets: Mapping[str, ZooSplit],
    sets: FeatureSets,
    *,
    properties: Sequence[str] = NUMERIC,
    alphas: Sequence[float] = ALPHAS,
) -> pd.DataFrame:
    """Fit probes on one zoo and let them rank the models of others.

    Encoders and projections are those of the source zoo. A probe is fitted on its train models, the penalty
    chosen on its validation models; nothing of the other zoo is used but its test models, once.

    Parameters
    ----------
    source
        The zoo the probes are fitted on.
    targets
        Name of a zoo -> its test models. The source zoo's own test models are ranked too, as ``in zoo``.
    properties
        Numeric columns; one that is missing or constant somewhere is left out there.

    Returns
    -------
    One row per feature set, property and zoo: ``features``, ``property``, ``zoo``, ``tau`` (Kendall's tau-b), ``low``
    and ``high`` (95 %, bootstrap over test models), ``ceiling`` (`tau_ceiling`), ``share`` (tau over ceiling), ``r2``
    (a bias between zoos makes it negative), ``val_value``, ``alpha``, ``num``.

    Raises
    ------
    InputError
        If a target is not a test side, or its networks have another number of weights.
    """
    columns = source["train"].rows.shape[1]
    judged = {"in zoo": source["test"], **targets}
    for name, split in judged.items():
        if split.role != "test":
            raise InputError(f"out of zoo, {name}: expected models of the test split, got the {split.role} split.")
        if split.rows.shape[1] != columns:
            raise InputError(
                f"out of zoo, {name}: networks have {split.rows.shape[1]:,} weights; expected {columns:,} as in the "
                "zoo the probe is fitted on. Choose a zoo of the same architecture."
            )
    functions = {**sets.fixed, **sets.fit_projections(source["train"].rows)}
    frames = {role: source[role].frame for role in ROLES}
    records = []
    for features, apply in functions.items():
        path = RidgePath.of(apply(source["train"].rows))
        validation = path.project(apply(source["val"].rows))
        placed = {name: path.project(apply(split.rows)) for name, split in judged.items()}
        for label in properties:
            if label not in frames["train"] or frames["train"][label].nunique() < 2:
                continue
            known = {role: frames[role][label].to_numpy(np.float64)[:, None] for role in ("train", "val")}
            chosen = choose_alpha(path, validation, known["train"], known["val"], r2_scores, alphas)
            weights, intercept = path.solve(known["train"], chosen.alpha)
            for name, split in judged.items():
                if label in split.frame and split.frame[label].nunique() > 1:
                    scores = _rank(split.frame, label, placed[name] @ weights + intercept)
                    where = {"features": features, "property": label, "zoo": name}
                    records.append(where | scores | {"val_value": chosen.val_value, "alpha": chosen.alpha})
    return pd.DataFrame.from_records(records)


def _rank(frame: pd.DataFrame, label: str, predictions: np.ndarray) -> dict[str, float]:
    """Rank correlation of predictions ``[N, 1]`` with a column, and its interval over models."""
    truth, guess = frame[label].to_numpy(np.float64), predictions[:, 0]
    groups, ids = pd.factorize(frame["model_id"])
    members = [np.flatnonzero(groups == number) for number in range(len(ids))]
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(_NUM_BOOTSTRAP):
        places = np.concatenate([members[number] for number in generator.integers(len(ids), size=len(ids))])
        drawn.append(_tau(truth[places], guess[places]))
    finite = [value for value in drawn if np.isfinite(value)]
    low, high = np.quantile(finite, (0.025, 0.975)) if finite else (np.nan, np.nan)
    tau, ceiling = _tau(truth, guess), tau_ceiling(truth).tau_b
    r2 = float(r2_scores(truth[:, None], predictions, np.ones((1, len(truth))))[0])
    return {
        "tau": tau, "low": float(low), "high": float(high), "ceiling": ceiling, "share": tau / ceiling, "r2": r2,
        "num": len(truth),
    }  # fmt: skip


def _tau(truth: np.ndarray, guess: np.ndarray) -> float:
    if np.ptp(truth) == 0 or np.ptp(guess) == 0:
        return float("nan")
    return float(kendalltau(truth, guess, variant="b").statistic)
