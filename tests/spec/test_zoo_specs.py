"""Every shipped spec is valid, and its header says what its plan says. No image file is needed."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest

from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network
from zookeeper.spec import ZooSpec, load_spec
from zookeeper.spec.grid import expand
from zookeeper.spec.plan import make_plan

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "zoo_specs").rglob("*.yaml"))
FOLDERS = {
    "cpu": 2,
    "": 1,
    "model_zoo_dataset": 27,
    "self_supervised": 6,
    "small_cnn_zoo": 4,
    "structure_and_behaviour": 4,
}
SHAPES = {  # channels, side, classes of the original images
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "digits": (1, 8, 10),
    "eurosat": (3, 64, 10),
    "fashion-mnist": (1, 28, 10),
    "mnist": (1, 28, 10),
    "stl10": (3, 96, 10),
    "svhn": (3, 32, 10),
    "tetris": (1, 4, 4),
    "tiny-imagenet": (3, 64, 200),
    "usps": (1, 16, 10),
}
WEIGHTS = {
    ("cnn-small", 1): 2_464,
    ("cnn-small", 3): 2_864,
    ("cnn-large", 3): 10_853,
    ("lenet5", 3): 62_006,
    ("mlp", 1): 100,
    ("smallcnn-google", 1): 4_970,
}


@lru_cache
def spec_of(path: Path) -> ZooSpec:
    return load_spec(path, allow_huge=True)


def header_of(path: Path) -> dict[str, str]:
    """Return the entries ``# key: text`` of a spec's first comment, continued lines joined."""
    entries: dict[str, str] = {}
    key = ""
    for line in path.read_text().split("version:")[0].splitlines():
        if found := re.match(r"# (\w+): +(.*)", line):
            key = found[1]
            entries[key] = found[2]
        elif key and line.startswith("#" + " " * 10):
            entries[key] += " " + line[1:].strip()
        else:
            key = ""
    return entries


def image_shape(spec: ZooSpec) -> tuple[int, int, int]:
    channels, side, num_classes = SHAPES[spec.images.name]
    return 1 if spec.images.greyscale else channels, spec.images.crop or spec.images.resize or side, num_classes


@lru_cache
def num_weights(architecture: str, channels: int, side: int, num_classes: int) -> int:
    network = build_network(
        architecture, in_channels=channels, image_size=(side, side), num_classes=num_classes, activation="relu"
    )
    return WeightLayout.of(network).num_weights


def parametrise(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", files, ids=[str(path.relative_to(ROOT / "zoo_specs")) for path in files])


def test_every_zoo_has_its_file() -> None:
    found = Counter("" if path.parent.name == "zoo_specs" else path.parent.name for path in FILES)
    assert found == FOLDERS
    assert len({path.stem for path in FILES}) == len(FILES)  # the stem names the directory of the zoo


@parametrise(FILES)
def test_header_says_what_the_plan_says(path: Path) -> None:
    spec, header = spec_of(path), header_of(path)
    assert {"command", "models", "checkpoints", "weights", "size", "accuracy"} <= set(header)
    assert len({"measured", "estimated"} & set(header)) == 1
    plan = make_plan(spec)
    assert spec.name == path.stem
    assert header["models"].startswith(f"{plan.num_models:,} (")
    assert header["checkpoints"].startswith(f"{plan.num_checkpoints:,} (")
    assert len({model.model_id for cohort in plan.cohorts for model in cohort.models}) == plan.num_models
    (architecture,) = spec.factor_values("architecture")
    num = num_weights(str(architecture), *image_shape(spec))
    assert header["weights"].startswith(f"{num:,} in each model")
    command = header["command"].split()
    assert command[:3] == ["zookeeper", "build", str(path.relative_to(ROOT))]
    assert ("--yes" in command) == (plan.num_models > 20_000)
    amount, unit = header["size"].split()[:2]
    num_bytes = 4 * num * plan.num_checkpoints
    assert float(amount) * 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit) == pytest.approx(num_bytes, rel=6e-3)


@parametrise(FILES)
def test_header_multiplies_out(path: Path) -> None:
    """The product in the brackets, such as "4 inits x 20 seeds", is the number of models, axis by axis."""
    spec, header = spec_of(path), header_of(path)
    factors = re.findall(r"([\d,]+) [a-z]", header["models"].partition("(")[2])
    numbers = [int(number.replace(",", "")) for number in factors]
    product = 1
    for number in numbers:
        product *= number
    assert product == spec.num_models
    if spec.grid.sample is None:
        sizes = sorted(len(set(column)) for name, column in spec.axes.items() if name not in spec.grid.drawn)
        own = [spec.grid.seed.per_combination] if spec.grid.drawn else []
        assert sorted(number for number in numbers if number > 1) == sorted(s for s in (*sizes, *own) if s > 1)


@parametrise([path for path in FILES if path.parent.name != "zoo_specs"])
def test_header_has_time_and_accuracy(path: Path) -> None:
    header = header_of(path)
    measured = "measured" in header
    assert measured or header["estimated"].startswith("about ")
    assert measured or header["accuracy"] == "not known" or "published" in header["accuracy"]
    (architecture,) = spec_of(path).factor_values("architecture")
    channels = image_shape(spec_of(path))[0]
    if architecture != "resnet18-cifar":
        assert header["weights"].startswith(f"{WEIGHTS[str(architecture), channels]:,} ")


@parametrise([path for path in FILES if path.parent.name != "zoo_specs" and path.parent.name != "small_cnn_zoo"])
def test_the_zoos_are_split_without_twins(path: Path) -> None:
    """Where a seed repeats over configurations, its models stay on one side of the split."""
    models = expand(spec_of(path))
    repeats = Counter(model.seed for model in models)
    if 1 < len(repeats) < len(models):
        sides: dict[int, set[str]] = {}
        for model in models:
            sides.setdefault(model.seed, set()).add(model.split)
        assert all(len(side) == 1 for side in sides.values())
    assert {model.split for model in models} == {"train", "val", "test"}


def test_the_cnn_zoos_of_the_model_zoo_dataset_add_up() -> None:
    """24 zoos, eight image sets and sizes with one zoo of seeds, one of fixed and one of random seeds each."""
    specs = [spec_of(path) for path in FILES if path.parent.name == "model_zoo_dataset"]
    cnns = [spec for spec in specs if str(spec.model.architecture).startswith("cnn-")]
    assert len(cnns) == 24
    kinds = Counter(spec.name.rpartition("_")[2] for spec in cnns)
    assert kinds == {"seed": 8, "fix": 8, "rand": 8}
    assert sum(spec.num_models for spec in cnns) == 47_360
    assert sum(make_plan(spec).num_checkpoints for spec in cnns) == 2_415_360
    assert sum(spec.num_models for spec in specs) == 50_360  # with three zoos of ResNet-18


@pytest.mark.parametrize("name", sorted({p.stem.removesuffix("_fix") for p in FILES if p.stem.endswith("_fix")}))
def test_fixed_and_random_seeds_share_a_grid(name: str) -> None:
    (fix,) = (path for path in FILES if path.stem == f"{name}_fix")
    (rand,) = (path for path in FILES if path.stem == f"{name}_rand")
    sides = []
    for path in (fix, rand):
        models = expand(spec_of(path))
        sides.append(Counter(tuple(v for k, v in m.factors().items() if k != "seed") for m in models))
    assert sides[0] == sides[1]
    num = set(sides[0].values())
    assert len(num) == 1
    assert len({m.seed for m in expand(spec_of(fix))}) == num.pop()
    assert len({m.seed for m in expand(spec_of(rand))}) == spec_of(rand).num_models


GRID = {
    "svhn": 1_200,
    "cifar10": 1_200,
    "eurosat": 1_200,
    "cifar10_lenet5": 1_200,
    "tetris_seed": 1_000,
    "tetris_hyp": 3_600,
    "mnist_hyp_rand": 2_560,
    "usps_hyp_fix": 2_560,
    "stl10_large_hyp_rand": 2_560,
    "cifar10_small_hyp_fix": 1_280,
    "svhn_hyp_rand": 4_320,
    "svhn_search": 30_000,
    "tiny_imagenet_resnet18": 1_000,
}
EPOCHS = {"mlp": 76, "cnn-small": 51, "cnn-large": 51, "lenet5": 51, "smallcnn-google": 9}


def test_published_counts() -> None:
    specs = {path.stem: spec_of(path) for path in FILES if path.parent.name != "cpu"}
    assert {name: specs[name].num_models for name in GRID} == GRID
    for name, spec in specs.items():
        if str(spec.model.architecture) in EPOCHS:
            assert len(spec.checkpoint_epochs) == EPOCHS[str(spec.model.architecture)], name
    assert [len(specs[f"{n}_resnet18"].checkpoint_epochs) for n in ("cifar10", "cifar100", "tiny_imagenet")] == [
        51,
        61,
        61,
    ]
    for number in (1, 5):
        assert 900 <= specs[f"mnist_hyp_{number}_fix"].num_models <= 1_100
