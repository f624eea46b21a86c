"""Weight matching: exchange hidden units until a network lies as close to a reference as this search can bring it.

The distance of two networks over all permutations of units is a sum of bilinear assignment problems. With all
groups but one held still, the best permutation of that one is a linear assignment; the groups take turns until
none improves. That ends in a local optimum, so each network is searched from two starts: from where it is, and
from a pass through the network in which each group is matched by the weights that join it to groups matched
before. The second start finds a permuted copy of the reference exactly, whatever the permutation.

Source: Ainsworth et al., "Git Re-Basin: Merging Models modulo Permutation Symmetries" (2023), section 3.2 and
Algorithm 1. The second start and the exact test of each step are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.symmetry import GroupMember, IndexArray, PermutationGroup, Symmetry

Values = NDArray[np.float64]
_TOLERANCE = 1e-12  # of the product of both norms: what rounding can feign in float64
_TILE_WEIGHTS = 4_000_000  # of one pass, so that the working memory does not grow with the number of networks
_PURPOSE = 0xA1160  # keeps the order of groups apart from other draws with the same seed


@dataclass(frozen=True, eq=False)
class Aligner:
    """Align networks of one architecture to a reference network; the function of none of them changes.

    A result depends on the network, the reference and the seed alone. Its distance to the reference is never
    larger than before; aligning it again moves nothing.

    Parameters
    ----------
    symmetry
        Permutations that keep the function of this architecture.
    reference
        Weights ``[P]`` of the network to align to, finite.
    seed
        Decides in which order the groups take turns.

    Raises
    ------
    InputError
        If the reference does not have the layout's columns, or is not finite.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> symmetry = Symmetry.of(net, (1, 2, 2))
    >>> reference = torch.arange(23.0).sin()
    >>> aligner = Aligner(symmetry, reference)
    >>> permuted = reference[symmetry.index_of([[2, 0, 1]])]
    >>> torch.equal(aligner.align(permuted[None])[0], reference)
    True
    """

    symmetry: Symmetry
    reference: torch.Tensor
    seed: int = 0

    def __post_init__(self) -> None:
        expected = self.symmetry.layout.num_weights
        if tuple(self.reference.shape) != (expected,) or not bool(torch.isfinite(self.reference).all()):
            raise InputError(
                f"align: the reference has shape {tuple(self.reference.shape)}; expected ({expected},), all finite. "
                "Choose a network of this architecture that did not diverge."
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values for storage, all but the weights of the reference; `from_json` restores an equal aligner."""
        groups = [
            {"name": group.name, "size": group.size, "members": [astuple(member) for member in group.members]}
            for group in self.symmetry.groups
        ]
        return {"version": 1, "seed": self.seed, "groups": groups}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], layout: WeightLayout, reference: torch.Tensor) -> Aligner:
        """Restore an aligner from `to_json` and the reference ``[P]``.

        Raises
        ------
        InputError
            If the version is unknown, or the groups do not belong to the layout.
        """
        if value.get("version") != 1:
            raise InputError(f"alignment: unknown version {value.get('version')!r}; expected 1.")
        groups = []
        for group in value["groups"]:
            members = tuple(GroupMember(str(name), int(axis), int(length)) for name, axis, length in group["members"])
            for member in members:
                shape, expected = layout.block(member.block).shape, int(group["size"]) * member.block_length
                if member.axis not in range(len(shape)) or shape[member.axis] != expected:
                    raise InputError(f"alignment: group {group['name']!r} does not fit {member.block} {shape}.")
            groups.append(PermutationGroup(str(group["name"]), int(group["size"]), members))
        return cls(Symmetry(layout, tuple(groups)), reference, int(value["seed"]))

    def align(self, rows: torch.Tensor) -> torch.Tensor:
        """Permute each of the rows ``[N, P]`` to match the reference: the same numbers in other columns.

        Raises
        ------
        InputError
            If the rows do not have the layout's columns, or are not finite.
        """
        self._check(rows)
        parts = [torch.gather(part, 1, torch.from_numpy(index).to(part.device)) for part, index in self._tiles(rows)]
        return torch.cat(parts) if parts else rows.clone()

    def match(self, rows: torch.Tensor) -> IndexArray:
        """The gathers int64 ``[N, P]`` by which `align` permutes the rows ``[N, P]``."""
        self._check(rows)
        parts = [index for _, index in self._tiles(rows)]
        return np.concatenate(parts) if parts else np.empty((0, self.symmetry.layout.num_weights), dtype=np.int64)

    def _check(self, rows: torch.Tensor) -> None:
        expected = self.symmetry.layout.num_weights
        if rows.ndim != 2 or rows.shape[1] != expected:
            raise InputError(
                f"align: rows have shape {tuple(rows.shape)}; expected [N, {expected}]. "
                "Check that they belong to the architecture of the reference."
            )
        bad = (~torch.isfinite(rows).all(dim=1)).nonzero().flatten().tolist()
        if bad:
            raise InputError(
                f"align: {len(bad)} of {len(rows)} rows are not finite (first: {bad[0]}). "
                "Leave diverged models out (status == 'ok')."
            )

    def _tiles(self, rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, IndexArray]]:
        num_weights = self.symmetry.layout.num_weights
        for part in torch.split(rows, max(1, _TILE_WEIGHTS // num_weights)):
            if not self.symmetry.groups or len(part) == 0:
                yield part, np.tile(self.symmetry.identity, (len(part), 1))
                continue
            matching = self._search(part.detach().cpu().double().numpy())
            yield part, self.symmetry.index_of(matching.perms)

    @cached_property
    def _sides(self) -> tuple[tuple[_Side, ...], ...]:
        return _sides_of(self.symmetry)

    def _search(self, rows: Values) -> _Matching:
        """From both starts, again from the better end while that helps: the end is a fixed point of this search."""
        reference = self.reference.detach().cpu().double().numpy()
        found = _Matching.start(self._sides, self.symmetry.layout, rows, reference)
        found.descend(self.seed)
        active = np.arange(len(rows))
        while len(active):
            other = found.take(active)
            other.propagate()
            other.descend(self.seed)
            better = other.score() - found.take(active).score() > other.tolerance
            active = active[better]
            found.put(active, other.take(np.flatnonzero(better)))
        return found


@dataclass(frozen=True, slots=True)
class _Side:
    """One axis of one block whose units a group permutes; ``other`` is the group on the block's other axis."""

    member: GroupMember
    size: int
    other: int | None

    def units(self, values: Values) -> Values:
        """View a block of N networks ``[N, *shape]`` as ``[N, units, the entries of one unit]``."""
        num = len(values)
        if self.member.axis == 0:
            return values.reshape(num, self.size, -1)
        split = values.reshape(num, values.shape[1], self.size, -1)
        return split.transpose(0, 2, 1, 3).reshape(num, self.size, -1)

    def permuted(self, values: Values, perm: IndexArray) -> Values:
        """Units of ``[N, *shape]`` moved by one permutation ``[N, units]`` per network."""
        num, lead = len(values), 1 if self.member.axis == 0 else values.shape[1]
        split = values.reshape(num, lead, self.size, -1)
        moved: Values = np.take_along_axis(split, perm[:, None, :, None], axis=2).reshape(values.shape)
        return moved


def _sides_of(symmetry: Symmetry) -> tuple[tuple[_Side, ...], ...]:
    """The sides of every group."""
    group_at = {
        (member.block, member.axis): number for number, group in enumerate(symmetry.groups) for member in group.members
    }
    return tuple(
        tuple(_Side(member, group.size, group_at.get((member.block, 1 - member.axis))) for member in group.members)
        for group in symmetry.groups
    )


@dataclass(eq=False)
class _Matching:
    """Networks on their way to the reference: their blocks as permuted so far, and the permutations.

    Only blocks that some group moves are kept; the others add a constant to every distance.
    """

    sides: tuple[tuple[_Side, ...], ...]
    reference: Mapping[str, Values]  # [1, *shape]
    blocks: dict[str, Values]  # [N, *shape]
    perms: list[IndexArray]  # [N, units] of every group
    tolerance: Values  # [N]

    @classmethod
    def start(
        cls, sides: tuple[tuple[_Side, ...], ...], layout: WeightLayout, rows: Values, reference: Values
    ) -> _Matching:
        names = {side.member.block for group in sides for side in group}
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(reference)
        identity = [np.tile(np.arange(group[0].size, dtype=np.int64), (len(rows), 1)) for group in sides]
        kept = {name: values for name, values in layout.unflatten(reference[None]).items() if name in names}
        blocks = {name: values.copy() for name, values in layout.unflatten(rows).items() if name in names}
        return cls(sides, kept, blocks, identity, norms * _TOLERANCE)

    def take(self, which: IndexArray) -> _Matching:
        """Copy some of the networks."""
        blocks = {name: values[which] for name, values in self.blocks.items()}
        return _Matching(
            self.sides, self.reference, blocks, [perm[which] for perm in self.perms], self.tolerance[which]
        )

    def put(self, which: IndexArray, others: _Matching) -> None:
        """Replace some of the networks."""
        for name, values in others.blocks.items():
            self.blocks[name][which] = values
        for perm, other in zip(self.perms, others.perms, strict=True):
            perm[which] = other

    def score(self) -> Values:
        """Inner product ``[N]`` with the reference; the squared distance falls by twice what it rises."""
        return _inner(self.blocks, self.reference)

    def propagate(self) -> None:
        """Match the groups in the order of the graph, each by what joins it to groups matched before.

        For a permuted copy of the reference all those entries are in their places already, so by Cauchy and Schwarz
        the right permutation is the best one: no wrong choice is made, and none has to be undone.
        """
        everyone = np.arange(len(self.tolerance))
        known: set[int | None] = {None}
        for group, sides in enumerate(self.sides):
            cost = self._cost([side for side in sides if side.other in known], everyone)
            self._move(group, everyone, _assign(cost))
            known.add(group)

    def descend(self, seed: int) -> None:
        """Improve one group after the other, in an order drawn anew for each round, until none improves."""
        active, number = np.arange(len(self.tolerance)), 0
        while len(active):
            order = np.random.default_rng((seed, _PURPOSE, number)).permutation(len(self.sides))
            moved = np.zeros(len(active), dtype=bool)
            for group in order:
                moved |= self._improve(int(group), active)
            active, number = active[moved], number + 1

    def _improve(self, group: int, active: IndexArray) -> NDArray[np.bool_]:
        """Give the group its best permutation where that brings a network closer; whether it did, ``[n]``."""
        sides = self.sides[group]
        cost = self._cost(sides, active)
        perm = _assign(cost)
        if any(side.other == group for side in sides):  # both axes of a block move: the cost is linear no longer
            gain = self._exact_gain(sides, active, perm)
        else:
            gain = np.take_along_axis(cost, perm[:, :, None], 2).sum((1, 2)) - np.trace(cost, axis1=1, axis2=2)
        better = gain > self.tolerance[active]
        self._move(group, active[better], perm[better])
        return better

    def _cost(self, sides: Sequence[_Side], active: IndexArray) -> Values:
        """Inner products ``[n, unit of the reference, unit of the network]``: one matrix product per side for all.

        The product is torch's, whose number of threads the caller sets.
        """
        total: Values | None = None
        for side in sides:
            block = side.member.block
            units, wanted = side.units(self.blocks[block][active]), side.units(self.reference[block])[0]
            product = torch.from_numpy(units.reshape(-1, wanted.shape[1])) @ torch.from_numpy(wanted).T
            part: Values = product.numpy().reshape(len(active), side.size, side.size)
            total = part if total is None else total + part
        assert total is not None  # the layer that makes a group comes after the groups that it reads
        return total.transpose(0, 2, 1)

    def _exact_gain(self, sides: tuple[_Side, ...], active: IndexArray, perm: IndexArray) -> Values:
        before = {side.member.block: self.blocks[side.member.block][active] for side in sides}
        after = dict(before)
        for side in sides:
            after[side.member.block] = side.permuted(after[side.member.block], perm)
        return _inner(after, self.reference) - _inner(before, self.reference)

    def _move(self, group: int, which: IndexArray, perm: IndexArray) -> None:
        if len(which) == 0:
            return
        for side in self.sides[group]:
            values = self.blocks[side.member.block]
            values[which] = side.permuted(values[which], perm)
        self.perms[group][which] = np.take_along_axis(self.perms[group][which], perm, axis=1)


def _inner(blocks: Mapping[str, Values], reference: Mapping[str, Values]) -> Values:
    products = [
        values.reshape(len(values), -1) @ reference[name].reshape(-1) for name, values in sorted(blocks.items())
    ]
    total: Values = np.sum(products, axis=0)
    return total


def _assign(cost: Values) -> IndexArray:
    """For every network the unit that each unit of the reference gets, so that the sum of the cost is largest."""
    perms = np.empty(cost.shape[:2], dtype=np.int64)
    for number, one in enumerate(cost):  # an assignment is inherently serial, microseconds for groups of zoo networks
        perms[number] = linear_sum_assignment(one, maximize=True)[1]
    return perms
