"""The structural part of the loss: how far decoded weights are from the originals."""

from __future__ import annotations

import torch

from zookeeper.errors import InputError


def structure_loss(decoded: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Average the squared error over all weights of all models.

    Rows hold real entries only, so this is the mean over the token mask: padding has no part in it.

    Source: equation 3 of "Structure and Behavior in Weight Space Representation Learning", as a mean
    over weights; the layer-wise normalisation is that of Schürholt et al. (2022, "Hyper-Representations
    as Generative Models").

    Parameters
    ----------
    decoded, rows
        ``[N, P]``.
    weight
        Factor of every column ``[P]``: the inverse variance of the column's layer over the train split
        for the layer-wise normalised loss, then 1 is the error of predicting each layer's mean. None
        for plain squared error.

    Examples
    --------
    >>> structure_loss(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])).item()
    5.0
    >>> structure_loss(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]), torch.tensor([1.0, 0.0])).item()
    0.5
    """
    if decoded.shape != rows.shape:
        raise InputError(f"structure_loss: decoded {tuple(decoded.shape)} and rows {tuple(rows.shape)} differ.")
    error = (decoded - rows).square()
    return (error if weight is None else error * weight).mean()


def cycle_loss(latents: torch.Tensor, encoded_again: torch.Tensor) -> torch.Tensor:
    """Average the distance of latents to those of their own decoded networks, ``|z - enc(dec(z))|``.

    The latents are the target and get no gradient, so the loss cannot be lowered by making them small.

    Parameters
    ----------
    latents, encoded_again
        ``[N, ...]``.

    Examples
    --------
    >>> cycle_loss(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, -1.0]])).item()
    0.5
    """
    if latents.shape != encoded_again.shape:
        raise InputError(f"cycle_loss: latents {tuple(latents.shape)} and {tuple(encoded_again.shape)} differ.")
    return (latents.detach() - encoded_again).abs().mean()
