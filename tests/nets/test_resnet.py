"""resnet18-cifar is torchvision's ResNet-18 with a stem for small images."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network
from zookeeper.nets.resnet import BasicBlock


def ours(num_classes: int = 10, *, activation: str = "relu", dropout: float = 0.0) -> nn.Module:
    return build_network(
        "resnet18-cifar",
        in_channels=3,
        image_size=(32, 32),
        num_classes=num_classes,
        activation=activation,
        dropout=dropout,
    )


def theirs(num_classes: int = 10) -> nn.Module:
    net: nn.Module = torchvision.models.resnet18(num_classes=num_classes)
    net.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def test_state_dicts_have_the_same_names_shapes_and_order() -> None:
    with torch.device("meta"):
        states = [net(100).state_dict() for net in (ours, theirs)]
        parameters = [[(n, p.shape) for n, p in net(100).named_parameters()] for net in (ours, theirs)]
    assert [(n, v.shape) for n, v in states[0].items()] == [(n, v.shape) for n, v in states[1].items()]
    assert parameters[0] == parameters[1]
    assert len(parameters[0]) == 62


def test_the_row_is_torchvisions_parameters_then_its_statistics() -> None:
    with torch.device("meta"):
        layout, net = WeightLayout.of(ours()), theirs()
    assert [b.name for b in layout.blocks[:62]] == [name for name, _ in net.named_parameters()]
    assert layout.num_trainable == 11_173_962
    assert layout.num_weights - layout.num_trainable == 2 * 4800


@pytest.mark.parametrize("side", [32, 17, 8])
def test_with_its_weights_it_is_the_same_function(side: int) -> None:
    torch.manual_seed(0)
    reference, net = theirs(), ours()
    for name, value in reference.state_dict().items():
        if value.is_floating_point() and ("bn" in name or "downsample.1" in name):
            value.add_(0.3 * torch.rand(value.shape))
    net.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(3, 3, side, side)
    for mode in (True, False):  # training first: it moves the running statistics that evaluation reads
        with torch.no_grad():
            logits, expected = net.train(mode)(images), reference.train(mode)(images)
        assert expected.std() > 0.1
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    after = reference.state_dict()
    assert int(after["bn1.num_batches_tracked"]) == 1
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, after[name], rtol=1e-5, atol=1e-6)


def test_activation_and_dropout_are_used() -> None:
    torch.manual_seed(0)
    net, images = ours(), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        relu = net.eval()(images)
        tanh = ours(activation="tanh").eval()
        tanh.load_state_dict(net.state_dict())
        dropped = ours(dropout=0.5)
        dropped.load_state_dict(net.state_dict())
        assert torch.equal(dropped.eval()(images), relu)
        assert (tanh(images) - relu).abs().max() > 1e-3
        for layer in dropped.modules():
            layer.training = isinstance(layer, nn.Dropout)
        assert (dropped(images) - relu).abs().max() > 1e-3


@pytest.mark.parametrize(("stride", "channels"), [(1, 4), (2, 4), (1, 6), (2, 6)])
def test_a_block_has_a_convolution_in_its_skip_where_shapes_change(stride: int, channels: int) -> None:
    torch.manual_seed(0)
    block = BasicBlock(4, channels, stride=stride, activation="tanh").eval()
    x = torch.randn(2, 4, 7, 6)
    plain = stride == 1 and channels == 4
    assert isinstance(block.downsample, nn.Identity) == plain
    inner = block.conv2(torch.tanh(block.bn1(block.conv1(x))))
    skip = x if plain else block.downsample(x)
    expected = torch.tanh(F.batch_norm(inner, torch.zeros(channels), torch.ones(channels)) + skip)
    torch.testing.assert_close(block(x), expected)
    assert block(x).shape == (2, channels, -(-7 // stride), -(-6 // stride))


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(InputError, match="unknown activation 'reul'"):
        ours(activation="reul")
