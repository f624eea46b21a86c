"""The PCA + KDE sampler: deterministic, faithful to its anchors, clear about what it cannot do."""

from __future__ import annotations

import numpy as np
import pytest

from hyperrep.sampling import FittedPcaKde, PcaKde
from zookeeper.errors import InputError


def _anchors(num: int = 60, width: int = 10) -> np.ndarray:
    generator = np.random.default_rng(7)
    return generator.normal(size=(num, width)) * np.linspace(3, 0.5, width) + 5


def _scores(density: FittedPcaKde, num: int, seed: int) -> np.ndarray:
    drawn = density.sample(num, np.random.default_rng(seed))
    return (drawn - density.projection.mean) @ density.projection.components.T


def test_one_seed_gives_one_result_and_two_calls_differ() -> None:
    density = PcaKde(num_components=4).fit(_anchors())
    first = density.sample(20, np.random.default_rng(3))
    np.testing.assert_array_equal(first, density.sample(20, np.random.default_rng(3)))
    generator = np.random.default_rng(3)
    assert not np.array_equal(density.sample(20, generator), density.sample(20, generator))


def test_components_are_drawn_independently_of_each_other() -> None:
    """One seed used for every dimension would tie the coordinates together."""
    anchors = np.random.default_rng(0).choice([-1.0, 1.0], size=(200, 1)) * np.ones((1, 2))
    anchors += np.random.default_rng(1).normal(size=anchors.shape) * [[0.1, 0.2]]
    density = PcaKde(num_components=2).fit(anchors)
    scores = _scores(density, 4000, 2)
    assert abs(np.corrcoef(scores.T)[0, 1]) < 0.06
    noise = np.diff(scores, axis=0)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.06


def test_samples_follow_the_mean_and_spread_of_the_anchors() -> None:
    anchors = _anchors(400, 6)
    drawn = PcaKde(num_components=6).fit(anchors).sample(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(0), anchors.mean(0), atol=0.1)
    widening = np.sqrt(1 + 400 ** (-2 / 5))  # a Gaussian kernel adds its variance
    np.testing.assert_allclose(drawn.std(0), anchors.std(0) * widening, rtol=0.05)


def test_bandwidth_rules() -> None:
    anchors = _anchors(50)
    spread = PcaKde(4, 1.0).fit(anchors).density.widths
    np.testing.assert_allclose(PcaKde(4, "scott").fit(anchors).density.widths, spread * 50 ** (-1 / 5))
    np.testing.assert_allclose(PcaKde(4, "silverman").fit(anchors).density.widths, spread * (3 * 50 / 4) ** (-1 / 5))
    density = PcaKde(4, 0.0).fit(anchors)
    scores = _scores(density, 30, 0)
    for component in range(4):
        distance = np.abs(scores[:, component, None] - density.projection.scores[None, :, component]).min(axis=1)
        assert distance.max() < 1e-9


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        (_anchors(4), "too few anchors"),
        (np.ones((60, 10)), "10 of 10 latent dimensions never vary"),
        (np.repeat(_anchors(3), 20, axis=0), "vary in 2 directions"),
        (np.where(np.arange(600).reshape(60, 10) == 11, np.nan, _anchors()), "1 of 60 anchors hold NaN"),
        (_anchors(60, 3), "latents have 3 dimensions"),
        (np.ones(60), "must be a matrix"),
        (_anchors() * (np.arange(10) != 3), "1 of 10 latent dimensions never varies .* \\(first: 3\\)"),
    ],
)
def test_unusable_anchors_are_one_clear_error(anchors: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PcaKde(num_components=4).fit(anchors)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="num_components"):
        PcaKde(num_components=0)
    with pytest.raises(InputError, match="unknown bandwidth"):
        PcaKde(bandwidth="scot")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="finite number"):
        PcaKde(bandwidth=-1.0)
    with pytest.raises(InputError, match="number of samples"):
        PcaKde(num_components=2).fit(_anchors()).sample(0, np.random.default_rng(0))
