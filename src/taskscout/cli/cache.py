"""``taskscout cache``: look at kept embeddings and tuned models, and clear them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from taskscout.cli.console import stdout
from taskscout.cli.verbs import Verbs

if TYPE_CHECKING:
    from taskscout.models.cache import EmbeddingCache
    from taskscout.models.tuned_store import TunedStore

cache = Verbs(help="Look at kept embeddings and tuned models, or clear them.")

#: What ``clear`` takes for the tuned models, beside the names of spaces.
TUNED = "tuned"

_Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]


def _stores() -> tuple[EmbeddingCache, TunedStore]:
    from taskscout.models.cache import EmbeddingCache
    from taskscout.models.tuned_store import FOLDER, TunedStore

    embeddings = EmbeddingCache()
    return embeddings, TunedStore(embeddings.folder / FOLDER)


@cache.callback(invoke_without_command=True)
def info(context: typer.Context, as_json: _Json = False) -> None:
    """Show what is kept, embeddings and tuned models: where, how large, what is in it."""
    if context.invoked_subcommand is not None:
        return
    import json
    from dataclasses import asdict

    embeddings, store = _stores()
    contents, tuned = embeddings.info(), store.info()
    if as_json:
        spaces = [{**asdict(s), "id": s.id, "used": s.used.isoformat()} for s in contents.spaces]
        data = {
            **asdict(contents),
            "path": str(contents.path),
            "spaces": spaces,
            "tuned": {**asdict(tuned), "path": str(tuned.path)},
        }
        typer.echo(json.dumps(data, indent=1))
        return
    from rich.table import Table
    from rich.text import Text

    from taskscout.reports.terminal import size

    console = stdout()
    used = f"{size(contents.bytes)} of at most {size(contents.max_bytes)}"
    line = f"{contents.path}: {contents.entries:,} embeddings, {used}"
    console.print(line, markup=False, soft_wrap=True)
    if contents.spaces:
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("what was embedded with", overflow="fold")
        for column in ("embeddings", "size", "last used (UTC)"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("space", no_wrap=True)
        for space in contents.spaces:
            when = f"{space.used:%Y-%m-%d %H:%M}"
            what = Text(space.label or "–")
            cells = (what, f"{space.entries:,}", size(space.bytes), when, space.id)
            table.add_row(*cells)
        console.print(table)
    used = f"{size(tuned.bytes)} of at most {size(tuned.max_bytes)}"
    line = f"{tuned.path}: {tuned.models:,} tuned models, {used}"
    console.print(line, markup=False, soft_wrap=True)


@cache.command()
def clear(
    space: Annotated[
        str | None,
        typer.Argument(
            help=f"Only this space of the table, or '{TUNED}' for the tuned models; all by default."
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Remove cached embeddings and tuned models, and give the disk space back."""
    import json

    embeddings, store = _stores()
    # Tables show the short name of a space, JSON both.
    spaces = {known.id: known.space for known in embeddings.info().spaces}
    space = spaces.get(space or "", space)
    removed = 0 if space == TUNED else embeddings.clear(space)
    models = store.clear() if space in (None, TUNED) else 0
    if as_json:
        typer.echo(json.dumps({"removed": removed, "tuned": models}))
    else:
        stdout().print(f"removed {removed:,} embeddings and {models:,} tuned models")
