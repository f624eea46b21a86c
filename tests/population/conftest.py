from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.nets.registry import build_network
from zookeeper.population import TrainingData


class Normed(nn.Module):
    """Batch norm after convolutions and a linear layer, a residual add, dropout on images and on vectors.

    No bias before a norm: its gradient is zero up to rounding, which Adam would blow up to steps of 1e-10.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.body_norm = nn.BatchNorm2d(4, momentum=0.3, eps=1e-3)
        self.hidden = nn.Linear(4 * 4, 6, bias=False)
        self.hidden_norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.norm(self.stem(images)))
        x = self.dropout(torch.tanh(self.body_norm(self.body(x)) + x))
        x = F.avg_pool2d(x, 3).flatten(1)
        logits: torch.Tensor = self.head(self.dropout(torch.tanh(self.hidden_norm(self.hidden(x)))))
        return logits


@dataclass(frozen=True)
class Case:
    """One architecture with images of its shape."""

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    activation: str

    def build(self, dropout: float = 0.0) -> nn.Module:
        if self.name == "normed":
            return Normed(dropout)
        channels, height, width = self.image_shape
        return build_network(
            self.name,
            in_channels=channels,
            image_size=(height, width),
            num_classes=self.num_classes,
            activation=self.activation,
            dropout=dropout,
        )

    def data(self, num_images: int = 60, num_train: int = 43) -> TrainingData:
        generator = torch.Generator().manual_seed(11)
        shape = (num_images, *self.image_shape)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.int64).to(torch.uint8)
        labels = torch.randint(0, self.num_classes, (num_images,), generator=generator)
        index = torch.randperm(num_images, generator=generator)
        channels = self.image_shape[0]
        return TrainingData(
            images=images,
            labels=labels,
            indices={
                "train": index[:num_train].sort().values,
                "val": index[num_train : num_train + 5].sort().values,
                "test": index[num_train + 5 :].sort().values,
            },
            mean=torch.linspace(0.4, 0.5, channels),
            std=torch.linspace(0.25, 0.3, channels),
        )


CASES = {
    case.name: case
    for case in (
        Case("mlp", (1, 4, 4), 4, "tanh"),
        Case("cnn-digits", (1, 8, 8), 10, "gelu"),
        Case("cnn-small", (1, 28, 28), 10, "relu"),
        Case("normed", (2, 8, 8), 3, "silu"),
    )
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def case_named() -> Callable[[str], Case]:
    return CASES.__getitem__
