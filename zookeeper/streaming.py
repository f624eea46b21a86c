"""Stream a zoo that is larger than memory: shuffled over its shards, resumable, the same with any number of workers.

An epoch's order is a function of (seed, epoch). Shards are put into random order and opened a few at a time; the
pieces of those that are open, short runs of rows that lie together, are mixed and cut into buffers; each buffer is read
at once and shuffled row by row. Ranks take equal shares of the order, one after another, so that they touch
different shards. Workers of a loader take turns at the batches of one rank: what they yield together is what one
process would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from zookeeper.datasets import CheckpointBatch, ZooDataset
from zookeeper.errors import InputError

_PIECES = 16  # runs of rows that meet in one buffer, at least
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class StreamOrder:
    """In which order an epoch goes through the rows of a view.

    Parameters
    ----------
    blocks, rows
        Number of the shard and stored number of each row of the view, [N].
    buffer
        Rows that are read at once and shuffled among each other.
    shards
        Shards that are mixed at a time.
    shuffle
        False: the order of the view.
    seed
        Another seed gives other orders.
    """

    blocks: Numbers
    rows: Numbers
    buffer: int
    shards: int
    shuffle: bool
    seed: int

    def sequence(self, epoch: int) -> Numbers:
        """Places in the view, [N], each once, before buffers are shuffled.

        >>> order = StreamOrder(np.repeat([0, 1, 2], 4), np.arange(12), buffer=32, shards=1, shuffle=True, seed=1)
        >>> order.sequence(epoch=0).tolist()
        [2, 3, 0, 1, 10, 11, 8, 9, 6, 7, 4, 5]
        """
        if not self.shuffle:
            return np.arange(len(self.rows))
        generator = self.generator(epoch, "shards")
        order = np.argsort(self.rows, kind="stable")
        blocks = np.unique(self.blocks[order], return_inverse=True)[1]
        first = np.searchsorted(blocks, blocks)
        piece = (np.arange(len(order)) - first) // max(1, self.buffer // _PIECES)
        starts = np.flatnonzero(np.diff(blocks, prepend=-1) | np.diff(piece, prepend=-1))
        lengths = np.diff(starts, append=len(order))
        together = generator.permutation(blocks.max(initial=-1) + 1)[blocks[starts]] // self.shards
        mixed = np.lexsort((generator.permutation(len(starts)), together))
        starts, lengths = starts[mixed], lengths[mixed]
        places = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(len(order))
        return order[places]

    def generator(self, epoch: int, purpose: str) -> np.random.Generator:
        """The stream of random numbers for one purpose in one epoch."""
        digest = hashlib.sha256(f"stream {self.seed} {epoch} {purpose}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))

    def digest(self, *more: object) -> str:
        """Identity of the order and of what else decides the batches."""
        state = hashlib.sha256(np.ascontiguousarray(self.rows).data)
        state.update(repr((self.buffer, self.shards, self.shuffle, self.seed, *more)).encode())
        return state.hexdigest()[:16]


class ZooStream(IterableDataset[CheckpointBatch]):
    """Batches of a view in bounded memory; made by `zookeeper.Zoo.stream`.

    Every row comes exactly once in an epoch, over all ranks and workers; ranks differ by at most one row. Memory is
    that of one buffer of rows (and a batch), shared among the workers. Every ``iter`` begins the current epoch anew,
    except the first after `load_state_dict`, and going through to the end begins the next epoch.

    Iterate it, or its `loader`, which counts what workers have yielded. In a `torch.utils.data.DataLoader` of your
    own, pass ``batch_size=None`` and call `set_epoch` before each pass.

    Raises
    ------
    InputError
        If the batch, the buffer or the number of shards is below 1, or the rank is not one of ``num_ranks``.
    """

    def __init__(
        self, dataset: ZooDataset, order: StreamOrder, batch_size: int, rank: int = 0, num_ranks: int = 1
    ) -> None:
        for name, number in (("batch_size", batch_size), ("shards", order.shards), ("num_ranks", num_ranks)):
            if number < 1:
                raise InputError(f"{name}: expected at least 1, got {number}.")
        if order.buffer < batch_size:
            raise InputError(f"buffer: expected at least a batch of {batch_size} rows, got {order.buffer}.")
        if not 0 <= rank < num_ranks:
            raise InputError(f"rank: expected 0..{num_ranks - 1}, got {rank}.")
        self._dataset, self._order, self._batch_size = dataset, order, batch_size
        cuts = [len(dataset) * number // num_ranks for number in (rank, rank + 1)]
        self._share, self._rank = slice(*cuts), (rank, num_ranks)
        self._num_batches = -(-(cuts[1] - cuts[0]) // batch_size)
        self._epoch = self._done = self._start = 0

    def __len__(self) -> int:
        return self._num_batches

    @property
    def epoch(self) -> int:
        """The current epoch, or after its last batch the next."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self._epoch, self._done, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch, batches that were yielded in it, and which order they belong to; plain values."""
        return {"epoch": self._epoch, "batch": self._done, "order": self._digest()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position; the next ``iter`` yields exactly what was left, in the same order.

        Raises
        ------
        InputError
            If the position belongs to another view, seed, batch size, buffer or rank.
        """
        wanted = self._digest()
        if state.get("order") != wanted or not 0 <= int(state["batch"]) <= len(self):
            raise InputError(
                f"stream: the position is one of another order; expected {wanted}, got {state.get('order')}. Use the "
                "same view, seed, batch size, buffer, shards, rank and number of ranks."
            )
        self._epoch, self._done = int(state["epoch"]), int(state["batch"])
        self._start = self._done

    def loader(self, *, num_workers: int = 0, pin_memory: bool = False) -> StreamLoader:
        """Go through the stream with worker processes; the batches and their order stay the same."""
        return StreamLoader(self, num_workers, pin_memory)

    def __iter__(self) -> Iterator[CheckpointBatch]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, start = self.begin()
        for done, batch in self._batches(epoch, start + number, workers):
            self._done = done
            yield batch
        self.set_epoch(epoch + 1)

    def begin(self) -> tuple[int, int]:
        """Begin a pass: its epoch and first batch."""
        self._done, self._start = self._start, 0
        return self._epoch, self._done

    def advance(self, done: int) -> None:
        """Note that ``done`` batches of the epoch were yielded."""
        self._done = done

    def _batches(self, epoch: int, first: int, step: int) -> Iterator[tuple[int, CheckpointBatch]]:
        """Every ``step``-th batch from ``first`` on, each after the number of batches up to it."""
        share = self._order.sequence(epoch)[self._share]
        per_buffer = self._order.buffer // self._batch_size
        rows = per_buffer * self._batch_size
        for number in range(first // per_buffer, -(-len(self) // per_buffer)):
            window = share[number * rows : (number + 1) * rows]
            if self._order.shuffle:
                generator = self._order.generator(epoch, f"buffer {self._rank[0]} of {self._rank[1]} {number}")
                window = generator.permutation(window)
            begin = number * per_buffer
            late = max(first, begin + (first - begin) % step) - begin
            cuts = range(late * self._batch_size, len(window), step * self._batch_size)
            wanted = [window[cut : cut + self._batch_size] for cut in cuts]
            for place, batch in enumerate(self._read(wanted)):
                yield begin + late + place * step + 1, batch

    def _read(self, wanted: list[Numbers]) -> Iterator[CheckpointBatch]:
        """Read several batches at once, in the order of the files."""
        if not wanted:
            return
        joined = np.concatenate(wanted)
        by_file = np.argsort(self._order.rows[joined], kind="stable")
        place = np.empty_like(by_file)
        place[by_file] = np.arange(len(by_file))
        held = self._dataset.__getitems__(joined[by_file].tolist())
        start = 0
        for part in wanted:
            yield held.select(place[start : start + len(part)])
            start += len(part)

    def _digest(self) -> str:
        return self._order.digest(self._batch_size, *self._rank)


class StreamLoader:
    """The batches of a `ZooStream` through worker processes; its position is the stream's, and can be saved."""

    def __init__(self, stream: ZooStream, num_workers: int, pin_memory: bool) -> None:
        self._stream, self._num_workers, self._pin_memory = stream, num_workers, pin_memory

    def __len__(self) -> int:
        return len(self._stream)

    def __iter__(self) -> Iterator[CheckpointBatch]:
        loader = DataLoader(self._stream, batch_size=None, num_workers=self._num_workers, pin_memory=self._pin_memory)
        if self._num_workers == 0:
            yield from loader
            return
        workers = iter(loader)  # they have got the position now
        epoch, start = self._stream.begin()
        for done, batch in enumerate(workers, start + 1):
            self._stream.advance(done)
            yield batch
        self._stream.set_epoch(epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was yielded; see `ZooStream.state_dict`."""
        return self._stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position; see `ZooStream.load_state_dict`."""
        self._stream.load_state_dict(state)
