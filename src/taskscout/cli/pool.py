"""``taskscout pool``: look at pools, and make one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from taskscout.cli import options
from taskscout.cli.console import make_workbench, open_pool, progress, stderr, stdout
from taskscout.models.recipe import Recipe

pool = typer.Typer(
    help="Look at the sources of a pool, and make your own pool.", no_args_is_help=True
)

_PoolOption = Annotated[str, typer.Option("--pool", help="A pool folder.")]
_OwnPool = Annotated[Path, typer.Option("--pool", help="Folder of your pool.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]


@pool.command("list")
def list_sources(folder: _PoolOption = "builtin", as_json: _Json = False) -> None:
    """List the sources of a pool."""
    import json

    opened = open_pool(folder)
    if as_json:
        data = {"sources": [s.to_dict()["card"] for s in opened], "left_out": dict(opened.left_out)}
        typer.echo(json.dumps(data, indent=1, ensure_ascii=False))
        return
    from taskscout.reports.pools import left_out_lines, plain, pool_table
    from taskscout.reports.terminal import LICENCE_LEGEND

    console = stdout()
    console.print(pool_table(opened, console.width))
    console.print(f"\n{len(opened)} sources, tuned on {opened.encoder['model']}, "
                  f"pooling {opened.encoder['pooling']}", markup=False)  # fmt: skip
    console.print(LICENCE_LEGEND, style="dim", markup=False)
    for line in left_out_lines(opened.left_out):
        console.print(plain(f"not in the pool, {line}"), style="dim")


@pool.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a source.")],
    folder: _PoolOption = "builtin",
    as_json: _Json = False,
) -> None:
    """Show the card of one source: licence, home page, recipe, scores."""
    import json

    source = open_pool(folder).source(name)
    if as_json:
        typer.echo(json.dumps(source.to_dict(), indent=1, ensure_ascii=False))
        return
    from taskscout.reports.pools import source_table

    stdout().print(source_table(source))


@pool.command()
def add(
    file: Annotated[Path, typer.Argument(help="A labelled dataset.")],
    folder: _OwnPool,
    name: Annotated[
        str | None, typer.Option(help="Name of the source; the file's by default.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text.")] = None,
    pair: Annotated[str | None, typer.Option(help="Column of the second text.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    task_kind: Annotated[
        str | None, typer.Option(help="The task's kind, where the columns leave it open.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the data.")] = "",
    domain: Annotated[str, typer.Option(help="What the texts are, such as news or reviews.")] = "",
    encoder: Annotated[
        str | None, typer.Option(help="Folder or hub id; the pool's by default.")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="How tokens become one vector; the pool's way by default.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=10, help="Training examples; the recipe's by default.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite a source of that name.")
    ] = False,
) -> None:
    """Tune the encoder on a dataset of yours and add it to a pool as a source."""
    from dataclasses import replace as changed

    from taskscout.models.workbench import Workbench
    from taskscout.pools.build import add_source, encoder_header
    from taskscout.pools.pool import Pool
    from taskscout.tasks import Task
    from taskscout.tasks.catalogue import commercial_use

    exists = (folder / "pool.json").exists()
    settings = Pool.open(folder).encoder if exists else {}
    if encoder is None and settings:
        encoder = _model_of(dict(settings))
    task = Task.from_file(file, text=text, pair=pair, label=label, kind=task_kind, name=name)
    card = changed(
        task.card,
        licence=licence,
        commercial=commercial_use(licence, None),
        domain=domain,
        load=str(file.resolve()),
        columns={k: v for k, v in (("text", text), ("pair", pair), ("label", label)) if v},
    )
    task = changed(task, card=card)
    console = stderr()
    for note in task.notes:
        console.print(note, style="dim", markup=False)
    recipe = Recipe() if examples is None else Recipe(examples=examples)
    with progress() as report:
        chosen = make_workbench(
            encoder,
            pooling or settings.get("pooling", "mean"),
            layers=settings.get("layers", "last"),
            max_length=settings.get("max_length", 128),
            report=report,
        )
        bench = Workbench(chosen.encoder, cache=chosen.cache, recipe=recipe, progress=report)
        header = encoder_header(bench.encoder)
        opened = Pool.create(folder, encoder=header, write=False)
        add_source(opened, task, bench, replace=replace)
    source = opened.source(task.name)
    scores = source.tuning["scores"]
    text_ = "no test split, so no score" if not scores else (
        f"test score {scores['score']:.3f}, trivial baseline {scores['baseline']:.3f}")  # fmt: skip
    console.print(f"added {task.name} to {folder}: {text_}", markup=False, soft_wrap=True)


@pool.command()
def remove(
    name: Annotated[str, typer.Argument(help="Name of a source.")],
    folder: _OwnPool,
) -> None:
    """Remove a source from a pool of yours."""
    open_pool(str(folder)).remove(name)
    stderr().print(f"removed {name} from {folder}", markup=False, soft_wrap=True)


@pool.command()
def verify(folder: _PoolOption = "builtin", as_json: _Json = False) -> None:
    """Check every array, header and card of a pool against its checksum."""
    import json

    opened = open_pool(folder)
    problems = opened.verify()
    if as_json:
        typer.echo(json.dumps({"sources": len(opened), "problems": problems}, indent=1))
    elif problems:
        for problem in problems:
            stderr().print(problem, style="red", markup=False, soft_wrap=True)
    else:
        stdout().print(f"{len(opened)} sources, every checksum matches")
    if problems:
        raise typer.Exit(2)


@pool.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder of the pool; resumed if it is there.")],
    catalogue: Annotated[
        Path | None,
        typer.Option(help="Folder of tasks.json; TASKSCOUT_DATA by default."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Build only these tasks.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Sources tuned at a time.")] = 1,
    encoder: Annotated[str | None, typer.Option(help="Folder or hub id.")] = None,
    pooling: Annotated[str, typer.Option(help="mean, cls, pooler or last_token.")] = "mean",
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of LoRA; the recipe's by default.")
    ] = None,
    examples: Annotated[
        int | None,
        typer.Option(
            min=10, help="Training examples per source, at most; the recipe's by default."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=100, help="Tokens per source and epoch, at most; the recipe's by default."
        ),
    ] = None,
) -> None:
    """Build a pool from a catalogue of labelled datasets, source by source.

    A source that is there already is not built again, so a build that was stopped goes on.
    """
    from taskscout.pools.build import build_pool
    from taskscout.tasks.catalogue import Catalogue

    folder = Catalogue.open(catalogue).folder if catalogue else Catalogue.find().folder
    bench = make_workbench(encoder, pooling)
    changes = {"examples": examples, "tokens": tokens, "rank": rank}
    recipe = {k: v for k, v in changes.items() if v is not None}
    if rank is not None:
        recipe["alpha"] = 2 * rank
    console = stderr()
    build_pool(
        folder,
        out,
        encoder=bench.encoder,
        recipe=recipe,
        names=only,
        processes=processes,
        report=lambda line: console.print(line, markup=False, soft_wrap=True),
    )


@pool.command()
def describe(
    method: Annotated[
        str, typer.Option(help="Methods that shall be able to read the pool, separated by commas.")
    ],
    folder: _PoolOption = "builtin",
    out: Annotated[
        Path | None, typer.Option(help="Where to write the pool; the pool itself by default.")
    ] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="Folder of tasks.json that has the sources' data.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Describe only these sources.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Sources described at a time.")] = 1,
    engine: Annotated[
        str,
        typer.Option(
            help="Where the work runs: local (processes of this machine) or ray (a cluster)."
        ),
    ] = "local",
    address: options.Address = None,
) -> None:
    """Make the descriptions that more methods read, from the sources' data."""
    from taskscout.cli.rank import split_methods
    from taskscout.engines import engine as make_engine
    from taskscout.errors import PoolError
    from taskscout.pools.build import describe_pool
    from taskscout.pools.pool import Source
    from taskscout.tasks import Task
    from taskscout.tasks.catalogue import Catalogue

    opened = open_pool(folder)
    if out is not None:
        opened = opened.unpack(out)
    elif folder == "builtin":
        raise PoolError(
            "The built-in pool cannot be changed in place.",
            "It belongs to the installation.",
            "Say where the described pool shall be: --out FOLDER",
        )
    data = Catalogue.open(catalogue) if catalogue else None

    def task_of(source: Source) -> Task:
        if data is not None and source.name in data.names:
            return data.task(source.name)
        where = Path(source.card.load)
        if source.card.load and where.is_file():
            named: dict[str, Any] = dict(source.card.columns)
            return Task.from_file(where, kind=source.card.kind, name=source.name, **named)
        raise PoolError(
            f"The data of source {source.name!r} are not at hand.",
            "These descriptions are made from them.",
            f"Get them ({source.card.load or source.card.homepage}), "
            "or give a catalogue that has them with --catalogue.",
        )

    settings = dict(opened.encoder)
    bench = make_workbench(
        _model_of(settings),
        settings["pooling"],
        layers=settings["layers"],
        max_length=settings["max_length"],
    )

    describe_pool(
        opened,
        split_methods(method),
        task_of,
        bench,
        names=only,
        engine=make_engine(
            "here" if engine == "local" and processes == 1 else engine,
            processes=processes,
            address=address,
        ),
        report=lambda line: stderr().print(line, markup=False, soft_wrap=True),
    )


def _model_of(settings: dict[str, Any]) -> str | None:
    """The encoder of a pool, as an option would name it."""
    from taskscout.models.encoder import DEFAULT_HUB_ID

    model: str = settings["model"]
    return None if model == DEFAULT_HUB_ID else model


@pool.command()
def pack(
    folder: _OwnPool,
    out: Annotated[Path, typer.Option(help="A new folder for the packed pool.")],
) -> None:
    """Pack the sources of a pool into a new folder, one file of arrays per description."""
    from taskscout.reports.terminal import size

    packed = open_pool(str(folder)).pack(out)
    total = sum(path.stat().st_size for path in packed.folder.iterdir() if path.is_file())
    stderr().print(f"{out}: {len(packed)} sources, {size(total)}", markup=False, soft_wrap=True)
