"""The section about alignment before training."""

from __future__ import annotations

from typing import Literal

from hyperrep.config.numbers import NonNegativeInt
from zookeeper.spec.document import Section


class AlignSection(Section):
    """Align every network to one reference of the train split before anything else (Git Re-Basin).

    ``best`` takes the train checkpoint with the highest validation accuracy, ``first`` the first train row. ``seed``
    decides in which order weight matching goes through the groups of units. The reference is saved with the model.
    """

    reference: Literal["best", "first"] = "best"
    seed: NonNegativeInt = 0
