"""Comparisons: hand-made grids whose answers are known, and methods asked as rankings ask them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from taskscout.errors import MethodError, StudyError
from taskscout.methods.gains import Gains
from taskscout.methods.method import BaseMethod, Description
from taskscout.studies.comparison import compare
from taskscout.studies.comparison_files import write_comparison
from taskscout.studies.comparison_rows import ORACLE, PRIOR, RANDOM
from taskscout.studies.metrics import DEFAULT_METRICS
from taskscout.studies.predictions import (
    Materials,
    Predicted,
    predict,
    prior_of,
    target_sizes,
    without_shared_texts,
)
from taskscout.tasks import Task
from tests.small import SOURCES, source_task
from tests.tiny import TOPICS, toy_task


def grid(n_sources=12, n_targets=16, n_seeds=3, noise=0.5, seed=0):
    """Gains without a common good source: what helps depends on the target."""
    rng = np.random.default_rng(seed)
    real = rng.normal(60, 5, (n_sources, n_targets, 1))
    scores = real + noise * rng.normal(size=(n_sources, n_targets, n_seeds))
    alone = 60 + noise * rng.normal(size=(n_targets, n_seeds))
    names = [f"s{i}" for i in range(n_sources)], [f"t{i}" for i in range(n_targets)]
    return Gains(*map(tuple, names), scores, alone, tuple(range(n_seeds)))


def guess(gains, name, error, seed=0, **cost):
    """The truth with an error of so many points."""
    rng = np.random.default_rng(seed)
    truth = gains.mean_scores.T
    return Predicted(name, truth + error * rng.normal(size=truth.shape), gains.mean_alone, **cost)


@pytest.fixture(scope="module")
def comparison():
    gains = grid()
    methods = [
        guess(gains, "good", 2.0, seed=1, seconds=0.5, bytes_per_source=2000.0),
        guess(gains, "twin", 2.0, seed=2),
        guess(gains, "noise", 1000.0, seed=3),
    ]
    return compare(gains, methods, by="spearman")


def test_what_is_known_comes_out(comparison):
    assert set(comparison.methods[:2]) == {"good", "twin"}
    assert comparison.metrics[0] == "spearman"
    assert set(comparison.metrics) == set(DEFAULT_METRICS)
    good, floor = comparison.row("good", "spearman"), comparison.row(RANDOM, "spearman")
    assert good.low < good.value < good.high
    assert (floor.value, floor.over_targets) == (0, 0)
    assert good.targets == 16
    assert good.over_seeds < good.over_targets
    assert comparison.row("good", "pick-gain").value > 3
    with pytest.raises(StudyError, match="no 'ndcg'"):
        comparison.row("good", "ndcg")


def test_which_differences_are_real(comparison):
    controls = {frozenset((d.better, d.worse)): d for d in comparison.against_controls}
    pairs = {frozenset((d.better, d.worse)): d for d in comparison.between_methods}
    # Three methods and the prior against a random order, three methods against the prior.
    assert len(controls) == 7
    assert len(pairs) == 3
    assert pairs[frozenset(("good", "noise"))].real
    assert pairs[frozenset(("good", "noise"))].better == "good"
    assert controls[frozenset(("good", RANDOM))].real
    assert not pairs[frozenset(("good", "twin"))].real
    assert not controls[frozenset(("noise", RANDOM))].real
    assert comparison.smallest_p == 2.0**-15
    for d in comparison.differences:
        assert d.p_adjusted >= d.p >= comparison.smallest_p
        assert d.low <= d.difference <= d.high
        assert d.difference >= 0  # higher is better here
        a, b = comparison.values[d.better]["spearman"], comparison.values[d.worse]["spearman"]
        assert d.difference == pytest.approx(np.nanmean(a - b))
    assert list(comparison.against("good")) != []
    for family in (comparison.against_controls, comparison.between_methods):
        assert [d.p for d in family] == sorted(d.p for d in family)


def test_a_real_difference_is_found_among_many_methods():
    """Holm over all pairs of thirty methods could not go below 465 x 2^-12 = 0.11."""
    gains = grid(n_targets=13, n_seeds=1)
    many = [guess(gains, f"noise{i}", 1000.0, seed=i) for i in range(29)]
    found = compare(gains, [guess(gains, "good", 0.5), *many], metrics=["spearman"])
    assert found.smallest_p == 2.0**-12
    good = found.against("good")
    assert good[RANDOM].real
    assert sum(good[m.method].real for m in many) > 20
    assert not any(found.against(RANDOM)[m.method].real for m in many)


def test_the_oracle_stands_where_it_is_honest(comparison):
    gains = comparison.gains
    picks = []
    for k in range(3):
        best = gains.with_seeds([i for i in range(3) if i != k]).mean_scores.argmax(0)
        gain = gains.scores[:, :, k] - gains.alone[:, k]
        picks.append(gain[best, np.arange(16)])
    row = comparison.row(ORACLE, "pick-gain")
    assert row.value == pytest.approx(np.mean(picks))
    assert row.low < row.value < row.high
    assert np.isnan(comparison.row(ORACLE, "spearman").value)
    assert 0.9 < comparison.reliability.between_seeds < comparison.reliability.of_the_mean < 1


def test_lower_is_better_for_regret():
    gains = grid(n_seeds=1)
    found = compare(gains, [guess(gains, "good", 1.0), guess(gains, "bad", 900.0)],
                    metrics=["regret@1"])  # fmt: skip
    assert found.methods[0] == "good"
    worst = found.against("bad")["good"]
    assert worst.better == "good"
    assert worst.difference < 0
    # One seed: no oracle, no spread over seeds, and nothing to study about seeds.
    assert ORACLE not in found.methods
    assert np.isnan(found.row("good", "regret@1").over_seeds)
    assert found.seed_study() == []


def test_seeds(comparison):
    seeds = comparison.seed_study()
    assert [s["seed"] for s in seeds] == [0, 1, 2]
    assert all(s["first"] in ("good", "twin") for s in seeds)
    assert all(0 < s["tau"] <= 1 for s in seeds)
    # Under one seed, the value is what that seed's truth gives.
    one = comparison.gains.with_seeds([1])
    alone = compare(one, comparison.predicted[:1], metrics=["spearman"])
    assert comparison.by_seed["good"]["spearman"][1] == pytest.approx(
        alone.row("good", "spearman").value
    )
    # Noisy truths make methods look worse and change their order.
    noisy = grid(noise=15.0, n_targets=6)
    found = compare(noisy, [guess(noisy, n, e, seed=i) for i, (n, e) in
                            enumerate((("a", 9.0), ("b", 10.0), ("c", 11.0), ("d", 12.0)))])  # fmt: skip
    assert min(s["tau"] for s in found.seed_study()) < 1


def test_pruning_takes_the_methods_own_time_off():
    gains = grid(n_seeds=1)
    gains = replace(gains, seconds=np.full(gains.points.shape, 10.0))
    found = compare(gains, [guess(gains, "exact", 0.0, seconds=12.0)], metrics=["regret@1"])
    curve = found.pruning["exact"]
    assert curve.kept == pytest.approx(np.full(20, 100.0))
    # 12 sources of 10 s each, 12 s for the method: a tenth is lost.
    assert curve.saved[0] == pytest.approx(-10)
    assert found.pruning[RANDOM].kept[-1] < 95


def test_methods_stand_together_on_the_same_targets():
    """A method that skips hard targets stood above one that serves them all."""
    gains = grid()
    gains.scores[:, 4:] -= 20 * np.arange(12)[:, None, None]  # wide gaps: regret is large there
    partial = guess(gains, "partial", 3.0)
    partial.scores[4:] = np.nan
    everywhere = guess(gains, "all", 3.0, seed=5)
    found = compare(gains, [partial, everywhere], metrics=["regret@1"])
    assert "partial" not in found.methods
    assert {r.targets for r in found.rows if r.method != ORACLE} == {16}
    (narrow,) = found.narrower
    assert narrow.gains.targets == gains.targets[:4]
    assert set(narrow.methods) == {"partial", "all", PRIOR, RANDOM}
    assert {r.targets for r in narrow.rows if r.method != ORACLE} == {4}
    # There the other method has what it reaches on these four, as if the grid had no more.
    alone = compare(gains.with_targets(gains.targets[:4]), [
        replace(everywhere, scores=everywhere.scores[:4], none=everywhere.none[:4])
    ], metrics=["regret@1"])  # fmt: skip
    assert narrow.row("all", "regret@1").value == pytest.approx(alone.row("all", "regret@1").value)
    assert narrow.against("partial")["all"].targets == 4
    # Asked for by name, a method is found wherever it stands.
    assert found.row("partial", "regret@1").targets == 4
    assert found.row("all", "regret@1").targets == 16


def test_grids_without_target_only_runs():
    gains = grid()
    gains = replace(gains, alone=np.full(gains.alone.shape, np.nan))
    found = compare(gains, [guess(gains, "good", 1.0)], metrics=["regret@1", "pick-gain"])
    assert PRIOR not in found.methods
    assert found.row("good", "regret@1").value >= 0
    assert np.isnan(found.row("good", "pick-gain").value)


def test_refusals():
    gains = grid(n_targets=3)
    one = guess(gains, "one", 1.0)
    with pytest.raises(StudyError, match="Two methods are called 'one'"):
        compare(gains, [one, one])
    with pytest.raises(StudyError, match="no metric 'accuracy'"):
        compare(gains, [one], metrics=["accuracy"])
    empty = replace(gains, scores=np.full(gains.scores.shape, np.nan))
    with pytest.raises(StudyError, match="no transfer result"):
        compare(empty, [one])


def test_tables(comparison, tmp_path):
    files = write_comparison(comparison, tmp_path / "new" / "folder")
    assert {f.name for f in files} == {
        "scores.parquet", "scores.csv", "metrics.parquet", "metrics.csv", "differences.csv",
        "study.json",
    }  # fmt: skip
    folder = tmp_path / "new" / "folder"
    scores = pq.read_table(folder / "scores.parquet").to_pylist()
    gains = comparison.gains
    # Every pair and none, for three methods and the prior.
    assert len(scores) == 4 * 16 * 13
    row = next(r for r in scores if (r["method"], r["target"], r["source"]) == ("good", "t3", "s5"))
    assert row["score"] == comparison.predicted[0].scores[3, 5]
    assert row["true_score"] == pytest.approx(gains.mean_scores[5, 3])
    assert row["gain"] == pytest.approx(gains.gain("s5", "t3"))
    metrics = pq.read_table(folder / "metrics.parquet").to_pylist()
    assert len(metrics) == len(comparison.methods) * len(DEFAULT_METRICS)
    said = json.loads((folder / "study.json").read_text())
    assert said["methods"] == list(comparison.methods)
    assert said["metrics"]["regret@3"]["better"] == "lower"
    lines = (folder / "differences.csv").read_text().splitlines()
    assert len(lines) == 11
    assert "nan" not in (folder / "metrics.csv").read_text()


def test_resampling_can_be_repeated(comparison):
    again = compare(comparison.gains, comparison.predicted, by="spearman")
    for first, second in zip(comparison.rows, again.rows, strict=True):
        assert (first.method, first.metric) == (second.method, second.metric)
        for name in ("value", "low", "high", "over_targets", "over_seeds"):
            np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=1e-9)


# -- asking methods -----------------------------------------------------------------------------


class Shelf:
    """A catalogue of toy tasks."""

    def __init__(self, tasks, shared=None):
        self._tasks, self._shared = {t.name: t for t in tasks}, shared or {}
        self.names = tuple(self._tasks)

    def task(self, name) -> Task:
        return self._tasks[name]

    def shares_texts_with(self, name):
        return self._shared.get(name, {})


@pytest.fixture(scope="module")
def shelf():
    return Shelf(
        [
            *(source_task(n) for n in SOURCES),
            toy_task("films", seed=31, n=90),
            toy_task("animals", seed=32, words=TOPICS),
        ]
    )


@pytest.fixture(scope="module")
def small_grid():
    sources, targets = ("films", "matching", "reviews", "stars", "topics"), ("animals", "films")
    rng = np.random.default_rng(0)
    scores = 60 + rng.normal(0, 3, (5, 2, 2))
    scores[0, 1] = np.nan  # a target is no source of itself
    return Gains(sources, targets, scores, np.full((2, 2), 60.0), (0, 1))


def test_methods_are_asked_as_a_ranking_asks_them(small_grid, shelf, small_pool, small_bench):
    from taskscout.ranking import rank

    materials = Materials(shelf, small_pool, sizes={"animals": 50}, default_size=0)
    asked = predict(
        small_grid, ["esm-logme", "vocabulary", "size", "rrf(esm-logme,vocabulary)"], materials,
        small_bench,
    )  # fmt: skip
    assert [p.method for p in asked.predicted] == [
        "esm-logme", "vocabulary", "size", "rrf(esm-logme,vocabulary)"
    ]  # fmt: skip
    logme = asked.predicted[0]
    target = replace(
        shelf.task("animals"), tables={"train": shelf.task("animals").tables["train"]}
    ).sample(50)
    ranking = rank(target, small_pool, "esm-logme", bench=small_bench)
    for row in ranking.sources:
        if row.name == "none":
            assert logme.none[0] == pytest.approx(row.score)
        else:
            assert logme.scores[0, small_grid.sources.index(row.name)] == pytest.approx(row.score)
    # films is in no pool and may not be tuned: no map, but its words can be counted.
    at = small_grid.sources.index("films")
    assert np.isnan(logme.scores[0, at])
    vocabulary = asked.predicted[1]
    assert np.isfinite(vocabulary.scores[0]).all()
    # The target itself is not asked about.
    assert np.isnan(vocabulary.scores[1, at])
    assert np.isfinite(np.delete(vocabulary.scores[1], at)).all()
    assert asked.predicted[2].scores[0, at] == shelf.task("films").card.rows["train"]
    assert any("esm-logme has no score for films" in n for n in asked.notes)
    assert all(p.seconds > 0 and p.bytes_per_source >= 0 for p in asked.predicted)
    found = compare(small_grid, asked.predicted, notes=asked.notes)
    assert {"esm-logme", "vocabulary", "size", PRIOR, RANDOM, ORACLE} < set(found.methods)


def test_the_target_only_rows_that_training_saw(small_grid, shelf, small_bench):
    seen = {}

    class Spy(BaseMethod):
        name, key, cost = "spy", "card", "card"

        def describe(self, source, bench):
            return Description("card", source.name, source.card.to_dict())

        def score(self, target, sources, bench):
            seen[target.name] = target
            assert target.name not in [s.source for s in sources]
            return np.arange(len(sources), dtype=float)

    materials = Materials(shelf, None, sizes={"animals": 50, "films": 0})
    predict(small_grid, [Spy()], materials, small_bench)
    assert {n: len(t) for n, t in seen.items()} == {"animals": 50, "films": 90}
    # The very rows that a grid's training takes.
    train = shelf.task("animals").sample(50).column("train", "text")
    assert seen["animals"].column("train", "text") == train


def test_learned_methods_do_not_see_the_target(small_grid, shelf, small_pool, small_bench):
    materials = Materials(shelf, small_pool)
    asked = predict(small_grid, ["source-prior"], materials, small_bench)
    ours = prior_of(small_grid)
    np.testing.assert_allclose(asked.predicted[0].scores, [
        ours.scores[0], np.where(np.arange(5) == 0, np.nan, ours.scores[1])
    ])  # fmt: skip
    spoiled = small_grid.scores.copy()
    spoiled[:, 0] += 100.0 * np.arange(5)[:, None]
    other = replace(small_grid, scores=spoiled)
    again = predict(other, ["source-prior", "taskshop(vocabulary)"], materials, small_bench)
    np.testing.assert_allclose(again.predicted[0].scores[0], asked.predicted[0].scores[0])


def test_one_method_with_several_options(small_grid, shelf, small_pool, small_bench):
    materials = Materials(shelf, small_pool)
    texts = ["esm-logme", "esm-logme(compat=true)", "esm-logme"]
    asked = predict(small_grid, texts, materials, small_bench)
    assert [p.method for p in asked.predicted] == texts[:2]
    one, other = (p.scores for p in asked.predicted)
    assert not np.allclose(one, other, equal_nan=True)
    from taskscout.methods.method import get_method

    with pytest.raises(MethodError, match="size was asked for more than once"):
        predict(small_grid, [get_method("size"), get_method("size")], materials, small_bench)


def test_names_that_differ(small_grid, shelf, small_bench):
    renamed = replace(small_grid, targets=("zoo", "films"))
    with_name = Materials(shelf, None, names={"zoo": "animals"})
    asked = predict(renamed, ["vocabulary"], with_name, small_bench)
    assert np.isfinite(asked.predicted[0].scores[0]).all()
    without = predict(renamed, ["vocabulary"], Materials(shelf, None), small_bench)
    assert np.isnan(without.predicted[0].scores[0]).all()
    assert any("no data for zoo" in n for n in without.notes)


def test_what_cannot_be_asked(small_grid, shelf, small_pool, small_bench):
    materials = Materials(shelf, small_pool)
    with pytest.raises(MethodError, match="no method 'esm-logm'"):
        predict(small_grid, ["esm-logm"], materials, small_bench)
    with pytest.raises(StudyError, match="none of the 2 targets"):
        predict(small_grid, ["vocabulary"], Materials(None, small_pool), small_bench)
    asked = predict(small_grid, ["task-embedding", "vocabulary"], materials, small_bench)
    assert [p.method for p in asked.predicted] == ["vocabulary"]
    assert any("task-embedding is not shown" in n and "--tune" in n for n in asked.notes)


def test_pool_sources_of_another_encoder_are_described_anew(shelf, small_grid, small_pool, small_bench):  # fmt: skip
    from tests.small import fresh_bench

    other = fresh_bench(small_bench, pooling="cls")
    asked = predict(small_grid, ["esm-logme", "sentence-embedding"], Materials(shelf, small_pool),
                    other)  # fmt: skip
    assert [p.method for p in asked.predicted] == ["sentence-embedding"]
    assert any("esm-logme" in n for n in asked.notes)


def test_sizes_of_targets(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "source,target,score,size,strategy\nnone,t,0.5,200,none\na,t,0.5,200,sequential\n"
        "none,u,0.5,0,none\n"
    )
    assert target_sizes(path, {"strategy": "sequential"}) == {"t": 200, "u": 0}
    path.write_text("source,target,score,size\nnone,t,0.5,200\na,t,0.5,1000\n")
    with pytest.raises(StudyError, match="with 200 and with 1000 rows.*--where size=1000"):
        target_sizes(path)
    assert target_sizes(path, {"size": "200"}) == {"t": 200}
    path.write_text("source,target,score\nnone,t,0.5\n")
    assert target_sizes(path) == {}


def test_pairs_that_share_texts(small_grid, shelf):
    sharing = Shelf([], {"animals": {"topics": 0.4, "films": 0.01}})
    sharing.names = ("animals",)
    kept, dropped = without_shared_texts(small_grid, sharing, 0.05)
    assert dropped == 1
    assert np.isnan(kept.gain("topics", "animals"))
    assert np.isfinite(kept.gain("films", "animals"))
    assert np.isfinite(small_grid.gain("topics", "animals"))
