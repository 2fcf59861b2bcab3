"""Options that several verbs have: how data are read, which encoder, where work runs."""

from __future__ import annotations

from typing import Annotated

import typer

READ, MODEL = "Reading", "Encoder"

Text = Annotated[str | None, typer.Option(help="Column of the text.", rich_help_panel=READ)]
Pair = Annotated[str | None, typer.Option(help="Column of the second text.", rich_help_panel=READ)]
Label = Annotated[str | None, typer.Option(help="Column of the label.", rich_help_panel=READ)]
SplitColumn = Annotated[
    str | None,
    typer.Option(
        help="Column that assigns rows to splits; 'none' makes the splits anew.",
        rich_help_panel=READ,
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Encoding of a text file; found out by default.", rich_help_panel=READ),
]
DropUnlabelled = Annotated[
    bool,
    typer.Option("--drop-unlabelled", help="Leave out rows without a label.", rich_help_panel=READ),
]
DropEmpty = Annotated[
    bool,
    typer.Option("--drop-empty", help="Leave out rows with an empty text.", rich_help_panel=READ),
]
DropRare = Annotated[
    bool,
    typer.Option(
        "--drop-rare", help="Leave out classes with fewer than two examples.", rich_help_panel=READ
    ),
]

Encoder = Annotated[
    str | None,
    typer.Option(
        help="Folder or hub id; the embedded MiniLM-L6 by default.", rich_help_panel=MODEL
    ),
]
Pooling = Annotated[
    str | None,
    typer.Option(
        help="How tokens become one vector: mean, cls, pooler or last_token. By default mean, of "
        "a decoder last_token.",
        rich_help_panel=MODEL,
    ),
]
POOL_HELP = (
    "A pool folder, or 'builtin'. By default the pool of the encoder: the built-in one, or what "
    "'pool build --encoder' made."
)
Layers = Annotated[
    str,
    typer.Option(help="The last layer, or the mean of all: last or mean.", rich_help_panel=MODEL),
]
MaxLength = Annotated[
    int, typer.Option(min=8, help="Longest text in tokens.", rich_help_panel=MODEL)
]
Precision = Annotated[
    str,
    typer.Option(
        help="Precision of the encoder: auto (bf16 if the hardware has it), bf16 or fp32.",
        rich_help_panel=MODEL,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Neither read nor keep embeddings.", rich_help_panel=MODEL),
]

Engine = Annotated[
    str,
    typer.Option(
        help="Where the work runs: here (this process), local (processes side by side) or ray."
    ),
]
Processes = Annotated[
    int, typer.Option(min=0, help="Processes of the engine local; 0 for one per processor.")
]
Address = Annotated[str | None, typer.Option(help="Address of a Ray cluster, HOST:PORT.")]


def words(values: list[str] | None) -> list[str]:
    """Values of an option that may be repeated or hold several, separated by commas."""
    return [w.strip() for v in values or () for w in v.split(",") if w.strip()]
