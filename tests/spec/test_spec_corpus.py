"""Every bad spec gives one clear error that names the file, the line and the key path."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zookeeper.errors import SpecError
from zookeeper.spec import load_spec

CORPUS = Path(__file__).parent / "corpus"
CASES = sorted(CORPUS.glob("*.yaml"))


def test_corpus_is_not_empty():
    assert len(CASES) > 90


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_bad_spec_is_refused_with_what_the_file_says(path: Path):
    fragments = re.findall(r"^# expect: (.*)$", path.read_text(), flags=re.MULTILINE)
    assert fragments, "a case names at least one fragment of its error"
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    for fragment in fragments:
        assert fragment in message
    num_lines = len(path.read_text().splitlines())
    for line in message.splitlines():
        place = re.match(re.escape(str(path)) + r":(\d+)[: ]", line)
        assert place is not None, line
        assert 1 <= int(place[1]) <= num_lines
        assert "pydantic" not in line


def test_unknown_name_is_reported_at_its_own_line():
    path = CORPUS / "unknown_activation_in_axis.yaml"
    (line,) = (number for number, text in enumerate(path.read_text().splitlines(), 1) if text.strip() == "- reul")
    with pytest.raises(SpecError, match=re.escape(f"{path}:{line} grid.activation[2]: unknown activation 'reul'")):
        load_spec(path)


def test_factor_in_both_places_names_both_lines():
    path = CORPUS / "fixed_and_axis.yaml"
    lines = {text.split(":")[0]: number for number, text in enumerate(path.read_text().splitlines(), 1)}
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert f":{lines['grid']} grid.lr" in str(caught.value)
    assert f"training.lr, line {lines['training']}" in str(caught.value)
