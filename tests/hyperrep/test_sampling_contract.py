"""What every registered sampler promises, inherited by one class each, and what each alone does to a distribution."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.stats import ks_2samp

from hyperrep.sampling import SAMPLERS, Kde, LatentFlow, LatentGan, Sampler, build_sampler, describe_sampler
from hyperrep.sampling.bandwidth import CANDIDATES, bandwidth_factors
from zookeeper.errors import InputError

TOKENS = np.repeat(np.arange(3), 4)


def anchors_of(num: int = 40, seed: int = 7) -> np.ndarray:
    """Independent dimensions of different means and spreads, bounded, 3 tokens of 4 numbers."""
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, size=(num, 12)) * np.linspace(0.9, 0.2, 12) + np.linspace(-0.05, 0.05, 12)


def generator_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


class Contract:
    """Inherited once per sampler; ``settings`` keep it small."""

    name: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    too_few: ClassVar[int] = 1

    @property
    def sampler(self) -> Sampler:
        return build_sampler(self.name, self.settings)

    def test_shape_and_finite(self) -> None:
        density = self.sampler.fit(anchors_of(), TOKENS)
        drawn = density.sample(5, generator_of(0))
        assert drawn.shape == (5, 12)
        assert drawn.dtype == np.float64
        assert np.isfinite(drawn).all()
        assert density.sample(1, generator_of(0)).shape == (1, 12)

    def test_one_seed_one_result_also_after_fitting_again(self) -> None:
        first, second = (self.sampler.fit(anchors_of(), TOKENS).sample(6, generator_of(3)) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_two_calls_are_two_draws(self) -> None:
        density, generator = self.sampler.fit(anchors_of(), TOKENS), generator_of(3)
        assert not np.array_equal(density.sample(6, generator), density.sample(6, generator))
        assert not np.array_equal(density.sample(6, generator_of(3)), density.sample(6, generator_of(4)))

    def test_samples_of_one_draw_differ(self) -> None:
        drawn = self.sampler.fit(anchors_of(), TOKENS).sample(30, generator_of(1))
        assert len(np.unique(drawn, axis=0)) > 20

    def test_fit_changes_neither_settings_nor_anchors(self) -> None:
        sampler, anchors = self.sampler, anchors_of()
        before = describe_sampler(sampler)
        sampler.fit(anchors, TOKENS).sample(3, generator_of(0))
        assert describe_sampler(sampler) == before
        np.testing.assert_array_equal(anchors, anchors_of())
        with pytest.raises(AttributeError):
            setattr(sampler, next(iter(key for key in before if key != "name")), 1)

    def test_settings_go_to_plain_values_and_back(self) -> None:
        description = describe_sampler(self.sampler)
        name = description.pop("name")
        assert build_sampler(name, description) == self.sampler

    def test_drawing_moves_no_global_generator(self) -> None:
        import torch

        torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]  # noqa: NPY002
        self.sampler.fit(anchors_of(), TOKENS).sample(3, generator_of(0))
        assert torch.equal(torch.get_rng_state(), torch_before)
        np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002

    def test_too_few_anchors(self) -> None:
        with pytest.raises(InputError, match=f"sampler {self.name}: too few anchors; expected .* got {self.too_few}"):
            self.sampler.fit(anchors_of()[: self.too_few], TOKENS)

    def test_a_constant_dimension(self) -> None:
        anchors = anchors_of()
        anchors[:, [2, 5]] = 0.1
        with pytest.raises(InputError, match=rf"sampler {self.name}: 2 of 12 latent .* \(first: 2\).* keep_constant"):
            self.sampler.fit(anchors, TOKENS)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nan_anchors(self, value: float) -> None:
        anchors = anchors_of()
        anchors[[3, 7], 1] = value
        with pytest.raises(InputError, match=f"sampler {self.name}: 2 of 40 anchors hold NaN or infinite"):
            self.sampler.fit(anchors, TOKENS)

    @pytest.mark.parametrize("shape", [(480,), (4, 10, 12), (40, 0)])
    def test_anchors_that_are_no_matrix(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=f"sampler {self.name}: anchors must be a matrix"):
            self.sampler.fit(np.zeros(shape), TOKENS)

    def test_no_samples(self) -> None:
        density = self.sampler.fit(anchors_of(), TOKENS)
        with pytest.raises(InputError, match="number of samples must be 1 or more, got 0"):
            density.sample(0, generator_of(0))


class Independent(Contract):
    """Samplers under which dimensions that are independent among the anchors stay so."""

    def test_no_two_dimensions_share_a_stream(self) -> None:
        drawn = self.sampler.fit(anchors_of(400), TOKENS).sample(3000, generator_of(2))
        correlation = np.abs(np.corrcoef(drawn.T) - np.eye(12))
        assert correlation.max() < 0.2  # 3,000 draws of 400 anchors; one shared stream would give 1


class TestUniform(Independent):
    name = "uniform"

    def test_it_fills_the_box(self) -> None:
        anchors = anchors_of()
        drawn = self.sampler.fit(anchors).sample(4000, generator_of(0))
        assert (drawn >= anchors.min(0)).all()
        assert (drawn <= anchors.max(0)).all()
        np.testing.assert_allclose(drawn.std(0), np.ptp(anchors, axis=0) / np.sqrt(12), rtol=0.05)

    def test_the_cube_of_bounded_latents(self) -> None:
        drawn = build_sampler("uniform", {"box": 1.0}).fit(anchors_of()).sample(4000, generator_of(0))
        np.testing.assert_allclose(drawn.std(0), 2 / np.sqrt(12), rtol=0.05)
        with pytest.raises(InputError, match=r"box 0\.5 does not hold the anchors"):
            build_sampler("uniform", {"box": 0.5}).fit(anchors_of())
        with pytest.raises(InputError, match="box must be anchors or a finite number > 0"):
            build_sampler("uniform", {"box": -1.0})


class TestCounterfactual(Independent):
    name = "counterfactual"

    def test_it_draws_where_no_anchors_are(self) -> None:
        anchors = np.concatenate([anchors_of(100) * 0.1 - 1, anchors_of(100) * 0.1 + 1])  # two heaps, a gap between
        drawn = self.sampler.fit(anchors).sample(500, generator_of(0))
        nearest = np.abs(drawn[:, None] - anchors[None]).min(axis=1)
        typical = np.abs(anchors - np.median(anchors, axis=0)).max()
        assert np.median(nearest) > 0.1 * typical
        assert (np.abs(drawn) < 0.5).any()  # in the gap
        assert (np.abs(drawn) > 1.2).any()  # and outside

    def test_a_cube_without_room(self) -> None:
        anchors = np.repeat([-1.0, 1.0], 10)[:, None]  # under a wide kernel the density is lowest at the anchors
        with pytest.raises(InputError, match="no place of low density"):
            build_sampler("counterfactual", {"box": 1.0, "bandwidth": 5.0}).fit(anchors)

    def test_bad_settings(self) -> None:
        with pytest.raises(InputError, match="quantile must be in"):
            build_sampler("counterfactual", {"quantile": 0.0})
        with pytest.raises(InputError, match="bandwidth must be above 0"):
            build_sampler("counterfactual", {"bandwidth": 0.0})


class TestKde(Independent):
    name = "kde"

    @pytest.mark.parametrize("together", ["dimension", "token", "network"])
    def test_mean_and_variance_are_those_of_the_kernels(self, together: str) -> None:
        anchors = anchors_of(200)
        settings = {"together": together, "bandwidth": 0.5}
        drawn = build_sampler("kde", settings).fit(anchors, TOKENS).sample(20_000, generator_of(0))
        np.testing.assert_allclose(drawn.mean(0), anchors.mean(0), atol=0.02)
        exact = anchors.var(0) + 0.25 * anchors.var(0, ddof=1)
        np.testing.assert_allclose(drawn.var(0), exact, rtol=0.06)

    def test_what_is_drawn_together_keeps_its_correlation(self) -> None:
        base = generator_of(0).normal(size=(300, 1))
        anchors = np.tile(base, 12) + 0.3 * generator_of(1).normal(size=(300, 12))

        def correlations(**settings: Any) -> tuple[float, float]:
            settings = {"bandwidth": 0.1, **settings}
            drawn = build_sampler("kde", settings).fit(anchors, TOKENS).sample(4000, generator_of(2))
            matrix = np.corrcoef(drawn.T)
            return float(matrix[0, 1]), float(matrix[0, 4])  # within a token, across tokens

        exact = np.corrcoef(anchors.T)[0, 1]
        assert correlations(together="dimension") == pytest.approx((0, 0), abs=0.06)
        assert correlations(together="token") == pytest.approx((exact, 0), abs=0.06)
        assert correlations(together="network") == pytest.approx((exact, exact), abs=0.06)
        diagonal = correlations(together="network", bandwidth=1.0)
        full = correlations(together="network", bandwidth=1.0, kernel="full")
        assert max(diagonal) < 0.6 * exact
        assert full == pytest.approx((exact, exact), abs=0.06)
        assert correlations(together="token", bandwidth=1.0, kernel="full") == pytest.approx((exact, 0), abs=0.06)

    def test_a_full_kernel_stays_in_the_span_of_the_anchors(self) -> None:
        anchors = anchors_of(5)
        drawn = Kde(together="network", kernel="full").fit(anchors).sample(20, generator_of(0))
        assert np.linalg.matrix_rank(np.concatenate([anchors, drawn]) - anchors[0], tol=1e-9) == 4

    def test_spread_stretches_about_the_mean(self) -> None:
        anchors = anchors_of(100)
        plain, stretched = (
            Kde(together="network", bandwidth=0.0, spread=spread).fit(anchors).sample(50, generator_of(0))
            for spread in (1.0, 2.0)
        )
        np.testing.assert_allclose(stretched - anchors.mean(0), 2 * (plain - anchors.mean(0)), atol=1e-12)

    def test_scott_and_silverman_in_more_dimensions(self) -> None:
        points, groups = anchors_of(100), np.array([0] * 4 + [1] * 8)
        scott = bandwidth_factors("scott", points, groups)
        np.testing.assert_allclose(scott, [100 ** (-1 / 8), 100 ** (-1 / 12)])
        silverman = bandwidth_factors("silverman", points, groups)
        np.testing.assert_allclose(silverman, [(100 * 6 / 4) ** (-1 / 8), (100 * 10 / 4) ** (-1 / 12)])

    def test_cross_validation_finds_the_most_likely_bandwidth(self) -> None:
        """Against a plain double loop, in one and in several dimensions."""
        points = generator_of(0).normal(size=(30, 3))
        points[:, 0] = np.repeat([-1.0, 1.0], 15) + 0.05 * points[:, 0]  # two narrow heaps want a narrow kernel
        groups = np.array([0, 1, 1])
        found = bandwidth_factors("cross-validated", points, groups)
        for group in range(2):
            part = points[:, groups == group] / points[:, groups == group].std(axis=0, ddof=1)
            scores = []
            for factor in CANDIDATES:
                score = 0.0
                for left_out in range(30):
                    rest = np.delete(part, left_out, axis=0)
                    squares = ((rest - part[left_out]) ** 2).sum(axis=1)
                    density = np.exp(-squares / (2 * factor**2)).mean() / (2 * np.pi * factor**2) ** (part.shape[1] / 2)
                    score += float(np.log(density + 1e-300))
                scores.append(score)
            assert found[group] == CANDIDATES[int(np.argmax(scores))]
        assert found[0] < 0.15 < found[1]

    def test_bad_settings(self) -> None:
        for settings, message in (
            ({"kernel": "full"}, "kernel full needs numbers drawn together"),
            ({"kernel": "full", "together": "network", "bandwidth": "cross-validated"}, "cannot be cross-validated"),
            ({"spread": 0.0}, "spread must be"),
            ({"bandwidth": -1.0}, "bandwidth must be a finite number >= 0"),
        ):
            with pytest.raises(InputError, match=message):
                build_sampler("kde", settings)

    def test_tokens_are_needed_and_checked(self) -> None:
        with pytest.raises(InputError, match="these latents have no tokens"):
            Kde(together="token").fit(anchors_of())
        with pytest.raises(InputError, match="expected the token of each of 12 columns, got shape"):
            Kde(together="token").fit(anchors_of(), TOKENS[:5])


class TestKdeJoint(Contract):
    name = "kde"
    settings: ClassVar = {"together": "network", "bandwidth": "cross-validated"}


class TestKdePerToken(Independent):
    name = "kde"
    settings: ClassVar = {"together": "token", "bandwidth": "silverman", "kernel": "full"}


class TestPcaKde(Independent):
    name = "pca-kde"
    settings: ClassVar = {"num_components": 12}
    too_few = 12


class TestNeighbour(Contract):
    name = "neighbour"
    settings: ClassVar = {"epochs": 20}
    too_few = 5

    @pytest.fixture(autouse=True)
    def _stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """UMAP compiles itself for 20 seconds: here a linear map takes its place."""
        monkeypatch.setitem(sys.modules, "umap", LinearMap)  # type: ignore[misc]

    def test_umap_is_asked_for_what_the_settings_say(self) -> None:
        fitted = build_sampler("neighbour", {"num_dimensions": 4, "epochs": 7, "seed": 3}).fit(anchors_of(10))
        asked = fitted.mapping.asked  # type: ignore[attr-defined]
        assert (asked["n_components"], asked["n_neighbors"], asked["n_epochs"]) == (4, 9, 7)
        assert (asked["random_state"], asked["transform_seed"]) == (3, 3)

    def test_bad_settings(self) -> None:
        with pytest.raises(InputError, match="num_dimensions must be 2 or more"):
            build_sampler("neighbour", {"num_dimensions": 1})


class LinearMap:
    """The part of umap that the sampler uses, as a principal projection."""

    class UMAP:
        def __init__(self, **asked: Any) -> None:
            self.asked = asked

        def fit_transform(self, points: np.ndarray) -> np.ndarray:
            self.mean = points.mean(0)
            self.axes = np.linalg.svd(points - self.mean, full_matrices=False)[2][: self.asked["n_components"]]
            return np.asarray((points - self.mean) @ self.axes.T)

        def inverse_transform(self, places: np.ndarray) -> np.ndarray:
            return np.asarray(self.mean + places @ self.axes)


@pytest.mark.skipif("ZOO_SLOW_TESTS" not in os.environ, reason="UMAP compiles itself for 20 s; set ZOO_SLOW_TESTS=1")
def test_real_umap_goes_there_and_back() -> None:
    anchors = anchors_of(60)
    sampler = build_sampler("neighbour", {})
    first, second = (sampler.fit(anchors).sample(20, generator_of(0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (first > anchors.min(0) - 0.5 * np.ptp(anchors, 0)).all()
    assert (first < anchors.max(0) + 0.5 * np.ptp(anchors, 0)).all()


class TestGan(Contract):
    name = "gan"
    settings: ClassVar = {"steps": 20, "hidden": 16}

    def test_it_learns_where_the_anchors_are(self) -> None:
        anchors = anchors_of(200) + np.linspace(3, -3, 12)
        early, late = (
            LatentGan(steps=steps, hidden=32, lr=2e-3).fit(anchors).sample(1000, generator_of(0)) for steps in (1, 400)
        )
        assert np.isfinite(late).all()
        gaps = [[ks_2samp(drawn[:, n], anchors[:, n]).statistic for n in range(12)] for drawn in (early, late)]
        assert np.mean(gaps[1]) < 0.7 * np.mean(gaps[0])
        assert np.mean(gaps[1]) < 0.3

    def test_a_step_size_that_blows_up_is_an_error(self) -> None:
        with pytest.raises(InputError, match="diverged to NaN"):
            LatentGan(steps=20, hidden=8, lr=1e30).fit(anchors_of())

    def test_bad_settings(self) -> None:
        for settings in ({"noise": 0}, {"lr": 0.0}, {"penalty": -1.0}):
            with pytest.raises(InputError, match=f"sampler gan: {next(iter(settings))} must be"):
                build_sampler("gan", settings)


class TestFlow(Contract):
    name = "flow"
    settings: ClassVar = {"num_components": 12, "steps": 20, "hidden": 16, "integration": 4}
    too_few = 12

    def test_it_learns_a_ring(self) -> None:
        """A density of the right mean and variance but without the hole would fill the middle."""
        angles = generator_of(0).uniform(0, 2 * np.pi, 400)
        ring = np.stack([np.cos(angles), np.sin(angles)], 1) + 0.05 * generator_of(1).normal(size=(400, 2))
        drawn = LatentFlow(num_components=2, hidden=64, steps=800).fit(ring).sample(500, generator_of(2))
        radius = np.linalg.norm(drawn, axis=1)
        assert np.median(np.abs(radius - 1)) < 0.12
        assert (radius < 0.5).mean() < 0.05
        quarters = np.histogram(np.arctan2(drawn[:, 1], drawn[:, 0]), bins=4, range=(-np.pi, np.pi))[0]
        assert quarters.min() > 60

    def test_it_learns_two_modes_of_a_line(self) -> None:
        line = np.repeat([-1.0, 1.0], [100, 300])[:, None] + 0.1 * generator_of(0).normal(size=(400, 1))
        drawn = LatentFlow(num_components=1, hidden=64, steps=600).fit(line).sample(1000, generator_of(1))
        assert (np.abs(drawn) < 0.5).mean() < 0.08
        assert (drawn > 0).mean() == pytest.approx(0.75, abs=0.08)
        assert ks_2samp(drawn[:, 0], line[:, 0]).statistic < 0.12

    def test_bad_settings(self) -> None:
        for settings in ({"num_components": 0}, {"integration": 0}, {"lr": 0.0}):
            with pytest.raises(InputError, match=f"sampler flow: {next(iter(settings))} must be"):
                build_sampler("flow", settings)


class TestCrossover(Independent):
    name = "crossover"

    def test_every_token_comes_whole_from_one_of_two_anchors(self) -> None:
        anchors = anchors_of()
        for sample in self.sampler.fit(anchors, TOKENS).sample(40, generator_of(0)):
            parents = [
                int(np.flatnonzero((anchors[:, token == TOKENS] == sample[token == TOKENS]).all(1))[0])
                for token in range(3)
            ]
            assert len(set(parents)) <= 2

    def test_the_share_of_the_second_parent(self) -> None:
        anchors = np.stack([np.zeros(100), np.ones(100)])
        drawn = build_sampler("crossover", {"share": 0.1, "together": "dimension"}).fit(anchors)
        smaller = np.minimum(*(part := drawn.sample(400, generator_of(0)).mean(1), 1 - part))
        assert smaller.mean() == pytest.approx(0.1, abs=0.01)

    def test_bad_settings(self) -> None:
        for settings in ({"share": 1.0}, {"together": "network"}):
            with pytest.raises(InputError, match=f"sampler crossover: {next(iter(settings))} must be"):
                build_sampler("crossover", settings)


class TestNoise(Independent):
    name = "noise"

    def test_the_noise_has_the_asked_for_size(self) -> None:
        anchors = anchors_of(5)
        drawn = build_sampler("noise", {"scale": 0.01}).fit(anchors).sample(500, generator_of(0))
        residuals = drawn - anchors[np.abs(drawn[:, None] - anchors[None]).sum(2).argmin(1)]
        np.testing.assert_allclose(residuals.std(0), 0.01 * anchors.std(0, ddof=1), rtol=0.15)

    def test_bad_settings(self) -> None:
        with pytest.raises(InputError, match="scale must be"):
            build_sampler("noise", {"scale": -0.1})


class TestAverage(Independent):
    name = "average"

    def test_a_sample_is_the_mean_of_different_anchors(self) -> None:
        anchors = anchors_of(3)
        drawn = build_sampler("average", {"parents": 3}).fit(anchors).sample(4, generator_of(0))
        np.testing.assert_allclose(drawn, np.broadcast_to(anchors.mean(0), (4, 12)))

    def test_samples_of_one_draw_differ(self) -> None:
        drawn = self.sampler.fit(anchors_of()).sample(30, generator_of(1))
        assert len(np.unique(drawn, axis=0)) > 20

    def test_more_parents_than_anchors(self) -> None:
        with pytest.raises(InputError, match="too few anchors; expected 4 or more, got 3"):
            build_sampler("average", {"parents": 4}).fit(anchors_of(3))
        with pytest.raises(InputError, match="parents must be 2 or more"):
            build_sampler("average", {"parents": 1})


def test_every_registered_sampler_has_its_class() -> None:
    def below(kind: type) -> list[type]:
        return [found for child in kind.__subclasses__() for found in (child, *below(child))]

    assert {kind.name for kind in below(Contract) if hasattr(kind, "name")} == set(SAMPLERS)
    assert all(kind.__doc__ and kind.__module__ for kind in SAMPLERS.values())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("kdr", {}, r"unknown sampler 'kdr'; expected uniform, .* Did you mean kde\?"),
        ("PCA_KDE", {}, r"Did you mean pca-kde\?"),
        ("kde", {"bandwith": 1.0}, r"sampler kde: unknown setting 'bandwith'; expected .* Did you mean bandwidth\?"),
        ("kde", {"bandwidth": "scot"}, r"kde: bandwidth: expected scott, .* or a number, got 'scot'.* mean scott\?"),
        (
            "kde",
            {"bandwidth": True},
            "kde: bandwidth: expected scott, silverman, cross-validated or a number, got true",
        ),
        ("kde", {"bandwidth": float("nan")}, "kde: bandwidth"),
        ("kde", {"together": 3}, "kde: together: expected dimension, token, network, got 3"),
        ("gan", {"steps": 1.5}, "gan: steps: expected a whole number, got 1.5"),
        ("gan", {"steps": "many"}, "gan: steps: expected a whole number, got 'many'"),
    ],
)
def test_wrong_names_and_settings(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_sampler(name, settings)


def test_a_whole_number_is_a_number() -> None:
    assert build_sampler("kde", {"bandwidth": 1}) == Kde(bandwidth=1.0)


def test_without_umap_the_neighbour_sampler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"needs umap-learn, which is not installed.*pip install"):
        build_sampler("neighbour").fit(anchors_of())
