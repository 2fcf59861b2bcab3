"""A catalogue of labelled datasets on disk: one ``tasks.json`` beside one Parquet file per task.

The catalogue's files are written by us, so they are read as they stand, without inference:
their columns are canonical already, plus ``split``.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from taskscout.errors import DataError
from taskscout.tasks.arrow import take
from taskscout.tasks.arrow_files import read_parquet
from taskscout.tasks.card import TaskCard
from taskscout.tasks.checks import canonical
from taskscout.tasks.kinds import COLUMNS, Kind
from taskscout.tasks.task import Task

#: Where a catalogue lies: a folder that holds ``tasks.json``, or that file.
ENVIRONMENT_VARIABLE = "TASKSCOUT_DATA"

#: The catalogue's names of kinds, where they differ from ours.
_KINDS: dict[str, Kind] = {"extractive_qa": "span_qa"}

#: Our own grouping of the catalogue's categories into what a reader would call the same kind
#: of skill. Evaluations that ask "is the first source of the target's family?" use it; nothing
#: that ranks does. A category that is not listed is a family of its own.
FAMILIES: dict[str, str] = {
    "sentiment": "sentiment",
    "target-dependent sentiment": "sentiment",
    "natural language inference": "inference",
    "fact verification": "inference",
    "question-sentence inference": "inference",
    "answer selection": "inference",
    "paraphrase": "similarity",
    "semantic similarity": "similarity",
    "topic": "topic",
    "intent": "intent",
    "dialogue act": "dialogue act",
    "question type": "question type",
    "toxicity": "toxicity",
    "toxic spans": "toxicity",
    "emotion": "emotion",
    "emotion intensity": "emotion",
    "emoji prediction": "emotion",
    "mental state": "emotion",
    "irony and sarcasm": "irony",
    "politeness": "politeness",
    "subjectivity": "subjectivity",
    "stance": "stance",
    "style": "style",
    "readability": "readability",
    "misinformation": "misinformation",
    "spam": "spam",
    "medical": "medical",
    "relation": "relation",
    "citation function": "citation function",
    "acceptability": "acceptability",
    "word sense": "word sense",
    "yes/no question answering": "question answering",
    "extractive question answering": "question answering",
    "reading comprehension": "question answering",
    "commonsense": "commonsense",
    "commonsense plausibility": "commonsense",
    "qualitative reasoning": "commonsense",
    "coreference": "commonsense",
    "named entities": "entities",
    "slot filling": "entities",
    "part of speech": "syntax",
}

# What may not be passed on: material whose owner restricts redistribution.
_WITHHELD = re.compile(
    r"redistribution|\bLDC\b|Microsoft Research licen[cs]e|\bMSR[\w-]*", re.IGNORECASE
)
# Terms that rule commercial use out, wherever they stand.
_NON_COMMERCIAL = re.compile(r"non-?commercial|\bBY-NC\b", re.IGNORECASE)
# Remarks of the licence concern that rule it out too: research only, or a Microsoft licence.
_RESEARCH_ONLY = re.compile(
    r"research use|research only|Microsoft Research licen[cs]e|\bMSR[\w-]*", re.IGNORECASE
)
# Terms that leave open what holds for the texts themselves.
_UNCLEAR = re.compile(r"not stated|may apply|keep their own terms|review terms", re.IGNORECASE)
# Licences that allow commercial use (none of these matches a BY-NC licence).
_OPEN = re.compile(
    r"\bMIT\b|\bApache-2\.0|\bBSD\b|\bGPL-3\.0|\bCC0\b|\bCC BY(-SA)? \d|\bODC-BY\b", re.IGNORECASE
)


def commercial_use(licence: str, concern: str | None) -> Literal["yes", "no", "unstated"]:
    """Whether a licence, as a catalogue words it, allows commercial use.

    ``"no"`` where the licence or the concern says non-commercial (or CC BY-NC), or the concern
    says research only or names a Microsoft Research licence; else ``"unstated"`` where there is
    any other concern, or the terms of the texts are not stated or other terms may apply; else
    ``"yes"`` for MIT, Apache, BSD, GPL, CC0, CC BY, CC BY-SA and ODC-BY; else ``"unstated"``.
    """
    concern = concern or ""
    if _NON_COMMERCIAL.search(f"{licence} {concern}") or _RESEARCH_ONLY.search(concern):
        return "no"
    if concern or _UNCLEAR.search(licence):
        return "unstated"
    return "yes" if _OPEN.search(licence) else "unstated"


@dataclass(frozen=True)
class Catalogue:
    """Labelled datasets in a folder, by name.

    Attributes
    ----------
    folder
        The folder that holds ``tasks.json``; the files of the entries are relative to it.
    entries
        The entries of ``tasks.json`` by task name, in the file's order.
    """

    folder: Path
    entries: Mapping[str, Mapping[str, Any]]

    @classmethod
    def open(cls, path: str | Path) -> Catalogue:
        """Open a catalogue by its folder or its ``tasks.json``.

        Raises
        ------
        DataError
            Where there is no such file or it is not a catalogue.
        """
        path = Path(path)
        file = path / "tasks.json" if path.is_dir() else path
        if not file.is_file():
            raise DataError(
                f"No catalogue at {file}.",
                "A catalogue is a folder with a file tasks.json.",
                "Give the folder that holds tasks.json, or that file.",
            )
        try:
            tasks = _entries(json.loads(file.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"{file} is not a catalogue ({error}).",
                'A catalogue is a JSON object whose list "tasks" has a "task_id", a "kind" and a '
                '"file" in every entry.',
                "Get the file anew, or give another one.",
            ) from error
        return cls(file.parent, {entry["task_id"]: entry for entry in tasks})

    @classmethod
    def find(cls) -> Catalogue:
        """Open the catalogue that the environment variable ``TASKSCOUT_DATA`` names.

        Raises
        ------
        DataError
            Where the variable is not set, or there is no catalogue where it points.
        """
        path = os.environ.get(ENVIRONMENT_VARIABLE)
        if not path:
            raise DataError(
                f"The environment variable {ENVIRONMENT_VARIABLE} is not set.",
                "The labelled datasets are not part of taskscout.",
                f"Set {ENVIRONMENT_VARIABLE} to the folder that holds tasks.json.",
            )
        return cls.open(path)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all tasks, in the file's order."""
        return tuple(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def entry(self, name: str) -> Mapping[str, Any]:
        """Get what ``tasks.json`` says of one task.

        Raises
        ------
        DataError
            Where there is no such task; close names are given.
        """
        if name not in self.entries:
            close = difflib.get_close_matches(name, self.names, n=3, cutoff=0.5)
            raise DataError(
                f"The catalogue {self.folder} has no task {name!r}.",
                f"It has {len(self)} tasks"
                + (f", {', '.join(close)} among them." if close else "."),
                "Ask for one of these." if close else "See Catalogue.names.",
            )
        return self.entries[name]

    def kind(self, name: str) -> Kind:
        """Tell the kind of one task, in taskscout's words."""
        kind: Kind = self.entry(name)["kind"]
        return _KINDS.get(kind, kind)

    def family(self, name: str) -> str:
        """Name the family of one task (:data:`FAMILIES`)."""
        category: str = self.entry(name).get("category") or ""
        return FAMILIES.get(category, category)

    def withheld(self, name: str) -> str | None:
        """Say why the material of one task may not be passed on; None where it may.

        A task is withheld where its licence concern says that redistribution is restricted, or
        names the LDC or a Microsoft Research licence.
        """
        concern: str | None = self.entry(name).get("licence_concern")
        return concern if concern and _WITHHELD.search(concern) else None

    def shares_texts_with(self, name: str) -> dict[str, float]:
        """List other tasks that hold texts of this one, with the share of its rows, 0 to 1."""
        return dict(self.entry(name).get("shares_texts_with") or {})

    def overlap(self, one: str, other: str) -> float:
        """Share of the rows of one task whose texts the other holds, 0 to 1; the larger way."""
        return max(
            self.shares_texts_with(one).get(other, 0.0),
            self.shares_texts_with(other).get(one, 0.0),
        )

    def card(self, name: str) -> TaskCard:
        """Make the card of one task, without rows and label names (:meth:`task` fills these)."""
        entry = self.entry(name)
        hub_id, load, remark = _where(entry)
        concern = entry.get("licence_concern")
        licence = entry.get("licence") or ""
        return TaskCard(
            name=name,
            kind=self.kind(name),
            category=entry.get("category") or "",
            domain=entry.get("domain") or "",
            licence=licence,
            licence_note=concern or "",
            commercial=commercial_use(licence, concern),
            homepage=entry.get("homepage") or "",
            hub_id=hub_id,
            load=load,
            citation=entry.get("citation") or "",
            notes="; ".join(part for part in (entry.get("notes"), remark) if part),
        )

    def task(self, name: str) -> Task:
        """Load one task, with its own splits and a filled card.

        Raises
        ------
        DataError
            Where the task is unknown, or its file is missing or damaged.
        """
        entry = self.entry(name)
        kind = self.kind(name)
        file = self.folder / entry["file"]
        table = read_parquet(file)
        required, optional = COLUMNS[kind]
        columns = [c for c in required + optional if c in table.column_names]
        # text_pair is there for every task; where it is null throughout, there is none.
        columns = [c for c in columns if table[c].null_count < table.num_rows]
        whole = canonical(table.select(columns), kind)
        splits = np.array(table["split"].to_pylist())
        tables = {str(s): take(whole, np.flatnonzero(splits == s)) for s in dict.fromkeys(splits)}
        names = tuple(entry.get("label_names") or ())
        return Task(name, kind, tables, names, self.card(name))


def _entries(data: Any) -> list[dict[str, Any]]:
    """The entries of ``tasks.json``, each with the fields that are read here.

    Raises
    ------
    ValueError
        If a field is missing or has another type.
    """
    from pydantic import BaseModel, ConfigDict, ValidationError

    class Entry(BaseModel):
        model_config = ConfigDict(extra="allow")

        task_id: str
        file: str
        kind: Kind | Literal["extractive_qa"]
        category: str = ""
        domain: str | None = None
        licence: str | None = None
        licence_concern: str | None = None
        homepage: str | None = None
        hf_hub_id: str | None = None
        citation: str | None = None
        notes: str | None = None
        label_names: list[str] | None = None
        shares_texts_with: dict[str, float] | None = None

    class Whole(BaseModel):
        tasks: list[Entry]

    try:
        return [e.model_dump(exclude_unset=True) for e in Whole.model_validate(data).tasks]
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _where(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    """Find the hub id, how to load, and a remark, from an entry's ``hf_hub_id`` and home page.

    The catalogue writes ``id``, ``id:config``, ``id:prefix*`` for several configurations, or
    ``id (related)`` for a set on the hub that is near but not the same.
    """
    homepage: str = entry.get("homepage") or ""
    hub_id: str = entry.get("hf_hub_id") or ""
    if not hub_id:
        return "", homepage, ""
    if hub_id.endswith(" (related)"):
        return "", homepage, f"related on the hub: {hub_id.removesuffix(' (related)')}"
    remark = "the hub's rows and splits can differ from those used here"
    repository, _, config = hub_id.partition(":")
    if not config:
        return repository, f'datasets.load_dataset("{repository}")', remark
    load = f'datasets.load_dataset("{repository}", "{config}")'
    if config.endswith("*"):
        remark += f"; {config} stands for several configurations"
    return repository, load, remark
