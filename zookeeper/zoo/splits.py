"""Divide a zoo into train, val and test so that models that belong together stay together.

A side is decided by a group's name and the seed, never by the order of rows: groups are ranked by the SHA-256 of
both, as the spec's own split does. So a whole zoo divided as its spec says gives the stored split again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.query import suggest
from zookeeper.store.table import widen
from zookeeper.zoo.leakage import Leakage, find_leaks
from zookeeper.zoo.view import Zoo

SIDES = ("train", "val", "test")
_SEED = "seed"


@dataclass(frozen=True, eq=False, repr=False)
class ZooSplits:
    """Three views of one zoo; no model is in two of them.

    ``by`` names the columns whose values decide the side together (``model_id``: each model on its own), ``seed``
    and ``stratify`` how; both are None for a stored split that does not say.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from zookeeper import WeightLayout, write_rows
    >>> layout, folder = WeightLayout.from_shapes({"fc.weight": ((1, 2), "weight")}), tempfile.TemporaryDirectory()
    >>> table = {"seed": [0, 0, 1, 1, 2, 2, 3, 3], "init": ["normal", "uniform"] * 4}
    >>> zoo = write_rows(Path(folder.name) / "zoo", [[n, n] for n in range(8)], table, layout)
    >>> train, val, test = zoo.divide(train=0.5, val=0.25, test=0.25, by="seed")
    >>> [sorted(side.frame["seed"].unique().tolist()) for side in (train, val, test)]
    [[0, 2], [3], [1]]
    >>> print(zoo.divide(train=0.5, val=0, test=0.5, by="seed").leaks())
    train (4 models) and test (4 models) share
      2 configurations, of 4 and 4 models: init=normal; init=uniform
    >>> folder.cleanup()
    """

    train: Zoo
    val: Zoo
    test: Zoo
    by: tuple[str, ...]
    seed: int | None = None
    stratify: str | None = None

    def __iter__(self) -> Iterator[Zoo]:
        return iter((self.train, self.val, self.test))

    @property
    def sides(self) -> dict[str, Zoo]:
        """Name to view: train, val, test."""
        return dict(zip(SIDES, self, strict=True))

    @property
    def frame(self) -> pd.DataFrame:
        """One line per side: groups, models, checkpoints, and its share of all models."""
        models = [len(side.models) for side in self]
        lines = {
            "groups": [len(side.models[list(self.by)].drop_duplicates()) for side in self],
            "models": models,
            "checkpoints": [len(side) for side in self],
            "share": [count / max(1, sum(models)) for count in models],
        }
        return pd.DataFrame(lines, index=pd.Index(SIDES, name="side"))

    def leaks(self, *, weights: bool = False) -> Leakage:
        """Say what each two sides share; see `zookeeper.find_leaks`."""
        sides = {name: side for name, side in self.sides.items() if len(side)}
        pairs = [(one, other) for number, one in enumerate(sides) for other in list(sides)[number + 1 :]]
        found = [find_leaks(sides[one], sides[other], names=(one, other), weights=weights) for one, other in pairs]
        return Leakage(tuple(pair for part in found for pair in part.pairs))

    def __repr__(self) -> str:
        how = "" if self.seed is None else f", seed {self.seed}"
        how += "" if self.stratify is None else f", stratified by {self.stratify}"
        sides = ", ".join(f"{name} {len(side.models):,}" for name, side in self.sides.items())
        return f"ZooSplits of {self.train.header.name!r} by {', '.join(self.by)}{how}; models: {sides}"


def stored_splits(zoo: Zoo) -> ZooSplits:
    """The split that is stored with a zoo; a side that holds nothing is empty.

    Raises
    ------
    InputError
        If the zoo has no split, or one with other sides than train, val and test.
    """
    if "split" not in zoo._frame:
        raise InputError(f"{zoo.source}: the zoo has no split. Make one with divide().")
    column = zoo._frame["split"]
    if strangers := sorted(set(column.dropna().astype(str)) - set(SIDES)):
        raise InputError(
            f"{zoo.source}: the stored split has a side {strangers[0]!r}; expected train, val and test. "
            f"Use split({strangers[0]!r})."
        )
    said: Mapping[str, object] = (zoo.header.spec or {}).get("split", {})
    by, seed = said.get("by", "model"), said.get("seed")
    factors = [str(name) for name in by] if isinstance(by, list) else ["model_id" if by == "model" else str(by)]
    train, val, test = (zoo.take(np.flatnonzero((column == name).to_numpy(dtype=np.bool_))) for name in SIDES)
    return ZooSplits(train, val, test, tuple(factors), seed if isinstance(seed, int) else None)


def divide(
    zoo: Zoo,
    shares: Mapping[str, float],
    by: str | Sequence[str] = "model",
    stratify: str | None = None,
    bins: int = 4,
    seed: int = 0,
) -> ZooSplits:
    """Divide the models of a view; all checkpoints of a model, and all models of a group, share a side.

    Equal zoos and arguments give equal sides, whatever the order of the rows. Numbers of groups follow the shares by
    largest remainder, at least one group for each share above 0; with strata, in each of them to within one group.

    Parameters
    ----------
    shares
        Share of the groups for train, val and test, each in [0, 1], adding to 1.
    by
        ``model``; a column that is constant over a model, such as ``seed``, or several; or ``configuration``, which
        is all factors but the seed.
    stratify
        A factor, whose values are spread over the sides alike, or a property, cut into ``bins`` quantiles of the
        groups' mean at the models' last checkpoints.
    seed
        Another seed gives another draw.

    Raises
    ------
    InputError
        If shares do not fit, a column is unknown or not constant, or there are fewer groups than sides.
    """
    from zookeeper.spec.grid import assign_split

    _check_shares(zoo, shares)
    columns = _group_columns(zoo, by)
    models, numbers = _one_line_each(zoo, columns)
    names = _group_names(models, columns)
    if stratify is None:
        sides: list[str] = [*assign_split(names, shares, seed)]
    else:
        if bins < 2:
            raise InputError(f"{zoo.source}: bins: expected at least 2, got {bins}.")
        strata = _strata(zoo, models, names, stratify, bins)
        side_of = _assign_stratified(strata, shares, seed)
        sides = [side_of[name] for name in names]
    places = np.array([SIDES.index(side) for side in sides], np.int8)[numbers]
    train, val, test = (zoo.take(np.flatnonzero(places == place)) for place in range(len(SIDES)))
    return ZooSplits(train, val, test, columns, seed, stratify)


def _check_shares(zoo: Zoo, shares: Mapping[str, float]) -> None:
    total = math.fsum(shares.values())
    if not all(0 <= share <= 1 for share in shares.values()) or abs(total - 1) > 1e-9:
        shown = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise InputError(f"{zoo.source}: shares must lie in 0..1 and add to 1, got {shown}, which add to {total:g}.")


def _group_columns(zoo: Zoo, by: str | Sequence[str]) -> tuple[str, ...]:
    if by == "model":
        return ("model_id",)
    if by == "configuration":
        columns = tuple(name for name in zoo.factors if name != _SEED)
        if not columns:
            raise InputError(f"{zoo.source}: has no factors but the seed; expected some. Split by model.")
        return columns
    columns = (by,) if isinstance(by, str) else tuple(sorted(set(by)))
    if not columns:
        raise InputError(f"{zoo.source}: by: is empty; expected model, configuration, or columns such as seed.")
    for name in columns:
        if name not in zoo._frame:
            known = ("model", "configuration", *zoo.factors)
            raise InputError(f"{zoo.source}: by: unknown column {name!r}. {suggest(name, known)}")
    return columns


def _one_line_each(zoo: Zoo, columns: Sequence[str]) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    """One line per model, by model id, with columns that must be constant over each; and the line of every row."""
    wanted = list(dict.fromkeys((*zoo.model_key, *columns)))
    lines = widen(zoo._frame[wanted])
    numbers = np.asarray(lines.groupby(zoo.model_key, sort=True).ngroup(), np.int64)
    models = lines.drop_duplicates()
    if len(models) > numbers.max(initial=-1) + 1:
        twice = models[models.duplicated(zoo.model_key)].iloc[0]
        of_model = models[(models[zoo.model_key] == twice[zoo.model_key]).all(axis=1)]
        guilty = next(name for name in columns if of_model[name].nunique(dropna=False) > 1)
        raise InputError(
            f"{zoo.source}: column {guilty!r} has several values in model {twice['model_id']!r}; expected one that is "
            f"constant over a model, such as {', '.join(zoo.factors[:3]) or 'model'}."
        )
    return models.sort_values(zoo.model_key).reset_index(drop=True), numbers


def _group_names(models: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    """Name of each model's group; that of the spec, so that ranks agree with it."""
    from zookeeper.spec.identity import canonical_json

    if columns == ("model_id",):
        return [str(model) for model in models["model_id"]]
    ordered = sorted(columns)
    groups = models.groupby(ordered, dropna=False, sort=False).ngroup().to_numpy()
    _, first = np.unique(groups, return_index=True)
    texts = [canonical_json([_plain(models[name].iloc[line]) for name in ordered]) for line in first.tolist()]
    return [texts[group] for group in groups.tolist()]


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    return None if pd.isna(value) else value  # type: ignore[call-overload]


def _strata(zoo: Zoo, models: pd.DataFrame, names: list[str], stratify: str, bins: int) -> dict[str, str]:
    """Stratum of every group."""
    if stratify not in zoo._frame:
        known = (*zoo.factors, *zoo.properties)
        raise InputError(f"{zoo.source}: stratify: unknown column {stratify!r}. {suggest(stratify, known)}")
    if stratify in zoo.properties:
        last = models[zoo.model_key].merge(zoo.models[[*zoo.model_key, stratify]], on=zoo.model_key, how="left")
        return _binned(last[stratify].groupby(names, sort=True).mean(), bins)
    lines = _one_line_each(zoo, (stratify,))[0].assign(group=names)[["group", stratify]].drop_duplicates()
    repeated = lines["group"].duplicated()
    if repeated.any():
        raise InputError(
            f"{zoo.source}: stratify: groups hold several values of {stratify!r}; expected one value for each group. "
            "Stratify by a property, or by a factor that defines the groups, or split by model."
        )
    return {str(group): str(_plain(value)) for group, value in zip(lines["group"], lines[stratify], strict=True)}


def _binned(values: pd.Series, bins: int) -> dict[str, str]:
    """Quantile of every group; groups without a value are a stratum of their own."""
    numbers = values.to_numpy(dtype=np.float64)
    known = np.isfinite(numbers)
    edges = np.quantile(numbers[known], np.linspace(0, 1, bins + 1)[1:-1]) if known.any() else np.empty(0)
    places = np.where(known, np.searchsorted(edges, numbers, side="right"), -1)
    return {str(name): f"bin {place}" for name, place in zip(values.index, places.tolist(), strict=True)}


def _assign_stratified(strata: Mapping[str, str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Side of every group: each stratum follows the shares to within one group, and so do all together nearly.

    Every stratum gives each side the whole part of its quota; what is left of it goes, one each, to the sides that
    are furthest behind so far.
    """
    from zookeeper.spec.grid import apportion, rank_groups

    apportion(len(strata), shares)  # refuses fewer groups than sides
    wanted = [name for name, share in shares.items() if share > 0]
    due: npt.NDArray[np.float64] = np.zeros(len(wanted))
    side_of: dict[str, str] = {}
    for stratum in sorted(set(strata.values())):
        members = rank_groups((group for group in strata if strata[group] == stratum), seed)
        quotas = np.array([round(len(members) * shares[name], 9) for name in wanted])
        sizes = np.floor(quotas)
        due += quotas - sizes
        for place in np.argsort(-due, kind="stable")[: len(members) - int(sizes.sum())].tolist():
            sizes[place] += 1
            due[place] -= 1
        sides = [name for name, size in zip(wanted, sizes.tolist(), strict=True) for _ in range(int(size))]
        side_of.update(zip(members, sides, strict=True))
    for name in wanted:
        if name not in side_of.values():
            held = list(side_of.values())
            most = max(wanted, key=held.count)
            moved = rank_groups((group for group in side_of if side_of[group] == most), seed)[-1]
            side_of[moved] = name
    return side_of
