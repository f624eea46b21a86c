"""A layer as a stretch of tokens: which columns and positions its tokens have, worked out for any part of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightBlock, WeightLayout


@dataclass(frozen=True)
class Segment:
    """One layer in the sequence of tokens: ``channels`` runs of numbers, each cut into ``chunks`` tokens.

    Parameters
    ----------
    layer
        Number of the layer.
    first
        Number of its first token in the sequence.
    channels, chunks
        Runs in the layer, tokens of one run.
    parts
        First column and numbers per channel of every block, in the order of the run.
    """

    layer: int
    first: int
    channels: int
    chunks: int
    parts: tuple[tuple[int, int], ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the layer."""
        return self.channels * self.chunks

    @property
    def stop(self) -> int:
        """One past the number of its last token."""
        return self.first + self.num_tokens

    @property
    def run(self) -> int:
        """Numbers of one channel or neuron: incoming weights and bias."""
        return sum(size for _, size in self.parts)

    def positions(self, first: int, stop: int) -> np.ndarray:
        """(index in the sequence, layer, channel) of the tokens ``first`` to ``stop``, int64 ``[n, 3]``."""
        index = np.arange(first, stop, dtype=np.int64)
        return np.stack([index, np.full_like(index, self.layer), (index - self.first) // self.chunks], axis=1)

    def columns(self, first: int, stop: int, width: int, padding: int) -> np.ndarray:
        """Columns of the tokens ``first`` to ``stop``, int64 ``[n, width]``; ``padding`` past the end of a run.

        >>> Segment(layer=0, first=0, channels=2, chunks=1, parts=((0, 2), (4, 1))).columns(1, 2, 4, padding=-1)
        array([[ 2,  3,  5, -1]])
        """
        channel, chunk = np.divmod(np.arange(first, stop, dtype=np.int64) - self.first, self.chunks)
        entry = chunk[:, None] * width + np.arange(width, dtype=np.int64)  # place in the run
        columns = np.full(entry.shape, padding, dtype=np.int64)
        start = 0
        for offset, size in self.parts:
            inside = (entry >= start) & (entry < start + size)
            np.copyto(columns, offset + channel[:, None] * size + entry - start, where=inside)
            start += size
        return columns


def segments_of(layout: WeightLayout, width: int) -> tuple[Segment, ...]:
    """Cut every layer into tokens of a width.

    Raises
    ------
    InputError
        If there is no weight, or blocks of one layer disagree on the number of channels.

    Examples
    --------
    >>> layout = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight"), "fc.bias": ((2,), "bias")})
    >>> segments_of(layout, 3)
    (Segment(layer=0, first=0, channels=2, chunks=2, parts=((0, 3), (6, 1))),)
    """
    if not layout.blocks:
        raise InputError("tokens: the layout has no weights; expected at least one block.")
    blocks_of: dict[str, list[WeightBlock]] = {layer: [] for layer in layout.layers}
    for block in layout.blocks:
        blocks_of[block.layer].append(block)
    segments: list[Segment] = []
    for number, (layer, blocks) in enumerate(blocks_of.items()):
        channels = blocks[0].shape[0]
        if {block.shape[0] for block in blocks} != {channels}:
            raise InputError(
                f"tokens: blocks of layer {layer!r} have different numbers of output channels "
                f"({ {block.name: block.shape[0] for block in blocks} }); expected one number per layer."
            )
        parts = tuple((block.offset, block.size // channels) for block in blocks)
        chunks = -(-sum(size for _, size in parts) // width)
        segments.append(Segment(number, segments[-1].stop if segments else 0, channels, chunks, parts))
    return tuple(segments)
