"""Parameters of a model's own initialisation: its standard deviation and its biases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from zookeeper.errors import InputError
from zookeeper.nets.initialise import BIAS_INITS, initialise_rows
from zookeeper.nets.layout import WeightLayout
from zookeeper.spec import names

LAYOUT = WeightLayout.of(nn.Sequential(nn.Conv2d(2, 40, 3), nn.BatchNorm2d(40), nn.Flatten(), nn.Linear(160, 30)))
BIASES = ("0.bias", "3.bias")
WEIGHTS = ("0.weight", "3.weight")


def parts(inits: list[str], seeds: list[int], **factors: list) -> dict[str, np.ndarray]:
    return LAYOUT.unflatten(initialise_rows(LAYOUT, inits, seeds, **factors))


@pytest.mark.parametrize("init", ["normal", "truncated_normal"])
def test_std_scales_the_weights_of_its_model_only(init: str) -> None:
    plain = parts([init] * 3, [4, 5, 5])
    scaled = parts([init] * 3, [4, 5, 5], stds=[1.0, 0.05, 0.5])
    for name in WEIGHTS:
        np.testing.assert_array_equal(
            scaled[name], plain[name] * np.array([1.0, 0.05, 0.5]).reshape(3, *[1] * (plain[name].ndim - 1))
        )
    for name in BIASES:
        assert (scaled[name] == 0.01).all()


@pytest.mark.parametrize("init", ["uniform", "kaiming_normal", "orthogonal", "torch_default"])
def test_std_does_not_touch_initialisations_with_their_own_scale(init: str) -> None:
    np.testing.assert_array_equal(
        initialise_rows(LAYOUT, [init], [4], stds=[0.05]), initialise_rows(LAYOUT, [init], [4])
    )


def test_truncated_normal_has_the_distribution_of_torch() -> None:
    mine = parts(["truncated_normal"] * 20, list(range(20)))["3.weight"].reshape(-1)
    assert np.abs(mine).max() <= 2
    assert stats.kstest(mine, stats.truncnorm(-2, 2).cdf).pvalue > 1e-3
    torch.manual_seed(0)
    reference = nn.init.trunc_normal_(torch.empty(mine.size)).numpy()
    assert stats.ks_2samp(mine, reference).pvalue > 1e-3


def test_orthogonal_layers_are_orthogonal() -> None:
    drawn = parts(["orthogonal"] * 2, [3, 4])
    for wide in drawn["3.weight"]:  # [30, 160]
        np.testing.assert_allclose(wide @ wide.T, np.eye(30), atol=1e-12)
    for tall in drawn["0.weight"].reshape(2, 40, 18):
        np.testing.assert_allclose(tall.T @ tall, np.eye(18), atol=1e-12)
    assert not np.allclose(drawn["3.weight"][0], drawn["3.weight"][1])


@pytest.mark.parametrize("init", ["uniform", "normal", "torch_default", "orthogonal"])
def test_bias_inits(init: str) -> None:
    names = ["zeros", "ones", "normal", "default"]
    drawn = parts([init] * 4, [7] * 4, stds=[0.1] * 4, bias_inits=names)
    for name in BIASES:
        assert (drawn[name][0] == 0).all()
        assert (drawn[name][1] == 1).all()
        assert 0.05 < drawn[name][2].std() < 0.2
        np.testing.assert_array_equal(drawn[name][3], parts([init], [7])[name][0])
    for name in WEIGHTS:  # the biases' draw does not move the weights'
        assert (drawn[name] == drawn[name][:1]).all()
    assert (drawn["1.bias"] == 0).all()


def test_a_spec_knows_the_bias_inits() -> None:
    assert names.BIAS_INITS == BIAS_INITS


def test_bad_factors_are_refused() -> None:
    with pytest.raises(InputError, match="unknown bias init 'one'; expected default, normal, ones, zeros"):
        initialise_rows(LAYOUT, ["normal"], [1], bias_inits=["one"])
    with pytest.raises(InputError, match="expected as many"):
        initialise_rows(LAYOUT, ["normal"], [1], stds=[1.0, 2.0])
