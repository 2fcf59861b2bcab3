"""The card of a task: what a person wants to know before using it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from taskscout.tasks.kinds import Kind


@dataclass(frozen=True)
class TaskCard:
    """What a person wants to know about a task before using it.

    ``commercial`` says whether the licence allows commercial use: ``"yes"``, ``"no"`` or
    ``"unstated"``. ``rows`` counts examples per split. ``pair`` says whether examples of a
    sequence task have a second text, None where it is not known. ``columns`` names the columns
    of the file that ``load`` gives, by role (``text``, ``pair``, ``label``), where the user chose
    them.
    """

    name: str
    kind: Kind = "classification"
    category: str = ""
    domain: str = ""
    language: str = "en"
    rows: Mapping[str, int] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    licence: str = ""
    licence_note: str = ""
    commercial: Literal["yes", "no", "unstated"] = "unstated"
    homepage: str = ""
    hub_id: str = ""
    load: str = ""
    citation: str = ""
    notes: str = ""
    pair: bool | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **asdict(self),
            "rows": dict(self.rows),
            "label_names": list(self.label_names),
            "columns": dict(self.columns),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskCard:
        """The inverse of :meth:`to_dict`; keys of later versions are ignored."""
        known = cls.__dataclass_fields__
        values = {k: v for k, v in data.items() if k in known}
        values["label_names"] = tuple(values.get("label_names") or ())
        return cls(**values)
