"""Lowering of a stacked convolution to one batched matrix product of unfolded patches.

The patches of every network times its kernels, all networks in one call. It moves ``k * k`` times the numbers
that a grouped convolution reads, but a batched matrix product is fast where grouped convolutions are not: on
GPUs, and for kernels of one pixel, which need no patches at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F


def convolve_unfolded(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, options: Mapping[str, Any]
) -> torch.Tensor:
    """Convolve a stack with a stack of kernels; every network's own groups are 1.

    Parameters
    ----------
    x
        ``[B, M*C, H, W]``.
    weight, bias
        ``[M, C_out, C, k, k]`` and ``[M, C_out]``.

    Returns
    -------
    torch.Tensor
        ``[B, M*C_out, H', W']``, channels last in memory.
    """
    num_models, out_channels, in_channels, height, width = weight.shape
    kernels = weight.reshape(num_models, out_channels, -1).transpose(1, 2)  # [M, C*k*k, C_out]
    patches = image_patches(x, (height, width), options)  # [B, M*C, H', W', k, k]
    num_images, _, out_height, out_width = patches.shape[:4]
    patches = torch.unflatten(patches, 1, (num_models, in_channels)).permute(1, 0, 3, 4, 2, 5, 6)  # to [M, B, H', ...]
    patches = patches.reshape(num_models, num_images * out_height * out_width, -1)
    result = torch.bmm(patches, kernels) if bias is None else torch.baddbmm(bias.unsqueeze(1), patches, kernels)
    result = result.view(num_models, num_images, out_height, out_width, out_channels)
    stacked = result.permute(1, 2, 3, 0, 4).reshape(num_images, out_height, out_width, num_models * out_channels)
    return stacked.permute(0, 3, 1, 2)


def image_patches(x: torch.Tensor, kernel: tuple[int, int], options: Mapping[str, Any]) -> torch.Tensor:
    """Windows of ``x`` as a view ``[B, C, H', W', k, k]``."""
    stride, padding, dilation = options["stride"], options["padding"], options["dilation"]
    if any(padding):
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    reach = [dilation[axis] * (kernel[axis] - 1) + 1 for axis in (0, 1)]
    windows = x.unfold(2, reach[0], stride[0]).unfold(3, reach[1], stride[1])
    return windows[..., :: dilation[0], :: dilation[1]]
