"""Matching prompt tokens one by one, wherever they stand: MAX."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.method import Factory
from taskscout.methods.prompt_parameters import PromptMethod
from taskscout.methods.tuned_parameters import Array, Form, unit

#: ``source``: each source token looks for its best target token, as released. ``target``: the
#: other way round. ``both``: the mean of the two.
Direction = Literal["source", "target", "both"]


def best_matches(
    sources: NDArray[np.floating], target: NDArray[np.floating], direction: Direction = "source"
) -> NDArray[np.float64]:
    """Mean over tokens of the greatest inner product with a token of the other prompt.

    Parameters
    ----------
    sources
        n × k × d.
    target
        k' × d.
    direction
        Which tokens are averaged over; see :data:`Direction`.
    """
    n, k, d = sources.shape
    inner = (sources.reshape(-1, d) @ target.T).reshape(n, k, len(target))
    found: list[NDArray[np.float64]] = []
    if direction != "target":
        found.append(inner.max(2).mean(1, dtype=np.float64))
    if direction != "source":
        found.append(inner.max(1).mean(1, dtype=np.float64))
    return np.asarray(np.mean(found, 0))


class Max(PromptMethod):
    """Maximum inner product search over prompt tokens (MAX).

    A soft prompt of k = 100 tokens is tuned for every task. Averaging a prompt before it is
    compared hides that two tasks may share a few tokens' worth of skill. MAX compares token by
    token: every token p of the source's prompt finds its nearest token q of the target's,

        score = (1/k) sum_i max_j <p_i, q_j>,    all tokens scaled to unit length first.

    The direction matters: ``max`` averages over the source's tokens, as the authors' code does;
    ``max-reverse`` over the target's, as their text may be read; ``max-symmetric`` takes the
    mean of both. ``form="relative"`` (``max-relative``) matches what tuning changed and not the
    tuned tokens: all prompts of a seed begin as the same tokens, and a raw token's best match is
    mostly that same token, in which case MAX is ``prompt-flatten``. ``form="centred"``
    (``max-centred``) subtracts the sources' mean token at every position first. ``at`` reads the
    target's prompt after a fraction of its training.

    *Cost.* The description of ``prompt-mean`` (77 kB per source with MiniLM), so one prompt
    tuning per source and one for the target; k × k inner products per pair, all sources in one
    matrix product.

    *Fails* where prompts hardly moved (all pairs score near 1) and, as the paper finds, for
    targets that ask for reasoning. Needs the target's labels.

    *Reference.* Lin, Zhang, Mosbach and Klakow 2024 (arXiv 2407.16245): 82.5 nDCG, the best of
    their selectors on 13 × 10 tasks of T5.
    """

    aliases = ("MAX",)
    paper = "Lin et al. 2024"

    def __init__(
        self,
        *,
        direction: Direction = "source",
        form: Form = "raw",
        at: float = 1.0,
        source_at: float = 1.0,
    ) -> None:
        if direction not in get_args(Direction):
            raise MethodError(
                f"direction is {direction!r}.",
                f"MAX averages over the tokens of {', '.join(get_args(Direction))}.",
                "Choose one of these.",
            )
        self.direction: Direction = direction
        self.plain = {"source": "max", "target": "max-reverse", "both": "max-symmetric"}[direction]
        super().__init__(form=form, at=at, source_at=source_at)

    def vectors(self, kept: Mapping[str, Array]) -> Array:
        """Scale every token to unit length, n × k × d."""
        return unit(kept["prompt"])

    def similarity(self, sources: Array, target: Array) -> NDArray[np.float64]:
        """Match the tokens of n sources (n × k × d) with the target's (k × d)."""
        if self.form == "centred":
            sources, target = unit(sources), unit(target)
        return best_matches(sources, target, self.direction)


METHODS: dict[str, Factory] = {
    "max": Max,
    "max-reverse": partial(Max, direction="target"),
    "max-symmetric": partial(Max, direction="both"),
    "max-relative": partial(Max, form="relative"),
    "max-centred": partial(Max, form="centred"),
}
