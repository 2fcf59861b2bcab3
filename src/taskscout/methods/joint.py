"""Methods that read several descriptions of one source.

Most methods read one key. A method made of others (:mod:`taskscout.methods.fusion`,
:mod:`taskscout.methods.pivot`) reads the keys of all of them: it names them in an attribute
``reads``, its ``describe`` returns a :class:`Joint`, and its ``score`` is given one
:class:`Joint` per source, in which a part may be missing. Pools keep the parts under their own
keys; a joint description is never saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from taskscout.methods.method import Description, Method


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


def part(description: Description, method: Method) -> Description | None:
    """Pick what one method reads of a description; None where that is missing.

    A method that reads several keys gets a joint of those that are there.
    """
    if not isinstance(description, Joint):
        return description if description.key in reads(method) else None
    found = [description.parts.get(k) for k in reads(method)]
    if len(found) == 1:
        return found[0]
    return join(description.source, found) if any(f is not None for f in found) else None
