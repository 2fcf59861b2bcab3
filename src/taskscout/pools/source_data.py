"""The data of a pool's sources: from a catalogue on disk, a file, or the hub."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskscout.errors import DataError
from taskscout.tasks import Task, TaskCard

if TYPE_CHECKING:
    from taskscout.tasks.catalogue import Catalogue


def fetch_command(card: TaskCard) -> str:
    """What to do to get a source's data, for an error message."""
    if card.hub_id:
        repository = card.hub_id.partition(":")[0]
        return (
            "Fetch them where there is a network: hf download --repo-type dataset "
            f"{repository} --local-dir {card.name}, and give the folder or a file of it in place "
            "of the name."
        )
    if card.homepage:
        return f"Get them from {card.homepage} and give the file in place of the name."
    return "Give a file of the data in place of the name."


def hub_arguments(card: TaskCard) -> dict[str, Any]:
    """What a card's loading line gives to ``datasets.load_dataset``: id, configuration, split.

    Without such a line it is the card's hub id; empty where there is neither.
    """
    names = ("hub_id", "config", "split")
    try:
        call = ast.parse(card.load.strip(), mode="eval").body
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("load_dataset"):
            given = dict(zip(names, map(ast.literal_eval, call.args), strict=False))
            for keyword in call.keywords:
                name = {"path": "hub_id", "name": "config"}.get(keyword.arg or "", keyword.arg)
                given[str(name)] = ast.literal_eval(keyword.value)
            return given
    except (SyntaxError, ValueError):
        pass
    repository, _, config = card.hub_id.partition(":")
    return {"hub_id": repository, "config": config or None} if repository else {}


def load_from_hub(card: TaskCard) -> Task:
    """Load a source's data as its card's loading line says, from the hub or its local cache.

    The rows have to be of the card's kind, with as many classes and as many texts per example:
    where the hub's columns leave several choices, those of another task are not taken.

    Raises
    ------
    DataError
        If they cannot be had or are others; names the id and the command that fetches it.
    """
    given = hub_arguments(card)
    try:
        if str(given.get("config")).endswith("*"):
            raise DataError(
                f"{given['hub_id']}, {given['config']} stands for several configurations.",
                "They are joined by hand.",
                "Load and join them.",
            )
        task = Task.from_hub(**given, name=card.name, kind=card.kind)
    except DataError as error:
        raise DataError(
            f"The data of source {card.name!r} are at {given.get('hub_id') or card.hub_id} on the "
            f"hub and cannot be loaded: {error.found}",
            f"Tuning it afresh needs them; a pool keeps adapters, not data. {error.why}",
            f"{fetch_command(card)} Or give a catalogue that has them with --catalogue.",
        ) from error
    differs = ""
    if card.label_names and len(card.label_names) != len(task.label_names):
        differs = f"{len(task.label_names)} classes, the source has {len(card.label_names)}"
    elif card.pair is not None and card.pair != task.is_pair:
        differs = f"{1 + task.is_pair} texts per example, the source has {1 + card.pair}"
    if differs:
        raise DataError(
            f"The rows that {given['hub_id']} gives for source {card.name!r} have {differs}.",
            "They are the data of another task, or other columns than the source was made of.",
            fetch_command(card),
        )
    return replace(task, card=card)


def is_local(card: TaskCard, catalogue: Catalogue | None = None) -> bool:
    """Whether a source's data are on this machine, in the catalogue or the file of its card."""
    in_catalogue = catalogue is not None and card.name in catalogue.entries
    return in_catalogue or _file_of(card) is not None


def has_data(card: TaskCard, catalogue: Catalogue | None = None) -> bool:
    """Whether there is a place to look for a source's data."""
    return is_local(card, catalogue) or bool(hub_arguments(card))


def data_of(card: TaskCard, catalogue: Catalogue | None = None) -> Task:
    """Load the data of a pool's source: from the catalogue, its file, or the hub.

    Parameters
    ----------
    card
        The source's.
    catalogue
        Labelled datasets on disk, which are looked at first.

    Raises
    ------
    DataError
        If they are not at hand; says where they are.
    """
    if catalogue is not None and card.name in catalogue.entries:
        return catalogue.task(card.name)
    file = _file_of(card)
    if file is not None:
        named: dict[str, Any] = dict(card.columns)
        return Task.from_file(file, kind=card.kind, name=card.name, **named)
    if hub_arguments(card):
        return load_from_hub(card)
    raise DataError(
        f"The data of source {card.name!r} are not at hand.",
        "A pool keeps adapters and descriptions, not data.",
        f"Get them ({card.load or card.homepage or 'its card does not say where'}), or give a "
        "catalogue that has them with --catalogue.",
    )


def _file_of(card: TaskCard) -> Path | None:
    """The file that a card names, where it is there."""
    path = Path(card.load)
    return path if card.load and path.is_absolute() and path.is_file() else None
