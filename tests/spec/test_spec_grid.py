from __future__ import annotations

import json
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zookeeper.errors import InputError, SpecError
from zookeeper.spec import make_plan, parse_spec
from zookeeper.spec.grid import apportion, assign_split, expand
from zookeeper.spec.plan import SHARED_FACTORS

HEAD = """
version: 1
name: tiny
images: {name: digits, split: {train: 0.7, val: 0.1, test: 0.2}}
"""
BODY = """
model: {architecture: cnn-digits}
training: {lr: 1e-3, batch_size: 32, epochs: 5}
"""


def _spec(grid: str, head: str = HEAD, body: str = BODY, more: str = ""):
    return parse_spec(f"{head}{body}grid: {grid}\n{more}")


def test_product_in_yaml_order_with_the_last_axis_fastest():
    models = expand(_spec("{seed: [1, 0], init: [uniform, normal]}"))
    assert [(m.seed, m.init) for m in models] == [(1, "uniform"), (1, "normal"), (0, "uniform"), (0, "normal")]


def test_model_id_depends_on_what_may_change_the_weights_only():
    (reference,) = expand(_spec("{}"))
    same = [
        _spec("{}", head=HEAD.replace("tiny", "other")),
        _spec("{seed: [0, 1]}"),
        _spec("{}", more="checkpoints: {every: 5}\nbuild: {cohort_size: 3}"),
        _spec("{}", head=HEAD.replace("digits,", "digits, download: true, root: here,")),
    ]
    assert {expand(spec)[0].model_id for spec in same} == {reference.model_id}
    other = [
        _spec("{seed: [1]}"),
        _spec("{init: [normal]}"),
        _spec("{}", body=BODY.replace("epochs: 5", "epochs: 6")),
        _spec("{}", body=BODY.replace("cnn-digits", "cnn-small")),
        _spec("{}", head=HEAD.replace("0.7, val: 0.1", "0.6, val: 0.2")),
        _spec("{}", head=HEAD.replace("digits,", "digits, seed: 1,")),
        _spec("{}", head=HEAD.replace("digits,", "digits, normalise: none,")),
        _spec("{}", head=HEAD.replace("digits,", "mnist,")),
    ]
    ids = {expand(spec)[0].model_id for spec in other}
    assert len(ids) == len(other)
    assert reference.model_id not in ids
    assert all(len(i) == 16 and int(i, 16) >= 0 for i in ids)


# --- split of the zoo -------------------------------------------------------------------------------


def test_split_does_not_depend_on_the_order_of_axes_and_values():
    split = "split: {by: seed, train: 0.5, val: 0.25, test: 0.25, seed: 3}"
    a = expand(_spec("{seed: [0, 1, 2, 3, 4, 5, 6, 7], init: [normal, uniform]}", more=split))
    b = expand(_spec("{init: [uniform, normal], seed: [7, 6, 5, 4, 3, 2, 1, 0]}", more=split))
    assert {m.model_id: m.split for m in a} == {m.model_id: m.split for m in b}
    assert [m.model_id for m in a] != [m.model_id for m in b]


def test_split_by_several_factors():
    models = expand(
        _spec(
            "{seed: {range: [0, 5]}, init: [normal, uniform], weight_decay: [0, 1e-4]}",
            more="split: {by: [seed, init], train: 0.6, val: 0.2, test: 0.2}",
        )
    )
    sides = defaultdict(set)
    for model in models:
        sides[model.seed, model.init].add(model.split)
    assert all(len(side) == 1 for side in sides.values())
    assert len({side for group in sides.values() for side in group}) == 3


_FRACTIONS = (
    st.tuples(st.integers(1, 100), st.integers(0, 100), st.integers(0, 100))
    .map(lambda parts: [part / sum(parts) for part in parts])
    .map(lambda shares: dict(zip(("train", "val", "test"), shares, strict=True)))
)


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), min_size=3, max_size=60), _FRACTIONS, st.integers(0, 2**63 - 1))
def test_split_is_complete_disjoint_deterministic_and_keeps_groups_together(groups, fractions, seed):
    num_groups = len(set(groups))
    wanted = {name for name, share in fractions.items() if share > 0}
    if num_groups < len(wanted):
        with pytest.raises(SpecError, match="too few groups"):
            assign_split(groups, fractions, seed)
        return
    sides = assign_split(groups, fractions, seed)
    assert sides == assign_split(groups, fractions, seed)
    assert assign_split(groups[::-1], fractions, seed) == sides[::-1]
    assert len(sides) == len(groups)
    assert set(sides) == wanted
    members = defaultdict(set)
    for group, side in zip(groups, sides, strict=True):
        members[group].add(side)
    assert all(len(side) == 1 for side in members.values())


@given(st.integers(3, 2000), _FRACTIONS)
def test_apportion_adds_up_and_is_within_one_of_the_quota(num_groups, fractions):
    sizes = apportion(num_groups, fractions)
    assert sum(sizes.values()) == num_groups
    for name, share in fractions.items():
        assert (sizes[name] > 0) == (share > 0)
        if num_groups * min(s for s in fractions.values() if s > 0) >= 1:
            assert abs(sizes[name] - num_groups * share) < 1 + 1e-9


def test_split_seed_matters():
    groups = [str(i) for i in range(50)]
    fractions = {"train": 0.5, "val": 0.0, "test": 0.5}
    assert assign_split(groups, fractions, 0) != assign_split(groups, fractions, 1)


# --- plan -------------------------------------------------------------------------------------------


def _sizes(grid: str, **keywords) -> list[int]:
    return [len(cohort.models) for cohort in make_plan(_spec(grid), **keywords).cohorts]


def test_one_cohort_per_seed_when_a_seed_has_16_to_128_models():
    grid = "{seed: [3, 1, 2], init: [normal, uniform], weight_decay: {range: [0, 8]}}"
    plan = make_plan(_spec(grid))
    assert [{m.seed for m in cohort.models} for cohort in plan.cohorts] == [{1}, {2}, {3}]
    assert plan.num_models == 48
    assert plan.num_checkpoints == 48 * 6
    assert plan.epochs == (0, 1, 2, 3, 4, 5)


def test_else_even_chunks_of_at_most_64():
    assert _sizes("{seed: {range: [0, 130]}}") == [43, 43, 44]
    assert _sizes("{seed: [0, 1], weight_decay: {range: [0, 129]}}") == [51, 52, 51, 52, 52]


def test_cohort_size_of_the_caller_wins_over_the_spec():
    assert _sizes("{seed: {range: [0, 10]}}", cohort_size=4) == [3, 3, 4]
    spec = _spec("{seed: {range: [0, 10]}}", more="build: {cohort_size: 5}")
    assert [len(c.models) for c in make_plan(spec).cohorts] == [5, 5]
    assert [len(c.models) for c in make_plan(spec, cohort_size=1).cohorts] == [1] * 10
    with pytest.raises(InputError, match="cohort_size"):
        make_plan(spec, cohort_size=0)


_AXES = {
    "architecture": ["cnn-digits", "my.nets:tiny"],
    "activation": ["relu", "tanh"],
    "optimizer": ["sgd", "adam"],
    "batch_size": [8, 16],
    "init": ["normal", "uniform"],
    "weight_decay": [0, 1e-4, 1e-3],
    "dropout": [0, 0.5],
    "seed": [4, 2, 9, 0, 1],
}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(sorted(_AXES)), min_size=1, max_size=5, unique=True),
    st.none() | st.integers(1, 100),
    st.randoms(use_true_random=False),
)
def test_cohorts_hold_every_model_once_and_agree_in_shared_factors(axes, size, random):
    model = {} if "architecture" in axes else {"architecture": "cnn-digits"}
    training = {"epochs": 5, "lr": 1e-3} | ({} if "batch_size" in axes else {"batch_size": 8})
    body = f"\nmodel: {json.dumps(model)}\ntraining: {json.dumps(training)}\n"
    spec = _spec(json.dumps({name: _AXES[name] for name in axes}), body=body)
    plan = make_plan(spec, cohort_size=size)
    members = [m for cohort in plan.cohorts for m in cohort.models]
    assert sorted(members, key=lambda m: m.model_id) == sorted(expand(spec), key=lambda m: m.model_id)
    assert len({cohort.name for cohort in plan.cohorts}) == len(plan.cohorts)
    for cohort in plan.cohorts:
        assert cohort.models
        assert len({tuple(getattr(m, f) for f in SHARED_FACTORS) for m in cohort.models}) == 1
        assert len(cohort.models) <= (size or 128)
        seeds = [m.seed for m in cohort.models]
        assert seeds == sorted(seeds)
    shuffled = {name: random.sample(_AXES[name], len(_AXES[name])) for name in random.sample(axes, len(axes))}
    again = _spec(json.dumps(shuffled), body=body)
    assert make_plan(again, cohort_size=size).cohorts == plan.cohorts
