"""``taskscout study``: hold methods against real transfer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskscout.cli.console import (
    make_workbench,
    open_pool,
    progress,
    stderr,
    stdout,
    write_text,
)
from taskscout.cli.options import Encoder, MaxLength, NoCache, Pooling
from taskscout.cli.verbs import Verbs
from taskscout.methods import DEFAULT

if TYPE_CHECKING:
    from taskscout.methods.gains import Gains
    from taskscout.tasks.catalogue import Catalogue

study = Verbs(help="Hold methods against a grid of real transfer.", no_args_is_help=True)

_GRID = "The grid"
_METHODS = "Methods and their material"
#: Methods that read what every pool or catalogue has, and take no training.
DEFAULT_METHODS = (
    "esm-logme,esm-linear-probe,nearest-example,sentence-embedding,text-embedding,"
    "embeddings-frechet,vocabulary,terms-jensen-shannon,size,format"
)


_Table = Annotated[
    Path, typer.Argument(help="Long table of runs (Parquet or CSV), as for: taskscout study run")
]
_Where = Annotated[
    list[str] | None,
    typer.Option(
        help="Only runs with this value: strategy=sequential. Repeatable.", rich_help_panel=_GRID
    ),
]
_Column = Annotated[
    list[str] | None,
    typer.Option(
        help="What this table calls a column: score=accuracy. Repeatable.", rich_help_panel=_GRID
    ),
]
_None = Annotated[
    str, typer.Option(help="What it calls the source of target-only runs.", rich_help_panel=_GRID)
]
_Unit = Annotated[
    str,
    typer.Option(help="Unit of the scores: auto, fraction or percent.", rich_help_panel=_GRID),
]


def _read_gains(
    grid: Path, where: Mapping[str, str], columns: Mapping[str, str], none: str, unit: str
) -> Gains:
    """Read the gains of a long table, by the options that all verbs on grids have."""
    from taskscout.errors import StudyError
    from taskscout.studies.published import read_runs

    if unit not in ("auto", "fraction", "percent"):
        raise StudyError(
            f"--unit is {unit!r}.", "It is auto, fraction or percent.", "Choose one of these."
        )
    return read_runs(grid, columns=columns, none=none, where=where, unit=unit)  # type: ignore[arg-type]  # checked above


@study.command()
def run(
    grid: Annotated[
        Path,
        typer.Argument(
            help="Long table of runs (Parquet or CSV): source, target, score, seed; source 'none' "
            "is training on the target alone."
        ),
    ],
    where: _Where = None,
    column: _Column = None,
    none: _None = "none",
    unit: _Unit = "auto",
    exclude_overlap: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Leave out pairs whose source holds more than this share of the target's texts.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="One or several, separated by commas; 'all' for every method that is not made "
            f"of others. By default {DEFAULT_METHODS}.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(
            help="Ready-made scores: a table of method, target, source, score.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(
            help="Folder of tasks.json that has the tasks' data; TASKSCOUT_DATA by default.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    pool: Annotated[
        str,
        typer.Option(
            help="A pool folder that has descriptions of sources, 'builtin' or 'none'.",
            rich_help_panel=_METHODS,
        ),
    ] = "builtin",
    rename: Annotated[
        list[str] | None,
        typer.Option(
            help="A task's name in the catalogue, where it differs: squad_v2=squad_v2_sample.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Rows of each target that methods see, 0 for all; by default what the grid's "
            "column 'size' says, else 1,000.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Allow methods that tune the encoder, and tune sources that the pool lacks.",
            rich_help_panel=_METHODS,
        ),
    ] = False,
    encoder: Encoder = None,
    pooling: Pooling = None,
    max_length: MaxLength = 128,
    no_cache: NoCache = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="One or several, separated by commas. See: taskscout study metrics"),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Metric that orders and compares the methods; the first by default."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the tables, the HTML report and the Markdown table."),
    ] = None,
    title: Annotated[
        str, typer.Option(help="Title of the report.")
    ] = "Methods against real transfer",
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")
    ] = False,
) -> None:
    """Score methods against a grid: quality, cost, consistency, and which differences are real."""
    from taskscout.cli.rank import split_methods
    from taskscout.errors import StudyError
    from taskscout.studies.comparison import compare
    from taskscout.studies.metrics import DEFAULT_METRICS, get_metric
    from taskscout.studies.predictions import (
        Asked,
        Materials,
        predict,
        target_sizes,
        without_shared_texts,
    )
    from taskscout.studies.published import read_predictions

    chosen = _pairs(where, "--where")
    columns = _pairs(column, "--column")
    metrics = [m for text in metric or () for m in split_methods(text)] or list(DEFAULT_METRICS)
    for name in (*metrics, *([by] if by else [])):
        get_metric(name)
    gains = _read_gains(grid, chosen, columns, none, unit)
    data = _catalogue(catalogue)
    notes: list[str] = []
    if exclude_overlap is not None:
        if data is None:
            raise StudyError(
                "--exclude-overlap was given without a catalogue.",
                "It says which tasks share texts.",
                "Give it: --catalogue DIR, or TASKSCOUT_DATA.",
            )
        gains, dropped = without_shared_texts(gains, data, exclude_overlap)
        notes.append(
            f"{dropped} pairs are left out: their source holds more than {exclude_overlap:.0%} of "
            "the target's texts"
        )
    asked = Asked((), (), float("nan"))
    texts = [m for text in method or () for m in split_methods(text)]
    if not texts and not predictions:
        texts = split_methods(DEFAULT_METHODS)
    if texts:
        rows = target_sizes(grid, chosen, columns=columns) if size is None else {}
        materials = Materials(
            catalogue=data,
            pool=None if pool == "none" else open_pool(pool),
            sizes=rows,
            default_size=1000 if size is None else size,
            names=_pairs(rename, "--rename"),
            tune=tune,
        )
        with progress() as report:
            bench = make_workbench(
                encoder, pooling, max_length=max_length, no_cache=no_cache, report=report
            )
            asked = predict(gains, texts, materials, bench, progress=report)
    ready = [p for path in predictions or () for p in read_predictions(path, gains)]
    comparison = compare(
        gains,
        (*asked.predicted, *ready),
        metrics=metrics,
        by=by,
        title=title,
        notes=(*notes, *asked.notes),
        embedding_seconds=asked.embedding_seconds,
        settings={"grid": grid.name, **chosen},
        seed=seed,
    )
    if out is not None:
        from taskscout.reports.html import study_page
        from taskscout.reports.studies import markdown_table
        from taskscout.studies.comparison_files import write_comparison

        write_comparison(comparison, out)
        write_text(out / "report.html", study_page(comparison))
        write_text(out / "table.md", markdown_table(comparison))
    if as_json:
        typer.echo(json.dumps(comparison.to_dict(), indent=1))
        return
    from taskscout.reports.studies import show_comparison

    show_comparison(comparison, stdout())
    if out is not None:
        stderr().print(f"written to {out}: report.html, table.md, study.json and tables")


@study.command()
def calibrate(
    grid: _Table,
    out: Annotated[
        Path,
        typer.Option(
            help="The calibration; in POOL/calibrations/NAME.safetensors rank finds it itself."
        ),
    ],
    where: _Where = None,
    column: _Column = None,
    none: _None = "none",
    unit: _Unit = "auto",
    method: Annotated[
        str,
        typer.Option(
            help="Whose scores are read; several, separated by commas; 'cards' for none.",
            rich_help_panel=_METHODS,
        ),
    ] = DEFAULT,
    catalogue: Annotated[
        Path | None,
        typer.Option(
            help="Folder of tasks.json that has the targets' data; TASKSCOUT_DATA by default.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    pool: Annotated[
        str,
        typer.Option(help="A pool that has descriptions of the sources.", rich_help_panel=_METHODS),
    ] = "builtin",
    size: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Rows of each target that training saw, 0 for all; by default what the grid's "
            "column 'size' says, else 1,000.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    encoder: Encoder = None,
    pooling: Pooling = "mean",
    max_length: MaxLength = 128,
    no_cache: NoCache = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")
    ] = False,
) -> None:
    """Fit what turns scores into points: rank then shows gains, and gives advice."""
    from taskscout.cli.rank import split_methods
    from taskscout.methods.gains import read_table
    from taskscout.reports.studies import show_calibration
    from taskscout.studies import calibration as fit
    from taskscout.studies.predictions import Materials, target_sizes

    chosen, columns = _pairs(where, "--where"), _pairs(column, "--column")
    gains = _read_gains(grid, chosen, columns, none, unit)
    rows = target_sizes(grid, chosen, columns=columns) if size is None else {}
    size = size if size is not None else next(iter(rows.values()), 1000)
    methods = [] if method == "cards" else split_methods(method)
    opened = None if pool == "none" else open_pool(pool)
    with progress() as report:
        bench = make_workbench(
            encoder, pooling, max_length=max_length, no_cache=no_cache, report=report
        )
        materials = Materials(_catalogue(catalogue), opened, sizes=rows, default_size=size)
        evidence, notes = fit.gather(gains, methods, materials, bench, progress=report)
    setting = fit.setting_of(read_table(grid), chosen, evidence, bench.encoder, size)
    measured = fit.summary(fit.out_of_sample(evidence))
    calibration = fit.calibrate(evidence, setting=setting, report=measured)
    calibration.save(out)
    if as_json:
        typer.echo(json.dumps({"setting": setting, "report": measured, "notes": notes}, indent=1))
        return
    for note in notes:
        stderr().print(note, style="dim", markup=False)
    show_calibration(calibration, stdout())
    stdout().print(f"written to {out}; use it: taskscout rank FILE --calibration {out}")


@study.command()
def variance(
    grid: _Table,
    where: _Where = None,
    column: _Column = None,
    none: _None = "none",
    unit: _Unit = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")
    ] = False,
) -> None:
    """Split the variance of gains: strong sources, or sources that match a target."""
    from taskscout.reports.studies import show_variance
    from taskscout.studies.variance import variance_components

    gains = _read_gains(grid, _pairs(where, "--where"), _pairs(column, "--column"), none, unit)
    components = variance_components(gains, seed=seed)
    if as_json:
        typer.echo(json.dumps(components.to_dict(), indent=1))
        return
    show_variance(components, stdout())


@study.command()
def metrics(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")
    ] = False,
) -> None:
    """List the metrics."""
    from rich.table import Table

    from taskscout.studies.metrics import DEFAULT_METRICS, get_metric

    listed = [get_metric(n) for n in DEFAULT_METRICS]
    if as_json:
        rows = [
            {"name": m.name, "better": m.better, "unit": m.unit, "about": m.about} for m in listed
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("metric", "better", "unit", "what"):
        table.add_column(title)
    for m in listed:
        table.add_row(m.name, m.better, m.unit or "–", m.about)
    stdout().print(table)
    stdout().print("The number after @ may be any.", style="dim")


@study.command()
def taskweb(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder that holds taskweb_grid.parquet and taskweb_predictions.csv."),
    ],
    setting: Annotated[
        str, typer.Option(help="Model and tuning whose transfers are read.")
    ] = "t5l_finetune",
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="More methods: a table of method, target, source, score."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")
    ] = False,
) -> None:
    """Lay out TaskWeb's published table: NDCG / Regret@5 by category of target."""
    from rich.table import Table

    from taskscout.studies.published import (
        TASKWEB_COLUMNS,
        read_predictions,
        read_taskweb,
        taskweb_table,
    )

    published = read_taskweb(folder, setting)
    more = [p for path in predictions or () for p in read_predictions(path, published.gains)]
    rows = taskweb_table(published, (*published.predictions, published.prior(), *more))
    if as_json:
        plain = {
            method: {c: {"ndcg": _or_none(n), "regret@5": _or_none(r)} for c, (n, r) in row.items()}
            for method, row in rows.items()
        }
        typer.echo(json.dumps(plain, indent=1))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in TASKWEB_COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for method, row in rows.items():
        table.add_row(method, *(f"{n:.2f} / {r:.2f}" for n, r in row.values()))
    stdout().print(table)
    stdout().print("NDCG, higher is better / Regret@5 in percent, lower is better", style="dim")


def _or_none(value: float) -> float | None:
    return None if value != value else value


def _catalogue(path: Path | None) -> Catalogue | None:
    """The catalogue of the option, else that of the environment, else none."""
    import os

    from taskscout.tasks.catalogue import ENVIRONMENT_VARIABLE, Catalogue

    if path is not None:
        return Catalogue.open(path)
    return Catalogue.find() if os.environ.get(ENVIRONMENT_VARIABLE) else None


def _pairs(values: list[str] | None, option: str) -> dict[str, str]:
    """Values of a repeatable option of the form name=value."""
    from taskscout.errors import StudyError

    out = {}
    for text in values or ():
        name, equals, value = text.partition("=")
        if not equals or not name or name in out:
            raise StudyError(
                f"{option} is {text!r}.",
                f"{name!r} has a value already." if name in out else "It has the form name=value.",
                f"Write it like {option} setting=t5l_finetune, once for each name.",
            )
        out[name.strip()] = value.strip()
    return out
