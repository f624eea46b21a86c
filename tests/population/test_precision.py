"""Lower precision is asked for, holds for training alone, keeps weights in float32 and models apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import zookeeper
from zookeeper.build import build_zoo
from zookeeper.errors import InputError
from zookeeper.nets.initialise import initialise_rows
from zookeeper.population import Cohort, Population
from zookeeper.population.precision import dot_precision, training_precision
from zookeeper.population.train import CohortTrainer
from zookeeper.spec import make_plan, parse_spec
from zookeeper.spec.grid import expand

CPU = torch.device("cpu")
SPEC = """
version: 1
name: tiny
images: {{name: digits, split: {{train: 0.1, val: 0.1, test: 0.8}}}}
model: {{architecture: cnn-digits, activation: tanh}}
training: {{lr: 3e-3, batch_size: 32, epochs: 2{training}}}
grid: {{seed: [0, 1]{grid}}}
"""


def spec_of(training: str = "", grid: str = "") -> Any:
    return parse_spec(SPEC.format(training=training, grid=grid))


def trainer_of(case: Any, precision: str, *, num_models: int = 4, poisoned: bool = False) -> CohortTrainer:
    population = Population(case.build(), case.image_shape)
    seeds = tuple(range(num_models))
    rows = torch.from_numpy(initialise_rows(population.layout, ["kaiming_uniform"] * num_models, seeds)).float()
    if poisoned:
        rows[1] = torch.nan
    values = ((0.005,) * num_models, (0.001,) * num_models, (0.0,) * num_models, (0.1,) * num_models)
    cohort = Cohort(seeds, *values, "adam", batch_size=16, precision=precision)
    return CohortTrainer(population, cohort, case.data(), rows)


@pytest.mark.parametrize("name", ["mlp", "cnn-digits", "normed"])
def test_bf16_rounds_products_and_keeps_weights_in_float32(name: str, case_named: Callable[[str], Any]) -> None:
    case = case_named(name)
    rounded, exact = trainer_of(case, "bf16"), trainer_of(case, "float32")
    start = exact.rows.clone()
    losses = [(rounded.train_epoch(epoch), exact.train_epoch(epoch)) for epoch in (1, 2)]
    assert rounded.rows.dtype == losses[0][0].dtype == torch.float32
    assert all(values.dtype == torch.float32 for values in rounded.optimizer.state.values())
    gap, way = (rounded.rows - exact.rows).norm(), (exact.rows - start).norm()
    assert 1e-4 * way < gap < 0.5 * way
    torch.testing.assert_close(*losses[1], rtol=0.05, atol=0.05)


def test_bf16_evaluation_is_that_of_the_float32_weights(case_named: Callable[[str], Any]) -> None:
    case = case_named("cnn-digits")
    rounded, exact = trainer_of(case, "bf16"), trainer_of(case, "float32")
    rounded.train_epoch(1)
    exact.rows.copy_(rounded.rows)
    for split, evaluation in rounded.evaluate().items():
        assert torch.equal(evaluation.loss, exact.evaluate()[split].loss)


@pytest.mark.parametrize("name", ["cnn-digits", "normed"])
def test_nan_in_a_neighbour_changes_no_bit_in_bf16(name: str, case_named: Callable[[str], Any]) -> None:
    clean, poisoned = (trainer_of(case_named(name), "bf16", poisoned=poison) for poison in (False, True))
    for trainer in (clean, poisoned):
        trainer.train_epoch(1)
    others = [0, 2, 3]
    assert torch.equal(clean.rows[others], poisoned.rows[others])
    assert poisoned.rows[1, : poisoned.population.layout.num_trainable].isnan().all()


def test_settings_end_with_the_block_even_after_an_error() -> None:
    products = torch.ones(1, 2, 3), torch.ones(1, 3, 2)

    def fail() -> None:
        with training_precision("bf16", CPU):
            assert torch.bmm(*products).dtype == torch.bfloat16
            with training_precision("float32", CPU):
                assert torch.bmm(*products).dtype == torch.float32
            assert torch.bmm(*products).dtype == torch.bfloat16
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.bmm(*products).dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    assert dot_precision() == "ieee"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 needs an NVIDIA GPU; none is here")
@pytest.mark.parametrize(("precision", "expected"), [("float32", "ieee"), ("tf32", "tf32")])
def test_tf32_is_on_only_where_it_is_asked_for(precision: str, expected: str) -> None:
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    with training_precision(precision, torch.device("cuda")):
        assert [setting.fp32_precision for setting in settings] == [expected] * 2
        assert dot_precision() == expected
    assert [setting.fp32_precision for setting in settings] == before


def test_tf32_needs_a_gpu_and_says_so_before_anything_is_written(
    tmp_path: Path, case_named: Callable[[str], Any]
) -> None:
    message = r"precision tf32: the device is cpu; expected cuda.* Train on a GPU, or with precision float32 or bf16\."
    with pytest.raises(InputError, match=message):
        trainer_of(case_named("mlp"), "tf32")
    with pytest.raises(InputError, match=message):
        build_zoo(make_plan(spec_of(", precision: tf32")), tmp_path / "zoo", show_progress=False)
    assert not (tmp_path / "zoo").exists()
    with pytest.raises(InputError, match="unknown precision 'fp8'; expected float32, tf32, bf16"):
        trainer_of(case_named("mlp"), "fp8")


def test_precision_is_part_of_a_models_identity_unless_it_is_float32() -> None:
    default, explicit = spec_of(), spec_of(", precision: float32")
    assert default.digest == explicit.digest
    ids = {name: [m.model_id for m in expand(spec)] for name, spec in (("default", default), ("explicit", explicit))}
    assert (
        ids["default"] == ids["explicit"] == ["358179273e05fa15", "7ea97f0ef1ae4bf7"]
    )  # as before there were precisions
    rounded = spec_of(", precision: bf16")
    assert rounded.digest != default.digest
    assert not {m.model_id for m in expand(rounded)} & set(ids["default"])


def test_a_grid_over_precisions_builds_cohorts_of_one_precision_each(tmp_path: Path) -> None:
    plan = make_plan(spec_of(grid=", precision: [float32, bf16]"))
    assert sorted({model.precision for model in cohort.models} == {"bf16"} for cohort in plan.cohorts) == [False, True]
    summary = build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert summary.complete
    zoo = zookeeper.open(tmp_path / "zoo")
    last = zoo.query("epoch == 2")
    pairs = {name: last.query("precision == @wanted", wanted=name).weights()[0] for name in ("float32", "bf16")}
    gap = abs(pairs["float32"] - pairs["bf16"]).max()
    assert 0 < gap < 0.1
