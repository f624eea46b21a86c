"""Full disks, vanished images, all-NaN cohorts, two builders at once: one clear error, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zookeeper
from zookeeper import InputError, Plan, build_zoo
from zookeeper.build import prepare_zoo, worker
from zookeeper.build.job import CohortJob, load_spec_images
from zookeeper.build.ray import _build_in_worker
from zookeeper.errors import BuildError, StoreError
from zookeeper.store import files
from zookeeper.store.records import read_commits

MakePlan = Callable[..., Plan]
Read = Callable[[Path], Any]
MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class FullDisk:
    """Stands in for ``os`` in the store: from the chosen write on, the disk takes half of what comes and is full."""

    def __init__(self, first: int) -> None:
        self.first, self.count = first, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, descriptor: int, data: memoryview) -> int:
        self.count += 1
        if self.count >= self.first:
            os.write(descriptor, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, data)


@pytest.mark.parametrize("first", [2, 3, 4, 6, 7, 10, 13])
def test_a_disk_that_is_full_at_any_write_is_one_error_and_the_build_goes_on(
    first: int, plan_of: MakePlan, tmp_path: Path, contents: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1)
    plan = plan_of(training={"optimizer": "adam", "batch_size": 64, "epochs": 2})
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", FullDisk(first))
        with pytest.raises(BuildError if first == 3 else StoreError, match="No space left on device") as caught:
            build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "zoo/build.lock").exists()
    assert not list((tmp_path / "zoo").rglob(".tmp-*"))
    build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB in memory."""
    mount = shutil.which("mount")
    if mount is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_is_one_error_and_the_build_goes_on(
    small_disk: Path, plan_of: MakePlan, tmp_path: Path, contents: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1)
    plan = plan_of()
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    with pytest.raises(StoreError, match="No space left on device"):
        build_zoo(plan, small_disk / "zoo", show_progress=False)
    committed = len(read_commits(small_disk / "zoo"))
    assert committed < len(read_commits(tmp_path / "whole"))
    stored = contents(small_disk / "zoo")
    whole = contents(tmp_path / "whole")
    assert all(whole[key] == row for key, row in stored.items())
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    build_zoo(plan, small_disk / "zoo", show_progress=False)
    assert contents(small_disk / "zoo") == whole


def test_a_cohort_of_nothing_but_nan_is_kept_flagged_and_finished(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of(
        model={"architecture": "mlp", "activation": "relu"},
        training={"optimizer": "sgd", "batch_size": 64, "epochs": 4},
        grid={"lr": [1e30], "seed": {"range": [0, 6]}},
    )
    summary = build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert (summary.complete, summary.failures) == (True, {})
    assert (summary.num_models, summary.num_diverged, summary.num_checkpoints) == (6, 6, 30)
    zoo = zookeeper.open(tmp_path / "zoo")
    assert set(zoo.query("epoch == 0").frame["status"]) == {"ok"}
    assert set(zoo.query("epoch == 4").frame["status"]) == {"diverged"}
    assert not np.isfinite(zoo.query("epoch == 4").weights()).all(axis=1).any()
    assert build_zoo(plan, tmp_path / "zoo", show_progress=False).num_diverged == 6


def write_mnist(folder: Path) -> None:
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, count in zip(MNIST, (60, 60, 20, 20), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        head = bytes([0, 0, 8, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape)
        values = draw.integers(0, 256 if "images" in name else 10, shape).astype(np.uint8)
        (folder / name).write_bytes(head + values.tobytes())


@pytest.fixture
def deaf() -> Iterator[None]:
    """Let this process play a Ray worker, which is deaf to Ctrl-C, for one test."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def mnist_jobs(plan_of: MakePlan, tmp_path: Path, deaf: None) -> tuple[CohortJob, ...]:
    """Jobs on files of images, in a process that has not loaded them."""
    write_mnist(tmp_path / "images/MNIST/raw")
    plan = plan_of(
        images={"name": "mnist", "split": {"train": 0.8, "val": 0.2}, "root": "images"},
        model={"architecture": "cnn-small", "activation": "tanh"},
        training={"optimizer": "adam", "batch_size": 16, "epochs": 1},
    )
    jobs = prepare_zoo(plan, tmp_path / "zoo")
    load_spec_images.cache_clear()
    return jobs


@pytest.mark.parametrize("name", MNIST)
def test_an_image_file_that_is_missing_in_a_worker_fails_its_cohort_with_a_name(
    name: str, mnist_jobs: tuple[CohortJob, ...], tmp_path: Path
) -> None:
    (tmp_path / "images/MNIST/raw" / name).unlink()
    verdict, reason = _build_in_worker(mnist_jobs[0])
    assert verdict == "failed"
    assert name in str(reason)
    with pytest.raises(InputError, match=name):
        worker.build_cohort(mnist_jobs[0])
    assert read_commits(tmp_path / "zoo") == ()


def test_other_image_files_in_a_worker_are_refused(mnist_jobs: tuple[CohortJob, ...], tmp_path: Path) -> None:
    path = tmp_path / "images/MNIST/raw" / MNIST[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    verdict, reason = _build_in_worker(mnist_jobs[0])
    assert verdict == "failed"
    assert "Every worker must see the same image files" in str(reason)


def test_of_two_builds_at_once_the_second_says_who_and_stops(
    write_spec: Callable[..., Path], plan_of: MakePlan, tmp_path: Path, contents: Read
) -> None:
    sections: dict[str, Any] = {"training": {"optimizer": "adam", "batch_size": 4, "epochs": 12}}
    spec = write_spec(tmp_path / "both.yaml", **sections)
    command = [sys.executable, "-m", "zookeeper.cli", "build", str(spec), "--out", str(tmp_path / "zoo"), "--local"]
    environment = {**os.environ, "PYTHONPATH": str(Path(zookeeper.__file__).parent.parent)}
    both = [
        subprocess.Popen(
            [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(2)
    ]
    ended = {build.pid: (build.communicate(timeout=120), build.returncode) for build in both}
    codes = sorted(code for _, code in ended.values())
    assert codes == [0, 2], ended
    (winner,) = (pid for pid, (_, code) in ended.items() if code == 0)
    ((out, err),) = (texts for texts, code in ended.values() if code == 2)
    assert out == ""
    assert err.startswith(f"error: {tmp_path / 'zoo'}: another builder is at work (process {winner} on host ")
    assert err.count("\n") == 1
    value = json.loads(ended[winner][0][0])
    assert (value["complete"], value["num_models"]) == (True, 12)
    build_zoo(plan_of(**sections), tmp_path / "whole", show_progress=False)
    assert contents(tmp_path / "zoo") == contents(tmp_path / "whole")
