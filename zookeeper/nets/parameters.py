"""Between a `torch.nn.Module` and a row: named blocks, state dicts, loading."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from zookeeper.errors import StackError
from zookeeper.nets.layout import BlockKind, WeightLayout

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def named_blocks(module: nn.Module) -> dict[str, tuple[tuple[int, ...], BlockKind]]:
    """Name, shape and kind of every stored tensor: parameters in module order, then running statistics.

    ``num_batches_tracked`` is not stored: with a fixed momentum no forward pass reads it.

    Raises
    ------
    StackError
        If a parameter belongs to a layer whose role is unknown, or two names share one tensor.
    """
    blocks: dict[str, tuple[tuple[int, ...], BlockKind]] = {}
    buffers: dict[str, tuple[tuple[int, ...], BlockKind]] = {}
    seen: dict[int, str] = {}
    for layer_name, layer in module.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            full = f"{layer_name}.{name}" if layer_name else name
            if id(parameter) in seen:
                raise StackError(f"{full}: shares its tensor with {seen[id(parameter)]}; expected untied weights.")
            seen[id(parameter)] = full
            kinds: dict[str, BlockKind]
            if isinstance(layer, _WEIGHTED):
                kinds = {"weight": "weight", "bias": "bias"}
            elif isinstance(layer, _NORMS):
                kinds = {"weight": "scale", "bias": "shift"}
            else:
                kinds = {}
            if name not in kinds:
                raise StackError(
                    f"{full}: parameters of a {type(layer).__name__} cannot be stacked; "
                    "expected Conv2d, Linear or BatchNorm layers to hold all parameters."
                )
            blocks[full] = (tuple(parameter.shape), kinds[name])
        if isinstance(layer, _NORMS) and layer.track_running_stats:
            prefix = f"{layer_name}." if layer_name else ""
            buffers[f"{prefix}running_mean"] = ((layer.num_features,), "running_mean")
            buffers[f"{prefix}running_var"] = ((layer.num_features,), "running_var")
    return blocks | buffers


def row_of(module: nn.Module, layout: WeightLayout | None = None) -> torch.Tensor:
    """Copy a network's weights into one row ``[P]``, in the layout's column order."""
    layout = WeightLayout.of(module) if layout is None else layout
    state = module.state_dict()
    parts: dict[str, torch.Tensor] = {b.name: state[b.name].detach() for b in layout.blocks}
    return layout.flatten(parts).clone()


def state_dict_of(row: torch.Tensor, layout: WeightLayout) -> OrderedDict[str, torch.Tensor]:
    """Named tensors of one row ``[P]``, as a state dict (copies)."""
    return OrderedDict((name, part.clone()) for name, part in layout.unflatten(row).items())


def load_row(module: nn.Module, row: torch.Tensor, layout: WeightLayout | None = None) -> nn.Module:
    """Write one row ``[P]`` into a network in place and return the network."""
    layout = WeightLayout.of(module) if layout is None else layout
    missing, unexpected = module.load_state_dict(state_dict_of(row, layout), strict=False)
    state = module.state_dict(keep_vars=True)
    written = {id(state[block.name]) for block in layout.blocks if block.name in state}  # a layer may have two names
    missing = [n for n in missing if not n.endswith("num_batches_tracked") and id(state[n]) not in written]
    if missing or unexpected:
        raise StackError(f"load_row: weights and network differ; missing {missing}, unexpected {unexpected}.")
    return module
