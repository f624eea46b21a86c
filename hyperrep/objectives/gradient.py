"""Numbers whose gradient is computed beside them, so that nothing need be kept for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def attach_gradient(
    value: torch.Tensor, inputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """Return ``value`` as a function of ``inputs`` whose first derivative is known already; there is no second.

    Parameters
    ----------
    value
        A scalar.
    inputs, gradients
        What it depends on, and its gradient with respect to each; None where it does not depend on one after all.

    Examples
    --------
    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> attach_gradient(torch.tensor(5.0), [x], [torch.tensor([10.0, 20.0])]).mul(0.5).backward()
    >>> x.grad
    tensor([ 5., 10.])
    """
    result: torch.Tensor = _Known.apply(value, tuple(gradients), *inputs)
    return result


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, gradients: tuple[torch.Tensor | None, ...], *inputs: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(*gradients)
        return value.detach().clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, None, *(None if gradient is None else gradient * factor for gradient in ctx.saved_tensors))
