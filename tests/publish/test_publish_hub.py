"""Sending to the Hugging Face Hub: whole or resumable, against a stand-in for the endpoints that are used."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zookeeper import InputError
from zookeeper.errors import PublishError
from zookeeper.publish.folder import Publication
from zookeeper.publish.hub import hub_client, plan_hub, send_hub

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # its use of its HTTP library
TOKEN = "hf_s3cr3tOfTheHub0123456789"
REPOSITORY = "me/tiny"


def load_stand_in() -> Any:
    name = "zookeeper_tests_stand_in"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("stand_in.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


stand_in = load_stand_in()


class Hub:
    """One dataset repository: small files in git, Parquet files in large-file storage."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.created = False
        self.commits = 0
        self.server: Any = None

    def entry(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        value: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": oid}
        if name.endswith(".parquet"):
            value["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return value

    def answer(self, request: Any) -> tuple[int, Any]:
        path = urllib.parse.unquote(request.path.partition("?")[0])
        if path.startswith("/storage/"):
            self.large[path.removeprefix("/storage/")] = request.body
            return 200, b""
        if request.headers.get("authorization", request.headers.get("Authorization")) != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials"}
        if path == "/api/repos/create":
            status, self.created = (409 if self.created else 200), True
            url = f"{self.server.address}/datasets/{REPOSITORY}"
            return status, {"url": url, "error": "exists"} if status == 409 else {"url": url}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == f"/datasets/{REPOSITORY}.git/info/lfs/objects/batch":
            return 200, {"objects": [self.offer(one) for one in request.json()["objects"]], "transfer": "basic"}
        found = re.fullmatch(rf"/api/datasets/{REPOSITORY}/?(.*)", path)
        return (404, {"error": path}) if found is None else self.repository(found[1], request)

    def offer(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.large:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.server.address}/storage/{wanted['oid']}"}}}

    def repository(self, rest: str, request: Any) -> tuple[int, Any]:
        if rest in ("", "revision/main"):
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {"id": REPOSITORY, "sha": f"{self.commits:040d}", "siblings": siblings, "private": False}
        if rest.startswith("tree/main"):
            return 200, [self.entry(name) for name in self.files]
        if rest == "paths-info/main":
            asked = urllib.parse.parse_qs(request.body.decode()).get("paths") or request.json()["paths"]
            return 200, [self.entry(name) for name in asked if name in self.files]
        if rest == "preupload/main":
            kinds = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular",
                    "shouldIgnore": False,
                    "oid": self.entry(file["path"])["oid"] if file["path"] in self.files else None,
                }
                for file in request.json()["files"]
            ]
            return 200, {"files": kinds}
        assert rest == "commit/main", rest
        for line in map(json.loads, request.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.files[value["path"]]
        self.commits += 1
        url = f"{self.server.address}/datasets/{REPOSITORY}/commit/{self.commits:040d}"
        return 200, {"commitUrl": url, "commitOid": f"{self.commits:040d}", "success": True}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol has a server of its own
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    state = Hub()
    with stand_in.serve(stand_in.StandIn(state.answer, TOKEN)) as server:
        state.server = server
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        yield state


def send(hub: Hub, made: Publication) -> Any:
    client, token = hub_client(hub.server.address)
    return send_hub(made, REPOSITORY, client, token, sleep=lambda seconds: None)


def contents(made: Publication) -> dict[str, bytes]:
    return {name: (made.path / name).read_bytes() for name in made.sizes}


def test_a_repository_holds_the_publication(hub: Hub, published: Publication) -> None:
    done = send(hub, published)
    assert hub.files == contents(published)
    assert done.sent == tuple(sorted(published.sizes))
    assert done.url.endswith(f"/datasets/{REPOSITORY}")


def test_again_sends_nothing(hub: Hub, published: Publication) -> None:
    send(hub, published)
    before = hub.server.count("PUT")
    again = send(hub, published)
    assert hub.server.count("PUT") == before
    assert (again.sent, again.skipped) == ((), tuple(sorted(published.sizes)))


@pytest.mark.parametrize("status", [500, 503, None])
@pytest.mark.parametrize(("method", "part"), [("PUT", "/storage/"), ("POST", "/commit/"), ("POST", "/repos/create")])
def test_passing_failures_are_outwaited(
    hub: Hub, published: Publication, status: int | None, method: str, part: str
) -> None:
    hub.server.faults.append(stand_in.Fault(method, part, status, times=2))
    send(hub, published)
    assert hub.files == contents(published)


def test_a_lasting_failure_is_resumed(hub: Hub, published: Publication) -> None:
    hub.server.faults.append(stand_in.Fault("POST", "/commit/", 503, times=1000))
    with pytest.raises(PublishError, match=r"hf:me/tiny: failed.*The same command goes on"):
        send(hub, published)
    assert hub.files == {}
    stored = dict(hub.large)
    assert stored
    hub.server.faults.clear()
    before = hub.server.count("PUT", "/storage/")
    send(hub, published)
    assert hub.files == contents(published)
    assert hub.server.count("PUT", "/storage/") == before
    assert hub.large == stored


def test_a_part_of_the_publication_is_completed(hub: Hub, published: Publication) -> None:
    shard = next(name for name in published.sizes if name.startswith("shards/"))
    hub.files[shard] = (published.path / shard).read_bytes()
    hub.files[".gitattributes"] = b"*.parquet filter=lfs"
    done = send(hub, published)
    assert done.skipped == (shard,)
    assert {name: data for name, data in hub.files.items() if name != ".gitattributes"} == contents(published)


def test_what_an_earlier_publication_left_is_removed(hub: Hub, published: Publication) -> None:
    send(hub, published)
    hub.files["shards/old.parquet"] = b"old"
    done = send(hub, published)
    assert done.removed == ("shards/old.parquet",)
    assert hub.files == contents(published)


def test_a_repository_of_something_else_is_left_alone(hub: Hub, published: Publication) -> None:
    hub.files["thesis.pdf"] = b"%PDF"
    with pytest.raises(InputError, match=r"hf:me/tiny: holds 'thesis\.pdf'"):
        send(hub, published)
    assert hub.files == {"thesis.pdf": b"%PDF"}
    assert hub.commits == 0


def test_the_token_is_never_shown(hub: Hub, published: Publication, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "hf_wr0ngButStillS3cret0000"
    monkeypatch.setenv("HF_TOKEN", wrong)
    with pytest.raises(PublishError, match="access refused") as refused:
        send(hub, published)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.server.faults.append(stand_in.Fault("POST", "/commit/", 400, times=9))
    with pytest.raises(PublishError) as broken:
        send(hub, published)
    for error in (refused.value, broken.value):
        assert wrong not in str(error)
        assert TOKEN not in str(error)


def test_nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match="not logged in; expected HF_TOKEN"):
        hub_client()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'weight-zookeeper\[publish\]'"):
        hub_client()


def test_crowded_folders_are_refused(published: Publication) -> None:
    from dataclasses import replace

    crowded = replace(published, sizes={f"shards/{number}.parquet": 1 for number in range(10_001)})
    with pytest.raises(InputError, match="10,001 files; the Hub takes 10,000"):
        plan_hub(crowded)


def test_the_command_line(hub: Hub, zoo: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_api

    monkeypatch.setattr(hf_api.constants, "ENDPOINT", hub.server.address)
    plan = run("publish", zoo, "--to", f"hf:{REPOSITORY}", "--dry-run", "--json")
    assert plan.code == 0
    value = json.loads(plan.out)
    assert {"README.md", "croissant.json", "SHA256SUMS", "zoo.json"} <= {file["name"] for file in value["files"]}
    assert hub.server.seen == []
    done = run("publish", zoo, "--to", f"hf:{REPOSITORY}", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["sent"] == len(value["files"]) == len(hub.files)
    hub.server.faults.append(stand_in.Fault("POST", "/commit/", 400, times=9))
    failed = run("publish", zoo, "--to", f"hf:{REPOSITORY}", "--title", "another")
    assert failed.code == 1
    for ended in (plan, done, failed):
        assert TOKEN not in ended.out + ended.err
        assert "Traceback" not in ended.err
    for path in zoo.parent.rglob("*"):
        assert not path.name.startswith(".tmp-")
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    assert all(TOKEN.encode() not in data for data in hub.files.values())
