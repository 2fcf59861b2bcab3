"""``taskscout grid``: run transfers, and look at what they gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskscout.cli import options
from taskscout.cli.console import stderr, stdout, write_text
from taskscout.cli.verbs import Verbs

if TYPE_CHECKING:
    from taskscout.methods.gains import Gains
    from taskscout.studies.store import CellResult

grid = Verbs(
    help="Run a grid of transfers, resumable cell by cell, and look at it.", no_args_is_help=True
)

_File = Annotated[Path, typer.Argument(help="A grid: SQLite, or exported Parquet.")]


@grid.command()
def run(
    study: Annotated[Path, typer.Argument(help="YAML file that says which transfers to run.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The grid's SQLite file; STUDY.sqlite beside the study by default."),
    ] = None,
    engine: options.Engine = "local",
    processes: options.Processes = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each process.")] = 1,
    address: options.Address = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs that one cell takes on Ray.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how much there is to do, and stop.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")
    ] = False,
) -> None:
    """Run what is missing of a grid.

    Every result is committed as it comes: stop it at any moment, and start it again.
    """
    from taskscout.engines import engine as make_engine
    from taskscout.engines import processes_available
    from taskscout.studies.grid import Plan, run_grid
    from taskscout.studies.store import GridStore
    from taskscout.studies.study_file import read_study
    from taskscout.tasks.raw import count

    path = out or study.with_suffix(".sqlite")
    folder = path.with_suffix(".sources")
    plan = Plan(read_study(study))
    chosen = make_engine(
        engine,
        processes=processes,
        threads=threads,
        address=address,
        gpus=gpus,
    )
    if dry_run:
        store = GridStore(path) if path.is_file() else None
        at_once = 1 if engine == "here" else processes or processes_available()
        left = plan.estimate(store, folder, at_once)
        if as_json:
            typer.echo(json.dumps(vars(left)))
            return
        console = stdout()
        console.print(
            f"{count(left.cells, 'cell')} ({count(len(plan.sources), 'source')}, "
            f"{count(len(plan.study.targets), 'target')}), {left.done:,} done, "
            f"{left.cells - left.done:,} to do; {count(left.sources, 'source')} to tune"
        )
        basis = "as like cells took" if left.measured else "assumed, nothing like it measured yet"
        minutes = left.hours * 60
        time = f"{left.hours:.1f} hours" if minutes > 90 else count(round(minutes), "minute")
        console.print(f"about {time} with {count(at_once, 'process')} ({basis})")
        console.print(f"about {left.megabytes:.0f} MB on disk")
        return
    store = GridStore(path)
    console = stderr()
    with _live(console.is_terminal) as report:
        run_grid(plan, store, folder, engine=chosen, report=report, note=console.print)
    failed = [r for r in store.results() if r.error]
    if as_json:
        typer.echo(json.dumps({"grid": str(path), "cells": len(plan.cells), "failed": len(failed)}))
        return
    stdout().print(f"{path}: {len(plan.cells)} cells, {len(failed)} failed")
    for result in failed[:5]:
        stdout().print(f"  {result.source} -> {result.target}: {result.error}", soft_wrap=True)


#: Seconds after which a rate says something: several processes finish their first cells at once.
_SETTLED = 60


class _live:  # noqa: N801  # a context manager, used as a function
    """Progress of a grid: a bar on a terminal, else a line for every tenth of the cells.

    The rate counts from the first cell that is done: what comes before it, such as starting
    processes, comes once.
    """

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal

    def __enter__(self) -> _live:
        self._began, self._first, self._said = 0.0, -1, -1
        if self._terminal:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=stderr(),
            )
            self._task = self._bar.add_task("cells", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            self._bar.stop()

    def __call__(self, done: int, total: int, result: CellResult) -> None:
        import time

        if self._first < 0:
            self._began, self._first = time.monotonic(), done
        passed = time.monotonic() - self._began
        rate = (done - self._first) / passed if passed > _SETTLED else 0.0
        an_hour = f", {3600 * rate:.0f} an hour" if rate else ""
        if self._terminal:
            what = f"{result.source} -> {result.target}{an_hour}"
            self._bar.update(self._task, description=what, completed=done, total=total)
        elif (rate or done == total) and (tenth := 10 * done // total) != self._said:
            self._said = tenth
            left = f", {(total - done) / rate / 60:.0f} min left" if done < total else ""
            stderr().print(f"{done}/{total} cells{an_hour}{left}")


@grid.command()
def export(
    file: _File,
    out: Annotated[Path, typer.Argument(help="A .parquet or .csv file.")],
) -> None:
    """Write all results as one long table: Parquet or CSV."""
    from taskscout.errors import StudyError
    from taskscout.files import no_formula, write_atomically
    from taskscout.studies.store import read_results, to_table

    table = to_table(read_results(file))
    import pyarrow as pa

    if out.suffix == ".parquet":
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_atomically(out, sink.getvalue().to_pybytes())
    elif out.suffix == ".csv":
        import io

        from pyarrow import csv

        rows = [{k: no_formula(v) for k, v in row.items()} for row in table.to_pylist()]
        buffer = io.BytesIO()
        csv.write_csv(pa.Table.from_pylist(rows, schema=table.schema), buffer)
        write_text(out, buffer.getvalue().decode())
    else:
        raise StudyError(
            f"{out} ends in {out.suffix or 'nothing'}.",
            "A grid is exported as Parquet or CSV.",
            "Give a file that ends in .parquet or .csv.",
        )
    stdout().print(f"{out}: {table.num_rows} cells")


@grid.command()
def merge(
    files: Annotated[
        list[Path], typer.Argument(help="Grids, or exported Parquet files, of several machines.")
    ],
    out: Annotated[
        Path, typer.Option(help="Grid to put them into; it is made if it is not there.")
    ],
) -> None:
    """Join grids; the same cell with different scores is an error."""
    from taskscout.studies.store import GridStore, read_results

    others = [(str(f), read_results(f)) for f in files]
    into = GridStore(out)
    for name, results in others:
        stdout().print(f"{name}: {into.merge(results, name)} new cells")


@grid.command()
def show(
    file: _File,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only cells with this value: tuning=lora. Repeatable."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")
    ] = False,
) -> None:
    """Draw a heat map of gains over no source, in points, mean over seeds."""
    from taskscout.reports.terminal import gains_table
    from taskscout.studies.store import choose, gains_by_setting, read_results

    results = choose(read_results(file), where or [])
    found = gains_by_setting(results)
    if as_json:
        typer.echo(json.dumps([{**setting, **_plain(gains)} for setting, gains in found]))
        return
    for setting, gains in found:
        what = " · ".join(f"{k} {v}" for k, v in setting.items())
        stdout().print(f"gain in points · {what}", style="italic")
        stdout().print(gains_table(gains))


def _plain(gains: Gains) -> dict[str, object]:
    import math

    rows = [[None if math.isnan(x) else round(x, 3) for x in row] for row in gains.points.tolist()]
    return {"sources": gains.sources, "targets": gains.targets, "points": rows}
