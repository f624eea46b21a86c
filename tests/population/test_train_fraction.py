"""A model that trains on a part of the images sees its own part, and is evaluated on all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from zookeeper.errors import InputError
from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.parameters import load_row, row_of
from zookeeper.population import Cohort, EpochResult, Population, train_cohort
from zookeeper.population.randomness import epoch_orders, num_train_images, stream_keys, train_subsets

SEEDS = (3, 8, 3, 5)


def cohort_of(fraction: float) -> Cohort:
    lr, zeros = (0.02, 0.01, 0.005, 0.03), (0.0,) * 4
    return Cohort(SEEDS, lr, zeros, (0.9, 0.0, 0.5, 0.2), zeros, "sgd", 8, train_fraction=fraction)


def run(case: Any, data: Any, cohort: Cohort, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, EpochResult]:
    population = Population(case.build(), case.image_shape)
    inits = ["kaiming_uniform"] * cohort.num_models
    rows = torch.from_numpy(initialise_rows(population.layout, inits, cohort.seeds)).to(dtype)
    start = rows.clone()
    *_, last = train_cohort(population, cohort, data, rows, last_epoch=2)
    return start, last


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.99])
def test_equals_plain_training_on_the_subset(fraction: float, case_named: Callable[[str], Any]) -> None:
    case = case_named("cnn-digits")
    data, cohort = case.data(), cohort_of(fraction)
    start, last = run(case, data, cohort)
    train = data.indices["train"]
    num = math.floor(fraction * len(train))
    mean, std = (v.double()[:, None, None] for v in (data.mean, data.std))
    images = (data.images.double() / 255 - mean) / std
    for m, seed in enumerate(SEEDS):
        subset = train[train_subsets(stream_keys([seed], "subset"), len(train), fraction)[0]]
        assert len(subset) == num
        net = case.build().double()
        load_row(net, start[m])
        optimizer = torch.optim.SGD(net.parameters(), cohort.lr[m], cohort.momentum[m])
        for epoch in (1, 2):
            order = subset[epoch_orders(stream_keys([seed], "order"), epoch, num)[0]]
            total = 0.0
            for batch in order.split(8):
                optimizer.zero_grad()
                loss = F.cross_entropy(net(images[batch]), data.labels[batch])
                loss.backward()
                optimizer.step()
                total += loss.item() * len(batch)
        torch.testing.assert_close(last.rows[m], row_of(net), rtol=1e-9, atol=1e-11)
        assert last.batch_loss[m].item() == pytest.approx(total / num, rel=1e-9)
        with torch.no_grad():
            full = F.cross_entropy(net(images[train]), data.labels[train]).item()
        assert last.evaluations["train"].loss[m].item() == pytest.approx(full, rel=1e-6)


def test_images_outside_the_subset_do_not_reach_a_model(case_named: Callable[[str], Any]) -> None:
    case, cohort = case_named("cnn-digits"), cohort_of(0.5)
    data = case.data()
    train = data.indices["train"]
    seen = train_subsets(stream_keys([3], "subset"), len(train), 0.5)[0]
    unseen = torch.tensor([i for i in range(len(train)) if i not in set(seen.tolist())])
    changed = data.images.clone()
    changed[train[unseen]] = 255 - changed[train[unseen]]
    _, before = run(case, data, cohort, torch.float32)
    _, after = run(case, replace(data, images=changed), cohort, torch.float32)
    same = [torch.equal(before.rows[m], after.rows[m]) for m in range(4)]
    assert same == [True, False, True, False]  # members 0 and 2 have seed 3


def test_subsets_are_seeded_nested_and_exact() -> None:
    keys = stream_keys([1, 1, 2], "subset")
    small, large = (train_subsets(keys, 1000, fraction) for fraction in (0.1, 0.25))
    assert small.shape == (3, 100)
    assert large.shape == (3, 250)
    assert torch.equal(small[0], small[1])
    assert not torch.equal(small[0], small[2])
    for row, wider in zip(small.tolist(), large.tolist(), strict=True):
        assert len(set(row)) == 100
        assert set(row) < set(wider)
        assert 0 <= min(row) <= max(row) < 1000
    assert train_subsets(keys, 50, 1.0).tolist() == [list(range(50))] * 3


@pytest.mark.parametrize(
    ("num", "fraction", "expected"),
    [(60_000, 0.7, 42_000), (60_000, 0.1, 6_000), (43, 0.99, 42), (10, 0.01, 1), (7, 1.0, 7), (73_257, 0.25, 18_314)],
)
def test_number_of_images_is_the_whole_part(num: int, fraction: float, expected: int) -> None:
    assert num_train_images(num, fraction) == expected


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.01, math.nan])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    with pytest.raises(InputError, match=r"train_fraction .*; expected a number in \(0, 1\]"):
        cohort_of(fraction)
