"""Generate, store, open and publish zoos of neural networks.

This is the only door: what is listed in ``__all__`` is public. Names are imported on first use, so
importing the package is fast and loads neither torch nor pandas.

>>> import zookeeper
>>> "Zoo" in zookeeper.__all__
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zookeeper.build.run import BuildSummary as BuildSummary
    from zookeeper.build.run import build_zoo as build_zoo
    from zookeeper.build.workers import Workers as Workers
    from zookeeper.compare import assert_equal as assert_equal
    from zookeeper.compare import compare_zoos as compare_zoos
    from zookeeper.datasets import Checkpoint as Checkpoint
    from zookeeper.datasets import CheckpointBatch as CheckpointBatch
    from zookeeper.errors import BuildError as BuildError
    from zookeeper.errors import InputError as InputError
    from zookeeper.errors import SpecError as SpecError
    from zookeeper.errors import StackError as StackError
    from zookeeper.errors import StoreError as StoreError
    from zookeeper.errors import ZooError as ZooError
    from zookeeper.interop.exporting import export_zoo as export_zoo
    from zookeeper.interop.importing import import_zoo as import_zoo
    from zookeeper.nets.layout import WeightBlock as WeightBlock
    from zookeeper.nets.layout import WeightLayout as WeightLayout
    from zookeeper.nets.registry import build_network as build_network
    from zookeeper.spec.grid import ModelConfig as ModelConfig
    from zookeeper.spec.grid import expand as expand
    from zookeeper.spec.plan import Plan as Plan
    from zookeeper.spec.plan import make_plan as make_plan
    from zookeeper.spec.schema import ZooSpec as ZooSpec
    from zookeeper.spec.schema import load_spec as load_spec
    from zookeeper.store.encoding import Encoding as Encoding
    from zookeeper.streaming import ZooStream as ZooStream
    from zookeeper.zoo import Leakage as Leakage
    from zookeeper.zoo import RowBatch as RowBatch
    from zookeeper.zoo import Zoo as Zoo
    from zookeeper.zoo import ZooSplits as ZooSplits
    from zookeeper.zoo import concatenate as concatenate
    from zookeeper.zoo import find_leaks as find_leaks
    from zookeeper.zoo import open as open
    from zookeeper.zoo import write_rows as write_rows

__version__ = "0.1.0"

__all__ = [
    "BuildError",
    "BuildSummary",
    "Checkpoint",
    "CheckpointBatch",
    "Encoding",
    "InputError",
    "Leakage",
    "ModelConfig",
    "Plan",
    "RowBatch",
    "SpecError",
    "StackError",
    "StoreError",
    "WeightBlock",
    "WeightLayout",
    "Workers",
    "Zoo",
    "ZooError",
    "ZooSpec",
    "ZooSplits",
    "ZooStream",
    "__version__",
    "assert_equal",
    "build_network",
    "build_zoo",
    "compare_zoos",
    "concatenate",
    "expand",
    "export_zoo",
    "find_leaks",
    "import_zoo",
    "load_spec",
    "make_plan",
    "open",
    "write_rows",
]

_HOMES = {
    "zookeeper.build.run": ("BuildSummary", "build_zoo"),
    "zookeeper.build.workers": ("Workers",),
    "zookeeper.compare": ("assert_equal", "compare_zoos"),
    "zookeeper.datasets": ("Checkpoint", "CheckpointBatch"),
    "zookeeper.errors": ("BuildError", "InputError", "SpecError", "StackError", "StoreError", "ZooError"),
    "zookeeper.interop.exporting": ("export_zoo",),
    "zookeeper.interop.importing": ("import_zoo",),
    "zookeeper.nets.layout": ("WeightBlock", "WeightLayout"),
    "zookeeper.nets.registry": ("build_network",),
    "zookeeper.spec.grid": ("ModelConfig", "expand"),
    "zookeeper.spec.plan": ("Plan", "make_plan"),
    "zookeeper.spec.schema": ("ZooSpec", "load_spec"),
    "zookeeper.store.encoding": ("Encoding",),
    "zookeeper.streaming": ("ZooStream",),
    "zookeeper.zoo": (
        "Leakage",
        "RowBatch",
        "Zoo",
        "ZooSplits",
        "concatenate",
        "find_leaks",
        "open",
        "write_rows",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
