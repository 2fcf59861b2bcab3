"""Trials: which rows they read, how they race, what they do to a forecast, and what train keeps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import taskscout
from taskscout.errors import MethodError
from taskscout.methods.forecast import Forecast, Trial
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.tasks import Task, TaskCard
from taskscout.transfer import trials as trials_module
from taskscout.transfer.result import NONE, Budget, Transfer
from taskscout.transfer.sources import origins_of
from taskscout.transfer.trials import KeptRuns, TrialRun, race, runs_at_most, trials_of
from tests.small import RECIPE, SOURCES, small_calibration
from tests.tiny import toy_task

TARGET = toy_task("target", n=60, seed=21)
SHORT = replace(RECIPE, least_steps=2, epochs=1)


@pytest.fixture(scope="session")
def forecast(small_pool: Pool, small_bench: Workbench) -> Forecast:
    found = taskscout.rank(
        TARGET, small_pool, bench=small_bench, calibration=small_calibration(small_bench)
    ).forecast
    assert found is not None
    return found


# -- what trials do to a forecast ----------------------------------------------------------------


def test_who_is_ahead_agrees_with_draws_from_the_joint_distribution(forecast: Forecast):
    after = forecast.with_trials([Trial("topics", 3.0, 2, 1.5), Trial("stars", -1.0)])
    n, c = len(after.names), after.calibration
    prior = after.covariances(range(n))
    at = [after.names.index(t.source) for t in after.trials]
    # Errors of the two trials: each has its own runs and rows, and shares those of none.
    rng = np.random.default_rng(0)
    half = c.run_variance / 2
    noise = np.array([[half / 2 + half / 2 + 1.5**2, half / 2], [half / 2, half + half]])
    gain = prior[:, at] @ np.linalg.inv(prior[np.ix_(at, at)] + noise)
    left = prior - gain @ prior[at]
    draws = rng.multivariate_normal(after.means, left, 200_000)
    for one, other in (("reviews", "topics"), ("topics", "stars"), ("stars", None)):
        i = after.names.index(one)
        against = 0.0 if other is None else draws[:, after.names.index(other)]
        assert after.ahead(one, other) == pytest.approx((draws[:, i] > against).mean(), abs=0.005)
    assert after.ahead("reviews", "topics") == pytest.approx(1 - after.ahead("topics", "reviews"))


def test_trials_on_few_rows_move_a_forecast_less(forecast: Forecast):
    before = forecast.expected["topics"]
    exact, rough = (
        forecast.with_trials([Trial("topics", 9.0, 1, error)]).expected["topics"]
        for error in (0.0, 5.0)
    )
    assert before < rough < exact < 9.0


def test_near_twins_wait_for_the_others(forecast: Forecast):
    order = forecast.short_list(4)
    cards = {n: TaskCard(n, category="sentiment", domain="films") for n in order}
    cards[order[2]] = TaskCard(order[2], category="topic", domain="news")
    assert forecast.short_list(4, cards) == (order[0], order[2], order[1], order[3])
    assert forecast.short_list(2, cards) == (order[0], order[2])
    assert forecast.short_list(2) == order[:2]
    never = replace(forecast, never=frozenset({order[0]}))
    assert order[0] not in never.short_list(9)


def test_runs_are_averaged_into_evidence():
    runs = [TrialRun(NONE, 0, 0.5), TrialRun("a", 0, 0.53, 3.0, 2.0), TrialRun("b", 0, 0.5, 0.0, 1.0),
            TrialRun("a", 1, 0.55, 5.0, 1.0)]  # fmt: skip
    assert trials_of(runs) == [
        Trial("a", 4.0, 2, pytest.approx(math.sqrt(5) / 2)), Trial("b", 0.0, 1, 1.0)
    ]  # fmt: skip


# -- the race ------------------------------------------------------------------------------------


class Track:
    """Stands for training: gains are given, and every call is noted."""

    def __init__(self, gains: dict[str, float]) -> None:
        self.gains, self.calls = gains, []

    def __call__(self, target: Task, sources: Any, bench: Workbench, *, strategy: str,
                 recipe: Any, seed: int, budget: Budget) -> Transfer:  # fmt: skip
        name = sources[0].name if sources else NONE
        self.calls.append((seed, name, target, recipe))
        self.budget = budget
        score = 0.6 + self.gains.get(name, 0.0) / 100
        return Transfer(target.name, (name,), strategy, "lora", seed, {"score": score})


@pytest.fixture
def track(monkeypatch: pytest.MonkeyPatch):
    def lay(**gains: float) -> Track:
        made = Track(gains)
        monkeypatch.setattr(trials_module, "transfer", made)
        return made

    return lay


def origins(pool: Pool, bench: Workbench, *names: str) -> Any:
    return origins_of(names, pool, bench.encoder)


def test_the_better_half_goes_on_with_another_seed(
    track: Any, small_pool: Pool, small_bench: Workbench, forecast: Forecast, monkeypatch: Any
):
    monkeypatch.setattr(trials_module, "CLEAR", 1.1)  # nothing is ever clear
    laid = track(reviews=1.0, stars=2.0, topics=-6.0, matching=1.5)
    done = race(TARGET, origins(small_pool, small_bench, *SOURCES), forecast, small_bench,
                recipe=SHORT)  # fmt: skip
    by_seed = [[n for s, n, *_ in laid.calls if s == seed] for seed in (100, 101, 102)]
    assert [len(r) for r in by_seed] == [5, 3, 2]
    assert len(laid.calls) == runs_at_most(4) == 10
    assert all(r[0] == NONE for r in by_seed)
    assert set(by_seed[2]) <= set(by_seed[1]) <= set(by_seed[0])
    assert "topics" not in by_seed[1]
    assert done.seeds == (100, 101, 102)
    # What is expected afterwards is the forecast with the runs as its evidence.
    again = forecast.with_trials(trials_of(done.runs))
    np.testing.assert_allclose(done.forecast.means, again.means)
    assert done.to_dict()["after"].keys() == set(SOURCES)


def test_trials_read_training_rows_alone_and_other_cuts_each_round(
    track: Any, small_pool: Pool, small_bench: Workbench, forecast: Forecast, monkeypatch: Any
):
    monkeypatch.setattr(trials_module, "CLEAR", 1.1)
    laid = track()
    race(TARGET, origins(small_pool, small_bench, "reviews"), forecast, small_bench, recipe=SHORT)
    train = set(TARGET.inputs("train")[0])
    cuts = []
    for _, _, inner, recipe in laid.calls:
        read = {s: set(inner.inputs(s)[0]) for s in inner.splits}
        assert set(read) == {"train", "test"}
        assert read["train"] | read["test"] == train
        assert not read["train"] & read["test"]
        assert recipe.max_steps == trials_module.STEPS
        cuts.append(frozenset(read["test"]))
    assert len(set(cuts)) == 3


def test_a_race_ends_where_one_is_clearly_ahead_or_all_behind(
    track: Any, small_pool: Pool, small_bench: Workbench, forecast: Forecast
):
    laid = track(reviews=40.0)
    pair = origins(small_pool, small_bench, "reviews", "topics")
    done = race(TARGET, pair, forecast, small_bench, recipe=SHORT)
    assert "reviews is ahead" in done.ended
    assert len(laid.calls) == 3
    laid = track(reviews=-40.0, topics=-40.0)
    done = race(TARGET, pair, forecast, small_bench, recipe=SHORT)
    assert "training directly is ahead" in done.ended
    assert done.forecast.advice.source is None or done.forecast.advice.source not in (
        "reviews", "topics",
    )  # fmt: skip


def test_time_bounds_a_race(
    track: Any, small_pool: Pool, small_bench: Workbench, forecast: Forecast, monkeypatch: Any
):
    monkeypatch.setattr(trials_module, "CLEAR", 1.1)
    laid = track()
    pair = origins(small_pool, small_bench, "reviews", "topics")
    done = race(TARGET, pair, forecast, small_bench, recipe=SHORT, seconds=1e-9)
    assert [n for _, n, *_ in laid.calls] == [NONE, "reviews", "topics"]  # one round is whole
    assert laid.budget == Budget(seconds=1e-9 / 3)
    assert "time for trials was up" in done.ended


def test_a_race_that_was_stopped_goes_on(
    track: Any, small_pool: Pool, small_bench: Workbench, forecast: Forecast, tmp_path: Path
):
    pair = origins(small_pool, small_bench, "reviews", "topics")
    path = tmp_path / "trials.json"
    track(reviews=2.0, topics=1.0)
    first = race(TARGET, pair, forecast, small_bench, recipe=SHORT, kept=KeptRuns(path, "k"))
    laid = track()
    again = race(TARGET, pair, forecast, small_bench, recipe=SHORT, kept=KeptRuns(path, "k"))
    assert laid.calls == []
    assert again.runs == first.runs
    assert KeptRuns(path, "another").runs == []
    path.write_text("{")
    assert KeptRuns(path, "k").runs == []


def test_real_runs(small_pool: Pool, small_bench: Workbench, forecast: Forecast):
    lines: list[str] = []
    done = race(TARGET, origins(small_pool, small_bench, "reviews"), forecast, small_bench,
                recipe=SHORT, rounds=1, report=lines.append)  # fmt: skip
    alone, through = done.runs
    assert (alone.source, alone.gain) == (NONE, 0.0)
    assert through.gain == pytest.approx(100 * (through.score - alone.score))
    assert through.error > 0
    assert lines[0].startswith("trial none, seed 100")
    assert lines[-1].startswith("trials ended")


# -- train and advise ------------------------------------------------------------------------------


def test_train_without_sources_tries_decides_and_keeps_the_record(
    small_pool: Pool, small_bench: Workbench, tmp_path: Path
):
    lines: list[str] = []
    path = tmp_path / "c.safetensors"
    small_calibration(small_bench).save(path)
    result = taskscout.train(
        TARGET, pool=small_pool, bench=small_bench, recipe=SHORT, seeds=1, trial=2,
        calibration=path, out=tmp_path / "model", report=lines.append,
    )  # fmt: skip
    decision = result.to_dict()["decision"]
    tried = {r["source"] for r in decision["trials"]["runs"]} - {NONE}
    assert len(tried) == 2
    assert "reviews" in tried
    chosen = decision["advice"]["source"]
    assert [c.name for c in result.sources] == ([chosen] if chosen else [])
    assert chosen is None or chosen in tried
    at = next(i for i, line in enumerate(lines) if line.startswith("trying "))
    assert "short runs at most, about" in lines[at]  # said before the first run
    assert lines[at + 1].startswith("trial none, seed 100")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "## How the source was chosen" in card
    assert f"| {next(iter(tried))} | 100 |" in card
    assert json.loads((tmp_path / "model" / "result.json").read_text())["decision"] == decision
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_no_test_row_has_a_part_in_the_decision(small_pool: Pool, small_bench: Workbench):
    calibration = small_calibration(small_bench)
    test = TARGET.tables["test"]
    mixed = test.set_column(
        1, "label", pa.array(np.random.default_rng(0).permutation(test["label"]))
    )
    other = replace(TARGET, tables={**TARGET.tables, "test": mixed})
    one, two = (
        taskscout.advise(t, small_pool, bench=small_bench, trial=1, recipe=SHORT,
                         calibration=calibration)
        for t in (TARGET, other)
    )  # fmt: skip
    assert one == two


def test_trial_0_trusts_the_forecast_and_none_is_trained_where_none_is_advised(
    small_pool: Pool, small_bench: Workbench, tmp_path: Path
):
    for shift, source in ((0.0, "reviews"), (-30.0, None)):
        path = tmp_path / "c.safetensors"
        small_calibration(small_bench, shift=shift).save(path)
        result = taskscout.train(
            TARGET, pool=small_pool, bench=small_bench, recipe=SHORT, seeds=1, trial=0,
            calibration=path,
        )  # fmt: skip
        assert [c.name for c in result.sources] == ([source] if source else [])
        assert result.strategy == ("sequential" if source else "none")
        assert result.to_dict()["decision"]["trials"] is None


def test_minutes_are_shared_by_trials_and_runs(
    small_pool: Pool, small_bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from taskscout.transfer import train as training

    given: list[Any] = []
    real = training.compare_over_seeds

    def noted(*args: Any, **options: Any) -> Any:
        given.append(options["budget"])
        return real(*args, **options)

    monkeypatch.setattr(training, "compare_over_seeds", noted)
    path = tmp_path / "c.safetensors"
    small_calibration(small_bench).save(path)
    for trial in (0, 1):
        taskscout.train(TARGET, pool=small_pool, bench=small_bench, recipe=SHORT, seeds=1,
                        trial=trial, calibration=path, budget="2m")  # fmt: skip
    # Two runs share 120 s, or what trials leave of them: half.
    assert given == [Budget(seconds=60.0), Budget(seconds=30.0)]


def test_advice_needs_a_calibration(small_pool: Pool, small_bench: Workbench):
    with pytest.raises(MethodError, match="nothing was measured with this encoder"):
        taskscout.advise(TARGET, small_pool, bench=small_bench)
    advice = taskscout.advise(
        TARGET, small_pool, bench=small_bench, calibration=small_calibration(small_bench)
    )
    assert isinstance(advice, taskscout.Advice)
    assert advice.source == "reviews"
