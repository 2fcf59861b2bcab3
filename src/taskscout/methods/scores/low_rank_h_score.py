"""H-scores of many space maps at once, from moments of the target's own features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskscout.methods.scores.class_separation import class_sums, h_score
from taskscout.methods.scores.inputs import Array, checked, class_codes


def _ledoit_wolf(n: int, d: int, trace: Array, square: Array, quartic: Array) -> Array:
    """Shrinkage of Ledoit and Wolf 2004 from tr X'X, |X'X|² and the sum of |x|⁴, X centred.

    scikit-learn has it for features X (n × d); here no X is formed.
    """
    mean = trace / (n * d)
    dispersion = square / n**2
    beta = (quartic / n - dispersion) / (d * n)
    delta = (dispersion - d * mean**2) / d
    beta = np.clip(beta, 0.0, delta)
    return np.asarray(np.where(beta > 0, beta / np.where(delta > 0, delta, 1.0), 0.0))


class _LowRankGram:
    """K = W F'F W' for maps W = s I + V U', as s² G + Z S Z' in the eigenvectors of G = F'F.

    Z = [V, G U] (d × 2r) and S = [[U'G U, s I], [s I, 0]]; ``base`` is s² times the eigenvalues
    of G, ``c`` is W ``cross``, ``trace`` tr K.
    """

    def __init__(self, f: Array, cross: Array, scale: Array, inner: Array, outer: Array) -> None:
        g, q = np.linalg.eigh(f.T @ f)
        g = np.maximum(g, 0.0)
        u, v = q.T @ inner, q.T @ outer
        r = inner.shape[2]
        gu = g[:, None] * u
        self.z = np.concatenate([v, gu], axis=2)
        self.s = np.zeros((len(scale), 2 * r, 2 * r))
        self.s[:, :r, :r] = u.transpose(0, 2, 1) @ gu
        identity = scale[:, None, None] * np.eye(r)
        self.s[:, :r, r:] = identity
        self.s[:, r:, :r] = identity
        self.base = scale[:, None] ** 2 * g
        self.c = scale[:, None, None] * (q.T @ cross) + v @ (inner.transpose(0, 2, 1) @ cross)
        inside = np.matmul(self.z.transpose(0, 2, 1), self.z)
        self.trace = self.base.sum(1) + np.einsum("bij,bji->b", self.s, inside)


def h_scores_of_maps(
    features: ArrayLike,
    labels: ArrayLike,
    scale: Array,
    inner: NDArray[Any],
    outer: NDArray[Any],
) -> Array:
    """Regularised H-scores of B linear maps f -> s f + V U'f + b of a target's features.

    All that Ledoit and Wolf's shrinkage asks of the mapped features X is tr X'X, |X'X|² and the
    sum of |x|⁴; the rest is a resolvent of X'X, a low-rank update of the features' own. No n × d
    or d × d matrix is formed per source.

    Parameters
    ----------
    features, labels
        As in :func:`h_score`.
    scale
        s, B.
    inner, outer
        U and V, B × d × r each. Offsets have no effect.

    Returns
    -------
    B scores, each equal to :func:`h_score` on the mapped features.
    """
    f, y = checked(features, labels)
    codes = class_codes(y)
    n, d = f.shape
    f = f - f.mean(0)
    u, v = np.asarray(inner, np.float64), np.asarray(outer, np.float64)
    scale = np.asarray(scale, np.float64)
    low = _LowRankGram(f, class_sums(f, codes), scale, u, v)
    fu, fv = f @ u, f @ v
    norms = scale[:, None] ** 2 * (f**2).sum(1)
    norms = norms + 2 * scale[:, None] * (fu * fv).sum(2)
    norms = norms + (fu @ (v.transpose(0, 2, 1) @ v) * fu).sum(2)
    zt = low.z.transpose(0, 2, 1)
    szz = low.s @ (zt @ low.z)
    square = (low.base**2).sum(1) + np.einsum("bij,bji->b", szz, szz)
    square += 2 * np.einsum("bij,bji->b", low.s, zt @ (low.base[:, :, None] * low.z))
    a = _ledoit_wolf(n, d, low.trace, square, (norms**2).sum(1))
    out = np.empty(len(scale))
    for i in np.flatnonzero(a == 0.0):
        out[i] = h_score(scale[i] * f + (f @ u[i]) @ v[i].T, y)
    out[a == 1.0] = 0.0
    rows = np.flatnonzero((a > 0.0) & (a < 1.0))
    if len(rows):
        t = (a * low.trace / (d * (1 - a)))[rows, None, None]
        c = low.c[rows]
        dz = low.z[rows] / (low.base[rows][:, :, None] + t)
        dc = c / (low.base[rows][:, :, None] + t)
        m = zt[rows] @ dz
        zc = zt[rows] @ dc
        h = np.linalg.solve(np.eye(m.shape[-1]) + low.s[rows] @ m, low.s[rows] @ zc)
        out[rows] = ((c * dc).sum((1, 2)) - (zc * h).sum((1, 2))) * n / (n - 1)
    return out
