from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from zookeeper.errors import InputError, StackError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.parameters import load_row, named_blocks, row_of, state_dict_of
from zookeeper.population import Population


class Normed(nn.Module):
    def __init__(self, features: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, features, 2)
        self.norm = nn.BatchNorm2d(features)
        self.plain = nn.BatchNorm2d(features, affine=False)
        self.head = nn.Linear(features, 2, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.plain(self.norm(self.conv(images))).mean((2, 3)))
        return logits


def scrambled() -> nn.Module:
    net = Normed().eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + (0.1 if "var" in key else -0.5))
    return net


def test_blocks_have_names_shapes_and_kinds() -> None:
    assert named_blocks(Normed()) == {
        "conv.weight": ((3, 1, 2, 2), "weight"),
        "conv.bias": ((3,), "bias"),
        "norm.weight": ((3,), "scale"),
        "norm.bias": ((3,), "shift"),
        "head.weight": ((2, 3), "weight"),
        "norm.running_mean": ((3,), "running_mean"),
        "norm.running_var": ((3,), "running_var"),
        "plain.running_mean": ((3,), "running_mean"),
        "plain.running_var": ((3,), "running_var"),
    }


def test_a_row_is_the_whole_network() -> None:
    net = scrambled()
    row = row_of(net)
    images = torch.randn(4, 1, 5, 5)
    expected = net(images)
    other = load_row(Normed().eval(), row)
    assert torch.equal(other(images), expected)
    assert torch.equal(row_of(other), row)
    layout = WeightLayout.of(net)
    assert torch.equal(layout.flatten(dict(state_dict_of(row, layout))), row)


def test_rows_and_networks_do_not_share_memory() -> None:
    net = scrambled()
    layout = WeightLayout.of(net)
    row = row_of(net, layout)
    kept = row.clone()
    assert not row.requires_grad
    for parameter in net.parameters():
        parameter.data.fill_(7.0)
    assert torch.equal(row, kept)
    load_row(net, row, layout)
    state = state_dict_of(row, layout)
    row.zero_()
    assert torch.equal(row_of(net), kept)
    assert torch.equal(layout.flatten(dict(state)), kept)


def test_one_layer_alone() -> None:
    norm = nn.BatchNorm1d(2)
    assert list(named_blocks(norm)) == ["weight", "bias", "running_mean", "running_var"]
    assert row_of(norm).tolist() == [1, 1, 0, 0, 0, 0, 1, 1]


class TwoNames(nn.Module):
    """One layer under two names, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.second, self.again = self.first, self.norm
        self.head = nn.Linear(2, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.again(self.second(torch.tanh(self.norm(self.first(images)))))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def test_a_layer_with_two_names_is_stored_once() -> None:
    net, other = TwoNames().eval(), TwoNames().eval()
    layout = WeightLayout.of(net)
    assert layout.layers == ("first", "norm", "head")
    images, row = torch.randn(4, 2, 5, 5), torch.rand(layout.num_weights)
    load_row(net, row)
    assert torch.equal(row_of(net), row)
    assert torch.equal(load_row(other, row_of(net))(images), net(images))
    torch.testing.assert_close(Population(net, (2, 5, 5)).forward(row[None], images)[0], net(images).detach())


def test_foreign_rows_are_refused() -> None:
    with pytest.raises(InputError, match="rows have 9 columns; expected"):
        load_row(Normed(), torch.zeros(9))
    layout = WeightLayout.of(nn.Linear(2, 2))
    with pytest.raises(
        StackError, match=r"weights and network differ; missing .*'conv.weight'.* unexpected .*'weight'"
    ):
        load_row(Normed(), torch.zeros(6), layout)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    return net


class Scaled(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.gain = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "1.weight: parameters of a LayerNorm cannot be stacked"),
        (nn.Sequential(nn.LSTM(2, 2)), "0.weight_ih_l0: parameters of a LSTM"),
        (nn.Sequential(nn.ConvTranspose2d(1, 1, 1)), "0.weight: parameters of a ConvTranspose2d"),
        (nn.Sequential(nn.MultiheadAttention(2, 1)), "0.in_proj_weight: parameters of a MultiheadAttention"),
        (nn.Sequential(nn.PReLU()), "0.weight: parameters of a PReLU"),
        (nn.Sequential(Scaled()), "0.gain: parameters of a Scaled"),
        (parametrizations.weight_norm(nn.Linear(2, 2)), "original0: parameters of a"),
        (tied(), "1.weight: shares its tensor with 0.weight; expected untied weights"),
    ],
)
def test_other_parameters_are_refused_by_name(net: nn.Module, message: str) -> None:
    with pytest.raises(StackError, match=message):
        named_blocks(net)
