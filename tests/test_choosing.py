"""No test row chooses: what is chosen is the same to the bit, whatever the held-out rows hold."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from taskscout.errors import DataError
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.ranking import Ranking, rank
from taskscout.tasks import Task
from tests.small import fresh_bench
from tests.tiny import TOPICS, toy_task

ROWS = toy_task("target", n=120, seed=21).tables["train"].to_pylist()


def spoiled(task: Task, *, seed: int = 0) -> Task:
    """The same task with other texts and permuted labels in all splits but train."""
    rng = random.Random(seed)
    tables = dict(task.tables)
    for split in task.splits:
        if split == "train":
            continue
        rows = tables[split].to_pylist()
        labels = [r["label"] for r in rows]
        rng.shuffle(labels)
        texts = [" ".join(rng.choices(TOPICS[0], k=6)) for _ in rows]
        tables[split] = pa.table({"text": texts, "label": labels})
    return replace(task, tables=tables)


def with_made_splits() -> Task:
    table = pa.Table.from_pylist(ROWS)
    return Task("target", "classification", {"train": table}, ("no", "yes")).with_splits()


def with_official_splits() -> Task:
    parts = {"train": ROWS[:70], "validation": ROWS[70:90], "test": ROWS[90:]}
    tables = {s: pa.Table.from_pylist(rows) for s, rows in parts.items()}
    return Task("target", "classification", tables, ("no", "yes"))


def scores(ranking: Ranking) -> dict[str, list[float]]:
    return {r.name: [*r.scores.values(), r.overlap, r.rank] for r in ranking.sources}


def assert_same_bits(one: Ranking, other: Ranking) -> None:
    assert one.methods == other.methods
    assert scores(one).keys() == scores(other).keys()
    for name, values in scores(one).items():
        assert np.array(values).tobytes() == np.array(scores(other)[name]).tobytes(), name


@pytest.mark.parametrize("task", [with_made_splits(), with_official_splits()], ids=["made", "own"])
def test_every_method_ranks_the_same_whatever_the_test_rows(
    task: Task, small_pool: Pool, small_bench: Workbench
):
    assert set(task.splits) == {"train", "validation", "test"}
    first = rank(task, small_pool, "all", bench=fresh_bench(small_bench), costly=True)
    assert {"logme", "leep", "esm-logme", "lora", "linear-probe"} <= set(first.methods)
    again = rank(spoiled(task), small_pool, "all", bench=fresh_bench(small_bench), costly=True)
    assert_same_bits(first, again)
    assert (first.embedded, first.rows) == (again.embedded, again.rows)


def test_refining_by_real_models_reads_no_test_row(small_pool: Pool, small_bench: Workbench):
    task = with_made_splits()
    first, again = (
        rank(t, small_pool, bench=fresh_bench(small_bench), refine=2) for t in (task, spoiled(task))
    )
    assert_same_bits(first, again)


def test_one_workbench_for_both_keeps_them_apart(small_pool: Pool, small_bench: Workbench):
    task, bench = with_made_splits(), fresh_bench(small_bench)
    bench.embeddings(task, "test")
    assert_same_bits(
        rank(task, small_pool, ["esm-logme", "logme"], bench=bench),
        rank(spoiled(task), small_pool, ["esm-logme", "logme"], bench=bench),
    )


def test_a_training_row_does_change_the_ranking(small_pool: Pool, small_bench: Workbench):
    """The tests above would also pass if nothing were read at all."""
    task = with_official_splits()
    swapped = {"train": spoiled(replace(task, tables={"x": task.tables["train"]})).tables["x"]}
    other = replace(task, tables={**task.tables, **swapped})
    one, two = (rank(t, small_pool, bench=small_bench) for t in (task, other))
    assert scores(one) != scores(two)


def test_training_after_ranking_tests_on_rows_that_chose_nothing(
    small_pool: Pool, small_bench: Workbench, tmp_path: Path
):
    path = tmp_path / "target.csv"
    path.write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in ROWS))
    read: list[str] = []

    class Watching(Workbench):
        def embed(self, texts, pairs=None, **options):  # type: ignore[no-untyped-def]
            read.extend(texts)
            return super().embed(texts, pairs, **options)

    bench = Watching(small_bench.encoder, cache=small_bench.cache, recipe=small_bench.recipe)
    ranking = rank(path, small_pool, ["esm-logme", "logme"], bench=bench)
    task = Task.from_file(path)  # as `train` reads it
    assert set(read) == set(task.column("train", "text"))
    assert set(read).isdisjoint(task.column("test", "text"))
    assert ranking.rows == ranking.of == task.tables["train"].num_rows
    assert ranking.left_alone == {
        s: task.tables[s].num_rows for s in ("validation", "test") if s in task.tables
    }


# -- the rule ----------------------------------------------------------------------------------


def test_only_training_rows_choose():
    for task in (with_made_splits(), with_official_splits()):
        chosen = task.for_choosing()
        assert chosen.splits == ("train",)
        assert chosen.tables["train"].equals(task.tables["train"])


def test_at_most_so_many_rows_every_class_at_its_share():
    rng = random.Random(0)
    labels = [0] * 60 + [1] * 30 + [2] * 10
    rng.shuffle(labels)
    table = pa.table({"text": [f"text {i}" for i in range(100)], "label": labels})
    target = Task("t", "classification", {"train": table}, ("a", "b", "c"))
    chosen = target.for_choosing(20)
    assert np.bincount(chosen.labels("train")).tolist() == [12, 6, 2]
    assert chosen.fingerprint == target.for_choosing(20).fingerprint
    assert chosen.fingerprint != target.for_choosing(20, seed=1).fingerprint


def test_test_rows_alone_are_refused(small_pool: Pool, small_bench: Workbench):
    task = with_official_splits()
    task = replace(task, tables={"test": task.tables["test"]})
    with pytest.raises(DataError, match="no training rows, only test") as caught:
        rank(task, small_pool, bench=small_bench)
    assert "with_splits" in caught.value.remedy


def test_rows_without_labels_prove_nothing_and_are_read():
    table = pa.table({"text": ["a film", "a plot"], "label": pa.nulls(2, pa.int64())})
    task = Task("bare", "classification", {"test": table}, ("no", "yes"))
    assert task.for_choosing().tables["train"].equals(table)
