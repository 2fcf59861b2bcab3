"""The main job, on a toy pool."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from taskscout import Encoder, Pool, Task, Workbench, rank
from taskscout.errors import MethodError, PoolError
from taskscout.models.cache import NoCache
from taskscout.ranking import NONE, rows_for_ranking
from tests.tiny import toy_task


@pytest.fixture(scope="module")
def pool(toy_pool: Path) -> Pool:
    return Pool.open(toy_pool)


@pytest.fixture
def bench(toy_pool: Path) -> Workbench:
    encoder = Encoder(toy_pool.parent / "encoder", max_length=32, precision="fp32", device="cpu")
    return Workbench(encoder, cache=NoCache())


@pytest.fixture(scope="module")
def target() -> Task:
    return toy_task("target", seed=9)


def test_rows_are_ordered_and_none_is_among_them(
    target: Task, pool: Pool, bench: Workbench
) -> None:
    ranking = rank(target, pool, bench=bench)
    scores = [r.score for r in ranking.sources]
    assert scores == sorted(scores, reverse=True)
    assert {r.name for r in ranking.sources} == {"alpha", "beta", "gamma", NONE}
    assert [r.rank for r in ranking.sources] == [1, 2, 3, 4]
    assert ranking.source(NONE).card is None
    assert all(r.card.licence == "CC BY 4.0" for r in ranking.sources if r.card)


def test_the_order_of_the_targets_rows_does_not_matter(
    target: Task, pool: Pool, bench: Workbench
) -> None:
    n = target.tables["train"].num_rows
    order = np.random.default_rng(0).permutation(n)
    shuffled = replace(
        target,
        tables={**target.tables, "train": target.tables["train"].take(pa.array(order))},
    )
    first, second = (rank(t, pool, bench=bench, examples=40) for t in (target, shuffled))
    assert [r.name for r in first.sources] == [r.name for r in second.sources]
    assert [r.score for r in first.sources] == pytest.approx([r.score for r in second.sources])


def test_filters_say_why_a_source_is_left_out(target: Task, pool: Pool, bench: Workbench) -> None:
    def names(**options: object) -> tuple[set[str], dict[str, str]]:
        ranking = rank(target, pool, bench=bench, **options)
        return {r.name for r in ranking.sources} - {NONE}, dict(ranking.left_out)

    assert names(commercial=True) == (
        {"alpha", "gamma"},
        {"beta": "licence does not allow commercial use"},
    )
    assert names(exclude=["alpha"])[0] == {"beta", "gamma"}
    assert names(domains=["GAMMA"])[0] == {"gamma"}
    assert names(kinds=["classification"])[0] == {"alpha", "beta", "gamma"}
    with pytest.raises(PoolError, match="is left to rank"):
        names(kinds=["regression"])


def test_a_copy_of_a_source_is_flagged_and_can_be_left_out(pool: Pool, bench: Workbench) -> None:
    copy = toy_task("copy", seed=0)
    ranking = rank(copy, pool, bench=bench)
    assert ranking.source("alpha").overlap == pytest.approx(1.0)
    assert any("alpha (100%)" in note for note in ranking.notes)
    ranking = rank(copy, pool, bench=bench, exclude_overlap=0.5)
    assert "alpha" in ranking.left_out
    with pytest.raises(PoolError, match="not in this ranking"):
        ranking.source("alpha")


def test_several_methods_stand_side_by_side(target: Task, pool: Pool, bench: Workbench) -> None:
    ranking = rank(target, pool, ["size", "esm-logme", "random"], bench=bench)
    assert ranking.methods == ("size", "esm-logme", "random")
    assert ranking.costs.keys() == set(ranking.methods)
    assert ranking.costs["esm-logme"].bytes_per_source > 0
    for row in ranking.sources:
        assert set(row.scores) == set(ranking.methods)


def test_a_method_that_does_not_apply_is_named_and_the_rest_are_shown(
    target: Task, pool: Pool, bench: Workbench
) -> None:
    ranking = rank(target, pool, ["esm-logme", "source-prior"], bench=bench)
    assert ranking.methods == ("esm-logme",)
    assert any("source-prior" in note for note in ranking.notes)
    with pytest.raises(MethodError):
        rank(target, pool, "source-prior", bench=bench)


def test_refining_orders_the_short_list_by_the_real_models(
    target: Task, pool: Pool, bench: Workbench
) -> None:
    ranking = rank(target, pool, bench=bench, refine=2)
    real = rank(target, pool, "logme", bench=bench)
    short = [r.name for r in ranking.sources if r.name != NONE][:2]
    expected = sorted(short, key=lambda n: -real.source(n).score)
    assert short == expected


def test_another_pooling_is_refused(target: Task, pool: Pool, toy_pool: Path) -> None:
    encoder = Encoder(toy_pool.parent / "encoder", max_length=32, pooling="cls")
    with pytest.raises(MethodError, match="pooling mean") as caught:
        rank(target, pool, bench=Workbench(encoder, cache=NoCache()))
    assert "pooling" in caught.value.remedy


def test_rows_of_a_given_test_split_play_no_part() -> None:
    given = toy_task("given")
    assert rows_for_ranking(given, 1000).tables["train"].num_rows == (
        given.tables["train"].num_rows
    )
    made = replace(given, made_splits=True)
    assert rows_for_ranking(made, 1000).tables["train"].num_rows == len(given)


def test_results_go_out_as_json_csv_and_pandas(target: Task, pool: Pool, bench: Workbench) -> None:
    ranking = rank(target, pool, bench=bench)
    data = json.loads(ranking.to_json())
    assert [r["name"] for r in data["sources"]] == [r.name for r in ranking.sources]
    assert all(isinstance(r["score"], float) for r in data["sources"])
    lines = list(csv.DictReader(io.StringIO(ranking.to_csv())))
    assert [line["name"] for line in lines] == [r.name for r in ranking.sources]
    assert list(ranking.to_pandas()["name"]) == [r.name for r in ranking.sources]
    top = ranking.top(1)
    assert sum(r.name != NONE for r in top.sources) == 1
    assert NONE in {r.name for r in top.sources}
    assert not math.isnan(ranking[0].score)
