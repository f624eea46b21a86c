"""Verify finds every flipped bit, truncation and contradiction; repair loses nothing that can be kept."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zookeeper.compare import assert_equal
from zookeeper.errors import InputError
from zookeeper.store.caches import finalise
from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.files import hash_bytes
from zookeeper.store.findings import Report
from zookeeper.store.header import CohortEntry, create_zoo
from zookeeper.store.parquet import encode_table
from zookeeper.store.records import cohort_progress, read_commits
from zookeeper.store.repair import repair_zoo
from zookeeper.store.verify import verify_zoo
from zookeeper.store.writer import commit_block
from zookeeper.zoo import open as open_zoo

MakeToy = Callable[..., Any]
ENCODINGS = [PLAIN, Encoding(compression="zstd"), Encoding("hdf5"), Encoding("hdf5", "bfloat16", "gzip")]


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def mended(root: Path, **options: Any) -> Report:
    """The report after a repair."""
    repair_zoo(root, verify_zoo(root, **options), orphans_after=0)
    return verify_zoo(root, **options)


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


@pytest.fixture
def toy(make_toy: MakeToy) -> Any:
    """Cohort b is complete, cohort a has a training state."""
    toy = make_toy()
    toy.fill(((0, 1), (2, 3)))
    commit_block(toy.root, toy.block("b", (4, 5)))
    finalise(toy.root)
    return toy


def test_a_sound_zoo_is_clean(toy: Any) -> None:
    for deep in (False, True):
        report = verify_zoo(toy.root, deep=deep)
        assert report.clean, report.findings
        assert report.num_rows == 30
        assert report.num_files == 5 * 3 + 1 + 3
        assert any("1 of 2 cohort(s) are not complete" in note for note in report.notes)
    assert repair_zoo(toy.root, report) == ()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in Path(__file__).parent.glob("golden/*/zoo.json")))
def test_golden_zoos_are_clean(name: str) -> None:
    assert verify_zoo(Path(__file__).parent / "golden" / name, deep=True).clean


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, toy_type: Any) -> list[Path]:
    """Tiny finished zoos, one per encoding; an unfinished cohort leaves a training state."""
    roots = []
    for number, encoding in enumerate(ENCODINGS):
        toy = toy_type(tmp_path_factory.mktemp("sound") / str(number), encoding=encoding).create()
        toy.fill(((0, 1),))
        finalise(toy.root)
        roots.append(toy.root)
    return roots


def means_the_same(before: bytes, after: bytes) -> bool:
    """Whether two JSON texts hold one value: 1e-05 and 1E-05, or the case of a digit in an escape. Nothing else."""
    try:
        return bool(json.loads(before) == json.loads(after))
    except ValueError:
        return False


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(ENCODINGS) - 1), st.integers(0, 2**32), st.integers(0, 2**32), st.integers(0, 7))
def test_every_flipped_bit_is_reported(sound: list[Path], which: int, file: int, place: int, bit: int) -> None:
    root = sound[which]
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = files[file % len(files)]
    before, times = path.read_bytes(), path.stat()
    try:
        flip(path, place % len(before), bit)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # rot leaves no trace in the times
        report = verify_zoo(root)
        assert not report.clean or (path.suffix == ".json" and means_the_same(before, path.read_bytes())), path
        where = " ".join(f"{finding.where} {finding.what}" for finding in report.findings)
        assert report.clean or path.name in where
    finally:
        path.write_bytes(before)
    assert verify_zoo(root).clean


def test_truncated_emptied_holed_and_missing_files_are_reported(toy: Any) -> None:
    files = sorted(path for path in toy.root.rglob("*") if path.is_file())
    assert len(files) == 21
    for path in files:
        data = path.read_bytes()
        for damaged in (b"", data[:-1], data[: len(data) // 2], data[:8] + bytes(64) + data[72:], data + b"\0", None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            report = verify_zoo(toy.root, orphans_after=0)
            if damaged is None and path.parent.name == "state":
                assert any("training state after epoch 3 is not there" in note for note in report.notes)
            else:
                assert not report.clean, path
        path.write_bytes(data)
    assert verify_zoo(toy.root).clean


def test_flipped_weights_name_the_models_that_are_hurt(toy: Any) -> None:
    record = next(one for one in read_commits(toy.root) if one.key == ("a", 2))
    assert record.spans is not None
    flip(toy.root / record.shard.file, record.spans.offsets[1] + 9)
    (finding,) = verify_zoo(toy.root).findings
    assert (finding.kind, finding.where) == ("shard", record.shard.file)
    assert finding.lost is not None
    assert (finding.lost.models, finding.lost.epochs) == (("a001",), (2, 3))
    assert "checksums place the damage in 1 of its models" in finding.what
    assert f"expected xxh3 {record.shard.xxh3}, got" in finding.what
    (toy.root / record.shard.file).unlink()
    (finding,) = verify_zoo(toy.root).findings
    assert finding.lost is not None
    assert (finding.lost.models, finding.lost.epochs) == (("a000", "a001", "a002"), (2, 3))


def test_a_lost_block_goes_to_quarantine_and_can_be_made_again(toy: Any) -> None:
    truth = open_zoo(shutil.copytree(toy.root, toy.root.parent / "copy"))
    record = next(one for one in read_commits(toy.root) if one.key == ("b", 2))
    assert record.spans is not None
    flip(toy.root / record.shard.file, record.spans.offsets[0])
    report = mended(toy.root)
    (finding,) = report.findings
    assert (finding.kind, finding.where) == ("gap", "b")
    assert finding.lost is not None
    assert (finding.lost.models, finding.lost.epochs) == (("b000", "b001", "b002"), (2, 3))
    assert "Run the same build again" in finding.remedy
    assert any("quarantine/ holds 3 file(s)" in note for note in report.notes)
    assert sorted(path.name for path in (toy.root / "quarantine").rglob("*.json")) == [record.file_name]
    zoo = open_zoo(toy.root)
    assert len(zoo) == 24
    assert zoo.model("b000").frame["epoch"].tolist() == [0, 1, 4, 5]
    assert zoo.query("model_id == 'b001' and epoch == 4").weights()[0].tobytes() == toy.expected("b", 1, 4).tobytes()
    progress = cohort_progress(toy.root)["b"]
    assert (progress.last_epoch, progress.final) == (1, False)
    with pytest.raises(InputError, match="overlap with the block that starts at 4"):
        commit_block(toy.root, toy.block("b", (2, 3, 4)))
    commit_block(toy.root, toy.block("b", (2, 3)))
    assert cohort_progress(toy.root)["b"].final
    finalise(toy.root)
    assert verify_zoo(toy.root, deep=True).clean
    assert_equal(open_zoo(toy.root), truth)


def test_a_damaged_or_missing_table_is_made_again_from_the_shard(toy: Any) -> None:
    truth = open_zoo(shutil.copytree(toy.root, toy.root.parent / "copy"))
    first, second = read_commits(toy.root)[:2]
    flip(toy.root / first.meta.file, 100)
    (toy.root / second.meta.file).unlink()
    assert kinds(verify_zoo(toy.root)) == {"table"}
    assert mended(toy.root, deep=True).clean
    assert_equal(open_zoo(toy.root), truth)
    assert [one.meta for one in read_commits(toy.root)[:2]] == [first.meta, second.meta]


def test_damage_beside_the_weights_of_a_shard_costs_nothing(toy: Any) -> None:
    truth = open_zoo(shutil.copytree(toy.root, toy.root.parent / "copy"))
    record = read_commits(toy.root)[0]
    with (toy.root / record.shard.file).open("ab") as file:
        file.write(b"\0")
    report = verify_zoo(toy.root)
    (finding,) = report.findings
    if finding.lost is None:  # HDF5 finds its way; Parquet looks for its footer at the end of the file
        assert "proves right" in finding.remedy
        assert mended(toy.root, deep=True).clean
        assert_equal(open_zoo(toy.root), truth)
    else:
        assert toy.encoding.backend == "parquet"


def test_a_damaged_record_is_made_again_from_its_files(toy: Any) -> None:
    truth = open_zoo(shutil.copytree(toy.root, toy.root.parent / "copy"))
    records = read_commits(toy.root)
    for number, record in enumerate(records):
        path = toy.root / "commits" / record.file_name
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if number % 2 else data.replace(b'"num_rows": 6', b'"num_rows": 9'))
    report = verify_zoo(toy.root, orphans_after=0)
    assert kinds(report) == {"record"}  # their files are no orphans: a damaged record may have named them
    assert mended(toy.root, deep=True).clean
    retired = [record for record in records if record.state is not None and record.key != ("a", 2)]
    expected = tuple(replace(record, state=None) if record in retired else record for record in records)
    assert read_commits(toy.root) == expected
    assert_equal(open_zoo(toy.root), truth)
    (toy.root / records[0].shard.file).unlink()
    (toy.root / "commits" / records[0].file_name).write_bytes(b"{}")
    assert kinds(mended(toy.root, orphans_after=0)) == {"gap"}


def test_a_damaged_state_is_set_aside_and_rows_stay(toy: Any) -> None:
    (state,) = (toy.root / "state").iterdir()
    flip(state, -1)
    report = verify_zoo(toy.root)
    assert kinds(report) == {"state"}
    repair_zoo(toy.root, report)
    after = verify_zoo(toy.root)
    assert after.clean
    assert any("cohort a: the training state after epoch 3 is not there" in note for note in after.notes)
    assert len(open_zoo(toy.root)) == 30


def test_caches_are_made_again(toy: Any) -> None:
    for name in ("caches.json", "checkpoints.parquet", "models.parquet"):
        (toy.root / name).unlink()
        assert kinds(verify_zoo(toy.root)) == {"cache"}
        assert mended(toy.root).clean
        flip(toy.root / name, 40)
        assert kinds(verify_zoo(toy.root)) == {"cache"}
        assert mended(toy.root).clean
    commit_block(toy.root, toy.block("a", (4, 5)))
    assert verify_zoo(toy.root).clean  # of an earlier state of the zoo, which is no damage


def test_orphans_are_found_when_old_and_noted_when_young(toy: Any) -> None:
    for name in ("shards/.tmp-1-x", "shards/a.000000-dead.parquet", "meta/x.parquet", "commits/.tmp-2.json"):
        (toy.root / name).write_bytes(b"half")
    young = verify_zoo(toy.root)
    assert young.clean
    assert any("4 young file(s)" in note for note in young.notes)
    old = verify_zoo(toy.root, orphans_after=0)
    assert [finding.kind for finding in old.findings] == ["orphan"] * 4
    assert mended(toy.root, orphans_after=0).clean


def test_a_missing_record_is_a_gap_or_leaves_orphans(toy: Any) -> None:
    (toy.root / "commits" / "b.000000.json").unlink()
    found = verify_zoo(toy.root, orphans_after=0)
    assert kinds(found) == {"gap", "orphan"}
    (gap,) = [finding for finding in found.findings if finding.kind == "gap"]
    assert gap.lost is not None
    assert gap.lost.epochs == (0, 1)
    (toy.root / "commits" / "b.000004.json").unlink()
    found = verify_zoo(toy.root, orphans_after=0)
    assert kinds(found) == {"gap", "orphan"}
    assert any("cohort b: the training state after epoch 3 is not there" in note for note in found.notes)


def test_duplicate_rows_are_reported(make_toy: MakeToy) -> None:
    toy = make_toy()
    shared = CohortEntry(("x", "y", "z"), (0, 1))
    root = toy.root.parent / "shared"
    create_zoo(root, replace(toy.header, cohorts={"b": shared, "a": shared}))
    for cohort in ("b", "a"):
        commit_block(root, toy.block(cohort, (0, 1), state=None))
    (finding,) = verify_zoo(root).findings
    assert finding.kind == "duplicate"
    assert "6 checkpoint(s) are stored more than once: x epoch 0, x epoch 1" in finding.what


def forge(root: Path, **changes: Any) -> None:
    """Replace a record by one that is wrong but carries its own right check."""
    record = replace(read_commits(root)[0], **changes)
    (root / "commits" / record.file_name).write_bytes(record.to_bytes())


@pytest.mark.parametrize(
    ("changes", "message", "deep"),
    [
        ({"layout": "other"}, "layout 'other' is not in the header", False),
        ({"num_rows": 5}, "the table has 6 lines; the record says 5", False),
        ({"last_epoch": 3}, "epochs 0 to 1 are not those", False),
        ({"final": True}, "final is True", False),
        ({"weights_xxh3": "0" * 32}, "expected 6 rows with xxh3 0000", True),
    ],
)
def test_records_that_lie_are_caught(toy: Any, changes: dict[str, Any], message: str, deep: bool) -> None:
    forge(toy.root, **changes)
    report = verify_zoo(toy.root, deep=deep)
    kind = "content" if deep else "contradiction"
    assert any(finding.kind == kind and message in finding.what for finding in report.findings), report.findings
    if not deep:  # nothing is damaged: a repair leaves every block where it is
        assert repair_zoo(toy.root, report) == ()


def test_deep_compares_spans_tables_and_status(toy: Any) -> None:
    record = read_commits(toy.root)[0]
    assert record.spans is not None
    moved = replace(record.spans, offsets=tuple(offset - 1 for offset in record.spans.offsets))
    forge(toy.root, spans=moved)
    assert verify_zoo(toy.root).clean
    assert "spans do not lead to the weights" in verify_zoo(toy.root, deep=True).findings[0].what
    rows = toy.rows("a", (4, 5))
    rows[0, 0, 0] = np.nan
    table = {**toy.block("a", (4, 5)).table, "status": ["ok"] * 6}
    commit_block(toy.root, toy.block("a", (4, 5), rows=rows, table=table))
    assert "1 row(s) are not finite but not flagged as diverged, first a000 epoch 4" in " ".join(
        finding.what for finding in verify_zoo(toy.root, deep=True).findings
    )
    other = read_commits(toy.root)[1]
    data = (toy.root / other.meta.file).read_bytes()
    forged = replace(record, spans=record.spans, meta=replace(record.meta, size=len(data), xxh3=hash_bytes(data)))
    (toy.root / record.meta.file).write_bytes(data)
    (toy.root / "commits" / record.file_name).write_bytes(forged.to_bytes())
    found = " ".join(finding.what for finding in verify_zoo(toy.root, deep=True).findings)
    assert "its own table is not that of" in found


def test_a_damaged_header_is_a_finding_and_no_zoo_is_bad_input(toy: Any) -> None:
    (toy.root / "zoo.json").unlink()
    assert "header" in kinds(verify_zoo(toy.root))
    with pytest.raises(InputError, match="no zoo here"):
        verify_zoo(toy.root.parent)


def test_a_zoo_that_grows_is_clean_at_every_look(make_toy: MakeToy) -> None:
    toy = make_toy(num_epochs=24)
    writer = threading.Thread(
        target=lambda: [commit_block(toy.root, toy.block("a", (e, e + 1))) for e in range(0, 24, 2)]
    )
    writer.start()
    seen = []
    while writer.is_alive() or not seen:
        report = verify_zoo(toy.root)
        assert report.clean, report.findings
        seen.append(report.num_rows)
    writer.join()
    assert seen == sorted(seen)
    assert verify_zoo(toy.root, deep=True).num_rows == 72


def test_a_table_that_is_none_is_a_finding(toy: Any) -> None:
    data = encode_table(pa.table({"lr": [0.1]}))
    record = read_commits(toy.root)[0]
    (toy.root / record.meta.file).write_bytes(data)
    forge(toy.root, meta=replace(record.meta, size=len(data), xxh3=hash_bytes(data)))
    assert "not a table of checkpoints" in verify_zoo(toy.root).findings[0].what
    assert mended(toy.root, deep=True).clean


def test_any_damage_to_any_blocks_is_repaired_to_something_true(toy: Any) -> None:
    """Whatever is damaged together: after a repair, what is read is right, and what is absent is named."""
    truth = open_zoo(shutil.copytree(toy.root, toy.root.parent / "copy"))
    lines = zip(truth.frame["model_id"], truth.frame["epoch"], truth.weights(), strict=True)
    rows = {(model, epoch): weights.tobytes() for model, epoch, weights in lines}
    draw = random.Random(0)
    for turn in range(12):
        root = shutil.copytree(truth.path, toy.root.parent / f"turn{turn}")
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        for path in draw.sample(files, 4):
            flip(path, draw.randrange(path.stat().st_size), draw.randrange(8))
        report = mended(root, deep=True)
        assert kinds(report) <= {"gap"}
        zoo = open_zoo(root)
        for model, epoch, weights in zip(zoo.frame["model_id"], zoo.frame["epoch"], zoo.weights(), strict=True):
            assert weights.tobytes() == rows[model, epoch]
        lost = {(m, e) for f in report.findings if f.lost is not None for m in f.lost.models for e in f.lost.epochs}
        absent = rows.keys() - set(zip(zoo.frame["model_id"], zoo.frame["epoch"], strict=True))
        tail = {(m, e) for m, e in absent - lost if e > max((x for n, x in rows.keys() - absent if n == m), default=-1)}
        assert absent == lost | tail
