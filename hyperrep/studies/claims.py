"""What a study was expected to show, checked against what it measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hyperrep.report.tables import ReportTable
from hyperrep.studies.config import ClaimSection
from hyperrep.studies.table_config import ClaimSection as CellClaim
from hyperrep.studies.table_config import TableSection


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence, the number it is about, and the bound the number must reach; held if it does.

    ``unit`` is ``%`` (shares), ``points`` (differences of shares) or empty. A NaN never holds.
    """

    text: str
    value: float
    bound: float
    at_most: bool
    unit: str
    source: str

    @property
    def held(self) -> bool:
        """Whether the measured value keeps to the bound."""
        if math.isnan(self.value) or math.isnan(self.bound):
            return False
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def verdict(self) -> str:
        """``held``, ``not held`` or ``not measured``."""
        if math.isnan(self.value) or math.isnan(self.bound):
            return "not measured"
        return "held" if self.held else "not held"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "claim": self.text,
            "value": self.value,
            "bound": self.bound,
            "relation": "<=" if self.at_most else ">=",
            "held": self.held,
            "unit": self.unit,
            "source": self.source,
        }


def check_claims(
    bounds: ClaimSection,
    *,
    baseline: str,
    behaviour: str,
    reconstructions: pd.DataFrame,
    generations: pd.DataFrame,
    probes: pd.DataFrame,
    rivals: tuple[str, ...],
) -> list[Claim]:
    """Check the study's claims.

    Parameters
    ----------
    baseline, behaviour
        Labels of the two hyper-representations.
    reconstructions
        `hyperrep.tasks.reconstruct.summarise` with a column ``losses``.
    generations
        `hyperrep.tasks.generate.summarise_samples` with a column ``losses``.
    probes
        `hyperrep.tasks.probe.probe`; ``rivals`` are the feature sets the embedding is to beat on test
        accuracy. A rival of several seeds has rows ``name seed``; the best of its seeds counts.
    """
    chosen = reconstructions[reconstructions["models"] == "above chance"].set_index("losses")
    above, num = chosen["agreement"].to_dict(), int(chosen["num"].to_dict()[behaviour])
    sampled = generations.set_index("losses").to_dict("index")[behaviour]
    where = f"mean over {num:,} checkpoints of test-split models above chance, on test images"
    claims = [
        Claim(
            f"{behaviour}: reconstructions predict the same class as their originals",
            float(above[behaviour]), bounds.agreement, at_most=False, unit="%", source=where,
        ),
        Claim(
            f"{baseline}: agreement is lower by",
            float(above[behaviour] - above[baseline]), bounds.agreement_gap, at_most=False, unit="points", source=where,
        ),
        Claim(
            f"{behaviour}: the best sample is behind the best model of the zoo by",
            float(sampled["zoo_selected_test_acc"] - sampled["selected_test_acc"]), bounds.sample_within,
            at_most=True, unit="points", source="both chosen on validation images, compared on test images",
        ),
    ]  # fmt: skip
    accuracy = probes[probes["property"] == "test_acc"].set_index("features")["value"].to_dict()
    for rival in rivals:
        scores = [value for name, value in accuracy.items() if name == rival or is_seed_of(str(name), rival)]
        several = f" (the best of {len(scores)} seeds)" if len(scores) > 1 else ""
        claims.append(
            Claim(
                f"{behaviour}: R2 of test accuracy is above {rival}{several}",
                float(accuracy[behaviour]), max(scores, default=math.nan), at_most=False, unit="",
                source="ridge probe fitted on train models, scored on test models",
            )
        )  # fmt: skip
    return claims


def check_cells(
    wanted: Sequence[CellClaim], tables: Mapping[str, pd.DataFrame], sections: Mapping[str, TableSection]
) -> list[Claim]:
    """Check claims about cells of tables.

    Parameters
    ----------
    tables, sections
        `hyperrep.studies.tabulate.tabulate` and what it was asked for, by name of the table. A cell that is not
        there, as at a scale that measures less, is NaN.
    """
    claims = []
    for claim in wanted:
        table, section = tables[claim.table], sections[claim.table]
        bound = claim.bound if isinstance(claim.bound, float) else _cell(table, claim.bound)
        factor, unit = (0.01, "%") if section.unit == "%" else (1.0, "")
        value = _cell(table, claim.cell)
        source = f"table {claim.table}"
        at_most = claim.at_most is not None
        claims.append(Claim(claim.text, factor * value, factor * bound, at_most, unit, source))
    return claims


def _cell(table: pd.DataFrame, cell: tuple[str, str] | None) -> float:
    assert cell is not None
    found = table[(table["row"] == cell[0]) & (table["column"] == cell[1])]["measured"].astype(float)
    return float(found.iloc[0]) if len(found) else math.nan


def is_seed_of(name: str, rival: str) -> bool:
    """Whether a feature set is one seed of a baseline.

    >>> is_seed_of("untrained encoder 2", "untrained encoder"), is_seed_of("C + S + B", "C + S")
    (True, False)
    """
    return name.startswith(rival + " ") and name[len(rival) + 1 :].isdigit()


def format_claim_values(claim: Claim) -> tuple[str, str]:
    """Value and bound as a reader wants them.

    >>> format_claim_values(Claim("agreement", 0.934, 0.8, at_most=False, unit="%", source=""))
    ('93.4 %', '>= 80.0 %')
    """
    sign = "<=" if claim.at_most else ">="
    return format_value(claim, claim.value), f"{sign} {format_value(claim, claim.bound)}"


def format_value(claim: Claim, value: float) -> str:
    """A number in the unit of a claim.

    >>> format_value(Claim("agreement", 0.934, 0.8, at_most=False, unit="%", source=""), 0.8125)
    '81.2 %'
    """
    return f"{value:.3f}" if claim.unit == "" else f"{100 * value:.1f} {claim.unit}"


def seed_table(claims: Mapping[int, Sequence[Claim]]) -> ReportTable:
    """Every claim over the seeds of the hyper-representations: mean, deviation, range, how often it held.

    Parameters
    ----------
    claims
        The claims of a study, in the same order, by seed.
    """
    rows, missed = [], set()
    for number, per_seed in enumerate(zip(*claims.values(), strict=True)):
        values = np.array([claim.value for claim in per_seed])
        num_held = sum(claim.held for claim in per_seed)
        if num_held < len(per_seed):
            missed.add((number, 4))
        first = per_seed[0]
        _, bound = format_claim_values(first)
        if len({claim.bound for claim in per_seed}) > 1:
            bound = ("<=" if first.at_most else ">=") + " its rival"
        cells = (format_value(first, values.mean()), format_value(first, values.std(ddof=1)))
        span = f"{format_value(first, values.min())} to {format_value(first, values.max())}"
        rows.append((first.text, " ± ".join(cells), span, bound, f"{num_held} of {len(per_seed)}"))
    header = ("claim", "mean ± deviation", "range", "expected", "held")
    note = f"seeds {', '.join(map(str, claims))} of the hyper-representations on one zoo; deviation over seeds"
    return ReportTable("Claims over seeds", header, tuple(rows), note, frozenset(missed))


def claim_table(claims: list[Claim]) -> ReportTable:
    """Every claim with its number, its bound and the verdict."""
    rows = tuple((claim.text, *format_claim_values(claim), claim.verdict) for claim in claims)
    emphasis = frozenset((number, 3) for number, claim in enumerate(claims) if not claim.held)
    notes = "; ".join(dict.fromkeys(claim.source for claim in claims))
    return ReportTable("Claims", ("claim", "measured", "expected", "verdict"), rows, notes, emphasis)
