"""The columns of the population matrix: which weight of a network each column holds.

A layout is a value without torch in it: the store keeps it as JSON, and a zoo can name its columns
without importing torch. Trainable blocks come first, running statistics of normalisation layers last,
so the columns an optimiser may touch are one slice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

import numpy as np

from zookeeper.errors import InputError

if TYPE_CHECKING:
    import torch

BlockKind = Literal["weight", "bias", "scale", "shift", "running_mean", "running_var"]
ArrayT = TypeVar("ArrayT", np.ndarray, "torch.Tensor")
_BUFFERS: tuple[BlockKind, ...] = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class WeightBlock:
    """One named tensor of a network as a run of columns.

    ``kind`` says what the numbers are: ``weight`` and ``bias`` of a convolution or linear layer,
    ``scale`` and ``shift`` of a normalisation layer, or its running statistics. ``fan_in`` is the
    number of inputs that meet in one output unit (0 for normalisation layers).
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    kind: BlockKind
    layer: str
    fan_in: int

    @property
    def size(self) -> int:
        """Number of columns."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def columns(self) -> slice:
        """The block's columns in the matrix."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class WeightLayout:
    """Every block of a network, in column order.

    ``flatten`` and ``unflatten`` are exact inverses, for NumPy arrays and torch tensors alike.

    >>> layout = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight"), "fc.bias": ((2,), "bias")})
    >>> layout.num_weights
    8
    >>> parts = layout.unflatten(np.arange(16.0).reshape(2, 8))
    >>> parts["fc.weight"].shape, parts["fc.bias"].shape
    ((2, 2, 3), (2, 2))
    >>> bool((layout.flatten(parts) == np.arange(16.0).reshape(2, 8)).all())
    True
    """

    blocks: tuple[WeightBlock, ...]

    def __post_init__(self) -> None:
        offset = 0
        buffers_started = False
        seen: set[str] = set()
        for block in self.blocks:
            if block.offset != offset or block.name in seen:
                raise InputError(
                    f"layout block {block.name!r}: blocks must be unique and follow each other; "
                    f"expected offset {offset}, got {block.offset}."
                )
            if block.kind not in _BUFFERS and buffers_started:
                raise InputError(f"layout block {block.name!r}: trainable blocks must come before buffers.")
            buffers_started = buffers_started or block.kind in _BUFFERS
            seen.add(block.name)
            offset += block.size

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[tuple[int, ...], BlockKind]]) -> WeightLayout:
        """Lay out named shapes one after another; names are ``layer.parameter``."""
        blocks = []
        offset = 0
        fans = {
            name.rpartition(".")[0]: int(np.prod(shape[1:], dtype=np.int64))
            for name, (shape, kind) in shapes.items()
            if kind == "weight"
        }
        for name, (shape, kind) in shapes.items():
            layer = name.rpartition(".")[0]
            fan_in = fans.get(layer, 0)
            block = WeightBlock(name, tuple(int(n) for n in shape), offset, kind, layer, fan_in)
            blocks.append(block)
            offset += block.size
        return cls(tuple(blocks))

    @classmethod
    def of(cls, module: torch.nn.Module) -> WeightLayout:
        """Read the layout off a network: its parameters in module order, then its running statistics.

        Raises
        ------
        InputError
            If two names share one tensor, or a tensor belongs to no supported layer.
        """
        from zookeeper.nets.parameters import named_blocks

        return cls.from_shapes(named_blocks(module))

    @cached_property
    def num_weights(self) -> int:
        """P, the number of columns."""
        return sum(block.size for block in self.blocks)

    @cached_property
    def num_trainable(self) -> int:
        """Number of leading columns an optimiser may change."""
        return sum(block.size for block in self.blocks if block.kind not in _BUFFERS)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Layer names in column order of their first block."""
        return tuple(dict.fromkeys(block.layer for block in self.blocks))

    @cached_property
    def digest(self) -> str:
        """16 hex digits that identify the layout."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def block(self, name: str) -> WeightBlock:
        """Look a block up by its full name."""
        for block in self.blocks:
            if block.name == name:
                return block
        raise InputError(f"layout: unknown block {name!r}; expected one of {', '.join(b.name for b in self.blocks)}.")

    def columns(self, layers: Iterable[str]) -> np.ndarray:
        """Column numbers (int64) of the named layers or blocks, in matrix order.

        >>> layout = WeightLayout.from_shapes({"a.weight": ((2, 1), "weight"), "b.weight": ((1, 2), "weight")})
        >>> layout.columns(["b"])
        array([2, 3])
        """
        wanted = list(layers)
        known = set(self.layers) | {block.name for block in self.blocks}
        for name in wanted:
            if name not in known:
                raise InputError(
                    f"layout: unknown layer {name!r}; expected one of {', '.join(self.layers)} or a full block name."
                )
        picked = [b for b in self.blocks if b.layer in wanted or b.name in wanted]
        if not picked:
            return np.empty(0, dtype=np.int64)
        return np.concatenate([np.arange(b.offset, b.offset + b.size, dtype=np.int64) for b in picked])

    def unflatten(self, rows: ArrayT) -> dict[str, ArrayT]:
        """Cut ``rows[..., P]`` into named views ``[..., *shape]``."""
        self._check_width(rows.shape[-1])
        lead = tuple(rows.shape[:-1])
        return {b.name: rows[..., b.columns].reshape(lead + b.shape) for b in self.blocks}

    def flatten(self, parts: Mapping[str, ArrayT]) -> ArrayT:
        """Join named arrays ``[..., *shape]`` into ``rows[..., P]``; the inverse of `unflatten`."""
        missing = [b.name for b in self.blocks if b.name not in parts]
        if missing:
            raise InputError(f"flatten: missing {', '.join(missing)}; expected every block of the layout.")
        pieces: list[Any] = []
        for b in self.blocks:
            part: Any = parts[b.name]
            rank: int = len(b.shape)
            if tuple(part.shape[part.ndim - rank :]) != b.shape:
                raise InputError(
                    f"flatten: {b.name} must end in shape {b.shape}, got {tuple(part.shape)}. "
                    "Check that the weights belong to this architecture."
                )
            pieces.append(part.reshape((*part.shape[: part.ndim - rank], b.size)))
        joined: Any
        if isinstance(pieces[0], np.ndarray):
            joined = np.concatenate(pieces, axis=-1)
        else:
            import torch

            joined = torch.cat(pieces, dim=-1)
        return cast(ArrayT, joined)

    def to_json(self) -> dict[str, Any]:
        """Plain values for storage; `from_json` restores an equal layout."""
        return {
            "version": 1,
            "blocks": [
                {"name": b.name, "shape": list(b.shape), "kind": b.kind, "offset": b.offset} for b in self.blocks
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WeightLayout:
        """Restore a layout from `to_json`."""
        if value.get("version") != 1:
            raise InputError(f"layout: unknown version {value.get('version')!r}; expected 1.")
        shapes: dict[str, tuple[tuple[int, ...], BlockKind]] = {}
        for entry in cast(Sequence[Mapping[str, Any]], value["blocks"]):
            if entry["kind"] not in get_args(BlockKind):
                raise InputError(f"layout block {entry['name']!r}: unknown kind {entry['kind']!r}.")
            shapes[str(entry["name"])] = (tuple(int(n) for n in entry["shape"]), entry["kind"])
        layout = cls.from_shapes(shapes)
        if [block.offset for block in layout.blocks] != [entry["offset"] for entry in value["blocks"]]:
            raise InputError("layout: blocks do not follow each other; the stored layout is damaged.")
        return layout

    def _check_width(self, width: int) -> None:
        if width != self.num_weights:
            raise InputError(
                f"unflatten: rows have {width} columns; expected {self.num_weights}. "
                "Check that the rows belong to this architecture."
            )
