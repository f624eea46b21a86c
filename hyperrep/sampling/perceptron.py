"""A small network for the samplers that train one: seeded, in this process, without torch's global generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn


def build_perceptron(sizes: Sequence[int], activation: type[nn.Module], generator: torch.Generator) -> nn.Sequential:
    """Linear layers of the given sizes with activations between them; weights are drawn from the generator.

    Weights are normal with variance 2 / fan-in (He et al., 2015), biases zero.

    >>> network = build_perceptron([2, 8, 3], nn.SiLU, torch.Generator().manual_seed(0))
    >>> network(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            linear.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
            linear.bias.zero_()
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


@contextmanager
def training_alone() -> Iterator[None]:
    """Gradients on and one thread, as before afterwards: more threads only wait for each other on layers this small.

    It also makes the result independent of how many threads the process has.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(before)
