"""Every block of docs/tour.md runs, on a smaller zoo; its notebook says the same; what runs pages does so rightly."""

from __future__ import annotations

import doctest
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TOUR = (DOCS / "tour.md").read_text(encoding="utf-8")
SMALLER = {  # what stands in the page's YAML -> what the test puts there
    "tour.yaml": {
        "train: 0.7, val: 0.1, test: 0.2}": "train: 0.15, val: 0.1, test: 0.75}",
        "init: [uniform, normal, kaiming_uniform, kaiming_normal]": "init: [uniform, kaiming_normal]",
        "lr: [1e-4, 2.5e-4, 5e-4, 1e-3]": "lr: [1e-3, 2e-3, 5e-3, 1e-2]",
        "batch_size: 32": "batch_size: 128",
        "checkpoints: {every: 1}": "checkpoints: {every: 5}",
        "range: [200, 220]": "range: [200, 206]",
        "train: 0.7, val: 0.15, test: 0.15, seed": "train: 0.66, val: 0.17, test: 0.17, seed",
    },
    "hyper.yaml": {
        "steps: 500": "steps: 4",
        "evaluate_every: 50": "evaluate_every: 2",
        "batch_size: 64": "batch_size: 16",
        "queries: 256": "queries: 16",
    },
    "wide.yaml": {"draws: 500": "draws: 40", "temperature: 1e-3": "temperature: 1e-3, gradients: 40"},
}

FEWER = {"--workers 2": "--local", "-n 100 ": "-n 20 "}  # the same in commands


def load_execute() -> ModuleType:
    """``docs/execute.py``, which lies in no package."""
    spec = importlib.util.spec_from_file_location("execute", DOCS / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["execute"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


execute = load_execute()
PAGE = execute.parse(TOUR)
FIGURES = sorted((DOCS / "tour").iterdir())
NOTEBOOK = json.loads((DOCS / "tour.ipynb").read_text(encoding="utf-8"))


def smaller_files() -> dict[str, str]:
    files = {}
    assert all(any(there in block.source for block in PAGE.blocks) for there in FEWER)
    for block in PAGE.blocks:
        if block.kind == "yaml":
            text = block.source
            for there, here in SMALLER[block.name].items():
                assert text.count(there) == 1, (block.name, there)
                text = text.replace(there, here)
            files[block.name] = text
    return files


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str, str]]:
    """A shell whose two programs run in this process, where torch is loaded already; no Ray."""
    mains = {name: importlib.import_module(f"{name}.cli").main for name in ("zookeeper", "hyperrep")}

    def shell(source: str) -> tuple[str, str]:
        printed = []
        for line in [source] if "<<" in source else source.replace("\\\n", "").splitlines():
            for there, here in FEWER.items():
                line = line.replace(there, here)
            printed.append(one(line))
        return "", "".join(printed)

    def one(line: str) -> str:
        found = re.fullmatch(r"(\w+) (?P<arguments>[^|>]*?)(?: > (?P<file>\S+)| \| .*)?", line)
        if found is None or found[1] not in mains:
            return execute.bash(line)[1]
        monkeypatch.setattr(sys, "argv", [found[1], *shlex.split(found["arguments"])])
        with redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as ended:
            mains[found[1]]()
        assert ended.value.code == 0, line
        if found["file"]:
            Path(found["file"]).write_text(out.getvalue())
        return out.getvalue()

    return shell


def test_every_block_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scratch, site = tmp_path / "scratch", tmp_path / "site"
    scratch.mkdir()
    site.mkdir()
    outputs, names = execute.run_blocks(PAGE, scratch, in_this_process(monkeypatch), files=smaller_files())
    execute.write(site / "tour.md", PAGE, outputs, names, 0.0)
    again = execute.parse((site / "tour.md").read_text())
    assert [block.source for block in again.blocks] == [block.source for block in PAGE.blocks]
    assert sorted(path.name for path in (site / "tour").iterdir()) == sorted(path.name for path in FIGURES)


def test_the_examples_of_what_runs_pages() -> None:
    found = doctest.testmod(execute)
    assert (found.failed, found.attempted) == (0, 1)


def test_the_notebook_is_the_page() -> None:
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [re.sub(r"\A%%.*\n", "", cell["source"]) for cell in code] == [b.source.rstrip("\n") for b in PAGE.blocks]
    text = "\n".join(cell["source"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown")
    prose = "".join(block.text for block in PAGE.blocks) + PAGE.rest
    plain = execute._VALUE.sub(r"\2", prose)
    without_times = re.sub(r"^\*[\d.]+ s, .*\*$", "", text, flags=re.MULTILINE)
    assert "".join(without_times.split()) == "".join(plain.split())


def test_the_notebook_is_executed_and_shows_what_the_page_shows() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    figures = 0
    for number, cell in enumerate((c for c in NOTEBOOK["cells"] if c["cell_type"] == "code"), start=1):
        assert cell["execution_count"] == number
        for output in cell["outputs"]:
            shown = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
            figures += "image/png" in output.get("data", {})
            if "image/png" not in output.get("data", {}):
                assert shown.rstrip() in TOUR
    assert figures == len(FIGURES)


def test_every_figure_is_in_the_page_and_there() -> None:
    named = re.findall(r"^!\[[^\]]+\]\(tour/(.+)\)$", TOUR, re.MULTILINE)
    assert sorted(named) == [path.name for path in FIGURES]


def run_page(text: str, folder: Path) -> str:
    """The text of a page after it was run."""
    page = execute.parse(text)
    outputs, names = execute.run_blocks(page, folder, execute.bash)
    execute.write(folder / "page.md", page, outputs, names, 0.0)
    return (folder / "page.md").read_text()


def test_outputs_are_replaced_and_all_else_is_kept(tmp_path: Path) -> None:
    text = (
        "# A page\n\n```sh\necho one\n```\n\n```text\nstale\n```\n\n*9.0 s, stale*\n\n"
        "```text\nnot an output\n```\n\n```python\nx = 2\nx + 1\n```\n\nSo <!--= x -->7<!--.--> it is.\n"
    )
    once = run_page(text, tmp_path)
    stable = re.sub(r"\*[\d.]+ s, .*\*", "TIMES", once)
    assert stable == (
        "# A page\n\n```sh\necho one\n```\n\n```text\none\n```\n\nTIMES\n\n"
        "```text\nnot an output\n```\n\n```python\nx = 2\nx + 1\n```\n\n```text\n3\n```\n\nTIMES\n\n"
        "So <!--= x -->2<!--.--> it is.\n"
    )
    assert re.sub(r"\*[\d.]+ s, .*\*", "TIMES", run_page(once, tmp_path)) == stable


def test_bash_sees_a_terminal_and_the_bar_is_thinned(tmp_path: Path) -> None:
    code = "from tqdm import tqdm; [None for _ in tqdm(range(64), mininterval=0, disable=None)]"
    shown = execute.steady_text(execute.bash(f"python -c '{code}'")[0]).splitlines()
    assert [re.search(r"(\d+)%", line)[1] for line in shown] == ["25", "50", "75", "100"]  # type: ignore[index]


@pytest.mark.parametrize("code", ["```sh\nfalse\n```\n", "```python\n1 / 0\n```\n", "```sh\nfalse | cat\n```\n"])
def test_a_block_that_fails_is_named_and_nothing_is_written(code: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"text\n\n{code}")
    done: Any = subprocess.run(
        [sys.executable, str(DOCS / "execute.py"), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "page.md line 4: the " in done.stderr
    assert path.read_text() == f"text\n\n{code}"
    assert list(tmp_path.iterdir()) == [path]
