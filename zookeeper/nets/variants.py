"""Relatives of ``cnn-small`` whose weights a hyper-representation of ``cnn-small`` zoos has not seen.

Source: Schürholt et al., "Hyper-Representations as Generative Models" (2022), section 4.2.4 and its
published networks: skips with 1 x 1 convolutions, the same weights spread over four convolutions, and
those four with an identity skip. The last two have exactly as many weights as ``cnn-small``. The paper's
networks are for 28 x 28 images without dropout; other sizes, and dropout where ``cnn-small`` has it,
continue the same rules.
"""

from __future__ import annotations

import torch
from torch import nn

from zookeeper.errors import InputError
from zookeeper.nets.activations import build_activation


class ResidualCnn(nn.Module):
    """``cnn-small`` with a skip around each convolution: max pooling to the branch's size, then 1 x 1.

    The skips are the last columns, so the leading columns of a row are a row of ``cnn-small``, name by name.
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
        _check_size("cnn-residual", image_size, 20)
        self.conv1 = nn.Conv2d(in_channels, 8, 5)
        self.conv2 = nn.Conv2d(8, 6, 5)
        self.conv3 = nn.Conv2d(6, 4, 2)
        halves = [tuple((side - 4) // 2 for side in image_size)]
        halves.append(tuple((side - 4) // 2 for side in halves[0]))
        self.fc1 = nn.Linear(4 * (halves[1][0] - 1) * (halves[1][1] - 1), 20)
        self.fc2 = nn.Linear(20, num_classes)
        self.skip1 = nn.Conv2d(in_channels, 8, 1)
        self.skip2 = nn.Conv2d(8, 6, 1)
        self.skip3 = nn.Conv2d(6, 4, 1)
        self.pool = nn.MaxPool2d(2)
        self.reduce1 = _matching_pool(image_size)
        self.reduce2 = _matching_pool(halves[0])
        self.reduce3 = nn.MaxPool2d(2, stride=1)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.flatten = nn.Flatten()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[B, K]`` of images ``[B, C, H, W]``."""
        x = self.dropout(self.activation(self.pool(self.conv1(images)))) + self.skip1(self.reduce1(images))
        x = self.dropout(self.activation(self.pool(self.conv2(x)))) + self.skip2(self.reduce2(x))
        x = self.activation(self.conv3(x)) + self.skip3(self.reduce3(x))
        logits: torch.Tensor = self.fc2(self.dropout(self.activation(self.fc1(self.flatten(x)))))
        return logits


class DeepCnn(nn.Module):
    """Four convolutions in the place of three; all but the first have no bias.

    With ``skip``, the output of the second convolution is added to that of the fourth: as many of its
    rows and columns as fit, evenly spaced and centred.
    """

    def __init__(
        self,
        *,
        skip: bool,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        _check_size("cnn-deep-residual" if skip else "cnn-deep", image_size, 24)
        before = [(side - 4) // 2 - 4 for side in image_size]
        after = [side - 5 for side in before]
        self.skip = (..., _spaced(before[0], after[0]), _spaced(before[1], after[1])) if skip else None
        self.conv1 = nn.Conv2d(in_channels, 8, 5)
        self.conv2 = nn.Conv2d(8, 4, 5, bias=False)
        self.conv3 = nn.Conv2d(4, 6, 4, bias=False)
        self.conv4 = nn.Conv2d(6, 4, 3, bias=False)
        self.fc1 = nn.Linear(4 * after[0] * after[1], 18)
        self.fc2 = nn.Linear(18, num_classes)
        self.pool = nn.MaxPool2d(2)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.flatten = nn.Flatten()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[B, K]`` of images ``[B, C, H, W]``."""
        x = self.dropout(self.activation(self.pool(self.conv1(images))))
        early = self.dropout(self.activation(self.conv2(x)))
        x = self.dropout(self.activation(self.conv3(early)))
        x = self.activation(self.conv4(x))
        if self.skip is not None:
            x = x + early[self.skip]
        logits: torch.Tensor = self.fc2(self.dropout(self.activation(self.fc1(self.flatten(x)))))
        return logits


def _check_size(name: str, image_size: tuple[int, int], smallest: int) -> None:
    if min(image_size) < smallest:
        raise InputError(
            f"{name}: images of {image_size[0]}x{image_size[1]} are too small; expected {smallest}x{smallest} or more."
        )


def _matching_pool(size: tuple[int, ...]) -> nn.MaxPool2d:
    """Pool as small as a 5 x 5 convolution with 2 x 2 pooling makes an image: 5 x 5, or 6 for an odd side."""
    height, width = size
    return nn.MaxPool2d((5 + height % 2, 5 + width % 2), stride=2)


def _spaced(length: int, num: int) -> slice:
    """Pick ``num`` of ``length`` places, evenly spaced and centred.

    >>> list(range(8))[_spaced(8, 3)], list(range(9))[_spaced(9, 4)], list(range(11))[_spaced(11, 6)]
    ([1, 3, 5], [1, 3, 5, 7], [2, 3, 4, 5, 6, 7])
    """
    step = length // num
    start = (length - (num - 1) * step - 1) // 2
    return slice(start, start + (num - 1) * step + 1, step)


def cnn_residual(
    *, in_channels: int, image_size: tuple[int, int], num_classes: int, activation: str, dropout: float = 0.0
) -> nn.Module:
    """``cnn-small`` with 1 x 1 skips: 98 weights more with one channel (2,562), 114 with three (2,978)."""
    return ResidualCnn(
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
        activation=activation,
        dropout=dropout,
    )


def cnn_deep(
    *, in_channels: int, image_size: tuple[int, int], num_classes: int, activation: str, dropout: float = 0.0
) -> nn.Module:
    """Four convolutions with the number of weights of ``cnn-small``: 2,464 with one channel, 2,864 with three."""
    return DeepCnn(
        skip=False,
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
        activation=activation,
        dropout=dropout,
    )


def cnn_deep_residual(
    *, in_channels: int, image_size: tuple[int, int], num_classes: int, activation: str, dropout: float = 0.0
) -> nn.Module:
    """``cnn-deep`` with an identity skip over its last two convolutions; as many weights."""
    return DeepCnn(
        skip=True,
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
        activation=activation,
        dropout=dropout,
    )
