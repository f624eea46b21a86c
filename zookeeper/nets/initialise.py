"""Initial weights of a population, one seeded stream per model.

The draw of a model depends on its seed, its initialisation and its layout only: neighbours, order and
device do not matter. Models that share a seed share the underlying draw, as in the published zoos,
where 60 configurations of a grid start from the same stream.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightBlock, WeightLayout

BIAS_FILL = 0.01
"""Value of every bias under a named initialisation, as in the published zoos."""


def _fan_out(block: WeightBlock) -> int:
    return int(block.shape[0] * math.prod(block.shape[2:]))


_UNIFORM_BOUND: dict[str, Callable[[WeightBlock], tuple[float, float]]] = {
    "uniform": lambda b: (0.0, 1.0),
    "kaiming_uniform": lambda b: _symmetric(math.sqrt(6.0 / b.fan_in)),
    "xavier_uniform": lambda b: _symmetric(math.sqrt(6.0 / (b.fan_in + _fan_out(b)))),
    "torch_default": lambda b: _symmetric(1.0 / math.sqrt(b.fan_in)),
}
_NORMAL_STD: dict[str, Callable[[WeightBlock], float]] = {
    "normal": lambda b: 1.0,
    "kaiming_normal": lambda b: math.sqrt(2.0 / b.fan_in),
    "xavier_normal": lambda b: math.sqrt(2.0 / (b.fan_in + _fan_out(b))),
}


def _symmetric(bound: float) -> tuple[float, float]:
    return -bound, bound


def init_names() -> tuple[str, ...]:
    """Known initialisations, sorted."""
    return tuple(sorted((*_UNIFORM_BOUND, *_NORMAL_STD)))


def seeded_generator(purpose: str, seed: int) -> np.random.Generator:
    """Return the stream of one model for one purpose; equal arguments give equal streams."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def initialise_rows(layout: WeightLayout, inits: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """Draw the initial weights of M models, float64 ``[M, P]``.

    ``uniform`` is U(0, 1) and ``normal`` N(0, 1), both unscaled as published; ``kaiming_*`` use fan-in
    and gain sqrt(2), ``xavier_*`` gain 1; every bias is `BIAS_FILL`. ``torch_default`` is what
    `torch.nn` layers do on their own, biases included. Normalisation layers start as the identity.

    Parameters
    ----------
    layout
        Columns of the rows.
    inits, seeds
        One initialisation name and one seed for each model.

    Raises
    ------
    InputError
        If a name is unknown or the lengths differ.

    Examples
    --------
    >>> layout = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight"), "fc.bias": ((2,), "bias")})
    >>> rows = initialise_rows(layout, ["uniform", "kaiming_uniform"], [7, 7])
    >>> rows.shape, rows[0, 6:].tolist()
    ((2, 8), [0.01, 0.01])
    >>> bound = (6 / 3) ** 0.5
    >>> bool(np.allclose(rows[1, :6], (2 * rows[0, :6] - 1) * bound))
    True
    """
    if len(inits) != len(seeds):
        raise InputError(f"initialise: {len(inits)} initialisations for {len(seeds)} seeds; expected as many.")
    for name in set(inits):
        if name not in _UNIFORM_BOUND and name not in _NORMAL_STD:
            raise InputError(f"initialise: unknown init {name!r}; expected {', '.join(init_names())}.")
    rows = np.empty((len(seeds), layout.num_weights))
    drawn: dict[tuple[str, int], np.ndarray] = {}
    for number, (init, seed) in enumerate(zip(inits, seeds, strict=True)):
        if (init, seed) not in drawn:
            drawn[init, seed] = _draw_row(layout, init, seed)
        rows[number] = drawn[init, seed]
    return rows


def _draw_row(layout: WeightLayout, init: str, seed: int) -> np.ndarray:
    generator = seeded_generator("init", seed)
    num = layout.num_weights
    row = generator.standard_normal(num) if init in _NORMAL_STD else generator.random(num)
    for block in layout.blocks:
        part = row[block.columns]
        if block.kind == "weight" and init in _NORMAL_STD:
            part *= _NORMAL_STD[init](block)
        elif block.kind == "weight" or (block.kind == "bias" and init == "torch_default"):
            low, high = _UNIFORM_BOUND[init](block)
            part *= high - low
            part += low
        elif block.kind == "bias":
            part[:] = BIAS_FILL
        else:
            part[:] = 1.0 if block.kind in ("scale", "running_var") else 0.0
    return row
