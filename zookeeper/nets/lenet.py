"""LeNet-5 for 32 x 32 images (LeCun et al., 1998), in the order convolution, activation, pooling."""

from __future__ import annotations

import torch
from torch import nn

from zookeeper.errors import InputError
from zookeeper.nets.activations import build_activation


class LeNet5(nn.Module):
    """Two convolutions of 5 x 5, three linear layers: 62,006 weights with three channels."""

    def __init__(
        self,
        *,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        sides = [((side - 4) // 2 - 4) // 2 for side in image_size]
        if min(sides) < 1:
            raise InputError(
                f"lenet5: images of {image_size[0]}x{image_size[1]} are too small; expected 16x16 or more."
            )
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * sides[0] * sides[1], 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        self.pool = nn.MaxPool2d(2)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.flatten = nn.Flatten()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[B, K]`` of images ``[B, C, H, W]``."""
        x = self.dropout(self.pool(self.activation(self.conv1(images))))
        x = self.flatten(self.dropout(self.pool(self.activation(self.conv2(x)))))
        x = self.dropout(self.activation(self.fc1(x)))
        x = self.dropout(self.activation(self.fc2(x)))
        logits: torch.Tensor = self.fc3(x)
        return logits


def lenet5(
    *, in_channels: int, image_size: tuple[int, int], num_classes: int, activation: str, dropout: float = 0.0
) -> nn.Module:
    """Build LeNet-5."""
    return LeNet5(
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
        activation=activation,
        dropout=dropout,
    )
