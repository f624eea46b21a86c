"""A stacked convolution with the pooling, bias and ReLU that follow it, as one on a CPU.

The output of a convolution is the largest value of a network, and pooling throws three quarters of it away. So images
are taken in parts whose output stays in the cache: convolution, pooling, bias and ReLU of one part, then the next; the
gradient likewise. Kept for the gradient are the images that came in and the place of every maximum, one byte each.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass(frozen=True)
class Settings:
    """How a convolution is carried out: its options as pairs, its groups, ReLU or not, images in a part."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    relu: bool
    part: int

    @classmethod
    def of(cls, options: Mapping[str, Any], *, groups: int, relu: bool, part: int) -> Settings:
        """Read the options of a convolution."""
        return cls(options["stride"], options["padding"], options["dilation"], groups, relu, part)


@cache
def _is_installed() -> bool:
    return importlib.util.find_spec("llvmlite") is not None


def pools_at_once() -> bool:
    """Whether pooled convolutions may run as one in this process: llvmlite is installed, and torch has one thread."""
    return torch.get_num_threads() == 1 and _is_installed()


def takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a pooled convolution runs as one: with gradients, in float32, on one thread of a CPU.

    Without gradients torch's operations are as fast, and with several threads faster.
    """
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and pools_at_once()
    )


def convolve_pooled(x: torch.Tensor, kernels: torch.Tensor, bias: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Convolve, take the maxima of windows of 2 x 2 that do not overlap, add the bias, apply ReLU where wanted.

    Differentiable once in all three. The same as the operations of torch one after the other, but for the order of sums
    over images in the gradients of kernels and bias.

    Parameters
    ----------
    x
        ``[B, C, H, W]``, channels last in memory.
    kernels, bias
        ``[O, C / groups, k, k]``, channels last in memory, and ``[O]``.

    Returns
    -------
    torch.Tensor
        ``[B, O, H', W']``, channels last in memory; a last odd row or column of the convolution is left out.
    """
    pooled: torch.Tensor = _ConvolvePooled.apply(x, kernels, bias, settings)
    return pooled


class _ConvolvePooled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, kernels: torch.Tensor, bias: torch.Tensor, settings: Settings
    ) -> torch.Tensor:
        from zookeeper.population.pooling_kernels import compiled

        pool, bias = compiled().pool, bias.contiguous()
        pooled = choice = torch.empty(0)
        size: tuple[int, ...] = ()
        for start in range(0, len(x), settings.part):
            images = _convolve(x[start : start + settings.part], kernels, settings)
            if not size:
                size = tuple(images.shape[1:])
                pooled = _images(len(x), size[0], size[1] // 2, size[2] // 2, x.dtype)
                choice = torch.empty_like(pooled, dtype=torch.uint8)
            out, places = (v[start : start + settings.part] for v in (pooled, choice))
            addresses = [v.data_ptr() for v in (images, bias, out, places)]
            pool(*addresses, len(images), *size[1:], size[0], settings.relu)
            del images  # so that the next part writes where this one did, in the cache
        ctx.save_for_backward(x, kernels, choice)
        ctx.settings, ctx.size = settings, size
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from zookeeper.population.pooling_kernels import compiled

        spread, settings = compiled().spread, ctx.settings
        x, kernels, choice = ctx.saved_tensors
        channels, height, width = ctx.size
        grad = grad.contiguous(memory_format=torch.channels_last)
        wants_x = bool(ctx.needs_input_grad[0])
        grad_x = torch.empty_like(x) if wants_x and settings.part < len(x) else None
        grad_kernels = None
        biases = torch.zeros((len(x), channels), dtype=grad.dtype)
        for start in range(0, len(x), settings.part):
            part = slice(start, start + settings.part)
            images = _images(len(x[part]), channels, height, width, grad.dtype)
            images[:, :, height // 2 * 2 :] = 0
            images[:, :, :, width // 2 * 2 :] = 0
            addresses = [v.data_ptr() for v in (grad[part], choice[part], images, biases[part])]
            spread(*addresses, len(images), height, width, channels)
            found, of_kernels, _ = torch.ops.aten.convolution_backward(
                images, x[part], kernels, None, settings.stride, settings.padding, settings.dilation, False, (0, 0),
                settings.groups, (wants_x, True, False),
            )  # fmt: skip
            grad_kernels = of_kernels if grad_kernels is None else grad_kernels.add_(of_kernels)
            if grad_x is not None:
                grad_x[part] = found
            elif wants_x:
                grad_x = found
            del images, found, of_kernels
        return grad_x, grad_kernels, biases.sum(0), None


def _convolve(x: torch.Tensor, kernels: torch.Tensor, settings: Settings) -> torch.Tensor:
    images = F.conv2d(x, kernels, None, settings.stride, settings.padding, settings.dilation, settings.groups)
    return images.contiguous(memory_format=torch.channels_last)


def _images(num_images: int, channels: int, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty((num_images, channels, height, width), dtype=dtype, memory_format=torch.channels_last)
