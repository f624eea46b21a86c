"""The training loss: contrast, structure and behaviour, mixed by two numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from zookeeper.errors import InputError

PART_NAMES = ("total", "contrast", "structure", "behaviour", "cycle")
SCALED_PARTS = ("contrast", "structure", "behaviour")


@dataclass(frozen=True)
class LossParts:
    """The total and the parts that were computed, unscaled; a part that has no weight may be missing."""

    total: torch.Tensor
    contrast: torch.Tensor | None
    structure: torch.Tensor | None
    behaviour: torch.Tensor | None
    cycle: torch.Tensor | None = None

    def values(self) -> dict[str, float]:
        """Plain numbers by name, without the missing ones."""
        named = {name: getattr(self, name) for name in PART_NAMES}
        return {name: float(part.detach()) for name, part in named.items() if part is not None}


def part_weights(gamma: float, beta: float) -> dict[str, float]:
    """Weight of each part in the total.

    Source: equation 1 of "Structure and Behavior in Weight Space Representation Learning",
    ``L = gamma L_C + (1 - gamma) (beta L_S + (1 - beta) L_B)``.

    Parameters
    ----------
    gamma, beta
        In [0, 1]. ``gamma=0`` drops the contrastive, ``beta=0`` the structural and ``beta=1`` the
        behavioural part.

    Examples
    --------
    >>> part_weights(0.5, 0.25)
    {'contrast': 0.5, 'structure': 0.125, 'behaviour': 0.375}
    """
    for name, value in (("gamma", gamma), ("beta", beta)):
        if not 0 <= value <= 1:
            raise InputError(f"loss.{name}: expected a number in [0, 1], got {value}.")
    return {"contrast": gamma, "structure": (1 - gamma) * beta, "behaviour": (1 - gamma) * (1 - beta)}


def compose(
    *,
    gamma: float,
    beta: float,
    contrast: torch.Tensor | None = None,
    structure: torch.Tensor | None = None,
    behaviour: torch.Tensor | None = None,
    cycle: torch.Tensor | None = None,
    cycle_weight: float = 0.0,
    scales: Mapping[str, float] | None = None,
) -> LossParts:
    """Mix the parts into the total; parts with weight 0 stay out of it even when they are given.

    Parameters
    ----------
    gamma, beta
        As in `part_weights`.
    contrast, structure, behaviour, cycle
        The parts; None if not computed.
    cycle_weight
        Added to the total is this many times the cycle part.
    scales
        What a part is divided by, by name; 1 for names that are missing.

    Raises
    ------
    InputError
        If a part with positive weight is missing.

    Examples
    --------
    >>> parts = compose(gamma=0.0, beta=0.5, structure=torch.tensor(2.0), behaviour=torch.tensor(4.0))
    >>> parts.total.item()
    3.0
    """
    given = {"contrast": contrast, "structure": structure, "behaviour": behaviour, "cycle": cycle}
    parts = {name: part for name, part in given.items() if part is not None}
    total = weigh(parts, part_weights(gamma, beta) | {"cycle": cycle_weight}, scales)
    return LossParts(total, contrast, structure, behaviour, cycle)


def weigh(
    parts: Mapping[str, torch.Tensor], weights: Mapping[str, float], scales: Mapping[str, float] | None = None
) -> torch.Tensor:
    """Add up parts times their weights over their scales; as `compose` does with all parts.

    >>> weigh({"structure": torch.tensor(3.0)}, {"structure": 0.5, "cycle": 0.0}, {"structure": 3.0}).item()
    0.5
    """
    weighted = []
    for name, weight in weights.items():
        if weight > 0:
            if name not in parts:
                raise InputError(f"loss: the {name} part has weight {weight:g} but was not computed.")
            scale = 1.0 if scales is None else scales.get(name, 1.0)
            weighted.append(weight * (parts[name] if scale == 1.0 else parts[name] / scale))
    return torch.stack(weighted).sum()
