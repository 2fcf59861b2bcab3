r"""LogME's mathematics: arrays in, numbers out.

The model is Bayesian linear regression of a label column y (n) on features F (n × d),

    y = F w + noise,   w ~ N(0, I / alpha),   noise ~ N(0, I / beta),

and the score is the log of its marginal likelihood (the evidence) at the alpha and beta that
MacKay's fixed point reaches, divided by n, averaged over label columns (one against the rest
for classes; every output for regression). You et al. 2021, "LogME: Practical Assessment of
Pre-trained Models for Transfer Learning", ICML; the fixed point as in their later code.

With K = F'F, c = F'y and t = alpha / beta everything follows from

    gamma(t) = tr K (K + t)^-1,   q1 = c'(K + t)^-1 c,   q2 = c'(K + t)^-2 c,

    |m|^2 = q2,   |y - F m|^2 = y'y - q1 - t q2,

    2 log evidence = d log alpha + n log beta - log det(alpha + beta K)
                     - beta |y - F m|^2 - alpha |m|^2 - n log 2 pi.

**The published implementations leave out a part of the determinant.** They sum
log(alpha + beta sigma^2) over the singular values that F has, but alpha + beta K has d
eigenvalues. With n < d the missing (d - n) log alpha dominates the score. Here all d are
counted, so the number is the log marginal likelihood; ``compat=True`` gives the published one.

All K needed is a sum over rows, so a target is reduced once to :class:`TargetStatistics`, and no
n × d matrix is ever formed for a source that is a linear map of the target's embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from taskscout.errors import DataError

Array = NDArray[np.float64]
Centring = Literal["none", "features", "both"]

#: Added to both denominators of the fixed point, as in the published algorithm.
_EPSILON = 1e-5
#: The effective number of dimensions is at least this, so that features which say nothing keep a
#: finite evidence: that of noise alone.
_LEAST = 1e-30
#: Eigenvalues below this share of the largest count as zero.
_RANK_TOLERANCE = 1e-12


def label_columns(labels: ArrayLike, *, compat: bool = False) -> Array:
    """Label columns Y (n × C): one against the rest for integers, as given for floats.

    Parameters
    ----------
    labels
        n integer class ids, or n (or n × C) float outputs.
    compat
        Count every class id from 0 to the largest, also those that never occur, as the
        published code does; else only classes that occur.

    Raises
    ------
    DataError
        For labels that are neither numbers nor finite, for a class id below zero, for a single
        class and for class ids that are no vector.
    """
    y = np.asarray(labels)
    if y.dtype.kind not in "biuf":
        raise DataError(
            f"Labels are of type {y.dtype}.",
            "LogME reads class ids (integers) or outputs (floats).",
            "Number the classes: numpy.unique(labels, return_inverse=True)[1]",
        )
    if y.ndim not in (1, 2) or (y.ndim == 2 and y.dtype.kind != "f"):
        raise DataError(
            f"Labels have shape {y.shape} and type {y.dtype}.",
            "Class ids are a vector; outputs are n or n × C floats.",
            "Give one class id per row, or floats.",
        )
    if y.dtype.kind == "b":
        y = y.astype(np.int64)
    if not np.isfinite(y).all():
        raise DataError(
            f"{int((~np.isfinite(y)).sum())} labels are not finite.",
            "The evidence of missing labels is not defined.",
            "Drop these rows.",
        )
    if not np.issubdtype(y.dtype, np.integer):
        return y.astype(np.float64).reshape(len(y), -1)
    if len(y) and y.min() < 0:
        raise DataError(
            f"{int((y < 0).sum())} labels are negative.",
            "Class ids start at 0; -1 usually marks a hidden label.",
            "Drop these rows.",
        )
    classes = np.unique(y)
    if len(classes) < 2:
        raise DataError(
            "All labels are the same.",
            "With one class every source explains the labels equally well.",
            "Give examples of at least two classes.",
        )
    if compat:
        classes = np.arange(int(y.max()) + 1)
    columns: Array = (y[:, None] == classes).astype(np.float64)
    return columns


@dataclass(frozen=True)
class TargetStatistics:
    """All that scoring linear maps needs of a target: sums over its rows.

    Attributes
    ----------
    n
        Rows.
    gram
        F'F, d × d.
    total
        F'1, d.
    cross
        F'Y, d × C.
    label_total
        Y'1, C.
    label_square
        Diagonal of Y'Y, C.
    """

    n: int
    gram: Array
    total: Array
    cross: Array
    label_total: Array
    label_square: Array

    @classmethod
    def of(cls, features: ArrayLike, columns: Array) -> TargetStatistics:
        """From features F (n × d) and label columns Y (n × C)."""
        f = np.asarray(features, np.float64)
        return cls(
            n=len(f),
            gram=f.T @ f,
            total=f.sum(0),
            cross=f.T @ columns,
            label_total=columns.sum(0),
            label_square=(columns**2).sum(0),
        )

    def __add__(self, other: TargetStatistics) -> TargetStatistics:
        return TargetStatistics(
            self.n + other.n,
            self.gram + other.gram,
            self.total + other.total,
            self.cross + other.cross,
            self.label_total + other.label_total,
            self.label_square + other.label_square,
        )

    def centred(self, centring: Centring) -> TargetStatistics:
        """The statistics of features (and labels, for ``both``) with their means removed."""
        if centring == "none":
            return self
        mean = self.total / self.n
        square = self.label_square
        if centring == "both":
            square = square - self.label_total**2 / self.n
        return TargetStatistics(
            n=self.n,
            gram=self.gram - np.outer(mean, self.total),
            total=np.zeros_like(self.total),
            cross=self.cross - np.outer(mean, self.label_total),
            label_total=self.label_total,
            label_square=square,
        )


class Resolvent(Protocol):
    """What the fixed point asks of K and c, for B sources and C label columns at once."""

    def __call__(self, t: Array) -> tuple[Array, Array, Array]:
        """``gamma``, ``q1`` and ``q2`` (each B × C) at t (B × C)."""

    def log_determinant(self, t: Array, *, compat: bool) -> Array:
        """log det(K + t) (B × C); over non-zero eigenvalues only for ``compat``."""


class Spectral:
    """Resolvent from eigenvalues of K and the label columns in its eigenvectors.

    Parameters
    ----------
    eigenvalues
        B × r; zeros may be left out.
    projections
        Squared coordinates of c in the eigenvectors, B × r × C.
    dimension
        d; the d - r eigenvalues not listed are zero.
    """

    def __init__(self, eigenvalues: Array, projections: Array, dimension: int) -> None:
        top = eigenvalues.max(axis=1, keepdims=True)
        self.kept = eigenvalues > _RANK_TOLERANCE * np.maximum(top, 1e-300)
        self.eigenvalues = np.where(self.kept, eigenvalues, 0.0)
        self.projections = np.where(self.kept[:, :, None], projections, 0.0)
        self.dimension = dimension

    def __call__(self, t: Array) -> tuple[Array, Array, Array]:
        """See :class:`Resolvent`."""
        inverse = 1.0 / (self.eigenvalues[:, :, None] + t[:, None, :])
        gamma = (self.eigenvalues[:, :, None] * inverse).sum(1)
        weighted = self.projections * inverse
        return gamma, weighted.sum(1), (weighted * inverse).sum(1)

    def log_determinant(self, t: Array, *, compat: bool) -> Array:
        """Log det(K + t), B × C (see :class:`Resolvent`)."""
        logs = np.log(self.eigenvalues[:, :, None] + t[:, None, :])
        kept = self.kept[:, :, None]
        rank = kept.sum(1)
        out: Array = (logs * kept).sum(1)
        return out if compat else out + (self.dimension - rank) * np.log(t)


class LowRankUpdate:
    r"""Resolvent of K = W G W' for maps W = s I + V U', without a d³ step per source.

    With G = Q diag(g) Q' taken once, K = s² G + Z S Z' where, in the eigenvectors of G,
    Z = [V, G U] (d × 2r) and S = [[U'G U, s I], [s I, 0]]. The Woodbury identity leaves
    2r × 2r matrices: with D = (s² g + t)^-1 and H = (I + S Z'D Z)^-1 S,

        (K + t)^-1 = D - D Z H Z'D.

    Parameters
    ----------
    g, q
        Eigenvalues (d) and eigenvectors (d × d) of the target's Gram matrix.
    cross
        F'Y of the target, d × C.
    scale
        s, B.
    inner, outer
        U and V, B × d × r each.
    """

    def __init__(
        self, g: Array, q: Array, cross: Array, scale: Array, inner: Array, outer: Array
    ) -> None:
        u, v = q.T @ inner, q.T @ outer
        r = inner.shape[2]
        gu = g[:, None] * u
        self.z = np.concatenate([v, gu], axis=2)
        s = np.zeros((len(scale), 2 * r, 2 * r))
        s[:, :r, :r] = u.transpose(0, 2, 1) @ gu
        identity = scale[:, None, None] * np.eye(r)
        s[:, :r, r:] = identity
        s[:, r:, :r] = identity
        self.s = s
        self.base = scale[:, None] ** 2 * g
        # W F'Y in the eigenvectors of G.
        self.c = scale[:, None, None] * (q.T @ cross) + v @ (inner.transpose(0, 2, 1) @ cross)
        self.trace = self.base.sum(1) + np.einsum("bij,bji->b", s, np.matmul(_t(self.z), self.z))

    def rescale(self, factor: Array) -> None:
        """Multiply the features of each source by ``factor`` (B)."""
        self.base = self.base * factor[:, None] ** 2
        self.s = self.s * factor[:, None, None] ** 2
        self.c = self.c * factor[:, None, None]
        self.trace = self.trace * factor**2

    def _inner(self, t: Array) -> tuple[Array, Array, Array]:
        """D (B × C × d), D Z (B × C × d × p) and I + S Z'DZ (B × C × p × p)."""
        d = 1.0 / (self.base[:, None, :] + t[:, :, None])
        dz = d[:, :, :, None] * self.z[:, None]
        m = np.matmul(_t(self.z)[:, None], dz)
        return d, dz, np.eye(m.shape[-1]) + self.s[:, None] @ m

    def __call__(self, t: Array) -> tuple[Array, Array, Array]:
        """See :class:`Resolvent`."""
        d, dz, inner = self._inner(t)
        h = np.linalg.solve(inner, np.broadcast_to(self.s[:, None], inner.shape))
        trace = d.sum(2) - np.einsum("bcij,bcji->bc", h, np.matmul(_t(dz), dz))
        c = self.c.transpose(0, 2, 1)
        w = d * c
        zw = np.matmul(_t(dz), c[..., None])
        x = w - np.matmul(dz, np.matmul(h, zw))[..., 0]
        gamma = self.base.shape[1] - t * trace
        return gamma, (c * x).sum(2), (x * x).sum(2)

    def log_determinant(self, t: Array, *, compat: bool) -> Array:
        """Log det(K + t), B × C (see :class:`Resolvent`)."""
        if compat:
            raise NotImplementedError("compat needs the eigenvalues: use Spectral")
        d, _, inner = self._inner(t)
        out: Array = np.linalg.slogdet(inner)[1] - np.log(d).sum(2)
        return out


def _t(a: Array) -> Array:
    return np.swapaxes(a, -1, -2)


def _one_thread() -> threadpool_limits:
    """BLAS on one thread.

    With matrices this small, threads that wait for each other cost more than they give, tenfold
    and worse where other work holds the processors.
    """
    return threadpool_limits(1, user_api="blas")


def log_evidence(
    resolvent: Resolvent,
    label_square: Array,
    n: int,
    dimension: int,
    sources: int,
    *,
    compat: bool = False,
    tolerance: float = 1e-3,
    iterations: int = 50,
) -> tuple[Array, Array, Array]:
    """Evidence per example of B sources and C label columns.

    The fixed point starts at alpha = beta = 1 and stops, column by column, when alpha / beta
    changes by less than ``tolerance``: a column that has stopped is frozen, so the result does
    not depend on what it is computed beside.

    Returns
    -------
    evidence, alpha, beta
        B × C each.
    """
    shape = (sources, len(label_square))
    alpha, beta = np.ones(shape), np.ones(shape)
    norm, residual = np.zeros(shape), np.zeros(shape)
    live = np.ones(shape, bool)
    for _ in range(iterations):
        t = alpha / beta
        gamma, q1, q2 = resolvent(t)
        norm = np.where(live, q2, norm)
        residual = np.where(live, np.maximum(label_square - q1 - t * q2, 0.0), residual)
        alpha = np.where(live, np.maximum(gamma, _LEAST) / (norm + _EPSILON), alpha)
        beta = np.where(live, (n - gamma) / (residual + _EPSILON), beta)
        live &= np.abs(alpha / beta - t) > tolerance * t
        if not live.any():
            break
    t = alpha / beta
    if not compat:
        # The published code keeps the terms of the step before; the evidence needs these.
        _, q1, q2 = resolvent(t)
        norm, residual = q2, np.maximum(label_square - q1 - t * q2, 0.0)
    rank = (
        resolvent.kept.sum(1)[:, None] if compat and isinstance(resolvent, Spectral) else dimension
    )
    determinant = resolvent.log_determinant(t, compat=compat) + rank * np.log(beta)
    evidence = 0.5 * (
        dimension * np.log(alpha)
        + n * np.log(beta)
        - determinant
        - beta * residual
        - alpha * norm
        - n * math.log(2 * math.pi)
    )
    return evidence / n, alpha, beta


def logme(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    compat: bool = False,
    centring: Centring = "none",
    unit_norm: bool = False,
) -> float:
    """LogME of features for labels: mean log evidence per example.

    Parameters
    ----------
    features
        F, n × d.
    labels
        n integer class ids (scored one against the rest), or n or n × C float outputs.
    compat
        Reproduce the published formula, which leaves out the zero eigenvalues' part of the
        log-determinant and counts class ids that never occur.
    centring
        Remove the mean of the ``features``, or of ``both`` features and label columns.
    unit_norm
        Scale the features to a root mean square norm of 1.

    Returns
    -------
    The mean over classes or outputs of the log evidence per example; higher is better.

    Raises
    ------
    DataError
        If features or labels are not finite, do not have the same length, or hold one class.

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
    if centring != "none":
        f = f - f.mean(0)
    if centring == "both":
        y = y - y.mean(0)
    if unit_norm:
        f = f / max(math.sqrt((f**2).sum() / len(f)), 1e-300)
    with _one_thread():
        u, s, _ = np.linalg.svd(f, full_matrices=False)
        projections = (s[:, None] * (u.T @ y)) ** 2
        resolvent = Spectral((s**2)[None], projections[None], f.shape[1])
        evidence, _, _ = log_evidence(
            resolvent, (y**2).sum(0), len(f), f.shape[1], 1, compat=compat
        )
    return float(evidence.mean())


def logme_of_maps(
    target: TargetStatistics,
    scale: Array,
    inner: NDArray[Any],
    outer: NDArray[Any],
    offset: NDArray[Any] | None = None,
    *,
    compat: bool = False,
    centring: Centring = "both",
    unit_norm: bool = True,
) -> Array:
    """LogME of B linear maps f -> s f + V U'f + b of a target's embeddings.

    Parameters
    ----------
    target
        Statistics of the target's base embeddings and label columns.
    scale
        s, B.
    inner, outer
        U and V, B × d × r each.
    offset
        b, B × d; without effect where features are centred.
    compat, centring, unit_norm
        As in :func:`logme`.

    Returns
    -------
    B scores, each equal to :func:`logme` on the mapped embeddings.
    """
    centred = target.centred(centring)
    d, columns = target.cross.shape
    r = inner.shape[2]
    u, v = np.asarray(inner, np.float64), np.asarray(outer, np.float64)
    scale = np.asarray(scale, np.float64)
    # Per column Woodbury costs about 20 d (2r)² a step, one eigendecomposition about 10 d³.
    cheap = columns * (2 * r) ** 2 < d**2 / 2
    if centring != "none" and not compat and cheap:
        with _one_thread():
            g, q = np.linalg.eigh(centred.gram)
            low_rank = LowRankUpdate(np.maximum(g, 0.0), q, centred.cross, scale, u, v)
            if unit_norm:
                low_rank.rescale(np.sqrt(target.n / np.maximum(low_rank.trace, 1e-300)))
            evidence, _, _ = log_evidence(low_rank, centred.label_square, target.n, d, len(scale))
        mean: Array = evidence.mean(1)
        return mean
    weight = scale[:, None, None] * np.eye(d) + v @ _t(u)
    b = np.zeros((len(scale), d)) if offset is None else np.asarray(offset, np.float64)
    return logme_of_full_maps(
        target, weight, b, compat=compat, centring=centring, unit_norm=unit_norm
    )


def logme_of_full_maps(
    target: TargetStatistics,
    weight: NDArray[Any],
    offset: NDArray[Any],
    *,
    compat: bool = False,
    centring: Centring = "both",
    unit_norm: bool = True,
) -> Array:
    """LogME of B linear maps f -> W f + b, W (B × d × d), b (B × d); see :func:`logme`."""
    centred = target.centred(centring)
    out = np.empty(len(weight))
    with _one_thread():
        for i, (w, b) in enumerate(zip(weight, offset, strict=True)):
            w = np.asarray(w, np.float64)
            k = w @ centred.gram @ w.T
            c = w @ centred.cross
            if centring == "none":
                wm = w @ target.total
                k += np.outer(wm, b) + np.outer(b, wm) + target.n * np.outer(b, b)
                c += np.outer(b, target.label_total)
            if unit_norm:
                factor = target.n / max(float(np.trace(k)), 1e-300)
                k, c = k * factor, c * math.sqrt(factor)
            values, vectors = np.linalg.eigh(k)
            spectral = Spectral(
                np.maximum(values, 0.0)[None], ((vectors.T @ c) ** 2)[None], len(values)
            )
            evidence, _, _ = log_evidence(
                spectral, centred.label_square, target.n, len(values), 1, compat=compat
            )
            out[i] = evidence.mean()
    return out
