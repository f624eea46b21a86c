"""Build a zoo: prepare or resume the directory, run what is missing, write the caches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from zookeeper.build.claim import Shard, claim_shard, claim_zoo, hold_briefly
from zookeeper.build.fit import fit_jobs
from zookeeper.build.job import CohortJob, prepare_zoo
from zookeeper.build.progress import BuildProgress
from zookeeper.build.workers import Workers
from zookeeper.errors import StoreError
from zookeeper.spec.plan import Plan
from zookeeper.store.caches import finalise, read_frame
from zookeeper.store.header import HEADER, read_header
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
        Reasons by cohort, of cohorts of this run that are not finished.
    complete
        Whether every cohort of the zoo is finished; a shard that is not the last one leaves a zoo that is not.
    """

    path: Path
    num_models: int
    num_checkpoints: int
    num_diverged: int
    best_test_acc: float
    seconds: float
    failures: dict[str, str]
    complete: bool


def build_zoo(
    plan: Plan,
    root: Path,
    workers: Workers | None = None,
    *,
    shard: Shard | None = None,
    memory: int | None = None,
    show_progress: bool = True,
) -> BuildSummary:
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
    shard
        Build this part of the cohorts only, beside other processes that build the other parts; whichever ends
        last completes the zoo. By default all cohorts, and nobody beside.
    memory
        Bytes that one worker may take: cohorts that need more train in smaller tiles. By default cohorts are
        not cut before memory runs out.
    show_progress
        Whether to report on stderr.

    Returns
    -------
    BuildSummary
        ``failures`` is empty if all that was to be built is finished.

    Raises
    ------
    InputError
        If the directory holds something else, the images are missing or the device is absent; then
        nothing is written.
    Occupied
        If another process builds this zoo, or this shard of it; the message says who.
    BuildError
        If workers cannot run. Committed blocks stay valid.
    """
    start = time.monotonic()
    settled = (Workers() if workers is None else workers).resolve()
    jobs = _prepare(plan, root, settled)
    if memory is not None:
        jobs = fit_jobs(jobs, memory)
    if shard is None:
        with claim_zoo(root):
            collect_orphans(root)
            failures = _run(plan, root, jobs, settled, title="", show_progress=show_progress)
            finalise(root)
    else:
        with claim_shard(root, shard):
            part = shard.of(jobs)
            failures = _run(plan, root, part, settled, title=f"shard {shard} of ", show_progress=show_progress)
            with hold_briefly(root):
                if _is_complete(root):  # of several that end together, the last to hold the lock sees all of it
                    collect_orphans(root)
                    finalise(root)
    return _summarise(root, time.monotonic() - start, failures)


def _prepare(plan: Plan, root: Path, workers: Workers) -> tuple[CohortJob, ...]:
    existed = (root / HEADER).exists()
    try:
        return prepare_zoo(plan, root, device=workers.device, num_threads=workers.num_threads)
    except StoreError:
        if existed or not (root / HEADER).exists():
            raise
    # another builder created it a moment ago, in other cohorts or from another spec: that is settled now
    return prepare_zoo(plan, root, device=workers.device, num_threads=workers.num_threads)


def _is_complete(root: Path) -> bool:
    return all(progress.final for progress in cohort_progress(root).values())


def _run(
    plan: Plan, root: Path, jobs: tuple[CohortJob, ...], workers: Workers, *, title: str, show_progress: bool
) -> dict[str, str]:
    """Build the cohorts that are not complete; return failures by cohort."""
    committed = cohort_progress(root)
    pending = [job for job in jobs if not committed[job.cohort.name].final]
    if not pending:
        return {}
    with BuildProgress(
        root,
        {job.cohort.name: len(job.cohort.models) for job in jobs},
        {job.cohort.name: committed[job.cohort.name].last_epoch or 0 for job in jobs},
        num_epochs=plan.epochs[-1],
        best=_best_accuracy(root),
        show=show_progress,
    ) as progress:
        progress.say(_announce(f"{title}{root}", len(plan.epochs), jobs, pending, progress, workers))
        if workers.backend == "ray":
            from zookeeper.build.ray import run_ray

            return run_ray(pending, progress, workers)
        from zookeeper.build.local import run_local

        return run_local(pending, progress)


def _announce(
    what: str,
    num_epochs: int,
    jobs: tuple[CohortJob, ...],
    pending: list[CohortJob],
    progress: BuildProgress,
    workers: Workers,
) -> str:
    resumed = progress.num_model_epochs > 0 or len(pending) < len(jobs)
    num_models = sum(len(job.cohort.models) for job in jobs)
    size = f"{num_models:,} models in {len(jobs):,} cohort(s), {num_models * num_epochs:,} checkpoints"
    left = f"; {len(pending):,} cohort(s) not complete" if resumed else ""
    who = "in this process" if workers.backend == "local" else f"in {workers.num_workers} Ray worker(s)"
    return f"{'resuming' if resumed else 'building'} {what}: {size}{left}, {who} on {workers.device}"


def _best_accuracy(root: Path) -> float:
    commits = read_commits(root)
    if not commits:
        return float("nan")
    frame, _ = read_frame(root, read_header(root), commits)
    return float(frame["test_acc"].max()) if "test_acc" in frame and len(frame) else float("nan")


def _summarise(root: Path, seconds: float, failures: dict[str, str]) -> BuildSummary:
    from zookeeper.zoo import open as open_zoo

    zoo = open_zoo(root)
    diverged = int((zoo.models["status"] == DIVERGED).sum()) if len(zoo) else 0
    best = _best_accuracy(root)
    return BuildSummary(root, len(zoo.models), len(zoo), diverged, best, seconds, failures, _is_complete(root))
