"""Networks that train together equal each trained alone by plain `torch.nn` and `torch.optim`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.parameters import load_row, row_of
from zookeeper.population import Cohort, Population, TrainingData, tiles, train_cohort
from zookeeper.population.randomness import DropoutStream, epoch_orders, stream_keys

EPOCHS = 2
BATCH = 16  # 43 training images: batches of 16, 16 and 11
INITS = ("uniform", "normal", "kaiming_uniform", "kaiming_normal", "torch_default", "xavier_uniform")
SEEDS = {"shared": (5, 5, 5, 5, 5, 5), "own": (1, 2, 3, 4, 5, 6), "mixed": (3, 9, 3, 7, 9, 2)}
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


class StreamDropout(nn.Module):
    """The k-th call in a forward pass applies the mask of the graph's k-th dropout."""

    def __init__(self, places: list[int], seed: int, p: float) -> None:
        super().__init__()
        self.places, self.p = places, p
        self.keys = stream_keys([seed], "dropout")
        self.step, self.calls = 0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0.0:
            return x
        place = self.places[self.calls]
        self.calls += 1
        stream = DropoutStream(self.keys, self.step, torch.tensor([self.p]))
        return x * stream.mask(place, x.shape[0], tuple(x.shape[1:]), x.dtype)[0]


@dataclass(frozen=True)
class Alone:
    """What the plain loop gives for one model after one epoch."""

    row: torch.Tensor
    batch_loss: float
    loss: dict[str, float]
    accuracy: dict[str, float]


def plain_optimizer(cohort: Cohort, number: int, parameters: Any) -> torch.optim.Optimizer:
    lr, decay, momentum = cohort.lr[number], cohort.weight_decay[number], cohort.momentum[number]
    if cohort.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum, weight_decay=decay, nesterov=cohort.nesterov)
    if cohort.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr, weight_decay=decay, momentum=momentum)
    optimizer = torch.optim.Adam if cohort.optimizer == "adam" else torch.optim.AdamW
    return optimizer(parameters, lr, weight_decay=decay)


def train_alone(
    net: nn.Module, places: list[int], cohort: Cohort, number: int, data: TrainingData, row: torch.Tensor
) -> list[Alone]:
    """Train one model with torch's own layers, loss and optimiser."""
    dropout = StreamDropout(places, cohort.seeds[number], cohort.dropout[number])
    for name, layer in list(net.named_children()):
        if isinstance(layer, nn.Dropout):
            setattr(net, name, dropout)
    load_row(net.to(row.dtype), row)
    mean, std = (v.to(row.dtype)[:, None, None] for v in (data.mean, data.std))
    images = (data.images.to(row.dtype) / 255 - mean) / std
    optimizer = plain_optimizer(cohort, number, net.parameters())
    key = stream_keys([cohort.seeds[number]], "order")
    train_index, results = data.indices["train"], []
    for epoch in range(1, EPOCHS + 1):
        net.train()
        order = train_index[epoch_orders(key, epoch, len(train_index))[0]]
        total = 0.0
        for batch in order.split(cohort.batch_size):
            dropout.step, dropout.calls = dropout.step + 1, 0
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images[batch]), data.labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        net.eval()
        losses, accuracies = {}, {}
        with torch.no_grad():
            for split, index in data.indices.items():
                logits = net(images[index])
                losses[split] = F.cross_entropy(logits, data.labels[index]).item()
                accuracies[split] = (logits.argmax(1) == data.labels[index]).double().mean().item()
        results.append(Alone(row_of(net), total / len(train_index), losses, accuracies))
    return results


def cohort_of(seeds: tuple[int, ...], optimizer: str, *, nesterov: bool = False, dropout: bool = True) -> Cohort:
    # Small steps: networks that start from U(0, 1) have gradients of 1e4 and would amplify rounding without bound.
    momentum = (0.9, 0.5, 0.0, 0.99, 0.3, 0.8) if not nesterov else (0.9, 0.5, 0.1, 0.99, 0.3, 0.8)
    scale = 0.003 if optimizer == "sgd" else 0.02
    return Cohort(
        seeds=seeds,
        lr=tuple(scale * factor for factor in (1.0, 0.5, 0.1, 0.05, 0.3, 0.8)),
        weight_decay=(0.0, 1e-3, 0.1, 1e-2, 0.05, 0.3),
        momentum=momentum,
        dropout=(0.0, 0.3, 0.5, 0.1, 0.0, 0.7) if dropout else (0.0,) * 6,
        optimizer=optimizer,
        batch_size=BATCH,
        nesterov=nesterov,
    )


def assert_equal_to_plain_torch(case: Any, cohort: Cohort) -> None:
    population, data = Population(case.build(), case.image_shape), case.data()
    rows = torch.from_numpy(initialise_rows(population.layout, INITS, cohort.seeds))
    places = [number for number, op in enumerate(population.graph.ops) if op.kind == "dropout"]
    start = rows.clone()
    stacked = [
        (result.rows.clone(), result)
        for result in train_cohort(population, cohort, data, rows, last_epoch=EPOCHS)
        if result.epoch > 0
    ]
    assert len(stacked) == EPOCHS
    for number in range(cohort.num_models):
        alone = train_alone(case.build(), places, cohort, number, data, start[number])
        for (together, result), one in zip(stacked, alone, strict=True):
            torch.testing.assert_close(together[number], one.row, **CLOSE)
            assert result.batch_loss[number].item() == pytest.approx(one.batch_loss, rel=1e-9)
            assert not result.diverged[number]
            for split, evaluation in result.evaluations.items():
                assert evaluation.loss[number].item() == pytest.approx(one.loss[split], rel=1e-6)
                assert evaluation.accuracy[number].item() == pytest.approx(one.accuracy[split], rel=1e-6)
    moved = (stacked[-1][0] - start).abs().amax(1)
    assert moved.min() > 1e-4


@pytest.mark.parametrize("seeds", list(SEEDS))
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("name", ["mlp", "cnn-digits", "normed"])
def test_together_equals_alone(name: str, optimizer: str, seeds: str, case_named: Callable[[str], Any]) -> None:
    nesterov = optimizer == "nesterov"
    cohort = cohort_of(SEEDS[seeds], "sgd" if nesterov else optimizer, nesterov=nesterov)
    assert_equal_to_plain_torch(case_named(name), cohort)


@pytest.mark.parametrize("tile", [1, 4])
def test_together_equals_alone_in_small_tiles(
    tile: int, case_named: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_CACHE_BYTES", 1)
    monkeypatch.setattr(tiles, "_MIN_TILE", tile)
    assert_equal_to_plain_torch(case_named("normed"), cohort_of(SEEDS["mixed"], "adam"))


def test_together_equals_alone_without_dropout(case_named: Callable[[str], Any]) -> None:
    assert_equal_to_plain_torch(case_named("cnn-digits"), cohort_of(SEEDS["shared"], "adam", dropout=False))


def test_one_model_is_a_cohort(case_named: Callable[[str], Any]) -> None:
    case = case_named("normed")
    whole = cohort_of((4,) * 6, "adam")
    cohort = Cohort((4,), (whole.lr[1],), (0.01,), (0.0,), (0.5,), "adam", BATCH)
    population, data = Population(case.build(), case.image_shape), case.data()
    rows = torch.from_numpy(initialise_rows(population.layout, ["normal"], [4]))
    places = [number for number, op in enumerate(population.graph.ops) if op.kind == "dropout"]
    alone = train_alone(case.build(), places, cohort, 0, data, rows[0].clone())
    *_, last = train_cohort(population, cohort, data, rows, last_epoch=EPOCHS)
    torch.testing.assert_close(last.rows[0], alone[-1].row, **CLOSE)
