"""Every registered architecture as a stack: each row gives and learns what its network does alone."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.parameters import load_row, row_of
from zookeeper.nets.registry import architecture_names, build_network
from zookeeper.population import Cohort, Population, TrainingData, train_cohort

SHAPES = {
    "cnn-digits": (1, 8, 8),
    "cnn-digits-shallow": (1, 8, 8),
    "cnn-large": (3, 32, 32),
    "cnn-medium": (3, 28, 28),
    "cnn-small": (1, 28, 28),
    "lenet5": (3, 32, 32),
    "mlp": (1, 4, 4),
    "smallcnn-google": (1, 28, 28),
    "resnet18-cifar": (3, 8, 8),
    "cnn-residual": (3, 28, 28),
    "cnn-deep": (1, 28, 28),
    "cnn-deep-residual": (3, 32, 28),
}
NUM_MODELS = {"resnet18-cifar": 2}  # 11 million weights each
NUM_STEPS = {"resnet18-cifar": 1}
NUM_CLASSES = 4
NUM_IMAGES = 4


def build(name: str, activation: str = "relu") -> nn.Module:
    channels, height, width = SHAPES[name]
    return build_network(
        name, in_channels=channels, image_size=(height, width), num_classes=NUM_CLASSES, activation=activation
    ).double()


def draw_rows(population: Population, num: int) -> torch.Tensor:
    """Rows with their own init and seed, and norms that are no identities."""
    inits = ["kaiming_uniform", "torch_default", "xavier_normal"][:num]
    rows = torch.from_numpy(initialise_rows(population.layout, inits, range(num)))
    generator = torch.Generator().manual_seed(2)
    for block in population.layout.blocks:
        if block.kind not in ("weight", "bias"):
            size = rows[:, block.columns].shape
            rows[:, block.columns] += 0.5 * torch.rand(size, generator=generator, dtype=rows.dtype)
    return rows


def draw_images(*lead: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(*lead, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def assert_stack_equals_module(net: nn.Module, shape: tuple[int, int, int], num: int) -> None:
    net.eval()
    population = Population(net, shape)
    rows = draw_rows(population, num)
    same, own = draw_images(NUM_IMAGES, shape=shape), draw_images(num, NUM_IMAGES, shape=shape)
    with torch.no_grad():
        stacked, stacked_own = population.forward(rows, same), population.forward(rows, own)
        for number in range(num):
            load_row(net, rows[number])
            torch.testing.assert_close(stacked[number], net(same), rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(stacked_own[number], net(own[number]), rtol=1e-10, atol=1e-11)
    assert stacked.std(1).min() > 1e-4
    assert (stacked[0] - stacked[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", architecture_names())
def test_stack_equals_each_network_alone(name: str) -> None:
    assert_stack_equals_module(build(name), SHAPES[name], NUM_MODELS.get(name, 3))


def test_a_network_of_torchvision_is_stacked_as_it_is() -> None:
    net = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=NUM_CLASSES)
    assert_stack_equals_module(net.double(), (3, 32, 32), 2)


def train_alone(
    net: nn.Module, cohort: Cohort, number: int, data: TrainingData, row: torch.Tensor, num_steps: int
) -> torch.Tensor:
    """Take the cohort's steps for one model with torch's own layers, loss and optimiser."""
    load_row(net, row).train()
    lr, decay, momentum = cohort.lr[number], cohort.weight_decay[number], cohort.momentum[number]
    optimizer: torch.optim.Optimizer
    if cohort.optimizer == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), lr, momentum, weight_decay=decay)
    else:
        optimizer = torch.optim.Adam(net.parameters(), lr, weight_decay=decay)
    images, labels = data.part("train", row.dtype)
    for _ in range(num_steps):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return row_of(net)


def data_of(shape: tuple[int, int, int]) -> TrainingData:
    """A few images; all train images form one batch, so the order of an epoch changes nothing."""
    generator = torch.Generator().manual_seed(11)
    images = torch.randint(0, 256, (NUM_IMAGES + 2, *shape), generator=generator, dtype=torch.int64).to(torch.uint8)
    parts = {"train": slice(0, NUM_IMAGES), "val": slice(NUM_IMAGES, None), "test": slice(NUM_IMAGES, None)}
    numbers = torch.arange(len(images))
    return TrainingData(
        images=images,
        labels=numbers % NUM_CLASSES,
        indices={split: numbers[part] for split, part in parts.items()},
        mean=torch.linspace(0.4, 0.5, shape[0]),
        std=torch.linspace(0.25, 0.3, shape[0]),
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", architecture_names())
def test_training_steps_equal_plain_torch(name: str, optimizer: str) -> None:
    """All columns after the steps: weights by the optimiser, running statistics by the norms."""
    num, num_steps = NUM_MODELS.get(name, 3), NUM_STEPS.get(name, 3)
    cohort = Cohort(
        seeds=tuple(range(num)),
        lr=(0.02, 0.005, 0.01)[:num],
        weight_decay=(0.0, 0.1, 0.01)[:num],
        momentum=(0.9, 0.5, 0.0)[:num],
        dropout=(0.0,) * num,
        optimizer=optimizer,
        batch_size=NUM_IMAGES,
    )
    net, data = build(name), data_of(SHAPES[name])
    population = Population(net, SHAPES[name])
    start = draw_rows(population, num)
    results = train_cohort(population, cohort, data, start.clone(), last_epoch=num_steps)
    *_, last = results
    alone = [train_alone(net, cohort, m, data, start[m], num_steps) for m in range(num)]
    # Adam divides by |gradient| + 1e-8: where a gradient is next to zero it makes 2e-8 of a rounding of 1e-14.
    assert_same_rows(last.rows, alone, population, atol=1e-9 if optimizer == "sgd" else 2e-8)
    moved = (last.rows - start).abs()
    assert moved.amax(1).min() > 1e-4
    for block in population.layout.blocks:
        assert moved[:, block.columns].amax(1).min() > 0, block.name


def assert_same_rows(together: torch.Tensor, alone: list[torch.Tensor], population: Population, *, atol: float) -> None:
    """Compare block by block: a failure names the layer."""
    for number, row in enumerate(alone):
        for block in population.layout.blocks:

            def describe(text: str, name: str = block.name) -> str:
                return f"{name}: {text}"

            torch.testing.assert_close(
                together[number, block.columns], row[block.columns], rtol=1e-8, atol=atol, msg=describe
            )


@pytest.mark.parametrize("name", ["cnn-residual", "cnn-deep-residual", "smallcnn-google"])
@pytest.mark.parametrize("activation", ["gelu", "tanh"])
def test_other_activations(name: str, activation: str) -> None:
    assert_stack_equals_module(build(name, activation), SHAPES[name], 3)


def test_every_architecture_is_here() -> None:
    assert set(SHAPES) == set(architecture_names())
    assert all(shape[0] in (1, 3) for shape in SHAPES.values())
