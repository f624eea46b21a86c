"""The contrastive part of the loss."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from zookeeper.errors import InputError


def contrast_loss(projected: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Compute NT-Xent over two views of N models, for any N.

    Each of the 2N projections must pick its other view among the remaining 2N - 1 by cosine
    similarity; the loss is the mean cross-entropy in nats. It is 0 for one model (nothing to
    confuse it with) and log(2N - 1) when all projections agree.

    Source: Sohn (2016); Chen et al., "A Simple Framework for Contrastive Learning" (2020).

    Parameters
    ----------
    projected
        ``[2N, E]``, entry i and entry N + i are the two views of model i.
    temperature
        Divides the similarities; positive.

    Raises
    ------
    InputError
        If the number of projections is odd or zero, or the temperature is not positive.

    Examples
    --------
    >>> round(contrast_loss(torch.ones(8, 3), temperature=0.1).item(), 4)  # log 7
    1.9459
    """
    num = _num_pairs(projected, temperature)
    unit = F.normalize(projected, dim=1)
    similarity = unit @ unit.T / temperature
    itself = torch.eye(2 * num, dtype=torch.bool, device=projected.device)
    partner = torch.arange(2 * num, device=projected.device).roll(num)
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def positive_contrast_loss(projected: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Draw the two views of each model together without pushing others apart; needs a structural part beside it.

    The mean of ``(1 - cos) / temperature`` over the pairs: 0 where both views point the same way. That is the
    contrast of E_c+D up to a constant.

    Source: equation 3 of Schürholt et al., "Self-Supervised Representation Learning on Neural Network Weights
    for Model Characteristic Prediction" (2021).

    Parameters
    ----------
    projected
        ``[2N, E]``, entry i and entry N + i are the two views of model i.
    temperature
        Divides the similarities; positive.

    Raises
    ------
    InputError
        If the number of projections is odd or zero, or the temperature is not positive.

    Examples
    --------
    >>> views = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, -2.0]])  # alike, and opposite
    >>> positive_contrast_loss(views, temperature=0.5).item()
    2.0
    """
    num = _num_pairs(projected, temperature)
    return (1 - F.cosine_similarity(projected[:num], projected[num:], dim=1)).mean() / temperature


def _num_pairs(projected: torch.Tensor, temperature: float) -> int:
    num = projected.shape[0] // 2
    if projected.ndim != 2 or num < 1 or projected.shape[0] != 2 * num:
        raise InputError(f"contrast_loss: projections have shape {tuple(projected.shape)}; expected [2N, E].")
    if not temperature > 0:
        raise InputError(f"loss.temperature: expected a positive number, got {temperature}.")
    return num
