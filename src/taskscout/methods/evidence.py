r"""LogME: the evidence of a linear model of the labels. Arrays in, numbers out.

The model is Bayesian linear regression of a label column y (n) on features F (n × d),

    y = F w + noise,   w ~ N(0, I / alpha),   noise ~ N(0, I / beta),

and the score is the log of its marginal likelihood (the evidence) at the best alpha and beta,
divided by n, averaged over label columns: one against the rest for classes, every output for
regression. You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer
Learning", ICML.

With K = F'F, t = alpha / beta, N degrees of freedom (n, or n - 1 where means were removed) and
rho = t (FF' + t)^-1 y, the residual of a ridge regression of strength t,

    2 log evidence = N log beta - log det(I + K / t) - beta w - N log 2 pi,
    w = y'rho = |rho|^2 + t |m|^2,    gamma = tr K (K + t)^-1,

where m is the mean of w. For given t the best beta is N / w, so one number is sought: at the
maximum gamma = beta t |m|^2, which is MacKay's fixed point.

**The noise has a least variance.** Where features span the labels (d >= N) the evidence may
rise for ever as the noise vanishes: there is no maximum, and where an iteration stops decides
the score. No label is free of noise, so 1 / beta is at least :data:`LEAST_NOISE` of the labels'
variance. Which share hardly matters: from 10^-6 to 0.1 sources are ordered alike
(``benchmarks/few_labels.py``).

**The published implementations leave out a part of the determinant**: with n < d the (d - n)
eigenvalues alpha of alpha + beta K, which then dominate the score; and they stop after 50 steps.
``compat=True`` computes what they do.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from taskscout.engines import processes_available
from taskscout.errors import DataError
from taskscout.methods.labels import label_columns
from taskscout.methods.low_rank import TINY, Basis, LowRankGram, Spectral, Terms
from taskscout.methods.statistics import Centring, TargetStatistics

Array = NDArray[np.float64]
T = TypeVar("T")

#: The noise is at least this share of a label column's variance.
LEAST_NOISE = 0.01
#: Maps in which s I makes less than this share of the features are decomposed one by one.
_LEAST_SHARE = 1e-4
#: The search ends when a step would gain less than this per row, or after so many steps.
_TOLERANCE, _STEPS = 1e-8, 60
#: Numbers of a batch's products held at a time (8 bytes each).
_HELD = 1 << 20


class Evidence(NamedTuple):
    """Evidence of B sources for C label columns, each B × C.

    Attributes
    ----------
    value
        Log evidence, not divided by n.
    alpha, beta
        Where it is largest.
    bounded
        Whether the noise is at its bound there.
    converged
        Whether the search ended before its last step.
    """

    value: Array
    alpha: Array
    beta: Array
    bounded: NDArray[np.bool_]
    converged: NDArray[np.bool_]


def maximise(
    terms: Callable[[Array], Terms], size: Array, n: int, freedom: int, noise: Array
) -> Evidence:
    """Maximise the evidence over alpha and beta.

    In u = log t, by secant steps on log(gamma / (beta t |m|²)), which has the sign of the
    evidence's slope; between the points known to be left and right of the maximum.

    Parameters
    ----------
    terms
        Of the features, at t (B × C).
    size
        tr K, B. The search starts at t = tr K / n, as the published one does for features of
        unit norm; beyond 10^6 tr K the features have no weight, and nothing changes.
    n
        Rows.
    freedom
        N, degrees of freedom of a label column.
    noise
        Least variance of the noise, C.
    """
    span = np.repeat(np.log(np.maximum(size, TINY))[:, None], len(noise), 1)
    u, low, high = span - math.log(n), span - 30.0, span + 14.0
    last, converged = np.full((2, *u.shape), np.nan), np.zeros(u.shape, bool)
    for _ in range(_STEPS):
        t = np.exp(u)
        now = terms(t)
        beta = np.minimum(freedom / np.maximum(now.penalty + now.residual, TINY), 1 / noise)
        move = np.log(np.maximum(now.gamma, TINY) / np.maximum(beta * now.penalty, TINY))
        low, high = np.where(move > 0, u, low), np.where(move > 0, high, u)
        with np.errstate(all="ignore"):
            slope = (move - last[1]) / (u - last[0])
        slope = np.where(np.isfinite(slope), slope, -1.0)
        # Where the slope does not tell how far, two nats on: it is uphill.
        step = np.where(slope < -0.05, -move / np.minimum(slope, -0.05), 2 * np.sign(move))
        target = u + np.clip(step, -4.0, 4.0)
        inside = (target > low) & (target < high)
        target = np.where(inside, target, (low + high) / 2)
        gain = np.abs((now.gamma - beta * now.penalty) * (target - u))
        converged |= gain <= _TOLERANCE * freedom
        if converged.all():
            break
        last = np.stack([u, move])
        u = np.where(converged, u, target)
    value = freedom * (np.log(beta) - math.log(2 * math.pi)) - now.determinant
    value = (value - beta * (now.penalty + now.residual)) / 2
    return Evidence(value, t * beta, beta, beta * noise >= 1, converged)


def published(spectral: Spectral, columns: int, n: int, dimension: int) -> Array:
    """Log evidence per label column as You et al.'s released code computes it.

    At most 50 steps from alpha = beta = 1; eigenvalues of zero are left out of the determinant;
    and norm and residual are those of the step before the last.
    """
    alpha, beta = np.ones((2, 1, columns))
    norm, residual, live = np.zeros_like(alpha), np.zeros_like(alpha), np.ones_like(alpha, bool)
    for _ in range(50):
        t = alpha / beta
        now = spectral(t)
        norm, residual = np.where(live, (now.penalty / t, now.residual), (norm, residual))
        alpha = np.where(live, np.maximum(now.gamma, 1e-30) / (norm + 1e-5), alpha)
        beta = np.where(live, (n - now.gamma) / (residual + 1e-5), beta)
        live &= np.abs(alpha / beta - t) > 1e-3 * t
        if not live.any():
            break
    values = spectral.eigenvalues[:, None]
    out = dimension * np.log(alpha) + n * np.log(beta) - np.log(alpha + beta * values).sum(0)
    out = out - beta * residual - alpha * norm - n * math.log(2 * math.pi)
    return np.asarray(out[0] / 2)


def one_thread() -> threadpool_limits:
    """BLAS on one thread.

    With matrices this small, threads that wait for each other cost more than they give, tenfold
    and worse where other work holds the processors. Work over sources is parallel instead.
    """
    return threadpool_limits(1, user_api="blas")


class MapEvidence:
    """LogME of linear maps f -> s f + V U'[f, g] + b of one target's embeddings.

    What maps share is made once, when the first is scored.

    Parameters
    ----------
    target
        Statistics of the target's base embeddings and label columns.
    compat, centring, unit_norm, least_noise
        As in :func:`logme`.
    dimension
        d, the columns of f; those that follow, g, are only read. None where there are none.
    """

    def __init__(
        self,
        target: TargetStatistics,
        *,
        compat: bool = False,
        centring: Centring = "both",
        unit_norm: bool = True,
        dimension: int | None = None,
        least_noise: float = LEAST_NOISE,
    ) -> None:
        self.compat, self.unit_norm = compat, unit_norm
        self.offsets = centring == "none"
        self.dimension = dimension or len(target.gram)
        centred = target.with_constant() if self.offsets else target.centred(centring)
        if centring == "both":
            centred = _without_mirrored(centred)
        self.target, self.n = centred, target.n
        self.freedom = target.n - (centring == "both")
        square = target.centred("both").label_square[: centred.cross.shape[1]]
        self.noise = np.maximum(least_noise * square / max(target.n - 1, 1), TINY)
        self._basis: Basis | None = None

    def prepare(self) -> Basis:
        """Make what maps share, if it is not made yet."""
        if self._basis is None:
            with one_thread():
                rank = self.n - (not self.offsets)
                self._basis = Basis(self.target, self.dimension, rank)
        return self._basis

    def __call__(
        self,
        scale: Array,
        inner: NDArray[Any],
        outer: NDArray[Any],
        offset: NDArray[Any] | None = None,
    ) -> Array:
        """Score B maps.

        Parameters
        ----------
        scale
            s, B.
        inner, outer
            U (B × D × r, D all columns of the target's features) and V (B × d × r).
        offset
            b, B × d; without effect where features are centred.
        """
        with one_thread():
            return self._score(np.asarray(scale, np.float64), inner, outer, offset)

    def over(
        self, batches: Iterable[tuple[T, tuple[Any, ...]]], *, threads: int | None = None
    ) -> Iterator[tuple[T, Array]]:
        """Score batches of maps, several at a time; only those at work are held in memory.

        Parameters
        ----------
        batches
            Something to know a batch by, and the arguments of :meth:`__call__`.
        threads
            None for as many as there are processors.

        Yields
        ------
        What a batch is known by, and its scores; in the order of the batches.
        """
        self.prepare()
        threads = threads or processes_available()
        waiting: deque[tuple[T, Future[Array]]] = deque()
        with one_thread(), ThreadPoolExecutor(threads) as pool:
            for tag, arguments in batches:
                waiting.append((tag, pool.submit(self, *arguments)))
                if len(waiting) > threads:
                    tag, future = waiting.popleft()
                    yield tag, future.result()
            for tag, future in waiting:
                yield tag, future.result()

    def _score(
        self, scale: Array, inner: NDArray[Any], outer: NDArray[Any], offset: NDArray[Any] | None
    ) -> Array:
        if self.offsets:  # b is one more column of V, which reads the column of ones
            inner, outer = _with_offset(inner, outer, offset)
        count, d, r = outer.shape
        out = np.full(count, np.nan)
        if not self.compat and 8 * r <= d:
            rows, size = np.flatnonzero(scale), max(1, _HELD // (8 * r * d * len(self.noise) + 1))
            for part in np.split(rows, range(size, len(rows), size)):
                out[part] = self._together(scale[part], inner[part], outer[part])
        for i in np.flatnonzero(np.isnan(out)):
            out[i] = self._alone(scale[i], inner[i], outer[i])
        return out

    def _together(self, scale: Array, inner: NDArray[Any], outer: NDArray[Any]) -> Array:
        """Score maps by their low rank; NaN for those that this would not serve."""
        basis = self.prepare()
        if not len(scale) or not len(basis.g):
            return np.full(len(scale), np.nan)
        gram = LowRankGram(basis, scale, inner, outer, unit_norm=self.unit_norm)
        try:
            found = maximise(gram, gram.trace, self.n, self.freedom, self.noise)
        except np.linalg.LinAlgError:
            return np.full(len(scale), np.nan)
        served = (gram.own > _LEAST_SHARE) & found.converged.all(1)
        return np.where(served, found.value.mean(1) / self.n, np.nan)

    def _alone(self, scale: float, inner: NDArray[Any], outer: NDArray[Any]) -> float:
        """Score one map by the eigenvectors of its features' Gram matrix."""
        d, columns = self.dimension, len(self.noise)
        weight = np.asarray(outer, np.float64) @ np.asarray(inner, np.float64).T
        weight[:, :d] += scale * np.eye(d)
        gram, cross = weight @ self.target.gram @ weight.T, weight @ self.target.cross
        total = max(float(np.trace(gram)), TINY)
        factor = self.n / total if self.unit_norm else 1.0
        square = self.target.label_square
        spectral = Spectral.of_gram(factor * gram, math.sqrt(factor) * cross, square)
        if self.compat:
            return float(published(spectral, columns, self.n, d).mean()) / self.n
        return _maximum(spectral, factor * total, self.n, self.freedom, self.noise)


def _maximum(spectral: Spectral, size: float, n: int, freedom: int, noise: Array) -> float:
    """Mean over label columns of the largest evidence, divided by n."""
    found = maximise(spectral, np.full(1, size), n, freedom, noise)
    if not found.converged.all():
        warnings.warn("The evidence had no maximum within reach; see least_noise.", stacklevel=3)
    return float(found.value.mean()) / n


def _without_mirrored(target: TargetStatistics) -> TargetStatistics:
    """Drop the second of two classes: centred, its column is minus the first one's.

    The evidence of both is the same, and so is their mean.
    """
    cross = target.cross
    if cross.shape[1] != 2 or np.abs(cross.sum(1)).max() > 1e-12 * np.abs(cross).max():
        return target
    if abs(target.label_square[0] - target.label_square[1]) > 1e-12 * target.label_square[0]:
        return target
    return replace(
        target,
        cross=cross[:, :1],
        label_total=target.label_total[:1],
        label_square=target.label_square[:1],
    )


def _with_offset(
    inner: NDArray[Any], outer: NDArray[Any], offset: NDArray[Any] | None
) -> tuple[Array, Array]:
    """U and V of a map with its offset, which reads one more column, of ones."""
    count, columns, r = inner.shape
    u = np.zeros((count, columns + 1, r + 1))
    u[:, :columns, :r], u[:, columns, r] = inner, 1.0
    b = np.zeros(outer.shape[:2]) if offset is None else offset
    return u, np.concatenate([outer, np.asarray(b)[:, :, None]], 2, dtype=np.float64)


def logme_of_maps(
    target: TargetStatistics,
    scale: Array,
    inner: NDArray[Any],
    outer: NDArray[Any],
    offset: NDArray[Any] | None = None,
    **options: Any,
) -> Array:
    """LogME of B linear maps of a target's embeddings; see :class:`MapEvidence`.

    Returns
    -------
    B scores, each equal to :func:`logme` on the mapped embeddings.
    """
    return MapEvidence(target, **options)(scale, inner, outer, offset)


def logme(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    compat: bool = False,
    centring: Centring = "none",
    unit_norm: bool = False,
    least_noise: float = LEAST_NOISE,
) -> float:
    """LogME of features for labels: mean log evidence per example.

    Parameters
    ----------
    features
        F, n × d.
    labels
        n class ids in any form (scored one against the rest), or n or n × C float outputs.
    compat
        The published formula as released: it leaves out a part of the determinant, stops after
        50 steps, bounds nothing and counts class ids that never occur.
    centring
        Remove the mean of the ``features``, or of ``both`` features and label columns.
    unit_norm
        Scale the features to a root mean square norm of 1.
    least_noise
        Least variance of the noise, as a share of a label column's variance; 0 for no bound.

    Returns
    -------
    The mean over classes or outputs of the log evidence per example; higher is better.

    Raises
    ------
    DataError
        If features or labels are not finite, do not have the same length, or hold one class.

    Warns
    -----
    UserWarning
        Where no maximum was reached, which only happens without a bound.

    References
    ----------
    You et al. 2021, ICML; the missing term: thuml/LogME, issue 23.
    """
    f = np.asarray(features, np.float64)
    y = label_columns(labels, compat=compat)
    if f.ndim != 2 or len(f) != len(y):
        raise DataError(
            f"Features have shape {f.shape}, labels {np.shape(labels)}.",
            "LogME needs n × d features and n labels.",
            "Give one row of features per label.",
        )
    if not np.isfinite(f).all():
        row = int(np.argwhere(~np.isfinite(f))[0, 0])
        raise DataError(
            f"Row {row} of the features is not finite.",
            "The evidence is not defined for it.",
            "Drop the row or mend the features.",
        )
    n = len(f)
    noise = np.maximum(least_noise * y.var(0, ddof=min(1, n - 1)), TINY)
    if centring != "none":
        f = f - f.mean(0)
    if centring == "both":
        y = y - y.mean(0)
    size = float((f**2).sum())
    if unit_norm:
        f = f * math.sqrt(n / max(size, TINY))
        size = float(n)
    with one_thread():
        # Many rows: from the Gram matrix, several times as fast, and the same to 1e-9.
        if n > 2 * f.shape[1] and not compat:
            spectral = Spectral.of_gram(f.T @ f, f.T @ y, (y**2).sum(0))
        else:
            spectral = Spectral.of_features(f, y)
    if compat:
        return float(published(spectral, y.shape[1], n, f.shape[1]).mean()) / n
    return _maximum(spectral, size, n, n - (centring == "both"), noise)
