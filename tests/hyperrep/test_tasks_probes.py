"""Probes on any split and out of zoo: baselines and splits are what they say, ceilings are exact."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.decomposition import KernelPCA
from sklearn.metrics import f1_score

from hyperrep.baselines.projections import PROJECTIONS, fit_projection
from hyperrep.tasks.behaviour import Examiner, LabelledImages
from hyperrep.tasks.class_scores import add_class_f1, class_f1
from hyperrep.tasks.features import FeatureSets
from hyperrep.tasks.probe_splits import probe_on_splits, summarise_probes
from hyperrep.tasks.ranking import probe_out_of_zoo, tau_ceiling
from hyperrep.tasks.regroup import SplitScheme, pool
from hyperrep.tasks.split import ROLES, Role, ZooSplit
from zookeeper.errors import InputError
from zookeeper.nets.registry import build_network
from zookeeper.population import Population

WIDTH = 100  # weights of the mlp on 4 x 4 images with 4 classes


def splits(shift: float = 0.0, num_seeds: int = 10) -> dict[Role, ZooSplit]:
    """A zoo whose accuracy is a linear function of 3 weights; networks of a seed share the others."""
    generator = np.random.default_rng(3)
    lines, rows = [], []
    for seed in range(num_seeds):
        base = generator.normal(size=WIDTH)
        for lr in (0.1, 0.2, 0.3, 0.4):
            row = base.copy()
            row[:3] = generator.normal(size=3)
            side = "train" if seed < num_seeds - 4 else "val" if seed < num_seeds - 2 else "test"
            init = "normal" if row[1] > 0 else "uniform"
            lines.append({"model_id": f"{seed}-{lr}", "epoch": 1, "lr": lr, "init": init, "seed": seed, "split": side})
            lines[-1]["test_acc"] = row[0] + shift
            rows.append(row)
    frame, matrix = pd.DataFrame(lines), np.stack(rows).astype(np.float32)
    return {
        role: ZooSplit(role, frame[frame["split"] == role].reset_index(drop=True), matrix[frame["split"] == role])
        for role in ROLES
    }


SETS = FeatureSets({"W": np.asarray, "first": lambda rows: rows[:, :3]})


@pytest.mark.parametrize("num_rows", [12, 60])
def test_cosine_pca_is_kernel_pca_with_a_cosine_kernel(num_rows: int) -> None:
    rows = np.random.default_rng(0).normal(size=(num_rows, 20)) + 0.5
    ours = fit_projection("PCA cosine", rows, 4)(rows)
    kernel = KernelPCA(4, kernel="cosine").fit_transform(rows)
    signs = np.sign((ours * kernel).sum(axis=0))
    np.testing.assert_allclose(ours * signs, kernel, atol=1e-4)


def test_rbf_pca_on_all_rows_is_kernel_pca_and_landmarks_bound_it() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 8))
    ours = fit_projection("PCA RBF", rows, 3)(rows)
    kernel = KernelPCA(3, kernel="rbf").fit_transform(rows)
    np.testing.assert_allclose(np.abs(ours), np.abs(kernel), atol=1e-4)
    few = fit_projection("PCA RBF", rows, 40, max_landmarks=6)
    assert few(rows).shape == (50, 5)
    np.testing.assert_array_equal(few(rows), fit_projection("PCA RBF", rows, 40, max_landmarks=6)(rows))


def test_projections_see_train_rows_only_and_refuse_nan() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    for name in PROJECTIONS[:3]:
        project = fit_projection(name, rows, 3)
        np.testing.assert_allclose(project(rows[:5]), project(rows)[:5], atol=1e-9)
    rows[2, 3] = np.nan
    with pytest.raises(InputError, match="expected finite train rows"):
        fit_projection("PCA linear", rows, 3)
    with pytest.raises(InputError, match="unknown name"):
        fit_projection("PCA", rows, 3)  # type: ignore[arg-type]


def test_umap_without_its_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"weight-zookeeper\[umap\]"):
        fit_projection("UMAP", np.random.default_rng(0).normal(size=(30, 8)), 2)


def test_schemes_hold_out_what_they_say() -> None:
    frame, _ = pool(splits())
    assert SplitScheme().sides(frame).tolist() == frame["split"].tolist()

    def shared(by: str, columns: list[str]) -> int:
        sides = SplitScheme(by, seed=1).sides(frame)
        keys = frame[columns].astype(str).agg("|".join, axis=1)
        return len(set(keys[sides == "train"]) & set(keys[sides == "test"]))

    assert shared("lr", ["lr"]) == 0
    assert shared("seed", ["seed"]) == 0
    assert shared("configuration", ["lr", "init"]) == 0
    assert shared("configuration", ["seed"]) > 0
    assert shared("model", ["lr"]) > 0
    assert shared("lr+init", ["lr", "init"]) == 0
    assert shared("model", ["model_id"]) == 0
    draws = {tuple(SplitScheme("model", seed=seed).sides(frame)) for seed in (0, 1)}
    assert len(draws) == 2
    shuffled = frame.sample(frac=1, random_state=0)
    again = pd.Series(SplitScheme("lr").sides(shuffled), index=shuffled.index).loc[frame.index]
    assert again.tolist() == SplitScheme("lr").sides(frame).tolist()


def test_a_split_that_cannot_be_made_is_a_clear_error() -> None:
    frame, _ = pool(splits())
    with pytest.raises(InputError, match=r"no such factor\. Did you mean init"):
        SplitScheme("inti").sides(frame)
    with pytest.raises(InputError, match="too few groups"):
        SplitScheme("init").sides(frame)  # two values, three sides


def test_scores_on_splits_say_what_the_encoder_saw() -> None:
    schemes = (SplitScheme(), SplitScheme("model", 0), SplitScheme("model", 1), SplitScheme("lr"))
    scores = probe_on_splits(splits(), SETS, schemes)
    stored = scores[scores["split"] == "stored"]
    assert set(stored["encoder_saw"]) == {0.0}
    assert scores.loc[scores["split"] == "model", "encoder_saw"].min() > 0.3
    first = stored[(stored["features"] == "first") & (stored["property"] == "test_acc")]
    assert first["value"].iloc[0] > 0.999
    assert "lr" not in set(scores.loc[scores["split"] == "lr", "property"])
    summary = summarise_probes(scores).set_index(["split", "features", "property"])
    both = scores[(scores["split"] == "model") & (scores["features"] == "W") & (scores["property"] == "test_acc")]
    line = summary.loc[("model", "W", "test_acc")]
    assert line["value"] == pytest.approx(both["value"].mean())
    assert line["spread"] == pytest.approx(both["value"].std(ddof=0))
    assert np.isnan(summary.loc[("stored", "W", "test_acc"), "spread"])


def test_projections_are_fitted_on_the_train_side_of_each_split() -> None:
    seen: list[int] = []

    class Watched(FeatureSets):
        def fit_projections(self, train: np.ndarray) -> dict[str, object]:  # type: ignore[override]
            seen.append(len(train))
            return super().fit_projections(train)

    sets = Watched({"W": np.asarray}, ("PCA linear",), 3)
    scores = probe_on_splits(splits(), sets, (SplitScheme(), SplitScheme("model")))
    assert seen == [24, 28]
    assert set(scores["features"]) == {"W", "PCA linear"}


def test_class_f1_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels, classes = generator.integers(0, 4, 50), generator.integers(0, 4, (6, 50))
    expected = [f1_score(labels, row, average=None, labels=range(4)) for row in classes]
    np.testing.assert_allclose(class_f1(classes, labels, 4), expected)
    assert np.isnan(class_f1(classes, labels, 5)[:, 4]).all()
    with pytest.raises(InputError, match="expected predictions"):
        class_f1(classes, labels[:5], 4)


def test_class_f1_becomes_a_probed_property() -> None:
    network = build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4, activation="tanh")
    images = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    part = LabelledImages(images, torch.arange(40) % 4)
    examiner = Examiner(Population(network, (1, 4, 4)), {"test": part})
    measured = {role: add_class_f1(split, examiner) for role, split in splits().items()}
    classes = examiner.classes(measured["test"].rows, "test")
    np.testing.assert_allclose(measured["test"].frame["f1_2"], class_f1(classes, part.labels.numpy(), 4)[:, 2])
    scores = probe_on_splits(measured, SETS, (SplitScheme(), SplitScheme("configuration")))
    assert {"f1_0", "f1_1", "f1_2", "f1_3"} <= set(scores["property"])


@pytest.mark.parametrize("targets", [[0, 0, 1, 2], [0, 0, 0, 1], [1, 1, 2, 2, 3], [0, 1, 2, 3], [2, 2, 2, 1, 1]])
def test_the_tau_ceiling_is_the_best_of_all_orders(targets: list[int]) -> None:
    values = np.array(targets)
    num_pairs = len(values) * (len(values) - 1) / 2

    def concordant_minus_discordant(order: tuple[int, ...]) -> float:
        pairs = itertools.combinations(range(len(values)), 2)
        return float(sum(np.sign(order[i] - order[j]) * np.sign(values[i] - values[j]) for i, j in pairs))

    orders = list(itertools.permutations(range(len(values))))
    ceiling = tau_ceiling(values)
    assert ceiling.tau_a == pytest.approx(max(map(concordant_minus_discordant, orders)) / num_pairs)
    assert ceiling.tau_b == pytest.approx(max(kendalltau(order, values).statistic for order in orders))


def test_a_constant_target_has_no_ceiling() -> None:
    assert np.isnan(tau_ceiling(np.array([1.0, 1.0])).tau_b)
    assert np.isnan(tau_ceiling(np.array([1.0])).tau_a)


def test_a_probe_ranks_another_zoo_in_spite_of_a_bias() -> None:
    source, other = splits(), splits(shift=5.0)
    table = probe_out_of_zoo(source, {"shifted": other["test"]}, SETS, properties=("test_acc", "lr"))
    line = table.set_index(["features", "property", "zoo"]).loc[("first", "test_acc", "shifted")]
    assert line["tau"] == pytest.approx(1.0)
    assert line["low"] - 1e-9 <= line["tau"] <= line["high"] + 1e-9
    assert line["r2"] < -10
    tied = table.set_index(["features", "property", "zoo"]).loc[("W", "lr", "in zoo")]
    assert tied["ceiling"] == pytest.approx(tau_ceiling(source["test"].frame["lr"].to_numpy()).tau_b)
    assert tied["share"] == pytest.approx(tied["tau"] / tied["ceiling"])


def test_other_sides_and_other_architectures_are_refused() -> None:
    source = splits()
    with pytest.raises(InputError, match="expected models of the test split"):
        probe_out_of_zoo(source, {"other": source["val"]}, SETS)
    narrow = ZooSplit("test", source["test"].frame, source["test"].rows[:, :50])
    with pytest.raises(InputError, match="same architecture"):
        probe_out_of_zoo(source, {"other": narrow}, SETS)
