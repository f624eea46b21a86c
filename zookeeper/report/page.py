"""One self-contained page about a zoo: no network, no other file, readable without scripts."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from zookeeper.errors import InputError
from zookeeper.listing import stored_bytes
from zookeeper.report import sections
from zookeeper.report.charts import spoken
from zookeeper.report.groups import MOST_GROUPS, accuracy_column, explained, group_by, varying_factors
from zookeeper.report.markup import pairs, paragraph, small_table
from zookeeper.report.sample import check_method, map_models, sample_spread, widest_layout
from zookeeper.report.stylesheet import CSS, SCRIPT
from zookeeper.report.svg import share
from zookeeper.zoo import Zoo

# Nothing may be loaded: the browser enforces what the page promises.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(zoo: Zoo, path: str | Path, *, color: str | None = None, map_method: str = "pca") -> Path:
    """Write the page to a file, whole or not at all; see `render_report`.

    Raises
    ------
    InputError
        If ``path`` does not end in .html, lies in no folder or cannot be written; and as `render_report`.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm") or target.is_dir():
        raise InputError(f"--out {target}: expected a file name that ends in .html. Choose another.")
    if not target.parent.is_dir():
        raise InputError(f"--out {target}: there is no folder {target.parent}. Create it or choose another.")
    text = render_report(zoo, color=color, map_method=map_method)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"--out {target}: cannot be written ({error.strerror}). Choose another place.") from error
    return target


def render_report(zoo: Zoo, *, color: str | None = None, map_method: str = "pca") -> str:
    """Render the page as HTML. The same zoo and arguments give the same text.

    Weights are read in a bounded sample, tables and charts are cut where they would be too long; the page says
    so where it happens.

    Parameters
    ----------
    zoo
        A zoo or a view of one; it may be unfinished or empty.
    color
        Column that colours the map; default the factor that explains most of the accuracy.
    map_method
        ``pca``, or ``umap`` for a second map beside it.

    Raises
    ------
    InputError
        If ``color`` is no column, or the method is unknown or not installed.
    StoreError
        If weights that are sampled are damaged.

    Examples
    --------
    >>> import tempfile, zookeeper
    >>> folder = tempfile.TemporaryDirectory()
    >>> layout = zookeeper.WeightLayout.from_shapes({"fc.weight": ((1, 2), "weight")})
    >>> toy = zookeeper.write_rows(Path(folder.name) / "toy", np.eye(3, 2), {"test_acc": [0.1, 0.2, 0.3]}, layout)
    >>> page = render_report(toy, color="test_acc")
    >>> page.startswith("<!doctype html>"), "PCA of 3 models" in page, "http:" in page
    (True, True, False)
    >>> folder.cleanup()
    """
    check_method(map_method)
    frame, models = zoo.frame, zoo.models
    if color is not None:
        group_by(models, color)
    column, varying = accuracy_column(frame), varying_factors(models, zoo.factors)
    steps = tqdm(total=6, desc="report", unit="part", delay=2, disable=None, leave=False)
    with steps:
        parts = {
            "Accuracy by epoch": sections.accuracy_section(frame, column),
            "Accuracy by factor": sections.factor_section(models, varying, column),
            "Generalization gap": sections.gap_section(frame, models),
            "Diverged models": sections.diverged_section(frame, models, varying),
        }
        steps.update(2)
        sampled = widest_layout(zoo)
        note = _layout_note(zoo, sampled)
        parts["Weights by layer"] = sections.spread_section(sample_spread(sampled) if len(sampled) else None, note)
        steps.update(1)
        methods = dict.fromkeys(("pca", map_method))
        maps = [map_models(sampled, method) for method in methods] if len(sampled) else []
        shown = color or default_color(models, varying, column)
        parts["Map of the zoo"] = sections.map_section([found for found in maps if found], shown, column, note)
        steps.update(1)
        parts["Models"] = sections.table_section(models, varying, column) if len(models) else paragraph("None.", "note")
        constant, spec = sections.spec_section(zoo, models, varying)
        fixed = paragraph("The same for all models:", "note") + pairs(constant) if constant else ""
        parts["Specification"] = fixed + spec
        parts["Sizes"] = _sizes(zoo)
        parts["Provenance"] = _provenance(zoo)
        steps.update(2)
    return _page(zoo.header.name, _lead(zoo), _facts(zoo, frame, models, column), parts)


def default_color(models: pd.DataFrame, varying: tuple[str, ...], column: str | None) -> str:
    """The factor that explains most of the accuracy, of those with few values if there are any.

    >>> models = pd.DataFrame({"init": ["a", "a", "b"], "seed": [1, 2, 3], "test_acc": [0.1, 0.1, 0.9]})
    >>> default_color(models, ("init", "seed"), "test_acc")
    'init'
    """
    if not varying:
        return column or "model_id"
    few = [name for name in varying if models[name].nunique() <= MOST_GROUPS] or list(varying)
    if column is None:
        return few[0]
    values = models[column].to_numpy(dtype=np.float64)
    return max(few, key=lambda name: (explained(values, group_by(models, name)), -models[name].nunique()))


def _layout_note(zoo: Zoo, sampled: Zoo) -> str:
    if len(zoo.header.layouts) < 2 or len(sampled) == 0:
        return ""
    return (
        f" Of {len(zoo.header.layouts)} layouts of weights in this zoo, only the most frequent one is shown here "
        f"({sampled.layout.num_weights:,} weights, {sampled.frame['model_id'].nunique():,} models)."
    )


def _lead(zoo: Zoo) -> str:
    images = "" if zoo.header.image is None else f" on {zoo.header.image.name}"
    planned = sum(len(cohort.models) * len(cohort.epochs) for cohort in zoo.header.cohorts.values())
    left = f" Not complete: {len(zoo):,} of {planned:,} checkpoints are shown." if len(zoo) < planned else ""
    return f"A zoo of {zoo.header.kind} networks{images}.{left}"


def _facts(zoo: Zoo, frame: pd.DataFrame, models: pd.DataFrame, column: str | None) -> dict[str, str]:
    widths = sorted(_block_sizes(zoo).values())
    facts = {"models": f"{len(models):,}", "checkpoints": f"{len(zoo):,}"}
    if widths:
        facts["weights per model"] = " to ".join(f"{width:,}" for width in dict.fromkeys((widths[0], widths[-1])))
    if len(zoo):
        facts["epochs"] = f"{zoo.epochs[0]} to {zoo.epochs[-1]}"
    if column is not None:
        facts[f"best {spoken(column)}"] = share(float(frame[column].max()))
        facts["median at the end"] = share(float(models[column].median()))
    if "status" in models:
        facts["diverged"] = f"{int((models['status'] == 'diverged').sum()):,}"
    return facts


def _block_sizes(zoo: Zoo) -> dict[str, int]:
    """Weights of each layout, by digest."""
    return {
        digest: sum(int(np.prod(block["shape"], dtype=np.int64)) for block in layout["blocks"])
        for digest, layout in zoo.header.layouts.items()
    }


def _sizes(zoo: Zoo) -> str:
    total = stored_bytes(zoo)
    store = zoo.header.store.to_json()
    layouts = [
        (digest, str(len(zoo.header.layouts[digest]["blocks"])), f"{width:,}")
        for digest, width in _block_sizes(zoo).items()
    ]
    return pairs(
        {
            "on disk": f"{total / 1e6:,.1f} MB in all files",
            "rows": f"{len(zoo):,}",
            "stored as": f"{store['backend']}, {store['dtype']}, compression {store['compression']}",
        }
    ) + small_table("layouts of weights", ("layout", "tensors", "weights"), layouts)


def _provenance(zoo: Zoo) -> str:
    header = zoo.header
    values: dict[str, Any] = {"created": header.created, **{f"package {k}": v for k, v in header.packages.items()}}
    if header.image is not None:
        values |= {f"images: {key}": entry for key, entry in header.image.to_json().items()}
    values |= {f"provenance: {key}": entry for key, entry in header.provenance.items()}
    values["digest of the zoo's description"] = header.digest
    texts = {key: entry if isinstance(entry, str) else json.dumps(entry) for key, entry in values.items()}
    return pairs({key: text if len(text) <= 400 else text[:400] + " ..." for key, text in texts.items()})


def _page(name: str, lead: str, facts: dict[str, str], parts: dict[str, str]) -> str:
    ids = {heading: heading.lower().replace(" ", "-") for heading in parts}
    links = "".join(f'<li><a href="#{ids[heading]}">{heading}</a></li>' for heading in parts)
    body = "\n".join(
        f'<section aria-labelledby="{ids[heading]}"><h2 id="{ids[heading]}">{heading}</h2>{text}</section>'
        for heading, text in parts.items()
    )
    title = html.escape(name)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{CSS}</style></head>\n<body><header><h1>{title}</h1>{paragraph(lead, 'lead')}"
        f'{pairs(facts, "facts")}<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f"<main>{body}</main>\n<script>{SCRIPT}</script></body></html>\n"
    )
