"""The fused kernels without a GPU: their tests in triton's interpreter, and their compilation for a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zookeeper.population.triton_convolution import BLOCKS, Shape, launch_constants

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed, as on machines without an NVIDIA GPU"
)
SHARED_BYTES = 99 * 1024  # of one program, on the smallest GPU since Ampere


@needs_triton
def test_kernels_agree_with_torch_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "interpreted")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "skipped" not in done.stdout


def test_triton_is_not_imported_before_a_kernel_runs() -> None:
    code = (
        "import sys, torch, zookeeper.population as p\n"
        "net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2))\n"
        "population = p.Population(net, (1, 4, 4), lowerings={'0': 'triton'})\n"
        "population.forward(torch.zeros(1, population.layout.num_weights), torch.zeros(1, 1, 4, 4))\n"
        "assert 'triton' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT, env=environment, timeout=60)


@needs_triton
@pytest.mark.parametrize(
    ("shape", "precision"),
    [
        (Shape(3, 32, 32, 16, 3, 0, 2, "relu"), "ieee"),
        (Shape(6, 4, 4, 4, 2, 1, 1, ""), "ieee"),
        *[(Shape(16, 15, 15, 32, 3, 0, 2, "gelu"), precision) for precision in ("ieee", "tf32", "bf16")],
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", ["forward", "weight_gradient", "input_gradient"])
def test_kernels_compile_for_hopper_and_fit_its_memory(
    kernel: str, shape: Shape, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton  # type: ignore[import-untyped, unused-ignore]
    from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped, unused-ignore]
    from triton.compiler import ASTSource  # type: ignore[import-untyped, unused-ignore]

    from zookeeper.population import triton_kernels

    function: Any = getattr(triton_kernels, f"{kernel}_kernel")
    constants, options = launch_constants(kernel, shape, BLOCKS, "ieee" if precision == "bf16" else precision)
    flags = {name: True for name in ("HAS_BIAS", "KEEP_BEFORE", "KEEP_CHOICE") if name in function.arg_names}
    constants = constants | flags | ({"PART": 512} if kernel == "weight_gradient" else {})
    values = "*bf16" if precision == "bf16" else "*fp32"
    operands = ("x", "kernels", "out", "before", "grad", "kept", "grad_before", "grad_x")
    types = dict.fromkeys(operands, values) | dict.fromkeys(("bias", "grad_kernels", "grad_bias"), "*fp32")
    types |= {"choice": "*i8"} | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "i32") for name in function.arg_names}
    places = {(function.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(function, signature, places)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.metadata.shared <= SHARED_BYTES
    assert ("mma" in compiled.asm["ptx"]) == (precision != "ieee")  # float32 never goes through TF32 units
