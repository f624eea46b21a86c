"""Alignment: the function stays, a permuted copy is found again, distances never rise, nothing moves twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional as F

from hyperrep.weights.alignment import Aligner
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import architecture_names, build_network
from zookeeper.nets.resnet import ResNet
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population

IMAGE_SHAPES = {"cnn-digits": (1, 8, 8), "cnn-digits-shallow": (1, 8, 8), "mlp": (1, 4, 4), "lenet5": (3, 32, 32)}


class Tied(nn.Module):
    """A batch norm and an identity skip around one convolution: one group on both axes of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6 * 16, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(images)))
        logits: torch.Tensor = self.head(F.avg_pool2d(F.relu(x + self.body(x)), 2).flatten(1))
        return logits


def slim_resnet() -> nn.Module:
    return ResNet((2, 1, 1), (4, 6, 8), in_channels=2, num_classes=4, activation="relu", dropout=0.0)


OWN: dict[str, Callable[[], nn.Module]] = {"tied": Tied, "slim-resnet": slim_resnet}
# resnet18-cifar is the slim one with 11 million weights: half a minute here, measured in docs/results/alignment
ALL = (*(name for name in architecture_names() if name != "resnet18-cifar"), *OWN)


pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def architecture(name: str) -> tuple[nn.Module, tuple[int, int, int], Symmetry]:
    shape = (2, 8, 8) if name in OWN else IMAGE_SHAPES.get(name, (1, 28, 28))
    if name in OWN:
        net = OWN[name]()
    else:
        net = build_network(name, in_channels=shape[0], image_size=shape[1:], num_classes=4, activation="gelu")
    return net.eval(), shape, Symmetry.of(net, shape)


def draw_rows(layout: WeightLayout, num: int, seed: int = 0) -> torch.Tensor:
    """Rows of no special kind, with running variances above 0."""
    rows = torch.randn(num, layout.num_weights, generator=torch.Generator().manual_seed(seed)) * 0.3
    for block in layout.blocks:
        if block.kind == "running_var":
            rows[:, block.columns] = rows[:, block.columns].abs() + 0.5
    return rows


def permute(rows: torch.Tensor, symmetry: Symmetry, seed: int) -> torch.Tensor:
    return rows.gather(1, torch.from_numpy(symmetry.draw(len(rows), np.random.default_rng(seed))))


def distance(rows: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    difference: torch.Tensor = (rows.double() - reference.double()).square().sum(dim=1).sqrt()
    return difference


@pytest.mark.parametrize("name", ALL)
def test_alignment_keeps_the_function_comes_closer_and_is_done_at_once(name: str) -> None:
    net, shape, symmetry = architecture(name)
    rows, reference = draw_rows(symmetry.layout, 3, seed=1), draw_rows(symmetry.layout, 1)[0]
    aligner = Aligner(symmetry, reference, seed=3)
    aligned = aligner.align(rows)
    assert torch.equal(aligned.sort(dim=1).values, rows.sort(dim=1).values)
    before, after = distance(rows, reference), distance(aligned, reference)
    assert (after < 0.999 * before).all()
    assert torch.equal(aligner.align(aligned), aligned)
    assert torch.equal(Aligner(symmetry, reference, seed=3).align(rows), aligned)
    population = Population(net, shape)
    images = torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = population.forward(rows.double(), images)
    assert expected.std() > 1e-4
    torch.testing.assert_close(population.forward(aligned.double(), images), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_a_permuted_copy_is_found_again_to_the_bit(name: str) -> None:
    _, _, symmetry = architecture(name)
    reference = draw_rows(symmetry.layout, 1)[0]
    permuted = permute(reference.expand(4, -1), symmetry, seed=0)
    assert (distance(permuted, reference) > 1).all()
    assert torch.equal(Aligner(symmetry, reference).align(permuted), reference.expand(4, -1))


@pytest.mark.parametrize("name", ["cnn-small", "tied"])
def test_a_network_does_not_depend_on_those_beside_it(name: str) -> None:
    _, _, symmetry = architecture(name)
    aligner = Aligner(symmetry, draw_rows(symmetry.layout, 1)[0])
    rows = draw_rows(symmetry.layout, 5, seed=1)
    alone = torch.cat([aligner.align(row[None]) for row in rows])
    assert torch.equal(aligner.align(rows), alone)
    assert torch.equal(aligner.align(rows.flip(0)).flip(0), alone)
    assert aligner.align(rows[:0]).shape == (0, symmetry.layout.num_weights)


def test_one_hidden_layer_is_matched_as_well_as_can_be() -> None:
    """With a single group the problem is one assignment, whose best solution is known."""
    _, _, symmetry = architecture("mlp")
    rows = draw_rows(symmetry.layout, 20)
    aligned = Aligner(symmetry, rows[0]).align(rows)
    blocks = symmetry.layout.unflatten(rows.double())
    (group,) = symmetry.groups
    sides = [blocks[member.block].movedim(member.axis + 1, 1).flatten(2) for member in group.members if member.axis]
    sides += [blocks[member.block].reshape(20, group.size, -1) for member in group.members if not member.axis]
    units = torch.cat(sides, dim=2).numpy()
    assert {member.block for member in group.members} == {block.name for block in symmetry.layout.blocks}
    for row, one in zip(aligned, units, strict=True):
        cost = ((units[0][:, None] - one[None]) ** 2).sum(-1)
        moved = float(distance(row[None], rows[0])) ** 2
        assert moved == pytest.approx(cost[linear_sum_assignment(cost)].sum(), abs=1e-9)


def test_tied_units_move_together() -> None:
    """Norm, both axes of the block inside the skip and the flattened columns follow the stem."""
    _, _, symmetry = architecture("tied")
    (group,) = symmetry.groups
    reference = draw_rows(symmetry.layout, 1)[0]
    perm = np.array([3, 0, 5, 1, 4, 2])
    permuted = reference[torch.from_numpy(symmetry.index_of([perm]))]
    noisy = permuted + 0.01 * draw_rows(symmetry.layout, 1, seed=9)[0]
    index = Aligner(symmetry, reference).match(noisy[None])[0]
    assert np.array_equal(index, symmetry.index_of([np.argsort(perm)]))
    assert {(member.block, member.axis) for member in group.members} >= {("norm.running_var", 0), ("body.weight", 1)}


def test_every_step_of_a_tied_group_is_tested_exactly() -> None:
    """The linear cost of such a group may promise a gain that is a loss; distances fall all the same."""
    _, _, symmetry = architecture("tied")
    rows, reference = draw_rows(symmetry.layout, 200, seed=1), draw_rows(symmetry.layout, 1)[0]
    assert (distance(Aligner(symmetry, reference).align(rows), reference) <= distance(rows, reference)).all()


def test_units_that_do_nothing_do_no_harm() -> None:
    _, _, symmetry = architecture("cnn-small")
    rows = draw_rows(symmetry.layout, 3)
    first = symmetry.groups[0]
    for member in first.members:
        block = symmetry.layout.block(member.block)
        values = rows[:, block.columns].reshape(3, *block.shape)
        (values if member.axis == 0 else values.transpose(1, 2))[:, : 3 * member.block_length] = 0.0
    aligner = Aligner(symmetry, rows[0])
    assert torch.equal(aligner.align(permute(rows[:1], symmetry, 4))[0], rows[0])
    aligned = aligner.align(rows)
    assert torch.equal(aligner.align(aligned), aligned)
    zeros = torch.zeros_like(rows)
    assert torch.equal(aligner.align(zeros), zeros)


def test_a_network_without_hidden_units_stays() -> None:
    symmetry = Symmetry.of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))
    rows = draw_rows(symmetry.layout, 2)
    assert torch.equal(Aligner(symmetry, rows[1]).align(rows), rows)


def test_what_cannot_be_aligned_is_refused() -> None:
    _, _, symmetry = architecture("mlp")
    rows = draw_rows(symmetry.layout, 3)
    with pytest.raises(InputError, match=r"shape \(99,\); expected \(100,\)"):
        Aligner(symmetry, rows[0, :99])
    with pytest.raises(InputError, match="all finite"):
        Aligner(symmetry, rows[0] * torch.nan)
    with pytest.raises(InputError, match=r"shape \(3, 99\); expected \[N, 100\]"):
        Aligner(symmetry, rows[0]).align(rows[:, :99])
    rows[1, 5] = torch.inf
    with pytest.raises(InputError, match=r"1 of 3 rows are not finite \(first: 1\)"):
        Aligner(symmetry, rows[0]).align(rows)
