"""Fusion: several methods vote on one order; and the syntax in which methods are combined.

A method is written ``name`` or ``name(arguments)``. Arguments are methods, each with a weight
after a colon if need be, and options: ``rrf(esm-logme, vocabulary, k=30)``,
``zscore(esm-logme:2, taskshop(nearest-example))``, ``terms-renyi(alpha=0.5)``. Wherever a method
may stand, so may two stages, ``first>second``: ``rrf(esm-logme>logme, vocabulary)``;
``a>b>c`` is ``(a>b)>c``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.joint import Composed, join, scores_of
from taskscout.methods.method import Description, Factory, Method, get_method, options_of
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

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
        self.methods = tuple(parse_method(m) if isinstance(m, str) else m for m in methods)
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.methods)
        if len(self.weights) != len(self.methods) or not all(
            np.isfinite(w) and w > 0 for w in self.weights
        ):
            raise MethodError(
                f"{self.name} was given {len(self.methods)} methods and the weights "
                f"{', '.join(f'{w:g}' for w in self.weights)}.",
                "Each method has one weight, a number above 0.",
                f"Write them as {self.name}(a:2,b).",
            )
        if self.methods:
            self._compose(self.methods, every=False)
            weighted = (
                f"{m.name}:{w:g}" if w != 1 else m.name
                for m, w in zip(self.methods, self.weights, strict=True)
            )
            self.name = f"{self.name}({','.join((*weighted, *self._options()))})"

    def _options(self) -> tuple[str, ...]:
        """Name the options that are not at their default, as they are written."""
        return ()

    def none(self, bench: Workbench) -> Description | None:
        """Describe "use no source", where every method has a score for it."""
        found = [m.none(bench) for m in self.methods]
        if not found or any(f is None for f in found):
            return None
        return found[0] if len(self.reads) == 1 else join("none", found)

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
        if not self.methods:
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
        return np.stack([scores_of(m, target, sources, bench) for m in self.methods])

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


# -- how methods are written ------------------------------------------------------------------

_MARKS = "(),:=>"
_TOKEN = re.compile(r"\s*([(),:=>]|[^(),:=>\s][^(),:=>]*)")


def parse_method(text: str, **options: Any) -> Method:
    """Make a method of the way it is written.

    Parameters
    ----------
    text
        ``name``, ``name(arguments)`` or ``first>second``; see the head of this module.
    options
        Given to every method in the text whose factory knows them, and to no other, e.g.
        ``gains`` from ``--grid``; what the text says goes first.

    Raises
    ------
    MethodError
        If the text is not of that form, or names a method or an option that there is not.
    """
    parser = _Parser(text, options)
    method = parser.stages()
    parser.end()
    return method


class _Parser:
    """Recursive descent over ``name(argument, …)>name(argument, …)>…``."""

    def __init__(self, text: str, options: Mapping[str, Any]) -> None:
        self.text = text
        self.options = options
        self.tokens = [m.group(1).strip() for m in _TOKEN.finditer(text)]
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def fail(self, wanted: str) -> MethodError:
        found = repr(self.peek()) if self.peek() else "the end"
        before = "".join(self.tokens[: self.at])
        return MethodError(
            f"{self.text!r} cannot be read as a method: after {before!r} comes {found}.",
            f"{wanted} should stand there.",
            "Write it like rrf(esm-logme:2,vocabulary) or terms-renyi(alpha=0.5).",
        )

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise self.fail("Nothing")

    def stages(self) -> Method:
        found = self.method()
        while self.peek() == ">":
            from taskscout.methods.two_stage import TwoStage

            self.next()
            found = TwoStage((found, self.method()))
        return found

    def method(self) -> Method:
        if self.peek() in ("", *_MARKS):
            raise self.fail("The name of a method")
        name = self.next()
        members: list[Method] = []
        weights: list[float] = []
        options: dict[str, Any] = {}
        if self.peek() == "(":
            self.next()
            while self.peek() != ")":
                if self.peek(1) == "=":
                    option = self.next()
                    self.next()
                    if self.peek() in ("", *_MARKS):
                        raise self.fail(f"A value of {option}")
                    options[option.replace("-", "_")] = _value(self.next())
                else:
                    members.append(self.stages())
                    weights.append(self.weight())
                if self.peek() == ",":
                    self.next()
                elif self.peek() != ")":
                    raise self.fail("A comma or a closing bracket")
            self.next()
        return self.make(name, members, weights, options)

    def weight(self) -> float:
        if self.peek() != ":":
            return 1.0
        self.next()
        try:
            weight = float(self.peek())
        except ValueError:
            raise self.fail("A weight, a number,") from None
        self.next()
        return weight

    def make(
        self, name: str, members: list[Method], weights: list[float], options: dict[str, Any]
    ) -> Method:
        known = options_of(name)
        for option, value in self.options.items():
            if option in known:
                options.setdefault(option, value)
        if members and "methods" in known:
            options["methods"] = members
            if any(w != 1.0 for w in weights):
                options["weights"] = weights
        elif len(members) == 1 and "base" in known and weights == [1.0]:
            options["base"] = members[0]
        elif members:
            raise MethodError(
                f"{name!r} was given {len(members)} methods in {self.text!r}.",
                "It is made of one, without a weight."
                if "base" in known
                else "It is not made of others.",
                "See what it takes: taskscout methods " + name,
            )
        return get_method(name, **options)


def _value(text: str) -> Any:
    """Read an option: a number, true, false, or text."""
    plain = {"true": True, "false": False}
    if text.lower() in plain:
        return plain[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


METHODS: dict[str, Factory] = {"rrf": ReciprocalRank, "zscore": ZScore}
