from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from zookeeper.errors import SpecError
from zookeeper.spec.document import MAX_BYTES, Section, load_document, parse_document, validate_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("2.5e-4", 2.5e-4),
        ("+.5", 0.5),
        ("3.", 3.0),
        ("0", 0),
        ("010", 10),
        ("-7", -7),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2001-01-01", "2001-01-01"),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        (".inf", float("inf")),
        ("-.Inf", float("-inf")),
        ("1e", "1e"),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    read = parse_document(f"key: {text}", "x.yaml").value["key"]
    assert read == value
    assert type(read) is type(value)


def test_nan_is_read():
    read = parse_document(".nan", "x.yaml").value
    assert read != read


def test_lines_of_keys_and_items():
    document = parse_document("# comment\na:\n  - 1\n  -\n    b: 2\nc: |\n  long\n  text\nd: 4\n", "x.yaml")
    assert [document.line(path) for path in [("a",), ("a", 0), ("a", 1, "b"), ("c",), ("d",)]] == [2, 3, 5, 6, 9]
    assert document.line(("a", 1, "missing", "deeper")) in (4, 5)
    assert document.line(("missing",)) == 1


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[" * 100_000, "nested too deep"),
        ("a: " + "[" * 33 + "]" * 33, "nested too deep"),
        ("\n".join(" " * i + "a:" for i in range(60)), "nested too deep"),
        ("[" + "1," * 60_000 + "]", "too many values"),
        ("a: 1" + " " * MAX_BYTES, "text too large"),
        ("a: &x [1]\nb: [*x, *x]", "anchors and aliases"),
        ("a: \x01", "control character"),
    ],
)
def test_hostile_text_is_refused_quickly(text, fragment):
    start = time.perf_counter()
    with pytest.raises(SpecError, match=fragment):
        parse_document(text, "x.yaml")
    assert time.perf_counter() - start < 5


def test_depth_of_32_is_read():
    assert parse_document("[" * 32 + "]" * 32, "x.yaml").value


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (b"a: \xff", "x.yaml:1: not UTF-8"),
        (b"# one\n# \xe9\n", "x.yaml:2: not UTF-8"),
        (b" " * (MAX_BYTES + 1), "large"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, data: bytes, fragment: str):
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=fragment):
        load_document(path)


def test_byte_order_mark_is_skipped(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1")
    assert load_document(path).value == {"a": 1}


def test_missing_file_names_the_nearest_one(tmp_path: Path):
    (tmp_path / "digits_cnn.yaml").touch()
    with pytest.raises(SpecError, match=r"got nothing.*Did you mean .*digits_cnn\.yaml\?"):
        load_document(tmp_path / "digit_cnn.yaml")
    with pytest.raises(SpecError, match="got a folder"):
        load_document(tmp_path)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}#&*!|>'\"%@`,? \n\t\\0159.e~<é\u2028")) | st.text())
def test_any_text_is_read_or_refused(text):
    message = "x.yaml:"
    try:
        json.dumps(parse_document(text, "x.yaml").value)
    except SpecError as error:
        message = str(error)
    assert message.startswith("x.yaml:")


_KEYS = st.text(min_size=1, max_size=20)  # YAML reads implicit keys of at most 1,024 characters
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(_JSON)
def test_json_is_read_as_json(value):
    text = json.dumps(value)  # escapes all that is not ASCII; YAML reads half surrogates as such
    if "\\ud" in text:
        return
    assert parse_document(text, "x.json").value == json.loads(text)


class Kde(Section):
    kind: Literal["kde"]
    bandwidth: Annotated[float, Field(gt=0)] = 1.0


class Gan(Section):
    kind: Literal["gan"]
    num_steps: int


class Widths(Section):
    token: int
    latent: int = 16


class Study(Section):
    name: str
    sampler: Annotated[Kde | Gan, Field(discriminator="kind")]
    widths: dict[str, Widths] = Field(default_factory=dict)
    parts: list[Widths] = Field(default_factory=list)
    out: Path | None = None
    size: Literal["small", "large"] | int = "small"


def _refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        validate_document(parse_document(text, "study.yaml"), Study)
    return str(caught.value)


def test_any_model_can_be_validated():
    document = parse_document(
        "name: a\nsampler: {kind: kde}\nwidths: {x: {token: 65}}\nparts: [{token: 1}]\nout: there\nsize: 3", "s.yaml"
    )
    study = validate_document(document, Study)
    assert study == Study(
        name="a",
        sampler=Kde(kind="kde"),
        widths={"x": Widths(token=65)},
        parts=[Widths(token=1)],
        out=Path("there"),
        size=3,
    )


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("name: a\nsampler: {kind: kdf}", ["study.yaml:2 sampler.kind: unknown name 'kdf'; expected kde, gan. Did"]),
        ("name: a\nsampler: {}", ["study.yaml:2 sampler.kind: missing key"]),
        ("name: a\nsampler: {kind: gan}", ["study.yaml:2 sampler.num_steps: missing key; expected a whole number."]),
        (
            "name: a\nsampler:\n  kind: gan\n  num_steps: 1\n  bandwith: 1",
            ["study.yaml:5 sampler.bandwith: unknown key 'bandwith'; expected kind, num_steps."],
        ),
        (
            "name: a\nsampler: {kind: kde}\nwidths:\n  x:\n    tokn: 1",
            [
                "study.yaml:5 widths.x.tokn: unknown key",
                "Did you mean token?",
                "study.yaml:4 widths.x.token: missing key",
            ],
        ),
        (
            "name: a\nsampler: {kind: kde}\nparts:\n- {token: 1}\n- {token: '1'}",
            ["study.yaml:5 parts[1].token: wrong type; expected a whole number, got '1' (text)."],
        ),
        (
            "name: a\nsampler: {kind: kde}\nsize: smal",
            ["size: unknown name 'smal'; expected small, large or a whole number. Did you mean small?"],
        ),
        ("name: a\nsampler: {kind: kde}\nsize: [1]", ["size: wrong value; expected small, large or a whole number"]),
        ("name: a\nsampler: kde", ["sampler: wrong type; expected a mapping of keys to values, got 'kde' (text)"]),
        ('name: a\nsampler: {kind: kde}\n"new\\nline": 1', [r"study.yaml:3 'new\nline': unknown key 'new\nline'"]),
    ],
)
def test_problems_of_any_model_are_explained(text, fragments):
    message = _refusal(text)
    for fragment in fragments:
        assert fragment in message


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["name", "sampler", "widths", "parts", "out", "size", "x"]), _JSON))
def test_any_value_is_accepted_or_refused(value):
    text = json.dumps(value)
    if "\\ud" in text:
        return
    message = "x.json:"
    try:
        validate_document(parse_document(text, "x.json"), Study)
    except SpecError as error:
        message = str(error)
    assert message.startswith("x.json:")


def test_spec_does_not_import_heavy_packages():
    code = (
        "import sys, zookeeper.spec; "
        "heavy = {'torch', 'pandas', 'pyarrow', 'ray', 'h5py', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
