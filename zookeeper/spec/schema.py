"""What a person asks for: one zoo, typed and validated. A `ZooSpec` is a frozen value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Final

from pydantic import AfterValidator, model_validator

from zookeeper.errors import SpecError
from zookeeper.spec.axes import Scalar, duplicate_problems
from zookeeper.spec.document import Document, Section, load_document, parse_document, validate_document
from zookeeper.spec.factors import DEFAULTS, FACTORS, REQUIRED, STD_INITS, default_momentum, safe_name, uses_std
from zookeeper.spec.identity import canonical_json, content_digest
from zookeeper.spec.problems import KeyPath, Problem, raise_problems, refuse, show
from zookeeper.spec.rows import model_rows
from zookeeper.spec.sections import (
    BuildSection,
    CheckpointSection,
    GridSection,
    ImageSpec,
    ModelSection,
    TrainingSection,
    ZooSplit,
)
from zookeeper.spec.storage import StoreSection

HUGE_NUM_MODELS: Final = 20_000
MAX_NUM_MODELS: Final = 1_000_000


def _known_version(version: int) -> int:
    if version != 1:
        refuse("unknown version of the spec", expected="1", got=show(version), remedy="Use a newer release.")
    return version


class ZooSpec(Section):
    """One zoo, completely described.

    Factors are fixed in `model` and `training` or are axes of `grid`, never both. Relations between
    sections are checked as well, so that a `ZooSpec` that exists can be expanded; only what depends on random
    draws (equal models, too few groups for the split) is left to `read_spec`.
    """

    version: Annotated[int, AfterValidator(_known_version)]
    name: Annotated[str, AfterValidator(safe_name)]
    images: ImageSpec
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    grid: GridSection = GridSection()
    checkpoints: CheckpointSection = CheckpointSection(every=1)
    split: ZooSplit = ZooSplit(train=1.0)
    build: BuildSection = BuildSection()
    store: StoreSection | None = None

    @model_validator(mode="after")
    def _check_relations(self) -> ZooSpec:
        raise_problems([*_factor_problems(self)])
        raise_problems([*_momentum_problems(self), *_std_problems(self)])
        raise_problems([*_split_problems(self), *_checkpoint_problems(self)])
        return self

    @property
    def axes(self) -> dict[str, tuple[Scalar, ...]]:
        """Distinct values of every axis, in the order of the product."""
        return {name: self.grid.values(name) for name in self.grid.order}

    @property
    def num_models(self) -> int:
        """Number of models of the grid."""
        return self.grid.num_models

    @property
    def checkpoint_epochs(self) -> tuple[int, ...]:
        """Epochs at which weights are stored, from 0 to the last."""
        return self.checkpoints.epochs(int(self.factor_values("epochs")[0]))

    def factor_values(self, factor: str) -> tuple[Scalar, ...]:
        """Return the values a factor takes in this zoo: its axis, its fixed value, or its default."""
        if factor in self.grid.order:
            return self.grid.values(factor)
        fixed: Scalar | None = getattr(getattr(self, FACTORS[factor][0]), factor)
        if fixed is not None:
            return (fixed,)
        if factor == "momentum":
            return tuple(dict.fromkeys(default_momentum(str(o)) for o in self.factor_values("optimizer")))
        return (DEFAULTS[factor],)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that may change the content of the zoo.

        It leaves out `build`, `store`, `images.root`, `images.download`, the order of axes and values, and the
        way in which axes and checkpoints are written: ``{range: [0, 3]}`` equals ``[0, 1, 2]``.
        """
        return content_digest(self)

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no white space, the shortest floats; `from_json` inverts it."""
        return canonical_json(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def from_json(cls, text: str, where: str = "spec") -> ZooSpec:
        """Return the spec that `to_json` wrote.

        Raises
        ------
        SpecError
            The text is not JSON or not a valid spec.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise SpecError(f"{where}: not valid JSON: {error}. Restore the file from its source.") from None
        return validate_document(Document(value, where), cls)


def _factor_problems(spec: ZooSpec) -> list[Problem]:
    problems = []
    for factor, (section, _) in FACTORS.items():
        fixed = getattr(getattr(spec, section), factor) is not None
        axis = factor in spec.grid.order
        if fixed and axis:
            what = f"{factor} is both an axis of the grid and fixed in {section}"
            problems.append(Problem(("grid", factor), what, also=(section, factor), remedy="Remove one of them."))
        elif factor in REQUIRED and not fixed and not axis:
            or_axis = "" if factor == "epochs" else f" or as an axis grid.{factor}"
            problems.append(Problem((section, factor), "missing factor", f"a value here{or_axis}"))
    return problems


def _momentum_problems(spec: ZooSpec) -> list[Problem]:
    """Momentum and nesterov are settings of sgd; torch takes nesterov only with momentum."""
    optimizers = spec.factor_values("optimizer")
    if spec.grid.sample is not None and "sgd" in optimizers:
        return []  # models that draw another optimizer, or no momentum, go without
    others = [str(name) for name in optimizers if name != "sgd"]
    problems = []
    for factor in ("momentum", "nesterov"):
        section = "grid" if factor in spec.grid.order else "training"
        explicit = section == "grid" or getattr(spec.training, factor) is not None
        harmless = factor == "nesterov" and not any(spec.factor_values(factor))
        if explicit and others and not harmless:
            also = ("grid" if "optimizer" in spec.grid.order else "training", "optimizer")
            what = f"{factor} is a setting of sgd"
            remedy = f"Remove {factor}, or make sgd the only optimizer."
            problem = Problem((section, factor), what, "optimizer sgd", ", ".join(others), also=also, remedy=remedy)
            problems.append(problem)
        elif factor == "nesterov" and not harmless and 0.0 in spec.factor_values("momentum"):
            also = ("grid" if "momentum" in spec.grid.order else "training", "momentum")
            problems.append(Problem((section, factor), "nesterov without momentum", "momentum > 0", "0", also=also))
    return problems


def _std_problems(spec: ZooSpec) -> list[Problem]:
    """The standard deviation is a setting of some initialisations; the others have their own scale."""
    section = "grid" if "init_std" in spec.grid.order else "model"
    if section == "model" and spec.model.init_std is None:
        return []
    pairs = [(init, bias) for init in spec.factor_values("init") for bias in spec.factor_values("bias_init")]
    without = [str(init) for init, bias in pairs if not uses_std(init, bias)]
    if not without or (spec.grid.sample is not None and len(without) < len(pairs)):
        return []
    what = f"init_std is a setting of init {' and '.join(STD_INITS)} and of bias_init normal"
    remedy = "Remove init_std, or the other inits."
    also = ("grid" if "init" in spec.grid.order else "model", "init")
    return [Problem((section, "init_std"), what, got=", ".join(dict.fromkeys(without)), also=also, remedy=remedy)]


def _split_problems(spec: ZooSpec) -> list[Problem]:
    split, axes = spec.split, spec.axes
    valid = ("model", *axes)
    for index, factor in enumerate(split.group_factors):
        if factor not in axes:
            path = ("split", "by") if isinstance(split.by, str) else ("split", "by", index)
            expected = f"{', '.join(valid)} (a group is made of axes of the grid)"
            return [Problem(path, f"no axis {factor!r}", expected, name=factor, names=valid)]
    if duplicates := duplicate_problems(split.group_factors, ("split", "by")):
        return duplicates
    if spec.grid.drawn:
        return []  # `_draw_problems` counts them
    return _group_problems(spec, math.prod(len(axes[name]) for name in split.group_factors or axes))


def _group_problems(spec: ZooSpec, num_groups: int) -> list[Problem]:
    split = spec.split
    wanted = [name for name, share in split.fractions().items() if share > 0]
    if num_groups < len(wanted):
        what = f"too few groups for {', '.join(wanted)}"
        remedy = "Split by something finer, or set a fraction to 0."
        return [Problem(("split",), what, f"at least {len(wanted)} groups", str(num_groups), remedy=remedy)]
    return []


def _draw_problems(spec: ZooSpec) -> list[Problem]:
    """Check what only the models themselves can tell: no two are equal, and there are groups enough to split."""
    rows = model_rows(spec)
    num_equal = len(rows) - len({tuple(row.values()) for row in rows})
    if num_equal:
        path = ("grid", "seed") if spec.grid.sample is None else ("grid", "sample")
        remedy = "Add an axis seed: {random: int, low: 0, high: 9007199254740992}."
        return [
            Problem(path, "equal models were drawn", "distinct models", f"{num_equal:,} repetitions", remedy=remedy)
        ]
    groups = {tuple(row[name] for name in spec.split.group_factors or row) for row in rows}
    return _group_problems(spec, len(groups))


def _checkpoint_problems(spec: ZooSpec) -> list[Problem]:
    last, also = int(spec.factor_values("epochs")[0]), ("training", "epochs")
    return [
        Problem(("checkpoints", "at", index), "epoch after the last", f"0 to {last}", str(epoch), also=also)
        for index, epoch in enumerate(spec.checkpoints.at or ())
        if epoch > last
    ]


def load_spec(path: Path, *, allow_huge: bool = False, data_root: Path | None = None) -> ZooSpec:
    """Read and validate the YAML file of a zoo.

    `images.root` of the result is absolute, or None.

    Parameters
    ----------
    path
        The YAML file; a relative `images.root` in it is taken from its folder and may not leave it.
    allow_huge
        Whether more than 20,000 models are wanted.
    data_root
        Where the image files lie, instead of `images.root`; any folder.

    Raises
    ------
    SpecError
        The file cannot be read, is not YAML, or is not a valid spec; lists every problem found.
    """
    return read_spec(load_document(path), path.parent, allow_huge=allow_huge, data_root=data_root)


def parse_spec(
    text: str,
    where: str = "spec",
    *,
    folder: Path | None = None,
    allow_huge: bool = False,
    data_root: Path | None = None,
) -> ZooSpec:
    """Validate YAML text as `load_spec` does a file; `folder` (default: the current one) stands for its folder."""
    document = parse_document(text, where)
    return read_spec(document, folder or Path(), allow_huge=allow_huge, data_root=data_root)


def read_spec(document: Document, folder: Path, *, allow_huge: bool = False, data_root: Path | None = None) -> ZooSpec:
    """Validate a document as `load_spec` does a file that lies in `folder`."""
    value = document.value
    if nulls := [*_null_paths(value, ())]:
        remedy = "Give a value, or remove the key to take the default."
        raise document.error(*(Problem(path, "empty value", "a value", "nothing", remedy=remedy) for path in nulls))
    if isinstance(value, dict) and isinstance(value.get("grid"), dict) and "order" not in value["grid"]:
        value = {**value, "grid": {**value["grid"], "order": [k for k in value["grid"] if k in FACTORS]}}
    spec = validate_document(Document(value, document.where, document.lines), ZooSpec)
    num_models = spec.num_models
    if num_models > (MAX_NUM_MODELS if allow_huge else HUGE_NUM_MODELS):
        limit = MAX_NUM_MODELS if allow_huge else HUGE_NUM_MODELS
        remedy = "Make the grid smaller." if allow_huge else "Pass --yes if you mean it, or make the grid smaller."
        problem = Problem(("grid",), "huge grid", f"at most {limit:,} models", f"{num_models:,}", remedy=remedy)
        raise document.error(problem)
    if spec.grid.drawn and (problems := _draw_problems(spec)):
        raise document.error(*problems)
    root = _image_root(document, spec.images.root, folder, data_root)
    return spec.model_copy(update={"images": spec.images.model_copy(update={"root": root})})


def _null_paths(value: object, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the paths of nulls below the root: a key whose value was forgotten, not a wish for the default."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if item is None:
            yield (*path, key)
        else:
            yield from _null_paths(item, (*path, key))


def _image_root(document: Document, root: str | None, folder: Path, data_root: Path | None) -> str | None:
    """Return the absolute folder of the image files; refuse to be led outside the spec's folder."""
    if root is not None:
        path = ("images", "root")
        if PurePosixPath(root).is_absolute() or PureWindowsPath(root).is_absolute() or root.startswith("~"):
            remedy = "Give an absolute path on the command line: --data-root PATH."
            expected = "a path relative to the spec's folder"
            raise document.error(Problem(path, "absolute path in a spec", expected, show(root), remedy=remedy))
        base = folder.resolve()
        inside = "\0" not in root and (base / root).resolve().is_relative_to(base)
        if not root or not inside:
            remedy = "Move the images, or give the path on the command line: --data-root PATH."
            expected = "a path inside it"
            raise document.error(Problem(path, "path outside the spec's folder", expected, show(root), remedy=remedy))
        root = str((base / root).resolve())
    return str(data_root.resolve()) if data_root is not None else root
