"""``taskscout doctor``: is everything there that taskscout needs, and what to do if not."""

from __future__ import annotations

from typing import Annotated

import typer

from taskscout.cli.console import stdout

_MARKS = {"ok": ("ok", "green"), "note": ("–", "dim"), "problem": ("!", "bold red")}


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")
    ] = False,
) -> None:
    """Check installation, model, pools, cache and GPU, and say what to do where one is amiss.

    Exit code 2 where something has to be mended.
    """
    import json
    from dataclasses import asdict

    from taskscout.checkup import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(f) for f in findings]}, indent=1))
    else:
        from rich.text import Text

        console = stdout()
        for f in findings:
            mark, style = _MARKS[f.state]
            console.print(Text.assemble((f"{mark:>2}", style), f"  {f.what}: {f.found}"),
                          soft_wrap=True)  # fmt: skip
            if f.remedy:
                console.print(Text(f"      do: {f.remedy}"), soft_wrap=True)
    if any(f.state == "problem" for f in findings):
        raise typer.Exit(2)
