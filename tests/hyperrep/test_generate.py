"""Generation: anchors from train, selection on validation images, novelty and diversity by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist

from hyperrep.sampling import PcaKde
from hyperrep.tasks.behaviour import Examiner, LabelledImages
from hyperrep.tasks.generate import Anchors, examine_samples, sample_rows, summarise_samples
from hyperrep.tasks.split import Role, ZooSplit, select_on_validation
from zookeeper.errors import InputError
from zookeeper.nets.registry import build_network
from zookeeper.population import Population


class Halves:
    """An autoencoder that keeps everything: 100 weights are 4 tokens of 25."""

    def encode(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(-1, 4, 25) * 2

    def decode(self, latents: np.ndarray) -> np.ndarray:
        assert latents.dtype == np.float32
        return latents.reshape(-1, 100) / 2


def _split(role: Role = "train", num: int = 40) -> ZooSplit:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "model_id": np.repeat([f"m{i}" for i in range(num // 2)], 2),
            "epoch": np.tile([20, 50], num // 2),
            "split": role,
            "status": "ok",
            "val_acc": np.linspace(0, 1, num),
            "val_loss": 1.0,
            "test_acc": np.linspace(0.1, 0.9, num),
        }
    )
    return ZooSplit(role, frame, generator.normal(size=(num, 100)).astype(np.float32))


@pytest.fixture
def examiner() -> Examiner:
    generator = torch.Generator().manual_seed(0)
    network = build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4, activation="tanh")

    def draw(num: int) -> LabelledImages:
        return LabelledImages(torch.randn(num, 1, 4, 4, generator=generator), torch.arange(num) % 4)

    return Examiner(Population(network, (1, 4, 4)), {"val": draw(40), "test": draw(60)})


def test_anchors_are_the_best_train_models_of_the_last_epoch() -> None:
    anchors = Anchors.select(_split(), share=0.3)
    assert len(anchors) == 6
    assert set(anchors.checkpoints.frame["epoch"]) == {50}
    assert anchors.checkpoints.frame["val_acc"].min() == anchors.threshold
    assert set(anchors.checkpoints.frame["model_id"]) == {f"m{i}" for i in range(14, 20)}
    assert set(Anchors.select(_split(), epoch=20).checkpoints.frame["epoch"]) == {20}


@pytest.mark.parametrize("role", ["val", "test"])
def test_anchors_from_another_split_are_refused(role: Role) -> None:
    with pytest.raises(InputError, match="expected models of the train split"):
        Anchors.select(_split(role))


def test_anchors_need_a_share_and_a_stored_epoch() -> None:
    with pytest.raises(InputError, match="share"):
        Anchors.select(_split(), share=0.0)
    with pytest.raises(InputError, match="no usable checkpoint of epoch 49"):
        Anchors.select(_split(), epoch=49)


def test_samples_are_decoded_draws_and_repeat_with_the_seed() -> None:
    anchors = Anchors.select(_split(), share=1.0)
    sampler = PcaKde(num_components=3, bandwidth=0.0)
    rows = sample_rows(Halves(), anchors, sampler, 8, np.random.default_rng(5))
    assert rows.shape == (8, 100)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, sample_rows(Halves(), anchors, sampler, 8, np.random.default_rng(5)))
    density = sampler.fit(Halves().encode(anchors.checkpoints.rows).reshape(len(anchors), -1)).projection
    scores = (rows * 2 - density.mean) @ density.components.T
    np.testing.assert_allclose(rows * 2, density.back(scores), atol=1e-4)


def test_novelty_and_diversity_by_hand(examiner: Examiner) -> None:
    anchors = Anchors.select(_split(), share=1.0)
    originals = anchors.checkpoints.rows
    rows = np.stack([originals[3], originals[5] + np.float32(0.1)])
    frame = examine_samples(rows, anchors, examiner)
    assert frame["novelty"].iloc[0] == 0
    assert frame["nearest_anchor"].tolist() == anchors.checkpoints.frame["model_id"].iloc[[3, 5]].tolist()
    assert frame["distance"].iloc[1] == pytest.approx(np.sqrt(100) * 0.1, rel=1e-4)
    spread = pdist(originals.astype(np.float64)).mean()
    assert frame["novelty"].iloc[1] == pytest.approx(np.sqrt(100) * 0.1 / spread, rel=1e-4)
    table = summarise_samples(frame, rows, anchors, _split().frame, examiner).iloc[0]
    assert table["anchor_diversity"] == pytest.approx(spread)
    assert table["diversity"] == pytest.approx(float(np.linalg.norm(rows[0] - rows[1])), rel=1e-5)
    classes = examiner.classes(rows, "test")
    assert table["disagreement"] == pytest.approx((classes[0] != classes[1]).mean())


def test_the_reported_sample_is_chosen_on_validation_not_on_test(examiner: Examiner) -> None:
    anchors = Anchors.select(_split(), share=1.0)
    rows = np.random.default_rng(2).normal(size=(5, 100)).astype(np.float32)
    samples = pd.DataFrame(
        {"val_acc": [0.9, 0.8], "val_loss": [1.0, 0.1], "test_acc": [0.4, 0.99], "novelty": [0.5, 0.5]}
    )
    zoo = pd.DataFrame(
        {
            "val_acc": [0.9, 0.9, 1.0],
            "val_loss": [0.2, 0.1, 0.0],
            "test_acc": [0.6, 0.5, 0.95],
            "status": ["ok", "ok", "diverged"],
        }
    )
    table = summarise_samples(samples, rows, anchors, zoo, examiner).iloc[0]
    assert table["selected_test_acc"] == 0.4
    assert table["max_test_acc"] == 0.99
    assert table["zoo_selected_test_acc"] == 0.5
    assert table["zoo_max_test_acc"] == 0.6


def test_selection_ignores_networks_that_output_nan() -> None:
    frame = pd.DataFrame({"val_acc": [0.9, 0.9], "val_loss": [np.nan, 5.0]})
    assert select_on_validation(frame) == 1
    with pytest.raises(InputError, match="no network"):
        select_on_validation(frame.iloc[:0])
