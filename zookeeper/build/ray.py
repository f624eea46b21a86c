"""Build in Ray workers: one task per cohort, own retries, bounded window, a quiet Ray.

Workers write to the zoo themselves and return a few numbers, so the object store stays small. Trials of
Ray Tune would cost a process start each; tasks reuse their worker and its imports.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from zookeeper.build.job import CohortJob
from zookeeper.build.progress import BeatWriter, BuildProgress
from zookeeper.build.worker import Beat, build_cohort
from zookeeper.errors import BuildError, ZooError

_OBJECT_STORE_BYTES = 100 << 20
_POLL_SECONDS = 0.3


@dataclass(frozen=True)
class RayResources:
    """What a worker takes: ``num_gpus`` may be a fraction; ``address`` names an existing cluster."""

    num_workers: int
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    address: str | None = None
    max_retries: int = 3


def run_ray(jobs: Sequence[CohortJob], progress: BuildProgress, resources: RayResources) -> dict[str, str]:
    """Build all jobs in Ray workers; a cohort whose worker dies is tried again where it stopped.

    Returns
    -------
    dict
        Error messages by cohort, for cohorts that failed ``max_retries + 1`` times or raised.

    Raises
    ------
    BuildError
        If Ray is not installed, the cluster cannot be reached, or cannot ever run one worker.
    KeyboardInterrupt
        On Ctrl-C or SIGTERM, after the workers were told to stop.
    """
    _prepare_environment(resources)
    try:
        import ray
    except ImportError as error:
        raise BuildError(
            "ray is not installed. Install it with pip install 'ray[tune]', or build with --local."
        ) from error
    with contextlib.redirect_stdout(sys.stderr), _cluster(ray, resources), _terminable() as stopped:
        _check_resources(ray, resources)
        task = ray.remote(num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, max_retries=0)(_build_in_worker)
        return _Loop(ray, task, progress, resources).run(jobs, stopped)


def _build_in_worker(job: CohortJob) -> tuple[str, Beat | str]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return "done", build_cohort(job, BeatWriter(job.root, job.cohort.name))
    except ZooError as error:
        return "failed", str(error)


class _Loop:
    def __init__(self, ray: Any, task: Any, progress: BuildProgress, resources: RayResources) -> None:
        self.ray, self.task, self.progress, self.resources = ray, task, progress, resources
        self.running: dict[Any, CohortJob] = {}
        self.tries: dict[str, int] = {}
        self.failures: dict[str, str] = {}

    def run(self, jobs: Sequence[CohortJob], stopped: list[int]) -> dict[str, str]:
        waiting = deque(jobs)
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.resources.num_workers:
                    job = waiting.popleft()
                    self.running[self.task.remote(job)] = job
                ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=_POLL_SECONDS)
                self.progress.poll()
                for reference in ready:
                    again = self._settle(reference, self.running.pop(reference))
                    if again is not None:
                        waiting.append(again)
                if stopped:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            for reference in self.running:
                self.ray.cancel(reference, force=True)
            raise
        return self.failures

    def _settle(self, reference: Any, job: CohortJob) -> CohortJob | None:
        """Note a result; return the job if it must run again."""
        name = job.cohort.name
        try:
            verdict, value = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            self.failures[name] = f"{type(error.cause).__name__}: {error.cause}"
            return None
        except self.ray.exceptions.RayError as error:
            self.tries[name] = self.tries.get(name, 0) + 1
            if self.tries[name] <= self.resources.max_retries:
                return job
            self.failures[name] = f"worker died {self.tries[name]} times ({type(error).__name__}). Is memory short?"
            return None
        if verdict == "done":
            self.progress.beat(value)
        else:
            self.failures[name] = value
        return None


def _prepare_environment(resources: RayResources) -> None:
    """Set what Ray reads when it is imported: a token for a private cluster, CPU workers without GPUs."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if resources.address is None and "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))


@contextlib.contextmanager
def _cluster(ray: Any, resources: RayResources) -> Iterator[None]:
    """Connect to a cluster, or start a private one on this machine and stop it in the end."""
    address = resources.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        cpus = max(1, round(resources.num_workers * resources.num_cpus))
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "on this machine" if address is None else f"at {address}"
        raise BuildError(
            f"ray cluster {where}: cannot connect ({error}). Check the address, or build with --local."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_resources(ray: Any, resources: RayResources) -> None:
    have = ray.cluster_resources()
    for kind, wanted in (("CPU", resources.num_cpus), ("GPU", resources.num_gpus)):
        if wanted > have.get(kind, 0.0):
            raise BuildError(
                f"ray cluster: a worker wants {wanted:g} {kind}, the cluster has {have.get(kind, 0.0):g}. "
                f"Ask for less with --{kind.lower()}s-per-worker."
            )


@contextlib.contextmanager
def _terminable() -> Iterator[list[int]]:
    """Collect SIGTERM into a list while the loop runs: raising inside ray.get would end in C++ noise."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    try:
        previous = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not the main thread
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
