from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightBlock, WeightLayout
from zookeeper.nets.registry import architecture_names, build_network

TRAINABLE = ("weight", "bias", "scale", "shift")
BUFFERS = ("running_mean", "running_var")
SMALL = WeightLayout.from_shapes(
    {
        "conv.weight": ((4, 3, 2, 2), "weight"),
        "conv.bias": ((4,), "bias"),
        "norm.weight": ((4,), "scale"),
        "norm.bias": ((4,), "shift"),
        "fc.weight": ((2, 5), "weight"),
        "norm.running_mean": ((4,), "running_mean"),
        "norm.running_var": ((4,), "running_var"),
    }
)


@st.composite
def layouts(draw: st.DrawFn) -> WeightLayout:
    shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)
    first = draw(st.lists(st.tuples(shapes, st.sampled_from(TRAINABLE)), min_size=1, max_size=6))
    last = draw(st.lists(st.tuples(shapes, st.sampled_from(BUFFERS)), max_size=3))
    return WeightLayout.from_shapes({f"l{number}.x": entry for number, entry in enumerate((*first, *last))})  # type: ignore[arg-type]


@given(layouts(), st.lists(st.integers(0, 3), max_size=2).map(tuple), st.sampled_from(["float32", "float64", "int64"]))
@settings(max_examples=80, deadline=None)
def test_unflatten_and_flatten_are_exact_inverses(layout: WeightLayout, lead: tuple[int, ...], dtype: str) -> None:
    rows = np.random.default_rng(0).normal(size=(*lead, layout.num_weights)).astype(dtype)
    parts = layout.unflatten(rows)
    assert list(parts) == [block.name for block in layout.blocks]
    assert all(parts[b.name].shape == lead + b.shape for b in layout.blocks)
    back = layout.flatten(parts)
    assert back.dtype == rows.dtype
    assert np.array_equal(back, rows)
    tensor = torch.from_numpy(rows)
    torch_parts = layout.unflatten(tensor)
    assert all(np.array_equal(torch_parts[name].numpy(), parts[name]) for name in parts)
    torch_back = layout.flatten(torch_parts)
    assert torch_back.dtype == tensor.dtype
    assert torch.equal(torch_back, tensor)
    again = layout.unflatten(layout.flatten(parts))
    assert all(np.array_equal(again[name], parts[name]) for name in parts)


@given(layouts())
@settings(max_examples=50, deadline=None)
def test_json_round_trip(layout: WeightLayout) -> None:
    text = json.dumps(layout.to_json())
    restored = WeightLayout.from_json(json.loads(text))
    assert restored == layout
    assert restored.digest == layout.digest
    assert json.dumps(restored.to_json()) == text


def test_flatten_keeps_special_values_and_bits() -> None:
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324], dtype=np.float64)
    rows = np.resize(values, (3, SMALL.num_weights))
    assert SMALL.flatten(SMALL.unflatten(rows)).tobytes() == rows.tobytes()


def test_columns_are_named_views() -> None:
    rows = np.arange(2.0 * SMALL.num_weights).reshape(2, -1)
    parts = SMALL.unflatten(rows)
    assert parts["fc.weight"][1, 1, 0] == rows[1, 60 + 5]
    parts["norm.bias"][:] = -1
    assert (rows[:, 56:60] == -1).all()
    tensor = torch.zeros(2, SMALL.num_weights, requires_grad=True)
    SMALL.unflatten(tensor)["conv.bias"].sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.nonzero().tolist() == [[m, p] for m in (0, 1) for p in range(48, 52)]


def test_counts_offsets_and_fans() -> None:
    assert (SMALL.num_weights, SMALL.num_trainable) == (48 + 4 + 4 + 4 + 10 + 8, 70)
    assert [block.offset for block in SMALL.blocks] == [0, 48, 52, 56, 60, 70, 74]
    assert {block.name: block.fan_in for block in SMALL.blocks} == {
        "conv.weight": 12,
        "conv.bias": 12,
        "norm.weight": 0,
        "norm.bias": 0,
        "fc.weight": 5,
        "norm.running_mean": 0,
        "norm.running_var": 0,
    }
    assert SMALL.layers == ("conv", "norm", "fc")
    assert SMALL.block("fc.weight").columns == slice(60, 70)
    assert SMALL.block("fc.weight").layer == "fc"


def test_columns_of_layers_and_blocks() -> None:
    assert SMALL.columns(["norm"]).tolist() == [*range(52, 60), *range(70, 78)]
    assert SMALL.columns(["fc", "conv.bias"]).tolist() == [*range(48, 52), *range(60, 70)]
    everything = SMALL.columns(SMALL.layers)
    assert everything.dtype == np.int64
    assert np.array_equal(everything, np.arange(SMALL.num_weights))
    assert SMALL.columns([]).shape == (0,)


def test_digest_depends_on_every_part() -> None:
    base: dict[str, Any] = {"a.weight": ((2, 3), "weight"), "a.bias": ((2,), "bias")}
    others: list[dict[str, Any]] = [
        {"b.weight": ((2, 3), "weight"), "a.bias": ((2,), "bias")},
        {"a.weight": ((3, 2), "weight"), "a.bias": ((2,), "bias")},
        {"a.weight": ((2, 3), "weight"), "a.bias": ((2,), "shift")},
        {"a.bias": ((2,), "bias"), "a.weight": ((2, 3), "weight")},
    ]
    digests = {WeightLayout.from_shapes(shapes).digest for shapes in (base, *others)}
    assert len(digests) == 5
    assert WeightLayout.from_shapes(base).digest == "4cd6a1f9faf1a007"


@pytest.mark.parametrize("name", architecture_names())
def test_layout_of_a_network_is_its_state_dict(name: str) -> None:
    size = {"mlp": (4, 4), "cnn-digits": (8, 8)}.get(name, (32, 32))
    net = build_network(name, in_channels=1, image_size=size, num_classes=10)
    layout = WeightLayout.of(net)
    state = {key: v for key, v in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert {block.name: block.shape for block in layout.blocks} == {key: tuple(v.shape) for key, v in state.items()}
    assert layout.num_weights == sum(v.numel() for v in state.values())


def test_buffers_come_last() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    assert [block.name for block in WeightLayout.of(net).blocks] == [
        *("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "1.running_mean", "1.running_var")
    ]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([("a.weight", 0, "weight"), ("a.bias", 5, "bias")], "'a.bias'.*expected offset 6, got 5"),
        ([("a.weight", 1, "weight")], "expected offset 0, got 1"),
        ([("a.weight", 0, "weight"), ("a.weight", 6, "bias")], "must be unique"),
        ([("n.running_var", 0, "running_var"), ("a.weight", 6, "weight")], "trainable blocks must come before buffers"),
    ],
)
def test_inconsistent_blocks_are_refused(blocks: list[tuple[str, int, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WeightLayout(tuple(WeightBlock(name, (2, 3), at, kind, name[0], 3) for name, at, kind in blocks))


def test_foreign_arrays_are_refused() -> None:
    with pytest.raises(InputError, match=r"rows have 77 columns; expected 78"):
        SMALL.unflatten(np.zeros((2, 77)))
    parts = SMALL.unflatten(np.zeros((2, 78)))
    with pytest.raises(InputError, match=r"missing conv.bias, fc.weight"):
        SMALL.flatten({k: v for k, v in parts.items() if k not in ("conv.bias", "fc.weight")})
    with pytest.raises(InputError, match=r"fc.weight must end in shape \(2, 5\), got \(2, 5, 2\)"):
        SMALL.flatten(parts | {"fc.weight": np.zeros((2, 5, 2))})
    with pytest.raises(InputError, match=r"unknown layer 'fcc'; expected one of conv, norm, fc"):
        SMALL.columns(["fcc"])
    with pytest.raises(InputError, match=r"unknown block 'fc'; expected one of conv.weight, "):
        SMALL.block("fc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "unknown version 2; expected 1"),
        ({"version": None}, "unknown version None"),
        ({"kind": "gain"}, "'a.weight': unknown kind 'gain'"),
        ({"offset": 3}, "stored layout is damaged"),
    ],
)
def test_damaged_json_is_refused(change: dict[str, Any], message: str) -> None:
    value: dict[str, Any] = {"version": 1}
    block = {"name": "a.weight", "shape": [2, 3], "kind": "weight", "offset": 0}
    value |= {key: v for key, v in change.items() if key == "version"}
    block |= {key: v for key, v in change.items() if key != "version"}
    with pytest.raises(InputError, match=message):
        WeightLayout.from_json(value | {"blocks": [block]})
