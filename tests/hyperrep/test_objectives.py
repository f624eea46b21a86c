"""Loss parts against their definitions, and equation 8 of the paper on a linearised toy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hyperrep.objectives import behaviour
from hyperrep.objectives.behaviour import agreement, behaviour_loss, behaviour_part, outputs_of
from hyperrep.objectives.composite import compose
from hyperrep.objectives.contrast import contrast_loss
from hyperrep.objectives.structure import structure_loss
from zookeeper.errors import InputError
from zookeeper.population import Population


def naive_nt_xent(projected: torch.Tensor, temperature: float) -> float:
    num = len(projected) // 2
    total = 0.0
    for i in range(2 * num):
        partner = (i + num) % (2 * num)
        similar = {
            j: math.exp(float(torch.cosine_similarity(projected[i], projected[j], dim=0)) / temperature)
            for j in range(2 * num)
            if j != i
        }
        total -= math.log(similar[partner] / sum(similar.values()))
    return total / (2 * num)


@pytest.mark.parametrize("num", [1, 2, 5, 8])
def test_contrast_is_nt_xent_at_any_batch_size(num: int) -> None:
    projected = torch.randn(2 * num, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(num))
    assert float(contrast_loss(projected, temperature=0.3)) == pytest.approx(naive_nt_xent(projected, 0.3))


def test_contrast_pairs_view_i_with_view_n_plus_i() -> None:
    views = torch.eye(6)
    assert contrast_loss(torch.cat([views, views]), temperature=0.05) < 1e-6
    assert contrast_loss(torch.cat([views, views.roll(1, 0)]), temperature=0.05) > 10


def test_contrast_gradient() -> None:
    projected = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: contrast_loss(p, temperature=0.5), (projected,))


def test_structure_is_one_for_the_layer_mean_when_normalised() -> None:
    rows = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 9.0, 9.0])
    weight = torch.tensor([1.0, 1.0, 1 / 81, 1 / 81])
    assert float(structure_loss(torch.zeros_like(rows), rows, weight)) == pytest.approx(1, abs=0.03)


def test_behaviour_is_equation_2() -> None:
    decoded, logits = torch.randn(6, 5, 3), torch.randn(3, 5, 3)
    total = sum(
        float((decoded[view * 3 + model, query] - logits[model, query]).square().sum())
        for view in range(2)
        for model in range(3)
        for query in range(5)
    )
    assert float(behaviour_loss(decoded, logits, outputs="raw")) == pytest.approx(total / (2 * 6 * 5), rel=1e-5)
    same = logits + 100.0  # softmax does not see a constant
    assert float(behaviour_loss(same, logits, outputs="softmax")) < 1e-9


def test_behaviour_gradient_of_a_linear_network_is_equation_8() -> None:
    """For f(x) = W x, equation 8 is exact: the gradient with respect to the decoded row is F (decoded - row) / k."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)).double()
    population = Population(net, (1, 2, 2))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 12, dtype=torch.float64, generator=generator)
    decoded = torch.randn(2, 12, dtype=torch.float64, generator=generator).requires_grad_()
    images = torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=generator)
    loss = behaviour_loss(population.forward(decoded, images), population.forward(rows, images), outputs="raw")
    (gradient,) = torch.autograd.grad(loss, decoded)
    second_moment = images.flatten(1).T @ images.flatten(1) / len(images)
    importance = torch.block_diag(second_moment, second_moment, second_moment)  # F: one block per output
    torch.testing.assert_close(gradient, (decoded - rows).detach() @ importance / 2)


def test_behaviour_gradient_by_finite_differences() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()
    population = Population(net, (1, 3, 3))
    images = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    rows = torch.randn(2, population.layout.num_weights, dtype=torch.float64)
    logits = population.forward(rows, images)
    decoded = torch.randn(2, population.layout.num_weights, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda d: behaviour_loss(population.forward(d, images), logits, outputs="softmax"), (decoded,)
    )


def test_outputs_in_passes_are_the_outputs_of_one_pass() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    population = Population(net, (1, 2, 2))
    rows, images = torch.randn(37, 15, dtype=torch.float64), torch.randn(5, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(outputs_of(population, rows, images), population.forward(rows, images))


@pytest.mark.parametrize("tile_bytes", [1, 700, 10_000_000])
@pytest.mark.parametrize("num_views", [1, 2])
def test_the_behavioural_part_in_tiles_is_that_of_one_pass(
    tile_bytes: int, num_views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(behaviour._TILE_BYTES, "cpu", tile_bytes)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    population = Population(net, (1, 2, 2))
    rows, images = torch.randn(37, 15, dtype=torch.float64), torch.randn(5, 1, 2, 2, dtype=torch.float64)
    decoded = torch.randn(num_views * 37, 15, dtype=torch.float64, requires_grad=True)

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return behaviour_loss(a, b, outputs="softmax")

    found = behaviour_part(population, decoded, rows, images, distance)
    expected = distance(population.forward(decoded, images), population.forward(rows, images))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * found, decoded), torch.autograd.grad(3 * expected, decoded))
    with torch.no_grad():
        torch.testing.assert_close(behaviour_part(population, decoded, rows, images, distance), expected)
    torch.testing.assert_close(outputs_of(population, rows, images), population.forward(rows, images))
    with pytest.raises(InputError, match="38 decoded networks are not views of 37"):
        behaviour_part(population, torch.zeros(38, 15), rows, images, distance)


def test_agreement_counts_equal_classes() -> None:
    a = torch.eye(3)[None]
    assert agreement(a, a).tolist() == [1.0]
    assert agreement(a, a.roll(1, 1)).tolist() == [0.0]


def test_composition_weighs_by_equation_1_and_names_a_missing_part() -> None:
    one, two, three = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)
    parts = compose(gamma=0.05, beta=0.1, contrast=one, structure=two, behaviour=three)
    assert parts.total.item() == pytest.approx(0.05 + 0.95 * (0.1 * 2 + 0.9 * 3))
    assert compose(gamma=0.0, beta=1.0, structure=two).values() == {"total": 2.0, "structure": 2.0}
    with pytest.raises(InputError, match="behaviour part has weight"):
        compose(gamma=0.05, beta=0.1, contrast=one, structure=two)
    with pytest.raises(InputError, match=r"loss\.beta"):
        compose(gamma=0.05, beta=1.1, contrast=one, structure=two)
