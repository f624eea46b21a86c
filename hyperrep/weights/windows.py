"""Which windows of tokens are trained on, and which cover a network with a halo around what is kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zookeeper.errors import InputError


@dataclass(frozen=True)
class HaloWindow:
    """A window of tokens from ``first`` on, of which the tokens ``low`` to ``high`` of the sequence are kept."""

    first: int
    low: int
    high: int

    @property
    def kept(self) -> slice:
        """The kept tokens, counted from the start of the window."""
        return slice(self.low - self.first, self.high - self.first)


def plan_windows(num_tokens: int, size: int, halo: int) -> tuple[HaloWindow, ...]:
    """Cover a sequence with windows of one size; each token is kept by exactly one of them.

    A kept token has ``halo`` tokens of context on either side inside its window, except at the ends of the
    sequence, where there are none; there the window is moved inwards, so that all have the same size. A sequence
    shorter than a window is one window.

    Source: halo of SANE (2024), section 3.

    Parameters
    ----------
    num_tokens
        T, at least 1.
    size
        S, tokens of a window.
    halo
        Tokens dropped on either side, less than half of S.

    Examples
    --------
    >>> [(w.first, w.low, w.high) for w in plan_windows(10, size=6, halo=1)]
    [(0, 0, 5), (4, 5, 10)]
    >>> plan_windows(3, size=6, halo=1)
    (HaloWindow(first=0, low=0, high=3),)
    """
    if num_tokens < 1 or size < 1 or not 0 <= 2 * halo < size:
        raise InputError(
            f"windows: expected 0 <= 2 * halo < size and 1 or more tokens, got size {size}, halo {halo}, "
            f"{num_tokens} tokens."
        )
    if num_tokens <= size:
        return (HaloWindow(0, 0, num_tokens),)
    windows: list[HaloWindow] = []
    low = 0
    while low < num_tokens:
        first = min(max(low - halo, 0), num_tokens - size)
        stop = first + size
        high = num_tokens if stop == num_tokens else stop - halo
        windows.append(HaloWindow(first, low, high))
        low = high
    return tuple(windows)


def draw_window(num_tokens: int, size: int, generator: torch.Generator) -> tuple[int, int]:
    """Draw a window: its first token and its length, ``size`` or all there are; every start is equally likely.

    >>> draw_window(3, 8, torch.Generator())
    (0, 3)
    """
    length = min(size, num_tokens)
    return int(torch.randint(num_tokens - length + 1, (), generator=generator)), length
