"""Commands for the tasks: probe, rank, finetune, ensemble, audit, decode. Arguments and printing only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hyperrep.cli_arguments import EpochOption, JsonOption, ModelArgument, ZooArgument, open_pair
from zookeeper.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SamplesArgument = Annotated[
    Path, typer.Argument(help="Zoo of samples from it, as `hyperrep sample` writes.", show_default=False)
]
FigureOption = Annotated[
    Path | None, typer.Option("--figure", help="Write a figure: .png, .pdf or .svg.", show_default=False)
]
TableOption = Annotated[Path | None, typer.Option("--csv", help="Write the whole table.", show_default=False)]
SeedOption = Annotated[int, typer.Option(help="Seed.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads of torch.")]


def probe(
    model: ModelArgument,
    zoo: ZooArgument,
    split: Annotated[
        list[str] | None,
        typer.Option(help="stored, model (the papers'), configuration, or factors such as lr or lr+init; repeatable."),
    ] = None,
    split_seeds: Annotated[int, typer.Option(min=1, help="Draws of every split that is not the stored one.")] = 3,
    epoch: EpochOption = None,
    untrained: Annotated[int, typer.Option(help="How many untrained encoders stand beside.")] = 3,
    umap: Annotated[bool, typer.Option("--umap", help="UMAP among the baselines (needs umap-learn).")] = False,
    class_f1: Annotated[bool, typer.Option("--class-f1", help="Probe the F1 of each class too.")] = False,
    csv: TableOption = None,
    figure: FigureOption = None,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Probe the embedding beside W, s(W), PCA and untrained encoders, on any split of the zoo's models."""
    from hyperrep.report.task_figures import split_scores
    from hyperrep.tasks.class_scores import add_class_f1
    from hyperrep.tasks.opening import build_examiner, read_split
    from hyperrep.tasks.probe_splits import probe_on_splits, summarise_probes
    from hyperrep.tasks.regroup import STORED, SplitScheme
    from hyperrep.tasks.split import ROLES

    hyper, opened, epochs = _open(model, zoo, epoch, threads)
    splits = {role: read_split(opened, role, epochs) for role in ROLES}
    if class_f1:
        examiner = build_examiner(opened)
        splits = {role: add_class_f1(part, examiner) for role, part in splits.items()}
    schemes = [SplitScheme(by, seed) for by in split or [STORED] for seed in range(1 if by == STORED else split_seeds)]
    scores = probe_on_splits(splits, _feature_sets(hyper, opened, untrained, umap=umap), schemes)
    summary = summarise_probes(scores)
    _emit(
        {"probes": scores},
        {"Linear probes": _wide(summary, ["split", "features"], "property", "value", "spread")},
        csv=csv,
        figure=figure,
        draw=lambda: split_scores(summary, label="test_acc", highlight=[hyper.config.name]),
        as_json=as_json,
    )


def rank(
    model: ModelArgument,
    zoo: ZooArgument,
    other: Annotated[list[Path], typer.Argument(help="Zoos whose models are ranked.", show_default=False)],
    epoch: EpochOption = None,
    untrained: Annotated[int, typer.Option(help="How many untrained encoders stand beside.")] = 3,
    csv: TableOption = None,
    figure: FigureOption = None,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Fit probes on one zoo and rank the test models of others: Kendall's tau beside its ceiling."""
    import zookeeper
    from hyperrep.report.task_figures import rank_scores
    from hyperrep.tasks.opening import read_split
    from hyperrep.tasks.ranking import probe_out_of_zoo
    from hyperrep.tasks.split import ROLES

    hyper, opened, epochs = _open(model, zoo, epoch, threads)
    splits = {role: read_split(opened, role, epochs) for role in ROLES}
    targets = {}
    for path in other:
        target = zookeeper.open(path)
        _check_layout(hyper, target)
        targets[target.header.name if target.header.name not in targets else str(path)] = read_split(
            target, "test", epochs
        )
    table = probe_out_of_zoo(splits, targets, _feature_sets(hyper, opened, untrained, umap=False))
    _emit(
        {"ranks": table},
        {"Kendall's tau": _wide(table.assign(none=float("nan")), ["property", "features"], "zoo", "tau", "none")},
        csv=csv,
        figure=figure,
        draw=lambda: rank_scores(table, label="test_acc", highlight=[hyper.config.name]),
        as_json=as_json,
    )


def finetune(
    zoo: ZooArgument,
    samples: SamplesArgument,
    epochs: Annotated[str, typer.Option(help="Epochs after which networks are measured.")] = "0,1,5,25,50",
    num: Annotated[int | None, typer.Option("-n", "--num", help="Use this many samples; default: all.")] = None,
    images: Annotated[str | None, typer.Option(help="Transfer to this image set, resized to the zoo's.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Move the weights that fit into this architecture; the rest is drawn anew.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Default: that of the best train model on validation.")] = None,
    train_fraction: Annotated[float, typer.Option(help="Share of the training images that each network sees.")] = 1.0,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of a zoo of the results.", show_default=False)] = None,
    csv: TableOption = None,
    figure: FigureOption = None,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune samples beside pre-trained and untrained networks, all in one stacked run."""
    from hyperrep.report.task_figures import fine_tuning_curves
    from hyperrep.tasks.finetune import (
        FineTuneSettings,
        fine_tune,
        starting_rows,
        store_fine_tuned,
        summarise_fine_tuning,
    )  # fmt: skip
    from hyperrep.tasks.origins import find_anchors, read_samples
    from hyperrep.tasks.split import select_on_validation
    from hyperrep.tasks.targets import choose_target, move_starts

    opened, sampled = _open_samples(zoo, samples, threads)
    anchors = find_anchors(sampled, opened)
    best = anchors.checkpoints.frame.iloc[select_on_validation(anchors.checkpoints.frame)]
    changed: dict[str, Any] = {"epochs": _epochs(epochs), "seed": seed, "train_fraction": train_fraction}
    settings = FineTuneSettings.of_model(best, **changed, **({} if lr is None else {"lr": lr}))
    starts = starting_rows(read_samples(sampled, opened, num), anchors, opened.layout, settings)
    target = choose_target(opened, images=images, architecture=architecture)
    starts = move_starts(starts, opened.layout, target, str(best.get("init", "kaiming_uniform")), settings)
    tuned = fine_tune(target.population, target.data, starts, settings)
    if out is not None:
        store_fine_tuned(
            out, tuned, opened, settings, image=target.image, layout=target.population.layout,
            samples=str(samples), architecture=target.architecture,
        )  # fmt: skip
    summary = summarise_fine_tuning(tuned.frame)
    _emit(
        {"summary": summary, "networks": tuned.frame},
        {"Fine-tuning: test accuracy": _wide(summary, ["start"], "epoch", "test_acc", "test_acc_std")},
        csv=csv,
        figure=figure,
        draw=lambda: fine_tuning_curves(summary),
        as_json=as_json,
    )


def ensemble(
    zoo: ZooArgument,
    samples: SamplesArgument,
    size: Annotated[int, typer.Option(min=1, help="Most networks in an ensemble.")] = 15,
    draws: Annotated[int, typer.Option(min=1, help="How many random ensembles are averaged.")] = 15,
    seed: SeedOption = 0,
    csv: TableOption = None,
    figure: FigureOption = None,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Test ensembles of 1 to SIZE samples and anchors: the best on validation images, and random ones."""
    from hyperrep.report.task_figures import ensemble_curves
    from hyperrep.tasks.ensemble import compare_ensembles
    from hyperrep.tasks.opening import build_examiner
    from hyperrep.tasks.origins import find_anchors, read_samples

    opened, sampled = _open_samples(zoo, samples, threads)
    kinds = {
        "samples": read_samples(sampled, opened),
        "anchors": find_anchors(sampled, opened).checkpoints.rows,
    }
    table = compare_ensembles(kinds, build_examiner(opened), size=size, num_drawn=draws, seed=seed)
    shown = table[table["size"].isin({1, 2, 3, 5, 10, int(table["size"].max())})]
    _emit(
        {"ensembles": table},
        {"Ensembles: test accuracy": _wide(shown, ["networks", "rule"], "size", "test_acc", "test_acc_std")},
        csv=csv,
        figure=figure,
        draw=lambda: ensemble_curves(table),
        as_json=as_json,
    )


def audit(
    zoo: ZooArgument,
    samples: SamplesArgument,
    epoch: Annotated[
        list[int] | None, typer.Option("--epoch", help="Training models of this epoch; repeatable.")
    ] = None,
    unaligned: Annotated[bool, typer.Option("--unaligned", help="Do not match hidden units.")] = False,
    seed: SeedOption = 0,
    csv: TableOption = None,
    figure: FigureOption = None,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Ask how new samples are: beside noise and averages at equal distance from the training models, and how diverse.

    Training models are those the hyper-representation was trained on, unless --epoch says otherwise.
    """
    from hyperrep.report.task_figures import novelty_audit
    from hyperrep.tasks.diversity import compare_diversity
    from hyperrep.tasks.nearest import TrainingModels
    from hyperrep.tasks.novelty import audit_novelty, summarise_novelty
    from hyperrep.tasks.opening import build_examiner, read_split
    from hyperrep.tasks.origins import find_anchors, known_epochs, read_samples
    from hyperrep.tasks.targets import symmetry_of

    opened, sampled = _open_samples(zoo, samples, threads)
    anchors, rows, examiner = find_anchors(sampled, opened), read_samples(sampled, opened), build_examiner(opened)
    models = read_split(opened, "train", epoch or known_epochs(sampled, opened))
    training = TrainingModels(models, None if unaligned else symmetry_of(opened), seed=seed)
    table = audit_novelty(rows, anchors, training, examiner, seed=seed)
    kinds = {"anchors": anchors.checkpoints.rows, "samples": rows}
    diversity, summary = compare_diversity(kinds, examiner), summarise_novelty(table)
    _emit(
        {"novelty": summary, "diversity": diversity, "networks": table},
        {
            "Novelty": _shown(summary, ("networks", "distance", "test_acc", "error_overlap", "max_error_overlap",
                                        "lead", "lead_low", "lead_high", "lead_all", "reached")),
            "Diversity": _shown(diversity, ("networks", "num", "weights", "weights_ratio", "outputs_ratio",
                                            "disagreement_ratio")),
        },
        csv=csv,
        figure=figure,
        draw=lambda: novelty_audit(table),
        as_json=as_json,
    )  # fmt: skip


def decode(
    model: ModelArgument,
    zoo: Annotated[Path, typer.Argument(help="A zoo it was not trained on.", show_default=False)],
    epoch: Annotated[int | None, typer.Option(help="Epoch of the models; default: the last.")] = None,
    num: Annotated[int, typer.Option("-n", "--num", help="How many networks to sample.")] = 100,
    untrained: Annotated[int, typer.Option(min=0, help="How many untrained autoencoders stand beside.")] = 1,
    seed: SeedOption = 0,
    csv: TableOption = None,
    figure: FigureOption = None,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Decode the embeddings of another zoo's models, and sample from those of its good train models."""
    import numpy as np

    from hyperrep.report.task_figures import other_zoo_bars
    from hyperrep.sampling import PcaKde
    from hyperrep.tasks.generate import Anchors, sample_rows
    from hyperrep.tasks.opening import build_examiner, read_split
    from hyperrep.tasks.other_zoo import decode_other_zoo
    from hyperrep.tasks.split import Role, ZooSplit

    hyper, opened, _ = _open(model, zoo, None, threads)
    last = opened.split("train").epochs[-1] if epoch is None else epoch
    splits: dict[Role, ZooSplit] = {role: read_split(opened, role, [last]) for role in ("train", "test")}
    anchors = Anchors.select(splits["train"])
    density = PcaKde(min(32, len(anchors) - 1))
    sampled = sample_rows(hyper, anchors, density, num, np.random.default_rng(seed))
    autoencoders = {hyper.config.name: hyper}
    autoencoders |= {f"untrained autoencoder {number}": hyper.untrained(number) for number in range(untrained)}
    table = decode_other_zoo(
        autoencoders, splits, build_examiner(opened), samples={"sampled from its anchors": sampled}
    )
    columns = (
        "networks",
        "num",
        "test_acc",
        "test_acc_std",
        "selected_test_acc",
        "ensemble_test_acc",
        "agreement",
        "l2",
    )
    _emit(
        {"networks": table},
        {"Networks of another zoo": _shown(table, columns)},
        csv=csv,
        figure=figure,
        draw=lambda: other_zoo_bars(table),
        as_json=as_json,
    )


COMMANDS: tuple[Callable[..., None], ...] = (probe, rank, finetune, ensemble, audit, decode)


def _open(model: Path, zoo: Path, epochs: list[int] | None, threads: int) -> Any:
    from zookeeper.population.process import prepare_process

    prepare_process(threads)
    return open_pair(model, zoo, epochs)


def _check_layout(hyper: Any, zoo: Any) -> None:
    if hyper.layout.digest != zoo.layout.digest:
        raise InputError(
            f"{zoo.path}: its networks have {zoo.layout.num_weights:,} weights; expected the architecture that the "
            f"hyper-representation was trained on ({hyper.layout.num_weights:,} weights). Choose another zoo."
        )


def _open_samples(zoo: Path, samples: Path, threads: int) -> Any:
    import zookeeper
    from zookeeper.population.process import prepare_process

    prepare_process(threads)
    return zookeeper.open(zoo), zookeeper.open(samples)


def _feature_sets(hyper: Any, zoo: Any, untrained: int, *, umap: bool) -> Any:
    from hyperrep.baselines.projections import PROJECTIONS
    from hyperrep.tasks.features import feature_sets

    projections = PROJECTIONS if umap else PROJECTIONS[:-1]
    return feature_sets(
        zoo.layout, hyper, name=hyper.config.name, untrained_seeds=range(untrained), projections=projections
    )


def _epochs(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--epochs {text!r}: expected numbers with commas between them, such as 0,1,5.") from None


def _wide(frame: pd.DataFrame, index: list[str], columns: str, value: str, spread: str) -> Any:
    """A printed table: one line per index, one column per value of ``columns``, the spread behind ±."""
    wide = frame.pivot(index=index, columns=columns, values=[value, spread])
    order = list(dict.fromkeys(frame[columns]))
    keys = list(dict.fromkeys(frame[index].itertuples(index=False, name=None)))
    lines = []
    for key in keys:
        line = wide.loc[key if len(index) > 1 else key[0]]
        cells = [_number(line[value, name], line[spread, name]) for name in order]
        lines.append((*map(str, key), *cells))
    return (*index, *(str(name) for name in order)), tuple(lines)


def _shown(frame: pd.DataFrame, columns: Sequence[str]) -> Any:
    lines = [tuple(cell if isinstance(cell, str) else _number(cell) for cell in line)
             for line in frame[list(columns)].itertuples(index=False, name=None)]  # fmt: skip
    return tuple(columns), tuple(lines)


def _number(value: float, spread: float = float("nan")) -> str:
    if value != value:
        return "-"
    text = f"{value:,d}" if isinstance(value, int) else f"{value:.3f}"
    return text if spread != spread or spread == 0 else f"{text} ± {spread:.3f}"


def _emit(
    frames: Mapping[str, pd.DataFrame],
    tables: Mapping[str, Any],
    *,
    csv: Path | None,
    figure: Path | None,
    draw: Callable[[], Figure],
    as_json: bool,
) -> None:
    """Write what was asked for, and print: JSON of all frames, or the tables for people."""
    from hyperrep.report.tables import ReportTable
    from zookeeper.report.style import save_figure

    if csv is not None:
        csv.parent.mkdir(parents=True, exist_ok=True)
        list(frames.values())[-1].to_csv(csv, index=False)
    if figure is not None:
        if figure.suffix not in (".png", ".pdf", ".svg"):
            raise InputError(f"--figure {figure}: unknown kind of file; expected .png, .pdf or .svg.")
        figure.parent.mkdir(parents=True, exist_ok=True)
        save_figure(draw(), figure)
    if as_json:
        typer.echo(json.dumps({name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}))
        return
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    for title, (head, lines) in tables.items():
        ReportTable(title, head, lines).print_to(console)
