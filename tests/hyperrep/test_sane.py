"""SANE and the saved hyper-representation: independence of batch-mates, padding, folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import hyperrep
from hyperrep.config import TrainConfig
from hyperrep.models.autoencoder import Place
from hyperrep.models.sane import Sane, append_statistics
from hyperrep.training.saved import TILE, HyperRepresentation, load
from hyperrep.weights.scaling import Scaling
from hyperrep.weights.tokens import Tokeniser
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network

LAYOUT = WeightLayout.of(build_network("cnn-digits", in_channels=1, image_size=(8, 8), num_classes=10))
CONFIG = TrainConfig.model_validate_json(
    json.dumps(
        {
            "name": "tiny",
            "tokens": {"width": 65},
            "model": {"d_model": 16, "num_heads": 2, "num_layers": 1, "latent": 4},
            "loss": {"gamma": 0.05, "beta": 0.1},
            "training": {"steps": 1},
        }
    )
)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randn(TILE + 9, LAYOUT.num_weights, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def hyper(rows: torch.Tensor) -> HyperRepresentation:
    return HyperRepresentation.initialise(CONFIG, LAYOUT, Scaling.fit(rows, LAYOUT), seed=1, provenance={"name": "x"})


def test_a_latent_does_not_depend_on_batch_mates(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    together = hyper.encode(rows)
    alone = torch.cat([hyper.encode(row[None]) for row in rows])
    assert torch.equal(alone, together)
    assert torch.equal(hyper.encode(rows.flip(0)).flip(0), together)
    assert torch.equal(torch.cat([hyper.decode(z[None]) for z in together]), hyper.decode(together))


def test_a_diverged_batch_mate_does_no_harm(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    poisoned = rows.clone()
    poisoned[3] = torch.nan
    kept = [n for n in range(len(rows)) if n != 3]
    assert torch.equal(hyper.encode(poisoned)[kept], hyper.encode(rows)[kept])


def test_attention_sees_all_tokens_of_one_model(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    tokens = hyper.tokens_of(rows[:2]).requires_grad_()
    hyper.model.encode(tokens)[0, 0].sum().backward()
    assert tokens.grad is not None
    assert (tokens.grad[0].abs().sum(dim=1) > 0).all()
    assert (tokens.grad[1] == 0).all()


def test_padding_never_leaks(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    tokens = hyper.tokens_of(rows[:4])
    poisoned = tokens.masked_fill(~hyper.tokeniser.mask, torch.nan)
    latents = hyper.model.encode(tokens)
    assert torch.equal(hyper.model.encode(poisoned), latents)
    decoded = hyper.model.decode(latents)
    poisoned = decoded.masked_fill(~hyper.tokeniser.mask, torch.nan)
    assert torch.equal(hyper.rows_of(poisoned), hyper.rows_of(decoded))


def test_padding_gets_no_gradient(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    tokens = hyper.tokens_of(rows[:2]).requires_grad_()
    decoded = hyper.model.decode(hyper.model.encode(tokens))
    decoded.retain_grad()
    hyper.rows_of(decoded).square().sum().backward()
    assert tokens.grad is not None
    assert decoded.grad is not None
    assert (tokens.grad[:, ~hyper.tokeniser.mask] == 0).all()
    assert (decoded.grad[:, ~hyper.tokeniser.mask] == 0).all()


def test_saved_folder_gives_the_same_bits_anywhere(
    hyper: HyperRepresentation, rows: torch.Tensor, tmp_path: Path
) -> None:
    hyper.save(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    loaded = hyperrep.load(tmp_path / "b")
    assert {p.name for p in (tmp_path / "b").iterdir()} == {
        "config.json", "layout.json", "model.safetensors", "scaling.json",
    }  # fmt: skip
    assert (loaded.config, loaded.layout, loaded.scaling) == (hyper.config, hyper.layout, hyper.scaling)
    assert loaded.provenance == {"name": "x"}
    assert torch.equal(loaded.reconstruct(rows), hyper.reconstruct(rows))


def test_arrays_of_numpy_are_rows_too(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    array = rows[:3].numpy().astype(np.float64)
    assert torch.equal(hyper.embed(array), hyper.embed(rows[:3]))
    assert hyper.embed(rows[:3]).shape == (3, len(hyper.embedding_names)) == (3, 4 * 4)
    assert hyper.encode(rows[:0]).shape == (0, 54, 4)


def test_the_embedding_is_the_mean_latent_of_each_layer(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    latents, embedded = hyper.encode(rows[:3]), hyper.embed(rows[:3])
    for number, layer in enumerate(hyper.layout.layers):
        tokens = hyper.tokeniser.positions[:, 1] == number
        columns = [place for place, name in enumerate(hyper.embedding_names) if name.startswith(f"{layer}.z")]
        torch.testing.assert_close(embedded[:, columns], latents[:, tokens].mean(dim=1))


def test_untrained_is_a_function_of_the_seed(hyper: HyperRepresentation, rows: torch.Tensor) -> None:
    assert torch.equal(hyper.untrained(1).encode(rows[:2]), hyper.encode(rows[:2]))
    assert not torch.equal(hyper.untrained(2).encode(rows[:2]), hyper.encode(rows[:2]))


@pytest.mark.parametrize("name", ["config.json", "layout.json", "model.safetensors", "scaling.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_folder_is_one_clear_error(
    hyper: HyperRepresentation, tmp_path: Path, name: str, damage: str
) -> None:
    path = hyper.save(tmp_path) / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=name):
        load(tmp_path)


def test_a_folder_of_another_version_is_refused(hyper: HyperRepresentation, tmp_path: Path) -> None:
    path = hyper.save(tmp_path) / "config.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(InputError, match="got format 'hyperrep', version 99"):
        load(tmp_path)


def test_wrong_widths_are_refused(hyper: HyperRepresentation) -> None:
    with pytest.raises(InputError, match=r"expected \[N, 2118\]"):
        hyper.encode(torch.zeros(2, 5))
    with pytest.raises(InputError, match=r"expected \[N, 54, 4\]"):
        hyper.decode(torch.zeros(2, 54, 5))
    with pytest.raises(InputError, match="not divisible"):
        Sane(torch.ones(2, 3).bool(), torch.zeros(2, 3).long(), latent=1, d_model=5, num_heads=2, num_layers=1)


def test_statistics_are_those_of_real_entries_and_of_biases() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(5, 7, generator=generator) < 0.6
    mask[2] = False
    biases = mask & (torch.rand(5, 7, generator=generator) < 0.4)
    tokens = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64).masked_fill(~mask, 0.0)
    found = append_statistics(tokens, mask, biases)
    assert torch.equal(found[..., :7], tokens)
    for token in range(5):
        real, bias = tokens[:, token, mask[token]], tokens[:, token, biases[token]]
        wanted = (real.mean(-1), real.square().mean(-1).sqrt(), real.abs().mean(-1), bias.abs().mean(-1))
        for place, value in enumerate(wanted):
            torch.testing.assert_close(found[:, token, 7 + place], 3 * value.nan_to_num(0), atol=4e-3, rtol=1e-5)


def test_biases_are_the_entries_of_the_bias_blocks() -> None:
    rows = torch.zeros(1, LAYOUT.num_weights)
    for block in LAYOUT.blocks:
        if block.kind == "bias":
            rows[:, block.columns] = 1
    tokeniser = Tokeniser(LAYOUT, 6)
    assert torch.equal(tokeniser.biases, tokeniser.tokenise(rows)[0] == 1)


def test_what_padding_holds_does_not_reach_the_statistics() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    positions = torch.tensor([[0, 0, 0], [1, 0, 1]])
    biases = torch.tensor([[False, True, False], [False, False, False]])
    model = Sane(mask, positions, latent=2, d_model=8, num_heads=2, num_layers=1, biases=biases).eval()
    tokens = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    poisoned = tokens.masked_fill(~mask, float("nan"))
    assert torch.equal(model.encode(poisoned), model.encode(tokens))
    assert not torch.allclose(model.encode(2 * tokens), model.encode(tokens))
    with pytest.raises(InputError, match=r"model\.statistics"):
        model.encode(tokens, Place(mask, positions))
