"""Shards of one zoo, built by separate processes at once: each cohort once, the last one completes the zoo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zookeeper
from zookeeper import InputError, Plan, build_zoo
from zookeeper.build import Shard, job, prepare_zoo
from zookeeper.build.claim import Occupied, claim_shard, claim_zoo, hold_briefly, parse_shard
from zookeeper.store.caches import CACHES
from zookeeper.store.header import ZooHeader
from zookeeper.store.records import cohort_progress, read_commits

MakePlan = Callable[..., Plan]
Read = Callable[[Path], Any]


def start(spec: Path, root: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zookeeper.cli", "build", str(spec), "--out", str(root), "--local", *options]
    package = Path(zookeeper.__file__).parent.parent
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(package)},
    )


def test_shards_cover_the_cohorts_once() -> None:
    items = tuple(range(11))
    for count in (1, 2, 3, 11, 20):
        parts = [Shard(number, count).of(items) for number in range(1, count + 1)]
        assert sorted(item for part in parts for item in part) == list(items)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["", "1", "/", "1/", "/2", "a/b", "1/2/3", "-1/2", "1.5/2", "1 /2", "²/3", "1-2"])
def test_text_that_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected i/n, such as 1/8"):
        parse_shard(text)


@pytest.mark.parametrize("text", ["0/2", "3/2", "0/0", "1/0"])
def test_shards_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected i/n with i from 1 to n"):
        parse_shard(text)


def test_two_processes_at_once_make_the_zoo_of_one(
    write_spec: Callable[..., Path], plan_of: MakePlan, tmp_path: Path, contents: Read
) -> None:
    spec = write_spec(tmp_path / "shards.yaml", build={"cohort_size": 2})
    build_zoo(plan_of(build={"cohort_size": 2}), tmp_path / "whole", show_progress=False)
    shards = [start(spec, tmp_path / "zoo", "--shard", f"{number}/2") for number in (1, 2)]
    ended = [shard.communicate(timeout=120) for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0], ended
    for number, (_, err) in enumerate(ended, start=1):
        assert err.startswith(
            f"building shard {number}/2 of {tmp_path / 'zoo'}: 6 models in 3 cohort(s), 42 checkpoints"
        )
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "zoo").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }
    assert any("not complete" not in out for out, _ in ended)


def test_only_the_last_shard_completes_the_zoo(plan_of: MakePlan, tmp_path: Path) -> None:
    plan, root = plan_of(build={"cohort_size": 3}), tmp_path / "zoo"
    first = build_zoo(plan, root, shard=Shard(2, 3), show_progress=False)
    assert (first.complete, first.num_models, first.failures) == (False, 3, {})
    final = [progress.final for progress in cohort_progress(root).values()]
    assert final == [False, True, False, False]
    assert not (root / CACHES).exists()
    assert build_zoo(plan, root, shard=Shard(3, 3), show_progress=False).num_models == 6
    last = build_zoo(plan, root, shard=Shard(1, 3), show_progress=False)
    assert (last.complete, last.num_models, last.num_checkpoints) == (True, 12, plan.num_checkpoints)
    assert (root / CACHES).exists()
    before = read_commits(root)
    assert build_zoo(plan, root, shard=Shard(1, 3), show_progress=False).complete
    assert read_commits(root) == before


def test_a_shard_without_cohorts_does_nothing(plan_of: MakePlan, tmp_path: Path) -> None:
    summary = build_zoo(plan_of(), tmp_path / "zoo", shard=Shard(5, 5), show_progress=False)
    assert (summary.complete, summary.num_models) == (False, 0)
    assert read_commits(tmp_path / "zoo") == ()


def test_a_whole_build_finishes_what_shards_left(plan_of: MakePlan, tmp_path: Path, contents: Read) -> None:
    plan = plan_of(build={"cohort_size": 3})
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    build_zoo(plan, tmp_path / "zoo", shard=Shard(1, 2), show_progress=False)
    assert build_zoo(plan, tmp_path / "zoo", show_progress=False).complete
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")


def test_whole_builds_and_shards_find_each_other(plan_of: MakePlan, tmp_path: Path) -> None:
    plan, root = plan_of(), tmp_path / "zoo"
    prepare_zoo(plan, root)
    me = f"process {os.getpid()} on host"
    with claim_shard(root, Shard(1, 2)):
        with pytest.raises(Occupied, match=rf"builders/1-of-2: another builder is at work \({me}"), claim_zoo(root):
            pass
        with pytest.raises(Occupied, match=me), claim_shard(root, Shard(1, 2)):
            pass
        with claim_shard(root, Shard(2, 2)):
            assert sorted(path.name for path in (root / "builders").iterdir()) == ["1-of-2", "2-of-2"]
        with pytest.raises(Occupied) as caught:
            build_zoo(plan, root, show_progress=False)
        assert caught.value.exit_code == 2
        assert not (root / "build.lock").exists()
    assert not (root / "builders").exists()
    with claim_zoo(root), pytest.raises(Occupied, match=me), claim_shard(root, Shard(1, 2), patience=0.2):
        pass
    assert read_commits(root) == ()


def test_shards_that_enter_at_once_wait_for_each_other(plan_of: MakePlan, tmp_path: Path) -> None:
    root = tmp_path / "zoo"
    prepare_zoo(plan_of(), root)
    entered = []

    def enter(number: int) -> None:
        with claim_shard(root, Shard(number, 6)):
            entered.append(number)
            time.sleep(0.1)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(1, 7)]
    with hold_briefly(root):
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert entered == []
    for thread in threads:
        thread.join()
    assert sorted(entered) == [1, 2, 3, 4, 5, 6]


def test_a_killed_shard_goes_on_and_blocks_nobody(
    write_spec: Callable[..., Path], plan_of: MakePlan, tmp_path: Path, contents: Read
) -> None:
    training = {"optimizer": "adam", "batch_size": 16, "epochs": 12}
    sections: dict[str, Any] = {"build": {"cohort_size": 6}, "training": training}
    spec = write_spec(tmp_path / "shards.yaml", **sections)
    root = tmp_path / "zoo"
    killed = start(spec, root, "--shard", "2/2")
    while not (root / "builders/2-of-2/build.lock").exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (root / "builders/2-of-2/build.lock").exists()
    plan = plan_of(**sections)
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    assert not build_zoo(plan, root, shard=Shard(1, 2), show_progress=False).complete
    assert build_zoo(plan, root, shard=Shard(2, 2), show_progress=False).complete
    assert contents(root) == contents(tmp_path / "whole")
    assert not (root / "builders").exists()


def test_a_zoo_that_appears_meanwhile_keeps_its_cohorts(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, other = tmp_path / "zoo", plan_of(build={"cohort_size": 4})
    plan = plan_of(build={"cohort_size": 3})
    real = job.create_zoo

    def overtaken(path: Path, header: ZooHeader) -> ZooHeader:
        monkeypatch.setattr(job, "create_zoo", real)
        prepare_zoo(other, root)
        return real(path, header)

    monkeypatch.setattr(job, "create_zoo", overtaken)
    assert build_zoo(plan, root, show_progress=False).complete
    assert {len(entry.models) for entry in zookeeper.open(root).header.cohorts.values()} == {4}

    monkeypatch.setattr(job, "create_zoo", overtaken)
    root, other = tmp_path / "second", plan_of(name="other")
    with pytest.raises(InputError, match="holds a zoo of another spec: name"):
        build_zoo(plan, root, show_progress=False)
