"""A network as a short list of operations, read off `torch.fx`.

The engine lowers this list to stacked operations and the symmetries are derived from it, so both
follow from the module alone, never from names of layers.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import fx, nn
from torch.nn import functional as F

from zookeeper.errors import StackError
from zookeeper.nets.tracing import ELEMENTWISE_MODULES, follow, refusal

OpKind = Literal[
    "input", "conv", "linear", "batchnorm", "activation", "maxpool", "avgpool", "adaptive_avgpool",
    "dropout", "flatten", "slice", "add", "mean", "output",
]  # fmt: skip


@dataclass(frozen=True)
class Op:
    """One operation: what it is, where its inputs come from, its options, the shape it produces.

    ``layer`` is the module path that owns the parameters (conv, linear, batchnorm), else a label for
    errors. ``shape`` leaves out the batch axis. ``options`` holds plain keyword values; an activation
    has its element-wise function under ``fn``.
    """

    kind: OpKind
    inputs: tuple[int, ...]
    layer: str
    shape: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Operations in order of execution; operation 0 is the input, the last one the output."""

    ops: tuple[Op, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image."""
        return self.ops[0].shape

    @property
    def num_classes(self) -> int:
        """K, the number of logits."""
        return self.ops[-1].shape[-1]


_ELEMENTWISE_FUNCTIONS: frozenset[Any] = frozenset(
    {F.relu, F.leaky_relu, F.tanh, F.sigmoid, F.silu, F.gelu, F.elu, F.softplus, F.relu6, F.hardswish, F.mish,
     torch.relu, torch.tanh, torch.sigmoid}
)  # fmt: skip
_ELEMENTWISE_METHODS: Mapping[str, Callable[..., torch.Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def trace(module: nn.Module, image_shape: tuple[int, ...]) -> Graph:
    """Read a network's operations and their shapes; the module is not changed.

    Parameters
    ----------
    module
        Any module whose forward takes one batch of images and returns logits ``[B, K]``.
    image_shape
        (C, H, W) of one image.

    Raises
    ------
    StackError
        If a layer or function cannot be stacked, or the forward pass depends on values or on the mode;
        the message names the layer's path and type and lists what can be stacked.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [op.kind for op in trace(net, (1, 2, 2)).ops]
    ['input', 'flatten', 'linear', 'activation', 'linear', 'output']
    """
    name = type(module).__name__
    traced = follow(module, image_shape, name)
    return Graph(_Reader(traced, name).read())


class _Call:
    """An element-wise function with its options bound; the tensor comes first."""

    def __init__(self, fn: Callable[..., torch.Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.fn, self.args, self.kwargs = fn, args, dict(kwargs)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.fn(x, *self.args, **self.kwargs)


class _Reader:
    """Turns fx nodes into operations; identities vanish."""

    def __init__(self, traced: fx.GraphModule, name: str) -> None:
        self.traced = traced
        self.name = name
        self.modules = dict(traced.named_modules())
        self.ops: list[Op] = []
        self.number_of: dict[fx.Node, int] = {}
        self.in_place: list[int] = []

    def read(self) -> tuple[Op, ...]:
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self._append(node, "input", (), node.name, {})
            elif node.op == "call_module":
                self._read_module(node, self.modules[str(node.target)])
            elif node.op == "call_function":
                self._read_function(node)
            elif node.op == "call_method":
                self._read_method(node)
            elif node.op == "output":
                result = node.args[0]
                if not isinstance(result, fx.Node):
                    raise StackError(f"{self.name}: forward returns {type(result).__name__}; expected one tensor.")
                number = self.number_of[result]
                shape = self.ops[number].shape
                if len(shape) != 1:
                    raise StackError(f"{self.name}: output has shape [B, {shape}]; expected logits [B, K].")
                self.ops.append(Op("output", (number,), "output", shape, MappingProxyType({})))
            else:
                raise StackError(f"{self.name}: {node.target} is read outside a layer; put it inside a layer.")
        self._check_in_place()
        return tuple(self.ops)

    def _check_in_place(self) -> None:
        """Refuse a value that is overwritten before its last reader: the stacked form overwrites nothing."""
        storage: list[int] = []
        for number, op in enumerate(self.ops):
            storage.append(storage[op.inputs[0]] if op.kind in ("flatten", "slice") else number)
        for number in self.in_place:
            overwritten = storage[self.ops[number].inputs[0]]
            if any(storage[source] == overwritten for op in self.ops[number + 1 :] for source in op.inputs):
                raise StackError(
                    f"{self.name}.{self.ops[number].layer}: overwrites a value that is read again later; "
                    "expected inplace=False."
                )

    def _append(
        self, node: fx.Node, kind: OpKind, inputs: tuple[Any, ...], layer: str, options: dict[str, Any]
    ) -> None:
        shape = node.meta["shape"][1:]
        numbers = tuple(self.number_of[value] for value in inputs)
        self.number_of[node] = len(self.ops)
        self.ops.append(Op(kind, numbers, layer, shape, MappingProxyType(options)))

    def _alias(self, node: fx.Node, source: Any) -> None:
        self.number_of[node] = self.number_of[source]

    def _read_module(self, node: fx.Node, layer: nn.Module) -> None:
        path = str(node.target)
        if len(node.args) != 1 or node.kwargs:
            raise self._refuse(path, f"{type(layer).__name__} with other than one positional argument")
        source = self._source(node, path)
        rank = len(self.ops[self.number_of[source]].shape)
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                raise self._refuse(path, f"Conv2d(padding={layer.padding!r}, padding_mode={layer.padding_mode!r})")
            options = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation", "groups")}
            options["bias"] = layer.bias is not None
            self._append(node, "conv", (source,), path, options)
        elif isinstance(layer, nn.Linear) and rank == 1:
            self._append(node, "linear", (source,), path, {"bias": layer.bias is not None})
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            if layer.momentum is None or not layer.track_running_stats:
                raise self._refuse(path, "BatchNorm without fixed momentum or running statistics")
            options = {"eps": layer.eps, "momentum": layer.momentum, "affine": layer.affine}
            self._append(node, "batchnorm", (source,), path, options)
        elif isinstance(layer, ELEMENTWISE_MODULES):
            self._append(node, "activation", (source,), path, {"fn": _without_inplace(layer)})
            self._note_in_place(getattr(layer, "inplace", False))
        elif isinstance(layer, nn.MaxPool2d) and not layer.return_indices:
            options = {k: getattr(layer, k) for k in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")}
            self._append(node, "maxpool", (source,), path, options)
        elif isinstance(layer, nn.AvgPool2d) and layer.divisor_override is None:
            options = {
                k: getattr(layer, k) for k in ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
            }
            self._append(node, "avgpool", (source,), path, options)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            self._append(node, "adaptive_avgpool", (source,), path, {"output_size": layer.output_size})
        elif isinstance(layer, nn.Dropout):
            self._append(node, "dropout", (source,), path, {"p": layer.p})
            self._note_in_place(layer.inplace)
        elif isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
            self._read_flatten(node, source, path)
        elif isinstance(layer, nn.Identity):
            self._alias(node, source)
        else:
            raise self._refuse(path, repr(layer))

    def _source(self, node: fx.Node, where: str) -> fx.Node:
        """Return the tensor a layer, function or method is applied to."""
        if not node.args or not isinstance(node.args[0], fx.Node) or "shape" not in node.args[0].meta:
            raise self._refuse(where, "a call whose first positional argument is not one tensor")
        return node.args[0]

    def _note_in_place(self, inplace: object) -> None:
        if inplace:
            self.in_place.append(len(self.ops) - 1)

    def _read_flatten(self, node: fx.Node, source: Any, path: str) -> None:
        if len(self.ops[self.number_of[source]].shape) == 1:
            self._alias(node, source)
        else:
            self._append(node, "flatten", (source,), path, {})

    def _read_function(self, node: fx.Node) -> None:
        target, name = node.target, getattr(node.target, "__name__", str(node.target))
        if target in (operator.add, operator.iadd, torch.add) and not node.kwargs:
            if not all(isinstance(value, fx.Node) for value in node.args):
                raise self._refuse(node.name, "adding a constant")
            first, second = (self.ops[self.number_of[value]].shape for value in node.args if isinstance(value, fx.Node))
            if first != second:
                raise self._refuse(node.name, f"adding shapes {first} and {second}")
            self._append(node, "add", node.args, node.name, {})
            self._note_in_place(target is operator.iadd)
        elif target in _ELEMENTWISE_FUNCTIONS:
            options = {k: v for k, v in node.kwargs.items() if k != "inplace"}
            fn = _Call(cast(Callable[..., torch.Tensor], target), node.args[1:], options)
            self._append(node, "activation", (self._source(node, node.name),), node.name, {"fn": fn})
            self._note_in_place(node.kwargs.get("inplace"))
        elif target is torch.flatten and self._arguments(node, (0, -1), ("start_dim", "end_dim")) == (1, -1):
            self._read_flatten(node, self._source(node, node.name), node.name)
        elif target is F.max_pool2d:
            names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
            self._read_pool(node, "maxpool", names, (None, None, 0, 1, False, False))
        elif target is F.avg_pool2d:
            names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
            self._read_pool(node, "avgpool", names, (None, None, 0, False, True, None))
        elif target is F.adaptive_avg_pool2d:
            (size,) = self._arguments(node, (None,), ("output_size",))
            source = self._source(node, node.name)
            self._append(node, "adaptive_avgpool", (source,), node.name, {"output_size": size})
        elif target is torch.mean:
            self._read_mean(node)
        elif target is operator.getitem:
            self._read_slice(node)
        else:
            raise self._refuse(node.name, f"function {name}")

    def _read_pool(self, node: fx.Node, kind: OpKind, names: tuple[str, ...], defaults: tuple[Any, ...]) -> None:
        """Read a pooling function; its last option is one that cannot be stacked."""
        options = dict(zip(names, self._arguments(node, defaults, names), strict=True))
        if options.pop(names[-1]) not in (None, False):
            raise self._refuse(node.name, f"{kind} with {names[-1]}")
        if options["stride"] is None:
            options["stride"] = options["kernel_size"]
        self._append(node, kind, (self._source(node, node.name),), node.name, options)

    def _read_method(self, node: fx.Node) -> None:
        target, source = str(node.target), self._source(node, node.name)
        if target in _ELEMENTWISE_METHODS:
            self._append(node, "activation", (source,), node.name, {"fn": _ELEMENTWISE_METHODS[target]})
        elif target == "flatten" and self._arguments(node, (0, -1), ("start_dim", "end_dim")) == (1, -1):
            self._read_flatten(node, source, node.name)
        elif target == "mean":
            self._read_mean(node)
        elif target in ("contiguous", "clone"):
            self._alias(node, source)
        else:
            raise self._refuse(node.name, f"method .{target}()")

    def _read_mean(self, node: fx.Node) -> None:
        axes, keepdim, dtype = self._arguments(node, (None, False, None), ("dim", "keepdim", "dtype"))
        source = self._source(node, node.name)
        rank = len(self.ops[self.number_of[source]].shape)
        wanted = sorted(axis % 4 for axis in axes) if isinstance(axes, (tuple, list)) else None
        if rank != 3 or wanted != [2, 3] or keepdim or dtype is not None:
            raise self._refuse(node.name, f"mean over {axes}")
        self._append(node, "mean", (source,), node.name, {})

    def _read_slice(self, node: fx.Node) -> None:
        """Read ``x[:, :, a:b:c, d:e:f]``, which keeps every image and every channel."""
        source, index = self._source(node, node.name), node.args[1]
        parts = list(index) if isinstance(index, tuple) else [index]
        if parts.count(Ellipsis) == 1:
            place = parts.index(Ellipsis)
            parts[place : place + 1] = [slice(None)] * (5 - len(parts))
        parts += [slice(None)] * (4 - len(parts))
        numbers = [n for part in parts if isinstance(part, slice) for n in (part.start, part.stop, part.step)]
        fits = len(parts) == 4 and len(numbers) == 12 and all(n is None or isinstance(n, int) for n in numbers)
        if len(self.ops[self.number_of[source]].shape) != 3 or not fits or parts[:2] != [slice(None)] * 2:
            raise self._refuse(node.name, f"indexing with [{_written(index)}]")
        self._append(node, "slice", (source,), node.name, {"rows": parts[2], "columns": parts[3]})

    def _arguments(self, node: fx.Node, defaults: tuple[Any, ...], names: tuple[str, ...]) -> tuple[Any, ...]:
        unknown = [key for key in node.kwargs if key not in names]
        if unknown or len(node.args) > 1 + len(names):
            raise self._refuse(node.name, f"{node.target} with {', '.join(unknown) or 'so many arguments'}")
        values = list(node.args[1:]) + list(defaults[len(node.args) - 1 :])
        for number, key in enumerate(names):
            if key in node.kwargs:
                values[number] = node.kwargs[key]
        return tuple(values)

    def _refuse(self, where: str, what: str) -> StackError:
        return refusal(self.name, where, what)


def _written(index: Any) -> str:
    """Text of an index as it stands between brackets."""
    if isinstance(index, tuple):
        return ", ".join(_written(part) for part in index)
    if isinstance(index, slice):
        numbers = ("" if n is None else str(n) for n in (index.start, index.stop, index.step))
        return ":".join(numbers).removesuffix(":") if index.step is None else ":".join(numbers)
    return "..." if index is Ellipsis else str(index)


def _without_inplace(layer: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    copied = copy.deepcopy(layer)
    if hasattr(copied, "inplace"):
        setattr(copied, "inplace", False)  # noqa: B010
    return copied
