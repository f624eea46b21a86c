"""The relatives of cnn-small: exact functions at 28 x 28, the same rules at other sizes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.parameters import row_of
from zookeeper.nets.registry import build_network
from zookeeper.nets.symmetry import Symmetry

Layers = dict[str, torch.Tensor]


def build(name: str, side: int | tuple[int, int] = 28, channels: int = 1, dropout: float = 0.0) -> nn.Module:
    size = (side, side) if isinstance(side, int) else side
    return build_network(
        name, in_channels=channels, image_size=size, num_classes=10, activation="tanh", dropout=dropout
    )


def residual(w: Layers, x: torch.Tensor) -> torch.Tensor:
    """Three convolutions, each with a skip of max pooling (5 and 2, 5 and 2, 2 and 1) and a 1 x 1 convolution."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = torch.tanh(F.max_pool2d(conv("conv1", x), 2)) + conv("skip1", F.max_pool2d(x, 5, 2))
    x = torch.tanh(F.max_pool2d(conv("conv2", x), 2)) + conv("skip2", F.max_pool2d(x, 5, 2))
    x = torch.tanh(conv("conv3", x)) + conv("skip3", F.max_pool2d(x, 2, 1))
    return head(w, x)


def deep(w: Layers, x: torch.Tensor) -> torch.Tensor:
    x = torch.tanh(F.max_pool2d(F.conv2d(x, w["conv1.weight"], w["conv1.bias"]), 2))
    for number in (2, 3, 4):
        x = torch.tanh(F.conv2d(x, w[f"conv{number}.weight"]))
    return head(w, x)


def deep_residual(w: Layers, x: torch.Tensor) -> torch.Tensor:
    """Every second pixel of the second convolution's output without its border joins the fourth's."""
    x = torch.tanh(F.max_pool2d(F.conv2d(x, w["conv1.weight"], w["conv1.bias"]), 2))
    early = torch.tanh(F.conv2d(x, w["conv2.weight"]))
    x = torch.tanh(F.conv2d(torch.tanh(F.conv2d(early, w["conv3.weight"])), w["conv4.weight"]))
    return head(w, x + early[:, :, 1:-1, 1:-1][:, :, ::2, ::2])


def head(w: Layers, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.tanh(F.linear(x.flatten(1), w["fc1.weight"], w["fc1.bias"]))
    return F.linear(hidden, w["fc2.weight"], w["fc2.bias"])


FORMULAS: dict[str, Callable[[Layers, torch.Tensor], torch.Tensor]] = {
    "cnn-residual": residual,
    "cnn-deep": deep,
    "cnn-deep-residual": deep_residual,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(FORMULAS))
def test_function_at_28_pixels(name: str, channels: int) -> None:
    torch.manual_seed(0)
    net = build(name, channels=channels).double()
    images = torch.randn(5, channels, 28, 28, dtype=torch.float64)
    expected = FORMULAS[name](dict(net.state_dict()), images)
    assert expected.std() > 0.01
    torch.testing.assert_close(net(images).detach(), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [20, 28, 31, 32, (23, 30)])
def test_a_row_of_cnn_small_is_the_beginning_of_a_row_of_cnn_residual(
    side: int | tuple[int, int], channels: int
) -> None:
    small, net = (build(name, side, channels) for name in ("cnn-small", "cnn-residual"))
    blocks = WeightLayout.of(small).blocks
    assert WeightLayout.of(net).blocks[: len(blocks)] == blocks
    with torch.no_grad():
        for layer, parameter in net.named_parameters():
            if layer.startswith("skip"):
                parameter.zero_()
    net.load_state_dict(small.state_dict(), strict=False)
    assert torch.equal(row_of(net)[: len(row_of(small))], row_of(small))
    images = torch.randn(3, channels, *((side, side) if isinstance(side, int) else side))
    torch.testing.assert_close(net(images), small(images))


@pytest.mark.parametrize("side", [24, 28, 29, 32, 40, (25, 33)])
def test_deep_variants_have_the_same_weights(side: int | tuple[int, int]) -> None:
    plain, skipping = (WeightLayout.of(build(name, side)) for name in ("cnn-deep", "cnn-deep-residual"))
    assert plain == skipping
    assert [b.name for b in plain.blocks if b.kind == "bias"] == ["conv1.bias", "fc1.bias", "fc2.bias"]


@pytest.mark.parametrize("channels", [1, 3])
def test_deep_variants_have_as_many_weights_as_cnn_small(channels: int) -> None:
    nums = {WeightLayout.of(build(name, 28, channels)).num_weights for name in ("cnn-small", "cnn-deep")}
    assert len(nums) == 1


@pytest.mark.parametrize("side", [24, 27, 29, 30, 32, 41, (25, 33)])
def test_the_identity_skip_is_centred(side: int | tuple[int, int]) -> None:
    """The places it reads are evenly spaced, inside the image, and mirror themselves up to one pixel."""
    net = build("cnn-deep-residual", side)
    sides = (side, side) if isinstance(side, int) else side
    for places, whole in zip(net.skip[1:], sides, strict=True):  # type: ignore[index]
        length = (whole - 4) // 2 - 4
        read = list(range(length))[places]
        assert len(read) == length - 5
        assert len({b - a for a, b in pairwise(read)}) <= 1
        assert 0 <= (length - 1 - read[-1]) - read[0] <= 1


def test_skips_share_the_permutation_of_what_they_join() -> None:
    members = {
        g.name: {(m.block, m.axis) for m in g.members} for g in Symmetry.of(build("cnn-residual"), (1, 28, 28)).groups
    }
    assert members["conv2"] == {
        *(("conv2.weight", 0), ("conv2.bias", 0), ("skip2.weight", 0), ("skip2.bias", 0)),
        *(("conv3.weight", 1), ("skip3.weight", 1)),
    }
    members = {
        g.name: {(m.block, m.axis) for m in g.members}
        for g in Symmetry.of(build("cnn-deep-residual"), (1, 28, 28)).groups
    }
    assert members["conv2"] == {("conv2.weight", 0), ("conv3.weight", 1), ("conv4.weight", 0), ("fc1.weight", 1)}


@pytest.mark.parametrize("name", list(FORMULAS))
def test_dropout_is_used(name: str) -> None:
    torch.manual_seed(0)
    net, images = build(name, dropout=0.5), torch.randn(2, 1, 28, 28)
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))
