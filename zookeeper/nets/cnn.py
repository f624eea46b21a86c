"""The small convolutional networks of the model-zoo papers: convolution, pooling, activation.

Sources: Schürholt et al., "Model Zoos" (2022) for ``cnn-small`` and ``cnn-medium``; "Structure and
Behavior in Weight Space Representation Learning", Table 3, for ``cnn-large``. Every layer has a bias;
convolutions have stride 1 and no padding; pooling is 2 x 2 with stride 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from zookeeper.errors import InputError
from zookeeper.nets.activations import build_activation


@dataclass(frozen=True, slots=True)
class ConvBlock:
    """One convolution with what follows it: pooling (before the activation), activation, dropout."""

    channels: int
    kernel: int
    pool: bool
    drop: bool


class PooledCnn(nn.Module):
    """Convolution blocks, flatten, hidden linear layers, one linear output layer.

    Images ``[B, C, H, W]`` in, logits ``[B, K]`` out. Parameters are named ``conv1.weight``, ...,
    ``fc2.bias`` whatever the activation and the dropout.
    """

    def __init__(
        self,
        blocks: Sequence[ConvBlock],
        hidden: Sequence[int],
        *,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_conv = len(blocks)
        self.num_fc = len(hidden) + 1
        self.has_pool = tuple(block.pool for block in blocks)
        self.has_drop = tuple(block.drop for block in blocks)
        height, width = image_size
        channels = in_channels
        for number, block in enumerate(blocks, start=1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, block.channels, block.kernel))
            channels = block.channels
            shrink = 2 if block.pool else 1
            height, width = (height - block.kernel + 1) // shrink, (width - block.kernel + 1) // shrink
            if height < 1 or width < 1:
                raise InputError(
                    f"images of {image_size[0]}x{image_size[1]} are too small: nothing is left after "
                    f"conv{number}. Choose a smaller architecture or larger images."
                )
        features = channels * height * width
        for number, size in enumerate((*hidden, num_classes), start=1):
            self.add_module(f"fc{number}", nn.Linear(features, size))
            features = size
        self.pool = nn.MaxPool2d(2)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.flatten = nn.Flatten()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits."""
        x = images
        for number in range(1, self.num_conv + 1):
            x = self.get_submodule(f"conv{number}")(x)
            if self.has_pool[number - 1]:
                x = self.pool(x)
            x = self.activation(x)
            if self.has_drop[number - 1]:
                x = self.dropout(x)
        x = self.flatten(x)
        for number in range(1, self.num_fc):
            x = self.dropout(self.activation(self.get_submodule(f"fc{number}")(x)))
        logits: torch.Tensor = self.get_submodule(f"fc{self.num_fc}")(x)
        return logits


@dataclass(frozen=True, slots=True)
class PooledCnnFactory:
    """What a registered architecture of this family is: its blocks and the widths of its hidden linear layers."""

    blocks: tuple[ConvBlock, ...]
    hidden: tuple[int, ...]

    def __call__(
        self, *, in_channels: int, image_size: tuple[int, int], num_classes: int, activation: str, dropout: float = 0.0
    ) -> nn.Module:
        """Build one network."""
        return PooledCnn(
            self.blocks,
            self.hidden,
            in_channels=in_channels,
            image_size=image_size,
            num_classes=num_classes,
            activation=activation,
            dropout=dropout,
        )


def _three_convolutions(first: int, second: int, third: int) -> PooledCnnFactory:
    blocks = (
        ConvBlock(first, 5, pool=True, drop=True),
        ConvBlock(second, 5, pool=True, drop=True),
        ConvBlock(third, 2, pool=False, drop=False),
    )
    return PooledCnnFactory(blocks, (20,))


cnn_digits = PooledCnnFactory(
    (ConvBlock(8, 3, pool=True, drop=True), ConvBlock(16, 2, pool=False, drop=True)), hidden=(20,)
)
"""Network for 8 x 8 images: 2,118 weights with one channel and ten classes."""

cnn_digits_shallow = PooledCnnFactory(
    (ConvBlock(8, 3, pool=True, drop=True), ConvBlock(28, 2, pool=False, drop=True)), hidden=()
)
"""Network for 8 x 8 images without a hidden linear layer: 2,134 weights with one channel and ten classes."""

cnn_small = _three_convolutions(8, 6, 4)
"""Network for 28 x 28 images: 2,464 weights with one channel, 2,864 with three."""

cnn_medium = _three_convolutions(6, 9, 6)
"""``cnn-small`` with 6, 9, 6 channels: 3,047 weights with one channel, 3,347 with three."""

cnn_large = PooledCnnFactory(
    tuple(ConvBlock(channels, 3, pool=True, drop=True) for channels in (16, 32, 15)), hidden=(20,)
)
"""Network for 32 x 32 images: 10,853 weights with three channels (Structure and Behavior, Table 3)."""
