"""Windows: every token kept once with its halo, the same bits in any batch, memory that does not grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperrep.config import TrainConfig
from hyperrep.models.autoencoder import Place
from hyperrep.training import passes
from hyperrep.training.data import FitData
from hyperrep.training.saved import HyperRepresentation
from hyperrep.training.step import Objective
from hyperrep.weights.scaling import Scaling
from hyperrep.weights.windows import draw_window, plan_windows
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network
from zookeeper.population import Population

NET = build_network("cnn-digits", in_channels=1, image_size=(8, 8), num_classes=10)
LAYOUT = WeightLayout.of(NET)
ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(size: int | None, halo: int = 0, *, layers: int = 1, positions: str = "sinusoidal") -> TrainConfig:
    value = {
        "name": "windows",
        "tokens": {"width": 16},
        "model": {"d_model": 16, "num_heads": 2, "num_layers": layers, "latent": 4, "positions": positions},
        "loss": {"gamma": 0.05, "beta": 0.5, "queries": 8},
        "windows": None if size is None else {"size": size, "halo": halo},
        "augment": {"permute": False},
        "training": {"steps": 2, "batch_size": 4},
    }
    return TrainConfig.model_validate_json(json.dumps(value))


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randn(7, LAYOUT.num_weights, generator=torch.Generator().manual_seed(0))


def hyper_of(rows: torch.Tensor, config: TrainConfig) -> HyperRepresentation:
    return HyperRepresentation.initialise(config, LAYOUT, Scaling.fit(rows, LAYOUT), seed=1)


@given(num=st.integers(1, 300), size=st.integers(1, 64), share=st.floats(0, 0.99))
@settings(max_examples=200, deadline=None)
def test_every_token_is_kept_once_with_its_halo(num: int, size: int, share: float) -> None:
    halo = int(share * ((size - 1) // 2 + 1))
    plan = plan_windows(num, size, halo)
    kept = [token for window in plan for token in range(window.low, window.high)]
    assert kept == list(range(num))
    length = min(size, num)
    for window in plan:
        assert window.first >= 0
        assert window.first + length <= num
        assert window.first <= max(0, window.low - halo) or window.first + length == num
        assert window.first + length >= min(num, window.high + halo)
        assert 0 <= window.kept.start < window.kept.stop <= length


def test_every_window_can_be_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    assert {draw_window(7, 4, generator) for _ in range(200)} == {(first, 4) for first in range(4)}


@pytest.mark.parametrize(("size", "halo"), [(12, 0), (12, 3), (16, 7), (500, 100)])
def test_latents_are_those_of_each_window_alone(rows: torch.Tensor, size: int, halo: int) -> None:
    hyper = hyper_of(rows, config_of(size, halo))
    latents, model = hyper.encode(rows), hyper.model
    assert hyper.windows is not None
    for window in hyper.windows:
        tokens = hyper.tokeniser.window(window.first, min(size, hyper.tokeniser.num_tokens))
        with torch.no_grad():
            alone = model.encode(hyper.tokens_of(rows, tokens), Place(tokens.mask, tokens.positions))
        torch.testing.assert_close(latents[:, window.low : window.high], alone[:, window.kept])


def test_a_window_as_long_as_the_network_is_the_whole(rows: torch.Tensor) -> None:
    whole = hyper_of(rows, config_of(None))
    windowed = hyper_of(rows, config_of(1000, 10))
    windowed.model.load_state_dict(whole.model.state_dict())
    latents = whole.encode(rows)
    torch.testing.assert_close(windowed.encode(rows), latents)
    torch.testing.assert_close(windowed.decode(latents), whole.decode(latents))


def test_without_attention_windows_are_exact(rows: torch.Tensor) -> None:
    """With nothing exchanged between tokens, any cut into windows gives what the whole gives."""
    whole, windowed = hyper_of(rows, config_of(None)), hyper_of(rows, config_of(10, 2))
    for hyper in (whole, windowed):
        for stack in (hyper.model.encoder, hyper.model.decoder):
            stack.blocks = torch.nn.ModuleList()  # type: ignore[union-attr]
    weights = {k: v for k, v in whole.model.state_dict().items() if "projection" not in k}
    windowed.model.load_state_dict(weights, strict=False)
    torch.testing.assert_close(windowed.encode(rows), whole.encode(rows))
    torch.testing.assert_close(windowed.reconstruct(rows), whole.reconstruct(rows))


@pytest.mark.parametrize("num", [1, 2, 3, 7])
def test_any_batch_of_windows_gives_the_same_bits(rows: torch.Tensor, num: int) -> None:
    hyper = hyper_of(rows, config_of(12, 3, layers=2))
    latents, decoded = hyper.encode(rows), hyper.reconstruct(rows)
    for first in range(0, len(rows), num):
        part = slice(first, first + num)
        assert torch.equal(hyper.encode(rows[part]), latents[part])
        assert torch.equal(hyper.decode(latents[part]), decoded[part])
    plan = hyper.windows
    assert plan is not None
    backwards = passes.encode_windows(hyper.model, hyper.tokeniser, hyper.input_scaling, rows, plan[::-1])
    assert torch.equal(backwards, latents)


def test_sinusoidal_positions_have_no_table_and_learned_ones_do(rows: torch.Tensor) -> None:
    def longest(positions: str) -> int:
        state = hyper_of(rows, config_of(12, positions=positions)).model.state_dict()
        return max((value.shape[0] for name, value in state.items() if "embeddings" in name), default=0)

    tokens = hyper_of(rows, config_of(12)).tokeniser.num_tokens
    assert longest("learned") == tokens
    assert longest("sinusoidal") == 16 < tokens


def test_the_loss_of_a_window_leaves_the_rest_of_the_network_original(rows: torch.Tensor) -> None:
    config = config_of(9)
    hyper = hyper_of(rows, config)
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []

    class Watched:
        population = Population(NET, (1, 8, 8))
        activation_floats = population.activation_floats

        def forward(self, rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
            seen.append(rows)
            return self.population.forward(rows, images)

    objective = Objective(config, hyper, FitData(rows, LAYOUT, Watched(), None, images))
    parts = objective.train_loss(rows, 0)
    original, decoded = seen
    window = objective._draw_window("window", 0)
    assert window is not None
    changed = (decoded.detach() != original.repeat(2, 1)).any(dim=0)
    assert set(changed.nonzero().flatten().tolist()) <= set(window.real_columns.tolist())
    assert changed.sum() > 0.9 * len(window.real_columns)
    assert parts.behaviour is not None
    parts.total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in hyper.model.decoder.parameters())
    other = objective._draw_window("window", 1)
    assert other is not None
    assert not torch.equal(window.positions, other.positions)
    tokens = hyper.tokens_of(rows, window)
    restored = hyper.rows_with(tokens, window, torch.zeros_like(rows))
    torch.testing.assert_close(restored[:, window.real_columns], rows[:, window.real_columns])
    assert (restored[:, ~changed] == 0).all()


def test_a_halo_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"0 <= 2 \* halo < size"):
        plan_windows(10, size=4, halo=2)


@pytest.mark.skipif("HYPERREP_LARGE" not in os.environ, reason="a minute: set HYPERREP_LARGE=1 to run it")
def test_resnet18_is_encoded_and_decoded_in_bounded_memory() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "windows.py"), "--networks", "resnet18-cifar"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    line = json.loads(result.stdout)["resnet18-cifar"]
    row = 4 * line["weights"] / 2**20
    assert (
        line["peak_mib"] - line["idle_mib"] < 8 * row
    )  # its latents, its reconstruction, the scaling, and the windows
    assert line["same_bits"]
