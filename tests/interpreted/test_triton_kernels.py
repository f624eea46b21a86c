"""The fused kernels against plain torch: values, gradients, ties, NaN; tiny, for the interpreter is slow."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.population import Population
from zookeeper.population.choice import convolution_cases, measure_case, trial_population
from zookeeper.population.convolution import LOWERINGS, TRITON, convolve, device_lowerings, stack_images
from zookeeper.population.fusion import Fusion
from zookeeper.population.randomness import DropoutStream, stream_keys
from zookeeper.population.triton_convolution import BLOCKS, Blocks, convolve_fused

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter is numpy, which warns of NaN
FUNCTIONS = {
    "": lambda x: x,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
}
SMALL = Blocks(places=16, pixels=16, depth=16, rows=16, summed=16, part=24)


@dataclass(frozen=True)
class Case:
    images: tuple[int, ...]  # [M, B, C, H, W], or [B, C, H, W] shared by two networks
    out_channels: int
    side: int
    padding: int
    pool: int
    activation: str
    bias: bool = True
    blocks: Blocks = BLOCKS


CASES = (
    Case((2, 2, 3, 7, 8), 5, 3, 0, 2, "tanh"),
    Case((2, 2, 3, 7, 8), 5, 3, 0, 2, "tanh", blocks=SMALL),
    Case((2, 3, 2, 6, 5), 4, 2, 1, 1, "gelu", bias=False),
    Case((2, 6, 6, 6), 6, 3, 1, 2, "relu"),
    Case((1, 1, 17, 5, 6), 18, 3, 2, 2, "silu", blocks=SMALL),
    Case((1, 1, 2, 5, 5), 3, 5, 0, 1, ""),
    Case((2, 1, 2, 5, 5), 3, 1, 0, 2, "sigmoid"),
    Case((3, 1, 1, 4, 4), 2, 3, 1, 2, "leaky_relu", bias=False),
    Case((2, 4, 1, 4, 3), 2, 2, 0, 1, "silu"),
)


def plainly(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, case: Case) -> torch.Tensor:
    """Network after network by torch's own layers, [M, B, C, H, W]."""
    outputs = []
    for m in range(len(weight)):
        y = F.conv2d(x if x.ndim == 4 else x[m], weight[m], None if bias is None else bias[m], padding=case.padding)
        outputs.append(FUNCTIONS[case.activation](F.max_pool2d(y, 2) if case.pool == 2 else y))
    return torch.stack(outputs)


def fused(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, case: Case) -> torch.Tensor:
    return convolve_fused(
        x, weight, bias, padding=case.padding, pool=case.pool, activation=case.activation, blocks=case.blocks
    )


def draw(case: Case, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(5)
    num_models = case.images[0] if len(case.images) == 5 else 2
    shape = (num_models, case.out_channels, case.images[-3], case.side, case.side)
    images = torch.randn(case.images, generator=generator)
    weight = torch.randn(shape, generator=generator) / (case.side * case.images[-3] ** 0.5)
    bias = torch.randn(num_models, case.out_channels, generator=generator) if case.bias else None
    leaves = [None if leaf is None else leaf.to(dtype).requires_grad_() for leaf in (images, weight, bias)]
    assert leaves[0] is not None
    assert leaves[1] is not None
    return leaves[0], leaves[1], leaves[2]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_those_of_torch(case: Case) -> None:
    leaves, exact = draw(case), draw(case, torch.float64)
    out, expected = fused(*leaves, case), plainly(*exact, case)
    torch.testing.assert_close(out.double(), expected, rtol=2e-6, atol=2e-6)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(6))
    grads = torch.autograd.grad(out, [leaf for leaf in leaves if leaf is not None], cotangent)
    wanted = torch.autograd.grad(expected, [leaf for leaf in exact if leaf is not None], cotangent.double())
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad.double(), want, rtol=5e-6, atol=5e-6 * float(want.abs().max()))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_of_equal_values_in_a_window_the_first_gets_the_gradient(activation: str) -> None:
    case = Case((2, 2, 1, 6, 6), 2, 3, 0, 2, activation)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 2, case.images, generator=generator).float().requires_grad_()
    weight = torch.randint(-1, 2, (2, 2, 1, 3, 3), generator=generator).float().requires_grad_()
    bias = torch.zeros(2, 2, requires_grad=True)
    out, expected = fused(images, weight, bias, case), plainly(images, weight, bias, case)
    windows = F.conv2d(images[0], weight[0]).unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    assert ((windows == windows.amax(-1, keepdim=True)).sum(-1) > 1).float().mean() > 0.2  # ties are common here
    cotangent = torch.randint(-3, 4, out.shape, generator=generator).float()
    grads, wanted = (torch.autograd.grad(value, (images, weight, bias), cotangent) for value in (out, expected))
    if activation == "relu":  # whole numbers: no rounding anywhere
        assert all(torch.equal(grad, want) for grad, want in zip(grads, wanted, strict=True))
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("shared", [True, False])
def test_nan_in_one_network_leaves_the_others_bit_identical_and_a_network_alone_gives_the_same_bits(
    shared: bool,
) -> None:
    case = Case((2, 1, 6, 5) if shared else (3, 2, 1, 6, 5), 2, 3, 1, 2, "tanh", blocks=SMALL)
    generator = torch.Generator().manual_seed(1)
    images, weight = torch.randn(case.images, generator=generator), torch.randn(3, 2, 1, 3, 3, generator=generator)
    bias = torch.randn(3, 2, generator=generator)

    def run(members: list[int], *, poison: bool) -> list[torch.Tensor]:
        leaves = [(images if shared else images[members]).clone(), weight[members].clone(), bias[members].clone()]
        if poison:
            leaves[1][1, 0, 0, 0, 0] = torch.nan
        wanted = [leaf.requires_grad_() for leaf in (leaves[1:] if shared else leaves)]
        out = fused(*leaves, case)
        return [out.detach(), *torch.autograd.grad(out.sum(), wanted)]

    clean, poisoned, alone = run([0, 1, 2], poison=False), run([0, 1, 2], poison=True), run([2], poison=False)
    assert poisoned[0][1, :, 0].isnan().all()
    for before, after, single in zip(clean, poisoned, alone, strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert torch.equal(before[[2]], single)


def test_nan_and_infinity_go_through_as_in_torch() -> None:
    case = Case((1, 1, 1, 4, 4), 1, 1, 0, 2, "relu", bias=False)
    images = torch.zeros(case.images)
    images[0, 0, 0, 0, 1], images[0, 0, 0, 0, 2], images[0, 0, 0, 2, 0] = torch.nan, torch.inf, -torch.inf
    weight = torch.ones(1, 1, 1, 1, 1)
    out = fused(images, weight, None, case)
    torch.testing.assert_close(out, plainly(images, weight, None, case), equal_nan=True)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Tanh(), nn.Dropout(0.3), nn.Conv2d(3, 4, 2, padding=1), nn.GELU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("layers", [("0", "4"), ("0",), ("4",)], ids=str)
def test_a_population_agrees_with_its_grouped_form(shared: bool, layers: tuple[str, ...]) -> None:
    population = Population(net(), (2, 9, 8))
    lowered = population.lowered(dict.fromkeys(layers, TRITON))
    generator = torch.Generator().manual_seed(2)
    rows = (torch.randn(2, population.layout.num_weights, generator=generator) * 0.3).requires_grad_()
    images = torch.randn(*(() if shared else (2,)), 2, 2, 9, 8, generator=generator)
    dropout = DropoutStream(stream_keys([1, 2], "dropout"), 3, torch.tensor([0.3, 0.5]))
    results = []
    for one in (lowered, population):
        logits, _ = one.forward_training(rows, images, dropout)
        results.append((logits, *torch.autograd.grad(logits.square().sum(), rows)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(
            lowered.forward(rows, images), population.forward(rows, images), rtol=1e-5, atol=1e-5
        )
    assert not lowered.stacks_images or "0" not in layers


def test_the_trial_of_a_lowering_is_one_fused_kernel() -> None:
    population = Population(net(), (2, 9, 8))
    case = convolution_cases(population, 2, 2, device=torch.device("cpu"), dtype=torch.float32)["0"]
    (instruction, *rest) = trial_population(case, TRITON).instructions
    assert instruction.fusion == Fusion((1, 2, 3), 2, "tanh")
    assert all(one.fusion is None for one in rest)
    assert measure_case(case, TRITON, torch.device("cpu"), torch.float32) > 0


def test_products_of_sixteen_bits_are_close_and_gradients_are_float32() -> None:
    # float16, for the interpreter multiplies bfloat16 as whole numbers; the kernels treat both alike
    case = Case((2, 1, 2, 6, 6), 3, 3, 0, 2, "tanh")
    leaves = draw(case)
    with torch.autocast("cpu", torch.float16):
        out = fused(*leaves, case)
    assert out.dtype == torch.float16
    expected = plainly(*leaves, case)
    torch.testing.assert_close(out.float(), expected, rtol=0.004, atol=0.004)
    grads = torch.autograd.grad(out.float().sum(), leaves)  # type: ignore[arg-type]
    wanted = torch.autograd.grad(expected.sum(), leaves)  # type: ignore[arg-type]
    for grad, want in zip(grads, wanted, strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, want, rtol=0.008, atol=0.008 * float(want.abs().max()))


def test_a_convolution_alone_has_the_same_interface_as_every_lowering() -> None:
    generator = torch.Generator().manual_seed(0)
    images, weight = torch.randn(2, 2, 2, 5, 4, generator=generator), torch.randn(2, 3, 2, 3, 3, generator=generator)
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    outputs = [
        convolve(stack_images(images), weight, None, options, shared=False, lowering=lowering)
        for lowering in device_lowerings(torch.device("cpu"))
    ]
    assert len(outputs) == len(LOWERINGS) + 1
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=1e-5, atol=1e-5)
        assert output.is_contiguous(memory_format=torch.channels_last)
