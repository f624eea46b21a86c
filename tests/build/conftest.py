"""Tiny specs that build in a fraction of a second, and what a stored zoo holds, keyed by model and epoch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import zookeeper
from zookeeper import Plan, Zoo, build_zoo, load_spec, make_plan

TETRIS: dict[str, Any] = {
    "version": 1,
    "name": "tiny",
    "images": {"name": "tetris", "split": {"train": 0.5, "val": 0.25, "test": 0.25}, "seed": 0},
    "model": {"architecture": "mlp", "activation": "tanh"},
    "training": {"optimizer": "adam", "batch_size": 64, "epochs": 6},
    "grid": {"init": ["uniform", "normal"], "lr": [1e-3, 3e-3], "seed": {"range": [0, 3]}},
    "checkpoints": {"every": 1},
    "split": {"by": "seed", "train": 0.4, "val": 0.3, "test": 0.3, "seed": 0},
    "build": {"cohort_size": 6},
}
DIGITS: dict[str, Any] = {
    **TETRIS,
    "name": "tiny_digits",
    "images": {"name": "digits", "split": {"train": 0.1, "val": 0.1, "test": 0.8}, "seed": 0},
    "model": {"architecture": "cnn-digits", "activation": "relu"},
    "training": {"optimizer": "adam", "batch_size": 32, "epochs": 3},
    "build": {"cohort_size": 12},
}

MakePlan = Callable[..., Plan]
Contents = Mapping[tuple[str, int], bytes]


@pytest.fixture(autouse=True, scope="session")
def no_fsync() -> Iterator[None]:
    """Leave the disk alone: these tests kill processes, not machines, and fsync is most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remember measurements in a folder of this run: what a home remembers decides nothing here, and stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def write_spec() -> Callable[..., Path]:
    """Write a spec with sections replaced: ``write_spec(path, base, grid={...})``; return the path."""

    def write(path: Path, base: str = "tetris", **sections: Any) -> Path:
        path.write_text(yaml.safe_dump({**(DIGITS if base == "digits" else TETRIS), **sections}, sort_keys=False))
        return path

    return write


@pytest.fixture
def plan_of(write_spec: Callable[..., Path], tmp_path: Path) -> MakePlan:
    def make(base: str = "tetris", **sections: Any) -> Plan:
        return make_plan(load_spec(write_spec(tmp_path / "spec.yaml", base, **sections)))

    return make


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], Contents]:
    """The bytes of every stored row, by model and epoch."""

    def read(root: Path) -> Contents:
        zoo = zookeeper.open(root)
        keys = zip(zoo.frame["model_id"], zoo.frame["epoch"].tolist(), strict=True)
        return {key: row.tobytes() for key, row in zip(keys, zoo.weights(), strict=True)}

    return read


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], Mapping[str, tuple[str, int]]]:
    """Hash and time of change of every file below a folder."""

    def read(root: Path) -> Mapping[str, tuple[str, int]]:
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {
            str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in files
        }

    return read


@pytest.fixture(scope="session", params=["tetris", "digits"])
def built(
    request: pytest.FixtureRequest, write_spec: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, Zoo]:
    """A plan and the zoo built from it in this process."""
    folder = tmp_path_factory.mktemp(request.param)
    plan = make_plan(load_spec(write_spec(folder / "spec.yaml", request.param)))
    summary = build_zoo(plan, folder / "zoo", show_progress=False)
    assert summary.failures == {}
    return plan, zookeeper.open(summary.path)
