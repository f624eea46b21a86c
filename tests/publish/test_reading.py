"""Every snippet of docs/reading.md runs, and reads the weights that are stored."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zookeeper import open as open_zoo
from zookeeper.publish.folder import Publication

TEXT = (Path(__file__).parents[2] / "docs" / "reading.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
NAMES = [re.search(r"^(?:import|from) (?!numpy)(\w+)", code, re.MULTILINE) for code in SNIPPETS]
PRINT = """
import json as _json
import numpy as _numpy
if "weights" not in dir():
    weights = rows.with_format("numpy")["weights"][:]
weights = _numpy.asarray(weights)
assert weights.dtype == _numpy.float32, weights.dtype
rows_hex = sorted(row.tobytes().hex() for row in weights)
print(_json.dumps([list(weights.shape), rows_hex]))
"""


def test_the_document_has_a_snippet_for_each_reader() -> None:
    assert [name[1] for name in NAMES if name] == ["pandas", "pyarrow", "polars", "duckdb", "datasets", "datasets"]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_reads_what_is_stored(number: int, published: Publication, tmp_path: Path) -> None:
    name = NAMES[number]
    assert name is not None
    if importlib.util.find_spec(name[1]) is None:
        pytest.skip(f"{name[1]} is not installed")
    zoo = open_zoo(published.path)
    assert zoo.layout.num_weights == 100, "the polars snippet names P"
    code = SNIPPETS[number].replace("ZOO", published.path.as_posix()) + PRINT
    environment = {
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path),
        "PATH": "",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shape, rows = json.loads(done.stdout.splitlines()[-1])
    wanted = zoo if 'load_dataset("/' in code else zoo.query("epoch == 2")
    if name[1] == "pandas":
        models = zoo.models.nlargest(3, "test_acc")["model_id"].tolist()
        wanted = zoo.query("model_id in @models", models=models)
    expected = np.ascontiguousarray(wanted.weights())
    assert shape == list(expected.shape)
    assert rows == sorted(row.tobytes().hex() for row in expected)
