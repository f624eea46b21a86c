"""Every snippet of docs/datasets.md runs, and gives what it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from zookeeper.zoo import Zoo

TEXT = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_snippets_give_what_they_say(zoo: Zoo, other: Zoo) -> None:
    names: dict[str, object] = {}
    checked = 0
    for snippet in SNIPPETS:
        code = snippet.replace("ZOO", zoo.path.as_posix()).replace("OTHER", other.path.as_posix())
        for node in ast.parse(code).body:
            source = "\n".join(code.splitlines()[node.lineno - 1 : node.end_lineno])
            said = source.partition("  # ")[2]
            if isinstance(node, ast.Expr) and said:
                assert repr(eval(source, names)) == said, source
                checked += 1
            else:
                exec(source, names)
    assert (len(SNIPPETS), checked) == (6, 16)
