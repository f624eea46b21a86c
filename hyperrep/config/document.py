"""One training of a hyper-representation as a document, and how it is identified and stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyperrep.config.align import AlignSection
from hyperrep.config.loss import LossSection
from hyperrep.config.model import ModelSection, TokenSection, WindowSection
from hyperrep.config.numbers import NonNegativeInt
from hyperrep.config.training import AugmentSection, TrainingSection
from zookeeper.spec.document import Section, load_document, validate_document
from zookeeper.spec.problems import Problem, raise_problems

# Keys that came after format 1, with the value that does what format 1 did. A document that leaves them at that
# value keeps its digest and its stored form.
ADDED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "": {"zoos": None, "windows": None, "align": None},
        "tokens": {"encoding": "fixed"},
        "model": {
            "kind": "sane", "preset": None, "mlp_width": None, "compression_token": False, "bounded": False,
            "positions": "learned", "projection": 30, "dropout": 0.0, "statistics": False,
        },
        "loss": {
            "contrast": "ntxent", "behaviour": "squared", "distillation_temperature": 2.0, "cycle": 0.0,
            "query_set": [{"source": "zoo", "share": 1.0, "root": None, "path": None}], "scales": "none",
        },
        "augment": {"relative_noise": 0.0},
        "training": {
            "stopping": None, "tensorboard": False, "precision": "float32", "compile": False, "recompute": False,
            "rows": "resident",
            "batches": None, "zoos_in_batch": "one",
        },
    }
)  # fmt: skip


class TrainConfig(Section):
    """One training of a hyper-representation. Paths are relative to the working directory.

    ``standardise`` shifts and scales the weights before they are encoded, with the mean and deviation of each
    layer over the train split, or of each ``block`` (a layer's biases apart from its weights: biases are small,
    and how far they moved says how long a network was trained). The structural loss is normalised alike.
    """

    name: Annotated[str, Field(min_length=1)]
    zoo: str | None = None
    zoos: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    epochs_of_zoo: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    standardise: Literal["layer", "block", "none"] = "layer"
    tokens: TokenSection
    model: ModelSection
    loss: LossSection
    augment: AugmentSection = AugmentSection()
    windows: WindowSection | None = None
    align: AlignSection | None = None
    training: TrainingSection

    @model_validator(mode="after")
    def _check_windows(self) -> TrainConfig:
        if self.windows is not None and self.model.kind != "sane":
            what = "a model with one latent per network cannot be run in windows"
            raise_problems([Problem(("windows",), what, "kind sane, or no windows", f"kind {self.model.kind}")])
        if self.windows is not None and self.tokens.encoding == "neuron":
            what = "a window may begin inside a layer, but encoding neuron maps whole layers"
            raise_problems([Problem(("windows",), what, "encoding fixed or weight, or no windows", "encoding neuron")])
        return self

    @model_validator(mode="after")
    def _check_statistics(self) -> TrainConfig:
        if self.model.statistics and self.tokens.encoding != "fixed":
            what, got = "only tokens of a fixed width have statistics", f"encoding {self.tokens.encoding}"
            raise_problems([Problem(("model", "statistics"), what, "encoding fixed, or statistics false", got)])
        several = self.zoos is not None and len(self.zoos) > 1
        if self.model.statistics and (several or self.windows is not None):
            what, got = "statistics are of whole networks of one zoo", "several zoos" if several else "windows"
            raise_problems([Problem(("model", "statistics"), what, "false, or one zoo without windows", got)])
        return self

    @model_validator(mode="after")
    def _check_zoos(self) -> TrainConfig:
        if self.zoos is None:
            return self
        if self.zoo is not None:
            raise_problems([Problem(("zoos",), "both zoo and zoos are given", "one of them", "both")])
        if len(self.zoos) > 1 and (self.model.kind != "sane" or self.tokens.encoding == "neuron"):
            what = "only tokens of one width, each with its own latent, fit several architectures"
            got = f"kind {self.model.kind}, encoding {self.tokens.encoding}"
            raise_problems([Problem(("zoos",), what, "kind sane and encoding fixed or weight", got)])
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain values for storage, without keys that say what format 1 did anyway."""
        value = self.model_dump(mode="json")
        for section, defaults in ADDED.items():
            part = value[section] if section else value
            for key, default in defaults.items():
                if part[key] == default:
                    del part[key]
        return value

    @property
    def format_version(self) -> int:
        """Version of the stored form: 1, or 2 if it says what format 1 could not."""
        value = self.to_json()
        new = any(key in (value[section] if section else value) for section, keys in ADDED.items() for key in keys)
        return 2 if new or value["tokens"]["width"] is None else 1

    @property
    def digest(self) -> str:
        """16 hex digits over everything that may change the trained weights."""
        value = self.to_json()
        for name in ("name", "zoo", "epochs_of_zoo"):
            del value[name]
        value.pop("zoos", None)
        value["model"].pop("preset", None)  # its sizes are there
        rhythm = {"threads", "evaluate_every", "checkpoint_every", "log_every", "tensorboard", "rows"}
        if self.training.stopping is not None:
            rhythm.remove("evaluate_every")  # then it decides when the training ends
        value["training"] = {key: part for key, part in value["training"].items() if key not in rhythm}
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def load_config(path: str | Path) -> TrainConfig:
    """Read and validate a YAML file.

    Raises
    ------
    SpecError
        One error that lists every problem with file, line, key and the nearest valid name.
    """
    return validate_document(load_document(Path(path)), TrainConfig)


def packaged_config(name: str) -> Path:
    """Path of a configuration that comes with the package.

    >>> load_config(packaged_config("digits_csb")).loss.beta
    0.02
    """
    return Path(__file__).parents[1] / "configs" / f"{name}.yaml"
