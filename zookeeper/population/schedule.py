"""Learning-rate schedules: functions of the step alone, so a resumed run needs no state.

``none`` keeps the learning rate. ``cosine`` is `torch.optim.lr_scheduler.CosineAnnealingLR` from the learning
rate to 0 over all steps (Loshchilov and Hutter, ICLR 2017, without restarts). ``onecycle`` is `OneCycleLR` with
torch's defaults (Smith and Topin, 2018): the model's learning rate is the highest one, reached after 30 % of
the steps from a 25th of it; the last one is 1e4 times smaller than the first. It also moves momentum from .95
down to .85 and back: the momentum of sgd and rmsprop where the model has any (a model without momentum stays
without; torch would give it some), and the first beta of adam and adamw. The model's own value then has no say.
Every optimiser step is a step of the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from zookeeper.errors import InputError

NO_SCHEDULE = "none"
_WARM_UP = 0.3
_START = 1 / 25
_END = _START / 1e4
_LOW_MOMENTUM, _HIGH_MOMENTUM = 0.85, 0.95


@dataclass(frozen=True)
class Setting:
    """What the schedules ask of the optimiser at one step, ``[M, 1]`` each.

    ``lr`` is a factor on the models' learning rates; ``momentum`` replaces theirs, NaN where it stays.
    """

    lr: torch.Tensor
    momentum: torch.Tensor

    def narrow(self, members: slice) -> Setting:
        """Return that of some members."""
        return Setting(self.lr[members], self.momentum[members])


def _none(num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(num_steps, dtype=torch.float64), torch.full((num_steps,), math.nan, dtype=torch.float64)


def _cosine(num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    step = torch.arange(num_steps, dtype=torch.float64)
    return (1 + torch.cos(math.pi * step / num_steps)) / 2, _none(num_steps)[1]


def _one_cycle(num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    step = torch.arange(num_steps, dtype=torch.float64)
    peak = _WARM_UP * num_steps - 1  # not a whole number in general, below 0 for very short runs
    rises = step <= peak
    share = torch.where(rises, step / peak, (step - peak) / (num_steps - 1 - peak))
    fall = (1 + torch.cos(math.pi * share)) / 2  # 1 at the beginning of a phase, 0 at its end
    lr = torch.where(rises, 1 + (_START - 1) * fall, _END + (1 - _END) * fall)
    width = _HIGH_MOMENTUM - _LOW_MOMENTUM
    momentum = torch.where(rises, _LOW_MOMENTUM + width * fall, _HIGH_MOMENTUM - width * fall)
    return lr, momentum


_SCHEDULES: dict[str, Callable[[int], tuple[torch.Tensor, torch.Tensor]]] = {
    "none": _none,
    "cosine": _cosine,
    "onecycle": _one_cycle,
}


def schedule_names() -> tuple[str, ...]:
    """Known schedules, sorted."""
    return tuple(sorted(_SCHEDULES))


class Schedule:
    """The schedules of M models over the same number of steps.

    Parameters
    ----------
    names
        none, cosine or onecycle, one for each model.
    num_steps
        Optimiser steps of the whole training, >= 1.
    device, dtype
        Where the optimiser is, and the dtype of the weights; tables are made in float64.

    Raises
    ------
    InputError
        If a name is unknown or there are no steps.

    Examples
    --------
    >>> schedule = Schedule(["none", "cosine"], num_steps=4)
    >>> [round(schedule.at(step).lr[1].item(), 4) for step in (1, 2, 3, 4)]
    [1.0, 0.8536, 0.5, 0.1464]
    >>> schedule.at(3).lr[0].item()
    1.0
    """

    def __init__(
        self,
        names: Sequence[str],
        num_steps: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        for name in names:
            if name not in _SCHEDULES:
                raise InputError(f"unknown schedule {name!r}; expected {', '.join(schedule_names())}.")
        if num_steps < 1:
            raise InputError(f"schedule: {num_steps} steps; expected at least 1. Say for how many epochs it lasts.")
        self.num_steps = num_steps
        distinct = sorted(set(names))
        tables = [_SCHEDULES[name](num_steps) for name in distinct]
        self._lr, self._momentum = (
            torch.stack(columns, 1).to(device=device, dtype=dtype) for columns in zip(*tables, strict=True)
        )  # [T, number of distinct schedules]
        self._member = torch.tensor([distinct.index(name) for name in names], device=device)

    def at(self, step: int) -> Setting:
        """Return the settings of optimiser step ``step``, which counts from 1.

        Raises
        ------
        InputError
            If the step is not one of the schedule's.
        """
        if not 1 <= step <= self.num_steps:
            raise InputError(
                f"schedule: step {step}; expected 1 to {self.num_steps}. Train for the epochs it was made for."
            )
        return Setting(self._lr[step - 1, self._member][:, None], self._momentum[step - 1, self._member][:, None])
