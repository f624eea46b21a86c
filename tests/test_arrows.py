"""Which room may import which, and which library may be named where: read off the source, then enforced."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("zookeeper", "hyperrep")
ZOO = ("zoo", "datasets", "streaming", "query", "compare", "difference", "listing")

# Rooms of zookeeper. `zoo` is the package and the modules of ZOO; `door` is the package's own __init__.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "spec": {"errors"},
    "images": {"errors"},
    "nets": {"errors"},
    "population": {"errors", "nets"},
    "store": {"errors", "spec"},
    "zoo": {"errors", "spec", "store", "nets"},
    "build": {"errors", "spec", "store", "images", "nets", "population", "zoo"},
    "interop": {"errors", "store", "nets", "zoo"},
    "publish": {"errors", "store", "nets", "zoo", "report"},
    "report": {"errors", "zoo"},
    "door": {"errors", "spec", "store", "nets", "zoo", "build", "interop"},
    "terminal": {"errors"},
}
ARROWS["cli_store"] = set(ARROWS)
ARROWS["cli_interop"] = set(ARROWS)
ARROWS["cli_look"] = set(ARROWS)
ARROWS["cli_leaks"] = set(ARROWS)
ARROWS["cli_publish"] = set(ARROWS)
ARROWS["cli"] = set(ARROWS)
# Rooms of hyperrep; besides these every one may see zookeeper, except its command line.
INNER_ARROWS: dict[str, set[str]] = {
    "door": set(),
    "config": set(),
    "weights": set(),
    "models": set(),
    "objectives": set(),
    "sampling": set(),
    "baselines": {"weights"},
    "report": set(),
    "analysis": {"weights", "baselines"},
    "training": {"config", "weights", "models", "objectives", "report"},
    "tasks": {"config", "weights", "models", "objectives", "sampling", "baselines", "training"},
    "studies": {"config", "weights", "models", "sampling", "baselines", "training", "tasks", "analysis", "report"},
    "cli": {"config", "baselines", "sampling", "training", "tasks", "studies", "report", "door"},
}
INNER_ARROWS["cli_study"] = {"report", "studies"}
INNER_ARROWS["cli"] = INNER_ARROWS["cli"] | {"cli_study"}
INNER_ARROWS["cli_arguments"] = {"training"}
INNER_ARROWS["cli"].add("cli_arguments")
INNER_ARROWS["cli_tasks"] = {"cli_arguments", "baselines", "sampling", "training", "tasks", "report"}
INNER_ARROWS["cli"].add("cli_tasks")
INNER_ARROWS["cli_align"] = {"training", "tasks", "report"}
INNER_ARROWS["cli"].add("cli_align")
INNER_ARROWS["cli_sample"] = {"cli_arguments", "sampling", "training", "tasks", "report"}
INNER_ARROWS["cli"].add("cli_sample")
INNER_ARROWS["cli_train"] = {"config", "training"}
INNER_ARROWS["cli"].add("cli_train")
FENCES: dict[str, tuple[str, ...]] = {
    "ray": ("zookeeper/build/ray.py", "hyperrep/training/tune.py"),
    "h5py": ("zookeeper/store/hdf5.py",),
    "pyarrow": ("zookeeper/store/", "zookeeper/publish/"),
    "yaml": ("zookeeper/spec/document.py",),
    "triton": ("zookeeper/population/triton_kernels.py",),
    "llvmlite": ("zookeeper/population/pooling_kernels.py",),
    "fsspec": ("zookeeper/store/remote.py",),
}
TORCH_FREE = ("zookeeper.spec", "zookeeper.store", "zookeeper", "zookeeper.zoo", "zookeeper.query", "zookeeper.errors")
NAMELESS = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}


@dataclass(frozen=True)
class Import:
    """One imported module; ``eager`` if it is imported as soon as its importer is."""

    importer: str
    line: int
    target: str
    eager: bool
    typing_only: bool


def read_imports(source: str, importer: str, *, is_package: bool = False) -> list[Import]:
    """Every import of a module's source, in functions, behind TYPE_CHECKING and by string too."""
    found: list[Import] = []

    def visit(node: ast.AST, *, eager: bool, typing_only: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for target in targets(child):
                found.append(Import(importer, child.lineno, target, eager and not typing_only, typing_only))  # type: ignore[attr-defined]
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for branch, guarded in ((child.body, True), (child.orelse, typing_only)):
                    visit(ast.Module(branch, []), eager=eager, typing_only=guarded)
                continue
            visit(child, eager=eager and not inside, typing_only=typing_only)

    def targets(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = importer.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            modules = [f"{base}.{alias.name}" for alias in node.names if module_file(f"{base}.{alias.name}")]
            yield from modules
            if len(modules) < len(node.names):
                yield base
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value

    visit(ast.parse(source), eager=True, typing_only=False)
    return found


def module_file(name: str) -> Path | None:
    """File of one of the project's own modules."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def files() -> tuple[Path, ...]:
    return tuple(sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py")))


@cache
def imports() -> tuple[Import, ...]:
    return tuple(
        found
        for file in files()
        for found in read_imports(
            file.read_text(encoding="utf-8"), module_name(file), is_package=file.name == "__init__.py"
        )
    )


def room(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1:
        return "door"
    return "zoo" if parts[0] == "zookeeper" and parts[1] in ZOO else parts[1]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def forbidden_arrows(found: Iterator[Import] | tuple[Import, ...]) -> list[str]:
    problems = []
    for one in found:
        if not within(one.target, "zookeeper") and not within(one.target, "hyperrep"):
            continue
        source, target = room(one.importer), room(one.target)
        if within(one.importer, "zookeeper"):
            allowed = within(one.target, "zookeeper") and (source == target or target in ARROWS.get(source, set()))
        elif within(one.target, "zookeeper"):
            allowed = target != "cli"
        else:
            allowed = source == target or target in INNER_ARROWS.get(source, set())
        if not allowed:
            problems.append(f"{one.importer}:{one.line} imports {one.target} ({source} -> {target})")
    return problems


def broken_fences(found: Iterator[Import] | tuple[Import, ...]) -> list[str]:
    problems = []
    for one in found:
        homes = FENCES.get(one.target.partition(".")[0])
        path = one.importer.replace(".", "/")
        if homes and not any((path + "/").startswith(h) if h.endswith("/") else path + ".py" == h for h in homes):
            problems.append(f"{one.importer}:{one.line} imports {one.target}")
    return problems


def eager_closure(start: str) -> dict[str, str]:
    """Modules that are loaded with ``start``, each with the module that asks for it."""
    eager: dict[str, set[str]] = {}
    for one in imports():
        if one.eager:
            eager.setdefault(one.importer, set()).add(one.target)
    reached, waiting = {start: ""}, [start]
    while waiting:
        module = waiting.pop()
        parents = [module.rpartition(".")[0]] if "." in module and module_file(module) else []
        for target in (*eager.get(module, ()), *parents):
            if target not in reached:
                reached[target] = module
                waiting.append(target)
    return reached


def test_all_rooms_are_in_the_tables() -> None:
    rooms = {(file.relative_to(ROOT).parts[0], room(module_name(file))) for file in files()}
    assert {name for package, name in rooms if package == "zookeeper"} <= set(ARROWS)
    assert {name for package, name in rooms if package == "hyperrep"} <= set(INNER_ARROWS)
    assert len(files()) > 50
    assert len(imports()) > 300


@pytest.mark.parametrize("table", [ARROWS, INNER_ARROWS], ids=["zookeeper", "hyperrep"])
def test_arrows_have_no_circles(table: dict[str, set[str]]) -> None:
    rest = {name: {t for t in targets if t in table} for name, targets in table.items()}
    while rest:
        free = [name for name, targets in rest.items() if not targets & rest.keys()]
        assert free, f"circle among {sorted(rest)}"
        for name in free:
            del rest[name]


def test_rooms_import_only_along_the_arrows() -> None:
    assert forbidden_arrows(imports()) == []


def test_libraries_stay_behind_their_fences() -> None:
    assert broken_fences(imports()) == []


def test_zookeeper_never_imports_hyperrep() -> None:
    assert [one for one in imports() if within(one.importer, "zookeeper") and within(one.target, "hyperrep")] == []


def test_torch_is_not_loaded_with_specs_stores_and_zoos() -> None:
    starts = [
        module_name(file)
        for file in files()
        if module_name(file) in TORCH_FREE or module_name(file).startswith(("zookeeper.spec.", "zookeeper.store."))
    ]
    assert len(starts) > 15
    for start in starts:
        closure = eager_closure(start)
        guilty = {
            target: by for target, by in closure.items() if target.partition(".")[0] in ("torch", "ray", "torchvision")
        }
        assert guilty == {}, start


def test_a_worker_loads_no_more_than_its_first_step_needs() -> None:
    closure = eager_closure("zookeeper.build.worker")
    assert "torch" in {target.partition(".")[0] for target in closure}
    guilty = {target: by for target, by in closure.items() if target.partition(".")[0] in ("pandas", "scipy", "ray")}
    assert guilty == {}


def test_the_door_loads_neither_torch_nor_ray_nor_pandas() -> None:
    code = (
        "import sys, zookeeper\n"
        "heavy = {'torch', 'ray', 'pandas', 'pyarrow'} & set(sys.modules); assert not heavy, heavy\n"
        "import zookeeper.zoo, zookeeper.query, zookeeper.spec, zookeeper.store.writer, zookeeper.store.caches\n"
        "heavy = {'torch', 'ray', 'torchvision'} & set(sys.modules); assert not heavy, heavy\n"
        "assert zookeeper.open is zookeeper.zoo.open and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT, timeout=60)


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {part for file in files() for part in file.relative_to(ROOT).with_suffix("").parts}
    assert names & NAMELESS == set()


def found_in(source: str, importer: str) -> tuple[Import, ...]:
    return tuple(read_imports(source, importer))


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("zookeeper.spec.x", "import zookeeper.store.writer"),
        ("zookeeper.spec.x", "from zookeeper import build"),
        ("zookeeper.spec.x", "def f():\n    from zookeeper.nets.layout import WeightLayout"),
        ("zookeeper.nets.x", "from ..population import evaluate"),
        ("zookeeper.nets.x", "if TYPE_CHECKING:\n    from zookeeper.population.lower import Population"),
        ("zookeeper.population.x", "import importlib\nimportlib.import_module('zookeeper.build.run')"),
        ("zookeeper.store.x", "class A:\n    def f(self):\n        import zookeeper.zoo"),
        ("zookeeper.build.x", "import hyperrep"),
        ("zookeeper.images.x", "from zookeeper.cli import main"),
        ("hyperrep.weights.x", "from hyperrep.training.fit import fit"),
        ("hyperrep.sampling.x", "from hyperrep.tasks import probe"),
        ("hyperrep.tasks.x", "from zookeeper.cli import main"),
        ("zookeeper.unheard_of.x", "from zookeeper.spec import names"),
    ],
)
def test_a_wrong_arrow_is_found(importer: str, source: str) -> None:
    assert len(forbidden_arrows(found_in(source, importer))) >= 1


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("zookeeper.build.local", "import ray"),
        ("zookeeper.build.rays", "from ray.util import queue"),
        ("zookeeper.store.parquet", "import h5py"),
        ("zookeeper.zoo", "def f():\n    import pyarrow.parquet as pq"),
        ("zookeeper.storehouse", "import pyarrow"),
        ("zookeeper.population.triton_convolution", "def f():\n    import triton.language as tl"),
        ("hyperrep.config", "try:\n    import yaml\nexcept ImportError:\n    pass"),
    ],
)
def test_a_broken_fence_is_found(importer: str, source: str) -> None:
    assert len(broken_fences(found_in(source, importer))) == 1


def test_what_is_allowed_is_not_reported() -> None:
    assert broken_fences(found_in("import ray, pyarrow_like, yaml_like", "zookeeper.build.ray")) == []
    assert broken_fences(found_in("import pyarrow as pa", "zookeeper.store.table")) == []
    assert forbidden_arrows(found_in("from zookeeper.nets import layout\nimport numpy", "zookeeper.population.x")) == []
    assert forbidden_arrows(found_in("import zookeeper\nfrom hyperrep import config", "hyperrep.training.x")) == []


def test_eager_and_lazy_imports_are_told_apart() -> None:
    source = (
        "import a\nif TYPE_CHECKING:\n    import b\nelse:\n    import c\n"
        "def f():\n    import d\nclass G:\n    import e\n    def h(self):\n        import g\n"
    )
    found = {one.target: (one.eager, one.typing_only) for one in found_in(source, "zookeeper.x")}
    eager, lazy, typing_only = (True, False), (False, False), (False, True)
    assert found == {"a": eager, "b": typing_only, "c": eager, "d": lazy, "e": eager, "g": lazy}
