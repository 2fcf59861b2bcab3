"""Measures of divergence against SciPy, POT, scikit-learn and slow transcriptions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import linalg, special, stats
from scipy.spatial import distance

from taskscout.methods import measures

rng = np.random.default_rng(0)

# -- distributions --------------------------------------------------------------------------

P = rng.dirichlet(np.full(30, 0.3))
Q = rng.dirichlet(np.full(30, 0.3), size=4)

REFERENCES = {
    "kl": lambda p, q: stats.entropy(p, q),
    "kl_reverse": lambda p, q: stats.entropy(q, p),
    "jensen_shannon": lambda p, q: distance.jensenshannon(p, q) ** 2,
    "renyi": lambda p, q: np.log(sum(a**0.99 * b**0.01 for a, b in zip(p, q, strict=True))) / -0.01,
    "hellinger": lambda p, q: np.sqrt(1 - sum(np.sqrt(a * b) for a, b in zip(p, q, strict=True))),
    "total_variation": lambda p, q: distance.cityblock(p, q) / 2,
    "cosine": distance.cosine,
    "euclidean": distance.euclidean,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_distributions_against_references(name):
    found = getattr(measures, name)(P, Q)
    np.testing.assert_allclose(found, [REFERENCES[name](P, q) for q in Q], rtol=1e-9)


def test_total_variation_is_the_largest_difference_of_an_event():
    p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    events = itertools.chain.from_iterable(itertools.combinations(range(6), k) for k in range(7))
    largest = max(abs(p[list(e)].sum() - q[list(e)].sum()) for e in events)
    assert measures.total_variation(p, q[None])[0] == pytest.approx(largest)


def test_closed_forms():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([[0.0, 0.5, 0.5], [0.5, 0.5, 0.0], [0, 0, 1.0]])
    np.testing.assert_allclose(measures.kl(p, q), [np.inf, 0, np.inf])
    np.testing.assert_allclose(measures.kl_reverse(p, q), [np.inf, 0, np.inf])
    half = np.log(2) / 2
    np.testing.assert_allclose(measures.jensen_shannon(p, q), [half, 0, 2 * half], atol=1e-15)
    np.testing.assert_allclose(measures.hellinger(p, q), [np.sqrt(0.5), 0, 1])
    np.testing.assert_allclose(measures.total_variation(p, q), [0.5, 0, 1])
    np.testing.assert_allclose(measures.renyi(p, q, 1.0), measures.kl(p, q))
    assert np.isinf(measures.renyi(p, q, 0.5)[2])


counts = arrays(np.int64, 8, elements=st.integers(0, 50)).filter(lambda c: c.sum() > 0)


@given(counts, counts, st.sampled_from(sorted(REFERENCES)))
def test_distribution_properties(a, b, name):
    measure = getattr(measures, name)
    p, q = (measures.smoothed(c.astype(float), 0.01) for c in (a, b))
    np.testing.assert_allclose(p.sum(), 1)
    assert measure(p, p[None])[0] == pytest.approx(0, abs=1e-7)
    there, back = measure(p, q[None])[0], measure(q, p[None])[0]
    assert there >= -1e-9
    if name not in ("kl", "kl_reverse", "renyi"):
        assert there == pytest.approx(back, abs=1e-12)
    order = np.random.default_rng(0).permutation(8)
    assert measure(p[order], q[None][:, order])[0] == pytest.approx(there, abs=1e-12)


def test_orders_of_bounds():
    # 1 - BC <= TV <= sqrt(1 - BC²), Pinsker: TV² <= KL / 2, and KL is the limit of Renyi.
    tv, h, kl = (measures.total_variation(P, Q), measures.hellinger(P, Q), measures.kl(P, Q))
    assert (h**2 <= tv + 1e-12).all()
    assert (tv**2 <= kl / 2).all()
    assert (measures.renyi(P, Q, 0.5) <= measures.renyi(P, Q, 0.99) + 1e-12).all()
    np.testing.assert_allclose(measures.renyi(P, Q, 1 - 1e-7), kl, rtol=1e-4)


def test_smoothing():
    c = np.array([[3.0, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(measures.smoothed(c, 0.2)[0], [0.65, 0.25, 0.05, 0.05])
    np.testing.assert_allclose(measures.smoothed(c, 0.2)[1], 0.25)
    np.testing.assert_allclose(measures.smoothed(c, 0.0)[0], [0.75, 0.25, 0, 0])


# -- moments ----------------------------------------------------------------------------------

X = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6))
Y = np.stack([X[:25] + 0.3, rng.standard_normal((25, 6)), X[5:30] * 1.5])


def test_cmd_is_zellingers():
    def slow(x, y, a, b):
        total = np.linalg.norm(x.mean(0) - y.mean(0)) / (b - a)
        for k in range(2, 6):
            one, two = (stats.moment(z, k, axis=0) for z in (x, y))
            total += np.linalg.norm(one - two) / (b - a) ** k
        return total

    found = measures.cmd(
        X.mean(0),
        measures.central_moments(X),
        Y.mean(1),
        np.stack([measures.central_moments(y) for y in Y]),
        span=3.0,
    )
    np.testing.assert_allclose(found, [slow(X, y, -1, 2) for y in Y])


def _covariances(ys):
    return np.stack([np.cov(y.T, bias=True) for y in ys])


def test_coral():
    c = _covariances([X])[0]
    slow = [sum(((np.cov(y.T, bias=True) - c) ** 2).ravel()) / (4 * 36) for y in Y]
    np.testing.assert_allclose(measures.coral(c, _covariances(Y)), slow)
    # Shifting a domain changes nothing, scaling it does.
    np.testing.assert_allclose(measures.coral(c, _covariances([X + 5])), 0, atol=1e-12)


def test_frechet_against_a_matrix_root():
    def slow(x, y):
        a, b = _covariances([x, y])
        root = linalg.sqrtm(a @ b)
        gap = x.mean(0) - y.mean(0)
        return gap @ gap + np.trace(a + b - 2 * np.real(root))

    c, means = _covariances([X])[0], Y.mean(1)
    found = measures.frechet(X.mean(0), c, means, _covariances(Y))
    np.testing.assert_allclose(found, [slow(X, y) for y in Y], rtol=1e-6)
    # Between a domain and a shifted copy it is the squared shift.
    shifted = measures.frechet(X.mean(0), c, X.mean(0)[None] + 2, c[None])
    np.testing.assert_allclose(shifted, [6 * 4], rtol=1e-6)


# -- samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 7, 25, 40, 53])
def test_wasserstein_against_scipy(k):
    y = rng.standard_normal((3, k, 6))
    slow = [np.mean([stats.wasserstein_distance(X[:, j], z[:, j]) for j in range(6)]) for z in y]
    np.testing.assert_allclose(measures.wasserstein_1d(X, y), slow)


def test_sliced_wasserstein_against_pot():
    ot = pytest.importorskip("ot")
    v = measures.directions(6, 64, seed=3)
    np.testing.assert_allclose(np.linalg.norm(v, axis=0), 1)
    slow = [ot.sliced_wasserstein_distance(X, y, projections=v, p=1) for y in Y]
    np.testing.assert_allclose(measures.wasserstein_1d(X @ v, Y @ v), slow, rtol=1e-6)


@pytest.mark.parametrize("k", [40, 25])
def test_sinkhorn_against_pot(k):
    ot = pytest.importorskip("ot")
    x = X / 5
    y = np.stack([x[:k] + 0.3, rng.standard_normal((k, 6))])
    cost = np.sqrt(measures.squared_distances(x, y))
    value, moved = measures.sinkhorn(cost, 0.3)
    a, b = np.full(40, 1 / 40), np.full(k, 1 / k)
    for c, v, m in zip(cost, value, moved, strict=True):
        plan = ot.sinkhorn(a, b, c, 0.3, stopThr=1e-12, numItermax=20000)
        expected = (plan * c).sum()
        assert m == pytest.approx(expected, rel=1e-6)
        entropy = special.xlogy(plan, plan / np.outer(a, b)).sum()
        assert v == pytest.approx(expected + 0.3 * entropy, rel=1e-6)


def test_sinkhorn_tends_to_optimal_transport():
    ot = pytest.importorskip("ot")
    x, y = X[:10] / 10, Y[:1, :10] / 10
    exact = ot.emd2([], [], distance.cdist(x, y[0]))
    moved = measures.sinkhorn_divergence(x, y, 0.005, debiased=False)[0]
    assert exact - 1e-9 <= moved <= exact + 0.02


def test_mmd_is_grettons():
    def slow(x, y, factors):
        both = np.concatenate([x, y])
        s = np.median(distance.pdist(both))

        def k(a, b):
            d2 = distance.cdist(a, b, "sqeuclidean")
            return np.mean([np.exp(-d2 / (2 * (f * s) ** 2)) for f in factors], axis=0).mean()

        return k(x, x) + k(y, y) - 2 * k(x, y)

    for factors in ((1.0,), (0.25, 0.5, 1.0, 2.0, 4.0)):
        expected = [slow(X, y, factors) for y in Y]
        np.testing.assert_allclose(measures.mmd(X, Y, factors), expected, rtol=1e-9)


@pytest.mark.parametrize("k", [25, 12])
def test_a_distance_against_scikit_learn(k):
    from sklearn.linear_model import Ridge

    def slow(x, y):
        errors = {+1: [], -1: []}
        for fold in range(5):
            a, b = (np.arange(len(z)) % 5 == fold for z in (x, y))
            rows = np.concatenate([x[~a], y[~b]])
            sign = np.repeat([1, -1], [(~a).sum(), (~b).sum()])
            n = len(sign)
            weight = np.where(sign > 0, n / (2 * (~a).sum()), n / (2 * (~b).sum()))
            model = Ridge(alpha=1.0, solver="cholesky").fit(rows, sign, weight)
            for side, held_out in ((+1, x[a]), (-1, y[b])):
                errors[side] += (np.sign(model.predict(held_out)) != side).tolist()
        return max(2 * (1 - 2 * (np.mean(errors[1]) + np.mean(errors[-1])) / 2), 0)

    y = np.stack([X[:k] + 0.3, rng.standard_normal((k, 6)), X[-k:] + 3, X[-k:]])
    np.testing.assert_allclose(measures.a_distance(X, y), [slow(X, z) for z in y])


def test_a_distance_at_its_ends():
    far, same = X + 100, X
    np.testing.assert_allclose(measures.a_distance(X, np.stack([far, same])), [2, 0])
    assert np.isnan(measures.a_distance(X, X[None, :1])).all()


SAMPLES = {
    "wasserstein": measures.wasserstein_1d,
    "mmd": measures.mmd,
    "multi": lambda x, y: measures.mmd(x, y, (0.25, 0.5, 1, 2, 4)),
    "sinkhorn": lambda x, y: measures.sinkhorn_divergence(x, y, 0.2),
    "a_distance": measures.a_distance,
}


@given(st.sampled_from(sorted(SAMPLES)), st.integers(0, 1000), st.integers(5, 12))
def test_sample_properties(name, seed, k):
    measure, random = SAMPLES[name], np.random.default_rng(seed)
    x, y = random.standard_normal((8, 3)), random.standard_normal((k, 3)) + 0.5
    assert measure(x, x[None])[0] == pytest.approx(0, abs=1e-7)
    there, back = measure(x, y[None])[0], measure(y, x[None])[0]
    assert there >= 0
    assert there == pytest.approx(back, abs=1e-6)
    if name != "a_distance":  # its folds go by position
        shuffled = measure(x[random.permutation(8)], y[random.permutation(k)][None])[0]
        assert shuffled == pytest.approx(there, abs=1e-6)
    # What stands beside a source in a batch does not matter.
    beside = measure(x, np.stack([y + 2, y]))[1]
    assert beside == pytest.approx(there, abs=1e-6)


def test_nearer_copies_are_nearer():
    x = rng.standard_normal((30, 5)) / 3
    shifted = np.stack([x + s for s in (0.0, 0.1, 0.3, 0.9)])
    for measure in SAMPLES.values():
        found = measure(x, shifted)
        assert (np.diff(found) >= 0).all()
        assert found[-1] > found[0]
