"""Early stopping and live validation: what is watched, what is saved, and that a killed run ends with the same bits."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hyperrep.config import StoppingSection, TrainConfig
from hyperrep.training.checkpoint import CHECKPOINT_NAME
from hyperrep.training.fit import TrainingDivergedError, fit
from hyperrep.training.ridge import best_r2
from hyperrep.training.saved import load
from hyperrep.training.step import FitData, Objective
from hyperrep.training.stopping import Stopping
from zookeeper.errors import InputError
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population

pytestmark = pytest.mark.usefixtures("one_thread")


def config(stopping: dict[str, Any] | None = None, **training: Any) -> TrainConfig:
    steps = {"steps": 20, "batch_size": 4, "checkpoint_every": 3, "evaluate_every": 2, "log_every": 5, "lr": 0.02}
    value = {
        "name": "tiny",
        "tokens": {"width": 6},
        "model": {"d_model": 16, "num_heads": 2, "num_layers": 1, "latent": 4},
        "loss": {"gamma": 0.05, "beta": 0.1, "queries": 8},
        "training": steps | training | ({} if stopping is None else {"stopping": stopping}),
    }
    return TrainConfig.model_validate_json(json.dumps(value))


def tiny_data() -> FitData:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    population = Population(net, (1, 2, 2))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(30, population.layout.num_weights, generator=generator)
    queries = torch.randn(20, 1, 2, 2, generator=generator)
    targets = rows.double().square().mean(1)
    symmetry = Symmetry.of(net, (1, 2, 2))
    return FitData(
        rows[:22], population.layout, population, symmetry, queries, rows[22:], queries[:5],
        targets=targets[:22], val_targets=targets[22:],
    )  # fmt: skip


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_the_weights_that_were_best_on_validation_are_saved(tmp_path: Path) -> None:
    data = tiny_data()
    watched = config({"value": "structure", "patience": 2}, steps=60, lr=0.1, warmup=0.0)
    fit(watched, data, tmp_path)
    values = {int(row["step"]): float(row["val_structure"]) for row in log_of(tmp_path) if row["val_structure"]}
    best = min(values, key=lambda step: values[step])
    assert max(values) == best + 2 * 2, "it waits for two evaluations"
    assert max(values) < 60
    saved = Objective(watched, load(tmp_path), data).validate()
    assert saved["structure"] == pytest.approx(values[best], rel=1e-8)


def test_a_stopped_training_is_over_when_it_is_started_again(tmp_path: Path) -> None:
    data, watched = tiny_data(), config({"value": "agreement", "patience": 1, "min_gain": 1.0})
    first = fit(watched, data, tmp_path)
    again = fit(watched, data, tmp_path, on_step=lambda count, values: pytest.fail("no step is left"))
    assert torch.equal(first.encode(data.rows), again.encode(data.rows))
    assert [row["step"] for row in log_of(tmp_path)] == ["2", "4"]


KILLED = """
import os, signal, sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training_stopping import config, tiny_data
from hyperrep.training.fit import fit
torch.set_num_threads(1)
die = lambda count, values: count == {step} and os.kill(os.getpid(), signal.SIGKILL)
fit(config({{"value": "probe_r2", "patience": 4}}), tiny_data(), Path({out!r}), on_step=die)
"""


def test_kill_9_and_resume_end_with_the_bits_of_an_uninterrupted_run(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    script = KILLED.format(tests=str(Path(__file__).parent), out=str(out), step=8)
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (out / "model.safetensors").exists()
    watched = config({"value": "probe_r2", "patience": 4})
    fit(watched, tiny_data(), out)
    fit(watched, tiny_data(), tmp_path / "whole")
    for name in ("model.safetensors", "config.json", "scaling.json", CHECKPOINT_NAME):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert log_of(out) == log_of(tmp_path / "whole")


def test_live_validation_measures_every_part_agreement_and_the_probe(tmp_path: Path) -> None:
    data = tiny_data()
    hyper = fit(config(), data, tmp_path)
    assert data.targets is not None
    assert data.val_targets is not None
    assert data.val_rows is not None
    last = log_of(tmp_path)[-1]
    names = ("total", "contrast", "structure", "behaviour", "agreement", "probe_r2")
    assert all(last[f"val_{name}"] for name in names)
    features, val_features = (np.asarray(hyper.embed(rows)) for rows in (data.rows, data.val_rows))
    expected = best_r2(features, data.targets.numpy(), val_features, data.val_targets.numpy())
    assert float(last["val_probe_r2"]) == pytest.approx(expected, rel=1e-6)
    assert "val_probe_r2" not in log_of_run(replace(data, targets=None), tmp_path / "without")[-1]


def log_of_run(data: FitData, folder: Path) -> list[dict[str, str]]:
    fit(config(steps=2), data, folder)
    return log_of(folder)


def test_watching_does_not_change_the_training_and_belongs_to_its_identity(tmp_path: Path) -> None:
    data = tiny_data()
    plain = fit(config(), data, tmp_path / "plain")
    watched = config({"value": "total", "patience": 50})
    fit(watched, data, tmp_path / "watched")
    last = {name: value for name, value in log_of(tmp_path / "watched")[-1].items() if name == "total"}
    assert last["total"] == log_of(tmp_path / "plain")[-1]["total"]
    assert plain.config.digest != watched.digest
    assert config(evaluate_every=7).digest == config().digest
    often = config({"value": "total", "patience": 50}, evaluate_every=7)
    assert often.digest != watched.digest, "how often is looked decides when it stops"
    assert "stopping" not in config().to_json()["training"]


def test_values_that_are_not_finite_and_small_gains_are_no_gains() -> None:
    stopping, model = Stopping(StoppingSection(value="total", patience=9, min_gain=0.1)), nn.Linear(1, 1)
    for step, value in enumerate((1.0, 0.95, float("nan"), 0.89, 0.85)):
        stopping.update({"val_total": value}, step, model)
    assert (stopping.best, stopping.best_step, stopping.waited) == (0.89, 3, 1)


@pytest.mark.parametrize(
    ("value", "missing", "message"),
    [
        ("probe_r2", {"targets": None}, "probe_r2 is not measured here; expected one of contrast, structure"),
        ("agreement", {"val_queries": None}, "agreement is not measured here"),
        ("total", {"val_rows": None}, "there are no validation rows"),
        ("cycle", {}, "cycle is not measured here"),
    ],
)
def test_a_value_that_is_never_measured_is_refused(
    value: str, missing: dict[str, None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        fit(config({"value": value}), replace(tiny_data(), **missing), tmp_path)


class Poisoned:
    """A population whose outputs turn NaN at the sixth step; gradients too if ``backward`` alone is poisoned."""

    def __init__(self, population: Population) -> None:
        self.population, self.calls = population, 0
        self.activation_floats = population.activation_floats

    def forward(self, rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        self.calls += rows.requires_grad
        logits = self.population.forward(rows, images)
        if rows.requires_grad and self.calls == 6:
            logits.register_hook(lambda grad: grad * torch.nan)
        return logits


def test_a_gradient_that_is_not_finite_names_step_batch_and_checkpoint(tmp_path: Path) -> None:
    data = tiny_data()
    assert isinstance(data.population, Population)
    broken = replace(data, population=Poisoned(data.population), val_rows=None)
    message = r"step 6: grad_norm not finite .* batch of train rows \d+, .*checkpoint\.safetensors"
    with pytest.raises(TrainingDivergedError, match=message):
        fit(config(), broken, tmp_path)
    healthy = fit(config(), replace(data, val_rows=None), tmp_path)
    whole = fit(config(), replace(data, val_rows=None), tmp_path / "whole")
    assert torch.equal(healthy.encode(data.rows), whole.encode(data.rows)), "the checkpoint before it is good"
