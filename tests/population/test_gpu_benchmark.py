"""The GPU benchmark runs as a whole on toys, with torch and numpy alone, and says what it needs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BARE = """
import runpy, sys
for name in ("ray", "pydantic", "pandas", "pyarrow", "h5py", "sklearn", "typer", "yaml", "matplotlib", "xxhash"):
    sys.modules[name] = None
sys.path.insert(0, "benchmarks")
sys.argv[0] = "benchmarks/gpu.py"
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BARE, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_the_whole_benchmark_runs_on_toys(tmp_path: Path) -> None:
    out = tmp_path / "RESULTS.md"
    out.write_text("# Measured\n\n<!-- training: begin -->\nkept\n<!-- training: end -->\n")
    done = run("--smoke", "--device", "cpu", "--out", str(out))
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert text.count("<!-- gpu: begin -->") == text.count("<!-- gpu: end -->") == 1
    assert "kept" in text
    record = json.loads((tmp_path / "gpu.json").read_text())
    digits = record["results"][0]
    ways = {(speed["lowering"], speed["precision"]) for speed in digits["speeds"]}
    assert ways == {(lowering, precision) for lowering in ("grouped", "unfold") for precision in ("float32", "bf16")}
    assert all(speed["step_ms"] > 0 for speed in digits["speeds"])
    assert {speed["tile"] for speed in digits["speeds"]} == {3, 2}
    assert digits["floor_us"].keys() == {"float32", "bf16", "memory"}
    assert all(math.isfinite(minutes) and minutes > 0 for minutes in record["zoo_minutes"].values())
    assert len(record["agreements"]) == 6
    assert all(one["holds"] for one in record["agreements"])
    assert record["torch"] in text
    assert "a trial of the code" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no NVIDIA GPU is visible to torch; expected one."),
        (("--device", "cpu"), "expected --smoke beside it"),
        (("--smoke", "--device", "cpu", "--only", "vgg"), "no case has such a name"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_one_line_and_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
