"""Fusion: several methods vote on one order."""

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


class Fusion(Composed):
    """What all methods share that are made of several others.

    Parameters
    ----------
    methods
        The methods, or how they are written.
    weights
        One number above 0 per method; None for equal ones.
    """

    def __init__(
        self, methods: Sequence[Method | str] = (), *, weights: Sequence[float] | None = None
    ) -> None:
        self.members = tuple(parse_method(m) if isinstance(m, str) else m for m in methods)
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.members)
        if len(self.weights) != len(self.members) or not all(
            np.isfinite(w) and w > 0 for w in self.weights
        ):
            raise MethodError(
                f"{self.name} was given {len(self.members)} methods and the weights "
                f"{', '.join(f'{w:g}' for w in self.weights)}.",
                "Each method has one weight, a number above 0.",
                f"Write them as {self.name}(a:2,b).",
            )
        if self.members:
            self._compose(self.members, every=False)
            weighted = (
                f"{m.name}:{w:g}" if w != 1 else m.name
                for m, w in zip(self.members, self.weights, strict=True)
            )
            self.name = f"{self.name}({','.join((*weighted, *self._options()))})"

    def _options(self) -> tuple[str, ...]:
        """Name the options that are not at their default, as they are written."""
        return ()

    def none(self, bench: Workbench) -> Description | None:
        """Describe "use no source", where every method has a score for it."""
        parts = [m.none(bench) for m in self.members]
        if not parts or any(p is None for p in parts):
            return None
        return parts[0] if len(self.reads) == 1 else join(NONE, parts)

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Fused score per source; NaN where no method has one.

        Raises
        ------
        MethodError
            Without methods, or if none of them serves the target's kind.
        """
        return self.fuse(self.votes(target, sources, bench))

    def votes(self, target: Task, sources: Sequence[Description], bench: Workbench) -> Array:
        """Score every source with every method (methods × sources).

        NaN where a method does not apply: it does not serve the target's kind, the source lacks
        the description it reads, or its own score is NaN.

        Raises
        ------
        MethodError
            Without methods, or if none of them serves the target's kind.
        """
        if not self.members:
            raise MethodError(
                f"{self.name} was given no methods.",
                "It makes one order out of those of others.",
                f"Name them: {self.name}(esm-logme,vocabulary)",
            )
        if target.kind not in self.kinds:
            raise MethodError(
                f"No method of {self.name} serves targets of kind {target.kind}.",
                f"Together they serve {', '.join(self.kinds)}.",
                "Choose other methods: taskscout methods",
            )
        return np.stack([scores_of(m, target, sources, bench) for m in self.members])

    def fuse(self, votes: Array) -> Array:
        """Make one score per source of those of all methods (methods × sources)."""
        raise NotImplementedError


class ReciprocalRank(Fusion):
    """Reciprocal rank fusion: methods vote with ranks, not with scores.

        score(s) = sum over methods m of w_m / (k + rank_m(s)),  k = 60

    rank_m(s) is 1 for the source that method m puts first; tied sources share the mean of their
    ranks. Since only ranks count, methods of any scale can be combined, and no single wild
    score decides. Write ``rrf(a,b,c)``; weights as ``rrf(a:2,b)``, another constant as
    ``rrf(a,b,k=10)``: the smaller k, the more the first places count.

    A method that does not apply to a source (NaN, no description, another kind) does not vote
    for it: it adds nothing to that source's sum, and ranks the others among themselves. So a
    source that few methods know comes late, as in the original; a source that none knows has no
    score.

    Cost: that of its methods; what several of them read is made once.

    It fails where one method is good and the others are noise, which it cannot know, and it
    forgets margins: a clear first place counts as a narrow one.

    Reference: Cormack et al. 2009 (SIGIR); k = 60 is theirs. For choosing source tasks: Vu et
    al. 2020 (arXiv 2005.00770), Schulte et al. 2024 (arXiv 2410.15148).

    Parameters
    ----------
    methods
        Two or more methods, or how they are written.
    weights
        One per method.
    k
        The constant.
    """

    name = "rrf"
    paper = "Cormack et al. 2009"

    def __init__(
        self,
        methods: Sequence[Method | str] = (),
        *,
        weights: Sequence[float] | None = None,
        k: float = 60.0,
    ) -> None:
        if not k >= 0:
            raise MethodError(
                f"{self.name} was given k {k}.",
                "The constant is added to ranks, which begin at 1.",
                "Give 0 or more; 60 is the default.",
            )
        self.k = k
        super().__init__(methods, weights=weights)

    def _options(self) -> tuple[str, ...]:
        return () if self.k == 60.0 else (f"k={self.k:g}",)

    def fuse(self, votes: Array) -> Array:
        """Add up weighted reciprocal ranks (methods × sources)."""
        return reciprocal_ranks(votes, self.weights, self.k)


def reciprocal_ranks(votes: Array, weights: Sequence[float], k: float = 60.0) -> Array:
    """Sum over methods of w / (k + rank), best rank 1, ties at their mean rank.

    Parameters
    ----------
    votes
        Scores, methods × sources, higher is better; NaN for no vote.
    weights
        One per method.

    Returns
    -------
    One number per source; NaN where no method votes.
    """
    from scipy.stats import rankdata

    total = np.zeros(votes.shape[1])
    for row, weight in zip(votes, weights, strict=True):
        known = ~np.isnan(row)
        total[known] += weight / (k + rankdata(-row[known], method="average"))
    return np.where(np.isnan(votes).all(0), np.nan, total)


class ZScore(Fusion):
    """Weighted mean of standardised scores: methods vote with margins.

        score(s) = sum over methods of w_m z_m(s) / sum of w_m,  z = (score - mean) / deviation

    mean and standard deviation are taken over the sources that method m scores. So a source
    that one method puts far ahead of the field stays ahead, which ranks would forget. Write
    ``zscore(a,b)``, weights as ``zscore(a:2,b)``.

    A method that does not apply to a source (NaN, no description, another kind) does not vote
    for it: both sums run over the methods that do. So a source that few methods know is judged
    by those few. A method that scores all sources alike votes 0; an infinite score counts as no
    vote.

    Cost: that of its methods; what several of them read is made once.

    It fails with methods whose scores have a long tail: one source far out squeezes all others
    together, and then that method decides only about that source. ``rrf`` does not mind. Scores
    depend on which sources are ranked together.

    Reference: Fox and Shaw 1994 (CombSUM), with scores standardised as in Renda and Straccia
    2003.

    Parameters
    ----------
    methods
        Two or more methods, or how they are written.
    weights
        One per method.
    """

    name = "zscore"
    paper = "Fox and Shaw 1994"

    def fuse(self, votes: Array) -> Array:
        """Average standardised scores (methods × sources)."""
        return standardised_mean(votes, self.weights)


def standardised_mean(votes: Array, weights: Sequence[float]) -> Array:
    """Weighted mean of z-scores over the methods that vote.

    Parameters
    ----------
    votes
        Scores, methods × sources; NaN (or infinite) for no vote.
    weights
        One per method.

    Returns
    -------
    One number per source; NaN where no method votes.
    """
    total, weight = np.zeros(votes.shape[1]), np.zeros(votes.shape[1])
    for row, w in zip(votes, weights, strict=True):
        known = np.isfinite(row)
        if not known.any():
            continue
        centred = row[known] - row[known].mean()
        spread = float(np.sqrt((centred**2).mean()))
        # Equal scores differ by rounding at most.
        flat = spread <= 1e-12 * float(np.abs(row[known]).max())
        total[known] += w * (np.zeros_like(centred) if flat else centred / spread)
        weight[known] += w
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)


METHODS: dict[str, Factory] = {"rrf": ReciprocalRank, "zscore": ZScore}
