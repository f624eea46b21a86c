"""One side of a zoo's split as a value: a frame and its rows, never apart, and a role that is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from zookeeper.errors import InputError

Role = Literal["train", "val", "test"]
ROLES: tuple[Role, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True, eq=False)
class ZooSplit:
    """Checkpoints of the models on one side of a zoo's split.

    ``frame`` has one row per checkpoint, ``rows`` (float32 ``[N, P]``) its weights in the same order.

    Raises
    ------
    InputError
        If frame and rows differ in length, or a checkpoint belongs to another side of the split.
    """

    role: Role
    frame: pd.DataFrame
    rows: np.ndarray

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or len(self.frame) != len(self.rows):
            raise InputError(
                f"{self.role} split: rows must be [N, P] with one row per checkpoint; expected "
                f"{len(self.frame)} rows, got shape {self.rows.shape}."
            )
        if "split" in self.frame:
            foreign = sorted(set(self.frame["split"].astype(str)) - {self.role})
            if foreign:
                raise InputError(
                    f"{self.role} split: holds checkpoints of {', '.join(foreign)}; expected {self.role} only."
                )

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, keep: np.ndarray) -> ZooSplit:
        """Keep the checkpoints where the boolean mask ``[N]`` is true."""
        mask = np.asarray(keep, dtype=bool)
        return ZooSplit(self.role, self.frame.loc[mask].reset_index(drop=True), self.rows[mask])

    def finite(self) -> ZooSplit:
        """Leave diverged checkpoints out: flagged ones and rows that hold NaN or infinity."""
        keep = np.isfinite(self.rows).all(axis=1)
        if "status" in self.frame:
            keep &= (self.frame["status"] == "ok").to_numpy()
        return self if keep.all() else self.where(keep)


def select_on_validation(frame: pd.DataFrame) -> int:
    """Row number of the highest validation accuracy; ties go to the lowest validation loss, then the first.

    >>> frame = pd.DataFrame({"val_acc": [0.9, 0.9, 0.5], "val_loss": [0.4, 0.3, 0.1]})
    >>> select_on_validation(frame)
    1
    """
    if frame.empty:
        raise InputError("selection on validation: there is no network to choose from.")
    order = np.lexsort((frame["val_loss"].fillna(np.inf).to_numpy(), -frame["val_acc"].fillna(-np.inf).to_numpy()))
    return int(order[0])
