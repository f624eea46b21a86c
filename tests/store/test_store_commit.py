"""Round trips, identities and refusals of committed blocks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zookeeper.errors import InputError, StoreError
from zookeeper.store.caches import finalise, read_cache, read_frame
from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.header import CohortEntry, ZooHeader, create_zoo, read_header
from zookeeper.store.metadata import read_tables
from zookeeper.store.orphans import collect_orphans, find_orphans
from zookeeper.store.reader import RowReader
from zookeeper.store.records import cohort_progress, read_commits, read_record
from zookeeper.store.shards import encode_shard, open_shard, rows_per_group
from zookeeper.store.state import load_state
from zookeeper.store.table import make_table
from zookeeper.store.writer import AlreadyCommitted, commit_block

MakeToy = Callable[..., Any]


def read_all(toy: Any) -> tuple[pd.DataFrame, np.ndarray]:
    records = read_commits(toy.root)
    frame, rows = read_frame(toy.root, read_header(toy.root), records)
    out = np.empty((len(rows), toy.num_weights), np.float32)
    RowReader(toy.root, records).read(rows, out)
    return frame, out


def check_all(toy: Any) -> pd.DataFrame:
    frame, weights = read_all(toy)
    for line, row in zip(frame.itertuples(), weights, strict=True):
        expected = toy.expected(line.model_id[0], int(line.model_id[1:]), line.epoch)
        assert row.tobytes() == expected.tobytes()
    return frame


def test_round_trip_is_exact_and_ordered_by_header_then_epoch(make_toy: MakeToy) -> None:
    toy = make_toy().fill()
    frame = check_all(toy)
    assert list(frame["model_id"].unique()) == ["b000", "b001", "b002", "a000", "a001", "a002"]
    assert all(group["epoch"].tolist() == [0, 1, 2, 3, 4, 5] for _, group in frame.groupby("model_id"))
    assert frame["status"].unique().tolist() == ["ok"]
    assert frame["cohort"].tolist() == [model[0] for model in frame["model_id"]]


def test_nan_payloads_survive_and_mark_the_row_as_diverged(make_toy: MakeToy) -> None:
    toy = make_toy()
    rows = toy.rows("a", (0, 1))
    rows[1, 0] = np.array([0x7FC00001, 0xFFC12345, 0x7F800000, 0x80000000, 1, 0, 2], np.uint32).view(np.float32)
    commit_block(toy.root, toy.block("a", (0, 1), rows=rows))
    frame, weights = read_all(toy)
    assert weights.tobytes() == rows.tobytes()
    assert frame["status"].tolist() == ["ok", "ok", "diverged", "ok", "ok", "ok"]


def test_recorded_offsets_hold_the_floats(make_toy: MakeToy) -> None:
    toy = make_toy().fill()
    for record in read_commits(toy.root):
        data = (toy.root / record.shard.file).read_bytes()
        rows = toy.rows(record.cohort, tuple(range(record.first_epoch, record.last_epoch + 1)))
        assert record.spans is not None
        assert record.spans.rows == (2, 2, 2)
        for model, offset in enumerate(record.spans.offsets):
            assert data[offset : offset + rows[model].nbytes] == rows[model].tobytes()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["parquet", "hdf5"]),
    st.integers(1, 40),
    st.integers(1, 90),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
)
def test_spans_hold_the_floats_for_any_shape(backend: str, num_rows: int, width: int, group: int, seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2**32, (num_rows, width), dtype=np.uint32)
    rows = bits.view(np.float32)
    columns = {"model_id": [f"m{i}" for i in range(num_rows)], "epoch": np.arange(num_rows)}
    table = make_table(columns, rows, cohort="c")
    data, spans = encode_shard(rows, table, group=group, encoding=Encoding(backend), layout="lay")
    assert spans is not None
    assert sum(spans.rows) == num_rows
    found = b"".join(bytes(data[o : o + 4 * width * n]) for o, n in zip(spans.offsets, spans.rows, strict=True))
    assert found == rows.tobytes()


def test_long_shards_group_trajectories() -> None:
    assert rows_per_group(10 * 5000, 10, 5) * 1024 >= 50_000
    assert rows_per_group(10 * 5000, 10, 5) % 10 == 0


def test_reader_without_spans_decodes_the_same(make_toy: MakeToy) -> None:
    toy = make_toy().fill()
    records = read_commits(toy.root)
    mixed = tuple(replace(r, spans=None) if n % 2 else r for n, r in enumerate(records))
    numbers = np.random.default_rng(0).integers(0, sum(r.num_rows for r in records), 50)
    out, plain = np.empty((50, 7), np.float32), np.empty((50, 7), np.float32)
    RowReader(toy.root, mixed).read(numbers, out)
    RowReader(toy.root, records).read(numbers, plain)
    assert out.tobytes() == plain.tobytes()
    implausible = tuple(replace(r, spans=replace(r.spans, offsets=(10**9,) * 3)) for r in records if r.spans)
    RowReader(toy.root, implausible).read(numbers, out)
    assert out.tobytes() == plain.tobytes()


def test_few_open_files_suffice(make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zookeeper.store.reader._MAX_OPEN", 2)
    check_all(make_toy().fill())


def test_shards_are_ordinary_parquet(make_toy: MakeToy) -> None:
    toy = make_toy(encoding=PLAIN).fill()
    record = read_commits(toy.root)[0]
    path = toy.root / record.shard.file
    frame = pd.read_parquet(path)
    assert np.stack(frame["weights"].to_list()).tobytes() == toy.rows("a", (0, 1)).tobytes()
    assert frame["test_acc"].dtype == np.float64
    table = pq.read_table(path)
    assert str(table.schema.field("weights").type).startswith("fixed_size_list<element: float not null>[7]")
    shard = open_shard(path, 7, record.encoding)
    assert b"".join(shard.read_group(n).tobytes() for n in range(3)) == toy.rows("a", (0, 1)).tobytes()


def test_state_lives_only_with_the_newest_unfinished_block(make_toy: MakeToy) -> None:
    toy = make_toy()
    assert all(p.last_epoch is None and not p.final for p in cohort_progress(toy.root).values())
    first = commit_block(toy.root, toy.block("a", (0, 1)))
    second = commit_block(toy.root, toy.block("a", (2, 3)))
    state = load_state(toy.root, second)
    assert state["moment"].tolist() == [3.0] * 4
    assert state["step"].shape == ()
    assert len(list((toy.root / "state").iterdir())) == 1
    with pytest.raises(StoreError, match="gone"):
        load_state(toy.root, first)
    progress = cohort_progress(toy.root)
    assert (progress["a"].last_epoch, progress["a"].final, progress["b"].record) == (3, False, None)
    last = commit_block(toy.root, toy.block("a", (4, 5)))
    assert last.final
    assert last.state is None
    assert list((toy.root / "state").iterdir()) == []
    assert cohort_progress(toy.root)["a"].final
    with pytest.raises(StoreError, match="no training state"):
        load_state(toy.root, last)


def test_damaged_state_is_found(make_toy: MakeToy) -> None:
    toy = make_toy()
    record = commit_block(toy.root, toy.block("a", (0, 1)))
    assert record.state is not None
    path = toy.root / record.state.file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged training state"):
        load_state(toy.root, record)


def test_first_commit_wins_and_the_loser_leaves_nothing(make_toy: MakeToy) -> None:
    toy = make_toy()
    record = commit_block(toy.root, toy.block("a", (0, 1)))
    files = sorted(path.name for path in (toy.root / "shards").iterdir())
    table = dict(toy.block("a", (0, 1)).table)
    with pytest.raises(AlreadyCommitted) as same:
        commit_block(toy.root, toy.block("a", (0, 1), table={**table, "wall_time": [1.0] * 6}))
    assert same.value.same_weights
    assert same.value.record == record
    with pytest.raises(AlreadyCommitted, match="different weights") as other:
        commit_block(toy.root, toy.block("a", (0, 1), rows=toy.rows("a", (0, 1)) + 1))
    assert not other.value.same_weights
    assert sorted(path.name for path in (toy.root / "shards").iterdir()) == files
    assert find_orphans(toy.root, older_than=0) == ()
    check_all(toy)


def test_threads_racing_for_a_block_commit_it_once(make_toy: MakeToy) -> None:
    toy = make_toy()
    start = threading.Barrier(6)
    outcomes: list[str] = []

    def race(number: int) -> None:
        table = {"wall_time": [float(number % 3)] * 6}
        start.wait()
        try:
            commit_block(toy.root, toy.block("a", (0, 1), table=table))
            outcomes.append("won")
        except AlreadyCommitted as error:
            outcomes.append("same" if error.same_weights else "different")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["same"] * 5 + ["won"]
    check_all(toy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cohort": "c"}, "no such cohort"),
        ({"layout": "other"}, "unknown layout"),
        ({"epochs": (0, 2)}, "do not follow"),
        ({"epochs": (7,)}, "do not follow"),
        ({"epochs": (2, 3)}, "must start at epoch 0"),
        ({"rows": np.zeros((3, 2, 7))}, "float32"),
        ({"rows": np.zeros((2, 2, 7), np.float32)}, r"\[3, 2, P\]"),
        ({"table": {"lr": [1.0] * 5}}, "5 values; expected 6"),
        ({"table": {"lr": 0.1}}, "sequence"),
        ({"table": {"lr": [[1]] * 6}}, "expected numbers"),
        ({"table": {"lr": [1, "a"] * 3}}, "mixes types"),
        ({"table": {"weights": [1] * 6}}, "reserved"),
        ({"table": {"epoch": [0] * 6}}, "in order"),
        ({"state": {"x": np.array(["text"])}}, "numbers"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(make_toy: MakeToy, changes: dict[str, Any], message: str) -> None:
    toy = make_toy()
    with pytest.raises(InputError, match=message):
        commit_block(toy.root, toy.block("a", (0, 1)).__class__(**{**vars(toy.block("a", (0, 1))), **changes}))
    assert read_commits(toy.root) == ()
    assert find_orphans(toy.root, older_than=0) == ()


def test_integers_and_floats_meet_as_floats(make_toy: MakeToy) -> None:
    toy = make_toy()
    commit_block(toy.root, toy.block("a", (0, 1), table={"lr": [1] * 6, "init": ["normal"] * 6}))
    commit_block(toy.root, toy.block("b", (0, 1), table={"lr": [0.5] * 6}))
    frame, _ = read_all(toy)
    assert set(frame["lr"]) == {1.0, 0.5}
    assert frame["init"].isna().sum() == 6
    commit_block(toy.root, toy.block("a", (2,), rows=toy.rows("a", (2,)), table={"lr": ["high"] * 3}))
    with pytest.raises(StoreError, match="column types"):
        read_all(toy)


def test_header_round_trip_and_resume(make_toy: MakeToy) -> None:
    toy = make_toy()
    stored = read_header(toy.root)
    assert stored.digest == toy.header.digest
    assert stored.created
    assert "numpy" in stored.packages
    assert create_zoo(toy.root, toy.header) == stored
    changed = replace(toy.header, spec={"grid": {"lr": [0.1, 0.3], "seed": 1}})
    with pytest.raises(StoreError, match=r"spec\.grid\.lr\[1\]: stored 0\.2, new 0\.3; spec\.grid\.seed"):
        create_zoo(toy.root, changed)


def test_header_refuses_foreign_directories_and_names(make_toy: MakeToy) -> None:
    toy = make_toy()
    other = toy.root.parent / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        create_zoo(other, toy.header)
    with pytest.raises(InputError, match="is a file"):
        create_zoo(other / "thesis.tex", toy.header)
    with pytest.raises(InputError, match="no zoo here"):
        read_header(other)
    with pytest.raises(InputError, match="file name"):
        ZooHeader("x", {"../a": CohortEntry(("m",), (0,))}, {})
    with pytest.raises(InputError, match="increase"):
        CohortEntry(("m",), (0, 0))


def test_unknown_versions_are_named(make_toy: MakeToy) -> None:
    toy = make_toy().fill(((0, 1),))
    path = toy.root / "zoo.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "format_version": 9}))
    with pytest.raises(StoreError, match="version 9"):
        read_header(toy.root)
    record = next(iter((toy.root / "commits").iterdir()))
    record.write_text(json.dumps({**json.loads(record.read_text()), "format_version": 3}))
    with pytest.raises(StoreError, match="unknown record"):
        read_record(record)


def test_records_cannot_point_outside(make_toy: MakeToy) -> None:
    toy = make_toy().fill(((0, 1),))
    record = read_commits(toy.root)[0]
    evil = replace(record, shard=replace(record.shard, file="shards/../../secret"))
    path = toy.root / "commits" / record.file_name
    path.write_bytes(evil.to_bytes())
    with pytest.raises(StoreError, match="damaged commit record"):
        read_commits(toy.root)
    path.write_bytes(replace(record, first_epoch=2).to_bytes())
    with pytest.raises(StoreError, match="belongs to"):
        read_commits(toy.root)


def test_repeated_rows_resolve_to_the_first_block(make_toy: MakeToy) -> None:
    toy = make_toy()
    shared = CohortEntry(("x", "y", "z"), (0, 1))
    root = toy.root.parent / "shared"
    create_zoo(root, replace(toy.header, cohorts={"b": shared, "a": shared}))
    for cohort in ("b", "a"):
        commit_block(root, toy.block(cohort, (0, 1), state=None))
    records = read_commits(root)
    for _ in range(2):
        frame, rows = read_frame(root, read_header(root), records)
        assert frame["cohort"].unique().tolist() == ["a"]
        assert len(frame) == 6
        out = np.empty((6, 7), np.float32)
        RowReader(root, records).read(rows, out)
        assert out.tobytes() == toy.rows("a", (0, 1)).tobytes()
        finalise(root)


def test_caches_are_used_when_current_and_ignored_when_stale_or_damaged(make_toy: MakeToy) -> None:
    toy = make_toy().fill(((0, 1), (2, 3)))
    finalise(toy.root)
    records = read_commits(toy.root)
    assert read_cache(toy.root, records) is not None
    for file in (toy.root / "meta").iterdir():
        file.rename(file.with_suffix(".hidden"))
    check_all(toy)  # read from the cache alone
    for file in (toy.root / "meta").iterdir():
        file.rename(file.with_suffix(".parquet"))
    commit_block(toy.root, toy.block("a", (4, 5)))
    assert read_cache(toy.root, read_commits(toy.root)) is None
    assert len(check_all(toy)) == 30
    finalise(toy.root)
    records = read_commits(toy.root)
    assert read_cache(toy.root, records) is not None
    models = pd.read_parquet(toy.root / "models.parquet")
    assert dict(zip(models["model_id"], models["epoch"], strict=True)) == {
        **{f"a00{n}": 5 for n in range(3)},
        **{f"b00{n}": 3 for n in range(3)},
    }
    path = toy.root / "checkpoints.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert read_cache(toy.root, records) is None
    path.unlink()
    assert len(check_all(toy)) == 30


def test_an_empty_zoo_finalises_and_reads(make_toy: MakeToy) -> None:
    toy = make_toy()
    assert read_tables(toy.root, ()).num_rows == 0
    finalise(toy.root)
    frame, weights = read_all(toy)
    assert len(frame) == len(weights) == 0


def test_orphans_are_ignored_then_collected(make_toy: MakeToy) -> None:
    toy = make_toy().fill(((0, 1),))
    kept = sorted(path for path in toy.root.rglob("*") if path.is_file())
    strays = ["shards/.tmp-1-x", "shards/a.000000-dead.parquet", "meta/q.parquet", "state/old", "commits/.tmp-2.json"]
    for name in strays:
        (toy.root / name).write_bytes(b"half")
    check_all(toy)
    assert collect_orphans(toy.root, older_than=3600) == ()
    assert len(collect_orphans(toy.root, older_than=0)) == len(strays)
    assert sorted(path for path in toy.root.rglob("*") if path.is_file()) == kept
    with pytest.raises(InputError, match="seconds"):
        find_orphans(toy.root, older_than=-1)
