"""Architectures by name: a catalogue name or ``python.path:factory``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from zookeeper.errors import InputError

if TYPE_CHECKING:
    from torch import nn

_FACTORIES: dict[str, str] = {
    "cnn-digits": "zookeeper.nets.cnn:cnn_digits",
    "cnn-digits-shallow": "zookeeper.nets.cnn:cnn_digits_shallow",
    "cnn-small": "zookeeper.nets.cnn:cnn_small",
    "cnn-medium": "zookeeper.nets.cnn:cnn_medium",
    "cnn-large": "zookeeper.nets.cnn:cnn_large",
    "lenet5": "zookeeper.nets.lenet:lenet5",
    "mlp": "zookeeper.nets.mlp:mlp",
    "smallcnn-google": "zookeeper.nets.google:smallcnn_google",
    "resnet18-cifar": "zookeeper.nets.resnet:resnet18_cifar",
    "cnn-residual": "zookeeper.nets.variants:cnn_residual",
    "cnn-deep": "zookeeper.nets.variants:cnn_deep",
    "cnn-deep-residual": "zookeeper.nets.variants:cnn_deep_residual",
}


def architecture_names() -> tuple[str, ...]:
    """Registered names, sorted."""
    return tuple(sorted(_FACTORIES))


def build_network(
    architecture: str,
    *,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Module:
    """Build one network of a registered architecture, with torch's default initial weights.

    Parameters
    ----------
    architecture
        A registered name, or ``python.path:factory`` of a callable that takes the same keywords.
    in_channels, image_size, num_classes
        Shape of one image (C, (H, W)) and number of classes K.
    activation
        One of `zookeeper.spec.names.ACTIVATIONS`.
    dropout
        Probability in [0, 1) at the places the architecture foresees.

    Raises
    ------
    InputError
        If the name is unknown, the factory cannot be imported, or the image is too small.

    Examples
    --------
    >>> net = build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4, activation="tanh")
    >>> sum(p.numel() for p in net.parameters())
    100
    """
    factory = _resolve(architecture)
    network = factory(
        in_channels=in_channels,
        image_size=tuple(image_size),
        num_classes=num_classes,
        activation=activation,
        dropout=dropout,
    )
    from torch import nn

    if not isinstance(network, nn.Module):
        raise InputError(f"{architecture}: factory returned {type(network).__name__}; expected torch.nn.Module.")
    return network


def _resolve(architecture: str) -> Callable[..., Any]:
    target = _FACTORIES.get(architecture)
    if target is None and ":" in architecture:
        target = architecture
    if target is None:
        near = get_close_matches(architecture, _FACTORIES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"unknown architecture {architecture!r}; expected {', '.join(architecture_names())} "
            f"or python.path:factory.{hint}"
        )
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"architecture {architecture!r}: cannot import {module_name!r} ({error}). Is it on PYTHONPATH?"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise InputError(f"architecture {architecture!r}: {module_name} has no callable {attribute!r}.")
    return cast(Callable[..., Any], factory)
