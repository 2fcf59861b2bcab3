"""Two stages: a cheap method over the whole pool, then a better one on its short list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.joint import join, part, reads
from taskscout.methods.method import BaseMethod, Cost, Description, Factory, Method, Need
from taskscout.models.workbench import Workbench
from taskscout.tasks import KINDS, Task

Array = NDArray[np.float64]

#: Name of the description that stands for "use no source".
_NONE = "none"
#: Sources on the short list.
KEEP = 10


def chained(first: Array, second: Array, sources: NDArray[np.bool_] | None = None) -> Array:
    """One score that puts the short list first, and the rest after it.

    A source that the second method scored keeps that score. The others keep the first method's,
    moved by one constant: each stands as far below the worst of the short list as the first
    method put it below the last source of the short list.

    Parameters
    ----------
    first
        Scores of the first method, NaN where it has none.
    second
        Scores of the second method, NaN for all that are not on the short list.
    sources
        Which of them are sources, and not "use no source"; None for all.

    Returns
    -------
    Scores; NaN where neither method has one.
    """
    short, rest = ~np.isnan(second), np.isnan(second) & ~np.isnan(first)
    out = np.where(short, second, np.nan)
    if not rest.any():
        return out
    if not short.any():
        return np.where(rest, first, np.nan)
    listed = short & ~np.isnan(first) & (True if sources is None else sources)
    last = max(first[rest].max(), first[listed].min() if listed.any() else -np.inf)
    worst = second[short].min()
    # Strictly below, also where the first method ties at the end of the short list.
    below = np.nextafter(worst, -np.inf)
    out[rest] = np.minimum(worst - (last - first[rest]), below)
    return out


class TwoStage(BaseMethod):
    """Two stages: a cheap method ranks the whole pool, a better one its short list.

        score(s) = second(s)                     for the ``keep`` sources that first puts first,
        score(s) = w - (l - first(s))            for all others,

    w being the worst of the second's scores and l the first's score of the last on the short
    list. So the short list comes first, in the second method's order and with its scores; the
    rest follows in the first's order, each as far below as the first method put it. Numbers of
    the rest are for sorting, not for comparing with the short list's.

    Write ``first>second``, such as ``esm-logme>logme``: maps are fast and see every source,
    source models see more and cost a forward pass each. ``two-stage(a,b,keep=20)`` says how long
    the list is (10).

    "Use no source" is always on the short list, beside the ``keep`` sources, so that it is held
    against them by the better method; it has a score wherever the second method has one for it,
    and sources that are not on the list come after it whatever it is worth. A source on the list
    that the second method cannot score (NaN, or nothing kept for it) goes to the rest.

    Cost: the first method's over the pool and the second's for ``keep`` sources: with
    ``esm-logme>logme`` ten forward passes over the target, seconds for a few hundred texts. Needs
    what both need.

    It fails where the first method leaves the best source out, which no second stage can mend:
    lengthen the list until the order of its head no longer changes.

    Parameters
    ----------
    methods
        The two methods, or how they are written.
    keep
        Sources on the short list.
    """

    name = "two-stage"
    key = "card"
    cost: Cost = "card"
    paper = "control"

    def __init__(self, methods: Sequence[Method | str] = (), *, keep: int = KEEP) -> None:
        if methods and len(methods) != 2:
            raise MethodError(
                f"{self.name} was given {len(methods)} methods.",
                "It is made of two: one for the whole pool and one for the short list.",
                "Write them as esm-logme>logme.",
            )
        if keep < 1:
            raise MethodError(
                f"{self.name} was given keep {keep}.",
                "It is the number of sources that the second method scores.",
                "Give 1 or more; 10 is the default.",
            )
        self.keep = keep
        self.methods = tuple(_method(m) for m in methods)
        if self.methods:
            first, second = self.methods
            self.reads = tuple(dict.fromkeys((*reads(first), *reads(second))))
            self.key = "+".join(self.reads)
            self.kinds = tuple(k for k in KINDS if k in first.kinds and k in second.kinds)
            self.needs = frozenset[Need]().union(first.needs, second.needs)
            order: tuple[Cost, ...] = get_args(Cost)
            self.cost = max(first.cost, second.cost, key=order.index)
            self.paper = "; ".join(dict.fromkeys((first.paper, second.paper)))
            self.name = (
                f"{first.name}>{second.name}"
                if keep == KEEP
                else f"two-stage({first.name},{second.name},keep={keep})"
            )

    #: Keys of both methods.
    reads: tuple[str, ...] = ()

    def _pair(self) -> tuple[Method, Method]:
        if not self.methods:
            raise MethodError(
                f"{self.name} was given no methods.",
                "It is made of two: one for the whole pool and one for the short list.",
                "Write them as esm-logme>logme.",
            )
        first, second = self.methods
        return first, second

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Describe the source for both methods; what both read is made once."""
        made: dict[tuple[str, ...], Description] = {}
        for method in self._pair():
            if reads(method) not in made:
                made[reads(method)] = method.describe(source, bench)
        described = list(made.values())
        return described[0] if len(self.reads) == 1 else join(source.name, described)

    def none(self, bench: Workbench) -> Description | None:
        """Describe "use no source", where the second method has a score for it."""
        first, second = self._pair()
        found = second.none(bench)
        if found is None or len(self.reads) == 1:
            return found
        return join(_NONE, (first.none(bench), found))

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """One score per source that puts the short list first; see :func:`chained`.

        Raises
        ------
        MethodError
            Without methods, or if the second one scores no source of the short list.
        """
        names, first, second = self._stages(target, sources, bench)
        return chained(first, second, np.array([n != _NONE for n in names], bool))

    def stages(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> tuple[Array, Array]:
        """Score sources by the first method, and the short list by the second.

        Returns
        -------
        Two arrays with one number per source; NaN where a method does not apply, and in the
        second for all that are not on the short list.

        Raises
        ------
        MethodError
            Without methods, or if the second one scores no source of the short list.
        """
        _, first, second = self._stages(target, sources, bench)
        return first, second

    def _stages(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> tuple[list[str], Array, Array]:
        """Do what :meth:`stages` says, and name the sources."""
        one, other = self._pair()
        names: list[str] = []
        read: dict[int, Description] = {}
        for i in range(len(sources)):
            # Read once, and no more held of it than the first method reads.
            source = sources[i]
            names.append(source.source)
            found = part(source, one)
            if found is not None:
                read[i] = found
        first = _scores(one, target, read, len(names), bench)
        known = [i for i, n in enumerate(names) if n != _NONE and not np.isnan(first[i])]
        short = sorted(known, key=lambda i: (-first[i], names[i]))[: self.keep]
        short += [i for i, n in enumerate(names) if n == _NONE]
        # In the order given, as any method is asked.
        read = {i: d for i in sorted(short) if (d := part(sources[i], other)) is not None}
        second = _scores(other, target, read, len(names), bench)
        if known and np.isnan(second[known]).all():
            raise MethodError(
                f"{other.name} applies to none of the {min(self.keep, len(known))} sources that "
                f"{one.name} puts first.",
                "Either it has no score for this target and these sources, or what it reads "
                f"({', '.join(reads(other))}) is not kept for them.",
                f"Use {one.name} alone, or make it: taskscout pool describe --method {other.name}",
            )
        return names, first, second


def _scores(
    method: Method, target: Task, read: Mapping[int, Description], n: int, bench: Workbench
) -> Array:
    """Score the sources that were read, by their places among n; NaN for all others."""
    out = np.full(n, np.nan)
    if read and target.kind in method.kinds:
        out[list(read)] = method.score(target, list(read.values()), bench)
    return out


class RefinedLogME(TwoStage):
    """ESM-LogME over the whole pool, LogME with the real source models on its ten best.

        score(s) = LogME(model_s(target), labels)    for the 10 sources with the best ESM-LogME,

    and below them the other sources in the order of ESM-LogME, each as far below the worst of
    the ten as ESM-LogME put it below the tenth: numbers for sorting, not for comparing.

    Space maps see a whole pool in one forward pass, but explain only 18% to 83% of what tuning
    did; the real models see all of it and cost a forward pass each. In the pilot the first pick
    of LogME on real models gained 2.0 points and that on maps 1.2. "Use no source" is always
    among those held against each other, on the untouched encoder.

    Cost: that of ``esm-logme``, and ten forward passes over the target's texts: seconds for a
    few hundred texts, nothing the second time. Reads space maps and adapters.

    It fails where the maps leave the best source out; ``keep=20`` looks at twenty. A source
    without an adapter stays behind the list.

    Reference: Schulte et al. 2024 (arXiv 2410.15148) for both stages; You et al. 2021 for LogME.

    Parameters
    ----------
    keep
        Sources on the short list.
    """

    def __init__(self, *, keep: int = KEEP) -> None:
        super().__init__(("esm-logme", "logme"), keep=keep)


def _method(method: Method | str) -> Method:
    return parse_stages(method) if isinstance(method, str) else method


def cut(text: str) -> tuple[str, ...]:
    """Cut the way a method is written at each ``>`` outside brackets.

    >>> cut("rrf(a,b>c)>logme")
    ('rrf(a,b>c)', 'logme')
    """
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == ">" and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return tuple(p.strip() for p in pieces)


def parse_stages(text: str, *, keep: int = KEEP) -> Method:
    """Make a method of ``first>second``; ``a>b>c`` is ``(a>b)>c``; without ``>`` any method.

    Parameters
    ----------
    text
        Each stage as :func:`taskscout.methods.fusion.parse_method` reads it.
    keep
        Sources on the short list of every stage.

    Raises
    ------
    MethodError
        If a stage is empty or unknown.
    """
    from taskscout.methods.fusion import parse_method

    pieces = cut(text)
    if len(pieces) == 1:
        return parse_method(text)
    if not all(pieces):
        raise MethodError(
            f"{text!r} cannot be read as a method: a stage is empty.",
            "A method stands on both sides of '>'.",
            "Write it like esm-logme>logme.",
        )
    method = parse_method(pieces[0])
    for piece in pieces[1:]:
        method = TwoStage((method, parse_method(piece)), keep=keep)
    return method


def refined(method: Method, keep: int = KEEP, second: str = "logme") -> Method:
    """Refine a method's short list: what ``rank --refine`` does to the method that orders."""
    return TwoStage((method, second), keep=keep)


METHODS: dict[str, Factory] = {"two-stage": TwoStage, "esm-logme>logme": RefinedLogME}
