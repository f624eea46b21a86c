"""Croissant metadata (MLCommons, format 1.0): files with their hashes, and what their columns are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zookeeper.publish.citation import Credits
from zookeeper.publish.facts import Facts, ShardGroup
from zookeeper.publish.licences import Licence
from zookeeper.store.caches import CHECKPOINTS, MODELS

CROISSANT = "croissant.json"
_PARQUET = "application/x-parquet"  # what loaders of Croissant know; the registered name loads nowhere
_TERMS = (
    *(
        "arrayShape",
        "citeAs",
        "column",
        "equivalentProperty",
        "extract",
        "field",
        "fileProperty",
        "fileObject",
        "fileSet",
        "format",
    ),
    *("includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
    *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}
_TYPES = {"bool": "sc:Boolean", "int64": "sc:Integer", "double": "sc:Float", "string": "sc:Text"}
_ELEMENTS = {"float32": "cr:Float32", "float64": "cr:Float64", "float16": "cr:Float16"}
_MEANINGS = {
    "model_id": "Which network; the hash of everything that may change its weights.",
    "epoch": "Training epoch; 0 is untrained.",
    "train_loss": "Mean cross-entropy on the training images, in nats.",
    "val_loss": "Mean cross-entropy on the validation images, in nats.",
    "test_loss": "Mean cross-entropy on the test images, in nats.",
    "batch_loss": "Mean cross-entropy of the epoch's batches, in nats.",
    "train_acc": "Share of training images classified correctly.",
    "val_acc": "Share of validation images classified correctly.",
    "test_acc": "Share of test images classified correctly.",
    "generalization_gap": "train_acc - test_acc.",
    "split": "Side of the zoo's split of models.",
    "status": "ok, or diverged if a weight or loss is not finite.",
    "cohort": "Models with the same cohort trained together.",
    "wall_time": "Seconds per model of the epoch.",
}


def describe_column(name: str) -> str:
    """Say what a column of the table is; columns without a fixed meaning are generating factors.

    >>> describe_column("epoch"), describe_column("lr")
    ('Training epoch; 0 is untrained.', 'Generating factor.')
    """
    return _MEANINGS.get(name, "Generating factor.")


def format_croissant(
    facts: Facts,
    *,
    title: str,
    description: str,
    licence: Licence,
    credits: Credits,
    sums: Mapping[str, str],
    sizes: Mapping[str, int],
) -> str:
    """Describe a publication as one Croissant document.

    Parameters
    ----------
    sums, sizes
        SHA-256 and bytes of every file, by its path in the folder.
    """
    shards = [file for group in facts.groups for file in group.files]
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.name,
        "alternateName": title,
        "description": description,
        "license": licence.url,
        "creator": [author.to_schema() for author in credits.authors],
        "datePublished": credits.date,
        "version": credits.version,
        "keywords": list(credits.keywords),
        "citeAs": credits.to_bibtex(title),
        "isLiveDataset": False,
        **({"url": credits.url} if credits.url else {}),
        "distribution": [_file_object(name, sums[name], sizes[name]) for name in (MODELS, CHECKPOINTS, *shards)]
        + [_file_set(group) for group in facts.groups],
        "recordSet": [
            _record_set("models", MODELS, facts.columns, "A line for each model: its last checkpoint."),
            _record_set("metadata", CHECKPOINTS, facts.columns, "A line for each checkpoint, without weights."),
            *(_weights_set(group) for group in facts.groups),
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _file_object(name: str, sha256: str, size: int) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": _PARQUET,
        "sha256": sha256,
    }


def _file_set(group: ShardGroup) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{group.name}-files",
        "name": f"{group.name}-files",
        "description": f"{len(group.files)} shard(s) that read as one table.",
        "encodingFormat": _PARQUET,
        "includes": list(group.files),
    }


def _record_set(name: str, file: str, columns: Mapping[str, str], description: str) -> dict[str, Any]:
    source = {"fileObject": {"@id": file}}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": _fields(name, columns, source),
    }


def _weights_set(group: ShardGroup) -> dict[str, Any]:
    source = {"fileSet": {"@id": f"{group.name}-files"}}
    fields = _fields(group.name, group.columns, source)
    if group.dtype in _ELEMENTS:
        weights = _field(group.name, "weights", _ELEMENTS[group.dtype], "All weights of the network.", source)
        fields.append({**weights, "isArray": True, "arrayShape": str(group.layout.num_weights)})
    return {
        "@type": "cr:RecordSet",
        "@id": group.name,
        "name": group.name,
        "description": f"A line for each checkpoint, with its {group.layout.num_weights:,} weights.",
        "field": fields,
    }


def _fields(record_set: str, columns: Mapping[str, str], source: Mapping[str, Any]) -> list[dict[str, Any]]:
    known = [(name, _TYPES[kind]) for name, kind in columns.items() if kind in _TYPES]
    return [_field(record_set, name, kind, describe_column(name), source) for name, kind in known]


def _field(record_set: str, name: str, kind: str, description: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": description,
        "dataType": kind,
        "source": {**source, "extract": {"column": name}},
    }
