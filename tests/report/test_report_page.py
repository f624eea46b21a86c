"""The page as a document: whole, self-contained, honest about what it leaves out."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from zookeeper import InputError, WeightLayout, Zoo, build_zoo, load_spec, make_plan, write_rows
from zookeeper import open as open_zoo
from zookeeper.build import prepare_zoo
from zookeeper.report.page import default_color, render_report, write_report
from zookeeper.report.sections import MOST_ROWS

SECTIONS = [
    "Accuracy by epoch", "Accuracy by factor", "Generalization gap", "Diverged models", "Weights by layer",
    "Map of the zoo", "Models", "Specification", "Sizes", "Provenance",
]  # fmt: skip
VOID = {"meta", "input", "br", "img", "link", "hr"}


class Document(HTMLParser):
    """What a page holds; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.append((self._open[-1], data))

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def visible(text: str) -> str:
    return re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL))


def check_document(text: str) -> Document:
    page = Document(text)
    assert page.text("h2") == SECTIONS
    ids = Counter(found["id"] for _, found in page.tags if "id" in found)
    assert [name for name, count in ids.items() if count > 1] == []
    for _, found in page.tags:
        for name in ("href", "for", "aria-labelledby", "aria-describedby"):
            if name in found:
                assert str(found[name]).lstrip("#") in ids
        assert not {"src", "srcset", "action", "onclick", "onload"} & set(found)
    assert not page.attributes("link")
    assert all(str(found["href"]).startswith("#") for found in page.attributes("a"))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bfetch\(|\bimport\(", text)
    assert all(found["role"] == "img" and found["aria-label"] for found in page.attributes("svg"))
    assert len(page.text("caption")) == len(page.attributes("table"))
    assert {found.get("scope") for found in page.attributes("th")} <= {"col", "row"}
    numbers = [found for tag, found in page.tags if tag in ("circle", "rect", "line", "path")]
    assert not any(word in str(value) for found in numbers for value in found.values() for word in ("nan", "inf"))
    return page


def table_rows(text: str) -> int:
    return text.partition('<table id="model-table">')[2].partition("</table>")[0].count("<tr>") - 1


def test_page_of_a_trained_zoo_shows_everything(trained: Zoo) -> None:
    text = render_report(trained)
    page = check_document(text)
    assert table_rows(text) == 12
    heads = {found["data-column"] for found in page.attributes("th") if "data-column" in found}
    assert {"model_id", "init", "lr", "seed", "test_acc", "generalization_gap"} <= heads
    assert "optimizer" not in heads  # one value for all: listed once, under Specification
    words = visible(text)
    assert "12" in page.text("dd")
    assert f"{100 * trained.frame['test_acc'].max():.1f}".removesuffix(".0") + "%" in words
    assert "None of 12 models diverged." in words
    assert 'optimizer: "adam"' in words
    assert len(page.attributes("circle")) == 12
    for model in trained.models["model_id"]:
        assert words.count(model) == 2  # in the table and on the map
    assert render_report(trained) == text


def test_map_is_coloured_by_the_column_asked_for(trained: Zoo) -> None:
    for column, labels in (("init", {"normal", "uniform"}), ("lr", {"0.001", "0.003"})):
        text = render_report(trained, color=column)
        page = check_document(text)
        legend = re.findall(r'<ul class="legend"><li class="title">(\w+)</li>(.*?)</ul>', text)
        assert [name for name, _ in legend] == [column]
        assert set(re.findall(r"</span>([^<]+)</li>", legend[0][1])) == labels
        dots = Counter(str(found["class"]) for found in page.attributes("circle"))
        assert sorted(dots.values()) == [6, 6]


def test_default_colour_is_the_factor_that_matters(crowd: Zoo) -> None:
    models = crowd.models
    varying = tuple(name for name in crowd.factors if models[name].nunique() > 1)
    assert default_color(models, varying, "val_acc") == "factor_00"
    assert default_color(models, (), None) == "model_id"


def test_zoo_without_spec_split_or_metrics_has_a_page(bare: Zoo) -> None:
    text = render_report(bare)
    check_document(text)
    words = visible(text)
    assert table_rows(text) == 5
    assert "No accuracy is stored." in words
    assert "No specification is stored" in words
    assert "<title>bare &amp; &lt;b&gt;</title>" in text


def test_large_zoo_is_cut_and_the_page_says_so(crowd: Zoo) -> None:
    text = render_report(crowd)
    check_document(text)
    words = visible(text)
    assert table_rows(text) == MOST_ROWS == 2000
    assert "The first 2,000 of 2,300 models by validation accuracy; the others are not on this page" in words
    assert "40 of 2,300 models (1.7%)" in words
    assert "the first 20 of 40" in words
    assert "Weights of the last checkpoint of 1,200 models" in words
    assert "Test accuracy is not stored; this is validation accuracy." in words
    assert len(text) < 3_000_000
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(" in text
    order = re.findall(r'<tr><th scope="row">(\w{16})</th>', text.partition('id="model-table"')[2])
    best = crowd.models.sort_values("val_acc", ascending=False, kind="stable")["model_id"]
    assert order[:50] == best.tolist()[:50]


def test_every_part_of_the_page_survives_a_view(trained: Zoo) -> None:
    for view in (trained.query("epoch == 2"), trained.query("lr > .002 and seed == 1"), trained[:1], trained[:0]):
        check_document(render_report(view))


def test_zoo_that_is_still_empty_has_a_page(tmp_path: Path, trained: Zoo) -> None:
    prepare_zoo(make_plan(load_spec(trained.path.parent / "spec.yaml")), tmp_path / "zoo")
    text = render_report(open_zoo(tmp_path / "zoo"))
    check_document(text)
    assert "Not complete: 0 of 48 checkpoints are shown." in visible(text)


def test_zoo_of_nothing_but_diverged_models_has_a_page(tmp_path: Path) -> None:
    layout = WeightLayout.from_shapes({"fc.weight": ((1, 2), "weight")})
    zoo = write_rows(
        tmp_path / "zoo", np.full((4, 2), np.nan), {"test_acc": [np.nan] * 4, "lr": [1.0, 2, 3, 4]}, layout
    )
    words = visible(render_report(zoo))
    assert "4 of 4 models (100%)" in words
    assert "no finite weights" in words


def test_zoo_of_two_architectures_shows_the_weights_of_one(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "version: 1\nname: two\nimages: {name: digits, split: {train: 0.1, val: 0.1, test: 0.8}, seed: 0}\n"
        "model: {activation: tanh}\ntraining: {optimizer: adam, lr: 1e-3, batch_size: 64, epochs: 1}\n"
        "grid: {architecture: [cnn-digits, cnn-digits-shallow], seed: [0, 1, 2]}\ncheckpoints: {every: 1}\n"
    )
    build_zoo(make_plan(load_spec(spec)), tmp_path / "zoo", show_progress=False)
    zoo = open_zoo(tmp_path / "zoo")
    unequal = zoo.query("architecture == 'cnn-digits-shallow' or seed > 0")
    text = render_report(unequal, color="seed")
    page = check_document(text)
    width = zoo.query("architecture == 'cnn-digits-shallow'").layout.num_weights
    note = (
        f"Of 2 layouts of weights in this zoo, only the most frequent one is shown here ({width:,} weights, 3 models)."
    )
    assert text.count(note) == 2
    assert len(page.attributes("circle")) == 3
    assert table_rows(text) == 5


def test_page_is_written_whole_or_not_at_all(trained: Zoo, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("old")
    with pytest.raises(InputError, match="Did you mean init"):
        write_report(trained, target, color="inti")
    assert target.read_text() == "old"
    assert write_report(trained, target).read_text(encoding="utf-8") == render_report(trained)
    assert list(tmp_path.iterdir()) == [target]
    for bad in (tmp_path / "page.txt", tmp_path / "absent/page.html", tmp_path):
        with pytest.raises(InputError, match="--out"):
            write_report(trained, bad)
