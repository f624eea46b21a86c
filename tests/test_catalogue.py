"""The torch-free names a spec may use are exactly those the rooms implement."""

from __future__ import annotations

import pytest
import torch

from zookeeper.images import image_set_names
from zookeeper.nets.activations import activation_names, build_activation
from zookeeper.nets.initialise import init_names
from zookeeper.nets.registry import architecture_names
from zookeeper.population.convolution import LOWERINGS, TRITON
from zookeeper.population.optimise import optimizer_names
from zookeeper.population.precision import PRECISIONS
from zookeeper.spec import names


@pytest.mark.parametrize(
    ("listed", "implemented"),
    [
        (names.ARCHITECTURES, architecture_names()),
        (names.ACTIVATIONS, activation_names()),
        (names.INITS, init_names()),
        (names.OPTIMIZERS, optimizer_names()),
        (names.IMAGE_SETS, image_set_names()),
        (names.PRECISIONS, PRECISIONS),
        (names.LOWERINGS, ("auto", *LOWERINGS, TRITON)),
    ],
    ids=["architectures", "activations", "inits", "optimizers", "image sets", "precisions", "lowerings"],
)
def test_names_of_the_spec_are_implemented(listed: tuple[str, ...], implemented: tuple[str, ...]) -> None:
    assert len(set(listed)) == len(listed) > 1
    assert sorted(listed) == sorted(implemented)


def test_activations_differ() -> None:
    x = torch.linspace(-3, 3, 7)
    outputs = torch.stack([build_activation(name)(x) for name in names.ACTIVATIONS])
    assert len(torch.unique(outputs, dim=0)) == len(names.ACTIVATIONS)
