"""Every kind of autoencoder: independence of batch-mates, padding, saved folders, learning; what sets each apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hyperrep.config import TrainConfig
from hyperrep.models.attention import AttentionAutoencoder
from hyperrep.models.autoencoder import Autoencoder, Place
from hyperrep.models.feedforward import FeedForwardAutoencoder
from hyperrep.models.sane import Sane
from hyperrep.training.data import FitData
from hyperrep.training.fit import fit
from hyperrep.training.saved import TILE, HyperRepresentation, load
from hyperrep.training.step import Objective
from hyperrep.weights.scaling import Scaling
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population

_SIZES = {"d_model": 16, "num_heads": 2, "num_layers": 1}
_FIXED = {"width": 7}
KINDS: dict[str, dict[str, Any]] = {
    "sane": {"tokens": _FIXED, "model": {**_SIZES, "latent": 4}},
    "sane, a token per neuron": {"tokens": {"encoding": "neuron"}, "model": {**_SIZES, "latent": 8}},
    "sane, bounded": {"tokens": _FIXED, "model": {**_SIZES, "latent": 4, "bounded": True}},
    "sane, windows": {
        "tokens": _FIXED,
        "model": {**_SIZES, "latent": 4, "positions": "sinusoidal"},
        "windows": {"size": 6, "halo": 1},
    },
    "sane, windows of weights": {
        "tokens": {"encoding": "weight"},
        "model": {**_SIZES, "latent": 1},
        "windows": {"size": 12, "halo": 2},
    },
    "attention": {"tokens": _FIXED, "model": {**_SIZES, "kind": "attention", "latent": 24}},
    "attention, a token per neuron and compression": {
        "tokens": {"encoding": "neuron"},
        "model": {**_SIZES, "kind": "attention", "latent": 24, "compression_token": True, "bounded": True},
    },
    "attention, a token per weight and compression": {
        "tokens": {"encoding": "weight"},
        "model": {**_SIZES, "kind": "attention", "latent": 24, "compression_token": True, "mlp_width": 20},
    },
    "feedforward": {
        "tokens": {"encoding": "weight"},
        "model": {"kind": "feedforward", "num_layers": 3, "latent": 24, "bounded": True},
    },
    "feedforward, padded tokens": {
        "tokens": _FIXED,
        "model": {"kind": "feedforward", "num_layers": 2, "latent": 24},
    },
}


def config_of(kind: str, **sections: Any) -> TrainConfig:
    """Configuration of a kind; sections replace or add to the default ones."""
    value = {"name": kind, "loss": {"gamma": 0.05, "beta": 0.1, "queries": 8}, "training": {"steps": 2}}
    return TrainConfig.model_validate_json(json.dumps(value | KINDS[kind] | sections))


NET = build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4, activation="tanh")
LAYOUT = WeightLayout.of(NET)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randn(TILE + 5, LAYOUT.num_weights, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=KINDS)
def hyper(request: pytest.FixtureRequest, rows: torch.Tensor) -> HyperRepresentation:
    return HyperRepresentation.initialise(config_of(request.param), LAYOUT, Scaling.fit(rows, LAYOUT), seed=1)


def data_of(rows: torch.Tensor) -> FitData:
    images = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    symmetry = Symmetry.of(NET, (1, 4, 4))
    return FitData(rows, LAYOUT, Population(NET, (1, 4, 4)), symmetry, images, rows[:8], images[:6])


def test_a_latent_does_not_depend_on_batch_mates(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    rows = rows if hyper.windows is None else rows[:9]
    together = hyper.encode(rows)
    assert together.shape == (len(rows), *hyper.latent_shape)
    assert torch.equal(torch.cat([hyper.encode(row[None]) for row in rows[:4]]), together[:4])
    assert torch.equal(hyper.encode(rows.flip(0)).flip(0), together)
    decoded = hyper.decode(together)
    assert torch.equal(torch.cat([hyper.decode(z[None]) for z in together[-2:]]), decoded[-2:])
    poisoned = rows.clone()
    poisoned[3] = torch.nan
    kept = [n for n in range(len(rows)) if n != 3]
    assert torch.equal(hyper.encode(poisoned)[kept], together[kept])


def test_padding_never_leaks(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    model = hyper.model
    sizes = hyper.config.windows
    window = hyper.tokeniser.window(0, hyper.tokeniser.num_tokens if sizes is None else sizes.size)
    tokens = hyper.tokens_of(rows[:3], window).requires_grad_()
    poisoned = tokens.detach().masked_fill(~window.mask, torch.nan)
    latents = model.encode(tokens)
    assert torch.equal(model.encode(poisoned), latents)
    decoded = model.decode(latents)
    decoded.retain_grad()
    rows_of = hyper.rows_with(decoded.masked_fill(~window.mask, torch.nan), window, rows[:3])
    assert torch.equal(rows_of, hyper.rows_with(decoded, window, rows[:3]))
    hyper.rows_with(decoded, window, rows[:3]).square().sum().backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    assert decoded.grad is not None
    assert (tokens.grad[:, ~window.mask] == 0).all()
    assert (decoded.grad[:, ~window.mask] == 0).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    model.zero_grad(set_to_none=True)


def test_every_weight_matters_to_the_latent(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    if hyper.config.windows is not None:
        changed = hyper.encode(rows[:1])
        for column in range(0, LAYOUT.num_weights, 9):
            other = rows[:1].clone()
            other[0, column] += 1
            assert not torch.equal(hyper.encode(other), changed)
        return
    leaf = rows[:1].clone().requires_grad_()
    weights = torch.randn(hyper.latent_shape, generator=torch.Generator().manual_seed(0))
    (hyper.model.encode(hyper.tokens_of(leaf))[0] * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert (leaf.grad != 0).float().mean() > (0.5 if hyper.config.model.kind == "feedforward" else 0.99)


def test_a_saved_folder_gives_the_same_bits(hyper: HyperRepresentation, rows: torch.Tensor, tmp_path: Path) -> None:
    loaded = load(hyper.save(tmp_path))
    assert loaded.config == hyper.config
    assert loaded.config.digest == hyper.config.digest
    assert torch.equal(loaded.encode(rows[:3]), hyper.encode(rows[:3]))
    assert torch.equal(loaded.reconstruct(rows[:3]), hyper.reconstruct(rows[:3]))
    version = 1 if hyper.config.name == "sane" else 2
    assert f'"format_version": {version}' in (tmp_path / "config.json").read_text()


def test_the_embedding_has_a_name_for_every_column(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    embedded = hyper.embed(rows[:3])
    assert embedded.shape == (3, len(hyper.embedding_names))
    if len(hyper.latent_shape) == 1:
        assert torch.equal(embedded, hyper.encode(rows[:3]))
    if hyper.config.model.bounded:
        assert hyper.encode(rows * 100).abs().max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_training_lowers_every_part_of_the_loss(kind: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    low_rank = torch.randn(16, 2, generator=generator) @ torch.randn(2, LAYOUT.num_weights, generator=generator) * 0.5
    config = config_of(
        kind,
        loss={"gamma": 0.05, "beta": 0.8, "queries": 8},
        augment={"permute": False, "noise": 0.05},
        training={"steps": 60, "batch_size": 16, "lr": 5e-3, "evaluate_every": 60},
    )
    data = replace(data_of(low_rank), val_rows=low_rank)
    untrained = HyperRepresentation.initialise(config, LAYOUT, Scaling.fit(low_rank, LAYOUT), seed=0)
    before = Objective(config, untrained, data).validate()
    after = Objective(config, fit(config, data, tmp_path), data).validate()
    for part in ("total", "structure", "contrast", "behaviour"):
        assert after[part] < 0.8 * before[part], (part, before, after)


class Identity(Autoencoder):
    """The latent is the token itself."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.latent_shape = shape
        self.unused = nn.Parameter(torch.zeros(()))

    def encode(self, tokens: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        return tokens

    def decode(self, latents: torch.Tensor, place: Place | None = None) -> torch.Tensor:
        return latents


@pytest.mark.parametrize("windows", [None, {"size": 6, "halo": 2}, {"size": 12, "halo": 0}, {"size": 99, "halo": 3}])
@pytest.mark.parametrize("encoding", ["fixed", "weight"])
def test_with_the_identity_a_permuted_model_decodes_to_the_permuted_function(
    windows: dict[str, int] | None, encoding: str, rows: torch.Tensor
) -> None:
    tokens = {"encoding": encoding} if encoding == "weight" else {"width": 7}
    config = config_of("sane", tokens=tokens, standardise="none", windows=windows)
    real = HyperRepresentation.initialise(config, LAYOUT, Scaling.identity(LAYOUT), seed=0)
    hyper = replace(real, model=Identity((real.model.latent_shape[0], real.tokeniser.width)))
    index = torch.from_numpy(Symmetry.of(NET, (1, 4, 4)).draw(5, torch.Generator().manual_seed(3)))
    permuted = torch.gather(rows[:5], 1, index)
    assert not torch.equal(permuted, rows[:5])
    decoded = hyper.reconstruct(permuted)
    assert torch.equal(decoded, permuted)  # every column is written, and once
    images = torch.randn(6, 1, 4, 4)
    population = Population(NET, (1, 4, 4))
    torch.testing.assert_close(population.forward(decoded, images), population.forward(rows[:5], images))
    wrong = decoded.roll(1, dims=1)
    assert not torch.allclose(population.forward(wrong, images), population.forward(rows[:5], images), atol=1e-2)


def build(kind: str, *, num_tokens: int) -> AttentionAutoencoder:
    mask = torch.ones(num_tokens, 3, dtype=torch.bool)
    positions = torch.stack([torch.arange(num_tokens)] * 3, dim=1)
    return AttentionAutoencoder(
        mask, positions, latent=5, d_model=8, num_heads=2, num_layers=1, compression_token=kind == "with"
    )


def test_with_a_compression_token_only_the_position_tables_grow_with_the_network() -> None:
    def count(kind: str, num_tokens: int) -> int:
        weights = build(kind, num_tokens=num_tokens).state_dict().items()
        return sum(value.numel() for name, value in weights if "embeddings" not in name)

    assert count("with", 4) == count("with", 40)
    assert count("without", 40) > count("without", 4)


def test_a_map_per_layer_has_no_weights_for_padding() -> None:
    config = config_of("sane, a token per neuron")
    hyper = HyperRepresentation.initialise(config, LAYOUT, Scaling.identity(LAYOUT), seed=0)
    d_model, runs = 16, (16, 5)
    weights = {name: value.shape for name, value in hyper.model.state_dict().items()}
    assert [weights[f"encoder.entry.maps.{n}.weight"] for n in range(2)] == [(d_model, run) for run in runs]
    assert [weights[f"decoder.exit.maps.{n}.weight"] for n in range(2)] == [(run, d_model) for run in runs]


def test_ten_layers_narrow_in_equal_steps_and_keep_the_signal() -> None:
    model = FeedForwardAutoencoder(torch.ones(10, 10).bool(), latent=50, num_layers=10)
    widths = [layer.weight.shape for layer in model.encoder if isinstance(layer, nn.Linear)]
    assert widths == [(100 - 5 * n, 105 - 5 * n) for n in range(1, 11)]
    latents = model.encode(torch.randn(64, 10, 10, generator=torch.Generator().manual_seed(0)))
    assert 0.1 < latents.std() < 10
    assert (latents < 0).any()


def test_presets_have_the_sizes_of_the_papers_and_what_is_given_wins() -> None:
    config = config_of("sane", model={"preset": "paper000"}, tokens={"width": 289})
    sizes = config.model
    assert (sizes.d_model, sizes.num_heads, sizes.num_layers, sizes.latent) == (256, 8, 8, 64)
    explicit = config_of("sane", model={"d_model": 256, "num_heads": 8, "num_layers": 8, "latent": 64})
    assert config.digest == explicit.model_copy(update={"tokens": config.tokens}).digest
    smaller = config_of("sane", model={"preset": "sane", "latent": 16, "num_layers": 2}).model
    assert (smaller.d_model, smaller.num_heads, smaller.num_layers, smaller.latent) == (2048, 16, 2, 16)


def test_models_of_whole_networks_refuse_windows() -> None:
    place = Place(torch.ones(4, 3).bool(), torch.zeros(4, 3).long())
    for model in (build("with", num_tokens=4), FeedForwardAutoencoder(place.mask, latent=2, num_layers=1)):
        with pytest.raises(InputError, match="windows of tokens need the kind sane"):
            model.encode(torch.zeros(1, 4, 3), place)
    with pytest.raises(InputError, match="unknown kind 'sine'"):
        Sane(*place, latent=1, d_model=4, num_heads=1, num_layers=1, position_kind="sine")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"kind": "feedforward", "num_layers": 2, "latent": 3, "d_model": 8}}, "model.d_model"),
        ({"model": {"kind": "attention", "num_layers": 2, "latent": 3}}, "model.num_heads"),
        ({"model": {"preset": "paper000", "compression_token": True}}, "compression_token"),
        ({"tokens": {"encoding": "neuron", "width": 4}}, "tokens.width"),
        ({"tokens": {}}, "tokens.width"),
        ({"windows": {"size": 6, "halo": 3}}, "windows.halo"),
        ({"tokens": {"encoding": "neuron"}, "windows": {"size": 6}}, "windows"),
        ({"model": {"kind": "feedforward", "num_layers": 2, "latent": 3}, "windows": {"size": 6}}, "windows"),
        ({"loss": {"gamma": 0, "beta": 0, "query_set": [{"source": "minst"}]}}, "mnist"),
        ({"loss": {"gamma": 0, "beta": 0, "query_set": []}}, "query_set"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_key(sections: dict[str, object], message: str) -> None:
    from zookeeper.errors import SpecError
    from zookeeper.spec.document import Document, validate_document

    value = {"name": "x", "loss": {"gamma": 0.05, "beta": 0.1}, "training": {"steps": 2}, **KINDS["sane"], **sections}
    with pytest.raises(SpecError, match=message):
        validate_document(Document(value, "x.yaml"), TrainConfig)
