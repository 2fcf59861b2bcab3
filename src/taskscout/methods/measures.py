r"""How far apart two domains are: arrays in, numbers out.

Two groups. Measures of distributions take p (V) and q (S × V) over one shared vocabulary or one
set of topics, and return S numbers. Measures of samples take embeddings x (m × d) and y
(S × k × d), or their moments, and return S numbers. Logarithms are natural. Every measure is 0
between equals; the only ones that are not symmetric are ``kl``, ``kl_reverse`` and ``renyi``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# -- distributions --------------------------------------------------------------------------


def smoothed(counts: Array, smoothing: float) -> Array:
    """Distributions over the last axis, mixed with the uniform one.

    P = (1 - smoothing) counts / sum + smoothing / V. Mixing, unlike adding a constant to every
    count, smooths small and large tasks alike. A row without counts becomes uniform where
    there is smoothing, else NaN.
    """
    total = counts.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = counts / total
    if smoothing:
        p = np.where(total > 0, p, 1.0 / counts.shape[-1])
        p = (1.0 - smoothing) * p + smoothing / counts.shape[-1]
    return np.asarray(p)


def _entropy(p: Array) -> Array:
    """-sum p log p over the last axis, with 0 log 0 = 0."""
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(-1))


def kl(p: Array, q: Array) -> Array:
    """Kullback-Leibler, sum p log(p / q); infinite where p has what q lacks."""
    where = p > 0
    with np.errstate(divide="ignore"):
        return np.asarray((p[where] * (np.log(p[where]) - np.log(q[:, where]))).sum(-1))


def kl_reverse(p: Array, q: Array) -> Array:
    """Kullback-Leibler the other way, sum q log(q / p); infinite where q has what p lacks."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(np.where(q > 0, q, 1.0)) - np.log(p)
        return np.asarray(np.where(q > 0, q * ratio, 0.0).sum(-1))


def jensen_shannon(p: Array, q: Array) -> Array:
    """(KL(p, m) + KL(q, m)) / 2 with m = (p + q) / 2; at most log 2."""
    return np.maximum(_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2, 0.0)


def renyi(p: Array, q: Array, alpha: float = 0.99) -> Array:
    """log(sum p^alpha q^(1 - alpha)) / (alpha - 1); alpha 1 is :func:`kl`."""
    if alpha == 1.0:
        return kl(p, q)
    where = p > 0
    with np.errstate(divide="ignore"):
        total = (p[where] ** alpha * q[:, where] ** (1.0 - alpha)).sum(-1)
        return np.asarray(np.log(total) / (alpha - 1.0))


def hellinger(p: Array, q: Array) -> Array:
    """sqrt(1 - sum sqrt(p q)), between 0 and 1."""
    # The same, without the loss of digits where p and q are close.
    return np.asarray(np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum(-1) / 2))


def total_variation(p: Array, q: Array) -> Array:
    """Total variation, sum |p - q| / 2, between 0 and 1."""
    return np.asarray(np.abs(p - q).sum(-1) / 2)


def cosine(p: Array, q: Array) -> Array:
    """1 - cosine of the angle, between 0 and 2."""
    norms = np.linalg.norm(p) * np.linalg.norm(q, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.maximum(1.0 - (q @ p) / norms, 0.0))


def euclidean(p: Array, q: Array) -> Array:
    """Euclidean distance, sqrt sum (p - q)²."""
    return np.asarray(np.linalg.norm(q - p, axis=-1))


def central_moments(x: Array, order: int = 5) -> Array:
    """Central moments 2 … order of every dimension, (order - 1) × d; x is n × d."""
    centred = x - x.mean(0)
    return np.stack([(centred**k).mean(0) for k in range(2, order + 1)])


def cmd(mean: Array, central: Array, means: Array, centrals: Array, *, span: float = 2.0) -> Array:
    """Central moment discrepancy (Zellinger et al. 2017).

    |mean difference| / span + sum over k of |difference of k-th central moments| / span^k, in
    Euclidean norm, where span is the width of the interval that holds every coordinate.

    Parameters
    ----------
    mean, central
        d, and (K - 1) × d: central moments 2 … K.
    means, centrals
        S × d and S × (K - 1) × d.
    """
    orders = np.arange(2, len(central) + 2)
    terms = np.linalg.norm(centrals - central, axis=-1) / span**orders
    return np.asarray(np.linalg.norm(means - mean, axis=-1) / span + terms.sum(-1))


def coral(covariance: Array, covariances: Array) -> Array:
    """|C1 - C2|² / (4 d²) in Frobenius norm (Sun and Saenko 2016); d × d and S × d × d."""
    difference = covariances - covariance
    squares = np.einsum("sij,sij->s", difference, difference)
    return np.asarray(squares / (4.0 * covariance.shape[-1] ** 2))


def frechet(mean: Array, covariance: Array, means: Array, covariances: Array) -> Array:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½): squared Wasserstein-2 distance of two Gaussians.

    The trace of the root is that of the roots of the eigenvalues of C1^½ C2 C1^½.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ covariances @ root)
    overlap = np.sqrt(np.maximum(inner, 0.0)).sum(-1)
    traces = np.trace(covariance) + np.trace(covariances, axis1=1, axis2=2)
    distance = ((means - mean) ** 2).sum(-1)
    return np.asarray(np.maximum(distance + traces - 2.0 * overlap, 0.0))


# -- samples of embeddings --------------------------------------------------------------------


def wasserstein_1d(x: Array, y: Array) -> Array:
    """Mean over columns of the Wasserstein-1 distance between one-dimensional samples.

    The area between the two quantile functions, exact for samples of any sizes: m × c and
    S × k × c.
    """
    m, k = len(x), y.shape[1]
    both = int(np.lcm(m, k))
    # Both quantile functions are constant between these edges (in units of 1 / both).
    edges = np.union1d(np.arange(m + 1) * (both // m), np.arange(k + 1) * (both // k))
    widths = np.diff(edges) / both
    x = np.sort(x, axis=0)[edges[:-1] // (both // m)]
    y = np.sort(y, axis=1)[:, edges[:-1] // (both // k)]
    return np.asarray(np.einsum("e,sec->s", widths, np.abs(y - x)) / x.shape[1])


def directions(dimension: int, n: int, seed: int) -> Array:
    """Draw unit vectors in random directions, d × n."""
    v = np.random.default_rng(seed).standard_normal((dimension, n))
    return np.asarray(v / np.linalg.norm(v, axis=0))


def squared_distances(x: Array, y: Array) -> Array:
    """Squared Euclidean distances of rows; x is … × m × d, y is … × k × d."""
    xx = (x**2).sum(-1)[..., :, None]
    yy = (y**2).sum(-1)[..., None, :]
    return np.asarray(np.maximum(xx + yy - 2.0 * (x @ np.swapaxes(y, -1, -2)), 0.0))


def _own_distances(x: Array) -> Array:
    """Squared distances of rows among themselves, with an exact zero diagonal."""
    d2 = squared_distances(x, x)
    at = np.arange(d2.shape[-1])
    d2[..., at, at] = 0.0
    return d2


def mmd(x: Array, y: Array, factors: Sequence[float] = (1.0,)) -> Array:
    """Squared maximum mean discrepancy under Gaussian kernels (Gretton et al. 2012).

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y), all pairs counted (so it is 0 between
    equals and never negative), k(a, b) = mean over factors f of exp(-|a - b|² / (2 f² s²)),
    with s the median distance between different rows of the two samples together.
    """
    m, k = len(x), y.shape[1]
    xx, yy, xy = _own_distances(x), _own_distances(y), squared_distances(x, y)
    upper_x, upper_y = np.triu_indices(m, 1), np.triu_indices(k, 1)
    pooled = np.concatenate(
        [
            np.broadcast_to(xx[upper_x], (len(y), len(upper_x[0]))),
            yy[:, upper_y[0], upper_y[1]],
            xy.reshape(len(y), -1),
        ],
        axis=1,
    )
    # The median of distances; not of their squares, which differs where it falls between two.
    scale = np.median(np.sqrt(pooled), axis=1) ** 2
    scale = np.where(scale > 0, scale, 1.0)
    out = np.zeros(len(y))
    for factor in factors:
        per = (-0.5 / (factor**2 * scale))[:, None, None]
        out += np.exp(xx * per).mean((1, 2)) + np.exp(yy * per).mean((1, 2))
        out -= 2.0 * np.exp(xy * per).mean((1, 2))
    return np.maximum(out / len(factors), 0.0)


def sinkhorn(
    cost: Array, epsilon: float, *, tolerance: float = 1e-9, iterations: int = 5000
) -> tuple[Array, Array]:
    """Entropic optimal transport between uniform samples, for S cost matrices at once.

    Minimises <P, C> + epsilon KL(P | a b') over plans P with uniform marginals a and b, by
    Sinkhorn's scaling iterations (Cuturi 2013).

    Parameters
    ----------
    cost
        S × m × k.
    epsilon
        Strength of the entropy, in units of the cost; exp(-cost / epsilon) must not underflow.
    tolerance
        Largest total error of a marginal.

    Returns
    -------
    The minimum and <P, C>, S each.
    """
    n, m, k = cost.shape
    kernel = np.exp(-cost / epsilon)
    back = np.ascontiguousarray(np.swapaxes(kernel, 1, 2))
    u, v = np.ones((n, m, 1)), np.ones((n, k, 1))
    for i in range(iterations):
        reached = kernel @ v
        if i % 20 == 19 and np.abs(u * reached - 1.0 / m).sum(1).max() < tolerance:
            break
        u = (1.0 / m) / reached
        v = (1.0 / k) / (back @ u)
    plan = u * kernel * np.swapaxes(v, 1, 2)
    moved = (plan * cost).sum((1, 2))
    # The dual value: its error is of second order in that of the marginals.
    value = epsilon * (np.log(u * m).mean((1, 2)) + np.log(v * k).mean((1, 2)))
    return value - epsilon * (plan.sum((1, 2)) - 1.0), moved


def sinkhorn_divergence(x: Array, y: Array, epsilon: float, *, debiased: bool = True) -> Array:
    """Entropic optimal transport between samples, Euclidean cost.

    Debiased (Feydy et al. 2019): OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2, which is 0 between
    equals. Else the cost <P, C> of the entropic plan, which is not.
    """
    value, moved = sinkhorn(np.sqrt(squared_distances(x, y)), epsilon)
    if not debiased:
        return moved
    own = sinkhorn(np.sqrt(_own_distances(x))[None], epsilon)[0]
    theirs = sinkhorn(np.sqrt(_own_distances(y)), epsilon)[0]
    return np.maximum(value - (own + theirs) / 2, 0.0)


def a_distance(x: Array, y: Array, *, folds: int = 5, penalty: float = 1.0) -> Array:
    """Proxy A-distance, 2 (1 - 2 err), not below 0 (Ben-David et al. 2007).

    err is the cross-validated error of a linear classifier that tells rows of x from rows of y,
    the mean of the two sides' errors: ridge regression to +1 and -1 with an intercept, rows
    weighted so that both sides weigh the same. Row i of either side is held out in fold
    i mod ``folds``, so between equal samples the classifier knows nothing and err is 1/2.

    Parameters
    ----------
    penalty
        Ridge strength on the sum over rows of squared errors.

    Returns
    -------
    S numbers between 0 and 2; NaN where a side has fewer than two rows.
    """
    m, k = len(x), y.shape[1]
    folds = min(folds, m, k)
    if folds < 2:
        return np.full(len(y), np.nan)
    fold_x, fold_y = np.arange(m) % folds, np.arange(k) % folds
    wrong_x, wrong_y = np.zeros(len(y)), np.zeros(len(y))
    for fold in range(folds):
        a, b = x[fold_x != fold], y[:, fold_y != fold]
        mean_a, mean_b = a.mean(0), b.mean(1)
        centre = (mean_a + mean_b) / 2
        rows = np.concatenate([a - centre[:, None], b - centre[:, None]], axis=1)
        sizes = np.repeat([len(a), b.shape[1]], [len(a), b.shape[1]])
        weight = np.sqrt(len(sizes) / (2.0 * sizes))
        sign = np.repeat([1.0, -1.0], [len(a), b.shape[1]])
        rows *= weight[:, None]
        gram = rows @ np.swapaxes(rows, 1, 2) + penalty * np.eye(len(sizes))
        dual = np.linalg.solve(gram, np.broadcast_to(weight * sign, rows.shape[:2])[..., None])
        slope = np.swapaxes(rows, 1, 2) @ dual  # S × d × 1
        own = (x[fold_x == fold] - centre[:, None]) @ slope
        theirs = (y[:, fold_y == fold] - centre[:, None]) @ slope
        wrong_x += _side(own, -1).sum((1, 2))
        wrong_y += _side(theirs, +1).sum((1, 2))
    err = (wrong_x / m + wrong_y / k) / 2
    return np.asarray(np.maximum(2.0 * (1.0 - 2.0 * err), 0.0))


def _side(value: Array, wrong: int) -> Array:
    """1 where a prediction has the wrong sign, one half where it is none."""
    value = np.where(np.abs(value) < 1e-12, 0.0, value)
    return np.asarray((1.0 + wrong * np.sign(value)) / 2)
