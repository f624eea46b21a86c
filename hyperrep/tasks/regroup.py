"""Splits of a zoo's models other than the stored one, as values: what they hold out, by a hash and not by order.

A random split by model puts models that share their initial weights on both sides; a split by seed does not.
The papers' split is ``model``; ``stored`` is the zoo's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from hyperrep.tasks.class_scores import CLASS_F1
from hyperrep.tasks.split import ROLES, Role, ZooSplit
from zookeeper.errors import InputError
from zookeeper.query import suggest
from zookeeper.spec.grid import assign_split
from zookeeper.spec.identity import canonical_json
from zookeeper.store.table import factor_names
from zookeeper.zoo import Zoo

STORED, MODEL, CONFIGURATION = "stored", "model", "configuration"
_PAPER = {"train": 0.70, "val": 0.15, "test": 0.15}


@dataclass(frozen=True, slots=True)
class SplitScheme:
    """How models are put on three sides.

    Parameters
    ----------
    by
        ``stored``: the zoo's own split. ``model``: each model by itself, as the papers do. ``configuration``:
        models that differ in their seed alone stay together. Else the names of factors, joined by ``+``: all
        models with the same values stay together, so test models have values that no train model has.
    seed
        Of the draw; the stored split has none.
    fractions
        Shares of the sides; 70 / 15 / 15 as in the papers.
    """

    by: str = STORED
    seed: int = 0
    fractions: Mapping[str, float] = field(default_factory=lambda: dict(_PAPER))

    @property
    def name(self) -> str:
        """The scheme in one line: what it holds out, its seed and its shares.

        >>> SplitScheme("lr", 1).name
        'lr, seed 1: train 0.7, val 0.15, test 0.15'
        """
        return f"{self.by}, seed {self.seed}: " + ", ".join(f"{side} {self.fractions[side]:g}" for side in ROLES)

    def held_out(self, frame: pd.DataFrame) -> tuple[str, ...]:
        """Factors whose values are on one side only: no probe can be asked for them.

        Raises
        ------
        InputError
            If ``by`` names a column the frame does not have.
        """
        if self.by in (STORED, MODEL, CONFIGURATION):
            return ()
        names = tuple(self.by.split("+"))
        for name in names:
            if name not in frame:
                known = [STORED, MODEL, CONFIGURATION, *_factors(frame)]
                raise InputError(f"split by {name!r}: no such factor. {suggest(name, known)}")
        return names

    def sides(self, frame: pd.DataFrame) -> np.ndarray:
        """Side of every checkpoint, text ``[N]``; checkpoints of one model share it.

        Raises
        ------
        InputError
            If a factor is unknown, there are fewer groups than sides, or a side is left without checkpoints.

        Examples
        --------
        >>> frame = pd.DataFrame({"model_id": list("aabbccdd"), "lr": [1, 1, 1, 1, 2, 2, 3, 3]})
        >>> SplitScheme("lr").sides(frame).tolist()
        ['test', 'test', 'test', 'test', 'val', 'val', 'train', 'train']
        """
        if self.by == STORED:
            return self._checked(frame["split"].astype(str).to_numpy())
        models = frame.drop_duplicates("model_id").set_index("model_id")
        if self.by == MODEL:
            groups = [str(name) for name in models.index]
        else:
            names = list(self.held_out(frame)) or [name for name in _factors(frame) if name != "seed"]
            groups = [canonical_json([str(value) for value in line]) for line in models[names].to_numpy()]
        sides = pd.Series(assign_split(groups, self.fractions, self.seed), index=models.index)
        return self._checked(sides.loc[frame["model_id"]].to_numpy(dtype=str))

    def _checked(self, sides: np.ndarray) -> np.ndarray:
        empty = sorted(set(ROLES) - set(sides.tolist()))
        if empty:
            raise InputError(f"split by {self.by}: no model is on the side {', '.join(empty)}. Choose another split.")
        return sides


AS_STORED = SplitScheme()


def pool(splits: Mapping[Role, ZooSplit]) -> tuple[pd.DataFrame, np.ndarray]:
    """Join the checkpoints of all sides: a frame with the stored side in ``split``, and rows ``[N, P]``."""
    frame = pd.concat([splits[role].frame.assign(split=role) for role in ROLES], ignore_index=True)
    return frame, np.concatenate([splits[role].rows for role in ROLES])


def resplit(zoo: Zoo, scheme: SplitScheme) -> Zoo:
    """Return a zoo whose models are on the sides of a scheme; everything that reads its split then keeps to them.

    Raises
    ------
    InputError
        As `SplitScheme.sides`.
    """
    return zoo if scheme == AS_STORED else zoo.with_split(scheme.sides(zoo.frame))


def _factors(frame: pd.DataFrame) -> list[str]:
    return [name for name in factor_names(map(str, frame.columns)) if not name.startswith(CLASS_F1)]
