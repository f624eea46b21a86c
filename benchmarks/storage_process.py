"""What a fresh process needs to open a zoo and query it, or to read it batch by batch; one JSON line.

python benchmarks/storage_process.py open data/zoos/digits_cnn
python benchmarks/storage_process.py read data/zoos/digits_cnn
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

QUERY = "test_acc > .6 and lr < .01 and epoch == 50"
BATCH = 1024


def run(what: str, root: Path) -> dict[str, float]:
    """Measure in a process of its own: seconds by step and MB of memory."""
    command = [sys.executable, __file__, what, str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_open(root: Path) -> dict[str, float]:
    import pandas  # noqa: F401  imports are not part of opening
    import pyarrow.parquet  # noqa: F401

    import zookeeper

    spent: dict[str, float] = {}

    def step(name: str, work: Callable[[], object]) -> object:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        result = work()
        spent[name] = time.perf_counter() - begin
        spent[f"{name}_cpu"] = time.process_time() - begin_cpu
        return result

    open_zoo = zookeeper.open  # the door imports on first use
    zoo = step("open", lambda: open_zoo(root))
    assert isinstance(zoo, zookeeper.Zoo)
    step("query", lambda: zoo.query(QUERY).frame)
    step("text", lambda: zoo.query("init == 'uniform' and test_acc > .5").frame)
    step("models", lambda: zoo.models)
    step("split", lambda: len(zoo.split("train")))
    step("model", lambda: zoo.trajectory(str(zoo.models["model_id"].iloc[-1])))
    spent["peak_mb"] = memory("VmHWM")
    step("frame", lambda: zoo.frame)
    return spent | {"rows": len(zoo), "peak_with_frame_mb": memory("VmHWM")}


def measure_read(root: Path) -> dict[str, float]:
    import zookeeper

    zoo = zookeeper.open(root)
    for batch in zoo[:BATCH].batches(BATCH):  # what is loaded on first use
        batch.weights.sum()
    before = forget_peak()
    for batch in zoo.batches(BATCH):
        batch.weights.sum()
    width = 4e-6 * zoo.layout.num_weights
    return {"above_mb": memory("VmHWM") - before, "batch_mb": width * min(BATCH, len(zoo)), "zoo_mb": width * len(zoo)}


def memory(name: str) -> float:
    """A line of this process's status in MB: ``VmHWM``, the most so far, or ``VmRSS``, now."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) * 1024e-6


def forget_peak() -> float:
    """Start the measurement of the most memory anew; returns what is in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


if __name__ == "__main__":
    measured = {"open": measure_open, "read": measure_read}[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps(measured))
