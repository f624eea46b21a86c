"""Probes on several splits of one zoo, with the spread over draws of each split.

Features that do not depend on the split are computed once; projections are fitted anew on every train side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from hyperrep.tasks.class_scores import class_f1_columns
from hyperrep.tasks.features import UNTRAINED, FeatureSets
from hyperrep.tasks.probe import CATEGORICAL, NUMERIC, probe
from hyperrep.tasks.regroup import SplitScheme, pool
from hyperrep.tasks.split import ROLES, Role, ZooSplit


def probe_on_splits(
    splits: Mapping[Role, ZooSplit], sets: FeatureSets, schemes: Sequence[SplitScheme] = (SplitScheme(),)
) -> pd.DataFrame:
    """Score every feature set on every property that varies, on the split of every scheme.

    Properties are those of `hyperrep.tasks.probe` and the F1 of each class where
    `hyperrep.tasks.class_scores.add_class_f1` has measured it. Factors whose values a scheme holds out are left
    out there.

    Parameters
    ----------
    splits
        The stored sides of the zoo's split; their checkpoints are put on other sides by a scheme.

    Returns
    -------
    The columns of `hyperrep.tasks.probe.probe` after ``split``, ``split_seed`` and ``encoder_saw``: the share of
    test checkpoints on the stored train side, which the encoder was trained on. Above 0, a score of the embedding
    says little about new models; it is 0 for the stored split.

    Raises
    ------
    InputError
        If a scheme names an unknown factor or leaves a side without models, or features are not finite.
    """
    frame, rows = pool(splits)
    features = {name: apply(rows) for name, apply in sets.fixed.items()}
    gapless = tuple(name for name in class_f1_columns(list(map(str, frame.columns))) if frame[name].notna().all())
    tables = []
    for scheme in schemes:
        sides = scheme.sides(frame)
        places = {role: sides == role for role in ROLES}
        fitted = {name: apply(rows) for name, apply in sets.fit_projections(rows[places["train"]]).items()}
        scores = probe(
            {name: {role: values[places[role]] for role in ROLES} for name, values in (features | fitted).items()},
            {role: frame.loc[places[role]] for role in ROLES},
            numeric=[name for name in (*NUMERIC, *gapless) if name not in scheme.held_out(frame)],
            categorical=[name for name in CATEGORICAL if name not in scheme.held_out(frame)],
        )
        saw = float((frame.loc[places["test"], "split"] == "train").mean())
        where = pd.DataFrame({"split": scheme.by, "split_seed": scheme.seed, "encoder_saw": saw}, index=scores.index)
        tables.append(pd.concat([where, scores], axis=1))
    return pd.concat(tables, ignore_index=True)


def summarise_probes(scores: pd.DataFrame) -> pd.DataFrame:
    """Average scores over the draws of a split, and untrained encoders over their seeds.

    Returns
    -------
    One row per ``split``, ``features``, ``property`` and ``score``: ``value`` (mean), ``spread`` (standard
    deviation over draws and seeds, NaN for one), ``low`` and ``high`` (the 95 % interval of a single value, else
    the smallest and the largest), ``encoder_saw`` (mean) and ``num`` values.
    """
    names = scores["features"].where(~scores["features"].str.startswith(UNTRAINED), UNTRAINED)
    groups = scores.assign(features=names).groupby(["split", "features", "property", "score"], sort=False)
    table = groups.agg(
        value=("value", "mean"),
        spread=("value", lambda values: values.std(ddof=0) if len(values) > 1 else float("nan")),
        smallest=("value", "min"),
        largest=("value", "max"),
        low=("low", "first"),
        high=("high", "first"),
        encoder_saw=("encoder_saw", "mean"),
        num=("value", "size"),
    ).reset_index()
    several = table["num"] > 1
    table["low"] = table["low"].where(~several, table["smallest"])
    table["high"] = table["high"].where(~several, table["largest"])
    return table.drop(columns=["smallest", "largest"])
