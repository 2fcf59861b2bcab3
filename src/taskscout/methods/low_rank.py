"""Gram matrices of features: decomposed, or as low-rank changes of a target's own, many at once.

The evidence (:mod:`taskscout.methods.evidence`) and the H-score read the same matrix.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.statistics import TargetStatistics

Array = NDArray[np.float64]

#: Eigenvalues below this share of the largest count as zero.
RANK_TOLERANCE = 1e-12
TINY = 1e-300
#: Share of the columns beside the features that is rounding, where the features make all of them.
_ROUNDING = 1e-10


class Terms(NamedTuple):
    """What the evidence asks of B sources' features and C label columns at t; each B × C."""

    #: log det(I + K / t).
    determinant: Array
    #: tr K (K + t)^-1, the effective number of weights.
    gamma: Array
    #: t |m|².
    penalty: Array
    #: |y - F m|².
    residual: Array


class Spectral:
    """:class:`Terms` of one source, or of sources of one spectrum each, by decomposition.

    Parameters
    ----------
    eigenvalues
        Of K, r; zeros may be left out.
    coordinates
        Of the label columns in F's left singular vectors, r × C.
    label_square
        y'y, C.
    """

    def __init__(self, eigenvalues: Array, coordinates: Array, label_square: Array) -> None:
        kept = eigenvalues > RANK_TOLERANCE * max(float(eigenvalues.max(initial=0.0)), TINY)
        self.eigenvalues, self.energies = eigenvalues[kept], coordinates[kept] ** 2
        self.beyond = np.maximum(label_square - self.energies.sum(0), 0.0)

    @classmethod
    def of_features(cls, f: Array, y: Array) -> Spectral:
        """From the singular values of F, with which nothing is lost to rounding."""
        left, singular, _ = np.linalg.svd(f, full_matrices=False)
        return cls(singular**2, left.T @ y, (y**2).sum(0))

    @classmethod
    def of_gram(cls, gram: Array, cross: Array, label_square: Array) -> Spectral:
        """From K (d × d) and F'Y (d × C)."""
        values, vectors = np.linalg.eigh(gram)
        least = max(RANK_TOLERANCE * float(values[-1]), TINY)
        return cls(values, vectors.T @ cross / np.sqrt(np.maximum(values, least))[:, None],
                   label_square)  # fmt: skip

    def __call__(self, t: Array) -> Terms:
        """At t, 1 × C."""
        share = self.eigenvalues[:, None] / (self.eigenvalues[:, None] + t)
        rho = 1.0 - share
        return Terms(
            np.log1p(self.eigenvalues[:, None] / t).sum(0)[None],
            share.sum(0)[None],
            (self.energies * share * rho).sum(0)[None],
            (self.beyond + (self.energies * rho**2).sum(0))[None],
        )


class Basis:
    """What all maps share of a target: the eigenvectors of the Gram matrix of its features.

    Where maps read columns M beside the features F, these are parted into what F makes of them
    (in least squares), which acts as a change of U, and a rest that is orthogonal to F.

    Parameters
    ----------
    target
        Statistics, with means removed as the features are to be.
    dimension
        d, the leading columns that s I is on.
    freedom
        The rank that features may have.
    """

    def __init__(self, target: TargetStatistics, dimension: int, freedom: int) -> None:
        d = dimension
        g, q = np.linalg.eigh(target.gram[:d, :d])
        kept = g > max(RANK_TOLERANCE * float(g[-1]), TINY)
        self.g, self.q = g[kept], q[:, kept]
        self.n, self.label_square = target.n, target.label_square
        cross = self.q.T @ target.cross[:d]
        self.labels = cross / np.sqrt(self.g)[:, None]
        beside = target.gram[d:, :d] @ self.q
        made = beside / self.g
        #: From U (D × r) to the coordinates of F's eigenvectors, D × m.
        self.turn = np.vstack([self.q, made])
        rest = target.gram[d:, d:] - made @ beside.T
        #: Gram matrix of the rest of M, and its product with the labels; none if F takes all.
        self.rest = (rest + rest.T) / 2, target.cross[d:] - made @ cross
        self.parted = len(self.g) < freedom and bool(
            np.trace(rest) > _ROUNDING * np.trace(target.gram[d:, d:])
        )


def _times(stack: Array, matrix: Array) -> Array:
    """Product of B matrices with one, as one product: several times as fast as B small ones."""
    return np.asarray((stack.reshape(-1, stack.shape[2]) @ matrix).reshape(*stack.shape[:2], -1))


def _by_source(stacks: Array, matrices: Array) -> Array:
    """Products of the C matrices of each of B sources with one matrix per source."""
    b, c, r, _ = stacks.shape
    return np.asarray((stacks.reshape(b, c * r, -1) @ matrices).reshape(b, c, r, -1))


class LowRankGram:
    r"""K = W F'F W' for B maps W = s I + V U' of a target: a low-rank change of F'F.

    With F'F = Q g Q' taken once, V orthonormal and P = U / s + V, W'W / s² = I + P P' - V V'. So
    in the coordinates of F's left singular vectors

        F W'W F' / s² = g + X S X',    X = g^1/2 Q'[P, V],    S = diag(I, -I),

    and all else follows from the 2r × 2r matrix E = S + X'(g + t)^-1 X (Woodbury):

        log det(I + K / t) = sum log(1 + g / t) + log |det E|,
        rho = t (g + t)^-1 (y - X E^-1 X'(g + t)^-1 y),
        gamma = sum g / (g + t) + t tr E^-1 X'(g + t)^-2 X,

    2 d² r operations for a source, and 4 d r² for each t, whatever the number of rows. What maps
    make of columns beside F adds r more coordinates, with g = 0.

    Parameters
    ----------
    basis
        What the maps share.
    scale
        s, B; not zero.
    inner, outer
        U (B × D × r) and V (B × d × r).
    unit_norm
        Scale the mapped features to a root mean square norm of 1.
    """

    def __init__(
        self,
        basis: Basis,
        scale: Array,
        inner: NDArray[Any],
        outer: NDArray[Any],
        *,
        unit_norm: bool = False,
    ) -> None:
        if not outer.shape[2]:  # s I alone
            inner, outer = (np.zeros((*a.shape[:2], 1)) for a in (inner, outer))
        scale = np.asarray(scale, np.float64)
        v, triangle = np.linalg.qr(np.asarray(outer, np.float64))
        u = triangle @ np.asarray(inner, np.float64).swapaxes(1, 2) / scale[:, None, None]
        count, r, _ = u.shape
        v = _times(v.swapaxes(1, 2), basis.q)
        x = np.concatenate([_times(u, basis.turn) + v, v], 1)
        x *= np.sqrt(basis.g)
        self.g, self.y = basis.g, np.broadcast_to(basis.labels, (count, *basis.labels.shape))
        if basis.parted:
            z = u[:, :, basis.q.shape[0] :]
            lengths, axes = np.linalg.eigh(_times(z, basis.rest[0]) @ z.swapaxes(1, 2))
            # What is rounding alone is left out: a direction in which maps add nothing.
            real = lengths > np.maximum(RANK_TOLERANCE * lengths[:, -1:], TINY)
            root = np.sqrt(np.where(real, lengths, 1.0))
            more = np.concatenate([axes * (root * real)[:, None], np.zeros((count, r, r))], 1)
            x = np.concatenate([x, more], 2)
            labels = (axes * (real / root)[:, None]).swapaxes(1, 2) @ _times(z, basis.rest[1])
            self.y = np.concatenate([self.y, labels], 1)
            self.g = np.append(basis.g, np.zeros(r))
        self.x, self.sign = x, np.repeat([1.0, -1.0], r)
        self.beyond = np.maximum(basis.label_square - (self.y**2).sum(1), 0.0)
        own = float(basis.g.sum())
        total = own + (x**2).sum(2) @ self.sign
        #: The share of the mapped features' sum of squares that s I makes alone.
        self.own = own / np.maximum(total, TINY)
        #: s², times what brings the features to unit norm.
        self.factor = scale**2
        if unit_norm:
            self.factor = basis.n / np.maximum(total, TINY)
        self.trace = self.factor * total

    @property
    def square(self) -> Array:
        """Sum of the squares of K's entries, B; without columns beside F."""
        inside = (self.x @ self.x.swapaxes(1, 2)) * self.sign
        mixed = 2 * (self.x**2 @ self.g) @ self.sign
        both = np.einsum("bij,bji->b", inside, inside)
        return np.asarray(self.factor**2 * ((self.g**2).sum() + mixed + both))

    def __call__(self, t: Array) -> Terms:
        """At t, B × C, or B × 1 for all columns."""
        t = (t / self.factor[:, None])[:, :, None]
        weight = 1.0 / (self.g + t)
        # B × C matrices 2r × m, and as many of 2r × 2r.
        weighted = self.x[:, None] * weight[:, :, None]
        e = _by_source(weighted, self.x.swapaxes(1, 2)) + np.diag(self.sign)
        solved = np.linalg.inv(e) @ weighted
        right = weighted @ self.y.swapaxes(1, 2)[..., None]
        rho = t * (weight * self.y.swapaxes(1, 2) - (right.swapaxes(2, 3) @ solved)[:, :, 0])
        return Terms(
            np.log1p(self.g / t).sum(2) + np.linalg.slogdet(e)[1],
            (self.g * weight).sum(2) + t[..., 0] * np.einsum("bcim,bcim->bc", solved, weighted),
            (rho * (self.y.swapaxes(1, 2) - rho)).sum(2),
            self.beyond + (rho**2).sum(2),
        )
