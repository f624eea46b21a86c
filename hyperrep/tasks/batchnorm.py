"""Batch-norm conditioning: running statistics of new networks, measured instead of decoded.

Source: Schürholt et al., "Towards Scalable and Versatile Weight Space Learning" (SANE, 2024), section 3.3: statistics
of sampled networks are set by forward passes over a few batches of training images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hyperrep.tasks.behaviour import Examiner
from hyperrep.training.streams import keyed_generator
from zookeeper.errors import InputError
from zookeeper.population import Population

_PASS_NUMBERS = 1 << 26  # activations of one pass: 256 MB


@dataclass(frozen=True, eq=False)
class BatchNormConditioning:
    """Set running means and variances to their averages over batches of training images.

    All networks see the same batches, in one stacked pass each. Other weights stay as they are, and networks without
    running statistics are returned unchanged. It is `torch.optim.swa_utils.update_bn` for a population.

    Parameters
    ----------
    population
        The architecture, stacked.
    images
        Training images ``[n, C, H, W]``, normalised.
    batches, batch_size
        How many batches of how many images, both 1 or more; batches of fewer than two images have no variance.
    seed
        Of the choice of images.
    """

    population: Population
    images: torch.Tensor
    batches: int = 8
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batches < 1 or self.batch_size < 2:
            raise InputError(
                f"batch norm: batches must be 1 or more and batch_size 2 or more, got {self.batches} and "
                f"{self.batch_size}."
            )
        if self.images.ndim != 4 or tuple(self.images.shape[1:]) != self.population.image_shape:
            expected = ", ".join(map(str, self.population.image_shape))
            raise InputError(
                f"batch norm: images have shape {tuple(self.images.shape)}; expected [n, {expected}]. "
                "Take the training images of the zoo."
            )
        if len(self.images) < 2:
            raise InputError(f"batch norm: expected two training images or more, got {len(self.images)}.")

    @classmethod
    def of(cls, examiner: Examiner, *, batches: int = 8, batch_size: int = 64, seed: int = 0) -> BatchNormConditioning:
        """Take the training images of an examiner."""
        return cls(examiner.population, examiner.images["train"].images, batches, batch_size, seed)

    @torch.no_grad()
    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return rows float32 ``[n, P]`` with new running statistics."""
        layout = self.population.layout
        if layout.num_trainable == layout.num_weights:
            return rows
        order = torch.randperm(len(self.images), generator=keyed_generator(self.seed, "batch norm"))
        size = min(self.batch_size, len(order))
        batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)][: self.batches]
        tile = max(1, _PASS_NUMBERS // (self.population.activation_floats * size))
        parts = torch.split(torch.from_numpy(np.array(rows, dtype=np.float32)), tile)
        return torch.cat([self._condition(part, batches) for part in parts]).numpy()

    def _condition(self, rows: torch.Tensor, batches: list[torch.Tensor]) -> torch.Tensor:
        """Average what a pass makes of statistics of 0: momentum times those of the batch."""
        layout = self.population.layout
        blank = rows.clone()
        blank[:, layout.num_trainable :] = 0.0
        total = torch.zeros_like(rows[:, layout.num_trainable :])
        for batch in batches:
            _, statistics = self.population.forward_training(blank, self.images[batch], None)
            for block in layout.blocks:
                if block.name in statistics:
                    columns = slice(block.offset - layout.num_trainable, None)
                    total[:, columns][:, : block.size] += statistics[block.name] / self._momentum(block.layer)
        blank[:, layout.num_trainable :] = total / len(batches)
        return blank

    def _momentum(self, layer: str) -> float:
        for op in self.population.graph.ops:
            if op.layer == layer and op.kind == "batchnorm":
                return float(op.options["momentum"])
        raise AssertionError(layer)  # a layer with statistics is in the graph
