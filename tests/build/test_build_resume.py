"""Builds that are interrupted, killed or raced end with the same bytes of weights as undisturbed ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zookeeper import Plan, build_zoo
from zookeeper.build import local, prepare_zoo, worker
from zookeeper.build.worker import Beat, build_cohort
from zookeeper.errors import StoreError
from zookeeper.store import writer
from zookeeper.store.records import cohort_commits, cohort_progress, read_commits
from zookeeper.store.state import load_state

MakePlan = Callable[..., Plan]
READ = Callable[[Path], Any]
SGD = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "batch_size": 64, "epochs": 6}
RMSPROP = {"optimizer": "rmsprop", "batch_size": 64, "epochs": 6}
ADAMW = {"optimizer": "adamw", "batch_size": 64, "epochs": 6}
WITH_DROPOUT = {"architecture": "mlp", "activation": "relu", "dropout": 0.3}
CASES: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw": {"training": ADAMW, "model": WITH_DROPOUT},
    "sgd": {"training": SGD},
    "rmsprop": {"training": RMSPROP},
    "sparse": {"checkpoints": {"at": [3]}, "training": SGD, "model": WITH_DROPOUT},
}


@pytest.fixture
def commit_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1)


class Watched:
    """Builds in this process, noting every trained epoch; raises Ctrl-C at a chosen beat of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.epochs: list[tuple[str, int]] = []
        self.stop_at: int | None = None
        real = local.build_cohort

        def noting(job: Any, on_beat: Callable[[Beat], None]) -> Beat:
            def note(beat: Beat) -> None:
                self.epochs.append((beat.cohort, beat.epoch))
                on_beat(beat)
                if len(self.epochs) == self.stop_at:
                    raise KeyboardInterrupt

            return real(job, note)

        monkeypatch.setattr(local, "build_cohort", noting)

    def build(self, plan: Plan, root: Path, *, stop_at: int | None) -> bool:
        """Build until done or stopped; say whether it was stopped."""
        self.epochs, self.stop_at = [], stop_at
        try:
            build_zoo(plan, root, show_progress=False)
        except KeyboardInterrupt:
            return True
        return False


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


@pytest.mark.parametrize("sections", CASES.values(), ids=CASES)
@pytest.mark.usefixtures("commit_often")
def test_ctrl_c_at_any_epoch_changes_no_bit(
    sections: dict[str, Any], plan_of: MakePlan, tmp_path: Path, watched: Watched, contents: READ
) -> None:
    plan = plan_of(**sections)
    assert not watched.build(plan, tmp_path / "whole", stop_at=None)
    whole = contents(tmp_path / "whole")
    for stop_at in (3, 7, 9):  # two cohorts with 7 beats each
        root = tmp_path / f"stopped-{stop_at}"
        assert watched.build(plan, root, stop_at=stop_at)
        committed = {name: progress.last_epoch for name, progress in cohort_progress(root).items()}
        assert not (root / "build.lock").exists()
        assert not watched.build(plan, root, stop_at=None)
        begun = dict(reversed(watched.epochs))
        for cohort, last in committed.items():
            if last == plan.epochs[-1]:  # a complete cohort only says so
                assert begun.get(cohort, last) == last
            else:
                assert begun[cohort] == (0 if last is None else last + 1)
        assert contents(root) == whole


@pytest.mark.usefixtures("commit_often")
def test_ctrl_c_between_checkpoints_goes_on_from_the_last_one(
    plan_of: MakePlan, tmp_path: Path, watched: Watched, contents: READ
) -> None:
    plan = plan_of(checkpoints={"at": [3]}, training=SGD)
    watched.build(plan, tmp_path / "whole", stop_at=None)
    assert watched.build(plan, tmp_path / "zoo", stop_at=6)
    assert watched.epochs[-1][1] == 5
    (first, *_) = read_commits(tmp_path / "zoo")
    assert [record.last_epoch for record in read_commits(tmp_path / "zoo")] == [0, 3]
    watched.build(plan, tmp_path / "zoo", stop_at=None)
    assert [epoch for cohort, epoch in watched.epochs if cohort == first.cohort] == [4, 5, 6]
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")


def test_ctrl_c_before_the_first_commit_starts_again(
    plan_of: MakePlan, tmp_path: Path, watched: Watched, contents: READ
) -> None:
    plan = plan_of()
    watched.build(plan, tmp_path / "whole", stop_at=None)
    assert watched.build(plan, tmp_path / "zoo", stop_at=4)
    assert read_commits(tmp_path / "zoo") == ()
    watched.build(plan, tmp_path / "zoo", stop_at=None)
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")


def test_commits_are_cut_by_bytes_and_by_time(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: READ
) -> None:
    plan = plan_of()
    build_zoo(plan, tmp_path / "one", show_progress=False)
    assert [(r.first_epoch, r.last_epoch) for r in read_commits(tmp_path / "one")] == [(0, 6)] * 2
    monkeypatch.setattr(worker, "COMMIT_BYTES", 3 * 6 * 100 * 4)
    build_zoo(plan, tmp_path / "bytes", show_progress=False)
    assert [(r.first_epoch, r.last_epoch) for r in read_commits(tmp_path / "bytes")] == [(0, 2), (3, 5), (6, 6)] * 2
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1 << 40)
    monkeypatch.setattr(worker, "COMMIT_SECONDS", 0.0)
    build_zoo(plan, tmp_path / "time", show_progress=False)
    assert len(read_commits(tmp_path / "time")) == 14
    assert contents(tmp_path / "one") == contents(tmp_path / "bytes") == contents(tmp_path / "time")


@pytest.mark.parametrize("step", ["shard", "record", "after"])
@pytest.mark.usefixtures("commit_often")
def test_ctrl_c_inside_a_commit_changes_no_bit(
    step: str, plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: READ
) -> None:
    plan = plan_of()
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    name = "write_durable" if step == "shard" else "create_durable"
    real = getattr(writer, name)
    calls = iter(range(100))

    def interrupted(path: Path, data: bytes) -> bool:
        if next(calls) != 4:
            return bool(real(path, data))
        if step == "after":
            real(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_zoo(plan, tmp_path / "zoo", show_progress=False)
    monkeypatch.setattr(writer, name, real)
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")


def test_old_orphans_are_swept_and_young_ones_left(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of()
    prepare_zoo(plan, tmp_path / "zoo")
    old, young = tmp_path / "zoo/shards/.tmp-1-old", tmp_path / "zoo/shards/.tmp-1-young"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.usefixtures("commit_often")
def test_a_second_writer_of_the_same_cohort_is_followed(plan_of: MakePlan, tmp_path: Path, contents: READ) -> None:
    """What a worker of a killed build does in its last seconds: it commits, and the new one goes on after it."""
    plan = plan_of()
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    jobs = prepare_zoo(plan, tmp_path / "zoo")
    name = jobs[0].cohort.name
    beats: list[int] = []

    class Dies(BaseException):
        pass

    def other(beat: Beat) -> None:
        if beat.epoch == 4:
            raise Dies

    def overtaken(beat: Beat) -> None:
        beats.append(beat.epoch)
        if beat.epoch == 1:
            with pytest.raises(Dies):
                build_cohort(jobs[0], other)

    last = build_cohort(jobs[0], overtaken)
    # epochs 2 to 4 are the other's; a block is committed while the next epoch trains, so 2 may be trained in vain
    assert [epoch for epoch in beats if epoch != 2] == [0, 1, 5, 6]
    assert last.epoch == 6
    assert len(cohort_commits(tmp_path / "zoo", name)) == 7
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("commit_often")
def test_training_state_that_is_retired_between_two_looks_is_read_again(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = prepare_zoo(plan_of(), tmp_path / "zoo")

    class Dies(BaseException):
        pass

    def until(last: int) -> None:
        def stop(beat: Beat) -> None:
            if beat.epoch == last:
                raise Dies

        with pytest.raises(Dies):
            build_cohort(jobs[0], stop)

    until(1)
    real = load_state
    looks: Iterator[int] = iter(range(100))

    def late(root: Path, record: Any) -> Any:
        if next(looks) == 0:
            monkeypatch.setattr(worker, "load_state", real)
            until(3)  # another writer goes on, and the state after epoch 1 is removed
            monkeypatch.setattr(worker, "load_state", late)
        return real(root, record)

    monkeypatch.setattr(worker, "load_state", late)
    assert build_cohort(jobs[0]).epoch == 6
    assert next(looks) == 2


def test_damaged_training_state_stops_the_build(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: Watched
) -> None:
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1)
    plan = plan_of()
    watched.build(plan, tmp_path / "zoo", stop_at=3)
    (state,) = (tmp_path / "zoo/state").iterdir()
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="damaged training state"):
        build_zoo(plan, tmp_path / "zoo", show_progress=False)


KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path

from zookeeper import build_zoo, load_spec, make_plan
from zookeeper.build import local, prepare_zoo, worker
from zookeeper.store.records import cohort_progress

worker.COMMIT_BYTES = 1
os.fsync = lambda descriptor: None
plan = make_plan(load_spec(Path(sys.argv[1])))
whole, zoo, log = (Path(sys.argv[2]) / name for name in ("whole", "zoo", "log"))
real = local.build_cohort


def noting(job, on_beat):
    def note(beat):
        with log.open("a") as file:
            file.write(json.dumps([beat.cohort, beat.epoch]) + "\\n")
        on_beat(beat)
    return real(job, note)


local.build_cohort = noting


def start(root):  # imports are done and no thread exists yet: a cheap fresh process
    child = os.fork()
    if child == 0:
        build_zoo(plan, root, show_progress=False)
        os._exit(0)
    return child


begin = time.monotonic()
assert os.waitpid(start(whole), 0)[1] == 0
seconds = time.monotonic() - begin
prepare_zoo(plan, zoo)
draw = random.Random(int(sys.argv[3]))
kills, patience = [], 0.1 * seconds
while True:
    log.unlink(missing_ok=True)
    committed = cohort_progress(zoo)
    child = start(zoo)
    if len(kills) < 60:
        time.sleep(draw.uniform(0, patience))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    begun = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        begun.setdefault(*json.loads(line))
    for cohort, epoch in begun.items():
        last = committed[cohort].last_epoch
        assert committed[cohort].final or epoch == (0 if last is None else last + 1), (cohort, epoch, last)
    if status == 0:
        break
    assert status == signal.SIGKILL, status
    kills.append(sum(progress.last_epoch or 0 for progress in cohort_progress(zoo).values()))
    # the next one lives longer until something is committed, however slow the machine is by now
    patience = 0.1 * seconds if len(kills) > 1 and kills[-1] > kills[-2] else 1.3 * patience
print(json.dumps({"kills": len(kills), "places": len(set(kills))}))
"""


def test_kill_9_at_random_moments_changes_no_bit(
    write_spec: Callable[..., Path], tmp_path: Path, contents: READ
) -> None:
    spec = write_spec(
        tmp_path / "spec.yaml",
        checkpoints={"at": [1, 2, 3, 6, 10, 11]},
        model=WITH_DROPOUT,
        training={**SGD, "epochs": 12},
        build={"cohort_size": 4},
    )
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    done = subprocess.run(
        [sys.executable, "-W", "error", script, spec, tmp_path, "0"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] >= 5
    assert report["places"] >= 3
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")
    assert not (tmp_path / "zoo/build.lock").exists()


def test_torch_runs_on_one_thread() -> None:
    """The comparisons above are of bits; the number of threads may change how sums are rounded."""
    assert torch.get_num_threads() == 1
