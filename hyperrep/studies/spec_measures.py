"""Tasks that read a zoo's specification alone: the architecture layer by layer, and the grid."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import pandas as pd
from pydantic import Field

from hyperrep.studies.findings import Findings, Task
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network
from zookeeper.spec.document import Section
from zookeeper.spec.schema import ZooSpec

PositiveInt = Annotated[int, Field(ge=1)]


class ArchitectureSettings(Section):
    """Shape of the images, which a specification knows by name only."""

    channels: PositiveInt = 3
    size: PositiveInt = 32
    classes: PositiveInt = 10


def architecture(spec: ZooSpec, settings: ArchitectureSettings) -> Findings:
    """Sizes of every layer's weights, and the number of all."""
    network = build_network(
        str(spec.factor_values("architecture")[0]), in_channels=settings.channels,
        image_size=(settings.size, settings.size), num_classes=settings.classes,
        activation=str(spec.factor_values("activation")[0]),
    )  # fmt: skip
    layout = WeightLayout.of(network)
    records = [{"layer": "all", "measure": "weights", "value": float(layout.num_weights)}]
    for block in layout.blocks:
        layer, _, kind = block.name.rpartition(".")
        if kind == "weight":
            sizes = {"in": block.shape[1], "out": block.shape[0]}
            if len(block.shape) == 4:
                sizes["kernel"] = block.shape[2]
            records += [{"layer": layer, "measure": name, "value": float(size)} for name, size in sizes.items()]
    return Findings(pd.DataFrame.from_records(records))


class GridSettings(Section):
    """Nothing to set."""


def grid(spec: ZooSpec, settings: GridSettings) -> Findings:
    """How many values every axis has, how many models there are, and what stays fixed."""
    records = [{"axis": name, "measure": "values", "value": float(len(values))} for name, values in spec.axes.items()]
    records.append({"axis": "models", "measure": "values", "value": float(spec.num_models)})
    for name in ("epochs", "batch_size"):
        records.append({"axis": name, "measure": "values", "value": float(spec.factor_values(name)[0])})
    return Findings(pd.DataFrame.from_records(records))


SPEC_TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "architecture": Task(ArchitectureSettings, on_spec=architecture),
        "grid": Task(GridSettings, on_spec=grid),
    }
)
