"""Claims are computed, tables and pages are escaped and complete, figures draw from tidy frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from hyperrep.report import figures
from hyperrep.report.page import PageFigure, PageSection, render_page
from hyperrep.report.tables import ReportTable, generation_table, probe_table, reconstruction_table
from hyperrep.studies.claims import Claim, check_claims, claim_table
from hyperrep.studies.config import ClaimSection
from hyperrep.studies.writing import merge_seeds
from zookeeper.errors import InputError
from zookeeper.report.figures import accuracy_by_epoch
from zookeeper.report.style import save_figure

LABELS = ("C + S", "C + S + B")


def _reconstructions(baseline: float, behaviour: float) -> pd.DataFrame:
    values = {"num": 10, "l2": 3.0, "l2_std": 1.0, "agreement_std": 0.1, "acc": 0.8, "acc_reconstructed": 0.7}
    return pd.DataFrame(
        [
            {"losses": label, "models": models, "agreement": share, "best_acc": 0.9, "best_acc_reconstructed": 0.8}
            | values
            for label, share in zip(LABELS, (baseline, behaviour), strict=True)
            for models in ("all", "above chance")
        ]
    )


def _generations(selected: float) -> pd.DataFrame:
    record = {
        "num_samples": 20, "num_anchors": 9, "anchor_threshold": 0.9, "selected_test_acc": selected,
        "zoo_selected_test_acc": 0.96, "mean_test_acc": 0.8, "median_test_acc": 0.8, "max_test_acc": 0.97,
        "zoo_max_test_acc": 0.98, "anchor_mean_test_acc": 0.93, "novelty": 0.7, "diversity": 2.0,
        "anchor_diversity": 8.0, "disagreement": 0.1, "anchor_disagreement": 0.2,
    }  # fmt: skip
    return pd.DataFrame([record | {"losses": label} for label in LABELS])


def _probes(behaviour: float) -> pd.DataFrame:
    scores = {"W": -3.0, "s(W)": 0.4, "untrained encoder 0": -0.2, "untrained encoder 1": 0.2}
    scores |= {"C + S": 0.1, "C + S + B": behaviour}
    return pd.DataFrame(
        [
            {"features": name, "property": label, "score": "r2", "value": value, "low": value - 0.1,
             "high": value + 0.1, "num_features": 4, "num_train": 80, "num_test": 20}
            for name, value in scores.items()
            for label in ("test_acc", "lr")
        ]
    )  # fmt: skip


def _claims(agreement: tuple[float, float], selected: float, r2: float) -> list[Claim]:
    return check_claims(
        ClaimSection(),
        baseline=LABELS[0],
        behaviour=LABELS[1],
        reconstructions=_reconstructions(*agreement),
        generations=_generations(selected),
        probes=_probes(r2),
        rivals=("W", "s(W)", "untrained encoder"),
    )


def test_claims_follow_the_numbers() -> None:
    claims = _claims((0.2, 0.9), 0.95, 0.7)
    assert [claim.held for claim in claims] == [True] * 6
    assert claims[0].value == 0.9
    assert claims[1].value == pytest.approx(0.7)
    assert claims[2].value == pytest.approx(0.01)
    assert [claim.bound for claim in claims[3:]] == [-3.0, 0.4, 0.2]  # the best untrained seed counts
    assert "best of 2 seeds" in claims[5].text


@pytest.mark.parametrize(
    ("agreement", "selected", "r2", "broken"),
    [
        ((0.2, 0.79), 0.95, 0.7, [0]),
        ((0.65, 0.9), 0.95, 0.7, [1]),
        ((0.2, 0.9), 0.92, 0.7, [2]),
        ((0.2, 0.9), 0.95, 0.39, [4]),
        ((0.2, 0.9), 0.95, 0.1, [4, 5]),
        ((float("nan"), 0.9), 0.95, 0.7, [1]),
    ],
)
def test_a_claim_that_does_not_hold_is_said_so(
    agreement: tuple[float, float], selected: float, r2: float, broken: list[int]
) -> None:
    claims = _claims(agreement, selected, r2)
    assert [number for number, claim in enumerate(claims) if not claim.held] == broken
    rows = claim_table(claims).rows
    assert [number for number, row in enumerate(rows) if row[-1] != "held"] == broken  # or "not measured"


def test_seeds_of_a_baseline_become_one_row_in_their_place() -> None:
    merged = merge_seeds(_probes(0.7))
    assert list(dict.fromkeys(merged["features"])) == ["W", "s(W)", "untrained encoder", "C + S", "C + S + B"]
    row = merged[(merged["features"] == "untrained encoder") & (merged["property"] == "lr")].iloc[0]
    assert row["value"] == pytest.approx(0.0)
    assert row["spread"] == pytest.approx(0.2)
    assert (row["low"], row["high"]) == (-0.2, 0.2)
    assert len(merge_seeds(_probes(0.7), name="nothing")) == 12


def test_tables_print_and_escape() -> None:
    table = ReportTable("T <b>", ("name", "value"), (("a & b", "1"),), note="n", emphasis=frozenset({(0, 1)}))
    assert "T &lt;b&gt;" in table.to_html()
    assert "a &amp; b" in table.to_html()
    assert '<td class="strong">1</td>' in table.to_html()
    console = Console(record=True, width=120, file=Path("/dev/null").open("w"))  # noqa: SIM115
    for shown in (
        table,
        probe_table(merge_seeds(_probes(0.7)), num_train=80, num_test=20),
        reconstruction_table(_reconstructions(0.2, 0.9)),
        generation_table(_generations(0.95)),
    ):
        shown.print_to(console)
    console.file.close()
    text = console.export_text()
    assert "-3.000" in text
    assert "90.0 %" in text
    assert "0.000 ± 0.200" in text


def _figure_frames() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    generator = np.random.default_rng(0)
    zoo = pd.DataFrame(
        {
            "model_id": np.repeat([f"m{i}" for i in range(8)], 3),
            "epoch": np.tile([0, 1, 5], 8),
            "init": np.repeat(["normal", "uniform"], 12),
            "test_acc": generator.uniform(size=24),
        }
    )
    parts = [
        {"losses": label, "population": population, "acc": value}
        for label in LABELS
        for population in ("originals", "reconstructions", "samples")
        for value in generator.uniform(size=9)
    ]
    pairs = pd.DataFrame(
        {
            "losses": np.repeat(LABELS, 9),
            "l2": generator.uniform(1, 5, size=18),
            "agreement": generator.uniform(size=18),
            "above_chance": np.arange(18) < 9,  # the second has no model above chance
        }
    )
    samples = pd.DataFrame(
        {
            "losses": np.repeat(LABELS, 9),
            "novelty": generator.uniform(size=18),
            "test_acc": generator.uniform(size=18),
            "selected": np.arange(18) % 9 == 2,
        }
    )
    return zoo, pd.DataFrame(parts), pairs, samples


def _log() -> pd.DataFrame:
    half = pd.DataFrame(
        {"step": [10, 20, 30], "val_agreement": [0.1, np.nan, 0.5], "val_structure": [1.0, np.nan, 0.6]}
    )
    return pd.concat([half.assign(losses=label) for label in LABELS])


def test_every_figure_is_drawn_and_the_page_holds_them(tmp_path: Path) -> None:
    zoo, populations, pairs, samples = _figure_frames()
    drawn = {
        "zoo": accuracy_by_epoch(zoo),
        "one": accuracy_by_epoch(zoo[zoo["epoch"] == 0].drop(columns="init")),
        "accuracy": figures.accuracy_distributions(populations, best=0.9),
        "pairs": figures.pairwise_distributions(pairs),
        "training": figures.training_curves(_log()),
        "novelty": figures.novelty(samples, references={"zoo": 0.9, "anchors": 0.8}),
        "probes": figures.probe_scores(merge_seeds(_probes(0.7)), properties=["test_acc", "lr"], highlight=LABELS),
    }
    for name, figure in drawn.items():
        save_figure(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = render_page(
        "T", "lead", [PageSection("S", "text", (PageFigure(tmp_path / "zoo.png", 'a "caption"'),))], ["end"]
    )
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page
    assert "a &quot;caption&quot;" in page


def test_a_zoo_figure_needs_checkpoints() -> None:
    with pytest.raises(InputError, match="expected checkpoints"):
        accuracy_by_epoch(pd.DataFrame({"epoch": [1]}))
