"""Augmentation from the spec to the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zookeeper.build.job import image_json, load_population, load_spec_images
from zookeeper.build.reference import train_plainly
from zookeeper.build.worker import initial_rows, training_data
from zookeeper.nets.registry import build_network
from zookeeper.population import Cohort, TrainingData, train_cohort
from zookeeper.population.augment import NO_AUGMENTATION, AugmentSettings
from zookeeper.spec import parse_spec
from zookeeper.spec.grid import ModelConfig, expand

SPEC = """
version: 1
name: augmented
images: {name: digits, split: {train: 0.03, val: 0.01, test: 0.96}%s}
model: {architecture: ARCHITECTURE, activation: tanh}
training: {lr: 1e-2, batch_size: 10, epochs: 2, optimizer: sgd, momentum: 0.0}
grid: {seed: [1, 2, 3]}
"""
AUGMENT = ", augment: {crop_padding: 2, flip: true, rotation: 10}"


def models_and_data(architecture: str, extra: str = AUGMENT) -> tuple[list[ModelConfig], TrainingData]:
    spec = parse_spec((SPEC % extra).replace("ARCHITECTURE", architecture))
    images = load_spec_images(image_json(spec))
    return list(expand(spec)), training_data(images, torch.device("cpu"))


def train(models: list[ModelConfig], data: TrainingData) -> tuple[torch.Tensor, torch.Tensor, Cohort]:
    population = load_population(models[0].architecture, models[0].activation, (1, 8, 8), 10)
    start = torch.from_numpy(np.array(initial_rows(population.layout, models)))
    zeros = (0.0,) * len(models)
    cohort = Cohort(
        seeds=tuple(model.seed for model in models),
        lr=tuple(model.lr for model in models),
        weight_decay=zeros,
        momentum=zeros,
        dropout=zeros,
        optimizer="sgd",
        batch_size=models[0].batch_size,
    )
    *_, last = train_cohort(population, cohort, data, start.clone(), last_epoch=2)
    return start, last.rows, cohort


@pytest.mark.parametrize("architecture", ["cnn-digits", "mlp"])
def test_training_equals_plain_torch_on_the_same_draws(architecture: str) -> None:
    models, data = models_and_data(architecture)
    assert data.augment == AugmentSettings(crop_padding=2, flip=True, rotation=10.0)
    start, rows, cohort = train(models, data)
    for number, model in enumerate(models):
        network = build_network(
            architecture, in_channels=1, image_size=(8, 8), num_classes=10, activation=model.activation
        )
        expected = train_plainly(network, [], cohort, number, data, start[number].clone(), num_epochs=2)
        torch.testing.assert_close(rows[number], expected, rtol=1e-9, atol=1e-11)


def test_a_model_trains_alone_as_in_its_cohort() -> None:
    models, data = models_and_data("cnn-digits")
    _, together, _ = train(models, data)
    for number, model in enumerate(models):
        _, alone, _ = train([model], data)
        torch.testing.assert_close(alone[0], together[number], rtol=1e-9, atol=1e-11)


def test_augmentation_changes_the_weights_and_the_identity_but_not_the_images() -> None:
    (models, data), (plain_models, plain) = models_and_data("cnn-digits"), models_and_data("cnn-digits", "")
    assert plain.augment == NO_AUGMENTATION
    assert torch.equal(plain.images, data.images)
    assert not torch.allclose(train(models, data)[1], train(plain_models, plain)[1])
    assert {model.model_id for model in models}.isdisjoint(model.model_id for model in plain_models)


@pytest.mark.parametrize(
    "extra",
    [", augment: {}", ", augment: {flip: false}", ", greyscale: false", ", share: 1", ", augment: {rotation: 0}"],
)
def test_what_changes_nothing_leaves_the_identity_alone(extra: str) -> None:
    specs = [parse_spec((SPEC % text).replace("ARCHITECTURE", "mlp")) for text in ("", extra)]
    assert specs[0].digest == specs[1].digest
    assert specs[0].to_json() == specs[1].to_json()
    assert [m.model_id for m in expand(specs[0])] == [m.model_id for m in expand(specs[1])]


@pytest.mark.parametrize(
    "extra",
    [", greyscale: true", ", crop: 6", ", resize: 6", ", share: 0.5", ", augment: {flip: true}", ", normalise: half"],
)
def test_what_changes_images_changes_the_identity(extra: str) -> None:
    specs = [parse_spec((SPEC % text).replace("ARCHITECTURE", "mlp")) for text in ("", extra)]
    assert specs[0].digest != specs[1].digest
    assert expand(specs[0])[0].model_id != expand(specs[1])[0].model_id


def test_pixels_on_the_cpu_are_not_copied() -> None:
    spec = parse_spec((SPEC % "").replace("ARCHITECTURE", "mlp"))
    images = load_spec_images(image_json(spec))
    data = training_data(images, torch.device("cpu"))
    assert data.images.data_ptr() == images.images.ctypes.data
