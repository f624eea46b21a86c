"""Augmented views: permutations that keep the function, erasing and noise that hide part of the weights."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from zookeeper.errors import InputError

ERASED_AREA = (0.03, 0.3)
ERASED_ASPECT = (0.3, 3.3)


class Permutations(Protocol):
    """Whatever draws column permutations that keep a network's function (`zookeeper.nets.symmetry`)."""

    def draw(self, num: int, generator: torch.Generator) -> np.ndarray:
        """Draw ``num`` index rows, int64 ``[num, P]``."""
        ...


def draw_views(
    rows: torch.Tensor, permutations: Permutations | None, generator: torch.Generator, *, num_views: int = 2
) -> torch.Tensor:
    """Permute every row once per view, one index gather on the fly.

    Parameters
    ----------
    rows
        ``[N, P]``.
    permutations
        Source of permutations; with None every view is the row itself.
    generator
        Decides every draw.
    num_views
        V, at least 1.

    Returns
    -------
    torch.Tensor
        ``[V * N, P]``, view after view: entry ``v * N + i`` is view v of model i.

    Examples
    --------
    >>> class Swap:
    ...     def draw(self, num, generator):
    ...         return np.array([[1, 0]] * num)
    >>> draw_views(torch.tensor([[3.0, 4.0]]), Swap(), torch.Generator()).tolist()
    [[4.0, 3.0], [4.0, 3.0]]
    """
    if num_views < 1:
        raise InputError(f"draw_views: expected at least one view, got {num_views}.")
    repeated = rows.repeat(num_views, 1)
    if permutations is None:
        return repeated
    index = torch.from_numpy(permutations.draw(repeated.shape[0], generator))
    return torch.gather(repeated, 1, index.to(rows.device))


def erase(tokens: torch.Tensor, generator: torch.Generator, *, probability: float) -> torch.Tensor:
    """Set one random rectangle of tokens and entries to zero, in each model with the given probability.

    The rectangle covers 3 to 30 % of ``[T, D]`` (less where its shape meets the border), with an
    aspect ratio between 0.3 and 3.3. The input is not changed.

    Source: Zhong et al., "Random Erasing Data Augmentation" (2020), as used for weights by SANE.
    """
    num, num_tokens, width = tokens.shape
    if probability == 0:
        return tokens
    hit, area, aspect, top, left = torch.rand(5, num, generator=generator).unbind()
    low, high = ERASED_AREA
    area = (low + (high - low) * area) * num_tokens * width
    log_low, log_high = torch.tensor(ERASED_ASPECT).log()
    aspect = (log_low + (log_high - log_low) * aspect).exp()
    height = (area * aspect).sqrt().round().clamp(1, num_tokens)
    across = (area / aspect).sqrt().round().clamp(1, width)
    top = (top * (num_tokens - height + 1)).floor()
    left = (left * (width - across + 1)).floor()
    inside_tokens = _between(torch.arange(num_tokens), top, height)  # [N, T]
    inside_entries = _between(torch.arange(width), left, across)  # [N, D]
    inside = inside_tokens[:, :, None] & inside_entries[:, None, :] & (hit < probability)[:, None, None]
    return tokens.masked_fill(inside.to(tokens.device), 0.0)


def add_noise(tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator, *, sigma: float) -> torch.Tensor:
    """Add normal noise of deviation ``sigma`` to real entries of ``[N, T, D]``; padding (mask False) stays zero.

    >>> mask = torch.tensor([[True, False]])
    >>> add_noise(torch.zeros(1, 1, 2), mask, torch.Generator().manual_seed(0), sigma=1.0)[0, 0, 1].item()
    0.0
    """
    if sigma == 0:
        return tokens
    noise = torch.randn(tokens.shape, generator=generator).to(tokens.device)
    return torch.where(mask.to(tokens.device), tokens + sigma * noise, tokens)


def add_relative_noise(tokens: torch.Tensor, generator: torch.Generator, *, sigma: float) -> torch.Tensor:
    """Multiply every entry of ``[N, T, D]`` by 1 + sigma eps with normal eps; zeros, so padding too, stay zero.

    >>> tokens = torch.tensor([[[2.0, 0.0]]])
    >>> changed = add_relative_noise(tokens, torch.Generator().manual_seed(0), sigma=0.1)
    >>> bool(changed[0, 0, 0] != 2), changed[0, 0, 1].item()
    (True, 0.0)
    """
    if sigma == 0:
        return tokens
    return tokens * (1 + sigma * torch.randn(tokens.shape, generator=generator).to(tokens.device))


def _between(index: torch.Tensor, start: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return (index >= start[:, None]) & (index < (start + length)[:, None])
