"""Weights for another architecture: what fits is taken from given networks, the rest is as initialised.

This asks no more of a hyper-representation than that it samples networks of the architecture it knows, so it
works with every kind of model. Source: Schürholt et al., "Hyper-Representations as Generative Models" (2022),
section 4.2.4, Table 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightBlock, WeightLayout


@dataclass(frozen=True, slots=True, eq=False)
class Transplant:
    """Columns of one layout that go into columns of another, int64 ``[C]`` each."""

    source: np.ndarray
    target: np.ndarray

    @classmethod
    def between(cls, source: WeightLayout, target: WeightLayout) -> Transplant:
        """Match blocks by name and take the part that both have: the first units, channels and taps.

        Raises
        ------
        InputError
            If no block of the same name and number of axes is in both.
        """
        blocks = {block.name: block for block in source.blocks}
        taken, put = [], []
        for block in target.blocks:
            known = blocks.get(block.name)
            if known is None or len(known.shape) != len(block.shape):
                continue
            common = tuple(slice(0, min(a, b)) for a, b in zip(known.shape, block.shape, strict=True))
            taken.append(_columns(known)[common].ravel())
            put.append(_columns(block)[common].ravel())
        if not put:
            raise InputError(
                "transplant: the architectures have no layer of the same name and kind; their layers are "
                f"{', '.join(source.layers)} and {', '.join(target.layers)}. Choose a related architecture."
            )
        return cls(np.concatenate(taken), np.concatenate(put))

    def share(self, layout: WeightLayout) -> float:
        """Share of the target's weights that are taken."""
        return len(self.target) / layout.num_weights

    def apply(self, rows: np.ndarray, initial: np.ndarray) -> np.ndarray:
        """Copies of ``initial`` ``[n, P']`` with the columns that fit taken from rows ``[n, P]``.

        >>> small = WeightLayout.from_shapes({"fc.weight": ((2, 2), "weight")})
        >>> large = WeightLayout.from_shapes({"fc.weight": ((3, 2), "weight"), "out.bias": ((1,), "bias")})
        >>> Transplant.between(small, large).apply(np.ones((1, 4)), np.zeros((1, 7))).tolist()
        [[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]
        """
        if len(rows) != len(initial):
            raise InputError(f"transplant: expected as many initial rows as rows, got {len(initial)} for {len(rows)}.")
        result: np.ndarray = np.array(initial, copy=True)
        result[:, self.target] = rows[:, self.source]
        return result


def _columns(block: WeightBlock) -> np.ndarray:
    return np.arange(block.columns.start, block.columns.stop).reshape(block.shape)
