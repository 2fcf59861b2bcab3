"""``taskscout methods``: which selection methods there are, and what each one is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from taskscout.cli.console import stdout


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Explain this one; a paper's name will do.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")
    ] = False,
) -> None:
    """List the selection methods with what each one needs and costs, or explain one."""
    import inspect
    import json

    from taskscout.methods.method import get_method, method_aliases, method_names, resolve

    console = stdout()
    aliases = method_aliases()
    listed = [get_method(n) for n in ([resolve(name)] if name else method_names())]
    rows: list[dict[str, Any]] = [
        {
            "name": m.name,
            "aliases": list(aliases.get(m.name, ())),
            "needs": sorted(m.needs),
            "cost": m.cost,
            "paper": m.paper,
            "kinds": list(m.kinds),
            "reads": m.key,
            **({"explanation": inspect.getdoc(m)} if name else {}),
        }
        for m in listed
    ]
    if as_json:
        typer.echo(json.dumps({"methods": rows}, indent=1))
        return
    if name:
        from rich.text import Text

        console.print(listed[0].name, style="bold")
        console.print(inspect.getdoc(listed[0]) or "", markup=False)
        for key in ("aliases", "needs", "cost", "paper", "kinds", "reads"):
            value = rows[0][key]
            text = ", ".join(value) if isinstance(value, list) else str(value)
            console.print(Text.assemble((key, "bold"), f" {text or 'nothing'}"))
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("method", "aliases", "needs", "cost", "paper", "kinds"):
        table.add_column(column)
    for row in rows:
        kinds = "all" if len(row["kinds"]) == 6 else ", ".join(row["kinds"])
        table.add_row(
            row["name"],
            ", ".join(row["aliases"]) or "–",
            ", ".join(row["needs"]) or "–",
            row["cost"],
            row["paper"],
            kinds,
        )
    console.print(table)
