"""Linear maps of tokens: the fastest product a CPU has, and nothing kept for the gradient that is quickly made again.

Where a convolution of one pixel is the faster product (`zookeeper.population.process`), a map of tokens is one.
Elsewhere, for other types, under autocast and for few networks it is `torch.nn.functional.linear`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from zookeeper.population.process import prefers_convolution


class TokenMap(nn.Linear):
    """A linear map of tokens ``[N, T, in]`` to ``[N, T, out]``, or of any ``[..., in]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the last axis."""
        if not prefers_convolution(x):
            return super().forward(x)
        out: torch.Tensor = _Map.apply(x, self.weight, self.bias)
        return out

    def after_norm(self, norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        """Map ``norm(x)``; where it pays, the gradient keeps ``x`` alone and normalises it again."""
        if not prefers_convolution(x):
            return self.forward(norm(x))
        out: torch.Tensor = _MapOfNorm.apply(x, norm.weight, norm.bias, norm.eps, self.weight, self.bias)
        return out

    def after_gelu(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``gelu(x)``; where it pays, the gradient keeps ``x`` alone and takes GELU again."""
        if not prefers_convolution(x):
            return self.forward(F.gelu(x))
        out: torch.Tensor = _MapOfGelu.apply(x, self.weight, self.bias)
        return out


def _images(tokens: torch.Tensor) -> torch.Tensor:
    """See tokens ``[N, T, C]`` as images ``[N, C, T, 1]``, channels last in memory."""
    return tokens.contiguous().unsqueeze(2).permute(0, 3, 1, 2)


def _tokens(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 2, 3, 1).squeeze(2).contiguous()


def _convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return _tokens(F.conv2d(_images(x), weight[:, :, None, None], bias))


def _gradients(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *, of_input: bool = True
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Gradients of input, weight and bias; the last as a sum, which is faster than oneDNN's."""
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        _images(gradient), _images(x), weight[:, :, None, None], None,
        [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [of_input, True, False],
    )  # fmt: skip
    return _tokens(of_x) if of_input else None, of_weight.flatten(1), gradient.sum((0, 1))


class _Map(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return _gradients(gradient, x, weight, of_input=ctx.needs_input_grad[0])


class _MapOfNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor,
        shift: torch.Tensor,
        eps: float,
        weight: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, scale.shape, scale, shift, eps)
        ctx.save_for_backward(x, scale, shift, weight, mean, rstd)
        ctx.eps = eps
        return _convolve(normed, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, scale, shift, weight, mean, rstd = ctx.saved_tensors
        normed = torch.native_layer_norm(x, scale.shape, scale, shift, ctx.eps)[0]
        of_normed, of_weight, of_bias = _gradients(gradient, normed, weight)
        of_x, of_scale, of_shift = torch.ops.aten.native_layer_norm_backward(
            of_normed, x, scale.shape, mean, rstd, scale, shift, [True, True, True]
        )
        return of_x, of_scale, of_shift, None, of_weight, of_bias


class _MapOfGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_active, of_weight, of_bias = _gradients(gradient, F.gelu(x), weight)
        return torch.ops.aten.gelu_backward(of_active, x), of_weight, of_bias
