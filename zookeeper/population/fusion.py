"""Which operations of a traced graph a fused kernel may carry out as one: convolution, then pooling, then activation.

The pass looks at the graph alone. A value inside a fusion is never written to memory, so it may have one reader only:
the next operation of the same fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.nets.graph import Graph

_FUNCTIONS: Mapping[Any, str] = {
    F.relu: "relu", torch.relu: "relu", F.tanh: "tanh", torch.tanh: "tanh", F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid", F.silu: "silu", F.gelu: "gelu", F.leaky_relu: "leaky_relu",
}  # fmt: skip
_MODULES: Mapping[Any, tuple[str, str]] = {
    nn.ReLU: ("relu", "ReLU()"),
    nn.Tanh: ("tanh", "Tanh()"),
    nn.Sigmoid: ("sigmoid", "Sigmoid()"),
    nn.SiLU: ("silu", "SiLU()"),
    nn.GELU: ("gelu", "GELU(approximate='none')"),
    nn.LeakyReLU: ("leaky_relu", "LeakyReLU(negative_slope=0.01)"),
}


@dataclass(frozen=True)
class Fusion:
    """A convolution and what follows it directly.

    Parameters
    ----------
    numbers
        Operations of the graph, the convolution first; the value of the last is that of the fusion.
    pool
        Side and stride of the max-pooling after the convolution, 2, or 1 without pooling.
    activation
        Name of the element-wise function at the end, or empty.
    """

    numbers: tuple[int, ...]
    pool: int = 1
    activation: str = ""


def find_fusions(graph: Graph) -> dict[int, Fusion]:
    """Find the fusions of a graph, by the number of their convolution; longest first, each operation in at most one.

    A convolution takes part with one group, stride and dilation 1 and a square kernel padded alike on all sides;
    pooling with windows of 2 x 2 that do not overlap; an activation with torch's defaults and of a known name.

    Examples
    --------
    >>> from zookeeper.nets.graph import trace
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    >>> find_fusions(trace(net, (1, 6, 6)))
    {1: Fusion(numbers=(1, 2, 3), pool=2, activation='tanh')}
    """
    readers: dict[int, list[int]] = {}
    for number, op in enumerate(graph.ops):
        for source in op.inputs:
            readers.setdefault(source, []).append(number)

    def next_kind(number: int, kind: str) -> int | None:
        """Number of the operation that reads a value, if it is one alone and of a kind."""
        found = readers.get(number, [])
        return found[0] if len(found) == 1 and graph.ops[found[0]].kind == kind else None

    fusions = {}
    for number, op in enumerate(graph.ops):
        if op.kind != "conv" or not is_fusible(op.options, op.options["kernel_size"]):
            continue
        numbers, pool, activation = [number], 1, ""
        pooling = next_kind(number, "maxpool")
        if pooling is not None and pools_by_two(graph.ops[pooling].options):
            numbers.append(pooling)
            pool = 2
        function = next_kind(numbers[-1], "activation")
        if function is not None:
            activation = activation_name(graph.ops[function].options["fn"])
            numbers += [function] if activation else []
        fusions[number] = Fusion(tuple(numbers), pool, activation)
    return fusions


def activation_name(function: Callable[..., torch.Tensor]) -> str:
    """Name of an element-wise function with torch's defaults; empty if it is none that the kernels know.

    >>> activation_name(nn.GELU()), activation_name(nn.GELU("tanh")), activation_name(torch.tanh)
    ('gelu', '', 'tanh')
    """
    if type(function) in _MODULES:
        name, written = _MODULES[type(function)]
        return name if repr(function) == written else ""
    if getattr(function, "args", ()) or getattr(function, "kwargs", {}):
        return ""
    return _FUNCTIONS.get(getattr(function, "fn", function), "")


def is_fusible(options: Mapping[str, Any], kernel: tuple[int, ...]) -> bool:
    """Whether the kernels know a convolution with these options and this kernel size."""
    padding = _pair(options["padding"])
    return (
        options["groups"] == 1
        and _pair(options["stride"]) == (1, 1)
        and _pair(options["dilation"]) == (1, 1)
        and padding[0] == padding[1]
        and kernel[0] == kernel[1]
    )


def pools_by_two(options: Mapping[str, Any]) -> bool:
    """Whether a max-pooling has windows of 2 x 2 that do not overlap, and drops what does not fill one."""
    wanted = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
    return not options["ceil_mode"] and all(_pair(options[name]) == value for name, value in wanted.items())


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
