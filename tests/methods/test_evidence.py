"""LogME against the marginal likelihood written out, against the published algorithm, and its
invariances.
"""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from taskscout.errors import DataError
from taskscout.methods import evidence as module
from taskscout.methods.evidence import (
    LEAST_NOISE,
    MapEvidence,
    logme,
    logme_of_maps,
    maximise,
)
from taskscout.methods.labels import label_columns
from taskscout.methods.low_rank import Basis, LowRankGram, Spectral
from taskscout.methods.statistics import TargetStatistics

QUICK = settings(max_examples=40, deadline=None, derandomize=True)


def features(n: int, d: int, *, rank: int | None = None, seed: int = 0) -> np.ndarray:
    """Features as encoders make them: a mean, and variances that fall off."""
    rng = np.random.default_rng([seed, n, d])
    spread = np.arange(1, d + 1.0) ** -0.7
    x = rng.normal(size=(n, d)) * spread + 0.3 * rng.normal(size=d)
    if rank is not None:
        x = x @ rng.normal(size=(d, rank)) @ rng.normal(size=(rank, d)) / d
    return x


def classes(f: np.ndarray, k: int, *, noise: float = 1.0, seed: int = 0) -> np.ndarray:
    """Labels that the features say something about; every class occurs."""
    rng = np.random.default_rng([seed, k])
    logits = f @ rng.normal(size=(f.shape[1], k)) + noise * rng.normal(size=(len(f), k))
    y = logits.argmax(1)
    y[:k] = np.arange(k)
    return y


def outputs(f: np.ndarray, k: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, k])
    return f @ rng.normal(size=(f.shape[1], k)) + 0.5 * rng.normal(size=(len(f), k)) + 0.2


def fixed_point(f: np.ndarray, y: np.ndarray, least: float = LEAST_NOISE) -> tuple[np.ndarray, ...]:
    """Evidence per row, alpha and beta of every label column."""
    n = len(f)
    noise = np.maximum(least * y.var(0, ddof=1), 1e-300)
    size = np.array([(f**2).sum()])
    found = maximise(Spectral.of_features(f, y), size, n, n, noise)
    assert found.converged.all()
    return found.value[0] / n, found.alpha[0], found.beta[0]


def brute_force(f: np.ndarray, y: np.ndarray, least: float) -> float:
    """The largest log marginal likelihood over alpha and beta, written out; by scipy's search."""
    noise = least * y.var(ddof=1)

    def loss(at: np.ndarray) -> float:
        return -marginal_likelihood(f, y, math.exp(at[0]), math.exp(at[1])) / len(f)

    top = -math.log(noise)
    starts = itertools.product((0.0, 4.0), (top - 3.0, top))
    bounds = [(-12.0, 25.0), (-12.0, top)]
    return -min(optimize.minimize(loss, x, bounds=bounds, tol=1e-10).fun for x in starts)


def marginal_likelihood(f: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """log N(y; 0, I / beta + F F' / alpha), written out."""
    covariance = np.eye(len(f)) / beta + f @ f.T / alpha
    sign, log_determinant = np.linalg.slogdet(covariance)
    assert sign == 1
    quadratic = y @ np.linalg.solve(covariance, y)
    return -0.5 * (len(f) * math.log(2 * math.pi) + log_determinant + quadratic)


# n < d, n = d, n > d, and rank deficient on both sides
SHAPES = [(30, 80, None), (50, 50, None), (200, 20, None), (60, 40, 7), (40, 60, 7), (8, 300, None)]


@pytest.mark.parametrize(("n", "d", "rank"), SHAPES)
@pytest.mark.parametrize("what", ["2 classes", "5 classes", "1 output", "3 outputs"])
def test_is_the_marginal_likelihood(n, d, rank, what):
    f = features(n, d, rank=rank)
    k = int(what[0])
    labels = classes(f, k) if "classes" in what else outputs(f, k)
    y = label_columns(labels)
    assert y.shape == (n, k)
    found, alpha, beta = fixed_point(f, y)
    for j in range(k):
        wanted = marginal_likelihood(f, y[:, j], alpha[j], beta[j]) / n
        assert found[j] == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert logme(f, labels) == pytest.approx(found.mean(), rel=1e-12)


@pytest.mark.parametrize("least", [0.01, 0.2])
@pytest.mark.parametrize(
    ("n", "d", "what"),
    [(30, 80, "classes"), (31, 30, "outputs"), (60, 20, "outputs")],
)
@pytest.mark.parametrize("centring", ["none", "both"])
def test_is_the_largest_marginal_likelihood(n, d, what, centring, least):
    """Against a search over alpha and beta; centred rows have n - 1 degrees of freedom.

    These are the coordinates of the rows in a basis orthogonal to the constant.
    """
    f = features(n, d)
    labels = classes(f, 2) if what == "classes" else outputs(f, 1)
    y = label_columns(labels)
    got = logme(f, labels, centring=centring, unit_norm=True, least_noise=least)
    if centring != "none":
        f = f - f.mean(0)
    f = f / math.sqrt((f**2).sum() / n)
    rows = n
    if centring == "both":
        y = y - y.mean(0)
        basis = np.linalg.svd(np.ones((1, n)))[2][1:]
        variance = y.var(0, ddof=1)
        f, y, rows = basis @ f, basis @ y, n - 1
        # The bound is a share of the variance of the labels as they were.
        share = least * variance / y.var(0, ddof=1)
    else:
        share = np.full(y.shape[1], least)
    wanted = [brute_force(f, c, s) * rows / n for c, s in zip(y.T, share, strict=True)]
    assert got == pytest.approx(np.mean(wanted), abs=2e-6)


def test_a_search_that_was_cut_short_is_said(monkeypatch):
    monkeypatch.setattr(module, "_STEPS", 2)
    f = features(40, 60)
    with pytest.warns(UserWarning, match="no maximum"):
        logme(f, outputs(f, 1), centring="both", unit_norm=True)


def test_the_bound_is_reached_where_features_tell_the_labels():
    f = features(200, 60)
    told = f @ np.random.default_rng(0).normal(size=(60, 1))
    noisy = told + told.std() * np.random.default_rng(1).normal(size=told.shape)
    for y, bounded in ((told, True), (noisy, False)):
        _, _, beta = fixed_point(f, y)
        assert beta[0] <= (1 + 1e-9) / (LEAST_NOISE * y.var(ddof=1))
        assert (beta[0] * LEAST_NOISE * y.var(ddof=1) > 1 - 1e-9) == bounded


def test_columns_of_zeros_change_the_published_formula():
    """It adds log(alpha) / 2 for each: what makes it fail with fewer rows than columns."""
    f = features(30, 50)
    y = classes(f, 3)
    wider = [logme(np.hstack([f, np.zeros((30, k))]), y, compat=True) for k in (0, 5, 10)]
    assert abs(wider[1] - wider[0]) > 1e-3
    assert wider[2] - wider[1] == pytest.approx(wider[1] - wider[0], rel=1e-9)


@pytest.mark.parametrize("n", [16, 30])
@pytest.mark.parametrize("r", [2, 8])
def test_near_interpolation(n, r):
    """Fewer rows than dimensions, and labels that a plane separates: nearly no residual."""
    d = 64 if r == 2 else 32
    rng = np.random.default_rng(3)
    labels = np.arange(n) % 4
    f = 3 * rng.normal(size=(4, d))[labels] + 1e-2 * rng.normal(size=(n, d))
    maps = random_maps(3, d, r)
    for least in (LEAST_NOISE, 1e-4):
        options = {"centring": "both", "unit_norm": True, "least_noise": least}
        got = logme_of_maps(TargetStatistics.of(f, label_columns(labels)), *maps, **options)
        wanted = [logme(mapped(f, maps, i), labels, **options) for i in range(3)]
        np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("n", [7, 30])
@pytest.mark.parametrize("r", [1, 2, 12])
@pytest.mark.parametrize("more", [0, 6])
def test_low_rank_terms(unit_norm, n, r, more):
    """gamma, |m|², |y - F m|² and the determinant of low-rank changes, against matrices written
    out, for t far below, among and far above the eigenvalues.
    """
    d, k = 12, 3
    f = features(n, d + more)
    y = outputs(f, k)
    scale, inner, outer, _ = maps_of_two_layers(2, d, more, r)
    scale[1] *= -1
    basis = Basis(TargetStatistics.of(f, y), d, n)
    low = LowRankGram(basis, scale, inner, outer, unit_norm=unit_norm)
    for t in 10.0 ** np.random.default_rng(0).uniform(-5, 5, (12, 2, k)):
        now = low(t)
        for i in range(2):
            h = scale[i] * f[:, :d] + f @ inner[i] @ outer[i].T
            if unit_norm:
                h /= math.sqrt((h**2).sum() / n)
            for j in range(k):
                near = {"rel": 1e-6, "abs": 1e-8}
                matrix = h.T @ h + t[i, j] * np.eye(d)
                rho = t[i, j] * np.linalg.solve(h @ h.T + t[i, j] * np.eye(n), y[:, j])
                gamma = np.trace(np.linalg.solve(matrix, h.T @ h))
                determinant = np.linalg.slogdet(matrix)[1] - d * math.log(t[i, j])
                assert now.gamma[i, j] == pytest.approx(gamma, **near)
                assert now.penalty[i, j] == pytest.approx(rho @ (y[:, j] - rho), **near)
                assert now.residual[i, j] == pytest.approx(rho @ rho, **near)
                assert now.determinant[i, j] == pytest.approx(determinant, **near)


def test_regression_labels_may_be_a_vector():
    f = features(40, 10)
    y = outputs(f, 1)
    assert logme(f, y[:, 0]) == logme(f, y)


# -- the published algorithm ---------------------------------------------------------------


def published(f: np.ndarray, labels: np.ndarray) -> float:
    """You et al., fixed-point variant, transcribed (papers.md, 4a): classes 0..max, plain loops."""
    n, d = f.shape
    u, s, _ = np.linalg.svd(f, full_matrices=False)
    k = np.linalg.matrix_rank(f)
    u, sigma = u[:, :k], s[:k] ** 2
    if np.issubdtype(labels.dtype, np.integer):
        columns = [(labels == c).astype(float) for c in range(labels.max() + 1)]
    else:
        columns = list(labels.reshape(n, -1).T)
    scores = []
    for y in columns:
        x = u.T @ y
        res0 = y @ y - (x**2).sum()
        alpha = beta = 1.0
        for _ in range(50):
            t = alpha / beta
            gamma = (sigma / (sigma + t)).sum()
            m2 = (sigma * x**2 / (t + sigma) ** 2).sum()
            res2 = (x**2 / (1 + sigma / t) ** 2).sum() + res0
            alpha = gamma / (m2 + 1e-5)
            beta = (n - gamma) / (res2 + 1e-5)
            if abs(alpha / beta - t) / t <= 1e-3:
                break
        evidence = (
            d / 2 * math.log(alpha)
            + n / 2 * math.log(beta)
            - 0.5 * np.log(alpha + beta * sigma).sum()
            - beta / 2 * res2
            - alpha / 2 * m2
            - n / 2 * math.log(2 * math.pi)
        )
        scores.append(evidence / n)
    return float(np.mean(scores))


@pytest.mark.parametrize(("n", "d", "rank"), SHAPES)
@pytest.mark.parametrize("what", ["2 classes", "5 classes", "1 output", "3 outputs"])
def test_compat_is_the_published_algorithm(n, d, rank, what):
    f = features(n, d, rank=rank, seed=1)
    k = int(what[0])
    labels = classes(f, k) if "classes" in what else outputs(f, k)
    assert logme(f, labels, compat=True) == pytest.approx(published(f, labels), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("shape", [(30, 80), (200, 20)])
def test_compat_counts_class_ids_that_never_occur(shape):
    f = features(*shape)
    labels = classes(f, 3) * 2 + 1  # 1, 3, 5
    got = logme(f, labels, compat=True)
    assert got == pytest.approx(published(f, labels), rel=1e-9)
    assert got != pytest.approx(logme(f, labels // 2, compat=True), rel=1e-3)
    assert logme(f, labels) == pytest.approx(logme(f, labels // 2), rel=1e-12)


def test_compat_and_the_evidence_agree_where_no_direction_is_missing():
    """With full column rank only the last step's terms differ, by less than the tolerance."""
    f = features(200, 20)
    labels = classes(f, 4)
    assert logme(f, labels, compat=True) == pytest.approx(logme(f, labels), abs=1e-6)
    f = features(30, 80)
    labels = classes(f, 4)
    assert abs(logme(f, labels, compat=True) - logme(f, labels)) > 0.1


@pytest.mark.parametrize("n", [100, 400])
def test_with_more_rows_than_columns_both_formulas_order_sources_alike(n):
    """Of maps of uncentred features, where no direction is missing."""
    f = features(n, 48)
    maps = random_maps(12, 48, 3)
    y = classes(f, 3)
    ours, released = (
        logme_of_maps(
            TargetStatistics.of(f, label_columns(y, compat=compat)),
            *maps,
            compat=compat,
            centring="none",
            unit_norm=False,
        )
        for compat in (False, True)
    )
    np.testing.assert_allclose(ours, released, atol=1e-5)
    np.testing.assert_array_equal(np.argsort(ours), np.argsort(released))


# -- invariances ---------------------------------------------------------------------------


@st.composite
def problems(draw) -> tuple[np.ndarray, np.ndarray]:
    n, d, k = draw(st.integers(6, 40)), draw(st.integers(1, 50)), draw(st.integers(2, 4))
    seed = draw(st.integers(0, 2**16))
    f = features(n, d, seed=seed)
    return f, classes(f, k, noise=draw(st.sampled_from([0.1, 1.0, 5.0])), seed=seed)


OPTIONS = st.fixed_dictionaries(
    {
        "compat": st.booleans(),
        "centring": st.sampled_from(["none", "features", "both"]),
        "unit_norm": st.booleans(),
    }
)


def same(value: float) -> object:
    """The same but for rounding, which the fixed point passes on."""
    return pytest.approx(value, rel=1e-7, abs=1e-7)


@QUICK
@given(problems(), OPTIONS, st.integers(0, 99))
def test_rotation_does_not_matter(problem, options, seed):
    f, y = problem
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(f.shape[1],) * 2))
    assert logme(f @ q, y, **options) == same(logme(f, y, **options))


@QUICK
@given(problems(), OPTIONS, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(problem, options, random):
    f, y = problem
    order = random.sample(range(len(f)), len(f))
    assert logme(f[order], y[order], **options) == same(logme(f, y, **options))


@QUICK
@given(problems(), OPTIONS, st.randoms(use_true_random=False))
def test_names_of_classes_do_not_matter(problem, options, random):
    f, y = problem
    k = int(y.max()) + 1
    permuted = np.array(random.sample(range(k), k))[y]
    assert logme(f, permuted, **options) == same(logme(f, y, **options))
    if not options["compat"]:
        sparse = np.array(random.sample(range(3 * k), k))[y]
        assert logme(f, sparse, **options) == same(logme(f, y, **options))


@QUICK
@given(problems(), st.integers(1, 30), st.sampled_from(["none", "both"]))
def test_columns_of_zeros_do_not_change_the_evidence(problem, more, centring):
    """w of such a column has its prior and no influence on y, so the likelihood is the same."""
    f, y = problem
    wider = np.hstack([f, np.zeros((len(f), more))])
    assert logme(wider, y, centring=centring) == same(logme(f, y, centring=centring))
    _, alpha, beta = fixed_point(f, label_columns(y))
    _, alpha_wider, beta_wider = fixed_point(wider, label_columns(y))
    np.testing.assert_allclose(alpha_wider, alpha, rtol=1e-6)
    np.testing.assert_allclose(beta_wider, beta, rtol=1e-6)


@QUICK
@given(problems(), st.integers(2, 4), OPTIONS)
def test_repeated_columns_are_longer_columns(problem, times, options):
    f, y = problem
    if options["compat"]:  # see the zeros above
        return
    repeated = np.hstack([f] * times)
    assert logme(repeated, y, **options) == same(logme(math.sqrt(times) * f, y, **options))


@QUICK
@given(problems(), st.floats(0.01, 100), st.booleans())
def test_scale_and_mean_do_not_matter_once_they_are_removed(problem, factor, compat):
    f, y = problem
    options = {"centring": "both", "unit_norm": True, "compat": compat}
    moved = factor * f + np.random.default_rng(0).normal(size=f.shape[1])
    assert logme(moved, y, **options) == pytest.approx(logme(f, y, **options), rel=1e-6, abs=1e-6)


@QUICK
@given(problems(), st.integers(2, 3))
def test_repeated_rows_are_counted(problem, times):
    """Each row again is evidence again: the likelihood of all rows, not of the distinct ones."""
    f, y = problem
    f, y = np.tile(f, (times, 1)), np.tile(y, times)
    found, alpha, beta = fixed_point(f, label_columns(y))
    for j, column in enumerate(label_columns(y).T):
        wanted = marginal_likelihood(f, column, alpha[j], beta[j]) / len(f)
        assert found[j] == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_centring_and_unit_norm_are_what_they_say():
    f = features(60, 20)
    labels = classes(f, 3)
    g = f - f.mean(0)
    assert logme(f, labels, centring="features") == pytest.approx(logme(g, labels), rel=1e-12)
    h = f / math.sqrt((f**2).sum(1).mean())
    assert logme(f, labels, unit_norm=True) == pytest.approx(logme(h, labels), rel=1e-12)


# -- maps ------------------------------------------------------------------------------------


def random_maps(b: int, d: int, r: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """s, U, V and the offset of B maps s I + V U' with an offset."""
    rng = np.random.default_rng([seed, b, d, r])
    inner, outer = rng.normal(size=(2, b, d, r)) / math.sqrt(d)
    return rng.uniform(0.3, 1.2, b), inner, outer, rng.normal(size=(b, d))


def mapped(f: np.ndarray, maps: tuple[np.ndarray, ...], i: int) -> np.ndarray:
    scale, inner, outer, offset = (m[i] for m in maps)
    return scale * f + f @ inner @ outer.T + offset


@pytest.mark.parametrize("n", [25, 200])
@pytest.mark.parametrize("centring", ["none", "features", "both"])
@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("r", [0, 2, 8])
def test_maps_score_as_mapped_features(n, centring, unit_norm, compat, r):
    d, b = 48, 3
    f = features(n, d)
    labels = classes(f, 5)
    statistics = TargetStatistics.of(f, label_columns(labels, compat=compat))
    maps = random_maps(b, d, r)
    options = {"centring": centring, "unit_norm": unit_norm, "compat": compat}
    got = logme_of_maps(statistics, *maps, **options)
    wanted = [logme(mapped(f, maps, i), labels, **options) for i in range(b)]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def maps_of_two_layers(b: int, d: int, more: int, r: int) -> tuple[np.ndarray, ...]:
    """Maps that read ``more`` columns beside the d they give."""
    scale, _, outer, offset = random_maps(b, d, r)
    inner = np.random.default_rng([b, d, more, r]).normal(size=(b, d + more, r)) / math.sqrt(d)
    return scale, inner, outer, offset


def mapped_from_two_layers(f: np.ndarray, maps: tuple[np.ndarray, ...], i: int) -> np.ndarray:
    scale, inner, outer, offset = (m[i] for m in maps)
    return scale * f[:, : len(offset)] + f @ inner @ outer.T + offset


@pytest.mark.parametrize("n", [25, 48, 49, 50, 80, 300])
@pytest.mark.parametrize("centring", ["none", "features", "both"])
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("r", [0, 2, 8])
def test_maps_may_read_columns_beside_those_they_give(n, centring, compat, r):
    """Fewer rows than columns, as many, and more: what f makes of g is all of it, or a part."""
    d, more, b = 48, 40, 3
    f = features(n, d + more)
    labels = classes(f, 5)
    statistics = TargetStatistics.of(f, label_columns(labels, compat=compat))
    maps = maps_of_two_layers(b, d, more, r)
    options = {"centring": centring, "unit_norm": True, "compat": compat}
    got = logme_of_maps(statistics, *maps, **options, dimension=d)
    wanted = [logme(mapped_from_two_layers(f, maps, i), labels, **options) for i in range(b)]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("repeated", [1, 5])
@pytest.mark.parametrize("centring", ["none", "both"])
def test_a_text_that_stands_twice_in_a_small_target(repeated, centring):
    """Rows that repeat take rank from the features, and the columns beside them add none."""
    d, more, b, n = 96, 96, 12, 60
    f = features(n, d + more)
    f[n - repeated :] = f[:repeated]
    labels = classes(f, 3)
    statistics = TargetStatistics.of(f, label_columns(labels))
    maps = maps_of_two_layers(b, d, more, 4)
    options = {"centring": centring, "unit_norm": True}
    got = logme_of_maps(statistics, *maps, **options, dimension=d)
    wanted = [logme(mapped_from_two_layers(f, maps, i), labels, **options) for i in range(b)]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_columns_beside_that_repeat_the_features_are_a_plain_map():
    d, n = 48, 120
    f = features(n, d)
    statistics = TargetStatistics.of(f, label_columns(classes(f, 4)))
    twice = TargetStatistics.of(np.hstack([f, 2 * f]), label_columns(classes(f, 4)))
    scale, inner, outer, offset = random_maps(3, d, 2)
    plain = logme_of_maps(statistics, scale, inner, outer, offset)
    split = np.concatenate([0.5 * inner, 0.25 * inner], 1)
    np.testing.assert_allclose(
        logme_of_maps(twice, scale, split, outer, offset, dimension=d), plain, atol=1e-7
    )


def test_maps_of_a_regression_target():
    f = features(40, 48)
    y = outputs(f, 1)[:, 0]
    maps = random_maps(2, 48, 4)
    got = logme_of_maps(TargetStatistics.of(f, label_columns(y)), *maps)
    wanted = [logme(mapped(f, maps, i), y, centring="both", unit_norm=True) for i in range(2)]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("n", [60, 300])
def test_many_classes(n):
    d, k = 48, 40
    f = features(n, d)
    labels = classes(f, k)
    maps = random_maps(2, d, 3)
    got = logme_of_maps(TargetStatistics.of(f, label_columns(labels)), *maps)
    options = {"centring": "both", "unit_norm": True}
    wanted = [logme(mapped(f, maps, i), labels, **options) for i in range(2)]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_a_source_scores_the_same_whatever_it_is_scored_beside():
    f = features(40, 48)
    statistics = TargetStatistics.of(f, label_columns(classes(f, 4)))
    maps = random_maps(9, 48, 2)
    together = logme_of_maps(statistics, *maps)
    for i in range(9):
        alone = logme_of_maps(statistics, *(m[i : i + 1] for m in maps))
        assert alone[0] == pytest.approx(together[i], rel=1e-10)


def test_a_column_scores_the_same_whatever_it_is_scored_beside():
    """Columns stop at different steps; one that has stopped is frozen."""
    f = features(40, 48)
    y = np.hstack([outputs(f, 3), 1e3 * outputs(f, 1, seed=5), np.ones((40, 1))])
    found, _, _ = fixed_point(f, y)
    for j in range(5):
        assert fixed_point(f, y[:, j : j + 1])[0][0] == pytest.approx(found[j], rel=1e-10)


def test_outer_factors_need_not_be_orthonormal_nor_independent():
    f = features(60, 48)
    labels = classes(f, 3)
    statistics = TargetStatistics.of(f, label_columns(labels))
    scale, inner, outer, offset = random_maps(3, 48, 3)
    outer[0, :, 1] = outer[0, :, 0]
    outer[1, :, 2] = 0.0
    outer[2] *= 1e3
    inner[2] *= 1e-3
    maps = scale, inner, outer, offset
    options = {"centring": "both", "unit_norm": True}
    got = logme_of_maps(statistics, *maps)
    wanted = [logme(mapped(f, maps, i), labels, **options) for i in range(3)]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-9])
def test_a_map_without_its_multiple_of_the_identity(scale):
    """Dividing by s would lose all digits: such a map is scored as a full one."""
    f = features(60, 48)
    labels = classes(f, 3)
    _, inner, outer, offset = random_maps(2, 48, 3)
    maps = np.array([1.0, scale]), inner, outer, offset
    got = logme_of_maps(TargetStatistics.of(f, label_columns(labels)), *maps)
    options = {"centring": "both", "unit_norm": True}
    wanted = [logme(mapped(f, maps, i), labels, **options) for i in range(2)]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_many_batches_in_threads():
    f = features(60, 48)
    statistics = TargetStatistics.of(f, label_columns(classes(f, 4)))
    maps = random_maps(40, 48, 2)
    scorer = MapEvidence(statistics)
    together = scorer(*maps)
    batches = [(i, tuple(m[i : i + 3] for m in maps)) for i in range(0, 40, 3)]
    for threads in (1, 3):
        out = np.full(40, np.nan)
        for start, scores in scorer.over(iter(batches), threads=threads):
            out[start : start + 3] = scores
        np.testing.assert_allclose(out, together, rtol=1e-10)


def test_an_error_in_a_batch_is_raised():
    f = features(60, 48)
    scorer = MapEvidence(TargetStatistics.of(f, label_columns(classes(f, 4))))
    scale, inner, outer, offset = random_maps(3, 48, 2)
    with pytest.raises(ValueError, match=r"."):
        list(scorer.over([(0, (scale, inner[:, :5], outer[:, :5], offset))]))


def test_half_precision_arrays_are_read_as_they_are():
    f = features(40, 48)
    statistics = TargetStatistics.of(f, label_columns(classes(f, 3)))
    scale, *arrays = random_maps(2, 48, 2)
    half = [a.astype(np.float16) for a in arrays]
    widened = [a.astype(np.float64) for a in half]
    np.testing.assert_array_equal(
        logme_of_maps(statistics, scale, *half), logme_of_maps(statistics, scale, *widened)
    )


# -- statistics ------------------------------------------------------------------------------


def assert_same_statistics(a: TargetStatistics, b: TargetStatistics) -> None:
    for name in TargetStatistics.__dataclass_fields__:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-10, atol=1e-10)


def test_statistics_add_up():
    f = features(50, 8)
    y = label_columns(classes(f, 3))
    whole = TargetStatistics.of(f, y)
    assert whole.n == 50
    assert whole.gram.shape == (8, 8)
    assert whole.cross.shape == (8, 3)
    parts = [TargetStatistics.of(f[rows], y[rows]) for rows in np.split(np.arange(50), [0, 7, 31])]
    assert_same_statistics(parts[0] + parts[1] + parts[2] + parts[3], whole)


@pytest.mark.parametrize("centring", ["none", "features", "both"])
def test_centred_statistics(centring):
    f = features(50, 8)
    y = label_columns(classes(f, 3))
    got = TargetStatistics.of(f, y).centred(centring)
    g = f if centring == "none" else f - f.mean(0)
    z = y - y.mean(0) if centring == "both" else y
    wanted = TargetStatistics.of(g, z)
    for name in ("n", "gram", "total", "cross", "label_square"):
        np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), atol=1e-9)


# -- bad input, and the edges of what is allowed -----------------------------------------------


def refused(call) -> DataError:
    with pytest.raises(DataError) as caught:
        call()
    for part in (caught.value.found, caught.value.why, caught.value.remedy):
        assert part.strip()
    return caught.value


F = features(6, 3)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros(6, int), "the same"),
        (np.array([], int), "the same"),
        (np.array([0, 1, 0, -1, 1, -1]), "2 labels are negative"),
        (np.array([0.5, np.nan, 1, 2, np.inf, 3]), "2 labels are not finite"),
        (np.array([0, 1, 0, 1, 0]), r"\(6, 3\)"),
        (np.zeros((6, 2, 2)), r"\(6, 2, 2\)"),
        (np.array([[0, 1]] * 6), r"\(6, 2\)"),
        (np.array(["a", None] * 3, object), "type object"),
    ],
)
@pytest.mark.parametrize("compat", [False, True])
def test_labels_that_are_refused(labels, said, compat):
    f = F[: len(labels)] if len(labels) == 0 else F
    error = refused(lambda: logme(f, labels, compat=compat))
    assert re.search(said, str(error)), str(error)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite(bad):
    f = F.copy()
    f[4, 1] = bad
    assert "Row 4" in refused(lambda: logme(f, [0, 1] * 3)).found


def test_features_of_another_shape():
    assert "(6,)" in refused(lambda: logme(F[:, 0], [0, 1] * 3)).found


def test_labels_in_other_types():
    wanted = logme(F, [0, 1] * 3)
    assert logme(F, np.array([0, 1] * 3, np.uint8)) == wanted
    assert logme(F, np.array([False, True] * 3)) == wanted  # two classes, not an output
    assert logme(F.tolist(), (0, 1, 0, 1, 0, 1)) == wanted
    for labels in (
        [1, 2] * 3,
        [5, 12] * 3,
        ["no", "yes"] * 3,
        [False, True] * 3,
        np.array([0, 1] * 3, object),
        np.array(["a", "b"] * 3, object),
        np.array([[0], [1]] * 3),
        torch.tensor([0, 1] * 3),
    ):
        assert logme(F, labels) == wanted, labels
    assert logme(F.astype(np.float32), [0, 1] * 3) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("centring", ["none", "both"])
@pytest.mark.parametrize("compat", [False, True])
def test_features_that_say_nothing(centring, compat):
    """All rows alike: the score is that of no features, and finite."""
    f = np.zeros((20, 5)) if centring == "none" else np.ones((20, 5))
    y = np.arange(20) % 2
    assert math.isfinite(logme(f, y, centring=centring, unit_norm=True, compat=compat))


def test_says_which_source_knows_the_classes():
    """A sanity check of direction: features that hold the class beat those that do not."""
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=100)
    noise = rng.normal(size=(100, 200))
    informed = noise + 2 * rng.normal(size=(3, 200))[y]
    for options in ({}, {"centring": "both", "unit_norm": True}):
        assert logme(informed, y, **options) > logme(noise, y, **options) + 0.05
