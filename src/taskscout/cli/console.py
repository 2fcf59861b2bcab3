"""Where the command line writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskscout.errors import TaskscoutError

if TYPE_CHECKING:
    from rich.console import Console

    from taskscout.models.workbench import Workbench
    from taskscout.pools import Pool

#: Control characters, but for the line's end and the tab; and marks that turn the direction.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass
class Settings:
    """What the options of every verb say (:mod:`taskscout.cli.verbs`)."""

    quiet: bool = False
    verbose: bool = False


SETTINGS = Settings()


def stdout() -> Console:
    """For results. As wide as ``COLUMNS`` says; wide when piped, so that tables are not cut."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return _console(width=None if known else 140)


def stderr() -> Console:
    """For progress and remarks, which ``--quiet`` leaves out."""
    return _console(stderr=True, quiet=SETTINGS.quiet)


def _console(**options: Any) -> Console:
    """A console on which texts of files are texts: what would steer a terminal is shown as �."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Harmless(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else _STEERING.sub("\ufffd", text), style, control)

    # No markup either: a source may be named [/].
    return Harmless(highlight=False, markup=False, **options)


def show_error(error: TaskscoutError) -> None:
    """What was found, why it cannot work, what to do: a line each."""
    from rich.text import Text

    console = _console(stderr=True)
    console.print(Text.assemble(("error: ", "bold red"), error.found), soft_wrap=True)
    console.print(Text(f"  why: {error.why}"), soft_wrap=True)
    console.print(Text(f"  do:  {error.remedy}"), soft_wrap=True)
    if SETTINGS.verbose:
        traceback.print_exception(error)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar on stderr that appears with the first report; None where not a terminal."""
    console = stderr()
    if SETTINGS.quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        tasks = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report


def typed_command() -> str:
    """The command as it was typed."""
    return shlex.join(["taskscout", *sys.argv[1:]])


def open_pool(folder: str) -> Pool:
    """The pool of an option ``--pool``: ``builtin`` or a folder."""
    from taskscout.pools import Pool

    return Pool.builtin() if folder == "builtin" else Pool.open(folder)


def make_workbench(
    encoder: str | None,
    pooling: str | None,
    *,
    layers: str = "last",
    max_length: int = 128,
    precision: str = "auto",
    no_cache: bool = False,
    report: Callable[[str, int, int], None] | None = None,
) -> Workbench:
    """A workbench from the options that every verb with an encoder has."""
    from taskscout.models.cache import EmbeddingCache, NoCache
    from taskscout.models.encoder import Encoder
    from taskscout.models.workbench import Workbench

    made = Encoder(
        encoder,
        pooling=pooling,  # type: ignore[arg-type]  # checked by Encoder
        layers=layers,  # type: ignore[arg-type]  # checked by Encoder
        max_length=max_length,
        precision=precision,  # type: ignore[arg-type]  # checked by Encoder
    )
    return Workbench(made, cache=NoCache() if no_cache else EmbeddingCache(), progress=report)


def write_text(path: Path, text: str) -> None:
    """Write a result file beside and rename.

    Raises
    ------
    TaskscoutError
        If it cannot be written.
    """
    from taskscout.files import write_atomically

    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise TaskscoutError(
            f"{path} cannot be written ({error.strerror}).",
            "The result has no place to go.",
            "Give a file in a folder that exists and may be written.",
        ) from error
