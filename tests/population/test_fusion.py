"""What may be fused is read off the graph: nothing that another operation reads, nothing the kernels do not know."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.build.lowerings import decide_lowerings
from zookeeper.errors import InputError
from zookeeper.nets.graph import trace
from zookeeper.nets.registry import build_network
from zookeeper.population import Population
from zookeeper.population.convolution import LOWERINGS, TRITON, device_lowerings
from zookeeper.population.fusion import Fusion, activation_name, find_fusions
from zookeeper.population.triton_convolution import convolve_fused


def _fusions(*layers: nn.Module) -> list[tuple[int, int, str]]:
    net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))
    net(torch.zeros(1, 2, 9, 9))
    return [(len(f.numbers), f.pool, f.activation) for f in find_fusions(trace(net, (2, 9, 9))).values()]


def test_all_of_cnn_large_is_three_fusions() -> None:
    network = build_network("cnn-large", in_channels=3, image_size=(32, 32), num_classes=10, activation="gelu")
    graph = trace(network, (3, 32, 32))
    fusions = find_fusions(graph)
    assert [graph.ops[number].layer for number in fusions] == ["conv1", "conv2", "conv3"]
    assert {(len(f.numbers), f.pool, f.activation) for f in fusions.values()} == {(3, 2, "gelu")}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((nn.Conv2d(2, 4, 3), nn.ReLU()), [(2, 1, "relu")]),
        ((nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)), [(2, 2, "")]),
        ((nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Tanh(), nn.Conv2d(4, 4, 2)), [(3, 2, "tanh"), (1, 1, "")]),
        ((nn.Conv2d(2, 4, 3, padding=2), nn.ReLU(), nn.MaxPool2d(2)), [(2, 1, "relu")]),
        ((nn.Conv2d(2, 4, 3), nn.MaxPool2d(3), nn.ReLU()), [(1, 1, "")]),
        ((nn.Conv2d(2, 4, 3), nn.MaxPool2d(2, stride=1), nn.ReLU()), [(1, 1, "")]),
        ((nn.Conv2d(2, 4, 3), nn.MaxPool2d(2, ceil_mode=True)), [(1, 1, "")]),
        ((nn.Conv2d(2, 4, 3), nn.MaxPool2d(2, padding=1)), [(1, 1, "")]),
        ((nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Softplus()), [(2, 2, "")]),
        ((nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), [(1, 1, "")]),
        ((nn.Conv2d(2, 4, 3, stride=2), nn.ReLU()), []),
        ((nn.Conv2d(2, 4, 3, dilation=2), nn.ReLU()), []),
        ((nn.Conv2d(2, 4, (3, 2)), nn.ReLU()), []),
        ((nn.Conv2d(2, 4, 3, padding=(1, 0)), nn.ReLU()), []),
        ((nn.Conv2d(2, 4, 3, groups=2), nn.ReLU()), []),
    ],
    ids=str,
)
def test_only_what_the_kernels_know(layers: tuple[nn.Module, ...], expected: list[tuple[int, int, str]]) -> None:
    assert _fusions(*layers) == expected


class _Branches(nn.Module):
    """The first convolution is read twice; the operations of the second fusion do not follow each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(2 * 16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.first(images)
        y, z = self.second(x), self.third(x)
        x = F.relu(x) + torch.tanh(y) + F.relu(z)
        logits: torch.Tensor = self.head(F.max_pool2d(x, 2).flatten(1))
        return logits


def test_a_value_with_two_readers_stays_and_branches_are_no_hindrance() -> None:
    graph = trace(_Branches(), (2, 8, 8))
    found = {graph.ops[number].layer: fusion for number, fusion in find_fusions(graph).items()}
    assert found["first"] == Fusion((1,))
    assert [graph.ops[n].kind for n in found["second"].numbers] == ["conv", "activation"]
    assert found["second"].activation == "tanh"
    assert found["third"].activation == "relu"
    assert not set(found["second"].numbers) & set(found["third"].numbers)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.ReLU(), "relu"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.LeakyReLU(0.2), ""),
        (nn.GELU("tanh"), ""),
        (nn.ELU(), ""),
        (F.silu, "silu"),
        (torch.sigmoid, "sigmoid"),
    ],
    ids=str,
)
def test_activations_have_names_only_with_defaults(function: Callable[..., torch.Tensor], name: str) -> None:
    assert activation_name(function) == name


def test_functions_with_options_are_not_mistaken_for_the_default() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(F.leaky_relu(self.conv(images), 0.3).flatten(1))
            return logits

    assert find_fusions(trace(Net(), (1, 4, 4))) == {1: Fusion((1,))}


@pytest.mark.parametrize("make", [_Branches, lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(),
                                                                  nn.Linear(108, 3))])  # fmt: skip
@pytest.mark.parametrize("shared", [True, False])
def test_float64_takes_the_grouped_convolution(make: Callable[[], nn.Module], shared: bool) -> None:
    population = Population(make(), (2, 8, 8))
    fused = population.lowered({op.layer: TRITON for op in population.graph.ops if op.kind == "conv"})
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, population.layout.num_weights, dtype=torch.float64, generator=generator)
    images = torch.randn(*(() if shared else (3,)), 4, 2, 8, 8, dtype=torch.float64, generator=generator)
    assert torch.equal(fused.forward(rows, images), population.forward(rows, images))


def test_where_the_kernels_cannot_run_a_population_is_grouped_and_asking_for_them_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cpu = torch.device("cpu")
    assert device_lowerings(cpu) == LOWERINGS
    population = Population(_Branches(), (2, 8, 8), lowerings={"second": TRITON})
    rows, images = torch.ones(1, population.layout.num_weights), torch.ones(1, 2, 8, 8)
    assert torch.equal(population.forward(rows, images), population.lowered({}).forward(rows, images))
    message = r"lowering triton: cannot run on cpu; expected an NVIDIA GPU .* grouped"
    with pytest.raises(InputError, match=message):
        convolve_fused(images, torch.ones(1, 2, 2, 3, 3), None)
    with pytest.raises(InputError, match=message):
        decide_lowerings(population, TRITON, 1, 1, "cpu")
