"""Zoos at URLs: what is fetched, when, into which cache, and what is said when it cannot be."""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

import zookeeper
from zookeeper.errors import InputError, StoreError
from zookeeper.store import remote
from zookeeper.store.records import read_commits
from zookeeper.zoo import Zoo


class Handler(SimpleHTTPRequestHandler):
    """A plain web server: files only, no list of a folder; it keeps what it was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.endswith("/"):
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    requests: list[str] = []
    monkeypatch.setattr(Handler, "asked", requests, raising=False)
    return requests


@pytest.fixture
def web(tmp_path: Path, asked: list[str]) -> Iterator[str]:
    """Address of a server of the folder ``served``."""
    (tmp_path / "served").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served")))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    with contextlib.suppress(FileNotFoundError):
        files.rm("/", recursive=True)


@pytest.fixture
def served(web: str, tmp_path: Path, build_zoo: Callable[..., Path]) -> Callable[..., tuple[str, Path]]:
    def serve(name: str = "toy", **options: Any) -> tuple[str, Path]:
        return f"{web}/{name}", build_zoo(tmp_path / "served" / name, **options)

    return serve


def assert_same(one: Zoo, other: Zoo) -> None:
    pd.testing.assert_frame_equal(one.frame, other.frame)
    assert one.weights().tobytes() == other.weights().tobytes()
    assert one.header == other.header


@pytest.mark.parametrize("finalised", [True, False])
def test_a_zoo_on_a_web_server(served: Any, asked: list[str], tmp_path: Path, finalised: bool) -> None:
    url, root = served(finalised=finalised)
    there = zookeeper.open(url, cache=tmp_path / "cache")
    assert there.source == url
    assert not [path for path in asked if "shards" in path]
    assert len(there.query("test_acc > .42 and epoch == 3")) == 3
    assert ("meta/" in "".join(asked)) is not finalised
    first = there.trajectory("1111")
    assert len([path for path in asked if "shards" in path]) == 2  # the two blocks of its cohort, each whole
    assert first.tobytes() == zookeeper.open(root).trajectory("1111").tobytes()
    assert_same(there, zookeeper.open(root))
    assert f"at {url}" in repr(there)
    fetched = len([path for path in asked if "shards" in path])
    assert fetched == len(read_commits(root)) == 4
    asked.clear()
    again = zookeeper.open(url, cache=tmp_path / "cache")
    assert_same(again, there)
    assert sorted(path.partition("/toy/")[2].partition("/")[0] for path in asked) == ["commits"] * 4 + ["zoo.json"]
    assert not list((tmp_path / "cache").rglob(".tmp-*"))


def test_blocks_are_found_without_a_list(served: Any, tmp_path: Path) -> None:
    url, root = served(finalised=False, last=2)
    open_url = partial(zookeeper.open, url, cache=tmp_path / "cache")
    assert_same(open_url(), zookeeper.open(root))
    assert "stored so far: 12 of 24" in repr(open_url())
    (root / "commits" / "early.000000.json").rename(root / "gone")
    assert len(open_url()) == 6
    url, root = served("whole", finalised=False)
    (root / "commits" / "early.000000.json").unlink()  # a block that is absent before others
    gap = zookeeper.open(url, cache=tmp_path / "cache")
    assert_same(gap, zookeeper.open(root))
    assert len(gap) == 18


def test_zoos_in_memory_and_in_files(memory: Any, build_zoo: Callable[..., Path], tmp_path: Path) -> None:
    root = build_zoo(tmp_path / "toy")
    memory.put(str(root), "/zoos/toy", recursive=True)
    there = zookeeper.open("memory://zoos/toy/", cache=tmp_path / "cache")
    assert_same(there, zookeeper.open(root))
    assert there.path.is_relative_to(tmp_path / "cache")
    local = zookeeper.open(f"file://{root}", cache=tmp_path / "unused")
    assert_same(local, there)
    assert local.path == root
    assert not (tmp_path / "unused").exists()
    again = pickle.loads(pickle.dumps(there.split("train")))
    assert again.weights().tobytes() == there.split("train").weights().tobytes()
    both = zookeeper.concatenate({"here": local, "there": there})
    assert both.query("zoo == 'there'").weights().tobytes() == local.weights().tobytes()


def test_workers_fetch_for_themselves(served: Any, asked: list[str], tmp_path: Path) -> None:
    url, root = served()
    there = zookeeper.open(url, cache=tmp_path / "cache")
    there[0].weights()  # the connection of this process is open when the workers start
    rows = {
        int(row): batch.weights[number].numpy().tobytes()
        for batch in there.stream(5, buffer=10).loader(num_workers=2)
        for number, row in enumerate(batch.rows)
    }
    whole = zookeeper.open(root).weights()
    assert rows == {row: whole[row].tobytes() for row in range(24)}


def test_the_cache_is_bounded(served: Any, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, root = served()
    size = max(record.shard.size for record in read_commits(root))
    there = zookeeper.open(url, cache=tmp_path / "cache", cache_bytes=2 * size)
    shards = tmp_path / "cache" / "shards"
    there.weights()
    assert len(list(shards.iterdir())) == 4  # all in use just now
    monkeypatch.setattr(remote, "_IN_USE_SECONDS", 0.0)
    for path in shards.iterdir():
        path.unlink()
    again = pickle.loads(pickle.dumps(there))
    for number in range(len(again)):
        again[number].weights()
    assert len(list(shards.iterdir())) == 2
    assert again.weights().tobytes() == zookeeper.open(root).weights().tobytes()


def test_a_cache_that_was_spoilt_mends_itself(served: Any, asked: list[str], tmp_path: Path) -> None:
    url, root = served()
    zookeeper.open(url, cache=tmp_path / "cache").weights()
    for number, path in enumerate(sorted((tmp_path / "cache" / "shards").iterdir())):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data if number % 2 else data[:-1])
    asked.clear()
    assert zookeeper.open(url, cache=tmp_path / "cache").weights().tobytes() == zookeeper.open(root).weights().tobytes()
    assert len([path for path in asked if "shards" in path]) == 4


@pytest.mark.parametrize("longer", [True, False])
def test_wrong_bytes_are_refused(served: Any, tmp_path: Path, longer: bool) -> None:
    url, root = served()
    there = zookeeper.open(url, cache=tmp_path / "cache")
    for path in (root / "shards").iterdir():
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(bytes(data) * (2 if longer else 1))
    with pytest.raises(StoreError, match=rf"{url}/shards/.* damaged on arrival; expected .*got"):
        there.weights()
    assert not any((tmp_path / "cache" / "shards").iterdir())
    for path in (root / "shards").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match="missing, though a commit record names it"):
        there.weights()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("zoo.json", StoreError, "toy/zoo.json: not valid JSON"),
        ("commits/early.000000.json", StoreError, r"toy/commits/early.000000.json: damaged commit record"),
        ("meta", StoreError, r"toy/meta/.*: damaged; expected \d+ bytes"),
    ],
)
def test_damaged_metadata_is_refused(served: Any, tmp_path: Path, name: str, kind: Any, message: str) -> None:
    url, root = served(finalised=False)
    target = root / name
    for path in target.iterdir() if target.is_dir() else [target]:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(kind, match=message) as caught:
        zookeeper.open(url, cache=tmp_path / "cache")
    assert str(tmp_path) not in str(caught.value)
    assert url in str(caught.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_damaged_cache_of_the_zoo_is_ignored(served: Any, tmp_path: Path) -> None:
    url, root = served()
    (root / "checkpoints.parquet").write_bytes(b"nonsense")
    assert len(zookeeper.open(url, cache=tmp_path / "cache").query("epoch == 0")) == 6
    (root / "caches.json").write_bytes(b'{"commits": 3, "files": [1]}')
    assert len(zookeeper.open(url, cache=tmp_path / "other")) == 24


def test_addresses_that_lead_nowhere(web: str, memory: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url, kind, message in (
        (f"{web}/nothing", InputError, "no zoo here; expected a folder with zoo.json"),
        ("memory://nothing", InputError, "no zoo here"),
        (f"http://127.0.0.1:{port}/zoo", StoreError, f"http://127.0.0.1:{port}/zoo.* cannot be read .*the network"),
        ("nonsense://host/zoo", InputError, "cannot be opened .*nonsense"),
        ("file:///no/such/zoo", InputError, "no zoo here"),
    ):
        with pytest.raises(kind, match=message):
            zookeeper.open(url, cache=tmp_path / "cache")


def test_a_cache_that_is_a_file(served: Any, tmp_path: Path) -> None:
    url, _ = served()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be used as a cache"):
        zookeeper.open(url, cache=tmp_path / "file")


def test_file_names_and_hashes_of_others_lead_nowhere_else(tmp_path: Path, memory: Any) -> None:
    there = remote.RemoteZoo("memory://x", tmp_path, 10, {})
    record = remote.StoredFile("shards/a.parquet", 3, "../../" + "a" * 26)
    with pytest.raises(StoreError, match="is no hash"):
        there.locate(record)
