"""The small network of Unterthiner et al., "Predicting Neural Network Accuracy from Weights" (2020)."""

from __future__ import annotations

import torch
from torch import nn

from zookeeper.errors import InputError
from zookeeper.nets.activations import build_activation


class SmallCnnGoogle(nn.Module):
    """Three convolutions of 16 channels, 3 x 3 with stride 2, then the mean over the image and one linear layer.

    No padding; every convolution is followed by activation and dropout.
    """

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
        if min(image_size) < 15:
            raise InputError(
                f"smallcnn-google: images of {image_size[0]}x{image_size[1]} are too small; expected 15x15 or more."
            )
        self.conv1 = nn.Conv2d(in_channels, 16, 3, stride=2)
        self.conv2 = nn.Conv2d(16, 16, 3, stride=2)
        self.conv3 = nn.Conv2d(16, 16, 3, stride=2)
        self.fc1 = nn.Linear(16, num_classes)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[B, K]`` of images ``[B, C, H, W]``."""
        x = images
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.dropout(self.activation(conv(x)))
        logits: torch.Tensor = self.fc1(x.mean((2, 3)))
        return logits


def smallcnn_google(
    *, in_channels: int, image_size: tuple[int, int], num_classes: int, activation: str, dropout: float = 0.0
) -> nn.Module:
    """Build the network: 4,970 weights with one channel and ten classes; the published zoos scale images to [-1, 1].

    >>> net = smallcnn_google(in_channels=1, image_size=(28, 28), num_classes=10, activation="relu")
    >>> sum(p.numel() for p in net.parameters())
    4970
    """
    return SmallCnnGoogle(
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
        activation=activation,
        dropout=dropout,
    )
