"""What the page shows is what the zoo holds: numbers against numpy and scikit-learn, bounded reading."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib import machinery
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from zookeeper import InputError, WeightLayout, Zoo, write_rows
from zookeeper.report import sample
from zookeeper.report.charts import by_epoch
from zookeeper.report.groups import explained, group_by
from zookeeper.report.page import render_report
from zookeeper.report.svg import Chart, ticks
from zookeeper.zoo import RowBatch


def test_quartiles_by_epoch_are_those_of_numpy(trained: Zoo) -> None:
    frame = trained.frame
    table = by_epoch(frame, "test_acc")
    for epoch, line in table.iterrows():
        values = frame.loc[frame["epoch"] == epoch, "test_acc"].to_numpy()
        assert line[["low", "median", "high", "best"]].tolist() == pytest.approx(
            [*np.quantile(values, (0.25, 0.5, 0.75)), values.max()]
        )
    gaps = frame.assign(test_acc=np.where(frame["seed"] == 0, np.nan, frame["test_acc"]))
    assert by_epoch(gaps, "test_acc")["models"].tolist() == [8] * 4


def test_spread_of_weights_is_that_of_every_model(trained: Zoo) -> None:
    found = sample.sample_spread(trained)
    assert (found.epochs, found.num_models) == ((0, 1, 2, 3), 12)
    for tensor in found.tensors:
        for place, epoch in enumerate(found.epochs):
            rows = trained.query("epoch == @e", e=epoch).weights([tensor.name]).astype(np.float64)
            expected = np.quantile(rows.std(axis=1), (0.25, 0.5, 0.75))
            np.testing.assert_allclose(tensor.quartiles[:, place], expected, rtol=1e-6)
        last = trained.query("epoch == 3").weights([tensor.name])
        assert (tensor.last_low, tensor.last_high) == (last.min(), last.max())
        assert tensor.last_mean == pytest.approx(last.mean(dtype=np.float64), abs=1e-9)


def test_plane_is_the_one_of_principal_component_analysis() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 50)).astype(np.float32) * np.linspace(1, 3, 50, dtype=np.float32)
    places, shares = sample.principal_plane(rows)
    wanted = PCA(2, svd_solver="full").fit(rows.astype(np.float64))
    np.testing.assert_allclose(np.abs(places), np.abs(wanted.transform(rows.astype(np.float64))), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(shares, wanted.explained_variance_ratio_, atol=1e-5)


def test_reading_is_bounded_however_large_the_zoo(crowd: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    batches = Zoo.batches

    def counted(zoo: Zoo, batch_size: int) -> Iterator[RowBatch]:
        for batch in batches(zoo, batch_size):
            read.append(len(batch.weights))
            yield batch

    monkeypatch.setattr(Zoo, "batches", counted)
    monkeypatch.setattr(sample, "READ_FLOATS", 8 * 100)
    monkeypatch.setattr(sample, "_BATCH_FLOATS", 8 * 32)
    finite = sample.widest_layout(crowd)
    assert len(finite) == 2260
    assert sample.sample_spread(finite).num_models == 100
    assert (sum(read), max(read)) == (100, 32)
    read.clear()
    found = sample.map_models(finite, "pca")
    assert found is not None
    assert (sum(read), max(read), len(found.frame)) == (100, 32, 100)
    assert found.frame["model_id"].is_unique


def test_wide_networks_are_mapped_by_some_of_their_columns(trained: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "_MAP_COLUMNS", 7)
    first, second = (sample.map_models(trained, "pca") for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.num_columns == 7
    assert (first.places == second.places).all()


def test_umap_is_refused_where_it_is_not_installed(trained: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install umap-learn"):
        render_report(trained, map_method="umap")
    with pytest.raises(InputError, match="expected pca or umap"):
        render_report(trained, map_method="tsne")


def test_umap_adds_a_second_map(trained: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stand:
        def __init__(self, **options: object) -> None:
            assert options["random_state"] == 0

        def fit_transform(self, rows: np.ndarray) -> np.ndarray:
            assert rows.shape == (12, 100)
            return rows[:, :2]

    module = types.ModuleType("umap")
    module.__spec__ = machinery.ModuleSpec("umap", None)
    module.UMAP = Stand  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    text = render_report(trained, map_method="umap", color="init")
    assert text.count("<circle") == 24
    assert "UMAP of 12 models, coloured by init" in text


def test_the_real_umap_keeps_groups_apart_and_repeats(tmp_path: Path) -> None:
    if find_spec("umap") is None:
        pytest.skip("needs umap-learn: pip install 'weight-zookeeper[umap]'")
    layout = WeightLayout.from_shapes({"fc.weight": ((1, 8), "weight")})
    draw = np.random.default_rng(0)
    rows = np.concatenate([draw.normal(0, 0.1, (20, 8)), draw.normal(3, 0.1, (20, 8))])
    zoo = write_rows(tmp_path / "zoo", rows, {"kind": ["a"] * 20 + ["b"] * 20}, layout)
    first, second = (sample.map_models(zoo, "umap") for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.places.tobytes() == second.places.tobytes()
    one, other = first.places[:20], first.places[20:]
    assert np.linalg.norm(one.mean(0) - other.mean(0)) > 2 * max(np.ptp(one, 0).max(), np.ptp(other, 0).max())
    for count in (3, 16):
        few = sample.map_models(zoo[np.arange(40) < count], "umap")
        assert few is not None
        assert few.places.shape == (count, 2)
        assert np.isfinite(few.places).all()


@pytest.mark.parametrize(
    ("values", "labels", "members"),
    [
        ([3, 1, 3], ("1", "3"), [1, 0, 1]),
        ([1.0, None, 2.0], ("1", "2"), [0, -1, 1]),
        (["b", "a", None], ("a", "b"), [1, 0, -1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        ([None, None, None], (), [-1, -1, -1]),
        ([float("inf"), 1.0, 1.0], ("1", "inf"), [1, 0, 0]),
    ],
)
def test_groups_of_a_column(values: list[object], labels: tuple[str, ...], members: list[int]) -> None:
    found = group_by(pd.DataFrame({"x": values}), "x")
    assert (found.labels, found.members.tolist()) == (labels, members)


def test_many_values_become_few_groups_that_hold_everyone() -> None:
    draw = np.random.default_rng(0)
    for column in (draw.integers(0, 400, 1000), draw.exponential(size=1000), draw.integers(0, 9, 1000) ** 9):
        found = group_by(pd.DataFrame({"x": column}), "x")
        assert len(found.labels) <= 8
        assert set(found.members.tolist()) == set(range(len(found.labels)))
        tops = [column[found.members == number].max() for number in range(len(found.labels))]
        assert tops == sorted(tops)
    names = [f"n{number % 50:02d}" for number in range(1000)] + ["common"] * 9
    found = group_by(pd.DataFrame({"x": names}), "x")
    assert (len(found.labels), found.labels[-1]) == (8, "44 others")
    assert "common" not in found.labels or found.members[-1] == found.labels.index("common")
    assert (found.members >= 0).all()


def test_explained_variance_is_between_zero_and_one(trained: Zoo) -> None:
    models = trained.models
    for name in ("init", "lr", "seed"):
        part = explained(models["test_acc"].to_numpy(), group_by(models, name))
        means = models.groupby(name)["test_acc"].transform("mean")
        assert part == pytest.approx(means.var(ddof=0) / models["test_acc"].var(ddof=0))


@pytest.mark.parametrize("span", [(0, 1), (-3.7, 2.2), (1e-9, 3e-9), (5, 5), (0, 123456), (float("nan"), 1)])
def test_axes_have_ticks_inside_any_range(span: tuple[float, float]) -> None:
    chart = Chart(span, span)
    found = ticks(*chart.x)
    assert 2 <= len(found) <= 12
    assert all(chart.x[0] - 1e-9 <= value <= chart.x[1] + 1e-9 for value in found)
    assert all(chart.left <= chart.px(value) <= chart.width - chart.right for value in found)
