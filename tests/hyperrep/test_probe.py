"""Probes: the same numbers as scikit-learn, no use of test models for fitting, honest baselines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from hyperrep.baselines.weight_statistics import statistic_names, weight_statistics
from hyperrep.tasks.probe import ROLES, RidgePath, probe
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout

SIZES = {"train": 80, "val": 30, "test": 50}


def _data(width: int, noise: float = 0.1) -> tuple[dict[str, np.ndarray], dict[str, pd.DataFrame]]:
    generator = np.random.default_rng(0)
    weights = generator.normal(size=width)
    features, frames = {}, {}
    for role, num in SIZES.items():
        features[role] = generator.normal(size=(num, width)) * 3 + 1
        target = features[role] @ weights + noise * generator.normal(size=num)
        frames[role] = pd.DataFrame(
            {
                "model_id": [f"{role}{i // 2}" for i in range(num)],
                "test_acc": target,
                "lr": 1e-3,
                "init": np.where(target > weights.sum(), "normal", "uniform"),
            }
        )
    return features, frames


@pytest.mark.parametrize("width", [12, 200])
@pytest.mark.parametrize("alpha", [1e-5, 1.0, 1e3])
def test_ridge_equals_scikit_learn(width: int, alpha: float) -> None:
    features, frames = _data(width)
    features["train"][:, 3] = 7.0  # a constant feature
    target = frames["train"][["test_acc"]].to_numpy()
    path = RidgePath.of(features["train"])
    weights, intercept = path.solve(target, alpha)
    scaler = StandardScaler().fit(features["train"])
    model = Ridge(alpha=alpha, solver="svd").fit(scaler.transform(features["train"]), target)
    test = features["test"].copy()
    test[:, 3] = 7.0
    expected = model.predict(scaler.transform(test)).reshape(-1)
    np.testing.assert_allclose((path.project(test) @ weights + intercept)[:, 0], expected, rtol=1e-6, atol=1e-7)


def test_scores_alpha_choice_and_columns() -> None:
    features, frames = _data(12)
    table = probe({"embedding": features, "noise": _noise(12)}, frames).set_index(["features", "property"])
    assert set(table.index.get_level_values("property")) == {"test_acc", "init"}  # lr never varies
    good, bad = table.loc[("embedding", "test_acc")], table.loc[("noise", "test_acc")]
    assert good["value"] > 0.99
    assert bad["value"] < 0.1
    assert good["low"] <= good["value"] <= good["high"]
    assert good["score"] == "r2"
    assert table.loc[("embedding", "init"), "score"] == "accuracy"
    assert table.loc[("embedding", "init"), "value"] > 0.8
    assert good["num_features"] == 12
    assert good["num_test"] == 50

    expected = []
    for alpha in 10.0 ** np.arange(-5, 4):
        scaler = StandardScaler().fit(features["train"])
        model = Ridge(alpha=alpha).fit(scaler.transform(features["train"]), frames["train"]["test_acc"])
        error = frames["val"]["test_acc"] - model.predict(scaler.transform(features["val"]))
        expected.append(1 - (error**2).mean() / frames["val"]["test_acc"].var(ddof=0))
    assert good["alpha"] == pytest.approx(10.0 ** (np.argmax(expected) - 5))
    assert good["val_value"] == pytest.approx(max(expected))


def _noise(width: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(9)
    return {role: generator.normal(size=(num, width)) for role, num in SIZES.items()}


def test_a_class_unseen_in_training_counts_as_wrong() -> None:
    features, frames = _data(12)
    frames["test"]["init"] = "kaiming_normal"
    table = probe({"embedding": features}, frames, numeric=())
    assert table["value"].tolist() == [0.0]


def test_properties_of_test_models_do_not_reach_the_fit() -> None:
    features, frames = _data(12)
    before = probe({"embedding": features}, frames, categorical=())
    frames["test"] = frames["test"].assign(test_acc=np.random.default_rng(1).normal(size=50))
    after = probe({"embedding": features}, frames, categorical=())
    assert after["alpha"].tolist() == before["alpha"].tolist()
    assert after["val_value"].tolist() == before["val_value"].tolist()
    assert after["value"].tolist() != before["value"].tolist()


def test_nan_features_and_wrong_lengths_are_clear_errors() -> None:
    features, frames = _data(5)
    features["val"][2, 1] = np.nan
    with pytest.raises(InputError, match="val split: 1 of 30 rows hold NaN"):
        probe({"embedding": features}, frames)
    features["val"] = features["val"][:3]
    with pytest.raises(InputError, match="expected features"):
        probe({"embedding": features}, frames)
    assert ROLES == ("train", "val", "test")


def test_weight_statistics_by_layer_without_padding() -> None:
    layout = WeightLayout.from_shapes(
        {"a.weight": ((3, 2), "weight"), "a.bias": ((3,), "bias"), "b.weight": ((1, 3), "weight")}
    )
    rows = np.random.default_rng(0).normal(size=(4, layout.num_weights)).astype(np.float32)
    features = weight_statistics(rows, layout)
    names = statistic_names(layout)
    assert features.shape == (4, 21)
    assert len(names) == 21
    weights = rows[2, :6].astype(np.float64)
    assert features[2, names.index("a.weight.var")] == pytest.approx(weights.var())
    assert features[2, names.index("a.weight.p99")] == pytest.approx(np.percentile(weights, 99))
    assert features[2, names.index("a.bias.mean")] == pytest.approx(rows[2, 6:9].mean())
    with pytest.raises(InputError, match="rows must be"):
        weight_statistics(rows[:, :5], layout)
