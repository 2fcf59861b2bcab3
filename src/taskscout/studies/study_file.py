"""Study files: YAML that says which transfers to run, checked, with errors that name the line."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)

from taskscout.errors import StudyError
from taskscout.models.encoder import Layers, Pooling, Precision
from taskscout.models.recipe import Recipe

Strategy = Literal["sequential", "zero_shot"]
TuningName = Literal["full", "lora", "prompt", "p-tuning-v2", "bitfit", "head"]

#: Bytes of the largest study file.
_LARGEST = 2**20
#: Brackets of a study file: the time that YAML takes grows with the square of their depth.
_MOST_BRACKETS = 500
#: What reading YAML raises: of its own, and of the dates and numbers in it.
_NO_YAML = (
    yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError, KeyError,
)  # fmt: skip
#: Fields of a recipe that the study itself decides.
_OWN = frozenset({"tuning", "seed", "examples", "checkpoints", "test_examples"})


class EncoderSettings(BaseModel):
    """An encoder of a study; by default the embedded one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "default"
    model: str | None = None
    pooling: Pooling = "mean"
    layers: Layers = "last"
    max_length: int = Field(default=128, ge=8)
    precision: Precision = "auto"


class GridStudy(BaseModel):
    """Which transfers to run.

    Attributes
    ----------
    name
        Of the study.
    sources
        Names of catalogue tasks, or ``all``: those of the pool, else of the catalogue.
    targets
        Names of catalogue tasks.
    catalogue
        Folder of ``tasks.json``; None for TASKSCOUT_DATA.
    pool
        Tuned sources are taken from it where it has them by the tuning asked for: ``builtin``,
        a folder, or None to tune all of them.
    encoders, strategies, tunings, sizes, seeds
        Every combination is run with every source on every target, and, for comparison, without
        a source. A size is a number of training examples of the target, drawn once for all
        seeds; ``all`` is the whole training split. ``zero_shot`` is run where a source's label
        names, or regression, answer for the target's. A seed decides the target's new head, what
        its tuned parameters begin as, dropout and the order of examples.
    recipe, source_recipe
        Changes to the default recipe of targets and of sources, e.g. ``epochs: 6``.
    source_examples, source_seed
        Training examples and seed of a source, which is tuned once and shared by all targets.
    test_examples
        Test rows that scores are taken on, the same for all cells of a target.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sources: tuple[str, ...] | Literal["all"]
    targets: tuple[str, ...] = Field(min_length=1)
    catalogue: Path | None = None
    pool: str | None = None
    encoders: tuple[EncoderSettings, ...] = (EncoderSettings(),)
    strategies: tuple[Strategy, ...] = ("sequential",)
    tunings: tuple[TuningName, ...] = ("lora",)
    sizes: tuple[int | Literal["all"], ...] = (200,)
    seeds: tuple[int, ...] = (0,)
    recipe: dict[str, Any] = {}
    source_recipe: dict[str, Any] = {}
    source_examples: int = Field(default=1500, ge=2)
    source_seed: int = 0
    test_examples: int = Field(default=1000, ge=2)

    @field_validator("recipe", "source_recipe")
    @classmethod
    def _of_a_recipe(cls, value: dict[str, Any]) -> dict[str, Any]:
        # YAML takes 3e-5 for text; the recipe's own types make a number of it.
        return _recipe_changes().model_validate(value).model_dump(exclude_unset=True)

    @field_validator("tunings")
    @classmethod
    def _something_to_carry(
        cls, value: tuple[TuningName, ...], info: ValidationInfo
    ) -> tuple[TuningName, ...]:
        if "head" in value and "sequential" in info.data.get("strategies", ()):
            raise ValueError("by 'head' the encoder stays as it was, so nothing carries on")
        return value

    @field_validator("sources", "targets", "tunings", "sizes", "seeds", "encoders", "strategies")
    @classmethod
    def _without_repeats(cls, value: Any) -> Any:
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError("the same entry twice")
        return value


@lru_cache
def _recipe_changes() -> type[BaseModel]:
    """Give the fields of a recipe that a study may change, with their types."""
    hints = get_type_hints(Recipe).items()
    types: dict[str, Any] = {name: (hint, None) for name, hint in hints if name not in _OWN}
    return create_model("RecipeChanges", __config__=ConfigDict(extra="forbid"), **types)


def _fields_at(place: Sequence[Any]) -> list[str]:
    """Name the fields that there are beside the one at a place of a study."""
    if len(place) == 1:
        return list(GridStudy.model_fields)
    inner = EncoderSettings if place[0] == "encoders" else _recipe_changes()
    return sorted(inner.model_fields)


def read_study(path: str | Path) -> GridStudy:
    """Read a study file.

    A relative ``catalogue`` or ``pool`` is meant from the file's folder.

    Raises
    ------
    StudyError
        If it cannot be read or says something that cannot be; the line is named.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST or not path.is_file():
            raise OSError(None, f"no ordinary file of at most {_LARGEST:,} bytes")
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > _MOST_BRACKETS:
            raise ValueError(f"more than {_MOST_BRACKETS} brackets")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise StudyError(
            f"{path} cannot be read ({error.strerror}).",
            "It should say which transfers to run.",
            "Give a YAML file with at least name, sources and targets.",
        ) from error
    except _NO_YAML as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise StudyError(
            f"{path}{where}: {reason.splitlines()[0][:200]}.",
            "The file is not YAML of plain fields."
            if isinstance(error, RecursionError)
            else "The file is not YAML, or a date or number in it is none.",
            "Mend that line." if mark else "Mend the file.",
        ) from error
    if not isinstance(data, dict):
        raise StudyError(
            f"{path} holds no fields.",
            "A study is a list of fields, such as name, sources and targets.",
            "See the page 'Run a grid' of the documentation.",
        )
    try:
        study = GridStudy.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = [p for p in first["loc"] if not _is_type_name(p)]
        line = _line_of(tree, place)
        named = ".".join(map(str, place)) or "the file"
        raise StudyError(
            f"{path}, line {line}: {named}: {first['msg'].removeprefix('Value error, ')}.",
            f"It says {reprlib.repr(first['input'])[:200]}."
            if first["type"] not in ("missing", "extra_forbidden")
            else f"The fields here are {', '.join(_fields_at(place))}.",
            "Mend that line.",
        ) from error
    changed: dict[str, Any] = {}
    try:
        if study.catalogue is not None:
            changed["catalogue"] = path.parent / study.catalogue.expanduser()
        if study.pool not in (None, "builtin"):
            changed["pool"] = str(path.parent / Path(str(study.pool)).expanduser())
    except RuntimeError as error:
        raise StudyError(
            f"{path}: {error}",
            "A path that begins with ~ is in a home folder, and there is none of that name.",
            "Write the path in full.",
        ) from error
    return study.model_copy(update=changed)


def _is_type_name(part: Any) -> bool:
    """Tell parts that pydantic adds for the members of a union from keys and numbers."""
    return isinstance(part, str) and (part.startswith(("tuple[", "literal[")) or part == "int")


def _line_of(node: Any, place: Sequence[Any]) -> int:
    """Find the line, from 1, of the deepest node on a path that is there."""
    line: int = node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == part]
            if not found:
                break
            key, node = found[0]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
