"""The header and its copy: any damage to one of them is reported and mended from the other; none names this machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zookeeper.compare import assert_equal
from zookeeper.errors import InputError, StoreError
from zookeeper.listing import list_zoos
from zookeeper.store import files
from zookeeper.store.header import COPY, HEADER, ZooHeader, create_zoo, place_header, read_header
from zookeeper.store.repair import repair_zoo
from zookeeper.store.verify import verify_zoo
from zookeeper.store.writer import commit_block
from zookeeper.zoo import open as open_zoo

GOLDEN = Path(__file__).parent / "golden"
FAULTS: dict[str, Callable[[bytes], bytes | None]] = {
    "bit": lambda data: data[:90] + bytes([data[90] ^ 4]) + data[91:],
    "digit": lambda data: data.replace(b"0.2", b"0.3"),
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "zeros": lambda data: data[:64] + bytes(64) + data[128:],
    "longer": lambda data: data + b"}",
    "no text": lambda data: b"\xff\xfe" + data,
    "another value": lambda data: b"[1, 2]",
    "missing": lambda data: None,
}


@pytest.fixture
def toy(toy_type: Any, tmp_path: Path) -> Any:
    toy = toy_type(tmp_path / "zoo").create()
    toy.fill(((0, 1),))
    return toy


def harm(path: Path, fault: str) -> None:
    damaged = FAULTS[fault](path.read_bytes())
    if damaged is None:
        path.unlink()
    else:
        assert damaged != path.read_bytes()
        path.write_bytes(damaged)


@pytest.mark.parametrize("name", [HEADER, COPY])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_or_missing_header_is_made_again(toy: Any, name: str, fault: str) -> None:
    before = (toy.root / HEADER).read_bytes()
    assert (toy.root / COPY).read_bytes() == before
    harm(toy.root / name, fault)
    if name == HEADER:
        with pytest.raises(StoreError, match=r"zoo\.json: .*zookeeper verify --repair"):
            open_zoo(toy.root)
        assert list_zoos(toy.root)[0].state == "damaged"
    else:
        assert len(open_zoo(toy.root)) == 12
    report = verify_zoo(toy.root)
    (finding,) = report.findings
    assert (finding.kind, finding.where) == ("header", name)
    assert "whole" in finding.remedy
    (line,) = repair_zoo(toy.root, report)[:1]
    assert line == f"made {name} again from {COPY if name == HEADER else HEADER}"
    assert (toy.root / HEADER).read_bytes() == (toy.root / COPY).read_bytes() == before
    assert verify_zoo(toy.root, deep=True).clean
    assert (toy.root / "quarantine" / name).exists() == (fault != "missing")


def test_both_damaged_is_lost_and_says_so(toy: Any) -> None:
    for name in (HEADER, COPY):
        harm(toy.root / name, "cut")
    report = verify_zoo(toy.root)
    assert [(finding.kind, finding.where) for finding in report.findings] == [("header", HEADER)]
    assert f"there is no whole {COPY}" in report.findings[0].remedy
    assert repair_zoo(toy.root, report) == ()
    assert not (toy.root / "quarantine").exists()


def test_damage_to_header_and_blocks_is_mended_in_one_go(toy: Any) -> None:
    truth = open_zoo(shutil.copytree(toy.root, toy.root.parent / "truth"))
    harm(toy.root / HEADER, "missing")
    next((toy.root / "meta").iterdir()).write_bytes(b"nonsense")
    record = next((toy.root / "commits").iterdir())
    record.write_bytes(record.read_bytes()[:-9])
    repair_zoo(toy.root, verify_zoo(toy.root))
    assert verify_zoo(toy.root, deep=True).clean
    assert_equal(open_zoo(toy.root), truth)


def test_a_copy_of_another_zoo_gives_way_and_is_kept(toy: Any, toy_type: Any) -> None:
    other = toy_type(toy.root.parent / "other", num_models=2).create()
    shutil.copyfile(other.root / COPY, toy.root / COPY)
    report = verify_zoo(toy.root)
    assert "another zoo" in report.findings[0].what
    repair_zoo(toy.root, report)
    assert verify_zoo(toy.root).clean
    assert (toy.root / "quarantine" / COPY).read_bytes() == (other.root / HEADER).read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**16), st.integers(0, 7))
def test_no_flipped_bit_of_a_header_is_read(toy: Any, place: int, bit: int) -> None:
    header, before = read_header(toy.root), (toy.root / HEADER).read_bytes()
    data = bytearray(before)
    data[place % len(data)] ^= 1 << bit
    try:
        (toy.root / HEADER).write_bytes(data)
        report = verify_zoo(toy.root)
        assert not report.clean
        repair_zoo(toy.root, report)
        assert read_header(toy.root) == header
        assert (toy.root / HEADER).read_bytes() == (toy.root / COPY).read_bytes()
        if report.findings[0].where == HEADER:  # else it means the same, as the case of an exponent does
            assert (toy.root / HEADER).read_bytes() == before
    finally:
        (toy.root / HEADER).write_bytes(before)
        (toy.root / COPY).write_bytes(before)


@pytest.mark.parametrize("step", range(1, 14))
def test_a_crash_while_a_zoo_is_created(toy_type: Any, tmp_path: Path, monkeypatch: Any, step: int) -> None:
    """At every step: no zoo, or a header with its copy; the same call finishes it."""
    toy = toy_type(tmp_path / "zoo")
    stopped = _stop_at(step)
    monkeypatch.setattr(files, "os", stopped)
    try:
        create_zoo(toy.root, toy.header)
    except KeyboardInterrupt:
        pass
    finally:
        monkeypatch.undo()
    assert (toy.root / COPY).exists() or not (toy.root / HEADER).exists()
    created = create_zoo(toy.root, toy.header)
    assert created.digest == toy.header.digest
    assert (toy.root / COPY).read_bytes() == (toy.root / HEADER).read_bytes()
    assert verify_zoo(toy.root).clean


def _stop_at(step: int) -> Any:
    class Stopping:
        count = 0

        def __getattr__(self, name: str) -> Any:
            real = getattr(os, name)
            if name not in ("open", "write", "fsync", "link"):
                return real

            def counted(*arguments: Any, **options: Any) -> Any:
                self.count += 1
                if self.count == step:
                    raise KeyboardInterrupt
                return real(*arguments, **options)

            return counted

    return Stopping()


def test_a_lost_header_comes_back_with_the_same_build_only(toy: Any) -> None:
    before = (toy.root / HEADER).read_bytes()
    (toy.root / HEADER).unlink()
    create_zoo(toy.root, toy.header)
    assert (toy.root / HEADER).read_bytes() == before
    (toy.root / HEADER).unlink()
    with pytest.raises(StoreError, match=r"holds another zoo; .*name: stored 'toy', new 'other'"):
        create_zoo(toy.root, replace(toy.header, name="other"))
    (toy.root / HEADER).unlink()
    (toy.root / COPY).write_bytes(before[:-20])
    with pytest.raises(StoreError, match=r"zoo\.json\.copy: not valid JSON"):
        create_zoo(toy.root, toy.header)


def test_zoos_without_a_copy_are_whole_and_get_one_when_asked(tmp_path: Path) -> None:
    root = shutil.copytree(GOLDEN / "parquet", tmp_path / "zoo")
    report = verify_zoo(root)
    assert report.clean
    assert any("no copy yet" in note for note in report.notes)
    assert repair_zoo(root, report) == ("copied zoo.json to zoo.json.copy",)
    assert (root / COPY).read_bytes() == (root / HEADER).read_bytes()
    assert not any("no copy" in note for note in verify_zoo(root).notes)


def test_a_folder_of_this_machine_is_left_out(toy: Any, tmp_path: Path) -> None:
    images = {"name": "mnist", "seed": 0}
    old = replace(toy.header, name="old", spec={"images": {**images, "root": "/home/me/images"}})
    root = tmp_path / "old"
    root.mkdir()
    (root / HEADER).write_text(json.dumps(old.to_json()))  # as it was written before
    assert read_header(root).spec == old.spec
    assert create_zoo(root, old).digest == old.digest  # the same build goes on
    new = tmp_path / "new"
    made = create_zoo(new, old)
    assert made.spec == {"images": images}
    assert "/home" not in (new / HEADER).read_text() + (new / COPY).read_text()
    assert create_zoo(new, replace(old, spec={"images": {**images, "root": "/elsewhere"}})) == made


def test_a_header_is_placed_once(toy: Any) -> None:
    with pytest.raises(InputError, match="no zoo here"):
        verify_zoo(toy.root.parent / "nowhere")
    first = (toy.root / HEADER).read_bytes()
    place_header(toy.root, replace(toy.header, name="late"))
    assert (toy.root / HEADER).read_bytes() == first
    assert isinstance(read_header(toy.root), ZooHeader)
    commit_block(toy.root, toy.block("a", (2, 3)))
