"""Optimisers over the population matrix, with a vector for every hyperparameter.

Each is the update of its `torch.optim` namesake (same defaults, same order of operations up to
rounding), applied to all rows at once: row m uses its own learning rate, decay and momentum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


@dataclass(frozen=True)
class StepFactors:
    """Everything in an update that depends on the number of the step, for one step or (`table`) for many.

    Parameters
    ----------
    lr, momentum
        As a schedule wants them, ``[M, 1]``.
    rate
        Adam: learning rate over the correction of the first moment, negative, ``[M, 1]``.
    root
        Adam: root of the correction of the second moment.
    share
        Adam: weight of the gradient in the first moment, a number or ``[M, 1]``.
    """

    lr: torch.Tensor
    momentum: torch.Tensor
    rate: torch.Tensor
    root: float | torch.Tensor
    share: float | torch.Tensor

    def at(self, number: torch.Tensor) -> StepFactors:
        """Return those of one step of a table; ``number`` is an int64 tensor of one element, counted from 0."""

        def row(values: torch.Tensor) -> torch.Tensor:
            return values.index_select(0, number)[0] if len(values) > 1 else values[0]

        assert isinstance(self.root, torch.Tensor)
        share = row(self.share) if isinstance(self.share, torch.Tensor) else self.share
        return StepFactors(row(self.lr), row(self.momentum), row(self.rate), row(self.root), share)

    def copy_(self, other: StepFactors) -> None:
        """Overwrite a table with another of the same shape, in the same memory."""
        for name in ("lr", "momentum", "rate", "root", "share"):
            values, new = getattr(self, name), getattr(other, name)
            if isinstance(values, torch.Tensor):
                values.copy_(new)


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

    def factors(self, number: int, setting: Setting | None = None) -> StepFactors:
        """Return the factors of step ``number``, which counts from 1."""
        h = self.hyperparameters if setting is None else self.hyperparameters.at(setting)
        share: float | torch.Tensor = 0.1
        rate = h.lr
        if self.name in ("adam", "adamw"):
            if setting is None:
                rate = h.lr / -(1.0 - 0.9**number)
            else:
                beta = torch.where(torch.isnan(setting.momentum), 0.9, setting.momentum.double())
                share = (1.0 - beta).to(h.lr.dtype)
                rate = h.lr / -(1.0 - beta**number).to(h.lr.dtype)
        return StepFactors(h.lr, h.momentum, rate, math.sqrt(1.0 - 0.999**number), share)

    def table(self, first: int, num_steps: int, settings: Sequence[Setting] | None = None) -> StepFactors:
        """Return the factors of steps from ``first`` on, stacked along a new first axis; one entry where all agree."""
        lr, momentum = self.hyperparameters.lr, self.hyperparameters.momentum
        numbers = range(first, first + num_steps)
        roots = torch.tensor([math.sqrt(1.0 - 0.999**number) for number in numbers], dtype=lr.dtype, device=lr.device)
        if settings is None:
            corrections = [-(1.0 - 0.9**number) for number in numbers]
            rates = lr / torch.tensor(corrections, dtype=lr.dtype, device=lr.device)[:, None, None]
            return StepFactors(lr[None], momentum[None], rates, roots, 0.1)
        steps = [self.factors(number, setting) for number, setting in zip(numbers, settings, strict=True)]
        stacked = {name: torch.stack([getattr(step, name) for step in steps]) for name in ("lr", "momentum", "rate")}
        shares = [step.share for step in steps if isinstance(step.share, torch.Tensor)]
        return StepFactors(**stacked, root=roots, share=torch.stack(shares) if shares else 0.1)

    def step(self, rows: torch.Tensor, grads: torch.Tensor, number: int, setting: Setting | None = None) -> None:
        """Update ``rows[M, P]`` in place; ``grads`` is overwritten; ``number`` counts steps from 1.

        ``setting`` is what a schedule asks for at this step; None leaves every hyperparameter as it is.
        """
        self.update(rows, grads, self.factors(number, setting))

    @torch.no_grad()
    def update(self, rows: torch.Tensor, grads: torch.Tensor, factors: StepFactors) -> None:
        """Update ``rows[M, P]`` in place with the factors of one step; ``grads`` is overwritten."""
        weight_decay = self.hyperparameters.weight_decay
        if self.name == "adamw":
            rows.mul_(1.0 - factors.lr * weight_decay)
        elif self._decays:
            grads.addcmul_(rows, weight_decay)
        if self.name in ("adam", "adamw"):
            self._step_adam(rows, grads, factors)
        elif self.name == "rmsprop":
            self._step_rmsprop(rows, grads, factors)
        else:
            self._step_sgd(rows, grads, factors)

    def _step_adam(self, rows: torch.Tensor, grads: torch.Tensor, factors: StepFactors) -> None:
        first, second = self.state["first_moment"], self.state["second_moment"]
        first.lerp_(grads, factors.share)
        second.mul_(0.999).addcmul_(grads, grads, value=0.001)
        denominator = torch.sqrt(second, out=grads)
        denominator.div_(factors.root).add_(1e-8)
        step = first / denominator
        rows.addcmul_(step, factors.rate)

    def _step_rmsprop(self, rows: torch.Tensor, grads: torch.Tensor, h: StepFactors) -> None:
        average, velocity = self.state["square_average"], self.state["velocity"]
        average.mul_(0.99).addcmul_(grads, grads, value=0.01)
        step = grads.div_(average.sqrt().add_(1e-8))
        if self._uses_momentum:
            step = velocity.mul_(h.momentum).add_(step)
        rows.addcmul_(step, -h.lr)

    def _step_sgd(self, rows: torch.Tensor, grads: torch.Tensor, h: StepFactors) -> None:
        step = grads
        if self._uses_momentum:
            velocity = self.state["velocity"]
            velocity.mul_(h.momentum).add_(grads)
            step = grads.addcmul_(velocity, h.momentum) if self.nesterov else velocity
        rows.addcmul_(step, -h.lr)
