"""A grid's file: committed results, merging, choosing."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from taskscout.errors import StudyError
from taskscout.studies.store import (
    CellResult,
    GridStore,
    choose,
    gains_by_setting,
    read_results,
    to_table,
)


def cell(key: str, source: str, score: float | None, **changed) -> CellResult:
    made = CellResult(
        key, source, "t", "default", "none" if source == "none" else "sequential", "lora", 200, 0,
        score, {} if score is None else {"score": score, "accuracy": score, "error": 0.125},
    )  # fmt: skip
    return replace(made, **changed)


RESULTS = [
    cell("a", "none", 0.5),
    cell("b", "s", 0.75),
    cell("c", "none", 0.25, seed=1),
    cell("d", "s", 0.75, seed=1),
    cell("e", "r", None, error="no"),
]


def test_what_is_put_comes_back(tmp_path):
    store = GridStore(tmp_path / "g.sqlite")
    store.put(RESULTS)
    again = GridStore(tmp_path / "g.sqlite", create=False)
    assert sorted(again.results(), key=lambda r: r.key) == RESULTS
    assert again.done() == {"a", "b", "c", "d"}
    assert again.done(failed=True) == {"a", "b", "c", "d", "e"}


def test_the_table_has_one_column_per_metric(tmp_path):
    store = GridStore(tmp_path / "g.sqlite")
    store.put(RESULTS)
    table = to_table(store.results()).to_pandas()
    assert len(table) == 5
    assert table.loc[table.key == "b", "accuracy"].item() == 0.75
    assert table.loc[table.key == "e", "score"].isna().item()
    # A score's standard error and why a cell failed are two things.
    assert table.loc[table.key == "b", "metric_error"].item() == 0.125
    assert table.loc[table.key == "b", "error"].item() == ""


def test_gains_compare_runs_of_one_seed(tmp_path):
    ((setting, gains),) = gains_by_setting(RESULTS)
    assert setting == {
        "encoder": "default", "strategy": "sequential", "tuning": "lora", "recipe": "default",
        "size": 200,
    }  # fmt: skip
    assert gains.gain("s", "t") == pytest.approx((25 + 50) / 2)


def test_cells_are_chosen_by_value():
    assert {r.key for r in choose(RESULTS, ["seed=1"])} == {"c", "d"}
    # What was trained without a source belongs to every strategy.
    assert len(choose(RESULTS, ["strategy=sequential"])) == 5
    with pytest.raises(StudyError, match="colour"):
        choose(RESULTS, ["colour=red"])
    with pytest.raises(StudyError, match="No cell"):
        choose(RESULTS, ["tuning=full"])


def test_merging_takes_what_is_new_and_refuses_a_contradiction(tmp_path):
    one, two = GridStore(tmp_path / "1.sqlite"), GridStore(tmp_path / "2.sqlite")
    one.put(RESULTS[:2])
    two.put(RESULTS[1:4])
    assert one.merge(two.results()) == 2
    assert one.done() == {"a", "b", "c", "d"}
    assert one.merge(two.results()) == 0
    two.put([cell("a", "none", 0.9)])
    with pytest.raises(StudyError, match="different scores"):
        one.merge(two.results())
    # A cell that failed on one machine gives way to one that did not.
    two.put([cell("a", "none", 0.5), cell("e", "r", 0.6)])
    one.put(RESULTS[4:])
    assert one.merge(two.results()) == 1
    assert "e" in one.done()


def test_an_exported_table_reads_as_its_grid(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(to_table(RESULTS), tmp_path / "g.parquet")
    again = read_results(tmp_path / "g.parquet")
    assert again == RESULTS
    store = GridStore(tmp_path / "g.sqlite")
    assert store.merge(again) == 5
    assert store.done() == {"a", "b", "c", "d"}
    pq.write_table(to_table(RESULTS).drop_columns("key"), tmp_path / "n.parquet")
    with pytest.raises(StudyError, match="'key'"):
        read_results(tmp_path / "n.parquet")
    with pytest.raises(StudyError, match="There is no grid"):
        read_results(tmp_path / "none.parquet")


def test_what_is_no_grid_is_refused_and_left_alone(tmp_path):
    with pytest.raises(StudyError, match="no grid"):
        GridStore(tmp_path / "none.sqlite", create=False)
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, by far " * 100)
    with pytest.raises(StudyError, match="cannot be used"):
        GridStore(text)
    others = tmp_path / "others.sqlite"
    with sqlite3.connect(others) as db:
        db.execute("CREATE TABLE x (a)")
    with pytest.raises(StudyError, match="not a grid"):
        GridStore(others)
    with sqlite3.connect(others) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("x",)]


def test_recipes_are_settings_that_are_not_averaged():
    slower = [
        replace(r, key=r.key + "2", recipe="learning_rate=3e-05", score=(r.score or 0) / 2)
        for r in RESULTS[:4]
    ]
    first, second = gains_by_setting([*RESULTS, *slower])
    assert (first[0]["recipe"], second[0]["recipe"]) == ("default", "learning_rate=3e-05")
    assert second[1].gain("s", "t") == pytest.approx(first[1].gain("s", "t") / 2)
    assert len(choose([*RESULTS, *slower], ["recipe=learning_rate=3e-05"])) == 4


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("scores", "no JSON", "Expecting value"),
        ("scores", "[0.5]", "scores: Input should be a valid dictionary"),
        ("scores", '{"f1": "high"}', "scores.f1: Input should be a valid number"),
        ("scores", b"\xff\x00", "cell 4 cannot be read"),
        ("scores", "[" * 100_000, "recursion"),
        ("made", "null", "made: Input should be a valid dictionary"),
        ("score", "high", "score: Input should be a valid number"),
        ("score", b"\x00", "score: Input should be a valid number"),
        ("size", None, "size: Input should be a valid integer"),
        ("target", None, "target: Input should be a valid string"),
    ],
)
def test_a_cell_that_is_none_is_refused_by_its_field(tmp_path, column, value, words):
    store = GridStore(tmp_path / "g.sqlite")
    store.put(RESULTS)
    with sqlite3.connect(store.path) as db:
        db.execute(f"UPDATE cells SET {column} = ? WHERE key = 'b'", (value,))
    with pytest.raises(StudyError) as caught:
        read_results(store.path)
    assert str(store.path) in caught.value.found
    assert words in caught.value.found


def test_a_cell_of_a_table_that_is_none_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = to_table(RESULTS)
    at = table.column_names.index("made")
    bad = table.set_column(at, "made", pa.array(["{"] * len(RESULTS)))
    pq.write_table(bad, tmp_path / "g.parquet")
    with pytest.raises(StudyError, match="cell 1 cannot be read"):
        read_results(tmp_path / "g.parquet")
