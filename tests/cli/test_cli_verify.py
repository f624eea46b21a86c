"""`zookeeper verify`: exit codes, what it prints, and the way from damage to a whole zoo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zookeeper.store.records import read_commits

Run = Callable[..., Any]


@pytest.fixture
def damaged(zoo: Path, tmp_path: Path) -> Path:
    root = shutil.copytree(zoo, tmp_path / "zoo")
    record = read_commits(root)[0]
    assert record.spans is not None
    path = root / record.shard.file
    data = bytearray(path.read_bytes())
    data[record.spans.offsets[0]] ^= 1
    path.write_bytes(data)
    return root


def test_a_sound_zoo_ends_in_0(run: Run, zoo: Path) -> None:
    ended = run("verify", zoo)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("clean: ")
    assert "48 checkpoints" in ended.out
    value = json.loads(run("verify", zoo, "--deep", "--json").out)
    assert (value["clean"], value["evaluated"], value["findings"], value["repaired"]) == (True, 48, [], [])
    assert value["largest_difference"] < 1e-5
    assert json.loads(run("verify", zoo, "--deep", "--sample", "0", "--json").out)["evaluated"] == 0


def test_damage_ends_in_1_and_says_what_is_lost_and_what_to_do(run: Run, damaged: Path) -> None:
    before = sorted(path.name for path in damaged.rglob("*"))
    ended = run("verify", damaged, "--deep")
    assert ended.code == 1
    record = read_commits(damaged)[0]
    lines = ended.out.splitlines()
    assert lines[0].startswith(f"shard: {record.shard.file}: expected xxh3 {record.shard.xxh3}, got")
    assert lines[1].startswith("  lost: model ")
    assert lines[1].endswith("at epoch 0, 1, 2, 3")
    assert lines[2].startswith(
        "  to do: Restore the file from a copy, or: zookeeper verify --repair. Run the same build"
    )
    assert lines[-1].startswith("1 problem(s): ")
    assert sorted(path.name for path in damaged.rglob("*")) == before
    value = json.loads(run("verify", damaged, "--json").out)
    assert value["findings"][0]["lost"]["epochs"] == [0, 1, 2, 3]


def test_repair_and_the_same_build_make_it_whole(run: Run, damaged: Path, spec: Path) -> None:
    ended = run("verify", damaged, "--repair")
    assert (ended.code, "moved block" in ended.out, "not complete" in ended.out) == (0, True, True)
    assert run("build", spec, "--out", damaged, "--local").code == 0
    ended = run("verify", damaged, "--deep", "--repair")
    assert (ended.code, "repaired" in ended.out) == (0, False)


def test_no_zoo_ends_in_2(run: Run, tmp_path: Path) -> None:
    for option in ((), ("--repair",), ("--deep", "--json")):
        ended = run("verify", tmp_path, *option)
        assert ended.code == 2
        assert "no zoo here" in ended.err


def test_a_zoo_that_is_built_is_not_repaired(run: Run, damaged: Path) -> None:
    from zookeeper.store.lock import BuildLock

    with BuildLock(damaged):
        ended = run("verify", damaged, "--repair")
        assert ended.code == 2
        assert "another builder is at work" in ended.err
        assert run("verify", damaged).code == 1


def test_a_damaged_header_ends_in_1_and_comes_back_from_its_copy(run: Run, zoo: Path, tmp_path: Path) -> None:
    root = shutil.copytree(zoo, tmp_path / "zoo")
    text = (root / "zoo.json").read_text()
    (root / "zoo.json").write_text(text.replace('"tiny"', '"tinz"', 1))
    for option in ((), ("--deep",)):
        ended = run("verify", root, *option)
        assert ended.code == 1
        assert "damaged header" in ended.out + ended.err
    ended = run("verify", root, "--repair")
    assert (ended.code, "repaired: made zoo.json again from zoo.json.copy" in ended.out) == (0, True)
    assert (root / "zoo.json").read_text() == text
    for name in ("zoo.json", "zoo.json.copy"):
        (root / name).unlink()
    ended = run("verify", root, "--repair")
    assert (ended.code, "there is no whole zoo.json.copy" in ended.out) == (1, True)
