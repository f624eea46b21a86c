"""Progress shows what is done, over all runs, and never stops a build."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

import zookeeper
from zookeeper import Plan, build_zoo
from zookeeper.build import progress as progress_module
from zookeeper.build import worker
from zookeeper.build.progress import FOLDER, BeatWriter, BuildProgress
from zookeeper.build.worker import Beat

COHORTS = {"a": 10, "b": 20, "c": 30}
NAN = float("nan")


def test_counts_go_on_where_earlier_runs_ended(tmp_path: Path) -> None:
    with BuildProgress(tmp_path, COHORTS, {"a": 5, "b": 2}, num_epochs=5, best=0.4, show=False) as progress:
        assert (progress.num_finished, progress.num_model_epochs, progress.best) == (10, 90, 0.4)
        progress.beat(Beat("a", 10, 5, NAN, 0))  # a finished cohort says so again
        assert (progress.num_finished, progress.num_model_epochs, progress.best) == (10, 90, 0.4)
        progress.beat(Beat("b", 20, 4, 0.7, 0))
        progress.beat(Beat("b", 20, 3, 0.6, 0))  # late news
        assert (progress.num_finished, progress.num_model_epochs, progress.best) == (10, 130, 0.7)
        progress.beat(Beat("b", 20, 5, 0.5, 0))
        progress.beat(Beat("b", 20, 5, 0.5, 0))
        assert (progress.num_finished, progress.num_model_epochs, progress.best) == (30, 150, 0.7)
        for epoch in range(6):
            progress.beat(Beat("c", 30, epoch, 0.1, 0))
        assert (progress.num_finished, progress.num_model_epochs) == (60, 300)


def test_best_accuracy_starts_with_the_first_number(tmp_path: Path) -> None:
    with BuildProgress(tmp_path, COHORTS, {}, num_epochs=5, show=False) as progress:
        progress.beat(Beat("a", 10, 1, NAN, 0))
        assert progress.best != progress.best
        progress.beat(Beat("a", 10, 2, 0.0, 0))
        assert progress.best == 0.0


def test_news_from_other_processes_survive_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_SECONDS", 0.0)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "stale.json").write_text("{}")
    with BuildProgress(tmp_path, COHORTS, {}, num_epochs=5, show=False) as progress:
        progress.poll()  # no folder yet
        assert not (tmp_path / FOLDER).exists()
        write = BeatWriter(str(tmp_path), "a")
        for epoch in (1, 2):
            write(Beat("a", 10, epoch, 0.3, 0))
        for name, text in (("b", '{"cohort": "b"'), ("c", "[1]"), ("d", json.dumps(asdict(Beat("d", 1, 1, 0.9, 0))))):
            (tmp_path / FOLDER / f"{name}.json").write_text(text)
        progress.poll()
        assert (progress.num_model_epochs, progress.best) == (20, 0.3)
    assert not (tmp_path / FOLDER).exists()
    BeatWriter(str(tmp_path / "gone"), "a")(Beat("a", 10, 3, 0.3, 0))  # the disk does not take it: no harm
    assert not (tmp_path / "gone").exists()


def test_beats_are_written_at_most_so_often(tmp_path: Path) -> None:
    write = BeatWriter(str(tmp_path), "a")
    for epoch in range(5):
        write(Beat("a", 10, epoch, 0.3, 0))
    assert json.loads((tmp_path / FOLDER / "a.json").read_text())["epoch"] == 0


def test_without_a_terminal_lines_say_what_happens(
    plan_of: Callable[..., Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1)
    monkeypatch.setattr(progress_module, "_LINE_SECONDS", 0.0)
    real = BuildProgress.beat
    monkeypatch.setattr(BuildProgress, "beat", _stop_at(3, real))
    with pytest.raises(KeyboardInterrupt):
        build_zoo(plan_of(), tmp_path / "zoo")
    out, err = capsys.readouterr()
    assert out == ""
    first, *lines = err.splitlines()
    assert first == f"building {tmp_path / 'zoo'}: 12 models in 2 cohort(s), 84 checkpoints, in this process on cpu"
    assert lines[-1].startswith("18/72 model-epochs, ETA ")
    assert ", models 0/12, best " in lines[-1]
    monkeypatch.setattr(BuildProgress, "beat", real)
    build_zoo(plan_of(), tmp_path / "zoo")
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"resuming {tmp_path / 'zoo'}: ")
    assert "; 2 cohort(s) not complete, in this process" in first
    assert second.startswith("24/72 model-epochs, ETA 00:0")
    assert last.startswith("72/72 model-epochs, ETA 00:00, models 12/12, best ")


def test_best_accuracy_of_earlier_runs_counts(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COMMIT_BYTES", 1)
    seen: list[float] = []

    def beat(self: BuildProgress, beat: Beat) -> None:
        seen.append(self.best)
        if beat.epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(BuildProgress, "beat", beat)
    with pytest.raises(KeyboardInterrupt):
        build_zoo(plan_of(), tmp_path / "zoo", show_progress=False)
    stored = zookeeper.open(tmp_path / "zoo").frame["test_acc"].max()
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        build_zoo(plan_of(), tmp_path / "zoo", show_progress=False)
    assert seen[0] == stored


def _stop_at(epoch: int, real: Callable[[BuildProgress, Beat], None]) -> Callable[[BuildProgress, Beat], None]:
    def beat(self: BuildProgress, beat: Beat) -> None:
        real(self, beat)
        if beat.epoch == epoch:
            raise KeyboardInterrupt

    return beat


def test_nothing_is_said_where_nothing_is_asked(
    plan_of: Callable[..., Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_zoo(plan_of(), tmp_path / "zoo", show_progress=False)
    assert capsys.readouterr() == ("", "")
