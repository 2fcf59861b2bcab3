from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskscout.errors import DataError
from taskscout.tasks.catalogue import FAMILIES, Catalogue, commercial_use

Refused = Callable[[Callable[[], Any]], DataError]

ENTRY = {
    "category": "sentiment",
    "domain": "films",
    "licence": "CC BY 4.0 (README)",
    "licence_concern": None,
    "citation": "Nobody 2020",
    "homepage": "https://example.org",
    "hf_hub_id": "nobody/films:long",
    "notes": "small",
    "label_names": None,
    "shares_texts_with": {},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue of three tiny tasks."""
    (tmp_path / "tasks").mkdir()
    splits = ["train"] * 4 + ["test"] * 2
    nulls = pa.nulls(6, pa.string())
    texts = [f"text {i}" for i in range(6)]
    tables = {
        "films": {"split": splits, "text": texts, "text_pair": nulls,
                  "label": pa.array([0, 1] * 3, pa.int32())},
        "alike": {"split": splits, "text": texts, "text_pair": texts[::-1],
                  "label": pa.array([0.1, 3.6] * 3, pa.float32())},
        "spans": {"split": splits, "question": texts, "context": texts,
                  "answer_text": ["t"] * 5 + [""],
                  "answer_start": pa.array([0] * 5 + [-1], pa.int32())},
    }  # fmt: skip
    kinds = {"films": "classification", "alike": "regression", "spans": "extractive_qa"}
    entries: dict[str, dict[str, Any]] = {
        name: {**ENTRY, "task_id": name, "kind": kinds[name], "file": f"tasks/{name}.parquet"}
        for name in tables
    }
    entries["films"] |= {"label_names": ["bad", "good"], "shares_texts_with": {"alike": 0.5}}
    entries["alike"] |= {"category": "semantic similarity", "hf_hub_id": None,
                         "licence_concern": "material of the LDC"}  # fmt: skip
    entries["spans"] |= {"category": "a new one", "hf_hub_id": "nobody/spans (related)"}
    for name, table in tables.items():
        pq.write_table(pa.table(table), tmp_path / entries[name]["file"])
    (tmp_path / "tasks.json").write_text(json.dumps({"tasks": list(entries.values())}))
    return tmp_path


def test_a_catalogue_opens_by_folder_or_file(folder: Path) -> None:
    catalogue = Catalogue.open(folder)
    assert catalogue.names == tuple(catalogue) == ("films", "alike", "spans")
    assert len(Catalogue.open(folder / "tasks.json")) == 3


def test_tasks_have_their_kinds_splits_and_types(folder: Path) -> None:
    catalogue = Catalogue.open(folder)
    films = catalogue.task("films")
    assert films.label_names == ("bad", "good")
    assert films.card.rows == {"train": 4, "test": 2}
    assert not films.is_pair
    assert films.labels("test").dtype == np.int64
    alike = catalogue.task("alike")
    assert alike.is_pair
    assert alike.labels("test").tolist() == [0.1, 3.6]
    assert catalogue.task("spans").kind == catalogue.kind("spans") == "span_qa"


def test_cards_say_where_a_task_comes_from(folder: Path) -> None:
    catalogue = Catalogue.open(folder)
    card = catalogue.task("films").card
    assert (card.category, card.domain, card.commercial) == ("sentiment", "films", "yes")
    assert card.load == 'datasets.load_dataset("nobody/films", "long")'
    assert card.hub_id == "nobody/films"
    assert card.notes.startswith("small; the hub's rows")
    alike = catalogue.card("alike")
    assert (alike.hub_id, alike.load) == ("", "https://example.org")
    assert (alike.licence_note, alike.commercial) == ("material of the LDC", "unstated")
    spans = catalogue.card("spans")
    assert (spans.hub_id, spans.load) == ("", "https://example.org")
    assert "related on the hub: nobody/spans" in spans.notes


def test_families_withholding_and_shared_texts(folder: Path) -> None:
    catalogue = Catalogue.open(folder)
    families = [catalogue.family(name) for name in catalogue]
    assert families == ["sentiment", "similarity", "a new one"]
    assert catalogue.withheld("alike") == "material of the LDC"
    assert catalogue.withheld("films") is None
    assert catalogue.shares_texts_with("films") == {"alike": 0.5}
    assert catalogue.shares_texts_with("spans") == {}


def test_find_goes_by_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setenv("TASKSCOUT_DATA", str(folder))
    assert len(Catalogue.find()) == 3
    monkeypatch.delenv("TASKSCOUT_DATA")
    error = refused(Catalogue.find)
    assert "TASKSCOUT_DATA is not set" in error.found
    assert "tasks.json" in error.remedy


def test_an_unknown_task_is_refused_with_close_names(folder: Path, refused: Refused) -> None:
    error = refused(lambda: Catalogue.open(folder).task("film"))
    assert "no task 'film'" in error.found
    assert "films" in error.why


def test_a_missing_or_wrong_catalogue_is_refused(tmp_path: Path, refused: Refused) -> None:
    error = refused(lambda: Catalogue.open(tmp_path))
    assert f"No catalogue at {tmp_path / 'tasks.json'}" in error.found
    for content in ("{", "[]", '{"tasks": [{}]}'):
        (tmp_path / "tasks.json").write_text(content)
        assert "is not a catalogue" in refused(lambda: Catalogue.open(tmp_path)).found


def test_a_missing_file_of_a_task_is_refused(folder: Path, refused: Refused) -> None:
    (folder / "tasks" / "films.parquet").unlink()
    error = refused(lambda: Catalogue.open(folder).task("films"))
    assert "films.parquet cannot be read" in error.found


@pytest.mark.parametrize(
    ("licence", "concern", "expected"),
    [
        ("MIT (repository LICENSE)", None, "yes"),
        ("CC BY-SA 4.0 (README)", None, "yes"),
        ("CC0 1.0 (repository LICENSE)", None, "yes"),
        ("Apache-2.0 (repository LICENSE); Microsoft Academic Graph: ODC-BY", None, "yes"),
        ("not stated", None, "unstated"),
        ("MIT (repository LICENSE); dataset terms not stated", None, "unstated"),
        ("MIT (repository LICENSE); Twitter terms may apply", None, "unstated"),
        ("MIT (repository LICENSE)", "third-party copy; no licence file", "unstated"),
        ("", None, "unstated"),
        ("CC BY-NC-SA 3.0 (data readme)", "non-commercial", "no"),
        ("not stated in the TaskWeb repository (WiC: CC BY-NC 4.0)", None, "no"),
        ("texts CC BY 2.5 / CC BY-NC-SA 3.0", None, "no"),
        ("not stated", "distributed for research only", "no"),
        ("Microsoft Research licence (LICENSE.pdf)", "Microsoft Research licence", "no"),
    ],
)
def test_commercial_use(licence: str, concern: str | None, expected: str) -> None:
    assert commercial_use(licence, concern) == expected


# -- the real catalogue ---------------------------------------------------------------------


@pytest.mark.data
def test_every_task_of_the_catalogue_loads(catalogue: Catalogue) -> None:
    assert len(catalogue) == 116
    for name in catalogue:
        entry = catalogue.entry(name)
        task = catalogue.task(name)
        assert task.name == name
        assert dict(task.card.rows) == entry["n"]
        assert task.label_names == tuple(entry["label_names"] or ())
        assert task.splits == ("train", "validation", "test")
        texts, pairs = task.inputs("test")
        assert all(t.strip() for t in texts)
        assert pairs is None or len(pairs) == len(texts)
        if task.kind == "classification":
            assert set(task.labels("train").tolist()) <= set(range(task.n_classes))
        if task.kind == "regression":
            assert np.isfinite(task.labels("train")).all()


@pytest.mark.data
def test_every_category_of_the_catalogue_has_a_family(catalogue: Catalogue) -> None:
    assert {catalogue.entry(name)["category"] for name in catalogue} <= set(FAMILIES)


@pytest.mark.data
def test_what_the_catalogue_withholds(catalogue: Catalogue) -> None:
    assert {name for name in catalogue if catalogue.withheld(name)} == {
        "atis_intent", "atis_slots", "mctest", "mrpc", "stsb", "swda_dialogue_act",
        "trecqa_answer_selection",
    }  # fmt: skip


@pytest.mark.data
def test_the_readers_see_the_same_tasks_in_the_files(catalogue: Catalogue) -> None:
    from taskscout.tasks import Task

    for name in ("sst2", "mnli", "emobank_valence", "btc_ner", "xquad_en", "copa"):
        task = catalogue.task(name)
        read = Task.from_file(catalogue.folder / catalogue.entry(name)["file"])
        assert read.kind == task.kind
        assert read.card.rows == task.card.rows
        assert read.inputs("test") == task.inputs("test")
