"""Steps run once: skipped while inputs and outputs are what they were, repeated when anything changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperrep.studies.steps import Step, run_step


def _step(folder: Path, calls: list[int], value: int = 1) -> Step:
    def act() -> None:
        calls.append(value)
        (folder / "result.txt").write_text(str(value))

    return Step("square", {"value": value}, ("result.txt",), act)


def test_a_finished_step_is_skipped(tmp_path: Path) -> None:
    calls: list[int] = []
    first = run_step(_step(tmp_path, calls), tmp_path)
    second = run_step(_step(tmp_path, calls), tmp_path)
    assert calls == [1]
    assert (first.skipped, second.skipped) == (False, True)
    assert first.files == second.files
    assert second.seconds == pytest.approx(first.seconds, abs=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "result.txt").write_text("2"),
        lambda folder: (folder / "result.txt").unlink(),
        lambda folder: (folder / "steps" / "square.json").write_text("{"),
        lambda folder: (folder / "steps" / "square.json").unlink(),
    ],
)
def test_a_changed_or_missing_file_runs_it_again(tmp_path: Path, change: Callable[[Path], object]) -> None:
    calls: list[int] = []
    run_step(_step(tmp_path, calls), tmp_path)
    change(tmp_path)
    assert not run_step(_step(tmp_path, calls), tmp_path).skipped
    assert calls == [1, 1]


def test_changed_inputs_run_it_again(tmp_path: Path) -> None:
    calls: list[int] = []
    run_step(_step(tmp_path, calls, 1), tmp_path)
    assert not run_step(_step(tmp_path, calls, 2), tmp_path).skipped
    assert calls == [1, 2]


def test_a_step_that_fails_leaves_no_record(tmp_path: Path) -> None:
    calls: list[int] = []
    run_step(_step(tmp_path, calls, 1), tmp_path)

    def fail() -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run_step(Step("square", {"value": 2}, ("result.txt",), fail), tmp_path)
    assert not run_step(_step(tmp_path, calls, 1), tmp_path).skipped
