"""Estimates: right bytes, a time that follows the schedule, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zookeeper import Plan, Zoo, build_zoo
from zookeeper.build import estimate as estimate_module
from zookeeper.build import estimate_build, worker
from zookeeper.build.estimate import makespan


def size_of(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def test_bytes_are_those_of_the_built_zoo(built: tuple[Plan, Zoo]) -> None:
    plan, zoo = built
    assert estimate_build(plan).num_bytes == pytest.approx(size_of(zoo.path), rel=0.1)


def test_bytes_count_every_commit(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COMMIT_BYTES", 2 * 6 * 100 * 4)
    plan = plan_of(training={"optimizer": "adam", "batch_size": 64, "epochs": 7})
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert estimate_build(plan).num_bytes == pytest.approx(size_of(tmp_path / "zoo"), rel=0.1)


def test_counts_and_time(plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "_time_cohort", lambda population, job, data: (0.5, 0.25))
    plan = plan_of(build={"cohort_size": 4}, training={"optimizer": "adam", "batch_size": 100, "epochs": 3})
    one, two = (estimate_build(plan, num_workers=count) for count in (1, 2))
    assert (one.num_models, one.num_cohorts, one.num_checkpoints) == (12, 3, 48)
    assert one.num_weights == {"mlp": 100}
    train = estimate_module.load_spec_images(estimate_module.image_json(plan.spec)).count("train")
    steps = 3 * -(-train // 100)
    assert one.model_steps == 12 * steps
    assert one.seconds_per_model_step == pytest.approx(0.5)
    assert one.seconds == pytest.approx(12 * (0.5 * steps + 0.25 * 4))
    assert two.seconds == pytest.approx(8 * (0.5 * steps + 0.25 * 4))  # three cohorts, two workers


def test_makespan_is_that_of_a_queue() -> None:
    assert makespan([], 3) == 0
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 1, 3], 2) == 4


def test_estimating_writes_nothing(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = estimate_build(plan)
    assert sorted(tmp_path.rglob("*")) == before
    assert found.seconds > 0
