"""Embedding space maps: what a tuned model does to embeddings, as a linear map.

Schulte et al. 2024 (arXiv 2410.15148) train, per source, one linear layer from the base
model's embeddings of the source's texts to the tuned model's, and put it in place of the tuned
model when a target is scored. Here the layer is fitted in closed form: ridge regression towards
a multiple of the identity, from two moments that are sums over rows. The strength is chosen on
held-out rows, and a form of rank r follows by reduced-rank regression.

A map may read more than it changes: where base embeddings have D columns, the d that tuning
changed first and others beside them (those of the middle layer), the multiple of the identity is
on the first d and all D are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Ridge strengths tried, in units of the mean eigenvalue of the centred base moments.
STRENGTHS: tuple[float, ...] = tuple(10.0**k for k in np.arange(-5, 3.01, 0.5))
#: Rows multiplied at a time.
_BLOCK = 512


@dataclass(frozen=True)
class Moments:
    """Sums over pairs (x, y) of a base and a tuned embedding, all that fitting needs.

    Attributes
    ----------
    n
        Pairs.
    xx, xy
        X'X, D × D, and X'Y, D × d.
    x, y
        X'1, D, and Y'1, d.
    yy
        tr Y'Y.
    """

    n: int
    xx: Array
    xy: Array
    x: Array
    y: Array
    yy: float

    @classmethod
    def of(cls, base: ArrayLike, tuned: ArrayLike) -> Moments:
        """From base embeddings (n × D) and tuned ones (n × d).

        Products of float32 are taken about the means, a block of rows at a time, and added up in
        float64: what is lost is a share of 1e-7 of the centred moments, in half the time.
        """
        x, y = np.asarray(base), np.asarray(tuned)
        if x.dtype != np.float32 or y.dtype != np.float32 or not len(x):
            x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
            return cls(len(x), x.T @ x, x.T @ y, x.sum(0), y.sum(0), float((y**2).sum()))
        shifts = x.mean(0), y.mean(0)
        dx, dy = (shift.astype(np.float64) for shift in shifts)
        about = cls._none(x.shape[1], y.shape[1])
        for start in range(0, len(x), _BLOCK):
            a, b = (
                f[start : start + _BLOCK] - shift for f, shift in zip((x, y), shifts, strict=True)
            )
            sums = a.sum(0, np.float64), b.sum(0, np.float64)
            about = about + cls(len(a), a.T @ a, a.T @ b, *sums, float((b * b).sum(dtype=float)))
        n = about.n
        return cls(
            n,
            about.xx + np.outer(dx, about.x) + np.outer(about.x, dx) + n * np.outer(dx, dx),
            about.xy + np.outer(dx, about.y) + np.outer(about.x, dy) + n * np.outer(dx, dy),
            about.x + n * dx,
            about.y + n * dy,
            about.yy + 2 * float(dy @ about.y) + n * float(dy @ dy),
        )

    @classmethod
    def _none(cls, d: int, outputs: int) -> Moments:
        """Of no pairs."""
        return cls(0, np.zeros((d, d)), np.zeros((d, outputs)), np.zeros(d), np.zeros(outputs), 0.0)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.n + other.n,
            self.xx + other.xx,
            self.xy + other.xy,
            self.x + other.x,
            self.y + other.y,
            self.yy + other.yy,
        )

    def centred(self) -> tuple[Array, Array]:
        """X'X and X'Y about the means."""
        mean = self.x / self.n
        return self.xx - np.outer(mean, self.x), self.xy - np.outer(mean, self.y)


@dataclass(frozen=True)
class SpaceMap:
    """A map f -> s f + V U'f + b of embeddings; V U' is of rank r, or a full matrix.

    It may read more columns than it gives: s f then is s times the first d.

    Attributes
    ----------
    scale
        s, the multiple of the identity.
    inner, outer
        U, D × r, and V, d × r. A full map has U = W' - s I (D × d) and V = I.
    offset
        b, d.
    strength
        Ridge strength chosen, in units of the mean eigenvalue.
    """

    scale: float
    inner: NDArray[np.floating[Any]]
    outer: NDArray[np.floating[Any]]
    offset: NDArray[np.floating[Any]]
    strength: float = 0.0

    @property
    def rank(self) -> int:
        """r."""
        return int(self.inner.shape[1])

    def __call__(self, embeddings: ArrayLike) -> Array:
        """Map n × D embeddings to n × d."""
        f = np.asarray(embeddings, np.float64)
        changed = self.scale * f[:, : len(self.offset)]
        out: Array = changed + (f @ self.inner) @ np.asarray(self.outer).T + self.offset
        return out

    def half(self) -> SpaceMap:
        """The same map with its arrays in half precision, as pools keep it."""
        return SpaceMap(
            float(np.float16(self.scale)),
            self.inner.astype(np.float16),
            self.outer.astype(np.float16),
            self.offset.astype(np.float16),
            self.strength,
        )

    def mean_squared_error(self, held_out: Moments) -> float:
        """Mean over rows of the squared distance |y - map(x)|², from moments alone."""
        w = (
            self.scale * np.eye(len(self.inner), len(self.offset))
            + self.inner.astype(np.float64) @ np.asarray(self.outer, np.float64).T
        )  # x' w = map(x)'
        b = self.offset.astype(np.float64)
        n = held_out.n
        total = (
            held_out.yy
            + float(np.einsum("ij,ij->", w, held_out.xx @ w))
            + n * float(b @ b)
            - 2 * float(np.einsum("ij,ij->", w, held_out.xy))
            - 2 * float(held_out.y @ b)
            + 2 * float(held_out.x @ w @ b)
        )
        return total / n

    def explained(self, held_out: Moments) -> float:
        """Held-out R² of the tuned embeddings, all dimensions together."""
        variance = held_out.yy / held_out.n - float((held_out.y**2).sum()) / held_out.n**2
        return 1.0 - self.mean_squared_error(held_out) / variance


def identity_map(dimension: int, read: int | None = None) -> SpaceMap:
    """The map of the untouched encoder, rank 0: the candidate "none".

    ``read`` is D, where more than d columns are read.
    """
    inner = np.zeros((read or dimension, 0))
    return SpaceMap(1.0, inner, np.zeros((dimension, 0)), np.zeros(dimension))


def fit_map(
    train: Moments,
    held_out: Moments,
    *,
    rank: int | None = 16,
    strengths: Sequence[float] = STRENGTHS,
) -> SpaceMap:
    """Fit a space map in closed form; see :func:`fit_maps`."""
    return fit_maps(train, held_out, ranks=(rank,), strengths=strengths)[0]


def fit_maps(
    train: Moments,
    held_out: Moments,
    *,
    ranks: Sequence[int | None] = (16,),
    strengths: Sequence[float] = STRENGTHS,
) -> list[SpaceMap]:
    """Fit space maps of several ranks in closed form, from one decomposition.

    Minimises |Y - X W - 1 b'|² + strength |W - s I|² over W and b, with s the best multiple of
    the identity alone. The strength is the one whose full map has the least error on
    ``held_out``; the errors of all of them follow from one eigendecomposition of X'X. Then the
    best rank-r part of W - s I for the penalised fit is kept (reduced-rank regression: Izenman
    1975), which the eigenvectors of one d × d matrix give for every r.

    Parameters
    ----------
    train, held_out
        Moments of disjoint rows.
    ranks
        r of each map; None for a full one.
    strengths
        Ridge strengths to try, in units of the mean eigenvalue of the centred X'X.

    Returns
    -------
    One map per rank.
    """
    from scipy import linalg  # takes half a second that a ranking does not need

    problem = _Ridge.of(train)
    strength, d = strengths[0], problem.left.shape[1]
    if len(strengths) > 1:
        strength = problem.choose(held_out, strengths)
    delta = problem.solve(strength)
    low = [r for r in ranks if r is not None and r < d]
    if low:
        # Leading right directions of delta in the metric X'X + strength.
        penalised = delta.T @ problem.left
        leading = (d - max(1, *low), d - 1)
        directions = linalg.eigh((penalised + penalised.T) / 2, subset_by_index=leading)[1]
    out = []
    for rank in ranks:
        if rank is None or rank >= d:
            inner, outer = delta, np.eye(d)
        else:
            outer = directions[:, ::-1][:, :rank]
            inner = delta @ outer
        x_mean = problem.x_mean
        offset = problem.y_mean - problem.s * x_mean[:d] - outer @ (inner.T @ x_mean)
        out.append(SpaceMap(problem.s, inner, outer, offset, strength))
    return out


def choose_strength(
    train: Moments, held_out: Moments, strengths: Sequence[float] = STRENGTHS
) -> float:
    """Choose the ridge strength whose full map has the least held-out error; no map is made.

    For a map that is then fitted on all rows with that strength; see :func:`fit_maps`.
    """
    return _Ridge.of(train).choose(held_out, strengths)


@dataclass
class _Ridge:
    """Ridge regression towards s I: what all strengths share."""

    xx: Array
    left: Array
    s: float
    unit: float
    x_mean: Array
    y_mean: Array
    eigen: tuple[Array, Array, Array] | None = None

    @classmethod
    def of(cls, train: Moments) -> _Ridge:
        xx, xy = train.centred()
        d = xy.shape[1]
        s = float(np.trace(xy)) / max(float(np.trace(xx[:d, :d])), 1e-300)
        unit = max(float(np.trace(xx)), 1e-300) / len(xx)
        return cls(xx, xy - s * xx[:, :d], s, unit, train.x / train.n, train.y / train.n)

    def choose(self, held_out: Moments, strengths: Sequence[float]) -> float:
        """The strength of least held-out error; leaves the eigenvectors for :meth:`solve`."""
        values, vectors = np.linalg.eigh(self.xx)
        values = np.maximum(values, 0.0)
        residual = vectors.T @ self.left
        self.eigen = values, vectors, residual
        scaled = [k * self.unit for k in strengths]
        errors = _errors_of_full_maps(
            held_out, self.x_mean, self.y_mean, self.s, vectors, residual, values, scaled
        )
        return strengths[int(np.argmin(errors))]

    def solve(self, strength: float) -> Array:
        """Solve (X'X + strength) delta = X'Y - s X'X."""
        from scipy import linalg

        scaled = strength * self.unit
        found: Array
        if self.eigen is not None:
            values, vectors, residual = self.eigen
            found = vectors @ (residual / (values + scaled)[:, None])
            return found
        penalised = self.xx + scaled * np.eye(len(self.xx))
        try:
            found = linalg.cho_solve(linalg.cho_factor(penalised), self.left)
        except linalg.LinAlgError:  # so small a strength that rounding shows
            found = linalg.lstsq(penalised, self.left)[0]
        return found


def _errors_of_full_maps(
    held_out: Moments,
    x_mean: Array,
    y_mean: Array,
    s: float,
    vectors: Array,
    residual: Array,
    values: Array,
    strengths: Sequence[float],
) -> list[float]:
    """Held-out squared error of full maps of many strengths, d² work for each.

    With J the first d columns of the identity a map is W = s J + V D R, V the eigenvectors of the
    training X'X and D = diag(1 / (values + strength)). With H the held-out second moments about
    the training means, the error is quadratic in the diagonal of D:

        |y|² - 2 tr W'H_xy + s² tr J'H J + 2 s sum_i D_i (R J'H V)_ii + D'(V'H V * R R')D.
    """
    n, d = held_out.n, residual.shape[1]
    xx = held_out.xx - np.outer(held_out.x, x_mean) - np.outer(x_mean, held_out.x)
    xx += n * np.outer(x_mean, x_mean)
    xy = held_out.xy - np.outer(held_out.x, y_mean) - np.outer(x_mean, held_out.y)
    xy += n * np.outer(x_mean, y_mean)
    yy = held_out.yy - 2 * float(held_out.y @ y_mean) + n * float(y_mean @ y_mean)
    a = vectors.T @ xx @ vectors
    constant = yy - 2 * s * float(np.trace(xy)) + s**2 * float(np.trace(xx[:d, :d]))
    linear = 2 * (residual * (vectors.T @ (s * xx[:, :d] - xy))).sum(1)
    quadratic = a * (residual @ residual.T)
    errors = []
    for strength in strengths:
        diagonal = 1.0 / (values + strength)
        errors.append(constant + float(linear @ diagonal + diagonal @ quadratic @ diagonal))
    return errors
