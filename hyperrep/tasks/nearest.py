"""The training model that lies nearest to a network, hidden units matched first if a symmetry is given.

Matching every network with every training model would be one assignment problem per pair. Instead all are
brought into one frame, aligned to a single reference, and only the nearest few of each network are then matched
with it in pairs. The result is an upper bound of the smallest aligned distance, and never above the plain one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from hyperrep.tasks.diversity import pairwise_distances
from hyperrep.tasks.split import ZooSplit, select_on_validation
from hyperrep.weights.alignment import Aligner
from zookeeper.errors import InputError
from zookeeper.nets.symmetry import Symmetry


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """For each of M networks: number of the nearest training model, its distance, and the smallest unaligned one."""

    index: np.ndarray  # int64 [M]
    distance: np.ndarray  # float64 [M]
    unaligned: np.ndarray  # float64 [M]


@dataclass(frozen=True, eq=False)
class TrainingModels:
    """Train models to compare new networks with.

    Parameters
    ----------
    models
        Checkpoints of the train split.
    symmetry
        Permutations of hidden units that keep the function; None: distances are taken as the weights stand.
    shortlist
        How many of the nearest models each network is matched with in pairs.
    seed
        Of the alignment.

    Raises
    ------
    InputError
        If the models are not of the train split, or there are none.
    """

    models: ZooSplit
    symmetry: Symmetry | None = None
    shortlist: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.models.role != "train" or len(self.models) == 0:
            raise InputError(
                f"nearest model: expected models of the train split, got {len(self.models)} of the "
                f"{self.models.role} split."
            )

    @cached_property
    def reference(self) -> np.ndarray:
        """The row ``[P]`` that the common frame is aligned to: the best model on validation images."""
        row: np.ndarray = self.models.rows[select_on_validation(self.models.frame)]
        return row

    @cached_property
    def rows(self) -> np.ndarray:
        """The train models in the common frame, float32 ``[N, P]``."""
        return self.align(self.models.rows)

    def align(self, rows: np.ndarray) -> np.ndarray:
        """Bring rows ``[M, P]`` into the common frame; their functions stay."""
        return rows if self.symmetry is None else self._aligned(rows, self.reference)

    def nearest_to(self, rows: np.ndarray) -> Nearest:
        """Find the nearest train model of each of the rows ``[M, P]``."""
        plain = pairwise_distances(rows, self.models.rows)
        unaligned = plain.min(axis=1)
        if self.symmetry is None:
            return Nearest(plain.argmin(axis=1), unaligned, unaligned)
        framed = (pairwise_distances(part, self.rows) for part in (rows, self.align(rows)))
        best = np.minimum.reduce([plain, *framed])
        listed = np.argsort(best, axis=1, kind="stable")[:, : self.shortlist]
        for number in np.unique(listed):  # pairs that share a train model are one stacked search
            members = np.flatnonzero((listed == number).any(axis=1))
            model = self.models.rows[number]
            matched = pairwise_distances(self._aligned(rows[members], model), model[None])[:, 0]
            best[members, number] = np.minimum(best[members, number], matched)
        return Nearest(best.argmin(axis=1), best.min(axis=1), unaligned)

    def _aligned(self, rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
        assert self.symmetry is not None
        aligner = Aligner(self.symmetry, torch.from_numpy(np.array(reference)), self.seed)
        aligned: np.ndarray = aligner.align(torch.from_numpy(np.require(rows, requirements=("C", "W")))).numpy()
        return aligned
