"""The page in a real browser, where there is one: it sorts, filters, loads nothing and fits any window."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from zookeeper import Zoo
from zookeeper.report.page import render_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path")


def ask(text: str, script: str, folder: Path, *, width: int = 1200) -> Any:
    """Load a page, run a script on it and return what it answers."""
    page = folder / "page.html"
    answer = f"document.body.dataset.answer = JSON.stringify((() => {{ {script} }})());"
    page.write_text(text.replace("</body>", f"<script>{answer}</script></body>"), encoding="utf-8")
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},800", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    found = re.search(r'data-answer="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found.group(1)))


TABLE = """
const table = document.getElementById("model-table");
const place = (name) => [...table.tHead.rows[0].cells].findIndex((cell) => cell.dataset.column === name);
const column = (name) => [...table.tBodies[0].rows].filter((row) => !row.hidden)
  .map((row) => row.cells[place(name)].textContent);
const click = (name) => table.tHead.rows[0].cells[place(name)].querySelector("button").click();
const filter = (text) => { const box = document.getElementById("filter"); box.value = text;
  box.dispatchEvent(new Event("input")); return document.getElementById("count").textContent; };
"""


def test_table_sorts_and_filters(trained: Zoo, tmp_path: Path) -> None:
    script = """
    const found = { start: document.getElementById("count").textContent };
    click("lr"); found.up = column("lr"); found.aria = table.tHead.rows[0].cells[place("lr")].ariaSort;
    click("lr"); found.down = column("lr");
    click("init"); found.text = column("init");
    found.one = filter("init=normal lr>0.002"); found.seeds = column("seed").sort();
    found.words = filter("uniform"); found.none = filter("seed>99"); found.all = filter("");
    return found;
    """
    found = ask(render_report(trained), TABLE + script, tmp_path)
    assert found["start"] == found["all"] == "12 of 12 rows"
    assert found["up"] == ["0.001"] * 6 + ["0.003"] * 6
    assert found["down"] == found["up"][::-1]
    assert found["aria"] == "ascending"
    assert found["text"] == ["normal"] * 6 + ["uniform"] * 6
    assert (found["one"], found["seeds"]) == ("3 of 12 rows", ["0", "1", "2"])
    assert (found["words"], found["none"]) == ("6 of 12 rows", "0 of 12 rows")


@pytest.mark.parametrize("width", [500, 1400])
def test_page_fits_the_window_and_loads_nothing(width: int, crowd: Zoo, tmp_path: Path) -> None:
    script = """
    const wide = [...document.querySelectorAll("svg, p, dl, pre, figure, .scroll, .filter")]
      .filter((element) => element.getBoundingClientRect().right > innerWidth + 1).length;
    return { over: document.documentElement.scrollWidth - document.documentElement.clientWidth, wide,
      loaded: performance.getEntriesByType("resource").length, rows: filter("") };
    """
    found = ask(render_report(crowd), TABLE + script, tmp_path, width=width)
    assert found == {"over": 0, "wide": 0, "loaded": 0, "rows": "2,000 of 2,000 rows"}
