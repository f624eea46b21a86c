"""What two parts of a zoo share, by name: a value to print, to count and to put into a table.

Networks that share a seed start from the same stream, and those that share seed and initialisation from the same
weights; probes then recognise twins across a split instead of properties. A shared configuration is milder: the
split asks how models of known settings with other seeds do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from zookeeper.store.files import hash_bytes
from zookeeper.store.table import widen
from zookeeper.zoo.view import Zoo

LeakKind: TypeAlias = Literal["model", "seed", "initial draw", "configuration", "weights"]
KINDS: tuple[LeakKind, ...] = get_args(LeakKind)
_DRAW = ("init", "init_std", "bias_init", "seed")  # with the layout: all that initial weights depend on
_BATCH_FLOATS = 1 << 22
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Leak:
    """One kind of thing that both sides hold: what is shared, and how many models of each side hold it."""

    kind: LeakKind
    shared: tuple[str, ...]
    models: tuple[int, int]

    def __str__(self) -> str:
        count = len(self.shared)
        noun = {"weights": "bit-identical row"}.get(self.kind, self.kind) + ("" if count == 1 else "s")
        shown = "; ".join(self.shared[:_SHOWN]) + ("; ..." if count > _SHOWN else "")
        return f"{count:,} {noun}, of {self.models[0]:,} and {self.models[1]:,} models: {shown}"


@dataclass(frozen=True, slots=True)
class SharedPair:
    """Two sides, their numbers of models, and every kind of thing they share."""

    sides: tuple[str, str]
    models: tuple[int, int]
    leaks: tuple[Leak, ...]

    def __str__(self) -> str:
        named = [f"{side} ({count:,} models)" for side, count in zip(self.sides, self.models, strict=True)]
        if not self.leaks:
            return f"{' and '.join(named)} share nothing"
        return "\n  ".join([f"{' and '.join(named)} share", *map(str, self.leaks)])


@dataclass(frozen=True, slots=True)
class Leakage:
    """What is shared between sides, pair by pair; false if it is nothing at all."""

    pairs: tuple[SharedPair, ...]

    def __bool__(self) -> bool:
        return any(pair.leaks for pair in self.pairs)

    def shared(self, kind: LeakKind, first: str | None = None, second: str | None = None) -> tuple[str, ...]:
        """Everything of a kind that is shared, of all pairs or of one, each once.

        >>> Leakage((SharedPair(("a", "b"), (2, 1), (Leak("seed", ("3",), (1, 1)),)),)).shared("seed")
        ('3',)
        """
        wanted = {first, second} - {None}
        leaks = [leak for pair in self.pairs if wanted <= set(pair.sides) for leak in pair.leaks if leak.kind == kind]
        return tuple(dict.fromkeys(name for leak in leaks for name in leak.shared))

    @property
    def frame(self) -> pd.DataFrame:
        """One line per pair and kind, also where nothing is shared: counts, and how many models hold them."""
        columns = ("first", "second", "kind", "shared", "models_first", "models_second", "of_first", "of_second")
        lines = []
        for pair in self.pairs:
            found = {leak.kind: leak for leak in pair.leaks}
            for kind in KINDS:
                leak = found.get(kind, Leak(kind, (), (0, 0)))
                lines.append((*pair.sides, kind, len(leak.shared), *leak.models, *pair.models))
        return pd.DataFrame(lines, columns=list(columns))

    def __str__(self) -> str:
        return "\n".join(map(str, self.pairs)) or "no two sides to compare"


def find_leaks(
    first: Zoo, second: Zoo, *, names: tuple[str, str] = ("first", "second"), weights: bool = False
) -> Leakage:
    """Name what two views share: models, seeds, initial draws, whole configurations.

    An initial draw is a seed with the columns that decide initial weights beside it (layout, ``init``, ``init_std``,
    ``bias_init``); a configuration is all factors but the seed. What a zoo does not say is not found: without a
    column ``seed`` there are no shared seeds. Only factors that differ within the two views are spelled out.

    Parameters
    ----------
    names
        What to call the sides.
    weights
        Also look for rows that are equal to the bit, which reads the weights of both views, in bounded memory.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from zookeeper import WeightLayout, write_rows
    >>> layout, folder = WeightLayout.from_shapes({"fc.weight": ((1, 2), "weight")}), tempfile.TemporaryDirectory()
    >>> table = {"seed": [0, 0, 1], "lr": [0.1, 0.2, 0.1], "model_id": ["a", "b", "c"]}
    >>> zoo = write_rows(Path(folder.name) / "zoo", [[1, 2], [3, 4], [1, 2]], table, layout)
    >>> print(find_leaks(zoo.query("lr < .15"), zoo.query("lr > .15")))
    first (2 models) and second (1 models) share
      1 seed, of 1 and 1 models: seed=0
      1 initial draw, of 1 and 1 models: seed=0
    >>> find_leaks(zoo.query("seed == 0"), zoo.query("seed == 1"), weights=True).shared("weights")
    ('a@0',)
    >>> folder.cleanup()
    """
    tables = [_model_table(zoo) for zoo in (first, second)]
    joint = pd.concat([table.assign(_side=side) for side, table in enumerate(tables)], ignore_index=True)
    factors = [name for name in dict.fromkeys((*first.factors, *second.factors)) if name != "seed"]
    seeded = all("seed" in table for table in tables)
    found: dict[LeakKind, tuple[list[str], bool]] = {
        "model": (["model_id"], True),
        "seed": (["seed"], seeded),
        "initial draw": (["_layout", *(name for name in _DRAW if name in joint)], seeded),
        "configuration": (factors, all(any(name in table for name in factors) for table in tables)),
    }
    leaks = [_shared(joint, kind, columns) for kind, (columns, known) in found.items() if known]
    if weights:
        leaks.append(_shared_rows(first, second))
    kept = tuple(leak for leak in leaks if leak.shared)
    pair = SharedPair(names, (len(tables[0]), len(tables[1])), kept)
    return Leakage((pair,))


def _model_table(zoo: Zoo) -> pd.DataFrame:
    """One line per model: id, factors, layout."""
    first = ~zoo._frame.duplicated(zoo.model_key).to_numpy(dtype=np.bool_)
    return widen(zoo._frame.loc[first, ["model_id", *zoo.factors]]).assign(_layout=zoo.layout_digests[first])


def _shared(joint: pd.DataFrame, kind: LeakKind, columns: list[str]) -> Leak:
    """Combinations of values that models of both sides have."""
    groups = joint.groupby(columns, dropna=False, sort=True).ngroup().to_numpy()
    side = joint["_side"].to_numpy()
    counts = np.stack([np.bincount(groups[side == one], minlength=groups.max(initial=-1) + 1) for one in (0, 1)])
    both = (counts > 0).all(axis=0)
    _, lines = np.unique(groups, return_index=True)
    shown = [name for name in columns if len(columns) == 1 or joint[name].nunique(dropna=False) > 1]
    names = [_name(joint.iloc[line], shown, kind) for line in lines[both].tolist()]
    return Leak(kind, tuple(names), (int(counts[0, both].sum()), int(counts[1, both].sum())))


def _name(line: pd.Series, columns: list[str], kind: LeakKind) -> str:
    if kind == "model":
        return str(line["model_id"])
    parts = [f"{name.removeprefix('_')}={_text(line[name])}" for name in columns]
    return " ".join(parts) or "the only one"


def _text(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float | np.floating) else str(value)


def _shared_rows(first: Zoo, second: Zoo) -> Leak:
    """Rows that are equal to the bit, by a hash of 128 bits; named by model and epoch on the first side."""
    double = any(zoo.header.store.dtype == "float64" for zoo in (first, second))
    sides = [pd.Series(list(_hash_rows(zoo, double=double)), dtype=str) for zoo in (first, second)]
    both = set(sides[0]) & set(sides[1])
    here = [side.isin(both).to_numpy(dtype=np.bool_) for side in sides]
    models = [zoo.frame["model_id"][mask].nunique() for zoo, mask in zip((first, second), here, strict=True)]
    once = here[0] & ~sides[0].duplicated().to_numpy(dtype=np.bool_)
    lines = first.frame[once]
    names = (f"{model}@{epoch}" for model, epoch in zip(lines["model_id"], lines["epoch"], strict=True))
    return Leak("weights", tuple(names), (int(models[0]), int(models[1])))


def _hash_rows(zoo: Zoo, *, double: bool) -> npt.NDArray[np.str_]:
    """A hash of the layout and the bits of every row, in order."""
    hashes = np.empty(len(zoo), "<U49")
    digests = zoo.layout_digests
    for digest in np.unique(digests):
        for piece in _pieces(np.flatnonzero(digests == digest), zoo):
            part = zoo.take(piece)
            rows = part.weights_float64() if double else part.weights()
            hashes[piece] = [f"{digest}:{hash_bytes(row.data)}" for row in rows]
    return hashes


def _pieces(places: npt.NDArray[np.int64], zoo: Zoo) -> Iterator[npt.NDArray[np.int64]]:
    step = max(1, _BATCH_FLOATS // max(1, zoo.take(places[:1]).layout.num_weights))
    for start in range(0, len(places), step):
        yield places[start : start + step]
