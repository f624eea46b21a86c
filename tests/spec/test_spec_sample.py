"""Grids that are drawn: a random search instead of a product, and seeds of one's own for each combination."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from zookeeper.errors import SpecError
from zookeeper.spec import ZooSpec, difference, make_plan, parse_spec
from zookeeper.spec.axes import RandomAxis
from zookeeper.spec.grid import expand

BODY = """
version: 1
name: drawn
images: {name: digits, split: {train: 0.7, val: 0.1, test: 0.2}}
model: {architecture: cnn-digits}
training: {batch_size: 32, epochs: 5}
"""
SEED = "seed: {random: int, low: 0, high: 9007199254740992}"
LR = "lr: {random: loguniform, low: 1e-4, high: 1e-1}"


def _spec(grid: str, more: str = "", body: str = BODY, **options) -> ZooSpec:
    return parse_spec(f"{body}grid: {{{grid}}}\n{more}", **options)


def _search(count: int, *axes: str, seed: int = 0, **options) -> ZooSpec:
    return _spec(", ".join((f"sample: {{count: {count}, seed: {seed}}}", LR, SEED, *axes)), **options)


def test_a_search_has_as_many_models_as_draws():
    spec = _search(500, "activation: [relu, tanh]", "dropout: {random: uniform, low: 0, high: 0.7}")
    models = expand(spec)
    assert len(models) == spec.num_models == 500
    assert len({m.model_id for m in models}) == len({m.lr for m in models}) == 500
    assert make_plan(spec).num_checkpoints == 500 * 6
    assert all(1e-4 <= m.lr < 1e-1 and 0 <= m.dropout < 0.7 for m in models)
    assert {type(value) for m in models for value in (m.lr, m.dropout)} == {float}
    assert {type(m.seed) for m in models} == {int}


def test_draws_have_their_distributions_and_are_independent():
    axes = (
        "activation: [relu, tanh]",
        "dropout: {random: uniform, low: 0, high: 0.7}",
        "weight_decay: {random: uniform, low: 0, high: 0.7}",
        "train_fraction: {random: choice, choices: [0.1, 0.25, 0.5, 1.0]}",
    )
    models = expand(_search(4000, *axes))
    assert (
        stats.kstest([math.log(m.lr) for m in models], stats.uniform(math.log(1e-4), math.log(1e3)).cdf).pvalue > 1e-3
    )
    assert stats.kstest([m.dropout for m in models], stats.uniform(0, 0.7).cdf).pvalue > 1e-3
    assert abs(stats.pearsonr([m.dropout for m in models], [m.weight_decay for m in models]).statistic) < 0.06
    pairs = Counter((m.activation, m.train_fraction) for m in models)
    assert len(pairs) == 8
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


def test_another_axis_or_a_larger_count_does_not_change_the_draws():
    few = expand(_search(20))
    more = expand(_search(50, "init: [normal, uniform]", "weight_decay: {range: [0, 0.5, 0.1]}"))
    assert [(m.lr, m.seed) for m in more[:20]] == [(m.lr, m.seed) for m in few]
    other = expand(_search(20, seed=1))
    assert not {m.lr for m in other} & {m.lr for m in few}


def test_draws_never_change():
    first = expand(_search(2, "activation: [relu, tanh, gelu]", "weight_decay: {range: [0, 0.5, 0.1]}"))
    assert [(m.lr, m.seed, m.activation, m.weight_decay) for m in first] == GOLDEN


GOLDEN = [(0.0012644291, 7155900889965235, "relu", 0.3), (0.062928819, 7777870897152500, "gelu", 0.3)]


def test_order_of_axes_and_values_does_not_matter():
    a = _spec(f"sample: {{count: 9, seed: 3}}, {LR}, {SEED}, init: [normal, uniform], activation: [relu, tanh]")
    b = _spec(f"activation: [tanh, relu], init: [uniform, normal], {SEED}, {LR}, sample: {{seed: 3, count: 9}}")
    assert expand(a) == expand(b)
    assert a.digest == b.digest
    assert difference(a, b) == []


def test_factors_without_effect_take_their_default():
    axes = (
        "init: [normal, truncated_normal, orthogonal]",
        "init_std: {random: loguniform, low: 1e-3, high: 0.5}",
        "bias_init: [zeros, normal]",
        "optimizer: [sgd, adam, rmsprop]",
        "momentum: [0.5, 0]",
        "nesterov: [true, false]",
    )
    models = expand(_search(300, *axes))
    for m in models:
        assert (m.init_std < 0.5) == (m.init != "orthogonal" or m.bias_init == "normal")
        assert m.init_std <= 0.5 or m.init_std == 1.0
        assert m.optimizer == "sgd" or (m.momentum == 0 and not m.nesterov)
        assert not m.nesterov or m.momentum > 0
    assert {m.nesterov for m in models} == {True, False}


def test_huge_searches_need_permission():
    with pytest.raises(SpecError, match=r"grid: huge grid; expected at most 20,000 models, got 30,000\. Pass --yes"):
        _search(30_000)
    assert _search(30_000, allow_huge=True).num_models == 30_000


def test_identity_of_a_search():
    reference = _search(5)
    assert ZooSpec.from_json(reference.to_json()) == reference
    assert ZooSpec.from_json(reference.to_json()).digest == reference.digest
    others = [
        _search(6),
        _search(5, seed=1),
        _search(5, "activation: [relu]"),
        _spec(f"sample: {{count: 5, seed: 0}}, lr: {{random: loguniform, low: 1e-4, high: 1}}, {SEED}"),
        _spec(f"sample: {{count: 5, seed: 0}}, lr: {{random: uniform, low: 1e-4, high: 1e-1}}, {SEED}"),
    ]
    assert len({spec.digest for spec in (reference, *others)}) == len(others) + 1
    for spec in others:
        assert difference(reference, spec)
    assert difference(reference, others[0]) == ["grid.sample.count: 5 against 6"]
    listed = _spec(f"lr: {[m.lr for m in expand(reference)]}, seed: [1]".replace("'", ""))
    assert difference(reference, listed)
    assert expand(_search(5, "activation: [relu]"))[0].model_id == expand(reference)[0].model_id


def test_a_search_is_split_by_model_or_by_a_drawn_factor():
    fractions = "train: 0.7, val: 0.15, test: 0.15"
    by_model = Counter(m.split for m in expand(_search(200, more=f"split: {{{fractions}}}")))
    assert by_model == {"train": 140, "val": 30, "test": 30}
    grouped = expand(
        _search(
            200,
            "batch_size: {range: [1, 21]}",
            body=BODY.replace("batch_size: 32, ", ""),
            more=f"split: {{by: batch_size, {fractions}}}",
        )
    )
    assert all(len({m.split for m in grouped if m.batch_size == size}) == 1 for size in range(1, 21))


@settings(deadline=None)
@given(
    st.sampled_from(["uniform", "loguniform", "int"]), st.integers(1, 10**6), st.integers(1, 10**6), st.text(max_size=5)
)
def test_a_draw_is_inside_and_repeats(kind, low, width, key):
    axis = RandomAxis(random=kind, low=low, high=low + width)
    assert low <= axis.draw(key) < low + width
    assert axis.draw(key) == axis.draw(key)


# --- seeds per combination ----------------------------------------------------------------------------

OWN = "seed: {per_combination: 5, seed: 0}"


def test_each_combination_has_seeds_of_its_own():
    spec = _spec(f"lr: [0.1, 0.2, 0.3], init: [normal, uniform], {OWN}")
    models = expand(spec)
    assert len(models) == spec.num_models == 30
    assert len({m.seed for m in models}) == 30
    assert set(Counter((m.lr, m.init) for m in models).values()) == {5}
    assert all(0 <= m.seed < 2**53 for m in models)
    assert [m.lr for m in models] == sorted(m.lr for m in models)


def test_seeds_of_a_combination_do_not_depend_on_the_others():
    def seeds(grid: str) -> dict[tuple[float, str], list[int]]:
        found: dict[tuple[float, str], list[int]] = {}
        for m in expand(_spec(grid)):
            found.setdefault((m.lr, m.init), []).append(m.seed)
        return found

    reference = seeds(f"lr: [0.1, 0.2], init: [normal, uniform], {OWN}")
    wider = seeds(f"{OWN}, init: [uniform, kaiming_normal, normal], lr: [0.3, 0.2, 0.1]")
    assert len(wider) == 9
    assert reference == {key: wider[key] for key in reference}
    more = seeds("lr: [0.1], init: [normal], seed: {per_combination: 9, seed: 0}")
    assert more[0.1, "normal"][:5] == reference[0.1, "normal"]
    assert not set(more[0.1, "normal"]) & set(
        seeds("lr: [0.1], init: [normal], seed: {per_combination: 9, seed: 1}")[0.1, "normal"]
    )


def test_identity_of_own_seeds():
    reference = _spec(f"lr: [0.1, 0.2], {OWN}")
    assert _spec(f"{OWN}, lr: [0.2, 0.1]").digest == reference.digest
    assert ZooSpec.from_json(reference.to_json()) == reference
    fixed = _spec("lr: [0.1, 0.2], seed: {range: [0, 5]}")
    assert difference(reference, fixed)[0] == 'grid.seed: "drawn for each model" against [0,1,2,3,4]'
    assert difference(reference, _spec("lr: [0.1, 0.2], seed: {per_combination: 6, seed: 0}")) == [
        "grid.seed.per_combination: 5 against 6"
    ]


# --- later factors ------------------------------------------------------------------------------------

FIXED = BODY.replace("batch_size: 32,", "lr: 0.1, batch_size: 32,")


NORMAL = FIXED.replace("model: {", "model: {init: normal, ")


@pytest.mark.parametrize(
    ("section", "default", "other"),
    [
        ("training", "schedule: none", "schedule: cosine"),
        ("training", "train_fraction: 1", "train_fraction: 0.5"),
        ("model", "bias_init: default", "bias_init: zeros"),
        ("model", "init_std: 1", "init_std: 0.5"),
    ],
)
def test_a_later_factor_at_its_default_changes_no_identity(section, default, other):
    def spec(more: str) -> ZooSpec:
        return parse_spec(NORMAL.replace(f"{section}: {{", f"{section}: {{{more}, "))

    plain = parse_spec(NORMAL)
    assert spec(default).digest == plain.digest
    assert expand(spec(default))[0].model_id == expand(plain)[0].model_id
    assert difference(spec(default), plain) == []
    assert spec(other).digest != plain.digest
    assert expand(spec(other))[0].model_id != expand(plain)[0].model_id
    assert len(difference(spec(other), plain)) == 1


def test_later_factors_as_axes():
    axes = "schedule: [none, onecycle, cosine], train_fraction: [0.25, 1], init: [normal], init_std: [0.1, 1]"
    spec = parse_spec(FIXED + f"grid: {{{axes}, bias_init: [zeros, default]}}")
    models = expand(spec)
    assert len({m.model_id for m in models}) == spec.num_models == 24
    cohorts = make_plan(spec).cohorts
    assert sorted((len(c.models), {m.train_fraction for m in c.models}) for c in cohorts) == [(12, {0.25}), (12, {1.0})]
    assert {m.schedule for m in cohorts[0].models} == {"none", "onecycle", "cosine"}
