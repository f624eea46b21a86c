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
_OTHERS = ("orthogonal", "truncated_normal")
_STD_INITS = ("normal", "truncated_normal")
BIAS_INITS = ("default", "normal", "ones", "zeros")


def _symmetric(bound: float) -> tuple[float, float]:
    return -bound, bound


def init_names() -> tuple[str, ...]:
    """Known initialisations, sorted."""
    return tuple(sorted((*_UNIFORM_BOUND, *_NORMAL_STD, *_OTHERS)))


def seeded_generator(purpose: str, seed: int) -> np.random.Generator:
    """Return the stream of one model for one purpose; equal arguments give equal streams."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def initialise_rows(
    layout: WeightLayout,
    inits: Sequence[str],
    seeds: Sequence[int],
    *,
    stds: Sequence[float] | None = None,
    bias_inits: Sequence[str] | None = None,
) -> np.ndarray:
    """Draw the initial weights of M models, float64 ``[M, P]``.

    ``uniform`` is U(0, 1) and ``normal`` N(0, 1), both unscaled as published; ``kaiming_*`` use fan-in
    and gain sqrt(2), ``xavier_*`` gain 1; every bias is `BIAS_FILL`. ``torch_default`` is what
    `torch.nn` layers do on their own, biases included. ``truncated_normal`` is N(0, 1) cut at 2 standard
    deviations, ``orthogonal`` a random orthogonal matrix per layer, as `torch.nn.init.orthogonal_`.
    Normalisation layers start as the identity.

    Parameters
    ----------
    layout
        Columns of the rows.
    inits, seeds
        One initialisation name and one seed for each model.
    stds
        Factor on ``normal`` and ``truncated_normal`` weights and on normal biases, > 0, one for each model; default 1.
    bias_inits
        ``zeros``, ``ones``, ``normal`` (N(0, 1) times the model's std) or ``default`` (as above), one for each model.

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
    stds = [1.0] * len(seeds) if stds is None else stds
    bias_inits = ["default"] * len(seeds) if bias_inits is None else bias_inits
    if not len(inits) == len(stds) == len(bias_inits) == len(seeds):
        raise InputError(f"initialise: {len(inits)} initialisations for {len(seeds)} seeds; expected as many.")
    for name in set(inits):
        if name not in init_names():
            raise InputError(f"initialise: unknown init {name!r}; expected {', '.join(init_names())}.")
    for name in set(bias_inits):
        if name not in BIAS_INITS:
            raise InputError(f"initialise: unknown bias init {name!r}; expected {', '.join(BIAS_INITS)}.")
    rows = np.empty((len(seeds), layout.num_weights))
    drawn: dict[tuple[str, int, float, str], np.ndarray] = {}
    for number, key in enumerate(zip(inits, seeds, stds, bias_inits, strict=True)):
        if key not in drawn:
            drawn[key] = _draw_row(layout, *key)
        rows[number] = drawn[key]
    return rows


def _draw_row(layout: WeightLayout, init: str, seed: int, std: float, bias_init: str) -> np.ndarray:
    generator = seeded_generator("init", seed)
    num = layout.num_weights
    row = generator.random(num) if init in (*_UNIFORM_BOUND, "truncated_normal") else generator.standard_normal(num)
    for block in layout.blocks:
        part = row[block.columns]
        if block.kind == "weight":
            _fill_weight(part, block, init)
            if init in _STD_INITS:
                part *= std
        elif block.kind == "bias" and bias_init == "default" and init == "torch_default":
            _spread(part, _UNIFORM_BOUND[init](block))
        elif block.kind == "bias":
            part[:] = {"default": BIAS_FILL, "ones": 1.0}.get(bias_init, 0.0)
        else:
            part[:] = 1.0 if block.kind in ("scale", "running_var") else 0.0
    if bias_init == "normal":  # a stream of its own: the same whatever the weights' draw
        draw = std * seeded_generator("init bias", seed).standard_normal(num)
        for block in layout.blocks:
            if block.kind == "bias":
                row[block.columns] = draw[block.columns]
    return row


def _fill_weight(part: np.ndarray, block: WeightBlock, init: str) -> None:
    """Turn the draw of a weight block, uniform or standard normal, into its initialisation, in place."""
    if init in _NORMAL_STD:
        part *= _NORMAL_STD[init](block)
    elif init in _UNIFORM_BOUND:
        _spread(part, _UNIFORM_BOUND[init](block))
    elif init == "truncated_normal":
        from scipy.special import ndtr, ndtri  # takes .2 s, which workers feel

        low, high = ndtr(-2.0), ndtr(2.0)
        part[:] = ndtri(low + part * (high - low))
    else:
        matrix = part.reshape(block.shape[0], -1)
        flat = matrix.shape[0] < matrix.shape[1]
        basis, upper = np.linalg.qr(matrix.T if flat else matrix)
        basis = basis * np.sign(np.diag(upper))
        part[:] = (basis.T if flat else basis).reshape(-1)


def _spread(part: np.ndarray, bounds: tuple[float, float]) -> None:
    low, high = bounds
    part *= high - low
    part += low
