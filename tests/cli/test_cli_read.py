"""``zookeeper info`` and ``zookeeper query``: data on stdout, errors on stderr, exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import zookeeper
from zookeeper.build import prepare_zoo
from zookeeper.spec import load_spec, make_plan

Run = Callable[..., Any]


def test_info_describes_a_zoo(run: Run, zoo: Path) -> None:
    ended = run("info", zoo)
    assert (ended.code, ended.err) == (0, "")
    values = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert (values["models"], values["checkpoints"], values["num_weights"]) == ("12", "48", "100")
    assert values["epochs"] == "0, 3"
    assert values["complete"] == "True"
    value = json.loads(run("info", zoo, "--json").out)
    frame = zookeeper.open(zoo).frame
    assert value["name"] == "tiny"
    assert value["best_test_acc"] == frame["test_acc"].max()
    assert value["splits"] == {"train": 4, "val": 4, "test": 4}
    assert (value["complete"], value["diverged"]) == (True, 0)
    assert {"lr", "init", "seed"} <= set(value["factors"])


def test_info_of_an_empty_zoo_is_valid_json(run: Run, spec: Path, tmp_path: Path) -> None:
    prepare_zoo(make_plan(load_spec(spec)), tmp_path / "zoo")
    ended = run("info", tmp_path / "zoo", "--json")
    value = json.loads(ended.out)
    assert ended.code == 0
    assert (value["complete"], value["models"], value["checkpoints"], value["best_test_acc"]) == (False, 0, 0, None)
    assert run("info", tmp_path / "zoo").code == 0


def test_query_prints_lines_of_json_csv_or_a_table(run: Run, zoo: Path) -> None:
    expected = zookeeper.open(zoo).query("epoch == 3 and lr > .002").frame
    ended = run("query", zoo, "epoch == 3 and lr > .002", "--json")
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert (ended.code, ended.err, len(rows)) == (0, "", 6)
    for column in ("model_id", "lr", "init", "seed", "test_acc", "split"):
        assert [row[column] for row in rows] == expected[column].tolist()
    assert [row["test_loss"] for row in rows] == pytest.approx(expected["test_loss"].tolist(), rel=1e-12)
    ended = run("query", zoo, "epoch == 3 and lr > .002", "--csv")
    read = pd.read_csv(io.StringIO(ended.out))
    assert read["test_loss"].tolist() == expected["test_loss"].tolist()
    ended = run("query", zoo, "epoch == 3 and lr > .002", "--columns", "model_id, test_acc,model_id")
    assert ended.out.split()[:2] == ["model_id", "test_acc"]
    assert len(ended.out.splitlines()) == 7


def test_query_without_a_match_prints_no_data(run: Run, zoo: Path) -> None:
    assert run("query", zoo, "test_acc > 2", "--json").out == ""
    ended = run("query", zoo, "test_acc > 2")
    assert (ended.code, ended.out, ended.err) == (0, "", "no checkpoint matches\n")
    header = run("query", zoo, "test_acc > 2", "--csv", "--columns", "lr,epoch").out
    assert header == "lr,epoch\n"


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["test_ac > .5"], "test_acc"),
        (["test_acc >"], "test_acc >"),
        (["__import__('os').system('true')"], ""),
        (["epoch == 3", "--columns", "lr,sed"], "Did you mean seed"),
        (["epoch == 3", "--json", "--csv"], "Choose one"),
        (["lr"], "lr"),
    ],
)
def test_bad_query_is_one_error_and_code_2(arguments: list[str], fragment: str, run: Run, zoo: Path) -> None:
    ended = run("query", zoo, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert fragment in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("command", [["info"], ["query"]])
def test_what_is_not_a_zoo_is_code_2(command: list[str], run: Run, tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "absent"):
        ended = run(*command, target, *(["epoch == 0"] if command == ["query"] else []))
        assert (ended.code, ended.out) == (2, "")
        assert "no zoo here" in ended.err


def test_damaged_zoo_is_code_1(run: Run, spec: Path, tmp_path: Path) -> None:
    prepare_zoo(make_plan(load_spec(spec)), tmp_path / "zoo")
    (tmp_path / "zoo/zoo.json").write_text("{")
    ended = run("info", tmp_path / "zoo")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: ")


def test_usage_errors_are_code_2(run: Run) -> None:
    assert run("build").code == 2
    assert run("bulid").code == 2
    assert run("--help").code == 0
    assert "plan" in run("-h").out


def test_door_offers_what_a_build_needs() -> None:
    for name in ("build_zoo", "BuildSummary", "Workers", "load_spec", "make_plan"):
        assert name in zookeeper.__all__
        assert getattr(zookeeper, name).__name__ == name
