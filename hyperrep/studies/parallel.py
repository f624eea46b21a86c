"""Train several hyper-representations at once, one process each, with live progress."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hyperrep.config import TrainConfig
from hyperrep.studies.locks import hold
from hyperrep.tasks.regroup import AS_STORED, SplitScheme, resplit
from zookeeper.errors import BuildError, ZooError
from zookeeper.store.files import hash_file, write_durable

_SHOWN = ("total", "contrast", "structure", "behaviour")


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One hyper-representation to train: its label, configuration, zoo and folder.

    With ``result``, a file of that name is written last: hashes of what was saved, and seconds. With
    ``may_diverge``, a training that diverges leaves that file too, with the reason, and fails nobody. ``split``
    divides the zoo's models.
    """

    label: str
    config: TrainConfig
    zoo: Path
    out: Path
    result: str = ""
    may_diverge: bool = False
    split: SplitScheme = AS_STORED


def train_all(jobs: Sequence[TrainingJob], say: Callable[[str], None], *, workers: int | None = None) -> None:
    """Train every job and wait for all: each in its own process, ``workers`` at a time (default: all).

    One worker is this process. A job that was interrupted continues from its checkpoint. If one fails, or on
    Ctrl-C, the others are stopped; what they had saved stays. Progress is one bar per job on a terminal, else
    lines to ``say``.

    Raises
    ------
    BuildError
        If a job fails (its message), or its process dies (its traceback, if any, is on stderr).
    """
    bars = _Bars(jobs, say)
    processes: list[BaseProcess] = []
    waiting: dict[Connection, TrainingJob] = {}
    left = list(jobs)
    try:
        if workers == 1:
            _train_here(left, bars)
            return
        while left or waiting:
            while left and len(waiting) < (workers or len(jobs)):
                job = left.pop(0)
                process, receiver = _start(job)
                processes.append(process)
                waiting[receiver] = job
            for ready in wait(list(waiting)):
                assert isinstance(ready, Connection)
                if not _receive(ready, waiting[ready], bars):
                    del waiting[ready]
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join()
        bars.close()


def _start(job: TrainingJob) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(job, sender), name=f"train {job.label}", daemon=True)
    process.start()
    sender.close()
    return process, receiver


def _train_here(jobs: Sequence[TrainingJob], bars: _Bars) -> None:
    for job in jobs:
        try:
            _carry_out(job, partial(bars.update, job.label), bars.say)
        except ZooError as error:
            raise BuildError(f"training {job.label}: {error}") from error


def _receive(connection: Connection, job: TrainingJob, bars: _Bars) -> bool:
    """Take one message; False when the job is finished."""
    try:
        kind, content = connection.recv()
    except EOFError:
        raise BuildError(
            f"training {job.label}: its process died (an error shown above, killed, or out of memory). "
            "Run the same command again to continue from its checkpoint."
        ) from None
    if kind == "step":
        bars.update(job.label, *content)
        return True
    if kind == "line":
        bars.say(content)
        return True
    if kind == "error":
        raise BuildError(f"training {job.label}: {content}")
    return False


def _train(job: TrainingJob, sender: Connection) -> None:
    """Run in the child: report every step, then how it ended. The parent alone decides about Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def report(step: int, values: Mapping[str, float]) -> None:
        sender.send(("step", (step, dict(values))))

    try:
        _carry_out(job, report, lambda line: sender.send(("line", line)))
    except ZooError as error:
        sender.send(("error", str(error)))
    except BrokenPipeError:
        return  # the parent is gone
    else:
        sender.send(("done", None))


def _carry_out(
    job: TrainingJob, report: Callable[[int, Mapping[str, float]], None], say: Callable[[str], None]
) -> None:
    """Train, and write down how it ended if the job asks for that.

    Such a job lies in a cache: if another study trains it right now, wait and take what it leaves.
    """
    if not job.result:
        _fit(job, report)
        return
    with hold(job.out.parent, job.out.name, say):
        if not _has_ended(job):
            _fit(job, report)


def _has_ended(job: TrainingJob) -> bool:
    """Whether the result is there and the saved files are those it names."""
    try:
        known = json.loads((job.out / job.result).read_bytes())
        return bool(known["diverged"] or known["files"]) and all(
            hash_file(job.out / name) == expected for name, expected in known["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _fit(job: TrainingJob, report: Callable[[int, Mapping[str, float]], None]) -> None:
    import zookeeper
    from hyperrep.training.fit import TrainingDivergedError
    from hyperrep.training.zoo import fit_zoo
    from zookeeper.population.process import prepare_process

    prepare_process(job.config.training.threads)
    started, diverged = time.monotonic(), ""
    try:
        fit_zoo(job.config, resplit(zookeeper.open(job.zoo), job.split), job.out, progress=False, on_step=report)
    except TrainingDivergedError as error:
        if not job.may_diverge:
            raise
        diverged = str(error)
    if job.result:
        saved = sorted(job.out.glob("*.safetensors")) if not diverged else []
        result = {
            "diverged": diverged,
            "files": {path.name: hash_file(path) for path in saved},
            "seconds": round(time.monotonic() - started, 3),
        }
        write_durable(job.out / job.result, json.dumps(result, indent=1).encode())


class _Bars:
    """One bar per job on a terminal; a line per tenth of the way elsewhere."""

    def __init__(self, jobs: Sequence[TrainingJob], say: Callable[[str], None]) -> None:
        self.say = say
        self._live = sys.stderr.isatty()
        self._shown = {job.label: -1 for job in jobs}
        self._total = {job.label: job.config.training.steps for job in jobs}
        width = max((len(job.label) for job in jobs), default=0)
        self._bars: dict[str, Any] = {}
        if self._live:
            for place, job in enumerate(jobs):
                self._bars[job.label] = tqdm(
                    total=self._total[job.label], desc=job.label.ljust(width), unit="step", position=place, leave=True
                )

    def update(self, label: str, step: int, values: Mapping[str, float]) -> None:
        """Show that a job has done ``step`` steps."""
        losses = "  ".join(f"{name} {values[name]:.3g}" for name in _SHOWN if name in values)
        if self._live:
            bar = self._bars[label]
            bar.set_postfix_str(losses, refresh=False)
            bar.update(step - bar.n)
        else:
            total = self._total[label]
            tenth = step // 100 if total is None else 10 * step // total
            if tenth > self._shown[label]:
                self._shown[label] = tenth
                of = "" if total is None else f"/{total}"
                self.say(f"training {label}: step {step}{of}  {losses}")

    def close(self) -> None:
        """Leave the bars as they are."""
        for bar in self._bars.values():
            bar.close()
