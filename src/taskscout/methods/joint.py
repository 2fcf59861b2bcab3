"""Methods that read several descriptions of one source.

Most methods read one key. A method made of others (:mod:`taskscout.methods.fusion`,
:mod:`taskscout.methods.pivot`) reads the keys of all of them: it names them in an attribute
``reads``, its ``describe`` returns a :class:`Joint`, and its ``score`` is given one
:class:`Joint` per source, in which a part may be missing. Pools keep the parts under their own
keys; a joint description is never saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args, overload

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.method import BaseMethod, Cost, Description, Method, Need
from taskscout.models.workbench import Workbench
from taskscout.tasks import KINDS, Task


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


def reads(method: Method) -> tuple[str, ...]:
    """List the keys that a method reads: its attribute ``reads``, else its ``key``."""
    several: tuple[str, ...] = getattr(method, "reads", ())
    return several or (method.key,)


def join(source: str, parts: Iterable[Description | None]) -> Joint:
    """Make one description of several; None and repeated keys are passed over, joints opened."""
    found: dict[str, Description] = {}
    for each in parts:
        if each is not None:
            for one in split(each):
                found.setdefault(one.key, one)
    return Joint("+".join(found), source, parts=found)


def split(description: Description) -> tuple[Description, ...]:
    """List the descriptions that a pool keeps of one: the parts of a joint, else itself."""
    if isinstance(description, Joint):
        return tuple(description.parts.values())
    return (description,)


def has(description: Description, method: Method) -> bool:
    """Tell whether a description holds anything that a method reads, without reading it."""
    held = description.parts if isinstance(description, Joint) else (description.key,)
    return any(k in held for k in reads(method))


def part(description: Description, method: Method) -> Description | None:
    """Pick what one method reads of a description; None where that is missing.

    A method that reads several keys gets a joint of those that are there.
    """
    if not has(description, method):
        return None
    if not isinstance(description, Joint):
        return description
    keys = reads(method)
    if len(keys) == 1:
        return description.parts[keys[0]]
    held = [k for k in keys if k in description.parts]
    parts = Parts(held, description.parts.__getitem__)
    return Joint("+".join(held), description.source, parts=parts)


def leaves(method: Method) -> Iterator[Method]:
    """The methods that one is made of; itself where it is made of none."""
    members: Sequence[Method] = getattr(method, "methods", ())
    base: Method | None = getattr(method, "base", None)
    if base is not None:
        members = [base]
    if not members:
        yield method
    for member in members:
        yield from leaves(member)


def announce(methods: Iterable[Method], bench: Workbench) -> None:
    """Let methods say what they will ask of a workbench, so that one run serves them all."""
    for method in methods:
        for leaf in leaves(method):
            if isinstance(leaf, BaseMethod):
                leaf.expect(bench)


class _Picked(Sequence[Description]):
    """What one method reads of some sources, read when asked for."""

    def __init__(self, sources: Sequence[Description], at: Sequence[int], method: Method) -> None:
        self._sources, self._at, self._method = sources, at, method

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, index: int) -> Description: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Description]: ...
    def __getitem__(self, index: int | slice) -> Description | Sequence[Description]:
        if isinstance(index, slice):
            return _Picked(self._sources, self._at[index], self._method)
        found = part(self._sources[self._at[index]], self._method)
        assert found is not None  # only places of sources that have it are kept
        return found


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
    if places:
        out[places] = method.score(target, _Picked(sources, places, method), bench)
    return out


class Composed(BaseMethod):
    """What all methods share that are made of others."""

    key = "card"
    cost: Cost = "card"
    #: Keys of all members.
    reads: tuple[str, ...] = ()
    #: What it is made of.
    methods: tuple[Method, ...] = ()

    def _compose(self, methods: Sequence[Method], *, every: bool) -> None:
        """Declare what the members need; it serves kinds that every one serves, or any."""
        self.methods = tuple(methods)
        self.reads = tuple(dict.fromkeys(k for m in methods for k in reads(m)))
        self.key = "+".join(self.reads)
        serves = all if every else any
        self.kinds = tuple(k for k in KINDS if serves(k in m.kinds for m in methods))
        self.needs = frozenset[Need]().union(*(m.needs for m in methods))
        order: tuple[Cost, ...] = get_args(Cost)
        self.cost = max((m.cost for m in methods), key=order.index)

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Describe the source for every member; what several read is made once."""
        made: dict[tuple[str, ...], Description] = {}
        for method in self.methods:
            if reads(method) not in made:
                made[reads(method)] = method.describe(source, bench)
        described = list(made.values())
        return described[0] if len(self.reads) == 1 else join(source.name, described)
