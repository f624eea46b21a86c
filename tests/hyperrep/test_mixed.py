"""One autoencoder for several architectures: they do not disturb each other, resume to the bit, load anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import nn

import zookeeper
from hyperrep.cli import embed
from hyperrep.cli_train import train
from hyperrep.config import TrainConfig
from hyperrep.models.placed import PlacedAutoencoder
from hyperrep.objectives.behaviour import outputs_of
from hyperrep.objectives.composite import LossParts
from hyperrep.training.data import FitData
from hyperrep.training.fit import fit
from hyperrep.training.mixed import MixedRepresentation, load_for, load_mixed
from hyperrep.training.mixed_fit import fit_mixed, fit_zoos, part_of_step, rows_in_batch
from hyperrep.training.saved import HyperRepresentation, load
from hyperrep.training.step import Objective
from hyperrep.training.trainer import TrainingDivergedError
from hyperrep.training.zoo import read_fit_data, read_parts
from hyperrep.weights.alignment import Aligner
from hyperrep.weights.scaling import Scaling
from zookeeper.build import build_zoo
from zookeeper.errors import InputError
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population
from zookeeper.spec.plan import make_plan
from zookeeper.spec.schema import load_spec

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
        value[key] = value[key] | change if isinstance(value.get(key), dict) else change
    return TrainConfig.model_validate_json(json.dumps(value))


def part(net: nn.Module, shape: tuple[int, int, int], seed: int) -> FitData:
    population = Population(net, shape)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(18, population.layout.num_weights, generator=generator)
    queries = torch.randn(20, *shape, generator=generator)
    return FitData(
        rows[:14], population.layout, population, Symmetry.of(net, shape), queries, rows[14:], queries[:5], {"n": seed}
    )


@pytest.fixture(scope="module")
def parts() -> list[FitData]:
    """A perceptron on tiny grey images and a convolution on larger ones with colours and other classes."""
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    convolution = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    return [part(perceptron, (1, 2, 2), 0), part(convolution, (2, 4, 4), 1)]


def trained(parts: list[FitData], folder: Path, **changes: Any) -> MixedRepresentation:
    mixed = fit_mixed(config(**changes), parts, folder)
    assert isinstance(mixed, MixedRepresentation)
    return mixed


@pytest.mark.parametrize("windows", [None, {"size": 8, "halo": 2}])
def test_two_architectures_train_together_and_return_as_they_are(
    parts: list[FitData], tmp_path: Path, windows: dict[str, int] | None
) -> None:
    longer = {"steps": 60, "lr": 5e-3, "evaluate_every": 60}
    start = trained(parts, tmp_path / "start", training={"steps": 1}, windows=windows)
    mixed = trained(parts, tmp_path / "end", training=longer, windows=windows, augment={"erase": 0.0})
    loaded = load_mixed(tmp_path / "end")
    assert loaded.provenance == ({"n": 0}, {"n": 1})
    for data in parts:
        errors = []
        for representation in (start, mixed, loaded):
            view = representation.for_layout(data.layout)
            decoded = view.decode(view.encode(data.rows))
            assert decoded.shape == data.rows.shape
            errors.append(float((decoded - data.rows).square().mean()))
        assert errors[1] < 0.8 * errors[0]
        assert errors[1] == errors[2]
    assert mixed.views[0].latent_shape != mixed.views[1].latent_shape


def test_a_row_does_not_depend_on_other_architectures(parts: list[FitData], tmp_path: Path) -> None:
    mixed = trained(parts, tmp_path)
    first, second = (mixed.for_layout(data.layout) for data in parts)
    alone = first.embed(parts[0].rows)
    second.embed(parts[1].rows)
    assert torch.equal(first.embed(parts[0].rows), alone)
    assert torch.equal(first.embed(parts[0].rows[3:4]), alone[3:4])


def test_padding_never_leaks(parts: list[FitData], tmp_path: Path) -> None:
    mixed = trained(parts, tmp_path)
    for data in parts:
        model = mixed.for_layout(data.layout).model
        assert isinstance(model, PlacedAutoencoder)
        tokens = mixed.for_layout(data.layout).tokens_of(data.rows)
        assert not model.mask.all()
        poisoned = tokens.masked_fill(~model.mask, torch.nan)
        latents = model.encode(tokens)
        assert torch.equal(model.encode(poisoned), latents)
        longest, projection = mixed.shared.latent_shape[0], mixed.shared.projection
        padded = torch.zeros(len(latents), longest, latents.shape[2])
        padded[:, : latents.shape[1]] = latents
        assert torch.equal(model.project(latents), projection(padded))


@pytest.mark.parametrize("zoos_in_batch", ["one", "all"])
def test_a_killed_and_resumed_training_ends_with_the_same_bits(
    parts: list[FitData], zoos_in_batch: str, tmp_path: Path
) -> None:
    scales = {"loss": {"scales": "first_batch"}, "training": {"zoos_in_batch": zoos_in_batch}}
    trained(parts, tmp_path / "whole", **scales)

    def kill(count: int, values: Mapping[str, float]) -> None:
        if count == 6:
            raise Killed

    with pytest.raises(Killed):
        fit_mixed(config(**scales), parts, tmp_path / "cut", on_step=kill)
    trained(parts, tmp_path / "cut", **scales)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    with pytest.raises(InputError, match="another configuration or other data"):
        fit_mixed(config(**scales), parts[::-1], tmp_path / "cut")


def test_a_list_of_one_is_a_training_on_one(parts: list[FitData], tmp_path: Path) -> None:
    fit(config(), parts[0], tmp_path / "one")
    hyper = fit_mixed(config(), parts[:1], tmp_path / "list")
    assert isinstance(hyper, HyperRepresentation)
    for name in ("model.safetensors", "config.json", "scaling.json", "layout.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "list" / name).read_bytes()


def test_parts_of_one_layout_share_a_view_and_its_scaling(parts: list[FitData], tmp_path: Path) -> None:
    moved = replace(parts[0], rows=parts[0].rows + 3)
    mixed = trained([parts[0], moved, parts[1]], tmp_path)
    assert len(mixed.views) == 2
    assert mixed.views[0].scaling.means[0] == pytest.approx(1.5, abs=0.2)


def test_steps_take_turns_by_the_number_of_rows(parts: list[FitData]) -> None:
    turns = [part_of_step(step, [replace(parts[0], rows=parts[0].rows[:7]), parts[1]], 0) for step in range(600)]
    assert sum(turns) / 600 == pytest.approx(2 / 3, abs=0.06)


def test_a_batch_of_all_rows_of_two_zoos_is_that_of_their_union(parts: list[FitData], tmp_path: Path) -> None:
    """Of one architecture, without contrast and augmentation: then only the order of rows may differ."""
    whole = parts[0]
    assert whole.val_rows is not None
    halves = [replace(whole, rows=whole.rows[:5]), replace(whole, rows=whole.rows[5:])]
    plain: dict[str, Any] = {
        "loss": {"gamma": 0.0, "beta": 0.3},
        "augment": {"permute": False, "erase": 0.0, "noise": 0.0},
        "training": {"steps": 5, "batch_size": len(whole.rows), "weight_decay": 0.0, "zoos_in_batch": "all"},
    }
    together = trained(halves, tmp_path / "halves", **plain).for_layout(whole.layout)
    union = fit(config(**plain), whole, tmp_path / "union")
    first = plain | {"training": plain["training"] | {"steps": 1}}
    before = fit(config(**first), whole, tmp_path / "start")
    rows = whole.val_rows
    torch.testing.assert_close(together.embed(rows), union.embed(rows), rtol=1e-4, atol=1e-5)
    assert (before.embed(rows) - union.embed(rows)).abs().max() > 1e-3


def test_a_batch_of_all_holds_rows_by_their_numbers(
    parts: list[FitData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = [parts[0], replace(parts[1], rows=parts[1].rows[:7])]
    assert rows_in_batch(6, fewer) == (4, 2)
    seen: list[int] = []
    train_loss = Objective.train_loss

    def noted(self: Objective, rows: torch.Tensor, step: int) -> LossParts:
        seen.append(len(rows))
        return train_loss(self, rows, step)

    monkeypatch.setattr(Objective, "train_loss", noted)
    trained(fewer, tmp_path, training={"steps": 2, "batch_size": 6, "zoos_in_batch": "all"})
    assert seen == [4, 2, 4, 2]


def test_aligned_parts_keep_their_references(parts: list[FitData], tmp_path: Path) -> None:
    aligned = []
    for data in parts:
        assert isinstance(data.permutations, Symmetry)
        aligned.append(data.aligned(Aligner(data.permutations, data.rows[0])))
    mixed = trained(aligned, tmp_path, align={"reference": "first"})
    loaded = load_mixed(tmp_path)
    for data, plain in zip(aligned, parts, strict=True):
        view = load_for(tmp_path, data.layout)
        assert view.layout == loaded.for_layout(data.layout).layout
        assert torch.equal(view.encode(plain.rows), mixed.for_layout(data.layout).encode(data.rows))
    with pytest.raises(InputError, match="different references"):
        fit_mixed(config(align={"reference": "first"}), [aligned[0], aligned[0]], tmp_path / "twice")


def test_what_does_not_fit_is_refused(parts: list[FitData], tmp_path: Path) -> None:
    mixed = trained(parts[:1] + parts[1:], tmp_path / "mixed")
    other = part(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 2, 2), 2)
    with pytest.raises(InputError, match="was trained on networks of"):
        mixed.for_layout(other.layout)
    with pytest.raises(InputError, match="hyperrep-mixed"):
        load(tmp_path / "mixed")
    with pytest.raises(InputError, match="no data"):
        fit_mixed(config(), [], tmp_path / "none")
    with pytest.raises(InputError, match="takes 1 rows of a batch of 2 from part 0"):
        fit_mixed(config(training={"zoos_in_batch": "all", "batch_size": 2}), parts, tmp_path / "few")
    bad = replace(parts[1], rows=torch.full_like(parts[1].rows, 1e30))
    with pytest.raises(TrainingDivergedError, match=r"on the batch of train rows .* of zoo 1 and .* of zoo 2"):
        fit_mixed(config(standardise="none", training={"zoos_in_batch": "all"}), [parts[0], bad], tmp_path / "bad")
    vanilla = config(tokens={"width": None, "encoding": "neuron"})
    with pytest.raises(InputError, match="belongs to one architecture"):
        fit_mixed(vanilla, parts, tmp_path / "neuron")
    fit(config(), parts[0], tmp_path / "one")
    with pytest.raises(InputError, match="expected a mixed hyper-representation"):
        load_mixed(tmp_path / "one")


def test_zoos_in_a_document() -> None:
    assert config(zoos=["a", "b"]).digest == config().digest == config(zoo="a").digest
    assert "zoos" not in config().to_json()
    assert config(zoos=["a"]).format_version == 2
    for changes, message in (
        ({"zoo": "a", "zoos": ["b"]}, "both zoo and zoos"),
        ({"zoos": []}, "at least 1 item"),
        ({"training": {"zoos_in_batch": "all", "batches": {"by": ["seed"]}}}, "relatives of one zoo fill a batch"),
        ({"zoos": ["a", "b"], "tokens": {"width": None, "encoding": "neuron"}}, "fit several architectures"),
    ):
        with pytest.raises(ValidationError, match=message):
            config(**changes)


SPEC = """
version: 1
name: tiny-{images}
images: {{name: {images}, split: {{train: 0.6, val: 0.2, test: 0.2}}, seed: 0}}
model: {{architecture: {architecture}, activation: tanh, dropout: 0}}
training: {{optimizer: adam, batch_size: 64, epochs: 1, weight_decay: 0, lr: 1e-2}}
grid: {{init: [normal], seed: {{range: [0, 10]}}}}
split: {{by: seed, train: 0.6, val: 0.2, test: 0.2, seed: 0}}
"""


def test_a_document_names_two_zoos_and_the_commands_serve_both(tmp_path: Path) -> None:
    zoos = []
    for images, architecture in (("tetris", "mlp"), ("digits", "cnn-digits-shallow")):
        (tmp_path / "zoo.yaml").write_text(SPEC.format(images=images, architecture=architecture))
        zoos.append(tmp_path / images)
        build_zoo(make_plan(load_spec(tmp_path / "zoo.yaml")), zoos[-1], show_progress=False)
    document = json.loads(config(zoos=[str(zoo) for zoo in zoos], training={"steps": 4}).model_dump_json())
    (tmp_path / "mixed.yaml").write_text(json.dumps({key: value for key, value in document.items() if value}))
    train(tmp_path / "mixed.yaml", out=tmp_path / "model")
    for zoo in zoos:
        embed(tmp_path / "model", zoo, tmp_path / "latents.csv")
        assert len(pd.read_csv(tmp_path / "latents.csv")) == len(zookeeper.open(zoo).frame)


def test_a_zoo_of_several_activations_runs_each_network_with_its_own(tmp_path: Path) -> None:
    text = SPEC.format(images="tetris", architecture="mlp").replace("activation: tanh, ", "")
    (tmp_path / "zoo.yaml").write_text(text.replace("grid: {", "grid: {activation: [relu, tanh], "))
    build_zoo(make_plan(load_spec(tmp_path / "zoo.yaml")), tmp_path / "zoo", show_progress=False)
    zoo = zookeeper.open(tmp_path / "zoo")
    settings = config(model={"statistics": True}, training={"steps": 4, "zoos_in_batch": "all"})
    parts = read_parts(settings, zoo)
    assert [part.provenance["activation"] for part in parts] == ["relu", "tanh"]
    for part in parts:
        assert part.population is not None
        assert part.queries is not None
        own = zoo.query("split == 'train' and activation == @name", name=part.provenance["activation"])
        torch.testing.assert_close(part.rows, torch.from_numpy(own.weights()))
        network = zoo.network(str(own.frame["model_id"].iloc[0]), int(own.frame["epoch"].iloc[0]))
        outputs = outputs_of(part.population, part.rows[:1], part.queries)[0]
        torch.testing.assert_close(outputs, network(part.queries).detach(), rtol=1e-4, atol=1e-5)
    mixed = fit_zoos(settings, [zoo], tmp_path / "model")
    assert isinstance(mixed, MixedRepresentation)
    (view,) = mixed.views
    rows = torch.cat([part.rows for part in parts])
    assert view.scaling.means == pytest.approx(Scaling.fit(rows, zoo.layout).means)
    header = json.loads((tmp_path / "model" / "config.json").read_text())
    assert [one["activation"] for one in header["zoos"]] == ["relu", "tanh"]
    again = load_for(tmp_path / "model", zoo.layout)
    assert torch.equal(again.encode(rows), view.encode(rows))

    assert len(read_parts(config(loss={"beta": 1.0}), zoo)) == 1  # no network is run
    with pytest.raises(InputError, match=r"mixes 2 .* or train on all activations with hyperrep train"):
        read_fit_data(settings, zoo)
