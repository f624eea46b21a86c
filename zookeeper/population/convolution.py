"""Lowering of a stacked convolution to one grouped convolution over channels-last images.

Images of a stack are ``[B, M*C, H, W]`` with the channel axis last in memory: neighbouring networks
are neighbouring numbers, so pooling and activations run at full vector width whatever the size of one
network. Where all networks see the same images, the first convolution is one dense convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F


def stack_images(images: torch.Tensor) -> torch.Tensor:
    """Bring ``[M, B, C, H, W]`` into the stack's form ``[B, M*C, H, W]``, channels last in memory."""
    num_models, num_images, channels, height, width = images.shape
    moved = images.permute(1, 3, 4, 0, 2).reshape(num_images, height, width, num_models * channels)
    return moved.permute(0, 3, 1, 2)


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    options: Mapping[str, Any],
    *,
    shared: bool,
) -> torch.Tensor:
    """Convolve a stack with a stack of kernels.

    Parameters
    ----------
    x
        ``[B, C, H, W]`` if all networks share it, else ``[B, M*C, H, W]``.
    weight, bias
        ``[M, C_out, C_in, k, k]`` and ``[M, C_out]``.

    Returns
    -------
    torch.Tensor
        ``[B, M*C_out, H', W']``, channels last in memory.
    """
    num_models, out_channels = weight.shape[:2]
    groups = int(options["groups"])
    if shared and groups > 1:
        x = x.repeat(1, num_models, 1, 1)
        shared = False
    kernels = weight.reshape(num_models * out_channels, *weight.shape[2:])
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    result = F.conv2d(
        x,
        kernels,
        None if bias is None else bias.reshape(-1),
        options["stride"],
        options["padding"],
        options["dilation"],
        1 if shared else num_models * groups,
    )
    return result.contiguous(memory_format=torch.channels_last)
