from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.errors import InputError
from zookeeper.nets.graph import trace
from zookeeper.nets.layout import WeightBlock
from zookeeper.nets.parameters import load_row, row_of
from zookeeper.nets.registry import architecture_names, build_network
from zookeeper.nets.resnet import ResNet
from zookeeper.nets.symmetry import Symmetry

IMAGE_SHAPES = {
    "cnn-digits": (1, 8, 8),
    "cnn-large": (3, 32, 32),
    "lenet5": (3, 32, 32),
    "mlp": (1, 4, 4),
    "resnet18-cifar": (3, 8, 8),
}


class Residual(nn.Module):
    """Batch norms, an identity skip, a 1x1-convolution skip, global average pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.wide = nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.skip = nn.Conv2d(6, 10, 1, stride=2)
        self.wide_norm = nn.BatchNorm2d(10)
        self.head = nn.Linear(10, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(images)))
        x = F.relu(x + self.body(x))
        x = F.relu(self.wide_norm(self.wide(x)) + self.skip(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class Depthwise(nn.Module):
    """Depthwise convolutions with one and with three outputs per channel, then flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.depth = nn.Conv2d(4, 4, 3, groups=4)
        self.triple = nn.Conv2d(4, 12, 3, groups=4)
        self.norm = nn.BatchNorm2d(12)
        self.point = nn.Conv2d(12, 5, 1)
        self.head = nn.Linear(5 * 4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.depth(torch.tanh(self.stem(images))))
        x = torch.tanh(self.point(self.norm(self.triple(x))))
        logits: torch.Tensor = self.head(F.avg_pool2d(x, 2).flatten(1))
        return logits


class RunsOfRuns(nn.Module):
    """A depthwise convolution with two outputs per channel that is flattened: runs inside runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3)
        self.twin = nn.Conv2d(8, 16, 3, groups=8)
        self.norm = nn.BatchNorm1d(16 * 16)
        self.head = nn.Linear(16 * 16, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(self.twin(F.relu(self.stem(images))).flatten(1)))
        return logits


class Grouped(nn.Module):
    """A grouped convolution that is not depthwise, between free layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2)
        self.last = nn.Conv2d(6, 5, 3)
        self.head = nn.Linear(5, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.last(F.relu(self.grouped(F.relu(self.first(images))))))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class UsedTwice(nn.Module):
    """One convolution and one norm applied twice, once to the same value."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3, padding=1)
        self.shared = nn.Conv2d(5, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.left = nn.Linear(5, 7)
        self.head = nn.Linear(7, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(images))
        x = F.relu(self.norm(self.shared(x)) + self.shared(x)).mean((2, 3))
        logits: torch.Tensor = self.head(F.relu(self.left(x)) + F.tanh(self.left(x)))
        return logits


class MixedBlocks(nn.Module):
    """A flattened value added to the output of a linear layer: block lengths differ."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 7)
        self.flat = nn.Flatten()
        self.fc = nn.Linear(12, 12)
        self.hidden = nn.Linear(12, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.flat(self.conv(images))
        logits: torch.Tensor = self.head(F.relu(self.hidden(x + F.relu(self.fc(x)))))
        return logits


class Sliced(nn.Module):
    """A residual add of a slice, then a slice that is flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3)
        self.body = nn.Conv2d(5, 5, 3)
        self.head = nn.Linear(5 * 2 * 3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(images))
        x = F.relu(self.body(x)) + x[:, :, 1:-1, :-2]
        logits: torch.Tensor = self.head(x[:, :, ::2, 1:].flatten(1))
        return logits


MODULES: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "runs": RunsOfRuns,
    "grouped": Grouped,
    "used-twice": UsedTwice,
    "mixed-blocks": MixedBlocks,
    "sliced": Sliced,
    "slim-resnet": lambda: ResNet((2, 1, 1), (4, 6, 8), in_channels=2, num_classes=4, activation="relu", dropout=0.0),
}


def registered(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    shape = IMAGE_SHAPES.get(name, (1, 28, 28))
    net = build_network(name, in_channels=shape[0], image_size=shape[1:], num_classes=4, activation="gelu")
    return net, shape


def network(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    torch.manual_seed(0)
    net, shape = (MODULES[name](), (2, 8, 8)) if name in MODULES else registered(name)
    for layer in net.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.2, 2.0)
    return net.double().eval(), shape


def outputs(net: nn.Module, row: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = load_row(net, row)(images)
    return logits


def images_for(shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


ALL = (*architecture_names(), *MODULES)
LIGHT = tuple(name for name in ALL if name != "resnet18-cifar")  # its blocks are those of the slim one


@pytest.mark.parametrize("name", ALL)
def test_drawn_permutations_keep_the_function(name: str) -> None:
    net, shape = network(name)
    images, row = images_for(shape), row_of(net)
    symmetry = Symmetry.of(net, shape)
    num = 4 if name in LIGHT else 1
    index = torch.from_numpy(symmetry.draw(num, np.random.default_rng(0)))
    rows = row.expand(num, -1).gather(1, index)
    expected = outputs(net, row, images)
    assert expected.std() > 1e-4
    for permuted in rows:
        assert not torch.equal(permuted, row)
        torch.testing.assert_close(outputs(net, permuted, images), expected, rtol=1e-11, atol=1e-11)
    wrong = index[0].clone()
    left_behind = symmetry.layout.block(max(symmetry.groups, key=lambda group: group.size).members[0].block)
    wrong[left_behind.columns] = torch.arange(left_behind.offset, left_behind.offset + left_behind.size)
    assert (outputs(net, row[wrong], images) - expected).abs().max() > 1e-7


@pytest.mark.parametrize("name", LIGHT)
def test_every_member_matters(name: str) -> None:
    """Moving any single axis of a group without the others changes the function."""
    net, shape = network(name)
    images, row = images_for(shape), row_of(net)
    symmetry = Symmetry.of(net, shape)
    expected = outputs(net, row, images)
    for group in symmetry.groups:
        for member in group.members:
            perm = np.roll(np.arange(group.size), 1)
            spread = (perm[:, None] * member.block_length + np.arange(member.block_length)).ravel()
            parts = symmetry.layout.unflatten(row)
            parts[member.block] = parts[member.block].index_select(member.axis, torch.from_numpy(spread))
            wrong = outputs(net, symmetry.layout.flatten(parts), images)
            assert (wrong - expected).abs().max() > 1e-7, (group.name, member)


def test_interleaved_flatten_blocks_are_wrong() -> None:
    net, shape = network("cnn-small")
    images, row = images_for(shape), row_of(net)
    symmetry = Symmetry.of(net, shape)
    expected = outputs(net, row, images)
    perm = np.roll(np.arange(4), 3)
    perms = [np.arange(8), np.arange(6), perm, np.arange(20)]
    right = symmetry.layout.unflatten(row[symmetry.index_of(perms)])
    torch.testing.assert_close(outputs(net, symmetry.layout.flatten(right), images), expected, rtol=1e-11, atol=1e-11)
    interleaved = (np.arange(9)[:, None] * 4 + perm).ravel()
    original = symmetry.layout.unflatten(row)["fc1.weight"]
    wrong = right | {"fc1.weight": original[:, torch.from_numpy(interleaved)]}
    assert (outputs(net, symmetry.layout.flatten(wrong), images) - expected).abs().max() > 1e-3
    within = (np.arange(4)[:, None] * 9 + np.roll(np.arange(9), 2)).ravel()
    wrong = symmetry.layout.unflatten(row) | {"fc1.weight": original[:, torch.from_numpy(within)]}
    assert (outputs(net, symmetry.layout.flatten(wrong), images) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_logits_and_image_channels_never_move(name: str) -> None:
    net, shape = network(name)
    symmetry = Symmetry.of(net, shape)
    ops = trace(net, shape).ops
    head = ops[-2].layer
    moved = {(member.block, member.axis) for group in symmetry.groups for member in group.members}
    readers = {op.layer for op in ops if op.kind in ("conv", "linear") and 0 in op.inputs}
    assert not moved & {(f"{layer}.weight", 1) for layer in readers}
    assert not moved & {(f"{head}.weight", 0), (f"{head}.bias", 0)}
    images, row = images_for(shape), row_of(net)
    parts = symmetry.layout.unflatten(row)
    swapped = {b.name: parts[b.name].flip(0) for b in symmetry.layout.blocks if b.layer == head}
    expected = outputs(net, row, images)
    assert (outputs(net, symmetry.layout.flatten(parts | swapped), images) - expected).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["cnn-digits", "cnn-small", "residual", "runs"])
def test_draws_are_distinct_bijections_with_exact_inverses(name: str) -> None:
    net, shape = network(name)
    symmetry = Symmetry.of(net, shape)
    index = symmetry.draw(16, np.random.default_rng(3))
    assert index.dtype == np.int64
    assert np.array_equal(np.sort(index, axis=1), np.broadcast_to(symmetry.identity, index.shape))
    assert len(np.unique(index, axis=0)) == 16
    rows = torch.randn(16, symmetry.layout.num_weights)
    inverse = symmetry.inverse(index)
    there = rows.gather(1, torch.from_numpy(index))
    assert torch.equal(there.gather(1, torch.from_numpy(inverse)), rows)
    assert np.array_equal(symmetry.inverse(index[0]), inverse[0])


def test_groups_of_a_residual_network() -> None:
    net, shape = network("residual")
    groups = Symmetry.of(net, shape).groups
    assert [group.size for group in groups] == [6, 10]
    stem = {(member.block, member.axis) for member in groups[0].members}
    norm = {(f"norm.{part}", 0) for part in ("weight", "bias", "running_mean", "running_var")}
    convs = {("body.weight", 0), ("body.bias", 0), ("body.weight", 1), ("wide.weight", 1), ("skip.weight", 1)}
    assert stem == {("stem.weight", 0)} | norm | convs


def test_groups_of_resnet18() -> None:
    """One group per stage for all that its adds join, one inside each block."""
    net, shape = network("resnet18-cifar")
    symmetry = Symmetry.of(net, shape)
    assert [group.size for group in symmetry.groups] == [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3
    by_name = {group.name: {(m.block, m.axis) for m in group.members} for group in symmetry.groups}
    norm = ("weight", "bias", "running_mean", "running_var")
    inner = {("layer3.1.conv1.weight", 0), ("layer3.1.conv2.weight", 1)}
    assert by_name["layer3.1.conv1"] == inner | {(f"layer3.1.bn1.{part}", 0) for part in norm}
    first, second = next(members for members in by_name.values() if ("layer2.0.conv2.weight", 0) in members), set()
    second |= {(f"layer2.{place}.{part}", 0) for part in norm for place in ("0.bn2", "0.downsample.1", "1.bn2")}
    second |= {(f"layer2.{place}.weight", 0) for place in ("0.conv2", "0.downsample.0", "1.conv2")}
    second |= {(f"{place}.weight", 1) for place in ("layer2.1.conv1", "layer3.0.conv1", "layer3.0.downsample.0")}
    assert first == second


@pytest.mark.parametrize("part", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("name", ["slim-resnet", "residual"])
def test_every_tensor_of_a_norm_moves(name: str, part: str) -> None:
    """A permutation that leaves one tensor of a norm behind changes the function."""
    net, shape = network(name)
    images, row = images_for(shape), row_of(net)
    symmetry = Symmetry.of(net, shape)
    expected = outputs(net, row, images)
    index = symmetry.draw(1, np.random.default_rng(0))[0]
    torch.testing.assert_close(outputs(net, row[index], images), expected, rtol=1e-11, atol=1e-11)
    norms = [op.layer for op in trace(net, shape).ops if op.kind == "batchnorm"]
    assert len(norms) > 1
    for norm in norms:
        wrong = index.copy()
        columns = symmetry.layout.block(f"{norm}.{part}").columns
        wrong[columns] = symmetry.identity[columns]
        assert (outputs(net, row[wrong], images) - expected).abs().max() > 1e-7, norm


def test_a_residual_add_ties_its_inputs() -> None:
    """Permuting only one side of an add, itself a consistent renaming of that layer, changes the function."""
    net, shape = network("slim-resnet")
    images, row = images_for(shape), row_of(net)
    layout = Symmetry.of(net, shape).layout
    expected, parts = outputs(net, row, images), layout.unflatten(row)
    one_side = [b for b in layout.blocks if b.layer in ("layer2.0.conv2", "layer2.0.bn2")]
    both = [*one_side, *(b for b in layout.blocks if b.layer.startswith("layer2.0.downsample"))]
    readers = {f"layer3.0.{name}.weight": 1 for name in ("conv1", "downsample.0")}

    def moved(blocks: list[WeightBlock]) -> torch.Tensor:
        change = {b.name: parts[b.name].flip(0) for b in blocks} | {
            k: parts[k].flip(axis) for k, axis in readers.items()
        }
        return outputs(net, layout.flatten(parts | change), images)

    torch.testing.assert_close(moved(both), expected, rtol=1e-11, atol=1e-11)
    assert (moved(one_side) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("depthwise", [4, 5]),
        ("runs", [8]),
        ("grouped", [5]),
        ("used-twice", [5, 7]),
        ("mixed-blocks", [6]),
        ("sliced", [5]),
        ("slim-resnet", [4, 4, 4, 6, 6, 8, 8]),
        ("cnn-residual", [8, 6, 4, 20]),
        ("cnn-deep", [8, 4, 6, 4, 18]),
        ("cnn-deep-residual", [8, 4, 6, 18]),
        ("smallcnn-google", [16, 16, 16]),
    ],
)
def test_group_sizes(name: str, sizes: list[int]) -> None:
    net, shape = network(name)
    assert [group.size for group in Symmetry.of(net, shape).groups] == sizes


def test_names_play_no_part() -> None:
    net = build_network("cnn-small", in_channels=1, image_size=(28, 28), num_classes=10, activation="relu")
    convs = [net.get_submodule(f"conv{number}") for number in (1, 2, 3)]
    body = [layer for conv in convs[:2] for layer in (conv, nn.MaxPool2d(2), nn.ReLU())]
    anonymous = nn.Sequential(
        *body, convs[2], nn.ReLU(), nn.Flatten(), net.get_submodule("fc1"), nn.ReLU(), nn.Linear(20, 10)
    )
    first = Symmetry.of(net, (1, 28, 28)).draw(3, np.random.default_rng(5))
    second = Symmetry.of(anonymous, (1, 28, 28)).draw(3, np.random.default_rng(5))
    assert np.array_equal(first, second)


def test_no_hidden_units_no_groups() -> None:
    symmetry = Symmetry.of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 2, 2))
    assert symmetry.groups == ()
    assert np.array_equal(symmetry.draw(2, np.random.default_rng(0)), np.stack([symmetry.identity] * 2))
    assert np.array_equal(symmetry.index_of([]), symmetry.identity)


def test_identity_and_draws_agree_with_index_of() -> None:
    net, shape = network("cnn-digits")
    symmetry = Symmetry.of(net, shape)
    assert np.array_equal(symmetry.index_of([np.arange(group.size) for group in symmetry.groups]), symmetry.identity)
    assert not symmetry.identity.flags.writeable
    assert symmetry.draw(0, np.random.default_rng(0)).shape == (0, symmetry.layout.num_weights)


def test_one_state_one_draw() -> None:
    net, shape = network("cnn-digits")
    symmetry = Symmetry.of(net, shape)
    for make in (np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)):
        assert np.array_equal(symmetry.draw(3, make(7)), symmetry.draw(3, make(7)))
        generator = make(7)
        assert not np.array_equal(symmetry.draw(3, generator), symmetry.draw(3, generator))


def test_draws_are_uniform() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    symmetry = Symmetry.of(net, (1, 2, 2))
    _, counts = np.unique(symmetry.draw(6000, np.random.default_rng(0)), axis=0, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 850


def test_is_a_value() -> None:
    net, shape = network("residual")
    symmetry = Symmetry.of(net, shape)
    symmetry.draw(1, np.random.default_rng(0))
    restored = pickle.loads(pickle.dumps(symmetry))
    assert restored == symmetry
    assert restored == Symmetry.of(net, shape)
    a, b = (s.draw(2, np.random.default_rng(1)) for s in (symmetry, restored))
    assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("perms", "message"),
    [
        ([[0, 1, 2]], "expected 2 permutations"),
        ([[0, 1], [0, 1]], "permutation of 0..2"),
        ([[0, 1, 1], [0, 1]], "with 2 different values"),
    ],
)
def test_wrong_permutations_are_refused(perms: list[list[int]], message: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 2))
    with pytest.raises(InputError, match=message):
        Symmetry.of(net, (1, 2, 2)).index_of(perms)


def test_wrong_arguments_are_refused() -> None:
    symmetry = Symmetry.of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2)), (1, 2, 2))
    with pytest.raises(InputError, match="num must be 0 or more"):
        symmetry.draw(-1, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"expected index arrays \[\.\.\., 23\]"):
        symmetry.inverse(np.arange(4))
