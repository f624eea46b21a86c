"""A study of a table or figure of a paper, as one typed YAML document over a shared setup.

A setup says which zoos and trainings there are and how they shrink with the scale; a study chooses among them
and says what is measured, and which of it fills the rows and columns of the paper's table.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyperrep.tasks.regroup import SplitScheme
from zookeeper.spec.document import Section
from zookeeper.spec.problems import Problem, raise_problems

Text = Annotated[str, Field(min_length=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Epochs = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
Scale = Literal["smoke", "cpu", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "cpu", "paper")
Labels = Annotated[tuple[Text, ...], Field(min_length=1)]


class SplitSection(Section):
    """Another split of a zoo's models than the stored one, for trainings and tasks alike: `SplitScheme`."""

    by: Text
    seed: NonNegativeInt = 0

    @property
    def scheme(self) -> SplitScheme:
        """The split as a value."""
        return SplitScheme(self.by, self.seed)


class ZooSource(Section):
    """A zoo of ``zoo_specs`` by name (``structure_and_behaviour/svhn``) or path, with changed entries.

    With ``split``, its models are put on other sides than the stored ones; the zoo itself is shared and stays.
    """

    spec: Text
    change: dict[str, Any] = Field(default_factory=dict)
    split: SplitSection | None = None


class TrainingSource(Section):
    """A packaged training configuration by name, or a path, with changed entries; on all zoos or these.

    With ``may_diverge``, a training that diverges is a result and not a failure of the study.
    """

    config: Text
    change: dict[str, Any] = Field(default_factory=dict)
    zoos: Labels | None = None
    may_diverge: bool = False


class ScaleSection(Section):
    """What a scale makes smaller: other zoos in place of the paper's, changed trainings, tasks and epochs.

    ``change`` goes over every training, ``trainings`` over one of them by its label. A zoo that is not named in
    ``zoos`` (if that is given) is not measured at this scale.
    """

    zoos: dict[Text, ZooSource] | None = None
    epochs: Epochs | None = None
    change: dict[str, Any] = Field(default_factory=dict)
    trainings: dict[Text, dict[str, Any]] = Field(default_factory=dict)
    tasks: dict[Text, dict[str, Any]] = Field(default_factory=dict)


class DifferenceSection(Section):
    """A row or column that is another one minus a third, as papers print improvements."""

    along: Literal["rows", "columns"]
    name: Text
    of: Text
    minus: Text


class TableSection(Section):
    """A table: which of the measured facts, by which keys in rows and columns.

    ``where`` keeps facts whose key has one of the values; ``names`` renames values of keys for people; a cell is
    the mean of the facts that fall into it. ``unit: "%"`` multiplies by 100. ``paper`` is a CSV file beside the
    study whose first column and header hold the same labels, joined by `` | ``. ``picture: false`` for tables of
    numbers that have no common scale.
    """

    name: Text
    title: Text
    tasks: Labels
    where: dict[Text, tuple[str, ...]] = Field(default_factory=dict)
    rows: Labels
    columns: Labels
    names: dict[Text, Text] = Field(default_factory=dict)
    unit: Literal["", "%"] = ""
    digits: Annotated[int, Field(ge=0, le=6)] = 3
    differences: tuple[DifferenceSection, ...] = ()
    paper: Text | None = None
    picture: bool = True
    note: str = ""


Cell = tuple[Text, Text]


class ClaimSection(Section):
    """A sentence about one cell of a table, held if the cell keeps to a bound: another cell, or a number.

    ``cell`` and the bound are labels of a row and a column as the table prints them; numbers are in its unit. Give
    ``at_least`` or ``at_most``. A cell that was not measured never holds.
    """

    text: Text
    table: Text
    cell: Cell
    at_least: Cell | float | None = None
    at_most: Cell | float | None = None

    @property
    def bound(self) -> Cell | float | None:
        """The cell or number it is held against."""
        return self.at_least if self.at_most is None else self.at_most


class FigureSection(Section):
    """A figure of facts or of single networks (``of: items``).

    ``lines``: ``y`` over ``x``, one line per ``hue``; ``distributions``: histograms of ``x``, one per ``hue``;
    ``points``: ``y`` over ``x``, coloured by ``hue``; ``dots``: ``x`` as a dot in a row for each ``y``, its range as a
    bar, one colour per ``hue``; ``numbers``: one number for every ``hue`` at its means of ``x`` and ``y``.
    One panel per value of ``panels``.
    """

    name: Text
    title: Text
    kind: Literal["lines", "distributions", "points", "dots", "numbers"]
    task: Text
    of: Literal["facts", "items"] = "facts"
    where: dict[Text, tuple[str, ...]] = Field(default_factory=dict)
    x: Text
    y: Text = "value"
    hue: Text
    panels: Text = "zoo"
    names: dict[Text, Text] = Field(default_factory=dict)
    x_label: str = ""
    y_label: str = ""


class TableStudy(Section):
    """A study of one table or figure of a paper.

    ``use`` and ``on`` choose among the trainings and zoos of the setup; ``epochs`` are the checkpoints that
    trainings and tasks see, all by default. ``needs`` says what is missing before it can be run.
    """

    version: Literal[1]
    name: Text
    shows: Text
    title: Text
    zoos: dict[Text, ZooSource] = Field(default_factory=dict)
    trainings: dict[Text, TrainingSource] = Field(default_factory=dict)
    use: tuple[Text, ...] | None = None
    on: Labels | None = None
    epochs: Epochs | None = None
    tasks: dict[Text, dict[str, Any]] = Field(default_factory=dict)
    scales: dict[Scale, ScaleSection] = Field(default_factory=dict)
    tables: tuple[TableSection, ...] = ()
    figures: tuple[FigureSection, ...] = ()
    claims: tuple[ClaimSection, ...] = ()
    source: str = ""
    note: str = ""
    needs: str = ""

    @model_validator(mode="after")
    def _check_names(self) -> TableStudy:
        problems = []
        for key, wanted, known in (("use", self.use, self.trainings), ("on", self.on, self.zoos)):
            for place, label in enumerate(wanted or ()):
                if label not in known:
                    what = f"no such {'training' if key == 'use' else 'zoo'}"
                    problems.append(Problem((key, place), what, ", ".join(known) or "none", label))
        for section in ("tables", "figures"):
            for place, part in enumerate(getattr(self, section)):
                for task in part.tasks if section == "tables" else (part.task,):
                    if task not in self.tasks:
                        expected = ", ".join(self.tasks) or "none"
                        problems.append(Problem((section, place, "tasks"), "no such task", expected, task))
        names = [table.name for table in self.tables]
        for place, figure in enumerate(self.figures):
            if figure.name in names:
                problems.append(Problem(("figures", place, "name"), "names a table too", "another name", figure.name))
        for place, claim in enumerate(self.claims):
            if claim.table not in names:
                problems.append(Problem(("claims", place, "table"), "no such table", ", ".join(names), claim.table))
            if (claim.at_least is None) == (claim.at_most is None):
                given = "neither" if claim.at_least is None else "both"
                problems.append(Problem(("claims", place), "has no one bound", "at_least or at_most", given))
        raise_problems(problems)
        return self
