"""A convolution with its pooling, bias and ReLU as one: torch's values, torch's gradients, any number of parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from zookeeper.nets.graph import trace
from zookeeper.population import Population, operations, pooled
from zookeeper.population.operations import plan_instructions
from zookeeper.population.pooled import Settings, convolve_pooled
from zookeeper.population.pooling_kernels import NOWHERE, compiled
from zookeeper.population.tiles import part_size

CHANNELS_LAST = torch.channels_last


def channels_last(*shape: int, seed: int = 0, step: float = 0.5) -> torch.Tensor:
    """Normal numbers on a grid, so that a window often holds equal ones."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return ((drawn / step).round() * step).contiguous(memory_format=CHANNELS_LAST)


def pool_with_torch(x: torch.Tensor, bias: torch.Tensor, relu: bool) -> torch.Tensor:
    value = F.max_pool2d(x, 2) + bias[:, None, None]
    return F.relu(value) if relu else value


shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(2, 7), st.integers(2, 7))


@settings(max_examples=60, deadline=None)
@given(shape=shapes, relu=st.booleans(), seed=st.integers(0, 1000), holes=st.integers(0, 3))
def test_kernels_pool_as_torch_to_the_bit(shape: tuple[int, ...], relu: bool, seed: int, holes: int) -> None:
    x = channels_last(*shape, seed=seed)
    flat = x.permute(0, 2, 3, 1).view(-1)
    flat[torch.randint(0, len(flat), (holes,), generator=torch.Generator().manual_seed(seed))] = torch.nan
    bias = channels_last(1, shape[1], 1, 1, seed=seed + 1).view(-1).clone().requires_grad_()
    x.requires_grad_()
    wanted = pool_with_torch(x, bias, relu)
    gradient = channels_last(*wanted.shape, seed=seed + 2)
    of_x, of_bias = torch.autograd.grad(wanted, (x, bias), gradient)

    num_images, channels, height, width = shape
    found, choice = torch.full_like(wanted, 9), torch.full_like(wanted, 9, dtype=torch.uint8)
    sizes = (num_images, height, width, channels)
    compiled().pool(*(v.data_ptr() for v in (x, bias, found, choice)), *sizes, relu)
    torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=0, equal_nan=True)
    assert int(choice.max()) <= (NOWHERE if relu else 3)
    spread, biases = torch.zeros_like(x).contiguous(memory_format=CHANNELS_LAST), torch.zeros(num_images, channels)
    compiled().spread(*(v.data_ptr() for v in (gradient, choice, spread, biases)), *sizes)
    assert torch.equal(spread, of_x)
    torch.testing.assert_close(biases.sum(0), of_bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("part", [1, 3, 4, 7])
@pytest.mark.parametrize("size", [8, 9])
def test_parts_give_what_torch_gives(part: int, relu: bool, size: int) -> None:
    groups, x = 3, channels_last(7, 6, size, size).requires_grad_()
    kernels, bias = channels_last(15, 2, 3, 3, seed=1).requires_grad_(), torch.linspace(-1, 1, 15).requires_grad_()
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    found = convolve_pooled(x, kernels, bias, Settings.of(options, groups=groups, relu=relu, part=part))
    wanted = pool_with_torch(F.conv2d(x, kernels, None, padding=1, groups=groups), bias, relu)
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous(memory_format=CHANNELS_LAST)
    gradient = channels_last(*wanted.shape, seed=2)
    ours, theirs = (torch.autograd.grad(v, (x, kernels, bias), gradient) for v in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_second_derivative_is_refused() -> None:
    x, kernels = channels_last(2, 1, 6, 6), channels_last(2, 1, 3, 3, seed=1).requires_grad_()
    options = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    settings = Settings.of(options, groups=1, relu=False, part=2)
    value = convolve_pooled(x, kernels, torch.zeros(2), settings).square().sum()
    (slope,) = torch.autograd.grad(value, kernels, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def tail(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


BEFORE = nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.ReLU(), *tail(36))
AFTER = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), *tail(36))
TANH = nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Tanh(), *tail(36))
LATE = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.MaxPool2d(2), *tail(36))
WIDE = nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(3), nn.ReLU(), *tail(16))
BARE = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.MaxPool2d(2), nn.ReLU(), *tail(36))
STRIDED = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=2, dilation=2), nn.ReLU(), nn.MaxPool2d(2), *tail(16))
NETWORKS = {
    "ReLU after": BEFORE, "ReLU before": AFTER, "tanh after": TANH, "tanh before": LATE, "windows of three": WIDE,
    "no bias": BARE, "strided": STRIDED,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("ReLU after", [("conv", "maxpool", "activation")]),
        ("ReLU before", [("conv", "activation", "maxpool")]),
        ("tanh after", [("conv", "maxpool")]),
        ("tanh before", []),
        ("no bias", []),
    ],
)
def test_what_becomes_one(name: str, runs: list[tuple[str, ...]]) -> None:
    instructions = plan_instructions(trace(NETWORKS[name], (2, 8, 8)), {})
    assert [tuple(op.kind for _, op in one.ops) for one in instructions if len(one.ops) > 1] == runs


def run(
    population: Population, rows: torch.Tensor, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, pools: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and the gradient of their squares, with pooled convolutions as one or as torch has them."""
    calls: list[Settings] = []

    def counted(*arguments: object) -> torch.Tensor:
        calls.append(arguments[-1])  # type: ignore[arg-type]
        return convolve_pooled(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(operations, "convolve_pooled", counted)
        if not pools:
            patch.setattr(pooled, "_is_installed", lambda: False)
        rows = rows.clone().requires_grad_()
        logits = population.forward(rows, images)
        (gradient,) = torch.autograd.grad(logits.square().sum(), rows)
    assert bool(calls) == (pools and any(len(one.ops) > 1 for one in population.instructions))
    return logits.detach(), gradient


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "windows of three"])
def test_networks_learn_the_same_without_it(
    name: str, channels: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(*NETWORKS[name])
    first = NETWORKS[name][0]
    assert isinstance(first, nn.Conv2d)
    network[0] = nn.Conv2d(channels, 4, 3, first.stride, first.padding, first.dilation, bias=first.bias is not None)  # type: ignore[arg-type]
    population = Population(network, (channels, 8, 8))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, population.layout.num_weights, generator=generator)
    images = torch.randn(*(() if shared else (5,)), 18, channels, 8, 8, generator=generator)
    for ours, theirs in zip(
        run(population, rows, images, monkeypatch, pools=True),
        run(population, rows, images, monkeypatch, pools=False),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_windows_of_three_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    population = Population(WIDE, (2, 8, 8))
    rows, images = torch.randn(2, population.layout.num_weights), torch.randn(4, 2, 8, 8)
    monkeypatch.setattr(operations, "convolve_pooled", lambda *arguments: pytest.fail("windows of three"))
    assert population.forward(rows.requires_grad_(), images).shape == (2, 4, 3)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_does_not_see_its_mates(seed: int) -> None:
    population = Population(BEFORE, (2, 8, 8))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4, population.layout.num_weights, generator=generator)
    images = torch.randn(4, 9, 2, 8, 8, generator=generator)

    def learn(rows: torch.Tensor, images: torch.Tensor) -> list[torch.Tensor]:
        rows = rows.clone().requires_grad_()
        logits = population.forward(rows, images)
        return [logits.detach(), torch.autograd.grad(logits.square().sum((1, 2)), rows, torch.ones(len(rows)))[0]]

    whole = learn(rows, images)
    poisoned = rows.clone()
    poisoned[2] = torch.nan
    order = torch.tensor([3, 1, 0, 2])
    for found, wanted in zip(learn(poisoned, images), whole, strict=True):
        assert torch.equal(found[[0, 1, 3]], wanted[[0, 1, 3]])
        assert found[2].isnan().any()
    for found, wanted in zip(learn(rows[order], images[order]), whole, strict=True):
        assert torch.equal(found, wanted[order])


@settings(max_examples=100, deadline=None)
@given(floats=st.integers(1, 10**6), outputs=st.integers(1, 10**6), images=st.integers(1, 4096))
def test_parts_cover_a_batch(floats: int, outputs: int, images: int) -> None:
    part = part_size(floats, outputs, images)
    assert 1 <= part <= images
    assert part_size(floats, outputs + 1, images) <= part
