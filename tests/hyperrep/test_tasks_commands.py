"""The commands of the tasks on a tiny zoo: tables, figures, JSON, stored results, one clear error each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import zookeeper
from hyperrep import cli
from hyperrep.config import load_config
from hyperrep.tasks.finetune import PRETRAINED, SAMPLED, SCRATCH
from hyperrep.tasks.origins import find_anchors, known_epochs
from hyperrep.tasks.targets import choose_target
from hyperrep.training.zoo import fit_zoo, load_zoo_images
from zookeeper.build import build_zoo
from zookeeper.errors import InputError
from zookeeper.spec.plan import make_plan
from zookeeper.spec.schema import load_spec

SPEC = """
version: 1
name: NAME
images: {name: tetris, split: {train: 0.6, val: 0.2, test: 0.2}, seed: 0}
model: {architecture: mlp, activation: tanh, dropout: 0}
training: {optimizer: adam, batch_size: 64, epochs: 2, weight_decay: 0}
grid:
  lr: [3e-2, 2e-2, 1e-2]
  seed: {range: [FIRST, LAST]}
checkpoints: {every: 1}
split: {by: seed, train: 0.6, val: 0.2, test: 0.2, seed: 0}
"""
TRAINING = """
name: tiny
epochs_of_zoo: [2]
tokens: {width: 17}
model: {d_model: 8, num_heads: 2, num_layers: 1, latent: 3}
loss: {gamma: 0.05, beta: 1}
training: {steps: 4, batch_size: 8, lr: 1e-3}
"""
runner = CliRunner()


@dataclass(frozen=True)
class Place:
    folder: Path

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    torch.set_num_threads(1)
    place = Place(tmp_path_factory.mktemp("tasks"))
    for name, first, last in (("zoo", "0", "6"), ("other", "50", "56")):
        text = SPEC.replace("NAME", name).replace("FIRST", first).replace("LAST", last)
        (place.folder / f"{name}.yaml").write_text(text)
        build_zoo(make_plan(load_spec(place.folder / f"{name}.yaml")), place.folder / name, show_progress=False)
    (place.folder / "model.yaml").write_text(TRAINING)
    fit_zoo(load_config(place.folder / "model.yaml"), zookeeper.open(place.zoo), place.model, progress=False)
    options = ["-n", "8", "--anchor-share", "1", "--set", "num_components=3", "--json"]
    result = runner.invoke(cli.app, ["sample", place.model, place.zoo, "--out", place.samples, *options])
    assert result.exit_code == 0, result.output
    return place


def run(*arguments: str) -> Any:
    result = runner.invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_probe(place: Place) -> None:
    options = ["--split", "stored", "--split", "model", "--split-seeds", "2", "--epoch", "1", "--epoch", "2"]
    files = ["--figure", place.probe_png + ".png", "--csv", place.probe_csv]
    value = run("probe", place.model, place.zoo, *options, "--untrained", "1", "--class-f1", *files)
    lines = pd.DataFrame(value["probes"])
    assert set(lines["features"]) == {
        "W", "s(W)", "untrained encoder 0", "tiny", "PCA linear", "PCA cosine", "PCA RBF",
    }  # fmt: skip
    assert {"test_acc", "lr", "epoch", "f1_0", "f1_3"} <= set(lines["property"])
    assert set(zip(lines["split"], lines["split_seed"], strict=True)) == {("stored", 0), ("model", 0), ("model", 1)}
    assert Path(place.probe_png + ".png").stat().st_size > 5000
    assert len(pd.read_csv(place.probe_csv)) == len(lines)
    printed = runner.invoke(cli.app, ["probe", place.model, place.zoo, "--untrained", "1"])
    assert "untrained encoder" in printed.stdout


def test_rank(place: Place) -> None:
    value = run("rank", place.model, place.zoo, place.other, "--untrained", "1", "--figure", place.rank + ".svg")
    lines = pd.DataFrame(value["ranks"])
    assert set(lines["zoo"]) == {"in zoo", "other"}
    assert (lines["tau"].abs() <= lines["ceiling"] + 1e-9).all()


def test_finetune(place: Place) -> None:
    options = ["--epochs", "0,1", "-n", "4", "--out", place.tuned, "--figure", place.tuned + ".png"]
    value = run("finetune", place.zoo, place.samples, *options)
    assert [(line["start"], line["epoch"]) for line in value["summary"]] == [
        (kind, epoch) for kind in (SAMPLED, PRETRAINED, SCRATCH) for epoch in (0, 1)
    ]
    stored = zookeeper.open(place.tuned)
    assert (stored.header.kind, len(stored)) == ("finetuned", 24)
    sampled = zookeeper.open(place.samples)
    first = stored.frame[(stored.frame["start"] == SAMPLED) & (stored.frame["epoch"] == 0)]
    assert sorted(first["test_acc"].round(6)) == sorted(sampled.frame["test_acc"].iloc[:4].round(6))
    again = run("finetune", place.zoo, place.samples, "--epochs", "0,1", "-n", "4")
    assert again["summary"] == value["summary"]


def test_ensemble_and_audit(place: Place) -> None:
    value = run("ensemble", place.zoo, place.samples, "--size", "3", "--figure", place.ensemble + ".png")
    assert {(line["networks"], line["size"]) for line in value["ensembles"]} == {
        (kind, size) for kind in ("samples", "anchors") for size in (1, 2, 3)
    }
    aligned = run("audit", place.zoo, place.samples, "--figure", place.audit + ".png")
    plain = run("audit", place.zoo, place.samples, "--unaligned")
    assert aligned["novelty"][0]["distance"] <= plain["novelty"][0]["distance"] + 1e-9
    assert {line["networks"] for line in plain["diversity"]} == {"anchors", "samples"}
    assert len(plain["networks"]) == 24


def test_decode_another_zoo(place: Place) -> None:
    value = run("decode", place.model, place.other, "-n", "6", "--figure", place.decode + ".png")
    names = [line["networks"] for line in value["networks"]]
    assert names == [
        "originals", "tiny", "untrained autoencoder 0", "best train model for all", "sampled from its anchors",
        "most frequent class",
    ]  # fmt: skip


def test_anchors_are_found_again(place: Place) -> None:
    zoo, samples = zookeeper.open(place.zoo), zookeeper.open(place.samples)
    anchors = find_anchors(samples, zoo)
    assert sorted(anchors.checkpoints.frame["model_id"]) == sorted(samples.header.provenance["anchors"]["model_ids"])
    assert set(anchors.checkpoints.frame["epoch"]) == {2}
    assert known_epochs(samples, zoo) == [2]


def test_a_target_is_the_zoo_itself_unless_something_is_named(place: Place) -> None:
    zoo = zookeeper.open(place.zoo)
    target = choose_target(zoo)
    images = load_zoo_images(zoo)
    assert target.image == zoo.image
    torch.testing.assert_close(target.data.part("test", torch.float32)[0], torch.from_numpy(images.normalised("test")))
    with pytest.raises(InputError, match="have 10 classes; expected 4"):
        choose_target(zoo, images="digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "model", "zoo", "--split", "sead"], "no such factor"),
        (["probe", "model", "zoo", "--figure", "probe.txt"], "unknown kind of file"),
        (["finetune", "zoo", "samples", "--epochs", "one"], "expected numbers"),
        (["finetune", "other", "samples"], "was sampled from another zoo"),
        (["ensemble", "zoo", "zoo"], "which anchors"),
        (["audit", "zoo", "samples", "--epoch", "9"], "no checkpoints of epoch 9"),
    ],
)
def test_errors_are_one_line(
    place: Place,
    arguments: Sequence[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(place.folder / part) if (place.folder / part).exists() else part for part in arguments]
    monkeypatch.setattr("sys.argv", ["hyperrep", *given])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.err.startswith("error: ")
    assert message in captured.err
