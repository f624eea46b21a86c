"""A published folder: whole, readable by strangers, a zoo again; or nothing at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from zookeeper import InputError, StoreError, WeightLayout, assert_equal, write_rows
from zookeeper import open as open_zoo
from zookeeper.publish import folder as folder_module
from zookeeper.publish.checksums import check_manifest, list_files, read_manifest
from zookeeper.publish.folder import Publication, Wishes, publish_folder
from zookeeper.publish.licences import choose_licence, find_licence, licence_text
from zookeeper.spec.schema import load_spec
from zookeeper.store.header import read_header
from zookeeper.store.verify import verify_zoo


def front_matter(root: Path) -> dict[str, Any]:
    _, header, _ = (root / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    value = yaml.safe_load(header)
    assert isinstance(value, dict)
    return value


def everything(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_folder_is_a_zoo_with_the_same_bits(zoo: Path, published: Publication) -> None:
    assert_equal(open_zoo(zoo), open_zoo(published.path))
    report = verify_zoo(published.path, deep=True)
    assert report.clean
    assert report.num_rows == 36


def test_shards_are_linked_not_copied(zoo: Path, published: Publication) -> None:
    shards = sorted((zoo / "shards").iterdir())
    assert len(shards) > 1
    assert all((published.path / "shards" / shard.name).samefile(shard) for shard in shards)


def test_shards_are_copied_where_links_cannot_be(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def refuse(source: Any, target: Any) -> None:
        if "/shards/" in str(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "link", refuse)
    publish_folder(zoo, tmp_path / "out")
    copied = sorted((tmp_path / "out" / "shards").iterdir())
    assert copied
    assert not any(path.samefile(zoo / "shards" / path.name) for path in copied)
    assert_equal(open_zoo(zoo), open_zoo(tmp_path / "out"))


def test_equal_zoos_give_equal_bytes(zoo: Path, published: Publication, tmp_path: Path) -> None:
    again = publish_folder(
        zoo, tmp_path / "again", Wishes(authors=("Lovelace, Ada", "The Zoo Group"), licence="CC0-1.0")
    )
    assert everything(again.path) == everything(published.path)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sha256sum_accepts_the_manifest_and_finds_a_flipped_bit(published: Publication, tmp_path: Path) -> None:
    copy = shutil.copytree(published.path, tmp_path / "copy")
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=copy, check=False, timeout=60).returncode == 0
    shard = sorted((copy / "shards").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert subprocess.run(check, cwd=copy, check=False, capture_output=True, timeout=60).returncode == 1
    assert [line.partition(":")[0] for line in check_manifest(copy)] == [f"shards/{shard.name}"]


def test_the_manifest_names_every_file(published: Publication) -> None:
    assert set(read_manifest(published.path)) == set(list_files(published.path))
    assert set(published.sizes) == set(everything(published.path))


def test_the_card_has_a_header_that_leads_to_the_files(published: Publication) -> None:
    header = front_matter(published.path)
    assert header["license"] == "cc0-1.0"
    assert header["size_categories"] == ["n<1K"]
    assert "model-zoo" in header["tags"]
    assert [config["config_name"] for config in header["configs"]] == ["checkpoints", "metadata", "models"]
    assert [config.get("default", False) for config in header["configs"]] == [True, False, False]
    for config in header["configs"]:
        for pattern in config["data_files"][0]["path"]:
            assert list(published.path.glob(pattern))


def test_the_hub_library_accepts_the_header(published: Publication) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    card = hub.DatasetCard.load(published.path / "README.md")
    assert card.data.license == "cc0-1.0"
    assert card.data.to_dict()["configs"][0]["config_name"] == "checkpoints"


def test_the_card_shows_what_is_there(published: Publication) -> None:
    text = (published.path / "README.md").read_text(encoding="utf-8")
    assert "12 trained neural networks" in text
    assert "| `lr` | 2 | 0.001, 0.003 |" in text
    assert "Not complete" not in text
    for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (published.path / link).read_bytes().startswith(b"\x89PNG")
    assert text.count("![") == 2
    for name in re.findall(r"`((?:splits|rebuild)/[^`]+)`", text):
        assert (published.path / name).is_file()


def test_split_files_are_the_split(zoo: Path, published: Publication) -> None:
    models = open_zoo(zoo).models
    for side in ("train", "val", "test"):
        listed = (published.path / "splits" / f"{side}.txt").read_text().split()
        assert listed == models.loc[models["split"] == side, "model_id"].tolist()
        assert listed


def test_the_spec_builds_the_same_models_again(published: Publication, zoo: Path) -> None:
    from zookeeper import make_plan

    plan = make_plan(load_spec(published.path / "rebuild" / "spec.yaml"))
    assert {model.model_id for cohort in plan.cohorts for model in cohort.models} == set(
        open_zoo(zoo).models["model_id"]
    )
    lines = (published.path / "rebuild" / "environment.txt").read_text().splitlines()
    assert any(re.fullmatch(r"torch==\d.*", line) for line in lines)


def test_citation_and_licence(published: Publication) -> None:
    citation = yaml.safe_load((published.path / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["authors"] == [{"family-names": "Lovelace", "given-names": "Ada"}, {"name": "The Zoo Group"}]
    assert (citation["cff-version"], citation["type"], citation["license"]) == ("1.2.0", "dataset", "CC0-1.0")
    assert "SPDX-License-Identifier: CC0-1.0" in (published.path / "LICENSE").read_text(encoding="utf-8")


def test_croissant_is_accepted_and_loads(published: Publication) -> None:
    pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    code = (  # in a process of its own: its dependencies warn while they are imported
        "import sys, json, mlcroissant\n"
        "data = mlcroissant.Dataset(jsonld=sys.argv[1])\n"
        "issues = data.metadata.ctx.issues\n"
        "rows = {name: list(data.records(record_set=name)) for name in ('models', 'metadata', 'checkpoints')}\n"
        "first = rows['checkpoints'][0]\n"
        "print(json.dumps([sorted(issues.errors), sorted(issues.warnings), {n: len(r) for n, r in rows.items()},"
        " len(first['checkpoints/weights'])]))"
    )
    command = [sys.executable, "-c", code, str(published.path / "croissant.json")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    errors, warnings, counts, width = json.loads(done.stdout.splitlines()[-1])
    assert errors == []
    assert warnings == []
    assert counts == {"models": 12, "metadata": 36, "checkpoints": 36}
    assert width == open_zoo(published.path).layout.num_weights
    assert "not standard" not in done.stderr


def test_a_wrong_hash_in_croissant_is_found(published: Publication, tmp_path: Path) -> None:
    document = json.loads((published.path / "croissant.json").read_text())
    sums = read_manifest(published.path)
    files = [entry for entry in document["distribution"] if entry["@type"] == "cr:FileObject"]
    assert {entry["contentUrl"]: entry["sha256"] for entry in files} == {
        name: digest for name, digest in sums.items() if name.endswith(".parquet") and not name.startswith("meta/")
    }


def test_mit_comes_whole_and_others_as_a_notice() -> None:
    ours = (Path(__file__).parents[2] / "LICENSE").read_text()
    text = licence_text(find_licence("MIT"), "A zoo", "Doe, Jane", "2026")
    assert text.startswith(
        "MIT License\nSPDX-License-Identifier: MIT\n\nA zoo\nCopyright (c) 2026 Doe, Jane\n\nPermission"
    )
    assert text.partition("Permission")[2] == ours.partition("Permission")[2]
    assert "found at\nhttps://www.apache.org" in licence_text(find_licence("apache-2.0"), "A zoo", "Doe, Jane", "2026")


def test_an_imported_zoo_keeps_the_licence_it_came_with(tmp_path: Path) -> None:
    """Importers keep the text of a LICENSE file; its name is read off it, or asked for."""
    layout = WeightLayout.from_shapes({"fc.weight": ((1, 2), "weight")})

    def store(name: str, text: str) -> Path:
        write_rows(tmp_path / name, [[1, 2]], {"test_acc": [0.5]}, layout, provenance={"imported": {"licence": text}})
        return tmp_path / name

    mit = (Path(__file__).parents[2] / "LICENSE").read_text()
    made = publish_folder(store("mit", mit), tmp_path / "mit-out")
    written = (made.path / "LICENSE").read_text()
    assert made.licence == "MIT"
    assert written.endswith(f"The networks were imported with this licence:\n\n{mit}")
    with pytest.raises(InputError, match=r"'Do what you like' is not known here.*--license"):
        publish_folder(store("own", "Do what you like\n\nfor ever"), tmp_path / "own-out")
    assert not (tmp_path / "own-out").exists()
    assert publish_folder(tmp_path / "own", tmp_path / "own-out", Wishes(licence="CC0-1.0")).licence == "CC0-1.0"
    assert "for ever" in (tmp_path / "own-out/LICENSE").read_text()


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        ("cc-by-4.0", "CC-BY-4.0"),
        ("Creative Commons Attribution-ShareAlike\n4.0 International\n\n", "CC-BY-SA-4.0"),
        ("CC0 1.0 Universal\n", "CC0-1.0"),
        ("                 Apache License\n           Version 2.0, January 2004\n", "Apache-2.0"),
        ("# data\nSPDX-License-Identifier: ODbL-1.0\n", "ODbL-1.0"),
    ],
)
def test_licences_are_recognised(text: str, spdx: str) -> None:
    assert choose_licence(None, None, {"licence": text}).spdx == spdx


def test_an_unfinished_zoo_is_refused_unless_allowed(unfinished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not complete; 2 of 4 checkpoints.*--allow-incomplete"):
        publish_folder(unfinished, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    made = publish_folder(unfinished, tmp_path / "out", Wishes(allow_incomplete=True))
    assert not made.complete
    assert "**Not complete.** 2 of 4 planned checkpoints" in (made.path / "README.md").read_text(encoding="utf-8")
    assert verify_zoo(made.path).clean


def test_no_path_of_the_builder_is_published(unfinished: Path, tmp_path: Path) -> None:
    header = read_header(unfinished)
    assert header.spec is not None
    assert "root" not in header.spec["images"]
    images = {**header.spec["images"], "root": "/home/somebody/images"}
    old = replace(header, spec={**header.spec, "images": images})  # as zoos were built before headers had a copy
    (unfinished / "zoo.json").write_text(json.dumps(old.to_json()))
    made = publish_folder(unfinished, tmp_path / "out", Wishes(allow_incomplete=True))
    assert b"/home/somebody" in (unfinished / "zoo.json").read_bytes()
    for name, data in everything(made.path).items():
        assert b"/home/somebody" not in data, name
        assert str(tmp_path).encode() not in data, name


def test_a_foreign_folder_is_refused_and_left_alone(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is taken; expected a new or empty folder"):
        publish_folder(zoo, tmp_path)
    assert everything(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(InputError, match="is the zoo itself"):
        publish_folder(zoo, zoo)


def test_an_earlier_publication_is_replaced_but_not_with_files_of_others(zoo: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    publish_folder(zoo, target, Wishes(title="first"))
    publish_folder(zoo, target, Wishes(title="second"))
    assert "# second" in (target / "README.md").read_text(encoding="utf-8")
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"'thesis\.tex', which was not published"):
        publish_folder(zoo, target)
    assert (target / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("step", ["format_card", "draw_figures", "format_croissant", "finalise"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_failure_leaves_what_was_there(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, earlier: bool
) -> None:
    target = tmp_path / "out"
    if earlier:
        publish_folder(zoo, target)
    before = everything(tmp_path)

    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module, step, full)
    with pytest.raises(StoreError, match="No space left on device"):
        publish_folder(zoo, target)
    assert everything(tmp_path) == before
    assert target.exists() == earlier


def test_a_damaged_shard_is_not_published(zoo: Path, tmp_path: Path) -> None:
    source = shutil.copytree(zoo, tmp_path / "source")
    shard = sorted((source / "shards").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[-200] ^= 4
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        publish_folder(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_hdf5_zoo_is_published_with_its_tables(zoo: Path, tmp_path: Path) -> None:
    from zookeeper.store.convert import convert_zoo
    from zookeeper.store.encoding import Encoding

    convert_zoo(zoo, tmp_path / "h5", Encoding("hdf5"))
    made = publish_folder(tmp_path / "h5", tmp_path / "out")
    assert [config["config_name"] for config in front_matter(made.path)["configs"]] == ["metadata", "models"]
    assert_equal(open_zoo(zoo), open_zoo(made.path))


def test_shards_that_do_not_read_together_are_apart() -> None:
    from zookeeper.publish.facts import group_shards
    from zookeeper.store.header import read_header
    from zookeeper.store.records import read_commits

    root = Path(__file__).parents[1] / "store" / "golden" / "parquet"
    groups = group_shards(root, read_commits(root), read_header(root).layouts)
    assert len(groups) == 2
    assert groups[0].columns != groups[1].columns
    assert sum(group.num_rows for group in groups) == len(open_zoo(root))


def test_the_command_line(zoo: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    done = run("publish", zoo, "--to", tmp_path / "out", "--license", "mit", "--author", "Lovelace, Ada", "--json")
    assert done.code == 0
    assert json.loads(done.out)["licence"] == "MIT"
    assert (tmp_path / "out" / "README.md").is_file()
    plan = run("publish", zoo, "--to", tmp_path / "other", "--dry-run")
    assert plan.code == 0
    assert "nothing was sent" in plan.out
    assert not (tmp_path / "other").exists()
    assert not list(zoo.parent.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--license", "CC-BY-4"), "unknown licence 'CC-BY-4'.*CC-BY-4.0"),
        (("--author", "a, b, c"), "--author: cannot read 'a, b, c'"),
        (("--to", "hf:nobody"), "--to: cannot read 'hf:nobody'; expected a folder, hf:user/name"),
        (("--to", "zenodo:abc"), "--to: cannot read 'zenodo:abc'"),
        (("--to", "s3:bucket/zoo"), "--to: cannot read 's3:bucket/zoo'"),
        (("--to", "https://host/zoo"), "--to: cannot read 'https://host/zoo'"),
    ],
)
def test_bad_wishes(
    zoo: Path, tmp_path: Path, run: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    to = () if "--to" in arguments else ("--to", tmp_path / "out")
    done = run("publish", zoo, *to, *arguments)
    assert done.code == 2
    assert re.search(message, done.err)
    assert not (tmp_path / "out").exists()
