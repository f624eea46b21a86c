"""From a zoo to a zoo of samples: selection, batch norm, recipes, provenance, the commands; and what goes wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist
from torch import nn
from torch.optim.swa_utils import update_bn

import zookeeper
from hyperrep import cli
from hyperrep.config import load_config
from hyperrep.sampling import AnchorNoise, Crossover, Kde, PcaKde
from hyperrep.tasks.batchnorm import BatchNormConditioning
from hyperrep.tasks.behaviour import Examiner, LabelledImages
from hyperrep.tasks.generate import Anchors
from hyperrep.tasks.method import Method, WeightSpace
from hyperrep.tasks.opening import build_examiner, read_split
from hyperrep.tasks.recipe import AnchorSection, Recipe, check_fits, generate, load_recipe, select_anchors, with_changes
from hyperrep.tasks.sampled import store_samples
from hyperrep.tasks.sampler_front import sampler_front
from hyperrep.tasks.selection import Selection, ValidationImages, farthest_first, subsample
from hyperrep.training.saved import HyperRepresentation, load
from hyperrep.training.streams import keyed_generator
from hyperrep.training.zoo import read_symmetry
from hyperrep.weights.scaling import Scaling
from zookeeper.build import build_zoo
from zookeeper.errors import InputError, SpecError
from zookeeper.images import ROOT_VARIABLE, find_root
from zookeeper.nets.parameters import row_of
from zookeeper.nets.registry import build_network
from zookeeper.population import Population
from zookeeper.spec.plan import make_plan
from zookeeper.spec.schema import load_spec

SPEC = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.6, val: 0.2, test: 0.2}, seed: 0}
model: {architecture: mlp, activation: tanh, dropout: 0}
training: {optimizer: adam, batch_size: 64, epochs: 1, weight_decay: 0, lr: 3e-2}
grid:
  init: [kaiming_uniform]
  seed: {range: [0, 20]}
checkpoints: {every: 1}
split: {by: seed, train: 0.6, val: 0.2, test: 0.2, seed: 0}
"""
TRAINING = """
name: tiny
tokens: {width: 17}
model: {d_model: 8, num_heads: 2, num_layers: 1, latent: 3}
loss: {gamma: 0.05, beta: 1, queries: 16}
training: {steps: 6, batch_size: 8, lr: 1e-3}
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of 20 trained networks and a hyper-representation nobody trained."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("samplers")
    (folder / "zoo.yaml").write_text(SPEC)
    (folder / "train.yaml").write_text(TRAINING)
    build_zoo(make_plan(load_spec(folder / "zoo.yaml")), folder / "zoo", show_progress=False)
    zoo = zookeeper.open(folder / "zoo")
    scaling = Scaling.fit(torch.from_numpy(zoo.weights()), zoo.layout)
    hyper = HyperRepresentation.initialise(load_config(folder / "train.yaml"), zoo.layout, scaling, seed=0)
    hyper.save(folder / "model")
    return folder


@pytest.fixture(scope="module")
def zoo(place: Path) -> zookeeper.Zoo:
    return zookeeper.open(place / "zoo")


@pytest.fixture(scope="module")
def examiner(zoo: zookeeper.Zoo) -> Examiner:
    return build_examiner(zoo)


@pytest.fixture(scope="module")
def anchors(zoo: zookeeper.Zoo) -> Anchors:
    return select_anchors(zoo, AnchorSection(share=1.0))


@pytest.fixture
def hyperrep(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hyperrep", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return (ended.value.code, *capfd.readouterr())

    return run


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_images_may_lie_elsewhere(hyperrep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zoos do not say where their images lie: that is for this machine and this command to say."""
    monkeypatch.setenv(ROOT_VARIABLE, "nowhere")
    assert hyperrep("--data-root", tmp_path, "samplers")[0] == 0
    assert find_root(None) == tmp_path


# --- roles -------------------------------------------------------------------------------------------------------


def test_validation_images_hold_no_other_images(examiner: Examiner, anchors: Anchors) -> None:
    validation = ValidationImages.of(examiner)
    assert set(validation.examiner.images) == {"val"}
    expected = examiner.scores(anchors.checkpoints.rows, "val")[0]
    np.testing.assert_array_equal(validation.scores(anchors.checkpoints.rows)[0], expected)
    with pytest.raises(InputError, match="no validation images"):
        ValidationImages.of(Examiner(examiner.population, {"test": examiner.images["test"]}))


def test_selection_never_reads_test_images(zoo: zookeeper.Zoo, examiner: Examiner, anchors: Anchors) -> None:
    """The same networks are kept whatever the test images are."""
    broken = LabelledImages(examiner.images["test"].images * torch.nan, examiner.images["test"].labels)
    other = Examiner(examiner.population, {**examiner.images, "test": broken})
    method = Method(WeightSpace(zoo.layout), AnchorNoise(0.3))
    kept = [
        subsample(method, anchors, Selection(30, rounds=1), 8, ValidationImages.of(one), draw()).rows
        for one in (examiner, other)
    ]
    np.testing.assert_array_equal(*kept)


@pytest.mark.parametrize("role", ["val", "test"])
def test_anchors_of_another_split(zoo: zookeeper.Zoo, role: str) -> None:
    with pytest.raises(InputError, match=f"expected models of the train split, got the {role} split"):
        Anchors.select(read_split(zoo, role))  # type: ignore[arg-type]


# --- subsampling and bootstrapping -------------------------------------------------------------------------------


def test_subsampling_keeps_the_best_on_validation(zoo: zookeeper.Zoo, examiner: Examiner, anchors: Anchors) -> None:
    method, validation = Method(WeightSpace(zoo.layout), AnchorNoise(0.5)), ValidationImages.of(examiner)
    drawn = method.fit(anchors.checkpoints.rows).draw(40, draw()).rows
    accuracy, loss = validation.scores(drawn)
    best = sorted(range(40), key=lambda n: (-accuracy[n], loss[n]))[:10]
    kept = subsample(method, anchors, Selection(40), 10, validation, draw())
    np.testing.assert_array_equal(kept.rows, drawn[best])
    np.testing.assert_array_equal(kept.val_acc, accuracy[best])


def test_bootstrapping_takes_the_best_as_the_next_anchors(
    zoo: zookeeper.Zoo, examiner: Examiner, anchors: Anchors
) -> None:
    method, validation = Method(WeightSpace(zoo.layout), AnchorNoise(0.5)), ValidationImages.of(examiner)
    generator = draw()
    first = subsample(method, anchors, Selection(40), 10, validation, generator)
    by_hand = subsample(method, first, Selection(40), 10, validation, generator)
    both = subsample(method, anchors, Selection(40, rounds=1), 10, validation, draw())
    np.testing.assert_array_equal(both.rows, by_hand.rows)
    assert both.val_acc.mean() >= first.val_acc.mean() - 0.05


def test_diverse_keeps_accurate_networks_that_lie_apart(
    zoo: zookeeper.Zoo, examiner: Examiner, anchors: Anchors
) -> None:
    method, validation = Method(WeightSpace(zoo.layout), AnchorNoise(0.3)), ValidationImages.of(examiner)
    floor = validation.scores(anchors.checkpoints.rows)[0].mean()
    best, diverse = (
        subsample(method, anchors, Selection(200, keep), 8, validation, draw())  # type: ignore[arg-type]
        for keep in ("best", "diverse")
    )
    assert diverse.val_acc.min() >= floor
    assert pdist(diverse.rows).mean() > pdist(best.rows).mean()


def test_farthest_first_by_a_plain_loop() -> None:
    points = draw().normal(size=(20, 3))
    chosen = [0]
    while len(chosen) < 6:
        gaps = [min(np.linalg.norm(point - points[c]) for c in chosen) for point in points]
        chosen.append(int(np.argmax(gaps)))
    assert farthest_first(points, 6).tolist() == chosen
    assert sorted(farthest_first(np.zeros((4, 2)), 4).tolist()) == [0, 1, 2, 3]


def test_networks_that_output_nan_are_never_kept(zoo: zookeeper.Zoo, examiner: Examiner, anchors: Anchors) -> None:
    class Breaks(WeightSpace):
        def decode(self, latents: np.ndarray) -> np.ndarray:
            rows = super().decode(latents)
            rows[::2] = np.nan
            return rows

    method, validation = Method(Breaks(zoo.layout), AnchorNoise()), ValidationImages.of(examiner)
    assert np.isfinite(subsample(method, anchors, Selection(20), 10, validation, draw()).rows).all()
    with pytest.raises(InputError, match="10 of 20 draws have a finite loss; expected 11"):
        subsample(method, anchors, Selection(20), 11, validation, draw())


def test_selections_that_cannot_be(zoo: zookeeper.Zoo, examiner: Examiner, anchors: Anchors) -> None:
    method, validation = Method(WeightSpace(zoo.layout), AnchorNoise(50.0)), ValidationImages.of(examiner)
    with pytest.raises(InputError, match="cannot keep 20 of 10 draws"):
        subsample(method, anchors, Selection(10), 20, validation, draw())
    with pytest.raises(InputError, match=r"the anchors' mean, 0\.\d+, or more; expected 10"):
        subsample(method, anchors, Selection(10, "diverse"), 10, validation, draw())
    with pytest.raises(InputError, match="draws must be 1 or more"):
        Selection(0)


# --- spaces, alignment, latents that cannot be used --------------------------------------------------------------


class Fixed:
    """An autoencoder with latents of its own."""

    def __init__(self, latents: np.ndarray) -> None:
        self.latents = latents

    def encode(self, rows: np.ndarray) -> np.ndarray:
        return self.latents[: len(rows)]

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return latents.reshape(len(latents), -1)


def test_dead_latents_are_an_error_or_are_kept() -> None:
    latents = draw().normal(size=(30, 4, 3)).astype(np.float32)
    latents[:, 1, 2] = 0.25
    with pytest.raises(InputError, match=r"1 of 12 latent dimensions never varies.*\(first: 5\)"):
        Method(Fixed(latents), Kde(together="token")).fit(np.zeros((30, 5)))
    for sampler in (Kde(together="token"), Crossover(), PcaKde(num_components=4)):
        drawn = Method(Fixed(latents), sampler, keep_constant=True).fit(np.zeros((30, 5))).draw(6, draw())
        assert drawn.latents.shape == (6, 4, 3)
        assert (drawn.latents[:, 1, 2] == np.float32(0.25)).all()
        assert len(np.unique(drawn.latents[:, 1, 1])) > 1
    with pytest.raises(InputError, match="all anchors have the same latent"):
        Method(Fixed(latents[:1].repeat(9, 0)), Kde(), keep_constant=True).fit(np.zeros((9, 5)))
    latents[7] = np.nan
    with pytest.raises(InputError, match="1 of 30 anchors hold NaN"):
        Method(Fixed(latents), Kde(), keep_constant=True).fit(np.zeros((30, 5)))


def test_one_latent_per_network_has_no_tokens() -> None:
    method = Method(Fixed(draw().normal(size=(30, 6)).astype(np.float32)), Crossover())
    with pytest.raises(InputError, match="these latents have no tokens"):
        method.fit(np.zeros((30, 5)))


def test_crossover_of_weights_takes_whole_neurons(zoo: zookeeper.Zoo, anchors: Anchors) -> None:
    space, rows = WeightSpace(zoo.layout), anchors.checkpoints.rows
    child = Method(space, Crossover()).fit(rows).draw(1, draw()).rows[0]
    for neuron in np.unique(space.tokens):
        own = space.tokens == neuron
        assert (rows[:, own] == child[own]).all(axis=1).any()
    with pytest.raises(InputError, match=r"weights: rows have shape \(2, 7\); expected \[N, 100\]"):
        space.encode(np.zeros((2, 7), np.float32))


def test_aligned_anchors_compute_the_same_and_lie_closer(
    zoo: zookeeper.Zoo, examiner: Examiner, anchors: Anchors
) -> None:
    aligned = anchors.aligned(read_symmetry(zoo))
    before, after = anchors.checkpoints.rows, aligned.checkpoints.rows
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(np.sort(before, axis=1), np.sort(after, axis=1))
    np.testing.assert_allclose(examiner.scores(after, "val")[1], examiner.scores(before, "val")[1], rtol=1e-4)
    best = anchors.checkpoints.frame["val_acc"].argmax()
    assert np.linalg.norm(after - after[best], axis=1).sum() < np.linalg.norm(before - before[best], axis=1).sum()


def test_images_of_the_wrong_shape(examiner: Examiner, anchors: Anchors) -> None:
    wrong = LabelledImages(torch.zeros(10, 1, 5, 5), torch.zeros(10, dtype=torch.int64))
    validation = ValidationImages.of(Examiner(examiner.population, {"val": wrong}))
    with pytest.raises(InputError, match=r"images have shape \(10, 1, 5, 5\); expected \[B, 1, 4, 4\]"):
        validation.scores(anchors.checkpoints.rows)


def test_a_hyper_representation_of_another_architecture(place: Path, zoo: zookeeper.Zoo, examiner: Examiner) -> None:
    network = build_network("mlp", in_channels=1, image_size=(5, 5), num_classes=4, activation="tanh")
    layout = Population(network, (1, 5, 5)).layout
    config = load_config(place / "train.yaml")
    other = HyperRepresentation.initialise(config, layout, Scaling.identity(layout), seed=0)
    with pytest.raises(InputError, match=r"holds another architecture \(100 weights\) than the one"):
        check_fits(other, zoo)
    with pytest.raises(InputError, match="Choose another zoo"):
        generate(Recipe(), other, zoo, examiner)
    with pytest.raises(InputError, match="encode: rows have shape"):
        Method(other, Kde()).fit(zoo.weights())


# --- batch norm --------------------------------------------------------------------------------------------------


def small_net() -> nn.Module:
    convolution = nn.Conv2d(1, 3, 3, padding=1, bias=False)
    return nn.Sequential(
        convolution, nn.BatchNorm2d(3, momentum=0.1), nn.ReLU(), nn.Flatten(),
        nn.Linear(3 * 16, 5), nn.BatchNorm1d(5, momentum=0.3), nn.ReLU(), nn.Linear(5, 2),
    )  # fmt: skip


def test_conditioning_is_update_bn_for_every_network() -> None:
    torch.manual_seed(0)
    networks = [small_net() for _ in range(3)]
    population = Population(networks[0], (1, 4, 4))
    images = torch.randn(64, 1, 4, 4)
    rows = torch.stack([row_of(network, population.layout) for network in networks]).numpy()
    decoded = rows.copy()
    decoded[:, population.layout.num_trainable :] = -7.0  # what a decoder makes of statistics
    conditioned = BatchNormConditioning(population, images, batches=3, batch_size=16, seed=4)(decoded)
    order = torch.randperm(64, generator=keyed_generator(4, "batch norm"))
    for network, row in zip(networks, conditioned, strict=True):
        update_bn([images[order[n * 16 : (n + 1) * 16]] for n in range(3)], network)
        np.testing.assert_allclose(row, row_of(network, population.layout).numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(
        conditioned[:, : population.layout.num_trainable], rows[:, : population.layout.num_trainable]
    )
    assert (decoded[:, population.layout.num_trainable :] == -7.0).all()  # the input is left alone


def test_conditioning_makes_a_registered_network_work_again() -> None:
    """ResNet-18 with ruined running statistics: outputs return to those of its own."""
    torch.manual_seed(0)
    network = build_network("resnet18-cifar", in_channels=1, image_size=(4, 4), num_classes=3)
    images = torch.randn(24, 1, 4, 4)
    population = Population(network, (1, 4, 4))
    update_bn([images], network)
    row = row_of(network, population.layout)[None]
    ruined = row.clone()
    ruined[:, population.layout.num_trainable :] = 3.0
    again = BatchNormConditioning(population, images, batches=1, batch_size=24)(ruined.numpy())
    before, after, wrong = (population.forward(one, images) for one in (row, torch.from_numpy(again), ruined))
    assert (after - before).abs().max() < 0.02 * (wrong - before).abs().max()


def test_conditioning_leaves_networks_without_statistics_alone(examiner: Examiner, anchors: Anchors) -> None:
    rows = anchors.checkpoints.rows
    assert BatchNormConditioning.of(examiner)(rows) is rows
    for settings, message in (({"batches": 0}, "batches must be 1"), ({"batch_size": 1}, "batch_size 2 or more")):
        with pytest.raises(InputError, match=message):
            BatchNormConditioning.of(examiner, **settings)
    with pytest.raises(InputError, match=r"images have shape \(9, 1, 5, 5\); expected \[n, 1, 4, 4\]"):
        BatchNormConditioning(examiner.population, torch.zeros(9, 1, 5, 5))


# --- recipes, stored samples, commands ---------------------------------------------------------------------------


def test_a_recipe_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "sampler: {name: kde, bandwidth: 0.3}\nselection: {draws: 50, keep: diverse}\nanchors: {share: 1}\n"
    )
    recipe = load_recipe(path)
    assert recipe.build_sampler() == Kde(bandwidth=0.3)
    assert (recipe.selection.draws, recipe.anchors.share, recipe.samples) == (50, 1.0, 200)
    assert recipe.description["sampler"] == {
        "name": "kde", "together": "dimension", "bandwidth": 0.3, "kernel": "diagonal", "spread": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 0\nsampler: {name: kdr}\n", r"recipe.yaml:2 sampler: unknown sampler 'kdr'.*Did you mean kde"),
        ("sampler: {name: kde, bandwith: 1}\n", "recipe.yaml:1 sampler: .*Did you mean bandwidth"),
        ("sampler: {bandwidth: 1}\n", "sampler: has no name"),
        ("sample: 3\n", r"unknown key 'sample'.*Did you mean sample"),
        ("anchors: {share: 0}\n", "anchors.share"),
        ("space: latent\n", "Did you mean latents"),
    ],
)
def test_wrong_recipes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(SpecError, match=message):
        load_recipe(tmp_path / "recipe.yaml")


def test_stored_samples_say_where_they_come_from_and_compute_what_they_say(
    place: Path, zoo: zookeeper.Zoo, examiner: Examiner, tmp_path: Path, run: Callable[..., object]
) -> None:
    recipe = with_changes(Recipe(), {"sampler": {"name": "noise", "scale": 0.2}, "space": "weights", "samples": 6})
    result = generate(recipe, load(place / "model"), zoo, examiner)
    target = tmp_path / "samples"
    store_samples(
        target, result.rows, result.samples, zoo, result.anchors, sampler=recipe.description, model=place / "model"
    )
    stored = zookeeper.open(target)
    provenance = stored.header.provenance
    assert stored.header.kind == "sampled"
    assert provenance["zoo"]["digest"] == zoo.header.digest
    assert provenance["sampler"]["sampler"] == {"name": "noise", "scale": 0.2}
    assert provenance["sampler"]["space"] == "weights"
    known = result.anchors.checkpoints.frame
    assert provenance["anchors"]["model_ids"] == known["model_id"].tolist()
    assert provenance["anchors"]["epochs"] == known["epoch"].tolist()
    assert set(zoo.split("train").frame["model_id"]) >= set(provenance["anchors"]["model_ids"])
    assert len(provenance["hyper_representation_hash"]) == 32
    np.testing.assert_array_equal(stored.weights(), result.rows)
    images = examiner.images["test"]
    for line in stored.frame.to_dict("records"):
        network = stored.network(str(line["model_id"]), 0)
        with torch.no_grad():
            accuracy = (network(images.images).argmax(1) == images.labels).float().mean()
        assert float(accuracy) == pytest.approx(float(line["test_acc"]), abs=1e-6)
    for arguments in (["verify", target], ["verify", target, "--deep"], ["info", target]):
        assert run(*arguments).code == 0, arguments  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="expected the folder of a saved hyper-representation"):
        store_samples(
            tmp_path / "x", result.rows, result.samples, zoo, result.anchors, sampler={}, model=tmp_path / "no"
        )
    with pytest.raises(InputError, match=r"samples have shape \(6, 99\); expected \[n, 100\]"):
        store_samples(
            tmp_path / "x", result.rows[:, 1:], result.samples, zoo, result.anchors, sampler={}, model=place / "model"
        )


def test_sample_command(place: Path, tmp_path: Path, hyperrep: Run) -> None:
    (tmp_path / "recipe.yaml").write_text("sampler: {name: kde, together: token}\nanchors: {share: 1}\nsamples: 4\n")
    common = ["sample", place / "model", place / "zoo", "--recipe", tmp_path / "recipe.yaml", "--json", "--out"]
    draws = []
    for name, options in (("a", []), ("b", []), ("c", ["--seed", 1]), ("d", ["--set", "bandwidth=silverman"])):
        code, out, err = hyperrep(*common, tmp_path / name, *options)
        assert code == 0, err
        assert json.loads(out)["num_samples"] == 4
        draws.append(zookeeper.open(tmp_path / name))
    np.testing.assert_array_equal(draws[0].weights(), draws[1].weights())
    assert not np.array_equal(draws[0].weights(), draws[2].weights())
    settings = draws[3].header.provenance["sampler"]["sampler"]
    assert (settings["together"], settings["bandwidth"]) == ("token", "silverman")
    options = ["--sampler", "crossover", "--align", "--draws", 9, "--keep", "best", "--rounds", 1, "--space", "weights"]
    assert hyperrep(*common, tmp_path / "e", *options)[0] == 0
    recipe = zookeeper.open(tmp_path / "e").header.provenance["sampler"]
    assert recipe["selection"] == {"draws": 9, "keep": "best", "rounds": 1}
    assert recipe["anchors"]["align"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "kdee"], "unknown sampler 'kdee'"),
        (["--sampler", "kde", "--set", "bandwith=1"], "Did you mean bandwidth?"),
        (["--set", "bandwidth"], "expected key=value"),
        (["--set", "num_components=[1]"], "sampler.num_components"),
        (["--space", "weight"], "expected latents or weights"),
        (["--keep", "worst"], "expected best or diverse"),
        (["--anchor-share", 0], "expected a share above 0"),
        (["--rounds", 1], "rounds and keep need draws"),
        (["--epoch", 77], "no checkpoints of epoch 77"),
        ([], "too few anchors"),
    ],
)
def test_wrong_sample_commands(place: Path, tmp_path: Path, hyperrep: Run, options: list[object], message: str) -> None:
    code, out, err = hyperrep("sample", place / "model", place / "zoo", "--out", tmp_path / "x", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_samplers_command_lists_them_all(hyperrep: Run) -> None:
    code, out, _ = hyperrep("samplers", "--json")
    assert code == 0
    assert {"name": "noise", "scale": 0.1} in json.loads(out)
    code, out, _ = hyperrep("samplers")
    assert code == 0
    assert "crossover" in out


def test_the_front_measures_every_method_beside_the_anchors(
    place: Path, zoo: zookeeper.Zoo, examiner: Examiner
) -> None:
    methods = {
        "copies": {"sampler": {"name": "noise", "scale": 0.0}, "space": "weights"},
        "best": {"sampler": {"name": "noise", "scale": 0.3}, "space": "weights", "selection.draws": 3},
        "refused": {"sampler": {"name": "flow"}},
    }
    front = sampler_front(load(place / "model"), zoo, examiner, methods, num=40, anchor_share=1.0).set_index("method")
    assert list(front.index) == ["anchors", "reconstructed anchors", "copies", "best", "refused"]
    assert front.loc["anchors", ["diversity", "aligned_diversity"]].tolist() == pytest.approx([1, 1])
    assert front.loc["copies", ["novelty", "aligned_novelty"]].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert "too few anchors" in front.loc["refused", "error"]
    assert front.loc["copies", "error"] == ""
    assert pd.isna(front.loc["refused", "val_acc"])
