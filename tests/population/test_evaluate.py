from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.errors import InputError
from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.parameters import load_row
from zookeeper.population import Population, evaluate, predict

passes = importlib.import_module("zookeeper.population.evaluate")


def population_of(case: Any, num_models: int) -> tuple[Population, nn.Module, torch.Tensor]:
    net = case.build().eval()
    population = Population(net, case.image_shape)
    rows = initialise_rows(population.layout, ["kaiming_normal"] * num_models, range(num_models))
    return population, net, torch.from_numpy(rows).float()


def plain(net: nn.Module, rows: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Loss, accuracy and classes of each network, one after another, in float64."""
    losses, accuracies, classes = [], [], []
    net = net.double()
    with torch.no_grad():
        for row in rows.double():
            logits = load_row(net, row)(images.double())
            losses.append(F.cross_entropy(logits, labels))
            classes.append(logits.argmax(1))
            accuracies.append((classes[-1] == labels).double().mean())
    return [torch.stack(values) for values in (losses, accuracies, classes)]


def draw(case: Any, num_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_images)
    images = torch.randn(num_images, *case.image_shape, generator=generator)
    return images, torch.randint(0, case.num_classes, (num_images,), generator=generator)


@pytest.mark.parametrize(("num_models", "num_images"), [(1, 1), (1, 50), (7, 1), (7, 23), (3, 8), (5, 64)])
@pytest.mark.parametrize("tiles", [(64, 40_000_000), (3, 1), (2, 400_000)], ids=["one pass", "8 images", "2 models"])
@pytest.mark.parametrize("name", ["mlp", "cnn-digits", "normed"])
def test_equals_a_plain_loop(
    name: str,
    tiles: tuple[int, int],
    num_models: int,
    num_images: int,
    case_named: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passes, "_MAX_MODELS", tiles[0])
    monkeypatch.setattr(passes, "_PASS_BYTES", tiles[1])
    case = case_named(name)
    population, net, rows = population_of(case, num_models)
    images, labels = draw(case, num_images)
    loss, accuracy, classes = plain(net, rows, images, labels)
    result = evaluate(population, rows, images, labels)
    assert result.loss.dtype == result.accuracy.dtype == torch.float32
    torch.testing.assert_close(result.loss, loss.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.accuracy, accuracy.float(), rtol=0, atol=1e-7)
    assert torch.equal(predict(population, rows, images), classes)


@pytest.mark.parametrize(("num_bytes", "most"), [(1, 64), (20_000, 64), (20_000, 3), (40_000_000, 64), (40_000_000, 2)])
@pytest.mark.parametrize(("num_models", "num_images"), [(7, 21), (1, 50), (65, 1)])
def test_passes_cover_every_pair_once(
    num_bytes: int,
    most: int,
    num_models: int,
    num_images: int,
    case_named: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also that no pass is larger than allowed, unless by the least number of images, nor one tile much smaller."""
    monkeypatch.setattr(passes, "_MAX_MODELS", most)
    monkeypatch.setattr(passes, "_PASS_BYTES", num_bytes)
    case = case_named("mlp")
    population, _, rows = population_of(case, num_models)
    counts = torch.zeros(num_models, num_images)
    tiles = {}
    for members, part, logits in passes.logits_by_pass(population, rows, draw(case, num_images)[0]):
        counts[members, part] += 1
        tiles[members.start] = logits.shape[0]
        assert logits.shape[0] <= most
        inside = 4 * population.activation_floats * logits.shape[0] * logits.shape[1] <= num_bytes
        assert inside or logits.shape[1] <= passes._LEAST_IMAGES
    assert (counts == 1).all()
    assert max(tiles.values()) - min(tiles.values()) < len(tiles)


def test_passes_are_about_square(case_named: Callable[[str], Any]) -> None:
    """The sizes that were measured fastest (`benchmarks/evaluation.py --passes`)."""
    small = case_named("cnn-small")
    population, _, rows = population_of(small, 2)
    pairs = 40_000_000 // (4 * population.activation_floats)
    models, images = passes._passes(population, 1_000, 10_000, rows.device)
    assert pairs / 2 < models * images <= pairs
    assert 0.5 < models / images < 2
    assert passes._passes(population, 2, 10_000, rows.device)[0] == 2


def test_a_broken_network_gets_a_nan_loss(case_named: Callable[[str], Any]) -> None:
    case = case_named("cnn-digits")
    population, _, rows = population_of(case, 4)
    images, labels = draw(case, 30)
    healthy = evaluate(population, rows, images, labels)
    rows[2, 0] = torch.nan
    broken = evaluate(population, rows, images, labels)
    assert broken.loss.isnan().tolist() == [False, False, True, False]
    assert broken.accuracy.isfinite().all()
    for m in (0, 1, 3):
        assert broken.loss[m] == healthy.loss[m]
        assert broken.accuracy[m] == healthy.accuracy[m]


def test_nothing_to_evaluate(case_named: Callable[[str], Any]) -> None:
    case = case_named("mlp")
    population, _, rows = population_of(case, 2)
    images, labels = draw(case, 3)
    assert predict(population, rows[:0], images).shape == (0, 3)
    assert predict(population, rows, images[:0]).shape == (2, 0)
    assert evaluate(population, rows[:0], images, labels).loss.shape == (0,)
    with pytest.raises(InputError, match="no images; expected one or more"):
        evaluate(population, rows, images[:0], labels[:0])


def test_sets_kept_as_bytes_give_the_same_bits(
    case_named: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large image sets stay bytes on the device; only the passes of an evaluation are normalised."""
    training = importlib.import_module("zookeeper.population.train")
    monkeypatch.setattr(passes, "_PASS_BYTES", 400_000)
    population, _, rows = population_of(case_named("cnn-digits"), 4)
    generator = torch.Generator().manual_seed(5)
    data = training.TrainingData(
        torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (300,), generator=generator),
        {"train": torch.arange(0, 250), "test": torch.arange(250, 300)},
        torch.tensor([0.3]),
        torch.tensor([0.2]),
    )
    cohort = training.Cohort((0, 1, 2, 3), (1e-3,) * 4, (0.0,) * 4, (0.0,) * 4, (0.0,) * 4, "adam", 32)
    kept = training.CohortTrainer(population, cohort, data, rows.clone()).evaluate()
    monkeypatch.setattr(training, "_INPUT_BYTES", 0)
    trainer = training.CohortTrainer(population, cohort, data, rows.clone())
    assert trainer._inputs.dtype == torch.uint8
    assert not any(isinstance(images, torch.Tensor) for images, _ in trainer._parts.values())
    for split, evaluation in trainer.evaluate().items():
        assert torch.equal(evaluation.loss, kept[split].loss)
        assert torch.equal(evaluation.accuracy, kept[split].accuracy)
