"""A zoo pins the lowerings it was begun with: what is measured or asked for later changes no bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zookeeper
from zookeeper import Plan, build_zoo
from zookeeper.build import fit, prepare_zoo, worker
from zookeeper.build.job import load_spec_images, population_of
from zookeeper.build.lowerings import FOLDER, decide_lowerings, pinned_lowerings
from zookeeper.build.retrain import retrain_model
from zookeeper.errors import InputError, StoreError
from zookeeper.population import Population, choice
from zookeeper.population.choice import ConvolutionCase
from zookeeper.population.convolution import GROUPED, LOWERINGS, UNFOLD
from zookeeper.store.records import read_commits

MakePlan = Callable[..., Plan]
READ = Callable[[Path], Any]
ONE = {"build": {"cohort_size": 1}, "grid": {"lr": [1e-3], "seed": {"range": [0, 3]}}}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], list[str]]:
    """Let one lowering win every trial from now on, with nothing remembered; return what is measured."""
    count = iter(range(100))

    def let_win(winner: str) -> list[str]:
        calls: list[str] = []

        def measure(case: ConvolutionCase, lowering: str, *where: Any) -> float:
            calls.append(lowering)
            return 1.0 if lowering == winner else 2.0

        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{next(count)}"))
        monkeypatch.setattr(choice, "measure_case", measure)
        return calls

    return let_win


def pins(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((root / FOLDER).iterdir())]


def interrupt_once(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Press Ctrl-C after so many commits."""
    real, calls = worker.commit_block, iter(range(1000))

    def commit(*arguments: Any) -> Any:
        record = real(*arguments)
        if next(calls) + 1 == after:
            raise KeyboardInterrupt
        return record

    monkeypatch.setattr(worker, "commit_block", commit)


def test_a_resumed_build_keeps_its_lowering_whatever_is_measured_then(
    measured: Callable[[str], list[str]],
    plan_of: MakePlan,
    tmp_path: Path,
    contents: READ,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of("digits", build={"cohort_size": 6})
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1)
    measured(GROUPED)
    build_zoo(plan, tmp_path / "grouped", show_progress=False)
    calls = measured(UNFOLD)
    build_zoo(plan, tmp_path / "unfold", show_progress=False)
    assert calls == [GROUPED, UNFOLD] * 2  # two convolutions, once for both cohorts
    with monkeypatch.context() as patch:
        interrupt_once(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert 0 < len(read_commits(tmp_path / "zoo")) < len(read_commits(tmp_path / "unfold"))
    calls = measured(GROUPED)
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert calls == []
    assert contents(tmp_path / "zoo") == contents(tmp_path / "unfold") != contents(tmp_path / "grouped")
    (pin,) = pins(tmp_path / "zoo")
    assert set(pin["lowerings"].values()) == {UNFOLD}
    assert (pin["decided"], pin["batch_size"]) == ("measured", 32)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_a_lowering_asked_for_is_taken_without_a_trial_and_retrained_with(
    lowering: str, measured: Callable[[str], list[str]], plan_of: MakePlan, tmp_path: Path
) -> None:
    calls = measured(next(name for name in LOWERINGS if name != lowering))
    plan = plan_of("digits", **{**ONE, "build": {"cohort_size": 1, "lowering": lowering}})
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert calls == []
    assert {name for pin in pins(tmp_path / "zoo") for name in pin["lowerings"].values()} == {lowering}
    assert retrain_model(tmp_path / "zoo", plan.cohorts[0].models[0].model_id).equal
    next((tmp_path / "zoo" / FOLDER).iterdir()).unlink()
    again = retrain_model(tmp_path / "zoo", plan.cohorts[0].models[0].model_id)
    assert again.equal == (lowering == GROUPED)  # without a pin: as zoos were built before there were pins


def test_the_lowering_is_no_part_of_any_identity(plan_of: MakePlan, tmp_path: Path, contents: READ) -> None:
    plans = [plan_of("digits", build={"cohort_size": 6, "lowering": name}) for name in ("auto", *LOWERINGS)]
    assert len({plan.spec.digest for plan in plans}) == 1
    assert len({tuple(model.model_id for cohort in plan.cohorts for model in cohort.models) for plan in plans}) == 1
    build_zoo(plans[1], tmp_path / "zoo", show_progress=False)
    before = contents(tmp_path / "zoo")
    build_zoo(plans[2], tmp_path / "zoo", show_progress=False)  # asked otherwise later: kept as it was begun
    assert contents(tmp_path / "zoo") == before


def test_a_zoo_that_was_begun_before_there_were_pins_stays_grouped(
    measured: Callable[[str], list[str]],
    plan_of: MakePlan,
    tmp_path: Path,
    contents: READ,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of("digits", build={"cohort_size": 6})
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1)
    measured(GROUPED)
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "settle_lowerings", lambda *arguments, **options: {})
        interrupt_once(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            build_zoo(plan, tmp_path / "zoo", show_progress=False)
    calls = measured(UNFOLD)
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert calls == []
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")


def test_networks_without_convolutions_pin_nothing(plan_of: MakePlan, tmp_path: Path) -> None:
    build_zoo(plan_of(), tmp_path / "zoo", show_progress=False)
    assert not (tmp_path / "zoo" / FOLDER).exists()


def test_the_first_of_two_workers_decides(
    measured: Callable[[str], list[str]], plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("digits")
    jobs = prepare_zoo(plan, tmp_path / "zoo")
    population = population_of(plan.cohorts[0].models[0], load_spec_images(jobs[0].images))
    from zookeeper.build import lowerings

    def settle(winner: str) -> dict[str, str]:
        measured(winner)
        options = {"wanted": "auto", "num_models": 12, "batch_size": 32, "device": "cpu"}
        return lowerings.settle_lowerings(tmp_path / "zoo", population, **options)  # type: ignore[arg-type]

    real = decide_lowerings

    def slowly(*arguments: Any) -> dict[str, str]:
        monkeypatch.setattr(lowerings, "decide_lowerings", real)
        mine = real(*arguments)
        assert set(settle(GROUPED).values()) == {GROUPED}  # another worker is faster
        return mine

    monkeypatch.setattr(lowerings, "decide_lowerings", slowly)
    assert set(settle(UNFOLD).values()) == {GROUPED}
    assert pinned_lowerings(tmp_path / "zoo", population, 32) == settle(UNFOLD)
    assert pinned_lowerings(tmp_path / "zoo", population, 64) is None


@pytest.mark.parametrize("content", ["", "[]", '{"lowerings": {"conv1": 3}}'])
def test_a_damaged_pin_is_an_error_not_another_choice(content: str, plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of("digits")
    root = tmp_path / "zoo"
    build_zoo(plan, root, show_progress=False)
    (path,) = (root / FOLDER).iterdir()
    path.write_text(content)
    with pytest.raises(StoreError, match=f"{path.name}: .*Restore it from a copy"):
        retrain_model(root, plan.cohorts[0].models[0].model_id)
    path.write_text('{"lowerings": {"conv1": "winograd"}}')
    with pytest.raises(InputError, match="unknown lowering 'winograd'"):
        retrain_model(root, plan.cohorts[0].models[0].model_id)


def test_a_budget_of_memory_counts_what_was_pinned_or_asked_for(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[set[str]] = []

    def largest_tile(population: Population, *rest: Any) -> None:
        counted.append(set(population.lowerings.values()))

    monkeypatch.setattr(fit, "largest_tile", largest_tile)
    plan = plan_of("digits", build={"lowering": UNFOLD})
    fit.fit_jobs(prepare_zoo(plan, tmp_path / "zoo"), 1 << 40)
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    fit.fit_jobs(prepare_zoo(plan_of("digits", build={"lowering": GROUPED}), tmp_path / "zoo"), 1 << 40)
    assert counted == [{UNFOLD}, {UNFOLD}]


def test_models_are_the_same_up_to_rounding(plan_of: MakePlan, tmp_path: Path) -> None:
    import numpy as np

    zoos = {}
    for name in LOWERINGS:
        build_zoo(plan_of("digits", build={"lowering": name}), tmp_path / name, show_progress=False)
        zoos[name] = zookeeper.open(tmp_path / name)
    first, second = (zoo.weights() for zoo in zoos.values())
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)
