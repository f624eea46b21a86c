"""Views keep the function; scaling comes from the train rows and commutes with permutations."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from hyperrep.weights.scaling import Scaling, scaling_groups
from hyperrep.weights.views import add_noise, draw_views, erase
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population

NET = build_network("cnn-digits", in_channels=1, image_size=(8, 8), num_classes=10)
LAYOUT = WeightLayout.of(NET)
SYMMETRY = Symmetry.of(NET, (1, 8, 8))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_permuted_views_compute_the_same_function() -> None:
    rows = torch.randn(3, LAYOUT.num_weights, generator=seeded(0)).double() * 0.3
    images = torch.randn(5, 1, 8, 8, generator=seeded(1)).double()
    population = Population(NET, (1, 8, 8))
    views = draw_views(rows, SYMMETRY, seeded(2))
    assert views.shape == (6, LAYOUT.num_weights)
    assert not torch.equal(views[:3], views[3:])
    expected = population.forward(rows, images).repeat(2, 1, 1)
    torch.testing.assert_close(population.forward(views, images), expected, rtol=1e-12, atol=1e-12)


def test_views_depend_on_their_generator_alone() -> None:
    rows = torch.randn(3, LAYOUT.num_weights)
    assert torch.equal(draw_views(rows, SYMMETRY, seeded(2)), draw_views(rows, SYMMETRY, seeded(2)))
    assert not torch.equal(draw_views(rows, SYMMETRY, seeded(2)), draw_views(rows, SYMMETRY, seeded(3)))
    assert torch.equal(draw_views(rows, None, seeded(2), num_views=1), rows)


def test_erasing_hits_the_given_share_within_the_given_area() -> None:
    tokens = torch.ones(2000, 20, 30)
    erased = (erase(tokens, seeded(0), probability=0.5) == 0).float().mean(dim=(1, 2))
    assert 0.45 < (erased > 0).float().mean() < 0.55
    assert erased.max() < 0.33
    assert erased[erased > 0].min() > 0.01
    assert erase(tokens, seeded(0), probability=0.0) is tokens


def test_noise_leaves_padding_alone() -> None:
    mask = torch.rand(4, 6, generator=seeded(0)) > 0.5
    noisy = add_noise(torch.zeros(500, 4, 6), mask, seeded(1), sigma=0.05)
    assert (noisy[:, ~mask] == 0).all()
    assert 0.045 < noisy[:, mask].std() < 0.055


def test_scaling_standardises_each_layer_and_inverts() -> None:
    rows = torch.randn(2500, LAYOUT.num_weights, generator=seeded(0)) * 3 + 1
    scaling = Scaling.fit(rows, LAYOUT)
    scaled = scaling.normalise(rows)
    for layer in LAYOUT.layers:
        values = scaled[:, LAYOUT.columns([layer])]
        assert abs(float(values.mean())) < 1e-4
        assert abs(float(values.std()) - 1) < 1e-3
    torch.testing.assert_close(scaling.denormalise(scaled), rows)
    assert Scaling.from_json(scaling.to_json(), LAYOUT) == scaling


def test_scaling_by_block_shows_biases_beside_weights() -> None:
    rows = torch.randn(2500, LAYOUT.num_weights, generator=seeded(0))
    biases = [block for block in LAYOUT.blocks if block.kind == "bias"]
    assert biases
    for block in biases:
        rows[:, block.columns] = 0.01 + 0.001 * rows[:, block.columns]
    by_layer, by_block = Scaling.fit(rows, LAYOUT), Scaling.fit(rows, LAYOUT, by="block")
    for block in biases:
        assert by_layer.normalise(rows)[:, block.columns].std() < 0.01
        assert abs(float(by_block.normalise(rows)[:, block.columns].std()) - 1) < 0.05
    torch.testing.assert_close(by_block.denormalise(by_block.normalise(rows)), rows)
    assert Scaling.from_json(by_block.to_json(), LAYOUT) == by_block != by_layer
    with pytest.raises(InputError, match="granularity"):
        Scaling.from_json(by_block.to_json() | {"by": "token"}, LAYOUT)


@pytest.mark.parametrize("by", ["layer", "block"])
def test_scaling_commutes_with_permutations(by: Literal["layer", "block"]) -> None:
    rows = torch.randn(4, LAYOUT.num_weights, generator=seeded(0))
    scaling = Scaling.fit(rows, LAYOUT, by=by)
    one = draw_views(scaling.normalise(rows), SYMMETRY, seeded(5))
    assert torch.equal(one, scaling.normalise(draw_views(rows, SYMMETRY, seeded(5))))


def test_constant_layer_gets_deviation_one_and_nan_is_refused() -> None:
    rows = torch.full((3, LAYOUT.num_weights), 2.0)
    assert set(Scaling.fit(rows, LAYOUT).stds) == {1.0}
    rows[1, 0] = torch.nan
    with pytest.raises(InputError, match="conv1 are not finite"):
        Scaling.fit(rows, LAYOUT)


def test_norm_layers_are_scaled_block_by_block() -> None:
    layout = WeightLayout.from_shapes(
        {
            "c.weight": ((2, 3), "weight"),
            "n.weight": ((2,), "scale"),
            "n.bias": ((2,), "shift"),
            "n.running_var": ((2,), "running_var"),
        }
    )
    assert scaling_groups(layout) == ("c", "n.weight", "n.bias", "n.running_var")
