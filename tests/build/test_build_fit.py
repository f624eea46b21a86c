"""Cohorts and tiles that fit a budget of memory and the workers; sizes as people write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zookeeper import InputError, Plan, build_zoo
from zookeeper.build import fit, prepare_zoo
from zookeeper.build.fit import available_memory, even_size, fit_jobs, fit_plan, parse_bytes
from zookeeper.spec.plan import chunk_bounds

MakePlan = Callable[..., Plan]


def test_cohorts_are_cut_to_a_budget(plan_of: MakePlan) -> None:
    plan = plan_of(build={}, grid={"lr": [1e-3], "seed": {"range": [0, 60]}})
    assert [len(cohort.models) for cohort in plan.cohorts] == [60]
    assert fit_plan(plan, budget=1 << 40) is plan
    images = fit.load_spec_images(fit.image_json(plan.spec))
    counts = {split: images.count(split) for split in images.indices}
    models = list(plan.cohorts[0].models)
    population = fit.population_of(models[0], images)
    budget = fit.cohort_memory(population, models[:20], counts, "cpu")
    cut = fit_plan(plan, budget=budget)
    assert {len(cohort.models) for cohort in cut.cohorts} == {20}
    assert {m.model_id for c in cut.cohorts for m in c.models} == {m.model_id for m in models}
    with pytest.raises(
        InputError, match=r"training one mlp in batches of 64 takes [\d,]+ bytes; expected at most 1,000"
    ):
        fit_plan(plan, budget=1000)
    assert {len(cohort.models) for cohort in fit_plan(plan, budget=1000, strict=False).cohorts} == {1}


def test_cohorts_on_a_gpu_are_as_large_as_fits_and_give_every_worker_one(plan_of: MakePlan) -> None:
    plan = plan_of(build={}, grid={"lr": [1e-3], "seed": {"range": [0, 300]}})
    assert max(len(cohort.models) for cohort in plan.cohorts) == 60
    for workers, largest in ((1, 300), (4, 75)):
        made = fit_plan(plan, budget=1 << 40, device="cuda", num_workers=workers)
        assert max(len(cohort.models) for cohort in made.cohorts) == largest
    few = fit_plan(plan, budget=2_000_000, device="cuda")
    assert 1 < max(len(cohort.models) for cohort in few.cohorts) < 300


def test_cohorts_on_a_cpu_are_cut_until_every_worker_has_one(plan_of: MakePlan) -> None:
    plan = plan_of(build={}, grid={"lr": [1e-3], "seed": {"range": [0, 8]}})
    assert len(plan.cohorts) == 1
    cut = fit_plan(plan, budget=1 << 40, num_workers=3)
    sizes = [len(cohort.models) for cohort in cut.cohorts]
    assert len(sizes) >= 3
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == plan.num_models
    assert fit_plan(cut, budget=1 << 40, num_workers=3) is cut


def ids_of(plan: Plan) -> list[str]:
    return [model.model_id for cohort in plan.cohorts for model in cohort.models]


def test_cohorts_are_cut_so_that_workers_end_together(plan_of: MakePlan) -> None:
    plan = plan_of(build={}, grid={"lr": [1e-3], "seed": {"range": [0, 300]}})
    assert [len(cohort.models) for cohort in plan.cohorts] == [60] * 5
    assert fit_plan(plan, budget=1 << 40, num_workers=1) is plan
    for workers, cohorts in ((2, 6), (3, 6), (4, 8), (5, 5)):
        cut = fit_plan(plan, budget=1 << 40, num_workers=workers)
        assert len(cut.cohorts) == cohorts
        assert sorted(ids_of(cut)) == sorted(ids_of(plan))
    one_seed_each = plan_of(build={}, grid={"lr": {"range": [1, 21]}, "seed": {"range": [0, 3]}})
    assert len(one_seed_each.cohorts) == 3
    assert fit_plan(one_seed_each, budget=1 << 40, num_workers=2) is one_seed_each


@given(
    counts=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    most=st.integers(1, 80),
    workers=st.integers(1, 9),
)
def test_an_even_size_never_ends_later(counts: list[int], most: int, workers: int) -> None:
    def end(size: int) -> int:
        loads = [0] * workers
        for length in (stop - start for count in counts for start, stop in chunk_bounds(count, size)):
            loads[loads.index(min(loads))] += length
        return max(loads)

    size = even_size(counts, most, workers)
    assert most / 2 <= size <= most
    assert end(size) <= 1.02 * min(map(end, range(-(-most // 2), most + 1)))
    assert all(end(larger) > end(size) for larger in range(size + 1, most + 1))


def test_an_existing_zoo_keeps_its_cohorts_and_gets_smaller_tiles(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of()
    jobs = prepare_zoo(plan, tmp_path / "zoo")
    assert [job.tile for job in fit_jobs(jobs, 1 << 40)] == [None, None]
    assert [job.tile for job in fit_jobs(jobs, 1)] == [1, 1]
    assert build_zoo(plan, tmp_path / "zoo", memory=1, show_progress=False).complete


@pytest.mark.parametrize(("text", "size"), [("8GB", 8e9), ("500 mb", 5e8), ("1.5G", 1.5e9), ("123", 123), ("2k", 2000)])
def test_sizes_are_read(text: str, size: float) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "0GB", "-1GB", "8XB", "8 GB free", "1e9", "nan", "8GiB"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a number and a unit, such as 8GB"):
        parse_bytes(text)


def test_free_memory_obeys_a_container(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert available_memory(tmp_path) == 4000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert available_memory(tmp_path) == 4000 * 1024
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.stat").write_text("anon 600\nfile 400\ninactive_file 300\nworkingset_refault_anon 0\n")
    assert available_memory(tmp_path) == 2_999_300
    assert available_memory(tmp_path / "elsewhere") == 1 << 62
    assert available_memory() > 0
