"""``taskscout pool``: look at pools, and make one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from taskscout.cli import options
from taskscout.cli.console import make_workbench, open_pool, progress, stderr, stdout
from taskscout.cli.verbs import Verbs
from taskscout.models.recipe import Recipe

pool = Verbs(help="Look at the sources of a pool, and make your own pool.", no_args_is_help=True)

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
        encoder = model_of(dict(settings))
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
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the pool; resumed if it is there. By default where rankings for the "
            "model look for it."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(help="Take the sources of this pool: 'builtin', or a pool folder."),
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(help="Folder of tasks.json; TASKSCOUT_DATA by default."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Build only these, separated by commas.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --like: only so many, those that helped most targets first."
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=0, help="Sources tuned at a time; 0 for one per processor.")
    ] = 1,
    engine: Annotated[
        str,
        typer.Option(help="With --like: local (processes of this machine) or ray (a cluster)."),
    ] = "local",
    address: options.Address = None,
    encoder: Annotated[str | None, typer.Option(help="Folder or hub id.")] = None,
    pooling: options.Pooling = None,
    max_length: options.MaxLength = 128,
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
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="With --like: say what it takes, from a few measured steps, and stop.",
        ),
    ] = False,
) -> None:
    """Build a pool, source by source: of a catalogue, or for your model like another pool.

    A source that is there already is not built again, so a build that was stopped goes on.
    """
    from taskscout.engines import engine as make_engine
    from taskscout.engines import processes_available
    from taskscout.errors import PoolError
    from taskscout.models.sizing import sized_recipe
    from taskscout.pools.build import build_pool
    from taskscout.pools.like import build_like, chosen_sources
    from taskscout.pools.own import folder_for
    from taskscout.tasks.catalogue import Catalogue
    from taskscout.transfer.sources import catalogue_of_environment

    if like is None and (top is not None or dry_run or engine != "local"):
        raise PoolError(
            "--top, --dry-run and --engine were given without --like.",
            "They are for building a pool with the sources of another.",
            "Add --like builtin.",
        )
    bench = make_workbench(encoder, pooling, max_length=max_length)
    if out is None and encoder is None:
        raise PoolError(
            "The pool has no place.",
            "For the default encoder the built-in pool is what rankings look for.",
            "Name a folder with --out, or a model of yours with --encoder.",
        )
    folder = out or folder_for(bench.encoder)
    recipe = sized_recipe(bench.encoder, examples=examples, tokens=tokens, rank=rank)
    names = options.words(only) or None
    count = processes or processes_available()
    console = stderr()

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    if like is None:
        data = Catalogue.open(catalogue) if catalogue else Catalogue.find()
        build_pool(
            data.folder, folder, encoder=bench.encoder, recipe=recipe.to_dict(), names=names,
            processes=count, report=say,
        )  # fmt: skip
        return
    from taskscout.pools.estimate import disk_needed, estimate_build, require_room
    from taskscout.reports.pools import estimate_lines

    pattern = open_pool(like)
    at_hand = Catalogue.open(catalogue) if catalogue else catalogue_of_environment()
    done = open_pool(str(folder)).names if (folder / "pool.json").exists() else ()
    todo = [s for s in chosen_sources(pattern, names=names, top=top) if s.name not in done]
    if dry_run:
        estimate = estimate_build(todo, bench.encoder, recipe, catalogue=at_hand, processes=count)
        for line in estimate_lines(estimate, recipe, folder):
            stdout().print(line, markup=False, soft_wrap=True)
        require_room(folder, estimate.disk)
        return
    require_room(folder, disk_needed(len(todo), bench.encoder, recipe))
    alone = engine == "local" and count == 1
    built = build_like(
        pattern, folder, encoder=bench.encoder, recipe=recipe, names=names, top=top,
        catalogue=at_hand, report=say,
        engine=make_engine("here" if alone else engine, processes=count, address=address),
    )  # fmt: skip
    say(f"{folder}: {len(built)} sources for {bench.encoder.model_id}")


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
    from taskscout.pools.source_data import data_of
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

    settings = dict(opened.encoder)
    bench = make_workbench(
        model_of(settings),
        settings["pooling"],
        layers=settings["layers"],
        max_length=settings["max_length"],
    )

    describe_pool(
        opened,
        split_methods(method),
        lambda source: data_of(source.card, data),
        bench,
        names=only,
        engine=make_engine(
            "here" if engine == "local" and processes == 1 else engine,
            processes=processes,
            address=address,
        ),
        report=lambda line: stderr().print(line, markup=False, soft_wrap=True),
    )


def model_of(settings: dict[str, Any]) -> str | None:
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
