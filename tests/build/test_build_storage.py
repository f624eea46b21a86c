"""A spec may say how rows are stored; it changes no model, no metric and no training state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zookeeper import build_zoo, load_spec, make_plan
from zookeeper import open as open_zoo
from zookeeper.compare import assert_equal
from zookeeper.spec import ZooSpec
from zookeeper.store.encoding import Encoding
from zookeeper.store.records import read_commits

SPEC = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.5, val: 0.25, test: 0.25}, seed: 0}
model: {architecture: mlp, activation: tanh}
training: {optimizer: adam, batch_size: 64, epochs: 2}
grid: {lr: [1e-3, 3e-3], seed: {range: [0, 2]}}
checkpoints: {every: 1}
"""


def load(folder: Path, store: str = "") -> ZooSpec:
    path = folder / "tiny.yaml"
    path.write_text(SPEC + store)
    return load_spec(path)


@pytest.mark.parametrize(
    ("store", "encoding"),
    [
        ("store: {backend: hdf5}", Encoding("hdf5")),
        ("store: {compression: zstd}", Encoding(compression="zstd")),
        ("store: {backend: hdf5, dtype: bfloat16, compression: gzip}", Encoding("hdf5", "bfloat16", "gzip")),
    ],
)
def test_the_spec_chooses_the_store_and_nothing_else(tmp_path: Path, store: str, encoding: Encoding) -> None:
    plain, other = load(tmp_path), load(tmp_path, store)
    assert plain.digest == other.digest
    assert ZooSpec.from_json(other.to_json()) == other
    assert "store" not in plain.to_json()
    for name, spec in (("plain", plain), ("other", other)):
        build_zoo(make_plan(spec), tmp_path / name, show_progress=False)
    one, two = open_zoo(tmp_path / "plain"), open_zoo(tmp_path / "other")
    assert [model for cohort in make_plan(other).cohorts for model in cohort.models] == [
        model for cohort in make_plan(plain).cohorts for model in cohort.models
    ]
    assert {record.encoding for record in read_commits(two.path)} == {encoding}
    if encoding.dtype == "float32":
        assert one.weights().tobytes() == two.weights().tobytes()
        assert compare_without_time(one, two)
    else:
        assert np.allclose(one.weights(), two.weights(), rtol=2**-8)
        assert one.column("test_acc").tolist() == two.column("test_acc").tolist()


def compare_without_time(one: object, two: object) -> bool:
    from zookeeper.compare import compare_zoos

    return set(compare_zoos(one, two)) <= {"column wall_time"}  # type: ignore[arg-type]


def test_a_zoo_keeps_its_store_when_it_is_resumed(tmp_path: Path) -> None:
    build_zoo(make_plan(load(tmp_path, "store: {backend: hdf5}")), tmp_path / "zoo", show_progress=False)
    before = open_zoo(tmp_path / "zoo")
    summary = build_zoo(make_plan(load(tmp_path)), tmp_path / "zoo", show_progress=False)
    assert summary.complete
    assert_equal(open_zoo(tmp_path / "zoo"), before)
    assert open_zoo(tmp_path / "zoo").header.store == Encoding("hdf5")
