"""``taskscout cache``: look at the embedding cache, and clear it."""

from __future__ import annotations

from typing import Annotated

import typer

from taskscout.cli.console import stdout

cache = typer.Typer(help="Look at the embedding cache, or clear it.")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]


@cache.callback(invoke_without_command=True)
def info(context: typer.Context, as_json: _Json = False) -> None:
    """Show the embedding cache: where it is, how large, what is in it."""
    if context.invoked_subcommand is not None:
        return
    import json
    from dataclasses import asdict

    from taskscout.models.cache import EmbeddingCache

    found = EmbeddingCache().info()
    if as_json:
        spaces = [{**asdict(s), "used": s.used.isoformat()} for s in found.spaces]
        data = {**asdict(found), "path": str(found.path), "spaces": spaces}
        typer.echo(json.dumps(data, indent=1))
        return
    from rich.table import Table
    from rich.text import Text

    from taskscout.reports.terminal import size

    console = stdout()
    used = f"{size(found.bytes)} of at most {size(found.max_bytes)}"
    line = f"{found.path}: {found.entries:,} embeddings, {used}"
    console.print(line, markup=False, soft_wrap=True)
    if found.spaces:
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("space", no_wrap=True)
        table.add_column("encoder", overflow="fold")
        for column in ("embeddings", "size", "last used"):
            table.add_column(column, justify="right")
        for s in found.spaces:
            when = f"{s.used:%Y-%m-%d %H:%M} UTC"
            table.add_row(s.space, Text(s.label), f"{s.entries:,}", size(s.bytes), when)
        console.print(table)


@cache.command()
def clear(
    space: Annotated[
        str | None, typer.Argument(help="Only this embedding space; all of them by default.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Remove cached embeddings and give the disk space back."""
    import json

    from taskscout.models.cache import EmbeddingCache

    removed = EmbeddingCache().clear(space)
    if as_json:
        typer.echo(json.dumps({"removed": removed}))
    else:
        stdout().print(f"removed {removed:,} embeddings")
