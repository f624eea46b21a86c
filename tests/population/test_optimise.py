from __future__ import annotations

from typing import Any

import pytest
import torch

from zookeeper.errors import InputError
from zookeeper.population.optimise import Hyperparameters, Optimizer, optimizer_names

LR, DECAY, MOMENTUM = (0.1, 0.01, 1e-4, 0.03), (0.0, 0.1, 1e-3, 0.4), (0.9, 0.5, 0.2, 0.99)
STEPS = 30


def vectors(*values: tuple[float, ...]) -> Hyperparameters:
    lr, decay, momentum = (torch.tensor(v, dtype=torch.float64)[:, None] for v in values)
    return Hyperparameters(lr, decay, momentum)


def torch_optimizer(kind: str, number: int, parameter: torch.Tensor, *, momentum: float) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": LR[number], "weight_decay": DECAY[number]}
    if kind in ("sgd", "nesterov"):
        return torch.optim.SGD([parameter], momentum=momentum, nesterov=kind == "nesterov" and momentum > 0, **options)
    if kind == "rmsprop":
        return torch.optim.RMSprop([parameter], momentum=momentum, **options)
    return (torch.optim.Adam if kind == "adam" else torch.optim.AdamW)([parameter], **options)


@pytest.mark.parametrize("momentum", [MOMENTUM, (0.0,) * 4, (0.0, 0.9, 0.0, 0.5)], ids=["own", "none", "some"])
@pytest.mark.parametrize("kind", ["sgd", "nesterov", "rmsprop", "adam", "adamw"])
def test_equals_torch_optim(kind: str, momentum: tuple[float, ...]) -> None:
    """Over many steps, on gradients of very different size, some of them exactly zero."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(4, 40, generator=generator, dtype=torch.float64)
    scale = torch.logspace(-6, 3, 40, dtype=torch.float64)
    grads = torch.randn(STEPS, 4, 40, generator=generator, dtype=torch.float64) * scale
    grads[:, :, ::7] = 0.0
    rows = start.clone()
    optimizer = Optimizer.fresh(
        "sgd" if kind == "nesterov" else kind, vectors(LR, DECAY, momentum), rows, nesterov=kind == "nesterov"
    )
    for number in range(STEPS):
        optimizer.step(rows, grads[number].clone(), number + 1)
    for m in range(4):
        parameter = start[m].clone().requires_grad_()
        reference = torch_optimizer(kind, m, parameter, momentum=momentum[m])
        for number in range(STEPS):
            parameter.grad = grads[number, m].clone()
            reference.step()
        torch.testing.assert_close(rows[m], parameter.detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", optimizer_names())
def test_members_are_views_of_the_whole(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    grads = torch.randn(5, 4, 6, generator=generator, dtype=torch.float64)
    whole_rows, tiled_rows = start.clone(), start.clone()
    whole = Optimizer.fresh(name, vectors(LR, DECAY, MOMENTUM), whole_rows)
    tiled = Optimizer.fresh(name, vectors(LR, DECAY, MOMENTUM), tiled_rows)
    for number in range(5):
        whole.step(whole_rows, grads[number].clone(), number + 1)
        for tile in (slice(0, 1), slice(1, 4)):
            tiled.narrow(tile).step(tiled_rows[tile], grads[number, tile].clone(), number + 1)
    assert torch.equal(whole_rows, tiled_rows)
    for slot, values in whole.state.items():
        assert values.abs().sum() > 0
        assert torch.equal(values, tiled.state[slot])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="unknown optimizer 'lion'; expected adam, adamw, rmsprop, sgd"):
        Optimizer.fresh("lion", vectors(LR, DECAY, MOMENTUM), torch.zeros(4, 2))
