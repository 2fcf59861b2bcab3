"""Our LogME against the peers' own code on the same arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from taskscout.methods.evidence import logme, logme_of_maps
from taskscout.methods.labels import label_columns
from taskscout.methods.statistics import TargetStatistics


def features(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng([n, d])
    spread = np.arange(1, d + 1.0) ** -0.7
    return rng.normal(size=(n, d)) * spread + 0.3 * rng.normal(size=d)


def classes(f: np.ndarray, k: int) -> np.ndarray:
    rng = np.random.default_rng(k)
    y = (f @ rng.normal(size=(f.shape[1], k)) + rng.normal(size=(len(f), k))).argmax(1)
    y[:k] = np.arange(k)
    return y


def outputs(f: np.ndarray, k: int) -> np.ndarray:
    rng = np.random.default_rng(k)
    return f @ rng.normal(size=(f.shape[1], k)) + 0.5 * rng.normal(size=(len(f), k))


def largest_evidence(f: np.ndarray, y: np.ndarray) -> float:
    """The log marginal likelihood as written down, maximised by SciPy from several starts."""
    u, s, _ = np.linalg.svd(f, full_matrices=False)
    n, values = len(f), []
    for c in np.unique(y):
        label = (y == c).astype(float)
        inside = (u.T @ label) ** 2
        outside = label @ label - inside.sum()

        def negative(p, inside=inside, outside=outside):
            alpha, beta = np.exp(p)
            variance = 1 / beta + s**2 / alpha
            value = (np.log(variance) + inside / variance).sum() + n * math.log(2 * math.pi)
            return (value - (n - len(s)) * p[1] + beta * outside) / 2

        starts = ((0, 0), (5, 2), (10, 3), (-3, 2))
        options = {"xatol": 1e-9, "fatol": 1e-10, "maxiter": 9000}
        found = (minimize(negative, x, method="Nelder-Mead", options=options) for x in starts)
        values.append(-min(one.fun for one in found))
    return float(np.mean(values)) / n


ENOUGH_ROWS = [(100, 100), (120, 100), (1000, 64), (500, 384)]
TOO_FEW = [(50, 384), (20, 64), (99, 100)]


@pytest.mark.parametrize(("n", "d"), ENOUGH_ROWS)
@pytest.mark.parametrize("k", [2, 7])
def test_hfselect_classification(peer, n, d, k):
    f = features(n, d)
    y = classes(f, k)
    theirs = peer("hfselect.logme").LogME().fit(f, y)
    # To rounding: the same terms, those of the step before the last. At n = d they are 2e-5 away.
    assert logme(f, y, compat=True) == pytest.approx(theirs, rel=1e-11, abs=1e-11)
    if k == 2:
        assert logme(f, y) == pytest.approx(theirs, abs=1e-6 if n > d else 1e-4)
        return
    # Of seven classes some have one row or two. The published steps stop short of the maximum
    # there, for they add 1e-5 to a norm that is as small; ours is the maximum.
    assert logme(f, y) > theirs
    assert logme(f, y) == pytest.approx(largest_evidence(f, y), abs=2e-5)


@pytest.mark.parametrize(("n", "d"), ENOUGH_ROWS)
@pytest.mark.parametrize("k", [1, 3])
def test_hfselect_regression(peer, n, d, k):
    f = features(n, d)
    y = outputs(f, k)
    theirs = peer("hfselect.logme").LogME(regression=True).fit(f, y)
    assert logme(f, y, compat=True) == pytest.approx(theirs, abs=1e-6)
    assert logme(f, y) == pytest.approx(theirs, abs=1e-6 if n > d else 1e-4)


@pytest.mark.parametrize(("n", "d"), TOO_FEW)
@pytest.mark.parametrize("k", [2, 7])
def test_hfselect_with_fewer_rows_than_dimensions(peer, n, d, k):
    """``compat`` gives the published number; the evidence is another one."""
    f = features(n, d)
    y = classes(f, k)
    theirs = peer("hfselect.logme").LogME().fit(f, y)
    assert logme(f, y, compat=True) == pytest.approx(theirs, abs=1e-6)
    if d > 2 * n:
        assert abs(logme(f, y) - theirs) > 0.1


def test_hfselect_counts_class_ids_that_never_occur(peer):
    f = features(200, 20)
    y = 2 * classes(f, 3) + 1
    theirs = peer("hfselect.logme").LogME().fit(f, y)
    assert logme(f, y, compat=True) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("n", [30, 300])
def test_hfselect_on_mapped_features(peer, n):
    """The score of a map without forming the mapped features."""
    d, b = 64, 3
    f = features(n, d)
    y = classes(f, 4)
    rng = np.random.default_rng(0)
    scale, offset = rng.uniform(0.3, 1.2, b), rng.normal(size=(b, d))
    inner, outer = rng.normal(size=(2, b, d, 8)) / 8
    ours = logme_of_maps(
        TargetStatistics.of(f, label_columns(y, compat=True)),
        scale,
        inner,
        outer,
        offset,
        compat=True,
        centring="none",
        unit_norm=False,
    )
    for i in range(b):
        mapped = scale[i] * f + f @ inner[i] @ outer[i].T + offset[i]
        theirs = peer("hfselect.logme").LogME().fit(mapped, y)
        assert ours[i] == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(1000, 64), (500, 100)])
def test_transformer_ranker_regression(peer, n, d):
    """A second witness: one output, where it starts as everyone does.

    It stops after eleven steps, converged or not; with n < d they do not suffice, so there
    hfselect alone is the witness of the published formula.
    """
    import torch

    f = features(n, d)
    y = outputs(f, 1)[:, 0]
    estimator = peer("transformer_ranker.estimators").LogME(regression=True)
    theirs = estimator.fit(torch.from_numpy(f), torch.from_numpy(y))
    assert logme(f, y, compat=True) == pytest.approx(theirs, abs=1e-6)
    if n > d:
        assert logme(f, y) == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(("n", "d"), [(1000, 64), (500, 100)])
def test_transformer_ranker_classification(peer, n, d):
    """It starts each class where the last one ended, so it ends a little elsewhere."""
    import torch

    f = features(n, d)
    y = classes(f, 4)
    estimator = peer("transformer_ranker.estimators").LogME()
    theirs = estimator.fit(torch.from_numpy(f), torch.from_numpy(y))
    assert logme(f, y, compat=True) == pytest.approx(theirs, abs=1e-4)
    assert logme(f, y) == pytest.approx(largest_evidence(f, y), abs=2e-5)
    assert logme(f, y) > theirs - 1e-4
