"""``taskscout pool``: what comes from elsewhere and goes there: models, the hub, a peer's maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskscout.cli import options
from taskscout.cli.console import make_workbench, open_pool, stderr
from taskscout.cli.pool import model_of

_OwnPool = Annotated[Path, typer.Option("--pool", help="Folder of your pool.")]


def add_model(
    model: Annotated[
        str,
        typer.Argument(help="A LoRA adapter or fine-tuned checkpoint: folder or hub id."),
    ],
    folder: _OwnPool,
    name: Annotated[
        str | None, typer.Option(help="Name of the source; the model's by default.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence, where the model card does not say it.")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="File of texts, one a line, to fit the map on; the pool's by default."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="The base model's folder or hub id; the pool's by default.")
    ] = None,
    same_base: Annotated[
        bool,
        typer.Option(
            "--same-base", help="The adapter's base is the pool's encoder under another name."
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite a source of that name.")
    ] = False,
) -> None:
    """Add a tuned model to a pool as a source, without data."""
    from taskscout.errors import DataError
    from taskscout.pools import Pool
    from taskscout.pools import add_model as models

    opened = Pool.open(folder)
    lines = None
    if texts is not None:
        try:
            lines = [t for t in texts.read_text(encoding="utf-8").splitlines() if t.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{texts} cannot be read ({error}).",
                "It holds the texts that the map is fitted on, one a line, in UTF-8.",
                "Give a text file, or leave --texts out.",
            ) from error
    bench = make_workbench(
        encoder or model_of(dict(opened.encoder)),
        opened.encoder["pooling"],
        layers=opened.encoder["layers"],
        max_length=opened.encoder["max_length"],
    )
    notes = models.add_model(
        opened, model, bench.encoder, name=name, licence=licence, texts=lines,
        same_base=same_base, replace_source=replace,
    )  # fmt: skip
    for note in [f"added {model} to {folder}", *notes]:
        stderr().print(note, markup=False, soft_wrap=True)


def push(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME of a dataset repository on the hub.")],
    folder: _OwnPool,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    with_texts: Annotated[
        bool,
        typer.Option(
            "--with-texts",
            help="Also push the texts that the pool carries of its sources. They are others' data.",
        ),
    ] = False,
) -> None:
    """Put a pool on the hub, packed, with a card that lists sources and licences."""
    from taskscout.pools import hub

    typer.echo(hub.push(open_pool(str(folder)), repo, private=private, with_texts=with_texts))


def pull(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME of a dataset repository on the hub.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="A new folder; by default where rankings for the pool's model look for it."
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; the newest by default.")
    ] = None,
) -> None:
    """Get a pool from the hub, checked against its checksums."""
    from taskscout.pools import hub

    pulled = hub.pull(repo, out, revision=revision)
    stderr().print(
        f"{len(pulled)} sources for {pulled.encoder['model']}, pooling {pulled.encoder['pooling']}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    typer.echo(str(pulled.folder))


def import_maps(
    maps: Annotated[list[Path], typer.Argument(help="Folders of hf-dataset-selector, one a map.")],
    out: Annotated[Path, typer.Option(help="Folder of the pool.")],
    encoder: Annotated[str, typer.Option(help="Folder or hub id of the maps' base model.")],
    pooling: options.Pooling = None,
) -> None:
    """Make a pool of the embedding space maps that hf-dataset-selector trained."""
    from taskscout.pools.esm_files import pool_of_esms

    bench = make_workbench(encoder, pooling)
    made, left_out = pool_of_esms(maps, out, bench.encoder)
    for where, reason in left_out.items():
        stderr().print(f"left out {where}: {reason}", markup=False, soft_wrap=True)
    stderr().print(f"{out}: {len(made)} sources", markup=False, soft_wrap=True)


def export_maps(
    out: Annotated[Path, typer.Option(help="A new folder, with a folder for each map.")],
    folder: Annotated[str, typer.Option("--pool", help="A pool folder.")] = "builtin",
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the encoder; the pool's by default.")
    ] = None,
) -> None:
    """Write the space maps of a pool as hf-dataset-selector reads them."""
    from taskscout.pools.esm_files import write_esms

    written = write_esms(open_pool(folder), out, base_model=base_model)
    stderr().print(f"{out}: {len(written)} maps", markup=False, soft_wrap=True)
