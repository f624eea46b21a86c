"""Studies of the papers' tables and figures: they all run at scale smoke, share what they can, and resume."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hyperrep import cli
from hyperrep.studies.catalogue import PAPERS, find_study, list_studies, load_table_study, missing, paper_studies
from hyperrep.studies.overrides import change
from hyperrep.studies.table_config import TableSection
from hyperrep.studies.table_study import Measured, Run, measure
from hyperrep.studies.table_writing import write_study
from hyperrep.studies.tabulate import read_paper, tabulate, wide
from zookeeper.errors import InputError, SpecError

# The architectures of this table need images of 20 x 20 or more; at scale smoke another stands in for them.
STAND_INS: dict[str, Callable[[str], str]] = {"004-table-4": lambda row: row.replace("4-conv |", "cnn-digits |")}
RUNNABLE = tuple(name for name in paper_studies() if not missing(load_table_study(PAPERS / f"{name}.yaml").study))
STUDY = """
version: 1
name: mine
shows: a study of one's own
title: two losses on Tetris shapes
zoos: {Tetris: {spec: zoo.yaml}}
trainings:
  C + S: {config: training.yaml}
  S: {config: training.yaml, change: {loss.gamma: 0}}
epochs: [1, 2]
tasks: {probe: {untrained: 1}, reconstruct: {}}
tables:
  - name: probes
    title: R2
    tasks: [probe]
    where: {measure: [score], property: [test_acc]}
    rows: [model]
    columns: [property]
    paper: probes.csv
"""
ZOO = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.6, val: 0.2, test: 0.2}, seed: 0}
model: {architecture: mlp, activation: tanh, init: normal, dropout: 0}
training: {optimizer: adam, batch_size: 64, epochs: 2, weight_decay: 0}
grid:
  lr: [3e-2, 1e-2]
  seed: {range: [0, 10]}
split: {by: seed, train: 0.6, val: 0.2, test: 0.2, seed: 0}
"""
TRAINING = """
name: tiny
tokens: {width: 17}
model: {d_model: 8, num_heads: 2, num_layers: 1, latent: 3}
loss: {gamma: 0.05, beta: 1, queries: 16}
training: {steps: 24, batch_size: 8, lr: 1e-3, checkpoint_every: 4}
"""


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Measured]:
    """Measure a packaged study at scale smoke, in a cache that all tests share."""
    cache, known = tmp_path_factory.mktemp("studies"), dict[str, Measured]()
    torch.set_num_threads(1)

    def run(name: str) -> Measured:
        if name not in known:
            known[name] = measure(Run(load_table_study(find_study(name)), "smoke", cache, say=quiet))
        return known[name]

    return run


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a study of one's own."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in (("mine.yaml", STUDY), ("zoo.yaml", ZOO), ("training.yaml", TRAINING)):
        (folder / name).write_text(text)
    (folder / "probes.csv").write_text("losses,test_acc\nC + S,0.5\nS,\n")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(own: Path, cache: Path) -> Measured:
    """The study of one's own, carried out without interruption, one training after another in this process."""
    return measure(Run(load_table_study(own / "mine.yaml"), "cpu", cache, say=quiet))


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_study_runs_and_fills_its_tables(name: str, smoke: Callable[[str], Measured], tmp_path: Path) -> None:
    found, measured = load_table_study(find_study(name)), smoke(name)
    results, tables = write_study(Run(found, "smoke", tmp_path, say=quiet), measured, tmp_path)
    assert len(tables) == len(found.study.tables) >= 1
    for section in found.study.tables:
        table = pd.read_csv(tmp_path / f"{section.name}.csv")
        assert table["measured"].notna().any(), section.name
        assert (tmp_path / f"{section.name}.png").is_file() == section.picture
        assert len(results["tables"][section.name]) == len(table)
        both = table.dropna(subset=["paper", "measured"])
        np.testing.assert_allclose(both["difference"], both["measured"] - both["paper"])
    for figure in found.study.figures:
        assert (tmp_path / f"{figure.name}.png").is_file(), figure.name
    page = (tmp_path / "README.md").read_text()
    assert f"--scale smoke --seeds 1` on {results['date']}" in page
    assert ("What scale smoke changes" in page) == bool(measured.zoos)
    assert json.loads((tmp_path / "results.json").read_text())["hardware"]


def test_a_decoder_that_was_not_trained_is_not_measured(smoke: Callable[[str], Measured]) -> None:
    facts = smoke("002-table-1").facts
    decoded = facts[facts["task"] == "reconstruct_weights"]
    assert set(decoded["training"]) == {"ED", "E_cD", "E_c+D"}


@pytest.mark.parametrize("name", paper_studies())
def test_the_papers_values_meet_what_is_measured(name: str, smoke: Callable[[str], Measured]) -> None:
    """Labels of the paper's table and of what is measured agree letter by letter, so that cells meet."""
    found = load_table_study(find_study(name))
    assert found.study.name == name
    for section in found.study.tables:
        paper = read_paper(PAPERS / section.paper) if section.paper else None
        if paper is None or name not in RUNNABLE:
            continue
        paper["row"] = [STAND_INS.get(name, str)(row) for row in paper["row"]]
        table = tabulate(smoke(name).facts, section, paper)
        assert (table["paper"].notna() & table["measured"].notna()).any(), section.name


@pytest.mark.parametrize(
    ("file", "row", "column", "value", "spread"),
    [
        ("000-table-1", "C + S + B", "generalization gap | EuroSAT", 0.529, np.nan),
        ("000-table-2", "CIFAR-10 | C + S", "generated", 46.0, np.nan),
        ("000-table-5-behaviour", "S + B", "SVHN", 86.1, 11),
        ("000-table-6-structure", "anchors", "EuroSAT", 23.0, 5),
        ("000-table-8-structure", "0.4", "CIFAR-10", 27.5, 10),
        ("002-table-1", "E_cD", "F1 C1", 75.9, np.nan),
        ("002-table-3", "E_c+D with P,N", "reconstruction", 95.8, np.nan),
        ("002-table-6", "TF", "CIFAR10-HYP | E_cD", 35.4, np.nan),
        ("002-table-7", "CIFAR10-HYP", "FASHION-HYP | E", 0.39, np.nan),
        ("004-table-1", "S_KDE30 | 0", "SVHN", 51.5, 5.9),
        ("004-table-2", "S_GAN30", "STL-10 | CIFAR-10 | 50", 48.8, 0.8),
        ("004-table-4", "4-conv + id.-skip | generated", "5", 59.9, 2.5),
    ],
)  # fmt: skip
def test_spot_values_of_the_papers(file: str, row: str, column: str, value: float, spread: float) -> None:
    table = read_paper(PAPERS / f"{file}.csv").set_index(["row", "column"])
    assert table.loc[(row, column), "paper"] == value
    np.testing.assert_equal(table.loc[(row, column), "paper_spread"], spread)


@pytest.mark.parametrize(("file", "total"), [("000-table-1", 20.897), ("000-table-7", 26.002)])
def test_sums_of_the_papers_tables(file: str, total: float) -> None:
    """Typed once more by hand from the paper, column by column, and added up."""
    assert read_paper(PAPERS / f"{file}.csv")["paper"].sum() == pytest.approx(total)


def test_a_finished_study_measures_nothing_again(own: Path, whole: Measured, cache: Path) -> None:
    lines: list[str] = []
    found = load_table_study(own / "mine.yaml")
    again = measure(Run(found, "cpu", cache, say=lines.append))
    assert lines == []
    pd.testing.assert_frame_equal(whole.facts, again.facts)


def test_more_seeds_keep_the_first_and_stand_beside_it(own: Path, whole: Measured, cache: Path) -> None:
    lines: list[str] = []
    found = load_table_study(own / "mine.yaml")
    more = measure(Run(found, "cpu", cache, seeds=2, say=lines.append))
    assert lines[0] == "training: 2 of 4, 1 at a time"
    table = tabulate(more.facts, found.study.tables[0], read_paper(own / "probes.csv")).set_index("row")
    assert table.loc["C + S", "num_seeds"] == 2
    assert table.loc["C + S", "seed_spread"] > 0
    assert set(table.index) == {"C + S", "S", "W", "s(W)", "untrained encoder"}
    first = more.facts[more.facts["run_seed"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, whole.facts)


def test_a_killed_study_resumes_and_ends_the_same(own: Path, whole: Measured, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from hyperrep.studies.catalogue import load_table_study\n"
        "from hyperrep.studies.table_study import Run, measure\n"
        f"measure(Run(load_table_study(Path({str(own / 'mine.yaml')!r})), 'cpu', Path({str(tmp_path)!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("trainings/*/checkpoint.safetensors")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = measure(Run(load_table_study(own / "mine.yaml"), "cpu", tmp_path, say=quiet))
    pd.testing.assert_frame_equal(resumed.facts, whole.facts)


def test_a_zoo_of_ones_own_takes_the_place_of_the_papers(own: Path, whole: Measured, cache: Path) -> None:
    found = load_table_study(own / "mine.yaml")
    path = whole.zoos["Tetris"]["path"]
    lines: list[str] = []
    other = measure(Run(found, "cpu", cache, zoos=[f"Tetris={path}"], say=lines.append))
    assert lines == []  # the same content, so everything is known
    pd.testing.assert_frame_equal(whole.facts, other.facts)
    with pytest.raises(InputError, match="no place for this zoo"):
        measure(Run(found, "cpu", cache, zoos=[path, path], say=quiet))


def test_bad_studies_are_one_clear_error(own: Path, tmp_path: Path) -> None:
    def load(text: str) -> None:
        (own / "bad.yaml").write_text(text)
        measure(Run(load_table_study(own / "bad.yaml"), "cpu", tmp_path, say=quiet))

    for old, new, message in (
        ("tasks: {probe:", "tasks: {prob:", "no such task"),
        ("trainings:", "use: [B]\ntrainings:", "no such training"),
        ("config: training.yaml}", "config: trainin}", "no such training configuration"),
        ("spec: zoo.yaml", "spec: zo", "no such specification"),
        ("untrained: 1", "untraine: 1", "Did you mean"),
        ("loss.gamma: 0", "loss.gama: 0", "Did you mean"),
        ("loss.gamma: 0", "loss.gamma.x: 0", "not a section"),
        ("version: 1", "version: 1\nsetup: 001", "no such setup"),
    ):
        with pytest.raises((InputError, SpecError), match=message):
            load(STUDY.replace(old, new))
    with pytest.raises(InputError, match="Did you mean 000-table-1"):
        find_study("000-table1")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\nx,1,2\n", "expected 2 cells"), ("a,b\nx,one\n", "not a number"), ("a,b\nx,1 ± y\n", "not a number")],
)
def test_a_wrong_table_of_a_paper_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_paper(tmp_path / "t.csv")
    with pytest.raises(InputError, match="no such file"):
        read_paper(tmp_path / "u.csv")


def test_cells_are_means_over_seeds_and_differences_of_them() -> None:
    section = TableSection.model_validate_json(
        json.dumps(
            {
                "name": "t", "title": "t", "tasks": ["probe"], "rows": ["model"], "columns": ["property"], "unit": "%",
                "differences": [{"along": "rows", "name": "gain", "of": "b", "minus": "a"}],
            }
        )
    )  # fmt: skip
    keys = {"task": "probe", "property": "acc", "spread": np.nan}
    values = [("a", 0, 0.1), ("a", 1, 0.3), ("b", 0, 0.5), ("b", 0, 0.7), ("", 0, 9.0)]
    facts = pd.DataFrame([{**keys, "model": model, "run_seed": seed, "value": value} for model, seed, value in values])
    paper = pd.DataFrame({"row": ["b"], "column": ["acc"], "paper": [50.0], "paper_spread": [np.nan]})
    table = tabulate(facts, section, paper).set_index("row")
    assert table["measured"].round(6).to_dict() == {"b": 60.0, "a": 20.0, "gain": 40.0}
    assert table.loc["a", "seed_spread"] == pytest.approx(100 * np.std([0.1, 0.3], ddof=1))
    assert table.loc["b", "spread"] == pytest.approx(10.0)
    assert table.loc["b", "difference"] == pytest.approx(10.0)


def test_what_no_seed_of_a_training_changes_keeps_the_spread_of_its_own() -> None:
    section = TableSection.model_validate_json(
        json.dumps({"name": "t", "title": "t", "tasks": ["probe"], "rows": ["model"], "columns": ["property"]})
    )
    values = [("untrained", 0.8, 0.8, 0.05), ("C + S", 0.7, 0.9, 0.01)]
    facts = pd.DataFrame(
        [
            {"task": "probe", "property": "acc", "model": model, "run_seed": seed, "value": value, "spread": spread}
            for model, *both, spread in values
            for seed, value in enumerate(both)
        ]
    )
    _, lines = wide(tabulate(facts, section), digits=2)
    assert lines == [["untrained", "0.80 ± 0.05"], ["C + S", "0.80 ± 0.14"]]


def test_labels_that_are_numbers_increase_whatever_the_paper_has() -> None:
    section = TableSection.model_validate_json(
        json.dumps({"name": "t", "title": "t", "tasks": ["ensembles"], "rows": ["model"], "columns": ["size"]})
    )
    cells = [("S", size, float(size)) for size in ("2", "10", "1", "15")]
    facts = pd.DataFrame(
        [{"task": "ensembles", "spread": np.nan, "run_seed": 0, "model": m, "size": s, "value": v} for m, s, v in cells]
    )
    paper = pd.DataFrame({"row": ["S"], "column": ["15"], "paper": [77.6], "paper_spread": [np.nan]})
    table = tabulate(facts, section, paper)
    assert table["column"].tolist() == ["1", "2", "10", "15"]
    assert table["measured"].tolist() == [1.0, 2.0, 10.0, 15.0]


def test_changes_replace_one_entry_and_keep_the_rest() -> None:
    value = {"grid": {"lr": [1], "seed": {"range": [0, 9]}}, "split": {"by": "seed", "train": 0.7}}
    changed = change(value, {"grid.seed": [1, 2], "split.by": None, "build.threads": 2}, "x")
    assert changed == {"grid": {"lr": [1], "seed": [1, 2]}, "split": {"train": 0.7}, "build": {"threads": 2}}
    assert value["split"] == {"by": "seed", "train": 0.7}


def test_commands(
    own: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["hyperrep", "study", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    places = ("--cache", str(cache), "--out", str(tmp_path / "out"), "--workers", "1")
    code, out, err = call("run", str(own / "mine.yaml"), "--json", *places)
    assert (code, json.loads(out)["study"]) == (0, "mine"), err
    assert "report:" in err
    code, out, _ = call("list")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()[1:]} == {listed.name for listed in list_studies()}
    for arguments, message in (
        (("run", "000-table-1", "--scale", "huge"), "no such scale"),
        (("run", "digits", "--scale", "smoke"), "has one scale"),
        (("run", "000-tabel-1"), "no such study"),
    ):
        code, out, err = call(*arguments, *places)
        assert (code, out) == (2, "")
        assert message in err
