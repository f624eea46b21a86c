"""Does a zoo survive what happens to computers? Kills, readers beside builders, flipped bits, cut and torn files.

For each backend: a build is killed with -9 at random moments, again and again until it is through, while a reader in
another process opens the zoo and reads every row over and over. After each kill the zoo is verified, and what was
committed before must still be there. The finished zoo must be that of a build nobody disturbed, to the bit. Then
random bits of random files are flipped, one at a time, and files are cut, emptied and overwritten, and `verify` must
say so; `read` counts how often a plain reader would have got a wrong row or table without an error.

    python benchmarks/reliability.py --out docs/reliability.md
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from training import machine, replace_section

import zookeeper
from zookeeper.build import worker
from zookeeper.build.job import prepare_zoo
from zookeeper.build.reevaluate import reevaluate_zoo
from zookeeper.compare import compare_zoos
from zookeeper.errors import ZooError
from zookeeper.spec.plan import Plan
from zookeeper.store.records import read_commits
from zookeeper.store.verify import verify_zoo

SPEC = """\
version: 1
name: reliability
images: {{name: digits, split: {{train: 0.7, val: 0.1, test: 0.2}}, seed: 0, normalise: none}}
model: {{architecture: cnn-digits, activation: tanh}}
training: {{optimizer: adam, batch_size: 32, epochs: 40}}
grid: {{lr: [5e-4, 1e-3], seed: {{range: [0, 8]}}}}
checkpoints: {{every: 1}}
build: {{cohort_size: 4}}
store: {{backend: {backend}}}
"""


@dataclass(frozen=True)
class Kills:
    """A build that was killed: how often, at how many different states, and what readers beside it saw."""

    backend: str
    kills: int
    states: int
    lost: int
    unclean: int
    passes: int
    wrong: int
    equal: bool


@dataclass(frozen=True)
class Damage:
    """One kind of damage: how often it was done, reported, without meaning, and read without an error."""

    backend: str
    kind: str
    done: int
    reported: int
    meaningless: int
    misread: int


def start(plan: Plan, root: Path) -> int:
    """Build in a process of its own, forked before any thread exists."""
    child = os.fork()
    if child == 0:
        zookeeper.build_zoo(plan, root, show_progress=False)
        os._exit(0)
    return child


def watch(root: Path, truth: dict[tuple[str, int], bytes], log: Path) -> int:
    """Read a growing zoo over and over in a process of its own; each pass must be true and no smaller."""
    child = os.fork()
    if child == 0:
        most, passes, wrong = 0, 0, 0
        while not log.with_suffix(".stop").exists():
            zoo = zookeeper.open(root)
            lines = zip(zoo.frame["model_id"], zoo.frame["epoch"], zoo.weights(), strict=True)
            wrong += sum(truth[model, epoch] != weights.tobytes() for model, epoch, weights in lines)
            wrong += len(zoo) < most
            most, passes = max(most, len(zoo)), passes + 1
            log.write_text(json.dumps([passes, wrong]))
        os._exit(0)
    return child


def kill_and_resume(plan: Plan, folder: Path, kills: int, draw: random.Random) -> Kills:
    whole, root, log = folder / "whole", folder / "zoo", folder / "reader"
    begin = time.monotonic()
    assert os.waitpid(start(plan, whole), 0)[1] == 0
    seconds = time.monotonic() - begin
    truth = read_rows(whole)
    prepare_zoo(plan, root)
    reader = watch(root, truth, log)
    done, lost, unclean, states = 0, 0, 0, set()
    while True:
        before = {record.file_name: record for record in read_commits(root)}
        child = start(plan, root)
        if done < kills:
            wait_for_a_moment(root, len(before), seconds, draw)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        after = {record.file_name: record for record in read_commits(root)}
        lost += sum(after.get(name) != record for name, record in before.items())
        unclean += not verify_zoo(root, deep=True).clean
        if status == 0:
            break
        done += 1
        states.add(frozenset(after))
    log.with_suffix(".stop").touch()
    os.waitpid(reader, 0)
    passes, wrong = json.loads(log.read_text())
    same = set(compare_zoos(zookeeper.open(root), zookeeper.open(whole))) <= {"column wall_time"}
    assert reevaluate_zoo(root).findings == ()
    return Kills(
        str(plan.spec.store.backend if plan.spec.store else ""), done, len(states), lost, unclean, passes, wrong, same
    )


def wait_for_a_moment(root: Path, num_commits: int, seconds: float, draw: random.Random) -> None:
    """Wait a random time: mostly from the first new block on, else from the start of the process on."""
    deadline = time.monotonic() + seconds
    if draw.random() < 0.8:
        while len(os.listdir(root / "commits")) <= num_commits and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.03 * seconds))
    else:
        time.sleep(draw.uniform(0, 0.1 * seconds))


def read_rows(root: Path) -> dict[tuple[str, int], bytes]:
    zoo = zookeeper.open(root)
    lines = zip(zoo.frame["model_id"], zoo.frame["epoch"], zoo.weights(), strict=True)
    return {(str(model), int(epoch)): weights.tobytes() for model, epoch, weights in lines}


def read_all(root: Path) -> tuple[str, bytes] | None:
    """Everything a reader can see, or None if it is told of an error."""
    try:
        zoo = zookeeper.open(root)
        return zoo.frame.to_json(), zoo.weights().tobytes()
    except ZooError:
        return None


def harm(data: bytes, kind: str, draw: random.Random) -> bytes | None:
    """Damaged content of a file; None for no file at all."""
    place = draw.randrange(len(data))
    if kind == "bit flipped":
        return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
    if kind == "cut short":
        return data[:place]
    if kind == "torn: the end is zeros":
        return data[:place] + bytes(len(data) - place)
    if kind == "4 KB of zeros":
        return data[:place] + bytes(min(4096, len(data) - place)) + data[place + 4096 :]
    return None


def means_the_same(path: Path, before: bytes, after: bytes | None) -> bool:
    if before == after:
        return True  # zeros were written over zeros
    try:
        return path.suffix == ".json" and after is not None and bool(json.loads(before) == json.loads(after))
    except ValueError:
        return False


def damage(root: Path, backend: str, kind: str, times: int, draw: random.Random) -> Damage:
    truth = read_all(root)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.parent.name != "lowerings")
    result = Damage(backend, kind, 0, 0, 0, 0)
    for _ in range(times):
        path = draw.choice(files)
        before = path.read_bytes()
        after = harm(before, kind, draw)
        path.unlink() if after is None else path.write_bytes(after)
        same = means_the_same(path, before, after)
        report = verify_zoo(root, orphans_after=0)
        seen = read_all(root)
        misread = not same and seen is not None and seen != truth and path.parent.name != "commits"
        result = replace(
            result,
            done=result.done + 1,
            reported=result.reported + (not report.clean),
            meaningless=result.meaningless + same,
            misread=result.misread + misread,
        )
        path.write_bytes(before)
    assert verify_zoo(root, deep=True).clean
    return result


def to_markdown(kills: list[Kills], harms: list[Damage], command: str, when: str) -> str:
    lines = [
        f"`{command}` on {when}; {machine()['cpu']}.",
        "",
        "| backend | kills | states met | commits lost | unclean after | passes of the reader | wrong rows read "
        "| equal at the end |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {one.backend} | {one.kills} | {one.states} | {one.lost} | {one.unclean} | {one.passes} | {one.wrong} "
            f"| {'to the bit' if one.equal else 'NO'} |"
            for one in kills
        ),
        "",
        "| backend | damage to a random file | done | without meaning | reported by verify | read without an error |",
        "|---|---|---|---|---|---|",
        *(
            f"| {one.backend} | {one.kind} | {one.done} | {one.meaningless} | {one.reported} | {one.misread} |"
            for one in harms
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file whose section `reliability` is replaced.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--damages", type=int, default=300, help="Bits flipped per backend; of other damage a fifth.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    worker.COMMIT_BYTES = 1  # a block for every epoch: as many moments of writing as there can be
    draw = random.Random(options.seed)
    kills, harms = [], []
    for backend in ("parquet", "hdf5"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "spec.yaml").write_text(SPEC.format(backend=backend))
            plan = zookeeper.make_plan(zookeeper.load_spec(folder / "spec.yaml"))
            kills.append(kill_and_resume(plan, folder, options.kills, draw))
            print(kills[-1], flush=True)
            for kind, share in (
                ("bit flipped", 1),
                ("cut short", 5),
                ("torn: the end is zeros", 5),
                ("4 KB of zeros", 5),
                ("removed", 5),
            ):
                harms.append(damage(folder / "whole", backend, kind, options.damages // share, draw))
                print(harms[-1], flush=True)
    command = f"python benchmarks/reliability.py --kills {options.kills} --damages {options.damages}"
    text = to_markdown(kills, harms, command, datetime.now(UTC).strftime("%Y-%m-%d"))
    print(text)
    assert not any(one.lost or one.unclean or one.wrong or not one.equal for one in kills)
    assert not any(one.misread or one.reported + one.meaningless < one.done for one in harms)
    if options.out is not None:
        replace_section(options.out, "reliability", text)


if __name__ == "__main__":
    main()
