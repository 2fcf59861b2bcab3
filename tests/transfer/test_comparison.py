"""The verdict: noise is not called a gain, and a real gain is called one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskscout.errors import TransferError
from taskscout.models.heads import score_of
from taskscout.transfer.comparison import (
    Comparison,
    compare_over_seeds,
    expansion,
    held_against,
    paired_interval,
    score_on_rows,
)
from taskscout.transfer.result import Transfer
from taskscout.transfer.strategies import transfer
from tests.tiny import BAD, GOOD, TOPICS, toy_task


def run(score: float, seed: int, strategy="sequential", outputs=None) -> Transfer:
    sources = ("source",) if strategy != "none" else ()
    return Transfer("t", sources, strategy, "lora", seed, {"score": score}, outputs=outputs)


def of_scores(through, alone) -> Comparison:
    seeds = range(len(through))
    return held_against(
        toy_task(n=8),
        [run(s, i) for i, s in zip(seeds, through, strict=True)],
        [run(s, i, "none") for i, s in zip(seeds, alone, strict=True)],
    )


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_noise_is_not_called_a_gain(seeds):
    """Both sides drawn from one distribution: an interval of 95% errs upwards in 1 of 40."""
    rng = np.random.default_rng(seeds)
    trials = 600
    called = [
        of_scores(*(0.7 + 0.03 * rng.standard_normal((2, seeds)))).outcome for _ in range(trials)
    ]
    for wrong in ("gain", "loss"):
        share = called.count(wrong) / trials
        assert share < 0.025 + 3 * np.sqrt(0.025 * 0.975 / trials), (wrong, share)


def test_a_plain_bootstrap_of_three_seeds_would_call_noise_a_gain():
    """Why intervals are widened: without it one in eight null comparisons is a gain."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        d = rng.standard_normal(3)
        draws = d[rng.integers(3, size=(1000, 3))].mean(1)
        wrong += np.quantile(draws, 0.025) > 0
    assert wrong / 400 > 0.08


def test_noise_of_few_test_rows_is_not_called_a_gain():
    """Models that never change over seeds: all that differs by chance are the test rows."""
    task = toy_task(n=60, seed=3)
    labels = task.labels("test")
    rng = np.random.default_rng(2)
    outcomes = []
    for _ in range(120):
        sides = []
        for strategy in ("sequential", "none"):
            right = rng.random(len(labels)) < 0.75
            outputs = np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]
            score = score_of(task, "test", outputs)["score"]
            sides.append([run(score, s, strategy, outputs) for s in range(3)])
        comparison = held_against(task, *sides)
        assert comparison.rows_resampled
        outcomes.append(comparison.outcome)
    assert outcomes.count("gain") / 120 < 0.025 + 3 * np.sqrt(0.025 * 0.975 / 120)
    assert outcomes.count("undecided") > 100


def test_a_gain_and_a_loss_are_called_so():
    up = of_scores([0.80, 0.81, 0.79], [0.70, 0.71, 0.70])
    assert up.outcome == "gain"
    assert up.verdict.startswith("source helps: +9.7 points")
    down = of_scores([0.70, 0.71, 0.70], [0.80, 0.81, 0.79])
    assert down.outcome == "loss"
    assert "hurts" in down.verdict
    wide = of_scores([0.80, 0.60, 0.75], [0.70, 0.71, 0.70])
    assert wide.outcome == "undecided"
    assert "helps" not in wide.verdict
    assert "noise" in wide.verdict


def test_one_seed_has_no_interval():
    one = of_scores([0.9], [0.5])
    assert one.interval is None
    assert one.outcome == "one seed"
    assert "between" not in one.verdict
    assert "--seeds 3" in one.verdict
    data = one.to_dict()
    assert data["interval"] is None
    assert data["with"]["sd"] is None
    with pytest.raises(TransferError, match="one seed only"):
        paired_interval(np.array([0.1]))


def test_interval_is_that_of_student_for_normal_differences():
    from scipy.stats import t

    rng = np.random.default_rng(0)
    for k in (2, 3, 6, 12):
        d = rng.standard_normal(k)
        half = t.ppf(0.975, k - 1) * d.std(ddof=1) / np.sqrt(k)
        low, high = paired_interval(d, draws=40_000)
        assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert expansion(3) == pytest.approx(2.69, abs=0.01)
    assert expansion(200) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("classes", [2, 3])
def test_fast_scores_are_the_slow_ones(classes):
    task = toy_task(n=40, words=(GOOD, BAD, TOPICS[0])[:classes])
    rng = np.random.default_rng(0)
    outputs = rng.standard_normal((40, classes)).astype(np.float32)
    fast = score_on_rows("classification", task.labels("test"), outputs, classes)
    assert fast(np.ones(40)) == pytest.approx(score_of(task, "test", outputs)["score"])
    rows = rng.integers(40, size=40)
    resampled = task.take({"train": range(40), "test": rows})
    want = score_of(resampled, "test", outputs[rows])["score"]
    assert fast(np.bincount(rows, minlength=40).astype(float)) == pytest.approx(want)


def test_fast_correlations_are_the_slow_ones():
    task = toy_task(n=40, regression=True)
    outputs = np.random.default_rng(0).standard_normal((40, 1)).astype(np.float32)
    fast = score_on_rows("regression", task.labels("test"), outputs, 1)
    assert fast(np.ones(40)) == pytest.approx(score_of(task, "test", outputs)["score"], abs=1e-6)


def test_runs_of_other_seeds_are_not_compared():
    with pytest.raises(TransferError, match="seed by seed"):
        held_against(toy_task(n=8), [run(0.5, 0), run(0.6, 1)], [run(0.5, 0), run(0.6, 2)])


def test_compare_trains_each_seed_with_and_without_and_skips_what_is_known(bench):
    target, source = toy_task("target", n=24, seed=5), toy_task("source", n=48, seed=6)
    seen = []
    first = compare_over_seeds(target, [source], bench, seeds=(0, 1), keep=lambda r: seen.append(r))
    assert [(r.strategy, r.seed) for r in seen] == [
        ("sequential", 0), ("none", 0), ("sequential", 1), ("none", 1),
    ]  # fmt: skip
    assert first.rows_resampled
    low, high = first.interval
    assert low <= first.difference <= high
    again = compare_over_seeds(
        target, [source], bench, seeds=(0, 1),
        known=lambda strategy, seed: next(
            r for r in seen if (r.strategy, r.seed) == (strategy, seed)
        ),
        keep=lambda r: pytest.fail("trained again"),
    )  # fmt: skip
    assert again.to_dict() == first.to_dict()
    with pytest.raises(TransferError, match="each once"):
        compare_over_seeds(target, [source], bench, seeds=(1, 1))


def test_a_source_is_trained_once_for_all_seeds(bench, tmp_path, monkeypatch):
    steps, real = [], torch.optim.AdamW.step

    def counted(self, *arguments, **options):
        steps.append(1)
        return real(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    target, source = toy_task("target", n=24, seed=5), toy_task("source", n=48, seed=6)

    def taken(**options) -> int:
        steps.clear()
        compare_over_seeds(target, [source], bench, **options)
        return len(steps)

    one = taken(seeds=(0,), folder=tmp_path / "one")
    two = taken(seeds=(0, 1), folder=tmp_path / "two")
    steps.clear()
    transfer(target, [], bench, strategy="none", seed=1)
    assert (tmp_path / "two" / "sources" / "source").is_dir()
    assert steps
    assert two - one == 2 * len(steps)
    memory = compare_over_seeds(target, [source], bench, seeds=(0, 1))
    found = compare_over_seeds(target, [source], bench, seeds=(0, 1), folder=tmp_path / "two")
    assert memory.scores.tolist() == found.scores.tolist()


def test_null_training_is_not_called_a_gain(bench):
    """A real null: the source's labels are shuffled, and the target's too."""
    target = toy_task("target", n=64, seed=5, shuffled=True)
    source = toy_task("source", n=64, seed=6, shuffled=True)
    comparison = compare_over_seeds(target, [source], bench, seeds=(0, 1, 2))
    assert comparison.outcome == "undecided"
