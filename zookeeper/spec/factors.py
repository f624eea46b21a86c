"""The generating factors of a model: their order, types, sections and defaults."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from zookeeper.spec import names
from zookeeper.spec.axes import Scalar
from zookeeper.spec.problems import refuse, refuse_name, show

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_SAFE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


def known(kind: str, valid: tuple[str, ...], *, factory: bool = False) -> Callable[[str], str]:
    """Return a pydantic validator that refuses other names than `valid` (and, if asked, factories)."""

    def check(name: str) -> str:
        if name in valid or (factory and _FACTORY.fullmatch(name)):
            return name
        listed = f"{', '.join(valid)} or python.path:factory" if factory else ""
        return refuse_name(kind, name, valid, expected=listed)

    return check


def safe_name(name: str) -> str:
    """Validate a name that becomes part of file names."""
    if not _SAFE_NAME.fullmatch(name):
        refuse(
            "not a name that is safe for files",
            expected="1 to 100 of a-z, 0-9, _ and -, starting with a letter or digit",
            got=show(name),
        )
    return name


def _without_negative_zero(value: float) -> float:
    return value + 0.0


Architecture = Annotated[str, AfterValidator(known("architecture", names.ARCHITECTURES, factory=True))]
Activation = Annotated[str, AfterValidator(known("activation", names.ACTIVATIONS))]
Init = Annotated[str, AfterValidator(known("init", names.INITS))]
BiasInit = Annotated[str, AfterValidator(known("bias init", names.BIAS_INITS))]
Optimizer = Annotated[str, AfterValidator(known("optimizer", names.OPTIMIZERS))]
Schedule = Annotated[str, AfterValidator(known("schedule", names.SCHEDULES))]
Precision = Annotated[str, AfterValidator(known("precision", names.PRECISIONS))]
LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_without_negative_zero)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), AfterValidator(_without_negative_zero)]
ShareAboveZero = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AfterValidator(_without_negative_zero)]
PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

FACTORS: Final[dict[str, tuple[str, Any]]] = {
    "architecture": ("model", Architecture),
    "activation": ("model", Activation),
    "init": ("model", Init),
    "init_std": ("model", LearningRate),
    "bias_init": ("model", BiasInit),
    "dropout": ("model", ShareBelowOne),
    "optimizer": ("training", Optimizer),
    "lr": ("training", LearningRate),
    "weight_decay": ("training", NonNegative),
    "momentum": ("training", ShareBelowOne),
    "nesterov": ("training", bool),
    "schedule": ("training", Schedule),
    "train_fraction": ("training", ShareAboveZero),
    "precision": ("training", Precision),
    "batch_size": ("training", PositiveInt),
    "epochs": ("training", PositiveInt),
    "seed": ("training", Seed),
}
"""Every generating factor in its fixed order: the section it may be fixed in, and its type."""

REQUIRED: Final = ("architecture", "lr", "batch_size", "epochs")

DEFAULTS: Final[dict[str, Scalar]] = {
    "activation": "relu",
    "init": "torch_default",
    "init_std": 1.0,
    "bias_init": "default",
    "dropout": 0.0,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "nesterov": False,
    "schedule": "none",
    "train_fraction": 1.0,
    "precision": "float32",
    "seed": 0,
}
"""Values of factors that a spec of version 1 leaves out; `default_momentum` gives the remaining one."""

LATER: Final = ("init_std", "bias_init", "schedule", "train_fraction", "precision")
"""Factors that came after the first release: at their default they are no part of any identity."""

STD_INITS: Final = ("normal", "truncated_normal")
"""Initialisations whose scale is `init_std`; so is that of normal biases."""


def uses_std(init: object, bias_init: object) -> bool:
    """Whether `init_std` changes a model with these factors."""
    return init in STD_INITS or bias_init == "normal"


def default_momentum(optimizer: str) -> float:
    """Return the momentum of an optimizer when the spec names none: 0.9 for sgd, 0 for the others."""
    return 0.9 if optimizer == "sgd" else 0.0
