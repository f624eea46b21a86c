"""Axes of a grid: a list, a range, or seeded random draws; each stands for distinct values."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from zookeeper.spec.document import Section
from zookeeper.spec.problems import Problem, raise_problems, refuse, show

Scalar = str | int | float | bool

MAX_AXIS_VALUES = 1_000_000
_SIGNIFICANT_DIGITS = 8
_TOO_LARGE = 1e19  # above every seed
_T = TypeVar("_T")


def _check_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse("wrong type", expected="a number", got=show(value))
    if not abs(value) < _TOO_LARGE:  # also refuses nan and infinity
        refuse("out of range", expected=f"a finite number below {_TOO_LARGE:g}", got=show(value))
    return value


def _check_scalar(value: object) -> object:
    if not isinstance(value, str | int | float):
        refuse("wrong type", expected="text, a number, true or false", got=show(value))
    return value if isinstance(value, str | bool) else _check_number(value)


_Number = Annotated[Any, AfterValidator(_check_number)]  # keeps 3 an int and 3.0 a float
_OptionalNumber = Annotated[Any, AfterValidator(lambda value: None if value is None else _check_number(value))]
_AnyScalar = Annotated[Any, AfterValidator(_check_scalar)]


class RangeAxis(Section):
    """``{range: [start, stop]}`` or ``{range: [start, stop, step]}``; `stop` is not a value.

    Steps are added in decimal, so ``[0, 0.5, 0.1]`` has the value 0.3 and not 0.30000000000000004.

    >>> RangeAxis(range=(0, 0.5, 0.1)).values()
    (0.0, 0.1, 0.2, 0.3, 0.4)
    """

    range: Annotated[tuple[_Number, ...], Field(min_length=2, max_length=3)]

    @model_validator(mode="after")
    def _check(self) -> RangeAxis:
        start, stop, step = self._exact()
        if step == 0 or (stop - start) * step <= 0:
            expected = "start before stop, and a step other than 0 that leads from one to the other"
            raise_problems([Problem(("range",), "empty axis", expected=expected, got=str(list(self.range)))])
        if self.num_values > MAX_AXIS_VALUES:
            expected = f"at most {MAX_AXIS_VALUES:,} values"
            raise_problems([Problem(("range",), "axis too long", expected=expected, got=f"{self.num_values:,}")])
        return self

    @property
    def num_values(self) -> int:
        """Number of values, computed without listing them."""
        start, stop, step = self._exact()
        return max(0, math.ceil((stop - start) / step))

    def values(self) -> tuple[int | float, ...]:
        """Return the values from start on."""
        start, _, step = self._exact()
        exact = (start + i * step for i in range(self.num_values))
        if all(isinstance(number, int) for number in self.range):
            return tuple(int(value) for value in exact)
        return tuple(float(value) for value in exact)

    def _exact(self) -> tuple[Decimal, Decimal, Decimal]:
        start, stop, step = (Decimal(repr(number)) for number in (*self.range, 1)[:3])
        return start, stop, step


class RandomAxis(Section):
    """``{random: ..., count: n, seed: s}``: n distinct draws, the same on every machine and version.

    In a grid that is sampled, `count` and `seed` are left out: every model has a draw of its own (`draw`).

    ``uniform`` and ``loguniform`` draw numbers from [low, high) with 8 significant digits, ``int``
    draws whole numbers from [low, high), ``choice`` draws from `choices` without replacement. The draws
    come from SHA-256 of the seed and a counter, not from a library's generator.

    >>> axis = RandomAxis(random="loguniform", low=1e-4, high=1e-2, count=3, seed=0)
    >>> axis.values() == axis.values(), all(1e-4 <= value < 1e-2 for value in axis.values())
    (True, True)
    """

    random: Literal["uniform", "loguniform", "int", "choice"]
    low: _OptionalNumber = None
    high: _OptionalNumber = None
    choices: Annotated[tuple[_AnyScalar, ...], Field(min_length=1)] | None = None
    count: Annotated[int, Field(ge=1, le=MAX_AXIS_VALUES)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    @model_validator(mode="after")
    def _check(self) -> RandomAxis:
        needed, unused = (("choices",), ("low", "high")) if self.random == "choice" else (("low", "high"), ("choices",))
        why = f"as random is {self.random}"
        problems = [Problem((key,), "missing key", f"{key}, {why}") for key in needed if self._lacks(key)]
        problems += [
            Problem((key,), "key without use", f"no {key}, {why}", remedy="Remove it.")
            for key in unused
            if not self._lacks(key)
        ]
        raise_problems(problems or [*self._interval_problems()])
        if self.choices is not None:
            raise_problems(duplicate_problems(self.choices, ("choices",)))
        if self.count is None and self.seed is None:
            return self  # an axis of a sampled grid
        for key in ("count", "seed"):
            if self._lacks(key):
                raise_problems([Problem((key,), "missing key", "a whole number")])
        num_possible = self._num_possible()
        if num_possible is not None and self.count is not None and self.count > num_possible:
            expected = f"at most {num_possible:,} distinct values"
            raise_problems([Problem(("count",), "count too large", expected=expected, got=str(self.count))])
        self.values()  # refuses intervals too narrow for so many distinct values
        return self

    def values(self) -> tuple[Scalar, ...]:
        """Return the draws in the order in which they were drawn; none without `count` and `seed`."""
        if self.count is None or self.seed is None:
            return ()
        if self.choices is not None:
            ranked = sorted(zip(_draws(self.random, self.seed), self.choices, strict=False), key=lambda pair: pair[0])
            return tuple(choice for _, choice in ranked[: self.count])
        distinct: dict[int | float, None] = {}
        for num_drawn, draw in enumerate(_draws(self.random, self.seed)):
            value = self._value(draw)
            if self.low <= value < self.high:  # rounding may leave the interval
                distinct.setdefault(value)
            if len(distinct) == self.count:
                break
            if num_drawn > 64 * (self.count + 64):
                refuse("count too large", expected="fewer values or a wider interval", got=str(self.count))
        return tuple(distinct)

    def draw(self, key: str) -> Scalar:
        """Return one draw, decided by `key` and the distribution alone.

        >>> RandomAxis(random="int", low=0, high=10).draw("a") in range(10)
        True
        """
        if self.choices is not None:
            choices: list[Scalar] = sorted(self.choices, key=sort_key)
            return draw_from(choices, key)
        for counter in range(64):  # a narrow interval may round away; then its lower end stands
            value = self._value(hash_number(f"{key}:{counter}"))
            if self.low <= value < self.high:  # rounding may leave the interval
                return value
        return int(self.low) if self.random == "int" else float(self.low)

    def bounds(self) -> tuple[Scalar, ...]:
        """Return values such that a factor that accepts them accepts every draw: the choices, or both ends."""
        if self.choices is not None:
            return self.choices
        if self.random == "int":
            return self.low, self.high - 1
        return float(self.low), math.nextafter(self.high, self.low)

    def _value(self, draw: int) -> int | float:
        if self.random == "int":
            return int(self.low) + (draw * (int(self.high) - int(self.low)) >> 128)
        share = (draw >> 75) / 2.0**53
        if self.random == "uniform":
            value = self.low + share * (self.high - self.low)
        else:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")

    def _num_possible(self) -> int | None:
        if self.choices is not None:
            return len(self.choices)
        if self.random == "int":
            return int(self.high) - int(self.low)
        return None

    def _lacks(self, key: str) -> bool:
        return getattr(self, key) is None

    def _interval_problems(self) -> Iterator[Problem]:
        if self.random == "choice":
            return
        if self.random == "int":
            for key in ("low", "high"):
                if not isinstance(number := getattr(self, key), int):
                    yield Problem((key,), "wrong type", "a whole number", show(number))
        if self.random == "loguniform" and self.low <= 0:
            yield Problem(("low",), "out of range", "a number > 0", show(self.low))
        if not self.low < self.high:
            yield Problem(("high",), "empty interval", f"a number > low ({self.low!r})", show(self.high))


class OwnSeeds(Section):
    """``{per_combination: n, seed: s}``: n random seeds for each combination of the other axes, its own each.

    No two combinations share seeds, so a seed tells nothing about a configuration. Only for the axis `seed`.
    The seeds of a combination do not depend on the other combinations.
    """

    per_combination: Annotated[int, Field(ge=1, le=MAX_AXIS_VALUES)]
    seed: Annotated[int, Field(ge=0, lt=2**63)]

    def draw(self, combination: str) -> tuple[int, ...]:
        """Return the seeds of one combination, whole numbers from 0 to 2^53 - 1.

        >>> len(set(OwnSeeds(per_combination=3, seed=0).draw("lr 0.1")))
        3
        """
        return tuple(
            hash_number(f"own seed {self.seed}\n{combination}\n{number}") >> 75
            for number in range(self.per_combination)
        )


def _form(value: object) -> str | None:
    """Tell which form of axis a value has; tags are class names, which no key of a document equals."""
    if isinstance(value, list | tuple):
        return "list"
    for form, key in ((RangeAxis, "range"), (RandomAxis, "random"), (OwnSeeds, "per_combination")):
        if isinstance(value, form) or (isinstance(value, dict) and key in value):
            return form.__name__
    return None


Axis = Annotated[
    Annotated[Annotated[tuple[_T, ...], Field(min_length=1)], Tag("list")]
    | Annotated[RangeAxis, Tag("RangeAxis")]
    | Annotated[RandomAxis, Tag("RandomAxis")],
    Discriminator(
        lambda value: None if (form := _form(value)) == "OwnSeeds" else form,
        custom_error_type="axis",
        custom_error_message=(
            "not an axis; expected a list, {range: [start, stop]} or {random: ..., count: ..., seed: ...}"
        ),
    ),
]
SeedAxis = Annotated[
    Annotated[Annotated[tuple[_T, ...], Field(min_length=1)], Tag("list")]
    | Annotated[RangeAxis, Tag("RangeAxis")]
    | Annotated[RandomAxis, Tag("RandomAxis")]
    | Annotated[OwnSeeds, Tag("OwnSeeds")],
    Discriminator(
        _form,
        custom_error_type="axis",
        custom_error_message=(
            "not an axis; expected a list, {range: [start, stop]}, {random: ..., count: ..., seed: ...} or "
            "{per_combination: ..., seed: ...}"
        ),
    ),
]


def duplicate_problems(values: tuple[Scalar, ...], path: tuple[str | int, ...]) -> list[Problem]:
    """Return a problem for each value that came before; 1 equals 1.0, and true equals only true."""
    first: dict[tuple[bool, Scalar], int] = {}
    problems = []
    for index, value in enumerate(values):
        key = (isinstance(value, bool), value)
        if key in first:
            seen = (*path, first[key])
            problems.append(
                Problem((*path, index), f"duplicate value {value!r}", also=seen, remedy="Remove one of them.")
            )
        else:
            first[key] = index
    return problems


def draw_from(values: Sequence[_T], key: str) -> _T:
    """Return one of the values, decided by `key` alone."""
    return values[hash_number(key) * len(values) >> 128]


def hash_number(key: str) -> int:
    """Return the unsigned 128-bit integer that stands for a key: the head of its SHA-256."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")


def sort_key(value: Any) -> tuple[int, Any]:
    """Order numbers before text."""
    return (0, value) if isinstance(value, int | float) else (1, value)


def _draws(purpose: str, seed: int) -> Iterator[int]:
    """Yield unsigned 128-bit integers."""
    for counter in itertools.count():
        yield hash_number(f"{purpose}:{seed}:{counter}")
