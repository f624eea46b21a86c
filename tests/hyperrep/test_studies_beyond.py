"""Studies beyond the papers: other splits of one zoo, claims about cells, and several studies in one cache."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest
import torch

import zookeeper
from hyperrep.studies import steps, table_study
from hyperrep.studies.benches import Bench
from hyperrep.studies.catalogue import (
    Found,
    Listed,
    beyond_studies,
    find_study,
    list_studies,
    load_table_study,
    missing_zoos,
)
from hyperrep.studies.claims import check_cells
from hyperrep.studies.findings import Scene
from hyperrep.studies.generative_measures import EnsembleSettings, unseen_zoos
from hyperrep.studies.locks import hold
from hyperrep.studies.table_config import ClaimSection, TableSection
from hyperrep.studies.table_study import Measured, Run, measure
from hyperrep.studies.table_writing import write_study
from hyperrep.studies.trainings import plan_trainings
from hyperrep.tasks.regroup import SplitScheme, resplit
from hyperrep.training.zoo import read_fit_data
from zookeeper.errors import InputError, SpecError
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.files import write_durable
from zookeeper.zoo import write_rows

STUDY = """
version: 1
name: mine
shows: beyond
title: two splits of one zoo
zoos:
  seeds: {spec: zoo.yaml}
  lr: {spec: zoo.yaml, split: {by: lr, seed: 0}}
trainings: {C + S: {config: training.yaml}}
epochs: [1, 2]
tasks: {probe: {untrained: 1}}
tables:
  - name: probes
    title: R2
    tasks: [probe]
    where: {measure: [score], property: [test_acc]}
    rows: [model]
    columns: [zoo]
claims:
  - {text: more than nothing, table: probes, cell: [W, seeds], at_least: -1000000.0}
  - {text: W is below itself less one, table: probes, cell: [W, seeds], at_most: -1000000.0}
  - {text: at itself, table: probes, cell: [W, lr], at_least: [W, lr]}
  - {text: of nobody, table: probes, cell: [W, nowhere], at_least: 0.0}
"""
ZOO = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.6, val: 0.2, test: 0.2}, seed: 0}
model: {architecture: mlp, activation: tanh, init: normal, dropout: 0}
training: {optimizer: adam, batch_size: 64, epochs: 2, weight_decay: 0}
grid:
  lr: [3e-2, 1e-2, 3e-3]
  seed: {range: [0, 10]}
split: {by: seed, train: 0.6, val: 0.2, test: 0.2, seed: 0}
"""
TRAINING = """
name: tiny
tokens: {width: 17}
model: {d_model: 8, num_heads: 2, num_layers: 1, latent: 3}
loss: {gamma: 0.05, beta: 1, queries: 16}
training: {steps: 40, batch_size: 8, lr: 1e-3, checkpoint_every: 10}
"""


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a study of one's own, its zoo and its training."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in (("mine.yaml", STUDY), ("zoo.yaml", ZOO), ("training.yaml", TRAINING)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(own: Path, cache: Path) -> Measured:
    torch.set_num_threads(1)
    return measure(Run(load_table_study(own / "mine.yaml"), "cpu", cache, say=quiet))


@pytest.fixture(scope="module")
def smoke_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("smoke")


@pytest.mark.parametrize("name", ["leak", "novelty", "one-epoch"])
def test_studies_run_at_scale_smoke(name: str, smoke_cache: Path, tmp_path: Path) -> None:
    assert name in beyond_studies()
    run = Run(load_table_study(find_study(name)), "smoke", smoke_cache, say=quiet)
    results, tables = write_study(run, measure(run), tmp_path)
    assert tables[0].title == "Claims"
    assert {claim["claim"] for claim in results["claims"]} == {claim.text for claim in run.found.study.claims}
    assert any(np.isfinite(claim["value"]) for claim in results["claims"])
    for section in run.found.study.tables:
        assert pd.read_csv(tmp_path / f"{section.name}.csv")["measured"].notna().any(), section.name
    for figure in run.found.study.figures:
        assert (tmp_path / f"{figure.name}.png").is_file(), figure.name


def test_claims_of_packaged_studies_name_cells_of_their_tables(smoke_cache: Path) -> None:
    """What scale smoke leaves out is misspelt nowhere else: labels of splits are those the tables are renamed to."""
    for name in ("leak", "novelty", "one-epoch"):
        study = load_table_study(find_study(name)).study
        for claim in study.claims:
            table = next(table for table in study.tables if table.name == claim.table)
            words = {*table.names.values(), *study.trainings, *(str(e) for e in (0, 1, 5, 10)), "W", "s(W)"}
            words |= {"from scratch", "pre-trained", "anchor + noise"}
            words |= {sampler for task in study.tasks.values() for sampler in task.get("samplers", {})}
            for cell in (claim.cell, claim.bound):
                if isinstance(cell, tuple):
                    assert {part for label in cell for part in label.split(" | ")} <= words, claim.text


def test_trainings_and_tasks_keep_to_the_split_of_their_zoo(own: Path, whole: Measured, cache: Path) -> None:
    found = load_table_study(own / "mine.yaml")
    path = Path(whole.zoos["lr"]["path"])
    assert whole.zoos["seeds"]["path"] == str(path)  # one zoo, built once
    benches = {
        "seeds": Bench("seeds", path, (1, 2)),
        "lr": Bench("lr", path, (1, 2), SplitScheme("lr", 0)),
    }
    stored, by_lr = benches["seeds"], benches["lr"]
    assert stored.identity != by_lr.identity
    values = {role: set(split.frame["lr"]) for role, split in by_lr.splits.items()}
    assert all(len(held) == 1 for held in values.values())
    assert len(set.union(*values.values())) == 3
    planned = plan_trainings(found, "cpu", benches, 1, cache)
    assert len({training.name for training in planned}) == 2
    assert all((training.folder / "model.safetensors").is_file() for training in planned)
    for bench in benches.values():
        data = read_fit_data(planned[0].config, bench.zoo)
        np.testing.assert_array_equal(data.rows.numpy(), bench.splits["train"].rows)
    probes = whole.facts.query("task == 'probe' and property == 'test_acc' and measure == 'score'")
    for name in ("W", "s(W)", "C + S"):
        both = probes[probes["model"] == name].set_index("zoo")["value"]
        assert both["seeds"] != both["lr"], name


def test_a_zoo_on_other_sides_is_the_same_zoo(whole: Measured) -> None:
    zoo = zookeeper.open(whole.zoos["seeds"]["path"])
    other = resplit(zoo, SplitScheme("seed", 3))
    assert zoo.frame.drop(columns="split").equals(other.frame.drop(columns="split"))
    np.testing.assert_array_equal(zoo.weights(), other.weights())
    assert (other.frame["split"] == SplitScheme("seed", 3).sides(zoo.frame)).all()
    assert not (other.frame["split"] == zoo.frame["split"]).all()
    train = other.split("train").query("epoch == 2")
    assert set(train.frame["split"]) == {"train"}
    assert resplit(zoo, SplitScheme()) is zoo
    with pytest.raises(InputError, match="expected 90 sides, one per checkpoint, got 2"):
        zoo.with_split(["train", "test"])
    with pytest.raises(InputError, match="no such factor"):
        resplit(zoo, SplitScheme("lrr"))


def test_claims_are_held_or_not_or_were_not_measured(own: Path, whole: Measured, tmp_path: Path) -> None:
    run = Run(load_table_study(own / "mine.yaml"), "cpu", tmp_path, say=quiet)
    results, tables = write_study(run, whole, tmp_path)
    assert [line[-1] for line in tables[0].rows] == ["held", "not held", "held", "not measured"]
    assert results["all_held"] is False
    page = (tmp_path / "README.md").read_text()
    assert "| claim | measured | expected | verdict |" in page
    assert page.index("## Claims") < page.index("## R2")
    assert json.loads((tmp_path / "results.json").read_text())["claims"][0]["held"] is True


def test_claims_count_in_the_unit_of_their_table() -> None:
    section = TableSection(name="t", title="t", tasks=("generate",), rows=("a",), columns=("b",), unit="%")
    table = pd.DataFrame({"row": ["x", "y"], "column": ["c", "c"], "measured": [75.0, 80.0]})
    wanted = [ClaimSection(text="x", table="t", cell=("x", "c"), at_least=("y", "c"))]
    (claim,) = check_cells(wanted, {"t": table}, {"t": section})
    assert (claim.value, claim.bound, claim.unit, claim.held) == (0.75, 0.80, "%", False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("table: probes, cell: [W, lr]", "table: probs, cell: [W, lr]", "no such table"),
        ("at_least: [W, lr]", "at_least: 0.0, at_most: 1.0", "has no one bound"),
        (", at_least: [W, lr]", "", "has no one bound"),
        ("split: {by: lr, seed: 0}", "split: {by: lrr}", "no such factor"),
        ("split: {by: lr, seed: 0}", "split: {bye: lr}", "Did you mean"),
    ],
)
def test_bad_claims_and_splits_are_one_clear_error(
    own: Path, cache: Path, whole: Measured, old: str, new: str, message: str
) -> None:
    (own / "bad.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises((InputError, SpecError), match=message):
        measure(Run(load_table_study(own / "bad.yaml"), "cpu", cache, say=quiet))


def test_a_list_says_by_scale_what_is_needed(own: Path) -> None:
    assert {listed.name for listed in list_studies()} > set(beyond_studies())
    (own / "few.yaml").write_text(
        STUDY.replace("tasks: {probe: {untrained: 1}}", "tasks: {probe: {}, unseen_zoos: {samplers: {a: {}}}}")
        + "scales: {smoke: {zoos: {}}, paper: {zoos: {seeds: {spec: zoo.yaml}}}}\n"
    )
    found: Found = load_table_study(own / "few.yaml")
    assert missing_zoos(found, "cpu") == ""
    assert missing_zoos(found, "smoke") == "--zoo PATH twice"
    assert missing_zoos(found, "paper") == "two zoos (--zoo PATH --zoo PATH) for unseen_zoos"
    with pytest.raises(InputError, match="has no zoo at scale smoke; expected another --scale, or --zoo PATH"):
        measure(Run(found, "smoke", own / "cache", say=quiet))
    assert Listed("a", "", "", {"smoke": "x", "cpu": "x"}).state == "not runnable yet: needs x"
    assert Listed("a", "", "", {"cpu": ""}).state == "runnable"


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", dedent(code)], stdout=subprocess.PIPE, text=True)


def test_who_waits_for_an_entry_says_for_whom(tmp_path: Path) -> None:
    code = f"""
        import time
        from pathlib import Path
        from hyperrep.studies.locks import hold
        with hold(Path({str(tmp_path)!r}), "trainings/a", print):
            print("held", flush=True)
            time.sleep(600)
    """
    said: list[str] = []
    with start(code) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with hold(tmp_path, "trainings/b", pytest.fail):
            pass  # another entry is free

        def stop_it(line: str) -> None:
            said.append(line)
            holder.send_signal(signal.SIGKILL)  # a dead holder holds nothing

        with hold(tmp_path, "trainings/a", stop_it):
            pass
    assert len(said) == 1
    assert f"waiting for process {holder.pid} on " in said[0]


def test_two_studies_at_once_share_a_cache(own: Path, whole: Measured, tmp_path: Path) -> None:
    """Every zoo, training and task is made once; the numbers are those of one study alone."""
    code = f"""
        import torch
        from pathlib import Path
        from hyperrep.studies.catalogue import load_table_study
        from hyperrep.studies.table_study import Run, measure
        torch.set_num_threads(1)
        facts = measure(Run(load_table_study(Path({str(own / "mine.yaml")!r})), "cpu", Path({str(tmp_path)!r}))).facts
        print("facts", facts.to_json(orient="split"))
    """
    both = [start(code), start(code)]
    outputs = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    lines = "\n".join(outputs).splitlines()
    facts = [line for line in lines if line.startswith("facts")]
    assert facts[0] == facts[1] == "facts " + whole.facts.to_json(orient="split")
    made = [line for line in lines if "step 40/40" in line or line.endswith(" ...") or "checkpoints, " in line]
    assert len(made) == len(set(made)) + made.count("probe ...") - 1, made
    assert made.count("probe ...") == 4  # two zoos and two trainings


def test_a_study_that_waits_takes_what_the_other_trained(own: Path, whole: Measured, cache: Path) -> None:
    """The lock of a training is taken by the process that trains, which looks again when it has it."""
    found = load_table_study(own / "mine.yaml")
    bench = Bench("seeds", Path(whole.zoos["seeds"]["path"]), (1, 2))
    training = plan_trainings(found, "cpu", {"seeds": bench}, 1, cache)[0]
    before = (training.folder / "result.json").stat().st_mtime_ns
    (cache / "steps" / f"{training.step.name}.json").unlink()  # as if killed between the training and its record
    again = measure(Run(found, "cpu", cache, say=quiet))
    assert (training.folder / "result.json").stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(again.facts, whole.facts)
    weights = training.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    (cache / "steps" / f"{training.step.name}.json").unlink()
    begin = time.monotonic_ns()
    again = measure(Run(found, "cpu", cache, say=quiet))
    assert (training.folder / "result.json").stat().st_mtime_ns > before, begin
    pd.testing.assert_frame_equal(again.facts, whole.facts)


def test_tasks_killed_at_any_write_end_the_same(
    own: Path, whole: Measured, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th attempt dies before its n-th write: in the middle of a task, before and after its record."""
    for part in ("zoos", "trainings", "steps"):
        shutil.copytree(cache / part, tmp_path / part)
    for record in (tmp_path / "steps").glob("tasks-*"):
        record.unlink()
    found, left = load_table_study(own / "mine.yaml"), 0

    def write(path: Path, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write_durable(path, data)

    for module in (steps, table_study):
        monkeypatch.setattr(module, "write_durable", write)
    for attempt in range(30):
        left = attempt
        try:
            ended = measure(Run(found, "cpu", tmp_path, say=quiet))
        except KeyboardInterrupt:
            continue
        break
    assert attempt > 3
    pd.testing.assert_frame_equal(ended.facts, whole.facts)


def test_a_training_of_another_architecture_is_refused(own: Path, whole: Measured, cache: Path) -> None:
    path = Path(whole.zoos["seeds"]["path"])
    training = next((cache / "trainings").glob("*/model.safetensors")).parent
    network = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight")})
    write_rows(own / "other", np.zeros((3, 6)), {"split": ["train", "val", "test"]}, network)
    assert Scene(Bench("seeds", path), {}, training).hyper.layout.num_weights == 100
    with pytest.raises(InputError, match="was trained on another architecture than"):
        Scene(Bench("seeds", own / "other"), {}, training).hyper  # noqa: B018


def test_zoos_of_another_layout_are_not_decoded(own: Path, whole: Measured, cache: Path, tmp_path: Path) -> None:
    path = Path(whole.zoos["seeds"]["path"])
    training = next((cache / "trainings").glob("*/model.safetensors")).parent
    network = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight")})
    write_rows(tmp_path / "coloured", np.zeros((3, 6)), {"split": ["train", "val", "test"]}, network)
    scene = Scene(Bench("seeds", path), {"coloured": Bench("coloured", tmp_path / "coloured")}, training)
    with pytest.raises(InputError, match="none of 100 weights in the same layers beside seeds"):
        unseen_zoos(scene, EnsembleSettings.model_validate({"samplers": {"kde": {"share": 1}}}))
