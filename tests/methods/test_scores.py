"""Every score against scikit-learn, SciPy, a slow transcription or a closed form."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax

from taskscout.errors import DataError
from taskscout.methods import scores as s
from taskscout.methods.scores.class_separation import equal_bins
from taskscout.methods.scores.trained_head import _hold_out

Array = NDArray[np.float64]


def toy(
    n: int = 90, d: int = 12, classes: int = 3, *, apart: float = 1.0, seed: int = 0
) -> tuple[Array, NDArray[np.int64]]:
    """Correlated features whose class means lie ``apart``."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    mixing = rng.standard_normal((d, d)) * np.linspace(1.5, 0.2, d)
    means = rng.standard_normal((classes, d))
    return rng.standard_normal((n, d)) @ mixing.T + apart * means[y] + 3.0, y


def values(n: int = 60, d: int = 8, *, noise: float = 0.3, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    f = rng.standard_normal((n, d))
    return f, f @ rng.standard_normal(d) + noise * rng.standard_normal(n)


def distributions(n: int = 50, z: int = 4, seed: int = 0) -> Array:
    return np.random.default_rng(seed).dirichlet(np.full(z, 0.4), n)


# -- LEEP and NCE --------------------------------------------------------------------------------


def slow_leep(theta: Array, y: NDArray[np.int64]) -> float:
    n, z = theta.shape
    joint = {c: [sum(theta[i][k] for i in range(n) if y[i] == c) / n for k in range(z)] for c in y}
    marginal = [sum(joint[c][k] for c in joint) for k in range(z)]
    total = 0.0
    for i in range(n):
        total += math.log(sum(joint[y[i]][k] / marginal[k] * theta[i][k] for k in range(z)))
    return total / n


def slow_nce(z: NDArray[np.int64], y: NDArray[np.int64]) -> float:
    total = 0.0
    for k in set(z.tolist()):
        own = y[z == k]
        shares = [np.mean(own == c) for c in set(own.tolist())]
        total += len(own) / len(y) * sum(p * math.log(p) for p in shares)
    return total


@pytest.mark.parametrize("classes", [2, 5])
def test_leep_as_defined(classes: int) -> None:
    theta, (_, y) = distributions(), toy(50, classes=classes)
    assert s.leep(theta, y) == pytest.approx(slow_leep(theta, y), abs=1e-12)


def test_leep_of_predictions_that_say_nothing_is_minus_the_entropy() -> None:
    y = np.array([0] * 3 + [1] * 7)
    theta = np.tile([0.2, 0.5, 0.3], (10, 1))
    assert s.leep(theta, y) == pytest.approx(0.3 * math.log(0.3) + 0.7 * math.log(0.7))


def test_leep_of_a_class_never_predicted() -> None:
    theta = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert s.leep(theta, np.array([4, 9, 9])) == 0.0


def test_hard_leep_is_nce() -> None:
    z, (_, y) = distributions().argmax(1), toy(50)
    assert s.leep(np.eye(4)[z], y) == pytest.approx(s.nce(z, y), abs=1e-12)
    assert s.nce(z, y) == pytest.approx(slow_nce(z, y), abs=1e-12)


def test_nce_against_scikit_learn() -> None:
    from scipy.stats import entropy
    from sklearn.metrics import mutual_info_score

    z, (_, y) = distributions(seed=3).argmax(1), toy(50, classes=4)
    # -H(Y|Z) = I(Y; Z) - H(Y)
    expected = mutual_info_score(y, z) - entropy(np.bincount(y))
    assert s.nce(z, y) == pytest.approx(expected, abs=1e-12)


def test_leep_takes_distributions_only() -> None:
    with pytest.raises(DataError, match="softmax"):
        s.leep(np.ones((4, 3)), np.array([0, 1, 0, 1]))


# -- NLEEP ---------------------------------------------------------------------------------------


def test_nleep_as_defined() -> None:
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    f, y = toy(150, 10, apart=2.0)
    reduced = PCA(0.8).fit_transform(f)
    reduced /= math.sqrt(np.mean(np.var(reduced, axis=0)))
    mixture = GaussianMixture(15, random_state=4).fit(reduced)
    expected = slow_leep(mixture.predict_proba(reduced), y)
    assert s.nleep(f, y, seed=4) == pytest.approx(expected, abs=1e-9)


def test_nleep_takes_fewer_components_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.mixture

    asked: list[int] = []

    class Recorded(sklearn.mixture.GaussianMixture):
        def __init__(self, n_components: int = 1, **options: object) -> None:
            asked.append(n_components)
            super().__init__(n_components, **options)

    monkeypatch.setattr(sklearn.mixture, "GaussianMixture", Recorded)
    for n in (150, 80, 9):
        s.nleep(*toy(n, 4))
    assert asked == [15, 8, 3]


def test_nleep_does_not_depend_on_scale_and_place() -> None:
    f, y = toy(120, 6)
    assert s.nleep(f * 1e-3 - 7.0, y) == pytest.approx(s.nleep(f, y), abs=1e-9)
    assert math.isnan(s.nleep(np.ones((6, 2)), np.array([0, 1] * 3)))


# -- H-score -------------------------------------------------------------------------------------


def class_means(f: Array, y: NDArray[np.int64]) -> Array:
    return np.array([f[y == c].mean(0) for c in y])


@pytest.mark.parametrize(("n", "d"), [(90, 12), (20, 40), (400, 5)])
def test_h_score_against_scikit_learns_ledoit_wolf(n: int, d: int) -> None:
    from sklearn.covariance import LedoitWolf

    f, y = toy(n, d)
    fitted = LedoitWolf().fit(f)
    between = np.cov(class_means(f, y), rowvar=False)
    expected = np.trace(np.linalg.pinv(fitted.covariance_) @ ((1 - fitted.shrinkage_) * between))
    assert 0 < fitted.shrinkage_ < 1
    assert s.h_score(f, y) == pytest.approx(expected, rel=1e-10)


def test_unregularised_h_score_as_released() -> None:
    f, y = toy()
    covariance, between = np.cov(f, rowvar=False), np.cov(class_means(f, y), rowvar=False)
    expected = np.trace(np.linalg.pinv(covariance) @ between)
    assert s.h_score(f, y, shrinkage=None) == pytest.approx(expected, rel=1e-10)


def test_unregularised_h_score_says_nothing_below_d_rows() -> None:
    f, y = toy(20, 40, classes=3)
    shuffled = np.random.default_rng(1).permutation(y)
    for labels in (y, shuffled):
        assert s.h_score(f, labels, shrinkage=None) == pytest.approx(2.0, abs=1e-6)
    assert s.h_score(f, y) > s.h_score(f, shuffled)


def test_h_score_of_labels_as_features_is_classes_less_one() -> None:
    y = np.arange(60) % 4
    assert s.h_score(np.eye(4)[y], y, shrinkage=None) == pytest.approx(3.0)


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize(("n", "d"), [(90, 12), (20, 40)])
def test_h_scores_of_maps_are_those_of_mapped_features(n: int, d: int, rank: int) -> None:
    f, y = toy(n, d)
    rng = np.random.default_rng(5)
    scale = np.array([1.0, 0.4, -2.0, 0.0])
    inner, outer = rng.standard_normal((2, 4, d, rank))
    inner[1] *= 5
    if rank == 0:
        scale[3] = 3.0
    found = s.h_scores_of_maps(f, y, scale, inner, outer)
    for k in range(4):
        mapped = scale[k] * f + (f @ inner[k]) @ outer[k].T + 5.0
        assert found[k] == pytest.approx(s.h_score(mapped, y), rel=1e-8)


def test_h_score_of_features_that_do_not_vary() -> None:
    y = np.arange(8) % 2
    assert s.h_score(np.ones((8, 3)), y) == 0.0
    zero = np.zeros((1, 3, 0))
    assert s.h_scores_of_maps(np.ones((8, 3)), y, np.ones(1), zero, zero) == [0.0]


# -- TransRate -----------------------------------------------------------------------------------


def slow_rate(z: Array, eps: float) -> float:
    n, d = z.shape
    return 0.5 * np.linalg.slogdet(np.eye(d) + z.T @ z / (n * eps))[1]


@pytest.mark.parametrize(("n", "d"), [(90, 12), (20, 40)])
@pytest.mark.parametrize("eps", [1e-4, 0.1])
def test_transrate_as_listed(n: int, d: int, eps: float) -> None:
    f, y = toy(n, d)
    z = f - f.mean(0)
    expected = slow_rate(z, eps) - np.mean([slow_rate(z[y == c], eps) for c in range(3)])
    assert s.transrate(f, y, eps=eps) == pytest.approx(expected, rel=1e-9)


def test_transrate_with_unit_norm_does_not_depend_on_scale() -> None:
    f, y = toy()
    z = (f - f.mean(0)) / np.sqrt(((f - f.mean(0)) ** 2).sum(1).mean())
    assert s.transrate(f * 100, y, unit_norm=True) == pytest.approx(s.transrate(z, y), rel=1e-9)


def test_transrate_in_closed_form() -> None:
    # One dimension, two classes at +1 and -1: R(F) = R(F_c), so nothing is gained.
    f, y = np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.array([0, 0, 1, 1])
    assert s.transrate(f, y) == pytest.approx(0.0, abs=1e-9)
    # Two dimensions, each class along one of them.
    g = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    expected = math.log(1 + 0.5 / 1e-4) - 0.5 * math.log(1 + 1 / 1e-4)
    assert s.transrate(g, y) == pytest.approx(expected, rel=1e-9)


def test_transrate_of_values_cuts_them_into_equal_counts() -> None:
    f, y = values()
    classes = np.argsort(np.argsort(y)) // 6
    assert s.transrate(f, y) == pytest.approx(s.transrate(f, classes), rel=1e-12)
    assert np.bincount(equal_bins(y, 4)).tolist() == [15] * 4
    assert equal_bins(np.array([1.0, 1, 1, 1, 5]), 4).tolist() == [0, 0, 0, 0, 3]


# -- GBC -----------------------------------------------------------------------------------------


def slow_gbc(f: Array, y: NDArray[np.int64], *, spherical: bool) -> float:
    """Bhattacharyya distances of Gaussians by full covariance matrices."""
    floor = 1e-4 * np.mean(np.var(f, axis=0))
    gaussians = []
    for c in np.unique(y):
        variance = np.maximum(np.var(f[y == c], axis=0), floor)
        if spherical:
            variance = np.full_like(variance, variance.mean())
        gaussians.append((f[y == c].mean(0), np.diag(variance)))
    total = 0.0
    for i, (m, a) in enumerate(gaussians):
        for j, (k, b) in enumerate(gaussians):
            if i != j:
                both = (a + b) / 2
                distance = (m - k) @ np.linalg.inv(both) @ (m - k) / 8
                determinants = np.linalg.det(a) * np.linalg.det(b)
                distance += 0.5 * math.log(np.linalg.det(both) / math.sqrt(determinants))
                total -= math.exp(-distance)
    return total


@pytest.mark.parametrize("covariance", ["spherical", "diagonal"])
def test_gbc_as_defined(covariance: str) -> None:
    f, y = toy(classes=4)
    expected = slow_gbc(f, y, spherical=covariance == "spherical")
    assert s.gbc(f, y, covariance=covariance) == pytest.approx(expected, rel=1e-9)  # type: ignore[arg-type]


def test_gbc_after_pca() -> None:
    from sklearn.decomposition import PCA

    f, y = toy(classes=3)
    reduced = PCA(4).fit_transform(f)
    assert s.gbc(f, y, components=4) == pytest.approx(slow_gbc(reduced, y, spherical=True))


def test_gbc_is_the_overlap_of_densities() -> None:
    from scipy.integrate import quad
    from scipy.stats import norm

    a, b = norm(0.0, 1.0), norm(2.0, 0.5)
    overlap = quad(lambda x: math.sqrt(a.pdf(x) * b.pdf(x)), -10, 10)[0]
    # Samples with exactly these moments.
    f = np.array([-1.0, 1.0, 1.5, 2.5])[:, None]
    assert s.gbc(f, np.array([0, 0, 1, 1])) == pytest.approx(-2 * overlap, rel=1e-6)


def test_gbc_of_classes_apart_and_alike() -> None:
    f, y = toy(60, 4, classes=2, apart=0.0)
    assert s.gbc(np.vstack([f, f]), np.repeat([0, 1], 60)) == pytest.approx(-2.0)
    assert s.gbc(f + 100.0 * y[:, None], y) > -1e-6
    assert math.isnan(s.gbc(np.ones((4, 2)), np.array([0, 1, 0, 1])))


# -- PARC ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("standardise", [True, False])
def test_parc_as_released(classes: int, standardise: bool) -> None:
    from scipy.stats import spearmanr
    from sklearn.preprocessing import StandardScaler

    f, y = toy(classes=classes)
    g = StandardScaler().fit_transform(f) if standardise else f
    at = np.triu_indices(len(y), 1)
    pairs = (1 - np.corrcoef(g))[at], (1 - np.corrcoef(np.eye(classes)[y]))[at]
    expected = spearmanr(*(np.round(p, 12) for p in pairs))[0]
    assert s.parc(f, y, standardise=standardise) == pytest.approx(expected, abs=1e-9)


def test_parc_draws_rows_by_its_seed() -> None:
    f, y = toy(90)
    chosen = np.sort(np.random.default_rng(3).choice(90, 40, replace=False))
    assert s.parc(f, y, rows=40, seed=3) == s.parc(f[chosen], y[chosen])
    assert s.parc(f, y, rows=40, seed=3) != s.parc(f, y, rows=40, seed=4)


def test_parc_of_features_that_do_not_vary() -> None:
    assert math.isnan(s.parc(np.ones((6, 3)), np.array([0, 1] * 3)))


# -- kNN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("classes", "k"), [(2, 3), (4, 1), (2, 7)])
def test_knn_against_scikit_learn(classes: int, k: int, metric: str) -> None:
    from sklearn.metrics import f1_score
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    f, y = toy(60, classes=classes)
    model = KNeighborsClassifier(k, metric=metric)
    predicted = cross_val_predict(model, f, y, cv=LeaveOneOut())
    expected = f1_score(y, predicted, average="micro")
    assert s.knn(f, y, k=k, metric=metric) == pytest.approx(expected)  # type: ignore[arg-type]


def test_knn_of_values_against_scikit_learn() -> None:
    from scipy.stats import pearsonr
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.neighbors import KNeighborsRegressor

    f, y = values()
    predicted = cross_val_predict(KNeighborsRegressor(3), f, y, cv=LeaveOneOut())
    assert s.knn(f, y) == pytest.approx(pearsonr(predicted, y)[0])


@pytest.mark.parametrize("k", [2, 3, 6])
def test_knn_breaks_ties_by_the_nearest(k: int) -> None:
    f, y = toy(60, classes=6)
    right = 0
    for i in range(60):
        near = sorted((float(np.sum((f[i] - f[j]) ** 2)), j) for j in range(60) if j != i)[:k]
        found = [int(y[j]) for _, j in near]
        most = max(found.count(c) for c in found)
        right += next(c for c in found if found.count(c) == most) == y[i]
    assert s.knn(f, y, k=k) == pytest.approx(right / 60)


def test_knn_with_few_rows_and_equal_predictions() -> None:
    f, y = toy(4, 2, classes=2)
    assert s.knn(f, y, k=50) == s.knn(f, y, k=3)
    assert math.isnan(s.knn(np.arange(4.0)[:, None], np.ones(4)))


# -- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_probe_against_scikit_learn(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    f, y = toy(100, classes=classes)
    right = 0
    for train, test in StratifiedKFold(5, shuffle=True, random_state=2).split(f, y):
        scaler = StandardScaler().fit(f[train])
        model = LogisticRegression(C=0.5, max_iter=1000).fit(scaler.transform(f[train]), y[train])
        right += int((model.predict(scaler.transform(f[test])) == y[test]).sum())
    assert s.linear_probe(f, y, strength=2.0, seed=2) == pytest.approx(right / 100)


def test_linear_probe_of_values_against_scikit_learn() -> None:
    from scipy.stats import pearsonr, spearmanr
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold
    from sklearn.preprocessing import StandardScaler

    f, y = values()
    predicted = np.empty(len(y))
    for train, test in KFold(5, shuffle=True, random_state=0).split(f):
        scaler = StandardScaler().fit(f[train])
        model = RidgeCV(10.0 ** np.arange(0, 6.1, 0.5)).fit(scaler.transform(f[train]), y[train])
        predicted[test] = model.predict(scaler.transform(f[test]))
    expected = (pearsonr(predicted, y)[0] + spearmanr(predicted, y)[0]) / 2
    assert s.linear_probe(f, y) == pytest.approx(expected)


def test_linear_probe_where_a_fold_could_hold_one_class() -> None:
    f = np.arange(6.0)[:, None]
    assert math.isnan(s.linear_probe(f, np.array([0, 0, 0, 0, 0, 1])))
    assert not math.isnan(s.linear_probe(f, np.array([0, 0, 0, 1, 1, 2])))
    assert math.isnan(s.linear_probe(f[:2], np.array([0, 1])))
    assert math.isnan(s.linear_probe(f[:1], np.array([0.5])))


@pytest.mark.parametrize("regression", [False, True])
def test_frozen_transfer_is_the_released_recipe(regression: bool) -> None:
    import torch
    from scipy.stats import pearsonr, spearmanr
    from transformers import get_linear_schedule_with_warmup

    f, y = values(100) if regression else toy(100, classes=3)
    train, held = _hold_out(y, 0.2, regression=regression, seed=1)
    generator = torch.Generator().manual_seed(1)
    head = torch.nn.Linear(f.shape[1], 1 if regression else 3)
    with torch.no_grad():
        head.weight.copy_(torch.empty_like(head.weight).normal_(0, 0.02, generator=generator))
        head.bias.zero_()
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, 2 * math.ceil(80 / 32))
    x = torch.tensor(f, dtype=torch.float32)
    scaled = (y - y[train].mean()) / y[train].std() if regression else y
    wanted = torch.tensor(scaled, dtype=torch.float32 if regression else torch.int64)
    loss_of = torch.nn.MSELoss() if regression else torch.nn.CrossEntropyLoss()
    for _ in range(2):
        order = torch.randperm(80, generator=generator)
        for start in range(0, 80, 32):
            rows = torch.from_numpy(train)[order[start : start + 32]]
            mask = torch.rand(len(rows), f.shape[1], generator=generator) >= 0.1
            out = head(x[rows] * mask / 0.9)
            loss = loss_of(out.squeeze(1) if regression else out, wanted[rows])
            head.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    out = head(x[torch.from_numpy(held)]).detach().numpy()
    if regression:
        expected = (pearsonr(out[:, 0], y[held])[0] + spearmanr(out[:, 0], y[held])[0]) / 2
    else:
        expected = np.mean(out.argmax(1) == y[held])
    found = s.frozen_transfer(f, y, epochs=2, learning_rate=0.01, seed=1)
    assert found == pytest.approx(expected, abs=1e-5)


def test_frozen_transfer_learns_at_a_rate_that_lets_it() -> None:
    f, y = toy(200, 6, classes=4, apart=4.0)
    f = (f - f.mean(0)) / f.std()
    slow, fast = (s.frozen_transfer(f, y, learning_rate=r, epochs=20) for r in (2e-5, 0.1))
    assert fast > 0.9 > slow


def test_held_out_rows_are_spread_over_the_classes() -> None:
    y = np.repeat([5, 7, 9], [60, 30, 10])
    train, held = _hold_out(y, 0.2, regression=False, seed=0)
    assert np.unique(y[held], return_counts=True)[1].tolist() == [12, 6, 2]
    assert sorted([*train, *held]) == list(range(100))
    renamed = _hold_out(
        np.array([3, 1, 2])[np.searchsorted([5, 7, 9], y)], 0.2, regression=False, seed=0
    )
    assert renamed[1].tolist() == held.tolist()


# -- all of them ---------------------------------------------------------------------------------

Score = Callable[[Array, NDArray[np.int64]], float]
#: Scores that no chance enters.
CERTAIN: dict[str, Score] = {
    "leep": lambda f, y: s.leep(softmax(f, axis=1), y),
    "nce": lambda f, y: s.nce(f.argmax(1), y),
    "h-score": s.h_score,
    "h-score, plain": lambda f, y: s.h_score(f, y, shrinkage=None),
    "transrate": s.transrate,
    "gbc": s.gbc,
    "parc": s.parc,
    "knn": s.knn,
}
#: Those in which a seed decides something.
SEEDED: dict[str, Score] = {
    "nleep": s.nleep,
    "linear-probe": s.linear_probe,
    "frozen-transfer": s.frozen_transfer,
    "parc, drawn": lambda f, y: s.parc(f, y, rows=20),
}
ALL = {**CERTAIN, **SEEDED}


@pytest.mark.parametrize("name", CERTAIN)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 4))
def test_order_of_rows_plays_no_part(name: str, seed: int, classes: int) -> None:
    f, y = toy(24, 5, classes, seed=seed)
    order = np.random.default_rng(seed).permutation(24)
    score = CERTAIN[name]
    assert score(f[order], y[order]) == pytest.approx(score(f, y), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", [n for n in ALL if n != "frozen-transfer"])
@given(seed=st.integers(0, 10_000))
def test_names_of_classes_play_no_part(name: str, seed: int) -> None:
    f, y = toy(30, 4, 3, seed=seed)
    other = np.array([40, 7, 12])[y]
    assert ALL[name](f, other) == pytest.approx(ALL[name](f, y), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_false_and_true_are_classes(name: str) -> None:
    f, y = toy(40, 4, 2)
    assert ALL[name](f, y == 1) == ALL[name](f, y)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALL)
def test_global_random_state_is_neither_read_nor_set(name: str) -> None:
    import torch

    f, y = toy(60)
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        )
        found.append(ALL[name](f, y))
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        assert before == after
    assert found[0] == found[1]


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("leep", "nce", "frozen-transfer")])
def test_labels_that_fit_score_better_than_shuffled_ones(name: str) -> None:
    f, y = toy(120, 8, 3, apart=3.0)
    shuffled = np.random.default_rng(0).permutation(y)
    assert ALL[name](f, y) > ALL[name](f, shuffled)


@pytest.mark.parametrize("name", ALL)
def test_one_class_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match="All labels are the same"):
        ALL[name](toy(12, 3)[0], np.ones(12, np.int64))


@pytest.mark.parametrize("name", ["leep", "nce", "nleep", "h-score", "gbc", "parc"])
def test_values_are_refused_where_only_classes_are_defined(name: str) -> None:
    f, y = values(12, 3)
    with pytest.raises(DataError, match="classes only"):
        ALL[name](f, y)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["transrate", "knn", "linear-probe", "frozen-transfer"])
def test_missing_values_are_refused(name: str) -> None:
    f, y = values(12, 3)
    y[4] = np.nan
    with pytest.raises(DataError, match="not finite"):
        ALL[name](f, y)  # type: ignore[arg-type]


def test_shapes_and_finite_features_are_checked() -> None:
    f, y = toy(12, 3)
    with pytest.raises(DataError, match=r"\(11, 3\)"):
        s.h_score(f[1:], y)
    with pytest.raises(DataError, match=r"shape \(12,\)"):
        s.knn(y.astype(float), y)
    with pytest.raises(DataError, match="Predictions"):
        s.nce(y[1:], y)
    f[7, 1] = np.inf
    with pytest.raises(DataError, match="Row 7"):
        s.gbc(f, y)
