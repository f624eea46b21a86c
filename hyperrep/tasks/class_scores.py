"""F1 of every class for many networks at once: targets of probes, from stacked passes.

Source: Schürholt et al., "Self-Supervised Representation Learning on Neural Network Weights for Model
Characteristic Prediction" (2021), section 4.1 (Tetris zoos: F1 of each class).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.split import Role, ZooSplit
from zookeeper.errors import InputError

CLASS_F1 = "f1_"
_TILE = 256


def class_f1(classes: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """F1 score of each class, ``2 TP / (2 TP + FP + FN)``, float64 ``[M, K]``.

    0 where a class is present and never hit; NaN where it is neither present nor predicted.

    Parameters
    ----------
    classes
        Predicted classes int64 ``[M, n]``.
    labels
        True classes int64 ``[n]``, 0 to K - 1.

    Examples
    --------
    >>> class_f1(np.array([[0, 0, 1, 1]]), np.array([0, 1, 1, 1]), 2).round(3).tolist()
    [[0.667, 0.8]]
    """
    if classes.ndim != 2 or classes.shape[1] != len(labels):
        raise InputError(f"class F1: expected predictions [M, {len(labels)}], got {classes.shape}.")
    num_models = len(classes)

    def count(which: np.ndarray) -> np.ndarray:
        flat = (np.arange(num_models)[:, None] * num_classes + classes)[which]
        return np.bincount(flat, minlength=num_models * num_classes).reshape(num_models, num_classes)

    hits = count(classes == labels)
    predicted = count(np.ones(classes.shape, dtype=bool))
    present = np.bincount(labels, minlength=num_classes)
    total = predicted + present
    scores: np.ndarray = np.divide(2.0 * hits, total, out=np.full(total.shape, np.nan), where=total > 0)
    return scores


def add_class_f1(split: ZooSplit, examiner: Examiner, *, images: Role = "test") -> ZooSplit:
    """Add columns ``f1_0`` to ``f1_{K-1}``, measured on one side of the images, to the frame of a split."""
    labels, num_classes = examiner.labels(images), examiner.population.num_classes
    scores = [
        class_f1(examiner.classes(split.rows[start : start + _TILE], images), labels, num_classes)
        for start in range(0, len(split), _TILE)
    ]
    columns = [f"{CLASS_F1}{number}" for number in range(num_classes)]
    added = pd.DataFrame(np.concatenate(scores), columns=columns, index=split.frame.index)
    return ZooSplit(
        split.role, pd.concat([split.frame.drop(columns=columns, errors="ignore"), added], axis=1), split.rows
    )


def class_f1_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that hold a class's F1.

    >>> class_f1_columns(["lr", "f1_0", "f1_1"])
    ('f1_0', 'f1_1')
    """
    return tuple(name for name in columns if name.startswith(CLASS_F1))
