"""A model does not depend on its neighbours, and an interruption leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from zookeeper.errors import InputError
from zookeeper.nets.initialise import init_names, initialise_rows
from zookeeper.population import Cohort, EpochResult, Population, tiles, train_cohort

SAME_SEED, OWN_SEEDS, MIXED_SEEDS = (4,) * 10, tuple(range(10)), (1, 1, 2, 5, 5, 5, 7, 1, 9, 2)


@dataclass(frozen=True)
class Snapshot:
    """Everything an epoch reports, copied."""

    rows: torch.Tensor
    batch_loss: torch.Tensor
    measures: torch.Tensor
    diverged: torch.Tensor
    state: dict[str, torch.Tensor]

    @classmethod
    def of(cls, result: EpochResult) -> Snapshot:
        measures = [v for e in result.evaluations.values() for v in (e.loss, e.accuracy)]
        state = {slot: values.clone() for slot, values in result.state.items()}
        return cls(result.rows.clone(), result.batch_loss.clone(), torch.stack(measures, 1), result.diverged, state)

    def pick(self, members: list[int]) -> list[torch.Tensor]:
        values = (self.rows, self.batch_loss, self.measures, self.diverged)
        return [v[members] for v in values]


def cohort_of(seeds: tuple[int, ...], optimizer: str = "adam") -> Cohort:
    num = len(seeds)
    scale = 0.05 if optimizer == "sgd" else 0.01
    return Cohort(
        seeds=seeds,
        lr=tuple(scale / (1 + number % 5) for number in range(num)),
        weight_decay=tuple(0.01 * (number % 3) for number in range(num)),
        momentum=tuple(0.3 * (number % 4) for number in range(num)),
        dropout=tuple(0.2 * (number % 3) for number in range(num)),
        optimizer=optimizer,
        batch_size=16,
    )


def pick(cohort: Cohort, members: list[int]) -> Cohort:
    names = ("seeds", "lr", "weight_decay", "momentum", "dropout")
    return replace(cohort, **{name: tuple(getattr(cohort, name)[m] for m in members) for name in names})


def start_rows(case: Any, cohort: Cohort, dtype: torch.dtype) -> torch.Tensor:
    population = Population(case.build(), case.image_shape)
    inits = [init_names()[number % len(init_names())] for number in range(cohort.num_models)]
    return torch.from_numpy(initialise_rows(population.layout, inits, cohort.seeds)).to(dtype)


def run(case: Any, cohort: Cohort, rows: torch.Tensor, last_epoch: int = 2, **resume: Any) -> list[Snapshot]:
    population = Population(case.build(), case.image_shape)
    results = train_cohort(population, cohort, case.data(), rows.clone(), last_epoch=last_epoch, **resume)
    return [Snapshot.of(result) for result in results]


def assert_same_bits(first: list[Snapshot], second: list[Snapshot], members: list[int]) -> None:
    for one, other in zip(first, second, strict=True):
        states = zip(one.state.values(), other.state.values(), strict=True)
        pairs = [
            *zip(one.pick(members), other.pick(members), strict=True),
            *((a[members], b[members]) for a, b in states),
        ]
        for a, b in pairs:
            assert torch.equal(a.nan_to_num(nan=-1e9), b.nan_to_num(nan=-1e9))


def set_tile(monkeypatch: pytest.MonkeyPatch, tile: int | None) -> None:
    if tile is not None:
        monkeypatch.setattr(tiles, "_CACHE_BYTES", 1)
        monkeypatch.setattr(tiles, "_MIN_TILE", tile)


def assert_close(first: Snapshot, second: Snapshot, members: list[int]) -> None:
    for a, b in zip(first.pick(members), second.pick(list(range(len(members)))), strict=True):
        if a.dtype == torch.float64:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
        elif a.dtype == torch.float32:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, equal_nan=True)
        else:
            assert torch.equal(a, b)


@pytest.mark.parametrize("seeds", [SAME_SEED, OWN_SEEDS, MIXED_SEEDS], ids=["same", "own", "mixed"])
@pytest.mark.parametrize("name", ["mlp", "cnn-digits", "normed"])
def test_order_of_mates_does_not_matter(name: str, seeds: tuple[int, ...], case_named: Callable[[str], Any]) -> None:
    case, cohort = case_named(name), cohort_of(seeds)
    rows = start_rows(case, cohort, torch.float64)
    order = [7, 2, 9, 0, 5, 1, 8, 3, 6, 4]
    straight = run(case, cohort, rows)[1:]
    permuted = run(case, pick(cohort, order), rows[order])[1:]
    for one, other in zip(straight, permuted, strict=True):
        assert_close(one, other, order)


@pytest.mark.parametrize("name", ["mlp", "cnn-digits", "normed"])
@pytest.mark.parametrize("members", [[3, 4, 5], [0], [9, 1]], ids=["same seed", "one", "two seeds"])
def test_added_mates_do_not_matter(name: str, members: list[int], case_named: Callable[[str], Any]) -> None:
    case, cohort = case_named(name), cohort_of(MIXED_SEEDS, "sgd")
    rows = start_rows(case, cohort, torch.float64)
    whole = run(case, cohort, rows)[1:]
    few = run(case, pick(cohort, members), rows[members])[1:]
    for one, other in zip(whole, few, strict=True):
        assert_close(one, other, members)


@pytest.mark.parametrize("tile", [None, 1, 4], ids=lambda tile: f"tile {tile}")
@pytest.mark.parametrize("seeds", [SAME_SEED, OWN_SEEDS, MIXED_SEEDS], ids=["same", "own", "mixed"])
@pytest.mark.parametrize("name", ["mlp", "cnn-digits", "normed"])
def test_a_poisoned_mate_harms_nobody(
    name: str,
    seeds: tuple[int, ...],
    tile: int | None,
    case_named: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_tile(monkeypatch, tile)
    case, cohort = case_named(name), cohort_of(seeds)
    rows = start_rows(case, cohort, torch.float32)
    healthy = run(case, cohort, rows)
    poisoned_rows = rows.clone()
    poisoned_rows[4] = torch.nan
    poisoned_rows[9] = torch.inf
    poisoned = run(case, cohort, poisoned_rows)
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert_same_bits(healthy, poisoned, others)
    for snapshot in poisoned:
        assert snapshot.diverged.nonzero().flatten().tolist() == [4, 9]
    assert not any(snapshot.diverged.any() for snapshot in healthy)
    assert healthy[-1].rows.isfinite().all()


@pytest.mark.parametrize("victim", [0, 6, 11])
def test_poison_in_one_weight_of_a_larger_network(victim: int, case_named: Callable[[str], Any]) -> None:
    case, cohort = case_named("cnn-small"), cohort_of(tuple(number // 5 for number in range(12)))
    rows = start_rows(case, cohort, torch.float32)
    poisoned_rows = rows.clone()
    poisoned_rows[victim, 3] = torch.nan
    healthy, poisoned = run(case, cohort, rows, 1), run(case, cohort, poisoned_rows, 1)
    assert_same_bits(healthy, poisoned, [number for number in range(12) if number != victim])
    assert poisoned[-1].diverged.nonzero().flatten().tolist() == [victim]
    assert poisoned[-1].rows[victim].isnan().any()


def test_poison_in_the_middle_of_a_run(case_named: Callable[[str], Any]) -> None:
    case, cohort = case_named("normed"), cohort_of(MIXED_SEEDS, "rmsprop")
    rows = start_rows(case, cohort, torch.float32)
    healthy = run(case, cohort, rows, 3)
    population = Population(case.build(), case.image_shape)
    poisoned = []
    for result in train_cohort(population, cohort, case.data(), rows.clone(), last_epoch=3):
        poisoned.append(Snapshot.of(result))
        if result.epoch == 1:
            result.rows[2] = torch.nan
    assert_same_bits(healthy, poisoned, [number for number in range(10) if number != 2])
    assert_same_bits(healthy[:2], poisoned[:2], [2])
    assert poisoned[-1].diverged.nonzero().flatten().tolist() == [2]


def test_a_model_that_explodes_is_flagged_and_kept(case_named: Callable[[str], Any]) -> None:
    case, cohort = case_named("cnn-digits"), cohort_of(MIXED_SEEDS, "sgd")
    rows = start_rows(case, cohort, torch.float32)
    wild = replace(cohort, lr=(*cohort.lr[:3], 1e30, *cohort.lr[4:]))
    calm, wild_run = run(case, cohort, rows), run(case, wild, rows)
    assert_same_bits(calm, wild_run, [number for number in range(10) if number != 3])
    assert [snapshot.diverged[3].item() for snapshot in wild_run] == [False, True, True]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("tile", [None, 4], ids=lambda tile: f"tile {tile}")
@pytest.mark.parametrize("name", ["cnn-digits", "normed"])
def test_resumed_run_has_the_same_bits(
    name: str,
    tile: int | None,
    optimizer: str,
    case_named: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_tile(monkeypatch, tile)
    case, cohort = case_named(name), cohort_of(MIXED_SEEDS, optimizer)
    rows = start_rows(case, cohort, torch.float32)
    whole = run(case, cohort, rows, 3)
    assert len(whole) == 4
    everyone = list(range(10))
    for epoch in (0, 2):
        seen = whole[epoch]
        state = {slot: values.clone() for slot, values in seen.state.items()}
        rest = run(case, cohort, seen.rows, 3, first_epoch=epoch + 1, state=state)
        assert_same_bits(whole[epoch + 1 :], rest, everyone)
    forgetful = run(case, cohort, whole[2].rows, 3, first_epoch=3)
    assert not torch.equal(forgetful[-1].rows, whole[-1].rows)


def test_a_run_repeats_to_the_bit(case_named: Callable[[str], Any]) -> None:
    case, cohort = case_named("normed"), cohort_of(MIXED_SEEDS)
    rows = start_rows(case, cohort, torch.float32)
    assert_same_bits(run(case, cohort, rows), run(case, cohort, rows), list(range(10)))


def test_epoch_zero_is_the_untrained_population(case_named: Callable[[str], Any]) -> None:
    case, cohort = case_named("cnn-digits"), cohort_of(MIXED_SEEDS)
    rows = start_rows(case, cohort, torch.float32)
    (first,) = run(case, cohort, rows, 0)
    assert torch.equal(first.rows, rows)
    assert first.batch_loss.isnan().all()
    assert first.measures.shape == (10, 6)


@pytest.mark.parametrize(
    ("num_models", "batch_size", "sizes"),
    [(1, 16, {1}), (10, 16, {10}), (200, 1024, {10}), (9, 10**6, {3})],
)
def test_tiles_cover_the_models_evenly(
    num_models: int, batch_size: int, sizes: set[int], case_named: Callable[[str], Any]
) -> None:
    case = case_named("cnn-digits")
    population = Population(case.build(), case.image_shape)
    found = tiles.tile_slices(population, num_models, batch_size, torch.device("cpu"))
    assert [m for tile in found for m in range(tile.start, tile.stop)] == list(range(num_models))
    assert {tile.stop - tile.start for tile in found} <= sizes
    assert tiles.tile_slices(population, num_models, batch_size, torch.device("cuda")) == [slice(0, num_models)]


def test_wrong_cohorts_are_refused(case_named: Callable[[str], Any]) -> None:
    with pytest.raises(InputError, match=r"factors of .* expected one value per model"):
        Cohort((1, 2), (0.1,), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), "adam", 16)
    with pytest.raises(InputError, match="expected one value per model"):
        Cohort((), (), (), (), (), "adam", 16)
    case, cohort = case_named("mlp"), cohort_of((1, 2))
    with pytest.raises(InputError, match=r"rows have shape \(3, 100\); expected \(2, 100\)"):
        run(case, cohort, torch.zeros(3, 100))
    with pytest.raises(InputError, match="unknown optimizer 'adm'; expected adam, adamw, rmsprop, sgd"):
        run(case, replace(cohort, optimizer="adm"), torch.zeros(2, 100))
