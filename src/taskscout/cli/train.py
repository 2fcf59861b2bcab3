"""``taskscout train``: train a target through sources, prove the gain, hand over the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from taskscout.cli.console import (
    make_workbench,
    open_pool,
    progress,
    stderr,
    stdout,
    typed_command,
    write_text,
)
from taskscout.cli.options import (
    POOL_HELP,
    READ,
    DropEmpty,
    DropRare,
    DropUnlabelled,
    Encoder,
    Encoding,
    Label,
    Layers,
    MaxLength,
    Pair,
    Pooling,
    Precision,
    SplitColumn,
    Text,
)
from taskscout.methods import DEFAULT

#: As :data:`taskscout.transfer.trials.SHORT_LIST`, which is imported when it is needed.
SHORT_LIST = 3

_SOURCES = "Sources"
_HOW = "Training"


def train(
    target: Annotated[Path, typer.Argument(help="Your dataset: CSV, TSV, JSONL, Parquet, Arrow.")],
    out: Annotated[Path, typer.Option(help="Folder for model, card and results.")],
    sources: Annotated[
        str | None,
        typer.Option(
            help="Sources, separated by commas: names from the pool or the catalogue, files, or "
            "hub:owner/name. Without them, trials on your training rows choose.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    from_ranking: Annotated[
        str | None,
        typer.Option(
            help="top1, top3, …: the first sources of a ranking, without trials.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    trial: Annotated[
        int,
        typer.Option(
            min=0,
            help="Sources tried by short runs on your training rows where none is named; 0: the "
            "forecast alone chooses.",
            rich_help_panel=_SOURCES,
        ),
    ] = SHORT_LIST,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="What turns scores into points. See: taskscout study calibrate",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="Method that ranks the sources. See: taskscout methods", rich_help_panel=_SOURCES
        ),
    ] = DEFAULT,
    pool: Annotated[str | None, typer.Option(help=POOL_HELP, rich_help_panel=_SOURCES)] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled datasets with a tasks.json; TASKSCOUT_DATA by default.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Tune sources from their data even where the pool has their adapter.",
            rich_help_panel=_SOURCES,
        ),
    ] = False,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Merge the source's adapter into the encoder, and start a new one for the target.",
            rich_help_panel=_SOURCES,
        ),
    ] = False,
    strategy: Annotated[
        str,
        typer.Option(
            help="How sources are used: none, sequential, multitask or zero_shot.",
            rich_help_panel=_HOW,
        ),
    ] = "sequential",
    tuning: Annotated[
        str,
        typer.Option(
            help="What is trained: full, lora, prompt, p-tuning-v2, bitfit or head.",
            rich_help_panel=_HOW,
        ),
    ] = "lora",
    source_tuning: Annotated[
        str | None,
        typer.Option(
            help="Tuning of sources tuned afresh; the target's by default.", rich_help_panel=_HOW
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            help="Seeds, each with one run with sources and one without.",
            rich_help_panel=_HOW,
        ),
    ] = 3,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What each run may spend: 2000 (examples) or 10m (minutes of training); where "
            "trials choose, minutes are for all of it.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=0, help="Epochs; 0 for the tuning's own.", rich_help_panel=_HOW)
    ] = 0,
    batch_size: Annotated[
        int,
        typer.Option(
            min=0, help="Examples in a batch; 0 for what fits the model.", rich_help_panel=_HOW
        ),
    ] = 0,
    learning_rate: Annotated[
        float,
        typer.Option(min=0, help="Learning rate; 0 for the tuning's own.", rich_help_panel=_HOW),
    ] = 0.0,
    early_stopping: Annotated[
        int,
        typer.Option(
            min=0,
            help="Stop after so many evaluations on the validation split without gain; 0: never.",
            rich_help_panel=_HOW,
        ),
    ] = 0,
    report_to: Annotated[
        str,
        typer.Option(help="Where Trainer logs: none, tensorboard, wandb, …", rich_help_panel=_HOW),
    ] = "none",
    metric: Annotated[
        str,
        typer.Option(
            help="Metric that decides; the usual one of the kind by default.", rich_help_panel=_HOW
        ),
    ] = "",
    source_examples: Annotated[
        int,
        typer.Option(
            min=1, help="Examples of each source tuned afresh, at most.", rich_help_panel=_HOW
        ),
    ] = 10_000,
    temperature: Annotated[
        float,
        typer.Option(
            help="multitask: T of the mixing by size^(1/T); inf for equal shares.",
            rich_help_panel=_HOW,
        ),
    ] = 1.0,
    with_target: Annotated[
        bool,
        typer.Option(
            "--with-target", help="multitask: the target is in the mix too.", rich_help_panel=_HOW
        ),
    ] = False,
    map_labels: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="zero_shot: SOURCE=TARGET, where label names differ; may be repeated.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="zero_shot for a target without labels: its label names, separated by commas.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    text: Text = None,
    pair: Pair = None,
    label: Label = None,
    task_kind: Annotated[
        str | None,
        typer.Option(
            help="The target's kind, where its columns leave it open.", rich_help_panel=READ
        ),
    ] = None,
    split_column: SplitColumn = None,
    encoding: Encoding = None,
    drop_unlabelled: DropUnlabelled = False,
    drop_empty: DropEmpty = False,
    drop_rare: DropRare = False,
    encoder: Encoder = None,
    pooling: Pooling = None,
    layers: Layers = "last",
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it exists.")
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="OWNER/NAME: put the model on the hub too, with its adapter and card."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository of --push-to-hub private.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print result.json and nothing else on stdout.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write an HTML page with pictures to this file. It holds some of your texts."
        ),
    ] = None,
) -> None:
    """Train your target through sources, with and without, and hand over the better model.

    A training that is stopped goes on where it was when the same command is given again.
    """
    from taskscout.errors import TransferError
    from taskscout.tasks import Task
    from taskscout.tasks.catalogue import Catalogue
    from taskscout.transfer import train as training
    from taskscout.transfer.recipes import recipe_for_sources, target_recipe
    from taskscout.transfer.result import Budget
    from taskscout.transfer.unlabelled import read_unlabelled

    if sources is not None and from_ranking is not None:
        raise TransferError(
            "--sources and --from-ranking were both given.",
            "Each says which sources to train through.",
            "Give one of them.",
        )
    if labels is not None and strategy != "zero_shot":
        raise TransferError(
            "--labels was given, which says that the target has no labels.",
            f"Strategy {strategy!r} trains on them.",
            "Use --strategy zero_shot, or leave --labels out.",
        )
    limits = Budget.parse(budget) if budget is not None else Budget()
    mapping = parse_mapping(map_labels or [])
    top = None if from_ranking is None else training.top_of(from_ranking)
    if labels is not None:
        task = read_unlabelled(target, _words(labels), text=text, pair=pair, encoding=encoding)
    else:
        task = Task.from_file(
            target, text=text, pair=pair, label=label, kind=task_kind,
            split_column=split_column, encoding=encoding, drop_unlabelled=drop_unlabelled,
            drop_empty=drop_empty, drop_rare=drop_rare,
        )  # fmt: skip
    console = stderr()
    with progress() as bar:
        bench = make_workbench(
            encoder, pooling, layers=layers, max_length=max_length, precision=precision, report=bar
        )
        recipe = target_recipe(
            tuning,  # type: ignore[arg-type]  # checked by Recipe
            bench.encoder,
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
            early_stopping=early_stopping, report_to=report_to, metric=metric,
        )  # fmt: skip
        result = training.train(
            task,
            sources=None if sources is None else _words(sources),
            top=top, method=method, trial=trial,
            calibration="none" if str(calibration) == "none" else calibration,
            pool=None if pool is None else open_pool(pool),
            catalogue=None if catalogue is None else Catalogue.open(catalogue),
            bench=bench,
            strategy=strategy,  # type: ignore[arg-type]  # checked by transfer
            recipe=recipe,
            source_recipe=recipe_for_sources(
                recipe,
                source_tuning,  # type: ignore[arg-type]  # checked by Recipe
                examples=source_examples,
            ),
            seeds=seeds, budget=limits, fresh=fresh, merge=merge, temperature=temperature,
            with_target=with_target, labels=mapping, out=out, overwrite=overwrite,
            command=typed_command(),
            report=lambda line: console.print(line, soft_wrap=True, markup=False),
        )  # fmt: skip
    if push_to_hub is not None:
        console.print(
            result.push_to_hub(push_to_hub, private=private), soft_wrap=True, markup=False
        )
    if report is not None:
        from taskscout.reports.training_page import training_page

        write_text(report, training_page(result, task))
    if as_json:
        typer.echo((result.folder / "result.json").read_text(encoding="utf-8"))
        return
    from taskscout.reports.transfer import show_training

    show_training(result, stdout())
    typer.echo(str(out))


def parse_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """Read SOURCE=TARGET pairs of labels.

    Raises
    ------
    TransferError
        If one has no ``=``.
    """
    from taskscout.errors import TransferError

    out = {}
    for text in (p for given in pairs for p in given.split(",")):
        source, sign, wanted = text.partition("=")
        if not sign or not source.strip() or not wanted.strip():
            raise TransferError(
                f"--map is {text!r}.",
                "It says which label of the source answers for which of the target.",
                "Write it as SOURCE=TARGET, for example neg=negative.",
            )
        out[source.strip()] = wanted.strip()
    return out


def _words(text: str) -> list[str]:
    return [w.strip() for w in text.split(",") if w.strip()]
