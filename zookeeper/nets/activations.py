"""Activation functions by name, with torch's defaults."""

from __future__ import annotations

from torch import nn

from zookeeper.errors import InputError

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def build_activation(name: str) -> nn.Module:
    """Build an activation module.

    >>> build_activation("tanh")
    Tanh()
    """
    if name not in _ACTIVATIONS:
        raise InputError(f"unknown activation {name!r}; expected {', '.join(sorted(_ACTIVATIONS))}.")
    return _ACTIVATIONS[name]()


def activation_names() -> tuple[str, ...]:
    """Known names, sorted."""
    return tuple(sorted(_ACTIVATIONS))
