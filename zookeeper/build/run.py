"""Build a zoo: prepare or resume the directory, run what is missing, write the caches."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path

from zookeeper.build.job import CohortJob, prepare_zoo
from zookeeper.build.progress import BuildProgress
from zookeeper.errors import BuildError
from zookeeper.spec.plan import Plan
from zookeeper.store.caches import finalise
from zookeeper.store.lock import BuildLock
from zookeeper.store.records import cohort_progress


@dataclass(frozen=True)
class BuildSummary:
    """How a build ended: counts over the whole zoo, ``seconds`` of this run, failed cohorts by name."""

    path: Path
    num_models: int
    num_checkpoints: int
    num_diverged: int
    best_test_acc: float
    seconds: float
    failures: dict[str, str]


def build_zoo(
    plan: Plan,
    root: Path,
    *,
    num_workers: int = 1,
    backend: str = "auto",
    device: str = "cpu",
    num_threads: int = 1,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
    address: str | None = None,
    show_progress: bool = True,
) -> BuildSummary:
    """Train every model of a plan and store every checkpoint; the same call again finishes what is missing.

    Parameters
    ----------
    plan
        What to build.
    root
        The zoo directory; created, or resumed if it holds a zoo of the same spec.
    num_workers
        Ray workers at a time.
    backend
        ``ray``, ``local`` (in this process), or ``auto``: local for one worker on this machine or where Ray
        is not installed, else Ray.
    device
        ``cpu`` or ``cuda``.
    num_threads
        Threads of torch in one worker.
    cpus_per_worker, gpus_per_worker
        Resources that Ray reserves for a worker; a fraction of a GPU lets workers share it.
    address
        An existing Ray cluster; every node must reach ``root``.

    Raises
    ------
    InputError
        If the directory holds another zoo.
    BuildError
        If another process builds this zoo, or workers cannot run. Committed blocks stay valid.
    """
    start = time.monotonic()
    backend = _choose_backend(backend, num_workers, address)
    jobs = prepare_zoo(plan, root, device=device, num_threads=num_threads)
    with BuildLock(root):
        committed = cohort_progress(root)
        pending = [job for job in jobs if not committed[job.cohort.name].final]
        if pending:
            failures = _run(
                jobs,
                pending,
                root,
                plan,
                backend,
                num_workers,
                cpus_per_worker,
                gpus_per_worker,
                address,
                show_progress,
            )
        else:
            failures = {}
        finalise(root)
    return _summarise(root, time.monotonic() - start, failures)


def _choose_backend(backend: str, num_workers: int, address: str | None) -> str:
    if backend not in ("auto", "local", "ray"):
        raise BuildError(f"backend {backend!r}: expected auto, local or ray.")
    if backend == "auto":
        has_ray = importlib.util.find_spec("ray") is not None
        return "ray" if has_ray and (num_workers > 1 or address is not None) else "local"
    return backend


def _run(
    jobs: tuple[CohortJob, ...],
    pending: list[CohortJob],
    root: Path,
    plan: Plan,
    backend: str,
    num_workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float,
    address: str | None,
    show_progress: bool,
) -> dict[str, str]:
    committed = cohort_progress(root)
    done = {job.cohort.name: (committed[job.cohort.name].last_epoch or 0) for job in jobs}
    model_epochs = {job.cohort.name: done[job.cohort.name] * len(job.cohort.models) for job in jobs}
    with BuildProgress(
        root, num_models=plan.num_models, num_epochs=plan.epochs[-1], done=model_epochs, show=show_progress
    ) as progress:
        progress.finished_before(sum(len(job.cohort.models) for job in jobs if job not in pending))
        for job in pending:
            progress.start(job.cohort.name, done[job.cohort.name], len(job.cohort.models))
        if backend == "ray":
            from zookeeper.build.ray import RayResources, run_ray

            resources = RayResources(num_workers, cpus_per_worker, gpus_per_worker, address)
            return run_ray(pending, progress, resources)
        from zookeeper.build.local import run_local

        return run_local(pending, progress)


def _summarise(root: Path, seconds: float, failures: dict[str, str]) -> BuildSummary:
    import zookeeper

    zoo = zookeeper.open(root)
    models = zoo.models
    best = float(models["test_acc"].max()) if "test_acc" in models and len(models) else float("nan")
    diverged = int((models["status"] == "diverged").sum()) if len(models) else 0
    return BuildSummary(root, len(models), len(zoo), diverged, best, seconds, failures)
