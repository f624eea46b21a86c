"""Optimisers over the population matrix, with a vector for every hyperparameter.

Each is the update of its `torch.optim` namesake (same defaults, same order of operations up to
rounding), applied to all rows at once: row m uses its own learning rate, decay and momentum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from zookeeper.errors import InputError

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
    def step(self, rows: torch.Tensor, grads: torch.Tensor, number: int) -> None:
        """Update ``rows[M, P]`` in place; ``grads`` is overwritten; ``number`` counts steps from 1."""
        h = self.hyperparameters
        if self.name == "adamw":
            rows.mul_(1.0 - h.lr * h.weight_decay)
        elif self._decays:
            grads.addcmul_(rows, h.weight_decay)
        if self.name in ("adam", "adamw"):
            self._step_adam(rows, grads, number)
        elif self.name == "rmsprop":
            self._step_rmsprop(rows, grads)
        else:
            self._step_sgd(rows, grads)

    def _step_adam(self, rows: torch.Tensor, grads: torch.Tensor, number: int) -> None:
        first, second = self.state["first_moment"], self.state["second_moment"]
        first.lerp_(grads, 0.1)
        second.mul_(0.999).addcmul_(grads, grads, value=0.001)
        denominator = torch.sqrt(second, out=grads)
        denominator.div_(math.sqrt(1.0 - 0.999**number)).add_(1e-8)
        step = first / denominator
        rows.addcmul_(step, self.hyperparameters.lr / -(1.0 - 0.9**number))

    def _step_rmsprop(self, rows: torch.Tensor, grads: torch.Tensor) -> None:
        average, velocity = self.state["square_average"], self.state["velocity"]
        average.mul_(0.99).addcmul_(grads, grads, value=0.01)
        step = grads.div_(average.sqrt().add_(1e-8))
        if self._uses_momentum:
            step = velocity.mul_(self.hyperparameters.momentum).add_(step)
        rows.addcmul_(step, -self.hyperparameters.lr)

    def _step_sgd(self, rows: torch.Tensor, grads: torch.Tensor) -> None:
        step = grads
        if self._uses_momentum:
            velocity, momentum = self.state["velocity"], self.hyperparameters.momentum
            velocity.mul_(momentum).add_(grads)
            step = grads.addcmul_(velocity, momentum) if self.nesterov else velocity
        rows.addcmul_(step, -self.hyperparameters.lr)
