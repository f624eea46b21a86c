"""Problems found in a document: one line each, with the place, what was expected, and the nearest name."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

KeyPath = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")
_MAX_SHOWN = 60
_MAX_NAMES = 24


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document.

    Parameters
    ----------
    path
        Keys and list positions that lead to it.
    what
        What is wrong, without a full stop.
    expected, got
        Both sides; an empty text is left out of the sentence.
    name, names
        A wrong name and the valid ones, for "Did you mean".
    also
        A second place that takes part in the problem.
    remedy
        What to do, a full sentence or empty.
    """

    path: KeyPath
    what: str
    expected: str = ""
    got: str = ""
    name: str = ""
    names: tuple[str, ...] = ()
    also: KeyPath = ()
    remedy: str = ""

    def sentence(self, also_place: str = "") -> str:
        """Return the text after the place.

        >>> Problem(("lr",), "out of range", expected="a number > 0", got="-1").sentence()
        'out of range; expected a number > 0, got -1.'
        >>> Problem(("act",), "unknown name 'reul'", name="reul", names=("relu", "tanh")).sentence()
        "unknown name 'reul'; expected relu, tanh. Did you mean relu?"
        """
        expected = self.expected or ", ".join(_shortened(self.names))
        sides = [f"expected {expected}"] if expected else []
        if self.got:
            sides.append(f"got {self.got}")
        parts = [self.what]
        if also_place:
            parts[0] += f" (see {also_place})"
        if sides:
            parts.append(", ".join(sides))
        text = "; ".join(parts) + "."
        if nearest := nearest_name(self.name, self.names):
            text += f" Did you mean {nearest}?"
        return f"{text} {self.remedy}".rstrip()


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the valid name closest to `name`, or None when none is close.

    Case, ``-`` and ``_`` are not held against a name.

    >>> nearest_name("CNN_Digits", ("cnn-digits", "mlp"))
    'cnn-digits'
    >>> nearest_name("zebra", ("cnn-digits", "mlp")) is None
    True
    """
    folded = {_fold(candidate): candidate for candidate in names}
    close = get_close_matches(_fold(name), list(folded), n=1, cutoff=0.55) if name else []
    return folded[close[0]] if close else None


def show(value: object) -> str:
    """Return a short, printable form of a value of a document.

    >>> show("1e-3"), show(True), show(None), show([1, 2]), show({"a": 1})
    ("'1e-3' (text)", 'true', 'nothing', 'a list of 2', 'a mapping of a')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"{_quoted(value)} (text)"
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(_shortened([str(key) for key in value], 6))}" if value else "an empty mapping"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}" if value else "an empty list"
    return _cut(repr(value))


def key_path(path: KeyPath) -> str:
    """Return a path as it is written in messages.

    >>> key_path(("grid", "lr", 2)), key_path(("a b",)), key_path(())
    ('grid.lr[2]', "'a b'", '')
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if _PLAIN_KEY.fullmatch(part) else _quoted(part)
            text += f".{shown}" if text else shown
    return text


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise the problems from inside a pydantic validator; paths are relative to the validated value.

    Returns when there are none.
    """
    if not problems:
        return
    details = [
        InitErrorDetails(
            type=PydanticCustomError("problem", "{sentence}", {"sentence": p.sentence(key_path(p.also)), "problem": p}),
            loc=p.path,
            input=None,
        )
        for p in problems
    ]
    raise ValidationError.from_exception_data("document", details)


def refuse(what: str, *, expected: str = "", got: str = "", remedy: str = "") -> NoReturn:
    """Raise one problem with the value that a pydantic validator is looking at."""
    problem = Problem((), what, expected=expected, got=got, remedy=remedy)
    raise PydanticCustomError("problem", "{sentence}", {"sentence": problem.sentence(), "problem": problem})


def refuse_name(kind: str, name: str, names: tuple[str, ...], *, expected: str = "") -> NoReturn:
    """Raise "unknown name" from inside a pydantic validator, with the valid names."""
    problem = Problem((), f"unknown {kind} {_quoted(name)}", expected=expected, name=name, names=names)
    raise PydanticCustomError("problem", "{sentence}", {"sentence": problem.sentence(), "problem": problem})


def problems_of(error: ValidationError, value: object, model: type[BaseModel]) -> tuple[Problem, ...]:
    """Translate pydantic's errors about `value` into problems, one per place.

    Where alternatives were tried (unions), the alternative that fits best is reported; if none fits
    better than the others, their expectations are joined by "or".
    """
    settled: list[Problem] = []
    unions: dict[KeyPath, dict[str, list[Problem]]] = {}
    for details in error.errors(include_url=False):
        if details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]:
            continue  # long enough; its items are wrong, and they are listed on their own
        path, branch = _locate(details, value)
        problem = _translate(details, path, model)
        if branch is None:
            settled.append(problem)
        else:
            unions.setdefault(path[: branch[0]], {}).setdefault(branch[1], []).append(problem)
    for position, branches in unions.items():
        settled += _best_branch(position, list(branches.values()))
    return tuple(dict.fromkeys(settled))


def _locate(details: ErrorDetails, value: Any) -> tuple[KeyPath, tuple[int, str] | None]:
    """Return the path in the document, and where and into which union branch pydantic went first."""
    location = details["loc"]
    own = details["ctx"]["problem"].path if details["type"] == "problem" else ()
    given = location[: len(location) - len(own)]
    path: list[str | int] = []
    branch: tuple[int, str] | None = None
    node = value
    for index, part in enumerate(given):
        in_mapping = isinstance(node, dict) and part in node
        if in_mapping or (isinstance(node, list) and isinstance(part, int) and part < len(node)):
            node = node[part]
            path.append(part)
        elif details["type"] == "missing" and index == len(given) - 1:
            path.append(part)
        elif branch is None:
            branch = (len(path), str(part))
    return (*path, *own), branch


def _best_branch(position: KeyPath, branches: list[list[Problem]]) -> list[Problem]:
    """Choose what to say about a value that fits no alternative of a union."""
    entered = [b for b in branches if any(len(problem.path) > len(position) for problem in b)]
    if len(branches) == 1 or entered:
        return min(entered or branches, key=len)
    firsts = [branch[0] for branch in branches]
    expected = " or ".join(dict.fromkeys(p.expected or ", ".join(p.names) for p in firsts))
    names = tuple(name for p in firsts for name in p.names)
    name = next((p.name for p in firsts if p.name), "")
    got = "" if name else next((p.got for p in firsts if p.got), "")
    return [Problem(position, firsts[0].what, expected=expected, got=got, name=name, names=names)]


_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
    "none_required": "nothing (null)",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("a number > {}", "gt"),
    "greater_than_equal": ("a number >= {}", "ge"),
    "less_than": ("a number < {}", "lt"),
    "less_than_equal": ("a number <= {}", "le"),
    "multiple_of": ("a multiple of {}", "multiple_of"),
    "too_short": ("a list of at least {}", "min_length"),
    "too_long": ("a list of at most {}", "max_length"),
    "string_too_short": ("text of at least {} characters", "min_length"),
    "string_too_long": ("text of at most {} characters", "max_length"),
    "string_pattern_mismatch": ("text that matches {}", "pattern"),
}


def _translate(details: ErrorDetails, path: KeyPath, model: type[BaseModel]) -> Problem:
    kind, got = details["type"], show(details["input"])
    context = details.get("ctx", {})
    if kind == "problem":
        problem: Problem = context["problem"]
        base = path[: len(path) - len(problem.path)]
        also = (*base, *problem.also) if problem.also else ()
        return Problem(
            path, problem.what, problem.expected, problem.got, problem.name, problem.names, also, problem.remedy
        )
    if kind == "missing":
        return Problem(path, "missing key", _description(_annotations(model, details["loc"])))
    if kind == "extra_forbidden":
        return _unknown_key(details, path, model)
    if kind in ("literal_error", "enum"):
        names = tuple(re.findall(r"'([^']*)'", context["expected"]))
        name = details["input"] if isinstance(details["input"], str) else ""
        what = f"unknown name {_quoted(name)}" if name else "wrong value"
        return Problem(path, what, "" if names else context["expected"], "" if name else got, name, names)
    if kind == "union_tag_invalid":
        names = tuple(re.findall(r"'([^']*)'", context["expected_tags"]))
        path = (*path, context["discriminator"].strip("'"))
        return Problem(path, f"unknown name {_quoted(context['tag'])}", name=context["tag"], names=names)
    if kind == "union_tag_not_found":
        return Problem((*path, context["discriminator"].strip("'")), "missing key")
    if kind in _TYPES:
        what = "not a finite number" if kind == "finite_number" else "wrong type"
        return Problem(path, what, _TYPES[kind], got)
    if kind in _BOUNDS:
        template, key = _BOUNDS[kind]
        bound = f"{context[key]:g}" if isinstance(context[key], float) else context[key]
        return Problem(path, _BOUND_WORDS.get(kind, "out of range"), template.format(bound), got)
    what, _, expected = details["msg"].removeprefix("Value error, ").rstrip(".").partition("; expected ")
    return Problem(path, what[:1].lower() + what[1:], expected, got)


_BOUND_WORDS = {
    "too_short": "too few values",
    "too_long": "too many values",
    "string_too_short": "too short",
    "string_too_long": "too long",
    "string_pattern_mismatch": "not a valid text",
}


def _unknown_key(details: ErrorDetails, path: KeyPath, model: type[BaseModel]) -> Problem:
    key = str(path[-1])
    annotations = _annotations(model, details["loc"][:-1])
    names = tuple(dict.fromkeys(name for leaf in _leaves(annotations) if _is_model(leaf) for name in _keys(leaf)))
    homes = [
        name
        for name, field in model.model_fields.items()
        if len(path) > 1 and path[0] != name
        for leaf in _leaves([field.annotation])
        if _is_model(leaf) and key in _keys(leaf)
    ]
    remedy = f"It belongs to {' or '.join(dict.fromkeys(homes))}." if homes else ""
    near = "" if homes else key
    return Problem(path, f"unknown key {_quoted(key)}", name=near, names=names, remedy=remedy)


def _annotations(model: type[BaseModel], location: KeyPath) -> list[Any]:
    """Return the type annotations that a location of a pydantic error leads to."""
    annotations: list[Any] = [model]
    for part in location:
        annotations = _step(annotations, part)
    return annotations


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    tuple: "a list",
    list: "a list",
    dict: "a mapping of keys to values",
}


def _description(annotations: list[Any]) -> str:
    """Say in words what the annotations ask for, or nothing where there is no simple word."""
    words: dict[str, None] = {}
    for leaf in _leaves(annotations):
        if get_origin(leaf) is Literal:
            words.setdefault(", ".join(str(value) for value in get_args(leaf)))
        elif _is_model(leaf):
            words.setdefault(f"a mapping of {', '.join(_keys(leaf))}")
        elif word := _WORDS.get(get_origin(leaf) or leaf):
            words.setdefault(word)
    return " or ".join(words)


def _step(annotations: list[Any], part: str | int) -> list[Any]:
    """Follow one part of a location through type annotations; union tags only narrow the choice."""
    leaves = list(_leaves(annotations))
    found: list[Any] = []
    for leaf in leaves:
        if _is_model(leaf):
            found += [f.annotation for n, f in leaf.model_fields.items() if part in (n, f.alias)]
        elif get_origin(leaf) in (list, tuple, set, frozenset) and isinstance(part, int):
            found += get_args(leaf)
        elif get_origin(leaf) in (dict, Mapping):
            found += get_args(leaf)[1:]
    if found:
        return found
    tagged = [leaf for leaf in leaves if _is_model(leaf) and part in (leaf.__name__, *_literals(leaf))]
    return tagged or leaves


def _leaves(annotations: Iterable[Any]) -> Iterable[Any]:
    for annotation in annotations:
        origin = get_origin(annotation)
        if origin is Annotated:
            yield from _leaves(get_args(annotation)[:1])
        elif origin in (Union, types.UnionType):
            yield from _leaves(get_args(annotation))
        else:
            yield annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _keys(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(sorted(field.alias or name for name, field in model.model_fields.items()))


def _literals(model: type[BaseModel]) -> tuple[Any, ...]:
    fields = model.model_fields.values()
    return tuple(v for f in fields if get_origin(f.annotation) is Literal for v in get_args(f.annotation))


def _fold(name: str) -> str:
    return name.lower().replace("_", "-")


def _quoted(text: str) -> str:
    return _cut(repr(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."))


def _cut(text: str) -> str:
    return text if len(text) <= 4 * _MAX_SHOWN else text[: 4 * _MAX_SHOWN - 3] + "..."


def _shortened(names: Sequence[str], limit: int = _MAX_NAMES) -> list[str]:
    shown = [name if name.isprintable() else _quoted(name) for name in names[:limit]]
    return shown if len(names) <= limit else [*shown, "..."]
