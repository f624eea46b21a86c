"""Blocks are committed beside training: in order, one at a time, and what goes wrong there is the builder's error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zookeeper import Plan, build_zoo
from zookeeper.build import prepare_zoo, worker
from zookeeper.build.worker import Beat, build_cohort
from zookeeper.build.writing import BlockWriter
from zookeeper.errors import StoreError
from zookeeper.store.records import cohort_commits

MakePlan = Callable[..., Plan]
READ = Callable[[Path], Any]
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def commit_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1)


def test_the_next_epoch_trains_while_a_block_is_written(
    plan_of: MakePlan, tmp_path: Path, contents: READ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block of epoch 2 waits for the beat of epoch 4, and would wait for ever if training waited for it."""
    plan = plan_of(checkpoints={"at": [2, 5]})
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    jobs = prepare_zoo(plan, tmp_path / "zoo")
    real, trained, threads = worker.commit_block, threading.Event(), set()

    def patiently(root: Path, block: Any) -> Any:
        threads.add(threading.current_thread())
        assert block.epochs != (2,) or trained.wait(PATIENCE)
        return real(root, block)

    def note(beat: Beat) -> None:
        if beat.epoch == 4:
            trained.set()

    with monkeypatch.context() as patch:
        patch.setattr(worker, "commit_block", patiently)
        build_cohort(jobs[0], note)
    assert threading.current_thread() not in threads
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")


def test_an_error_of_the_disk_stops_the_builder_and_nothing_later_is_committed(
    plan_of: MakePlan, tmp_path: Path, contents: READ, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of()
    jobs = prepare_zoo(plan, tmp_path / "zoo")
    real, beats = worker.commit_block, []

    def full(root: Path, block: Any) -> Any:
        if block.epochs == (2,):
            raise StoreError("no space")
        return real(root, block)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "commit_block", full)
        with pytest.raises(StoreError, match="no space"):
            build_cohort(jobs[0], lambda beat: beats.append(beat.epoch))
    assert beats == [0, 1, 2]
    assert [record.last_epoch for record in cohort_commits(tmp_path / "zoo", jobs[0].cohort.name)] == [0, 1]
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")


def test_an_error_of_the_last_block_is_not_lost(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = prepare_zoo(plan_of(), tmp_path / "zoo")
    real = worker.commit_block

    def full(root: Path, block: Any) -> Any:
        if block.epochs == (6,):
            raise StoreError("no space")
        return real(root, block)

    monkeypatch.setattr(worker, "commit_block", full)
    with pytest.raises(StoreError, match="no space"):
        build_cohort(jobs[0])


def test_ctrl_c_waits_for_the_block_under_way(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = prepare_zoo(plan_of(), tmp_path / "zoo")
    real, pressed = worker.commit_block, threading.Event()

    def slow(root: Path, block: Any) -> Any:
        if block.epochs == (2,):
            assert pressed.wait(PATIENCE)
        return real(root, block)

    def press(beat: Beat) -> None:
        if beat.epoch == 2:
            pressed.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(worker, "commit_block", slow)
    with pytest.raises(KeyboardInterrupt):
        build_cohort(jobs[0], press)
    assert [record.last_epoch for record in cohort_commits(tmp_path / "zoo", jobs[0].cohort.name)] == [0, 1, 2]


def test_a_block_keeps_the_state_of_its_epoch_while_training_goes_on(
    plan_of: MakePlan, tmp_path: Path, contents: READ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that is read only when later epochs changed the live one resumes to the same bits."""
    plan = plan_of(checkpoints={"at": [2]})
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    jobs = prepare_zoo(plan, tmp_path / "zoo")
    real, trained = worker.commit_block, threading.Event()

    def late(root: Path, block: Any) -> Any:
        if block.epochs == (2,):
            assert trained.wait(PATIENCE)
        return real(root, block)

    def stop(beat: Beat) -> None:
        if beat.epoch == 4:
            trained.set()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "commit_block", late)
        with pytest.raises(KeyboardInterrupt):
            build_cohort(jobs[0], stop)
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")


def test_an_error_under_way_does_not_hide_the_error_of_the_builder() -> None:
    def fail() -> None:
        raise StoreError("behind")

    def build(then: type[BaseException] | None) -> None:
        with BlockWriter() as writer:
            writer.put(fail)
            if then is not None:
                raise then

    with pytest.raises(KeyboardInterrupt):
        build(KeyboardInterrupt)
    with pytest.raises(StoreError, match="behind"):
        build(None)
