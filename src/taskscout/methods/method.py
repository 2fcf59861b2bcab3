"""The one protocol behind which every selection method stands, and the register of methods."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.models.workbench import Workbench
from taskscout.tasks import KINDS, Kind, Task

#: What a method may need beside the target's text.
Need = Literal["labels", "tuned source", "tuned target", "grid"]

#: What scoring a target costs, cheapest first: nothing but cards; counting words; one forward
#: pass of the base encoder over the target; one forward pass of every source's model; tuning
#: the encoder on the target.
Cost = Literal["card", "words", "embedding", "source models", "tuning"]

#: What a source's description is made of: its card and texts, with the base encoder at most; the
#: model that the workbench's recipe tunes on it, which pools keep of every source; or a tuning of
#: the method's own.
Material = Literal["texts", "tuned model", "own tuning"]

#: Key of a source's card, which needs no making.
CARD = "card"


@dataclass(frozen=True)
class Description:
    """Named arrays plus a small header: what a pool keeps of one source for some methods.

    Attributes
    ----------
    key
        Which description this is, e.g. ``space-map``; several methods may read one key.
    source
        Name of the source.
    header
        Plain JSON types.
    arrays
        Saved as safetensors.
    """

    key: str
    source: str
    header: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of its arrays."""
        return sum(a.nbytes for a in self.arrays.values())


@runtime_checkable
class Method(Protocol):
    """A selection method: two functions, and what the user has to know about it.

    The class docstring is what ``taskscout methods NAME`` shows: the idea, the formula, the
    cost, when it fails, in half a page.

    Attributes
    ----------
    name
        What the user types.
    key
        Key of the description it makes; ``card`` for one that reads cards only.
    reads
        Keys of all descriptions it reads of a source: ``(key,)``, or those of its members.
    members
        The methods that it is made of, if it is made of others.
    composed
        Whether it is made of others, also where none were named yet. ``all`` leaves it out.
    describes_from
        What a source's description is made of.
    kinds
        Kinds of targets it serves.
    needs
        What it needs beside the target's text.
    cost
        Cost class of scoring a target.
    paper
        Where it comes from, e.g. ``Schulte et al. 2024``.
    """

    name: str
    key: str
    composed: bool
    describes_from: Material
    kinds: tuple[Kind, ...]
    needs: frozenset[Need]
    cost: Cost
    paper: str

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of all descriptions that it reads of a source."""

    @property
    def members(self) -> Sequence[Method]:
        """The methods that it is made of."""

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Offline, once per source; what it returns is what a pool keeps."""

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Online, once per target: one score per source, higher is better.

        The target's rows are those of its ``train`` split. NaN where the method does not apply.
        """

    def none(self, bench: Workbench) -> Description | None:
        """The description of "use no source", or None where the method has no such score."""

    def expect(self, bench: Workbench) -> None:
        """Tell the workbench what will be asked of it, before several methods share it."""


class BaseMethod:
    """Defaults for methods: every kind, nothing needed, no score for "none"."""

    name: str = ""
    #: Other names that find it, such as the paper's: ``TaskEmb``. Upper and lower case, spaces and
    #: hyphens are the same. They belong to the class that states them, not to its subclasses.
    aliases: tuple[str, ...] = ()
    key: str = ""
    composed: bool = False
    describes_from: Material = "texts"
    members: Sequence[Method] = ()
    kinds: tuple[Kind, ...] = KINDS
    needs: frozenset[Need] = frozenset()
    cost: Cost = "embedding"
    paper: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """The key that it makes."""
        return (self.key,)

    def none(self, bench: Workbench) -> Description | None:  # noqa: ARG002  # part of the protocol
        """No score for "use no source"."""
        return None

    def expect(self, bench: Workbench) -> None:
        """Tell the workbench what will be asked of it, before several methods share it."""


#: Modules of :mod:`taskscout.methods` that hold built-in methods; each has a dictionary
#: ``METHODS`` of factories by name. They import no more than NumPy at their top.
FAMILIES: tuple[str, ...] = (
    "transferability",
    "two_stage",
    "baselines",
    "mnli_probe",
    "vocabulary",
    "term_divergence",
    "embedding_divergence",
    "sample_divergence",
    "text_embedding",
    "task_embedding",
    "prompt_parameters",
    "tuned_parameters",
    "lora_parameters",
    "token_matching",
    "pivot",
    "fusion",
)

ENTRY_POINT_GROUP = "taskscout.methods"

#: Names that an unknown one is answered with, at most.
_ANSWERS = 8

Factory = Callable[..., Method]


class _Register:
    """All built-in factories by name, read once."""

    _factories: ClassVar[dict[str, Factory]] = {}

    @classmethod
    def factories(cls) -> dict[str, Factory]:
        if not cls._factories:
            for family in FAMILIES:
                module = importlib.import_module(f"taskscout.methods.{family}")
                cls._factories.update(module.METHODS)
        return cls._factories


def method_names() -> tuple[str, ...]:
    """Names of all methods, built-in and from other packages' entry points."""
    builtin = _Register.factories()
    others = {e.name for e in entry_points(group=ENTRY_POINT_GROUP)}
    return (*builtin, *sorted(others - set(builtin)))


def method_aliases() -> dict[str, tuple[str, ...]]:
    """Other names of every method that has some, by its name.

    A class states its own in ``aliases``. Where several methods are made of one class, such as
    the forms of a prompt's embedding, they are those of the one that is registered first.
    """
    out: dict[str, tuple[str, ...]] = {}
    stated: set[object] = set()
    for name in method_names():
        try:
            factory = _factory(name)
        except MethodError:
            continue  # another package's, which says so where it is asked for by its name
        made: Any = getattr(factory, "func", factory)
        if made not in stated and vars(made).get("aliases"):
            stated.add(made)
            out[name] = tuple(made.aliases)
    return out


def resolve(name: str) -> str:
    """Find the method that a name stands for: its own, or one of its aliases, in any case.

    Parameters
    ----------
    name
        ``taskemb``, ``P-tuning v2`` and ``ESM-LogME`` are as good as the registered names.

    Returns
    -------
    One of :func:`method_names`; a name goes before another method's alias.

    Raises
    ------
    MethodError
        If no method is called that; it names those whose name or alias begins with it, contains
        it or comes close.
    """
    names = method_names()
    if name in names:
        return name
    asked = _plain(name)
    called = {_plain(n): n for n in names}
    if asked in called:
        return called[asked]
    aliases = {a: n for n, several in method_aliases().items() for a in several}
    for alias, owner in aliases.items():
        if _plain(alias) == asked:
            return owner
    labels = {n: n for n in names} | {a: f"{n} ({a})" for a, n in aliases.items()}
    begins = [n for n in labels if asked and _plain(n).startswith(asked)]
    contains = [n for n in labels if asked and asked in _plain(n)]
    plain = {_plain(n): n for n in labels}
    close = [plain[n] for n in difflib.get_close_matches(asked, plain, 3)]
    matches = list(dict.fromkeys(labels[n] for n in (*begins, *contains, *close)))
    more = f" and {len(matches) - _ANSWERS} more" if len(matches) > _ANSWERS else ""
    raise MethodError(
        f"There is no method {name!r}.",
        f"Like it are {', '.join(matches[:_ANSWERS])}{more}."
        if matches
        else "No name is close to it.",
        "See them all: taskscout methods",
    )


def _plain(name: str) -> str:
    """Make the form in which names are compared."""
    return re.sub(r"[\s_-]+", "-", name.strip().casefold())


def _factory(name: str) -> Factory:
    """Find what makes the method of a registered name."""
    factory = _Register.factories().get(name)
    if factory is not None:
        return factory
    entry = next(e for e in entry_points(group=ENTRY_POINT_GROUP) if e.name == name)
    try:
        loaded: Factory = entry.load()
    except Exception as error:  # whatever another package's import raises
        package = entry.dist.name if entry.dist is not None else entry.value
        raise MethodError(
            f"The method {name!r} of the package {package} cannot be loaded: {error}.",
            f"Its entry point is {entry.value}.",
            "Mend that package, or uninstall it.",
        ) from error
    return loaded


def options_of(name: str) -> tuple[str, ...]:
    """Names of the options that a method knows."""
    return tuple(inspect.signature(_factory(resolve(name))).parameters)


def get_method(name: str, **options: Any) -> Method:
    """Make the method of that name.

    Parameters
    ----------
    name
        A name or an alias; see :func:`resolve`.
    options
        Options of the method; those it does not know are an error.

    Raises
    ------
    MethodError
        If no method has that name, or it does not know an option.
    """
    factory = _factory(resolve(name))
    parameters = inspect.signature(factory).parameters
    unknown = [o for o in options if o not in parameters]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise MethodError(
            f"Method {name!r} has no option {unknown[0]!r}.",
            f"Its options are {', '.join(parameters) or 'none'}.",
            "Leave it out.",
        )
    return factory(**options)
