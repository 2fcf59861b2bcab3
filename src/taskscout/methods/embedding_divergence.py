"""Divergences between domains, over embeddings: over their moments, and over samples of them.

None of them looks at a label, of the target or of the source, so they serve targets that have
none. They say how alike two tasks' *texts* are, not how alike the tasks are. A score is minus
the divergence. The mathematics is in :mod:`taskscout.methods.measures`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods import measures
from taskscout.methods.descriptions import (
    EXAMPLES,
    batches,
    embedded,
    once,
    unit_rows,
)
from taskscout.methods.method import BaseMethod, Cost, Description, Factory
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

Array = NDArray[np.float64]

MOMENTS = "moments"


def describe_moments(
    task: Task, bench: Workbench, rank: int | None = 24, examples: int = EXAMPLES
) -> Description:
    """Take the moments of a task's unit embeddings.

    Returns
    -------
    Arrays ``mean`` (d, float32), ``central`` (central moments 2 … 5 of every dimension, 4 × d,
    float32) and ``factor`` (d × r, float16): the leading r principal axes times their standard
    deviations. Together they give the covariance with its diagonal exact and its other entries
    to rank r (:func:`covariance_of`); with ``rank`` None all d axes are kept, and it is exact.
    """

    def make() -> Description:
        x = unit_rows(embedded(task, bench, examples))
        mean = x.mean(0)
        values, vectors = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
        leading = slice(None, None, -1) if rank is None else slice(-1, -rank - 1, -1)
        factor = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, leading]
        header = {"encoder": bench.encoder.fingerprint, "rows": len(x), "rank": factor.shape[1]}
        arrays = {
            "mean": mean.astype(np.float32),
            "central": measures.central_moments(x).astype(np.float32),
            "factor": factor.astype(np.float16),
        }
        return Description(MOMENTS, task.name, header, arrays)

    return once(bench, task, (MOMENTS, rank, examples), make)


def covariance_of(description: Description, rank: int | None = None) -> Array:
    """Rebuild the covariance of unit embeddings, d × d: diagonal exact, the rest of rank r.

    Parameters
    ----------
    rank
        r; None for as many axes as the description holds.
    """
    factor = description.arrays["factor"][:, :rank].astype(np.float64)
    variance = description.arrays["central"][0].astype(np.float64)
    out = factor @ factor.T
    out[np.diag_indices_from(out)] = np.maximum(variance, np.diag(out))
    return out


class EmbeddingDivergence(BaseMethod):
    """What all divergences over embeddings share."""

    cost: Cost = "embedding"
    paper = "Pugantsov and McCreadie 2023"

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Minus the divergence; NaN for embeddings of another encoder or pooling."""
        own = self._own(target, bench)
        out = np.full(len(sources), np.nan)
        numbers = self._numbers(bench.encoder.dimension)
        for at, batch in batches(sources, "encoder", bench.encoder.fingerprint, numbers):
            out[at] = -self._divergences(own, batch)
        return out

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Describe the source's embeddings."""
        raise NotImplementedError

    def _own(self, target: Task, bench: Workbench) -> Description:
        return self.describe(target, bench)

    def _divergences(self, own: Description, sources: Sequence[Description]) -> Array:
        raise NotImplementedError

    def _numbers(self, dimension: int) -> int:
        """Numbers that one source takes while it is compared."""
        raise NotImplementedError


class MomentDivergence(EmbeddingDivergence):
    """What all divergences between moments of embeddings share."""

    key = MOMENTS
    #: Axes of the covariance that are kept; None for all.
    rank: int | None = 24

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Take the moments of the source's unit embeddings."""
        return describe_moments(source, bench, self.rank)

    def _numbers(self, dimension: int) -> int:
        return 8 * dimension


class EmbeddingsEuclidean(MomentDivergence):
    """Euclidean distance between mean embeddings.

        D = |m1 - m2|, score = -D

    m1 and m2 are the means of the unit embeddings of at most 3,000 training texts of the target
    and the source. It is the maximum mean discrepancy under a linear kernel.

    Cost: one forward pass over the target's texts, which other methods share;
    a source is compared in microseconds. A source keeps its moments, 26 KB at
    384 dimensions.

    Beside what ``sentence-embedding`` sees, the length of a mean matters: it is short for a
    broad domain, so broad sources lie nearer to everything. It fails where two domains have one
    centre and different spread.

    Reference: Kashyap et al. 2021 (arXiv 2010.12198); Pugantsov and McCreadie 2023 (arXiv
    2302.05735).
    """

    name = "embeddings-euclidean"

    def _divergences(self, own: Description, sources: Sequence[Description]) -> Array:
        means = np.stack([s.arrays["mean"] for s in sources]).astype(np.float64)
        return measures.euclidean(own.arrays["mean"].astype(np.float64), means)


class EmbeddingsCmd(MomentDivergence):
    """Central moment discrepancy of order 5.

        D = |m1 - m2| / w + sum over k = 2 … 5 of |c_k1 - c_k2| / w^k, score = -D

    m is the mean of the unit embeddings of at most 3,000 training texts, c_k their k-th central
    moment, dimension by dimension, and w the width of an interval that holds every coordinate.
    Coordinates of unit vectors lie in [-1, 1], so w is 2; a smaller ``span`` gives the higher
    moments more weight.

    Cost: one forward pass over the target's texts, which other methods share;
    a source is compared in microseconds. A source keeps its moments, 26 KB at
    384 dimensions, and the value is exact.

    With w = 2 the mean decides: in hundreds of dimensions coordinates are far smaller than 1.
    It fails where domains differ in how dimensions go together, which it does not look at
    (``embeddings-coral`` does).

    Reference: Zellinger et al. 2017 (arXiv 1702.08811).

    Parameters
    ----------
    span
        w.
    """

    name = "embeddings-cmd"

    def __init__(self, *, span: float = 2.0) -> None:
        if not span > 0:
            raise MethodError(
                f"{self.name} was given span {span}.",
                "It is the width of an interval.",
                "Give a number above 0; 2 holds every coordinate of a unit vector.",
            )
        self.span = span

    def _divergences(self, own: Description, sources: Sequence[Description]) -> Array:
        mean, central = (own.arrays[a].astype(np.float64) for a in ("mean", "central"))
        means, centrals = (
            np.stack([s.arrays[a] for s in sources]).astype(np.float64) for a in ("mean", "central")
        )
        return measures.cmd(mean, central, means, centrals, span=self.span)


class _Covariances(MomentDivergence):
    """Parameters as documented by the classes below."""

    def __init__(self, *, rank: int | None = 24) -> None:
        if rank is not None and rank < 1:
            raise MethodError(
                f"{self.name} was given rank {rank}.",
                "At least one axis of the covariance is kept.",
                "Give a rank of 1 or more, or None for all.",
            )
        self.rank = rank

    def _numbers(self, dimension: int) -> int:
        return dimension**2

    def _own(self, target: Task, bench: Workbench) -> Description:
        # All axes: each source is compared at its own rank, so that both leave out the same.
        return describe_moments(target, bench, None)

    def divergence(
        self, own: Description, covariance: Array, sources: Sequence[Description], others: Array
    ) -> Array:
        """Compute the divergences, given covariances at one rank."""
        raise NotImplementedError

    def _divergences(self, own: Description, sources: Sequence[Description]) -> Array:
        ranks = np.array([s.header["rank"] for s in sources])
        out = np.empty(len(sources))
        for rank in np.unique(ranks):
            at = np.flatnonzero(ranks == rank).tolist()
            batch = [sources[i] for i in at]
            others = np.stack([covariance_of(s) for s in batch])
            out[at] = self.divergence(own, covariance_of(own, int(rank)), batch, others)
        return out


class EmbeddingsCoral(_Covariances):
    """Distance between covariances of embeddings (CORAL).

        D = |C1 - C2|² / (4 d²) in Frobenius norm, score = -D

    C1 and C2 are the covariances (d × d) of the unit embeddings of at most 3,000 training texts
    of the target and the source: which directions texts vary in, wherever their centre is.

    Cost: one forward pass over the target's texts, which other methods share;
    about 1 ms per source. A full covariance would take 148 KB per source in
    half precision, so a source keeps its variances exactly and the rest to rank 24 (26 KB with
    the other moments). Over 18 tasks this kept the order of the exact values to a Spearman
    correlation of 0.99; 100 stored embeddings kept it to 0.78. ``rank`` None keeps all.

    It fails where domains differ in their centre only.

    Reference: Sun and Saenko 2016 (arXiv 1607.01719).

    Parameters
    ----------
    rank
        Principal axes kept by ``describe``; None for all, which is exact.
    """

    name = "embeddings-coral"

    def divergence(
        self,
        own: Description,  # noqa: ARG002  # of the protocol
        covariance: Array,
        sources: Sequence[Description],  # noqa: ARG002  # of the protocol
        others: Array,
    ) -> Array:
        """Squared distance of covariances."""
        return measures.coral(covariance, others)


class EmbeddingsFrechet(_Covariances):
    """Frechet distance between Gaussians fitted to embeddings.

        D = |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), score = -D

    m and C are mean and covariance of the unit embeddings of at most 3,000 training texts of
    the target and the source. It is the squared Wasserstein-2 distance of the two Gaussians;
    under the name FID it judges generated images.

    Cost: one forward pass over the target's texts, which other methods share;
    then one eigenvalue problem of size d per source, some 12 ms at 384
    dimensions. A full covariance would take 148 KB per source, so a source keeps its variances
    exactly and the rest to rank 24 (26 KB with the other moments). Over 18 tasks this kept the
    order of the exact values to a Spearman correlation of 0.95; 100 stored embeddings kept it
    to 0.88. ``rank`` None keeps all.

    It fails for small targets: with fewer texts than dimensions the covariance is poor, and D
    is too large for all sources, more so for broad ones.

    Reference: Dowson and Landau 1982; Heusel et al. 2017 (arXiv 1706.08500).

    Parameters
    ----------
    rank
        Principal axes kept by ``describe``; None for all, which is exact.
    """

    name = "embeddings-frechet"

    def divergence(
        self, own: Description, covariance: Array, sources: Sequence[Description], others: Array
    ) -> Array:
        """Squared Wasserstein-2 distance of the Gaussians."""
        means = np.stack([s.arrays["mean"] for s in sources]).astype(np.float64)
        return measures.frechet(own.arrays["mean"].astype(np.float64), covariance, means, others)


METHODS: dict[str, Factory] = {
    method.name: method
    for method in (
        EmbeddingsEuclidean,
        EmbeddingsCmd,
        EmbeddingsCoral,
        EmbeddingsFrechet,
    )
}
