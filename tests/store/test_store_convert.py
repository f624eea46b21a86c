"""Conversion keeps everything but the bytes of shards, says what it rounds, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zookeeper.compare import assert_equal
from zookeeper.errors import InputError, StoreError
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.caches import finalise
from zookeeper.store.convert import convert_zoo
from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.records import read_commits
from zookeeper.store.state import load_state
from zookeeper.zoo import open as open_zoo
from zookeeper.zoo import write_rows

MakeToy = Callable[..., Any]
LAYOUT = WeightLayout.from_shapes({"fc.weight": ((5, 4), "weight")})
OTHERS = [
    Encoding("hdf5"),
    Encoding(compression="zstd"),
    Encoding("hdf5", compression="gzip"),
    Encoding(dtype="float64"),
]


def mixed_columns(count: int) -> dict[str, Any]:
    return {"lr": [0.1, None] * (count // 2), "note": [None] * count, "test_acc": [float("nan"), 0.5] * (count // 2)}


@pytest.mark.parametrize("encoding", OTHERS, ids=str)
def test_there_and_back_is_the_same_zoo(make_toy: MakeToy, encoding: Encoding) -> None:
    toy = make_toy()
    toy.fill(((0, 1), (2, 3)))
    finalise(toy.root)
    there, back = toy.root.parent / "there", toy.root.parent / "back"
    done = convert_zoo(toy.root, there, encoding)
    assert (done.num_rows, done.num_changed, done.lossy) == (24, 0, False)
    assert {record.encoding for record in read_commits(there)} == {encoding}
    convert_zoo(there, back, toy.encoding)
    assert_equal(open_zoo(toy.root), open_zoo(there))
    assert_equal(open_zoo(toy.root), open_zoo(back))
    first, last = read_commits(toy.root), read_commits(back)
    assert [one.weights_xxh3 for one in first] == [one.weights_xxh3 for one in last]
    assert [one.meta for one in first] == [one.meta for one in last]
    assert [one.spans for one in first] == [one.spans for one in last]
    history = open_zoo(back).header.provenance["converted"]
    assert [step["from"][0][0] for step in history] == [toy.encoding.backend, encoding.backend]


def test_a_converted_unfinished_zoo_goes_on(make_toy: MakeToy) -> None:
    from zookeeper.store.writer import commit_block

    toy = make_toy()
    toy.fill(((0, 1),))
    other = toy.root.parent / "other"
    convert_zoo(toy.root, other, Encoding("hdf5", compression="gzip"))
    assert load_state(other, read_commits(other)[0])["moment"].tolist() == [1.0] * 4
    commit_block(other, toy.block("a", (2, 3)))
    assert {record.encoding.compression for record in read_commits(other)} == {"gzip"}


def test_nulls_and_nan_stay_apart(tmp_path: Path) -> None:
    rows = np.ones((4, LAYOUT.num_weights), np.float32)
    zoo = write_rows(tmp_path / "a", rows, mixed_columns(4), LAYOUT, name="toy")
    convert_zoo(zoo.path, tmp_path / "b", Encoding("hdf5"))
    assert_equal(zoo, open_zoo(tmp_path / "b"))
    assert read_commits(zoo.path)[0].meta == read_commits(tmp_path / "b")[0].meta


def test_loss_is_counted(tmp_path: Path) -> None:
    rows = np.zeros((2, LAYOUT.num_weights), np.float32)
    rows[0, :4] = [1.0, 0.1, 70000.0, np.nan]
    zoo = write_rows(tmp_path / "a", rows, None, LAYOUT)
    done = convert_zoo(zoo.path, tmp_path / "b", Encoding(dtype="float16"))
    assert (done.lossy, done.num_changed, done.num_overflowed) == (True, 2, 1)
    assert done.largest_change == pytest.approx(float(np.float32(0.1)) - float(np.float16(0.1)), abs=1e-9)
    converted = open_zoo(tmp_path / "b")
    assert converted.header.provenance["converted"][0]["lossy"] is True
    assert converted.frame["status"].tolist() == zoo.frame["status"].tolist()
    assert convert_zoo(converted.path, tmp_path / "c", PLAIN).lossy is False


def test_nothing_appears_if_the_source_is_damaged_or_the_target_taken(make_toy: MakeToy) -> None:
    toy = make_toy().fill(((0, 1),))
    other = toy.root.parent / "other"
    path = toy.root / read_commits(toy.root)[1].shard.file
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(StoreError, match=path.name):
        convert_zoo(toy.root, other, Encoding("hdf5"))
    assert [entry.name for entry in toy.root.parent.iterdir()] == ["zoo"]
    path.write_bytes(data)
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="already exists"):
        convert_zoo(toy.root, other, Encoding("hdf5"))
    with pytest.raises(InputError, match="no zoo here"):
        convert_zoo(other, toy.root.parent / "third", Encoding("hdf5"))


KILLED = """
import os, signal, sys
from pathlib import Path
from zookeeper.store.convert import convert_zoo
from zookeeper.store.encoding import Encoding
convert_zoo(Path(sys.argv[1]), Path(sys.argv[2]), Encoding("hdf5"), lambda r: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_conversion_leaves_no_zoo_and_can_be_repeated(make_toy: MakeToy) -> None:
    toy = make_toy().fill(((0, 1), (2, 3)))
    other = toy.root.parent / "other"
    done = subprocess.run([sys.executable, "-c", KILLED, toy.root, other], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not other.exists()
    left = [name for name in os.listdir(toy.root.parent) if name != "zoo"]
    assert len(left) == 1
    assert left[0].startswith(".tmp-")
    convert_zoo(toy.root, other, Encoding("hdf5"))
    assert_equal(open_zoo(toy.root), open_zoo(other))


@pytest.mark.parametrize("backend", ["parquet"])
def test_the_command_says_what_it_did(make_toy: MakeToy, backend: str) -> None:
    toy = make_toy().fill()
    finalise(toy.root)
    program = str(Path(sys.executable).with_name("zookeeper"))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [program, "convert", str(toy.root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    done = run(
        str(toy.root.parent / "a"), "--backend", "hdf5", "--dtype", "bfloat16", "--compression", "gzip", "--json"
    )
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert (report["backend"], report["dtype"], report["compression"]) == ("hdf5", "bfloat16", "gzip")
    assert report["lossy"]
    assert "weights changed" in done.stderr
    done = run(str(toy.root.parent / "b"), "--backend", "parquet", "--compression", "zstd")
    assert (done.returncode, "every bit of every weight" in done.stdout) == (0, True)
    assert "lossy" not in done.stderr
    done = run(str(toy.root.parent / "b"), "--backend", "parquet", "--compression", "gzip")
    assert (done.returncode, done.stderr) == (
        2,
        "error: compression: parquet has no 'gzip'; expected none or zstd.\n",
    )
