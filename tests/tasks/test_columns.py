from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from taskscout.errors import DataError
from taskscout.tasks.columns import Columns, Named, choose_columns
from taskscout.tasks.raw import RawTable

Refused = Callable[[Callable[[], Any]], DataError]

N = 24
PROSE = [f"some words about number {i}" for i in range(N)]
OTHER = [f"other words on {i}" for i in range(N)]
CLASSES = [("low", "high")[i % 2] for i in range(N)]
IDS = [f"id{i:04d}" for i in range(N)]
TOKENS = [["a", "b"]] * N
FLOATS = [i / 7 for i in range(N)]


def raw(columns: dict[str, Any], **attributes: Any) -> RawTable:
    table = pa.table(columns)
    return RawTable("file.csv", table, range(1, table.num_rows + 1), **attributes)


def choose(columns: dict[str, Any], named: Named | None = None, **attributes: Any) -> Columns:
    return choose_columns(raw(columns, **attributes), named)


def roles(columns: dict[str, Any], named: Named | None = None) -> tuple[str, dict[str, Any]]:
    chosen = choose(columns, named)
    return chosen.kind, {r: n[0] if len(n) == 1 else n for r, n in chosen.roles.items()}


# -- by name ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("text", "label"),
        ("sentence", "label"),
        ("review", "sentiment"),
        ("tweet", "class"),
        ("content", "category"),
        ("Review Text", "Stars"),
        ("comment_text", "toxic"),
        ("question", "topic"),
    ],
)
def test_usual_names_of_a_text_and_a_label(text: str, label: str) -> None:
    columns = {"id": IDS, label: CLASSES, text: PROSE, "date": ["2020-01-01"] * N}
    assert roles(columns) == ("classification", {"text": text, "label": label})


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("text", "text_pair"),
        ("premise", "hypothesis"),
        ("sentence1", "sentence2"),
        ("question1", "question2"),
        ("question", "sentence"),
        ("question", "passage"),
        ("Sentence 1", "Sentence 2"),
    ],
)
def test_usual_names_of_a_text_pair(text: str, pair: str) -> None:
    columns = {"label": CLASSES, pair: OTHER, text: PROSE}
    assert roles(columns) == ("classification", {"text": text, "pair": pair, "label": "label"})


def test_a_second_text_of_nulls_is_no_pair() -> None:
    columns = {"text": PROSE, "text_pair": pa.nulls(N, pa.string()), "label": CLASSES}
    assert roles(columns) == ("classification", {"text": "text", "label": "label"})


def test_the_surer_name_wins() -> None:
    columns = {"title": OTHER, "text": PROSE, "category": CLASSES, "label": CLASSES[::-1]}
    assert roles(columns) == ("classification", {"text": "text", "label": "label"})


def test_a_column_named_target_that_holds_texts_is_not_the_label() -> None:
    columns = {"text": PROSE, "target": OTHER, "stance": CLASSES}
    assert roles(columns) == ("classification", {"text": "text", "label": "stance"})


def test_a_label_column_with_one_class_is_not_passed_over() -> None:
    columns = {"text": PROSE, "label": ["same"] * N, "category": CLASSES}
    assert roles(columns)[1]["label"] == "label"


# -- by type ------------------------------------------------------------------------


def test_types_and_distinct_values_where_names_say_nothing() -> None:
    columns = {"v1": CLASSES, "v2": PROSE, "v3": IDS}
    assert roles(columns) == ("classification", {"text": "v2", "label": "v1"})


def test_a_column_of_floats_is_a_regression_label() -> None:
    assert roles({"words": PROSE, "measured": FLOATS})[0] == "regression"


# -- kinds by labels ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (CLASSES, "classification"),
        ([i % 2 == 0 for i in range(N)], "classification"),
        ([i % 5 for i in range(N)], "classification"),
        ([str(i % 5) for i in range(N)], "classification"),
        (["True", "False"] * (N // 2), "classification"),
        (FLOATS, "regression"),
        ([f"{v:.2f}" for v in FLOATS], "regression"),
        ([i * i for i in range(N)], "regression"),
    ],
    ids=["words", "booleans", "ids", "digits", "true", "floats", "decimals", "quantities"],
)
def test_the_label_tells_the_kind(labels: Sequence[Any], kind: str) -> None:
    assert choose({"text": PROSE, "label": labels}).kind == kind


def test_many_consecutive_integers_are_classes_where_each_has_examples() -> None:
    n = 1000
    columns = {"text": [f"text {i}" for i in range(n)], "label": [i % 150 for i in range(n)]}
    assert choose(columns).kind == "classification"
    columns["label"] = [i % 150 * 3 for i in range(n)]
    chosen = choose(columns)
    assert chosen.kind == "regression"
    assert "150 different whole numbers" in chosen.remarks[0]
    assert "--task-kind classification" in chosen.remarks[0]


def test_whole_floats_are_numbers_and_it_is_said() -> None:
    chosen = choose({"text": PROSE, "stars": [float(i % 5 + 1) for i in range(N)]})
    assert chosen.kind == "regression"
    assert "whole numbers only" in chosen.remarks[0]
    assert "--task-kind classification reads them as 5 classes" in chosen.remarks[0]


def test_declared_class_names_mean_classes() -> None:
    columns = {"text": PROSE, "label": list(range(N))}
    names = {"label": tuple(f"c{i}" for i in range(N))}
    assert choose(columns, label_names=names).kind == "classification"


def test_row_numbers_are_no_label(refused: Refused) -> None:
    error = refused(lambda: choose({"text": PROSE, "label": list(range(N))}))
    assert "`label` counts the rows: 0 to 23" in error.found
    assert "--task-kind regression" in error.remedy


# -- the other kinds ----------------------------------------------------------------------


def test_tagging() -> None:
    columns = {"id": IDS, "tokens": TOKENS, "pos_tags": [[1, 2]] * N, "ner_tags": [[0, 1]] * N}
    assert roles(columns) == ("tagging", {"text": "tokens", "label": "ner_tags"})
    named = Named(text="tokens", label="pos_tags")
    assert roles(columns, named) == ("tagging", {"text": "tokens", "label": "pos_tags"})


SQUAD = [{"text": ["words"], "answer_start": [5]}] * N


def test_span_qa_as_squad_has_it() -> None:
    columns = {"id": IDS, "title": CLASSES, "question": OTHER, "context": PROSE, "answers": SQUAD}
    expected = {"text": "question", "pair": "context", "label": "answers"}
    assert roles(columns) == ("span_qa", expected)
    columns = {"q": OTHER, "c": PROSE, "a": SQUAD}
    assert roles(columns, Named(text="q", pair="c", label="a"))[0] == "span_qa"


def test_span_qa_with_plain_columns() -> None:
    columns = {"question": OTHER, "context": PROSE, "answer_text": ["words"] * N}
    assert roles({**columns, "answer_start": [5] * N}) == (
        "span_qa",
        {"text": "question", "pair": "context", "label": "answer_text", "start": "answer_start"},
    )
    chosen = choose(columns)
    assert chosen.kind == "span_qa"
    assert "searching `context`" in chosen.remarks[0]


def test_a_question_with_a_passage_and_a_yes_or_no_is_classification() -> None:
    columns = {"question": OTHER, "passage": PROSE, "answer": [True, False] * (N // 2)}
    expected = {"text": "question", "pair": "passage", "label": "answer"}
    assert roles(columns) == ("classification", expected)


CHOICES = [["first", "second"]] * N


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"question": PROSE, "options": CHOICES, "answer": ["A"] * N},
            {"text": "question", "choices": "options", "label": "answer"},
        ),
        (
            {"context": OTHER, "question": PROSE, "choices": CHOICES, "label": [0] * N},
            {"text": "context", "pair": "question", "choices": "choices", "label": "label"},
        ),
        (
            {"premise": PROSE, "choice2": OTHER, "choice1": PROSE, "question": ["cause"] * N,
             "label": [0] * N},
            {"text": "premise", "pair": "question", "choices": ("choice1", "choice2"),
             "label": "label"},
        ),
        (
            {"ctx": PROSE, "endings": CHOICES, "label": ["1"] * N},
            {"text": "ctx", "choices": "endings", "label": "label"},
        ),
        (
            {"goal": PROSE, "sol1": PROSE, "sol2": OTHER, "label": [0] * N},
            {"text": "goal", "choices": ("sol1", "sol2"), "label": "label"},
        ),
        (
            {"question": PROSE, "answerKey": ["A"] * N,
             "choices": [{"text": ["x", "y"], "label": ["A", "B"]}] * N},
            {"text": "question", "choices": "choices", "label": "answerKey"},
        ),
    ],
    ids=["race", "passage", "copa", "hellaswag", "piqa", "arc"],
)  # fmt: skip
def test_multiple_choice(columns: dict[str, Any], expected: dict[str, Any]) -> None:
    assert roles(columns) == ("multiple_choice", expected)


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("prompt", "completion"), ("input", "output"), ("instruction", "response"),
     ("source", "target"), ("document", "summary")],
)  # fmt: skip
def test_text_to_text(prompt: str, completion: str) -> None:
    columns = {"id": IDS, prompt: PROSE, completion: OTHER}
    assert roles(columns) == ("text_to_text", {"text": prompt, "label": completion})


def test_an_instruction_with_an_input() -> None:
    columns = {"instruction": PROSE, "input": OTHER, "output": OTHER}
    expected = {"text": "instruction", "pair": "input", "label": "output"}
    assert roles(columns) == ("text_to_text", expected)


def test_an_input_with_classes_as_output_is_classification() -> None:
    columns = {"input": PROSE, "output": CLASSES}
    assert roles(columns) == ("classification", {"text": "input", "label": "output"})


# -- what the user says ---------------------------------------------------------------------


def test_the_user_overrides_everything() -> None:
    columns = {"text": PROSE, "body": OTHER, "label": CLASSES, "mark": [i % 4 for i in range(N)]}
    named = Named(text="body", pair="text", label="mark", kind="regression")
    expected = {"text": "body", "pair": "text", "label": "mark"}
    assert roles(columns, named) == ("regression", expected)


def test_a_named_text_has_no_inferred_pair() -> None:
    columns = {"premise": PROSE, "hypothesis": OTHER, "label": CLASSES}
    assert roles(columns, Named(text="premise"))[1] == {"text": "premise", "label": "label"}


def test_a_named_label_leaves_the_text_to_inference() -> None:
    columns = {"sentence1": PROSE, "sentence2": OTHER, "a": CLASSES, "b": CLASSES}
    expected = {"text": "sentence1", "pair": "sentence2", "label": "b"}
    assert roles(columns, Named(label="b"))[1] == expected


def test_an_unknown_kind_is_refused(refused: Refused) -> None:
    error = refused(lambda: choose({"text": PROSE}, Named(kind="clustering")))  # type: ignore[arg-type]
    assert "'clustering'" in error.found
    assert "classification" in error.why
    assert "--task-kind" in error.remedy


def test_a_column_named_twice_is_refused(refused: Refused) -> None:
    columns = {"text": PROSE, "label": CLASSES}
    error = refused(lambda: choose(columns, Named(text="text", label="text")))
    assert "`text` is named for two purposes" in error.found


def test_a_kind_whose_columns_are_missing_is_refused_with_what_it_needs(refused: Refused) -> None:
    columns = {"text": PROSE, "label": CLASSES}
    for kind, need in (
        ("tagging", "list of tokens"),
        ("span_qa", "context"),
        ("multiple_choice", "list of choices"),
        ("text_to_text", "completion"),
    ):
        error = refused(lambda kind=kind: choose(columns, Named(kind=kind)))
        assert "`text` (string)" in error.found
        assert need in error.why
        assert "--task-kind" in error.remedy


@pytest.mark.parametrize("passage", ["context", "passage", "document"])
@pytest.mark.parametrize("label", ["label", "target"])
def test_a_label_beside_question_context_and_answer_judges_the_answer(
    passage: str, label: str
) -> None:
    contexts = [f"a context that holds answer {i} and more" for i in range(N)]
    columns = {"question": PROSE, passage: contexts, "answer": [f"answer {i}" for i in range(N)]}
    judged = {**columns, label: CLASSES}
    expected = {"text": ("question", "answer"), "pair": passage, "label": label}
    assert roles(judged) == ("classification", expected)
    assert roles(judged, Named(kind="classification")) == ("classification", expected)
    assert "verdict on `answer`" in choose(judged).remarks[0]
    if passage != "document":
        assert roles(columns)[0] == roles(judged, Named(kind="span_qa"))[0] == "span_qa"
        assert roles({**judged, "answer_start": [21] * N})[0] == "span_qa"
        assert roles({**columns, "label": IDS})[0] == "span_qa"


# -- the split column ------------------------------------------------------------------------


def test_a_split_column_is_taken_by_its_values() -> None:
    columns = {"text": PROSE, "label": CLASSES, "split": ["train", "dev", "Test"] * (N // 3)}
    assert choose(columns).split == "split"
    for name in ("subset", "fold", "set", "partition"):
        assert choose({**columns, name: ["a", "b", "c"] * (N // 3)}).unused == (name,)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("split", ["train", "later", "test"]),
        ("Data Split", ["a", "b", "c"]),
        ("split", ["train", None, "test"]),
        ("split", ["train", "train_dev", "test"]),
        ("split", [0, 1, 2]),
        ("subset", ["train", "held out", "test"]),
    ],
)
def test_a_column_of_splits_with_a_strange_value_is_refused(
    refused: Refused, name: str, values: list[Any]
) -> None:
    columns = {"text": PROSE, "label": CLASSES, name: values * (N // 3)}
    error = refused(lambda: choose(columns))
    strange = "nothing" if values[1] is None else "0" if values[0] == 0 else None
    strange = strange or ("'a'" if values[0] == "a" else repr(values[1]))
    assert f"column `{name}`: row " in error.found
    assert f"holds {strange}" in error.found
    assert "cannot be told" in error.why
    assert "--split-column none (split_column='none' in Python)" in error.remedy
    chosen = choose(columns, Named(split_column="none"))
    assert chosen.split is None
    assert name in chosen.unused


def test_a_column_called_none_can_still_be_named() -> None:
    columns = {"text": PROSE, "label": CLASSES, "none": ["train", "test"] * (N // 2)}
    assert choose(columns, Named(split_column="none")).split == "none"


def test_a_named_split_column_with_other_values_is_refused(refused: Refused) -> None:
    columns = {"text": PROSE, "label": CLASSES, "part": ["train", "train", "later"] * (N // 3)}
    error = refused(lambda: choose(columns, Named(split_column="part")))
    assert "column `part`: row 3 holds 'later'" in error.found
    assert "train, validation and test" in error.why
    assert "--split-column" in error.remedy


# -- errors ----------------------------------------------------------------------------------


def test_a_missing_column_is_refused_with_the_candidates(refused: Refused) -> None:
    error = refused(lambda: choose({"text": PROSE, "label": CLASSES}, Named(label="lable")))
    assert error.found == "file.csv has no column `lable`."
    assert "`text`, `label`" in error.why
    assert "--label" in error.remedy
    assert "did you mean `label`?" in error.remedy


@pytest.mark.parametrize("names", [("review", "comment"), ("first", "second")])
def test_ambiguous_texts_are_refused_with_the_candidates(
    refused: Refused, names: tuple[str, str]
) -> None:
    columns = {names[0]: PROSE, names[1]: OTHER, "label": CLASSES}
    error = refused(lambda: choose(columns))
    assert f"`{names[0]}`, `{names[1]}`" in error.found
    assert "cannot be told" in error.why
    assert "--text" in error.remedy
    assert "--pair" in error.remedy


@pytest.mark.parametrize("names", [("sentiment", "topic"), ("first", "second")])
def test_ambiguous_labels_are_refused_with_the_candidates(
    refused: Refused, names: tuple[str, str]
) -> None:
    columns = {"text": PROSE, names[0]: CLASSES, names[1]: CLASSES}
    error = refused(lambda: choose(columns))
    assert f"`{names[0]}`, `{names[1]}`" in error.found
    assert "--label" in error.remedy


def test_no_label_is_refused(refused: Refused) -> None:
    error = refused(lambda: choose({"text": PROSE, "id": IDS}))
    assert "no column that looks like a label" in error.found
    assert "`id`" in error.why
    assert "--label" in error.remedy


def test_no_text_is_refused(refused: Refused) -> None:
    error = refused(lambda: choose({"amount": FLOATS, "label": CLASSES}))
    assert "no column that looks like text" in error.found
    assert "`amount`, `label`" in error.why
    assert "--text" in error.remedy


# -- the sentence ----------------------------------------------------------------------------


def test_the_sentence_says_it_in_one_line() -> None:
    columns = {"review": PROSE, "stars": CLASSES, "id": IDS, "date": ["today"] * N,
               "split": ["train"] * N}  # fmt: skip
    assert choose(columns).sentence("2 classes: high, low") == (
        "text: `review`; label: `stars` (2 classes: high, low); kind: classification; "
        "splits: `split`; not used: `id`, `date`"
    )


def test_the_sentence_of_a_series_of_choices() -> None:
    columns = {"goal": PROSE, "sol1": PROSE, "sol2": OTHER, "label": [0] * N}
    assert choose(columns).sentence() == (
        "text: `goal`; choices: `sol1`, `sol2`; label: `label`; kind: multiple_choice"
    )
