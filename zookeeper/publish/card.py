"""The dataset card: README.md with the header that the Hugging Face Hub reads, tables, figures, a datasheet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from zookeeper.publish.citation import Credits
from zookeeper.publish.croissant import describe_column
from zookeeper.publish.datasheet import answer_questions
from zookeeper.publish.facts import Facts, ShardGroup
from zookeeper.publish.licences import Licence
from zookeeper.store.caches import CHECKPOINTS, MODELS

CARD = "README.md"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture of the card: its path in the folder, what it shows, and a sentence about it."""

    file: str
    alt: str
    caption: str


def describe_zoo(facts: Facts) -> str:
    """Say in two sentences what a zoo is."""
    widths = sorted({layout.num_weights for layout in facts.layouts})
    weights = " or ".join(f"{width:,}" for width in widths)
    images = "" if facts.image is None else f" for the images of {facts.image['name']}"
    what = "trained" if facts.kind == "trained" else f"({facts.kind})"
    return (
        f"A zoo of {facts.num_models:,} {what} neural networks{images}: {facts.num_checkpoints:,} checkpoints of "
        f"{weights} weights, with what generated each network and how it performs."
    )


def size_category(num_rows: int) -> str:
    """Name the Hub's size class of a number of rows.

    >>> size_category(999), size_category(61_200)
    ('n<1K', '10K<n<100K')
    """
    return next((name for limit, name in (*_SIZES, *_LARGER) if num_rows < limit), "100M<n<1B")


def format_card(
    facts: Facts, *, title: str, licence: Licence, credits: Credits, figures: Sequence[Figure], version: str
) -> str:
    """Write the card of a publication; ``version`` is that of this package."""
    parts = [_header(facts, title, licence), f"# {title}\n", describe_zoo(facts) + "\n"]
    if not facts.complete:
        parts.append(
            f"> **Not complete.** {facts.num_checkpoints:,} of {facts.num_planned:,} planned checkpoints are here; "
            "the rest had not been built when this folder was made.\n"
        )
    for figure in figures:
        parts.append(f"![{figure.alt}]({figure.file})\n\n*{figure.caption}*\n")
    parts += ["## What is in it\n", _contents(facts), *_factor_table(facts), *_property_table(facts)]
    parts += _split_table(facts)
    parts += ["## Columns\n", _column_table(facts), *_layout_tables(facts)]
    parts += ["## Read it\n", _reading(facts), "## Build it again\n", _rebuilding(facts, version)]
    parts += ["## Datasheet\n"]
    for question, answer in answer_questions(facts, licence):
        parts.append(f"**{question}** {answer}\n")
    parts += ["## Licence and citation\n", _ending(title, licence, credits)]
    return "\n".join(parts)


def _header(facts: Facts, title: str, licence: Licence) -> str:
    lines = [
        "---",
        f"license: {licence.tag}",
        f"pretty_name: {json.dumps(title, ensure_ascii=False)}",
        "tags:",
        *(f"- {tag}" for tag in ("model-zoo", "weight-space-learning", "neural-network-weights", "croissant")),
        "size_categories:",
        f"- {size_category(facts.num_checkpoints)}",
        "configs:",
    ]
    for number, group in enumerate(facts.groups):
        lines += _config(group.name, _patterns(group, facts.groups), default=number == 0)
    lines += _config("metadata", [CHECKPOINTS], default=not facts.groups)
    lines += _config("models", [MODELS], default=False)
    return "\n".join([*lines, "---", ""])


def _config(name: str, paths: Sequence[str], *, default: bool) -> list[str]:
    # one split of that name: sides of the zoo's split share shards, and the column `split` tells them apart
    return [
        f"- config_name: {name}",
        *(["  default: true"] if default else []),
        "  data_files:",
        "  - split: zoo",
        "    path:",
        *(f"    - {json.dumps(path)}" for path in paths),
    ]


def _patterns(group: ShardGroup, groups: Sequence[ShardGroup]) -> list[str]:
    return ["shards/*.parquet"] if len(groups) == 1 else list(group.files)


def _contents(facts: Facts) -> str:
    shapes = "; ".join(f"{layout.num_weights:,} in {len(layout.blocks)} blocks" for layout in facts.layouts)
    diverged = f", of which {facts.num_diverged:,} diverged (kept and flagged)" if facts.num_diverged else ""
    dtypes = ", ".join(sorted({group.dtype for group in facts.groups})) or "see zoo.json"
    lines = {
        "models": f"{facts.num_models:,}" + diverged,
        "checkpoints": f"{facts.num_checkpoints:,}, at {_listed(facts.epochs)}",
        "weights per network": shapes,
        "stored as": f"{' and '.join(facts.backends)}, {dtypes}",
        "bytes": f"{facts.num_bytes:,}",
    }
    if facts.image is not None:
        size = "{channels} x {height} x {width}, {num_classes} classes".format(**facts.image)
        lines["images"] = f"{facts.image['name']}, {size}; not included"
    return _table(("", ""), list(lines.items()))


def _factor_table(facts: Facts) -> list[str]:
    rows = [
        (f"`{name}`", f"{count:,}", text or "see the table")
        for name, (text, count) in facts.factors.items()
        if count > 1
    ]
    fixed = ", ".join(f"`{name}` {text}" for name, (text, count) in facts.factors.items() if count == 1)
    parts = [f"What varies between the models:\n\n{_table(('factor', 'values', ''), rows)}"] if rows else []
    return [*parts, *([f"The same for all: {fixed}.\n"] if fixed else [])]


def _property_table(facts: Facts) -> list[str]:
    rows = [(f"`{r.name}`", f"{r.lowest:.4g}", f"{r.median:.4g}", f"{r.highest:.4g}") for r in facts.ranges]
    head = ("last checkpoint of each model", "lowest", "median", "highest")
    note = "Without diverged models.\n" if facts.num_diverged else ""
    return [_table(head, rows) + note] if rows else []


def _split_table(facts: Facts) -> list[str]:
    if not facts.splits:
        return []
    rows = [(side, f"{len(ids):,}", f"`splits/{side}.txt`") for side, ids in facts.splits.items()]
    text = "Models are split, not checkpoints: all epochs of a model are on one side (column `split`).\n"
    return [text, _table(("side", "models", "model ids"), rows)]


def _column_table(facts: Facts) -> str:
    rows = [(f"`{name}`", kind, describe_column(name)) for name, kind in facts.columns.items()]
    for group in facts.groups[:1]:
        rows.append(("`weights`", f"{group.dtype}, fixed-size list", "All weights, in the order below; shards only."))
    return _table(("column", "type", ""), rows)


def _layout_tables(facts: Facts) -> list[str]:
    parts = []
    for layout in facts.layouts:
        rows = [
            (f"`{block.name}`", " x ".join(map(str, block.shape)), f"{block.offset} to {block.offset + block.size - 1}")
            for block in layout.blocks
        ]
        parts.append(f"The {layout.num_weights:,} weights:\n\n{_table(('tensor', 'shape', 'columns'), rows)}")
    return parts


def _reading(facts: Facts) -> str:
    lines = ["No package of ours is needed. Metadata alone, then weights:\n", "```python", "import pandas as pd", ""]
    lines += [f'models = pd.read_parquet("{MODELS}")  # a line for each model']
    if facts.groups:
        columns = [name for name in ("model_id", "epoch", "test_acc") if name in facts.groups[0].columns]
        lines += [f'table = pd.read_parquet("{facts.groups[0].files[0]}", columns={json.dumps([*columns, "weights"])})']
    lines += ["```\n"]
    if facts.groups:
        lines += [
            "```python",
            "from datasets import load_dataset",
            "",
            f'rows = load_dataset("PATH OR USER/NAME", "{facts.groups[0].name}", split="zoo")',
            "```\n",
        ]
    else:
        lines += ["The shards are HDF5: dataset `weights`, rows as in `table` (h5py reads them).\n"]
    lines += [
        "With the package weight-zookeeper, the folder is a zoo: queries, splits, named layers, networks.\n",
        "```python",
        "import zookeeper",
        "",
        'zoo = zookeeper.open("PATH")',
        "zoo.weights()  # float32 [N, P]",
        "```\n",
        "`sha256sum --check SHA256SUMS` proves that every file is the one that was published.\n",
    ]
    return "\n".join(lines)


def _rebuilding(facts: Facts, version: str) -> str:
    if facts.spec is None or "version" not in facts.spec:
        return (
            "The rows of this zoo do not come from a specification; `zoo.json` says under `provenance` what is known.\n"
        )
    return (
        "`rebuild/spec.yaml` describes the zoo completely, and `rebuild/environment.txt` names the package versions "
        f"it was built with (published with weight-zookeeper {version}):\n\n"
        "```sh\npip install -r rebuild/environment.txt\nzookeeper build rebuild/spec.yaml --out again\n```\n"
    )


def _ending(title: str, licence: Licence, credits: Credits) -> str:
    bibtex = credits.to_bibtex(title)
    return (
        f"[{licence.title}]({licence.url}) ({licence.spdx}), see `LICENSE`. {licence.terms}\n\n"
        f"Please cite as in `CITATION.cff`:\n\n```bibtex\n{bibtex}\n```\n"
    )


def _listed(epochs: Sequence[int]) -> str:
    if len(epochs) > 8:
        return f"{len(epochs)} epochs from {epochs[0]} to {epochs[-1]}"
    return ("epoch " if len(epochs) == 1 else "epochs ") + ", ".join(map(str, epochs))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
