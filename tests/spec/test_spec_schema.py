from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from zookeeper.errors import SpecError
from zookeeper.spec import Document, ZooSpec, difference, load_spec, parse_document, parse_spec
from zookeeper.spec.axes import RandomAxis, RangeAxis
from zookeeper.spec.factors import FACTORS
from zookeeper.spec.grid import FACTOR_NAMES, ModelConfig, expand
from zookeeper.spec.names import INITS, OPTIMIZERS
from zookeeper.spec.schema import read_spec
from zookeeper.spec.sections import CheckpointSection

ZOO_SPECS = Path(__file__).parents[2] / "zoo_specs"

MINIMAL = """
version: 1
name: tiny
images: {name: digits, split: {train: 0.7, val: 0.1, test: 0.2}}
model: {architecture: cnn-digits}
training: {lr: 1e-3, batch_size: 32, epochs: 5}
"""


def _spec(extra: str = "", text: str = MINIMAL) -> ZooSpec:
    return parse_spec(text + extra)


def test_minimal_spec_is_one_model_with_the_defaults():
    (model,) = expand(_spec())
    assert model.factors() == {
        "architecture": "cnn-digits",
        "activation": "relu",
        "init": "torch_default",
        "init_std": 1.0,
        "bias_init": "default",
        "dropout": 0.0,
        "optimizer": "adam",
        "lr": 0.001,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "nesterov": False,
        "schedule": "none",
        "train_fraction": 1.0,
        "precision": "float32",
        "batch_size": 32,
        "epochs": 5,
        "seed": 0,
    }
    assert model.split == "train"
    assert tuple(model.factors()) == FACTOR_NAMES == tuple(FACTORS)


def test_numbers_get_the_type_of_their_factor():
    spec = _spec("grid: {weight_decay: [0, 1e-4], dropout: {range: [0, 1, 0.25]}}")
    for model in expand(spec):
        assert type(model.weight_decay) is float
        assert type(model.dropout) is float
    assert spec.axes["dropout"] == (0.0, 0.25, 0.5, 0.75)


def test_momentum_default_depends_on_the_optimizer():
    spec = _spec("grid: {optimizer: [sgd, adam, rmsprop]}")
    assert {model.optimizer: model.momentum for model in expand(spec)} == {"sgd": 0.9, "adam": 0.0, "rmsprop": 0.0}


def test_nesterov_of_sgd():
    text = MINIMAL.replace("lr: 1e-3", "optimizer: sgd, nesterov: true, lr: 1e-3")
    (model,) = expand(_spec(text=text))
    assert (model.momentum, model.nesterov) == (0.9, True)


def test_a_factory_may_stand_for_an_architecture():
    text = MINIMAL.replace("cnn-digits", "my_package.nets:tiny_net")
    assert expand(_spec(text=text))[0].architecture == "my_package.nets:tiny_net"


def test_spec_is_frozen_and_hashable():
    spec = _spec()
    with pytest.raises(ValidationError):
        spec.name = "other"  # type: ignore[misc]
    assert hash(spec) == hash(_spec())


@pytest.mark.parametrize("path", sorted(ZOO_SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_specs_are_valid_and_say_how_to_run_them(path):
    spec = load_spec(path)
    header = path.read_text().split("version:")[0]
    num_checkpoints = spec.num_models * len(spec.checkpoint_epochs)
    assert spec.name == path.stem
    assert f"models:       {spec.num_models:,} " in header
    assert f"checkpoints:  {num_checkpoints:,} " in header
    for word in ("command:", "weights:", "measured:"):
        assert word in header


def test_digits_spec_is_the_full_grid():
    spec = load_spec(ZOO_SPECS / "digits_cnn.yaml")
    models = expand(spec)
    assert len(models) == 1200
    assert len(spec.checkpoint_epochs) == 51
    sides = {side: {m.seed for m in models if m.split == side} for side in ("train", "val", "test")}
    assert {side: len(seeds) for side, seeds in sides.items()} == {"train": 16, "val": 1, "test": 3}


# --- image root -----------------------------------------------------------------------------------


def _file(folder: Path, root: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(MINIMAL.replace("{name: digits,", f"{{name: mnist, root: {root},"))
    return path


def test_root_is_relative_to_the_folder_of_the_spec(tmp_path: Path):
    assert load_spec(_file(tmp_path, "images/mnist")).images.root == str(tmp_path / "images/mnist")


def test_root_may_not_leave_by_a_link(tmp_path: Path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    with pytest.raises(SpecError, match="outside the spec's folder"):
        load_spec(_file(inside, "link"))


def test_data_root_of_the_caller_wins_and_may_be_anywhere(tmp_path: Path):
    inside = tmp_path / "inside"
    inside.mkdir()
    assert load_spec(_file(inside, "images"), data_root=tmp_path).images.root == str(tmp_path)
    assert parse_spec(MINIMAL, data_root=tmp_path).images.root == str(tmp_path)


# --- huge grids -----------------------------------------------------------------------------------


def test_huge_grids_need_permission():
    axes = "grid: {seed: {range: [0, 20001]}}"
    with pytest.raises(
        SpecError, match=r"spec:7 grid: huge grid; expected at most 20,000 models, got 20,001\. Pass --"
    ):
        _spec(axes)
    assert parse_spec(MINIMAL + axes, allow_huge=True).num_models == 20_001
    with pytest.raises(SpecError, match="at most 1,000,000 models"):
        parse_spec(
            MINIMAL + axes.replace("}}", "}, init: [normal, uniform], dropout: {range: [0, 1, 0.03]}}"), allow_huge=True
        )


# --- axes and checkpoints ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "values"),
    [
        ((0, 3), (0, 1, 2)),
        ((1, 10, 4), (1, 5, 9)),
        ((3, 0, -1), (3, 2, 1)),
        ((0, 0.5, 0.1), (0.0, 0.1, 0.2, 0.3, 0.4)),
        ((0.1, 0.3, 0.1), (0.1, 0.2)),
    ],
)
def test_range_axis(numbers, values):
    axis = RangeAxis(range=numbers)
    assert axis.values() == values
    assert axis.num_values == len(values)


@pytest.mark.parametrize("kind", ["uniform", "loguniform", "int"])
def test_random_axis_is_seeded_distinct_and_inside(kind):
    def draw(seed: int) -> tuple[object, ...]:
        return RandomAxis(random=kind, low=2, high=500, count=200, seed=seed).values()

    values = draw(0)
    assert values == draw(0) != draw(1)
    assert len(set(values)) == 200
    assert all(2 <= value < 500 for value in values)


def test_random_axis_never_changes():
    assert RandomAxis(random="loguniform", low=1e-5, high=1e-1, count=3, seed=7).values() == GOLDEN_LOGUNIFORM
    assert RandomAxis(random="int", low=0, high=2**63, count=2, seed=7).values() == GOLDEN_INT
    assert RandomAxis(random="choice", choices=("a", "b", "c"), count=2, seed=7).values() == GOLDEN_CHOICE


GOLDEN_LOGUNIFORM = (0.015533193, 0.015734688, 0.0019129881)
GOLDEN_INT = (7149986563579634748, 7109110513675524819)
GOLDEN_CHOICE = ("b", "c")


def test_random_int_can_be_exhausted():
    assert sorted(RandomAxis(random="int", low=0, high=50, count=50, seed=0).values()) == list(range(50))


@pytest.mark.parametrize(
    ("schedule", "last", "epochs"),
    [
        ({"every": 1}, 3, (0, 1, 2, 3)),
        ({"every": 2}, 5, (0, 2, 4, 5)),
        ({"every": 9}, 5, (0, 5)),
        ({"at": (4, 1)}, 5, (0, 1, 4, 5)),
        ({"log": 1}, 50, (0, 50)),
        ({"log": 3}, 100, (0, 1, 10, 100)),
        ({"log": 100}, 3, (0, 1, 2, 3)),
    ],
)
def test_checkpoint_schedules_keep_first_and_last(schedule, last, epochs):
    assert CheckpointSection(**schedule).epochs(last) == epochs


# --- nothing but a SpecError --------------------------------------------------------------------------

_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from(["normal", "seed", "model", "range", "every", "sgd", "auto", "int", "choice", 0, 1, 5, 1e-3]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["range", "random", "low", "high", "count", "seed", "choices", "order", "at", "mean", "per_combination"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=6,
)
_PLACES = [(section, key) for section in ("model", "training", "grid") for key in (*FACTORS, "order", "sample")] + [
    *(("images", key) for key in ("name", "split", "seed", "normalise", "root", "download")),
    *(("split", key) for key in ("by", "train", "val", "test", "seed")),
    *(("checkpoints", key) for key in ("every", "at", "log")),
    *((key, None) for key in ZooSpec.model_fields),
]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(_PLACES), _ANYTHING), min_size=1, max_size=3))
def test_any_change_of_a_spec_is_accepted_or_refused(changes):
    value = parse_document(MINIMAL, "x.yaml").value
    for (section, key), anything in changes:
        if key is None:
            value[section] = anything
        elif isinstance(value.setdefault(section, {}), dict):
            value[section][key] = anything
    try:
        spec = read_spec(Document(value, "x.yaml"), Path())
    except SpecError as error:
        message = str(error)
    else:
        message = "x.yaml"
        assert len(expand(spec)) == spec.num_models
        assert ZooSpec.from_json(spec.to_json()) == spec
    assert all(line.startswith("x.yaml") for line in message.splitlines())


# --- identity ---------------------------------------------------------------------------------------

_FLOATS = st.lists(st.floats(1e-8, 1.0, allow_subnormal=False), min_size=1, max_size=4, unique=True)
_SHARES = st.sampled_from([{"train": 1}, {"train": 0.8, "test": 0.2}, {"train": 0.5, "val": 0.25, "test": 0.25}])


@st.composite
def spec_values(draw):
    """Draw the value of a valid spec."""
    names = st.permutations(["init", "lr", "weight_decay", "seed", "optimizer"])
    axes = {
        "init": st.lists(st.sampled_from(INITS), min_size=1, max_size=3, unique=True),
        "lr": _FLOATS,
        "weight_decay": _FLOATS,
        "seed": st.builds(lambda a, n: {"range": [a, a + n]}, st.integers(0, 2**62), st.integers(3, 9)),
        "optimizer": st.lists(st.sampled_from(OPTIMIZERS), min_size=1, max_size=2, unique=True),
    }
    chosen = draw(names)[: draw(st.integers(0, 5))]
    chosen = [*chosen, "seed"] if "seed" not in chosen else chosen
    training = {"batch_size": draw(st.integers(1, 512)), "epochs": draw(st.integers(1, 60))}
    if "lr" not in chosen:
        training["lr"] = draw(st.floats(1e-8, 1.0))
    return {
        "version": 1,
        "name": draw(st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,20}\Z")),
        "images": {"name": "digits", "split": draw(_SHARES), "seed": draw(st.integers(0, 9))},
        "model": {"architecture": "cnn-digits", "dropout": draw(st.floats(0, 0.99))},
        "training": training,
        "grid": {name: draw(axes[name]) for name in chosen},
        "checkpoints": draw(st.sampled_from([{"every": 2}, {"log": 5}, {"at": [1]}])),
        "split": {"by": draw(st.sampled_from(["model", "seed", ["seed"]])), **draw(_SHARES)},
    }


@settings(deadline=None, max_examples=60)
@given(spec_values())
def test_json_round_trip(value):
    spec = parse_spec(json.dumps(value))
    text = spec.to_json()
    again = ZooSpec.from_json(text)
    assert again == spec
    assert again.to_json() == text
    assert again.digest == spec.digest
    assert expand(again) == expand(spec)
    assert difference(spec, again) == []
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@settings(deadline=None, max_examples=60)
@given(spec_values(), spec_values())
def test_difference_is_empty_exactly_when_digests_agree(value_a, value_b):
    spec_a, spec_b = parse_spec(json.dumps(value_a)), parse_spec(json.dumps(value_b))
    assert (difference(spec_a, spec_b) == []) == (spec_a.digest == spec_b.digest)


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL + "grid: {seed: [0, 1, 2]}\nsplit: {by: [seed], train: 1}\ncheckpoints: {every: 1}",
        MINIMAL + "grid: {seed: {range: [0, 3]}}\nbuild: {cohort_size: 7}\ncheckpoints: {at: [1, 2, 3, 4]}\n"
        "split: {by: seed, train: 1}",
        MINIMAL.replace("digits,", "digits, root: somewhere, download: true,")
        + "grid: {seed: [2, 1, 0]}\nsplit: {train: 1.0, by: seed}",
        MINIMAL.replace("lr: 1e-3, ", "weight_decay: 0, ") + "grid: {lr: [0.001], seed: [0, 1, 2]}\n"
        "split: {by: seed, train: 1}",
    ],
)
def test_what_does_not_change_content_does_not_change_the_digest(text):
    reference = _spec("grid: {seed: [0, 1, 2]}\nsplit: {by: seed, train: 1}")
    assert parse_spec(text).digest == reference.digest
    assert difference(reference, parse_spec(text)) == []


def test_difference_gives_key_paths_and_both_values():
    spec_a = _spec("grid: {seed: {range: [0, 20]}, init: [normal]}")
    spec_b = parse_spec(
        MINIMAL.replace("1e-3", "1e-2").replace("test: 0.2}", "test: 0.2}, seed: 4") + "grid: {seed: {range: [0, 30]}}"
    )
    assert difference(spec_a, spec_b) == [
        "images.seed: 0 against 4",
        'grid.init: "normal" against "torch_default"',
        "training.lr: 0.001 against 0.01",
        "grid.seed: 20 values against 30; only in the second: 20, 21, 22, 23, 24, 25, ..., 29",
    ]


def test_golden_identity():
    """These change only with a new version of the spec: stored zoos are found by them."""
    spec = load_spec(Path(__file__).parent / "golden" / "digits_grid.yaml")
    first: ModelConfig = expand(spec)[0]
    assert spec.digest == GOLDEN_DIGEST
    assert first.model_id == GOLDEN_MODEL_ID


GOLDEN_DIGEST = "71675900d6318a10130c296a176e46fecd32706bc7ec001077feaed2c8ede051"
GOLDEN_MODEL_ID = "3d61530c5283ed79"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version":1}', '{"version":NaN}'])
def test_from_json_refuses_what_is_not_a_spec(text):
    with pytest.raises(SpecError, match=r"^zoo\.json"):
        ZooSpec.from_json(text, where="zoo.json")
