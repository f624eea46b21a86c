"""Two configurations of the digits zoo train as they always did: losses, gradients and weights of the first steps.

A refactor leaves the golden file unchanged. Numbers are compared within rounding, because another machine multiplies
matrices in another order; on one machine they have not changed by a bit. To write the file anew after a change that
is meant, run this file as a script.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperrep.config import load_config
from hyperrep.training.fit import fit
from hyperrep.training.step import FitData
from zookeeper.nets.registry import build_network
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population

FOLDER = Path(__file__).parent / "golden"
GOLDEN = FOLDER / "digits_training.json"
NAMES = ("digits_cs", "digits_csb")
NUM_STEPS = 4


pytestmark = pytest.mark.usefixtures("one_thread")


def first_steps(name: str, folder: Path) -> dict[str, Any]:
    """Train the configuration for a few steps on seeded noise and write down what happened."""
    config = load_config(FOLDER / f"{name}.yaml")
    training = config.training.model_copy(update={"steps": NUM_STEPS, "batch_size": 16})
    network = build_network("cnn-digits", in_channels=1, image_size=(8, 8), num_classes=10)
    population = Population(network, (1, 8, 8))
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(40, population.layout.num_weights, generator=generator) - 0.5
    images = torch.rand(300, 1, 8, 8, generator=generator)
    symmetry = Symmetry.of(network, (1, 8, 8))
    data = FitData(rows[:32], population.layout, population, symmetry, images, rows[32:], images[:50])
    steps: list[dict[str, float]] = []

    def keep(count: int, values: Mapping[str, float]) -> None:
        steps.append(dict(values))

    hyper = fit(config.model_copy(update={"training": training}), data, folder, on_step=keep)
    weights = {key: float(value.double().norm()) for key, value in hyper.model.state_dict().items()}
    return {"digest": config.digest, "steps": steps, "weights": weights}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_steps_are_the_golden_ones(name: str, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    found = first_steps(name, tmp_path)
    assert found["digest"] == golden["digest"]
    assert list(found["weights"]) == list(golden["weights"])
    assert found["weights"] == pytest.approx(golden["weights"], rel=1e-4)
    for step, (values, expected) in enumerate(zip(found["steps"], golden["steps"], strict=True)):
        assert values == pytest.approx(expected, rel=1e-3 if "val_agreement" not in values else 2e-2), step
    assert (tmp_path / "config.json").read_text().count('"format_version": 1') == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        text = json.dumps({name: first_steps(name, Path(place) / name) for name in NAMES}, indent=1)
    GOLDEN.write_text(text + "\n")
