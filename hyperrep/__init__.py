"""Learn from zoos of neural networks: hyper-representations, their latents, networks drawn from them.

Importing this package is light; torch is loaded with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "HyperRepresentation": "hyperrep.training.saved",
    "load": "hyperrep.training.saved",
    "TrainConfig": "hyperrep.config",
    "load_config": "hyperrep.config",
    "Tokeniser": "hyperrep.weights.tokens",
    "WeightTransformer": "hyperrep.training.estimator",
    "fit": "hyperrep.training.fit",
    "fit_zoo": "hyperrep.training.zoo",
    "fit_zoos": "hyperrep.training.mixed_fit",
    "load_mixed": "hyperrep.training.mixed",
}

__all__ = [
    "HyperRepresentation",
    "Tokeniser",
    "TrainConfig",
    "WeightTransformer",
    "fit",
    "fit_zoo",
    "fit_zoos",
    "load",
    "load_config",
    "load_mixed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hyperrep' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
