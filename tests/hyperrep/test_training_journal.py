"""The journal of a training: TensorBoard holds what the CSV file holds, also after a resume; without it one error."""

from __future__ import annotations

import builtins
import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from hyperrep.config import TrainConfig
from hyperrep.training.journal import Journal
from zookeeper.errors import InputError

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the package tensorboard is not installed"
)


def config(*, tensorboard: bool) -> TrainConfig:
    value = {
        "name": "tiny",
        "tokens": {"width": 6},
        "model": {"d_model": 8, "num_heads": 2, "num_layers": 1, "latent": 4},
        "loss": {"gamma": 0.0, "beta": 1.0},
        "training": {"steps": 9, "tensorboard": tensorboard},
    }
    return TrainConfig.model_validate_json(json.dumps(value))


def write(folder: Path, steps: range, *, tensorboard: bool = True) -> None:
    with Journal(folder, config(tensorboard=tensorboard), steps_done=steps.start, num_steps=9) as journal:
        for step in range(steps.start + 1, steps.stop + 1):
            values = {"total": 1.0 / step, "val_probe_r2": -step / 8} if step % 2 else {"total": 1.0 / step}
            journal.show(step, values, lr=step / 4)
            journal.tick()


def csv_column(folder: Path, name: str) -> dict[int, float]:
    with (folder / "log.csv").open(newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_what_the_csv_file_holds_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, range(6))
    write(tmp_path, range(4, 9))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = {"train/total": "total", "train/lr": "lr", "validation/probe_r2": "val_probe_r2"}
    assert set(events.Tags()["scalars"]) == set(tags)
    for tag, column in tags.items():
        held = {event.step: event.value for event in events.Scalars(tag)}
        assert held == pytest.approx(csv_column(tmp_path, column), rel=1e-6)
    assert sorted(csv_column(tmp_path, "total")) == list(range(1, 10))


def test_without_the_package_one_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ModuleNotFoundError("No module named 'tensorboard'")
        return genuine(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r"pip install 'weight-zookeeper\[tensorboard\]'"):
        write(tmp_path, range(1))


def test_by_default_there_is_the_csv_file_alone_and_other_ranks_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    write(tmp_path / "first", range(3), tensorboard=False)
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["log.csv"]
    silent = Journal(tmp_path, config(tensorboard=True), steps_done=0, num_steps=9, is_silent=True)
    silent.show(1, {"total": 1.0}, lr=0.1)
    silent.close()
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
