"""Permutations of hidden units that leave a network's function unchanged, derived from its graph.

Hidden units have no order: exchanging two channels together with their incoming and outgoing weights
gives another row with the same function. Which columns move together is read off the traced operations
and the weight layout; names of layers play no part.

Every value in the graph has one feature axis, described by a group of units and a block length: the axis
holds the units one after another, each as a run of that many neighbours. The rules are

* a convolution or linear layer starts a new group on its output;
* pooling, activation, dropout, slices and mean keep the axis; a normalisation layer keeps it and is permuted with it;
* flatten makes every unit a run of H * W neighbours;
* a residual add ties both groups into one (if their block lengths differ, both stay fixed);
* a depthwise convolution ties output to input, each unit becoming a run of as many neighbours as it has
  output channels; any other grouped convolution fixes both sides, although it has symmetries of its own;
* a layer that is used twice ties both uses;
* image channels and logits are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from zookeeper.errors import InputError
from zookeeper.nets.graph import Graph, Op, trace
from zookeeper.nets.layout import WeightBlock, WeightLayout

if TYPE_CHECKING:
    from torch import nn

IndexArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One axis of one block that a group permutes.

    Unit ``u`` owns the entries ``u * block_length`` up to ``(u + 1) * block_length`` of that axis.
    """

    block: str
    axis: int
    block_length: int


@dataclass(frozen=True, slots=True)
class PermutationGroup:
    """Units that may change places, and every axis that follows them; named after the layer that makes them."""

    name: str
    size: int
    members: tuple[GroupMember, ...]


@dataclass(frozen=True)
class Symmetry:
    """The permutation groups of one architecture and the column gathers they amount to.

    A permutation is an array ``perm`` of a group's units: the new unit ``u`` is the old unit ``perm[u]``.
    One permutation per group becomes one index array over the P columns; ``rows[:, index]``, or
    ``rows.gather(1, index)`` with one index row per network, holds networks with the same function.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> symmetry = Symmetry.of(net, (1, 2, 2))
    >>> [(group.name, group.size, len(group.members)) for group in symmetry.groups]
    [('1', 3, 3)]
    >>> symmetry.index_of([[2, 0, 1]])[-8:]
    array([17, 15, 16, 20, 18, 19, 21, 22])
    """

    layout: WeightLayout
    groups: tuple[PermutationGroup, ...]

    @classmethod
    def of(cls, module: nn.Module, image_shape: tuple[int, ...]) -> Symmetry:
        """Derive the groups of a network; the module is not changed.

        Guaranteed: every permutation these groups describe keeps the function in eval mode. Not guaranteed:
        that they are all symmetries there are; scalings, signs and those inside grouped convolutions are left out.

        Parameters
        ----------
        module
            Any network that `zookeeper.nets.graph.trace` can read.
        image_shape
            (C, H, W) of one image.

        Raises
        ------
        StackError
            If a layer is of a kind the project cannot stack.
        """
        layout = WeightLayout.of(module)
        return cls(layout, _Deriver(layout).derive(trace(module, image_shape)))

    @cached_property
    def identity(self) -> IndexArray:
        """The index array ``[P]`` that moves nothing (read-only)."""
        index = np.arange(self.layout.num_weights, dtype=np.int64)
        index.flags.writeable = False
        return index

    def draw(self, num: int, generator: np.random.Generator | torch.Generator) -> IndexArray:
        """Draw ``num`` permutations of every group, uniformly and independently, as gathers ``[num, P]``.

        Parameters
        ----------
        num
            Number of networks, 0 or more.
        generator
            Source of randomness, advanced in place. One state gives one result.

        Examples
        --------
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> symmetry = Symmetry.of(net, (1, 2, 2))
        >>> index = symmetry.draw(5, np.random.default_rng(0))
        >>> index.shape, bool((np.sort(index, axis=1) == symmetry.identity).all())
        ((5, 58), True)
        """
        if num < 0:
            raise InputError(f"draw: num must be 0 or more, got {num}.")
        sizes = [group.size for group in self.groups]
        if isinstance(generator, torch.Generator):
            keys: NDArray[np.float64] = (
                torch.rand(num, sum(sizes), dtype=torch.float64, device=generator.device, generator=generator)
                .cpu()
                .numpy()
            )
        else:
            keys = generator.random((num, sum(sizes)))
        ends = np.cumsum(sizes)
        perms = [keys[:, end - size : end].argsort(axis=1) for size, end in zip(sizes, ends, strict=True)]
        return self._gather(perms, num)

    def index_of(self, perms: Sequence[Any]) -> IndexArray:
        """Turn one permutation per group, in the order of `groups`, into a gather ``[P]``.

        With a leading axis, ``[N, size]`` each, they are those of N networks and the gathers ``[N, P]``.

        Raises
        ------
        InputError
            If their number or a size is wrong, or an array is not a permutation.
        """
        if len(perms) != len(self.groups):
            raise InputError(f"index_of: expected {len(self.groups)} permutations, one per group, got {len(perms)}.")
        checked = []
        arrays = [np.asarray(perm) for perm in perms]
        lead = arrays[0].shape[:-1] if arrays else ()
        for group, array in zip(self.groups, arrays, strict=True):
            if array.shape != (*lead, group.size) or len(lead) > 1 or (np.sort(array) != np.arange(group.size)).any():
                raise InputError(
                    f"index_of: group {group.name!r} expects a permutation of 0..{group.size - 1}, "
                    f"got shape {array.shape} with {len(np.unique(array))} different values."
                )
            checked.append(array.astype(np.int64).reshape(-1, group.size))
        index = self._gather(checked, lead[0] if lead else 1)
        return index if lead else index[0]

    def inverse(self, index: NDArray[np.int64]) -> IndexArray:
        """Index arrays ``[..., P]`` that undo the given ones.

        >>> from torch import nn
        >>> symmetry = Symmetry.of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2)), (1, 2, 2))
        >>> index = symmetry.index_of([[2, 0, 1]])
        >>> bool((index[symmetry.inverse(index)] == symmetry.identity).all())
        True
        """
        index = np.asarray(index)
        if index.ndim == 0 or index.shape[-1] != self.layout.num_weights:
            raise InputError(f"inverse: expected index arrays [..., {self.layout.num_weights}], got {index.shape}.")
        result = np.empty(index.shape, dtype=np.int64)
        np.put_along_axis(result, index, np.broadcast_to(self.identity, index.shape), axis=-1)
        return result

    @cached_property
    def _moves(self) -> tuple[_BlockMove, ...]:
        followers: dict[str, dict[int, tuple[int, int]]] = {}
        for number, group in enumerate(self.groups):
            for member in group.members:
                followers.setdefault(member.block, {})[member.axis] = (number, member.block_length)
        return tuple(
            _BlockMove.of(block, followers[block.name]) for block in self.layout.blocks if block.name in followers
        )

    def _gather(self, perms: Sequence[IndexArray], num: int) -> IndexArray:
        index: IndexArray = np.empty((num, self.layout.num_weights), dtype=np.int64)
        index[:] = self.identity
        for move in self._moves:
            move.write(index, perms)
        return index


@dataclass(frozen=True, slots=True)
class _BlockMove:
    """How one block's columns follow from the groups on its first two axes.

    The block is seen as ``[rows, columns, rest]``; an entry's source is
    ``offset + row * row_stride + column * rest + position``.
    """

    columns: slice
    shape: tuple[int, int, int]
    row: tuple[int, int] | None
    column: tuple[int, int] | None

    @classmethod
    def of(cls, block: WeightBlock, followers: dict[int, tuple[int, int]]) -> _BlockMove:
        rows, columns, *rest = (*block.shape, 1)
        shape = (rows, columns, int(np.prod(rest, dtype=np.int64)))
        return cls(block.columns, shape, followers.get(0), followers.get(1))

    def write(self, index: IndexArray, perms: Sequence[IndexArray]) -> None:
        """Write the block's columns of ``index[num, P]``."""
        num = len(index)
        rows, columns, rest = self.shape
        row = _sources(self.row, rows, perms) * (columns * rest) + self.columns.start
        if self.column is None:
            np.add(
                row[:, :, None],
                np.arange(columns * rest),
                out=index[:, self.columns].reshape(num, rows, columns * rest),
            )
            return
        column = _sources(self.column, columns, perms)
        inner = (column[:, :, None] * rest + np.arange(rest)).reshape(len(column), 1, columns * rest)
        np.add(row[:, :, None], inner, out=index[:, self.columns].reshape(num, rows, columns * rest))


def _sources(follower: tuple[int, int] | None, length: int, perms: Sequence[IndexArray]) -> IndexArray:
    """Old position of every new position of an axis, ``[num, length]`` (``[1, length]`` where nothing moves)."""
    if follower is None:
        return np.arange(length, dtype=np.int64)[None]
    number, block_length = follower
    perm = perms[number]
    return (perm[:, :, None] * block_length + np.arange(block_length)).reshape(len(perm), length)


@dataclass(frozen=True, slots=True)
class _Axis:
    """Feature axis of a value: units of one group, each a run of ``block_length`` entries."""

    node: int
    block_length: int


class _Deriver:
    """Union-find over the groups of a graph's feature axes."""

    def __init__(self, layout: WeightLayout) -> None:
        self.blocks: dict[str, list[WeightBlock]] = {}
        for block in layout.blocks:
            self.blocks.setdefault(block.layer, []).append(block)
        self.parent: list[int] = []
        self.size: list[int] = []
        self.name: list[str] = []
        self.fixed: set[int] = set()
        self.members: list[tuple[int, GroupMember]] = []
        self.used: dict[str, tuple[_Axis, _Axis]] = {}

    def derive(self, graph: Graph) -> tuple[PermutationGroup, ...]:
        axes: list[_Axis] = []
        for op in graph.ops:
            axes.append(self._step(op, [axes[number] for number in op.inputs], graph))
        return tuple(self._collect())

    def _step(self, op: Op, inputs: list[_Axis], graph: Graph) -> _Axis:
        if op.kind == "input":
            axis = self._start(op.layer, op.shape[0])
            self._fix(axis)
            return axis
        source = inputs[0]
        if op.kind in ("conv", "linear"):
            return self._weighted(op, source, graph.ops[op.inputs[0]].shape[0])
        if op.kind == "batchnorm":
            if not self._tie_second_use(op.layer, source, source):
                for block in self.blocks[op.layer]:
                    self._follow(source, block, 0)
        elif op.kind == "flatten":
            area = int(np.prod(graph.ops[op.inputs[0]].shape[1:], dtype=np.int64))
            return _Axis(source.node, source.block_length * area)
        elif op.kind == "add":
            self._tie(*inputs)
        elif op.kind == "output":
            self._fix(source)
        return source

    def _weighted(self, op: Op, source: _Axis, num_inputs: int) -> _Axis:
        num_outputs, groups = op.shape[0], int(op.options.get("groups", 1))
        if groups == 1:
            result = self._start(op.layer, num_outputs)
        elif groups == num_inputs:
            result = _Axis(source.node, source.block_length * (num_outputs // groups))
        else:
            result = self._start(op.layer, num_outputs)
            self._fix(source)
            self._fix(result)
        if self._tie_second_use(op.layer, source, result):
            return result
        for block in self.blocks[op.layer]:
            self._follow(result, block, 0)
            if block.kind == "weight" and groups == 1:
                self._follow(source, block, 1)
        return result

    def _tie_second_use(self, layer: str, source: _Axis, result: _Axis) -> bool:
        if layer not in self.used:
            self.used[layer] = (source, result)
            return False
        first_source, first_result = self.used[layer]
        self._tie(first_source, source)
        self._tie(first_result, result)
        return True

    def _start(self, name: str, size: int) -> _Axis:
        self.parent.append(len(self.parent))
        self.size.append(size)
        self.name.append(name)
        return _Axis(len(self.parent) - 1, 1)

    def _follow(self, axis: _Axis, block: WeightBlock, number: int) -> None:
        self.members.append((axis.node, GroupMember(block.name, number, axis.block_length)))

    def _root(self, node: int) -> int:
        while self.parent[node] != node:
            node = self.parent[node]
        return node

    def _fix(self, axis: _Axis) -> None:
        self.fixed.add(axis.node)

    def _tie(self, first: _Axis, second: _Axis) -> None:
        if first.block_length != second.block_length:
            self._fix(first)
            self._fix(second)
            return
        early, late = sorted((self._root(first.node), self._root(second.node)))
        self.parent[late] = early

    def _collect(self) -> Iterator[PermutationGroup]:
        fixed = {self._root(node) for node in self.fixed}
        for root in range(len(self.parent)):
            if self._root(root) != root or root in fixed or self.size[root] < 2:
                continue
            members = dict.fromkeys(member for node, member in self.members if self._root(node) == root)
            yield PermutationGroup(self.name[root], self.size[root], tuple(members))
