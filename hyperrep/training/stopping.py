"""Early stopping: the best validation value so far, the weights that had it, and how long ago that was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hyperrep.config import StoppingSection, TrainConfig
from hyperrep.config.tune import RISING
from hyperrep.training.data import FitData
from zookeeper.errors import InputError


@dataclass(eq=False)
class Stopping:
    """What early stopping remembers between two evaluations; all of it is in the checkpoint.

    Parameters
    ----------
    settings
        Which value, how many evaluations to wait, how much counts as a gain.
    best
        The best value so far; None before the first.
    best_step
        Steps done when it was measured.
    waited
        Evaluations since then.
    weights
        The model's weights then, on the CPU.

    Examples
    --------
    >>> stopping = Stopping(StoppingSection(value="agreement", patience=2))
    >>> model = nn.Linear(1, 1)
    >>> for step, value in enumerate((0.5, 0.7, 0.6, 0.7)):
    ...     stopping.update({"val_agreement": value}, step, model)
    >>> stopping.best, stopping.best_step, stopping.is_over
    (0.7, 1, True)
    """

    settings: StoppingSection
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether it has waited long enough."""
        return self.waited >= self.settings.patience

    def update(self, values: Mapping[str, float], step: int, model: nn.Module) -> None:
        """Take the values of one evaluation; a value that is not finite is no gain."""
        value = values[f"val_{self.settings.value}"]
        if not self._gains(value):
            self.waited += 1
            return
        self.best, self.best_step, self.waited = value, step, 0
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def _gains(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        gain = value - self.best if self.settings.value in RISING else self.best - value
        return gain > self.settings.min_gain

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the weights, as plain values."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def restore(self, state: Mapping[str, Any], weights: dict[str, torch.Tensor]) -> None:
        """Take up what `state` gave, with the weights beside it."""
        self.best, self.best_step, self.waited = state["best"], state["best_step"], state["waited"]
        self.weights = weights


def check_watched(config: TrainConfig, data: FitData, value: str, where: str) -> None:
    """Raise an InputError if a validation value that is watched would never be measured."""
    loss = config.loss
    decodes = loss.gamma < 1 or loss.cycle > 0
    judges = decodes and data.population is not None and data.val_queries is not None
    measured = {
        "contrast": loss.gamma > 0,
        "structure": decodes,
        "behaviour": judges,
        "agreement": judges,
        "cycle": loss.cycle > 0,
        "probe_r2": data.targets is not None and data.val_targets is not None,
        "total": judges or loss.beta == 1 or loss.gamma == 1,
    }
    if data.val_rows is None or not measured[value]:
        names = [name for name, is_measured in measured.items() if is_measured] if data.val_rows is not None else []
        raise InputError(
            f"{where}: {value} is not measured here; expected one of "
            f"{', '.join(names) or 'nothing, for there are no validation rows'}. Choose another value."
        )
