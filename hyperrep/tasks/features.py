"""What a probe may read from a network: the embedding and every baseline that stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hyperrep.baselines.projections import ProjectionName, fit_projection
from hyperrep.baselines.weight_statistics import weight_statistics
from hyperrep.training.saved import HyperRepresentation
from zookeeper.nets.layout import WeightLayout

UNTRAINED = "untrained encoder"

RowsToFeatures = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class FeatureSets:
    """Feature sets that do not depend on the probe's split, and projections that are fitted on its train side.

    Parameters
    ----------
    fixed
        Name -> function from rows ``[N, P]`` to features ``[N, F]``.
    projections
        Which projections stand beside them.
    num_components
        Their width.
    seed
        Of the projections.
    """

    fixed: Mapping[str, RowsToFeatures]
    projections: Sequence[ProjectionName] = ()
    num_components: int = 64
    seed: int = 0

    def fit_projections(self, train: np.ndarray) -> dict[str, RowsToFeatures]:
        """The projections as functions, fitted on train rows ``[N, P]``."""
        return {
            str(name): fit_projection(name, train, self.num_components, seed=self.seed) for name in self.projections
        }


def feature_sets(
    layout: WeightLayout,
    hyper: HyperRepresentation | None = None,
    *,
    name: str = "embedding",
    untrained_seeds: Sequence[int] = (0, 1, 2),
    projections: Sequence[ProjectionName] = ("PCA linear", "PCA cosine", "PCA RBF"),
    num_components: int | None = None,
    seed: int = 0,
) -> FeatureSets:
    """Collect the embedding with W, s(W), untrained encoders and projections beside it.

    Parameters
    ----------
    hyper
        The hyper-representation; None leaves it and its untrained encoders out.
    name
        How its embedding is called.
    num_components
        Width of the projections; by default that of the embedding, 64 without one.
    """
    fixed: dict[str, RowsToFeatures] = {"W": np.asarray, "s(W)": lambda rows: weight_statistics(rows, layout)}
    if hyper is not None:
        for number in untrained_seeds:
            fixed[f"{UNTRAINED} {number}"] = _embedding(hyper.untrained(number))
        fixed[name] = _embedding(hyper)
    width = 64 if hyper is None else len(hyper.embedding_names)
    return FeatureSets(fixed, tuple(projections), num_components or width, seed)


def _embedding(hyper: HyperRepresentation) -> RowsToFeatures:
    return lambda rows: np.asarray(hyper.embed(rows))
