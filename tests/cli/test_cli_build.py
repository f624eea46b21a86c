"""``zookeeper plan`` and ``zookeeper build``: what they print, what they refuse, what they leave alone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import zookeeper
from zookeeper.build import local
from zookeeper.build.progress import BuildProgress
from zookeeper.store.lock import BuildLock

CORPUS = sorted((Path(__file__).parents[1] / "spec" / "corpus").glob("*.yaml"))
Run = Callable[..., Any]


def snapshot(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_bad_spec_ends_in_one_error_and_code_2(
    path: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["build", path, "--out", tmp_path / "zoo", "--local"], ["plan", path]):
        ended = run(*command)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith(f"error: {path}:")
        assert ended.err.count("error: ") == 1
        assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_corpus_is_there() -> None:
    assert len(CORPUS) > 90


def test_plan_prints_the_size_of_the_work_and_writes_nothing(
    run: Run, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("plan", spec, "--cohort-size", 5, "--workers", 2)
    assert (ended.code, ended.err) == (0, "")
    lines = dict(line.split("  ", 1) for line in ended.out.splitlines())
    values = {key.strip(): value.strip() for key, value in lines.items()}
    assert values["zoo"] == "tiny"
    assert values["axes"] == "init 2, lr 2, seed 3"
    assert values["models"] == "12"
    assert values["cohorts"] == "3 of 4 models"
    assert values["checkpoints"] == "48 (4 epochs per model)"
    assert values["weights per model"] == "mlp 100"
    assert values["on disk"].endswith(" kB")
    assert values["ETA"].endswith(" s with 2 worker(s) on cpu")
    assert list(tmp_path.iterdir()) == []


def test_plan_as_json(run: Run, spec: Path, zoo: Path) -> None:
    ended = run("plan", spec, "--json")
    value = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert (value["name"], value["num_models"], value["num_checkpoints"]) == ("tiny", 12, 48)
    size = sum(path.stat().st_size for path in zoo.rglob("*") if path.is_file())
    assert value["num_bytes"] == pytest.approx(size, rel=0.1)
    assert value["seconds"] > 0


def test_build_prints_a_summary_and_repeats_for_free(run: Run, spec: Path, tmp_path: Path) -> None:
    first = run("build", spec, "--out", tmp_path / "zoo", "--local")
    assert first.code == 0
    assert "12 (0 diverged)" in first.out
    assert "48" in first.out
    assert first.err.startswith(f"building {tmp_path / 'zoo'}: 12 models")
    second = run("build", spec, "--out", tmp_path / "zoo", "--json")
    assert (second.code, second.err) == (0, "")
    value = json.loads(second.out)
    assert value["path"] == str(tmp_path / "zoo")
    assert (value["num_models"], value["num_checkpoints"], value["num_diverged"]) == (12, 48, 0)
    frame = zookeeper.open(tmp_path / "zoo").frame
    assert value["best_test_acc"] == frame["test_acc"].max()
    assert value["failures"] == {}


def test_default_place_is_under_data(run: Run, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("build", spec).code == 0
    assert len(zookeeper.open(tmp_path / "data/zoos/tiny")) == 48


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--device", "cuda"], "no GPU for cuda"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--local", "--workers", "3"], "a local build cannot use 3 workers"),
        (["--local", "--address", "head:6379"], "a local build cannot use the cluster head:6379"),
        (["--gpus-per-worker", "0.5", "--device", "cpu"], "0.5 GPUs for a worker on the cpu"),
    ],
)
def test_impossible_workers_are_refused_before_anything_is_written(
    options: list[str], fragment: str, run: Run, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = run("build", spec, "--out", tmp_path / "zoo", *options)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert fragment in ended.err
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_plan_on_an_absent_gpu_is_refused(run: Run, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = run("plan", spec, "--device", "cuda")
    assert (ended.code, ended.out) == (2, "")
    assert "no GPU for cuda" in ended.err


def test_missing_images_are_one_error_and_no_directory(run: Run, spec: Path, tmp_path: Path) -> None:
    text = spec.read_text().replace(
        "{name: tetris, split: {train: 0.5, val: 0.25, test: 0.25}", "{name: mnist, split: {train: 0.9, val: 0.1}"
    )
    mnist = tmp_path / "mnist.yaml"
    mnist.write_text(text.replace("architecture: mlp", "architecture: cnn-small"))
    (tmp_path / "files").mkdir()
    for command in ("build", "plan"):
        options = ["--out", tmp_path / "zoo"] if command == "build" else []
        ended = run(command, mnist, "--data-root", tmp_path / "files", *options)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.count("\n") == 1
        assert "mnist" in ended.err
        assert str(tmp_path / "files") in ended.err
    assert not (tmp_path / "zoo").exists()
    assert list((tmp_path / "files").iterdir()) == []


def test_changed_spec_is_refused_and_changes_nothing(run: Run, spec: Path, zoo: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(
        spec.read_text().replace("lr: [1e-3, 3e-3]", "lr: [1e-3, 5e-3]").replace("epochs: 3", "epochs: 4")
    )
    before = snapshot(zoo)
    ended = run("build", changed, "--out", zoo)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {zoo}: holds a zoo of another spec: ")
    assert "lr" in ended.err
    assert "epochs" in ended.err
    assert snapshot(zoo) == before


def test_directory_of_something_else_is_refused(run: Run, spec: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    ended = run("build", spec, "--out", tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert "is not a zoo and not empty (it holds 'thesis.tex')" in ended.err
    assert snapshot(tmp_path) == {"thesis.tex": b"x"}


def test_second_build_at_once_is_told_who_is_at_work(run: Run, spec: Path, zoo: Path) -> None:
    with BuildLock(zoo):
        ended = run("build", spec, "--out", zoo)
    assert (ended.code, ended.out) == (2, "")
    assert "another builder is at work (process " in ended.err


def test_huge_grid_needs_yes(run: Run, spec: Path, tmp_path: Path) -> None:
    huge = tmp_path / "huge.yaml"
    huge.write_text(spec.read_text().replace("range: [0, 3]", "range: [0, 5001]"))
    for command in (["plan", huge], ["build", huge, "--out", tmp_path / "zoo"]):
        ended = run(*command)
        assert (ended.code, ended.out) == (2, "")
        assert "20,004" in ended.err
        assert "--yes" in ended.err
    assert run("plan", huge, "--yes").out.splitlines()[2].split() == ["models", "20,004"]
    assert not (tmp_path / "zoo").exists()


def test_failed_cohorts_end_in_code_3(run: Run, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "run_local", lambda jobs, progress: {jobs[0].cohort.name: "the worker died"})
    ended = run("build", spec, "--out", tmp_path / "zoo", "--json")
    assert ended.code == 3
    value = json.loads(ended.out)
    assert list(value["failures"].values()) == ["the worker died"]
    assert value["best_test_acc"] is None  # JSON has no NaN
    assert "failed cohort c00000-" in ended.err


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Handle Ctrl-C as at a terminal: a process that a script starts in the background inherits to ignore it."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_ends_a_build_cleanly_and_the_same_command_finishes(
    number: int, code: int, word: str, run: Run, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beat(self: BuildProgress, beat: object) -> None:
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(BuildProgress, "beat", beat)
        ended = run("build", spec, "--out", tmp_path / "zoo")
    assert (ended.code, ended.out) == (code, "")
    started, said = ended.err.splitlines()
    assert started.startswith("building ")
    assert said == f"{word}. What was finished is safe; the same command goes on."
    assert signal.getsignal(number) == before
    left = {path.name for path in (tmp_path / "zoo").iterdir()}
    assert left == {"commits", "meta", "shards", "state", "zoo.json", "zoo.json.copy"}
    assert run("build", spec, "--out", tmp_path / "zoo").code == 0


def test_shards_are_built_one_by_one_and_the_last_completes(run: Run, spec: Path, tmp_path: Path) -> None:
    root = tmp_path / "zoo"
    first = run("build", spec, "--out", root, "--cohort-size", 3, "--shard", "1/2")
    assert first.code == 0
    assert f"{root} (not complete)" in first.out
    assert first.err.startswith(f"building shard 1/2 of {root}: 6 models in 2 cohort(s), 24 checkpoints")
    value = json.loads(run("build", spec, "--out", root, "--shard", "2/2", "--json").out)
    assert (value["complete"], value["num_models"]) == (True, 12)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "half", "1/0", "1-2"])
def test_bad_shards_are_refused_before_anything_is_written(shard: str, run: Run, spec: Path, tmp_path: Path) -> None:
    ended = run("build", spec, "--out", tmp_path / "zoo", "--shard", shard)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: --shard {shard}: ")
    assert list(tmp_path.iterdir()) == []


def test_memory_decides_the_size_of_cohorts(run: Run, spec: Path, tmp_path: Path) -> None:
    words = run("plan", spec, "--memory", "144.5MB").out.split()
    assert words[words.index("cohorts") + 1] != "1"
    assert "1 of 12 models" in run("plan", spec, "--memory", "1GB").out
    assert "1 of 12 models" in run("plan", spec).out
    assert run("build", spec, "--out", tmp_path / "zoo", "--memory", "144.5MB", "--local").code == 0
    assert len(zookeeper.open(tmp_path / "zoo").header.cohorts) > 1
    for command in ("plan", "build"):
        assert "expected a number and a unit" in run(command, spec, "--memory", "much").err
        ended = run(command, spec, "--memory", "1kB")
        assert ended.code == 2
        assert "training one mlp in batches of 64 takes" in ended.err
