"""Canonical names of parameters: recognise a network by its shapes, and know the keys it is published under.

Published keys are positions in a list of modules, so they move when dropout is added. Here a state dict is matched
by the order and the shapes of its tensors instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from zookeeper.errors import InputError
from zookeeper.nets.layout import BlockKind, WeightLayout

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
# The list positions of parametrised layers, without and with dropout.
_PUBLISHED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "cnn-small": ((0, 3, 6, 9, 11), (0, 4, 8, 11, 14)),
    "cnn-medium": ((0, 3, 6, 9, 11), (0, 4, 8, 11, 14)),
    "cnn-large": ((0, 4, 8, 13, 16), (0, 4, 8, 13, 16)),
    "lenet5": ((0, 4, 9, 12, 15), (0, 4, 9, 12, 15)),
    "mlp": ((0, 2), (0, 2)),
}
PUBLISHED_TYPES = {
    "cnn-small": "CNN",
    "cnn-medium": "CNN2",
    "cnn-large": "CNN3",
    "lenet5": "LeNet5",
    "mlp": "MLP",
    "resnet18-cifar": "Resnet18",
}
_SIZES = (28, 32, 8, 4, 16, 64, 96)
# Tried in this order; networks that share every shape with another one (residual variants) must be asked for by name.
_CANDIDATES = (
    "cnn-small",
    "cnn-medium",
    "cnn-large",
    "lenet5",
    "mlp",
    "smallcnn-google",
    "cnn-digits",
    "cnn-digits-shallow",
    "resnet18-cifar",
)
_IGNORED = "num_batches_tracked"


@dataclass(frozen=True)
class Recognised:
    """What a state dict is: its layout under canonical names, and which of its keys is which block.

    ``architecture`` is None, and names are kept, where no registered architecture has these shapes.
    ``image`` is the smallest usual (C, H, W) the network takes, ``num_classes`` its K.
    """

    architecture: str | None
    layout: WeightLayout
    keys: tuple[tuple[str, str], ...]
    image: tuple[int, int, int] | None = None
    num_classes: int | None = None

    def rename(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays under canonical names; keys that are no blocks are left out."""
        return {canonical: arrays[key] for key, canonical in self.keys}


@cache
def recognise(shapes: Shapes, architecture: str | None = None) -> Recognised:
    """Find the registered architecture whose tensors have these names and shapes, or these shapes in this order.

    Parameters
    ----------
    shapes
        Name and shape of every tensor, in the order of the file.
    architecture
        The only one to try.

    Raises
    ------
    InputError
        If ``architecture`` is given and does not fit.

    Examples
    --------
    >>> found = recognise((("module_list.0.weight", (5, 16)), ("module_list.2.weight", (4, 5))))
    >>> found.architecture, found.image, dict(found.keys)["module_list.2.weight"]
    ('mlp', (1, 4, 4), 'fc2.weight')
    """
    tensors = tuple((name, shape) for name, shape in shapes if not name.endswith(_IGNORED))
    if not tensors:
        raise InputError("a state dict without weights; expected at least one tensor.")
    for candidate in (architecture,) if architecture else _CANDIDATES:
        found = _try_architecture(candidate, tensors)
        if found is not None:
            return found
    if architecture:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in tensors[:6])
        raise InputError(f"architecture {architecture!r} does not have the tensors of the file: {listed}, ...")
    return _unknown(tensors)


def recognise_as(layout: WeightLayout, shapes: Shapes) -> Recognised | None:
    """Match tensors with a known layout: by names and shapes, or by the order of shapes; None if neither fits."""
    keys = _match(layout, tuple((name, shape) for name, shape in shapes if not name.endswith(_IGNORED)))
    return None if keys is None else Recognised(None, layout, keys)


def shapes_of(arrays: Mapping[str, Any]) -> Shapes:
    """Name and shape of every array, in order."""
    return tuple((name, tuple(array.shape)) for name, array in arrays.items())


def published_keys(architecture: str, *, dropout: bool, layout: WeightLayout) -> dict[str, str]:
    """Canonical name to published key of every block.

    Raises
    ------
    InputError
        If the architecture was not published under other names.

    Examples
    --------
    >>> found = recognise((("fc1.weight", (5, 16)), ("fc2.weight", (4, 5))))
    >>> published_keys("mlp", dropout=False, layout=found.layout)
    {'fc1.weight': 'module_list.0.weight', 'fc2.weight': 'module_list.2.weight'}
    """
    if architecture == "resnet18-cifar":
        return {block.name: block.name for block in layout.blocks}
    if architecture not in _PUBLISHED:
        known = ", ".join((*_PUBLISHED, "resnet18-cifar"))
        raise InputError(f"architecture {architecture!r} has no published key names; expected {known}.")
    places = _PUBLISHED[architecture][dropout]
    numbers = dict(zip(layout.layers, places, strict=True))
    return {block.name: f"module_list.{numbers[block.layer]}.{block.name.split('.')[-1]}" for block in layout.blocks}


def natural_order(names: Mapping[str, Any]) -> list[str]:
    """Names as a network would list them: numbers by value, weights before biases.

    >>> natural_order({"a.10.bias": 0, "a.10.weight": 0, "a.9.weight": 0})
    ['a.9.weight', 'a.10.weight', 'a.10.bias']
    """

    def key(name: str) -> tuple[Any, ...]:
        layer, _, leaf = name.rpartition(".")
        parts = [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", layer) if p]
        return (parts, leaf != "weight", leaf)

    return sorted(names, key=key)


def _try_architecture(architecture: str, tensors: Shapes) -> Recognised | None:
    first, last = tensors[0][1], [shape for _, shape in tensors if len(shape) == 2][-1:]
    if len(first) < 2 or not last:
        return None
    channels = (first[1],) if len(first) == 4 else (1, 3)
    for in_channels in channels:
        for size in _SIZES:
            layout = _layout_of(architecture, in_channels, size, last[0][0])
            if layout is None:
                continue
            keys = _match(layout, tensors)
            if keys is not None:
                return Recognised(architecture, layout, keys, (in_channels, size, size), last[0][0])
    return None


def _match(layout: WeightLayout, tensors: Shapes) -> tuple[tuple[str, str], ...] | None:
    blocks = [(block.name, block.shape) for block in layout.blocks]
    if dict(blocks) == dict(tensors):
        return tuple((name, name) for name, _ in blocks)
    if any(block.kind.startswith("running") for block in layout.blocks):
        return None  # buffers come in another order than columns; only names tell
    if [shape for _, shape in blocks] == [shape for _, shape in tensors]:
        return tuple((key, name) for (key, _), (name, _) in zip(tensors, blocks, strict=True))
    return None


@cache
def _layout_of(architecture: str, in_channels: int, size: int, num_classes: int) -> WeightLayout | None:
    import torch

    from zookeeper.nets.registry import build_network

    if in_channels * size * size * num_classes > 1 << 24:
        return None
    try:
        with torch.device("meta"):
            network = build_network(
                architecture, in_channels=in_channels, image_size=(size, size), num_classes=num_classes
            )
    except InputError:  # too small an image for this one
        return None
    return WeightLayout.of(network)


def _unknown(tensors: Shapes) -> Recognised:
    """A layout that keeps the file's own names; the role of a tensor is read off its name and rank."""
    flat = {name.rpartition(".")[0] for name, shape in tensors if name.endswith("weight") and len(shape) == 1}
    blocks: dict[str, tuple[tuple[int, ...], BlockKind]] = {}
    buffers: dict[str, tuple[tuple[int, ...], BlockKind]] = {}
    for name, shape in tensors:
        layer, _, leaf = name.rpartition(".")
        if leaf == "running_mean":
            buffers[name] = (shape, "running_mean")
        elif leaf == "running_var":
            buffers[name] = (shape, "running_var")
        elif len(shape) > 1:
            blocks[name] = (shape, "weight")
        elif leaf == "weight":
            blocks[name] = (shape, "scale")
        else:
            blocks[name] = (shape, "shift" if layer in flat else "bias")
    layout = WeightLayout.from_shapes(blocks | buffers)
    return Recognised(None, layout, tuple((block.name, block.name) for block in layout.blocks))
