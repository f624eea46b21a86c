"""Uniform in a three-dimensional map of the anchors, and back.

Source: "Hyper-Representations as Generative Models", section 3.2.3 (S_Neigh): UMAP to 3 dimensions, uniform in the
box of the anchors there, inverse transform.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperrep.sampling.anchors import Points, check_anchors, check_number
from zookeeper.errors import InputError


@dataclass(frozen=True, slots=True)
class Neighbour:
    """UMAP and back. Needs umap-learn: ``pip install weight-zookeeper[umap]``.

    Parameters
    ----------
    num_dimensions
        Of the map, 2 or more; the inverse transform triangulates the map, which is slow above 4.
    num_neighbours
        Anchors that count as neighbours, 2 or more; UMAP takes fewer where there are no more anchors.
    epochs
        Of UMAP's optimisation, 1 or more.
    seed
        Of the map and its inverse.
    """

    num_dimensions: int = 3
    num_neighbours: int = 15
    epochs: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_dimensions", 2), ("num_neighbours", 2), ("epochs", 1)):
            if getattr(self, name) < least:
                raise InputError(f"sampler neighbour: {name} must be {least} or more, got {getattr(self, name)}.")

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedNeighbour:
        """Map flattened latents ``[N, F]``; tokens play no part.

        Raises
        ------
        InputError
            If umap-learn is not installed, or there are too few anchors for a map and its triangulation.
        """
        points = check_anchors(anchors, "neighbour", at_least=self.num_dimensions + 3)
        mapping = _import_umap().UMAP(
            n_components=self.num_dimensions,
            n_neighbors=min(self.num_neighbours, len(points) - 1),
            n_epochs=self.epochs,
            init="pca" if min(points.shape) >= self.num_dimensions else "random",
            random_state=self.seed,
            transform_seed=self.seed,
            n_jobs=1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own numerics and threads; nothing a user can act on
            place = np.asarray(mapping.fit_transform(points.astype(np.float32)), dtype=np.float64)
        return FittedNeighbour(mapping, place.min(axis=0), place.max(axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class FittedNeighbour:
    """A map, and the box of the anchors in it: ``low`` and ``high``, one number per dimension of the map."""

    mapping: Any
    low: Points
    high: Points

    def sample(self, num: int, generator: np.random.Generator) -> Points:
        """Draw latents ``[num, F]`` (float64)."""
        check_number(num, "neighbour")
        places = generator.uniform(self.low, self.high, size=(num, len(self.low)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            back = self.mapping.inverse_transform(places.astype(np.float32))
        return np.asarray(back, dtype=np.float64)


def _import_umap() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it could do more with TensorFlow
        try:
            return importlib.import_module("umap")
        except ImportError as error:
            raise InputError(
                "sampler neighbour: needs umap-learn, which is not installed. "
                "Install it with: pip install 'weight-zookeeper[umap]'."
            ) from error
