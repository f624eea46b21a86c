"""Training: it learns, resumes to the bit, stops visibly, and reads configurations strictly."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hyperrep.config import TrainConfig, load_config, packaged_config
from hyperrep.training.checkpoint import CHECKPOINT_NAME
from hyperrep.training.fit import TrainingDivergedError, fit
from hyperrep.training.saved import load
from hyperrep.training.step import FitData
from hyperrep.training.streams import batch_of_step
from zookeeper.errors import InputError, SpecError
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(BaseException):
    """Stands for a signal between two steps."""


def config(**changes: Any) -> TrainConfig:
    value: dict[str, Any] = {
        "name": "tiny",
        "tokens": {"width": 6},
        "model": {"d_model": 16, "num_heads": 2, "num_layers": 1, "latent": 4},
        "loss": {"gamma": 0.05, "beta": 0.1, "queries": 8},
        "augment": {"permute": True, "erase": 0.2, "noise": 0.01},
        "training": {"steps": 9, "batch_size": 4, "checkpoint_every": 4, "evaluate_every": 3, "log_every": 2},
    }
    for key, change in changes.items():
        section, _, name = key.partition("__")
        if name:
            value[section] = {k: v for k, v in (value[section] | {name: change}).items() if v is not None}
        else:
            value[section] = change
    return TrainConfig.model_validate_json(json.dumps(value))


@pytest.fixture(scope="module")
def data() -> FitData:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    population = Population(net, (1, 2, 2))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(18, population.layout.num_weights, generator=generator)
    queries = torch.randn(20, 1, 2, 2, generator=generator)
    symmetry = Symmetry.of(net, (1, 2, 2))
    return FitData(rows[:14], population.layout, population, symmetry, queries, rows[14:], queries[:5])


def kill_after(step: int) -> Any:
    def on_step(count: int, values: Mapping[str, float]) -> None:
        if count == step:
            raise Killed

    return on_step


def log_without_time(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_a_killed_and_resumed_training_ends_with_the_same_bits(data: FitData, tmp_path: Path) -> None:
    fit(config(), data, tmp_path / "whole")
    for step in (6, 7):
        with pytest.raises(Killed):
            fit(config(), data, tmp_path / "cut", on_step=kill_after(step))
    fit(config(), data, tmp_path / "cut")
    for name in ("model.safetensors", "config.json", "scaling.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    assert log_without_time(tmp_path / "whole") == log_without_time(tmp_path / "cut")
    steps = [int(row["step"]) for row in log_without_time(tmp_path / "whole")]
    assert steps == [2, 3, 4, 6, 8, 9]


def test_a_finished_training_is_not_repeated(data: FitData, tmp_path: Path) -> None:
    first = fit(config(), data, tmp_path)
    seen: list[int] = []
    again = fit(config(), data, tmp_path, on_step=lambda count, values: seen.append(count))
    assert seen == []
    assert torch.equal(first.reconstruct(data.rows), again.reconstruct(data.rows))


def test_a_checkpoint_of_other_data_or_configuration_is_refused(data: FitData, tmp_path: Path) -> None:
    fit(config(), data, tmp_path)
    with pytest.raises(InputError, match="another configuration or other data"):
        fit(config(), replace(data, rows=data.rows + 1), tmp_path)
    with pytest.raises(InputError, match="another configuration or other data"):
        fit(config(training__seed=1), data, tmp_path)
    fit(config(training__seed=1), data, tmp_path, resume=False)


def test_a_damaged_checkpoint_is_refused(data: FitData, tmp_path: Path) -> None:
    fit(config(), data, tmp_path)
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="cannot be read"):
        fit(config(), data, tmp_path)


def test_the_rhythm_of_logs_does_not_change_the_weights(data: FitData, tmp_path: Path) -> None:
    a = fit(config(), data, tmp_path / "a")
    quiet = config(training__evaluate_every=100, training__checkpoint_every=100, training__log_every=100)
    b = fit(quiet, data, tmp_path / "b")
    assert torch.equal(a.reconstruct(data.rows), b.reconstruct(data.rows))
    assert a.config.digest == b.config.digest


def test_training_lowers_every_part_of_the_loss(data: FitData, tmp_path: Path) -> None:
    longer = config(training__steps=150, training__lr=5e-3, augment={"permute": True}, training__evaluate_every=15)
    hyper = fit(longer, replace(data, val_rows=data.rows), tmp_path)
    rows = [row for row in log_without_time(tmp_path) if row["val_structure"]]
    for part in ("val_total", "val_contrast", "val_structure", "val_behaviour"):
        assert float(rows[-1][part]) < 0.8 * float(rows[0][part]), part
    assert float(rows[-1]["val_agreement"]) > float(rows[0]["val_agreement"])
    loaded = load(tmp_path)
    assert torch.equal(loaded.reconstruct(data.rows), hyper.reconstruct(data.rows))


def test_parts_without_weight_are_not_computed(data: FitData, tmp_path: Path) -> None:
    seen: list[set[str]] = []
    structure_only = config(loss__gamma=0.0, loss__beta=1.0, training__steps=1, augment={"permute": False})
    bare = FitData(data.rows, data.layout)
    fit(structure_only, bare, tmp_path, on_step=lambda count, values: seen.append(set(values)))
    assert seen == [{"total", "structure", "grad_norm"}]


def test_one_decoded_view_leaves_the_contrastive_part_as_it_is(data: FitData, tmp_path: Path) -> None:
    seen: dict[int, dict[str, float]] = {}
    for views in (1, 2):
        run = config(loss__decoded_views=views, training__steps=1)
        fit(run, data, tmp_path / str(views), on_step=lambda count, values, n=views: seen.update({n: dict(values)}))
    assert seen[1]["contrast"] == seen[2]["contrast"]
    assert seen[1]["structure"] != seen[2]["structure"]


class Broken:
    """A population whose outputs for decoded rows are not finite from the third call with gradients on."""

    def __init__(self, population: Population) -> None:
        self.population, self.calls = population, 0
        self.activation_floats = population.activation_floats

    def forward(self, rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        logits = self.population.forward(rows, images)
        self.calls += rows.requires_grad
        return logits * torch.inf if self.calls > 5 and rows.requires_grad else logits


def test_a_part_that_is_not_finite_stops_with_step_part_and_checkpoint(data: FitData, tmp_path: Path) -> None:
    assert isinstance(data.population, Population)
    broken = replace(data, population=Broken(data.population), val_rows=None)
    with pytest.raises(TrainingDivergedError, match=r"step 6: behaviour not finite.*last good checkpoint") as caught:
        fit(config(), broken, tmp_path)
    assert caught.value.exit_code == 1
    assert (tmp_path / CHECKPOINT_NAME).exists()
    assert not (tmp_path / "model.safetensors").exists()


def test_rows_that_are_not_finite_are_refused(data: FitData, tmp_path: Path) -> None:
    rows = data.rows.clone()
    rows[5, 1] = torch.inf
    with pytest.raises(InputError, match=r"1 of 14 rows are not finite \(first: 5\)"):
        fit(config(), replace(data, rows=rows), tmp_path)


@pytest.mark.parametrize(
    ("changes", "missing", "message"),
    [
        ({}, {"population": None}, "needs a population"),
        ({}, {"permutations": None}, "needs a source of permutations"),
        ({"loss__queries": 21}, {}, "expected at most 20"),
    ],
)
def test_missing_inputs_are_named(
    data: FitData, tmp_path: Path, changes: dict[str, Any], missing: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(config(**changes), replace(data, **missing), tmp_path)


def test_every_pass_visits_each_row_at_most_once_in_its_own_order() -> None:
    passes = [[batch_of_step(3 * e + s, 14, 4, seed=0) for s in range(3)] for e in range(2)]
    for batches in passes:
        assert len(set(torch.cat(batches).tolist())) == 12
    assert torch.cat(passes[0]).tolist() != torch.cat(passes[1]).tolist()
    assert batch_of_step(5, 3, 8, seed=0).sort().values.tolist() == [0, 1, 2]


def test_packaged_configurations_differ_in_beta_alone() -> None:
    cs, csb = (load_config(packaged_config(name)) for name in ("digits_cs", "digits_csb"))
    assert (cs.loss.gamma, cs.loss.beta, csb.loss.beta) == (0.05, 1.0, 0.02)
    same = cs.model_copy(update={"name": csb.name, "loss": cs.loss.model_copy(update={"beta": 0.02})})
    assert same == csb
    for name in ("digits_cs", "digits_csb"):
        assert len(packaged_config(name).read_text().splitlines()) <= 20


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("latent: 22", "latents: 22", "latent"),
        ("num_heads: 4", "num_heads: 5", "num_heads"),
        ("outputs: softmax", "outputs: sofmax", "softmax"),
        ("gamma: 0.05", "gamma: 1.5", "gamma"),
        ("steps: 1200", "steps: 1200, epochs: 3", "steps or epochs"),
        ("lr: 3e-3", "lr: '3e-3'", "lr"),
    ],
)
def test_a_bad_configuration_names_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = packaged_config("digits_csb").read_text()
    assert old in text
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(SpecError, match=rf"bad\.yaml:\d+.*{message}"):
        load_config(path)


def test_the_door_is_light() -> None:
    code = "import sys, hyperrep, hyperrep.config; assert 'torch' not in sys.modules; hyperrep.load_config"
    subprocess.run([sys.executable, "-c", code], check=True)
