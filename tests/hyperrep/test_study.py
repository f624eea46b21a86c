"""The whole study and the command line on a tiny zoo: complete, resumable, one clear error where it fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import hyperrep.studies.structure_and_behaviour as study_module
import zookeeper
from hyperrep import cli
from hyperrep.config import load_config
from hyperrep.studies.config import load_study
from hyperrep.studies.parallel import TrainingJob, train_all
from hyperrep.tasks.opening import build_examiner, read_split
from hyperrep.training.zoo import fit_zoo
from zookeeper.build import build_zoo
from zookeeper.errors import BuildError, InputError, SpecError
from zookeeper.spec.plan import make_plan
from zookeeper.spec.schema import load_spec

SPEC = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.6, val: 0.2, test: 0.2}, seed: 0}
model: {architecture: mlp, activation: tanh, dropout: 0}
training: {optimizer: adam, batch_size: 64, epochs: 2, weight_decay: 0}
grid:
  init: [kaiming_uniform, normal]
  lr: [3e-2, 1e-2]
  seed: {range: [0, 10]}
checkpoints: {every: 1}
split: {by: seed, train: 0.6, val: 0.2, test: 0.2, seed: 0}
"""
TRAINING = """
name: tiny
epochs_of_zoo: [1, 2]
tokens: {width: 17}
model: {d_model: 8, num_heads: 2, num_layers: 1, latent: 3}
loss: {gamma: 0.05, beta: BETA, queries: 16}
training: {steps: 6, batch_size: 8, lr: 1e-3}
"""
STUDY = """
version: 1
name: tiny-study
zoo: {path: ZOO, spec: zoo.yaml, workers: 1}
hyper_representations:
  baseline: {label: C + S, config: cs.yaml}
  behaviour: {label: C + S + B, config: csb.yaml}
epochs: [1, 2]
probe: {untrained_seeds: [0, 1]}
generate: {samples: 10, seed: 0, anchor_share: 1.0, components: 4}
out: OUT
"""
runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("study")
    (place / "zoo.yaml").write_text(SPEC)
    (place / "cs.yaml").write_text(TRAINING.replace("BETA", "1"))
    (place / "csb.yaml").write_text(TRAINING.replace("BETA", "0.1"))
    text = STUDY.replace("ZOO", str(place / "zoo")).replace("OUT", str(place / "out"))
    (place / "study.yaml").write_text(text)
    build_zoo(make_plan(load_spec(place / "zoo.yaml")), place / "zoo", show_progress=False)
    return place


def _train_here(jobs: Sequence[TrainingJob], say: Callable[[str], None]) -> None:
    for job in jobs:
        say(f"training {job.label}")
        fit_zoo(job.config, zookeeper.open(job.zoo), job.out, progress=False)


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module, "train_all", _train_here)
        study_module.run_study(load_study(folder / "study.yaml"), folder / "out", lambda line: None)
    return folder


def test_a_study_leaves_its_report_tables_and_samples(finished: Path) -> None:
    out = finished / "out"
    results = json.loads((out / "results.json").read_text())
    assert [claim["held"] in (True, False) for claim in results["claims"]] == [True] * 7
    assert set(results["seconds"]) == {"zoo", "train", "probe", "reconstruct", "generate"}
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    for label in ("C + S", "C + S + B", "untrained encoder", "s(W)"):
        assert label in page
    probes = pd.read_csv(out / "tables" / "probes.csv")
    assert set(probes["features"]) == {
        "W", "s(W)", "untrained encoder 0", "untrained encoder 1", "C + S", "C + S + B",
    }  # fmt: skip
    assert set(probes["property"]) == {"test_acc", "generalization_gap", "epoch", "lr", "init"}
    samples = [zookeeper.open(path) for path in sorted((out / "samples").iterdir())]
    assert [len(zoo) for zoo in samples] == [10, 10]
    assert all(zoo.header.kind == "sampled" for zoo in samples)


def test_a_sampled_network_is_as_accurate_as_its_row_says(finished: Path) -> None:
    path = sorted((finished / "out" / "samples").iterdir())[0]
    zoo = zookeeper.open(path)
    line = zoo.frame.iloc[3]
    network = zoo.network(line["model_id"], 0)
    part = build_examiner(zookeeper.open(finished / "zoo")).images["test"]
    with torch.no_grad():
        accuracy = (network(part.images).argmax(1) == part.labels).double().mean().item()
    assert accuracy == pytest.approx(line["test_acc"], abs=1e-6)


def test_stored_accuracies_equal_the_examiners(finished: Path) -> None:
    zoo = zookeeper.open(finished / "zoo")
    split = read_split(zoo, "test", [2])
    accuracy, loss = build_examiner(zoo).scores(split.rows, "test")
    np.testing.assert_allclose(accuracy, split.frame["test_acc"], atol=1e-6)
    np.testing.assert_allclose(loss, split.frame["test_loss"], rtol=1e-4)


def test_a_finished_study_trains_and_measures_nothing_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("ran again")

    for name in ("train_all", "run_probes", "run_reconstructions", "run_generation"):
        monkeypatch.setattr(study_module, name, refuse)
    lines: list[str] = []
    study_module.run_study(load_study(finished / "study.yaml"), finished / "out", lines.append)
    assert sum("unchanged" in line for line in lines) == 4


def test_other_settings_repeat_only_what_depends_on_them(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(finished / "study.yaml")
    study = study.model_copy(update={"generate": study.generate.model_copy(update={"seed": 7})})
    lines: list[str] = []
    monkeypatch.setattr(study_module, "train_all", None)
    study_module.run_study(study, finished / "out", lines.append)
    assert [line.partition(":")[0] for line in lines if "unchanged" in line] == ["train", "probe", "reconstruct"]


def test_more_seeds_keep_the_first_and_stand_beside_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "train_all", _train_here)
    study = load_study(finished / "study.yaml").model_copy(update={"seeds": 3})
    lines: list[str] = []
    results, tables = study_module.run_study(study, finished / "out", lines.append)
    assert [line.partition(":")[0] for line in lines if "unchanged" in line][:2] == ["train", "probe"]
    assert results["claims"] == results["over_seeds"][0]
    values = {seed: [claim["value"] for claim in claims] for seed, claims in results["over_seeds"].items()}
    assert list(values) == [0, 1, 2]
    assert values[0] != values[1] != values[2]
    over_seeds = next(table for table in tables if table.title == "Claims over seeds")
    agreement = [100 * values[seed][0] for seed in range(3)]
    assert over_seeds.rows[0][1] == f"{np.mean(agreement):.1f} % ± {np.std(agreement, ddof=1):.1f} %"
    assert "Claims over seeds" in (finished / "out" / "index.html").read_text()

    config = load_config(finished / "cs.yaml")
    training = config.training.model_copy(update={"seed": config.training.seed + 2})
    alone = tmp_path / "alone"
    fit_zoo(config.model_copy(update={"training": training}), zookeeper.open(finished / "zoo"), alone)
    beside = next((finished / "out" / "seeds" / "2" / "models").glob("baseline-*"))
    assert (beside / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()


def test_training_in_processes_gives_the_same_model_as_here(finished: Path, tmp_path: Path) -> None:
    config = load_config(finished / "cs.yaml")
    job = TrainingJob("C + S", config, finished / "zoo", tmp_path / "model")
    lines: list[str] = []
    train_all([job], lines.append)
    here = next((finished / "out" / "models").glob("baseline-*"))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (here / "model.safetensors").read_bytes()
    assert lines[-1].startswith("training C + S: step 6/6")


def test_a_training_that_fails_is_one_error(finished: Path, tmp_path: Path) -> None:
    config = load_config(finished / "cs.yaml").model_copy(update={"epochs_of_zoo": (77,)})
    with pytest.raises(BuildError, match="training C"):
        train_all([TrainingJob("C", config, finished / "zoo", tmp_path / "model")], lambda line: None)


def test_commands(finished: Path, tmp_path: Path) -> None:
    model = str(next((finished / "out" / "models").glob("behaviour-*")))
    zoo = str(finished / "zoo")
    result = runner.invoke(cli.app, ["embed", model, zoo, "--out", str(tmp_path / "e.parquet")])
    assert result.exit_code == 0, result.output
    frame = pd.read_parquet(tmp_path / "e.parquet")
    assert len(frame) == 80
    assert {"model_id", "epoch", "split", "fc1.z00", "fc2.z02"} <= set(frame.columns)

    options = ["-n", "5", "--anchor-share", "1", "--set", "num_components=3", "--json"]
    result = runner.invoke(cli.app, ["sample", model, zoo, "--out", str(tmp_path / "s"), *options])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_samples"] == 5
    assert len(zookeeper.open(tmp_path / "s")) == 5

    result = runner.invoke(cli.app, ["evaluate", model, zoo, "--json", "--untrained", "1"])
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    groups = ("all", "above chance", "above chance, last epoch")
    expected = [(losses, models) for losses in ("tiny", "best train model for all") for models in groups]
    assert [(line["losses"], line["models"]) for line in value["reconstruction"]] == expected
    assert {line["features"] for line in value["probes"]} == {"W", "s(W)", "untrained encoder 0", "tiny"}

    result = runner.invoke(cli.app, ["study", str(finished / "study.yaml")])
    assert result.exit_code == 0, result.output
    assert "verdict" in result.stdout
    assert "report:" in result.stderr

    result = runner.invoke(cli.app, ["train", str(finished / "cs.yaml"), "--zoo", zoo, "--out", str(tmp_path / "m")])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "m")


def test_errors_are_one_line_and_exit_code_2(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(next((finished / "out" / "models").glob("behaviour-*")))
    (tmp_path / "bad.yaml").write_text(STUDY.replace("epochs:", "epoch:"))
    for arguments, message in (
        (["embed", model, str(tmp_path / "no"), "--out", "e.parquet"], "no zoo here"),
        (["embed", model, str(finished / "zoo"), "--out", "e.txt"], "unknown kind of file"),
        (["evaluate", str(tmp_path), str(finished / "zoo")], "cannot be read"),
        (["sample", model, str(finished / "zoo"), "--out", "x", "--set", "bandwidth=wide"], "bandwidth"),
        (["sample", model, str(finished / "zoo"), "--out", str(tmp_path / "x")], "too few anchors"),
        (["study", str(tmp_path / "bad.yaml")], "epoch"),
    ):
        monkeypatch.setattr("sys.argv", ["hyperrep", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        assert stopped.value.code == 2, arguments
        assert captured.err.startswith("error: ")
        assert message in captured.err
        assert captured.out == ""


def test_a_study_names_what_is_missing(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    with pytest.raises(InputError, match=r"no file 'cs\.yaml'"):
        load_study(tmp_path / "study.yaml")
    (tmp_path / "bad.yaml").write_text(STUDY.replace("anchor_share", "anchor_shares"))
    with pytest.raises(SpecError, match="Did you mean"):
        load_study(tmp_path / "bad.yaml")
    with pytest.raises(InputError, match="no such study; expected a YAML file or one of digits"):
        load_study("digitz")


def test_the_packaged_study_loads() -> None:
    study = load_study("digits")
    assert study.epochs == (20, 30, 40, 50)
    for subject in (study.hyper_representations.baseline, study.hyper_representations.behaviour):
        assert load_config(subject.config).epochs_of_zoo == study.epochs


def test_a_split_without_the_wanted_epoch_is_a_clear_error(finished: Path) -> None:
    with pytest.raises(InputError, match="no checkpoints of epoch 9"):
        read_split(zookeeper.open(finished / "zoo"), "train", [9])
