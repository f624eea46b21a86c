"""Builds in Ray workers: the same bits as in one process, through dying workers and a killed driver, in silence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import zookeeper
from zookeeper import Plan, Workers, build_zoo, load_spec, make_plan
from zookeeper.build import prepare_zoo
from zookeeper.build.job import CohortJob
from zookeeper.build.progress import BuildProgress
from zookeeper.build.ray import Loop, _prepare_environment
from zookeeper.build.worker import Beat
from zookeeper.errors import Terminated
from zookeeper.store.records import cohort_progress

# An architecture of the user's own, imported by every worker: the way into their processes. It commits after
# every epoch; where a file asks for it, a worker kills itself, once, after a commit or in the middle of an epoch,
# or takes its time.
NETWORK = """
import os, signal, time
from pathlib import Path

from zookeeper.build import worker
from zookeeper.nets.mlp import mlp as factory
from zookeeper.population.optimise import Optimizer

HERE = Path(__file__).parent
if (HERE / "import-ray").exists():
    import ray
commit_block = worker.commit_block
worker.COMMIT_BYTES = 1


def taken(name):
    try:
        (HERE / name).unlink()
    except FileNotFoundError:
        return False
    return True


def commit(root, block):
    record = commit_block(root, block)
    if (HERE / "slow").exists():
        time.sleep(0.2)
    if block.cohort.startswith("c00002") and block.epochs[0] == 3 and taken("deadly"):
        (HERE / "midway").touch()  # not before: workers of a killed build may live for another second
        os.kill(os.getpid(), signal.SIGKILL)
    return record


def factors(self, number, *rest):
    if number == 5 * 8 + 4 and taken("midway"):  # the fourth of eight steps of epoch 6
        os.kill(os.getpid(), signal.SIGKILL)
    return real_factors(self, number, *rest)


real_factors = Optimizer.factors
Optimizer.factors = factors
worker.commit_block = commit
"""


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start ``zookeeper build`` with two Ray workers on the spec in a folder."""
    command = [sys.executable, "-m", "zookeeper.cli", "build", str(folder / "spec.yaml"), "--out", str(folder / "zoo")]
    package = Path(zookeeper.__file__).parent.parent
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [*command, "--workers", "2", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**inherited, "PYTHONPATH": f"{folder}{os.pathsep}{package}"},
    )


def by_factors(root: Path) -> dict[tuple[Any, ...], bytes]:
    """Bytes of every row by what the model was made of; the architecture's name is left out."""
    zoo = zookeeper.open(root)
    keys = zoo.frame[["init", "lr", "seed", "epoch"]].itertuples(index=False, name=None)
    return {key: row.tobytes() for key, row in zip(keys, zoo.weights(), strict=True)}


def test_ray_stores_the_same_bits_through_dying_workers_and_a_killed_driver(
    write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    spec = write_spec(tmp_path / "local.yaml", build={"cohort_size": 4})
    build_zoo(make_plan(load_spec(spec)), tmp_path / "local", show_progress=False)
    expected = by_factors(tmp_path / "local")
    (tmp_path / "own_network.py").write_text(NETWORK)
    model = {"architecture": "own_network:factory", "activation": "tanh"}
    write_spec(tmp_path / "spec.yaml", model=model, build={"cohort_size": 4})

    (tmp_path / "slow").touch()
    killed = start(tmp_path)
    while len(list(tmp_path.glob("zoo/commits/*.json"))) < 3:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    assert not all(progress.final for progress in cohort_progress(tmp_path / "zoo").values())
    assert (tmp_path / "zoo/build.lock").exists()

    (tmp_path / "slow").unlink()
    (tmp_path / "deadly").touch()
    (tmp_path / "import-ray").touch()  # Ray then knows only half of what a build tells it
    again = start(tmp_path, "--json")  # at once: workers of the killed build may live for another second or two
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert by_factors(tmp_path / "zoo") == expected
    assert not (tmp_path / "deadly").exists()
    assert not (tmp_path / "midway").exists()
    assert not (tmp_path / "zoo/build.lock").exists()
    assert not (tmp_path / "zoo/progress").exists()
    value, end = json.JSONDecoder().raw_decode(out)
    assert out[end:] == "\n"
    assert (value["num_models"], value["num_checkpoints"], value["failures"]) == (12, 84, {})
    first, *deaths = err.splitlines()  # and not a word from Ray
    deaths = [line for line in deaths if not re.match(r"\d+/72 model-epochs", line)]  # a slow machine's line a minute
    assert re.fullmatch(r"resuming .*/zoo: 12 models in 3 cohort\(s\), .* in 2 Ray worker\(s\) on cpu", first)
    assert len(deaths) == 2
    assert all(re.fullmatch(r"cohort c0000\d-\w+: the worker died \(\w+\); retry [12] of 3", line) for line in deaths)


@pytest.mark.parametrize(
    ("given", "imported", "address", "mode", "has_token"),
    [
        ({}, False, None, "token", True),
        ({}, True, None, None, True),  # ray.init turns it on
        ({"RAY_AUTH_MODE": "disabled"}, False, None, "disabled", False),
        ({"RAY_AUTH_MODE": "token"}, True, None, "token", False),  # there is one
        ({}, False, "head:6379", None, False),
        ({"RAY_ADDRESS": "head:6379"}, False, None, None, False),
    ],
    ids=str,
)
def test_only_a_private_cluster_gets_a_token_of_its_own(
    given: dict[str, str],
    imported: bool,
    address: str | None,
    mode: str | None,
    has_token: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    modules = {name: module for name, module in sys.modules.items() if name != "ray"}
    monkeypatch.setattr(sys, "modules", modules | ({"ray": pytest} if imported else {}))
    _prepare_environment(Workers(num_workers=2, address=address))
    assert environment.get("RAY_AUTH_MODE") == mode
    assert ("RAY_AUTH_TOKEN" in environment) == has_token


class FakeRay:
    """Answers like Ray, from a script of outcomes by cohort; an exception in it is raised."""

    class exceptions:
        class RayError(Exception):
            pass

        class WorkerCrashedError(RayError):
            pass

        class RayTaskError(RayError):
            def __init__(self, cause: Exception) -> None:
                self.cause = cause

    def __init__(self, outcomes: dict[str, list[Any]]) -> None:
        self.outcomes = outcomes
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.most_running = 0

    def remote(self, job: CohortJob) -> str:
        self.started.append(job.cohort.name)
        return f"{len(self.started)}:{job.cohort.name}"

    def wait(self, references: Sequence[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        self.most_running = max(self.most_running, len(references))
        return list(references[:1]), list(references[1:])

    def get(self, reference: str) -> Any:
        outcome = self.outcomes[reference.partition(":")[2]].pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def cancel(self, reference: str, *, force: bool) -> None:
        assert force
        self.cancelled.append(reference.partition(":")[2])


@pytest.fixture
def jobs(plan_of: Callable[..., Plan], tmp_path: Path) -> tuple[CohortJob, ...]:
    return prepare_zoo(plan_of(build={"cohort_size": 3}), tmp_path / "zoo")


@pytest.fixture
def progress(jobs: tuple[CohortJob, ...], tmp_path: Path) -> BuildProgress:
    cohorts = {job.cohort.name: len(job.cohort.models) for job in jobs}
    return BuildProgress(tmp_path / "zoo", cohorts, {}, num_epochs=6, show=False)


def done(job: CohortJob) -> tuple[str, Beat]:
    return "done", Beat(job.cohort.name, len(job.cohort.models), 6, 0.5, 0)


def test_dead_workers_are_replaced_a_few_times_and_errors_are_not(
    jobs: tuple[CohortJob, ...], progress: BuildProgress
) -> None:
    died = FakeRay.exceptions.WorkerCrashedError
    names = [job.cohort.name for job in jobs]
    ray = FakeRay(
        {
            names[0]: [died(), died(), done(jobs[0])],
            names[1]: [died(), died(), died()],
            names[2]: [FakeRay.exceptions.RayTaskError(ValueError("bad kernel"))],
            names[3]: [("failed", "images changed")],
        }
    )
    loop = Loop(ray, ray, progress, Workers(num_workers=2, max_retries=2))
    failures = loop.run(jobs, [])
    assert set(failures) == set(names[1:])
    assert "died (WorkerCrashedError) 3 times" in failures[names[1]]
    assert failures[names[2]] == "ValueError: bad kernel"
    assert failures[names[3]] == "images changed"
    assert [ray.started.count(name) for name in names] == [3, 3, 1, 1]
    assert ray.most_running == 2
    assert ray.cancelled == []
    assert progress.num_finished == 3


@pytest.mark.parametrize("stop", ["signal", "ctrl-c", "bug"])
def test_whatever_ends_the_loop_stops_the_workers(
    stop: str, jobs: tuple[CohortJob, ...], progress: BuildProgress
) -> None:
    names = [job.cohort.name for job in jobs]
    raised = {"signal": Terminated, "ctrl-c": KeyboardInterrupt, "bug": ZeroDivisionError}[stop]
    first = done(jobs[0]) if stop == "signal" else raised()
    ray = FakeRay({names[0]: [first]})
    loop = Loop(ray, ray, progress, Workers(num_workers=3))
    with pytest.raises(raised):
        loop.run(jobs, [signal.SIGTERM] if stop == "signal" else [])
    assert sorted(ray.cancelled) == sorted(names[1:3])
