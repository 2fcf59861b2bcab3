"""``taskscout rank``: which sources would help a target."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from taskscout.cli.console import (
    make_workbench,
    open_pool,
    progress,
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
    NoCache,
    Pair,
    Pooling,
    Precision,
    SplitColumn,
    Text,
    words,
)
from taskscout.methods import DEFAULT

_CHOICE = "Choosing sources"


def rank(
    file: Annotated[
        Path, typer.Argument(help="Your dataset: CSV, Excel, JSON, Parquet, ...; or a folder.")
    ],
    text: Text = None,
    pair: Pair = None,
    label: Label = None,
    task_kind: Annotated[
        str | None,
        typer.Option(
            help="The task's kind, where your columns leave it open.",
            rich_help_panel=READ,
        ),
    ] = None,
    split_column: SplitColumn = None,
    encoding: Encoding = None,
    max_characters: Annotated[
        int, typer.Option(help="Longest text; longer ones are cut.", rich_help_panel=READ)
    ] = 100_000,
    no_labels: Annotated[
        bool,
        typer.Option(
            "--no-labels",
            help="Your rows have no labels: sources are judged by their cards and by what they "
            "brought elsewhere.",
            rich_help_panel=READ,
        ),
    ] = False,
    drop_unlabelled: DropUnlabelled = False,
    drop_empty: DropEmpty = False,
    drop_rare: DropRare = False,
    examples: Annotated[
        int, typer.Option(min=2, help="Rows of yours that are used, at most.", rich_help_panel=READ)
    ] = 1000,
    pool: Annotated[str | None, typer.Option(help=POOL_HELP, rich_help_panel=_CHOICE)] = None,
    method: Annotated[
        str,
        typer.Option(
            help="One method or several, separated by commas; the first orders. 'all': every one "
            "up to those that run each source's model. See: taskscout methods",
            rich_help_panel=_CHOICE,
        ),
    ] = DEFAULT,
    costly: Annotated[
        bool,
        typer.Option(
            "--costly",
            help="Let 'all' include methods that tune the encoder on your data (minutes).",
            rich_help_panel=_CHOICE,
        ),
    ] = False,
    refine: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Score the first so many again with the real source models.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Measured transfer results (Parquet or CSV), for methods that need them.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="What turns scores into points, made by: taskscout study calibrate. 'none': order "
            "by score.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    licence: Annotated[
        str,
        typer.Option(
            help="'commercial': only sources that plainly allow commercial use.",
            rich_help_panel=_CHOICE,
        ),
    ] = "any",
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only sources of this kind.", rich_help_panel=_CHOICE),
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            help="Only sources whose domain or category contains this.", rich_help_panel=_CHOICE
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave out these sources.", rich_help_panel=_CHOICE),
    ] = None,
    exclude_overlap: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Leave out sources that contain more than this share of your texts.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    encoder: Encoder = None,
    pooling: Pooling = None,
    layers: Layers = "last",
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    no_cache: NoCache = False,
    top: Annotated[int, typer.Option(min=1, help="How many sources are shown.")] = 10,
    costs: Annotated[
        bool, typer.Option("--costs", help="Also show what each method cost.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write all rows to this file.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write an HTML page with pictures to this file. It holds some of your texts."
        ),
    ] = None,
) -> None:
    """Rank real source datasets for your dataset: which one to fine-tune on first."""
    from taskscout.errors import TaskscoutError
    from taskscout.forecasting import NO_GAINS
    from taskscout.ranking import rank as rank_sources
    from taskscout.tasks import Task
    from taskscout.transfer.unlabelled import read_unlabelled

    if licence not in ("any", "commercial"):
        raise TaskscoutError(
            f"--licence is {licence!r}.",
            "It is 'any' or 'commercial'.",
            "Choose one of these.",
        )
    opened = None if pool is None else open_pool(pool)
    task = (
        read_unlabelled(file, None, text=text, pair=pair, encoding=encoding)
        if no_labels
        else (
            Task.from_file(
                file,
                text=text,
                pair=pair,
                label=label,
                kind=task_kind,
                split_column=split_column,
                encoding=encoding,
                max_characters=max_characters,
                drop_unlabelled=drop_unlabelled,
                drop_empty=drop_empty,
                drop_rare=drop_rare,
            )
        )
    )
    page = ""
    with progress() as bar:
        bench = make_workbench(
            encoder,
            pooling,
            layers=layers,
            max_length=max_length,
            precision=precision,
            no_cache=no_cache,
            report=bar,
        )
        ranking = rank_sources(
            task,
            opened,
            split_methods(method),
            bench=bench,
            grid=grid,
            refine=refine,
            costly=costly,
            examples=examples,
            commercial=licence == "commercial",
            kinds=words(kind),
            domains=words(domain),
            exclude=words(exclude),
            exclude_overlap=exclude_overlap,
            calibration=NO_GAINS if str(calibration) == NO_GAINS else calibration,
            typed=_typed(file, {
                "text": text, "pair": pair, "label": label, "task-kind": task_kind,
                "split-column": split_column, "encoding": encoding if encoding != "utf-8" else None,
                "drop-unlabelled": drop_unlabelled, "drop-empty": drop_empty,
                "drop-rare": drop_rare, "pool": pool,
                "encoder": encoder, "pooling": pooling if pooling != "mean" else None,
                "layers": layers if layers != "last" else None,
                "max-length": str(max_length) if max_length != 128 else None,
                "precision": precision if precision != "auto" else None,
            }),
        )  # fmt: skip
        if report is not None:
            from taskscout.pools.own import pool_or_hint
            from taskscout.reports.ranking_page import ranking_page
            from taskscout.transfer.sources import catalogue_of_environment

            opened, bench, _ = pool_or_hint(opened, bench)
            page = ranking_page(
                ranking, task, opened, bench, examples=examples, command=typed_command(),
                catalogue=catalogue_of_environment(),
            )  # fmt: skip
    if csv is not None:
        write_text(csv, ranking.to_csv())
    if report is not None:
        write_text(report, page)
    if as_json:
        typer.echo(ranking.to_json())
        return
    from taskscout.reports.terminal import cost_table, show_ranking

    console = stdout()
    show_ranking(ranking, console, top=top)
    if costs:
        console.print()
        console.print(cost_table(ranking))


def _typed(file: Path, options: Mapping[str, str | bool | None]) -> str:
    """A file and the options that read it, as they are typed after ``taskscout train`` too."""
    words = [str(file)]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def split_methods(text: str) -> list[str]:
    """Methods of an option, separated by commas that stand in no parentheses."""
    out, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            out.append("")
        else:
            out[-1] += letter
    return [m.strip() for m in out if m.strip()]
