"""bf16, compiled and recomputed steps: the same mathematics, float32 where it must be, and nothing else changed."""

from __future__ import annotations

import json
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from hyperrep.config import TrainConfig
from hyperrep.training import arithmetic
from hyperrep.training.saved import HyperRepresentation
from hyperrep.training.step import FitData, Objective
from hyperrep.weights.scaling import Scaling
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population

pytestmark = pytest.mark.usefixtures("one_thread")


def config(cycle: float = 0.0, **training: Any) -> TrainConfig:
    value = {
        "name": "tiny",
        "tokens": {"width": 6},
        "model": {"d_model": 16, "num_heads": 2, "num_layers": 2, "latent": 4},
        "loss": {"gamma": 0.05, "beta": 0.1, "queries": 8, "cycle": cycle},
        "training": {"steps": 2, "batch_size": 20} | training,
    }
    return TrainConfig.model_validate_json(json.dumps(value))


def step_of(settings: TrainConfig) -> tuple[dict[str, float], list[torch.Tensor], Objective]:
    """Values and gradient of the first step on 20 tiny networks."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    population = Population(net, (1, 2, 2))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20, population.layout.num_weights, generator=generator)
    images = torch.randn(20, 1, 2, 2, generator=generator)
    data = FitData(rows, population.layout, population, Symmetry.of(net, (1, 2, 2)), images, rows, images)
    hyper = HyperRepresentation.initialise(settings, data.layout, Scaling.fit(rows, data.layout), seed=0)
    objective = Objective(settings, hyper, data)
    parts = objective.train_loss(rows, 0)
    parts.total.backward()  # type: ignore[no-untyped-call]
    return parts.values(), [p.grad for p in hyper.model.parameters() if p.grad is not None], objective


def test_recomputed_activations_give_the_same_loss_and_gradient() -> None:
    values, gradient, _ = step_of(config(cycle=0.1))
    again, recomputed, _ = step_of(config(cycle=0.1, recompute=True))
    assert again == pytest.approx(values, rel=1e-6)
    torch.testing.assert_close(recomputed, gradient, rtol=1e-4, atol=1e-6)


def test_pieces_give_the_loss_and_gradient_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for encoded, decoded in ((32, 16), (7, 6), (1000, 1000)):
        monkeypatch.setattr(arithmetic, "ENCODED", encoded)
        monkeypatch.setattr(arithmetic, "DECODED", decoded)
        found.append(step_of(config(cycle=0.1))[:2])
    values, gradient = found.pop()
    for piecewise, pieces in found:
        assert piecewise == pytest.approx(values, rel=1e-5)
        torch.testing.assert_close(pieces, gradient, rtol=1e-4, atol=1e-6)


class Kept:
    """A tensor that the gradient waits for."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def test_recomputing_keeps_fewer_activations() -> None:
    sizes = {}
    for recompute in (False, True):
        held: list[weakref.ref[Kept]] = []

        def pack(tensor: torch.Tensor, held: list[weakref.ref[Kept]] = held) -> Kept:
            kept = Kept(tensor)
            held.append(weakref.ref(kept))
            return kept

        objective = step_of(config(recompute=recompute))[2]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            parts = objective.train_loss(objective.data.rows, 1)
        alive = [kept for kept in (one() for one in held) if kept is not None]
        sizes[recompute] = sum(kept.tensor.numel() for kept in alive)
        assert parts.total.requires_grad
        assert len(alive) < len(held) - 50  # what decoding kept went with the gradient of its piece
    assert sizes[True] < 0.5 * sizes[False]


def test_bf16_multiplies_coarsely_but_weights_losses_and_validation_stay_float32() -> None:
    values, gradient, objective = step_of(config())
    coarse_values, coarse, coarse_objective = step_of(config(precision="bf16"))
    assert all(g.dtype == torch.float32 for g in coarse)
    assert coarse_values == pytest.approx(values, rel=2e-2)
    assert coarse_values["structure"] != values["structure"]
    for a, b in zip(gradient, coarse, strict=True):
        assert float((a - b).norm()) < 0.1 * float(a.norm()) + 1e-3
    assert coarse_objective.validate() == objective.validate()


def test_compile_is_asked_of_both_halves_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def compile(function: Any, *, dynamic: bool) -> Any:
        assert not dynamic
        asked.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    values, _, objective = step_of(config(compile=True))
    objective.train_loss(objective.data.rows, 1)
    assert asked == ["encode", "decode"]
    assert values == step_of(config())[0]


def test_new_keys_change_the_identity_only_where_they_change_digits() -> None:
    plain = config()
    for key, value in {"precision": "bf16", "compile": True, "recompute": True}.items():
        assert config(**{key: value}).digest != plain.digest
    assert config(tensorboard=True).digest == plain.digest
    assert plain.format_version == 1
    assert config(compile=True).format_version == 2
