"""``taskscout study multitask`` and ``taskscout study zero-shot``: two studies of real transfer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskscout.cli import options
from taskscout.cli.console import make_workbench, open_pool, stderr, stdout, write_text
from taskscout.methods import DEFAULT
from taskscout.models.recipe import Recipe

if TYPE_CHECKING:
    from taskscout.tasks import Task
    from taskscout.tasks.catalogue import Catalogue

_Catalogue = Annotated[
    Path | None,
    typer.Option(help="Folder of labelled datasets with a tasks.json; TASKSCOUT_DATA by default."),
]
_Out = Annotated[
    Path,
    typer.Option(help="Folder for rows, tables and results; a study that is there is continued."),
]
_Encoder = Annotated[
    str | None, typer.Option(help="Folder or hub id; the embedded MiniLM-L6 by default.")
]
_Length = Annotated[int, typer.Option(min=8, help="Longest text in tokens.")]
_Json = Annotated[bool, typer.Option("--json", help="Print results.json and nothing else.")]


def multitask(
    targets: Annotated[
        str, typer.Option(help="Targets, separated by commas; a target is never a source.")
    ],
    out: _Out,
    sources: Annotated[
        str,
        typer.Option(
            help="Sources, separated by commas; all: every task of the catalogue that is "
            "in the pool and shares no texts with a target."
        ),
    ] = "all",
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"That chooses related subsets; may be repeated. {DEFAULT} by default."),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, help="How many sources a related or random subset has.")
    ] = 5,
    draws: Annotated[int, typer.Option(min=0, help="How many random subsets are drawn.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each target's tuning.")] = 3,
    examples: Annotated[int, typer.Option(min=1, help="Examples of each source, at most.")] = 1500,
    target_examples: Annotated[
        int, typer.Option(min=1, help="Examples of each target, at most.")
    ] = 200,
    test_examples: Annotated[int, typer.Option(min=1, help="Test rows, at most.")] = 1000,
    temperature: Annotated[
        float, typer.Option(help="T of the mixing by size^(1/T); the paper's is 1.")
    ] = 1.0,
    tuning: Annotated[
        str, typer.Option(help="What both steps train: full, lora, bitfit, …")
    ] = "lora",
    epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of both steps; 0 for the tuning's own.")
    ] = 0,
    pool: Annotated[str, typer.Option(help="A pool folder, for the methods.")] = "builtin",
    engine: options.Engine = "local",
    processes: options.Processes = 0,
    address: options.Address = None,
    catalogue: _Catalogue = None,
    encoder: _Encoder = None,
    pooling: options.Pooling = None,
    max_length: _Length = 128,
    as_json: _Json = False,
) -> None:
    """Which sources to train on together: all, a kind, related ones, random ones; and the cost.

    The study of Padmakumar et al. 2022. What is done is kept: stop it at any moment, and start it
    again.
    """
    from taskscout.engines import engine as make_engine
    from taskscout.studies.multitask import check_sizes, mixtures, orders_by, run_study, unseen

    opened = _catalogue(catalogue)
    described = open_pool(pool)
    bench = make_workbench(encoder, pooling, max_length=max_length)
    wanted = _words(targets)
    named = (
        [n for n in described.names if n in opened.entries and n not in wanted]
        if sources == "all"
        else _words(sources)
    )
    names, left_out = unseen(named, wanted, opened)
    console = stderr()
    for name, reason in left_out.items():
        console.print(f"left out: {name} {reason}", markup=False)
    tasks = {n: opened.task(n) for n in names}
    check_sizes(tasks, top)
    aims = {n: small(opened.task(n), target_examples, test_examples) for n in wanted}
    methods = _words(",".join(method or [DEFAULT]))
    related = {m: orders_by(m, tasks, aims, described, bench) for m in methods}
    planned = mixtures(tasks, wanted, related, top=top, draws=draws)
    rows = sum(len(m.targets) for m in planned) * seeds
    trainings = len({m.sources for m in planned if m.sources})
    console.print(f"{len(tasks)} sources, {trainings} trainings together, {rows} target runs")
    shared = {"tuning": tuning, "epochs": epochs, "tokens": 10**9}
    study = run_study(
        tasks, aims, bench, planned,
        recipe=Recipe(examples=examples, **shared),  # type: ignore[arg-type]  # checked by Recipe
        target_recipe=Recipe(examples=target_examples, **shared),  # type: ignore[arg-type]  # checked by Recipe
        seeds=range(seeds), temperature=temperature, folder=out,
        engine=make_engine(engine, processes=processes, address=address),
        report=lambda line: console.print(line, markup=False),
    )  # fmt: skip
    study.left_out = left_out
    _keep(out, study.to_dict(), study.markdown(), as_json)


def zero_shot(
    out: _Out,
    labels: Annotated[
        str, typer.Option(help="The label scheme: every task of the catalogue with these labels.")
    ] = "negative,positive",
    domains: Annotated[
        str | None, typer.Option(help="Tasks, separated by commas, in place of a label scheme.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Divergences that prune; may be repeated. Every divergence by default."),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Examples of each domain, at most.")] = 1000,
    test_examples: Annotated[int, typer.Option(min=1, help="Test rows, at most.")] = 500,
    tuning: Annotated[str, typer.Option(help="What is trained: full, lora, bitfit, …")] = "lora",
    epochs: Annotated[int, typer.Option(min=0, help="Epochs; 0 for the tuning's own.")] = 0,
    steps: Annotated[int, typer.Option(min=2, help="How many thresholds are tried.")] = 20,
    engine: options.Engine = "local",
    processes: options.Processes = 0,
    address: options.Address = None,
    catalogue: _Catalogue = None,
    encoder: _Encoder = None,
    pooling: options.Pooling = None,
    max_length: _Length = 128,
    as_json: _Json = False,
) -> None:
    """Do divergences say which domains need not be trained on? Time saved at equal best result.

    The study of Pugantsov & McCreadie 2023: every domain's model answers for every other domain
    without training there. What is done is kept.
    """
    from taskscout.engines import engine as make_engine
    from taskscout.methods import embedding_divergence, sample_divergence, term_divergence
    from taskscout.studies.zero_shot import domains_of, run_study

    opened = _catalogue(catalogue)
    names = _words(domains) if domains else domains_of(opened, _words(labels))
    tasks = {n: small(opened.task(n), examples, test_examples) for n in names}
    families = (term_divergence, embedding_divergence, sample_divergence)
    divergences = [name for family in families for name in family.METHODS]
    methods = _words(",".join(method)) if method else [*divergences, "vocabulary"]
    bench = make_workbench(encoder, pooling, max_length=max_length)
    console = stderr()
    console.print(f"{len(tasks)} domains, {len(methods)} divergence{'s' * (len(methods) > 1)}")

    study = run_study(
        tasks, bench, methods,
        recipe=Recipe(examples=examples, tuning=tuning, epochs=epochs, tokens=10**9),  # type: ignore[arg-type]  # checked by Recipe
        overlap=opened.overlap, folder=out,
        engine=make_engine(engine, processes=processes, address=address),
        report=lambda line: console.print(line, markup=False),
    )  # fmt: skip
    _keep(out, study.to_dict(steps=steps), study.markdown(steps=steps), as_json)


def small(task: Task, examples: int, test_examples: int) -> Task:
    """At most so many training and test rows, chosen by content; no other splits."""
    from dataclasses import replace

    task = replace(task, tables={s: task.tables[s] for s in ("train", "test") if s in task.tables})
    return task.sample(examples).sample(test_examples, split="test")


def _keep(out: Path, data: dict[str, Any], table: str, as_json: bool) -> None:
    text = json.dumps(data, indent=1) + "\n"
    write_text(out / "results.json", text)
    write_text(out / "table.md", table)
    if as_json:
        typer.echo(text, nl=False)
    else:
        stdout().print(table, markup=False, soft_wrap=True)
        typer.echo(f"{out}: results.json, table.md, rows.jsonl", err=True)


def _catalogue(folder: Path | None) -> Catalogue:
    from taskscout.tasks.catalogue import Catalogue

    return Catalogue.open(folder) if folder is not None else Catalogue.find()


def _words(text: str) -> Sequence[str]:
    return [w.strip() for w in text.split(",") if w.strip()]
