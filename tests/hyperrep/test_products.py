"""Maps of tokens as convolutions: the same numbers and gradients as plain linear maps, with less kept."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hyperrep.models import products
from hyperrep.models.products import TokenMap
from zookeeper.population import process

KINDS = ("plain", "norm", "gelu")


pytestmark = pytest.mark.usefixtures("one_thread")


def run(kind: str, layer: TokenMap, norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    if kind == "norm":
        return layer.after_norm(norm, x)
    return layer.after_gelu(x) if kind == "gelu" else layer(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(16, 5, 24, 40), (17, 1, 3, 7), (20, 6, 1, 1), (32, 9, 289, 16)])
def test_both_ways_give_the_same_numbers_and_gradients(kind: str, shape: tuple[int, int, int, int]) -> None:
    num, num_tokens, width, width_out = shape
    torch.manual_seed(0)
    layer, norm = TokenMap(width, width_out), nn.LayerNorm(width)
    nn.init.normal_(norm.weight)
    x = torch.randn(num_tokens, num, width).transpose(0, 1).requires_grad_()  # not contiguous
    gradient = torch.randn(num, num_tokens, width_out)
    inputs = [x, layer.weight, layer.bias, *(norm.parameters() if kind == "norm" else [])]
    found = []
    for is_narrow in (True, False):
        with patch.object(process, "_MKL_IS_NARROW", is_narrow):
            y = run(kind, layer, norm, x)
        assert y.is_contiguous()
        found.append([y, *torch.autograd.grad(y, inputs, gradient)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_plain_products_where_a_convolution_does_not_pay() -> None:
    with patch.object(process, "_MKL_IS_NARROW", True), patch.object(products, "_convolve") as convolve:
        layer = TokenMap(4, 3)
        layer(torch.zeros(15, 2, 4))
        layer(torch.zeros(64, 4))
        layer.double()(torch.zeros(64, 2, 4, dtype=torch.float64))
        with torch.autocast("cpu", torch.bfloat16):
            layer.float()(torch.zeros(64, 2, 4))
        convolve.assert_not_called()


def test_less_is_kept_for_the_gradient() -> None:
    wide, narrow, norm = TokenMap(8, 32), TokenMap(32, 8), nn.LayerNorm(8)
    x = torch.randn(16, 3, 8, requires_grad=True)
    weights = {p.data_ptr() for layer in (wide, narrow, norm) for p in layer.parameters()}

    def kept_by(function: Callable[[], torch.Tensor]) -> int:
        held: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                held[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = function()
        assert result.requires_grad
        return sum(held.values()) // (16 * 3)

    with patch.object(process, "_MKL_IS_NARROW", True):
        kept = kept_by(lambda: narrow.after_gelu(wide.after_norm(norm, x)))
    plain = kept_by(lambda: F.linear(F.gelu(F.linear(norm(x), wide.weight, wide.bias)), narrow.weight, narrow.bias))
    assert kept == 8 + 1 + 1 + 32  # input, mean and spread of the norm, what goes into GELU
    assert plain >= kept + 8 + 32
