"""``zookeeper check`` and ``zookeeper retrain``: tables, JSON, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zookeeper
from zookeeper.build import worker
from zookeeper.population.optimise import Optimizer

Run = Callable[..., Any]


def test_check_prints_a_table_and_writes_nothing(
    run: Run, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("check", spec, "--models", 3, "--steps", 2)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].split() == ["images", "tetris"]
    assert "3 models of each kind, 2 steps, on cpu" in lines[1]
    assert lines[3].split() == ["networks", "check", "dtype", "difference", "at", "most"]
    assert len(lines) == 4 + 8
    assert all(line.startswith("mlp tanh adam batch 64") and line.endswith("holds") for line in lines[4:])
    assert list(tmp_path.iterdir()) == []


def test_check_of_a_broken_engine_ends_in_3(run: Run, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Optimizer.update

    def leaking(self: Optimizer, rows: Any, grads: Any, *rest: Any) -> None:
        real(self, rows, grads + 1e-3 * grads.mean(0), *rest)

    monkeypatch.setattr(Optimizer, "update", leaking)
    ended = run("check", spec, "--json")
    assert (ended.code, ended.err) == (3, "")
    value = json.loads(ended.out)
    assert value["holds"] is False
    wrong = {line["check"] for line in value["checks"] if not line["holds"]}
    assert wrong == {"alone against cohort", "plain torch against cohort", "NaN in a neighbour"}
    assert "FAILS" in run("check", spec).out


def test_check_refuses_bad_input(run: Run, tmp_path: Path, spec: Path) -> None:
    assert run("check", tmp_path / "no.yaml").code == 2
    assert run("check", spec, "--models", 1).code == 2
    assert run("check", spec, "--device", "tpu").code == 2


def test_retrain_compares_every_epoch(run: Run, zoo: Path) -> None:
    model_id = zookeeper.open(zoo).header.models[2]
    ended = run("retrain", zoo, model_id)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert model_id in lines[0]
    assert lines[1].split()[:4] == ["epoch", "same", "bits", "weights"]
    assert [line.split()[0] for line in lines[2:]] == ["0", "1", "2", "3"]
    assert lines[2].split()[1:3] == ["yes", "0.0e+00"]
    value = json.loads(run("retrain", zoo, model_id, "--epoch", 1, "--json").out)
    assert (value["model_id"], value["same_start"]) == (model_id, True)
    assert [one["epoch"] for one in value["epochs"]] == [0, 1]
    assert value["factors"]["architecture"] == "mlp"


def test_retrain_names_the_nearest_ids(run: Run, zoo: Path) -> None:
    model_id = zookeeper.open(zoo).header.models[2]
    ended = run("retrain", zoo, model_id[:6])
    assert (ended.code, ended.out) == (2, "")
    assert f"Did you mean {model_id}" in ended.err
    assert run("retrain", zoo, model_id, "--epoch", 4).code == 2
    assert run("retrain", zoo.parent / "nothing", model_id).code == 2


def test_retrain_of_another_start_ends_in_3(run: Run, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = worker.initial_rows
    monkeypatch.setattr(worker, "initial_rows", lambda layout, models: -draw(layout, models))
    ended = run("retrain", zoo, zookeeper.open(zoo).header.models[0])
    assert ended.code == 3
    assert ended.out.splitlines()[2].split()[1] == "no"
