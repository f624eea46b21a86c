"""Noise along flat directions: against the Gauss-Newton matrix of plain torch, and what it does to networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from hyperrep.sampling import AnchorNoise
from hyperrep.tasks.behaviour import Examiner, LabelledImages
from hyperrep.tasks.curvature import FlatNoise, WeightNoise, block_deviation, principal_axes, random_gradients
from hyperrep.tasks.method import Method, WeightSpace
from hyperrep.tasks.recipe import load_recipe
from zookeeper.errors import InputError, SpecError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.parameters import named_blocks, row_of
from zookeeper.nets.registry import build_network
from zookeeper.population import Population, predict

SHAPE = (1, 4, 4)
NUM = 6


@pytest.fixture(scope="module")
def networks() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    settings = {"in_channels": 1, "image_size": (4, 4), "num_classes": 3, "activation": "tanh", "dropout": 0.0}
    return [build_network("mlp", **settings) for _ in range(NUM)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def layout(networks: list[torch.nn.Module]) -> WeightLayout:
    return WeightLayout.from_shapes(named_blocks(networks[0]))


@pytest.fixture(scope="module")
def rows(networks: list[torch.nn.Module], layout: WeightLayout) -> np.ndarray:
    return np.stack([row_of(network, layout).detach().numpy() for network in networks])


@pytest.fixture(scope="module")
def examiner(networks: list[torch.nn.Module]) -> Examiner:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(20, *SHAPE, generator=generator)
    part = LabelledImages(images, torch.arange(20) % 3)
    return Examiner(Population(networks[0], SHAPE), {"train": part})


def logits_of(network: torch.nn.Module, layout: WeightLayout, image: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = functional_call(network, layout.unflatten(flat), (image[None],))[0]
    return logits


@pytest.fixture(scope="module")
def curvature(
    networks: list[torch.nn.Module], rows: np.ndarray, layout: WeightLayout, examiner: Examiner
) -> np.ndarray:
    """Mean over networks and images of J' (diag(p) - p p') J, one network and one image at a time."""
    images = examiner.images["train"].images
    total = np.zeros((rows.shape[1],) * 2)
    for network, row in zip(networks, rows, strict=True):
        for image in images:

            def outputs(
                flat: torch.Tensor, network: torch.nn.Module = network, image: torch.Tensor = image
            ) -> torch.Tensor:
                logits: torch.Tensor = functional_call(network, layout.unflatten(flat), (image[None],))[0]
                return logits

            flat = torch.from_numpy(row)
            jacobian, chance = jacrev(outputs)(flat), outputs(flat).softmax(-1)
            total += (jacobian.T @ (chance.diag() - chance.outer(chance)) @ jacobian).detach().numpy()
    mean: np.ndarray = total / len(networks) / len(images)
    return mean


def test_random_gradients_estimate_the_gauss_newton_matrix(
    rows: np.ndarray, curvature: np.ndarray, layout: WeightLayout, examiner: Examiner
) -> None:
    errors = []
    for count in (NUM, 200, 10_000):
        gradients = random_gradients(
            examiner.population, rows, examiner.images["train"].images, WeightNoise(gradients=count, images=20)
        )
        assert gradients.shape == (count, layout.num_weights)
        errors.append(np.linalg.norm(gradients.T @ gradients / count - curvature) / np.linalg.norm(curvature))
    assert errors[2] < 0.06 < errors[1] < errors[0]


def test_noise_has_the_covariance_of_the_laplace_approximation(
    rows: np.ndarray, curvature: np.ndarray, layout: WeightLayout, examiner: Examiner
) -> None:
    settings = WeightNoise(scale=0.5, temperature=0.05, gradients=10_000, images=20)
    noise = FlatNoise.fit(settings, examiner, rows, rows, layout)
    precision = np.diag(1 / (0.5 * block_deviation(rows, layout)) ** 2)
    precision += len(examiner.images["train"].images) / 0.05 * curvature
    drawn = noise.add(np.zeros((10_000, layout.num_weights), np.float32), np.random.default_rng(0)).astype(np.float64)
    whitened = np.linalg.cholesky(precision).T @ (drawn.T @ drawn / len(drawn)) @ np.linalg.cholesky(precision)
    np.testing.assert_allclose(np.diag(whitened), 1.0, atol=0.15)
    np.testing.assert_allclose(whitened, np.eye(len(whitened)), atol=0.2)


def test_networks_do_the_same_and_lie_apart(rows: np.ndarray, layout: WeightLayout, examiner: Examiner) -> None:
    """Noise of the same size in any direction changes outputs far more."""
    noise = FlatNoise.fit(WeightNoise(scale=1.0, gradients=3000), examiner, rows, rows, layout)
    moved = noise.add(rows, np.random.default_rng(0))
    steps = moved - rows
    blind = np.random.default_rng(1).standard_normal(rows.shape)
    blind *= np.linalg.norm(steps, axis=1, keepdims=True) / np.linalg.norm(blind, axis=1, keepdims=True)
    images = examiner.images["train"].images

    def change(other: np.ndarray) -> float:
        logits = [examiner.population.forward(torch.from_numpy(part), images) for part in (rows, other)]
        return float((logits[0].softmax(-1) - logits[1].softmax(-1)).abs().mean())

    assert np.linalg.norm(steps, axis=1).mean() > 0.3 * np.linalg.norm(rows, axis=1).mean()
    assert change(moved) < 0.3 * change((rows + blind).astype(np.float32))


def test_one_generator_one_result_and_no_neighbours(rows: np.ndarray, layout: WeightLayout, examiner: Examiner) -> None:
    settings = WeightNoise(scale=0.3, gradients=50)
    first, second = (FlatNoise.fit(settings, examiner, rows, rows, layout) for _ in range(2))
    once = first.add(rows, np.random.default_rng(3))
    np.testing.assert_array_equal(once, second.add(rows, np.random.default_rng(3)))
    assert once.dtype == np.float32
    other_seed = FlatNoise.fit(settings.model_copy(update={"seed": 1}), examiner, rows, rows, layout)
    assert not np.array_equal(once, other_seed.add(rows, np.random.default_rng(3)))


def test_running_statistics_are_left_alone() -> None:
    shapes = {
        "conv.weight": ((2, 1, 2, 2), "weight"),
        "norm.weight": ((2,), "norm_weight"),
        "norm.running_mean": ((2,), "running_mean"),
        "norm.running_var": ((2,), "running_var"),
    }
    layout = WeightLayout.from_shapes(shapes)  # type: ignore[arg-type]
    rows = np.random.default_rng(0).normal(size=(9, layout.num_weights)).astype(np.float32)
    deviation = block_deviation(rows, layout)
    assert layout.num_trainable == layout.num_weights - 4
    assert (deviation[: layout.num_trainable] > 0).all()
    assert (deviation[layout.num_trainable :] == 0).all()


def test_few_gradients_give_the_axes_of_the_large_product() -> None:
    points = np.random.default_rng(0).normal(size=(4, 9))
    axes, values = principal_axes(points)
    np.testing.assert_allclose(axes.T * values @ axes, points.T @ points, atol=1e-12)
    np.testing.assert_allclose(axes @ axes.T, np.eye(4), atol=1e-12)
    axes, values = principal_axes(points.T)
    np.testing.assert_allclose(axes.T * values @ axes, points @ points.T, atol=1e-12)


def test_samples_of_a_method_have_noise(rows: np.ndarray, layout: WeightLayout, examiner: Examiner) -> None:
    noise = FlatNoise.fit(WeightNoise(scale=0.3, gradients=50), examiner, rows, rows, layout)
    space, sampler = WeightSpace(layout), AnchorNoise(0.1)
    plain = Method(space, sampler).fit(rows).draw(5, np.random.default_rng(0))
    noisy = Method(space, sampler, noise=noise).fit(rows).draw(5, np.random.default_rng(0))
    np.testing.assert_array_equal(noisy.latents, plain.latents)
    generator = np.random.default_rng(0)
    Method(space, sampler).fit(rows).draw(5, generator)
    np.testing.assert_array_equal(noisy.rows, noise.add(plain.rows, generator))
    assert (predict(examiner.population, torch.from_numpy(noisy.rows), examiner.images["train"].images) >= 0).all()


def test_networks_that_are_not_finite(rows: np.ndarray, layout: WeightLayout, examiner: Examiner) -> None:
    broken = rows.copy()
    broken[1, 3] = np.nan
    with pytest.raises(InputError, match=r"weight noise: .* not finite. Choose other anchors"):
        FlatNoise.fit(WeightNoise(scale=0.3, gradients=12), examiner, broken, rows, layout)


@pytest.mark.parametrize("line", ["scale: -1", "temperature: 0", "gradients: 0", "scale: .inf", "sale: 1"])
def test_settings_that_cannot_be(tmp_path: Path, line: str) -> None:
    (tmp_path / "recipe.yaml").write_text(f"weight_noise: {{{line}}}\n")
    with pytest.raises(SpecError, match=r"recipe\.yaml:1"):
        load_recipe(tmp_path / "recipe.yaml")
