"""Where the rows of a view come from: one stored zoo, or several, numbered one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from zookeeper.store.encoding import Floats
from zookeeper.store.records import CommitRecord

Numbers = npt.NDArray[np.int64]


class RowSource(Protocol):
    """Weights by row number; `zookeeper.store.reader.RowReader` is one. Safe across pickling."""

    @property
    def num_rows(self) -> int:
        """Rows in all blocks."""
        ...

    @property
    def num_blocks(self) -> int:
        """Committed blocks; each is one shard."""
        ...

    def blocks_of(self, rows: Numbers) -> Numbers:
        """Number of the block that holds each row."""
        ...

    def records_of(self, rows: Numbers) -> tuple[CommitRecord, ...]:
        """The blocks that hold some of ``rows``."""
        ...

    def layouts_of(self, rows: Numbers) -> npt.NDArray[np.str_]:
        """Digest of the layout of each row."""
        ...

    def read(self, rows: Numbers, out: Floats) -> None:
        """Copy rows [N] into ``out`` [N, P], in the order given."""
        ...


class JointSource:
    """Rows of several sources as one: the second starts where the first ends."""

    def __init__(self, sources: Sequence[RowSource]) -> None:
        self._sources = tuple(sources)
        self._starts = np.cumsum([0, *(source.num_rows for source in self._sources)], dtype=np.int64)
        self._first_blocks = np.cumsum([0, *(source.num_blocks for source in self._sources)], dtype=np.int64)

    @property
    def num_rows(self) -> int:
        """Rows of all sources."""
        return int(self._starts[-1])

    @property
    def num_blocks(self) -> int:
        """Blocks of all sources."""
        return int(self._first_blocks[-1])

    @property
    def starts(self) -> Numbers:
        """Number of the first row of each source, and the number of rows."""
        return self._starts

    def blocks_of(self, rows: Numbers) -> Numbers:
        """Number of the block that holds each row."""
        blocks = np.empty(len(rows), np.int64)
        for number, here in self._parts(rows):
            own = self._sources[number].blocks_of(rows[here] - self._starts[number])
            blocks[here] = own + self._first_blocks[number]
        return blocks

    def records_of(self, rows: Numbers) -> tuple[CommitRecord, ...]:
        """The blocks that hold some of ``rows``, source by source."""
        return tuple(
            record
            for number, here in self._parts(rows)
            for record in self._sources[number].records_of(rows[here] - self._starts[number])
        )

    def layouts_of(self, rows: Numbers) -> npt.NDArray[np.str_]:
        """Digest of the layout of each row."""
        found = [(here, self._sources[n].layouts_of(rows[here] - self._starts[n])) for n, here in self._parts(rows)]
        digests = np.empty(len(rows), np.result_type(*(part for _, part in found)) if found else np.str_)
        for here, part in found:
            digests[here] = part
        return digests

    def read(self, rows: Numbers, out: Floats) -> None:
        """Copy rows [N] into ``out`` [N, P], in the order given; errors are those of the sources."""
        for number, here in self._parts(rows):
            own = rows[here] - self._starts[number]
            if here[-1] - here[0] + 1 == len(here):
                self._sources[number].read(own, out[here[0] : here[-1] + 1])
            else:
                scratch: Floats = np.empty((len(here), out.shape[1]), out.dtype)
                self._sources[number].read(own, scratch)
                out[here] = scratch

    def _parts(self, rows: Numbers) -> list[tuple[int, Numbers]]:
        """Sources that hold some of ``rows``, each with the places of its rows."""
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        return [(int(number), np.flatnonzero(owners == number)) for number in np.unique(owners)]
