"""A stacked convolution: one interface, and its lowering to one grouped convolution over channels-last images.

Images of a stack are ``[B, M*C, H, W]`` with the channel axis last in memory: neighbouring networks
are neighbouring numbers, so pooling and activations run at full vector width whatever the size of one
network. Where all networks see the same images, the first convolution is one dense convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from zookeeper.population.fusion import is_fusible
from zookeeper.population.process import prefers_convolution
from zookeeper.population.triton_convolution import convolve_fused, is_usable, takes
from zookeeper.population.unfold import convolve_unfolded, image_patches

_FEWEST_CHANNELS = 3
GROUPED, UNFOLD, TRITON = "grouped", "unfold", "triton"
LOWERINGS = (GROUPED, UNFOLD)
"""Lowerings that run on every device."""


def device_lowerings(device: torch.device) -> tuple[str, ...]:
    """Return the lowerings that run on a device: all that run anywhere, and ``triton`` on an NVIDIA GPU."""
    return (*LOWERINGS, TRITON) if is_usable(device) else LOWERINGS


def stack_images(images: torch.Tensor) -> torch.Tensor:
    """Bring ``[M, B, C, H, W]`` into the stack's form ``[B, M*C, H, W]``, channels last in memory.

    No copy is made of images that lie in that order already.
    """
    num_models, num_images, channels, height, width = images.shape
    moved = images.permute(1, 0, 2, 3, 4).reshape(num_images, num_models * channels, height, width)
    return moved.contiguous(memory_format=torch.channels_last)


def interleave(images: torch.Tensor) -> torch.Tensor:
    """Copy ``[M, B, C, H, W]`` so that `stack_images` is free; shape and values stay."""
    return images.permute(1, 3, 4, 0, 2).contiguous().permute(3, 0, 4, 1, 2)


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    options: Mapping[str, Any],
    *,
    shared: bool,
    lowering: str = GROUPED,
) -> torch.Tensor:
    """Convolve a stack with a stack of kernels.

    Every lowering computes the same up to rounding. ``unfold`` is used where a network's own convolution has one
    group, ``triton`` where the kernels know device, dtype and options; images that all networks share take another
    way, one dense convolution or product, whatever the lowering.

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
    num_models = len(weight)
    groups = int(options["groups"])
    if shared and groups == 1 and not x.requires_grad:
        return _convolve_shared(x, weight, bias, options)
    if shared and groups > 1:
        x = x.repeat(1, num_models, 1, 1)
        shared = False
    if lowering == UNFOLD and groups == 1 and not shared:
        return convolve_unfolded(x, weight, bias, options)
    if lowering == TRITON and not shared and takes(x) and is_fusible(options, tuple(weight.shape[-2:])):
        members = torch.unflatten(x, 1, (num_models, -1)).transpose(0, 1)
        return stack_images(convolve_fused(members, weight, bias, padding=options["padding"][0]))
    kernels = _as_kernels(weight)
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


def as_grouped(
    x: torch.Tensor, weight: torch.Tensor, options: Mapping[str, Any], *, shared: bool
) -> tuple[torch.Tensor, torch.Tensor, Mapping[str, Any], int]:
    """Write the convolution of a stack as one of torch: images, kernels, options and groups, all channels last.

    Parameters
    ----------
    x, weight
        As for `convolve`.
    """
    num_models, _, in_channels = weight.shape[:3]
    groups = int(options["groups"])
    if not shared:
        return x.contiguous(memory_format=torch.channels_last), _as_kernels(weight), options, num_models * groups
    if groups > 1:
        return x.repeat(1, num_models, 1, 1), _as_kernels(weight), options, num_models * groups
    if x.requires_grad or not takes_patches(in_channels):
        return x.contiguous(memory_format=torch.channels_last), _as_kernels(weight), options, 1
    patches = _flat_patches(x, weight, options)
    kernels = weight.flatten(2).flatten(0, 1)[:, :, None, None]
    of_one_pixel = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    return patches.permute(0, 3, 1, 2), kernels.contiguous(memory_format=torch.channels_last), of_one_pixel, 1


def _as_kernels(weight: torch.Tensor) -> torch.Tensor:
    """Kernels ``[M, O, C, k, k]`` of a stack as those of one network, ``[M*O, C, k, k]``, channels last."""
    return weight.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _flat_patches(x: torch.Tensor, weight: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
    """Patches ``[B, H', W', C*k*k]`` of images that all networks share."""
    windows = image_patches(x, (weight.shape[-2], weight.shape[-1]), options)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(3)


def takes_patches(in_channels: int) -> bool:
    """Whether a convolution of images that all networks share is a product of patches: libraries are slow on so few."""
    return in_channels < _FEWEST_CHANNELS


def _convolve_shared(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, options: Mapping[str, Any]
) -> torch.Tensor:
    """Convolve images that all networks share with all kernels at once, as if they were those of one wide network."""
    num_models, out_channels, in_channels, height, width = weight.shape
    kernels = weight.reshape(num_models * out_channels, in_channels, height, width)
    biases = None if bias is None else bias.reshape(-1)
    if not takes_patches(in_channels):
        x, kernels = (v.contiguous(memory_format=torch.channels_last) for v in (x, kernels))
        result = F.conv2d(x, kernels, biases, options["stride"], options["padding"], options["dilation"])
        return result.contiguous(memory_format=torch.channels_last)
    patches = _flat_patches(x, weight, options)
    num_images, out_height, out_width, _ = patches.shape
    patches = patches.flatten(1, 2)
    if prefers_convolution(patches):
        pixels = patches.unsqueeze(2).permute(0, 3, 1, 2)  # [B, C*k*k, H'*W', 1], channels last
        wide = F.conv2d(pixels, kernels.flatten(1)[:, :, None, None], biases).permute(0, 2, 3, 1)
    else:
        wide = F.linear(patches, kernels.flatten(1), biases)
    return wide.reshape(num_images, out_height, out_width, -1).permute(0, 3, 1, 2)
