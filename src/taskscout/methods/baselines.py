"""Controls: what every selection method has to beat. They read cards, not texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.gains import Gains, required
from taskscout.methods.method import BaseMethod, Cost, Description, Factory
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from taskscout.tasks.names import NONE


class CardMethod(BaseMethod):
    """What all methods share that look at cards only."""

    key = "card"
    cost: Cost = "card"

    def describe(self, source: Task, bench: Workbench) -> Description:  # noqa: ARG002
        """Take the source's card; pools have it already."""
        return Description(self.key, source.name, source.card.to_dict())


class RandomOrder(CardMethod):
    """Sources in random order: the floor under every other method.

    Each source gets a number between 0 and 1 that depends on the seed, the target's content
    and the source's name, and on nothing else. So a ranking can be repeated, another target or
    seed gives another order, and adding a source to the pool does not move the others.

    Cost: none. It never fails, and it is never right but by chance. Average the measure of
    interest over many seeds; one random order says little. A random order can look good: on
    TaskWeb its mean NDCG is 44 of 100, its mean regret@5 is 2.9 points.

    Parameters
    ----------
    seed
        Another seed, another order.
    """

    name = "random"
    paper = "control"

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def score(
        self,
        target: Task,
        sources: Sequence[Description],
        bench: Workbench,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """Numbers between 0 and 1, one per source."""
        head = f"{self.seed}:{target.fingerprint}:".encode()
        digests = [
            hashlib.blake2b(head + s.source.encode("utf-8", "surrogatepass"), digest_size=8)
            for s in sources
        ]
        return np.array([int.from_bytes(d.digest(), "little") / 2**64 for d in digests])


class Size(CardMethod):
    """The source with the most training rows first.

    score = number of rows of the source's ``train`` split, as its card states it. The target
    plays no part: every target gets the same order.

    Cost: none. It rests on the old rule that large sources (MNLI, QQP) are safe. It fails
    where sources were cut to one size, where the large ones are of another kind, and wherever
    relatedness matters: on TaskWeb it does no better than a random order (Spearman 0.16,
    regret@1 of 13 points against 8 for a random order).

    Reference: Lin et al. 2024 use it as a control, in a fixed order of 13 sources.
    """

    name = "size"
    paper = "Lin et al. 2024"

    def score(
        self,
        target: Task,  # noqa: ARG002
        sources: Sequence[Description],
        bench: Workbench,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """Rows of the training split; NaN where the card does not say."""
        return np.array([float((s.header.get("rows") or {}).get("train", np.nan)) for s in sources])


def _label_set(card: dict[str, Any]) -> set[str]:
    return {str(name).strip().casefold() for name in card.get("label_names") or ()}


def _class_match(own: set[str], other: set[str]) -> float:
    """Agreement of two tasks' classes in number and in names, from 0 to 2."""
    if not own or not other:
        return 0.0
    numbers = sorted((len(own), len(other)))
    return numbers[0] / numbers[1] + len(own & other) / len(own | other)


class Format(CardMethod):
    """The source whose output has the target's format first.

    score = (4 k + p + c + l) / 7, between 0 and 1, from the two cards:

    - k is 1 where the kinds are equal, else 0; it outweighs the other three together;
    - p is 1 where both have a second text or neither has, 0 where one has, and 1/2 where a
      card does not say;
    - c is the smaller number of classes over the larger;
    - l is the Jaccard index of the label names, case folded. Where one task has no classes, or
      neither, there is nothing in which their classes could agree: c and l are 0.

    Cost: none. It is Padmakumar et al.'s heuristic, to group sources by output format and take
    the target's group, with finer steps inside a group. There a same-format group came within
    2 points of training on everything, and another format's group could be worse than no
    source at all. It fails where format says little: many unrelated tasks have two classes
    named "yes" and "no", and all of them tie. Use it as a filter, or in a fusion.

    Reference: Padmakumar et al. 2022 (arXiv 2204.11117).
    """

    name = "format"
    paper = "Padmakumar et al. 2022"

    def score(
        self,
        target: Task,
        sources: Sequence[Description],
        bench: Workbench,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """Format match per source; NaN where its card names no kind."""
        own = _label_set(target.card.to_dict())
        out = np.full(len(sources), np.nan)
        for i, source in enumerate(sources):
            card = dict(source.header)
            if not card.get("kind"):
                continue
            pair = card.get("pair")
            names = _label_set(card)
            out[i] = (
                4.0 * (card["kind"] == target.kind)
                + (0.5 if pair is None else float(bool(pair) == target.is_pair))
                + _class_match(own, names)
            ) / 7.0
        return out


class SourcePrior(CardMethod):
    """The source that helped other targets most first.

    score(s) = mean over the grid's targets t' other than the target (and other than s itself)
    of gain(s, t'), in points over training on t' alone. The target is recognised by its name
    in the grid, and its own results are never looked at: the score is blind to the target.
    ``none`` scores 0 by definition, so a negative score says that the source hurt on average.

    Cost: none at ranking time; the grid had to be trained once. Some sources are good for
    almost everything, and this is all it knows; so whatever claims to match sources to targets
    has to beat it. On TaskWeb it has the best rank correlation of all cheap methods (Spearman
    0.45). It fails for targets unlike those of the grid, and says nothing (NaN) about sources
    that are not in the grid.

    Parameters
    ----------
    gains
        Transfer results, or a file of them that :meth:`taskscout.methods.gains.Gains.read`
        reads; ``--grid`` on the command line.
    """

    name = "source-prior"
    needs = frozenset({"grid"})
    paper = "control"

    def __init__(self, *, gains: Gains | str | Path | None = None) -> None:
        self.gains = gains

    def score(
        self,
        target: Task,
        sources: Sequence[Description],
        bench: Workbench,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """Mean gain in points over the other targets; 0 for ``none``.

        Raises
        ------
        MethodError
            Without a grid.
        """
        gains = required(self.gains, self.name)
        names = [s.source for s in sources]
        return np.where([n == NONE for n in names], 0.0, gains.prior(names, target.name))

    def none(self, bench: Workbench) -> Description:  # noqa: ARG002
        """Training on the target alone, whose gain is 0."""
        return Description(self.key, NONE)


METHODS: dict[str, Factory] = {
    "random": RandomOrder,
    "size": Size,
    "format": Format,
    "source-prior": SourcePrior,
}
