"""Rankings that speak points: order, advice, filters, overlap, and what is said without gains."""

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
from rich.console import Console

from taskscout.errors import DataError, MethodError
from taskscout.forecasting import next_command
from taskscout.methods import DEFAULT
from taskscout.methods.calibration import Calibration
from taskscout.methods.expression import parse_method
from taskscout.methods.target_facts import FACTS, evidence_of, fact_values, target_facts
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.pools.calibrations import best_fitting
from taskscout.ranking import NONE, WITHOUT_LABELS, Ranking, rank
from taskscout.reports.terminal import show_ranking
from taskscout.tasks import Task
from tests.small import SOURCES, fresh_bench, small_calibration, source_task
from tests.tiny import toy_task

TARGET = toy_task("target", n=60, seed=21)


@pytest.fixture(scope="session")
def calibration(small_bench: Workbench) -> Calibration:
    return small_calibration(small_bench)


@pytest.fixture(scope="session")
def ranking(small_pool: Pool, small_bench: Workbench, calibration: Calibration) -> Ranking:
    return rank(TARGET, small_pool, bench=fresh_bench(small_bench), calibration=calibration)


def shown(ranking: Ranking, width: int = 200) -> str:
    out = io.StringIO()
    show_ranking(ranking, Console(file=out, width=width, highlight=False), top=10)
    return out.getvalue()


# -- points ------------------------------------------------------------------------------------


def test_rows_come_by_expected_gain_with_none_at_nothing(ranking: Ranking):
    expected = [r.gain.expected for r in ranking.sources if r.gain]
    assert expected == sorted(expected, reverse=True)
    assert len(expected) == len(SOURCES) + 1
    none = ranking.source(NONE).gain
    assert (none.expected, none.low, none.high) == (0.0, 0.0, 0.0)
    assert ranking.source("topics").rank > ranking.source(NONE).rank
    assert ranking[0].name == "reviews" == ranking.advice.source


def test_expected_gains_are_the_formula(
    ranking: Ranking, calibration: Calibration, small_pool: Pool, small_bench: Workbench
):
    c = calibration
    scores = {r.name: r.score for r in ranking.sources if r.name != NONE}
    mean, spread = np.mean(list(scores.values())), np.std(list(scores.values()))
    facts = target_facts(TARGET.for_choosing(), small_bench)
    told = np.clip((fact_values(facts) - c.centres) / c.scales, -3, 3)
    a, b, pair, kind, *rest = c.mean
    for row in ranking.sources:
        if row.name == NONE:
            continue
        card = small_pool.source(row.name).card
        # The target has one text and classes.
        alike = 0.5 if not card.pair else -0.5, 0.5 if card.kind != "regression" else -0.5
        place = c.sources.index(row.name)
        own = rest[len(FACTS) + place] - rest[len(FACTS) + len(c.sources) + place]
        value = a + b * (row.score - mean) / spread + pair * alike[0] + kind * alike[1] + own
        value += np.dot(rest[: len(FACTS)], told)
        assert row.gain.expected == pytest.approx(value, abs=1e-9)


def test_the_advised_row_says_what_the_advice_says(ranking: Ranking):
    advice, row = ranking.advice, ranking[0].gain
    assert (advice.low, advice.high, advice.chance) == (row.low, row.high, row.chance)
    assert advice.low < advice.expected < advice.high
    assert advice.command == "taskscout.train(target, sources=['reviews'], out='target-model')"
    assert repr(advice).startswith("Advice('reviews': 'Fine-tune on reviews first: +")
    assert "reviews +" in repr(ranking)


def test_a_filter_changes_no_forecast(
    ranking: Ranking, small_pool: Pool, small_bench: Workbench, calibration: Calibration
):
    few = rank(TARGET, small_pool, bench=fresh_bench(small_bench), calibration=calibration,
               exclude=["stars", "topics"])  # fmt: skip
    assert {r.name for r in few.sources} == {"reviews", "matching", NONE}
    for row in few.sources:
        assert row.gain.expected == pytest.approx(ranking.source(row.name).gain.expected)


def test_json_and_csv_have_gains_and_advice(ranking: Ranking):
    data = json.loads(ranking.to_json())
    assert set(data["advice"]) == {
        "source", "expected", "low", "high", "chance", "sentence", "command"
    }  # fmt: skip
    assert set(data["sources"][0]["gain"]) == {"expected", "low", "high", "chance"}
    assert {s["name"]: s["gain"]["chance"] for s in data["sources"]}[NONE] is None
    assert data["calibration"]["methods"] == [DEFAULT]
    rows = list(csv.DictReader(io.StringIO(ranking.to_csv())))
    assert float(rows[0]["gain"]) == ranking[0].gain.expected
    assert float(rows[0]["gain:low"]) == ranking[0].gain.low
    assert list(rows[0])[:6] == ["rank", "name", "gain", "gain:low", "gain:high", "gain:chance"]


def test_the_terminal_shows_gains_and_ends_with_what_to_do(ranking: Ranking):
    for width in (80, 200):
        lines = shown(ranking, width).splitlines()
        head = next(line for line in lines if " gain " in line)
        assert head.split()[:6] == ["#", "source", "gain", "80%", "chance", "score"]
        assert max(map(len, lines)) <= width
        row = next(line for line in lines if line.split()[:2] == ["1", "reviews"])
        assert f"{ranking[0].gain.expected:+.1f}" in row
    assert lines[-2] == ranking.advice.sentence  # 200 columns hold it
    assert lines[-1] == ranking.advice.command
    assert "12 targets of 60 examples" in lines[-3]
    assert "full fine-tuning" in lines[-3]


# -- what the advice keeps away from -----------------------------------------------------------


def test_a_source_that_holds_the_texts_is_flagged_and_not_advised(
    small_pool: Pool, small_bench: Workbench, calibration: Calibration
):
    copy = replace(source_task("reviews"), name="copy")
    found = rank(copy, small_pool, bench=small_bench, calibration=calibration)
    assert found.source("reviews").overlap > 0.9
    assert found.advice.source != "reviews"
    assert "reviews" not in found.advice.command


def test_a_source_that_holds_only_the_test_rows_is_not_advised_either(
    small_pool: Pool, small_bench: Workbench, calibration: Calibration
):
    mixed = replace(TARGET, tables={
        "train": TARGET.tables["train"], "test": source_task("reviews").tables["train"],
    })  # fmt: skip
    found = rank(mixed, small_pool, bench=small_bench, calibration=calibration)
    assert found.source("reviews").overlap > 0.9
    assert found.advice.source != "reviews"
    # What test rows say has no part in any score.
    clean = rank(TARGET, small_pool, bench=small_bench, calibration=calibration)
    assert {r.name: r.score for r in found.sources} == {r.name: r.score for r in clean.sources}


def test_test_rows_among_the_training_rows_are_said(small_pool: Pool, small_bench: Workbench):
    test = TARGET.tables["test"]
    leaky = replace(TARGET, tables={
        "train": pa.concat_tables([TARGET.tables["train"], test.slice(0, 7)]), "test": test,
    })  # fmt: skip
    notes = rank(leaky, small_pool, bench=small_bench).notes
    assert any(note.startswith("7 of 60 texts of the test rows are training") for note in notes)
    assert not any(
        "training texts too" in n for n in rank(TARGET, small_pool, bench=small_bench).notes
    )


def test_labels_that_no_text_explains_get_no_gains_and_no_source(
    small_pool: Pool, small_bench: Workbench, calibration: Calibration
):
    rng = np.random.default_rng(3)
    table = TARGET.tables["train"]
    mixed = table.set_column(1, "label", table["label"].take(pa.array(rng.permutation(60))))
    found = rank(replace(TARGET, tables={"train": mixed}), small_pool, bench=small_bench,
                 calibration=calibration)  # fmt: skip
    assert found.advice.source is None
    assert found.advice.sentence.startswith("Train directly: no source is expected to gain more")
    assert found.advice.to_dict()["expected"] is None
    assert found.forecast is None
    assert all(r.gain is None for r in found.sources)
    assert 'strategy="none"' in found.advice.command


def test_evidence_is_counted_from_what_nothing_explains(small_bench: Workbench):
    method = parse_method(DEFAULT)
    y = TARGET.labels("train").astype(float)
    y -= y.mean()
    n = len(y)
    # A centred Gaussian of n - 1 degrees of freedom at its most likely variance.
    nothing = -(n - 1) / (2 * n) * (math.log(2 * math.pi * (y @ y) / (n - 1)) + 1)
    assert evidence_of(TARGET, method, np.array([nothing])) == pytest.approx(0, abs=1e-6)
    one = evidence_of(TARGET, method, np.array([nothing - 1, nothing + 0.25, math.nan]))
    assert one == pytest.approx(0.25 * n)
    assert math.isnan(evidence_of(TARGET, parse_method("size"), np.array([1.0])))


# -- where there is no calibration ---------------------------------------------------------------


def test_without_a_calibration_it_says_how_to_make_one(small_pool: Pool, small_bench: Workbench):
    plain = rank(TARGET, small_pool, bench=small_bench)
    assert plain.advice is None
    assert plain.forecast is None
    assert "taskscout study calibrate GRID --out FILE" in plain.about_gains
    text = shown(plain)
    assert plain.about_gains in text.replace("\n", "")
    assert "gain" not in text.splitlines()[2].split()
    assert plain.to_dict()["advice"] is None
    off = rank(TARGET, small_pool, bench=small_bench, calibration="none")
    assert off.about_gains == ""


def test_a_calibration_beside_the_pool_is_found(
    tmp_path: Path, small_pool: Pool, small_bench: Workbench, calibration: Calibration
):
    import shutil

    shutil.copytree(small_pool.folder, tmp_path / "pool")
    folder = tmp_path / "pool" / "calibrations"
    folder.mkdir()
    calibration.save(folder / "mine.safetensors")
    pool = Pool.open(tmp_path / "pool")
    assert pool.verify() == []
    assert rank(TARGET, pool, bench=small_bench).advice.source == "reviews"
    other = rank(TARGET, pool, "esm-logme", bench=small_bench)
    assert other.about_gains == f"No gains are shown: they are forecast from scores of {DEFAULT}."


def test_a_calibration_of_another_encoder_or_kind_is_refused(
    tmp_path: Path, small_pool: Pool, small_bench: Workbench
):
    for setting in ({"encoder": "other"}, {"kinds": ["tagging"]}):
        path = tmp_path / "c.safetensors"
        small_calibration(small_bench, **setting).save(path)
        with pytest.raises(MethodError, match="does not fit"):
            rank(TARGET, small_pool, bench=small_bench, calibration=path)
    with pytest.raises(DataError):
        rank(TARGET, small_pool, bench=small_bench, calibration=tmp_path / "missing")


def test_a_calibration_given_has_its_methods_asked(
    small_pool: Pool, small_bench: Workbench, calibration: Calibration
):
    found = rank(TARGET, small_pool, "esm-logme", bench=small_bench, calibration=calibration)
    assert found.methods == ("esm-logme", DEFAULT)
    assert found.advice.source == "reviews"


def test_the_size_that_is_nearest_by_ratio_fits_best(calibration: Calibration):
    def of(size: int, methods: tuple[str, ...] = (DEFAULT,)) -> Calibration:
        return replace(calibration, methods=methods, setting={**calibration.setting, "size": size})

    all_sizes = [of(50), of(200), of(1000), of(200, ())]
    where = {"encoder": calibration.setting["encoder"], "kind": "classification"}
    for rows, size in ((20, 50), (99, 50), (101, 200), (440, 200), (460, 1000)):
        fitting = best_fitting(all_sizes, **where, rows=rows, methods=(DEFAULT,))
        assert fitting.setting["size"] == size
        assert fitting.methods == (DEFAULT,)
    assert best_fitting(all_sizes, **where, rows=200, methods=()).methods == ()
    assert best_fitting(all_sizes, **where, rows=200, methods=("size",)) is None


def test_a_far_size_is_said(small_pool: Pool, small_bench: Workbench):
    far = small_calibration(small_bench, size=1000)
    said = rank(TARGET, small_pool, bench=small_bench, calibration=far).about_gains
    assert "1000 examples, and this one has 60" in said


@pytest.mark.parametrize(
    ("source", "typed", "command"),
    [
        ("a", "my.csv --label y", "taskscout train my.csv --label y --sources a --out my-model"),
        (None, "my.csv", "taskscout train my.csv --strategy none --out my-model"),
        (None, "", "taskscout.train(target, strategy=\"none\", out='my-model')"),
    ],
)
def test_next_command(source: str | None, typed: str, command: str):
    assert next_command(source, typed, "my") == command


def test_without_labels_cards_and_other_targets_speak(small_pool: Pool, small_bench: Workbench):
    texts = TARGET.inputs("train")[0]
    bare = Task("bare", "classification", {
        "test": pa.table({"text": texts, "label": pa.nulls(60, pa.int64())})
    })  # fmt: skip
    blind = small_calibration(small_bench, methods=())
    found = rank(bare, small_pool, bench=small_bench, calibration=blind, typed="bare.csv")
    assert found.methods[0] in WITHOUT_LABELS
    assert found.advice.source == "reviews"
    assert found.advice.command == "taskscout rank bare.csv"
    assert "Without labels" in found.about_gains
    assert "Label fifty rows" in found.about_gains
    labelled = rank(TARGET, small_pool, bench=small_bench,
                    calibration=small_calibration(small_bench))  # fmt: skip
    assert labelled.advice.high - labelled.advice.low < found.advice.high - found.advice.low
    # More rows than are read, and no calibration.
    few = rank(bare, small_pool, bench=small_bench, examples=20)
    assert (few.rows, few.advice) == (20, None)
