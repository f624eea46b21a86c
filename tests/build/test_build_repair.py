"""A damaged zoo is verified, repaired and built again, and holds the bits it held before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zookeeper import build_zoo, load_spec, make_plan
from zookeeper import open as open_zoo
from zookeeper.build import worker
from zookeeper.build.reevaluate import reevaluate_zoo
from zookeeper.compare import compare_zoos
from zookeeper.errors import InputError
from zookeeper.spec.plan import Plan
from zookeeper.store.convert import convert_zoo
from zookeeper.store.encoding import Encoding
from zookeeper.store.records import cohort_progress, read_commits
from zookeeper.store.repair import repair_zoo
from zookeeper.store.table import OK
from zookeeper.store.verify import verify_zoo
from zookeeper.store.writer import commit_rows

SPEC = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.5, val: 0.25, test: 0.25}, seed: 0}
model: {architecture: mlp, activation: tanh}
training: {optimizer: adam, batch_size: 64, epochs: 5}
grid: {lr: [1e-3, 3e-2], seed: {range: [0, 3]}}
checkpoints: {every: 1}
"""
Make = Callable[..., tuple[Plan, Path]]


@pytest.fixture(params=["parquet", "hdf5"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Build a zoo of two cohorts in which every epoch is a block."""
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1)

    def make(name: str = "zoo") -> tuple[Plan, Path]:
        path = tmp_path / "tiny.yaml"
        path.write_text(f"{SPEC}store: {{backend: {request.param}}}\n")
        plan = make_plan(load_spec(path), 3)
        build_zoo(plan, tmp_path / name, show_progress=False)
        return plan, tmp_path / name

    return make


def damage(root: Path, *keys: tuple[int, int]) -> None:
    """Flip a bit in the weights of blocks, given as number of the cohort and first epoch."""
    names = sorted(cohort_progress(root))
    for record in read_commits(root):
        if (names.index(record.cohort), record.first_epoch) in keys:
            assert record.spans is not None
            path = root / record.shard.file
            data = bytearray(path.read_bytes())
            data[record.spans.offsets[0] + 3] ^= 8
            path.write_bytes(data)


@pytest.mark.parametrize(
    "keys",
    [((0, 0),), ((0, 5),), ((1, 2),), ((0, 1), (0, 2), (0, 4), (1, 5)), tuple((1, epoch) for epoch in range(6))],
    ids=["first", "last", "middle", "several", "all of a cohort"],
)
def test_the_same_build_makes_lost_blocks_again(make: Make, keys: tuple[tuple[int, int], ...]) -> None:
    _, truth = make("truth")
    plan, root = make("zoo")
    damage(root, *keys)
    report = verify_zoo(root)
    assert len(report.findings) == len(keys)
    repair_zoo(root, report)
    kept = {record.file_name: record for record in read_commits(root)}
    assert len(kept) == 12 - len(keys)
    assert not all(progress.final for progress in cohort_progress(root).values())
    trained: list[int] = []
    summary = build_zoo(plan, root, show_progress=False)
    assert summary.complete, trained
    assert summary.failures == {}
    assert {name: record for record in read_commits(root) if (name := record.file_name) in kept} == kept
    assert [record.weights_xxh3 for record in read_commits(root)] == [r.weights_xxh3 for r in read_commits(truth)]
    assert set(compare_zoos(open_zoo(root), open_zoo(truth))) <= {"column wall_time"}
    assert verify_zoo(root, deep=True).clean
    assert reevaluate_zoo(root).findings == ()


def test_an_unfinished_cohort_whose_state_is_lost_starts_anew_and_keeps_its_rows(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies(BaseException):
        pass

    def stop(beat: Any) -> None:
        if beat.epoch == 3:
            raise Dies

    _, truth = make("truth")
    plan, _ = make("other")
    root = truth.parent / "unfinished"
    from zookeeper.build.job import prepare_zoo

    job = prepare_zoo(plan, root)[0]
    with pytest.raises(Dies):
        worker.build_cohort(job, stop)
    kept = read_commits(root)
    assert 2 <= len(kept) <= 4
    (state,) = (root / "state").iterdir()
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    repair_zoo(root, verify_zoo(root))
    assert build_zoo(plan, root, show_progress=False).complete
    assert read_commits(root)[: len(kept)] == kept
    assert set(compare_zoos(open_zoo(root), open_zoo(truth))) <= {"column wall_time"}


def swap_two_models(root: Path) -> tuple[str, str]:
    """Give two models each other's weights, in a block that is otherwise flawless."""
    record = read_commits(root)[5]
    assert record.first_epoch == 5
    zoo = open_zoo(root).query("cohort == @c and epoch == 5", c=record.cohort)
    order = np.argsort(zoo.column("test_loss"))
    rows, swapped = zoo.weights(), zoo.weights()
    swapped[[order[0], order[-1]]] = rows[[order[-1], order[0]]]
    for file in (record.shard.file, record.meta.file, f"commits/{record.file_name}"):
        (root / file).unlink()
    frame = zoo.frame.assign(status=OK)
    commit_rows(
        root,
        cohort=record.cohort,
        first_epoch=5,
        last_epoch=5,
        rows=swapped,
        table={str(name): frame[name] for name in frame},
        layout=record.layout,
        trajectory=1,
        state=None,
        final=True,
        encoding=record.encoding,
    )
    return tuple(zoo.frame["model_id"].iloc[[order[0], order[-1]]])  # type: ignore[return-value]


def test_rows_whose_metrics_are_not_theirs_are_found(make: Make) -> None:
    _, root = make()
    sound = reevaluate_zoo(root, sample=1000)
    assert (sound.findings, sound.num_rows) == ((), 36)
    assert sound.largest < 1e-5
    swapped = swap_two_models(root)
    assert verify_zoo(root, deep=True).clean  # every hash and every table is in order
    found = reevaluate_zoo(root, sample=1000).findings
    assert {finding.kind for finding in found} == {"metrics"}
    assert {finding.lost.models[0] for finding in found if finding.lost is not None} == set(swapped)
    assert all(finding.lost is not None and finding.lost.epochs == (5,) for finding in found)
    assert "stored test_loss" in " ".join(finding.what for finding in found)


def test_sixteen_bits_are_no_contradiction(make: Make, tmp_path: Path) -> None:
    _, root = make()
    for dtype in ("float16", "bfloat16"):
        convert_zoo(root, tmp_path / dtype, Encoding(dtype=dtype))
        again = reevaluate_zoo(tmp_path / dtype, sample=1000)
        assert again.findings == ()
        assert again.largest > 0


def test_a_sample_is_seeded_and_reaches_every_cohort(make: Make) -> None:
    _, root = make()
    assert reevaluate_zoo(root, sample=1).num_rows == 2
    assert reevaluate_zoo(root, sample=7, seed=1) == reevaluate_zoo(root, sample=7, seed=1)


def test_a_zoo_without_a_spec_says_so(make: Make, tmp_path: Path) -> None:
    from zookeeper import write_rows

    _, root = make()
    zoo = open_zoo(root)
    sampled = write_rows(tmp_path / "sampled", zoo.weights(), None, zoo.layout)
    with pytest.raises(InputError, match="was not made from a spec"):
        reevaluate_zoo(sampled.path)
    assert json.loads((sampled.path / "zoo.json").read_text())["spec"] is None
