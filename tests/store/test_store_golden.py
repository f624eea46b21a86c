"""Zoos that were written once and are read for ever: every version of the format, every kind of encoding."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from zookeeper.compare import assert_equal
from zookeeper.store.caches import read_cache
from zookeeper.store.encoding import PLAIN
from zookeeper.store.header import FOLDERS, read_header
from zookeeper.store.records import cohort_progress, read_commits
from zookeeper.store.state import load_state
from zookeeper.store.writer import Block, commit_block
from zookeeper.zoo import open as open_zoo

GOLDEN = Path(__file__).parent / "golden"
SUFFIXES = (".json", ".parquet", ".h5", ".copy")
NAMES = sorted(path.parent.name for path in GOLDEN.glob("*/zoo.json"))


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a golden zoo; git keeps no empty folders, a zoo has them."""
    root = shutil.copytree(GOLDEN / request.param, tmp_path / request.param)
    for folder in FOLDERS:
        (root / folder).mkdir(exist_ok=True)
    return root


every = pytest.mark.parametrize("golden", NAMES, indirect=True)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """The weights of `make.row` as a type keeps them; only the last is not a multiple of 1/8."""
    stored = values.copy()
    if dtype == "bfloat16":
        stored[:, -1] = [{1: 0.333984375, 2: 0.66796875, 6: 2.0}[round(3 * v)] for v in values[:, -1].tolist()]
    if dtype == "float16":
        stored[:, -1] = [{1: 0.333251953125, 2: 0.66650390625, 6: 2.0}[round(3 * v)] for v in values[:, -1].tolist()]
    return stored


def test_the_corpus_is_whole_and_unchanged() -> None:
    assert len(NAMES) == 8
    files = sorted(path for path in GOLDEN.rglob("*") if path.is_file() and path.suffix in SUFFIXES)
    assert sum(path.stat().st_size for path in files) < 300_000
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(GOLDEN).as_posix()}" for path in files
    ]
    assert lines == (GOLDEN / "SHA256SUMS").read_text().splitlines()


@every
def test_a_golden_zoo_reads_exactly(golden: Path, maker: ModuleType) -> None:
    zoo = open_zoo(golden)
    pairs = [("aa", 0), ("aa", 1), ("aa", 5), ("bb", 0), ("bb", 1), ("bb", 5), ("cc", 0)]
    encoding = maker.ENCODINGS.get(golden.name, PLAIN)
    assert list(zip(zoo.frame["model_id"], zoo.frame["epoch"], strict=True)) == pairs
    assert {record.encoding for record in read_commits(golden)} == {encoding}
    expected = rounded(np.array([maker.row(*pair) for pair in pairs]), encoding.dtype)
    assert zoo.weights().tobytes() == expected.tobytes()
    frame = zoo.frame
    assert list(frame.columns) == ["model_id", "epoch", "lr", "init", "seed", "test_acc", "split", "status", "cohort"]
    assert frame["lr"].isna().tolist() == frame["init"].isna().tolist() == [model != "aa" for model, _ in pairs]
    assert set(frame["lr"].dropna()) == {0.1}
    assert set(frame["init"].dropna()) == {"größe"}
    assert frame["seed"].tolist() == [ord(model[0]) for model, _ in pairs]
    np.testing.assert_array_equal(zoo.column("test_acc"), [np.nan, 0.125, 0.625, np.nan, 0.125, 0.625, np.nan])
    assert zoo.layout.digest == maker.DIGEST
    assert zoo.state_dict("bb", 5)["fc.weight"].flatten().tolist() == expected[5, :6].tolist()


@every
def test_a_golden_zoo_goes_on_where_it_ended(golden: Path, maker: ModuleType) -> None:
    progress = cohort_progress(golden)
    assert progress["first"].final
    assert progress["second"].record is not None
    state = load_state(golden, progress["second"].record)
    assert (int(state["step"]), state["moment"].tolist()) == (0, [0.5, 0.0])
    block = Block("second", (1,), maker.row("cc", 1)[None, None], {"lr": [0.5]}, maker.DIGEST)
    record = commit_block(golden, block)
    assert record.encoding == read_header(golden).store
    assert len(open_zoo(golden)) == 8


@every
def test_caches_of_golden_zoos_are_current(golden: Path) -> None:
    finalised = (golden / "caches.json").exists()
    assert finalised == ("zstd" not in golden.name and "gzip" not in golden.name)
    assert (read_cache(golden, read_commits(golden)) is not None) == finalised


def test_lossless_golden_zoos_are_equal() -> None:
    first = open_zoo(GOLDEN / "parquet")
    for name in ("before-check", "parquet-copy", "parquet-zstd", "hdf5"):
        assert_equal(first, open_zoo(GOLDEN / name))


def test_the_versions_of_the_corpus() -> None:
    """What the oldest release wrote, and what is written now, side by side."""

    def record(name: str) -> dict[str, object]:
        value: dict[str, object] = json.loads((GOLDEN / name / "commits" / "first.000000.json").read_text())
        return value

    assert "check" not in json.loads((GOLDEN / "before-check" / "zoo.json").read_text())
    assert "check" in json.loads((GOLDEN / "parquet" / "zoo.json").read_text())
    copied = GOLDEN / "parquet-copy"
    assert [name for name in NAMES if (GOLDEN / name / "zoo.json.copy").exists()] == [copied.name]
    assert (copied / "zoo.json.copy").read_bytes() == (copied / "zoo.json").read_bytes()
    assert "copy" not in json.loads((GOLDEN / "parquet" / "zoo.json").read_text())
    assert [record(name)["format_version"] for name in ("before-check", "parquet", "hdf5")] == [1, 1, 2]
    assert sys.byteorder == "little"
