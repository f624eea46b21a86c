"""Optimisers over the population matrix, with a vector for every hyperparameter.

Each is the update of its `torch.optim` namesake (same defaults, same order of operations up to
rounding), applied to all rows at once: row m uses its own learning rate, decay and momentum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from zookeeper.errors import InputError
from zookeeper.population.schedule import Setting

_SLOTS: dict[str, tuple[str, ...]] = {
    "adam": ("first_moment", "second_moment"),
    "adamw": ("first_moment", "second_moment"),
    "rmsprop": ("square_average", "velocity"),
    "sgd": ("velocity",),
}


def optimizer_names() -> tuple[str, ...]:
    """Known optimisers, sorted."""
    return tuple(sorted(_SLOTS))


@dataclass(frozen=True)
class Hyperparameters:
    """Per-model vectors ``[M, 1]`` in the dtype of the weights."""

    lr: torch.Tensor
    weight_decay: torch.Tensor
    momentum: torch.Tensor

    def narrow(self, members: slice) -> Hyperparameters:
        """Those of some members."""
        return Hyperparameters(self.lr[members], self.weight_decay[members], self.momentum[members])

    def at(self, setting: Setting) -> Hyperparameters:
        """Return those of a step of a schedule; a model without momentum stays without."""
        keeps = torch.isnan(setting.momentum) | (self.momentum == 0)
        momentum = torch.where(keeps, self.momentum, setting.momentum)
        return Hyperparameters(self.lr * setting.lr, self.weight_decay, momentum)


class Optimizer:
    """State and update rule of one optimiser for M models.

    Adam and AdamW: betas (0.9, 0.999), eps 1e-8; Adam's weight decay is coupled (added to the
    gradient), AdamW's is decoupled. RMSprop: alpha 0.99, eps 1e-8. SGD: dampening 0.

    Parameters
    ----------
    name
        adam, adamw, rmsprop or sgd.
    hyperparameters
        Vectors ``[M, 1]``.
    state
        Slots by name, ``[M, P]`` each; zeros when training starts.
    nesterov
        Nesterov momentum (sgd only).
    """

    def __init__(
        self, name: str, hyperparameters: Hyperparameters, state: dict[str, torch.Tensor], *, nesterov: bool = False
    ) -> None:
        if name not in _SLOTS:
            raise InputError(f"unknown optimizer {name!r}; expected {', '.join(optimizer_names())}.")
        self.name = name
        self.hyperparameters = hyperparameters
        self.state = state
        self.nesterov = nesterov
        self._uses_momentum = bool((hyperparameters.momentum != 0).any())
        self._decays = bool((hyperparameters.weight_decay != 0).any())

    @classmethod
    def fresh(
        cls, name: str, hyperparameters: Hyperparameters, rows: torch.Tensor, *, nesterov: bool = False
    ) -> Optimizer:
        """Start with zero state shaped like the trainable columns of ``rows``."""
        state = {slot: torch.zeros_like(rows) for slot in _SLOTS.get(name, ())}
        return cls(name, hyperparameters, state, nesterov=nesterov)

    def narrow(self, members: slice) -> Optimizer:
        """Return the optimiser of some members; its state is a view of this one's."""
        state = {slot: values[members] for slot, values in self.state.items()}
        return Optimizer(self.name, self.hyperparameters.narrow(members), state, nesterov=self.nesterov)

    @torch.no_grad()
    def step(self, rows: torch.Tensor, grads: torch.Tensor, number: int, setting: Setting | None = None) -> None:
        """Update ``rows[M, P]`` in place; ``grads`` is overwritten; ``number`` counts steps from 1.

        ``setting`` is what a schedule asks for at this step; None leaves every hyperparameter as it is.
        """
        h = self.hyperparameters if setting is None else self.hyperparameters.at(setting)
        if self.name == "adamw":
            rows.mul_(1.0 - h.lr * h.weight_decay)
        elif self._decays:
            grads.addcmul_(rows, h.weight_decay)
        if self.name in ("adam", "adamw"):
            self._step_adam(rows, grads, number, h.lr, None if setting is None else setting.momentum)
        elif self.name == "rmsprop":
            self._step_rmsprop(rows, grads, h)
        else:
            self._step_sgd(rows, grads, h)

    def _step_adam(
        self, rows: torch.Tensor, grads: torch.Tensor, number: int, lr: torch.Tensor, beta: torch.Tensor | None
    ) -> None:
        first, second = self.state["first_moment"], self.state["second_moment"]
        if beta is None:
            first.lerp_(grads, 0.1)
            rate = lr / -(1.0 - 0.9**number)
        else:
            beta = torch.where(torch.isnan(beta), 0.9, beta.double())
            first.lerp_(grads, (1.0 - beta).to(rows.dtype))
            rate = lr / -(1.0 - beta**number).to(rows.dtype)
        second.mul_(0.999).addcmul_(grads, grads, value=0.001)
        denominator = torch.sqrt(second, out=grads)
        denominator.div_(math.sqrt(1.0 - 0.999**number)).add_(1e-8)
        step = first / denominator
        rows.addcmul_(step, rate)

    def _step_rmsprop(self, rows: torch.Tensor, grads: torch.Tensor, h: Hyperparameters) -> None:
        average, velocity = self.state["square_average"], self.state["velocity"]
        average.mul_(0.99).addcmul_(grads, grads, value=0.01)
        step = grads.div_(average.sqrt().add_(1e-8))
        if self._uses_momentum:
            step = velocity.mul_(h.momentum).add_(step)
        rows.addcmul_(step, -h.lr)

    def _step_sgd(self, rows: torch.Tensor, grads: torch.Tensor, h: Hyperparameters) -> None:
        step = grads
        if self._uses_momentum:
            velocity = self.state["velocity"]
            velocity.mul_(h.momentum).add_(grads)
            step = grads.addcmul_(velocity, h.momentum) if self.nesterov else velocity
        rows.addcmul_(step, -h.lr)
