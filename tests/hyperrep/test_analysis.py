"""Analyses against plain reckoning: spectrum, robustness, interpolation, drift, variance, maps, reconstruction R2."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hyperrep.analysis.diversity import map_networks, weight_variance
from hyperrep.analysis.drift import follow_drift
from hyperrep.analysis.reconstruction import weights_r2
from hyperrep.analysis.smoothness import add_noise, interpolate, probe_robustness, roughness
from hyperrep.analysis.spectrum import BOTTOM, HYBRID, KINDS, TOP, Spectrum, explore_spectrum
from hyperrep.report import table_figures
from zookeeper.errors import InputError


@pytest.fixture
def rows() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=(12, 7)) * np.array([5, 4, 3, 2, 1, 0.5, 0.0]) + 1).astype(np.float32)


def test_spectrum_is_that_of_the_covariance(rows: np.ndarray) -> None:
    spectrum = Spectrum.of(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    assert len(spectrum.shares) == 6  # the last column never varies
    np.testing.assert_allclose(spectrum.shares, values[:0:-1] / values.sum(), rtol=1e-4)
    np.testing.assert_allclose(np.abs(spectrum.directions @ vectors[:, :0:-1]), np.eye(6), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_projections_keep_what_they_say(rows: np.ndarray, kind: str) -> None:
    spectrum = Spectrum.of(rows)
    np.testing.assert_allclose(spectrum.project(rows, spectrum.keep(kind, 1.0)), rows, atol=1e-5)
    assert spectrum.keep(kind, 0.0).sum() == 0
    np.testing.assert_allclose(
        spectrum.project(rows, spectrum.keep(kind, 0.0)), np.tile(rows.mean(0), (12, 1)), atol=1e-5
    )
    for share in (0.2, 0.5, 0.9):
        kept = spectrum.keep(kind, share)
        projected = spectrum.project(rows, kept).astype(np.float64)
        explained = ((projected - spectrum.mean) ** 2).sum() / ((rows - spectrum.mean) ** 2).sum()
        assert explained == pytest.approx(spectrum.shares[kept].sum(), abs=1e-5)
        assert explained >= share - 1e-6
        np.testing.assert_allclose(spectrum.project(projected, kept), projected, atol=1e-9)


def test_hybrid_leaves_out_the_middle(rows: np.ndarray) -> None:
    spectrum = Spectrum.of(rows)
    kept = spectrum.keep(HYBRID, 0.3)
    assert kept[0]
    assert kept[-1]
    assert not kept.all()
    assert spectrum.keep(TOP, 0.3).sum() < spectrum.keep(BOTTOM, 0.3).sum()


def test_explored_spectrum_is_one_row_per_projection(rows: np.ndarray) -> None:
    table = explore_spectrum(rows, {"all": rows}, lambda values: values[:, 0] / 10, shares=[0.1, 1])
    assert list(table["kind"]) == ["original", *(kind for kind in KINDS for _ in range(2))]
    np.testing.assert_allclose(table[table["share"] == 1]["acc"], (rows[:, 0] / 10).mean(), rtol=1e-4)
    assert (table[table["share"] == 0.1]["l2"] > 0).all()


@pytest.mark.parametrize("bad", [np.ones((1, 3)), np.ones((3, 3)), np.array([[np.nan, 1], [0, 1]])])
def test_a_spectrum_of_nothing_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="spectrum"):
        Spectrum.of(bad)


def test_noise_is_relative_to_each_dimension_and_keyed_by_the_seed() -> None:
    latents = np.random.default_rng(0).normal(size=(4000, 2, 3)) * np.array([1.0, 10.0, 0.0])
    noise = add_noise(latents, 0.5, np.random.default_rng(1)) - latents
    np.testing.assert_allclose(noise.std(axis=(0, 1)), [0.5, 5.0, 0.0], rtol=0.05)


def test_robustness_falls_with_noise_and_starts_at_the_reconstruction(rows: np.ndarray) -> None:
    def measure(seed: int) -> pd.DataFrame:
        return probe_robustness(
            rows,
            rows,
            lambda z: z,
            lambda w: (np.abs(w - rows).max(1) < 1).astype(float),
            levels=[0, 0.1, 5],
            seed=seed,
        )

    table = measure(0)
    assert table["acc"].iloc[0] == table["weights_r2"].iloc[0] == 1
    assert table["weights_r2"].is_monotonic_decreasing
    pd.testing.assert_frame_equal(table, measure(0))
    assert not table.equals(measure(1))
    with pytest.raises(InputError, match="one latent per row"):
        probe_robustness(rows[:2], rows, lambda z: z, lambda w: w[:, 0])


def test_interpolation_meets_its_ends_and_a_linear_code_is_a_straight_line(rows: np.ndarray) -> None:
    pairs = {"way": (rows[:4], rows[4:8])}
    table = interpolate(pairs, lambda w: 2 * w, lambda z: z / 2, lambda w: w[:, 0])
    for space in ("latent", "weights"):
        part = table[table["space"] == space].set_index("step")["acc"]
        np.testing.assert_allclose(part[0.0], rows[:4, 0].mean(), rtol=1e-5)
        np.testing.assert_allclose(part[1.0], rows[4:8, 0].mean(), rtol=1e-5)
        assert roughness(part.to_numpy()) == pytest.approx(0, abs=1e-5)
    with pytest.raises(InputError, match="as many ends"):
        interpolate({"way": (rows[:1], rows[:2])}, lambda w: w, lambda z: z, lambda w: w[:, 0])


def test_drift_against_plain_loops() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 3, 5, 6))
    table = follow_drift(first, second, [0, 1, 25])
    for epoch in range(3):
        pairs = list(zip(first[epoch], second[epoch], strict=True))
        assert table["l2"][epoch] == pytest.approx(np.mean([np.linalg.norm(a - b) for a, b in pairs]))
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
        assert table["cosine"][epoch] == pytest.approx(np.mean(cosines))
        assert table["cosine_std"][epoch] == pytest.approx(np.std(cosines))
    assert table["moved_original"][0] == 0
    with pytest.raises(InputError, match="drift"):
        follow_drift(first, second, [0, 1])


def test_variance_within_groups_is_that_of_the_groups() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(30, 4))
    frame = pd.DataFrame({"init": ["a", "b", "c"] * 10, "activation": ["tanh"] * 15 + ["relu"] * 15})
    table = weight_variance(rows, frame)
    groups = [rows[part.index].var(axis=0).mean() for _, part in frame.groupby(["init", "activation"])]
    assert table["var_c"][0] == pytest.approx(np.mean(groups))
    assert table["var"][0] == pytest.approx(rows.var(axis=0).mean())
    assert table["num_groups"][0] == 6
    alone = weight_variance(rows, frame[[]])
    assert alone["var"][0] == alone["var_c"][0]
    with pytest.raises(InputError, match="variance"):
        weight_variance(rows[:3], frame)


def test_a_map_is_decided_by_its_seed_and_holds_at_most_so_many(rows: np.ndarray) -> None:
    points = map_networks(rows, method="PCA linear", most=5)
    assert list(points["place"]) == [0, 3, 6, 8, 11]
    pd.testing.assert_frame_equal(points, map_networks(rows, method="PCA linear", most=5))


def test_reconstruction_r2_is_one_for_a_copy_and_refuses_other_shapes(rows: np.ndarray) -> None:
    assert weights_r2(rows, rows) == 1
    assert weights_r2(rows, np.tile(rows.mean(0), (12, 1))) == pytest.approx(0, abs=1e-6)
    assert np.isnan(weights_r2(np.ones((2, 2)), np.ones((2, 2))))
    with pytest.raises(InputError, match="reconstruction R2"):
        weights_r2(rows, rows[:3])


def test_figures_show_one_panel_per_group_and_one_line_per_hue() -> None:
    frame = pd.DataFrame(
        {"x": [0, 1] * 4, "value": range(8), "hue": ["a", "a", "b", "b"] * 2, "panel": ["p"] * 4 + ["q"] * 4}
    )
    figure = table_figures.lines(frame, x="x", y="value", hue="hue", panels="panel")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["p", "q"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]
    assert len(table_figures.distributions(frame, x="value", hue="hue", panels="panel").axes) == 2
    assert len(table_figures.points(frame, x="x", y="value", hue="hue", panels="panel").axes[0].collections) == 2
