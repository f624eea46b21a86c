"""Run the code blocks of a Markdown page in order, put what they gave back into the page, and write it as a notebook.

``python docs/execute.py docs/tour.md`` runs in an empty scratch folder. The page is the only source:

- a ``yaml`` block whose first line is ``# NAME`` is written to the file NAME;
- an ``sh`` block goes to bash; standard error is a terminal, so that progress bars are there to be shown;
- ``python`` blocks share their names; the value of a last expression is shown, an opened image as a figure;
- the ``text`` block, figure and line of times behind a block are what it gave, and are written anew;
- ``<!--= EXPRESSION -->value<!--.-->`` in the text holds the value of an expression after the last block; beside the
  names of the page it may use ``run`` (`Totals`) and ``pct``, a share as a percentage.

Nothing is written unless every block has run.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import platform
import pty
import re
import resource
import subprocess
import sys
import tempfile
import termios
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

_CODE = re.compile(
    r"^```(?P<kind>yaml|sh|python)\n(?P<source>.*?)^```\n"
    r"(?P<output>(?:\n```text\n.*?^```\n)?(?:\n!\[(?P<caption>[^\]]*)\]\([^)]*\)\n)?(?:\n\*[\d.]+ s, [^\n]*\*\n)?)",
    re.MULTILINE | re.DOTALL,
)
_VALUE = re.compile(r"<!--= (.+?) -->(.*?)<!--\.-->")
_BAR = re.compile(r"(\d+)%\|")
_MAGIC = {"yaml": "%%writefile {name}\n", "sh": "%%bash\n", "python": ""}


class BlockError(Exception):
    """A block did not run; names its line in the page."""


@dataclass(frozen=True, slots=True)
class Block:
    """Text, and the code that follows it; ``line`` is where the code begins in the page."""

    text: str
    kind: str
    source: str
    caption: str
    line: int

    @property
    def name(self) -> str:
        """File that a ``yaml`` block is written to."""
        return self.source.partition("\n")[0].removeprefix("# ").split(":")[0]


@dataclass(frozen=True, slots=True)
class Page:
    """A page as blocks and the text behind the last one; outputs are left out."""

    blocks: tuple[Block, ...]
    rest: str


@dataclass(frozen=True, slots=True)
class Output:
    """What a block gave: the states of its progress bar, what it printed, the value it ended with, times in seconds."""

    seconds: float
    processor: float
    progress: str = ""
    printed: str = ""
    shown: str = ""
    html: str = ""
    figure: Path | None = None
    png: bytes = b""

    @property
    def times(self) -> str:
        """One line for a person."""
        return f"*{self.seconds:.1f} s, processor time {self.processor:.1f} s*"


@dataclass(frozen=True, slots=True)
class Totals:
    """``run`` in the expressions of a page: when, where, and how long in all."""

    outputs: tuple[Output, ...]
    load: float

    @property
    def date(self) -> str:
        """Day of the run."""
        return date.today().isoformat()

    @property
    def seconds(self) -> float:
        """Wall-clock time of all blocks."""
        return sum(output.seconds for output in self.outputs)

    @property
    def processor(self) -> float:
        """Processor time of all blocks."""
        return sum(output.processor for output in self.outputs)

    @property
    def machine(self) -> str:
        """Cores, kind of processor, version of Python."""
        with contextlib.suppress(OSError):
            found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
            if found:
                return f"{os.cpu_count()} cores of {found[1]}, Python {platform.python_version()}"
        return f"{os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}"


Shell = Callable[[str], tuple[str, str]]
"""Carries out commands; returns what they wrote to a terminal on standard error, and to standard output."""


def parse(text: str) -> Page:
    """Cut a page into blocks; ``render(parse(text), ...)`` keeps every character that is no output."""
    blocks, end = [], 0
    for found in _CODE.finditer(text):
        before = text[end : found.start()]
        line = text.count("\n", 0, found.start()) + 2
        blocks.append(Block(before, found["kind"], found["source"], found["caption"] or "", line))
        end = found.end()
    return Page(tuple(blocks), text[end:])


def run_blocks(
    page: Page, folder: Path, shell: Shell, *, files: Mapping[str, str] | None = None
) -> tuple[list[Output], dict[str, Any]]:
    """Run all blocks in a folder.

    Parameters
    ----------
    files
        Texts of ``yaml`` blocks to write in place of the page's own, by file name: the same page on a smaller zoo.

    Returns
    -------
    One output per block, and the names that the Python blocks have left.

    Raises
    ------
    BlockError
        If a block fails.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    outputs = []
    with contextlib.chdir(folder):
        for block in page.blocks:
            started, used = time.monotonic(), _processor()
            try:
                parts = _run(block, names, shell, files or {})
            except Exception as error:
                raise BlockError(f"line {block.line}: the {block.kind} block failed: {error}") from error
            outputs.append(Output(time.monotonic() - started, _processor() - used, **parts))
    return outputs, names


def _run(block: Block, names: dict[str, Any], shell: Shell, files: Mapping[str, str]) -> dict[str, Any]:
    if block.kind == "yaml":
        Path(block.name).write_text(files.get(block.name, block.source), encoding="utf-8")
        return {}
    if block.kind == "sh":
        errors, printed = shell(block.source)
        return {"progress": steady_text(errors), "printed": printed}
    with contextlib.redirect_stdout(io.StringIO()) as out, _teed_stderr() as errors_seen:
        value = _evaluate(block.source, names)
    parts: dict[str, Any] = {"progress": steady_text(errors_seen.getvalue()), "printed": out.getvalue()}
    if hasattr(value, "_repr_png_") and hasattr(value, "filename"):
        figure = Path(value.filename)
        value.close()
        return parts | {"figure": Path(figure.name), "png": figure.read_bytes()}
    if value is not None:
        parts["shown"] = f"{value!r}\n"
    return parts | ({"html": value._repr_html_()} if hasattr(value, "_repr_html_") else {})


def _evaluate(source: str, names: dict[str, Any]) -> Any:
    """Execute Python; the value of a last line that is an expression, as a notebook has it."""
    tree = ast.parse(source)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "<page>", "exec"), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), "<page>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<page>", "eval"), names)


@contextlib.contextmanager
def _teed_stderr() -> Iterator[io.StringIO]:
    seen, real = io.StringIO(), sys.stderr

    class Tee(io.StringIO):
        def write(self, text: str, /) -> int:
            real.write(text)
            return seen.write(text)

    with contextlib.redirect_stderr(Tee()):
        yield seen


def bash(source: str) -> tuple[str, str]:
    """Run commands in bash with the programs of this Python first, standard error on a terminal 100 columns wide."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (30, 100))  # a bar on a terminal without width is empty
    seen = b""
    with tempfile.TemporaryFile() as out:
        environment = {**os.environ, "PATH": path}
        command = ["bash", "-euo", "pipefail", "-c", source]
        with subprocess.Popen(command, stdout=out, stderr=writer, stdin=subprocess.DEVNULL, env=environment) as child:
            os.close(writer)
            with contextlib.suppress(OSError):  # how a terminal ends
                while piece := os.read(reader, 4096):
                    seen += piece
                    sys.stderr.write(piece.decode(errors="replace"))
                    sys.stderr.flush()
        os.close(reader)
        out.seek(0)
        printed = out.read().decode()
    if child.returncode:
        raise BlockError(f"bash ended with {child.returncode}: {seen.decode(errors='replace')[-2000:]}")
    return seen.decode(errors="replace"), printed


def steady_text(written: str) -> str:
    """What a terminal was shown, without control codes; of a progress bar the states at each quarter.

    >>> print(steady_text("go\\n  0%|\\r 30%|x\\r 40%|x\\r100%|y\\n"), end="")
    go
     30%|x
    100%|y
    """
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).replace("\r\n", "\n")
    lines, quarter = [], 0
    for line in (part.rstrip() for part in re.split(r"[\r\n]", plain)):
        bar = _BAR.search(line)
        if bar is None:
            lines += [line] if line else []
            continue
        reached = int(bar[1]) // 25
        if reached > quarter:
            lines.append(_folded(line))
        elif reached == 4:
            lines[-1] = _folded(line)
        quarter = reached
    return "".join(f"{line}\n" for line in lines)


def _folded(line: str) -> str:
    return textwrap.fill(line, 118, subsequent_indent="    ", break_long_words=False)


def _processor() -> float:
    """Processor time in seconds of this process and of its children that have ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, who))


def fill(text: str, names: Mapping[str, Any], run: Totals) -> str:
    """Write the values of all expressions into a text."""
    return _VALUE.sub(
        lambda found: f"<!--= {found[1]} -->{eval(found[1], dict(names, run=run, pct=_percent))}<!--.-->", text
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def render(page: Page, outputs: Sequence[Output], figures: str) -> str:
    """Put a page together again, each block with its output; ``figures`` is the folder of its figures."""
    parts = []
    for block, output in zip(page.blocks, outputs, strict=True):
        parts += [block.text, f"```{block.kind}\n{block.source}```\n"]
        if text := output.progress + output.printed + output.shown:
            parts.append(f"\n```text\n{text.rstrip()}\n```\n")
        if output.figure is not None:
            parts.append(f"\n![{block.caption or output.figure.stem}]({figures}/{output.figure})\n")
        if block.kind != "yaml":
            parts.append(f"\n{output.times}\n")
    return "".join([*parts, page.rest])


def notebook(page: Page, outputs: Sequence[Output]) -> dict[str, Any]:
    """Make the same page an executed notebook of format 4.5, figures inside; its cells run in Jupyter as they are."""
    cells: list[dict[str, Any]] = []
    before = ""
    for number, (block, output) in enumerate(zip(page.blocks, outputs, strict=True), start=1):
        _add_text(cells, before + block.text)
        source = _MAGIC[block.kind].format(name=block.name) + block.source.rstrip("\n")
        found = list(_cell_outputs(output, number))
        cells.append(
            {"cell_type": "code", "execution_count": number, "metadata": {}, "outputs": found, "source": source}
        )
        before = "" if block.kind == "yaml" else f"{output.times}\n"
    _add_text(cells, before + page.rest)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    identified = [{"id": f"cell-{number:02d}", **cell} for number, cell in enumerate(cells)]
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": identified, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _add_text(cells: list[dict[str, Any]], text: str) -> None:
    if plain := _VALUE.sub(r"\2", text).strip():
        cells.append({"cell_type": "markdown", "metadata": {}, "source": plain})


def _cell_outputs(output: Output, number: int) -> Iterator[dict[str, Any]]:
    for name, text in (("stderr", output.progress), ("stdout", output.printed)):
        if text:
            yield {"output_type": "stream", "name": name, "text": text}
    data = {"text/plain": output.shown.rstrip("\n"), "text/html": output.html}
    if output.png:
        data |= {"text/plain": str(output.figure), "image/png": base64.b64encode(output.png).decode("ascii")}
    if data := {kind: text for kind, text in data.items() if text}:
        yield {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data}


def write(path: Path, page: Page, outputs: Sequence[Output], names: Mapping[str, Any], load: float) -> None:
    """Write page, figures and notebook."""
    run = Totals(tuple(outputs), load)
    blocks = tuple(
        Block(fill(block.text, names, run), block.kind, block.source, block.caption, block.line)
        for block in page.blocks
    )
    filled = Page(blocks, fill(page.rest, names, run))
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    for output in outputs:
        if output.figure is not None:
            (folder / output.figure).write_bytes(output.png)
    path.write_text(render(filled, outputs, folder.name), encoding="utf-8")
    text = json.dumps(notebook(filled, outputs), indent=1, ensure_ascii=False)
    path.with_suffix(".ipynb").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Run the page named on the command line."""
    if len(sys.argv) != 2:
        sys.exit(textwrap.dedent(__doc__ or "").strip())
    path = Path(sys.argv[1]).resolve()
    page = parse(path.read_text(encoding="utf-8"))
    load = os.getloadavg()[1]
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}-") as folder:
        try:
            outputs, names = run_blocks(page, Path(folder), bash)
        except BlockError as error:
            sys.exit(f"error: {path.name} {error}")
    write(path, page, outputs, names, load)
    print(f"{path}: {len(outputs)} blocks, {sum(output.seconds for output in outputs):.0f} s")


if __name__ == "__main__":
    main()
