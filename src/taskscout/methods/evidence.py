r"""LogME's mathematics: arrays in, numbers out.

The model is Bayesian linear regression of a label column y (n) on features F (n × d),

    y = F w + noise,   w ~ N(0, I / alpha),   noise ~ N(0, I / beta),

and the score is the log of its marginal likelihood (the evidence) at the alpha and beta that
MacKay's fixed point reaches, divided by n, averaged over label columns (one against the rest
for classes; every output for regression). You et al. 2021, "LogME: Practical Assessment of
Pre-trained Models for Transfer Learning", ICML; the fixed point as in their later code.

With K = F'F, c = F'y, m the mean of w and t = alpha / beta everything follows from

    gamma(t) = tr K (K + t)^-1,   |m|^2 = c'(K + t)^-2 c,
    |y - F m|^2 = y'y - c'(K + t)^-1 c - t |m|^2,

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
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from taskscout.errors import DataError
from taskscout.methods.statistics import Centring, TargetStatistics

Array = NDArray[np.float64]
T = TypeVar("T")
Precision = Literal["auto", "double"]

#: Added to both denominators of the fixed point, as in the published algorithm.
_EPSILON = 1e-5
#: The effective number of dimensions is at least this, so that features which say nothing keep a
#: finite evidence: that of noise alone.
_LEAST = 1e-30
#: Eigenvalues below this share of the largest count as zero.
_RANK_TOLERANCE = 1e-12
#: A residual below this share of y'y is too small a difference to trust.
_SMALL_RESIDUAL = 1e-4
#: A map in which s I makes less than this share of the features is scored as a full one.
_LEAST_SHARE = 1e-4
#: Single precision serves maps whose fit leaves at least this share of y'y, in which s I makes at
#: least this share of the features, and whose V has so even lengths: then a score differs from
#: that of double precision by 1e-6 at most (``tests/methods/test_evidence``).
_SINGLE_RESIDUAL, _SINGLE_SHARE, _SINGLE_EVEN = 0.1, 0.1, 0.1


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


class Resolvent(Protocol):
    """What the fixed point asks of features and label columns, for B sources and C columns."""

    def __call__(self, t: Array) -> tuple[Array, Array, Array]:
        """``gamma``, ``|m|²`` and ``|y - F m|²`` (each B × C) at t (B × C)."""

    def log_determinant(self, t: Array, *, compat: bool) -> Array:
        """log det(K + t) (B × C); over non-zero eigenvalues only for ``compat``."""


class Spectral:
    """Resolvent from the eigenvalues of K and the label columns in F's left singular vectors.

    With b the coordinates of y in the left singular vectors of F, whose squared singular values
    are lambda,

        |m|^2 = sum b² lambda / (lambda + t)²,
        |y - F m|^2 = y'y - sum b² + sum b² t² / (lambda + t)²,

    sums of terms of one sign: where F nearly interpolates y nothing cancels.

    Parameters
    ----------
    eigenvalues
        B × r; zeros may be left out.
    energies
        b², B × r × C.
    label_square
        y'y, C.
    dimension
        d; the d - r eigenvalues not listed are zero.
    """

    def __init__(
        self, eigenvalues: Array, energies: Array, label_square: Array, dimension: int
    ) -> None:
        top = eigenvalues.max(axis=1, keepdims=True)
        self.kept = eigenvalues > _RANK_TOLERANCE * np.maximum(top, 1e-300)
        self.eigenvalues = np.where(self.kept, eigenvalues, 0.0)
        self.energies = np.where(self.kept[:, :, None], energies, 0.0)
        self.beyond = np.maximum(label_square - self.energies.sum(1), 0.0)
        self.dimension = dimension

    @classmethod
    def of_gram(cls, gram: Array, cross: Array, label_square: Array) -> Spectral:
        """From one source's K (d × d) and c (d × C)."""
        values, vectors = np.linalg.eigh(gram)
        values = np.maximum(values, 0.0)
        least = max(_RANK_TOLERANCE * float(values[-1]), 1e-300)
        energies = (vectors.T @ cross) ** 2 / np.maximum(values, least)[:, None]
        return cls(values[None], energies[None], label_square, len(gram))

    def __call__(self, t: Array) -> tuple[Array, Array, Array]:
        """See :class:`Resolvent`."""
        t = t[:, None, :]
        inverse = 1.0 / (self.eigenvalues[:, :, None] + t)
        share = self.eigenvalues[:, :, None] * inverse
        norm = (self.energies * share * inverse).sum(1)
        return share.sum(1), norm, self.beyond + (self.energies * (t * inverse) ** 2).sum(1)

    def log_determinant(self, t: Array, *, compat: bool) -> Array:
        """Log det(K + t), B × C (see :class:`Resolvent`)."""
        logs = np.log(self.eigenvalues[:, :, None] + t[:, None, :])
        kept = self.kept[:, :, None]
        rank = kept.sum(1)
        out: Array = (logs * kept).sum(1)
        return out if compat else out + (self.dimension - rank) * np.log(t)


class Tridiagonal:
    """Resolvent of one source by a tridiagonal form of K: eigenvalues without eigenvectors.

    K = H T H' takes 4/3 d³ operations and T's eigenvalues d² more; eigenvectors, which would take
    several times that, are replaced by one tridiagonal solve per column and step. Here the
    residual is a difference, y'y - c'(K + t)^-1 c - t |m|², so it serves only while that is no
    small part of y'y: ``doubtful`` says when it was.

    Parameters
    ----------
    gram, cross
        K (d × d) and c (d × C).
    label_square
        y'y, C.
    """

    def __init__(self, gram: Array, cross: Array, label_square: Array) -> None:
        from scipy.linalg import lapack

        d, columns = cross.shape
        reflectors, self.diagonal, self.off, tau, _ = lapack.dsytrd(gram, lower=1, lwork=64 * d)
        below = np.asfortranarray(reflectors[1:, :-1])
        rest, _, _ = lapack.dormqr(
            "L", "T", below, tau, np.asfortranarray(cross[1:]), lwork=64 * columns
        )
        self.c = np.vstack([cross[:1], rest])
        self.eigenvalues = np.maximum(lapack.dsterf(self.diagonal, self.off)[0], 0.0)
        self.label_square = label_square
        self.doubtful = False
        self._solve = lapack.dptsv

    def __call__(self, t: Array) -> tuple[Array, Array, Array]:
        """See :class:`Resolvent`."""
        gamma = (self.eigenvalues[:, None] / (self.eigenvalues[:, None] + t)).sum(0)
        explained, norm = np.empty_like(t), np.empty_like(t)
        for j, at in enumerate(t[0]):
            _, _, x, failed = self._solve(self.diagonal + at, self.off, self.c[:, j : j + 1])
            self.doubtful |= failed != 0
            explained[0, j], norm[0, j] = self.c[:, j] @ x[:, 0], x[:, 0] @ x[:, 0]
        residual = self.label_square - explained - t * norm
        self.doubtful |= bool((residual < _SMALL_RESIDUAL * self.label_square).any())
        return gamma[None], norm, np.maximum(residual, 0.0)

    def log_determinant(self, t: Array, *, compat: bool) -> Array:
        """Log det(K + t), 1 × C (see :class:`Resolvent`)."""
        if compat:
            raise NotImplementedError("compat needs the rank of K: use Spectral")
        out: Array = np.log(self.eigenvalues[:, None] + t).sum(0)[None]
        return out


class _Panel:
    """A stretch of log t on which functions of t are interpolated at Chebyshev points.

    gamma, the log-determinant and the labels' quadratic forms are sums of logistic functions of
    log t, analytic in a strip of half-width pi: on a stretch of half-width a they are met by
    polynomials of degree m with an error of about (pi/a + sqrt(1 + (pi/a)²))^-m.
    """

    #: Half-width in log t.
    HALF = 1.6

    def __init__(self, points: int) -> None:
        order = np.arange(points)
        self.x = np.cos(np.pi * (order + 0.5) / points)
        #: From values at the points to Chebyshev coefficients.
        self.fit = 2.0 / points * np.cos(np.outer(order, np.arccos(self.x)))
        self.fit[0] /= 2.0
        #: From coefficients to those of the derivative by log t.
        self.derive = np.zeros((points, points))
        for k in order:
            self.derive[k, k + 1 :: 2] = 2.0 * np.arange(k + 1, points, 2)
        self.derive[0] /= 2.0
        self.derive /= self.HALF

    @classmethod
    def place(cls, u: Array) -> tuple[NDArray[np.int64], Array]:
        """Panel of each u = log t, and the place in it, -1 to 1."""
        number = np.floor(u / (2 * cls.HALF))
        return number.astype(np.int64), u / cls.HALF - 2 * number - 1

    def points(self, number: int) -> Array:
        """The t of a panel's points."""
        return np.exp(self.HALF * (2 * number + 1 + self.x))


#: Of a score, 16 points make an error of 1e-11, 11 one below that of single precision, 1e-8.
_DOUBLE, _SINGLE = _Panel(16), _Panel(11)


class TargetSpectrum:
    """What all maps s I + V U' share of a target: one eigendecomposition of its Gram matrix.

    Parameters
    ----------
    target
        Its statistics, centred as the features are to be.
    dimension
        d, the leading columns that s I is on; maps read the others too. None for all.
    components
        Keep only so many leading principal components of these d columns; None for all.
    device
        A torch device to compute on; None for NumPy.
    """

    def __init__(
        self,
        target: TargetStatistics,
        *,
        dimension: int | None = None,
        components: int | None = None,
        device: str | None = None,
    ) -> None:
        d = len(target.gram) if dimension is None else dimension
        g, q = np.linalg.eigh(target.gram[:d, :d])
        kept = g > max(_RANK_TOLERANCE * float(g[-1]), 1e-300)
        if components is not None:
            kept[: max(len(g) - components, 0)] = False
        g, q = g[kept], q[:, kept]
        self.n, self.dimension = target.n, d
        self.columns = target.cross.shape[1]
        self.label_square = target.label_square
        self.g = g
        cross = q.T @ target.cross[:d]
        energies = cross**2 / g[:, None]
        read = self._read(target, g, q, cross)
        self.beyond = np.maximum(target.label_square - energies.sum(0), 0.0)
        #: Where a panel begins: sources start at, and mostly stay within ten times, tr G / n.
        self.unit = 0.6 * max(float(g.sum()), 1e-300) / self.n
        self.xp: Any = np
        self.array: Callable[..., Any] = lambda a, kind=np.float64: np.asarray(a, kind, order="C")
        self.numpy: Callable[[Any], Array] = lambda a: np.asarray(a, np.float64)
        if device is not None:
            import torch

            self.xp = torch
            self.array = lambda a, _=None: torch.as_tensor(
                np.ascontiguousarray(a), dtype=torch.float64, device=device
            )
            self.numpy = lambda a: np.asarray(a.cpu())
        #: Maps taken through a product at a time: on a processor, as many as its cache holds.
        self.chunk = 1 if device is None else 256
        #: From U to its rotation, D × d: Q, and below it what F makes of the columns beside it.
        turn = q if read is None else np.vstack([q, read[0]])
        self.q, self.g_here, self.turn = self.array(q), self.array(g), self.array(turn)
        if device is None:
            self.q_single = self.array(q, np.float32)
            self.turn_single = self.array(turn, np.float32)
        #: Of what F does not make of them: its Gram matrix, and its product with the labels.
        self.rest = None if read is None else tuple(map(self.array, read[1:]))
        self.cross, self.energies = self.array(cross), self.array(energies)
        self.index: Callable[[Any], Any] = (
            (lambda i: i) if device is None else lambda i: torch.as_tensor(i, device=device)
        )
        self._panels: dict[tuple[int, bool], tuple[Any, ...]] = {}

    def _read(
        self, target: TargetStatistics, g: Array, q: Array, cross: Array
    ) -> tuple[Array, Array, Array] | None:
        """Part the columns M beside F into what F makes of them and what it does not.

        Returns
        -------
        (M'F Q / g, M⊥'M⊥, M⊥'Y) with M = F (F'F)^-1 F'M + M⊥; None where nothing stands beside F.
        """
        d = self.dimension
        if len(target.gram) == d:
            return None
        beside = target.gram[d:, :d] @ q
        made = beside / g
        gram = target.gram[d:, d:] - made @ beside.T
        labels = target.cross[d:] - made @ cross
        room = self.n - (not target.total.any())  # that centred rows have, and others
        if len(g) >= room:  # F takes all of it: only rounding is left
            gram, labels = np.zeros_like(gram), np.zeros_like(labels)
        return made, (gram + gram.T) / 2, labels

    def panel(self, number: int, *, single: bool) -> tuple[Any, ...]:
        """What maps share at the points of a panel.

        Returns
        -------
        h = g / (g + t) and 1 - h (m × d), t (m), [F'y / (g + t)] (d × mC), and of the unmapped
        features log det(I + G / t) (m) and y't(FF' + t)^-1 y (m × C).
        """
        if (number, single) not in self._panels:
            t = self.array(self.unit * (_SINGLE if single else _DOUBLE).points(number))[:, None]
            inverse = 1.0 / (self.g_here + t)
            h, rest = self.g_here * inverse, t * inverse
            right = (inverse.T[:, :, None] * self.cross[:, None, :]).reshape(len(self.g), -1)
            logs, unmapped = self.xp.log1p(self.g_here / t).sum(1), rest @ self.energies
            if single:
                h, rest, right = (a.astype(np.float32) for a in (h, rest, right))
            self._panels[number, single] = h, rest, t[:, 0], right, logs, unmapped
        return self._panels[number, single]


class LowRankMaps:
    r"""Resolvent of B maps W = s I + V U' of a target, without a d³ step per source.

    With G = Q g Q' of the target taken once and V orthonormal (U R' in place of U, by V = V̂ R),

        W'W / s² = I + P P' - V V',    P = U / s + V.

    Where U reads columns beside those that s I is on, what F makes of these (in least squares) is
    part of the first d rows of U, and what it does not, Z, adds Z'Z / (s² t) to P'h P and
    Z'y / (s t) to P's product with the labels.

    In the eigenvectors of G, and with h(t) = g / (g + t), all of det(K + t) and
    y'F W'(K + t)^-1 W F'y then follows from the r × r blocks P'h P, P'h V and V'(1 - h) V by two
    Cholesky factors (Woodbury). Both are tabulated as functions of log t at Chebyshev points
    that all sources and label columns share; gamma and |m|² are their derivatives:

        gamma = -d/dlog t log det(I + K / t),
        t |m|² = w',    |y - F m|² = y'y - b'b + w - w',    w = b't (K~ + t)^-1 b,

    with b the label columns in F's left singular vectors. So a source costs one rotation, 2 d²r
    operations, and about 3 d r² per point, whatever the number of rows, classes and steps.

    Parameters
    ----------
    target
        What the maps share.
    scale
        s, B; not zero.
    inner, outer
        U (B × D × r, D the columns of the target's features) and V (B × d × r), r at least 1.
    unit_norm
        Scale the mapped features to a root mean square norm of 1.
    single
        Rotate and multiply in single precision, in NumPy only; what is made of the r × r blocks
        stays in double. :meth:`doubtful` says which sources that did not serve.

    Raises
    ------
    numpy.linalg.LinAlgError
        In single precision, for a V whose columns depend on each other.
    """

    def __init__(
        self,
        target: TargetSpectrum,
        scale: Array,
        inner: NDArray[Any],
        outer: NDArray[Any],
        *,
        unit_norm: bool,
        single: bool = False,
    ) -> None:
        self.target, self.single, xp = target, single, target.xp
        self.panel = _SINGLE if single else _DOUBLE
        scale = np.asarray(scale, np.float64)
        kind = np.float32 if single else np.float64
        u = target.array(np.swapaxes(inner, -1, -2), kind)
        v = target.array(np.swapaxes(outer, -1, -2), kind)
        self.rank = r = u.shape[1]
        self.even = np.ones(len(scale))
        if single:
            # Of nearly orthonormal columns V'V has a Cholesky factor as good as that of V.
            lower = np.linalg.cholesky((v @ v.swapaxes(-1, -2)).astype(np.float64))
            lengths = np.diagonal(lower, 0, -2, -1)
            self.even = lengths.min(1) / lengths.max(1)
            v = np.linalg.inv(lower).astype(kind) @ v
            u = (lower.swapaxes(-1, -2) / scale[:, None, None]).astype(kind) @ u
        else:
            v, triangle = xp.linalg.qr(v.swapaxes(-1, -2))
            u, v = triangle @ u / target.array(scale)[:, None, None], v.swapaxes(-1, -2)
        # The r rows of P' and the r of V', in the eigenvectors of G.
        q, turn = (target.q_single, target.turn_single) if single else (target.q, target.turn)
        if target.rest is None:
            stacked = xp.concatenate([u + v, v], 1)
            rotated = stacked.reshape(-1, target.dimension) @ q
            self.rows = rotated.reshape(len(scale), 2 * r, len(target.g))
            self.beside: tuple[Any, Any] | None = None
        else:
            p, v = u.reshape(-1, u.shape[2]) @ turn, v.reshape(-1, target.dimension) @ q
            p, v = (a.reshape(len(scale), r, -1) for a in (p, v))
            self.rows = xp.concatenate([p + v, v], 1)
            # Z'Z / s² and Z'y / s; u is in units of s already.
            z = u[:, :, target.dimension :]
            if single:
                z = z.astype(np.float64)
            gram, labels = target.rest
            self.beside = z @ gram @ z.swapaxes(-1, -2), z @ labels
        p, v = self.rows[:, :r], self.rows[:, r:]
        # What of V lies in directions that the features do not have.
        self.outside = target.array(np.eye(r)) - v @ v.swapaxes(-1, -2)
        if single and len(target.g) == target.dimension:
            self.outside[:] = 0.0  # of them there are none; only rounding would be left
        stretch = target.numpy((p**2 - v**2).sum(1)) @ target.g
        if self.beside is not None:
            stretch += np.trace(target.numpy(self.beside[0]), axis1=1, axis2=2)
        #: Sum of the squared mapped features, and the share of it that s I alone gives.
        self.trace = scale**2 * (float(target.g.sum()) + stretch)
        self.own = scale**2 * float(target.g.sum()) / np.maximum(self.trace, 1e-300)
        factor = target.n / np.maximum(self.trace, 1e-300) if unit_norm else np.ones(len(scale))
        # t of the mapped features is this times t of the maps W / s.
        self.factor = factor * scale**2
        #: The least share of y'y, over columns, that a fit of the source has left so far.
        self.left = np.ones(len(scale))
        self._tables: dict[int, tuple[Array, Array, NDArray[np.bool_]]] = {}

    def _values(self, number: int, sources: NDArray[np.int64]) -> tuple[Array, Array]:
        """Log det(I + K / t) (B × m) and w (B × C × m) of some sources at a panel's points."""
        target, xp, r = self.target, self.target.xp, self.rank
        h, rest, t, right, logs, unmapped = target.panel(number, single=self.single)
        m, columns = len(t), target.columns
        chosen = self.rows[target.index(sources)]
        products, remains = [], []
        for start in range(0, len(sources), target.chunk):
            rows = chosen[start : start + target.chunk]
            b, _, d = rows.shape
            p, v = rows[:, :r], rows[:, r:]
            weighted = (h[:, None] * p[:, None]).reshape(b, m * r, d)
            products.append((weighted @ rows.swapaxes(-1, -2)).reshape(b, m, r, 2 * r))
            weighted = (rest[:, None] * v[:, None]).reshape(b, m * r, d)
            remains.append((weighted @ v.swapaxes(-1, -2)).reshape(b, m, r, r))
        product, remain = xp.concatenate(products), xp.concatenate(remains)
        z = (chosen.reshape(len(sources) * 2 * r, -1) @ right).reshape(-1, 2 * r, m, columns)
        if self.single:
            product, z = product.astype(np.float64), z.astype(np.float64)
        z = z.swapaxes(1, 2)
        if self.beside is not None:
            gram, labels = (a[target.index(sources)][:, None] for a in self.beside)
            product[..., :r] += gram / t[:, None, None]
            z[:, :, :r] += labels / t[:, None, None]
        outside = self.outside[target.index(sources)][:, None]
        lower = xp.linalg.cholesky(outside + remain)
        both = xp.concatenate([product[..., r:].swapaxes(-1, -2), z[:, :, r:]], -1)
        both = xp.linalg.solve(lower, both)
        left, y = both[..., :r], both[..., r:]
        inner = left.swapaxes(-1, -2) @ left + product[..., :r] + target.array(np.eye(r))
        upper = xp.linalg.cholesky(inner)
        x = xp.linalg.solve(upper, z[:, :, :r] + left.swapaxes(-1, -2) @ y)
        w = unmapped + t[:, None] * ((y**2).sum(2) - (x**2).sum(2))
        for factor in (lower, upper):
            logs = logs + 2.0 * xp.log(xp.diagonal(factor, 0, -2, -1)).sum(-1)
        return target.numpy(logs), target.numpy(w).transpose(0, 2, 1)

    def _table(self, number: int, sources: NDArray[np.int64]) -> tuple[Array, Array]:
        """Coefficients of both functions and their derivatives by log t: B × 2 × m and with C."""
        if number not in self._tables:
            b, m = len(self.factor), len(self.panel.x)
            self._tables[number] = (
                np.empty((b, 2, m)),
                np.empty((b, self.target.columns, 2, m)),
                np.zeros(b, bool),
            )
        log, w, done = self._tables[number]
        missing = sources[~done[sources]]
        if len(missing):
            for table, values in zip((log, w), self._values(number, missing), strict=True):
                coefficients = values @ self.panel.fit.T
                table[missing, ..., 0, :] = coefficients
                table[missing, ..., 1, :] = coefficients @ self.panel.derive.T
            done[missing] = True
        return log, w

    def _at(self, t: Array) -> tuple[Array, Array]:
        """Log det(I + K / t) and w, each with its derivative by log t: B × C × 2."""
        number, x = _Panel.place(np.log(t / (self.factor[:, None] * self.target.unit)))
        log, w = np.empty((*t.shape, 2)), np.empty((*t.shape, 2))
        for each in np.unique(number):
            i, j = np.nonzero(number == each)
            logs, ws = self._table(int(each), np.unique(i))
            angle = np.arccos(np.clip(x[i, j], -1.0, 1.0))
            basis = np.cos(np.arange(len(self.panel.x)) * angle[:, None])
            log[i, j] = np.einsum("em,efm->ef", basis, logs[i])
            w[i, j] = np.einsum("em,efm->ef", basis, ws[i, j])
        return log, w

    def __call__(self, t: Array) -> tuple[Array, Array, Array]:
        """See :class:`Resolvent`."""
        log, w = self._at(t)
        value, slope = w[..., 0], np.maximum(w[..., 1], 0.0)
        residual = self.target.beyond + np.maximum(value - slope, 0.0)
        share = residual / np.maximum(self.target.label_square, 1e-300)
        self.left = np.minimum(self.left, share.min(1))
        return np.maximum(-log[..., 1], 0.0), slope / t, residual

    def doubtful(self) -> NDArray[np.bool_]:
        """Which sources, B, the precision was too low for: they are to be scored another way."""
        if not self.single:
            least: NDArray[np.bool_] = self.own < _LEAST_SHARE
            return least
        uneven, own = self.even < _SINGLE_EVEN, self.own < _SINGLE_SHARE
        doubtful: NDArray[np.bool_] = uneven | own | (self.left < _SINGLE_RESIDUAL)
        return doubtful

    def log_determinant(self, t: Array, *, compat: bool) -> Array:
        """Log det(K + t), B × C (see :class:`Resolvent`)."""
        if compat:
            raise NotImplementedError("compat needs the rank of K: use Spectral")
        out: Array = self._at(t)[0][..., 0] + self.target.dimension * np.log(t)
        return out


def one_thread() -> threadpool_limits:
    """BLAS on one thread.

    With matrices this small, threads that wait for each other cost more than they give, tenfold
    and worse where other work holds the processors. Work over sources is parallel instead.
    """
    return threadpool_limits(1, user_api="blas")


def processors() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def log_evidence(
    resolvent: Resolvent,
    shape: tuple[int, int],
    n: int,
    dimension: int,
    *,
    compat: bool = False,
    tolerance: float = 1e-3,
    iterations: int = 50,
) -> tuple[Array, Array, Array]:
    """Evidence per example of B sources and C label columns.

    The fixed point starts at alpha = beta = 1 and stops, column by column, when alpha / beta
    changes by less than ``tolerance``: a column that has stopped is frozen, so the result does
    not depend on what it is computed beside.

    Parameters
    ----------
    resolvent
        Of the sources' features and the label columns.
    shape
        B and C.
    n, dimension
        Rows, and columns of the features.
    compat
        The published formula; the resolvent has to be :class:`Spectral`.
    tolerance, iterations
        When to stop.

    Returns
    -------
    evidence, alpha, beta
        B × C each.
    """
    alpha, beta = np.ones(shape), np.ones(shape)
    norm, residual = np.zeros(shape), np.zeros(shape)
    live = np.ones(shape, bool)
    for _ in range(iterations):
        t = alpha / beta
        gamma, new_norm, new_residual = resolvent(t)
        norm = np.where(live, new_norm, norm)
        residual = np.where(live, new_residual, residual)
        alpha = np.where(live, np.maximum(gamma, _LEAST) / (norm + _EPSILON), alpha)
        beta = np.where(live, (n - gamma) / (residual + _EPSILON), beta)
        live &= np.abs(alpha / beta - t) > tolerance * t
        if not live.any():
            break
    t = alpha / beta
    if not compat:
        # The published code keeps the terms of the step before; the evidence needs these.
        _, norm, residual = resolvent(t)
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
    with one_thread():
        u, s, _ = np.linalg.svd(f, full_matrices=False)
        resolvent = Spectral((s**2)[None], ((u.T @ y) ** 2)[None], (y**2).sum(0), f.shape[1])
        shape = 1, y.shape[1]
        evidence, _, _ = log_evidence(resolvent, shape, len(f), f.shape[1], compat=compat)
    return float(evidence.mean())


class MapEvidence:
    """LogME of linear maps f -> s f + V U'[f, g] + b of one target's embeddings.

    What maps share is made once, when the first is scored.

    Parameters
    ----------
    target
        Statistics of the target's base embeddings and label columns.
    compat, centring, unit_norm
        As in :func:`logme`.
    dimension
        d, the columns of f; those that follow, g, are only read. None where there are none.
    components
        Take the features for their leading principal components only, so many of them: a
        screening. It saves less than half of a score's time (``docs/benchmarks.md``).
    precision
        ``auto`` rotates and multiplies in single precision, and in double those maps that it
        would not serve, such as near interpolation, and all where features are not centred;
        scores agree to 1e-6. ``double`` always.
    device
        A torch device, such as ``cuda``; None for NumPy. Always double: scores agree to 1e-9.
    """

    def __init__(
        self,
        target: TargetStatistics,
        *,
        compat: bool = False,
        centring: Centring = "both",
        unit_norm: bool = True,
        dimension: int | None = None,
        components: int | None = None,
        precision: Precision = "auto",
        device: str | None = None,
    ) -> None:
        #: Columns that stand beside those that s I is on.
        self._beside = 0 if dimension is None else len(target.gram) - dimension
        self.target, self.compat, self.centring, self.unit_norm = (
            target,
            compat,
            centring,
            unit_norm,
        )
        centred = target.with_constant() if centring == "none" else target.centred(centring)
        if centring == "both":
            centred = _without_mirrored(centred)
        self._centred = centred
        self._components, self._device = components, device
        # Means that are left in make up most of y'y: what a fit leaves is then a small share.
        single = precision == "auto" and device is None and centring != "none"
        self._precisions = (True, False) if single else (False,)
        self._shared: TargetSpectrum | None = None

    def _spectrum(self) -> TargetSpectrum:
        if self._shared is None:
            self._shared = TargetSpectrum(
                self._centred,
                dimension=len(self._centred.gram) - self._beside,
                components=self._components,
                device=self._device,
            )
            if True in self._precisions and len(self._shared.g) and self._too_easy(self._shared):
                self._precisions = (False,)
        return self._shared

    def _too_easy(self, shared: TargetSpectrum) -> bool:
        """Tell whether single precision would be tried in vain.

        So it is where the unmapped features leave too little of a label column: maps of them
        mostly do as well.
        """
        n, d = shared.n, shared.dimension
        values = shared.g[None] * (n / max(float(shared.g.sum()), 1e-300) if self.unit_norm else 1)
        spectral = Spectral(values, shared.numpy(shared.energies)[None], shared.label_square, d)
        _, alpha, beta = log_evidence(spectral, (1, shared.columns), n, d)
        left = spectral(alpha / beta)[2]
        return bool((left < _SINGLE_RESIDUAL * shared.label_square).any())

    def prepare(self) -> None:
        """Make what maps share, if it is not made yet."""
        if not self.compat:
            with one_thread():
                self._spectrum()

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
            return self._score(scale, inner, outer, offset)

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
        from collections import deque
        from concurrent.futures import Future, ThreadPoolExecutor

        self.prepare()
        threads = threads or processors()
        waiting: deque[tuple[T, Future[Array]]] = deque()
        with one_thread(), ThreadPoolExecutor(threads) as pool:
            for tag, arguments in batches:
                waiting.append((tag, pool.submit(self._score, *arguments)))
                if len(waiting) > threads:
                    tag, future = waiting.popleft()
                    yield tag, future.result()
            for tag, future in waiting:
                yield tag, future.result()

    def _by_blocks(
        self, shared: TargetSpectrum, scale: Array, inner: NDArray[Any], outer: NDArray[Any]
    ) -> Array:
        """Score maps by r × r blocks; NaN for those that this would not serve."""
        shape = len(scale), shared.columns
        n, d = shared.n, shared.dimension
        if not inner.shape[2]:  # s I, whose spectrum is the target's own
            values = scale[:, None] ** 2 * shared.g
            if self.unit_norm:
                values = values * (n / values.sum(1, keepdims=True))
            energies = np.broadcast_to(
                shared.numpy(shared.energies), (len(scale), len(shared.g), shared.columns)
            )
            spectral = Spectral(values, energies, shared.label_square, d)
            mean: Array = log_evidence(spectral, shape, n, d)[0].mean(1)
            return mean
        out = np.full(len(scale), np.nan)
        for single in self._precisions:
            left = np.flatnonzero(np.isnan(out))
            if not len(left):
                break
            maps = scale[left], inner[left], outer[left]
            try:
                low = LowRankMaps(shared, *maps, unit_norm=self.unit_norm, single=single)
                mean = log_evidence(low, (len(left), shared.columns), n, d)[0].mean(1)
            except (np.linalg.LinAlgError, RuntimeError):  # torch's error is the latter
                continue
            # Where s I is lost beside V U', dividing by s has lost the digits too.
            out[left] = np.where(low.doubtful(), np.nan, mean)
        return out

    def _score(
        self,
        scale: Array,
        inner: NDArray[Any],
        outer: NDArray[Any],
        offset: NDArray[Any] | None = None,
    ) -> Array:
        scale = np.asarray(scale, np.float64)
        count, d, r = outer.shape
        b = np.zeros((count, d)) if offset is None else np.asarray(offset, np.float64)
        out = np.full(count, np.nan)
        # Beyond that rank one eigendecomposition per source is cheaper than r × r blocks. These
        # have no place for an offset where columns stand beside.
        placed = not self._beside or self.centring != "none"
        if not self.compat and placed and (8 * r <= d or self._components is not None):
            shared, rows = self._spectrum(), np.flatnonzero(scale)
            maps = scale[rows], inner[rows], outer[rows]
            if self.centring == "none":
                maps = _with_offset(*maps, b[rows])
            if len(rows) and len(shared.g):
                out[rows] = self._by_blocks(shared, *maps)
        rest = np.flatnonzero(np.isnan(out))
        if len(rest):
            u, v = np.asarray(inner[rest], np.float64), np.asarray(outer[rest], np.float64)
            same = np.eye(d, u.shape[1])
            weight = scale[rest][:, None, None] * same + v @ u.swapaxes(-1, -2)
            out[rest] = logme_of_full_maps(
                self.target,
                weight,
                b[rest],
                compat=self.compat,
                centring=self.centring,
                unit_norm=self.unit_norm,
            )
        return out


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
    scale: Array, inner: NDArray[Any], outer: NDArray[Any], offset: Array
) -> tuple[Array, Array, Array]:
    """The map [f, 1] -> [s f + V U'f + b, 0] as a multiple of the identity plus rank r + 1.

    The column of zeros that it adds to the features leaves their evidence as it is.
    """
    count, d, r = inner.shape
    u, v = np.zeros((2, count, d + 1, r + 1))
    u[:, :d, :r], v[:, :d, :r] = inner, outer
    u[:, d, r] = 1.0
    v[:, :d, r], v[:, d, r] = offset, -scale
    return scale, u, v


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
    dimension: int | None = None,
    precision: Precision = "auto",
) -> Array:
    """LogME of B linear maps f -> s f + V U'[f, g] + b of a target's embeddings.

    Parameters
    ----------
    target
        Statistics of the target's base embeddings and label columns.
    scale
        s, B.
    inner, outer
        U (B × D × r, D all columns of the target's features) and V (B × d × r).
    offset
        b, B × d; without effect where features are centred.
    compat, centring, unit_norm
        As in :func:`logme`.
    dimension, precision
        As in :class:`MapEvidence`.

    Returns
    -------
    B scores, each equal to :func:`logme` on the mapped embeddings.
    """
    scorer = MapEvidence(
        target,
        compat=compat,
        centring=centring,
        unit_norm=unit_norm,
        dimension=dimension,
        precision=precision,
    )
    return scorer(scale, inner, outer, offset)


def logme_of_features(
    features: ArrayLike,
    columns: Array,
    *,
    compat: bool = False,
    centring: Centring = "both",
    unit_norm: bool = True,
) -> float:
    """LogME of features F (n × d) for label columns Y (n × C); see :func:`logme`.

    With more rows than columns from the Gram matrix, several times as fast as from the singular
    values that :func:`logme` takes; the same to rounding, which the Gram matrix squares.
    """
    f = np.asarray(features)
    n, d = f.shape
    if n <= 2 * d:
        return logme(f, columns, compat=compat, centring=centring, unit_norm=unit_norm)
    none = np.zeros((1, d, 0))
    with one_thread():
        statistics = TargetStatistics.of(f, columns)
        scorer = MapEvidence(
            statistics, compat=compat, centring=centring, unit_norm=unit_norm, precision="double"
        )
        return float(scorer(np.ones(1), none, none)[0])


def logme_of_full_maps(
    target: TargetStatistics,
    weight: NDArray[Any],
    offset: NDArray[Any],
    *,
    compat: bool = False,
    centring: Centring = "both",
    unit_norm: bool = True,
) -> Array:
    """LogME of B linear maps f -> W f + b, W (B × d × D), b (B × d); see :func:`logme`."""
    centred = target.centred(centring)
    d, columns = weight.shape[1], centred.cross.shape[1]
    n, square = target.n, centred.label_square
    out = np.empty(len(weight))
    with one_thread():
        for i, (w, b) in enumerate(zip(weight, offset, strict=True)):
            w = np.asarray(w, np.float64)
            k = w @ centred.gram @ w.T
            c = w @ centred.cross
            if centring == "none":
                wm = w @ target.total
                k += np.outer(wm, b) + np.outer(b, wm) + target.n * np.outer(b, b)
                c += np.outer(b, target.label_total)
            if unit_norm:
                factor = n / max(float(np.trace(k)), 1e-300)
                k, c = k * factor, c * math.sqrt(factor)
            # With few rows the fit may interpolate; with many columns solves cost more than
            # eigenvectors.
            if not compat and n > 2 * d and 8 * columns < d and d > 2:
                tridiagonal = Tridiagonal(k, c, square)
                evidence, _, _ = log_evidence(tridiagonal, (1, columns), n, d)
                out[i] = evidence.mean()
                if not tridiagonal.doubtful and np.isfinite(out[i]):
                    continue
            spectral = Spectral.of_gram(k, c, square)
            evidence, _, _ = log_evidence(spectral, (1, columns), n, d, compat=compat)
            out[i] = evidence.mean()
    return out
