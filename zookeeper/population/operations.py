"""What a population does step by step: the stacked form of every operation of a traced graph, and their order.

Image-shaped values are ``[B, M*C, H, W]`` (channels last in memory), vectors are ``[M, B, F]``; a value that all
networks share, such as evaluation images, is kept once until the first layer with weights. Fused kernels read and write
``[M, B, C, H, W]`` instead; such a value is stacked where an operation wants it so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from zookeeper.nets.graph import Graph, Op
from zookeeper.population.convolution import GROUPED, TRITON, as_grouped, convolve, stack_images
from zookeeper.population.fusion import Fusion, activation_name, find_fusions, pools_by_two
from zookeeper.population.pooled import Settings, convolve_pooled
from zookeeper.population.pooled import takes as takes_pooled
from zookeeper.population.tiles import part_size
from zookeeper.population.triton_convolution import convolve_fused, takes

if TYPE_CHECKING:
    from zookeeper.population.randomness import DropoutStream

Value = tuple[torch.Tensor, bool]
"""A value on its way through a network, and whether all networks share it."""


class Pass:
    """One forward pass: the weights as named stacks, and what training needs beside them."""

    def __init__(
        self,
        parts: Mapping[str, torch.Tensor],
        num_models: int,
        num_images: int,
        dropout: DropoutStream | None,
        lowerings: Mapping[str, str],
        num_floats: int,
    ) -> None:
        self.parts = parts
        self.num_models = num_models
        self.num_images = num_images
        self.dropout = dropout
        self.lowerings = lowerings
        self.num_floats = num_floats
        self.statistics: dict[str, torch.Tensor] = {}
        self.training = False


@dataclass(frozen=True)
class Instruction:
    """One operation of the graph with its number, or several that are carried out as one.

    Those are the operations of a fused kernel, or a convolution with the max-pooling that alone reads it and a ReLU
    after or before that. The result is the value of the last operation; ``last_read`` lists values that nobody reads
    afterwards.
    """

    ops: tuple[tuple[int, Op], ...]
    fusion: Fusion | None
    last_read: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of the values it reads."""
        return self.ops[0][1].inputs

    @property
    def result(self) -> int:
        """Number of the value it gives."""
        return self.ops[-1][0]


def plan_instructions(graph: Graph, lowerings: Mapping[str, str]) -> tuple[Instruction, ...]:
    """Order the work of a forward pass: every operation, those of a fusion as one, the input left out."""
    fusions = {
        number: fusion
        for number, fusion in find_fusions(graph).items()
        if lowerings.get(graph.ops[number].layer) == TRITON
    }
    runs = {number: fusion.numbers for number, fusion in fusions.items()}
    runs = _pooled_convolutions(graph, lowerings) | runs
    inside = {passed for run in runs.values() for passed in run[1:]}
    work = []
    for number in range(1, len(graph.ops)):
        if number not in inside:
            fusion = fusions.get(number)
            numbers = runs.get(number, (number,))
            work.append(Instruction(tuple((n, graph.ops[n]) for n in numbers), fusion, ()))
    last = {source: one for one in work for source in one.inputs}
    return tuple(
        replace(one, last_read=tuple(source for source, reader in last.items() if reader is one)) for one in work
    )


def _pooled_convolutions(graph: Graph, lowerings: Mapping[str, str]) -> dict[int, tuple[int, ...]]:
    """Grouped convolutions with a bias that a max-pooling reads, each with it and with a ReLU before or after it."""
    readers: dict[int, list[int]] = {}
    for number, op in enumerate(graph.ops):
        for source in op.inputs:
            readers.setdefault(source, []).append(number)

    def next_of(number: int, kind: str) -> int | None:
        """Number of the operation that alone reads a value, if it is max-pooling or, for an activation, ReLU."""
        found = readers.get(number, [])
        if len(found) != 1 or graph.ops[found[0]].kind != kind:
            return None
        is_relu = kind == "maxpool" or activation_name(graph.ops[found[0]].options["fn"]) == "relu"
        return found[0] if is_relu else None

    runs: dict[int, tuple[int, ...]] = {}
    for number, op in enumerate(graph.ops):
        is_grouped = op.kind == "conv" and lowerings.get(op.layer, GROUPED) == GROUPED
        if not is_grouped or not op.options["bias"]:
            continue
        pool, relu = next_of(number, "maxpool"), next_of(number, "activation")
        if pool is not None:
            relu = next_of(pool, "activation")
            runs[number] = (number, pool) if relu is None else (number, pool, relu)
        elif relu is not None:
            pool = next_of(relu, "maxpool")
            if pool is not None:
                runs[number] = (number, relu, pool)
    return runs


_ANY_FORM = ("flatten", "activation", "dropout", "output")


def carry_out(state: Pass, one: Instruction, inputs: list[Value]) -> Value:
    """Compute the result of an instruction from the values it reads."""
    if one.fusion is not None and takes(inputs[0][0]):
        return _fused(state, one.ops[0][1], one.fusion, inputs[0])
    if one.fusion is None and len(one.ops) > 1:
        named = {op.kind: op for _, op in one.ops}
        return _conv_pooled(state, named["conv"], named["maxpool"], named.get("activation"), inputs[0])
    for number, op in one.ops:
        if op.kind not in _ANY_FORM:
            inputs = [(stack_images(x) if x.ndim == 5 else x, shared) for x, shared in inputs]
        inputs = [_LOWERINGS[op.kind](state, op, number, *inputs)]
    return inputs[0]


def _fused(state: Pass, op: Op, fusion: Fusion, value: Value) -> Value:
    x, shared = value
    weight = state.parts[f"{op.layer}.weight"]
    if not shared and x.ndim == 4:
        x = torch.unflatten(x, 1, (state.num_models, -1)).transpose(0, 1)
    out = convolve_fused(
        x,
        weight,
        state.parts[f"{op.layer}.bias"] if op.options["bias"] else None,
        padding=op.options["padding"][0],
        pool=fusion.pool,
        activation=fusion.activation,
    )
    return out, False


def _unshare(state: Pass, op_shape: tuple[int, ...], value: Value) -> torch.Tensor:
    """Give every network its own copy of a shared value."""
    x, shared = value
    if not shared:
        return x
    if len(op_shape) == 1:
        return x.expand(state.num_models, *x.shape)
    return stack_images(x.expand(state.num_models, *x.shape))


def _conv(state: Pass, op: Op, number: int, value: Value) -> Value:
    bias = state.parts[f"{op.layer}.bias"] if op.options["bias"] else None
    lowering = state.lowerings.get(op.layer, GROUPED)
    weight = state.parts[f"{op.layer}.weight"]
    return convolve(value[0], weight, bias, op.options, shared=value[1], lowering=lowering), False


def _conv_pooled(state: Pass, op: Op, pool: Op, relu: Op | None, value: Value) -> Value:
    """Add the bias and apply ReLU after pooling, which is the same: both commute with a maximum, also in rounding.

    On the smaller image they cost less, their gradients above all.
    """
    x, shared = value
    x = stack_images(x) if x.ndim == 5 else x
    weight, bias = state.parts[f"{op.layer}.weight"], state.parts[f"{op.layer}.bias"]
    if takes_pooled(x, weight) and pools_by_two(pool.options):
        x, kernels, options, groups = as_grouped(x, weight, op.options, shared=shared)
        part = part_size(state.num_floats, math.prod(op.shape), len(x))
        settings = Settings.of(options, groups=groups, relu=relu is not None, part=part)
        return convolve_pooled(x, kernels, bias.reshape(-1), settings), False
    out = convolve(x, weight, None, op.options, shared=shared, lowering=GROUPED)
    pooled = _max_pool(out, pool.options).add_(bias.to(out.dtype).reshape(1, -1, 1, 1))
    return pooled if relu is None else relu.options["fn"](pooled), False


def _linear(state: Pass, op: Op, number: int, value: Value) -> Value:
    x, shared = value
    weight = state.parts[f"{op.layer}.weight"].transpose(1, 2)  # [M, F, O]
    if shared:
        x = x.expand(state.num_models, *x.shape)
    if not op.options["bias"]:
        return torch.bmm(x, weight), False
    return torch.baddbmm(state.parts[f"{op.layer}.bias"].unsqueeze(1), x, weight), False


def _batchnorm(state: Pass, op: Op, number: int, value: Value) -> Value:
    is_vector = len(op.shape) == 1
    x = _unshare(state, op.shape, value)
    if is_vector:
        x = x.transpose(0, 1).flatten(1)  # [B, M*F]
    names = [f"{op.layer}.running_mean", f"{op.layer}.running_var"]
    mean, var = (state.statistics.get(name, state.parts[name]).flatten() for name in names)
    affine = op.options["affine"]
    scale = state.parts[f"{op.layer}.weight"].flatten() if affine else None
    shift = state.parts[f"{op.layer}.bias"].flatten() if affine else None
    momentum, eps = op.options["momentum"], op.options["eps"]
    if state.training:
        mean, var = mean.detach().clone(), var.detach().clone()  # updated in place
        state.statistics |= {name: v.view(state.num_models, -1) for name, v in zip(names, (mean, var), strict=True)}
    if mean.requires_grad:
        y = _normalise(x, mean, var, scale, shift, eps)
    else:
        y = F.batch_norm(x, mean, var, scale, shift, state.training, momentum, eps)
    if is_vector:
        y = torch.unflatten(y, 1, (state.num_models, -1)).transpose(0, 1)
    return y, False


def _normalise(
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """Batch norm with given statistics, differentiable in them too (`F.batch_norm` refuses that)."""
    factor = torch.rsqrt(var + eps)
    factor = factor if scale is None else factor * scale
    offset = -mean * factor
    offset = offset if shift is None else offset + shift
    axes = (1, -1) + (1,) * (x.ndim - 2)
    return torch.addcmul(offset.view(axes), x, factor.view(axes))


def _activation(state: Pass, op: Op, number: int, value: Value) -> Value:
    return op.options["fn"](value[0]), value[1]


def _maxpool(state: Pass, op: Op, number: int, value: Value) -> Value:
    return _max_pool(value[0], op.options), value[1]


def _max_pool(x: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
    """Pool images; without gradients, which need indices, halves of rows and columns are compared as they lie."""
    is_stacked = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
    if not is_stacked or (x.requires_grad and torch.is_grad_enabled()) or not pools_by_two(options):
        pooled: torch.Tensor = F.max_pool2d(x, **options)
        return pooled
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    rows = torch.maximum(x[:, :, 0:height:2], x[:, :, 1:height:2])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def _avgpool(state: Pass, op: Op, number: int, value: Value) -> Value:
    return F.avg_pool2d(value[0], **op.options), value[1]


def _adaptive_avgpool(state: Pass, op: Op, number: int, value: Value) -> Value:
    return F.adaptive_avg_pool2d(value[0], op.options["output_size"]), value[1]


def _dropout(state: Pass, op: Op, number: int, value: Value) -> Value:
    if not state.training or state.dropout is None:
        return value
    x = _unshare(state, op.shape, value)
    dtype = torch.promote_types(x.dtype, torch.float32)
    mask = state.dropout.mask(number, state.num_images, op.shape, dtype)
    return x * (stack_images(mask) if x.ndim == 4 else mask), False


def _flatten(state: Pass, op: Op, number: int, value: Value) -> Value:
    x, shared = value
    if shared:
        return x.flatten(1), True
    if x.ndim == 5:  # images straight from the input: [M, B, C, H, W]
        return x.flatten(2), False
    if x.requires_grad:  # the gradient comes as vectors: back in the stack's form the operations before are fast
        x.register_hook(_stack_gradient)  # type: ignore[no-untyped-call]
    channels = x.shape[1] // state.num_models
    x = torch.unflatten(x, 1, (state.num_models, channels))  # [B, M, C, H, W]
    return x.transpose(0, 1).reshape(state.num_models, state.num_images, -1).contiguous(), False


def _stack_gradient(gradient: torch.Tensor | None) -> torch.Tensor | None:
    """Bring a gradient into the stack's form; autograd hands over None where no gradient arrives."""
    return None if gradient is None else gradient.contiguous(memory_format=torch.channels_last)


def _slice(state: Pass, op: Op, number: int, value: Value) -> Value:
    return value[0][:, :, op.options["rows"], op.options["columns"]], value[1]


def _mean(state: Pass, op: Op, number: int, value: Value) -> Value:
    x, shared = value
    pooled = x.mean((2, 3))
    if shared:
        return pooled, True
    return torch.unflatten(pooled, 1, (state.num_models, -1)).transpose(0, 1), False


def _add(state: Pass, op: Op, number: int, first: Value, second: Value) -> Value:
    if first[1] and second[1]:
        return first[0] + second[0], True
    return _unshare(state, op.shape, first) + _unshare(state, op.shape, second), False


def _pass_on(state: Pass, op: Op, number: int, value: Value) -> Value:
    return value


_LOWERINGS: dict[str, Callable[..., Value]] = {
    "input": _pass_on,
    "conv": _conv,
    "linear": _linear,
    "batchnorm": _batchnorm,
    "activation": _activation,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "adaptive_avgpool": _adaptive_avgpool,
    "dropout": _dropout,
    "flatten": _flatten,
    "slice": _slice,
    "mean": _mean,
    "add": _add,
    "output": _pass_on,
}
