"""Pivots: what a source did for other targets, and how those resemble this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.expression import parse_method
from taskscout.methods.gains import Gains, required
from taskscout.methods.method import BaseMethod, Cost, Description, Factory, Method
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

Array = NDArray[np.float64]
Scale = Literal["auto", "raw", "standard"]

#: Base methods whose scores the paper takes as they are.
_RAW = ("retrieval-of-experts", "nearest-example")


def transfer_score(gains: Gains) -> Array:
    """Combine size and sign of transfer as TaskWeb does (sources × targets).

    T = PC / 2 + (0.2 PM - 0.1) / 2, with PC the mean relative change of the score against the
    target-only runs and PM the share of seeds that improved.
    """
    return np.asarray(0.5 * gains.relative + 0.5 * (0.2 * gains.positive - 0.1))


def taskshop(
    transfer: Array, pivots: Array, direct: Array, own: NDArray[np.int64], weight: float = 0.7
) -> Array:
    """Score sources by pivots.

    score(s) = weight mean over p of (T(s, p) + F(p)) / 2 + (1 - weight) D(s), over the pivots p
    other than s for which both are known.

    Parameters
    ----------
    transfer
        T, measured transfer from source to pivot, S × P, NaN where unknown.
    pivots
        F, likeness of each pivot and the target, P, NaN where unknown.
    direct
        D, likeness of each source and the target, S.
    own
        Column of each source among the pivots, or -1, S.
    weight
        Of the pivots.

    Returns
    -------
    S numbers; NaN for a source without a pivot.
    """
    terms = (transfer + pivots) / 2
    rows = np.flatnonzero(own >= 0)
    terms[rows, own[rows]] = np.nan
    known = ~np.isnan(terms)
    n = known.sum(1)
    mean = np.where(known, terms, 0.0).sum(1) / np.maximum(n, 1)
    return np.where(n > 0, weight * mean + (1.0 - weight) * direct, np.nan)


class TaskShop(BaseMethod):
    """TaskShop: transfer measured from a source to other tasks, and their likeness to the target.

        score(s) = w mean over pivots p of [T(s, p) + F(p)] / 2 + (1 - w) D(s),  w = 0.7

    Pivots are the ranked sources that are targets of a grid, other than s and the target
    itself. T(s, p) is measured transfer from s to p, PC / 2 + (0.2 PM - 0.1) / 2, with PC the
    mean relative change against target-only runs and PM the share of seeds that improved. F(p)
    and D(s) are a base method's scores of p and s for the target: as they are for
    ``retrieval-of-experts`` (the paper's RoE) and its variant ``nearest-example``; for other bases
    F is standardised over the sources and D scaled to lie between 0 and 1, as the paper does with
    a language model's judgements
    (option ``scale``). The target's own transfer results are never looked at.

    The paper's method is ``taskshop(RoE)``; write ``taskshop(esm-logme)`` for another base. The
    grid comes from ``--grid``.

    Cost: that of the base method; the grid had to be trained once. On TaskWeb it lifted the
    base's NDCG from 64.5 to 71.5 and lowered its regret@5 from 4.1 to 2.7 points.

    It fails without a grid for this model, and says nothing (NaN) about sources that are not in
    it. F(p) is nearly the same sum for every source, so what the pivots add is mostly the
    source's mean transfer: hold it against ``source-prior``.

    Reference: Kim et al. 2023 (arXiv 2305.13256), section 4.

    Parameters
    ----------
    base
        A method, or how it is written.
    gains
        Transfer results, or a file of them; ``--grid`` on the command line.
    weight
        w.
    scale
        ``raw``, ``standard``, or ``auto`` for raw with RoE and ``nearest-example`` only.
    """

    name = "taskshop"
    aliases = ("TaskShop",)
    key = "card"
    composed = True
    cost: Cost = "card"
    paper = "Kim et al. 2023"
    #: Keys of the base.
    reads: tuple[str, ...] = ()

    def __init__(
        self,
        base: Method | str | None = None,
        *,
        gains: Gains | str | Path | None = None,
        weight: float = 0.7,
        scale: Scale = "auto",
    ) -> None:
        if not 0.0 <= weight <= 1.0 or scale not in get_args(Scale):
            raise MethodError(
                f"{self.name} was given weight {weight} and scale {scale!r}.",
                f"The weight is a share, the scale one of {', '.join(get_args(Scale))}.",
                "Leave them out for 0.7 and auto.",
            )
        self.base = parse_method(base) if isinstance(base, str) else base
        self.gains = gains
        self.weight = weight
        self.scale: Scale = scale
        self.needs = frozenset({"grid"})
        if self.base is not None:
            self.members = (self.base,)
            self.reads = self.base.reads
            self.describes_from = self.base.describes_from
            self.key = self.base.key
            self.kinds = self.base.kinds
            self.needs = self.base.needs | {"grid"}
            self.cost = self.base.cost
            self.name = f"{self.name}({self.base.name})"

    def _base(self) -> Method:
        if self.base is None:
            raise MethodError(
                f"{self.name} was given no base method.",
                "It needs one that says how alike two tasks are.",
                "Name it: taskshop(RoE)",
            )
        return self.base

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Describe the source for the base method.

        Raises
        ------
        MethodError
            Without a base.
        """
        return self._base().describe(source, bench)

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Score per source; NaN for one that the grid or the base does not know.

        Raises
        ------
        MethodError
            Without a base or a grid.
        """
        base = self._base()
        gains = required(self.gains, self.name)
        items = [sources[i] for i in range(len(sources))]
        names = [s.source for s in items]
        similar = base.score(target, items, bench)
        pivots = [
            i
            for i, name in enumerate(names)
            if name in gains.targets and name != target.name and np.isfinite(similar[i])
        ]
        to_pivots, direct = self._scaled(similar, base)
        column = {names[i]: j for j, i in enumerate(pivots)}
        own = np.array([column.get(name, -1) for name in names], np.int64)
        measured = gains.select(transfer_score(gains), names, [names[i] for i in pivots])
        return taskshop(measured, to_pivots[pivots], direct, own, self.weight)

    def _scaled(self, similar: Array, base: Method) -> tuple[Array, Array]:
        """Scale the base's scores for use with pivots, and for use by themselves."""
        if self.scale == "raw" or (self.scale == "auto" and base.name in _RAW):
            return similar, similar
        known = similar[np.isfinite(similar)]
        if not len(known):
            return similar, similar
        low, high = known.min(), known.max()
        deviation = known.std()
        standard = (similar - known.mean()) / (deviation if deviation > 0 else 1.0)
        return standard, (similar - low) / (high - low if high > low else 1.0)


METHODS: dict[str, Factory] = {"taskshop": TaskShop}
