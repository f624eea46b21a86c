"""What reading and opening may hold: a batch and one decoded group, and text as categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from zookeeper.nets.layout import WeightLayout
from zookeeper.store.caches import CACHES, CHECKPOINTS, read_frame
from zookeeper.store.encoding import Encoding
from zookeeper.store.header import read_header
from zookeeper.store.records import read_commits
from zookeeper.store.shards import rows_per_group
from zookeeper.store.table import widen
from zookeeper.zoo import Zoo, write_rows
from zookeeper.zoo import open as open_zoo

ROWS, WIDTH, BATCH = 6000, 2000, 100
MEGABYTE = 1 << 20
LAYOUT = WeightLayout.from_shapes({"fc.weight": ((1, WIDTH), "weight")})


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def growth_of_reading(zoo: Zoo) -> int:
    """The most this process held above now while all rows were read, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = status("VmRSS")
    total = sum(len(batch.weights) for batch in zoo.batches(BATCH))
    assert total == len(zoo)
    return status("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the peak memory of a Linux process")
@pytest.mark.parametrize(
    "encoding",
    [Encoding(), Encoding("hdf5"), Encoding(compression="zstd"), Encoding("hdf5", compression="gzip"),
     Encoding(dtype="bfloat16")],
    ids=lambda encoding: "-".join(encoding.to_json().values()),
)  # fmt: skip
def test_reading_in_batches_holds_a_batch_and_not_the_zoo(encoding: Encoding, tmp_path: Path) -> None:
    rows = np.zeros((ROWS, WIDTH), np.float32)
    rows[:, ::7] = np.random.default_rng(0).standard_normal((ROWS, len(range(0, WIDTH, 7))), np.float32)
    write_rows(tmp_path / "zoo", rows, None, LAYOUT, store=encoding)
    zoo = open_zoo(tmp_path / "zoo")
    next(iter(zoo.batches(BATCH)))  # what is loaded on first use
    assert rows.nbytes > 44 * MEGABYTE
    assert growth_of_reading(zoo) < 16 * MEGABYTE  # a batch is 0.8 MB, a decoded group 4 MB


def test_decoders_of_other_shards_keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zookeeper.store.collection._SHARD_BYTES", 40 * 4 * WIDTH)
    rows = np.random.default_rng(0).standard_normal((200, WIDTH), np.float32)
    zoo = write_rows(tmp_path / "zoo", rows, None, LAYOUT, store=Encoding(compression="zstd"))
    assert zoo.take(np.arange(0, 200, 7)).weights().tobytes() == np.ascontiguousarray(rows[::7]).tobytes()
    decoders = zoo._reader._decoders.values()  # type: ignore[attr-defined]
    assert len(decoders) == 5
    assert sum(decoder._last is not None for decoder in decoders) == 1


def test_a_group_is_bounded_whatever_the_network() -> None:
    for width in (100, 11_000_000, 60_000_000):
        assert rows_per_group(500, 50, width) * 4 * width <= max(64 * MEGABYTE, 4 * width)


def test_text_is_categories_inside_and_text_outside(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "model_id": [f"m{number // 4}" for number in range(12)],
            "epoch": np.tile(np.arange(4), 3),
            "init": ["normal", None, "uniform", "größe"] * 3,
            "other": ["normal"] * 12,
            "note": [None] * 12,
            "maybe": [True, None] * 6,
            "test_acc": np.linspace(0, 1, 12),
        }
    )
    zoo = write_rows(tmp_path / "zoo", np.zeros((12, WIDTH)), table, LAYOUT)
    inside, _ = read_frame(zoo.path, read_header(zoo.path), read_commits(zoo.path))
    assert {name for name, kind in inside.dtypes.items() if kind == "category"} >= {"model_id", "init", "cohort"}
    pd.testing.assert_frame_equal(zoo.frame[list(table.columns)], table[zoo.frame[list(table.columns)].columns])
    pd.testing.assert_frame_equal(widen(zoo.frame), zoo.frame)
    assert zoo.models.dtypes.equals(zoo.frame.dtypes)
    assert len(zoo.query("init == other")) == 3
    assert len(zoo.query("init < 'o' and init.isna() == False")) == 6
    assert len(zoo.query("init.str.contains('form') or epoch == 0")) == 6
    (zoo.path / CACHES).unlink()
    pd.testing.assert_frame_equal(open_zoo(zoo.path).frame, zoo.frame)
    pd.testing.assert_frame_equal(open_zoo(zoo.path).query("epoch > 1").frame, zoo.query("epoch > 1").frame)


def test_a_frame_that_is_changed_changes_nobody_else(tmp_path: Path) -> None:
    zoo = write_rows(tmp_path / "zoo", np.zeros((3, WIDTH)), {"test_acc": [0.1, 0.2, 0.3], "init": ["a"] * 3}, LAYOUT)
    frame = zoo.frame
    frame.loc[0, "test_acc"] = 5.0
    frame["init"] = "b"
    assert zoo.frame["test_acc"].tolist() == [0.1, 0.2, 0.3]
    assert zoo.frame["init"].unique().tolist() == ["a"]


def test_views_of_views_find_their_lines(tmp_path: Path) -> None:
    zoo = write_rows(tmp_path / "zoo", np.arange(20.0)[:, None] * np.ones(WIDTH), {"seed": np.arange(20)}, LAYOUT)
    view = zoo.query("seed > 3").take([5, 2, 5, 0])[1:]
    assert view.frame["seed"].tolist() == [6, 9, 4] == view.weights()[:, 0].astype(int).tolist()
    assert view.query("seed < 7").frame.index.tolist() == [0, 1]


def test_the_cache_is_one_row_group(tmp_path: Path) -> None:
    zoo = write_rows(tmp_path / "zoo", np.zeros((3, WIDTH)), None, LAYOUT)
    assert pq.ParquetFile(zoo.path / CHECKPOINTS).num_row_groups == 1
