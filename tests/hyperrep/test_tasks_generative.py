"""Fine-tuning, ensembles, diversity, novelty, other zoos and other architectures, each against plain arithmetic."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist, pdist
from torch import nn
from torch.nn import functional as F

import zookeeper
from hyperrep.tasks.behaviour import Examiner, LabelledImages
from hyperrep.tasks.diversity import compare_diversity, pairwise_distances
from hyperrep.tasks.ensemble import CHOSEN, DRAWN, Members, compare_ensembles, ensemble_accuracies
from hyperrep.tasks.finetune import (
    PRETRAINED,
    SAMPLED,
    SCRATCH,
    FineTuneSettings,
    fine_tune,
    starting_rows,
    store_fine_tuned,
    summarise_fine_tuning,
)
from hyperrep.tasks.generate import Anchors
from hyperrep.tasks.nearest import TrainingModels
from hyperrep.tasks.novelty import (
    AVERAGE,
    NOISE,
    audit_novelty,
    averaged_anchors,
    error_overlap,
    noisy_anchors,
    summarise_novelty,
)
from hyperrep.tasks.novelty import SAMPLED as SAMPLE
from hyperrep.tasks.other_zoo import CHANCE, ORIGINALS, decode_other_zoo
from hyperrep.tasks.reconstruct import STAND_IN
from hyperrep.tasks.split import Role, ZooSplit
from hyperrep.tasks.transplant import Transplant
from zookeeper.errors import InputError
from zookeeper.nets.parameters import load_row, row_of
from zookeeper.nets.registry import build_network
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population, TrainingData
from zookeeper.population.randomness import epoch_orders, stream_keys
from zookeeper.store.header import ImageShape
from zookeeper.zoo import write_rows

SHAPE = (1, 4, 4)
SETTINGS = FineTuneSettings(lr=0.02, weight_decay=1e-3, batch_size=16, epochs=(0, 1, 3), seed=4)


def network(**changed: object) -> nn.Module:
    return build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4, activation="tanh")


@pytest.fixture(scope="module")
def population() -> Population:
    return Population(network(), SHAPE)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (140, *SHAPE), dtype=torch.uint8, generator=generator)
    labels = images.flatten(1)[:, :4].argmax(1)
    parts = {"train": torch.arange(0, 83), "val": torch.arange(83, 110), "test": torch.arange(110, 140)}
    half = torch.tensor([0.5])
    return TrainingData(images, labels, parts, half, half)


@pytest.fixture(scope="module")
def examiner(population: Population, data: TrainingData) -> Examiner:
    roles: tuple[Role, ...] = ("train", "val", "test")
    return Examiner(population, {role: LabelledImages(*data.part(role, torch.float32)) for role in roles})


def rows(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, 100)).astype(np.float32) / 2


def train_models(num: int = 12, seed: int = 7, role: Role = "train") -> ZooSplit:
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "model_id": [f"m{number}" for number in range(num)],
            "epoch": 5,
            "split": role,
            "init": np.where(np.arange(num) % 2, "normal", "kaiming_uniform"),
            "val_acc": generator.random(num),
            "val_loss": 1.0,
            "test_acc": generator.random(num),
        }
    )
    return ZooSplit(role, frame, rows(num, seed))


# fine-tuning


def train_alone(row: np.ndarray, data: TrainingData, seed: int) -> dict[int, np.ndarray]:
    """One network with torch's own layers and optimiser, on the images in the order of its seed."""
    net = network()
    load_row(net, torch.from_numpy(row))
    images, labels = data.normalise(data.images, torch.float32), data.labels
    optimizer = torch.optim.Adam(net.parameters(), lr=SETTINGS.lr, weight_decay=SETTINGS.weight_decay)
    index, kept = data.indices["train"], {0: row}
    for epoch in range(1, SETTINGS.epochs[-1] + 1):
        order = index[epoch_orders(stream_keys([seed], "order"), epoch, len(index))[0]]
        for batch in order.split(SETTINGS.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
        kept[epoch] = row_of(net).detach().numpy()
    return kept


def test_fine_tuning_stacked_equals_plain_torch(population: Population, data: TrainingData, examiner: Examiner) -> None:
    starts = {"a": rows(5), "b": rows(3, 1)}
    tuned = fine_tune(population, data, starts, SETTINGS)
    assert len(tuned.frame) == len(tuned.rows) == 8 * 3
    for kind, number in (("a", 3), ("b", 2)):
        alone = train_alone(starts[kind][number], data, SETTINGS.network_seed(number))
        mine = (tuned.frame["start"] == kind) & (tuned.frame["network"] == number)
        assert tuned.frame.loc[mine, "epoch"].tolist() == [0, 1, 3]
        for epoch, row in zip((0, 1, 3), tuned.rows[mine], strict=True):
            np.testing.assert_allclose(row, alone[epoch], rtol=1e-4, atol=2e-5)
    accuracy, loss = examiner.scores(tuned.rows, "test")
    np.testing.assert_allclose(tuned.frame["test_acc"], accuracy)
    np.testing.assert_allclose(tuned.frame["test_loss"], loss, rtol=1e-4)


def test_a_network_does_not_depend_on_the_others(population: Population, data: TrainingData) -> None:
    together = fine_tune(population, data, {"a": rows(6), "b": rows(6, 1)}, SETTINGS)
    alone = fine_tune(population, data, {"b": rows(2, 1)}, SETTINGS)
    mine = (together.frame["start"] == "b") & (together.frame["network"] < 2)
    np.testing.assert_allclose(together.rows[mine], alone.rows, rtol=1e-4, atol=2e-5)


def test_the_same_numbers_see_the_same_images(population: Population, data: TrainingData) -> None:
    twice = fine_tune(population, data, {"a": rows(3), "b": rows(3)}, SETTINGS)
    by_kind = [twice.rows[twice.frame["start"] == kind] for kind in ("a", "b")]
    np.testing.assert_allclose(by_kind[0], by_kind[1], rtol=1e-4, atol=2e-5)
    assert not np.allclose(*(by_kind[0][1::3][[0, 1]] - rows(3)[[0, 1]]), atol=1e-3)


def test_starts_stand_beside_each_other(population: Population, data: TrainingData) -> None:
    anchors = Anchors.select(train_models(), share=1.0)
    starts = starting_rows(rows(20), anchors, population.layout, SETTINGS)
    assert list(starts) == [SAMPLED, PRETRAINED, SCRATCH]
    assert {len(part) for part in starts.values()} == {20}
    assert len(np.unique(starts[PRETRAINED][:12], axis=0)) == 12
    np.testing.assert_array_equal(
        starts[SCRATCH], starting_rows(rows(20), anchors, population.layout, SETTINGS)[SCRATCH]
    )
    summary = summarise_fine_tuning(fine_tune(population, data, starts, SETTINGS).frame)
    assert summary[["start", "epoch"]].to_numpy().tolist()[:4] == [
        [SAMPLED, 0], [SAMPLED, 1], [SAMPLED, 3], [PRETRAINED, 0],
    ]  # fmt: skip
    assert (summary["num"] == 20).all()
    assert summary.loc[summary["epoch"] == 3, "test_acc"].min() > summary.loc[summary["epoch"] == 0, "test_acc"].max()


def test_fine_tuned_networks_are_a_zoo(population: Population, data: TrainingData, tmp_path: Path) -> None:
    line = {"architecture": ["mlp"] * 2, "activation": ["tanh"] * 2}
    image = ImageShape("toy", *SHAPE, 4, {})
    source = write_rows(tmp_path / "a", rows(2), pd.DataFrame(line), population.layout, image=image)
    tuned = fine_tune(population, data, {"a": rows(5)}, SETTINGS)
    stored = store_fine_tuned(
        tmp_path / "b", tuned, source, SETTINGS, image=image, layout=population.layout, samples="here"
    )
    assert stored.header.kind == "finetuned"
    assert stored.epochs == (0, 1, 3)
    chosen = stored.frame.iloc[7]
    net, (images, labels) = stored.network(chosen["model_id"], int(chosen["epoch"])), data.part("test", torch.float32)
    with torch.no_grad():
        accuracy = (net(images).argmax(1) == labels).double().mean().item()
    assert accuracy == pytest.approx(chosen["test_acc"])
    assert zookeeper.open(tmp_path / "b").header.provenance["settings"]["lr"] == SETTINGS.lr


def test_bad_starts_are_clear_errors(population: Population, data: TrainingData) -> None:
    broken = rows(2)
    broken[1, 5] = np.nan
    for starts, message in (({}, "no networks"), ({"a": rows(2)[:, :9]}, "expected rows"), ({"a": broken}, "NaN")):
        with pytest.raises(InputError, match=message):
            fine_tune(population, data, starts, SETTINGS)
    with pytest.raises(InputError, match="epochs must increase"):
        FineTuneSettings(epochs=(1, 0))
    height = data.images.shape[2]
    other = replace(data, images=data.images.repeat(1, 1, 2, 1))
    with pytest.raises(InputError, match=rf"images have shape \(.*, {2 * height}, {data.images.shape[3]}\); expected"):
        fine_tune(population, other, {"a": rows(2)}, SETTINGS)


def test_fine_tuning_takes_results_from_any_device(
    population: Population, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every array is made of a tensor that was brought to the host; a tensor of a GPU refuses anything else."""
    brought, to_host, to_array = set[int](), torch.Tensor.cpu, torch.Tensor.numpy

    def cpu(self: torch.Tensor) -> torch.Tensor:
        moved = to_host(self)
        brought.add(moved.data_ptr())
        return moved

    def numpy(self: torch.Tensor) -> np.ndarray:
        if inspect.stack()[1].filename.endswith("finetune.py"):
            assert self.data_ptr() in brought
            brought.discard(self.data_ptr())
        return to_array(self)

    expected = fine_tune(population, data, {"a": rows(3)}, SETTINGS)
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(torch.Tensor, "numpy", numpy)
    again = fine_tune(population, data, {"a": rows(3)}, SETTINGS)
    np.testing.assert_array_equal(again.rows, expected.rows)
    assert again.frame.equals(expected.frame)


def test_a_diverged_network_stays_flagged_and_harms_nobody(population: Population, data: TrainingData) -> None:
    settings = FineTuneSettings(lr=0.02, batch_size=16, epochs=(0, 1), optimizer="sgd")
    wild = rows(3)
    wild[1] = 3e38
    tuned = fine_tune(population, data, {"a": wild}, settings)
    last = tuned.frame[tuned.frame["epoch"] == 1]
    assert last["status"].tolist() == ["ok", "diverged", "ok"]
    assert summarise_fine_tuning(tuned.frame)["num_diverged"].tolist()[-1] == 1


# ensembles


def test_ensembles_average_logits(examiner: Examiner) -> None:
    networks, part = rows(9), examiner.images["test"]
    members = Members.choose(networks, examiner, 4)
    accuracy, _ = examiner.scores(networks, "val")
    assert accuracy[:].max() == pytest.approx(examiner.scores(members.rows[:1], "val")[0][0])
    logits = examiner.population.forward(torch.from_numpy(members.rows), part.images)
    for size in range(1, 5):
        expected = (logits[:size].mean(0).argmax(1) == part.labels).double().mean().item()
        assert ensemble_accuracies(members, examiner)[0, size - 1] == pytest.approx(expected)


def test_members_are_chosen_without_test_images(examiner: Examiner) -> None:
    networks = rows(9)
    hidden = Examiner(examiner.population, {"val": examiner.images["val"]})
    np.testing.assert_array_equal(Members.choose(networks, hidden, 5).rows, Members.choose(networks, examiner, 5).rows)


def test_drawn_ensembles_repeat_with_the_seed_and_hold_no_network_twice(examiner: Examiner) -> None:
    members = Members.draw(rows(9), 6, 20, np.random.default_rng(1))
    assert members.orders.shape == (20, 6)
    assert all(len(set(order)) == 6 for order in members.orders.tolist())
    table = compare_ensembles({"a": rows(9), "b": rows(3, 1)}, examiner, size=5, num_drawn=7, seed=2)
    pd.testing.assert_frame_equal(
        table, compare_ensembles({"a": rows(9), "b": rows(3, 1)}, examiner, size=5, num_drawn=7, seed=2)
    )
    assert table[table["networks"] == "b"]["size"].max() == 3
    assert set(table["rule"]) == {CHOSEN, DRAWN}
    assert set(table[table["rule"] == DRAWN]["num_ensembles"]) == {7}


def test_a_member_with_nan_outputs_makes_its_ensembles_wrong(examiner: Examiner) -> None:
    networks = rows(3)
    networks[1] = np.nan
    members = Members(networks, np.array([[0, 1, 2]]), DRAWN)
    assert ensemble_accuracies(members, examiner)[0, 1:].tolist() == [0.0, 0.0]
    with pytest.raises(InputError, match="at least one network"):
        Members.choose(networks[:0], examiner, 3)


# diversity


def test_distances_are_exact_for_near_copies() -> None:
    points = rows(5)
    points[1] = points[0] + np.float32(1e-5)
    np.testing.assert_allclose(pairwise_distances(points), cdist(points.astype(float), points.astype(float)))
    assert pairwise_distances(points)[0, 1] == pytest.approx(np.linalg.norm(points[1].astype(float) - points[0]))


def test_diversity_by_hand(examiner: Examiner) -> None:
    anchors, copies = rows(6), np.repeat(rows(1), 4, axis=0)
    table = compare_diversity({"anchors": anchors, "copies": copies}, examiner).set_index("networks")
    part = examiner.images["test"]
    probabilities = examiner.population.forward(torch.from_numpy(anchors), part.images).softmax(2)
    assert table.loc["anchors", "weights"] == pytest.approx(pdist(anchors.astype(float)).mean())
    expected = pdist(probabilities.flatten(1).detach().numpy().astype(float)).mean() / np.sqrt(len(part.labels))
    assert table.loc["anchors", "outputs"] == pytest.approx(expected, rel=1e-5)
    classes = examiner.classes(anchors, "test")
    assert table.loc["anchors", "disagreement"] == pytest.approx(pdist(classes, "hamming").mean())
    assert table.loc["copies", ["weights", "outputs", "disagreement_ratio"]].tolist() == pytest.approx(
        [0, 0, 0], abs=1e-6
    )
    with pytest.raises(InputError, match="expected 'anchors'"):
        compare_diversity({"samples": anchors}, examiner)
    with pytest.raises(InputError, match="at least 2"):
        compare_diversity({"anchors": anchors[:1]}, examiner)


# novelty


def test_baselines_lie_where_they_are_wanted() -> None:
    known = rows(12, 7)
    spread = pdist(known.astype(float)).mean()
    wanted = np.array([0.0, 0.1, 0.3, 0.5]) * spread
    for make in (noisy_anchors, averaged_anchors):
        placed = make(wanted, known[:6], known, np.random.default_rng(0))
        assert placed.reached.all()
        np.testing.assert_allclose(cdist(placed.rows.astype(float), known.astype(float)).min(1), wanted, atol=1e-5)
    far = averaged_anchors(np.array([3 * spread]), known[:6], known, np.random.default_rng(0))
    assert not far.reached.any()
    np.testing.assert_allclose(far.rows[0], known[:6].mean(0), atol=1e-6)
    assert noisy_anchors(np.array([3 * spread]), known[:6], known, np.random.default_rng(0)).reached.all()


def test_a_permuted_copy_is_found_out_by_alignment(examiner: Examiner) -> None:
    models = train_models()
    symmetry = Symmetry.of(network(), SHAPE)
    order = symmetry.index_of([np.random.default_rng(0).permutation(group.size) for group in symmetry.groups])
    hidden_copy = models.rows[4][order][None]
    plain, aligned = (
        TrainingModels(models).nearest_to(hidden_copy),
        TrainingModels(models, symmetry).nearest_to(hidden_copy),
    )
    assert plain.distance[0] > 1
    assert aligned.distance[0] == 0
    assert aligned.index[0] == 4
    assert aligned.unaligned[0] == plain.distance[0]
    audit = audit_novelty(hidden_copy, Anchors.select(models, share=1.0), TrainingModels(models, symmetry), examiner)
    assert audit.loc[audit["networks"] == SAMPLE, "error_overlap"].tolist() == [1.0]
    np.testing.assert_allclose(audit["distance"], 0, atol=1e-4)


def test_the_audit_compares_at_equal_distance(examiner: Examiner) -> None:
    models = train_models()
    anchors = Anchors.select(models, share=0.5)
    samples = models.rows[:5] + rows(5, 3) / 4
    audit = audit_novelty(samples, anchors, TrainingModels(models), examiner, seed=1)
    assert set(audit["networks"]) == {SAMPLE, NOISE, AVERAGE}
    reached = audit[audit["reached"]]
    np.testing.assert_allclose(reached["distance"], reached["wanted"], rtol=1e-4)
    pd.testing.assert_frame_equal(audit, audit_novelty(samples, anchors, TrainingModels(models), examiner, seed=1))
    summary = summarise_novelty(audit).set_index("networks")
    pairs = audit.pivot(index="network", columns="networks", values="test_acc")
    assert summary.loc[NOISE, "lead"] == pytest.approx((pairs[SAMPLE] - pairs[NOISE]).mean())
    assert summary.loc[AVERAGE, "lead_all"] == pytest.approx((pairs[SAMPLE] - pairs[AVERAGE]).mean())
    assert summary.loc[NOISE, "lead_low"] <= summary.loc[NOISE, "lead"] <= summary.loc[NOISE, "lead_high"]
    assert summary.loc[SAMPLE, ["lead", "lead_all"]].isna().all()


def test_error_overlap_by_hand_and_without_errors() -> None:
    errors = np.array([[True, False, False], [False, False, False]])
    known = np.array([[True, True, False], [True, False, False], [False, False, False]])
    overlap = error_overlap(errors, known, np.array([0, 2]))
    assert overlap.nearest[0] == 0.5
    assert overlap.largest.tolist() == [1.0, 0.0]
    assert np.isnan(overlap.nearest[1])


def test_novelty_refuses_other_sides_and_broken_samples(examiner: Examiner) -> None:
    with pytest.raises(InputError, match="expected models of the train split"):
        TrainingModels(train_models(role="test"))
    models = train_models()
    with pytest.raises(InputError, match="expected finite samples"):
        audit_novelty(rows(2) * np.nan, Anchors.select(models), TrainingModels(models), examiner)


# other zoos and other architectures


class Shrunk:
    """An autoencoder that loses half of every weight."""

    def encode(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(len(rows), 10, 10)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return latents.reshape(-1, 100) / 2


def test_decoded_networks_of_another_zoo_stand_beside_their_originals(examiner: Examiner) -> None:
    sides: dict[Role, ZooSplit] = {"train": train_models(), "test": train_models(8, 9, "test")}
    table = decode_other_zoo({"shrunk": Shrunk()}, sides, examiner, samples={"sampled": rows(6)}, ensemble_size=3)
    table = table.set_index("networks")
    assert list(table.index) == [ORIGINALS, "shrunk", STAND_IN, "sampled", CHANCE]
    assert table.loc[ORIGINALS, ["agreement", "l2"]].tolist() == [1.0, 0.0]
    expected = np.linalg.norm(sides["test"].rows.astype(float) / 2, axis=1).mean()
    assert table.loc["shrunk", "l2"] == pytest.approx(expected, rel=1e-6)
    assert np.isnan(table.loc["sampled", "agreement"])
    with pytest.raises(InputError, match="expected models of the train split"):
        decode_other_zoo({}, {"train": sides["test"], "test": sides["test"]}, examiner)


def test_transplants_take_the_common_part_of_layers_with_the_same_name() -> None:
    small = Population(
        build_network("cnn-digits-shallow", in_channels=1, image_size=(8, 8), num_classes=10, activation="relu"),
        (1, 8, 8),
    ).layout
    large = Population(
        build_network("cnn-digits", in_channels=1, image_size=(8, 8), num_classes=10, activation="relu"), (1, 8, 8)
    ).layout
    transplant = Transplant.between(small, large)
    given, initial = np.random.default_rng(0).normal(size=(3, small.num_weights)), np.zeros((3, large.num_weights))
    moved = transplant.apply(given, initial)
    before, after = small.unflatten(given), large.unflatten(moved)
    names = set(before) & set(after)
    assert names
    counted = 0
    for name in names:
        common = (
            slice(None),
            *(slice(min(sides)) for sides in zip(before[name].shape[1:], after[name].shape[1:], strict=True)),
        )
        np.testing.assert_array_equal(before[name][common], after[name][common])
        counted += after[name][common][0].size
    assert (moved != 0).sum() == 3 * counted
    assert transplant.share(large) == counted / large.num_weights
    np.testing.assert_array_equal(Transplant.between(small, small).apply(given, given * 0), given)
    with pytest.raises(InputError, match="as many initial rows"):
        transplant.apply(given, initial[:2])
