"""Lowering of a stacked convolution, with the pooling and activation behind it, to fused kernels (`triton_kernels`).

Images come as ``[M, B, C, H, W]`` with any strides and leave in that shape with channels last in the memory of each
network. Gradients are of first order. float32 products are exact float32 unless the precision of training says TF32
(`precision.dot_precision`); operands of 16 bits are summed in float32.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from zookeeper.errors import InputError
from zookeeper.population.precision import dot_precision

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KEPT_BEFORE = ("silu", "gelu")  # the others know their slope from their output
_SMALLEST = 16  # side of the smallest operand of a product


@dataclass(frozen=True)
class Blocks:
    """How work is cut into programs.

    Parameters
    ----------
    places, pixels
        Output places, or input pixels, of one program.
    depth
        Terms of the inner sum taken at once; in the forward pass twice as many where channels do not divide by it.
    rows
        Most rows of a kernel's gradient in one program.
    summed
        Places that such a program takes at once.
    part
        Most places whose weight gradients one program sums up; partial sums are added afterwards.
    outputs
        Sums that one thread holds.
    num_stages
        Stages of a program's loads.
    """

    places: int = 64
    pixels: int = 128
    depth: int = 16
    rows: int = 64
    summed: int = 32
    part: int = 2048
    outputs: int = 16
    num_stages: int = 1


BLOCKS = Blocks()


@dataclass(frozen=True)
class Shape:
    """The compile-time side of a fused convolution."""

    channels: int
    height: int
    width: int
    out_channels: int
    side: int
    padding: int
    pool: int
    activation: str

    @property
    def out_height(self) -> int:
        """Rows after pooling; what does not fill a window is dropped."""
        return (self.height + 2 * self.padding - self.side + 1) // self.pool

    @property
    def out_width(self) -> int:
        """Columns after pooling."""
        return (self.width + 2 * self.padding - self.side + 1) // self.pool

    @property
    def depth(self) -> int:
        """Terms of one output value."""
        return self.side * self.side * self.channels


def launch_constants(
    kernel: str, shape: Shape, blocks: Blocks, precision: str
) -> tuple[dict[str, int | str], dict[str, int]]:
    """What a kernel is compiled for: its constants, without the flags that a launch adds, and the compiler's options.

    Parameters
    ----------
    kernel
        forward, weight_gradient or input_gradient.
    precision
        ieee or tf32.
    """
    constants: dict[str, int | str] = {
        "C": shape.channels,
        "HEIGHT": shape.height,
        "WIDTH": shape.width,
        "OUT_C": shape.out_channels,
        "OUT_H": shape.out_height,
        "OUT_W": shape.out_width,
        "SIDE": shape.side,
        "PADDING": shape.padding,
        "POOL": shape.pool,
        "PRECISION": precision,
    }
    wide = _power(shape.channels if kernel == "input_gradient" else shape.out_channels)
    high = blocks.places
    if kernel == "forward":
        depth = blocks.depth if shape.channels % blocks.depth == 0 else 2 * blocks.depth
        constants |= {"BLOCK_P": blocks.places, "BLOCK_K": depth, "BLOCK_O": wide}
    elif kernel == "weight_gradient":
        rows = _rows(shape.depth, blocks.rows)
        constants |= {"BLOCK_P": blocks.summed, "BLOCK_K": rows, "BLOCK_O": wide}
        constants["NUM_TILES"] = -(-shape.depth // rows)
        high = rows
    else:
        constants |= {"BLOCK_P": blocks.pixels, "BLOCK_K": blocks.depth, "BLOCK_C": wide}
        high = blocks.pixels
    if kernel != "input_gradient":
        constants["ACTIVATION"] = shape.activation
    num_warps = max(1, min(8, high * wide // (32 * blocks.outputs)))
    return constants, {"num_warps": num_warps, "num_stages": blocks.num_stages}


def is_usable(device: torch.device) -> bool:
    """Whether fused kernels run on a device: an NVIDIA GPU with triton installed, or triton's interpreter."""
    if not _is_installed():
        return False
    return is_interpreted() or (device.type == "cuda" and torch.version.hip is None)


@cache
def _is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def is_interpreted() -> bool:
    """Whether triton's interpreter stands in for a GPU, which is for tests: it is very slow."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


def require_usable(device: torch.device) -> None:
    """Refuse a device on which fused kernels cannot run.

    Raises
    ------
    InputError
        If there is no NVIDIA GPU, or no triton.
    """
    if not is_usable(device):
        raise InputError(
            f"lowering triton: cannot run on {device.type}; expected an NVIDIA GPU and the package triton. "
            "Choose the lowering grouped or unfold."
        )


def takes(x: torch.Tensor) -> bool:
    """Whether the kernels can work on a tensor, by its device and dtype; others take the grouped convolution."""
    return x.dtype in _DTYPES and is_usable(x.device)


def convolve_fused(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    padding: int = 0,
    pool: int = 1,
    activation: str = "",
    blocks: Blocks = BLOCKS,
) -> torch.Tensor:
    """Convolve with stride 1, take the maxima of ``pool`` x ``pool`` windows, apply an activation.

    Pooling is as torch's: rows and columns that fill no window are dropped, of equal values the first gets the
    gradient, NaN wins. Under autocast the products take its dtype.

    Parameters
    ----------
    x
        ``[M, B, C, H, W]`` of any strides, or ``[B, C, H, W]`` if all networks share it.
    weight, bias
        ``[M, C_out, C, k, k]`` and ``[M, C_out]``.
    pool
        1 or 2.
    activation
        Empty, gelu, leaky_relu, relu, sigmoid, silu or tanh.

    Returns
    -------
    torch.Tensor
        ``[M, B, C_out, H', W']``, channels last in the memory of each network.

    Raises
    ------
    InputError
        If the kernels cannot run on the device.
    """
    require_usable(x.device)
    num_models, out_channels, channels, side, _ = weight.shape
    kernels = weight.permute(0, 3, 4, 2, 1).reshape(num_models, side * side * channels, out_channels)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, kernels = x.to(dtype), kernels.to(dtype)
    if x.ndim == 4:
        x = x.expand(num_models, *x.shape)
    x = _within_reach(x)
    height, width = x.shape[-2:]
    bias = None if bias is None else bias.contiguous() if bias.stride(1) != 1 else bias
    shape = Shape(channels, height, width, out_channels, side, padding, pool, activation)
    out: torch.Tensor = _Fused.apply(x, kernels, bias, shape, blocks, dot_precision())
    return out.movedim(-1, -3)


class _Fused(torch.autograd.Function):
    """``x [M, B, C, H, W], kernels [M, k * k * C, O], bias [M, O] -> [M, B, H', W', O]``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        kernels: torch.Tensor,
        bias: torch.Tensor | None,
        shape: Shape,
        blocks: Blocks,
        precision: str,
    ) -> torch.Tensor:
        from zookeeper.population.triton_kernels import forward_kernel

        kernels = kernels.contiguous()
        num_models, num_images = x.shape[:2]
        size = (num_models, num_images, shape.out_height, shape.out_width, shape.out_channels)
        out = torch.empty(size, dtype=x.dtype, device=x.device)
        needs_grad = any(ctx.needs_input_grad)
        keeps_before = needs_grad and shape.activation in KEPT_BEFORE
        keeps_choice = needs_grad and shape.pool > 1
        before = torch.empty_like(out) if keeps_before else out
        choice = torch.empty_like(out, dtype=torch.int8) if keeps_choice else out
        num_places = num_images * shape.out_height * shape.out_width
        num_blocks = -(-num_places // blocks.places)
        constants, options = launch_constants("forward", shape, blocks, precision)
        forward_kernel[(num_models * num_blocks,)](
            x,
            kernels,
            kernels if bias is None else bias,
            out,
            before,
            choice,
            *x.stride(),
            0 if bias is None else bias.stride(0),
            num_places,
            num_blocks,
            **constants,
            HAS_BIAS=bias is not None,
            KEEP_BEFORE=keeps_before,
            KEEP_CHOICE=keeps_choice,
            **options,
        )
        if needs_grad:
            ctx.save_for_backward(x, kernels, before if keeps_before else out, choice if keeps_choice else None)
            ctx.shape, ctx.blocks, ctx.precision = shape, blocks, precision
            ctx.bias_dtype = None if bias is None else bias.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, kernels, kept, choice = ctx.saved_tensors
        shape, blocks = ctx.shape, ctx.blocks
        grad = _within_reach(grad.movedim(-1, -3))
        before, weights, biases = _weight_gradient(x, grad, kept, choice, shape, blocks, ctx)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _input_gradient(x, before, choice, kernels, shape, blocks, ctx.precision)
        grad_bias = None if ctx.bias_dtype is None else biases.to(ctx.bias_dtype)
        return grad_x, weights.to(kernels.dtype), grad_bias, None, None, None


def _weight_gradient(
    x: torch.Tensor,
    grad: torch.Tensor,
    kept: torch.Tensor,
    choice: torch.Tensor | None,
    shape: Shape,
    blocks: Blocks,
    ctx: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients before the activation ``[M, B, H', W', O]``, of the kernels and of the biases (both float32)."""
    from zookeeper.population.triton_kernels import weight_gradient_kernel

    num_models, num_images = x.shape[:2]
    num_places = num_images * shape.out_height * shape.out_width
    num_parts = -(-num_places // blocks.part)
    part = -(-num_places // (num_parts * blocks.summed)) * blocks.summed  # all parts alike
    constants, options = launch_constants("weight_gradient", shape, blocks, ctx.precision)
    keeps_before = bool(ctx.needs_input_grad[0])
    before = torch.empty_like(kept) if keeps_before else kept
    parts = (num_models, num_parts, shape.depth, shape.out_channels)
    weights = torch.empty(parts, dtype=torch.float32, device=x.device)
    biases = torch.empty((num_models, num_parts, shape.out_channels), dtype=torch.float32, device=x.device)
    weight_gradient_kernel[(num_models * num_parts * int(constants["NUM_TILES"]),)](
        x,
        grad,
        kept,
        kept if choice is None else choice,
        before,
        weights,
        biases,
        *x.stride(),
        *grad.stride(),
        num_places,
        num_parts,
        **constants,
        PART=part,
        KEEP_BEFORE=keeps_before,
        **options,
    )
    return before, weights.sum(1), biases.sum(1)


def _input_gradient(
    x: torch.Tensor,
    before: torch.Tensor,
    choice: torch.Tensor | None,
    kernels: torch.Tensor,
    shape: Shape,
    blocks: Blocks,
    precision: str,
) -> torch.Tensor:
    """Gradient of the images, ``[M, B, C, H, W]``."""
    from zookeeper.population.triton_kernels import input_gradient_kernel

    num_models, num_images = x.shape[:2]
    size = (num_models, num_images, shape.height, shape.width, shape.channels)
    grad_x = torch.empty(size, dtype=x.dtype, device=x.device)
    num_pixels = num_images * shape.height * shape.width
    num_blocks = -(-num_pixels // blocks.pixels)
    constants, options = launch_constants("input_gradient", shape, blocks, precision)
    input_gradient_kernel[(num_models * num_blocks,)](
        before,
        before if choice is None else choice,
        kernels,
        grad_x,
        num_images * shape.out_height * shape.out_width,
        num_pixels,
        num_blocks,
        **constants,
        **options,
    )
    return grad_x.movedim(-1, -3)


def _within_reach(images: torch.Tensor) -> torch.Tensor:
    """Return ``[M, B, C, H, W]`` such that 32 bits hold every offset within a network; a copy if need be."""
    reach = sum((size - 1) * stride for size, stride in zip(images.shape[1:], images.stride()[1:], strict=True))
    return images if reach < 2**31 else images.contiguous()


def _rows(depth: int, most: int) -> int:
    """Rows of a tile of a kernel's gradient: the most for which tiles are at most an eighth larger than need be.

    >>> _rows(144, 64), _rows(288, 64), _rows(27, 64)
    (32, 64, 32)
    """
    covered = {size: -(-depth // size) * size for size in (128, 64, 32, _SMALLEST) if size <= most}
    return next(size for size, rows in covered.items() if 8 * rows <= 9 * min(covered.values()))


def _power(count: int) -> int:
    """The smallest power of two that holds ``count`` and is large enough for a product."""
    return max(_SMALLEST, 1 << (count - 1).bit_length())
