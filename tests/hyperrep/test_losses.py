"""Variants of the loss against their definitions; gradients through the autoencoder against finite differences."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hyperrep.config import LossSection, QuerySection, TrainConfig
from hyperrep.objectives.behaviour import behaviour_loss, cross_entropy_loss, distillation_loss, outputs_of
from hyperrep.objectives.composite import compose
from hyperrep.objectives.contrast import positive_contrast_loss
from hyperrep.objectives.structure import cycle_loss
from hyperrep.training.checkpoint import CHECKPOINT_NAME
from hyperrep.training.data import FitData
from hyperrep.training.fit import fit
from hyperrep.training.queries import draw_queries, load_query_images
from hyperrep.training.saved import HyperRepresentation, load
from hyperrep.training.step import Objective
from hyperrep.weights.scaling import Scaling
from zookeeper.errors import InputError
from zookeeper.images import load_images
from zookeeper.nets.registry import architecture_names, build_network
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population

NET = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
POPULATION = Population(NET, (1, 2, 2))
LAYOUT = POPULATION.layout


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config_of(loss: Mapping[str, Any], **sections: Any) -> TrainConfig:
    value: dict[str, Any] = {
        "name": "losses",
        "tokens": {"width": 6},
        "model": {"d_model": 8, "num_heads": 2, "num_layers": 1, "latent": 3},
        "loss": {"queries": 6} | dict(loss),
        "augment": {"permute": False},
        "training": {"steps": 4, "batch_size": 4, "checkpoint_every": 2},
    }
    return TrainConfig.model_validate_json(json.dumps(value | sections))


@pytest.fixture(scope="module")
def data() -> FitData:
    rows = torch.randn(6, LAYOUT.num_weights, generator=seeded(0))
    queries = torch.randn(12, 1, 2, 2, generator=seeded(1))
    return FitData(rows, LAYOUT, POPULATION, None, queries, rows[:4], queries[:5])


def objective_of(config: TrainConfig, data: FitData) -> Objective:
    hyper = HyperRepresentation.initialise(config, data.layout, Scaling.fit(data.rows, data.layout), seed=0)
    return Objective(config, hyper, data)


def test_positive_contrast_drives_the_cosine_to_one() -> None:
    views = torch.randn(8, 5, generator=seeded(0)).requires_grad_()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(positive_contrast_loss(views, temperature=0.1), views)
        views = (views - 0.05 * gradient).detach().requires_grad_()
    cosine = torch.cosine_similarity(views[:4], views[4:], dim=1).detach()
    assert (cosine > 0.999).all()
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert float(positive_contrast_loss(opposite, temperature=0.1)) == pytest.approx(20)


def test_distillation_is_the_divergence_at_the_temperature() -> None:
    decoded, logits = torch.randn(6, 5, 4, generator=seeded(0)), torch.randn(3, 5, 4, generator=seeded(1))
    for temperature in (1.0, 2.0):
        total = 0.0
        for view in range(2):
            for model in range(3):
                for query in range(5):
                    p = (logits[model, query] / temperature).softmax(0)
                    q = (decoded[view * 3 + model, query] / temperature).softmax(0)
                    total += float((p * (p / q).log()).sum())
        expected = total / 30 * temperature**2
        assert float(distillation_loss(decoded, logits, temperature=temperature)) == pytest.approx(expected, rel=1e-4)
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    cross = cross_entropy_loss(decoded, logits)
    torch.testing.assert_close(cross, distillation_loss(decoded, logits, temperature=1.0) + entropy)
    with pytest.raises(InputError, match="do not fit"):
        cross_entropy_loss(decoded[:4], logits)


@pytest.mark.parametrize("name", ["contrast", "distillation", "cross entropy", "raw", "softmax", "cycle"])
def test_gradients_of_the_parts_by_finite_differences(name: str) -> None:
    logits = torch.randn(2, 3, 4, dtype=torch.float64, generator=seeded(0))
    functions = {
        "contrast": lambda x: positive_contrast_loss(x.flatten(1), temperature=0.5),
        "distillation": lambda x: distillation_loss(x, logits, temperature=2.0),
        "cross entropy": lambda x: cross_entropy_loss(x, logits),
        "raw": lambda x: behaviour_loss(x, logits, outputs="raw"),
        "softmax": lambda x: behaviour_loss(x, logits, outputs="softmax"),
        "cycle": lambda x: cycle_loss(logits.repeat(2, 1, 1), x),
    }
    x = torch.randn(4, 3, 4, dtype=torch.float64, generator=seeded(1)).requires_grad_()
    assert torch.autograd.gradcheck(functions[name], (x,))


LOSSES: dict[str, dict[str, Any]] = {
    "E_c": {"gamma": 1.0, "beta": 1.0},
    "ED": {"gamma": 0.0, "beta": 1.0},
    "E_cD": {"gamma": 0.4, "beta": 1.0},
    "E_c+D": {"gamma": 0.4, "beta": 1.0, "contrast": "positive"},
    "all": {"gamma": 0.2, "beta": 0.4},
    "raw": {"gamma": 0.0, "beta": 0.2, "outputs": "raw", "normalise": "none"},
    "distillation": {"gamma": 0.0, "beta": 0.2, "behaviour": "distillation"},
    "cross entropy": {"gamma": 0.0, "beta": 0.2, "behaviour": "cross_entropy", "decoded_views": 1},
    "scaled": {"gamma": 0.2, "beta": 0.4, "scales": {"contrast": 3.0, "structure": 0.5, "behaviour": 0.1}},
    "one view": {"gamma": 0.2, "beta": 0.4, "decoded_views": 1},
}
MODELS: dict[str, dict[str, Any]] = {
    "sane": {},
    "windows": {"windows": {"size": 4, "halo": 1}},
    "attention": {
        "tokens": {"encoding": "neuron"},
        "model": {"kind": "attention", "compression_token": True, "bounded": True,
                  "d_model": 4, "num_heads": 2, "num_layers": 1, "latent": 3},
    },
    "feedforward": {"model": {"kind": "feedforward", "num_layers": 2, "latent": 3, "bounded": True}},
}  # fmt: skip


@pytest.mark.parametrize(("loss", "model"), [(n, "sane") for n in LOSSES] + [("all", m) for m in MODELS if m != "sane"])
def test_gradient_of_the_whole_loss_by_finite_differences(loss: str, model: str, data: FitData) -> None:
    """Every weight moves a little along a random direction, in float64."""
    exact = replace(data, rows=data.rows.double(), queries=data.queries.double())  # type: ignore[union-attr]
    objective = objective_of(config_of(LOSSES[loss], **MODELS[model]), exact)
    net = objective.hyper.model.double()
    rows = exact.rows[:3]
    total = objective.train_loss(rows, 0).total
    assert total.dtype == torch.float64
    weights = [w for w in net.parameters() if w.requires_grad]
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    unused = {id(w) for w, g in zip(weights, gradients, strict=True) if g is None}
    heads = {id(w) for w in net.projection.parameters()} if LOSSES[loss]["gamma"] == 0 else set()
    halves = {id(w) for w in net.decoder.parameters()} if loss == "E_c" else set()  # type: ignore[union-attr]
    assert unused == heads | halves
    directions = [torch.randn(w.shape, dtype=w.dtype, generator=seeded(2)) for w in weights]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
    step, ends = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            for weight, direction in zip(weights, directions, strict=True):
                weight += sign * step * direction
            ends.append(float(objective.train_loss(rows, 0).total))
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)
    assert abs(slope) > 1e-4


def test_the_scales_divide_the_parts_and_the_cycle_is_added(data: FitData) -> None:
    plain = objective_of(config_of(LOSSES["all"]), data).train_loss(data.rows, 0).values()
    scales = {"contrast": 3.0, "structure": 0.5, "behaviour": 0.1}
    config = config_of(LOSSES["all"] | {"scales": scales, "cycle": 0.7})
    scaled = replace(objective_of(config, data), scales=scales).train_loss(data.rows, 0).values()
    assert {name: scaled[name] for name in scales} == {name: plain[name] for name in scales}
    expected = (
        0.2 * plain["contrast"] / 3
        + 0.8 * (0.4 * plain["structure"] / 0.5 + 0.6 * plain["behaviour"] / 0.1)
        + 0.7 * scaled["cycle"]
    )
    assert scaled["total"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InputError, match="cycle part has weight"):
        compose(gamma=0, beta=1, structure=torch.ones(()), cycle_weight=0.5)


def test_the_latent_is_the_target_of_the_cycle() -> None:
    latents = torch.randn(2, 3, requires_grad=True)
    again = torch.randn(2, 3, requires_grad=True)
    cycle_loss(latents, again).backward()  # type: ignore[no-untyped-call]
    assert latents.grad is None
    assert again.grad is not None


@pytest.mark.parametrize("windows", [None, {"size": 4, "halo": 1}], ids=["whole", "windows"])
def test_scales_of_the_first_batch_are_saved_restored_and_survive_a_kill(
    windows: dict[str, int] | None, data: FitData, tmp_path: Path
) -> None:
    config = config_of(LOSSES["all"] | {"scales": "first_batch", "cycle": 0.1}, windows=windows)
    first: list[dict[str, float]] = []
    whole = fit(config, data, tmp_path / "whole", on_step=lambda count, values: first.append(dict(values)))
    assert set(whole.loss_scales) == {"contrast", "structure", "behaviour"}
    assert first[0]["total"] == pytest.approx(1 + 0.1 * first[0]["cycle"], rel=1e-5)  # every part is 1 in its own scale
    for name, scale in whole.loss_scales.items():
        assert first[0][name] == scale
    assert load(tmp_path / "whole").loss_scales == whole.loss_scales

    class Killed(BaseException):
        pass

    def kill(count: int, values: Mapping[str, float]) -> None:
        if count == 3:
            raise Killed

    with pytest.raises(Killed):
        fit(config, data, tmp_path / "cut", on_step=kill)
    assert (tmp_path / "cut" / CHECKPOINT_NAME).exists()
    assert dict(fit(config, data, tmp_path / "cut").loss_scales) == dict(whole.loss_scales)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    assert "cycle" in (tmp_path / "whole" / "log.csv").read_text().splitlines()[0]


@pytest.mark.parametrize("name", ["E_c", "ED", "E_cD", "E_c+D"])
def test_the_losses_of_paper_002_train_what_they_are_made_for(name: str, data: FitData, tmp_path: Path) -> None:
    training = {"steps": 80, "batch_size": 6, "lr": 1e-2, "evaluate_every": 80}
    config = config_of(LOSSES[name], training=training, augment={"permute": False, "noise": 0.1})
    few = replace(data, val_rows=data.rows, population=None, queries=None, val_queries=None)
    before = objective_of(config, few).validate()
    after = Objective(config, fit(config, few, tmp_path), few).validate()
    parts = {"E_c": {"contrast"}, "ED": {"structure"}}.get(name, {"contrast", "structure"})
    assert set(before) == parts | {"total"}
    assert all(after[part] < 0.8 * before[part] + 1e-3 for part in parts), (before, after)


def linear_autoencoder(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Decode rows as ``rows @ weights``: the smallest autoencoder with weights w."""
    return rows @ weights


@pytest.mark.parametrize("linear", [True, False])
def test_the_behavioural_gradient_is_equation_8(linear: bool) -> None:
    """dL/dw = 1/k sum_j delta_j^T F_j d(decoded_j)/dw: exact for a linear network, to first order for any other."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(4, 3, bias=False)]
    net = nn.Sequential(*(layers if linear else [*layers, nn.Tanh(), nn.Linear(3, 2)])).double()
    population = Population(net, (1, 2, 2))
    num_weights, k = population.layout.num_weights, 4
    rows = torch.randn(k, num_weights, dtype=torch.float64, generator=seeded(0))
    images = torch.randn(7, 1, 2, 2, dtype=torch.float64, generator=seeded(1))
    noise = torch.randn(num_weights, num_weights, dtype=torch.float64, generator=seeded(2))

    def error(distance: float) -> float:
        weights = (torch.eye(num_weights, dtype=torch.float64) + distance * noise).requires_grad_()
        decoded = linear_autoencoder(rows, weights)
        logits = population.forward(rows, images)
        loss = behaviour_loss(population.forward(decoded, images), logits, outputs="raw")
        (gradient,) = torch.autograd.grad(loss, weights)
        expected = torch.zeros_like(weights)
        for row, copy in zip(rows, decoded.detach(), strict=True):

            def outputs(one: torch.Tensor) -> torch.Tensor:
                return population.forward(one[None], images)[0]  # [n, K]

            at_row = torch.autograd.functional.jacobian(outputs, row)  # [n, K, P]
            at_copy = torch.autograd.functional.jacobian(outputs, copy)
            importance = torch.einsum("ikp,ikq->pq", at_row, at_copy) / len(images)  # F_j
            pull = (copy - row) @ importance  # delta_j^T F_j
            expected += torch.outer(row, pull) / k  # d decoded_j[q] / d w[p, q] = row[p]
        return float((gradient - expected).norm() / gradient.norm())

    if linear:
        assert error(0.3) < 1e-12
    else:
        coarse, fine = error(1e-2), error(1e-3)
        assert fine < 0.02
        assert fine == pytest.approx(coarse / 10, rel=0.3)  # the error of a first-order expansion


def test_queries_are_mixed_by_share_and_each_source_has_its_own_key() -> None:
    zoo, other = torch.arange(10.0).view(10, 1, 1, 1), 100 + torch.arange(10.0).view(10, 1, 1, 1)
    parts = (QuerySection(share=2), QuerySection(source="mnist"), QuerySection(source="noise"))
    loss = LossSection(gamma=0, beta=0, queries=8, query_set=parts)
    drawn = draw_queries(loss, zoo, {"mnist": other}, seed=0, step=3).flatten()
    assert loss.query_counts == (4, 2, 2)
    assert len(set(drawn[:4].tolist())) == 4
    assert (drawn[4:6] >= 100).all()
    assert ((drawn[6:] > 0) & (drawn[6:] < 9)).all()
    assert torch.equal(drawn, draw_queries(loss, zoo, {"mnist": other}, seed=0, step=3).flatten())
    assert not torch.equal(drawn, draw_queries(loss, zoo, {"mnist": other}, seed=0, step=4).flatten())
    alone = LossSection(gamma=0, beta=0, queries=4)
    assert torch.equal(draw_queries(alone, zoo, {}, seed=0, step=3).flatten(), drawn[:4])


def test_noise_fills_the_range_of_each_channel() -> None:
    zoo = torch.stack([torch.linspace(-1, 2, 50), torch.linspace(0, 30, 50)], dim=1).view(50, 2, 1, 1)
    loss = LossSection(gamma=0, beta=0, queries=2000, query_set=(QuerySection(source="noise"),))
    noise = draw_queries(loss, zoo, {}, seed=0, step=0)
    for channel, (low, high) in enumerate(((-1, 2), (0, 30))):
        values = noise[:, channel]
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))


def test_other_image_sets_come_in_the_form_of_the_zoos() -> None:
    digits = load_images("digits", split={"train": 0.7, "val": 0.1, "test": 0.2}, seed=0)
    tetris = load_images("tetris", split={"train": 0.7, "val": 0.1, "test": 0.2}, seed=0)
    queries = load_query_images(QuerySection(source="digits"), tetris)
    assert queries.shape == (digits.count("train"), 1, 4, 4)
    black = (0 - tetris.mean[0]) / tetris.std[0]
    assert float(queries.min()) == pytest.approx(black, abs=1e-5)
    coloured = replace(tetris, images=np.repeat(tetris.images, 3, axis=1), mean=tetris.mean * 3, std=(1.0, 2.0, 3.0))
    three = load_query_images(QuerySection(source="digits"), coloured)
    assert three.shape[1:] == (3, 4, 4)
    torch.testing.assert_close(three[:, 0], three[:, 2] * 3)
    oblong = replace(tetris, images=tetris.images[:, :, :3])
    with pytest.raises(InputError, match="only be resized to squares"):
        load_query_images(QuerySection(source="digits"), oblong)


def test_queries_of_a_set_with_a_test_part_of_its_own_are_its_train_part(tmp_path: Path) -> None:
    tetris = load_images("tetris", split=None, seed=0)
    pixels = np.arange(24, dtype=np.uint8).reshape(24, 1, 1).repeat(4, axis=1).repeat(4, axis=2) * 10
    labels = np.arange(24) % 2
    np.savez(tmp_path / "own.npz", x_train=pixels[:16], y_train=labels[:16], x_test=pixels[16:], y_test=labels[16:])
    queries = load_query_images(QuerySection(source="npz", root=str(tmp_path), path="own.npz"), tetris)
    assert queries.shape == (14, 1, 4, 4)
    assert float(queries.max() * tetris.std[0] + tetris.mean[0]) <= 150 / 255 + 1e-6


@pytest.mark.parametrize(
    ("queries", "images", "message"),
    [
        ([{"source": "mnist"}], {}, r"query_set\[0\]: expected images of mnist"),
        ([{"source": "mnist"}], {"mnist": torch.zeros(50, 1, 3, 3)}, r"are \(1, 3, 3\)"),
        ([{"source": "zoo"}, {"source": "mnist", "share": 9}], {"mnist": torch.zeros(3, 1, 2, 2)}, "at most 3"),
    ],
)
def test_missing_or_unfit_query_images_are_named(
    queries: list[dict[str, Any]], images: dict[str, torch.Tensor], message: str, data: FitData, tmp_path: Path
) -> None:
    config = config_of(LOSSES["all"] | {"query_set": queries})
    with pytest.raises(InputError, match=message):
        fit(config, replace(data, query_images=images), tmp_path)


def test_training_on_noise_alone_changes_the_queries_alone(data: FitData) -> None:
    zoo = objective_of(config_of(LOSSES["all"]), data).train_loss(data.rows, 0).values()
    noise = objective_of(config_of(LOSSES["all"] | {"query_set": [{"source": "noise"}]}), data)
    values = noise.train_loss(data.rows, 0).values()
    assert values["behaviour"] != zoo["behaviour"]
    assert (values["contrast"], values["structure"]) == (zoo["contrast"], zoo["structure"])
    assert math.isfinite(values["total"])
    assert outputs_of(POPULATION, data.rows, data.queries).shape == (6, 12, 3)  # type: ignore[arg-type]


def toy_of(architecture: str) -> tuple[nn.Module, tuple[int, int, int]]:
    if architecture == "with running statistics":
        conv = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)]
        return nn.Sequential(*conv), (1, 8, 8)
    side = 8 if architecture in ("mlp", "cnn-digits", "cnn-digits-shallow") else 28
    return build_network(architecture, in_channels=1, image_size=(side, side), num_classes=10), (1, side, side)


@pytest.mark.parametrize("windows", [None, {"size": 16, "halo": 4}], ids=["whole", "windows"])
@pytest.mark.parametrize(
    "architecture", [*(n for n in architecture_names() if n != "resnet18-cifar"), "with running statistics"]
)
def test_every_architecture_has_every_part_of_the_loss(architecture: str, windows: dict[str, int] | None) -> None:
    net, shape = toy_of(architecture)
    population = Population(net, shape)
    layout = population.layout
    rows = torch.randn(2, layout.num_weights, generator=seeded(0)) * 0.1
    for block in layout.blocks:
        if block.kind == "running_var":
            rows[:, block.columns] = torch.tensor([[0.001], [0.01]])
    tokens = {"width": 4 if architecture == "with running statistics" else 288}
    config = config_of({"gamma": 0.1, "beta": 0.3, "queries": 2}, tokens=tokens, windows=windows)
    images = torch.randn(2, *shape, generator=seeded(1))
    objective = objective_of(config, FitData(rows, layout, population, Symmetry.of(net, shape), images, rows, images))
    for step in range(4 if architecture == "with running statistics" else 1):
        parts = objective.train_loss(rows, step)
        parts.total.backward()  # type: ignore[no-untyped-call]
        assert all(math.isfinite(value) for value in parts.values().values()), step
        assert all(torch.isfinite(w.grad).all() for w in objective.hyper.model.parameters() if w.grad is not None)
    assert math.isfinite(objective.validate()["agreement"])
    decoded = objective.hyper.reconstruct(rows)
    for block in layout.blocks:
        assert block.kind != "running_var" or (decoded[:, block.columns] >= 0).all()


def test_a_decoded_running_variance_is_never_negative() -> None:
    net, shape = toy_of("with running statistics")
    population = Population(net, shape)
    layout = population.layout
    rows = torch.randn(2, layout.num_weights, generator=seeded(0))
    variances = torch.zeros(layout.num_weights, dtype=torch.bool)
    variances[layout.block("1.running_var").columns] = True
    objective = objective_of(config_of({"gamma": 0, "beta": 0.5}), FitData(rows, layout, population))
    images = torch.randn(3, *shape, generator=seeded(1))
    assert torch.isnan(population.forward(-rows.abs(), images)).any()
    mended = objective.hyper.as_networks(-rows.abs())
    assert torch.equal(mended[:, ~variances], -rows.abs()[:, ~variances])
    assert torch.equal(mended[:, variances], rows.abs()[:, variances])
    assert torch.isfinite(population.forward(mended, images)).all()
    with torch.no_grad():
        objective.hyper.model.decoder.exit.bias -= 50  # type: ignore[union-attr, operator]
    assert (objective.hyper.reconstruct(rows)[:, variances] >= 0).all()
    windowed = objective_of(config_of({"gamma": 0, "beta": 1}, windows={"size": 4}), FitData(rows, layout)).hyper
    with torch.no_grad():
        windowed.model.decoder.exit.bias -= 50  # type: ignore[union-attr, operator]
    assert (windowed.reconstruct(rows)[:, variances] >= 0).all()
    plain = objective_of(config_of({"gamma": 0, "beta": 1}), FitData(torch.randn(2, LAYOUT.num_weights), LAYOUT)).hyper
    untouched = torch.randn(2, LAYOUT.num_weights)
    assert plain.as_networks(untouched) is untouched
