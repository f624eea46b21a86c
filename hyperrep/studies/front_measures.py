"""Task `front`: accuracy, diversity and novelty of networks from whole recipes, beside those of the anchors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field, field_validator
from scipy.spatial.distance import pdist

from hyperrep.studies.findings import Findings, Scene, Task, as_facts
from hyperrep.tasks.generate import examine_samples
from hyperrep.tasks.recipe import AnchorSection, Recipe, build_method, draw_rows, select_anchors, with_changes
from hyperrep.tasks.sampler_front import METHODS, Spread
from hyperrep.tasks.selection import ValidationImages
from hyperrep.training.zoo import read_symmetry
from zookeeper.errors import InputError
from zookeeper.spec.document import Section

ANCHORS = "anchors"
MEASURES = (
    "val_acc", "test_acc", "lead", "best_val_acc", "disagreement", "diversity", "novelty", "aligned_diversity",
    "aligned_novelty",
)  # fmt: skip


class FrontSettings(Section):
    """Recipes by name, each as changes of the default recipe by path, as `hyperrep.tasks.sampler_front.METHODS`.

    ``selection.draws`` is in multiples of ``samples``. Without recipes all of METHODS are measured.
    """

    recipes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    samples: Annotated[int, Field(ge=2)] = 200
    share: Annotated[float, Field(gt=0, le=1)] = 0.3
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("recipes")
    @classmethod
    def _known(cls, recipes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if ANCHORS in recipes:
            raise ValueError(f"{ANCHORS!r} is the name of the first row; choose another name")
        return recipes

    def recipe(self, changes: Mapping[str, Any]) -> Recipe:
        """Lay changes over the default recipe."""
        draws = changes.get("selection.draws")
        total = None if draws is None else draws * self.samples
        plain = {"samples": self.samples, "seed": self.seed, "anchors.share": self.share}
        return with_changes(Recipe(), {**plain, **changes, "selection.draws": total})


def front(scene: Scene, settings: FrontSettings) -> Findings:
    """Measure every recipe on validation images and, after it has made its choice, once on test images.

    ``lead`` is the mean test accuracy over that of the anchors. A sampler that refuses these anchors has no facts; the
    item of its name says why.
    """
    bench, hyper = scene.bench, scene.hyper
    anchors = select_anchors(bench.zoo, AnchorSection(share=settings.share))
    validation, spread = ValidationImages.of(bench.examiner), Spread(anchors, read_symmetry(bench.zoo))
    drawn, refused = {ANCHORS: anchors.checkpoints.rows}, dict[str, str]()
    for name, changes in (settings.recipes or METHODS).items():
        recipe = settings.recipe(changes)
        chosen = select_anchors(bench.zoo, recipe.anchors)
        method = build_method(recipe, hyper, bench.zoo, bench.examiner, chosen)
        try:
            drawn[name] = draw_rows(method, recipe, chosen, validation)
        except InputError as error:
            if settings.recipes:  # of all methods some may lack a library, or cannot be fitted to few anchors
                raise
            refused[name] = str(error)
    items = {name: examine_samples(rows, anchors, bench.examiner) for name, rows in drawn.items()}
    level = items[ANCHORS]["test_acc"].mean()
    table = pd.DataFrame(
        [
            {
                "networks": name,
                "val_acc": items[name]["val_acc"].mean(),
                "val_acc_std": items[name]["val_acc"].std(ddof=0),
                "test_acc": items[name]["test_acc"].mean(),
                "test_acc_std": items[name]["test_acc"].std(ddof=0),
                "lead": items[name]["test_acc"].mean() - level,
                "best_val_acc": items[name]["val_acc"].max(),
                "disagreement": float(pdist(bench.examiner.classes(rows, "test"), metric="hamming").mean()),
                **spread(rows),
            }
            for name, rows in drawn.items()
        ]
    )
    table.loc[table["networks"] == ANCHORS, ["novelty", "aligned_novelty"]] = np.nan
    single = table.assign(test_error=1.0 - table["test_acc"], error="")
    reasons = pd.DataFrame({"networks": list(refused), "error": list(refused.values())}, dtype=object)
    return Findings(as_facts(table, MEASURES, ["networks"]), pd.concat([single, reasons], ignore_index=True))


FRONT_TASKS: Mapping[str, Task] = MappingProxyType({"front": Task(FrontSettings, on_training=front)})
