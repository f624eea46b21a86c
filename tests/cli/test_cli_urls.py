"""Commands that only read take URLs as `zookeeper.open` does; those that need the files say so."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import zookeeper
from zookeeper import WeightLayout, write_rows
from zookeeper.listing import list_zoos

Run = Callable[..., Any]
LAYOUT = WeightLayout.from_shapes({"fc.weight": ((1, 2), "weight")})


class Handler(SimpleHTTPRequestHandler):
    """Files only, no list of a folder."""

    def list_directory(self, path: Any) -> None:
        self.send_error(403)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = {"model_id": ["m0", "m1", "m2", "m3"], "init": ["normal"] * 2 + ["uniform"] * 2, "test_acc": [0.1] * 4}
    root = tmp_path / "zoos/toy"
    write_rows(root, np.arange(8).reshape(4, 2), table, LAYOUT, name="toy")
    return root


@pytest.fixture(params=["memory", "file", "http"])
def url(request: pytest.FixtureRequest, toy: Path) -> Iterator[str]:
    """The address of the folder that holds the zoo."""
    if request.param == "file":
        yield f"file://{toy.parent}"
    elif request.param == "memory":
        files = fsspec.filesystem("memory")
        files.put(str(toy.parent), "/there", recursive=True)
        yield "memory://there"
        files.rm("/there", recursive=True)
    else:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(toy.parent)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_only_reads_reads_at_a_url(url: str, toy: Path, run: Run, tmp_path: Path) -> None:
    there = f"{url}/toy"
    value, here = json.loads(run("info", there, "--json").out), json.loads(run("info", toy, "--json").out)
    for one in (value, here):
        assert one.pop("bytes") > 500
    assert value.pop("path") == there
    assert here.pop("path") == str(toy)
    assert value == here
    assert run("query", there, "test_acc > 0", "--csv").out == run("query", toy, "test_acc > 0", "--csv").out
    assert run("diff", there, toy).out == "equal: 4 checkpoints\n"
    ended = run("diff", toy, there, "--json")
    assert (ended.code, json.loads(ended.out)["equal"]) == (0, True)
    assert run("leaks", there, toy).code == 0
    ended = run("report", there)
    page = Path(ended.out.strip())
    assert (ended.code, page.name) == (0, "toy.html")
    assert "PCA of 4 models" in page.read_text()
    assert run("export", "npy", there, tmp_path / "out").code == 0
    assert np.load(tmp_path / "out/weights.npy").tolist() == zookeeper.open(toy).weights().tolist()


def test_zoos_below_a_url_are_listed(url: str, toy: Path, run: Run) -> None:
    (here,) = list_zoos(toy.parent)
    (there,) = list_zoos(f"{url}/toy")
    assert (there.name, there.num_checkpoints, there.state) == ("toy", 4, "complete")
    if url.startswith("http"):
        ended = run("ls", url)
        assert (ended.code, "the host lists no folders" in ended.err) == (2, True)
    else:
        (entry,) = json.loads(run("ls", f"{url}/", "--json").out)
        assert entry["path"] in (f"{url}/toy", str(toy))
        assert entry["num_models"] == here.num_models == 4
        ended = run("ls", f"{url}/nothing")
        assert ended.code == 2
    record = next((toy / "commits").iterdir())
    record.write_bytes(b"{}")
    if url.startswith("memory"):
        fsspec.filesystem("memory").put(str(record), f"/there/toy/commits/{record.name}")
    (damaged,) = list_zoos(f"{url}/toy")
    assert (damaged.state, "damaged commit record" in damaged.problem) == ("damaged", True)
    assert "cache" not in damaged.problem


@pytest.mark.parametrize("command", ["verify", "convert", "publish", "retrain"])
def test_what_needs_the_files_says_so(command: str, run: Run, tmp_path: Path) -> None:
    more = {"convert": [tmp_path / "x"], "publish": ["--to", tmp_path / "x"], "retrain": ["m0"]}.get(command, [])
    ended = run(command, "https://host/zoo", *more)
    assert ended.code == 2
    assert "is an address; this command needs a zoo in a folder" in ended.err
    assert "Traceback" not in ended.err
