"""Divergences between domains, over samples of embeddings; see :mod:`.embedding_divergence`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods import measures
from taskscout.methods.descriptions import SAMPLE, SAMPLE_ROWS, describe_sample, sample_of
from taskscout.methods.embedding_divergence import EmbeddingDivergence
from taskscout.methods.method import Description, Factory
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

Array = NDArray[np.float64]


class SampleDivergence(EmbeddingDivergence):
    """What all divergences between samples of embeddings share.

    Parameters
    ----------
    rows
        Texts per task.
    """

    key = SAMPLE

    def __init__(self, *, rows: int = SAMPLE_ROWS) -> None:
        if rows < 2:
            raise MethodError(
                f"{self.name} was given {rows} rows per task.",
                "A sample has two texts or more.",
                f"Give more; {SAMPLE_ROWS} is the default.",
            )
        self.rows = rows

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Draw a sample of the source's unit embeddings."""
        return describe_sample(source, bench, self.rows)

    def divergence(self, x: Array, y: Array) -> Array:
        """Compute the divergence of each source's sample (S × k × d) from the target's (m × d)."""
        raise NotImplementedError

    def _divergences(self, own: Description, sources: Sequence[Description]) -> Array:
        x = sample_of(own)[: self.rows]
        sizes = np.array([min(len(s.arrays["rows"]), self.rows) for s in sources])
        out = np.empty(len(sources))
        for size in np.unique(sizes):  # samples of one size are stacked
            at = np.flatnonzero(sizes == size).tolist()
            out[at] = self.divergence(x, np.stack([sample_of(sources[i])[:size] for i in at]))
        return out

    def _numbers(self, dimension: int) -> int:
        return self.rows * max(dimension, 2 * self.rows)


class EmbeddingsWasserstein(SampleDivergence):
    """Wasserstein-1 distance, dimension by dimension.

        D = mean over dimensions of the area between the two quantile functions, score = -D

    The two samples are the unit embeddings of 100 training texts each of the target and the
    source. In one dimension optimal transport is sorting, so D is exact for the samples.

    Cost: one forward pass over the target's texts, which other methods share;
    under a millisecond per source. A source keeps its sample, 39 KB at 384
    dimensions.

    It fails where domains differ in how dimensions go together and not in any one of them; see
    ``embeddings-sliced-wasserstein``. A sample of 100 leaves some chance: between two draws the
    order of 17 sources kept a Spearman correlation of 0.96.

    Reference: Kashyap et al. 2021 (arXiv 2010.12198) and Pugantsov and McCreadie 2023 (arXiv
    2302.05735) for domains; Villani 2009 for the distance.

    Parameters
    ----------
    rows
        Texts per task.
    """

    name = "embeddings-wasserstein"

    def divergence(self, x: Array, y: Array) -> Array:
        """Mean over dimensions."""
        return measures.wasserstein_1d(x, y)


class EmbeddingsSlicedWasserstein(SampleDivergence):
    """Wasserstein-1 distance along random directions.

        D = mean over directions v of W1(x·v, y·v), score = -D

    x and y are the unit embeddings of 100 training texts each of the target and the source;
    the directions are 256 random unit vectors, the same for all tasks (option ``seed``). Unlike
    the distance dimension by dimension it does not depend on the axes, and it sees how
    dimensions go together.

    Cost: one forward pass over the target's texts, which other methods share;
    about a millisecond per source. A source keeps its sample, 39 KB at 384
    dimensions.

    It fails where domains differ along few directions: the others average that away. A sample
    of 100 leaves some chance: between two draws the order of 17 sources kept a Spearman
    correlation of 0.96.

    Reference: Rabin et al. 2012; Bonneel et al. 2015.

    Parameters
    ----------
    rows
        Texts per task.
    directions
        Number of directions.
    seed
        Of the directions.
    """

    name = "embeddings-sliced-wasserstein"

    def __init__(self, *, rows: int = SAMPLE_ROWS, directions: int = 256, seed: int = 0) -> None:
        super().__init__(rows=rows)
        self.directions = directions
        self.seed = seed

    def divergence(self, x: Array, y: Array) -> Array:
        """Mean over directions."""
        v = measures.directions(x.shape[1], self.directions, self.seed)
        return measures.wasserstein_1d(x @ v, y @ v)


class EmbeddingsSinkhorn(SampleDivergence):
    """Entropic optimal transport between samples of embeddings.

        OT(x, y) = min over plans P of sum P |x - y| + e KL(P | uniform)
        D = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2, score = -D

    x and y are the unit embeddings of 100 training texts each of the target and the source; P
    says how much of each source text moves to each target text. The two last terms take out
    what the entropy alone adds, so D is 0 between equals (``debiased=False`` gives the cost of
    the plan instead, as ``ot.sinkhorn2`` of POT does). e is ``epsilon``; distances of unit
    vectors lie between 0 and 2.

    Cost: one forward pass over the target's texts, which other methods share;
    some 20 ms per source for Sinkhorn's iterations. A source keeps its sample,
    39 KB at 384 dimensions.

    It sees whether every target text has a source text near it and the other way round. It
    fails in high dimension with few texts: every text is then nearest to itself by far, the
    two last terms hardly differ between sources, and D is the cost of transport less a
    constant; with ``epsilon`` 0.5 or more they tell, and D comes near a discrepancy of means.
    Between two draws of 100 texts the order of 17 sources kept a Spearman correlation of 0.94.

    Reference: Cuturi 2013 (arXiv 1306.0895); Feydy et al. 2019 (arXiv 1810.08278).

    Parameters
    ----------
    rows
        Texts per task.
    epsilon
        Strength of the entropy.
    debiased
        Whether the two own terms are taken off.
    """

    name = "embeddings-sinkhorn"

    def __init__(
        self, *, rows: int = SAMPLE_ROWS, epsilon: float = 0.1, debiased: bool = True
    ) -> None:
        super().__init__(rows=rows)
        if not epsilon >= 0.005:
            raise MethodError(
                f"{self.name} was given epsilon {epsilon}.",
                "Below 0.005 the iterations underflow.",
                "Give 0.005 or more; 0.1 is the default.",
            )
        self.epsilon = epsilon
        self.debiased = debiased

    def divergence(self, x: Array, y: Array) -> Array:
        """Sinkhorn divergence, or the cost of the plan."""
        return measures.sinkhorn_divergence(x, y, self.epsilon, debiased=self.debiased)


class EmbeddingsMmd(SampleDivergence):
    """Maximum mean discrepancy with a Gaussian kernel.

        D = mean k(x, x') + mean k(y, y') - 2 mean k(x, y), score = -D
        k(a, b) = exp(-|a - b|² / (2 s²))

    x and y are the unit embeddings of 100 training texts each of the target and the source; s
    is the median distance between two texts of both samples together. D is 0 exactly where the
    distributions agree: unlike the distance of means it sees every difference, given enough
    texts.

    Cost: one forward pass over the target's texts, which other methods share;
    about a millisecond per source. A source keeps its sample, 39 KB at 384
    dimensions.

    It fails where the difference is far finer than s (``embeddings-mmd-multi`` looks at several
    scales), and s differs from source to source, so close scores of distant sources should not
    be compared. All pairs count, a text with itself too, which adds up to 2 / 100 to every D.
    Between two draws of 100 texts the order of 17 sources kept a Spearman correlation of 0.97.

    Reference: Gretton et al. 2012, JMLR 13.

    Parameters
    ----------
    rows
        Texts per task.
    """

    name = "embeddings-mmd"
    #: Bandwidths, in units of the median distance.
    factors: tuple[float, ...] = (1.0,)

    def divergence(self, x: Array, y: Array) -> Array:
        """Squared discrepancy."""
        return measures.mmd(x, y, self.factors)


class EmbeddingsMmdMulti(EmbeddingsMmd):
    """Maximum mean discrepancy with Gaussian kernels of several widths.

        D = mean k(x, x') + mean k(y, y') - 2 mean k(x, y), score = -D
        k(a, b) = mean over f in (1/4, 1/2, 1, 2, 4) of exp(-|a - b|² / (2 f² s²))

    x and y are the unit embeddings of 100 training texts each of the target and the source; s
    is the median distance between two texts of both samples together. Narrow kernels see
    whether texts have close neighbours on the other side, wide ones compare the means.

    Cost: one forward pass over the target's texts, which other methods share;
    some milliseconds per source. A source keeps its sample, 39 KB at 384
    dimensions.

    It fails with few texts: the narrowest kernel then sees each text alone, which adds the same
    to every D. s differs from source to source, as for ``embeddings-mmd``.

    Reference: Gretton et al. 2012, JMLR 13; several widths as in Long et al. 2015 (arXiv
    1502.02791).

    Parameters
    ----------
    rows
        Texts per task.
    """

    name = "embeddings-mmd-multi"
    factors = (0.25, 0.5, 1.0, 2.0, 4.0)


class EmbeddingsADistance(SampleDivergence):
    """Proxy A-distance: how well a linear classifier tells the two domains apart.

        D = 2 (1 - 2 err), not below 0, score = -D

    err is the error, cross-validated in five parts, of a linear classifier that tells the unit
    embeddings of 100 training texts of the target from those of 100 of the source. The
    classifier is ridge regression, so every fit is in closed form and all sources are fitted at
    once. D is 2 where the classifier never errs and 0 where it does no better than chance.

    Cost: one forward pass over the target's texts, which other methods share;
    about 5 ms per source. A source keeps its sample, 39 KB at 384 dimensions.

    It fails for distant sources: whatever can be told apart perfectly has D = 2, and they all
    tie; D moves in steps of 1 / 50. Between two draws of 100 texts the order of 17 sources kept
    a Spearman correlation of 0.70 only, the least of all divergences over embeddings. Good for
    asking whether a source is the target's own domain, which it never missed there.

    Reference: Ben-David et al. 2007; Blitzer et al. 2007.

    Parameters
    ----------
    rows
        Texts per task.
    penalty
        Ridge strength on the sum of squared errors.
    """

    name = "embeddings-a-distance"

    def __init__(self, *, rows: int = SAMPLE_ROWS, penalty: float = 1.0) -> None:
        super().__init__(rows=rows)
        if not penalty > 0:
            raise MethodError(
                f"{self.name} was given penalty {penalty}.",
                "Without one a classifier in more dimensions than texts is not defined.",
                "Give a number above 0; 1 is the default.",
            )
        self.penalty = penalty

    def divergence(self, x: Array, y: Array) -> Array:
        """Proxy A-distance; NaN where a task has one text."""
        return measures.a_distance(x, y, penalty=self.penalty)


METHODS: dict[str, Factory] = {
    method.name: method
    for method in (
        EmbeddingsWasserstein,
        EmbeddingsSlicedWasserstein,
        EmbeddingsSinkhorn,
        EmbeddingsMmd,
        EmbeddingsMmdMulti,
        EmbeddingsADistance,
    )
}
