"""Two stages: a cheap method over the whole pool, then a better one on its short list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.expression import parse_method
from taskscout.methods.joint import Composed, join, scores_of
from taskscout.methods.method import Description, Factory, Method
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from taskscout.tasks.names import NONE

Array = NDArray[np.float64]

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


class TwoStage(Composed):
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
        if methods:
            first, second = (parse_method(m) if isinstance(m, str) else m for m in methods)
            self._compose((first, second), every=True)
            self.paper = "; ".join(dict.fromkeys((first.paper, second.paper)))
            self.name = (
                f"{first.name}>{second.name}"
                if keep == KEEP
                else f"two-stage({first.name},{second.name},keep={keep})"
            )

    def _pair(self) -> tuple[Method, Method]:
        if not self.members:
            raise MethodError(
                f"{self.name} was given no methods.",
                "It is made of two: one for the whole pool and one for the short list.",
                "Write them as esm-logme>logme.",
            )
        first, second = self.members
        return first, second

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Describe the source for both methods; what both read is made once."""
        self._pair()
        return super().describe(source, bench)

    def none(self, bench: Workbench) -> Description | None:
        """Describe "use no source", where the second method has a score for it."""
        first, second = self._pair()
        untouched = second.none(bench)
        if untouched is None or len(self.reads) == 1:
            return untouched
        return join(NONE, (first.none(bench), untouched))

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
        return chained(first, second, np.array([n != NONE for n in names], bool))

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
        names = [sources[i].source for i in range(len(sources))]
        first = scores_of(one, target, sources, bench)
        known = [i for i, n in enumerate(names) if n != NONE and not np.isnan(first[i])]
        short = sorted(known, key=lambda i: (-first[i], names[i]))[: self.keep]
        short += [i for i, n in enumerate(names) if n == NONE]
        # In the order given, as any method is asked.
        second = scores_of(other, target, sources, bench, sorted(short))
        if known and np.isnan(second[known]).all():
            raise MethodError(
                f"{other.name} applies to none of the {min(self.keep, len(known))} sources that "
                f"{one.name} puts first.",
                "Either it has no score for this target and these sources, or what it reads "
                f"({', '.join(other.reads)}) is not kept for them.",
                f"Use {one.name} alone, or make it: taskscout pool describe --method {other.name}",
            )
        return names, first, second


class RefinedLogME(TwoStage):
    """ESM-LogME over the whole pool, LogME with the real source models on its ten best.

        score(s) = LogME(model_s(target), labels)    for the 10 sources with the best ESM-LogME,

    and below them the other sources in the order of ESM-LogME, each as far below the worst of
    the ten as ESM-LogME put it below the tenth: numbers for sorting, not for comparing.

    Space maps see a whole pool in one forward pass, but explain only a part of what tuning did;
    the real models see all of it and cost a forward pass each. "Use no source" is always among
    those held against each other, on the untouched encoder.

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


def refined(method: Method, keep: int = KEEP, second: str = "logme") -> Method:
    """Refine a method's short list: what ``rank --refine`` does to the method that orders."""
    return TwoStage((method, second), keep=keep)


METHODS: dict[str, Factory] = {"two-stage": TwoStage, "esm-logme>logme": RefinedLogME}
