"""Barriers along straight lines: by hand, invariant where they must be, and the command that draws them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

import zookeeper
from hyperrep.cli_align import align
from hyperrep.tasks.barrier import barrier, compare_alignment, draw_pairs, interpolate, summarise_barriers
from hyperrep.tasks.behaviour import Examiner, LabelledImages
from zookeeper.build import build_zoo
from zookeeper.errors import InputError
from zookeeper.nets.registry import build_network
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population
from zookeeper.spec.plan import make_plan
from zookeeper.spec.schema import load_spec

NET = build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4, activation="tanh")
SYMMETRY = Symmetry.of(NET, (1, 4, 4))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def examiner() -> Examiner:
    images = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Examiner(Population(NET, (1, 4, 4)), {"val": LabelledImages(images, torch.arange(50) % 4)})


def test_a_permuted_copy_has_a_barrier_that_alignment_takes_away(examiner: Examiner) -> None:
    starts = torch.randn(6, 100, generator=torch.Generator().manual_seed(1))
    ends = starts.gather(1, torch.from_numpy(SYMMETRY.draw(6, np.random.default_rng(0))))
    paths, pairs = compare_alignment(starts, ends, SYMMETRY, examiner, images="val", num_points=5)
    wide = pairs.pivot(index="pair", columns="alignment", values=["l2", "loss_barrier", "acc_barrier"])
    assert (wide["l2", "before"] > 1).all()
    assert (wide["l2", "after"] == 0).all()
    assert wide["loss_barrier", "before"].max() > 0.1
    assert wide[["loss_barrier", "acc_barrier"]].xs("after", axis=1, level=1).abs().max().max() < 1e-6
    summary = summarise_barriers(pairs).set_index("alignment")
    assert list(summary.index) == ["before", "after"]
    assert summary["num"].tolist() == [6, 6]
    assert len(paths) == 2 * 6 * 5


def test_paths_are_those_of_networks_evaluated_one_by_one(examiner: Examiner) -> None:
    starts, ends = torch.randn(2, 2, 100, generator=torch.Generator().manual_seed(1))
    paths, pairs = compare_alignment(starts, ends, SYMMETRY, examiner, images="val", num_points=4)
    part = examiner.images["val"]
    before = paths[paths["alignment"] == "before"]
    for pair, t, loss, acc in before[["pair", "t", "loss", "acc"]].to_numpy():
        row = (1 - t) * starts[int(pair)] + t * ends[int(pair)]
        logits = examiner.population.forward(row[None], part.images)[0]
        assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, part.labels)), abs=1e-5)
        assert acc == pytest.approx(float((logits.argmax(1) == part.labels).float().mean()))
    same_ends = paths[paths["t"].isin([0.0, 1.0])].pivot(index=["pair", "t"], columns="alignment", values="loss")
    np.testing.assert_allclose(same_ends["before"], same_ends["after"], atol=1e-5)
    assert (pairs["loss_barrier"] >= 0).all()


def test_a_barrier_is_measured_from_the_chord() -> None:
    rising = np.array([[0.0, 0.25, 0.5, 0.75, 1.0], [1.0, 4.0, 2.0, 1.0, 3.0]])
    assert barrier(rising).tolist() == [0.0, 2.5]
    with pytest.raises(InputError, match="3 points or more"):
        interpolate(torch.zeros(1, 3), torch.zeros(1, 3), 2)


def test_pairs_share_an_epoch_and_no_seed() -> None:
    frame = pd.DataFrame(
        {"model_id": np.repeat(list("abcdef"), 2), "epoch": [1, 2] * 6, "seed": np.repeat([0, 0, 1, 1, 2, 2], 2)}
    )
    pairs = draw_pairs(frame, 8, seed=1)
    first, second = frame.iloc[pairs[:, 0]], frame.iloc[pairs[:, 1]]
    assert (first["epoch"].to_numpy() == second["epoch"].to_numpy()).all()
    assert (first["seed"].to_numpy() != second["seed"].to_numpy()).all()
    assert len({frozenset(pair) for pair in pairs.tolist()}) == 8
    assert np.array_equal(pairs, draw_pairs(frame, 8, seed=1))
    with pytest.raises(InputError, match="fewer pairs or choose more models"):
        draw_pairs(frame, 13, seed=1)


SPEC = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.6, val: 0.2, test: 0.2}, seed: 0}
model: {architecture: mlp, activation: tanh, dropout: 0}
training: {optimizer: adam, batch_size: 64, epochs: 2, weight_decay: 0, lr: 1e-2}
grid: {init: [normal], seed: {range: [0, 10]}}
checkpoints: {every: 1}
split: {by: seed, train: 0.6, val: 0.2, test: 0.2, seed: 0}
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("align")
    (folder / "zoo.yaml").write_text(SPEC)
    build_zoo(make_plan(load_spec(folder / "zoo.yaml")), folder / "zoo", show_progress=False)
    return folder / "zoo"


def test_the_command_writes_figure_and_tables_twice_the_same(zoo: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(align)
    results = [
        CliRunner().invoke(app, [str(zoo), "--pairs", "4", "--points", "5", "--out", str(tmp_path / name), "--json"])
        for name in ("a", "b")
    ]
    assert [result.exit_code for result in results] == [0, 0]
    value = json.loads(results[0].stdout)
    assert [line["alignment"] for line in value["alignments"]] == ["before", "after"]
    assert value["alignments"][1]["l2"] <= value["alignments"][0]["l2"]
    for name in ("barriers.png", "pairs.csv", "paths.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    pairs = pd.read_csv(tmp_path / "a" / "pairs.csv")
    assert len(pairs) == 8
    assert set(pairs["start"]) <= set(zookeeper.open(zoo).frame["model_id"])


def test_the_command_refuses_what_is_not_there(zoo: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"images": "all"}, "expected train, val or test"),
        ({"pairs": 11}, "fewer pairs"),
        ({"epoch": 7}, "no checkpoints of epoch 7"),
    ):
        with pytest.raises(InputError, match=message):
            align(zoo, tmp_path, **changes)
