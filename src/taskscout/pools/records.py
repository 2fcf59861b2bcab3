"""What the files of a pool say, checked as a whole where a file is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from taskscout.pools.integrity import NAME
from taskscout.tasks import TaskCard

FORMAT = 3

_FileName = Annotated[str, Field(pattern=f"^{NAME.pattern}$", max_length=200)]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """A file beside ``pool.json``, with the SHA-256 of its bytes."""

    name: _FileName
    sha256: _Sha256


class EncoderEntry(BaseModel):
    """The encoder that a pool's sources were tuned on; see ``encoder_header``."""

    model_config = ConfigDict(extra="allow")

    model: str
    fingerprint: str
    pooling: str
    layers: str
    max_length: int


class PoolHeader(BaseModel):
    """``pool.json``: what was described with which encoder, and which files belong to it.

    Keys of later versions are kept. ``sources`` is format 1's list of cards; in format 2
    ``packed`` counts the packed sources, from format 3 on it names the file of each key.
    """

    model_config = ConfigDict(extra="allow")

    format: int = Field(ge=1, le=FORMAT)
    encoder: EncoderEntry
    left_out: dict[str, str] = {}
    files: dict[_FileName, FileEntry] = {}
    table: FileEntry | None = None
    packed: int | dict[_FileName, FileEntry] | None = None
    sources: list[dict[str, Any]] = []

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without what was not there."""
        return self.model_dump(exclude_unset=True)


class _Tuning(BaseModel):
    """How a source was tuned, as far as rankings and transfers read it."""

    recipe: dict[str, Any] = {}
    scores: dict[str, float] = {}
    trained_on: int | None = None
    seconds: float | None = None
    fingerprint: str | None = None


_Headers = dict[_FileName, dict[str, Any]]
_card: TypeAdapter[TaskCard] = TypeAdapter(TaskCard)
_headers: TypeAdapter[_Headers] = TypeAdapter(_Headers)


@dataclass(frozen=True)
class Source:
    """One source of a pool.

    Attributes
    ----------
    card
        What it is, its licence, where to get it.
    tuning
        Recipe, test scores, examples and seconds of its tuned model.
    headers
        Headers of its descriptions, by key.
    """

    card: TaskCard
    tuning: Mapping[str, Any]
    headers: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "card": self.card.to_dict(),
            "tuning": dict(self.tuning),
            "headers": {key: dict(header) for key, header in self.headers.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Source:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        ValueError
            If a field is missing or has another type; KeyError if a part is missing.
        """
        headers = _headers.validate_python(data["headers"])
        return cls.of(data["card"], data["tuning"], headers)

    @classmethod
    def of(cls, card: Any, tuning: Any, headers: Mapping[str, Mapping[str, Any]]) -> Source:
        """Check a card and what is known of the tuning, as they come out of JSON.

        Raises
        ------
        ValueError
            If a field is missing or has another type.
        """
        _Tuning.model_validate(tuning)
        return cls(_card.validate_python(card), tuning, headers)
