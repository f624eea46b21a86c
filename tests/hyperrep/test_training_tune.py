"""Searches: which trials there are, that they can be left and taken up, what Ray makes of them, what is written."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import zookeeper
from hyperrep.config import load_config
from hyperrep.config.tune import load_tune
from hyperrep.training import tune as tune_module
from hyperrep.training.disk import rows_on_disk
from hyperrep.training.fit import fit
from hyperrep.training.saved import load
from hyperrep.training.trial import Trial, saved_row, trial_folder
from hyperrep.training.tune import tune
from hyperrep.training.zoo import read_fit_data
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
grid: {init: [normal], lr: [1e-2, 3e-2], seed: {range: [0, 10]}}
checkpoints: {every: 1}
split: {by: seed, train: 0.6, val: 0.2, test: 0.2, seed: 0}
"""
TRAINING = """
name: base
tokens: {width: 17}
model: {d_model: 8, num_heads: 2, num_layers: 1, latent: 3}
loss: {gamma: 0.05, beta: 0.1, queries: 16}
training: {steps: 8, batch_size: 8, lr: 1e-3, evaluate_every: 2, checkpoint_every: 3}
"""
SEARCH = """
name: tiny
config: base.yaml
zoo: ZOO
space:
  training.lr: {choices: [3e-2, 1e-6, 1e-7]}
metric: structure
asha: {grace: 1, reduction: 2}
"""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tune")
    (place / "zoo.yaml").write_text(SPEC)
    (place / "base.yaml").write_text(TRAINING)
    (place / "search.yaml").write_text(SEARCH.replace("ZOO", str(place / "zoo")))
    build_zoo(make_plan(load_spec(place / "zoo.yaml")), place / "zoo", show_progress=False)
    return place


def search(folder: Path, text: str) -> Path:
    path = folder / "other.yaml"
    path.write_text(text)
    return path


def test_the_packaged_beta_ablation_is_that_of_the_paper() -> None:
    settings, trials = load_tune("000_beta")
    assert [trial.loss.beta for trial in trials] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert (settings.metric, settings.mode) == ("agreement", "max")
    assert len({trial.digest for trial in trials}) == 6


def test_a_grid_combines_and_random_draws_do_not_depend_on_their_number(folder: Path) -> None:
    head = "name: a\nconfig: base.yaml\nmetric: agreement\n"
    grid = load_tune(
        search(folder, head + "space:\n  loss.beta: {choices: [0.1, 0.2]}\n  model.latent: {choices: [2, 3]}\n")
    )
    assert [(t.loss.beta, t.model.latent) for t in grid[1]] == [(0.1, 2), (0.1, 3), (0.2, 2), (0.2, 3)]
    lr, latent = "{low: 1e-4, high: 1e-2, scale: log}", "{low: 2, high: 4, scale: integer}"
    axes = f"space:\n  training.lr: {lr}\n  model.latent: {latent}\n"
    few, many = (load_tune(search(folder, f"{head}search: random\nsamples: {n}\n{axes}"))[0].trials for n in (3, 40))
    assert many[:3] == few
    assert all(1e-4 <= trial["training.lr"] <= 1e-2 and trial["model.latent"] in (2, 3, 4) for trial in many)
    below = sum(trial["training.lr"] < 1e-3 for trial in many)
    assert 10 < below < 30, "half of the logarithms lie below the middle"


@pytest.mark.parametrize(
    ("space", "more", "message"),
    [
        ("loss.betas: {choices: [1]}", "metric: agreement", "loss.betas.*Did you mean beta"),
        ("training.lr: {choices: [fast]}", "", "trial 0.*training.lr"),
        ("training.lr: {low: 1, high: 2}", "", "a grid needs a list"),
        ("training.lr: {low: 2, high: 1}", "search: random\nsamples: 2", "low below high"),
        ("training.lr: {choices: [1.0]}", "samples: 3", "no samples with a grid"),
        ("loss.beta: {choices: [0.1]}", "", "totals of trials that differ in loss.beta cannot be compared"),
        ("name.deeper: {choices: [1]}", "", "name is not a section"),
    ],
)
def test_a_bad_search_says_what_is_wrong(folder: Path, space: str, more: str, message: str) -> None:
    with pytest.raises((SpecError, InputError), match=message):
        load_tune(search(folder, f"name: a\nconfig: base.yaml\n{more}\nspace:\n  {space}\n"))


def test_a_trial_that_is_left_goes_on_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    source, zoo = str(folder / "search.yaml"), str(folder / "zoo")
    whole = Trial(source, 0, zoo, str(tmp_path / "whole"))
    values = []
    while not values or not values[-1]["done"]:
        values.append(whole.advance())
    assert [value["steps"] for value in values] == [2, 4, 6, 8]
    assert [value["status"] for value in values] == ["running"] * 3 + ["done"]
    cut = Trial(source, 0, zoo, str(tmp_path / "cut"))
    assert cut.advance() == values[0]
    cut.close()
    again = Trial(source, 0, zoo, str(tmp_path / "cut"))
    assert [again.advance() for _ in range(3)] == values[1:]
    assert Trial(source, 0, zoo, str(tmp_path / "cut")).advance()["value"] == pytest.approx(
        values[-1]["value"], rel=1e-8
    )
    a, b = (trial_folder(tmp_path / name, 0) / "model.safetensors" for name in ("whole", "cut"))
    assert a.read_bytes() == b.read_bytes()
    assert saved_row(a.parent)["val_structure"] == pytest.approx(values[-1]["value"], rel=1e-8)


def test_ray_runs_the_trials_stops_the_slow_and_the_best_is_written_down(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    frame = tune(folder / "search.yaml", out=out)
    assert capfd.readouterr().out == ""
    assert frame["training.lr"].iloc[0] == 3e-2
    assert list(frame["status"]) == ["done", "stopped", "stopped"]
    assert frame["val_structure"].is_monotonic_increasing
    assert list(frame.loc[frame["status"] == "stopped", "step"]) == [2, 2]
    best = load_config(out / "best.yaml")
    assert best.training.lr == 3e-2
    assert best.digest == load_tune(folder / "search.yaml")[1][0].digest
    assert best.zoo == str(folder / "zoo")
    assert load(trial_folder(out, 0)).config.digest == best.digest
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), frame)
    monkeypatch.setattr(tune_module, "_run", lambda *ignored: pytest.fail("what is finished is not run again"))
    assert list(tune(folder / "search.yaml", out=out)["trial"]) == list(frame["trial"])
    with pytest.raises(InputError, match="holds another search"):
        tune("000_beta", zoo=folder / "zoo", out=out)


def test_without_ray_without_zoo_and_without_results_there_is_one_clear_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="names no zoo"):
        tune("000_beta", out=tmp_path)
    monkeypatch.setattr(tune_module, "_run", lambda *ignored: {0: "failed: no images", 1: "diverged: step 3"})
    with pytest.raises(BuildError, match=r"no trial came to an evaluation \(diverged: step 3; failed: no images\)"):
        tune(folder / "search.yaml", out=tmp_path / "failed")
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'ray\[tune\]'"):
        tune(folder / "search.yaml", out=tmp_path / "without")


def test_streamed_rows_train_to_the_bits_of_resident_ones(folder: Path, tmp_path: Path) -> None:
    opened = zookeeper.open(folder / "zoo")
    mapped, usable = rows_on_disk(opened)
    assert isinstance(mapped, np.memmap)
    assert usable.all()
    np.testing.assert_array_equal(mapped, opened.weights())
    models = []
    for rows in ("resident", "streamed"):
        path = tmp_path / f"{rows}.yaml"
        path.write_text(TRAINING.replace("steps: 8", f"steps: 2, rows: {rows}"))
        config = load_config(path)
        data = read_fit_data(config, opened)
        fit(config, data, tmp_path / rows)
        models.append(((tmp_path / rows / "model.safetensors").read_bytes(), config.digest, data.rows))
    assert models[0][:2] == models[1][:2]
    assert torch.equal(models[0][2], models[1][2])
