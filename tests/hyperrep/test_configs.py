"""Every packaged configuration is valid, says what its paper says, and builds on a network it is meant for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hyperrep.config import TrainConfig, load_config, packaged_config
from hyperrep.training.building import build_autoencoder, build_tokens
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network

FILES = sorted(packaged_config("digits_cs").parent.glob("*.yaml"))
TETRIS: dict[str, Any] = {"architecture": "mlp", "in_channels": 1, "image_size": (4, 4), "num_classes": 4}
MNIST: dict[str, Any] = {"architecture": "cnn-small", "in_channels": 1, "image_size": (28, 28), "num_classes": 10}
CIFAR: dict[str, Any] = {"architecture": "cnn-large", "in_channels": 3, "image_size": (32, 32), "num_classes": 10}
DIGITS: dict[str, Any] = {"architecture": "cnn-digits", "in_channels": 1, "image_size": (8, 8), "num_classes": 10}
RESNET: dict[str, Any] = {"architecture": "resnet18-cifar", "in_channels": 3, "image_size": (32, 32), "num_classes": 10}


def network_of(name: str) -> dict[str, Any]:
    if name in ("002_mnist", "004") or name.startswith("mnist"):
        return MNIST
    families = {"002": TETRIS, "000": CIFAR, "sane_behaviour": CIFAR, "sane": RESNET, "digits": DIGITS, "mixed": DIGITS}
    return next(network for prefix, network in families.items() if name.startswith(prefix))


def plan(config: TrainConfig, network: dict[str, Any]) -> dict[str, Any]:
    """What would be trained, worked out on the meta device: no memory for weights however large the model is."""
    layout = WeightLayout.of(build_network(**network))
    tokeniser = build_tokens(config, layout)
    with torch.device("meta"):
        model = build_autoencoder(config, tokeniser, torch.Generator())
    return {
        "tokens": tokeniser.num_tokens,
        "latent": model.latent_shape,
        "weights": sum(weight.numel() for weight in model.parameters()),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_packaged_configuration_is_small_valid_and_builds(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    text = path.read_text()
    assert len(text.splitlines()) <= 20
    assert f"hyperrep train hyperrep/configs/{path.name}" in text or "digits" in path.stem
    found = plan(config, network_of(path.stem))
    assert found["weights"] > 1000
    again = TrainConfig.model_validate(config.to_json(), strict=False)
    assert again == config
    assert again.digest == config.digest


def planned(name: str) -> dict[str, Any]:
    return plan(load_config(packaged_config(name)), network_of(name))


def test_paper_000_has_its_published_sizes() -> None:
    found = planned("000")
    assert (found["tokens"], found["latent"]) == (93, (93, 64))
    config = load_config(packaged_config("000"))
    assert (config.loss.gamma, config.loss.beta, config.loss.queries, config.loss.temperature) == (0.05, 0.1, 256, 0.1)
    assert config.training.num_steps(4080) == 100 * 63
    baseline = load_config(packaged_config("000_cs"))
    assert (baseline.loss.beta, baseline.training.lr, config.training.lr) == (1, 1e-4, 1e-5)
    assert baseline.model == config.model


def test_paper_002_compares_encodings_and_losses_and_nothing_else() -> None:
    reference = load_config(packaged_config("002_neuron_ctoken"))
    for name in ("002_neuron", "002_weight_ctoken", "002_weight"):
        other = load_config(packaged_config(name))
        changes = {
            "name": name,
            "tokens": other.tokens,
            "model": reference.model.model_copy(update={"compression_token": other.model.compression_token}),
        }
        assert other == reference.model_copy(update=changes)
    for name in ("002_ec", "002_ed", "002_ecplusd"):
        other = load_config(packaged_config(name))
        assert other.model_copy(update={"name": reference.name, "loss": reference.loss}) == reference
    counts = {name: planned(name)["tokens"] for name in ("002_neuron", "002_weight", "002_mnist")}
    assert counts == {"002_neuron": 9, "002_weight": 100, "002_mnist": 48}
    assert all(planned(path.stem)["latent"] in ((50,), (700,)) for path in FILES if path.stem.startswith("002"))


def test_sane_does_not_grow_with_the_network() -> None:
    config = load_config(packaged_config("sane"))
    large, small = plan(config, RESNET), plan(config, CIFAR | {"architecture": "cnn-deep"})
    assert large["tokens"] > 40_000
    assert large["latent"] == (256, 128)
    head = (256 - min(256, small["tokens"])) * 128 * 30  # the projection head of a network shorter than a window
    assert large["weights"] - small["weights"] == head
