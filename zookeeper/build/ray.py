"""Build in Ray workers: one task per cohort, own retries, bounded window, a quiet Ray.

Workers write to the zoo themselves and return a few numbers, so the object store stays small. Trials of
Ray Tune would cost a process start each; tasks reuse their worker and its imports.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from zookeeper.build.job import CohortJob
from zookeeper.build.progress import BeatWriter, BuildProgress
from zookeeper.build.worker import Beat, build_cohort
from zookeeper.build.workers import Workers
from zookeeper.errors import BuildError, Terminated, ZooError

_OBJECT_STORE_BYTES = 100 << 20
_POLL_SECONDS = 0.3


def run_ray(jobs: Sequence[CohortJob], progress: BuildProgress, workers: Workers) -> dict[str, str]:
    """Build all jobs in Ray workers; a cohort whose worker dies is tried again where it stopped.

    A Ray that this process has already started is used and left running.

    Parameters
    ----------
    workers
        As `Workers.resolve` returns them.

    Returns
    -------
    dict
        Error messages by cohort, for cohorts that failed ``max_retries + 1`` times or raised.

    Raises
    ------
    BuildError
        If the cluster cannot be reached, or cannot ever run one worker.
    KeyboardInterrupt
        On Ctrl-C, after the workers were told to stop; `Terminated` on SIGTERM.
    """
    with quiet_ray(workers) as ray:
        _check_resources(ray, workers)
        task = ray.remote(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus or 0.0, max_retries=0)(_build_in_worker)
        with _terminable() as stopped:
            return Loop(ray, task, progress, workers).run(jobs, stopped)


@contextlib.contextmanager
def quiet_ray(workers: Workers) -> Iterator[Any]:
    """Yield Ray, connected to a cluster or to one of its own on this machine while the context lasts.

    Nothing reaches stdout meanwhile: Ray prints there what happens to its processes and has no switch for it, and
    stdout is for data.
    """
    _prepare_environment(workers)
    import ray

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), _cluster(ray, workers):
        yield ray


def _build_in_worker(job: CohortJob) -> tuple[str, Beat | str]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return "done", build_cohort(job, BeatWriter(job.root, job.cohort.name))
    except ZooError as error:
        return "failed", str(error)


class Loop:
    """Keep ``num_workers`` tasks running until no job is left; `run` says what failed."""

    def __init__(self, ray: Any, task: Any, progress: BuildProgress, workers: Workers) -> None:
        self.ray, self.task, self.progress, self.workers = ray, task, progress, workers
        self.running: dict[Any, CohortJob] = {}
        self.tries: dict[str, int] = {}
        self.failures: dict[str, str] = {}

    def run(self, jobs: Sequence[CohortJob], stopped: Sequence[int]) -> dict[str, str]:
        """Run all jobs; as soon as ``stopped`` holds a signal, cancel them and raise `Terminated`."""
        waiting = deque(jobs)
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.workers.num_workers:
                    job = waiting.popleft()
                    self.running[self.task.remote(job)] = job
                ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=_POLL_SECONDS)
                self.progress.poll()
                for reference in ready:
                    again = self._settle(reference, self.running.pop(reference))
                    if again is not None:
                        waiting.append(again)
                if stopped:
                    raise Terminated
        finally:
            for reference in self.running:  # none, unless something was raised
                self.ray.cancel(reference, force=True)
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
            died = f"the worker died ({type(error).__name__})"
            if self.tries[name] <= self.workers.max_retries:
                self.progress.say(f"cohort {name}: {died}; retry {self.tries[name]} of {self.workers.max_retries}")
                return job
            self.failures[name] = f"{died} {self.tries[name]} times. Is memory short? The same command goes on."
            return None
        if verdict == "done":
            self.progress.beat(value)
        else:
            self.failures[name] = value
        return None


def _prepare_environment(workers: Workers) -> None:
    """Set what Ray reads: a token for a private cluster, CPU workers without GPUs.

    Ray reads whether clusters want a token once, when it is imported, while the processes that it starts read it
    anew. A caller who imported Ray before has to leave it to `ray.init`, which turns tokens on for both. With the mode
    in the environment, the caller or an earlier `ray.init` has seen to the token too.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    is_private = workers.address is None and "RAY_ADDRESS" not in os.environ
    if is_private and "RAY_AUTH_MODE" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
        if "ray" not in sys.modules:
            os.environ["RAY_AUTH_MODE"] = "token"


@contextlib.contextmanager
def _cluster(ray: Any, workers: Workers) -> Iterator[None]:
    """Connect to a cluster, or start a private one on this machine and stop it in the end."""
    if ray.is_initialized():
        yield
        return
    address = workers.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        cpus = max(1, math.ceil(workers.num_workers * workers.num_cpus))
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


def _check_resources(ray: Any, workers: Workers) -> None:
    have = ray.cluster_resources()
    for kind, wanted in (("CPU", workers.num_cpus), ("GPU", workers.num_gpus or 0.0)):
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
