"""The commands sample, samplers and compare-samplers. Arguments and printing only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hyperrep.cli_arguments import JsonOption, ModelArgument, ZooArgument
from zookeeper.errors import InputError

Number = Annotated[int | None, typer.Option("-n", "--num", min=1, help="How many networks; default 200.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the draw; default 0.")]
Share = Annotated[
    float | None, typer.Option(help="Share of the best train models used as anchors; default 0.3, 1 for all.")
]
Epoch = Annotated[int | None, typer.Option(min=0, help="Epoch of the anchors; default: the last.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]


def sample(
    model: ModelArgument,
    zoo: ZooArgument,
    out: Annotated[Path, typer.Option(help="Folder of the new zoo of samples.", show_default=False)],
    sampler: Annotated[
        str | None, typer.Option(help="Its name; `hyperrep samplers` lists them. Default pca-kde.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="One of its settings, such as bandwidth=0.2; repeatable.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file with all of this; other options replace what it says.")
    ] = None,
    num: Number = None,
    seed: Seed = None,
    anchor_share: Share = None,
    epoch: Epoch = None,
    align: Annotated[bool, typer.Option("--align", help="Match the anchors' hidden units first.")] = False,
    space: Annotated[str | None, typer.Option(help="latents (default) or weights.")] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Draw this many and keep the best on validation images.")
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Which draws are kept: best (default) or diverse.")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=0, help="How often kept samples become the next anchors (bootstrapping).")
    ] = None,
    keep_constant: Annotated[
        bool, typer.Option("--keep-constant", help="Keep latent dimensions that never vary, instead of refusing them.")
    ] = False,
    threads: Threads = 1,
    as_json: JsonOption = False,
) -> None:
    """Sample new networks from a density over the latents of good train models, and store them as a zoo."""
    import zookeeper
    from hyperrep.report.tables import generation_table
    from hyperrep.tasks.opening import build_examiner
    from hyperrep.tasks.recipe import Recipe, generate, load_recipe, with_changes
    from hyperrep.tasks.sampled import store_samples
    from hyperrep.training.saved import load
    from zookeeper.population.process import prepare_process

    for option, value, words in (("--space", space, ("latents", "weights")), ("--keep", keep, ("best", "diverse"))):
        _check_word(option, value, words)
    prepare_process(threads)
    chosen = with_changes(
        Recipe() if recipe is None else load_recipe(recipe),
        {
            "sampler": None if sampler is None else {"name": sampler},
            "space": space,
            "anchors.share": _share(anchor_share),
            "anchors.epoch": epoch,
            "anchors.align": align or None,
            "selection.draws": draws,
            "selection.keep": keep,
            "selection.rounds": rounds,
            "keep_constant": keep_constant or None,
            "samples": num,
            "seed": seed,
        },
    )
    chosen = with_changes(chosen, {f"sampler.{key}": value for key, value in map(_setting, settings or ())})
    description = chosen.description
    if out.exists():
        raise InputError(f"{out}: already exists. Choose another --out.")
    hyper, opened = load(model), zookeeper.open(zoo)
    result = generate(chosen, hyper, opened, build_examiner(opened))
    store_samples(out, result.rows, result.samples, opened, result.anchors, sampler=description, model=model)
    if as_json:
        _print_json({"zoo": str(out), **json.loads(result.summary.to_json(orient="records"))[0]})
    else:
        _print(generation_table(result.summary.assign(losses=hyper.config.name)))


def samplers(as_json: JsonOption = False) -> None:
    """List the samplers with their settings and defaults."""
    from hyperrep.report.tables import ReportTable
    from hyperrep.sampling import SAMPLERS, build_sampler, describe_sampler

    found = [(describe_sampler(build_sampler(name)), kind) for name, kind in SAMPLERS.items()]
    if as_json:
        _print_json([description for description, _ in found])
        return
    rows = tuple(
        (
            str(description.pop("name")),
            str(kind.__doc__).partition("\n")[0],
            " ".join(f"{key}={value}" for key, value in description.items()),
        )
        for description, kind in found
    )
    _print(ReportTable("Samplers", ("name", "what it does", "settings and defaults"), rows, "Change with --set."))


def compare_samplers(
    model: ModelArgument,
    zoo: ZooArgument,
    num: Annotated[int, typer.Option("-n", "--num", min=2, help="Networks of each sampler.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    anchor_share: Annotated[float, typer.Option(help="Share of the best train models used as anchors.")] = 0.3,
    csv: Annotated[Path | None, typer.Option(help="Write the whole table.", show_default=False)] = None,
    threads: Threads = 1,
    as_json: JsonOption = False,
) -> None:
    """Compare samplers on validation images: accuracy, diversity and novelty of each. Test images are not touched."""
    import zookeeper
    from hyperrep.report.tables import ReportTable, percent
    from hyperrep.tasks.opening import build_examiner
    from hyperrep.tasks.sampler_front import sampler_front
    from hyperrep.training.saved import load
    from zookeeper.population.process import prepare_process

    prepare_process(threads)
    opened = zookeeper.open(zoo)
    share = _share(anchor_share)
    assert share is not None
    front = sampler_front(
        load(model), opened, build_examiner(opened), num=num, seed=seed, anchor_share=share,
        say=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    if csv is not None:
        csv.parent.mkdir(parents=True, exist_ok=True)
        front.to_csv(csv, index=False)
    if as_json:
        _print_json(json.loads(front.to_json(orient="records")))
        return
    shares = {"val_acc": "mean val acc", "val_acc_std": "±", "disagreement": "differ"}
    plain = {
        "diversity": "diversity",
        "aligned_diversity": "aligned",
        "novelty": "novelty",
        "aligned_novelty": "aligned",
    }
    rows = tuple(
        (
            line["method"],
            *(percent(line[k]) for k in shares),
            *(f"{line[k]:.2f}" for k in plain),
            f"{line['seconds']:.1f}",
        )
        for line in front.to_dict("records")
    )
    _print(ReportTable("Samplers", ("", *shares.values(), *plain.values(), "seconds"), rows, "On validation images."))


COMMANDS = (sample, samplers, compare_samplers)


def _setting(text: str) -> tuple[str, Any]:
    """Key and value of ``key=value``, the value read as YAML."""
    from zookeeper.spec.document import parse_document

    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise InputError(f"--set {text}: expected key=value, such as bandwidth=0.2.")
    return key, parse_document(value, f"--set {key}").value


def _share(share: float | None) -> float | None:
    if share is not None and not 0 < share <= 1:
        raise InputError(f"--anchor-share {share}: expected a share above 0, at most 1.")
    return share


def _check_word(option: str, value: str | None, words: tuple[str, ...]) -> None:
    if value is not None and value not in words:
        raise InputError(f"{option} {value!r}: expected {' or '.join(words)}.")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


def _print(table: Any) -> None:
    table.print_to(Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160))
