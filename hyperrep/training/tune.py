"""Search over trainings with Ray Tune: grids, random draws, trials that fall behind are stopped.

Ray decides which trial runs when and which is stopped; what a trial is, its results and its state are plain files of
ours, so an interrupted search goes on with the same command and another release of Ray.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hyperrep.config import TrainConfig
from hyperrep.config.tune import TuneConfig, load_tune, tune_digest
from hyperrep.training.trial import Trial, saved_row, trial_folder
from zookeeper.build.ray import quiet_ray
from zookeeper.build.workers import Workers
from zookeeper.errors import BuildError, InputError
from zookeeper.store.files import write_durable

RESULTS_NAME = "results.csv"


def tune(source: str | Path, zoo: str | Path | None = None, out: str | Path | None = None) -> pd.DataFrame:
    """Run every trial of a search, or what is missing of it, and write down the results.

    The folder gets ``results.csv`` and ``results.parquet`` (the returned frame), ``best.yaml`` (the training of the
    best trial, to be given to ``hyperrep train``) and ``trials/NNN``, each with its log and, unless it was stopped,
    its hyper-representation. The best trial is chosen by the metric on validation models, measured with the weights
    that are saved.

    Parameters
    ----------
    source
        YAML file, or the name of a packaged search.
    zoo
        Folder of the zoo, instead of the one in the search or in the training it changes.
    out
        Folder to write; by default ``data/tune/NAME``.

    Returns
    -------
    pd.DataFrame
        One row per trial, best first: number, the keys that vary, ``status`` (``done``, ``stopped`` by the scheduler,
        ``diverged``, ``failed``), steps, seconds of training, all validation values, folder.

    Raises
    ------
    InputError
        If the search is not valid, there is no zoo, Ray is not installed, or the folder holds another search.
    BuildError
        If no trial came to an evaluation.
    """
    settings, trials = load_tune(source)
    zoo_path = zoo or settings.zoo or trials[0].zoo
    if zoo_path is None:
        raise InputError(f"{source}: names no zoo. Add `zoo: PATH` or pass --zoo.")
    folder = Path("data/tune") / settings.name if out is None else Path(out)
    finished = _claim(folder, tune_digest(settings, trials) + f" {Path(zoo_path).resolve()}")
    if finished:
        return pd.read_csv(folder / RESULTS_NAME)
    statuses = _run(str(source), settings, len(trials), str(Path(zoo_path).resolve()), folder.resolve())
    frame = collect(settings, statuses, folder)
    best = dict(frame.iloc[0])
    text = training_yaml(trials[int(best["trial"])], str(zoo_path), best, settings)
    write_durable(folder / "best.yaml", text.encode())
    frame.to_parquet(folder / "results.parquet", index=False)
    write_durable(folder / RESULTS_NAME, frame.to_csv(index=False).encode())
    return frame


def collect(settings: TuneConfig, statuses: Mapping[int, str], folder: Path) -> pd.DataFrame:
    """Bring what the trials logged into one frame, the best trial first.

    Raises
    ------
    BuildError
        If no trial came to an evaluation.
    """
    records = []
    for number, changes in enumerate(settings.trials):
        place = trial_folder(folder, number)
        status = statuses.get(number, "failed")
        record = {"trial": number, **changes, "status": status.partition(":")[0]}
        if (place / "log.csv").exists() and status in ("done", "stopped"):
            row = saved_row(place)
            kept = {name: value for name, value in row.items() if name in ("step", "seconds") or name[:4] == "val_"}
            record |= kept | {"step": int(row["step"])}
        records.append(record | {"folder": str(place)})
    frame = pd.DataFrame.from_records(records)
    metric = f"val_{settings.metric}"
    if metric not in frame or not frame[metric].notna().any():
        reasons = "; ".join(sorted(set(statuses.values()))) or "none was started"
        raise BuildError(f"{folder}: no trial came to an evaluation ({reasons}).")
    return frame.sort_values(metric, ascending=settings.mode == "min", na_position="last", ignore_index=True)


def training_yaml(config: TrainConfig, zoo: str, result: Mapping[str, Any], settings: TuneConfig) -> str:
    """Write a training as YAML that `hyperrep.config.load_config` reads back; flow style is JSON."""
    value = config.to_json() | {"zoo": zoo}
    head = (
        f"# Best of {len(settings.trials)} trials of {settings.name}: val_{settings.metric} "
        f"{result[f'val_{settings.metric}']:.6g} at step {int(result['step'])} (trial {int(result['trial'])}).\n"
    )
    return head + "".join(f"{key}: {json.dumps(part)}\n" for key, part in value.items())


def _claim(folder: Path, identity: str) -> bool:
    """Note whose search this folder is; whether it is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "tune.json"
    if note.exists() and json.loads(note.read_text()).get("identity") != identity:
        raise InputError(f"{folder}: holds another search, or one of another zoo. Choose another folder with --out.")
    write_durable(note, (json.dumps({"identity": identity}) + "\n").encode())
    return (folder / RESULTS_NAME).exists()


def _run(source: str, settings: TuneConfig, num: int, zoo: str, out: Path) -> dict[int, str]:
    """Let Ray run the trials; how each of them ended, by number."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("hyperrep tune: needs Ray. Install it with pip install 'ray[tune]'.")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    workers = Workers(num_workers=settings.workers, backend="ray", num_cpus=settings.cpus, num_gpus=settings.gpus)
    with quiet_ray(workers), tempfile.TemporaryDirectory() as scratch:
        from ray import tune as ray_tune
        from ray.tune.schedulers import ASHAScheduler

        trainable = ray_tune.with_resources(_trainable(ray_tune), {"cpu": settings.cpus, "gpu": settings.gpus})
        scheduler = None
        if settings.asha is not None:
            scheduler = ASHAScheduler(
                time_attr="training_iteration",
                max_t=10**9,
                grace_period=settings.asha.grace,
                reduction_factor=settings.asha.reduction,
            )
        tuner = ray_tune.Tuner(
            trainable,
            param_space={
                "number": ray_tune.grid_search(list(range(num))),
                "search": (str(Path(source).resolve()) if Path(source).is_file() else source, zoo, str(out)),
            },
            tune_config=ray_tune.TuneConfig(
                metric="value",
                mode=settings.mode,
                scheduler=scheduler,
                max_concurrent_trials=settings.workers,
                reuse_actors=True,
            ),
            run_config=ray_tune.RunConfig(storage_path=scratch, name="tune", verbose=0),
        )
        return _statuses(tuner.fit())


def _statuses(results: Any) -> dict[int, str]:
    statuses = {}
    for result in results:
        number = int(result.config["number"])
        if result.error is not None:
            statuses[number] = f"failed: {str(result.error).strip().splitlines()[-1]}"
        else:
            status = str(result.metrics["status"])
            statuses[number] = "stopped" if status == "running" else status
    return statuses


def _trainable(ray_tune: Any) -> type:
    """The class that Ray drives; its work is `Trial`."""

    class TrialTrainable(ray_tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            source, zoo, out = config["search"]
            self.trial = Trial(source, config["number"], zoo, out)

        def step(self) -> dict[str, Any]:
            return self.trial.advance()

        def save_checkpoint(self, folder: str) -> dict[str, Any]:
            return {}  # the trial's own folder holds its state

        def load_checkpoint(self, state: Any) -> None:
            pass

        def reset_config(self, config: dict[str, Any]) -> bool:
            self.trial.close()
            self.setup(config)
            return True

        def cleanup(self) -> None:
            self.trial.close()

    return TrialTrainable
