from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from taskscout.errors import DataError
from taskscout.models.objectives.tagging import are_entities
from taskscout.tasks import Task
from taskscout.tasks.checks import canonical

from .conftest import Rows, reviews

read_dataset = Task.from_dataset

Refused = Callable[[Callable[[], Any]], DataError]


def read(rows: Rows | dict[str, Any], **options: Any) -> Task:
    table = pa.Table.from_pylist(rows) if isinstance(rows, list) else pa.table(rows)
    return read_dataset(table, name="made", **options)


def with_row(row: int, n: int = 12, **cells: Any) -> Rows:
    rows = reviews(n)
    rows[row] |= cells
    return rows


def said(task: Task, *words: str) -> bool:
    return any(all(w in note for w in words) for note in task.notes)


def column(task: Task, name: str) -> list[Any]:
    return [v for s in task.splits for v in task.column(s, name)]


# -- labels of classification ----------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg", "mid"], ("mid", "neg", "pos")),
        (["10", "9", "1"], ("1", "9", "10")),
        ([10, 9, 1], ("1", "9", "10")),
        ([True, False, True], ("false", "true")),
        (["TRUE", "False", "true"], ("false", "true")),
        (["TRUE", "FALSE", "TRUE"], ("FALSE", "TRUE")),
        (["True", "False", "False"], ("False", "True")),
        (["3.1", "3.10", "4.0"], ("3.1", "3.10", "4.0")),
        (["3.2", "3.10", "4.0"], ("3.10", "3.2", "4.0")),
        (["4E2", "7E1", "400"], ("400", "4E2", "7E1")),
        (["+1", "1", "0"], ("+1", "0", "1")),
        (["5", "5.0", "5.00"], ("5", "5.0", "5.00")),
        (["040", "400", "410"], ("040", "400", "410")),
        (["007", "08", "9"], ("007", "08", "9")),
        ([" a", "a ", "b"], ("a", "b")),
        ([0, 7, 3], ("0", "3", "7")),
        ([1, -1, 1], ("-1", "1")),
    ],
)
def test_labels_become_ids_with_their_names_kept(labels: list[Any], names: tuple[str]) -> None:
    rows = [{"text": f"text {i}", "label": labels[i % 3]} for i in range(30)]
    task = read(rows)
    assert task.label_names == names
    assert set(column(task, "label")) == set(range(len(names)))


def test_floats_become_classes_where_the_user_says_so() -> None:
    rows = [{"text": f"text {i}", "stars": float(i % 3 + 1)} for i in range(30)]
    assert read(rows, kind="classification").label_names == ("1", "2", "3")
    rows = [{"text": f"text {i}", "stars": (0.5, 1.0)[i % 2]} for i in range(30)]
    assert read(rows, kind="classification").label_names == ("0.5", "1")


def test_categories_of_pandas_are_labels() -> None:
    labels = pa.array([("a", "b")[i % 2] for i in range(12)]).dictionary_encode()
    task = read({"text": [f"text {i}" for i in range(12)], "label": labels})
    assert task.label_names == ("a", "b")


def test_class_names_are_taken_from_a_column_beside_the_ids() -> None:
    rows = [{**r, "label_text": r["label"], "label": i % 2} for i, r in enumerate(reviews())]
    assert read(rows).label_names == ("bad", "good")
    rows[0]["label_text"] = "good"  # no longer one to one
    assert read(rows).label_names == ("0", "1")


def test_a_list_with_one_label_is_that_label() -> None:
    rows = [{"text": f"text {i}", "labels": [i % 3]} for i in range(12)]
    assert read(rows).label_names == ("0", "1", "2")


def test_several_labels_per_row_are_refused(refused: Refused) -> None:
    rows = [{"text": f"text {i}", "labels": [i % 3]} for i in range(12)]
    rows[4]["labels"] = [0, 2]
    error = refused(lambda: read(rows))
    assert "column `labels`: several labels or none in 1 row; row 5 holds [0, 2]" in error.found
    assert "one label per example" in error.why
    assert "exactly one label" in error.remedy


def test_one_class_is_refused(refused: Refused) -> None:
    error = refused(lambda: read([{**r, "label": "good"} for r in reviews()]))
    assert "column `label`: all 12 rows have the label 'good'" in error.found
    assert "one class only" in error.why
    assert "--label" in error.remedy


def test_one_code_among_many_plain_ones_keeps_all_of_them_words() -> None:
    rows = [{"text": f"text {i}", "label": f"{i % 10}1"} for i in range(60)]
    assert "01" in read(rows).label_names  # six codes of 60 begin with a zero
    rows = [{"text": f"text {i}", "label": f"{i % 4 + 1}.{i % 4}"} for i in range(60)]
    assert read(rows).kind == "regression"
    rows[7]["label"] = rows[11]["label"] = "4.30"
    task = read(rows)
    assert task.label_names == ("1.0", "2.1", "3.2", "4.3", "4.30")
    assert said(task, "are read as words", "--task-kind regression")
    assert read(rows, kind="regression").kind == "regression"


def test_classes_that_the_user_wants_of_numbers_keep_their_spelling() -> None:
    rows = [{"text": f"text {i}", "stars": ("1.0", "1.5", "2,5")[i % 3]} for i in range(30)]
    assert read(rows, kind="classification").label_names == ("1.0", "1.5", "2,5")


@pytest.mark.parametrize(
    ("written", "low", "high"),
    [
        (["0,25", "1,5", "3"], 0.25, 3),
        (["0,125", "4,500", "2,250"], 0.125, 4.5),
        (["1.250,5", "-7,25", "0,0"], -7.25, 1250.5),
        (["5%", "100 %", "20%"], 5, 100),
        (["2,5%", "10%", "0%"], 0, 10),
        (["1,250,000", "3,500", "900"], 900, 1_250_000),
        (["1,250.5", "3,500.0", "900"], 900, 3500),
    ],
)
def test_numbers_as_people_write_them(written: list[str], low: float, high: float) -> None:
    task = read([{"text": f"text {i}", "score": written[i % 3]} for i in range(30)])
    assert task.kind == "regression"
    assert (min(column(task, "label")), max(column(task, "label"))) == (low, high)
    assert said(task, "`score`", "decimal commas") or said(task, "`score`", "commas are read") \
        or said(task, "`score`", "percent signs are left out")  # fmt: skip


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (["1,000", "2,500", "3,125"], "the comma of '1,000' may separate thousands or decimals"),
        (["0,5", "1.5", "2,5"], "'0,5' has a decimal comma, '1.5' a decimal point"),
        (["5%", "20", "30%"], "some have a percent sign and some have none"),
    ],
)
def test_numbers_that_read_in_two_ways_are_refused(
    refused: Refused, written: list[str], why: str
) -> None:
    rows = [{"text": f"text {i}", "score": written[i % 3]} for i in range(30)]
    for options in ({}, {"kind": "regression"}):
        error = refused(lambda options=options: read(rows, **options))
        assert why in error.found
        assert "column `score`" in error.found
        assert "drop" not in error.remedy
    assert read(rows, kind="classification").label_names == tuple(sorted(written))


@pytest.mark.parametrize("sign", ["-", "--", "?", "\u2014"])
def test_a_sign_for_no_label_among_words_is_asked_about(refused: Refused, sign: str) -> None:
    rows = with_row(3, label=sign)
    rows[8]["label"] = sign
    error = refused(lambda: read(rows))
    assert "no label in 2 rows of 12 (rows 4 and 9)" in error.found
    assert f"{sign!r} marks no label" in error.why
    assert "--drop-unlabelled" in error.remedy
    assert "--task-kind classification" in error.remedy
    task = read(rows, drop_unlabelled=True)
    assert task.label_names == ("bad", "good")
    assert said(task, "2 rows without a label left out")
    assert read(rows, kind="classification").label_names == tuple(sorted(("bad", "good", sign)))


@pytest.mark.parametrize("labels", [("-", "+", "0"), ("-", "spam", "spam"), ("-", "+", "+")])
def test_a_minus_beside_a_plus_or_one_word_is_a_class(labels: tuple[str, ...]) -> None:
    rows = [{"text": f"text {i}", "label": labels[i % 3]} for i in range(30)]
    assert "-" in read(rows).label_names


def test_a_split_of_signs_for_no_label_is_left_out() -> None:
    train, test = reviews(20), [{"text": f"later {i}", "label": "-"} for i in range(5)]
    task = read_dataset({"train": pa.Table.from_pylist(train), "test": pa.Table.from_pylist(test)})
    assert len(task) == 20
    assert said(task, "split 'test' left out", "'-' throughout marks no label")


@pytest.mark.parametrize("label", [None, "", "  ", "NaN"])
def test_missing_labels_are_counted_and_can_be_dropped(refused: Refused, label: Any) -> None:
    rows = with_row(3, label=label)
    rows[8]["label"] = label
    error = refused(lambda: read(rows))
    assert "column `label`: no label in 2 rows of 12 (rows 4 and 9)" in error.found
    assert "neither learnt from nor scored" in error.why
    assert "--drop-unlabelled (drop_unlabelled=True in Python)" in error.remedy
    task = read(rows, drop_unlabelled=True)
    assert len(task) == 10
    assert said(task, "2 rows without a label left out", "rows 4 and 9")


def test_many_missing_labels_are_not_all_listed(refused: Refused) -> None:
    rows = [{**r, "label": None} if i > 100 else r for i, r in enumerate(reviews(3000))]
    error = refused(lambda: read(rows))
    assert "no label in 2,899 rows of 3,000" in error.found
    assert "(rows 102, 103, 104, 105, 106, 107, 108, 109 and 2,891 more)" in error.found


def test_no_label_at_all_is_refused(refused: Refused) -> None:
    rows = [{**r, "label": None, "n": i} for i, r in enumerate(reviews())]
    error = refused(lambda: read(rows))
    assert "column `label`: no row has a label" in error.found
    assert "--label" in error.remedy


def test_minus_one_is_a_hidden_label_unless_the_user_says_otherwise(refused: Refused) -> None:
    rows = [{"text": f"text {i}", "label": i % 3 - 1} for i in range(12)]
    error = refused(lambda: read(rows))
    assert "no label in 4 rows of 12 (rows 1, 4, 7 and 10)" in error.found
    assert "-1 marks a hidden label" in error.why
    assert "--drop-unlabelled" in error.remedy
    assert "--task-kind classification" in error.remedy
    assert read(rows, drop_unlabelled=True).label_names == ("0", "1")
    assert read(rows, kind="classification").label_names == ("-1", "0", "1")


def test_a_split_without_labels_is_left_out_and_it_is_said() -> None:
    def table(labels: list[Any]) -> pa.Table:
        texts = [f"text {labels[0]} {i}" for i in range(len(labels))]
        return pa.table({"text": texts, "label": pa.array(labels, pa.int64())})

    for hidden in ([-1] * 5, [None] * 5):
        splits = {"train": table([0, 1] * 5), "dev": table([1, 0] * 2), "test": table(hidden)}
        task = read_dataset(splits)
        assert task.card.rows == {"train": 10, "validation": 4}
        assert said(task, "split 'test' left out", "5 rows")


def test_a_class_with_one_example_is_refused_by_name(refused: Refused) -> None:
    rows = with_row(3, label="odd")
    error = refused(lambda: read(rows))
    assert "1 class has fewer than two examples: 'odd' (row 4)" in error.found
    assert "both learnt from and tested on" in error.why
    assert "--drop-rare" in error.remedy
    task = read(rows, drop_rare=True)
    assert task.label_names == ("bad", "good")
    assert len(task) == 11
    assert said(task, "'odd'", "left out")


def test_dropping_rare_classes_must_leave_two(refused: Refused) -> None:
    rows = [{**r, "label": "one" if i else "odd"} for i, r in enumerate(reviews())]
    error = refused(lambda: read(rows, drop_rare=True))
    assert "1 class left" in error.found


@pytest.mark.parametrize("n", [12, 400])
def test_a_label_column_of_unique_strings_is_refused(refused: Refused, n: int) -> None:
    rows = [{**r, "label": f"label {i}"} for i, r in enumerate(reviews(n))]
    if n > 20:
        rows[0]["label"] = rows[1]["label"]
    error = refused(lambda: read(rows))
    assert f"different labels in {n} rows" in error.found
    assert "a text or an id, not a label" in error.why
    assert "--label" in error.remedy


def test_declared_class_names_are_kept_in_their_order() -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(12)]
    task = read_dataset(Dataset.from_list(rows, features=features))
    assert task.label_names == ("neg", "pos")


def test_an_id_without_a_declared_name_is_refused(refused: Refused) -> None:
    import json

    info = {"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}
    rows = [{"text": f"text {i}", "label": i % 3} for i in range(12)]
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(info)})
    error = refused(lambda: read_dataset(table))
    assert "row 3 has the label 2" in error.found
    assert "declares 2 classes" in error.why


# -- labels of regression --------------------------------------------------------------


def numbers(n: int = 12) -> Rows:
    return [{"text": f"text {i}", "score": i / 7} for i in range(n)]


def test_float_labels_mean_regression() -> None:
    task = read(numbers())
    assert task.kind == "regression"
    assert task.label_names == ()
    assert task.labels("train").dtype == np.float64
    assert "numbers from 0 to 1.57143" in task.notes[0]


def test_integers_are_numbers_where_the_user_says_so() -> None:
    rows = [{"text": f"text {i}", "stars": i % 5} for i in range(30)]
    assert read(rows).kind == "classification"
    assert read(rows, kind="regression").kind == "regression"
    assert -1.0 in column(
        read([{**r, "stars": r["stars"] - 1} for r in rows], kind="regression"), "label"
    )


def test_nan_labels_are_missing_labels(refused: Refused) -> None:
    rows = numbers()
    rows[4]["score"] = math.nan
    error = refused(lambda: read(rows))
    assert "no label in 1 row of 12 (row 5)" in error.found
    assert "--drop-unlabelled" in error.remedy
    assert len(read(rows, drop_unlabelled=True)) == 11


def test_infinite_labels_are_refused(refused: Refused) -> None:
    rows = numbers()
    rows[4]["score"] = -math.inf
    error = refused(lambda: read(rows))
    assert "column `score`: an infinite label in 1 row (row 5)" in error.found
    assert "infinite number" in error.why


def test_equal_numbers_are_refused(refused: Refused) -> None:
    error = refused(lambda: read([{**r, "score": 0.5} for r in numbers()], label="score"))
    assert "every row has the label 0.5" in error.found
    assert "nothing to predict" in error.why


def test_words_are_no_numbers(refused: Refused) -> None:
    error = refused(lambda: read(reviews(), kind="regression"))
    assert "row 1 holds 'bad'" in error.found
    assert "a number" in error.why
    assert "--task-kind classification" in error.remedy


# -- texts -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \t\n", None])
def test_empty_texts_are_refused_and_can_be_dropped(refused: Refused, text: str | None) -> None:
    rows = with_row(2, text=text)
    error = refused(lambda: read(rows))
    assert "column `text`: an empty text in 1 row (row 3)" in error.found
    assert "nothing to read" in error.why
    assert "--drop-empty (drop_empty=True in Python)" in error.remedy
    task = read(rows, drop_empty=True)
    assert len(task) == 11
    assert said(task, "1 row with an empty text left out")


def test_dropping_every_row_is_refused(refused: Refused) -> None:
    rows = [{**r, "text": " "} for r in reviews()]
    error = refused(lambda: read(rows, drop_empty=True))
    assert "12 rows" in error.found
    assert "No row is left" in error.why


def test_a_missing_second_text_is_said_but_allowed() -> None:
    rows = [{"premise": f"a {i}", "hypothesis": f"b {i}", "label": i % 2} for i in range(9)]
    rows[4]["hypothesis"] = None
    task = read(rows)
    assert task.is_pair
    assert said(task, "1 row without a second text in `hypothesis`")


def test_a_million_characters_are_cut_and_it_is_said() -> None:
    task = read(with_row(5, text="x" * 1_000_000))
    assert max(map(len, column(task, "text"))) == 100_000
    assert said(task, "1 text longer than 100,000 characters", "row 6", "--max-characters")
    task = read(with_row(5, text="é" * 50), max_characters=40)
    assert "é" * 40 in column(task, "text")


def test_texts_cannot_be_cut_to_nothing(refused: Refused) -> None:
    error = refused(lambda: read(reviews(), max_characters=0))
    assert "cut to 0 characters" in error.found
    assert "--max-characters" in error.remedy


def test_a_text_column_of_another_type_is_refused(refused: Refused) -> None:
    rows = [{"text": i, "label": i % 2} for i in range(12)]
    error = refused(lambda: read(rows, text="text"))
    assert "column `text` holds values of type int64" in error.found
    assert "Text is needed" in error.why
    assert "--text" in error.remedy


# -- tagging ---------------------------------------------------------------------------


def tagged() -> Rows:
    return [{"tokens": ["New", "York", "!"], "tags": ["B-LOC", "I-LOC", "O"]} for _ in range(6)]


def test_tagging_numbers_its_tags_with_o_first() -> None:
    task = read(tagged())
    assert task.kind == "tagging"
    assert task.label_names == ("O", "B-LOC", "I-LOC")
    assert column(task, "label")[0] == [1, 2, 0]
    assert task.inputs("train")[0][0] == "New York !"


def test_tokens_and_tags_must_be_equally_many(refused: Refused) -> None:
    rows = tagged()
    rows[3]["tags"] = ["O", "O"]
    error = refused(lambda: read(rows))
    assert "row 4 has 3 tokens in `tokens` but 2 tags in `tags`" in error.found
    assert "exactly one tag" in error.why


def test_a_token_without_a_tag_is_refused(refused: Refused) -> None:
    rows = tagged()
    rows[2]["tags"] = ["O", None, "O"]
    error = refused(lambda: read(rows))
    assert "row 3 has a token without a tag" in error.found


def test_a_tag_without_a_token_is_refused_and_ids_may_stand_beside_text(refused: Refused) -> None:
    rows = [{**r, "labels": [1, 2, 0], "label_text": f"t {i}"} for i, r in enumerate(tagged())]
    assert read(rows, text="tokens", label="labels").label_names == ("0", "1", "2")
    rows[5]["tokens"] = ["a", None, "b"]
    error = refused(lambda: read(rows, text="tokens", label="labels"))
    assert "row 6 has a token without a tag, or a tag without a token" in error.found


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ([0, 1, 2], "the tags have no names"),
        (["O", "LOC", "PER"], "do not say where an entity begins"),
        (["NN", "VB", "DT"], "do not say where an entity begins"),
        (["O", "B-LOC", "I-LOC"], None),
    ],
)
def test_how_tags_are_scored_is_said(tags: list[Any], words: str | None) -> None:
    task = read([{**r, "tags": tags} for r in tagged()])
    assert said(task, words, "macro-F1") if words else not said(task, "macro-F1")
    assert are_entities(task.label_names) is (words is None)


def test_tagging_with_one_tag_is_refused(refused: Refused) -> None:
    error = refused(lambda: read([{**r, "tags": ["O"] * 3} for r in tagged()]))
    assert "every tag is O" in error.found


def test_rows_without_tokens_or_tags_can_be_dropped(refused: Refused) -> None:
    rows = tagged()
    rows[1] = {"tokens": [], "tags": []}
    rows[2]["tags"] = None
    assert "no tokens in 1 row (row 2)" in refused(lambda: read(rows)).found
    error = refused(lambda: read(rows, drop_empty=True))
    assert "no label in 1 row of 6 (row 3)" in error.found
    assert len(read(rows, drop_empty=True, drop_unlabelled=True)) == 4


def test_tagging_needs_lists(refused: Refused) -> None:
    error = refused(lambda: read(reviews(), kind="tagging", text="text", label="label"))
    assert "column `text` holds values of type string" in error.found
    assert "list of tokens" in error.why


# -- span QA ---------------------------------------------------------------------------


def squad() -> Rows:
    return [
        {"question": f"Who is {i}?", "context": f"It is I, number {i}.",
         "answers": {"text": ["I"], "answer_start": [6]}}
        for i in range(6)
    ]  # fmt: skip


def test_squad_answers() -> None:
    rows = squad()
    rows[1]["answers"] = {"text": [], "answer_start": []}
    task = read(rows)
    assert task.kind == "span_qa"
    assert sorted(column(task, "answer_start")) == [-1, 6, 6, 6, 6, 6]
    assert sorted(column(task, "answer_text")) == ["", "I", "I", "I", "I", "I"]
    assert "1 unanswerable" in task.notes[0]


def test_answers_as_a_list_of_objects() -> None:
    answers = [{"text": "I", "answer_start": 6}]
    task = read([{**r, "answers": answers} for r in squad()])
    assert set(column(task, "answer_start")) == {6}


def test_answers_in_plain_columns_or_without_a_start() -> None:
    rows = [{k: v for k, v in r.items() if k != "answers"} for r in squad()]
    rows = [{**r, "answer_text": "I", "answer_start": 6} for r in rows]
    rows[0] |= {"answer_text": None, "answer_start": -1}
    assert sorted(column(read(rows), "answer_start")) == [-1, 6, 6, 6, 6, 6]
    rows = [{**r, "answer_text": f"number {i}"} for i, r in enumerate(rows)]
    rows = [{k: v for k, v in r.items() if k != "answer_start"} for r in rows]
    assert set(column(read(rows), "answer_start")) == {9}


@pytest.mark.parametrize(("start", "words"), [(99, "ends at 18"), (5, "has ' ' there")])
def test_an_answer_outside_its_context_is_refused(refused: Refused, start: int, words: str) -> None:
    rows = squad()
    rows[2]["answers"] = {"text": ["I"], "answer_start": [start]}
    error = refused(lambda: read(rows))
    assert f"row 3 says that the answer 'I' begins at character {start}" in error.found
    assert words in error.found
    assert "part of its context" in error.why
    assert "-1" in error.remedy


def test_an_answer_that_does_not_occur_is_refused(refused: Refused) -> None:
    rows = [{"question": "Who?", "context": "It is I.", "answer": "I"} for _ in range(20)]
    rows[7]["answer"] = "you"
    error = refused(lambda: read(rows))
    assert "the answer 'you' of row 8 does not occur" in error.found
    assert "text_to_text" in error.remedy


def test_a_cut_that_would_lose_the_answer_is_refused(refused: Refused) -> None:
    rows = squad()
    rows[0] |= {"context": "x" * 500 + "I", "answers": {"text": ["I"], "answer_start": [500]}}
    error = refused(lambda: read(rows, max_characters=200))
    assert "the answer lies beyond character 200" in error.found
    assert "--max-characters" in error.remedy


# -- multiple choice -------------------------------------------------------------------


def quiz(label: Any = 1) -> Rows:
    return [{"question": f"{i}?", "choices": ["no", "yes"], "label": label} for i in range(6)]


@pytest.mark.parametrize(
    ("wrong", "right"), [(0, 1), ("0", "1"), ("A", "B"), ("a", "b"), ("no", "yes"), (0.0, 1.0)]
)
def test_a_choice_by_number_letter_or_text(wrong: Any, right: Any) -> None:
    rows = quiz(right)
    rows[0]["label"] = wrong
    task = read(rows)
    assert task.kind == "multiple_choice"
    assert sorted(column(task, "label")) == [0, 1, 1, 1, 1, 1]
    assert "one of 2" in task.notes[0]


@pytest.mark.parametrize(
    ("options", "answers"),
    [
        (["2", "0", "3", "1"], ["3", "0", "2", "1"]),
        (["0.5", "1.5", "2.50"], ["1.5", "2.50", "0.5"]),
        (["12", "none", "3"], ["3", "none", "12"]),
        ([2, 0, 3, 1], ["3", "0", "2", "1"]),
        ([2, 0, 3, 1], [3, 0, 2, 1]),
    ],
)
def test_a_number_among_its_own_choices_is_that_choice(
    options: list[Any], answers: list[Any]
) -> None:
    rows = [
        {"question": f"How many are {i}?", "choices": options[i % 3:] + options[: i % 3],
         "answer": answers[i % len(answers)]}
        for i in range(30)
    ]  # fmt: skip
    task = read(rows)
    assert task.kind == "multiple_choice"
    right = {r["question"]: str(r["answer"]) for r in rows}
    for split in task.splits:
        found = zip(
            task.column(split, "text"), task.column(split, "choices"),
            task.column(split, "label"), strict=True,
        )  # fmt: skip
        assert all(choices[label] == right[question] for question, choices, label in found)
    assert said(task, "`answer`", "not as its place")


def test_a_number_that_is_no_choice_where_nearly_all_are_is_refused(refused: Refused) -> None:
    rows = [
        {"question": f"How many are {i}?", "choices": ["3", "1", "2"], "answer": str(i % 3 + 1)}
        for i in range(30)
    ]
    rows[6]["answer"] = "0"
    error = refused(lambda: read(rows))
    assert "row 7 has the label '0'" in error.found


def test_numbers_beside_choices_of_other_numbers_count_places() -> None:
    rows = [
        {"question": f"How many are {i}?", "choices": ["10", "30", "20"], "answer": str(i % 3)}
        for i in range(30)
    ]
    assert sorted(set(column(read(rows), "label"))) == [0, 1, 2]
    rows = [{**r, "choices": ["3", "1", "2"], "answer": i % 3} for i, r in enumerate(rows)]
    task = read(rows)  # a number beside texts is a place
    assert sorted(column(task, "label")) == [0] * 10 + [1] * 10 + [2] * 10
    assert not said(task, "not as its place")


def test_choices_that_count_from_one() -> None:
    task = read([{**r, "label": i % 2 + 1} for i, r in enumerate(quiz())])
    assert sorted(column(task, "label")) == [0, 0, 0, 1, 1, 1]
    assert said(task, "counts the choices from 1")


def test_choices_with_keys() -> None:
    keyed = {"text": ["no", "yes"], "label": ["1", "2"]}
    task = read([{**r, "choices": keyed, "label": "2"} for r in quiz()])
    assert set(column(task, "label")) == {1}


def test_choices_in_columns() -> None:
    rows = [{"goal": f"g {i}", "sol1": "no", "sol2": "yes", "label": i % 2} for i in range(6)]
    assert read(rows).column("train", "choices")[0] == ["no", "yes"]


@pytest.mark.parametrize("label", [2, -2])
def test_a_label_without_its_choice_is_refused(refused: Refused, label: int) -> None:
    rows = [{**r, "label": i % 2} for i, r in enumerate(quiz())]
    rows[3]["label"] = label
    error = refused(lambda: read(rows))
    assert f"row 4 has the label {label}, but 2 choices" in error.found
    assert "number of a choice" in error.why


def test_a_single_choice_is_refused(refused: Refused) -> None:
    rows = quiz(0)
    rows[5]["choices"] = ["only"]
    error = refused(lambda: read(rows))
    assert "column `choices`: row 6 has 1 choice" in error.found


# -- text to text ----------------------------------------------------------------------


def test_text_to_text_joins_an_instruction_and_its_input() -> None:
    rows = [{"instruction": f"Do {i}", "input": "this" if i else "", "output": "done so"}
            for i in range(5)]  # fmt: skip
    task = read(rows)
    assert task.kind == "text_to_text"
    assert set(column(task, "prompt")) >= {"Do 0", "Do 1\n\nthis"}


def test_an_empty_completion_is_refused_and_can_be_dropped(refused: Refused) -> None:
    rows = [{"prompt": f"Do {i}", "completion": "done" if i else " "} for i in range(5)]
    error = refused(lambda: read(rows))
    assert "column `completion`: an empty text in 1 row (row 1)" in error.found
    assert "--drop-empty" in error.remedy
    assert len(read(rows, drop_empty=True)) == 4


# -- canonical types -------------------------------------------------------------------


def test_canonical_columns_have_their_types_and_order() -> None:
    table = pa.table({"label": pa.array([1], pa.int8()), "text": ["a"]})
    schema = canonical(table, "classification").schema
    assert schema.names == ["text", "label"]
    assert schema.types == [pa.large_string(), pa.int64()]
    table = pa.table({"label": pa.array([3.6], pa.float32()), "text": ["a"]})
    assert canonical(table, "regression")["label"].to_pylist() == [3.6]


# -- several faults, and remarks ---------------------------------------------------------------


TEXTS = [f"this is text number {i}" for i in range(12)]


def test_two_faults_of_one_file_are_told_in_one_run(refused: Refused) -> None:
    columns = {"text": [*TEXTS[:8], "", *TEXTS[9:]], "label": [None, None, *["a", "b"] * 5]}
    error = refused(lambda: read(columns))
    assert "column `text`: an empty text in 1 row (row 9). Also: " in error.found
    assert "column `label`: no label in 2 rows of 12 (rows 1 and 2)" in error.found
    assert "--drop-empty" in error.remedy
    assert "--drop-unlabelled" in error.remedy
    # One of them allowed leaves the other.
    assert "Also" not in refused(lambda: read(columns, drop_empty=True)).found
    assert len(read(columns, drop_empty=True, drop_unlabelled=True)) == 9


def test_a_consequence_of_a_fault_is_no_fault(refused: Refused) -> None:
    """Without its unlabelled rows a class has one example left; with labels it may not."""
    columns = {"text": TEXTS, "label": ["c", None, *["a", "b"] * 5]}
    error = refused(lambda: read(columns))
    assert "no label in 1 row" in error.found
    assert "fewer than two examples" not in error.found
    empty = {"text": [""] * 12, "label": ["a", "b"] * 6}
    assert "an empty text in 12 rows" in refused(lambda: read(empty)).found


@pytest.mark.parametrize(
    ("one", "other"),
    [("Good", "good"), ("not so", "not  so"), ("caf\u00e9", "cafe\u0301"), ("A\u00a0B", "a b")],
)
def test_classes_that_are_written_in_two_ways_are_remarked_on(one: str, other: str) -> None:
    task = read({"text": TEXTS, "label": [one, other, "bad"] * 4})
    assert task.n_classes == 3
    (note,) = [n for n in task.notes if n.startswith("classes that differ only in case")]
    assert f"{min(one, other)!r} and {max(one, other)!r}" in note
    plain = read({"text": TEXTS, "label": ["good", "fine", "bad"] * 4})
    assert not any("differ only" in n for n in plain.notes)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("stars", [1, 2, 3, 4, 5], True), ("Star Rating", [0, 1, 2], True),
        ("label", [1, 2, 3, 4, 5], False), ("stars", [0, 1], False), ("rating", [1, 5, 9], False),
    ],
)  # fmt: skip
def test_ratings_have_an_order_and_it_is_said(name: str, values: list[int], said: bool) -> None:
    texts = [f"this is text number {i}" for i in range(60)]
    task = read({"text": texts, name: [values[i % len(values)] for i in range(60)]})
    assert task.kind == "classification"
    assert (
        any("holds ratings from" in n and "--task-kind regression" in n for n in task.notes) == said
    )
