"""Cohorts and tiles that fit a budget of memory."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from zookeeper.build import worker
from zookeeper.build.job import CohortJob, image_json, load_spec_images, population_of
from zookeeper.build.lowerings import decide_lowerings, pinned_lowerings
from zookeeper.build.memory import predict_memory
from zookeeper.errors import InputError
from zookeeper.population import Cohort as Factors
from zookeeper.population import Population
from zookeeper.population.process import prepare_process
from zookeeper.spec.grid import ModelConfig
from zookeeper.spec.plan import SHARED_FACTORS, Cohort, Plan, chunk_bounds, make_plan

_SHARE = 0.8  # of what is free; the rest is for what no arithmetic knows
_MOST = 2048
_CLOSE = 1.02  # of the shortest time; larger cohorts are worth that much
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_ACCOUNTS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def parse_bytes(text: str) -> int:
    """Read a size such as ``8GB``, ``500 MB`` or ``1.5G``.

    >>> parse_bytes("8GB"), parse_bytes("1.5 M")
    (8000000000, 1500000)

    Raises
    ------
    InputError
        If the text is no size above 0.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) <= 0:
        raise InputError(f"--memory {text}: not a size; expected a number and a unit, such as 8GB or 500MB.")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def memory_budget(device: str, num_workers: int) -> int:
    """Bytes that one of several workers on this machine may take: its share of 80 % of what is free now."""
    if device == "cuda":
        count = torch.cuda.device_count()
        free = min(torch.cuda.mem_get_info(number)[0] for number in range(count))
        return int(_SHARE * free / max(1, -(-num_workers // count)))
    return int(_SHARE * available_memory() / num_workers)


def available_memory(system: Path = Path("/")) -> int:
    """Bytes of main memory that this process can still get, limits of a container included."""
    sizes = [1 << 62]
    try:
        for line in (system / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                sizes.append(int(line.split()[1]) * 1024)
    except OSError:
        pass  # not Linux: no limit is known
    for limit, usage in _ACCOUNTS:
        for folder in (system / "sys/fs/cgroup", system / "sys/fs/cgroup/memory"):
            try:
                free = int((folder / limit).read_text()) - int((folder / usage).read_text())
                sizes.append(free + _reclaimable(folder))
            except (OSError, ValueError):  # no such group, or "max": no limit
                continue
    return max(0, min(sizes))


def _reclaimable(group: Path) -> int:
    """Bytes of files that a container holds in memory only as long as nobody wants them."""
    stat = dict(line.split()[:2] for line in (group / "memory.stat").read_text().splitlines())
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def fit_plan(
    plan: Plan, *, budget: int, device: str = "cpu", num_workers: int = 1, num_threads: int = 1, strict: bool = True
) -> Plan:
    """Return the plan with cohorts whose training fits ``budget`` bytes.

    On the CPU, where larger cohorts gain nothing, a plan that fits is left as it is, unless it has fewer cohorts
    than there are workers. On a GPU cohorts are as large as fits, as long as every worker has one. Cohorts that are
    not of one seed each are then made somewhat smaller where workers end closer together that way: 1,200 models
    in 19 cohorts would leave the second of two workers idle for a twentieth of the time, 20 do not.

    Parameters
    ----------
    num_threads
        Threads of torch in a worker; this process takes as many, for the trials of lowerings are timed as workers run.
    strict
        Refuse a budget that not even one model fits; otherwise cohorts of one model are tried, as a budget
        that was measured may be wrong.

    Raises
    ------
    InputError
        If the images are missing, an architecture does not fit them, or not even one model fits.
    """
    prepare_process(num_threads)
    images = load_spec_images(image_json(plan.spec))
    counts = {split: images.count(split) for split in images.indices}
    groups: dict[tuple[object, ...], list[ModelConfig]] = {}
    for model in (model for cohort in plan.cohorts for model in cohort.models):
        groups.setdefault(tuple(getattr(model, name) for name in SHARED_FACTORS), []).append(model)
    largest = max(len(cohort.models) for cohort in plan.cohorts)
    if device != "cpu":
        largest = min(_MOST, max(-(-len(models) // num_workers) for models in groups.values()))
    elif len(plan.cohorts) < num_workers:
        largest = min(largest, -(-plan.num_models // num_workers))
    size = largest
    for models in groups.values():
        population, batch_size = population_of(models[0], images), models[0].batch_size
        most = min(size, len(models))
        lowerings = decide_lowerings(population, plan.spec.build.lowering, most, batch_size, device)
        population = population.lowered(lowerings)
        found = largest_cohort(population, models[:most], counts, budget, device)
        if found == 0 and strict:
            raise InputError(
                f"memory: training one {models[0].architecture} in batches of {models[0].batch_size} takes "
                f"{cohort_memory(population, models[:1], counts, device):,} bytes; expected at most {budget:,}. "
                "Raise --memory, use fewer workers, or a smaller batch."
            )
        size = min(size, max(1, found)) if found < most else size
    same = size == max(len(cohort.models) for cohort in plan.cohorts)
    if same and all(len({model.seed for model in cohort.models}) == 1 for cohort in plan.cohorts):
        return plan  # images are gathered once for all models of a seed
    even = even_size([len(models) for models in groups.values()], size, num_workers)
    return plan if same and even == size else make_plan(plan.spec, even)


def even_size(num_models: Sequence[int], most: int, num_workers: int) -> int:
    """Most models in a cohort, for several workers to end together: the largest size up to ``most`` that will do.

    Sizes down to half of ``most`` are tried; one that costs 2 % beyond the best will do.

    Parameters
    ----------
    num_models
        Models of each group that is cut into cohorts of its own; all cost the same.

    Examples
    --------
    >>> even_size([1200], 64, 1), even_size([1200], 64, 2), even_size([40, 40], 64, 4)
    (64, 63, 39)
    """

    def busy(size: int) -> int:
        loads = [0] * num_workers
        for count in num_models:
            for start, stop in chunk_bounds(count, size):
                heapq.heapreplace(loads, loads[0] + stop - start)
        return max(loads)

    times = {size: busy(size) for size in range(most, (most - 1) // 2, -1)}
    return next(size for size, time in times.items() if time <= _CLOSE * min(times.values()))


def fit_jobs(jobs: tuple[CohortJob, ...], budget: int) -> tuple[CohortJob, ...]:
    """Return jobs whose tiles are small enough to train within ``budget`` bytes; a cohort keeps its models."""
    fitted = []
    for job in jobs:
        images = load_spec_images(job.images)
        counts = {split: images.count(split) for split in images.indices}
        models = job.cohort.models
        population, batch_size = population_of(models[0], images), models[0].batch_size
        lowerings = pinned_lowerings(Path(job.root), population, batch_size)
        if lowerings is None:
            lowerings = decide_lowerings(population, job.lowering, len(models), batch_size, job.device)
        population = population.lowered(lowerings)
        fitted.append(
            replace(job, tile=largest_tile(population, worker.cohort_factors(job), counts, budget, job.device))
        )
    return tuple(fitted)


def cohort_memory(population: Population, models: list[ModelConfig], counts: Mapping[str, int], device: str) -> int:
    """Predicted peak in bytes of training models as one cohort."""
    job = CohortJob("", Cohort("fit", tuple(models)), (0,), "", "", "")
    factors = worker.cohort_factors(job)
    return predict_memory(population, factors, counts, device=device, commit_bytes=worker.COMMIT_BYTES).peak


def largest_cohort(
    population: Population, models: list[ModelConfig], counts: Mapping[str, int], budget: int, device: str
) -> int:
    """Most of the models that train as one cohort within ``budget`` bytes; 0 if not even one does."""
    return largest(lambda num: cohort_memory(population, models[:num], counts, device) <= budget, len(models))


def largest_tile(
    population: Population, factors: Factors, counts: Mapping[str, int], budget: int, device: str
) -> int | None:
    """Largest tile with which a cohort trains within ``budget`` bytes: None if it need not be cut, 1 at least."""

    def fits(tile: int) -> bool:
        memory = predict_memory(population, factors, counts, device=device, tile=tile, commit_bytes=worker.COMMIT_BYTES)
        return memory.peak <= budget

    found = largest(fits, factors.num_models)
    return None if found == factors.num_models else max(1, found)


def largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number from 1 to ``most`` that fits, where all smaller ones fit too; 0 if none does.

    >>> largest(lambda number: number * number <= 50, 100), largest(lambda number: False, 3)
    (7, 0)
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
