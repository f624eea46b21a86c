"""Follow a network's forward pass with `torch.fx`: its steps and their shapes, or where that fails and why."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from zookeeper.errors import StackError

ELEMENTWISE_MODULES = (
    nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.ELU, nn.Softplus, nn.ReLU6, nn.Hardswish, nn.Mish,
)  # fmt: skip
SUPPORTED = (
    "Conv2d, Linear, BatchNorm1d/2d, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, element-wise activations, "
    "Dropout, Flatten, Identity, residual add, slices of the image axes and mean over them"
)
_STACKABLE_MODULES = (
    nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.Dropout, nn.Flatten, nn.Identity, *ELEMENTWISE_MODULES,
)  # fmt: skip


def follow(module: nn.Module, image_shape: tuple[int, ...], name: str) -> fx.GraphModule:
    """Trace a network in evaluation mode, with the shape of every tensor under ``node.meta["shape"]``.

    Parameters
    ----------
    module
        The network; it is copied, not changed.
    image_shape
        (C, H, W) of one image.
    name
        What errors call the network.

    Raises
    ------
    StackError
        If the forward pass depends on values of tensors or on the mode, uses a layer of a foreign type,
        takes more than one input, or fails on images of that shape.
    """
    copied = copy.deepcopy(module)
    training = _Tracer().read(copied.train(), name)
    traced = _Tracer().read(copied.eval(), name)
    if str(training.graph) != str(traced.graph):
        raise StackError(
            f"{name}: forward takes other steps in training than in evaluation; expected the same in both. "
            "Use nn.Dropout and BatchNorm layers, which switch on their own."
        )
    _check_layers(traced, name)
    inputs = [node.name for node in traced.graph.nodes if node.op == "placeholder" and node.target[0] != "*"]
    if len(inputs) != 1 or len(inputs) != sum(node.op == "placeholder" for node in traced.graph.nodes):
        raise StackError(f"{name}: forward takes {inspect.signature(module.forward)}; expected one batch of images.")
    example = torch.zeros((2, *image_shape), dtype=next((p.dtype for p in copied.parameters()), torch.float32))
    try:
        shapes = _Shapes(traced)
        shapes.extra_traceback = False
        shapes.run(example)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        raise StackError(
            f"{name}: the forward pass fails on images of shape {tuple(image_shape)} ({_first_line(error)}). "
            "Check the image set against the architecture."
        ) from error
    return traced


def refusal(name: str, where: str, what: str) -> StackError:
    """Build the error for something at ``where`` in network ``name`` that has no stacked form."""
    return StackError(f"{name}.{where}: {' '.join(what.split())} cannot be stacked; expected one of {SUPPORTED}.")


class _Tracer(fx.Tracer):
    """Traces a network and remembers inside which module the forward pass could not be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: list[str] = []

    def read(self, module: nn.Module, name: str) -> fx.GraphModule:
        try:
            return fx.GraphModule(module, self.trace(module), name)
        except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, NameError) as error:
            where = f"{name}.{self.entered[-1]}" if self.entered else name
            raise StackError(
                f"{where}: the forward pass cannot be traced ({_first_line(error)}). "
                "Avoid control flow that depends on tensor values; "
                f"what can be stacked is a fixed sequence of {SUPPORTED}."
            ) from error

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.entered.append(f"{self.path_of_module(m)} ({type(m).__name__})")
        result = super().call_module(m, forward, args, kwargs)
        self.entered.pop()  # not reached where the forward pass of m fails
        return result


def _check_layers(traced: fx.GraphModule, name: str) -> None:
    """Refuse the first layer that is not exactly of a known type, or that runs a hook nobody would run in a stack.

    This comes before shapes are looked at: the functions around such a layer would give a vaguer error.
    """
    modules = dict(traced.named_modules())
    for path in (str(node.target) for node in traced.graph.nodes if node.op == "call_module"):
        layer = modules[path]
        if type(layer) not in _STACKABLE_MODULES:
            raise refusal(name, path, repr(layer))
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise refusal(name, path, f"{type(layer).__name__} with a forward hook")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class _Shapes(fx.Interpreter):
    """Runs a traced network once and notes the shape of every tensor."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result
