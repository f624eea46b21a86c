"""What makes two specs the same zoo: content, its digest, and the differences in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zookeeper.spec.axes import OwnSeeds, RandomAxis, Scalar, sort_key
from zookeeper.spec.factors import DEFAULTS, FACTORS, LATER

if TYPE_CHECKING:
    from zookeeper.spec.schema import ZooSpec
    from zookeeper.spec.sections import ImageSpec

_MAX_LISTED = 8


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no white space and the shortest exact floats.

    >>> canonical_json({"b": 1e-4, "a": [1, True, None]})
    '{"a":[1,true,null],"b":0.0001}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def image_identity(images: ImageSpec) -> dict[str, Any]:
    """Return what of the image set may change a model: name, path, split, seed, normalisation, transforms.

    A key that came after the first release is left out at its default.
    """
    return images.model_dump(mode="json", exclude={"root", "download"}, exclude_none=True)


def content(spec: ZooSpec) -> dict[str, Any]:
    """Return what may change the content of the zoo, with defaults filled in and axes written out.

    Two specs with equal content describe the same models, split and checkpoints. Axes that are drawn for
    each model are described, not listed, under ``draws``.
    """
    drawn = spec.grid.drawn
    factors = {name: sorted(spec.factor_values(name), key=sort_key) for name in FACTORS if name not in drawn}
    for name in LATER:
        if factors.get(name) == [DEFAULTS[name]]:
            del factors[name]
    split = spec.split
    draws = {"draws": _draws(spec)} if drawn else {}
    return {
        "version": spec.version,
        "name": spec.name,
        "images": image_identity(spec.images),
        "factors": factors,
        **draws,
        "checkpoints": list(spec.checkpoint_epochs),
        "split": {**split.fractions(), "seed": split.seed, "by": sorted(split.group_factors) or "model"},
    }


def _draws(spec: ZooSpec) -> dict[str, Any]:
    grid = spec.grid
    described: dict[str, Any] = {} if grid.sample is None else {"sample": grid.sample.model_dump()}
    for name in grid.drawn:
        axis = getattr(grid, name)
        if isinstance(axis, RandomAxis | OwnSeeds):
            described[name] = axis.model_dump(mode="json", exclude_none=True)
            if "choices" in described[name]:
                described[name]["choices"] = sorted(described[name]["choices"], key=sort_key)
        else:
            described[name] = sorted(grid.values(name), key=sort_key)
    return described


def content_digest(spec: ZooSpec) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of `content`."""
    return hashlib.sha256(canonical_json(content(spec)).encode()).hexdigest()


def difference(spec_a: ZooSpec, spec_b: ZooSpec) -> list[str]:
    """Return one line per difference in content: the key path and both values.

    Empty exactly when both specs have the same `digest`. Long lists of values are told by what only one
    of them has.
    """
    lines: list[str] = []
    a, b = content(spec_a), content(spec_b)
    for section in dict.fromkeys((*a, *b)):
        if section == "factors":
            for factor in FACTORS:
                name = _factor_path(spec_a, spec_b, factor)
                _compare(name, _shown(a, spec_a, factor), _shown(b, spec_b, factor), lines)
        elif section == "draws":
            _compare("grid", a.get("draws", {}), b.get("draws", {}), lines)
        else:
            _compare(section, a[section], b[section], lines)
    return lines


def _shown(described: Mapping[str, Any], spec: ZooSpec, factor: str) -> Scalar | list[Scalar]:
    """Return the values of a factor as a difference tells them; a single one without a list."""
    if factor in spec.grid.drawn:
        return "drawn for each model"
    values: list[Scalar] = described["factors"].get(factor, [DEFAULTS.get(factor)])
    return values[0] if len(values) == 1 else values


def _compare(path: str, a: Any, b: Any, lines: list[str]) -> None:
    if a == b:
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            _compare(f"{path}.{key}", a.get(key), b.get(key), lines)
    elif isinstance(a, list) and isinstance(b, list) and max(len(a), len(b)) > _MAX_LISTED:
        only_a, only_b = [v for v in a if v not in set(b)], [v for v in b if v not in set(a)]
        parts = [f"{len(a)} values against {len(b)}"]
        if only_a:
            parts.append(f"only in the first: {_listed(only_a)}")
        if only_b:
            parts.append(f"only in the second: {_listed(only_b)}")
        lines.append(f"{path}: {'; '.join(parts)}")
    else:
        lines.append(f"{path}: {canonical_json(a)} against {canonical_json(b)}")


def _listed(values: Sequence[Any]) -> str:
    shown = [canonical_json(value) for value in values]
    return ", ".join(shown if len(shown) <= _MAX_LISTED else [*shown[: _MAX_LISTED - 2], "...", shown[-1]])


def _factor_path(spec_a: ZooSpec, spec_b: ZooSpec, factor: str) -> str:
    is_axis = factor in spec_a.grid.order or factor in spec_b.grid.order
    return f"{'grid' if is_axis else FACTORS[factor][0]}.{factor}"
