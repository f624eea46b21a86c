"""``zookeeper ls``, ``diff``, ``report`` and the formats of ``query``: golden outputs, exit codes, one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zookeeper
from zookeeper import Encoding, WeightLayout, build_zoo, listing, write_rows
from zookeeper.build import prepare_zoo
from zookeeper.difference import find_differences
from zookeeper.report import sample
from zookeeper.spec import load_spec, make_plan

Run = Callable[..., Any]
LAYOUT = WeightLayout.from_shapes({"fc.weight": ((1, 2), "weight")})
TABLE = {
    "model_id": ["m0", "m0", "m1", "m1"],
    "epoch": [0, 1, 0, 1],
    "init": ["normal", "normal", "uniform", "uniform"],
    "lr": [0.1, 0.1, 0.01, 0.01],
    "test_acc": [0.125, 0.75, 0.25, float("nan")],
}
ROWS = np.array([[1, 2], [3, 4], [5, 6], [7, np.inf]])


def store(path: Path, rows: Any = ROWS, encoding: Encoding | None = None, **changes: Any) -> Path:
    write_rows(path, rows, {**TABLE, **changes}, LAYOUT, name="toy", store=encoding or Encoding())
    return path


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return store(Path("zoos/toy"))


QUERY = {
    "--table": (
        "model_id  epoch  test_acc\n      m0      1      0.75\n      m1      0      0.25\n      m1      1       NaN\n"
    ),
    "--csv": "model_id,epoch,test_acc\nm0,1,0.75\nm1,0,0.25\nm1,1,\n",
    "--json": (
        '{"model_id":"m0","epoch":1,"test_acc":0.75}\n{"model_id":"m1","epoch":0,"test_acc":0.25}\n'
        '{"model_id":"m1","epoch":1,"test_acc":null}\n'
    ),
}


@pytest.mark.parametrize("form", QUERY)
def test_query_in_every_format(form: str, run: Run, toy: Path) -> None:
    ended = run("query", toy, "epoch == 1 or lr < .05", "--columns", "model_id,epoch,test_acc", form)
    assert (ended.code, ended.out, ended.err) == (0, QUERY[form], "")
    default = run("query", toy, "epoch == 1 or lr < .05", "--columns", "model_id,epoch,test_acc")
    assert default.out == QUERY["--table"]


def test_query_wants_one_format(run: Run, toy: Path) -> None:
    ended = run("query", toy, "epoch == 1", "--json", "--csv", "--table")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: --json and --csv and --table: 3 formats at once; expected one. Choose one.\n"


def test_info_names_size_and_storage(run: Run, toy: Path) -> None:
    value = json.loads(run("info", toy, "--json").out)
    assert value["store"] == {"backend": "parquet", "dtype": "float32", "compression": "none"}
    assert value["bytes"] == sum(path.stat().st_size for path in toy.rglob("*") if path.is_file())
    assert (value["diverged"], value["models"], value["images"]) == (1, 2, None)


LISTING = """\
zoo              kind     models  checkpoints  size     state
zoos/broken               0       0            12.3 kB  damaged
zoos/deep/begun  trained  0       0            12.3 kB  empty
zoos/part        trained  6       24           12.3 kB  partial, 50% of 48
zoos/toy         sampled  2       4            12.3 kB  complete
"""


def test_ls_finds_zoos_at_any_depth(run: Run, toy: Path, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_zoo(make_plan(load_spec(spec)), Path("zoos/deep/begun"))
    build_zoo(make_plan(load_spec(spec), 6), Path("zoos/part"), show_progress=False)
    records = sorted(Path("zoos/part/commits").iterdir())
    for record in records:
        if record.name.startswith(records[0].name.partition(".")[0]):  # one of two cohorts
            record.unlink()
    Path("zoos/broken").mkdir()
    Path("zoos/broken/zoo.json").write_text("{")
    Path("zoos/not a zoo").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(listing, "folder_bytes", lambda path: 12_345)
        ended = run("ls", "zoos")
    assert (ended.code, ended.out) == (0, LISTING)
    assert ended.err.startswith("damaged: zoos/broken/zoo.json")
    value = json.loads(run("ls", "zoos", "--json").out)
    assert [entry["state"] for entry in value] == ["damaged", "empty", "partial", "complete"]
    assert value[2]["num_planned"] == 48
    assert value[3] == {
        "path": "zoos/toy", "name": "toy", "kind": "sampled", "state": "complete", "num_models": 2,
        "num_checkpoints": 4, "num_planned": 4, "problem": "",
        "num_bytes": sum(path.stat().st_size for path in toy.rglob("*") if path.is_file()),
    }  # fmt: skip


def test_ls_of_a_zoo_of_nothing_and_of_no_folder(run: Run, toy: Path) -> None:
    assert "zoos/toy" in run("ls", toy).out
    Path("empty").mkdir()
    ended = run("ls", "empty")
    assert (ended.code, ended.out, ended.err) == (0, "", "no zoo at or below empty\n")
    assert json.loads(run("ls", "empty", "--json").out) == []
    for bad in ("absent", "zoos/toy/zoo.json"):
        ended = run("ls", bad)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert "expected a folder with zoos below it" in ended.err


def test_equal_zoos_are_equal_however_they_are_stored(run: Run, toy: Path) -> None:
    for name, encoding in (("hdf5", Encoding("hdf5")), ("zstd", Encoding("parquet", "float64", "zstd"))):
        other = store(Path(name), encoding=encoding, wall_time=[1.0, 2.0, 3.0, 4.0])
        ended = run("diff", toy, other)
        assert (ended.code, ended.out, ended.err) == (0, "equal: 4 checkpoints\n", "")
        assert json.loads(run("diff", toy, other, "--json").out)["equal"] is True


DIFFERENCE = """\
only in zoos/toy: 1 checkpoints
only in other: 2 checkpoints, 1 models (m2)
only in other: columns val_acc
of 3 checkpoints in both:
column    differ  at most  model  epoch
init      1       -        m0     1
test_acc  2       0.5      m0     1
weights   2       0.25     m0     1
"""


def test_diff_says_what_differs_and_by_how_much(run: Run, toy: Path) -> None:
    changed = {
        "model_id": ["m0", "m0", "m1", "m2", "m2"],
        "epoch": [0, 1, 0, 0, 1],
        "init": ["normal", "uniform", "uniform", "normal", "normal"],
        "lr": [0.1, 0.1, 0.01, 1.0, 1.0],
        "test_acc": [0.125, 0.25, 0.375, 0.0, 0.0],
        "val_acc": [0.0] * 5,
    }
    other = store(Path("other"), [[1, 2], [3, 4.25], [4.875, 6], [0, 0], [0, 0]], **changed)
    ended = run("diff", toy, other)
    assert (ended.code, ended.out, ended.err) == (1, DIFFERENCE, "")
    ended = run("diff", toy, other, "--json")
    value = json.loads(ended.out)
    assert ended.code == 1
    assert value["equal"] is False
    assert (value["models_first"], value["models_second"], value["num_shared"]) == ([], ["m2"], 3)
    assert value["weights"] == {
        "column": "weights", "num_checkpoints": 2, "largest": 0.25, "model_id": "m0", "epoch": 1
    }  # fmt: skip
    assert value["columns"][0]["largest"] is None


def test_diff_of_specs_names_every_place(run: Run, zoo: Path, spec: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(spec.read_text().replace("lr: [1e-3, 3e-3]", "lr: [1e-3, 2e-3]") + "build: {cohort_size: 3}\n")
    prepare_zoo(make_plan(load_spec(other)), tmp_path / "other")
    ended = run("diff", zoo, tmp_path / "other")
    assert ended.code == 1
    assert ended.out.splitlines()[0] == "spec.grid.lr: [0.001, 0.003] -> [0.001, 0.002]"
    assert "build" not in ended.out
    assert f"only in {zoo}: 48 checkpoints, 12 models (" in ended.out


def test_nan_equals_nan_and_nothing_else(toy: Path) -> None:
    same = zookeeper.open(store(Path("same")))
    assert find_differences(zookeeper.open(toy), same).equal
    rows = ROWS.copy()
    rows[3, 1] = np.nan
    found = find_differences(zookeeper.open(toy), zookeeper.open(store(Path("nan"), rows)))
    assert found.weights is not None
    assert (found.weights.num_checkpoints, found.weights.model_id, found.weights.epoch) == (1, "m1", 1)
    assert np.isnan(found.weights.largest)


def test_diff_of_other_layouts(toy: Path) -> None:
    layout = WeightLayout.from_shapes({"fc.weight": ((2, 1), "weight")})
    other = write_rows(Path("turned"), ROWS, TABLE, layout, name="toy")
    found = find_differences(zookeeper.open(toy), other)
    assert found.weights is not None
    assert found.weights.num_checkpoints == 4
    assert len(found.changes) == 2  # each zoo has a layout that the other has not


def test_diff_of_bad_input_is_code_2(run: Run, toy: Path) -> None:
    broken = store(Path("broken"))
    shard = next((broken / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-100])
    for other in (Path("absent"), broken):
        ended = run("diff", toy, other)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert ended.err.startswith("error: ")


def test_report_writes_a_page_beside_the_zoo(run: Run, toy: Path) -> None:
    ended = run("report", toy)
    page = Path(ended.out.strip())
    assert (ended.code, page.resolve()) == (0, Path("zoos/toy.html").resolve())
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    ended = run("report", toy, "--out", "page.html", "--color", "lr")
    assert (ended.code, ended.out) == (0, "page.html\n")
    assert sorted(path.name for path in toy.iterdir()) == sorted(path.name for path in store(Path("as new")).iterdir())


def test_report_with_bad_input_is_one_error_and_code_2(run: Run, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample.util, "find_spec", lambda name: None)
    for arguments, fragment in (
        (["--color", "intt"], "Did you mean init"),
        (["--map", "tsne"], "expected pca or umap"),
        (["--map", "umap"], "pip install umap-learn"),
        (["--out", "page.png"], "ends in .html"),
        (["--out", "nowhere/page.html"], "there is no folder nowhere"),
    ):
        ended = run("report", toy, *arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert fragment in ended.err
    assert run("report", "absent").code == 2
    assert not Path("zoos/toy.html").exists()
