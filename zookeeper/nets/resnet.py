"""ResNet-18 for small images (He et al., 2016).

Names, order and shapes of the parameters are those of ``torchvision.models.resnet18``, so that state
dicts go either way; the stem is for small images: a 3 x 3 convolution of stride 1 and no pooling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from zookeeper.nets.activations import build_activation


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norms, added to the input.

    Where channels or size change, the input goes through a 1 x 1 convolution with a batch norm first.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.activation = build_activation(activation)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            skip = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(skip, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, H, W]`` to ``[B, channels, H / stride, W / stride]``, rounded up."""
        y = self.activation(self.bn1(self.conv1(x)))
        result: torch.Tensor = self.activation(self.bn2(self.conv2(y)) + self.downsample(x))
        return result


class ResNet(nn.Module):
    """Stem, four stages of basic blocks, mean over the image, dropout, one linear layer.

    Dropout is no part of the published network: it stands before the linear layer and is off by default.

    Parameters
    ----------
    blocks, widths
        Number of blocks and of channels of each stage; all stages but the first halve the image.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        *,
        in_channels: int,
        num_classes: int,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.activation = build_activation(activation)
        self.stages = tuple(f"layer{number}" for number in range(1, len(widths) + 1))
        for number, (name, num, width) in enumerate(zip(self.stages, blocks, widths, strict=True)):
            strides = [1 if number == 0 else 2, *[1] * (num - 1)]
            stage = nn.Sequential()
            for stride in strides:
                stage.append(BasicBlock(channels, width, stride=stride, activation=activation))
                channels = width
            self.add_module(name, stage)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[B, K]`` of images ``[B, C, H, W]``."""
        x = self.activation(self.bn1(self.conv1(images)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: torch.Tensor = self.fc(self.dropout(x.mean((2, 3))))
        return logits


def resnet18_cifar(
    *, in_channels: int, image_size: tuple[int, int], num_classes: int, activation: str, dropout: float = 0.0
) -> nn.Module:
    """Build ResNet-18: 11,173,962 weights with three channels and ten classes; any image size will do."""
    return ResNet(
        (2, 2, 2, 2),
        (64, 128, 256, 512),
        in_channels=in_channels,
        num_classes=num_classes,
        activation=activation,
        dropout=dropout,
    )
