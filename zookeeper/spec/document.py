"""YAML text to values that know their lines, read strictly: YAML 1.2 numbers, no aliases, no tags.

What a person may write is the JSON data model: mappings with text keys, lists, text, numbers, true,
false and null. Everything else YAML can do is refused, because a spec comes from strangers and a
clever document is harder to review than a long one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from zookeeper.errors import SpecError
from zookeeper.spec.problems import KeyPath, Problem, key_path, nearest_name, problems_of

MAX_BYTES = 1_000_000
MAX_NODES = 50_000
MAX_DEPTH = 32

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF_NAN = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS = 1000

_Events = Iterator[yaml.Event]
_Model = TypeVar("_Model", bound=BaseModel)


class Section(BaseModel):
    """Base of every validated mapping: frozen, no unknown keys, no nan or infinity, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


@dataclass(frozen=True, slots=True)
class Document:
    """The value of a document and the line of each key and list item.

    Parameters
    ----------
    value
        Mappings, lists, text, numbers, booleans and None.
    where
        What to call the document in messages, usually its file name.
    lines
        1-based line of each path; empty for a document that was not read from text.
    """

    value: Any
    where: str
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int:
        """Return the 1-based line of a key or list item, or of its nearest parent that was written.

        >>> document = parse_document("a:\\n  b: [1,\\n      2]\\n", where="x.yaml")
        >>> document.line(("a", "b", 1)), document.line(("a", "missing")), document.line(())
        (3, 1, 1)
        """
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def place(self, path: KeyPath) -> str:
        """Return ``file:line key.path`` for messages; without lines, ``file key.path``."""
        where = f"{self.where}:{self.line(path)}" if self.lines else self.where
        return f"{where} {key_path(path)}".rstrip()

    def error(self, *problems: Problem) -> SpecError:
        """Return one error that lists the problems in the order of their lines, one per line."""
        ordered = sorted(problems, key=lambda problem: self.line(problem.path))
        return SpecError("\n".join(self._message(problem) for problem in ordered))

    def _message(self, problem: Problem) -> str:
        also = key_path(problem.also)
        if also and self.lines:
            also += f", line {self.line(problem.also)}"
        return f"{self.place(problem.path)}: {problem.sentence(also)}"


def load_document(path: Path) -> Document:
    """Read a YAML file.

    Raises
    ------
    SpecError
        The file is missing, not a plain file, larger than 1 MB, not UTF-8, or `parse_document`
        refuses its text.
    """
    where = str(path)
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        near = nearest_name(path.name, siblings)
        hint = f" Did you mean {path.parent / near}?" if near else " Give the path of a YAML file."
        found = "a folder" if path.is_dir() else "something else" if path.exists() else "nothing"
        raise SpecError(f"{where}: cannot be read; expected a file, got {found}.{hint}")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(f"{where}: cannot be read: {error.strerror}. Check the file's permissions.") from error
    if len(data) > MAX_BYTES:
        raise SpecError(f"{where}: file too large; expected at most {MAX_BYTES:,} bytes. Use range or random axes.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"{where}:{line}: not UTF-8 text; expected UTF-8, got byte 0x{data[error.start]:02x}. "
            "Save the file as UTF-8."
        ) from error
    return parse_document(text, where)


def parse_document(text: str, where: str) -> Document:
    """Read YAML text by the YAML 1.2 core schema.

    ``1e-4`` is a float, ``010`` is 10, ``no`` and ``on`` are text. Quoted scalars are always text.

    Raises
    ------
    SpecError
        The text is not YAML, or uses what is refused: duplicate or non-text keys, anchors and aliases,
        tags, directives, more than one document, nesting deeper than 32, more than 50,000 values, or
        more than 1 MB.

    Examples
    --------
    >>> parse_document("lr: [1e-4, 0.1]\\naug: no\\nseed: 010", where="x.yaml").value
    {'lr': [0.0001, 0.1], 'aug': 'no', 'seed': 10}
    """
    if len(text) > MAX_BYTES:
        raise SpecError(f"{where}: text too large; expected at most {MAX_BYTES:,} characters.")
    return _Parser(text, where).document()


def validate_document(document: Document, model: type[_Model]) -> _Model:
    """Return the document as a value of a pydantic model, without silent conversion of types.

    Lists become tuples or lists as the model asks. Text never becomes a number, nor a float an
    integer; an integer may stand for a float.

    Raises
    ------
    SpecError
        One error that lists every problem, one per line: file, line, key path, what was expected,
        what came, and the nearest valid name for an unknown key or name.
    """
    try:
        return model.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        raise document.error(*problems_of(error, document.value, model)) from None


class _Parser:
    """One pass over the events of a document; values are built by hand so that nothing is implied."""

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        self._text = text
        self._lines: dict[KeyPath, int] = {}
        self._num_nodes = 0
        self._last_line = 1

    def document(self) -> Document:
        try:
            events: _Events = iter(yaml.parse(self._text, Loader=yaml.SafeLoader))
            value = self._stream(events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._refuse(mark.line + 1 if mark else 1, f"not valid YAML: {error.problem or error.context}")
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            self._refuse(line, "not valid YAML: a control character is not allowed")
        except (ValueError, OverflowError):
            self._refuse(self._last_line, "not valid YAML: an escape or a directive is out of range")
        self._lines[()] = 1
        return Document(value, self._where, self._lines)

    def _stream(self, events: _Events) -> Any:
        next(events)  # stream start
        start = next(events)
        if not isinstance(start, yaml.DocumentStartEvent):
            return None
        if start.version or start.tags:
            self._refuse(_line(start), "directives are not allowed", "Leave out the line that starts with %.")
        value = self._node(next(events), events, (), 0)
        next(events)  # document end
        end = next(events)
        if not isinstance(end, yaml.StreamEndEvent):
            self._refuse(_line(end), "a second document; expected one document per file", "Split the file.")
        return value

    def _node(self, event: yaml.Event, events: _Events, path: KeyPath, depth: int) -> Any:
        self._num_nodes += 1
        self._last_line = _line(event)
        if self._num_nodes > MAX_NODES:
            self._refuse(_line(event), f"too many values; expected at most {MAX_NODES:,}", "Use range or random axes.")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self._refuse(_line(event), "anchors and aliases (& and *) are not allowed", "Write the value out.")
        if getattr(event, "tag", None) is not None:
            self._refuse(_line(event), "tags (!) are not allowed", "Put text that starts with ! in quotes.")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if depth >= MAX_DEPTH:
            self._refuse(_line(event), f"nested too deep; expected at most {MAX_DEPTH} levels")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path, depth)
        return self._mapping(events, path, depth)

    def _sequence(self, events: _Events, path: KeyPath, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            here = (*path, len(values))
            self._lines[here] = _line(event)
            values.append(self._node(event, events, here, depth + 1))
        return values

    def _mapping(self, events: _Events, path: KeyPath, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = _line(event)
            key = self._node(event, events, path, depth + 1)
            if not isinstance(key, str):
                self._refuse(line, "a key that is not text", "Put the key in quotes.", path)
            here = (*path, key)
            if key in values:
                self._refuse(line, f"duplicate key, first at line {self._lines[here]}", "Remove one of them.", here)
            self._lines[here] = line
            values[key] = self._node(next(events), events, here, depth + 1)
        return values

    def _scalar(self, event: yaml.ScalarEvent) -> str | int | float | bool | None:
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._refuse(_line(event), "text with half of a surrogate pair", "Write the character itself.")
        if not event.implicit[0]:
            return text
        if text in _NULLS:
            return None
        if text in _BOOLS:
            return _BOOLS[text]
        if len(text) > _MAX_DIGITS:
            if _FLOAT.fullmatch(text) or _OCTAL_OR_HEX.fullmatch(text):
                self._refuse(_line(event), f"number too long; expected at most {_MAX_DIGITS} digits")
            return text
        if _INT.fullmatch(text):
            return int(text)
        if _OCTAL_OR_HEX.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _INF_NAN.fullmatch(text):
            return float(text.replace(".", ""))
        return text

    def _refuse(self, line: int, what: str, remedy: str = "", path: KeyPath = ()) -> NoReturn:
        place = f"{self._where}:{line} {key_path(path)}".rstrip()
        raise SpecError(f"{place}: {what}. {remedy}".rstrip())


def _line(event: yaml.Event) -> int:
    return int(event.start_mark.line) + 1 if event.start_mark else 1
