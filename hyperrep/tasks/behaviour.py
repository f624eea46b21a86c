"""What networks do on images: classes, accuracy, agreement. Many networks at once, one stacked pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from hyperrep.tasks.split import Role
from zookeeper.errors import InputError
from zookeeper.population import Population, evaluate, predict


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Normalised images float32 ``[n, C, H, W]`` with labels int64 ``[n]``."""

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1] or len(self.labels) == 0:
            raise InputError(
                f"images: expected [n, C, H, W] with labels [n] and n >= 1, got {tuple(self.images.shape)} "
                f"and {tuple(self.labels.shape)}."
            )

    @property
    def chance_threshold(self) -> float:
        """Accuracy that a classifier without knowledge exceeds about once in a thousand times.

        The share of the most frequent class plus three standard errors of a share on n images.

        >>> images = LabelledImages(torch.zeros(100, 1, 1, 1), torch.arange(100) % 10)
        >>> round(images.chance_threshold, 3)
        0.19
        """
        num = len(self.labels)
        share = float(torch.bincount(self.labels).max()) / num
        return share + 3 * float(np.sqrt(share * (1 - share) / num))


@dataclass(frozen=True, slots=True, eq=False)
class Examiner:
    """Runs rows of one architecture on the image splits a zoo was trained and tested on."""

    population: Population
    images: Mapping[Role, LabelledImages]

    def classes(self, rows: np.ndarray, role: Role) -> np.ndarray:
        """Predicted classes int64 ``[M, n]`` of rows ``[M, P]`` on the images of one split."""
        classes: np.ndarray = predict(self.population, self._tensor(rows), self.images[role].images).numpy()
        return classes

    def scores(self, rows: np.ndarray, role: Role) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy in [0, 1] and mean cross-entropy in nats, ``[M]`` each."""
        part = self.images[role]
        result = evaluate(self.population, self._tensor(rows), part.images, part.labels)
        return result.accuracy.numpy(), result.loss.numpy()

    def labels(self, role: Role) -> np.ndarray:
        """Labels int64 ``[n]`` of one split."""
        labels: np.ndarray = self.images[role].labels.numpy()
        return labels

    def _tensor(self, rows: np.ndarray) -> torch.Tensor:
        expected = self.population.layout.num_weights
        if rows.ndim != 2 or rows.shape[1] != expected or rows.dtype != np.float32:
            raise InputError(
                f"rows must be float32 [M, {expected}], got {rows.dtype} {rows.shape}. "
                "Check that they belong to the architecture of the zoo."
            )
        return torch.from_numpy(np.require(rows, requirements=("C", "W")))  # copies a read-only memory map
