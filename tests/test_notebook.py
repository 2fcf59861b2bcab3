"""In a notebook: small tables, every text escaped; and the same things as frames and dictionaries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import taskscout
from taskscout.models.workbench import Workbench
from taskscout.notebook import table_html
from taskscout.pools import Pool
from taskscout.studies.store import CellResult, GridStore
from taskscout.tasks import Task
from taskscout.transfer.result import Transfer
from taskscout.transfer.train import Choice, TrainResult
from tests.reports.test_ranking_page import EVIL, Parsed
from tests.small import SOURCES
from tests.tiny import toy_task


def shown(thing) -> str:
    """The text of what a notebook shows, which has to be well-formed and harmless."""
    html = thing._repr_html_()
    parsed = Parsed(html)
    assert {tag for tag, _ in parsed.tags} <= {
        "div", "p", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert len(repr(thing)) < 300
    return " ".join(parsed.text)


def test_table():
    text = Parsed(table_html("a < b", ["n", "x"], [[1200, 0.5], [None, EVIL]])).text
    assert text == ["a < b", "n", "x", "1,200", "0.5000", "–", EVIL]


def test_task():
    task = replace(toy_task("t", n=10), label_names=("bad", EVIL))
    text = shown(task)
    assert "10" in text
    frame = task.to_pandas()
    assert list(frame.columns) == ["split", "text", "label"]
    assert frame["split"].value_counts().to_dict() == {"train": 10, "test": 10}
    labels = [task.label_names[i] for i in task.labels("train")]
    assert frame[frame.split == "train"]["label"].tolist() == labels
    data = json.loads(json.dumps(task.to_dict()))
    assert data["rows"] == {"train": 10, "test": 10}
    assert data["label_names"] == ["bad", EVIL]


def test_pool(small_pool: Pool):
    text = shown(small_pool)
    assert all(name in text for name in SOURCES)
    frame = small_pool.to_pandas().set_index("name")
    assert sorted(frame.index) == sorted(SOURCES)
    source = small_pool.source("reviews")
    assert frame.loc["reviews", "test_score"] == source.tuning["scores"]["score"]
    assert frame.loc["reviews", "rows"] == sum(source.card.rows.values())
    data = json.loads(json.dumps(small_pool.to_dict()))
    assert [s["name"] for s in data["sources"]] == list(small_pool.names)


def test_rankings_take_what_people_hold(small_pool: Pool, small_bench: Workbench, tmp_path: Path):
    import pandas as pd

    rows = toy_task(n=30, seed=8).tables["train"].to_pylist()
    rows = [{"text": r["text"], "label": ("bad", "good")[r["label"]]} for r in rows]
    frame = pd.DataFrame(rows)
    file = tmp_path / "rows.csv"
    frame.to_csv(file, index=False)
    scores = [
        {r.name: r.score for r in taskscout.rank(
            data, small_pool, "esm-logme", bench=small_bench).sources}
        for data in (file, str(file), frame, rows, Task.of(rows))
    ]  # fmt: skip
    assert len(scores[0]) == 5
    assert all(s == scores[0] for s in scores)
    ranking = taskscout.rank(frame, small_pool, "esm-logme", bench=small_bench)
    text = shown(ranking)
    assert all(name in text for name in (*SOURCES, "none"))


def test_training():
    runs = tuple(
        Transfer("t", (), "none", "lora", s, {"score": 0.5 + s / 10, "accuracy": 0.6},
                 {"score": 0.4}, seconds=1.0) for s in (0, 1)
    )  # fmt: skip
    result = TrainResult(
        EVIL, "none", (), runs, None, Choice("none", 0, "As asked."), Path("."), details={"a": 1}
    )
    assert "As asked." in shown(result)
    frame = result.to_pandas()
    assert frame["seed"].tolist() == [0, 1]
    np.testing.assert_allclose(frame["score"], [0.5, 0.6])
    assert frame["validation_score"].tolist() == [0.4, 0.4]
    assert result.to_dict() == {"a": 1}


def test_grid(tmp_path: Path):
    store = GridStore(tmp_path / "grid.sqlite")
    cells = [CellResult(f"k{i}", "none", EVIL, "e", "none", "lora", 200, i, 0.5, {"score": 0.5})
             for i in range(3)]  # fmt: skip
    store.put(cells)
    assert "3" in shown(store)
    frame = store.to_pandas()
    assert frame["seed"].tolist() == [0, 1, 2]
    assert frame["target"].tolist() == [EVIL] * 3
    data = json.loads(json.dumps(store.to_dict()))
    assert [c["key"] for c in data["cells"]] == ["k0", "k1", "k2"]


@pytest.mark.parametrize("data", [[], 3, [1, 2]])
def test_what_holds_no_rows_is_refused(data):
    with pytest.raises(taskscout.TaskscoutError):
        Task.of(data)
