"""Build a zoo: prepare or resume the directory, run what is missing, write the caches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from zookeeper.build.job import CohortJob, prepare_zoo
from zookeeper.build.progress import BuildProgress
from zookeeper.build.workers import Workers
from zookeeper.spec.plan import Plan
from zookeeper.store.caches import finalise, read_frame
from zookeeper.store.header import read_header
from zookeeper.store.lock import BuildLock
from zookeeper.store.orphans import collect_orphans
from zookeeper.store.records import cohort_progress, read_commits
from zookeeper.store.table import DIVERGED


@dataclass(frozen=True)
class BuildSummary:
    """How a build ended.

    Parameters
    ----------
    path
        The zoo directory.
    num_models, num_checkpoints
        What is stored in the whole zoo.
    num_diverged
        Models whose last stored checkpoint is flagged as diverged.
    best_test_acc
        Highest test accuracy of any checkpoint, in [0, 1]; NaN if there are no test images.
    seconds
        Time of this run.
    failures
        Reasons by cohort, of cohorts that are not finished.
    """

    path: Path
    num_models: int
    num_checkpoints: int
    num_diverged: int
    best_test_acc: float
    seconds: float
    failures: dict[str, str]


def build_zoo(plan: Plan, root: Path, workers: Workers | None = None, *, show_progress: bool = True) -> BuildSummary:
    """Train every model of a plan and store every checkpoint; the same call again finishes what is missing.

    It may be interrupted at any moment, also by ``kill -9``: what was committed stays, and the stored weights
    have the same bits as without the interruption.

    Parameters
    ----------
    plan
        What to build.
    root
        The zoo directory; created, or resumed if it holds a zoo of the same spec.
    workers
        Who trains; by default this process, on the CPU.
    show_progress
        Whether to report on stderr.

    Returns
    -------
    BuildSummary
        ``failures`` is empty if the zoo is complete.

    Raises
    ------
    InputError
        If the directory holds something else, the images are missing or the device is absent; then
        nothing is written.
    BuildError
        If another process builds this zoo, or workers cannot run. Committed blocks stay valid.
    """
    start = time.monotonic()
    settled = (Workers() if workers is None else workers).resolve()
    jobs = prepare_zoo(plan, root, device=settled.device, num_threads=settled.num_threads)
    with BuildLock(root):
        collect_orphans(root)
        failures = _run(plan, root, jobs, settled, show_progress=show_progress)
        finalise(root)
    return _summarise(root, time.monotonic() - start, failures)


def _run(
    plan: Plan, root: Path, jobs: tuple[CohortJob, ...], workers: Workers, *, show_progress: bool
) -> dict[str, str]:
    """Build the cohorts that are not complete; return failures by cohort."""
    committed = cohort_progress(root)
    pending = [job for job in jobs if not committed[job.cohort.name].final]
    if not pending:
        return {}
    with BuildProgress(
        root,
        {job.cohort.name: len(job.cohort.models) for job in jobs},
        {name: progress.last_epoch or 0 for name, progress in committed.items()},
        num_epochs=plan.epochs[-1],
        best=_best_accuracy(root),
        show=show_progress,
    ) as progress:
        progress.say(_announce(plan, root, jobs, pending, progress, workers))
        if workers.backend == "ray":
            from zookeeper.build.ray import run_ray

            return run_ray(pending, progress, workers)
        from zookeeper.build.local import run_local

        return run_local(pending, progress)


def _announce(
    plan: Plan,
    root: Path,
    jobs: tuple[CohortJob, ...],
    pending: list[CohortJob],
    progress: BuildProgress,
    workers: Workers,
) -> str:
    resumed = progress.num_model_epochs > 0 or len(pending) < len(jobs)
    size = f"{plan.num_models:,} models in {len(jobs):,} cohort(s), {plan.num_checkpoints:,} checkpoints"
    left = f"; {len(pending):,} cohort(s) not complete" if resumed else ""
    who = "in this process" if workers.backend == "local" else f"in {workers.num_workers} Ray worker(s)"
    return f"{'resuming' if resumed else 'building'} {root}: {size}{left}, {who} on {workers.device}"


def _best_accuracy(root: Path) -> float:
    frame, _ = read_frame(root, read_header(root), read_commits(root))
    return float(frame["test_acc"].max()) if "test_acc" in frame and len(frame) else float("nan")


def _summarise(root: Path, seconds: float, failures: dict[str, str]) -> BuildSummary:
    from zookeeper.zoo import open as open_zoo

    zoo = open_zoo(root)
    diverged = int((zoo.models["status"] == DIVERGED).sum()) if len(zoo) else 0
    return BuildSummary(root, len(zoo.models), len(zoo), diverged, _best_accuracy(root), seconds, failures)
