"""The curve of a training as a CSV file that survives a resume."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from zookeeper.store.files import write_durable

COLUMNS = (
    "step", "seconds", "lr", "total", "contrast", "structure", "behaviour", "grad_norm",
    "val_total", "val_contrast", "val_structure", "val_behaviour", "val_agreement",
)  # fmt: skip
OPTIONAL_COLUMNS = ("cycle", "val_cycle", "val_probe_r2")


class TrainingLog:
    """Rows of a training's log; the file is rewritten whole at every flush.

    Opening it for a run that continues keeps the rows up to the checkpoint's step and drops later
    ones, so the file of a resumed run lists every step once. ``seconds`` counts from the last start.
    """

    def __init__(self, path: Path, *, steps_done: int) -> None:
        self._path = path
        self._rows: list[dict[str, str]] = []
        if steps_done and path.exists():
            with path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["step"]) <= steps_done]

    def add(self, step: int, values: Mapping[str, float], *, lr: float, seconds: float) -> None:
        """Remember one row; values that are missing stay empty."""
        row = {"step": str(step), "seconds": f"{seconds:.3f}", "lr": f"{lr:.9g}"}
        self._rows.append(
            row | {name: f"{values[name]:.9g}" for name in (*COLUMNS, *OPTIONAL_COLUMNS) if name in values}
        )

    def flush(self) -> None:
        """Write the file."""
        text = io.StringIO()
        optional = [name for name in OPTIONAL_COLUMNS if any(row.get(name) for row in self._rows)]
        writer = csv.DictWriter(text, [*COLUMNS, *optional], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_durable(self._path, text.getvalue().encode())
