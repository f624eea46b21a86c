"""Linear probes: how much of a model's properties is linearly readable from its features.

Ridge regression and a least-squares linear classifier share one eigendecomposition of the Gram matrix in
its smaller form (features or samples), so nine penalties and all properties cost little more than one fit.
Source: "Structure and Behavior in Weight Space Representation Learning", section 4.2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from hyperrep.tasks.split import ROLES, Role
from hyperrep.training.ridge import ALPHAS, RidgePath, r2_scores
from zookeeper.errors import InputError

NUMERIC: tuple[str, ...] = (
    "test_acc", "generalization_gap", "epoch", "lr", "weight_decay", "dropout", "train_fraction",
)  # fmt: skip
CATEGORICAL: tuple[str, ...] = ("init", "activation", "optimizer")
_NUM_BOOTSTRAP = 200

FeatureTable = Mapping[Role, np.ndarray]
PropertyTable = Mapping[Role, pd.DataFrame]


def accuracies(targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of rows ``[S]`` whose largest prediction is the true class; one-hot ``targets`` ``[N, K]``.

    A row of zeros (a class the training models do not have) counts as wrong.
    """
    correct = np.take_along_axis(targets, predictions.argmax(axis=1)[:, None], axis=1)[:, 0] > 0
    scores: np.ndarray = weights @ correct.astype(np.float64) / weights.sum(axis=1)
    return scores


def probe(
    features: Mapping[str, FeatureTable],
    properties: PropertyTable,
    *,
    numeric: Sequence[str] = NUMERIC,
    categorical: Sequence[str] = CATEGORICAL,
    alphas: Sequence[float] = ALPHAS,
) -> pd.DataFrame:
    """Score every feature set on every property that varies.

    Probes are fitted on train models, the penalty is chosen on validation models, and the score is taken
    on test models. Numeric properties: ridge, R2. Categorical: a least-squares linear classifier on
    one-hot classes, accuracy. A property missing from the frames or constant over the train models is
    left out.

    Parameters
    ----------
    features
        Feature set name -> role -> ``[N, F]``.
    properties
        Role -> frame with one row per checkpoint in the order of the features, and ``model_id``.

    Returns
    -------
    One row per feature set and property: ``features``, ``property``, ``score`` (``r2`` or ``accuracy``),
    ``value`` (test models), ``low`` and ``high`` (95 % interval, bootstrap over test models), ``val_value``,
    ``alpha``, ``num_features``, ``num_train``, ``num_test``.

    Raises
    ------
    InputError
        If features and frames differ in length, or features are not finite.
    """
    train = properties["train"]
    numeric = [name for name in numeric if name in train and train[name].nunique() > 1]
    categorical = [name for name in categorical if name in train and train[name].nunique() > 1]
    resamples = _resamples(properties["test"])
    records = []
    for name, table in features.items():
        _check(name, table, properties)
        path = RidgePath.of(table["train"])
        coordinates: dict[Role, np.ndarray] = {role: path.project(table[role]) for role in ROLES}
        size = {"num_features": table["train"].shape[1], "num_train": len(train), "num_test": len(table["test"])}
        for label in (*numeric, *categorical):
            regression = label in numeric
            targets = _targets(properties, label, regression=regression)
            score = _score(path, coordinates, targets, r2_scores if regression else accuracies, resamples, alphas)
            kind = "r2" if regression else "accuracy"
            records.append({"features": name, "property": label, "score": kind} | score | size)
    return pd.DataFrame.from_records(records)


class ChosenAlpha(NamedTuple):
    """A penalty and the score on validation models it was chosen for."""

    alpha: float
    val_value: float


Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def choose_alpha(
    path: RidgePath,
    validation: np.ndarray,
    train_targets: np.ndarray,
    val_targets: np.ndarray,
    measure: Measure,
    alphas: Sequence[float] = ALPHAS,
) -> ChosenAlpha:
    """Choose the penalty that scores best on validation models, given in the path's coordinates ``[N, R]``."""
    once = np.ones((1, len(val_targets)))

    def score(alpha: float) -> float:
        weights, intercept = path.solve(train_targets, alpha)
        return float(measure(val_targets, validation @ weights + intercept, once)[0])

    scores = [score(alpha) for alpha in alphas]
    chosen = int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))
    return ChosenAlpha(float(alphas[chosen]), scores[chosen])


def _score(
    path: RidgePath,
    coordinates: Mapping[Role, np.ndarray],
    targets: Mapping[Role, np.ndarray],
    measure: Measure,
    resamples: np.ndarray,
    alphas: Sequence[float],
) -> dict[str, float]:
    """Choose the penalty on validation models, then score the test models once."""
    chosen = choose_alpha(path, coordinates["val"], targets["train"], targets["val"], measure, alphas)
    weights, intercept = path.solve(targets["train"], chosen.alpha)
    values = measure(targets["test"], coordinates["test"] @ weights + intercept, resamples)
    low, high = np.nanquantile(values[1:], (0.025, 0.975)) if np.isfinite(values[1:]).any() else (np.nan, np.nan)
    return {
        "value": float(values[0]),
        "low": float(low),
        "high": float(high),
        "val_value": chosen.val_value,
        "alpha": chosen.alpha,
    }


def _targets(properties: PropertyTable, label: str, *, regression: bool) -> dict[Role, np.ndarray]:
    if regression:
        return {role: properties[role][label].to_numpy(dtype=np.float64)[:, None] for role in ROLES}
    classes = np.array(sorted(properties["train"][label].astype(str).unique()))
    return {
        role: (properties[role][label].astype(str).to_numpy()[:, None] == classes).astype(np.float64) for role in ROLES
    }


def _resamples(frame: pd.DataFrame) -> np.ndarray:
    """Row weights ``[1 + resamples, N]``: ones first, then models drawn with replacement (fixed seed)."""
    groups, ids = pd.factorize(frame["model_id"])
    drawn = np.random.default_rng(0).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=_NUM_BOOTSTRAP)
    return np.concatenate([np.ones((1, len(frame))), drawn[:, groups].astype(np.float64)])


def _check(name: str, table: FeatureTable, properties: PropertyTable) -> None:
    for role in ROLES:
        values, expected = table[role], len(properties[role])
        if values.ndim != 2 or len(values) != expected or expected == 0:
            raise InputError(
                f"probe {name}, {role} split: expected features [{max(expected, 1)}, F], got shape {values.shape}."
            )
        num_bad = int((~np.isfinite(values).all(axis=1)).sum())
        if num_bad:
            raise InputError(
                f"probe {name}, {role} split: {num_bad} of {expected} rows hold NaN or infinity. "
                "Leave diverged models out."
            )
