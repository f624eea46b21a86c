"""The published initialisations on every architecture, beside `torch.nn.init` applied layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.layout import WeightBlock, WeightLayout
from zookeeper.nets.registry import architecture_names, build_network

Fill = Callable[[torch.Tensor], object]
PUBLISHED: dict[str, Fill] = {
    "uniform": nn.init.uniform_,
    "normal": nn.init.normal_,
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
}
SIDES = {"mlp": 4, "cnn-digits": 8}


@cache
def network(name: str) -> nn.Module:
    side = SIDES.get(name, 32)
    return build_network(name, in_channels=3, image_size=(side, side), num_classes=10)


def reference(net: nn.Module, fill: Fill | None) -> dict[str, torch.Tensor]:
    """Initialise as the published zoos do: weights of convolutions and linear layers, every such bias 0.01."""
    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if fill is None:
                layer.reset_parameters()
            else:
                fill(layer.weight)
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, 0.01)
    return {name: value.detach() for name, value in net.state_dict().items()}


def bound_of(init: str, block: WeightBlock) -> tuple[float, float]:
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(torch.empty(block.shape, device="meta"))
    limits = {
        "uniform": (0.0, 1.0),
        "kaiming_uniform": (-math.sqrt(6 / fan_in), math.sqrt(6 / fan_in)),
        "xavier_uniform": (-math.sqrt(6 / (fan_in + fan_out)), math.sqrt(6 / (fan_in + fan_out))),
    }
    return limits.get(init, (-math.inf, math.inf))


def assert_same_distribution(mine: np.ndarray, theirs: np.ndarray, where: str) -> None:
    num = mine.size
    assert abs(mine.mean() - theirs.mean()) < 6 * theirs.std() * math.sqrt(2 / num), where
    if num > 200:
        assert abs(mine.std() / theirs.std() - 1) < 6 / math.sqrt(num), where
    assert ks_2samp(mine[:3000], theirs[:3000]).pvalue > 1e-5, where


@pytest.mark.parametrize("init", list(PUBLISHED))
@pytest.mark.parametrize("name", architecture_names())
def test_published_inits_are_torchs_layer_by_layer(name: str, init: str) -> None:
    net = network(name)
    layout, state = WeightLayout.of(net), reference(net, PUBLISHED[init])
    row = initialise_rows(layout, [init], [3])[0]
    for block in layout.blocks:
        mine, theirs = row[block.columns], state[block.name].double().numpy().ravel()
        if block.kind == "weight":
            low, high = bound_of(init, block)
            assert low <= mine.min() < mine.max() <= high, block.name
            assert_same_distribution(mine, theirs, block.name)
        else:
            assert np.array_equal(mine.astype(np.float32), theirs.astype(np.float32)), block.name
            assert len(np.unique(mine)) == 1, block.name


@pytest.mark.parametrize("name", architecture_names())
def test_torch_default_is_torchs_own(name: str) -> None:
    net = network(name)
    layout, state = WeightLayout.of(net), reference(net, None)
    row = initialise_rows(layout, ["torch_default"], [3])[0]
    for block in layout.blocks:
        mine, theirs = row[block.columns], state[block.name].double().numpy().ravel()
        if block.kind in ("weight", "bias"):
            assert np.abs(mine).max() <= 1 / math.sqrt(block.fan_in), block.name
            assert_same_distribution(mine, theirs, block.name)
        else:
            assert np.array_equal(mine, theirs), block.name


@pytest.mark.parametrize("init", [*PUBLISHED, "torch_default"])
def test_norms_start_as_the_identity(init: str) -> None:
    layout = WeightLayout.of(network("resnet18-cifar"))
    row = initialise_rows(layout, [init], [0])[0]
    expected = {"scale": 1.0, "shift": 0.0, "running_mean": 0.0, "running_var": 1.0}
    blocks = [block for block in layout.blocks if block.kind in expected]
    assert len(blocks) == 4 * 20
    assert all((row[block.columns] == expected[block.kind]).all() for block in blocks)


def test_the_leading_columns_of_cnn_residual_start_as_cnn_small() -> None:
    small, net = (WeightLayout.of(network(name)) for name in ("cnn-small", "cnn-residual"))
    for init in ("uniform", "kaiming_normal"):
        first, second = (initialise_rows(layout, [init], [5])[0] for layout in (small, net))
        assert np.array_equal(second[: small.num_weights], first)
