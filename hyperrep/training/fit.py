"""Train a hyper-representation on rows in memory: AdamW, one cycle, checkpoints, resume to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from tqdm import tqdm

from hyperrep.config import ScaleSection, TrainConfig, TrainingSection
from hyperrep.objectives.composite import LossParts
from hyperrep.training.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from hyperrep.training.data import FitData
from hyperrep.training.log import TrainingLog
from hyperrep.training.saved import HyperRepresentation
from hyperrep.training.step import Objective
from hyperrep.training.streams import batch_of_step
from hyperrep.weights.scaling import Scaling
from zookeeper.errors import ZooError

OnStep = Callable[[int, Mapping[str, float]], None]


class TrainingDivergedError(ZooError):
    """A loss part or the gradient is not finite; names step, part, rows and the last good checkpoint."""


def fit(
    config: TrainConfig,
    data: FitData,
    out: str | Path,
    *,
    resume: bool = True,
    progress: bool = False,
    on_step: OnStep | None = None,
) -> HyperRepresentation:
    """Train on rows in memory and save the result in a folder.

    The weights after the last step are a function of configuration and data alone: batches, views and
    queries are drawn from generators keyed by (seed, purpose, step). A run that was killed and started
    again ends with the same bits as one that was not (on the CPU, with the same number of threads).

    Parameters
    ----------
    config
        What to train. ``training.threads`` is not applied here.
    data
        Rows, and whatever the loss needs beside them.
    out
        Folder for the saved model, ``checkpoint.safetensors`` and ``log.csv``.
    resume
        Continue from the folder's checkpoint; with False it is deleted first.
    progress
        Show a bar with the parts of the loss on stderr.
    on_step
        Called after each step with the number of steps done and the logged values.

    Raises
    ------
    InputError
        If the data do not fit the configuration, or the checkpoint belongs to other data.
    TrainingDivergedError
        If a part of the loss or the gradient is not finite; the weights were not changed by that step.
    """
    data.check(config)
    settings = config.training
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
    data = data.to(settings.device)
    scaling = Scaling.fit(data.rows, data.layout, by="block" if config.standardise == "block" else "layer")
    hyper = HyperRepresentation.initialise(config, data.layout, scaling, seed=settings.seed, provenance=data.provenance)
    model = hyper.model.to(settings.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    identity = run_identity(config, data)
    done, scales = load_checkpoint(folder, model, optimizer, identity=identity)
    num_steps = settings.num_steps(len(data.rows))
    scales = scales or _loss_scales(Objective(config, hyper, data))
    hyper = replace(hyper, loss_scales=scales)
    objective = Objective(config, hyper, data, scales)
    log = TrainingLog(folder / "log.csv", steps_done=done)
    started = time.monotonic()
    with tqdm(total=num_steps, initial=done, desc=config.name, unit="step", disable=not progress) as bar:
        for step in range(done, num_steps):
            rows_of_step = batch_of_step(step, len(data.rows), settings.batch_size, settings.seed)
            lr = learning_rate(step, num_steps, settings)
            for group in optimizer.param_groups:
                group["lr"] = lr
            parts = objective.train_loss(data.rows[rows_of_step.to(data.rows.device)], step)
            values = parts.values()
            values["grad_norm"] = _backward(parts, model, optimizer, settings.clip)
            _check_finite(values, step, rows_of_step.tolist(), folder)
            optimizer.step()
            count, last = step + 1, step + 1 == num_steps
            shown = last or count % settings.log_every == 0
            if last or count % settings.evaluate_every == 0:
                values |= {f"val_{name}": value for name, value in objective.validate().items()}
                shown = True
            if shown:
                log.add(count, values, lr=lr, seconds=time.monotonic() - started)
                bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
            bar.update()
            if last or count % settings.checkpoint_every == 0:
                log.flush()
                save_checkpoint(folder, model, optimizer, step=count, identity=identity, scales=scales)
            if on_step is not None:
                on_step(count, values)
    hyper.model.eval()
    hyper.save(folder)
    return hyper


def learning_rate(step: int, num_steps: int, settings: TrainingSection) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, then half a cosine down to 0.

    >>> settings = TrainingSection(steps=100, lr=1.0, warmup=0.1)
    >>> [round(learning_rate(step, 100, settings), 3) for step in (0, 9, 54, 99)]
    [0.1, 1.0, 0.517, 0.0]
    """
    num_warm = round(settings.warmup * num_steps)
    if step < num_warm:
        return settings.lr * (step + 1) / num_warm
    share = (step - num_warm) / max(1, num_steps - num_warm)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * share))


def run_identity(config: TrainConfig, data: FitData) -> str:
    """16 hex digits over configuration, layout, train rows and queries: what a checkpoint belongs to."""
    state = xxhash.xxh3_64(f"{config.digest}:{data.layout.digest}".encode())
    for tensor in (data.rows, data.queries, *data.query_images.values()):
        if tensor is not None:
            state.update(tensor.detach().cpu().contiguous().numpy().data)
    return str(state.hexdigest())


def _loss_scales(objective: Objective) -> dict[str, float]:
    """What the parts of the loss are divided by: given, or measured on the first batch; empty for nothing."""
    scales, settings = objective.config.loss.scales, objective.config.training
    if isinstance(scales, ScaleSection):
        return scales.model_dump()
    if scales == "none":
        return {}
    rows = objective.data.rows
    first = batch_of_step(0, len(rows), settings.batch_size, settings.seed)
    return objective.measure_scales(rows[first.to(rows.device)])


def _backward(parts: LossParts, model: torch.nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> float:
    """Write the gradient, clipped to a norm (0: not at all), and return its norm before that."""
    optimizer.zero_grad(set_to_none=True)
    parts.total.backward()  # type: ignore[no-untyped-call]
    limit = clip if clip > 0 else math.inf
    return float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))


def _check_finite(values: Mapping[str, Any], step: int, rows: list[int], folder: Path) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if not bad:
        return
    parts = [name for name in bad if name not in ("total", "grad_norm")] or bad[:1]
    shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    checkpoint = folder / CHECKPOINT_NAME
    good = f"last good checkpoint: {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"
    raise TrainingDivergedError(
        f"{folder}: step {step + 1}: {' and '.join(parts)} not finite ({shown}) on train rows "
        f"{', '.join(map(str, rows[:4]))}, ...; {good}. Lower training.lr or training.clip, or raise loss.beta."
    )
