"""The scikit-learn face: pipelines, clones, parameters, inverses, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

import hyperrep
from hyperrep.training.estimator import WeightTransformer
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout

LAYOUT = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight"), "fc.bias": ((2,), "bias")})
CONFIG: dict[str, Any] = {
    "name": "toy",
    "tokens": {"width": 4},
    "model": {"d_model": 8, "num_heads": 2, "num_layers": 1, "latent": 3},
    "loss": {"gamma": 0.0, "beta": 1.0},
    "augment": {"permute": False},
    "training": {"steps": 3, "batch_size": 4},
}
ROWS = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_works_in_a_pipeline_and_a_clone_trains_to_the_same_bits() -> None:
    pipeline = make_pipeline(WeightTransformer(CONFIG, LAYOUT), Ridge())
    pipeline.fit(ROWS, ROWS.sum(1))
    assert pipeline.predict(ROWS).shape == (12,)
    copy = clone(pipeline)
    with pytest.raises(NotFittedError):
        copy[0].transform(ROWS)
    copy.fit(ROWS, ROWS.sum(1))
    np.testing.assert_array_equal(copy.predict(ROWS), pipeline.predict(ROWS))
    assert list(pipeline[:-1].get_feature_names_out()) == ["fc.z00", "fc.z01", "fc.z02"]


def test_parameters_are_those_of_the_constructor() -> None:
    transformer = WeightTransformer(CONFIG, LAYOUT, features="latent")
    assert set(transformer.get_params()) == {"config", "layout", "features", "data", "out"}
    assert transformer.set_params(features="embedding").features == "embedding"


def test_it_is_the_saved_hyper_representation_and_latents_are_inverted(tmp_path: Path) -> None:
    fitted = WeightTransformer(CONFIG, LAYOUT, features="latent", out=tmp_path).fit(ROWS)
    hyper, opened = hyperrep.load(tmp_path), WeightTransformer.load(tmp_path, features="latent")
    latents = opened.transform(ROWS)
    np.testing.assert_array_equal(latents, np.asarray(hyper.encode(ROWS)).reshape(12, -1))
    np.testing.assert_array_equal(latents, fitted.transform(ROWS))
    np.testing.assert_array_equal(opened.inverse_transform(latents), np.asarray(hyper.reconstruct(ROWS)))
    embedding = WeightTransformer.load(tmp_path).transform(ROWS)
    np.testing.assert_array_equal(embedding, np.asarray(hyper.embed(ROWS)))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: WeightTransformer().fit(ROWS), "needs a config and a layout"),
        (lambda: WeightTransformer(CONFIG, LAYOUT, features="x").fit(ROWS), "expected embedding or latent"),
        (lambda: WeightTransformer(CONFIG, LAYOUT).fit(ROWS[:, :5]), r"expected \[N >= 1, 8\]"),
        (lambda: WeightTransformer(CONFIG, LAYOUT).fit(ROWS).inverse_transform(ROWS), "has no inverse"),
        (
            lambda: WeightTransformer(CONFIG, LAYOUT, features="latent").fit(ROWS).inverse_transform(ROWS),
            r"shape \(12, 8\); expected \[N, 6\]",
        ),
        (lambda: WeightTransformer(CONFIG | {"augment": {}}, LAYOUT).fit(ROWS), "source of permutations"),
    ],
)
def test_what_it_cannot_do_is_said(act: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        act()
