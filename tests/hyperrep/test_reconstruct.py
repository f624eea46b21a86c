"""Reconstruction measures against a plain loop over torch modules."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from hyperrep.tasks.behaviour import Examiner, LabelledImages
from hyperrep.tasks.reconstruct import compare, compare_stand_in, summarise
from hyperrep.tasks.split import ZooSplit
from zookeeper.errors import InputError
from zookeeper.nets.registry import build_network
from zookeeper.population import Population


def _network() -> torch.nn.Module:
    return build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4, activation="tanh").eval()


@pytest.fixture
def examiner() -> Examiner:
    generator = torch.Generator().manual_seed(0)

    def draw(num: int) -> LabelledImages:
        return LabelledImages(torch.randn(num, 1, 4, 4, generator=generator), torch.arange(num) % 4)

    return Examiner(Population(_network(), (1, 4, 4)), {"val": draw(40), "test": draw(60)})


def _split(num: int = 6) -> ZooSplit:
    rows = np.random.default_rng(0).normal(size=(num, 100)).astype(np.float32)
    frame = pd.DataFrame({"model_id": [f"m{i}" for i in range(num)], "epoch": 50, "split": "test", "status": "ok"})
    return ZooSplit("test", frame, rows)


def test_measures_equal_a_plain_loop(examiner: Examiner) -> None:
    originals = _split()
    noise = np.random.default_rng(1).normal(size=originals.rows.shape).astype(np.float32)
    decoded = originals.rows + 0.3 * noise
    frame = compare(originals, decoded, examiner)
    part = examiner.images["test"]
    network = _network()
    for index in range(len(originals)):
        classes = []
        for row in (originals.rows[index], decoded[index]):
            torch.nn.utils.vector_to_parameters(torch.from_numpy(row), network.parameters())
            with torch.no_grad():
                classes.append(network(part.images).argmax(1))
        record = frame.iloc[index]
        assert record["agreement"] == pytest.approx((classes[0] == classes[1]).double().mean().item())
        assert record["acc"] == pytest.approx((classes[0] == part.labels).double().mean().item())
        assert record["acc_reconstructed"] == pytest.approx((classes[1] == part.labels).double().mean().item())
        assert record["l2"] == pytest.approx(float(np.linalg.norm(0.3 * noise[index])), rel=1e-5)


def test_a_perfect_reconstruction_agrees_everywhere(examiner: Examiner) -> None:
    originals = _split()
    frame = compare(originals, originals.rows.copy(), examiner)
    assert (frame["agreement"] == 1).all()
    assert (frame["l2"] == 0).all()


def test_the_stand_in_is_the_train_model_chosen_on_validation_images(examiner: Examiner) -> None:
    originals = _split()
    rows = np.random.default_rng(2).normal(size=(3, 100)).astype(np.float32)
    frame = pd.DataFrame({"model_id": list("abc"), "split": "train", "val_acc": [0.5, 0.9, 0.9], "val_loss": [0, 2, 1]})
    stand_in = compare_stand_in(ZooSplit("train", frame, rows), originals, examiner)
    expected = compare(originals, np.repeat(rows[2:], len(originals), axis=0), examiner)
    pd.testing.assert_frame_equal(stand_in, expected)
    assert stand_in["acc_reconstructed"].nunique() == 1
    with pytest.raises(InputError, match="expected models of the train split, got the test split"):
        compare_stand_in(originals, originals, examiner)


def test_above_chance_is_decided_by_the_original(examiner: Examiner) -> None:
    originals = _split()
    threshold = examiner.images["test"].chance_threshold
    assert threshold == pytest.approx(0.25 + 3 * np.sqrt(0.25 * 0.75 / 60))
    frame = compare(originals, originals.rows[::-1].copy(), examiner)
    assert (frame["above_chance"] == (frame["acc"] > threshold)).all()
    table = summarise(frame.assign(above_chance=[True, False, False, False, False, True])).set_index("models")
    assert table.loc["all", "num"] == 6
    assert table.loc["above chance", "num"] == 2
    assert table.loc["above chance", "agreement"] == pytest.approx(frame["agreement"].iloc[[0, 5]].mean())
    late = frame.assign(above_chance=True, epoch=[20, 50, 20, 50, 20, 20])
    table = summarise(late).set_index("models")
    assert table.loc["above chance, last epoch", "agreement"] == pytest.approx(frame["agreement"].iloc[[1, 3]].mean())
    none = summarise(frame.assign(above_chance=False)).set_index("models")
    assert none.loc["above chance", "num"] == 0
    assert np.isnan(none.loc["above chance", "agreement"])


def test_wrong_shapes_and_roles_are_clear_errors(examiner: Examiner) -> None:
    originals = _split()
    with pytest.raises(InputError, match="expected shape"):
        compare(originals, originals.rows[:2], examiner)
    with pytest.raises(InputError, match=r"float32 \[M, 100\]"):
        examiner.classes(originals.rows.astype(np.float64), "test")
    with pytest.raises(InputError, match="holds checkpoints of test"):
        ZooSplit("train", originals.frame, originals.rows)
    with pytest.raises(InputError, match="one row per checkpoint"):
        ZooSplit("test", originals.frame, originals.rows[:2])


def test_diverged_checkpoints_are_left_out() -> None:
    split = _split()
    split.rows[1, 5] = np.nan
    split.frame.loc[3, "status"] = "diverged"
    assert split.finite().frame["model_id"].tolist() == ["m0", "m2", "m4", "m5"]
