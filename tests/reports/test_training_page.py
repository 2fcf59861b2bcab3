"""A training's page: its numbers are those of result.json, and rows are those that changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from taskscout.reports.pages import Axis
from taskscout.reports.training_page import training_page
from taskscout.tasks import TaskCard
from taskscout.transfer.comparison import held_against
from taskscout.transfer.result import Transfer
from taskscout.transfer.train import Choice, TrainResult
from tests.reports.test_ranking_page import EVIL, Parsed
from tests.tiny import toy_task

TARGET = replace(toy_task("t", n=30, seed=3), label_names=("no", EVIL))
LABELS = TARGET.labels("test")
#: Rows that the runs without the source get wrong, and those through it.
WRONG_ALONE, WRONG_THROUGH = [0, 1, 2, 3], [3, 4]


def _run(strategy, seed, wrong):
    answers = LABELS.copy()
    answers[wrong] = 1 - answers[wrong]
    right = float((answers == LABELS).mean())
    both = sum(((answers == c) & (c == LABELS)).sum() * 2
               / ((answers == c).sum() + (c == LABELS).sum()) for c in (0, 1)) / 2  # fmt: skip
    scores = {"score": (right + both) / 2, "accuracy": right, "baseline": 0.25}
    return Transfer(
        "t", ("helper",) if strategy != "none" else (), strategy, "lora", seed, scores,
        {"score": 0.5}, trained_on=30, outputs=np.eye(2, dtype=np.float32)[answers],
    )  # fmt: skip


@pytest.fixture(scope="module")
def result():
    through = [_run("sequential", s, WRONG_THROUGH) for s in (0, 1)]
    alone = [_run("none", s, WRONG_ALONE) for s in (0, 1)]
    comparison = held_against(TARGET, through, alone)
    details = {"command": "taskscout train t.csv", "encoder": "tiny", "recipe": {"tuning": "lora"},
               "comparison": comparison.to_dict(), "target": {"name": EVIL}}  # fmt: skip
    card = TaskCard("helper", licence="MIT", homepage="javascript:alert(1)")
    return TrainResult(
        EVIL, "sequential", (card,), (*through, *alone), comparison,
        Choice("sequential", 0, "Handed over: by 5 validation rows."), Path("."), ("a note",), details,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(result):
    return Parsed(training_page(result, TARGET))


def test_numbers_are_those_of_the_result(page, result):
    data = json.loads(page.data)
    assert data == json.loads(json.dumps(result.details))
    drawn = [float(bar["data-difference"]) for bar in page.bars]
    told = data["comparison"]
    assert drawn == pytest.approx([*told["differences"], told["difference"]])
    dots = [float(a["style"].split()[1].rstrip("%;")) for t, a in page.tags if t == "u"]
    ends = [100 * e for e in told["interval"]]
    axis = Axis.over([0.0, *(100 * d for d in drawn), *ends])
    assert dots == pytest.approx([float(axis.at(100 * d).rstrip("%")) for d in drawn])


def test_rows_that_the_source_changes(page):
    text = " ".join("".join(page.text).split())
    texts = TARGET.inputs("test")[0]
    right, wrong = text.split("Put right by the sources")[1].split("Put wrong by the sources")
    wrong = wrong.split("What was read")[0]
    assert "3 of 30 test rows" in right
    assert "1 of 30 test rows" in wrong
    for row in (0, 1, 2):
        assert texts[row] in right
    assert texts[4] in wrong
    assert texts[3] not in right + wrong  # wrong either way


def test_confusion_counts_every_row_of_every_seed(page):
    cells = [int(t) for t in page.heat]
    assert len(cells) == 8
    assert sum(cells[:4]) == sum(cells[4:]) == 60
    through, alone = np.reshape(cells[:4], (2, 2)), np.reshape(cells[4:], (2, 2))
    assert np.trace(through) == 60 - 2 * len(WRONG_THROUGH)
    assert np.trace(alone) == 60 - 2 * len(WRONG_ALONE)


def test_text_stays_text_and_no_address_runs(page):
    assert "img" not in [t for t, _ in page.tags]
    assert f"Training {EVIL} through helper" in "".join(page.text)
    assert all(link.startswith("#") for link in page.links)
    assert [a["type"] for t, a in page.tags if t == "script"] == ["application/json"]


def test_one_seed_and_no_comparison(result):
    one = replace(
        result, comparison=None, runs=result.runs[:1], strategy="none", details={}, sources=()
    )
    text = "".join(Parsed(training_page(one, TARGET)).text)
    assert "Handed over: by 5 validation rows." in text
    assert "seed by seed" not in text
