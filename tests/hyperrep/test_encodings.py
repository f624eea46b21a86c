"""Encodings and windows of tokens: exact inverses for any layout, published counts, padding that is never read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperrep.weights.encodings import Encoding, build_tokeniser, layer_widths
from hyperrep.weights.tokens import Tokeniser
from zookeeper.errors import InputError
from zookeeper.nets.layout import BlockKind, WeightLayout
from zookeeper.nets.registry import architecture_names, build_network

ENCODINGS: tuple[Encoding, ...] = ("fixed", "neuron", "weight")


@st.composite
def layouts(draw: st.DrawFn) -> WeightLayout:
    shapes: dict[str, tuple[tuple[int, ...], BlockKind]] = {}
    for layer in range(draw(st.integers(1, 4))):
        channels = draw(st.integers(1, 5))
        if draw(st.booleans()):
            incoming = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
            shapes[f"l{layer}.weight"] = ((channels, *incoming), "weight")
            if draw(st.booleans()):
                shapes[f"l{layer}.bias"] = ((channels,), "bias")
        else:
            shapes[f"l{layer}.weight"] = ((channels,), "scale")
            shapes[f"l{layer}.bias"] = ((channels,), "shift")
    return WeightLayout.from_shapes(shapes)


def bits_of(rows: torch.Tensor) -> torch.Tensor:
    return rows.view(torch.int32)


def any_bits(num: int, layout: WeightLayout) -> torch.Tensor:
    """Rows with every kind of bit pattern, infinities and NaNs included."""
    generator = torch.Generator().manual_seed(layout.num_weights)
    bits = torch.randint(-(2**31), 2**31, (num, layout.num_weights), dtype=torch.int64, generator=generator)
    return bits.to(torch.int32).view(torch.float32)


def tokeniser_of(layout: WeightLayout, encoding: Encoding, width: int) -> Tokeniser:
    return build_tokeniser(layout, encoding, width if encoding == "fixed" else None)


@given(layout=layouts(), encoding=st.sampled_from(ENCODINGS), width=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_detokenise_inverts_tokenise_bit_for_bit(layout: WeightLayout, encoding: Encoding, width: int) -> None:
    tokeniser = tokeniser_of(layout, encoding, width)
    rows = any_bits(2, layout)
    tokens = tokeniser.tokenise(rows)
    assert tokens.shape == (2, tokeniser.num_tokens, tokeniser.width)
    assert tokeniser.mask.shape == (tokeniser.num_tokens, tokeniser.width)
    assert tokeniser.positions.shape == (tokeniser.num_tokens, 3)
    assert torch.equal(bits_of(tokeniser.detokenise(tokens)), bits_of(rows))
    poisoned = tokens.masked_fill(~tokeniser.mask, torch.nan)
    assert torch.equal(bits_of(tokeniser.detokenise(poisoned)), bits_of(rows))
    assert (tokens[:, ~tokeniser.mask] == 0).all()


@given(layout=layouts(), encoding=st.sampled_from(ENCODINGS), width=st.integers(1, 12), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_window_is_a_part_of_the_whole(
    layout: WeightLayout, encoding: Encoding, width: int, data: st.DataObject
) -> None:
    tokeniser = tokeniser_of(layout, encoding, width)
    first = data.draw(st.integers(0, tokeniser.num_tokens - 1))
    num = data.draw(st.integers(1, tokeniser.num_tokens - first))
    window = tokeniser.window(first, num)
    part = slice(first, first + num)
    assert torch.equal(window.columns, tokeniser.columns[part])
    assert torch.equal(window.positions, tokeniser.positions[part])
    assert torch.equal(window.mask, tokeniser.mask[part])
    rows, others = any_bits(2, layout), any_bits(2, layout).flip(0)
    tokens = window.read(rows)
    assert torch.equal(bits_of(tokens), bits_of(tokeniser.tokenise(rows)[:, part].contiguous()))
    written = window.write(tokens.masked_fill(~window.mask, torch.nan), others)
    inside = torch.zeros(layout.num_weights, dtype=torch.bool)
    inside[window.real_columns] = True
    assert torch.equal(bits_of(written[:, inside]), bits_of(rows[:, inside]))
    assert torch.equal(bits_of(written[:, ~inside]), bits_of(others[:, ~inside]))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", [name for name in architecture_names() if name != "resnet18-cifar"])
def test_every_architecture_has_every_encoding(name: str, encoding: Encoding) -> None:
    layout = WeightLayout.of(build_network(name, in_channels=3, image_size=(32, 32), num_classes=10))
    tokeniser = tokeniser_of(layout, encoding, 64)
    rows = torch.randn(1, layout.num_weights)
    assert torch.equal(tokeniser.detokenise(tokeniser.tokenise(rows)), rows)
    if encoding == "weight":
        assert tokeniser.mask.all()
        assert tokeniser.num_tokens == layout.num_weights
    if encoding == "neuron":
        assert sum(num * width for num, width in layer_widths(tokeniser)) == layout.num_weights


def test_neuron_tokens_are_those_of_the_paper() -> None:
    """One token per neuron of the Tetris MLP (5 hidden units, 4 classes) and per kernel of the MNIST CNN."""
    mlp = WeightLayout.of(build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4))
    assert layer_widths(build_tokeniser(mlp, "neuron")) == ((5, 16), (4, 5))
    small = build_tokeniser(
        WeightLayout.of(build_network("cnn-small", in_channels=1, image_size=(28, 28), num_classes=10)), "neuron"
    )
    assert small.num_tokens == 8 + 6 + 4 + 20 + 10


def test_a_window_of_a_large_network_costs_its_own_size() -> None:
    shapes: dict[str, tuple[tuple[int, ...], BlockKind]] = {"a.weight": ((2**20, 2**20), "weight")}
    window = Tokeniser(WeightLayout.from_shapes(shapes), 2**10).window(2**29, 3)  # of 2^30 tokens, 2^40 weights
    assert window.columns[0, :2].tolist() == [2**39, 2**39 + 1]
    assert window.positions.tolist() == [[2**29 + n, 0, 2**19] for n in range(3)]


def test_window_gradients_are_those_of_the_gathers() -> None:
    layout = WeightLayout.of(build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4))
    window = Tokeniser(layout, 7).window(3, 5)
    rows = torch.randn(2, layout.num_weights, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(window.read, (rows,))
    assert torch.autograd.gradcheck(window.write, (tokens, rows))


def test_wrong_widths_windows_and_names_are_refused() -> None:
    layout = WeightLayout.from_shapes({"a.weight": ((2, 3), "weight"), "a.bias": ((2,), "bias")})
    with pytest.raises(InputError, match="needs a width"):
        build_tokeniser(layout, "fixed")
    with pytest.raises(InputError, match="needs no width"):
        build_tokeniser(layout, "neuron", 4)
    with pytest.raises(InputError, match="window: expected some of the 4 tokens"):
        Tokeniser(layout, 2).window(3, 2)
    with pytest.raises(InputError, match="cut into several tokens"):
        layer_widths(Tokeniser(layout, 2))
    with pytest.raises(InputError, match="window: rows have shape"):
        Tokeniser(layout, 2).window(0, 2).read(torch.zeros(1, 3))
    uneven = WeightLayout.from_shapes({"a.weight": ((2, 3), "weight"), "a.bias": ((3,), "bias")})
    with pytest.raises(InputError, match="different numbers of output channels"):
        Tokeniser(uneven, 2)
