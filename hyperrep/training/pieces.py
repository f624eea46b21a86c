"""A loss over a batch, a piece of it at a time, with the gradient of a piece before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from hyperrep.objectives.gradient import attach_gradient

PartsOf = Callable[[slice, torch.Tensor], Mapping[str, torch.Tensor]]


def sum_over_pieces(
    latents: torch.Tensor,
    parts_of: PartsOf,
    weigh: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
    weights: Sequence[torch.Tensor],
    size: int,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Average the parts of a loss over the networks of a batch, in pieces.

    What a network adds to these parts must not depend on others. Then every piece can go forward and backward before
    the next, nothing is computed twice, and memory is that of one piece, whatever the batch.

    Parameters
    ----------
    latents
        ``[V, N, ...]`` of V views of N networks.
    parts_of
        From (networks, their latents ``[V, n, ...]``) to the mean of every part over them.
    weigh
        From the parts to the total.
    weights
        Whatever else the parts depend on and needs a gradient.
    size
        Networks of a piece, at least 1.

    Returns
    -------
    total
        Differentiable once, in latents and weights.
    values
        The mean of every part over the batch, without a gradient.

    Examples
    --------
    >>> latents = torch.tensor([[[1.0], [2.0], [3.0]]], requires_grad=True)
    >>> factor = torch.tensor(10.0, requires_grad=True)
    >>> parts_of = lambda networks, some: {"structure": (factor * some).mean()}
    >>> total, values = sum_over_pieces(latents, parts_of, lambda parts: 0.5 * parts["structure"], [factor], 2)
    >>> total.backward()
    >>> total.item(), values["structure"].item(), factor.grad.item(), latents.grad.sum().item()
    (10.0, 20.0, 1.0, 5.0)
    """
    wanted = torch.is_grad_enabled()
    total, values = latents.new_zeros(()), dict[str, torch.Tensor]()
    gradients: list[torch.Tensor | None] = [None] * len(weights)
    of_latents = torch.zeros_like(latents)
    for first in range(0, latents.shape[1], size):
        networks = slice(first, first + size)
        piece = latents[:, networks].detach().requires_grad_(wanted)
        parts = parts_of(networks, piece)
        share = piece.shape[1] / latents.shape[1]
        value = weigh(parts) * share
        total += value.detach()
        for name, part in parts.items():
            values[name] = values.get(name, 0.0) + part.detach() * share
        if wanted:
            found = torch.autograd.grad(value, [piece, *weights], allow_unused=True)
            of_latents[:, networks] = found[0]
            gradients = [_add(gradient, more) for gradient, more in zip(gradients, found[1:], strict=True)]
    if wanted:
        total = attach_gradient(total, [latents, *weights], [of_latents, *gradients])
    return total, values


def _add(gradient: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    if gradient is None or more is None:
        return more if gradient is None else gradient
    return gradient.add_(more)
