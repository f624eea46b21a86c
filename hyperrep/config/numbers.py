"""The kinds of numbers a configuration holds, and how a whole number is shared out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def apportion(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Share ``total`` out by the given shares, relative to their sum: whole numbers by largest remainders.

    >>> apportion(10, [2, 1])
    (7, 3)
    """
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(number) for number in exact]
    order = sorted(range(len(exact)), key=lambda n: (counts[n] - exact[n], n))
    for number in order[: total - sum(counts)]:
        counts[number] += 1
    return tuple(counts)
