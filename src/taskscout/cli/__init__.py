"""The command line: one file per verb. Heavy modules are imported inside the verbs."""

from __future__ import annotations

import os
import sys

import typer

from taskscout.cli.cache import cache
from taskscout.cli.doctor import doctor
from taskscout.cli.example import example
from taskscout.cli.grid import grid
from taskscout.cli.methods import methods
from taskscout.cli.pool import pool
from taskscout.cli.pool_exchange import add_model, export_maps, import_maps, pull, push
from taskscout.cli.rank import rank
from taskscout.cli.study import study
from taskscout.cli.train import train
from taskscout.cli.transfer_studies import multitask, zero_shot
from taskscout.cli.verbs import Verbs

app = Verbs(
    name="taskscout",
    help="Which dataset to fine-tune on first: ranks real source datasets for your own, "
    "offline, in seconds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(rank)
app.command()(train)
app.add_typer(pool, name="pool")
for verb in (add_model, pull, push, import_maps, export_maps):
    pool.command(verb.__name__.replace("_", "-"))(verb)
app.add_typer(grid, name="grid")
app.add_typer(study, name="study")
study.command()(multitask)
study.command("zero-shot")(zero_shot)
app.command()(methods)
app.add_typer(cache, name="cache")
app.command()(example)
app.command()(doctor)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    if version:
        from taskscout import __version__

        typer.echo(f"taskscout {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: 0 when all went well, 2 for the user's mistake, 1 for ours."""
    from taskscout.errors import TaskscoutError

    code: int | str | None = 0
    try:
        app()
    except SystemExit as stop:
        # The reader of a pipe has gone (``| head``): nothing is wrong on our side. Both typer
        # and rich turn that into an exit with 1.
        code = 0 if isinstance(stop.__context__, BrokenPipeError) else stop.code
    except TaskscoutError as error:
        from taskscout.cli.console import show_error

        show_error(error)
        code = 2
    except KeyboardInterrupt:
        code = 130
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still to be written has nowhere to go; Python would complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
