"""Memory of training on a full zoo: 1,200 networks of cnn-large at four epochs, 4,800 rows of 10,853 weights.

Every case runs in a process of its own, which reports its resident memory before there are rows and its peak after the
steps of a training. `hyperrep_step.py` runs this and writes the table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

NUM_ROWS, NUM_STEPS = 4800, 2
CASES: dict[str, dict[str, Any]] = {
    "contrast + structure + behaviour": {},
    "contrast + structure": {"beta": 1.0},
    "all three, `recompute: true`": {"recompute": True},
}


@dataclass(frozen=True)
class Memory:
    """MB (10^6 bytes) of every case: raw rows, process before them, peak."""

    cases: dict[str, dict[str, float]]

    def lines(self, asked_gb: float) -> list[str]:
        """The table in Markdown."""
        lines = [
            f"Memory of a training on {NUM_ROWS:,} rows, permuted on the fly, batch and sizes as above, in a process "
            "of its own. Idle: libraries, before there are rows. Above idle and rows: views, activations, autoencoder, "
            f"gradients, AdamW, scaling; asked for: {asked_gb:g} GB beside the raw weights.",
            "",
            "| training | raw rows MB | idle MB | peak MB | above idle and rows MB |",
            "|---|---|---|---|---|",
        ]
        for name, case in self.cases.items():
            above = case["peak"] - case["idle"] - case["raw"]
            lines.append(f"| {name} | {case['raw']:.0f} | {case['idle']:.0f} | {case['peak']:.0f} | **{above:.0f}** |")
        return lines


def measure_memory(*, tiny: bool) -> Memory:
    """Measure every case in a process of its own."""
    cases = {}
    for name in CASES:
        command = [sys.executable, __file__, "--case", name, *(["--tiny"] if tiny else [])]
        cases[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return Memory(cases)


def measure_case(name: str, *, tiny: bool) -> dict[str, float]:
    """Train for two steps in this process."""
    from hyperrep_step import make_data, paper_config

    from hyperrep.training.ranks import SINGLE
    from hyperrep.training.trainer import Trainer
    from zookeeper.population.process import prepare_process

    prepare_process(1)
    config = paper_config(tiny=tiny)
    for section, keys in (("loss", ("beta",)), ("training", ("recompute",))):
        chosen = {key: value for key, value in CASES[name].items() if key in keys}
        config = config.model_copy(update={section: getattr(config, section).model_copy(update=chosen)})
    data, _ = make_data(8)
    idle = psutil.Process().memory_info().rss
    rows = torch.randn(64 if tiny else NUM_ROWS, data.rows.shape[1], generator=torch.Generator().manual_seed(0)) * 0.1
    with tempfile.TemporaryDirectory() as place:
        trainer = Trainer.open(config, replace(data, rows=rows), Path(place), resume=False, ranks=SINGLE)
        for _ in range(NUM_STEPS):
            trainer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"raw": rows.numel() * 4 / 1e6, "idle": idle / 1e6, "peak": peak / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    print(json.dumps(measure_case(options.case, tiny=options.tiny)))


if __name__ == "__main__":
    main()
