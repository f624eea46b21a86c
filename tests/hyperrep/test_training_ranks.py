"""Several processes train what one trains; when one dies all end, and the error says which."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hyperrep.config import TrainConfig
from hyperrep.training.checkpoint import CHECKPOINT_NAME
from hyperrep.training.fit import fit
from hyperrep.training.launch import RankFailedError, launch
from hyperrep.training.ranks import SINGLE, RankError, Ranks, joined_ranks
from hyperrep.training.saved import HyperRepresentation, load
from hyperrep.training.step import FitData, Objective
from hyperrep.weights.scaling import Scaling
from zookeeper.errors import InputError
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population

pytestmark = pytest.mark.usefixtures("one_thread")


def config(**training: Any) -> TrainConfig:
    value = {
        "name": "tiny",
        "tokens": {"width": 6},
        "model": {"d_model": 16, "num_heads": 2, "num_layers": 1, "latent": 4},
        "loss": {"gamma": 0.3, "beta": 0.4, "queries": 8, "cycle": 0.2, "scales": "first_batch"},
        "augment": {"permute": True, "erase": 0.5, "noise": 0.01},
        "training": {"steps": 6, "batch_size": 5, "evaluate_every": 2, "checkpoint_every": 3, "log_every": 1}
        | training,
    }
    return TrainConfig.model_validate_json(json.dumps(value))


def tiny_data() -> FitData:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    population = Population(net, (1, 2, 2))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(22, population.layout.num_weights, generator=generator)
    images = torch.randn(20, 1, 2, 2, generator=generator)
    return FitData(rows[:16], population.layout, population, Symmetry.of(net, (1, 2, 2)), images, rows[16:], images[:5])


def gradient_of_a_batch(ranks: Ranks) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Values and gradient of one batch of five models in float64."""
    data = tiny_data()
    assert data.queries is not None
    double = FitData(data.rows.double(), data.layout, data.population, data.permutations, data.queries.double())
    hyper = HyperRepresentation.initialise(config(), data.layout, Scaling.fit(data.rows, data.layout), seed=0)
    hyper.model.double()
    objective = Objective(config(), hyper, double, {"structure": 0.5}, ranks)
    parts = objective.train_loss(double.rows[:5], 3)
    parts.total.backward()  # type: ignore[no-untyped-call]
    ranks.sum_gradients(hyper.model.parameters())
    return objective.values_of(parts), [p.grad for p in hyper.model.parameters() if p.grad is not None]


def run_as_rank(out: Path) -> None:
    """What each of the two processes does."""
    with joined_ranks("cpu") as ranks:
        values, gradient = gradient_of_a_batch(ranks)
        torch.save({"values": values, "gradient": gradient}, out / f"rank{ranks.rank}.pt")
        fit(config(), tiny_data(), out / "fit", ranks=ranks)


SCRIPT = "import sys, torch; from pathlib import Path; torch.set_num_threads(1); sys.path.insert(0, {tests!r})\n"
SCRIPT += "import test_training_ranks as t; t.run_as_rank(Path({out!r}))"


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parent), out=str(tmp_path))
    launch([sys.executable, "-c", script], 2)
    values, gradient = gradient_of_a_batch(SINGLE)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        assert found["values"] == pytest.approx(values, rel=1e-12)
        torch.testing.assert_close(found["gradient"], gradient, rtol=1e-10, atol=1e-13)
    alone = fit(config(), tiny_data(), tmp_path / "alone")
    together = load(tmp_path / "fit")
    rows = tiny_data().rows
    torch.testing.assert_close(together.reconstruct(rows), alone.reconstruct(rows), rtol=1e-3, atol=1e-4)
    logs = []
    for name in ("fit", "alone"):
        with (tmp_path / name / "log.csv").open(newline="") as file:
            logs.append([{k: float(v) for k, v in row.items() if v and k != "seconds"} for row in csv.DictReader(file)])
    for ours, wanted in zip(*logs, strict=True):
        assert ours == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    again = fit(config(), tiny_data(), tmp_path / "fit", on_step=lambda count, values: pytest.fail("it was finished"))
    assert torch.equal(again.encode(rows), together.encode(rows)), "one process goes on from the checkpoint of two"
    assert (tmp_path / "fit" / CHECKPOINT_NAME).exists()


def test_a_process_that_dies_ends_all_and_is_named(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, time\nrank = os.environ['RANK']\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n(place / rank).write_text(str(os.getpid()))\n"
        "while len(list(place.iterdir())) < 3: time.sleep(0.01)\n"
        f"if rank == '1': os.kill(os.getpid(), {int(signal.SIGKILL)})\ntime.sleep(600)"
    )
    with pytest.raises(RankFailedError, match=r"process 1 of 3 was ended by signal 9; the others were ended") as caught:
        launch([sys.executable, "-c", script], 3)
    assert caught.value.exit_code == 1
    for name in "012":
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / name).read_text()), 0)


def test_the_last_words_and_the_exit_code_of_a_failed_process_are_passed_on() -> None:
    script = "import os, sys\nif os.environ['RANK'] == '1': sys.exit(print('error: rank one', file=sys.stderr) or 2)"
    with pytest.raises(RankFailedError, match=r"process 1 of 2 failed with exit code 2.* It said: rank one") as caught:
        launch([sys.executable, "-c", script], 2)
    assert caught.value.exit_code == 2


def test_a_message_to_a_process_that_is_gone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*ignored: object) -> None:
        raise RuntimeError("Connection closed by peer\nmany more lines")

    monkeypatch.setattr(torch.distributed, "all_reduce", lost)
    with pytest.raises(RankError, match=r"process 0 of 2: another process .* is gone \(Connection closed by peer\)"):
        Ranks(0, 2).sum(torch.ones(1))


def test_more_processes_than_rows_of_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="9 processes share batches of 5 rows"):
        fit(config(), tiny_data(), tmp_path, ranks=Ranks(0, 9))
    with pytest.raises(InputError, match="expected at least 1, got 0"):
        launch(["true"], 0)


def test_without_an_environment_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined_ranks("cpu") as ranks:
        assert ranks == SINGLE
    assert "MASTER_PORT" not in os.environ
