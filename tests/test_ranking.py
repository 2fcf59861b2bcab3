"""The main job on a small pool: order, filters, reasons, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import taskscout
from taskscout.errors import MethodError, PoolError
from taskscout.methods import DEFAULT
from taskscout.methods.evidence import logme
from taskscout.methods.method import BaseMethod, Description, get_method, method_names
from taskscout.methods.two_stage import TwoStage
from taskscout.models.cache import EmbeddingCache
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.ranking import NONE, RankedSource, Ranking, rank
from taskscout.reports import terminal
from taskscout.tasks import Task, TaskCard
from taskscout.tasks.overlap import MOST_OVERLAP
from tests.small import SOURCES, fresh_bench, source_task
from tests.tiny import TOPICS, toy_task

TARGET = toy_task("target", n=60, seed=21)


@pytest.fixture(scope="session")
def ranking(small_pool: Pool, small_bench: Workbench) -> Ranking:
    return rank(TARGET, small_pool, bench=fresh_bench(small_bench))


def refused(kind: type[Exception], call: Callable[[], Any]) -> Any:
    with pytest.raises(kind) as caught:
        call()
    error: Any = caught.value
    for part in (error.found, error.why, error.remedy):
        assert part.strip()
    return error


# -- the answer --------------------------------------------------------------------------------


def test_best_first_with_none_among_them(ranking: Ranking, small_pool: Pool):
    assert {r.name for r in ranking.sources} == {*SOURCES, NONE}
    assert [r.rank for r in ranking.sources] == [1, 2, 3, 4, 5]
    scores = [r.score for r in ranking.sources]
    assert scores == sorted(scores, reverse=True)
    assert all(map(math.isfinite, scores))
    assert ranking.methods == (DEFAULT,)
    assert (ranking.target, ranking.rows, ranking.of) == ("target", 60, 60)
    assert ranking.left_alone == {"test": 60}
    assert len(ranking) == 5
    assert ranking[0] is ranking.sources[0]
    for row in ranking.sources:
        assert row.scores == {DEFAULT: row.score}
        if row.name == NONE:
            assert row.card is None
            assert math.isnan(row.overlap)
            assert math.isnan(row.test_score)
        else:
            source = small_pool.source(row.name)
            assert row.card == source.card
            assert row.test_score == source.tuning["scores"]["score"]
            assert row.overlap < MOST_OVERLAP
    assert ranking.left_out == {}
    assert ranking.seconds.keys() == {"loading", "embedding", "scoring"}
    assert (ranking.embedded, ranking.recalled) == (60, 0)


def test_a_source_of_the_same_task_comes_before_another(ranking: Ranking):
    assert ranking.source("reviews").rank < ranking.source("topics").rank
    assert ranking.source("reviews").score > ranking.source(NONE).score


def test_scores_are_the_evidence_of_mapped_embeddings(
    ranking: Ranking, small_pool: Pool, small_bench: Workbench
):
    chosen = TARGET.for_choosing(1000)
    read = small_bench.embeddings(chosen, middle=True).astype(np.float64)
    x = read[:, : small_bench.encoder.dimension]
    y = chosen.labels("train")
    options: Any = {"centring": "both", "unit_norm": True}
    assert ranking.source(NONE).score == pytest.approx(logme(x, y, **options), abs=1e-6)
    for name in SOURCES:
        found = small_pool.description(name, "layered-map")
        inner, outer = (found.arrays[a].astype(np.float64) for a in ("inner", "outer"))
        mapped = found.header["scale"] * x + read @ inner @ outer.T + found.arrays["offset"]
        assert ranking.source(name).score == pytest.approx(logme(mapped, y, **options), abs=1e-5)


def test_a_regression_target(small_pool: Pool, small_bench: Workbench):
    target = toy_task("numbers", n=50, seed=22, regression=True)
    ranking = rank(target, small_pool, bench=small_bench)
    assert {r.name for r in ranking.sources} == {*SOURCES, NONE}
    scaled = replace(
        target,
        tables={
            s: t.set_column(1, "label", pa.array(1000 * t["label"].to_numpy() + 5))
            for s, t in target.tables.items()
        },
    )
    again = rank(scaled, small_pool, bench=fresh_bench(small_bench))
    for row in ranking.sources:  # units of the labels do not matter
        assert again.source(row.name).score == pytest.approx(row.score, abs=1e-6)


def test_a_target_of_pairs(small_pool: Pool, small_bench: Workbench):
    ranking = rank(toy_task("pairs", n=40, seed=23, pairs=True), small_pool, bench=small_bench)
    assert len(ranking) == 5


def test_ties_are_broken_by_name(small_pool: Pool, small_bench: Workbench):
    class Same(BaseMethod):
        name, key = "same", "layered-map"

        def describe(self, source: Task, bench: Workbench) -> Description:
            raise NotImplementedError

        def score(self, target: Task, sources: Any, bench: Workbench) -> Any:
            return np.array([math.nan if s.source == "matching" else 1.0 for s in sources])

    ranking = rank(TARGET, small_pool, Same(), bench=small_bench)
    assert [r.name for r in ranking.sources] == ["reviews", "stars", "topics", "matching"]
    assert math.isnan(ranking.sources[-1].score)
    assert json.loads(ranking.to_json())["sources"][-1]["score"] is None


def test_top(ranking: Ranking):
    for n in (1, 2, 4, 9):
        shown = ranking.top(n)
        assert len(shown) == min(n, 4) + 1
        assert NONE in {r.name for r in shown.sources}
        ranks = [r.rank for r in shown.sources]
        assert ranks == sorted(ranks)
    assert len(ranking) == 5


def test_source(ranking: Ranking):
    assert ranking.source("topics").name == "topics"
    error = refused(PoolError, lambda: ranking.source("nothing"))
    assert "no such source" in error.why


def test_repr(ranking: Ranking):
    assert repr(ranking).startswith(f"Ranking('target', {DEFAULT}, 5 rows: ")


# -- as JSON, CSV and a frame --------------------------------------------------------------------

FIELDS = [
    "rank", "name", "score", "kind", "category", "domain", "language", "rows", "licence",
    "commercial", "where", "overlap", "test_score",
]  # fmt: skip


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_to_json(ranking: Ranking):
    data = json.loads(ranking.to_json(), parse_constant=no_constant)
    assert data == ranking.to_dict()
    assert [s["name"] for s in data["sources"]] == [r.name for r in ranking.sources]
    assert set(FIELDS) | {"scores", "gain"} == set(data["sources"][0])
    by_name = {s["name"]: s for s in data["sources"]}
    assert by_name["matching"]["where"] == 'datasets.load_dataset("example/matching")'
    assert by_name["topics"]["where"] == "https://example.org/topics"
    assert by_name["topics"]["rows"] == 256
    assert by_name["stars"]["kind"] == "regression"
    assert by_name[NONE]["kind"] is None
    assert by_name[NONE]["test_score"] is None
    assert data["methods"] == [DEFAULT]
    assert (data["rows"], data["of"]) == (60, 60)
    assert "\n" not in ranking.to_json(indent=None)


def test_to_csv(ranking: Ranking):
    rows = list(csv.DictReader(io.StringIO(ranking.to_csv())))
    assert list(rows[0]) == FIELDS
    assert [r["name"] for r in rows] == [r.name for r in ranking.sources]
    assert [float(r["score"]) for r in rows] == [r.score for r in ranking.sources]
    assert {r["name"]: r["test_score"] for r in rows}[NONE] == ""


def test_to_pandas(ranking: Ranking):
    frame = ranking.to_pandas()
    assert list(frame.columns) == FIELDS
    assert list(frame["name"]) == [r.name for r in ranking.sources]
    assert list(frame["score"]) == [r.score for r in ranking.sources]


# -- several methods -------------------------------------------------------------------------------


def test_several_methods(small_pool: Pool, small_bench: Workbench, ranking: Ranking):
    bench = fresh_bench(small_bench)
    both = rank(TARGET, small_pool, ["size", DEFAULT], bench=bench)
    assert both.methods == ("size", DEFAULT)
    assert NONE not in {r.name for r in both.sources}  # size has no score for it
    for row in both.sources:
        assert row.score == row.scores["size"]
        wanted = ranking.source(row.name).score
        assert row.scores[DEFAULT] == pytest.approx(wanted, abs=1e-9)
    assert bench.embedded == 60  # once for all methods
    assert both.costs.keys() == {"size", DEFAULT}
    assert both.costs[DEFAULT].bytes_per_source > 1000
    columns = list(both.to_pandas().columns)
    assert columns == [*FIELDS, "score:size", f"score:{DEFAULT}"]
    assert both.to_csv().splitlines()[0].split(",") == columns


def test_source_models(small_pool: Pool, small_bench: Workbench):
    """LogME on the features of the tuned sources that the pool carries."""
    found = rank(TARGET, small_pool, ["esm-logme", "logme"], bench=fresh_bench(small_bench))
    by_name = {r.name: r.scores for r in found.sources}
    assert by_name[NONE]["logme"] == pytest.approx(by_name[NONE]["esm-logme"], abs=1e-9)
    assert by_name["reviews"]["logme"] > by_name["topics"]["logme"]


def test_the_short_list_again_with_source_models(small_pool: Pool, small_bench: Workbench):
    first = rank(TARGET, small_pool, bench=fresh_bench(small_bench))
    found = rank(TARGET, small_pool, bench=fresh_bench(small_bench), refine=2)
    assert {r.name for r in found.sources} == {*SOURCES, NONE}
    best = [r.name for r in first.sources if r.name != NONE][:2]
    again = [r.name for r in found.sources if r.name != NONE][:2]
    assert set(again) == set(best)


def test_a_second_method_that_does_not_apply_is_noted(small_pool: Pool, small_bench: Workbench):
    found = rank(TARGET, small_pool, ["esm-logme", "terms-cosine"], bench=small_bench)
    assert found.methods == ("esm-logme",)
    (note,) = (n for n in found.notes if "terms-cosine" in n)
    assert "is not shown" in note
    assert found.left_out == {}


def test_all_says_of_each_method_why_it_is_not_there(small_pool: Pool, small_bench: Workbench):
    bench = fresh_bench(small_bench)
    found = rank(TARGET, small_pool, "all", bench=bench)
    assert found.methods[0] == DEFAULT
    assert {"logme", "leep", "random", "format"} <= set(found.methods)
    assert bench.tunings == 0
    left = {n.partition(" is not shown: ")[0]: n for n in found.notes if " is not shown: " in n}
    assert set(found.methods).isdisjoint(left)
    assert {*found.methods, *left} == set(method_names())
    assert "--costly" in left["prompt-mean"]
    assert "made of other methods" in left["rrf"]
    assert "description" in left["terms-cosine"]
    assert "grid" in left["source-prior"]
    assert all("\n" not in n for n in left.values())


def test_all_with_costly_tunes_the_target(small_pool: Pool, small_bench: Workbench):
    bench = fresh_bench(small_bench)
    found = rank(TARGET, small_pool, "all", bench=bench, costly=True)
    assert {"lora", "lora-product"} <= set(found.methods)
    assert bench.tunings >= 1


def test_all_shows_what_applies_where_the_default_does_not(
    small_pool: Pool, small_bench: Workbench
):
    texts = pa.table({"prompt": ["a film", "the plot"] * 4, "completion": list("abcdefgh")})
    target = Task("free", "text_to_text", {"train": texts})
    found = rank(target, small_pool, ["all"], bench=small_bench)
    assert "size" in found.methods
    assert DEFAULT not in found.methods
    assert any(n.startswith(f"{DEFAULT} is not shown: ") for n in found.notes)


def test_an_unknown_name_to_exclude_is_noted(small_pool: Pool, small_bench: Workbench):
    found = rank(TARGET, small_pool, bench=small_bench, exclude=["revews", "stars", "qqqq"])
    (near,) = (n for n in found.notes if "'revews'" in n)
    assert near.endswith("close names: reviews")
    (far,) = (n for n in found.notes if "'qqqq'" in n)
    assert "close" not in far
    assert not any("'stars'" in n for n in found.notes)
    assert found.left_out == {"stars": "excluded by name"}


def test_the_second_stage_reads_only_its_short_list(
    small_pool: Pool, small_bench: Workbench, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[str, str]] = []
    read, score = Pool.description, TwoStage.score

    def spied(pool: Pool, name: str, key: str) -> Description:
        asked.append((key, name))
        return read(pool, name, key)

    def scored(method: TwoStage, *arguments: Any) -> Any:
        asked.clear()
        out = score(method, *arguments)
        during.extend(asked)
        return out

    during: list[tuple[str, str]] = []
    monkeypatch.setattr(Pool, "description", spied)
    monkeypatch.setattr(TwoStage, "score", scored)
    found = rank(TARGET, small_pool, bench=fresh_bench(small_bench), refine=2)
    short = [r.name for r in found.sources if r.name != NONE][:2]
    assert {n for k, n in during if k == "tuned"} == set(short)
    assert {n for k, n in during if k == "layered-map"} == set(SOURCES)


def test_the_first_method_has_to_apply(small_pool: Pool, small_bench: Workbench):
    error = refused(
        MethodError, lambda: rank(TARGET, small_pool, "terms-cosine", bench=small_bench)
    )
    assert "pool describe" in error.remedy


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("esm-logmee", "esm-logme"),
        ([], "No method"),
        ([get_method("esm-logme"), get_method("esm-logme", compat=True)], "more than once"),
    ],
)
def test_methods_that_are_refused(
    small_pool: Pool, small_bench: Workbench, methods: Any, said: str
):
    error = refused(MethodError, lambda: rank(TARGET, small_pool, methods, bench=small_bench))
    assert said in str(error)


def test_a_name_given_twice_is_one_column(small_pool: Pool, small_bench: Workbench):
    found = rank(TARGET, small_pool, ["esm-logme", "esm-logme", "size"], bench=small_bench)
    assert found.methods == ("esm-logme", "size")


def test_a_method_with_options(small_pool: Pool, small_bench: Workbench, ranking: Ranking):
    found = rank(TARGET, small_pool, get_method("esm-logme", compat=True), bench=small_bench)
    assert found.source("reviews").score != ranking.source("reviews").score


# -- filters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "kept", "reasons"),
    [
        (
            {"commercial": True},
            {"reviews", "matching"},
            {
                "topics": "licence does not allow commercial use",
                "stars": "licence does not say whether commercial use is allowed",
            },
        ),
        (
            {"kinds": ["regression"]},
            {"stars"},
            dict.fromkeys(("reviews", "topics", "matching"), "of kind classification"),
        ),
        (
            {"domains": ["film"]},
            {"reviews", "stars"},
            dict.fromkeys(("topics", "matching"), "of another domain"),
        ),
        (
            {"domains": ["PARAPHRASE", "cars"]},
            {"topics", "matching"},
            dict.fromkeys(("reviews", "stars"), "of another domain"),
        ),
        (
            {"exclude": ["reviews", "topics", "no such source"]},
            {"stars", "matching"},
            dict.fromkeys(("reviews", "topics"), "excluded by name"),
        ),
        (
            {"commercial": True, "exclude": ["reviews"], "domains": ["books"]},
            {"matching"},
            {
                "reviews": "excluded by name",
                "topics": "licence does not allow commercial use",
                "stars": "licence does not say whether commercial use is allowed",
            },
        ),
    ],
)
def test_filters(
    small_pool: Pool,
    small_bench: Workbench,
    ranking: Ranking,
    filters: Any,
    kept: set[str],
    reasons: dict[str, str],
):
    found = rank(TARGET, small_pool, bench=small_bench, **filters)
    assert {r.name for r in found.sources} == {*kept, NONE}
    assert found.left_out == reasons
    for row in found.sources:  # what is left out changes nothing for the others
        assert row.score == pytest.approx(ranking.source(row.name).score, abs=1e-9)
    left = next(iter(reasons))
    assert reasons[left] in refused(PoolError, lambda: found.source(left)).why


def test_nothing_left(small_pool: Pool, small_bench: Workbench, tmp_path: Path):
    error = refused(
        PoolError,
        lambda: rank(TARGET, small_pool, bench=small_bench, kinds=["tagging"]),
    )
    assert "None of the 4 sources" in error.found
    assert "of kind classification" in error.why
    empty = Pool.create(tmp_path / "empty", encoder=small_pool.encoder, write=False)
    assert "empty" in refused(PoolError, lambda: rank(TARGET, empty, bench=small_bench)).why


# -- overlap ----------------------------------------------------------------------------------------


def test_a_source_that_is_the_target_is_flagged(small_pool: Pool, small_bench: Workbench):
    target = replace(source_task("reviews"), name="copy")
    found = rank(target, small_pool, bench=small_bench)
    shares = {r.name: r.overlap for r in found.sources if r.name != NONE}
    assert shares == {"reviews": 1.0, "topics": 0.0, "stars": 0.0, "matching": 0.0}
    (note,) = (n for n in found.notes if "contain texts of the target" in n)
    assert "reviews (100%)" in note
    assert "topics" not in note


def test_half_of_the_target_in_a_source(small_pool: Pool, small_bench: Workbench):
    half = source_task("topics").tables["train"].slice(0, 30)
    fresh = toy_task("fresh", n=30, seed=31, words=TOPICS).tables["train"]
    target = Task("half", "classification", {"train": pa.concat_tables([half, fresh])}, ("a", "b"))
    found = rank(target, small_pool, bench=small_bench)
    assert found.source("topics").overlap == pytest.approx(0.5, abs=0.02)


def test_exclude_overlap(small_pool: Pool, small_bench: Workbench):
    target = replace(source_task("reviews"), name="copy")
    found = rank(target, small_pool, bench=small_bench, exclude_overlap=0.5)
    assert found.left_out == {"reviews": "contains 100% of the target's texts"}
    assert not any("contain texts" in n for n in found.notes)
    found = rank(target, small_pool, bench=small_bench, exclude_overlap=1.0)
    assert found.left_out == {}


# -- encoder and kind ---------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"pooling": "cls"}, {"layers": "mean"}, {"max_length": 16}])
def test_another_way_of_embedding_is_refused(
    small_pool: Pool, small_bench: Workbench, settings: Any
):
    bench = fresh_bench(small_bench, **settings)
    error = refused(MethodError, lambda: rank(TARGET, small_pool, bench=bench))
    for word in map(str, (*settings, *settings.values())):
        assert word.replace("max_length", "tokens") in error.found
    assert bench.embedded == 0
    found = rank(TARGET, small_pool, "size", bench=bench)  # reads cards only
    assert len(found) == 4


def test_another_precision_is_fine(small_pool: Pool, small_bench: Workbench, ranking: Ranking):
    found = rank(TARGET, small_pool, bench=fresh_bench(small_bench, precision="bf16"))
    for row in found.sources:
        assert row.score == pytest.approx(ranking.source(row.name).score, abs=0.02)


def test_a_method_that_is_named_is_not_replaced(small_pool: Pool, small_bench: Workbench):
    table = pa.table({"prompt": ["a film"] * 4, "completion": list("abcd")})
    target = Task("free", "text_to_text", {"train": table})
    error = refused(MethodError, lambda: rank(target, small_pool, "logme", bench=small_bench))
    assert "4 different texts" in error.found
    assert "reads no labels" in error.remedy


# -- which rows, in which order --------------------------------------------------------------------


@pytest.mark.parametrize("examples", [1000, 30])
@pytest.mark.parametrize("same_bench", [False, True])
def test_order_of_rows_does_not_matter(
    small_pool: Pool, small_bench: Workbench, tmp_path: Path, examples: int, same_bench: bool
):
    rows = TARGET.tables["train"].to_pylist()
    lines = [f"{r['text']},{('no', 'yes')[r['label']]}" for r in rows]
    scores = []
    bench = fresh_bench(small_bench)
    for seed in range(3):
        random.Random(seed).shuffle(lines)
        path = tmp_path / f"target{seed}.csv"
        path.write_text("text,label\n" + "\n".join(lines) + "\n")
        bench = bench if same_bench else fresh_bench(small_bench)
        found = rank(path, small_pool, ["esm-logme", "logme"], bench=bench, examples=examples)
        assert found.rows == min(examples, found.of)
        assert 30 <= found.rows <= 60
        scores.append({r.name: list(r.scores.values()) for r in found.sources})
    for other in scores[1:]:
        for name, wanted in scores[0].items():
            assert other[name] == pytest.approx(wanted, abs=1e-6)


def test_names_of_classes_do_not_matter(small_pool: Pool, small_bench: Workbench, ranking: Ranking):
    swapped = {
        s: t.set_column(1, "label", pa.array(1 - t["label"].to_numpy()))
        for s, t in TARGET.tables.items()
    }
    found = rank(replace(TARGET, tables=swapped), small_pool, bench=small_bench)
    for row in found.sources:
        assert row.score == pytest.approx(ranking.source(row.name).score, abs=1e-9)


# -- what is spent -------------------------------------------------------------------------------------


def test_each_ranking_counts_its_own(small_pool: Pool, small_bench: Workbench):
    bench = fresh_bench(small_bench)
    first = rank(TARGET, small_pool, bench=bench)
    other = rank(toy_task("other", n=20, seed=41), small_pool, bench=bench)
    again = rank(TARGET, small_pool, bench=bench)
    assert [r.embedded for r in (first, other, again)] == [60, 20, 0]
    assert first.seconds["loading"] > 0
    assert again.seconds["embedding"] == 0
    assert all(v >= 0 for r in (first, other, again) for v in r.seconds.values())
    assert again.seconds["scoring"] > 0


def test_a_second_run_embeds_nothing(small_pool: Pool, small_bench: Workbench, tmp_path: Path):
    found = []
    for _ in range(2):
        bench = fresh_bench(small_bench)
        bench.cache = EmbeddingCache(tmp_path)
        found.append(rank(TARGET, small_pool, ["esm-logme", "logme"], bench=bench))
    assert (found[0].embedded, found[0].recalled) == (60 * 5, 0)
    # The embeddings under five models; those of the untouched one count once, though "none" of
    # logme reads them and esm-logme reads their sums.
    assert (found[1].embedded, found[1].recalled) == (0, 60 * 5)
    for one, other in zip(found[0].sources, found[1].sources, strict=True):
        assert one.scores == other.scores


def replicated(pool: Pool, folder: Path, times: int) -> Pool:
    """Each source of a pool many times, packed."""
    out = Pool.create(folder / "loose", encoder=pool.encoder)
    keys = ("layered-map", "overlap")
    for source in pool:
        parts = [pool.description(source.name, k) for k in keys]
        for i in range(times):
            name = f"{source.name}-{i}"
            out.add(
                replace(source.card, name=name),
                source.tuning,
                [replace(p, source=name) for p in parts],
            )
    return out.pack(folder / "packed")


def test_descriptions_in_memory_do_not_grow_with_the_pool(
    small_pool: Pool, small_bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pool = replicated(small_pool, tmp_path, 40)
    assert len(pool) == 160
    alive: weakref.WeakSet[Description] = weakref.WeakSet()
    most = 0
    real = Pool.description

    def counted(self: Pool, name: str, key: str) -> Description:
        nonlocal most
        made = real(self, name, key)
        alive.add(made)
        most = max(most, len(alive))
        return made

    monkeypatch.setattr(Description, "__hash__", object.__hash__)
    monkeypatch.setattr(Pool, "description", counted)
    found = rank(TARGET, pool, bench=small_bench)
    assert len(found) == 161
    assert 1 <= most <= 2 * 32 + 8  # a batch of 32, and the one before
    for row in found.sources:
        if row.name != NONE:
            same = found.source(f"{row.name.partition('-')[0]}-0").score
            assert row.score == pytest.approx(same, abs=1e-9)


# -- in the terminal -------------------------------------------------------------------------------------


def shown(ranking: Ranking, top: int = 10) -> str:
    from rich.console import Console

    out = io.StringIO()
    terminal.show_ranking(ranking, Console(file=out, width=200, highlight=False), top=top)
    return out.getvalue()


def test_the_table(ranking: Ranking):
    text = shown(ranking)
    lines = text.splitlines()
    assert "target: 60 training rows against 4 sources (60 test rows left alone" in text
    places = [next(i for i, s in enumerate(lines) if s.split()[:2] == [str(r.rank), r.name])
              for r in ranking.sources]  # fmt: skip
    assert places == sorted(places)
    assert "fine-tune directly" in text
    assert "MIT" in text
    assert "CC BY-NC 4.0 [nc]" in text
    assert "not stated [?]" in text
    assert terminal.LICENCE_LEGEND in text
    assert "books [old]" in text  # not taken for markup
    assert "example/reviews" in text
    assert terminal.verdict(ranking) in text
    assert "embedded 60 texts" in text
    assert len(shown(ranking, top=1)) < len(text)


def test_flags_and_left_out_in_the_terminal(small_pool: Pool, small_bench: Workbench):
    target = replace(source_task("reviews"), name="[red]copy")
    text = shown(rank(target, small_pool, bench=small_bench, exclude=["topics"]))
    assert "reviews !100%" in text
    assert "share of your texts" in text
    assert "not ranked: topics (excluded by name)" in text
    assert "[red]copy: 128 training rows" in text


def row(rank: int, name: str, score: float) -> RankedSource:
    card = None if name == NONE else TaskCard(name)
    return RankedSource(rank, name, score, {"m": score}, card)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", NONE, "b"], "First to try: a. 1 of 2 sources score above"),
        ([NONE, "a"], "No source scores above the untouched encoder: fine-tune directly."),
        (["a", "b"], "First to try: a."),
        ([], "No source was ranked."),
    ],
)
def test_verdict(names: list[str], said: str):
    rows = tuple(row(i, n, 1.0 / i) for i, n in enumerate(names, 1))
    assert said in terminal.verdict(Ranking("t", ("m",), rows, 1, 1))


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (4.2e7, "42.0 MB"), (3e9, "3.0 GB")]
)  # fmt: skip
def test_sizes(value: float, text: str):
    assert terminal.size(value) == text


@pytest.mark.parametrize(
    ("licence", "commercial", "text"),
    [
        ("MIT", "yes", "MIT"),
        ("", "unstated", "not stated [?]"),
        ("CC BY 4.0 (texts); other terms may apply", "no", "CC BY 4.0 [nc]"),
        ("a licence with a very long name indeed", "yes", "a licence with a very long…"),
    ],
)
def test_short_licence(licence: str, commercial: str, text: str):
    assert terminal.short_licence(licence, commercial) == text


def test_the_names_at_the_top_of_the_package():
    assert taskscout.rank is rank
    assert taskscout.Ranking is Ranking
    assert set(taskscout.__all__) <= set(dir(taskscout))
    with pytest.raises(AttributeError):
        _ = taskscout.nothing
