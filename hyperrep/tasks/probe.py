"""Linear probes: how much of a model's properties is linearly readable from its features.

Ridge regression and a least-squares linear classifier share one eigendecomposition of the Gram matrix in
its smaller form (features or samples), so nine penalties and all properties cost little more than one fit.
Source: "Structure and Behavior in Weight Space Representation Learning", section 4.2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hyperrep.tasks.split import ROLES, Role
from zookeeper.errors import InputError

ALPHAS: tuple[float, ...] = tuple(10.0**power for power in range(-5, 4))
NUMERIC: tuple[str, ...] = ("test_acc", "generalization_gap", "epoch", "lr", "weight_decay", "dropout")
CATEGORICAL: tuple[str, ...] = ("init", "activation", "optimizer")
_NUM_BOOTSTRAP = 200

FeatureTable = Mapping[Role, np.ndarray]
PropertyTable = Mapping[Role, pd.DataFrame]


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


def _score(
    path: RidgePath,
    coordinates: Mapping[Role, np.ndarray],
    targets: Mapping[Role, np.ndarray],
    measure: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    resamples: np.ndarray,
    alphas: Sequence[float],
) -> dict[str, float]:
    """Choose the penalty on validation models, then score the test models once."""

    def predict(role: Role, alpha: float) -> np.ndarray:
        weights, intercept = path.solve(targets["train"], alpha)
        predictions: np.ndarray = coordinates[role] @ weights + intercept
        return predictions

    once = np.ones((1, len(targets["val"])))
    val_scores = [float(measure(targets["val"], predict("val", alpha), once)[0]) for alpha in alphas]
    chosen = int(np.argmax(np.nan_to_num(val_scores, nan=-np.inf)))
    values = measure(targets["test"], predict("test", alphas[chosen]), resamples)
    low, high = np.nanquantile(values[1:], (0.025, 0.975)) if np.isfinite(values[1:]).any() else (np.nan, np.nan)
    return {
        "value": float(values[0]),
        "low": float(low),
        "high": float(high),
        "val_value": val_scores[chosen],
        "alpha": float(alphas[chosen]),
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
