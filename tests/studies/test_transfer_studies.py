"""The two studies of real transfer: mixtures of sources, and pruning by divergence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from taskscout.engines import Here, LocalProcesses
from taskscout.errors import StudyError
from taskscout.models.cache import NoCache
from taskscout.models.recipe import Recipe
from taskscout.models.workbench import Workbench
from taskscout.studies import multitask, zero_shot
from taskscout.studies.multitask import Mixture, MultitaskStudy, Row, group_of, mixtures
from taskscout.studies.zero_shot import ZeroShotStudy
from tests.tiny import BAD, FILLER, GOOD, TOPICS, tiny_encoder, toy_task

SHORT = Recipe(tuning="lora", epochs=1, least_steps=2, examples=32, batch_size=16)
TASKS = {
    "reviews": toy_task("reviews", n=32, seed=1),
    "topics": toy_task("topics", n=32, seed=2, words=TOPICS),
    "matching": toy_task("matching", n=32, seed=3, pairs=True),
    "stars": toy_task("stars", n=32, seed=4, regression=True),
}
TARGETS = {"aim": toy_task("aim", n=16, seed=5), "goal": toy_task("goal", n=16, seed=6)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Workbench:
    encoder = tiny_encoder(tmp_path_factory.mktemp("tiny"))
    return Workbench(encoder, cache=NoCache(), recipe=SHORT)


# -- mixtures ------------------------------------------------------------------------------------


def test_mixtures_of_the_study():
    order = {"m": {"aim": ["stars", "reviews", "topics"], "goal": ["topics", "matching"]}}
    planned = mixtures(TASKS, list(TARGETS), order, top=2, draws=3)
    by_type: dict[str, list[Mixture]] = {}
    for mixture in planned:
        by_type.setdefault(mixture.type, []).append(mixture)
    assert [m.sources for m in by_type["none"]] == [()]
    assert [m.sources for m in by_type["all"]] == [("matching", "reviews", "stars", "topics")]
    assert {m.name: m.sources for m in by_type["group"]} == {
        "classification, one text": ("reviews", "topics"),
        "classification, pairs": ("matching",),
        "regression, one text": ("stars",),
    }
    assert [(m.sources, m.targets) for m in by_type["related"]] == [
        (("reviews", "stars"), ("aim",)), (("matching", "topics"), ("goal",)),
    ]  # fmt: skip
    assert len(by_type["random"]) == 3
    assert all(len(set(m.sources)) == 2 for m in by_type["random"])
    assert planned == mixtures(TASKS, list(TARGETS), order, top=2, draws=3)
    with pytest.raises(StudyError, match="smaller --top"):
        mixtures(TASKS, list(TARGETS), order, top=5, draws=1)


def test_group_is_kind_and_form():
    assert group_of(TASKS["matching"]) == "classification, pairs"
    assert group_of(TASKS["stars"]) == "regression, one text"


def test_study_trains_each_mixture_once_and_goes_on_where_it_stopped(
    bench, tmp_path: Path, monkeypatch
):
    trained = []
    real = multitask.tune_together

    def spy(tasks, *arguments, **options):
        trained.append(tuple(t.name for t in tasks))
        return real(tasks, *arguments, **options)

    monkeypatch.setattr(multitask, "tune_together", spy)
    targets = tuple(TARGETS)
    planned = [
        Mixture("none", "none", (), targets),
        Mixture("all", "all", ("reviews", "topics"), targets),
        Mixture("random", "draw 0", ("reviews", "topics"), targets),
        Mixture("random", "draw 1", ("stars", "topics"), targets),
    ]
    settings = {"recipe": SHORT, "target_recipe": SHORT, "seeds": (0, 1), "folder": tmp_path}
    study = multitask.run_study(TASKS, TARGETS, bench, planned, **settings)
    assert trained == [("reviews", "topics"), ("stars", "topics")]
    assert len(study.rows) == 4 * 2 * 2
    same = [[r.score for r in study.rows if r.name == n] for n in ("all", "draw 0")]
    assert same[0] == same[1]
    costs = {r.name: r.examples for r in study.rows}
    assert costs == {"none": 0, "all": 64, "draw 0": 64, "draw 1": 64}
    assert all(r.seconds > 0 for r in study.rows if r.sources)

    # Stopped in the middle of a line: all whole rows are kept, the rest is run again.
    log = tmp_path / "rows.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:9]) + lines[9][:20])
    trained.clear()
    again = multitask.run_study(TASKS, TARGETS, bench, planned, **settings)
    assert outcome(again) == outcome(study)
    assert len(trained) <= 2
    trained.clear()
    multitask.run_study(TASKS, TARGETS, bench, planned, **settings)
    assert trained == []
    with pytest.raises(StudyError, match="other tasks or settings"):
        multitask.run_study(
            TASKS, TARGETS, bench, planned, **{**settings, "recipe": replace(SHORT, rank=2)}
        )


@pytest.mark.parametrize("engine", [Here(), LocalProcesses(2)], ids=["here", "processes"])
def test_mixtures_on_an_engine_come_to_the_same(bench, tmp_path: Path, engine):
    targets = tuple(TARGETS)
    planned = [
        Mixture("none", "none", (), targets),
        Mixture("all", "all", ("reviews", "stars", "topics"), targets),
        Mixture("related", "m, top 1", ("matching",), ("aim",)),
        Mixture("group", "pairs", ("matching",), targets),
    ]
    settings = {"recipe": SHORT, "target_recipe": SHORT, "seeds": (0, 1)}
    alone = multitask.run_study(TASKS, TARGETS, bench, planned, **settings)
    settings |= {"folder": tmp_path, "engine": engine}
    study = multitask.run_study(TASKS, TARGETS, bench, planned, **settings)
    assert [r[:-1] for r in outcome(study)] == [r[:-1] for r in outcome(alone)]
    scores = [[r.score for r in s.rows] for s in (study, alone)]
    np.testing.assert_allclose(*scores, atol=1e-6)
    # The related ones are among those of the group.
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 12
    settings["engine"] = RefusesJobs()
    assert multitask.run_study(TASKS, TARGETS, bench, planned, **settings).rows == study.rows


class RefusesJobs(Here):
    """Has nothing to do where everything is done."""

    def run(self, function, jobs, files=None):
        assert not list(jobs)
        return iter(())


def outcome(study: MultitaskStudy) -> list[tuple]:
    return [(r.type, r.name, r.sources, r.target, r.seed, r.score) for r in study.rows]


def test_a_mixture_whose_sources_changed_is_run_again(bench, tmp_path: Path):
    settings = {"recipe": SHORT, "target_recipe": SHORT, "seeds": (0,), "folder": tmp_path}
    found = [
        multitask.run_study(
            TASKS, TARGETS, bench, [Mixture("related", "m, top 1", (name,), ("aim",))], **settings
        )
        for name in ("topics", "stars", "topics")
    ]
    assert [s.rows[0].sources for s in found] == [("topics",), ("stars",), ("topics",)]
    assert found[0].rows == found[2].rows
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


def test_a_target_is_unseen(bench):
    with pytest.raises(StudyError, match="both a source and a target"):
        multitask.run_study(
            TASKS, {"reviews": TASKS["reviews"]}, bench, [], recipe=SHORT, target_recipe=SHORT,
            seeds=(0,),
        )  # fmt: skip


def rows_of(type_: str, name: str, scores: dict[tuple[str, int], float], **cost) -> list[Row]:
    given = {"examples": 0, "seconds": 0.0, "target_seconds": 1.0, **cost}
    sources = () if type_ == "none" else ("a", "b")
    return [Row(type_, name, sources, t, s, score, **given) for (t, s), score in scores.items()]


def test_summary_counts_gains_per_seed_and_spread_per_target():
    keys = [(t, s) for t in ("x", "y") for s in (0, 1)]
    study = MultitaskStudy(
        rows_of("none", "none", dict(zip(keys, [0.5, 0.6, 0.2, 0.2], strict=True)))
        + rows_of("all", "all", dict(zip(keys, [0.7, 0.6, 0.1, 0.3], strict=True)),
                  examples=100, seconds=9.0)
    )  # fmt: skip
    none, every = study.summary()
    assert none["gain"] == 0
    assert every["gain"] == pytest.approx(((0.2 + 0.0) / 2 + (-0.1 + 0.1) / 2) / 2)
    assert every["score"] == pytest.approx((0.65 + 0.2) / 2)
    want = np.mean([np.std([0.7, 0.6], ddof=1), np.std([0.1, 0.3], ddof=1)])
    assert every["sd"] == pytest.approx(want)
    assert (every["examples"], every["seconds"], every["target_seconds"]) == (100, 9, 1)
    table = study.markdown()
    assert "| all | 2 | 2 | 42.5 |" in table
    assert "| x | 55.0 | 65.0 |" in table


# -- zero-shot -----------------------------------------------------------------------------------


def domain(name: str, filler: tuple[str, ...], seed: int):
    """Sentiment in one domain: its class words are those of all, its other words its own."""
    task = toy_task(name, n=48, seed=seed, words=(BAD + filler, GOOD + filler))
    return replace(task, label_names=("negative", "positive"), card=None)


DOMAINS = {
    "animals": domain("animals", TOPICS[0], 1),
    "vehicles": domain("vehicles", TOPICS[1], 2),
    "plain": domain("plain", FILLER[:3], 3),
    "plain two": domain("plain two", FILLER[:3], 4),
}


def test_zero_shot_study(bench, tmp_path: Path):
    said = []
    settings = {"recipe": SHORT, "folder": tmp_path, "report": said.append, "controls": 4}
    methods = ["terms-jensen-shannon", "embeddings-mmd"]
    study = zero_shot.run_study(DOMAINS, bench, methods, **settings)
    n = len(DOMAINS)
    assert study.domains == tuple(sorted(DOMAINS))
    assert np.isnan(np.diag(study.scores)).all()
    assert np.isfinite(study.scores[~np.eye(n, dtype=bool)]).all()
    assert (study.seconds[~np.eye(n, dtype=bool)] > 0).all()
    # The two domains of one vocabulary are the nearest to each other.
    order = study.predicted["terms-jensen-shannon"]
    at = {name: i for i, name in enumerate(study.domains)}
    row = np.where(np.isnan(order), -np.inf, order)[at["plain"]]
    assert row.argmax() == at["plain two"]
    summary = study.summary(steps=4)
    assert {x["method"] for x in summary} == {*methods, "random order, mean of 4"}
    before = len([line for line in said if ">" in line])
    assert before == n * (n - 1)
    again = zero_shot.run_study(DOMAINS, bench, methods, **settings)
    assert len([line for line in said if ">" in line]) == before  # no pair was run again
    np.testing.assert_array_equal(again.scores, study.scores)
    assert "random order" in study.markdown(steps=4)
    assert study.to_dict(steps=4)["scores"][0][0] is None


def test_domains_on_processes_come_to_the_same(bench, tmp_path: Path):
    settings = {"recipe": SHORT, "controls": 0}
    alone = zero_shot.run_study(DOMAINS, bench, [], **settings)
    settings |= {"folder": tmp_path, "engine": LocalProcesses(2)}
    study = zero_shot.run_study(DOMAINS, bench, [], **settings)
    np.testing.assert_allclose(study.scores, alone.scores, atol=1e-6)
    # One pair was lost: it alone is run again.
    log = tmp_path / "rows.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]))
    said: list[str] = []
    again = zero_shot.run_study(
        DOMAINS, bench, [], **{**settings, "engine": Here(), "report": said.append}
    )
    assert len(said) == 1
    np.testing.assert_allclose(again.scores, study.scores, atol=1e-6)


def test_pairs_that_share_texts_are_left_out(bench):
    study = zero_shot.run_study(
        DOMAINS, bench, [], recipe=SHORT, controls=0,
        overlap=lambda a, b: 0.5 if {a, b} == {"plain", "plain two"} else 0.0,
    )  # fmt: skip
    at = {name: i for i, name in enumerate(study.domains)}
    assert np.isnan(study.scores[at["plain"], at["plain two"]])
    assert np.isfinite(study.scores[at["plain"], at["animals"]])


def made_up(order: np.ndarray, cost: float = 0.0) -> ZeroShotStudy:
    """Three domains; tuning takes 10 s each, scoring a pair 1 s."""
    nan = np.nan
    scores = np.array([[nan, 0.9, 0.5], [0.8, nan, 0.6], [0.7, 0.9, nan]])
    seconds = np.where(np.isnan(scores), nan, 11.0)
    study = ZeroShotStudy(("a", "b", "c"), scores, seconds, np.full(3, 10.0))
    study.predicted["m"], study.costs["m"] = order, cost
    return study


def test_a_perfect_divergence_saves_half_and_loses_nothing():
    """Of two sources per target, half may be dropped; the wrong half loses the best."""
    scores = made_up(np.zeros((3, 3))).scores
    perfect = made_up(scores).curve("m", steps=4)
    np.testing.assert_allclose(perfect.dropped, [0, 25, 50, 75])
    np.testing.assert_allclose(perfect.kept, [100, 100, 100, 100])
    np.testing.assert_allclose(perfect.saved, [0, 0, 50, 50])
    assert perfect.saving() == 50
    worst = made_up(-scores).curve("m", steps=4)
    assert worst.saving() == 0
    want = 100 * np.mean([0.5 / 0.9, 0.6 / 0.8, 0.7 / 0.9])
    assert worst.kept[2] == pytest.approx(want)
    assert made_up(scores, cost=6.6).curve("m", steps=4).saved[2] == pytest.approx(40)


def test_with_one_threshold_a_source_is_saved_only_where_no_target_keeps_it():
    scores = made_up(np.zeros((3, 3))).scores
    curve = made_up(scores).shared("m", steps=4)
    # All: 3 tunings and 6 scorings, 36 s. Best pairs are (a, b), (b, a), (c, b): source c of none.
    assert curve.kept[0] == 100
    assert curve.saved[0] == 0
    at_half = curve.saved[2]
    # Kept at the median or above: 0.9, 0.8, 0.9, so two tunings and three scorings, 23 s.
    assert at_half == pytest.approx(100 * (1 - 23 / 36))
    assert curve.kept[2] == 100
    assert curve.saving() >= at_half


def test_domains_that_do_not_go_together(bench):
    settings = {"recipe": SHORT}
    other = replace(DOMAINS["plain"], label_names=("no", "yes"), card=None)
    with pytest.raises(StudyError, match="one label scheme"):
        zero_shot.run_study({**DOMAINS, "other": other}, bench, [], **settings)
    two = {n: DOMAINS[n] for n in ("plain", "animals")}
    with pytest.raises(StudyError, match="three or more"):
        zero_shot.run_study(two, bench, [], **settings)
    with pytest.raises(StudyError, match="needs labels"):
        zero_shot.run_study(DOMAINS, bench, ["esm-logme"], **settings)


@pytest.mark.data
def test_domains_of_the_catalogue(catalogue):
    found = zero_shot.domains_of(catalogue, ["negative", "positive"])
    assert {"imdb", "amazon_books", "sst2", "yelp_sentences"} <= set(found)
    assert "tweet_sentiment" not in found
    with pytest.raises(StudyError, match="0 tasks"):
        zero_shot.domains_of(catalogue, ["sweet", "sour"])


@pytest.mark.data
def test_sources_that_targets_have_seen_are_left_out(catalogue):
    kept, left_out = multitask.unseen(
        ["sst2", "snli", "rotten_tomatoes", "atis_slots"], ["sst2", "cb"], catalogue
    )
    assert kept == ["snli", "atis_slots"]
    assert left_out["sst2"] == "is a target"
    assert "shares texts with sst2" in left_out["rotten_tomatoes"]
