"""Methods that read several descriptions of one source.

Most methods read one key. A method made of others (:mod:`taskscout.methods.fusion`,
:mod:`taskscout.methods.pivot`) reads the keys of all of them: its ``describe``
returns a :class:`Joint`, and its ``score`` is given one :class:`Joint` per source, in which a
part may be missing. Pools keep the parts under their own keys; a joint is never saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, get_args, overload

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.method import CARD, BaseMethod, Cost, Description, Material, Method, Need
from taskscout.models.workbench import Workbench
from taskscout.tasks import KINDS, Task

Item = TypeVar("Item")


class Parts(Mapping[str, Description]):
    """Descriptions of one source by key, each read when it is asked for, and not kept.

    So the first of two stages reads nothing of what only the second one needs.
    """

    def __init__(self, keys: Iterable[str], read: Callable[[str], Description]) -> None:
        self._keys, self._read = tuple(dict.fromkeys(keys)), read

    def __getitem__(self, key: str) -> Description:
        if key not in self._keys:
            raise KeyError(key)
        return self._read(key)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@dataclass(frozen=True)
class Joint(Description):
    """Several descriptions of one source.

    Attributes
    ----------
    parts
        By key.
    """

    parts: Mapping[str, Description] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the arrays of all parts."""
        return sum(p.size for p in self.parts.values())


def gather(
    source: str,
    keys: Sequence[str],
    holds: Callable[[str], bool],
    read: Callable[[str], Description],
) -> Description | None:
    """Take what a method reads of one source; None where nothing of it is there.

    Parameters
    ----------
    source
        Its name.
    keys
        What the method reads: of one key, that description; of several, a joint of those held.
    holds, read
        Tell whether the source has the description of a key, and read it.
    """
    held = [k for k in keys if holds(k)]
    if not held:
        return None
    if len(keys) == 1:
        return read(held[0])
    return Joint("+".join(held), source, parts=Parts(held, read))


def join(source: str, parts: Iterable[Description | None]) -> Joint:
    """Make one description of several; None and repeated keys are passed over, joints opened."""
    by_key: dict[str, Description] = {}
    for each in parts:
        if each is not None:
            for one in split(each):
                by_key.setdefault(one.key, one)
    return Joint("+".join(by_key), source, parts=by_key)


def split(description: Description) -> tuple[Description, ...]:
    """List the descriptions that a pool keeps of one: the parts of a joint, else itself."""
    if isinstance(description, Joint):
        return tuple(description.parts.values())
    return (description,)


def has(description: Description, method: Method) -> bool:
    """Tell whether a description holds anything that a method reads, without reading it."""
    held = description.parts if isinstance(description, Joint) else (description.key,)
    return any(k in held for k in method.reads)


def part(description: Description, method: Method) -> Description | None:
    """Pick what one method reads of a description; None where that is missing.

    A method that reads several keys gets a joint of those that are there.
    """
    if not isinstance(description, Joint):
        return description if has(description, method) else None
    parts = description.parts
    return gather(description.source, method.reads, parts.__contains__, parts.__getitem__)


def leaves(method: Method) -> Iterator[Method]:
    """The methods that one is made of; itself where it is made of none."""
    if not method.members:
        yield method
    for member in method.members:
        yield from leaves(member)


def announce(methods: Iterable[Method], bench: Workbench) -> None:
    """Let methods say what they will ask of a workbench, so that one run serves them all."""
    for method in methods:
        for leaf in leaves(method):
            leaf.expect(bench)


class LazyDescriptions(Sequence[Description], Generic[Item]):
    """Descriptions of some sources, each read when it is asked for, and not kept.

    Parameters
    ----------
    items
        One per source: its name, its place elsewhere, whatever reading takes.
    read
        Reads the description of one.
    """

    def __init__(self, items: Sequence[Item], read: Callable[[Item], Description]) -> None:
        self._items, self._read = items, read

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Description: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Description]: ...
    def __getitem__(self, index: int | slice) -> Description | Sequence[Description]:
        if isinstance(index, slice):
            return LazyDescriptions(self._items[index], self._read)
        return self._read(self._items[index])


def scores_of(
    method: Method,
    target: Task,
    sources: Sequence[Description],
    bench: Workbench,
    at: Iterable[int] | None = None,
) -> NDArray[np.float64]:
    """Score sources by one of several methods that are made one.

    Parameters
    ----------
    method, target, sources, bench
        Of the score; sources may be joints.
    at
        Places of the sources to score; None for all.

    Returns
    -------
    One number per source; NaN for those not asked for, those that lack what the method reads,
    and all where it does not serve the target's kind.
    """
    out = np.full(len(sources), np.nan)
    if target.kind not in method.kinds:
        return out
    places = [i for i in (range(len(sources)) if at is None else at) if has(sources[i], method)]

    def read(place: int) -> Description:
        description = part(sources[place], method)
        assert description is not None  # only places of sources that have it are asked for
        return description

    if places:
        out[places] = method.score(target, LazyDescriptions(places, read), bench)
    return out


class Composed(BaseMethod):
    """What all methods share that are made of others."""

    key = CARD
    cost: Cost = "card"
    composed = True
    #: Keys of all members.
    reads: tuple[str, ...] = ()
    #: What it is made of.
    members: tuple[Method, ...] = ()

    def _compose(self, members: Sequence[Method], *, every: bool) -> None:
        """Declare what the members need; it serves kinds that every one serves, or any."""
        self.members = tuple(members)
        self.reads = tuple(dict.fromkeys(k for m in members for k in m.reads))
        self.key = "+".join(self.reads)
        serves = all if every else any
        self.kinds = tuple(k for k in KINDS if serves(k in m.kinds for m in members))
        self.needs = frozenset[Need]().union(*(m.needs for m in members))
        costs: tuple[Cost, ...] = get_args(Cost)
        self.cost = max((m.cost for m in members), key=costs.index)
        materials: tuple[Material, ...] = get_args(Material)
        self.describes_from = max((m.describes_from for m in members), key=materials.index)

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Describe the source for every member; what several read is made once."""
        described: dict[tuple[str, ...], Description] = {}
        for member in self.members:
            if member.reads not in described:
                described[member.reads] = member.describe(source, bench)
        parts = list(described.values())
        return parts[0] if len(self.reads) == 1 else join(source.name, parts)
