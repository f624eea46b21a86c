"""The closed form of the loss and its gradient is torch's cross-entropy, also where numbers are extreme."""

from __future__ import annotations

import math

import pytest
import torch

from zookeeper.population.loss import _by_torch, loss_and_gradient

SHAPES = [(1, 1, 2), (3, 5, 4), (60, 32, 10), (7, 16, 200)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0])
def test_loss_and_gradient_are_those_of_torch(shape: tuple[int, int, int], scale: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(*shape, generator=generator, dtype=dtype)
    labels = torch.randint(0, shape[2], shape[:2], generator=generator)
    before = logits.clone()
    found, expected = loss_and_gradient(logits, labels), _by_torch(logits.clone(), labels)
    assert torch.equal(logits, before)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other)


def test_labels_that_all_networks_share_and_logits_of_any_layout() -> None:
    logits = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 2, 1, 0]).expand(3, 6)
    strided = logits.permute(2, 1, 0)  # [3, 6, 4]
    found, expected = loss_and_gradient(strided, labels), loss_and_gradient(strided.contiguous(), labels.contiguous())
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_network_without_finite_logits_stays_alone_with_it(bad: float) -> None:
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(3, 5, dtype=torch.int64)
    healthy = loss_and_gradient(logits, labels)
    poisoned = logits.clone()
    poisoned[1, 2, 3] = bad
    loss, gradient = loss_and_gradient(poisoned, labels)
    assert loss[1].isnan()
    assert gradient[1, 2].isnan().any()
    assert torch.equal(loss[[0, 2]], healthy[0][[0, 2]])
    assert torch.equal(gradient[[0, 2]], healthy[1][[0, 2]])


def test_certainty_costs_nothing_and_its_opposite_what_the_logits_say() -> None:
    logits = torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]])
    loss, gradient = loss_and_gradient(logits, torch.zeros(2, 1, dtype=torch.int64))
    assert loss.tolist() == [0.0, 1e4]
    assert gradient.tolist() == [[[0.0, 0.0]], [[-1.0, 1.0]]]
