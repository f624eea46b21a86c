"""``zookeeper leaks``: what the sides of a split, or two zoos, share; and ``query`` at a URL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

import zookeeper

Run = Callable[..., Any]


def test_leaks_of_the_stored_split(run: Run, zoo: Path) -> None:
    ended = run("leaks", zoo, "--weights")
    assert ended.code == 0
    assert ended.out == (
        "train (4 models) and val (4 models) share\n"
        "  4 configurations, of 4 and 4 models: init=normal lr=0.001; init=normal lr=0.003; init=uniform lr=0.001; "
        "init=uniform lr=0.003\n"
        "train (4 models) and test (4 models) share\n"
        "  4 configurations, of 4 and 4 models: init=normal lr=0.001; init=normal lr=0.003; init=uniform lr=0.001; "
        "init=uniform lr=0.003\n"
        "val (4 models) and test (4 models) share\n"
        "  4 configurations, of 4 and 4 models: init=normal lr=0.001; init=normal lr=0.003; init=uniform lr=0.001; "
        "init=uniform lr=0.003\n"
    )


def test_leaks_between_two_zoos(run: Run, zoo: Path) -> None:
    ended = run("leaks", zoo, zoo, "--query", "lr < .002", "--json")
    assert ended.code == 0
    (pair,) = json.loads(ended.out)
    assert pair["sides"] == [str(zoo), str(zoo)]
    assert pair["models"] == [6, 6]
    assert {leak["kind"]: len(leak["shared"]) for leak in pair["leaks"]} == {
        "model": 6,
        "seed": 3,
        "initial draw": 6,
        "configuration": 2,
    }


def test_mistakes(run: Run, zoo: Path, tmp_path: Path) -> None:
    assert run("leaks", tmp_path / "nothing").code == 2
    bare = zookeeper.write_rows(tmp_path / "bare", zookeeper.open(zoo)[:2].weights(), None, zookeeper.open(zoo).layout)
    ended = run("leaks", bare.path)
    assert (ended.code, ended.out) == (2, "")
    assert "the zoo has no split" in ended.err
    assert run("query", "nonsense://host", "epoch == 1").code == 2


def test_a_query_at_a_url(run: Run, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = fsspec.filesystem("memory")
    files.put(str(zoo), "/tiny", recursive=True)
    try:
        there, here = (run("query", path, "epoch == 3", "--csv") for path in ("memory://tiny", zoo))
    finally:
        files.rm("/tiny", recursive=True)
    assert there.code == 0
    assert there.out == here.out
