"""Tokens: exact inverse, padding, positions, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hyperrep.weights.tokens import Tokeniser
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def layout_of(name: str) -> WeightLayout:
    if name == "normed":
        return WeightLayout.of(Normed())
    side = {"cnn-digits": 8, "mlp": 4, "cnn-large": 32, "lenet5": 32}[name]
    channels = 3 if side == 32 else 1
    return WeightLayout.of(build_network(name, in_channels=channels, image_size=(side, side), num_classes=10))


@pytest.mark.parametrize("name", ["cnn-digits", "mlp", "cnn-large", "normed"])
@pytest.mark.parametrize("width", [1, 7, 65, 289])
def test_detokenise_inverts_tokenise_bit_for_bit(name: str, width: int) -> None:
    tokeniser = Tokeniser(layout_of(name), width)
    bits = torch.randint(-(2**31), 2**31, (3, tokeniser.layout.num_weights), dtype=torch.int64).to(torch.int32)
    rows = bits.view(torch.float32)  # every bit pattern, infinities and NaNs included
    tokens = tokeniser.tokenise(rows)
    assert tokens.shape == (3, tokeniser.num_tokens, width)
    assert (tokens[:, ~tokeniser.mask] == 0).all()
    assert int(tokeniser.mask.sum()) == tokeniser.layout.num_weights
    assert torch.equal(tokeniser.detokenise(tokens).view(torch.int32), bits)


@pytest.mark.parametrize(
    ("name", "width", "num_tokens"),
    [("cnn-digits", 65, 54), ("cnn-large", 289, 93), ("cnn-large", 64, 217), ("lenet5", 256, 356)],
)
def test_number_of_tokens_is_the_published_one(name: str, width: int, num_tokens: int) -> None:
    assert Tokeniser(layout_of(name), width).num_tokens == num_tokens


def test_a_token_holds_one_channel_with_its_bias_last() -> None:
    layout = layout_of("cnn-digits")
    tokeniser = Tokeniser(layout, 65)
    rows = torch.arange(float(layout.num_weights))[None]
    parts = layout.unflatten(rows)
    third = tokeniser.tokenise(rows)[0, 8 + 16 + 2]  # unit 2 of fc1
    assert torch.equal(third, torch.cat([parts["fc1.weight"][0, 2], parts["fc1.bias"][0, 2:3]]))
    assert tokeniser.positions[8 + 16 + 2].tolist() == [26, 2, 2]


def test_positions_repeat_layer_and_channel_for_every_chunk() -> None:
    tokeniser = Tokeniser(layout_of("cnn-digits"), 40)  # fc1 units have 65 entries: two tokens each
    of_fc1 = tokeniser.positions[tokeniser.positions[:, 1] == 2]
    assert of_fc1[:, 2].tolist() == [unit for unit in range(20) for _ in range(2)]
    assert tokeniser.positions[:, 0].tolist() == list(range(tokeniser.num_tokens))


def test_running_statistics_stand_beside_scale_and_shift() -> None:
    layout = layout_of("normed")
    rows = torch.arange(float(layout.num_weights))[None]
    parts = layout.unflatten(rows)
    token = Tokeniser(layout, 9).tokenise(rows)[0, 4 + 1]  # channel 1 of the norm layer
    names = ("1.weight", "1.bias", "1.running_mean", "1.running_var")
    assert token[:4].tolist() == [parts[name][0, 1].item() for name in names]


def test_gradients_are_those_of_the_gathers() -> None:
    tokeniser = Tokeniser(layout_of("mlp"), 7)
    rows = torch.randn(2, tokeniser.layout.num_weights, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(2, tokeniser.num_tokens, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tokeniser.tokenise, (rows,))
    assert torch.autograd.gradcheck(tokeniser.detokenise, (tokens,))
    (gradient,) = torch.autograd.grad(tokeniser.detokenise(tokens).sum(), tokens)
    assert torch.equal(gradient != 0, tokeniser.mask.expand_as(gradient))


def test_detokenise_never_reads_padding() -> None:
    tokeniser = Tokeniser(layout_of("cnn-digits"), 65)
    rows = torch.randn(2, 2118)
    poisoned = tokeniser.tokenise(rows).masked_fill(~tokeniser.mask, torch.nan)
    assert torch.equal(tokeniser.detokenise(poisoned), rows)


def test_wrong_shapes_are_refused() -> None:
    tokeniser = Tokeniser(layout_of("mlp"), 7)
    with pytest.raises(InputError, match=r"expected \[N, "):
        tokeniser.tokenise(torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"detokenise: tokens have shape"):
        tokeniser.detokenise(torch.zeros(2, 3, 7))
    with pytest.raises(InputError, match=r"tokens\.width"):
        Tokeniser(tokeniser.layout, 0)
