"""Which directions of weight space make a network work: keep some eigenvectors of a zoo's covariance, lose the rest.

Source: "Structure and Behavior in Weight Space Representation Learning", section 2, Figure 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from zookeeper.errors import InputError

TOP, BOTTOM, HYBRID = "top", "bottom", "hybrid"
KINDS = (TOP, BOTTOM, HYBRID)
SHARES: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
Accuracy = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Mean ``[P]``, eigenvectors ``[R, P]`` of the covariance, and their shares of the variance ``[R]``, falling.

    R is the rank: directions in which the networks do not vary at all are left out.
    """

    mean: np.ndarray
    directions: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Spectrum:
        """Decompose the covariance of rows ``[N, P]`` in its smaller form.

        Raises
        ------
        InputError
            If there are fewer than 2 rows, a row is not finite, or all rows are equal.
        """
        values = np.asarray(rows, dtype=np.float64)
        if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
            raise InputError(
                f"spectrum: expected finite rows [N >= 2, P], got shape {values.shape}. Leave diverged models out."
            )
        mean = values.mean(axis=0)
        _, singular, directions = np.linalg.svd(values - mean, full_matrices=False)
        kept = singular > singular[0] * max(values.shape) * np.finfo(np.float32).eps
        if singular[0] == 0:
            raise InputError("spectrum: all rows are equal; expected networks that vary.")
        variances = singular[kept] ** 2
        return cls(mean, directions[kept], variances / variances.sum())

    def keep(self, kind: str, share: float) -> np.ndarray:
        """Choose eigenvectors, boolean ``[R]``: as few as explain ``share`` of the variance, counted from one end.

        ``hybrid`` takes half of the share from the top and half from the bottom and leaves out the middle.

        Raises
        ------
        InputError
            If the kind is unknown or the share is not in [0, 1].

        Examples
        --------
        >>> spectrum = Spectrum(np.zeros(4), np.eye(4), np.array([0.4, 0.3, 0.2, 0.1]))
        >>> [int(spectrum.keep(kind, 0.6).sum()) for kind in KINDS]
        [2, 3, 3]
        """
        if kind not in KINDS or not 0 <= share <= 1:
            raise InputError(
                f"spectrum: expected one of {', '.join(KINDS)} and a share in [0, 1], got {kind!r}, {share}."
            )
        if kind == TOP:
            return _first(self.shares, share)
        if kind == BOTTOM:
            bottom: np.ndarray = _first(self.shares[::-1], share)[::-1]
            return bottom
        both: np.ndarray = _first(self.shares, share / 2) | _first(self.shares[::-1], share / 2)[::-1]
        return both

    def project(self, rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Rows ``[N, P]`` with everything outside the kept directions replaced by the mean; dtype of the rows."""
        basis = self.directions[kept]
        projected: np.ndarray = self.mean + (rows - self.mean) @ basis.T @ basis
        return projected.astype(rows.dtype)


def _first(shares: np.ndarray, wanted: float) -> np.ndarray:
    """The first eigenvectors that together explain ``wanted``; none for 0."""
    before = np.concatenate([[0.0], np.cumsum(shares)[:-1]])
    kept: np.ndarray = before < wanted - 1e-9
    return kept


def explore_spectrum(
    fitted: np.ndarray,
    populations: dict[str, np.ndarray],
    accuracy: Accuracy,
    *,
    shares: Sequence[float] = SHARES,
) -> pd.DataFrame:
    """Measure networks after a projection on the top, the bottom, and both ends of the spectrum.

    Parameters
    ----------
    fitted
        Rows ``[N, P]`` whose covariance is decomposed.
    populations
        Name -> rows that are projected. The paper projects the networks the covariance is of; others say whether
        the directions are those of the zoo or of its members.
    accuracy
        Rows ``[M, P]`` to accuracies ``[M]``, such as a stacked pass over test images.
    shares
        Of the variance that is kept.

    Returns
    -------
    One row per population, kind and share: ``models``, ``kind`` (top | bottom | hybrid), ``share``,
    ``num_directions``, ``acc`` and ``acc_std`` (over networks), ``l2`` (mean distance to the original), ``num``;
    the networks as they are have kind ``original`` and share 1.
    """
    spectrum = Spectrum.of(fitted)
    records = []
    for name, rows in populations.items():
        records.append(_record(name, "original", 1.0, len(spectrum.shares), rows, rows, accuracy))
        for kind in KINDS:
            for share in shares:
                kept = spectrum.keep(kind, share)
                projected = spectrum.project(rows, kept)
                records.append(_record(name, kind, share, int(kept.sum()), rows, projected, accuracy))
    return pd.DataFrame.from_records(records)


def _record(
    name: str, kind: str, share: float, num: int, rows: np.ndarray, projected: np.ndarray, accuracy: Accuracy
) -> dict[str, object]:
    values = accuracy(projected)
    distance = np.linalg.norm(rows.astype(np.float64) - projected, axis=1)
    return {
        "models": name, "kind": kind, "share": share, "num_directions": num, "acc": float(values.mean()),
        "acc_std": float(values.std()), "l2": float(distance.mean()), "num": len(rows),
    }  # fmt: skip
