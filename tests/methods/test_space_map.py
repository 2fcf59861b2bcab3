"""Space maps against solvers that see the rows, not the moments."""

from __future__ import annotations

import numpy as np
import pytest

from taskscout.methods.space_map import (
    STRENGTHS,
    Moments,
    SpaceMap,
    choose_strength,
    fit_map,
    fit_maps,
    identity_map,
)


def embeddings(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows with a mean and variances that fall off, as encoders make them."""
    rng = np.random.default_rng([seed, n, d])
    return rng.normal(size=(n, d)) * np.arange(1, d + 1.0) ** -0.5 + rng.normal(size=d)


def tuned(x: np.ndarray, *, rank: int = 3, noise: float = 0.1, seed: int = 0) -> np.ndarray:
    """What tuning does: most of the old, a few new directions, a shift, and the rest noise."""
    rng = np.random.default_rng([seed, rank])
    d = x.shape[1]
    u, v = rng.normal(size=(2, d, rank)) / np.sqrt(d)
    return 0.6 * x + x @ u @ v.T + rng.normal(size=d) + noise * rng.normal(size=x.shape)


def matrix(space_map: SpaceMap) -> np.ndarray:
    """W in y = x W + b."""
    inner, outer = np.float64(space_map.inner), np.float64(space_map.outer)
    return space_map.scale * np.eye(len(inner), len(outer)) + inner @ outer.T


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge towards s I, from the rows: least squares with rows appended for the penalty."""
    xc, yc = x - x.mean(0), y - y.mean(0)
    read, d = x.shape[1], y.shape[1]
    s = np.vdot(xc[:, :d], yc) / np.vdot(xc[:, :d], xc[:, :d])
    lam = strength * np.linalg.eigvalsh(xc.T @ xc).mean()
    rows = np.vstack([xc, np.sqrt(lam) * np.eye(read)])
    wanted = np.vstack([yc - s * xc[:, :d], np.zeros((read, d))])
    delta = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    w = s * np.eye(read, d) + delta
    return w, y.mean(0) - x.mean(0) @ w


@pytest.mark.parametrize("strength", [1e-5, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("n", [300, 12])
def test_full_map_is_ridge_towards_the_identity(n, strength):
    x = embeddings(n, 20)
    y = tuned(x)
    moments = Moments.of(x, y)
    space_map = fit_map(moments, moments, rank=None, strengths=[strength])
    w, b = ridge(x, y, strength)
    assert space_map.strength == strength
    assert space_map.rank == 20
    np.testing.assert_allclose(matrix(space_map), w, atol=1e-8)
    np.testing.assert_allclose(space_map.offset, b, atol=1e-8)
    np.testing.assert_allclose(space_map(x), x @ w + b, atol=1e-8)


@pytest.mark.parametrize("rank", [2, None])
@pytest.mark.parametrize("n", [300, 25])
def test_maps_that_read_more_than_they_give(n, rank):
    """Ridge from the rows, the strength by held-out error, the error from moments alone."""
    d, more = 20, 12
    x, x2 = embeddings(n, d + more), embeddings(200, d + more, seed=1)
    beside = np.random.default_rng(5).normal(size=(more, d)) / np.sqrt(d)
    rng = np.random.default_rng(7)

    def tuned_from_both(rows: np.ndarray) -> np.ndarray:
        return tuned(rows[:, :d]) + rows[:, d:] @ beside + rng.normal(size=(len(rows), d))

    y, y2 = tuned_from_both(x), tuned_from_both(x2)
    train, held_out = Moments.of(x, y), Moments.of(x2, y2)
    space_map = fit_map(train, held_out, rank=rank)
    assert space_map.inner.shape == (d + more, rank or d)
    assert space_map.outer.shape == (d, rank or d)
    error = ((y2 - space_map(x2)) ** 2).sum(1).mean()
    assert space_map.mean_squared_error(held_out) == pytest.approx(error, rel=1e-9)
    errors = []
    for strength in STRENGTHS:
        w, b = ridge(x, y, strength)
        errors.append(((y2 - x2 @ w - b) ** 2).sum(1).mean())
    assert space_map.strength == STRENGTHS[int(np.argmin(errors))]
    if rank is None:
        w, b = ridge(x, y, space_map.strength)
        np.testing.assert_allclose(matrix(space_map), w, atol=1e-8)
        np.testing.assert_allclose(space_map.offset, b, atol=1e-8)
        without = fit_map(Moments.of(x[:, :d], y), Moments.of(x2[:, :d], y2), rank=None)
        assert error < without.mean_squared_error(Moments.of(x2[:, :d], y2))


def test_without_a_penalty_it_is_least_squares():
    x = embeddings(400, 12)
    y = tuned(x)
    moments = Moments.of(x, y)
    space_map = fit_map(moments, moments, rank=None, strengths=[1e-12])
    with_one = np.hstack([x, np.ones((400, 1))])
    solution = np.linalg.lstsq(with_one, y, rcond=None)[0]
    np.testing.assert_allclose(matrix(space_map), solution[:-1], atol=1e-7)
    np.testing.assert_allclose(space_map.offset, solution[-1], atol=1e-7)


def test_fewer_rows_than_dimensions_without_a_penalty():
    """No single answer: the smallest, which meets the rows."""
    x = embeddings(5, 20)
    y = tuned(x)
    moments = Moments.of(x, y)
    space_map = fit_map(moments, moments, rank=None, strengths=[0.0])
    np.testing.assert_allclose(space_map(x), y, atol=1e-6)


@pytest.mark.parametrize("rank", [3, 5, None])
def test_recovers_a_map_that_is_there(rank):
    """Without noise, and with at least its rank, a map of rank 3 is found exactly."""
    x, fresh = embeddings(500, 16), embeddings(200, 16, seed=1)
    xc = x[:400] - x[:400].mean(0)
    u, v = np.random.default_rng(0).normal(size=(2, 16, 3))
    # No part of U V' goes along with the identity, so 0.6 is the best multiple of it alone.
    ku = xc.T @ xc @ u
    v -= ku * (ku * v).sum(0) / (ku**2).sum(0)
    y, wanted = (0.6 * z + z @ u @ v.T - 2 for z in (x, fresh))
    space_map = fit_map(
        Moments.of(x[:400], y[:400]), Moments.of(x[400:], y[400:]), rank=rank, strengths=(1e-12, 1)
    )
    assert space_map.scale == pytest.approx(0.6)
    assert space_map.strength == 1e-12
    np.testing.assert_allclose(space_map(fresh), wanted, atol=1e-6)
    assert space_map.explained(Moments.of(fresh, wanted)) == pytest.approx(1, abs=1e-9)


def test_recovers_a_full_map():
    x = embeddings(300, 10)
    w = np.random.default_rng(0).normal(size=(10, 10))
    y = x @ w + 1.5
    moments = Moments.of(x, y)
    space_map = fit_map(moments, moments, rank=None, strengths=[1e-13])
    np.testing.assert_allclose(matrix(space_map), w, atol=1e-6)


# -- reduced rank ----------------------------------------------------------------------------


def objective(x: np.ndarray, y: np.ndarray, delta: np.ndarray, strength: float) -> float:
    """|Y - s X - X D|² + strength |D|² on centred rows."""
    xc, yc = x - x.mean(0), y - y.mean(0)
    s = np.vdot(xc, yc) / np.vdot(xc, xc)
    lam = strength * np.linalg.eigvalsh(xc.T @ xc).mean()
    return float(((yc - s * xc - xc @ delta) ** 2).sum() + lam * (delta**2).sum())


@pytest.mark.parametrize("strength", [1e-4, 0.1, 10.0])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_reduced_rank_is_the_best_of_its_rank(rank, strength):
    """Izenman's solution from the rows by SVD, and better than what one finds by searching."""
    x = embeddings(80, 9)
    y = tuned(x, rank=5, noise=0.3)
    moments = Moments.of(x, y)
    space_map = fit_map(moments, moments, rank=rank, strengths=[strength])
    assert space_map.rank == rank
    delta = np.float64(space_map.inner) @ np.float64(space_map.outer).T

    # The fit on rows with the penalty appended, projected on its leading right directions.
    xc = x - x.mean(0)
    lam = strength * np.linalg.eigvalsh(xc.T @ xc).mean()
    rows = np.vstack([xc, np.sqrt(lam) * np.eye(9)])
    full = ridge(x, y, strength)[0] - space_map.scale * np.eye(9)
    v = np.linalg.svd(rows @ full)[2][:rank].T
    np.testing.assert_allclose(delta, full @ v @ v.T, atol=1e-8)

    best = objective(x, y, delta, strength)
    assert objective(x, y, full, strength) <= best
    rng = np.random.default_rng(0)
    u, s, vt = np.linalg.svd(full)
    truncated = (u[:, :rank] * s[:rank]) @ vt[:rank]
    assert best <= objective(x, y, truncated, strength) + 1e-9
    for _ in range(20):
        # The best coefficients for a random row space, and small steps away from the optimum.
        q = np.linalg.qr(rng.normal(size=(9, rank)))[0]
        assert best <= objective(x, y, full @ q @ q.T, strength) + 1e-9
        inner, outer = space_map.inner, space_map.outer
        near = (inner + 0.01 * rng.normal(size=inner.shape)) @ (
            outer + 0.01 * rng.normal(size=outer.shape)
        ).T
        assert best <= objective(x, y, near, strength) + 1e-9


def test_reduced_rank_found_by_descent():
    """Alternating least squares from a random start ends where the closed form is."""
    x = embeddings(60, 8)
    y = tuned(x, rank=4, noise=0.3)
    moments = Moments.of(x, y)
    strength = 0.05
    space_map = fit_map(moments, moments, rank=2, strengths=[strength])
    closed = objective(x, y, space_map.inner @ space_map.outer.T, strength)
    xc, yc = x - x.mean(0), y - y.mean(0)
    k = xc.T @ xc
    lam = strength * np.linalg.eigvalsh(k).mean()
    c = xc.T @ (yc - space_map.scale * xc)
    v = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 2)))[0]
    for _ in range(3000):
        u = np.linalg.solve(k + lam * np.eye(8), c @ v)
        v = np.linalg.qr(c.T @ u)[0]
    found = objective(x, y, np.linalg.solve(k + lam * np.eye(8), c @ v) @ v.T, strength)
    assert closed == pytest.approx(found, rel=1e-6)


def test_more_rank_explains_more_of_the_training_rows():
    x = embeddings(200, 12)
    moments = Moments.of(x, tuned(x, rank=6, noise=0.3))
    errors = [
        fit_map(moments, moments, rank=r, strengths=[0.01]).mean_squared_error(moments)
        for r in (0, 1, 2, 4, 8, None)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1.5 * errors[-1]


def test_rank_above_the_dimension_is_a_full_map():
    x = embeddings(50, 6)
    moments = Moments.of(x, tuned(x))
    one, other = (fit_map(moments, moments, rank=r) for r in (6, None))
    np.testing.assert_array_equal(matrix(one), matrix(other))


# -- strength --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [25, 2000])
@pytest.mark.parametrize("rank", [2, None])
def test_strength_has_the_least_held_out_error(n, rank):
    x, x2 = embeddings(n, 20), embeddings(300, 20, seed=1)
    y, y2 = tuned(x, noise=1), tuned(x2, noise=1)
    train, held_out = Moments.of(x, y), Moments.of(x2, y2)
    chosen = fit_map(train, held_out, rank=rank)
    assert choose_strength(train, held_out) == chosen.strength
    errors = []
    for strength in STRENGTHS:
        one = fit_map(train, held_out, rank=rank, strengths=[strength])
        errors.append(((y2 - one(x2)) ** 2).sum(1).mean())
    error = ((y2 - chosen(x2)) ** 2).sum(1).mean()
    if rank is None:
        assert chosen.strength == STRENGTHS[int(np.argmin(errors))]
        assert error == pytest.approx(min(errors), rel=1e-9)
    else:  # the full map's strength serves every rank; what its own would gain is little
        assert error == pytest.approx(errors[STRENGTHS.index(chosen.strength)], rel=1e-9)
        assert error <= 1.02 * min(errors)


@pytest.mark.parametrize("n", [25, 2000])
def test_maps_of_several_ranks_are_those_of_each(n):
    x, x2 = embeddings(n, 20), embeddings(300, 20, seed=1)
    train, held_out = (
        Moments.of(x, tuned(x, noise=1)),
        Moments.of(x2, tuned(x2, noise=1)),
    )
    ranks = (1, 4, None, 20, 7)
    for rank, together in zip(ranks, fit_maps(train, held_out, ranks=ranks), strict=True):
        alone = fit_map(train, held_out, rank=rank)
        assert together.strength == alone.strength
        np.testing.assert_allclose(matrix(together), matrix(alone), atol=1e-10)
        np.testing.assert_allclose(together.offset, alone.offset, atol=1e-10)


def test_little_data_is_shrunk_more():
    x2 = embeddings(500, 20, seed=1)
    held_out = Moments.of(x2, tuned(x2, noise=1))
    chosen = []
    for n in (25, 20000):
        x = embeddings(n, 20)
        chosen.append(fit_map(Moments.of(x, tuned(x, noise=1)), held_out).strength)
    assert chosen[0] > 10 * chosen[1]
    assert STRENGTHS[0] < chosen[0] < STRENGTHS[-1]


def test_nothing_learnt_is_a_multiple_of_the_identity():
    """Where tuning changed nothing, the map is the identity, at any rank."""
    x = embeddings(100, 10)
    moments = Moments.of(x, x)
    for rank in (4, None):
        space_map = fit_map(moments, moments, rank=rank)
        np.testing.assert_allclose(matrix(space_map), np.eye(10), atol=1e-9)
        np.testing.assert_allclose(space_map.offset, 0, atol=1e-9)


# -- moments ---------------------------------------------------------------------------------


def test_moments_add():
    x = embeddings(60, 7)
    y = tuned(x)
    whole = Moments.of(x, y)
    parts = Moments.of(x[:1], y[:1]) + Moments.of(x[1:20], y[1:20]) + Moments.of(x[20:], y[20:])
    for name in Moments.__dataclass_fields__:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-10)
    xx, xy = whole.centred()
    np.testing.assert_allclose(xx, (x - x.mean(0)).T @ (x - x.mean(0)), atol=1e-9)
    np.testing.assert_allclose(xy, (x - x.mean(0)).T @ (y - y.mean(0)), atol=1e-9)


@pytest.mark.parametrize("n", [1, 100, 1300])
def test_moments_of_single_precision_are_those_of_double(n):
    """About the means, where a distant mean costs no digits."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(n, 20)) * 0.1 ** rng.uniform(0, 2, 20) + 30).astype(np.float32)
    y = (x @ rng.normal(size=(20, 20)) / 4 - 7).astype(np.float32)
    single, double = Moments.of(x, y), Moments.of(x.astype(float), y.astype(float))
    assert single.n == double.n == n
    for name in ("xx", "xy", "x", "y", "yy"):
        np.testing.assert_allclose(getattr(single, name), getattr(double, name), rtol=1e-6)
    for one, other in zip(single.centred(), double.centred(), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-6 * max(np.abs(other).max(), 1e-3 * n))


@pytest.mark.parametrize("rank", [0, 3, None])
@pytest.mark.parametrize("half", [False, True])
def test_error_from_moments_is_the_error_on_the_rows(rank, half):
    x, x2 = embeddings(100, 12), embeddings(40, 12, seed=1)
    y, y2 = tuned(x), tuned(x2)
    space_map = fit_map(Moments.of(x, y), Moments.of(x2, y2), rank=rank)
    space_map = space_map.half() if half else space_map
    held_out = Moments.of(x2, y2)
    direct = ((y2 - space_map(x2)) ** 2).sum(1).mean()
    assert space_map.mean_squared_error(held_out) == pytest.approx(direct, rel=1e-9)
    variance = ((y2 - y2.mean(0)) ** 2).sum(1).mean()
    assert space_map.explained(held_out) == pytest.approx(1 - direct / variance, rel=1e-9)


@pytest.mark.parametrize("rank", [4, None])
def test_half_precision_costs_little(rank):
    x, x2 = embeddings(400, 24), embeddings(200, 24, seed=1)
    y, y2 = tuned(x), tuned(x2)
    held_out = Moments.of(x2, y2)
    space_map = fit_map(Moments.of(x, y), held_out, rank=rank)
    half = space_map.half()
    for array in (half.inner, half.outer, half.offset):
        assert array.dtype == np.float16
    assert (half.rank, half.strength) == (space_map.rank, space_map.strength)
    assert half.explained(held_out) == pytest.approx(space_map.explained(held_out), abs=3e-4)
    np.testing.assert_allclose(half(x2), space_map(x2), atol=0.02)


def test_identity_map():
    same = identity_map(5)
    x = embeddings(10, 5)
    assert (same.rank, same.scale) == (0, 1.0)
    np.testing.assert_array_equal(same(x), x)
    assert same.mean_squared_error(Moments.of(x, x)) == pytest.approx(0, abs=1e-9)
