"""Sending to Zenodo: whole or resumable, against a stand-in for the endpoints that are used."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zookeeper import InputError, assert_equal
from zookeeper import open as open_zoo
from zookeeper.errors import PublishError
from zookeeper.publish.archive import plan_parts, write_part
from zookeeper.publish.exchange import Service
from zookeeper.publish.folder import Publication
from zookeeper.publish.zenodo import plan_zenodo, send_zenodo


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
TOKEN = "zt-5up3r-s3cr3t-0f-zenodo"
LIMIT = 40_000  # bytes of an archive, so that there are several


class Depositions:
    """The depositions of one user."""

    def __init__(self) -> None:
        self.metadata: dict[int, dict[str, Any]] = {}
        self.files: dict[int, dict[str, bytes]] = {}
        self.submitted: set[int] = set()
        self.corrupt: set[str] = set()
        self.server: Any = None

    def describe(self, number: int) -> dict[str, Any]:
        files = [
            {"id": f"id-{name}", "filename": name, "filesize": len(data), "checksum": hashlib.md5(data).hexdigest()}
            for name, data in self.files[number].items()
        ]
        base = self.server.address
        links = {"bucket": f"{base}/api/files/bucket-{number}", "html": f"{base}/deposit/{number}"}
        return {"id": number, "links": links, "files": files, "submitted": number in self.submitted}

    def answer(self, request: Any) -> tuple[int, Any]:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"message": f"bad credentials: {request.headers.get('Authorization')}"}
        if (request.method, request.path) == ("POST", "/api/deposit/depositions"):
            number = 100 + len(self.files)
            self.files[number] = {}
            return 201, self.describe(number)
        if found := re.fullmatch(r"/api/files/bucket-(\d+)/(.+)", request.path):
            number, name = int(found[1]), found[2]
            self.files[number][name] = request.body[:-1] if name in self.corrupt else request.body
            stored = self.files[number][name]
            return 201, {"key": name, "size": len(stored), "checksum": f"md5:{hashlib.md5(stored).hexdigest()}"}
        found = re.fullmatch(r"/api/deposit/depositions/(\d+)(?:/files/id-(.+))?", request.path)
        if found is None or int(found[1]) not in self.files:
            return 404, {"message": "not here"}
        number = int(found[1])
        if request.method == "DELETE":
            del self.files[number][found[2]]
            return 204, b""
        if request.method == "PUT":
            self.metadata[number] = request.json()["metadata"]
        return 200, self.describe(number)


@pytest.fixture
def depositions() -> Iterator[Depositions]:
    state = Depositions()
    with stand_in.serve(stand_in.StandIn(state.answer, TOKEN)) as server:
        state.server = server
        yield state


def service(depositions: Depositions, token: str = TOKEN, attempts: int = 3) -> Service:
    return Service(f"{depositions.server.address}/api", token, (0.0,) * (attempts - 1), lambda seconds: None)


def test_a_draft_holds_the_publication(depositions: Depositions, published: Publication, tmp_path: Path) -> None:
    done = send_zenodo(published, service(depositions), limit=LIMIT)
    files = depositions.files[100]
    assert sorted(done.sent) == sorted(files)
    assert done.url.endswith("/deposit/100")
    assert len([name for name in files if name.endswith(".zip")]) > 1
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        if name.endswith(".zip"):
            zipfile.ZipFile(tmp_path / name).extractall(tmp_path)
    for name in published.sizes:
        assert (tmp_path / name).read_bytes() == (published.path / name).read_bytes()
    assert_equal(open_zoo(published.path), open_zoo(tmp_path))
    metadata = depositions.metadata[100]
    assert metadata["creators"] == [{"name": "Lovelace, Ada"}, {"name": "The Zoo Group"}]
    assert (metadata["license"], metadata["upload_type"]) == ("cc0-1.0", "dataset")
    assert 100 not in depositions.submitted
    assert not list(published.path.parent.glob(".tmp-*"))


def test_again_sends_no_file(depositions: Depositions, published: Publication) -> None:
    first = send_zenodo(published, service(depositions), limit=LIMIT)
    before = depositions.server.count("PUT", "/files/")
    again = send_zenodo(published, service(depositions), "100", limit=LIMIT)
    assert depositions.server.count("PUT", "/files/") == before
    assert (again.sent, sorted(again.skipped)) == ((), sorted(first.sent))


@pytest.mark.parametrize("status", [500, 503, 429, None])
@pytest.mark.parametrize(("method", "part"), [("PUT", "files-002.zip"), ("PUT", "/depositions/"), ("POST", "")])
def test_passing_failures_are_outwaited(
    depositions: Depositions, published: Publication, status: int | None, method: str, part: str
) -> None:
    depositions.server.faults.append(stand_in.Fault(method, part, status, times=2))
    done = send_zenodo(published, service(depositions), limit=LIMIT)
    assert len(done.sent) == len(plan_zenodo(published, LIMIT))
    assert set(depositions.files[100]) == set(done.sent)


@pytest.mark.parametrize("status", [500, None])
def test_a_lasting_failure_is_resumed(depositions: Depositions, published: Publication, status: int | None) -> None:
    depositions.server.faults.append(stand_in.Fault("PUT", "files-002.zip", status, times=3))
    with pytest.raises(PublishError, match=r"files-002\.zip: failed.*Draft: --to zenodo:100"):
        send_zenodo(published, service(depositions), limit=LIMIT)
    held = set(depositions.files[100])
    assert "files-001.zip" in held
    assert "files-002.zip" not in held
    again = send_zenodo(published, service(depositions), "100", limit=LIMIT)
    assert set(again.skipped) == held
    assert set(again.sent) == set(depositions.files[100]) - held


def test_bytes_that_arrive_wrong_are_found_and_sent_again(depositions: Depositions, published: Publication) -> None:
    depositions.corrupt.add("README.md")
    with pytest.raises(PublishError, match=r"README\.md: the service stored other bytes"):
        send_zenodo(published, service(depositions), limit=LIMIT)
    depositions.corrupt.clear()
    again = send_zenodo(published, service(depositions), "100", limit=LIMIT)
    assert "README.md" in again.sent
    assert depositions.files[100]["README.md"] == (published.path / "README.md").read_bytes()


def test_archives_of_an_earlier_attempt_go_and_files_of_others_stay(
    depositions: Depositions, published: Publication
) -> None:
    send_zenodo(published, service(depositions), limit=LIMIT)
    depositions.files[100]["thesis.pdf"] = b"%PDF"
    done = send_zenodo(published, service(depositions), "100")
    assert done.removed
    assert set(depositions.files[100]) == {*done.sent, *done.skipped, "thesis.pdf"}
    assert len([name for name in depositions.files[100] if name.endswith(".zip")]) == 1


def test_a_public_record_is_not_changed(depositions: Depositions, published: Publication) -> None:
    send_zenodo(published, service(depositions), limit=LIMIT)
    depositions.submitted.add(100)
    writes = depositions.server.count("PUT")
    with pytest.raises(InputError, match="zenodo:100: is public already"):
        send_zenodo(published, service(depositions), "100", limit=LIMIT)
    assert depositions.server.count("PUT") == writes


def test_the_token_is_never_shown(depositions: Depositions, published: Publication) -> None:
    wrong = "zt-wr0ng-but-s3cr3t"
    with pytest.raises(PublishError, match="access refused") as refused:
        send_zenodo(published, service(depositions, wrong), limit=LIMIT)
    depositions.server.faults.append(stand_in.Fault("PUT", "README.md", 500, times=9))
    with pytest.raises(PublishError, match="broken, with Bearer") as broken:
        send_zenodo(published, service(depositions), limit=LIMIT)
    for text in (str(refused.value), repr(refused.value), str(broken.value), repr(service(depositions))):
        assert wrong not in text
        assert TOKEN not in text


def test_the_token_stays_with_its_host(depositions: Depositions, published: Publication) -> None:
    taken: list[Any] = []

    def steal(request: Any) -> tuple[int, Any]:
        taken.append(request.headers)
        return 200, {"checksum": "md5:"}

    with stand_in.serve(stand_in.StandIn(steal, "")) as thief:
        honest = depositions.answer

        def redirect(request: Any) -> tuple[int, Any]:
            if request.path.startswith("/api/files/"):
                return 302, {"location": f"{thief.address}/x"}
            return honest(request)

        depositions.server.answer = redirect
        with pytest.raises(PublishError, match="302"):
            send_zenodo(published, service(depositions), limit=LIMIT)

        def lie(request: Any) -> tuple[int, Any]:
            status, value = honest(request)
            if isinstance(value, dict) and "links" in value:
                value["links"]["bucket"] = f"{thief.address}/bucket"
            return status, value

        depositions.server.answer = lie
        with pytest.raises(PublishError, match="The token was not sent there"):
            send_zenodo(published, service(depositions), limit=LIMIT)
    assert taken == []
    with pytest.raises(InputError, match="expected an https address"):
        Service("http://zenodo.org/api", TOKEN)


def test_too_much_for_a_record_is_refused_before_anything_is_sent(
    depositions: Depositions, published: Publication
) -> None:
    huge = replace(published, sizes={**published.sizes, "shards/huge.parquet": 60 * 10**9})
    with pytest.raises(InputError, match=r"a Zenodo record takes 100 and 50,000,000,000"):
        send_zenodo(huge, service(depositions))
    many = replace(published, sizes={f"file-{number}": 1 for number in range(101)})
    with pytest.raises(InputError, match="101 files"):
        plan_zenodo(many)
    assert depositions.server.seen == []


def test_equal_files_give_equal_archives(published: Publication, tmp_path: Path) -> None:
    parts = plan_parts([name for name in published.sizes if "/" in name], published.sizes, LIMIT)
    assert [name for part in parts for name in part.members] == [name for name in published.sizes if "/" in name]
    for number in range(2):
        write_part(published.path, parts[0], tmp_path / f"{number}.zip")
    assert (tmp_path / "0.zip").read_bytes() == (tmp_path / "1.zip").read_bytes()


def test_the_command_line(
    zoo: Path,
    depositions: Depositions,
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("ZENODO_TOKEN", raising=False)
    monkeypatch.setenv("ZENODO_API", f"{depositions.server.address}/api")
    plan = run("publish", zoo, "--to", "zenodo", "--dry-run", "--json")
    assert plan.code == 0
    value = json.loads(plan.out)
    assert value["metadata"]["license"] == "cc-by-4.0"
    assert value["bytes"] == sum(file["bytes"] for file in value["files"])
    without = run("publish", zoo, "--to", "zenodo")
    assert without.code == 2
    assert "ZENODO_TOKEN" in without.err
    assert depositions.server.seen == []
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
    done = run("publish", zoo, "--to", "zenodo", "--json")
    assert done.code == 0
    assert json.loads(done.out)["sent"] == len(depositions.files[100]) == len(value["files"])
    depositions.server.faults.append(stand_in.Fault("PUT", "/depositions/", 400))
    failed = run("publish", zoo, "--to", "zenodo:100")
    assert failed.code == 1
    assert "Traceback" not in failed.err
    for ended in (plan, without, done, failed):
        assert TOKEN not in ended.out + ended.err
    for path in zoo.parent.rglob("*"):
        assert not path.name.startswith(".tmp-")
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    assert all(TOKEN.encode() not in data for data in depositions.files[100].values())
