"""H-scores of many space maps at once, from moments of the target's own features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskscout.methods.low_rank import Basis, LowRankGram
from taskscout.methods.scores.class_separation import h_score
from taskscout.methods.scores.inputs import Array, checked, class_codes
from taskscout.methods.statistics import TargetStatistics


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
    # Columns of classes, of length 1 each.
    columns = (codes[:, None] == np.arange(codes.max() + 1)) / np.sqrt(np.bincount(codes))
    basis = Basis(TargetStatistics.of(f, columns), d, n - 1)
    out = np.empty(len(scale))
    usable = scale != 0
    low = LowRankGram(basis, np.where(usable, scale, 1.0), u, v)
    fu, fv = f @ u, f @ v
    norms = scale[:, None] ** 2 * (f**2).sum(1)
    norms = norms + 2 * scale[:, None] * (fu * fv).sum(2)
    norms = norms + (fu @ (v.transpose(0, 2, 1) @ v) * fu).sum(2)
    a = _ledoit_wolf(n, d, low.trace, low.square, (norms**2).sum(1))
    for i in np.flatnonzero((a == 0.0) | ~usable):
        out[i] = h_score(scale[i] * f + (f @ u[i]) @ v[i].T, y)
    out[(a == 1.0) & usable] = 0.0
    rows = np.flatnonzero((a > 0.0) & (a < 1.0) & usable)
    if len(rows):
        part = LowRankGram(basis, scale[rows], u[rows], v[rows])
        now = part((a * low.trace / (d * (1 - a)))[rows, None])
        # Of a column, what the maps explain: y'F W'(K + t)^-1 W F'y.
        explained = basis.label_square - now.penalty - now.residual
        out[rows] = explained.sum(1) * n / (n - 1)
    return out
