"""Samplers by name, and their settings as plain values: what YAML, the command line and stored zoos hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hyperrep.sampling.average import AnchorAverage
from hyperrep.sampling.counterfactual import Counterfactual
from hyperrep.sampling.crossover import Crossover
from hyperrep.sampling.flow import LatentFlow
from hyperrep.sampling.gan import LatentGan
from hyperrep.sampling.interface import Sampler
from hyperrep.sampling.kde import Kde
from hyperrep.sampling.neighbour import Neighbour
from hyperrep.sampling.noise import AnchorNoise
from hyperrep.sampling.pca_kde import PcaKde
from hyperrep.sampling.uniform import Uniform
from zookeeper.errors import InputError
from zookeeper.spec.problems import nearest_name, show

SAMPLERS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "uniform": Uniform,
        "counterfactual": Counterfactual,
        "kde": Kde,
        "pca-kde": PcaKde,
        "neighbour": Neighbour,
        "gan": LatentGan,
        "flow": LatentFlow,
        "crossover": Crossover,
        "noise": AnchorNoise,
        "average": AnchorAverage,
    }
)


def build_sampler(name: str, settings: Mapping[str, Any] | None = None) -> Sampler:
    """Build a registered sampler; settings that are not given keep their defaults.

    Raises
    ------
    InputError
        If the name or a setting is unknown (with the nearest one), of the wrong type, or out of range.

    Examples
    --------
    >>> build_sampler("kde", {"together": "token"})
    Kde(together='token', bandwidth='scott', kernel='diagonal', spread=1.0)
    >>> build_sampler("kda")
    Traceback (most recent call last):
    zookeeper.errors.InputError: unknown sampler 'kda'; expected uniform, counterfactual, kde, pca-kde, neighbour, \
gan, flow, crossover, noise, average. Did you mean kde?
    """
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler {name!r}; expected {', '.join(SAMPLERS)}.{_hint(name, SAMPLERS)}")
    kind = SAMPLERS[name]
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind)}
    values = {}
    for key, value in (settings or {}).items():
        if key not in known:
            raise InputError(
                f"sampler {name}: unknown setting {key!r}; expected {', '.join(known)}.{_hint(key, known)}"
            )
        values[key] = _checked(value, known[key], f"sampler {name}: {key}")
    sampler: Sampler = kind(**values)
    return sampler


def describe_sampler(sampler: Sampler) -> dict[str, Any]:
    """Name and every setting, as plain values from which `build_sampler` builds it again.

    >>> describe_sampler(AnchorNoise())
    {'name': 'noise', 'scale': 0.1}
    """
    names = {kind: name for name, kind in SAMPLERS.items()}
    kind = type(sampler)
    if kind not in names:  # a user's own
        return {"name": f"{kind.__module__}:{kind.__qualname__}", "settings": repr(sampler)}
    return {"name": names[kind], **asdict(sampler)}  # type: ignore[call-overload]


def _checked(value: Any, wanted: Any, where: str) -> Any:
    try:
        return TypeAdapter(wanted, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError:
        text, names = _in_words(wanted)
        hint = _hint(value, names) if isinstance(value, str) else ""
        raise InputError(f"{where}: expected {text}, got {show(value)}.{hint}") from None


def _in_words(wanted: Any) -> tuple[str, tuple[str, ...]]:
    """What a setting may be, for messages, and the words among it."""
    parts = (wanted,) if get_origin(wanted) is Literal or not get_args(wanted) else get_args(wanted)
    words = tuple(str(word) for part in parts if get_origin(part) is Literal for word in get_args(part))
    numbers = {int: "a whole number", float: "a number"}
    kinds = [numbers[part] for part in parts if part in numbers]
    return " or ".join([", ".join(words), *kinds] if words else kinds), words


def _hint(name: str, names: Any) -> str:
    nearest = nearest_name(name, names)
    return f" Did you mean {nearest}?" if nearest else ""
