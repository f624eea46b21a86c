"""What a dying process, a full disk, racing processes and rotting bits do to a zoo: nothing unnoticed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zookeeper.errors import BuildError, StoreError, ZooError
from zookeeper.store import files
from zookeeper.store import lock as lock_module
from zookeeper.store.caches import read_frame
from zookeeper.store.header import read_header
from zookeeper.store.lock import BuildLock
from zookeeper.store.orphans import collect_orphans
from zookeeper.store.reader import RowReader
from zookeeper.store.records import cohort_progress, read_commits
from zookeeper.store.state import load_state
from zookeeper.store.writer import AlreadyCommitted, commit_block

MakeToy = Callable[..., Any]
HERE = Path(__file__).parent
COUNTED = ("open", "write", "fsync", "replace", "link", "unlink")


class FaultyOs:
    """Stands in for ``os`` in `files`: at the chosen step, or half-way through the chosen write, it fails."""

    def __init__(self, step: int, fault: Callable[[], None], *, half: bool = False) -> None:
        self.step, self.fault, self.half, self.count = step, fault, half, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in (("write",) if self.half else COUNTED):
            return real

        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.step:
                if self.half:
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                self.fault()
            return real(*arguments, **options)

        return counted


KILLER = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from conftest import Toy
from test_store_faults import FaultyOs
from zookeeper.store import files
from zookeeper.store.encoding import Encoding
from zookeeper.store.writer import commit_block

# a fresh process per step, forked before any thread exists
for half in (False, True):
    step = 0
    while True:
        step += 1
        child = os.fork()
        if child == 0:
            toy = Toy(Path(sys.argv[2]) / f"{step}-{half}", encoding=Encoding(sys.argv[3])).create()
            commit_block(toy.root, toy.block("a", (0, 1)))
            files.os = FaultyOs(step, lambda: os.kill(os.getpid(), signal.SIGKILL), half=half)
            commit_block(toy.root, toy.block("a", (2, 3)))
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
    print(step - 1)
"""


def check_toy(toy: Any, *, epochs: tuple[int, ...]) -> None:
    records = read_commits(toy.root)
    frame, rows = read_frame(toy.root, read_header(toy.root), records)
    assert sorted(set(frame["epoch"])) == list(epochs)
    out = np.empty((len(rows), toy.num_weights), np.float32)
    RowReader(toy.root, records).read(rows, out)
    assert out.tobytes() == toy.rows("a", epochs).tobytes()
    newest = cohort_progress(toy.root)["a"].record
    assert newest is not None
    assert load_state(toy.root, newest)["moment"].tolist() == [float(epochs[-1])] * 4


def finish_toy(toy: Any) -> None:
    lost = None
    try:
        commit_block(toy.root, toy.block("a", (2, 3)))
    except AlreadyCommitted as error:
        lost = error
    assert lost is None or lost.same_weights
    check_toy(toy, epochs=(0, 1, 2, 3))
    collect_orphans(toy.root, older_than=0)
    check_toy(toy, epochs=(0, 1, 2, 3))
    for folder, count in (("commits", 2), ("shards", 2), ("meta", 2), ("state", 1)):
        assert len(list((toy.root / folder).iterdir())) == count


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_kill_at_every_step_of_a_commit_loses_nothing(make_toy: MakeToy, tmp_path: Path, backend: str) -> None:
    toy_type = type(make_toy("model"))
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLER, str(HERE), str(folder), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    num_steps, num_writes = map(int, done.stdout.split())
    assert num_steps >= 4 * 5  # four files of open, write, fsync, rename or link, directory fsync
    assert num_writes == 4
    seen = set()
    for root in sorted(folder.iterdir()):
        toy = toy_type(root)
        committed = len(read_commits(root))
        seen.add(committed)
        check_toy(toy, epochs=(0, 1, 2, 3)[: 2 * committed])
        finish_toy(toy)
    assert seen == {1, 2}


def test_a_full_disk_at_every_step_is_one_clear_error(make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for half in (False, True):
        step, reached = 0, True
        while reached:
            step += 1
            toy = make_toy(f"zoo{step}-{half}")
            commit_block(toy.root, toy.block("a", (0, 1)))
            faulty = FaultyOs(step, full, half=half)
            message = "No space left"
            with monkeypatch.context() as patch:
                patch.setattr(files, "os", faulty)
                try:
                    commit_block(toy.root, toy.block("a", (2, 3)))
                except StoreError as error:
                    message = str(error)
            assert "No space left" in message
            reached = faulty.count >= step
            check_toy(toy, epochs=(0, 1, 2, 3)[: 2 * len(read_commits(toy.root))])
            finish_toy(toy)
        assert step > (4 if half else 20)


RACER = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from conftest import Toy
from zookeeper.store.writer import AlreadyCommitted, commit_block

toy = Toy(Path(sys.argv[2]), num_epochs=20)
while time.time() < float(sys.argv[3]):
    time.sleep(0.001)
won = 0
for epoch in range(20):
    try:
        commit_block(toy.root, toy.block("a", (epoch,)))
        won += 1
    except AlreadyCommitted as error:
        assert error.same_weights
print(won)
"""


def test_processes_racing_through_a_cohort_commit_each_block_once(make_toy: MakeToy) -> None:
    toy = make_toy(num_epochs=20)
    start = str(time.time() + 2.0)
    command = [sys.executable, "-c", RACER, str(HERE), str(toy.root), start]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    wins = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(wins) == 20
    records = read_commits(toy.root)
    _, rows = read_frame(toy.root, read_header(toy.root), records)
    out = np.empty((len(rows), 7), np.float32)
    RowReader(toy.root, records).read(rows, out)
    assert out.tobytes() == toy.rows("a", tuple(range(20))).tobytes()
    assert len(list((toy.root / "shards").iterdir())) == 20


def test_a_reader_beside_a_writer_sees_whole_blocks(make_toy: MakeToy) -> None:
    toy = make_toy(num_epochs=40)
    writer = threading.Thread(
        target=lambda: [commit_block(toy.root, toy.block("a", (e, e + 1))) for e in range(0, 40, 2)]
    )
    writer.start()
    sizes = []
    while writer.is_alive() or not sizes:
        records = read_commits(toy.root)
        frame, rows = read_frame(toy.root, read_header(toy.root), records)
        assert len(frame) == 6 * len(records)
        if records:
            out = np.empty((len(rows), 7), np.float32)
            RowReader(toy.root, records).read(rows, out)
            assert out.tobytes() == toy.rows("a", tuple(sorted(set(frame["epoch"])))).tobytes()
        sizes.append(len(frame))
    writer.join()
    assert sizes == sorted(sizes)


def read_everything(root: Path) -> tuple[str, bytes]:
    records = read_commits(root)
    frame, rows = read_frame(root, read_header(root), records)
    out = np.empty((len(rows), 7), np.float32)
    RowReader(root, records).read(rows, out)
    return frame.to_json(), out.tobytes()


@pytest.mark.parametrize("damage", ["flip", "truncate", "hole", "remove"])
def test_damage_to_any_file_is_found_or_harmless(make_toy: MakeToy, damage: str) -> None:
    from zookeeper.store.caches import finalise

    toy = make_toy().fill(((0, 1),))
    finalise(toy.root)
    truth = read_everything(toy.root)
    generator = np.random.default_rng(0)
    found = 0
    targets = [p for p in toy.root.rglob("*") if p.is_file() and p.parent.name != "state"]
    for path in targets:
        data = path.read_bytes()
        for _ in range(6 if damage == "flip" else 1):
            damaged = bytearray(data)
            if damage == "flip":
                damaged[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
            elif damage == "hole":
                place = next(n for n in range(len(data) // 3, len(data)) if data[n] != 0)
                damaged[place : place + 64] = bytes(64)
            if damage == "remove":
                path.unlink()
            else:
                path.write_bytes(damaged[: len(data) - 1] if damage == "truncate" else damaged)
            try:
                outcome: object = read_everything(toy.root)
            except ZooError as error:
                outcome = str(error)
                found += 1
            dropped = damage == "remove" and path.parent.name == "commits"
            assert outcome == truth or dropped or (isinstance(outcome, str) and path.name in outcome + "zoo.json")
        path.write_bytes(data)
    assert found >= 5 - (damage == "remove") * 2
    assert read_everything(toy.root) == truth


def test_a_damaged_shard_is_named_with_what_was_expected(make_toy: MakeToy) -> None:
    toy = make_toy().fill(((0, 1),))
    record = read_commits(toy.root)[0]
    path = toy.root / record.shard.file
    data = bytearray(path.read_bytes())
    assert record.spans is not None
    data[record.spans.offsets[1] + 5] ^= 1
    reader = RowReader(toy.root, read_commits(toy.root))
    out = np.empty((1, 7), np.float32)
    path.write_bytes(data)
    with pytest.raises(StoreError, match=f"{path.name}: damaged; expected xxh3 {record.shard.xxh3}, got"):
        reader.read(np.array([0]), out)
    path.write_bytes(data[:-9])
    with pytest.raises(StoreError, match=rf"expected {record.shard.size} bytes, got {record.shard.size - 9}\."):
        reader.read(np.array([0]), out)
    path.unlink()
    with pytest.raises(StoreError, match="missing"):
        reader.read(np.array([0]), out)


def test_a_file_cut_while_open_raises_instead_of_crashing(make_toy: MakeToy) -> None:
    toy = make_toy().fill(((0, 1),))
    records = read_commits(toy.root)
    reader = RowReader(toy.root, records)
    out = np.empty((1, 7), np.float32)
    reader.read(np.array([0]), out)
    os.truncate(toy.root / records[0].shard.file, 10)
    with pytest.raises(StoreError, match="cut while it was open"):
        reader.read(np.array([0]), out)
    reader.close()


def test_one_builder_at_a_time(make_toy: MakeToy) -> None:
    toy = make_toy()
    with BuildLock(toy.root):
        with pytest.raises(BuildError, match=f"process {os.getpid()} on host"), BuildLock(toy.root):
            pass
        assert (toy.root / "build.lock").exists()
    assert not (toy.root / "build.lock").exists()
    with BuildLock(toy.root):
        pass


def test_a_lock_of_a_dead_builder_is_taken_over_but_not_from_another_host(
    make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = make_toy()
    hold = (
        "import os, sys; from pathlib import Path; from zookeeper.store.lock import BuildLock\n"
        "BuildLock(Path(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", hold, str(toy.root)], check=False, timeout=60)
    lock = toy.root / "build.lock"
    left = json.loads(lock.read_text())
    held = []
    looked: list[bool] = []

    def slow_look(holder: dict[str, Any]) -> bool:
        looked.append(is_stale(holder))
        time.sleep(0.05 * len(looked))  # without a guard, each would remove the lock of the one before
        return looked[-1]

    is_stale = lock_module._is_stale
    monkeypatch.setattr(lock_module, "_is_stale", slow_look)

    def build() -> None:
        try:
            with BuildLock(toy.root):
                held.append("held")
                time.sleep(0.6)
        except BuildError:
            held.append("refused")

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == ["held", "refused", "refused", "refused"]
    lock.write_text(json.dumps({**left, "host": "elsewhere"}))
    with pytest.raises(BuildError, match="host elsewhere"), BuildLock(toy.root):
        pass
    lock.write_text(json.dumps({**left, "pid": os.getpid(), "started": "another boot:1"}))
    with BuildLock(toy.root):  # the process number was given to someone else since
        pass
    lock.write_text("")
    with pytest.raises(BuildError, match="remove"), BuildLock(toy.root):
        pass


def test_a_copied_zoo_opens(make_toy: MakeToy) -> None:
    toy = make_toy().fill()
    copy = shutil.copytree(toy.root, toy.root.parent / "copy")
    assert read_everything(copy) == read_everything(toy.root)
