"""The same training with plain `torch.nn` and `torch.optim`, one network at a time: what the engine is held against."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from zookeeper.errors import BuildError
from zookeeper.nets.parameters import load_row, row_of
from zookeeper.population import Cohort, TrainingData
from zookeeper.population.augment import PURPOSE, augment
from zookeeper.population.randomness import DropoutStream, epoch_orders, stream_keys, train_subsets


class _StreamDropout(nn.Module):
    """Dropout whose masks come from a model's stream; the k-th call of a pass is the graph's k-th dropout."""

    def __init__(self, places: list[int], seed: int, p: float, device: torch.device) -> None:
        super().__init__()
        self.places, self.p = places, torch.tensor([p], device=device)
        self.keys = stream_keys([seed], "dropout", device)
        self.step, self.calls = 0, 0

    def begin_step(self) -> None:
        """Go on to the masks of the next step."""
        self.step, self.calls = self.step + 1, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the next mask; the identity without dropout or in evaluation mode."""
        if not self.training or not bool(self.p):
            return x
        place = self.places[self.calls]
        self.calls += 1
        mask = DropoutStream(self.keys, self.step, self.p).mask(place, x.shape[0], tuple(x.shape[1:]), x.dtype)
        return x * mask[0]


def plain_optimizer(cohort: Cohort, number: int, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the `torch.optim` namesake of a cohort's optimiser for one member.

    Raises
    ------
    BuildError
        If torch has no optimiser of that name that this check knows.
    """
    lr, decay, momentum = cohort.lr[number], cohort.weight_decay[number], cohort.momentum[number]
    if cohort.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum, weight_decay=decay, nesterov=cohort.nesterov)
    if cohort.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr, weight_decay=decay, momentum=momentum)
    if cohort.optimizer == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=decay)
    if cohort.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr, weight_decay=decay)
    raise BuildError(
        f"check: no plain optimiser is known for {cohort.optimizer!r}; expected adam, adamw, rmsprop, sgd."
    )


def plain_schedule(
    cohort: Cohort, number: int, optimizer: torch.optim.Optimizer, num_steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """Return the `torch.optim.lr_scheduler` of one member's schedule over ``num_steps`` steps; None if it has none.

    Raises
    ------
    BuildError
        If torch has no schedule of that name that this check knows.
    """
    name = cohort.schedules[number] if cohort.schedules else "none"
    if name == "none":
        return None
    if name == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps)
    if name == "onecycle":
        cycles = cohort.optimizer in ("adam", "adamw") or cohort.momentum[number] != 0
        lr = cohort.lr[number]
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=num_steps, cycle_momentum=cycles)
    raise BuildError(f"check: no plain schedule is known for {name!r}; expected cosine, none, onecycle.")


def train_plainly(
    network: nn.Module,
    dropout_places: list[int],
    cohort: Cohort,
    number: int,
    data: TrainingData,
    row: torch.Tensor,
    *,
    num_epochs: int,
) -> torch.Tensor:
    """Train member ``number`` of a cohort alone by torch's own layers, loss and optimiser.

    Batches, their augmentation and dropout masks come from the member's streams, all arithmetic from torch.

    Parameters
    ----------
    network
        One network of the architecture; its dropout layers are replaced, its weights overwritten.
    dropout_places
        Numbers of the graph's dropout operations, in order of execution.
    row
        ``[P]`` weights to start from; its dtype and device are those of the training.

    Returns
    -------
    torch.Tensor
        ``[P]`` weights after ``num_epochs``.
    """
    device = row.device
    dropout = _StreamDropout(dropout_places, cohort.seeds[number], cohort.dropout[number], device)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            owner, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(owner), attribute, dropout)
    load_row(network.to(device, row.dtype), row)
    network.train()
    optimizer = plain_optimizer(cohort, number, network.parameters())
    order_key, subset_key = (stream_keys([cohort.seeds[number]], purpose, device) for purpose in ("order", "subset"))
    augment_key = stream_keys([cohort.seeds[number]], PURPOSE, device)
    train = data.indices["train"]
    if cohort.train_fraction < 1:
        train = train[train_subsets(subset_key, len(train), cohort.train_fraction)[0]]
    num_steps = cohort.num_epochs * -(-len(train) // cohort.batch_size)
    scheduler = plain_schedule(cohort, number, optimizer, num_steps)
    for epoch in range(1, num_epochs + 1):
        order = train[epoch_orders(order_key, epoch, len(train))[0]]
        for batch in torch.split(order, cohort.batch_size):
            dropout.begin_step()
            optimizer.zero_grad()
            pixels = data.images[batch]
            if data.augment.changes_images:
                pixels = augment(pixels, augment_key, dropout.step, data.augment)[0]
            logits = network(data.normalise(pixels, row.dtype))
            torch.autograd.backward(F.cross_entropy(logits, data.labels[batch]))
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return row_of(network)
