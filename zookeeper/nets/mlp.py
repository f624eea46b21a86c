"""The two-layer network of the Tetris zoos (Schürholt et al., NeurIPS 2021)."""

from __future__ import annotations

import torch
from torch import nn

from zookeeper.nets.activations import build_activation


class Mlp(nn.Module):
    """Flatten, linear to 5 units, activation, linear to K classes; no biases."""

    def __init__(self, *, num_inputs: int, num_classes: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(num_inputs, 5, bias=False)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(5, num_classes, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[B, K]`` of images ``[B, C, H, W]``."""
        hidden = self.dropout(self.activation(self.fc1(self.flatten(images))))
        logits: torch.Tensor = self.fc2(hidden)
        return logits


def mlp(
    *, in_channels: int, image_size: tuple[int, int], num_classes: int, activation: str, dropout: float = 0.0
) -> nn.Module:
    """Build the Tetris network: 100 weights for 4 x 4 grey images and 4 classes."""
    num_inputs = in_channels * image_size[0] * image_size[1]
    return Mlp(num_inputs=num_inputs, num_classes=num_classes, activation=activation, dropout=dropout)
