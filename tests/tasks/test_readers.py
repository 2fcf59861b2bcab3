from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskscout.errors import DataError
from taskscout.tasks import Task

from .conftest import Rows, reviews

read_dataset, read_file, read_hub = Task.from_dataset, Task.from_file, Task.from_hub

Refused = Callable[[Callable[[], Any]], DataError]
Write = Callable[..., Path]

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "arrow", "feather")


def lines(n: int = 12) -> list[str]:
    return [f"{row['text']},{row['label']}" for row in reviews(n)]


def csv_of(rows: list[str]) -> str:
    return "\n".join(["text,label", *rows]) + "\n"


def json_lines(rows: Rows) -> list[str]:
    return [json.dumps(row) for row in rows]


# -- every format ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format(write: Write, suffix: str) -> None:
    rows = [{"id": i, **row} for i, row in enumerate(reviews(40))]
    task = read_file(write(f"reviews.{suffix}", rows))
    assert task.name == task.card.name == "reviews"
    assert task.kind == "classification"
    assert task.label_names == ("bad", "good")
    assert len(task) == 40
    assert task.made_splits
    assert task.notes[0] == (
        "text: `text`; label: `label` (2 classes: bad, good); kind: classification; not used: `id`"
    )
    assert task.notes[1].startswith("splits made by a hash of the text: train ")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_split_column_is_honoured_in_every_format(write: Write, suffix: str) -> None:
    names = ("train", "train", "valid", "test")
    rows = [{**row, "split": names[i // 2 % 4]} for i, row in enumerate(reviews(40))]
    task = read_file(write(f"a.{suffix}", rows))
    assert task.card.rows == {"train": 20, "validation": 10, "test": 10}
    assert task.splits == ("train", "validation", "test")
    assert not task.made_splits


def test_a_split_column_without_train_is_refused(write: Write, refused: Refused) -> None:
    rows = [{**row, "split": ("dev", "test")[i // 2 % 2]} for i, row in enumerate(reviews(40))]
    error = refused(lambda: read_file(write("a.csv", rows)))
    assert "the splits validation and test, none of them train" in error.found
    assert "Name one of the splits train" in error.remedy


def test_a_split_column_with_one_split_is_split_anew(write: Write) -> None:
    rows = [{**row, "split": "test"} for row in reviews(60)]
    task = read_file(write("a.csv", rows))
    assert task.made_splits
    assert "train" in task.splits


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (("training", "eval"), {"train": 40, "validation": 20}),
        (("train", "devel", "eval"), {"train": 40, "validation": 20, "test": 20}),
        (("Train", "validation_matched"), {"train": 40, "validation": 20}),
        (("train", "validation-matched", "validation-mismatched"), {"train": 40, "validation": 40}),
        (("train", "test", "test_ood"), {"train": 40, "test": 20, "test_ood": 20}),
        (("train", "test.easy", "test.hard"), {"train": 40, "test": 40}),
        (("trainset", "Test Set"), {"train": 40, "test": 20}),
    ],
)
def test_names_of_splits_as_people_write_them(
    write: Write, names: tuple[str, ...], rows: dict[str, int]
) -> None:
    split = [names[0]] * 40 + [n for n in names[1:] for _ in range(20)]
    data = [{**r, "split": s} for r, s in zip(reviews(len(split)), split, strict=True)]
    task = read_file(write("a.csv", data))
    assert task.card.rows == rows
    assert not task.made_splits
    first = {row["text"] for row in data[:40]}
    assert set(task.column("train", "text")) == first  # no other row has come in
    parts = {n: pa.Table.from_pylist(data[split.index(n) :][: split.count(n)]) for n in names}
    assert read_dataset(parts).fingerprint == task.fingerprint


def test_what_the_names_of_splits_were_read_as_is_said(write: Write) -> None:
    names = ("train", "train", "eval", "test", "test_ood")
    rows = [{**r, "split": names[i % 5]} for i, r in enumerate(reviews(40))]
    task = read_file(write("a.csv", rows))
    assert "rows of split 'eval' are the validation rows" in task.notes
    assert "rows of split 'test_ood' neither train nor test" in task.notes
    only = read_file(write("b.csv", [{**r, "split": "test"} for r in reviews(60)]))
    assert "all rows are of split 'test', so splits are made of them" in only.notes


def test_splits_are_made_anew_where_the_user_wants_it(write: Write) -> None:
    rows = [{**r, "split": ("train", "later")[i // 2 % 2]} for i, r in enumerate(reviews(60))]
    task = read_file(write("a.csv", rows), split_column="none")
    assert task.made_splits
    assert len(task) == 60
    table = pa.Table.from_pylist(reviews(30))
    parts = {"train": table, "test": pa.Table.from_pylist(reviews(60)[30:])}
    assert read_dataset(parts, split_column="none").made_splits


def test_test_rows_do_not_become_training_rows_where_training_rows_cannot_be_used(
    write: Write, refused: Refused
) -> None:
    rows = [{**r, "split": "train", "label": ""} for r in reviews(20)]
    rows += [{**r, "split": "test"} for r in reviews(60)[20:]]
    error = refused(lambda: read_file(write("a.csv", rows)))
    assert "the splits train and test, but no row of train that can be used" in error.found
    assert "--split-column none" in error.remedy


def test_from_file_takes_the_options_of_read_file(write: Write) -> None:
    rows = [{"a": r["text"], "b": r["text"][::-1], "c": r["label"]} for r in reviews()]
    task = Task.from_file(write("x.jsonl", rows), text="b", pair="a", label="c", name="mine")
    assert task.name == "mine"
    assert task.is_pair


def test_one_text_throughout_makes_no_splits_and_says_so(write: Write) -> None:
    task = read_file(write("a.jsonl", [{"text": "only one", "label": i % 2} for i in range(6)]))
    assert task.card.rows == {"train": 6}
    assert "too few different texts to make splits: all rows are for training" in task.notes
    assert not task.made_splits


@pytest.mark.parametrize("hidden", [-1, -1.0])
def test_a_test_split_of_minus_one_throughout_is_hidden_for_numbers_too(
    write: Write, hidden: float
) -> None:
    rows = [{"text": f"text {i}", "label": i / 8, "split": "train"} for i in range(40)]
    rows += [{"text": f"later {i}", "label": hidden, "split": "test"} for i in range(10)]
    task = read_file(write("a.jsonl", rows))
    assert task.kind == "regression"
    assert len(task) == 40
    assert "numbers from 0 to 4.875" in task.notes[0]
    assert any("split 'test' left out" in n and "-1" in n for n in task.notes)


def test_minus_one_stays_a_number_where_numbers_go_below_zero(write: Write) -> None:
    rows = [{"text": f"text {i}", "label": i / 8 - 2, "split": "train"} for i in range(40)]
    rows += [{"text": f"later {i}", "label": -1.0, "split": "test"} for i in range(10)]
    task = read_file(write("a.jsonl", rows))
    assert task.card.rows == {"train": 40, "test": 10}


def test_a_class_that_cannot_be_in_every_split_is_named(write: Write) -> None:
    rows = [{"text": f"text {i}", "label": "often"} for i in range(40)]
    rows += [{"text": f"rare {i}", "label": "seldom"} for i in range(2)]
    task = read_file(write("a.jsonl", rows))
    assert "no validation row has the label seldom: too few different texts" in task.notes
    assert not any("no test row" in note or "no train row" in note for note in task.notes)


def test_plain_files_are_read_without_heavy_imports(write: Write) -> None:
    paths = [str(write(f"a.{suffix}", reviews())) for suffix in FORMATS]
    code = (
        "import sys\n"
        "import taskscout.tasks.catalogue\n"
        "from taskscout.tasks import Task\n"
        "for path in sys.argv[1:]: Task.from_file(path).sample(5).fingerprint\n"
        "print([m for m in ('datasets', 'pandas', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# -- files that cannot be read ----------------------------------------------------------


def test_a_missing_file_is_refused_with_close_names(write: Write, refused: Refused) -> None:
    path = write("reviews.csv", reviews())
    error = refused(lambda: read_file(path.with_name("review.csv")))
    assert f"There is no file {path.with_name('review.csv')}" in error.found
    assert "reviews.csv" in error.why
    assert error.remedy == "Did you mean reviews.csv?"
    error = refused(lambda: read_file(path.parent / "nowhere" / "a.csv"))
    assert "does not exist either" in error.why


def test_a_folder_is_refused_with_its_files(write: Write, refused: Refused) -> None:
    folder = write("reviews.csv", reviews()).parent
    write("more.csv", reviews())
    error = refused(lambda: read_file(folder))
    assert "has the files more.csv and reviews.csv" in error.found
    assert "one for each split" in error.why
    (folder / "dataset_info.json").write_text("{}")
    assert "load_from_disk" in refused(lambda: read_file(folder)).remedy


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_empty_file_is_refused(write: Write, refused: Refused, suffix: str) -> None:
    error = refused(lambda: read_file(write(f"a.{suffix}", b"")))
    assert error.found.endswith(f"a.{suffix} is empty.")
    assert "0 bytes" in error.why


@pytest.mark.parametrize(("name", "content"), [("a.csv", "\n\n"), ("a.jsonl", "\n \n")])
def test_a_blank_file_is_refused(write: Write, refused: Refused, name: str, content: str) -> None:
    assert "is empty" in refused(lambda: read_file(write(name, content))).found


def test_a_header_without_rows_is_refused(write: Write, refused: Refused) -> None:
    error = refused(lambda: read_file(write("a.csv", "text,label\n")))
    assert "has columns (`text`, `label`) but no rows" in error.found
    assert "nothing to learn from" in error.why


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("a.xls", "as .xlsx"), ("a.pkl", "never read"), ("a.csv.zst", "Unpack"), ("a", "Rename")],
)
def test_an_unknown_format_is_refused(
    write: Write, refused: Refused, name: str, remedy: str
) -> None:
    error = refused(lambda: read_file(write(name, b"x")))
    assert "unknown format" in error.found
    assert ".csv, .tsv, .txt, .jsonl" in error.why
    assert remedy in error.remedy


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_damaged_file_is_refused(write: Write, refused: Refused, name: str) -> None:
    whole = write(name, reviews()).read_bytes()
    error = refused(lambda: read_file(write(name, whole[: len(whole) // 2])))
    assert "cannot be read as" in error.found
    assert "damaged" in error.why


# -- encodings ----------------------------------------------------------------------------


def test_undecodable_bytes_are_refused_with_their_row(write: Write, refused: Refused) -> None:
    rows = [*lines(4), '"a café\nwith two lines",bad', *lines(3)]
    content = csv_of(rows).encode("latin-1")
    error = refused(lambda: read_file(write("a.csv", content), encoding="utf-8"))
    at = content.index(b"\xe9") + 1
    assert f"a.csv, row 6: byte {at} (0xe9) cannot be decoded" in error.found
    assert "not utf-8" in error.why
    assert "--encoding (encoding= in Python)" in error.remedy
    task = read_file(write("a.csv", content), encoding="latin-1")
    assert any("café" in t for s in task.splits for t in task.column(s, "text"))


def test_undecodable_bytes_in_json_lines(write: Write, refused: Refused) -> None:
    content = "\n".join(json_lines(reviews(5))).encode() + b'\n{"text": "\xff"}'
    error = refused(lambda: read_file(write("a.jsonl", content), encoding="utf-8"))
    assert "row 6: byte" in error.found


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(write: Write, encoding: str) -> None:
    task = read_file(write("a.csv", csv_of(lines()).encode(encoding)))
    assert task.notes[0].startswith("text: `text`")


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-8"]
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_encodings_are_found_out(write: Write, encoding: str, suffix: str) -> None:
    if (encoding, suffix) == ("utf-32", "jsonl"):
        encoding = "utf-16"
    plain = write(f"plain.{suffix}", [{**r, "text": r["text"] + " ätsch"} for r in reviews()])
    path = write(f"a.{suffix}", plain.read_text(encoding="utf-8").encode(encoding))
    task = read_file(path)
    assert task.fingerprint == read_file(plain).fingerprint
    said = [note for note in task.notes if "the file is" in note]
    assert bool(said) == (not encoding.startswith("utf-8"))
    named = read_file(path, encoding="utf-8-sig" if encoding == "utf-8-sig" else encoding)
    assert named.fingerprint == task.fingerprint


def test_windows_files_are_read_and_it_is_said(write: Write) -> None:
    rows = [
        f"Das Café Nr. {i} öffnet früh – für 3 €,{('gut', 'schlecht')[i % 2]}" for i in range(9)
    ]
    path = write("a.csv", csv_of(rows).encode("cp1252"))
    task = read_file(path)
    assert task.column("train", "text")[0].startswith("Das Café Nr. ")
    assert "the file is not UTF-8: read as cp1252 (Windows), as in 'Café'" in task.notes


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("привет, как дела", "cp1251"),  # another alphabet, whose letters cp1252 has as accents
        ("καλημέρα", "cp1253"),
        ("日本語の文", "shift-jis"),
    ],
)
def test_other_alphabets_are_not_guessed(
    write: Write, refused: Refused, text: str, encoding: str
) -> None:
    rows = [f"{text} {i};{('a', 'b')[i % 2]}" for i in range(9)]
    data = "\n".join(["text;label", *rows]).encode(encoding)
    error = refused(lambda: read_file(write("a.csv", data)))
    assert "row 2: byte" in error.found
    assert "--encoding" in error.remedy
    assert len(read_file(write("a.csv", data), encoding=encoding)) == 9


def test_damaged_utf_8_is_not_taken_for_windows(write: Write, refused: Refused) -> None:
    rows = [f"ein großer Übelstand {i},{('a', 'b')[i % 2]}" for i in range(9)]
    data = csv_of(rows).encode()
    at = data.index("ß".encode()) + 1
    error = refused(lambda: read_file(write("a.csv", data[:at] + data[at + 1 :])))
    assert "row 2: byte" in error.found


def test_an_unknown_encoding_is_refused(write: Write, refused: Refused) -> None:
    error = refused(lambda: read_file(write("a.csv", reviews()), encoding="utf-9"))
    assert "'utf-9'" in error.found
    assert "--encoding" in error.remedy


# -- CSV and TSV ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "words"), [("one, two, three", "row 5 has 3 fields"), ("one", "row 5 has 1 field")]
)
def test_a_row_with_another_number_of_fields_is_refused(
    write: Write, refused: Refused, row: str, words: str
) -> None:
    content = csv_of([*lines(3), row, *lines(2)])
    error = refused(lambda: read_file(write("a.csv", content)))
    assert words in error.found
    assert "names 2 columns" in error.why
    assert "double quotes" in error.remedy


@pytest.mark.parametrize("row", ['"open,good', '"closed" too early,good'])
def test_wrong_quotes_are_refused_with_their_row(write: Write, refused: Refused, row: str) -> None:
    content = csv_of([*lines(3), row])
    error = refused(lambda: read_file(write("a.csv", content)))
    assert "a.csv, row 5" in error.found
    assert "doubled" in error.why


def test_rows_are_counted_as_a_spreadsheet_does(write: Write, refused: Refused) -> None:
    rows = ['"two\nlines",good', "", *lines(4), "no label,"]
    error = refused(lambda: read_file(write("a.csv", csv_of(rows))))
    assert "(row 8)" in error.found


def test_duplicated_column_names_are_refused(write: Write, refused: Refused) -> None:
    error = refused(lambda: read_file(write("a.csv", "text,label,text\na,b,c\n")))
    assert "2 columns named `text`" in error.found
    assert "cannot be told" in error.why
    assert "its own name" in error.remedy


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_duplicated_column_names_in_arrow_are_refused(
    tmp_path: Path, refused: Refused, suffix: str
) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    assert "2 columns named `text`" in refused(lambda: read_file(path)).found


def test_mixed_types_in_a_csv_label_are_refused(write: Write, refused: Refused) -> None:
    rows = [f"text {i},{'five' if i == 7 else i % 5}" for i in range(30)]
    path = write("a.csv", csv_of(rows))
    error = refused(lambda: read_file(path))
    assert "column `label`: row 9 holds 'five', where nearly all rows hold numbers" in error.found
    assert "numbers or words, not both" in error.why
    assert "--task-kind classification" in error.remedy


def test_words_for_no_value_among_numbers_are_missing_labels(
    write: Write, refused: Refused
) -> None:
    rows = [f"text {i},{'N/A' if i == 7 else i / 4}" for i in range(30)]
    error = refused(lambda: read_file(write("a.csv", csv_of(rows))))
    assert "no label in 1 row of 30 (row 9)" in error.found


def test_none_among_words_is_a_class(write: Write) -> None:
    rows = [f"text {i},{('favor', 'none', 'against')[i % 3]}" for i in range(30)]
    assert "none" in read_file(write("a.csv", csv_of(rows))).label_names


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_another_separator_is_seen_and_said(write: Write, delimiter: str) -> None:
    content = csv_of(lines()).replace(",", delimiter)
    task = read_file(write("a.csv", content))
    assert any(f"separated by {delimiter!r}" in note for note in task.notes)


def test_a_comma_inside_a_quoted_name_is_no_separator(write: Write) -> None:
    rows = [line.replace(",", ";") for line in lines()]
    task = read_file(write("a.csv", "\n".join(['"text, in full";label', *rows])))
    assert task.notes[0].startswith("text: `text, in full`; label: `label`")


def test_unnamed_columns_are_kept_apart(write: Write) -> None:
    content = "\n".join([",text,label,"] + [f"{i},{line}," for i, line in enumerate(lines())])
    task = read_file(write("a.csv", content))
    assert "not used: `(column 1)`, `(column 4)`" in task.notes[0]


def test_a_name_of_no_letters_is_a_name(write: Write) -> None:
    rows = [{"text": r["text"], "": r["label"]} for r in reviews()]
    assert (
        read_file(write("a.jsonl", rows)).notes[0].startswith("text: `text`; label: `(column 2)`")
    )
    with_half = "\n".join(json.dumps({"text": r["text"], "\ud800": r["label"]}) for r in reviews())
    assert "`\ufffd`" in read_file(write("b.jsonl", with_half)).notes[0]


def test_quotes_in_tsv_that_could_be_either(write: Write) -> None:
    """Two lines of two fields, or one text that holds a tab and a line break: the lines win."""
    lines = ["text\tlabel", '"so it began\tyes', 'and it ended"\tno']
    lines += [f"text {i}\t{c}" for c in ("yes", "no") for i in range(3)]
    task = read_file(write("a.tsv", "\n".join(lines)))
    assert sum(task.card.rows.values()) == 8
    texts = {t for s in task.splits for t in task.column(s, "text")}
    assert {'"so it began', 'and it ended"'} <= texts


def test_tsv_with_plain_quotes(write: Write) -> None:
    rows = ['"To be\tgood', 'or "not" to be\tbad', '5" of rain"\tgood', '"all" of it\tbad']
    task = read_file(write("a.tsv", "text\tlabel\n" + "\n".join(rows)))
    found = {t for s in task.splits for t in task.column(s, "text")}
    assert found == {'"To be', 'or "not" to be', '5" of rain"', '"all" of it'}


def test_a_field_of_a_million_characters(write: Write) -> None:
    task = read_file(write("a.csv", csv_of([*lines(), "x" * 1_000_000 + ",good"])))
    assert any("1 text longer than 100,000 characters cut" in note for note in task.notes)
    assert any("row 14" in note for note in task.notes)


# -- JSON --------------------------------------------------------------------------------


def test_a_malformed_line_is_refused_with_its_row(write: Write, refused: Refused) -> None:
    rows = [*json_lines(reviews(4)), "", '{"text": "a", label: 1}']
    error = refused(lambda: read_file(write("a.jsonl", "\n".join(rows))))
    assert "a.jsonl, row 6 is not valid JSON" in error.found
    assert "Each line holds one object" in error.why


@pytest.mark.parametrize(
    ("line", "words"),
    [("[1]", "row 1 holds a list"), ('{"a": 1, "a": 2}', "the name 'a' twice"),
     ("{", "row 1 is not valid JSON")],
)  # fmt: skip
def test_lines_that_are_no_rows_are_refused(
    write: Write, refused: Refused, line: str, words: str
) -> None:
    assert words in refused(lambda: read_file(write("a.jsonl", line + "\n"))).found


def test_a_malformed_list_is_refused(write: Write, refused: Refused) -> None:
    error = refused(lambda: read_file(write("a.json", '[{"text": "a"},')))
    assert "is not valid JSON" in error.found
    assert "one object per line" in error.remedy


def questions() -> Rows:
    """Rows as SQuAD has them flat, one question in four without an answer."""
    return [
        {"question": f"Where is {i}?", "context": f"Number {i} is here.",
         "answers": [{"text": "here", "answer_start": 11 + len(str(i))}] if i % 4 else []}
        for i in range(24)
    ]  # fmt: skip


def test_squad_as_it_is_published(write: Write) -> None:
    rows = questions()
    paragraphs = [
        {"context": r["context"],
         "qas": [{"id": str(i), "question": r["question"], "answers": r["answers"],
                  "is_impossible": not r["answers"]}]}
        for i, r in enumerate(rows)
    ]  # fmt: skip
    articles = [{"title": f"t{i}", "paragraphs": paragraphs[i : i + 4]} for i in range(0, 24, 4)]
    task = read_file(write("a.json", json.dumps({"version": "v2.0", "data": articles})))
    assert task.kind == "span_qa"
    assert "6 unanswerable" in task.notes[0]
    assert task.notes[1] == "read as SQuAD's JSON: a row per question"
    assert task.fingerprint == read_file(write("flat.json", rows)).fingerprint


def nested(form: str, rows: Rows) -> Any:
    columns = {name: [r[name] for r in rows] for name in rows[0]}
    at = [str(i) for i in range(len(rows))]
    return {
        "key": {"version": 2, "examples": rows},
        "table": {
            "schema": {"fields": [], "primaryKey": ["index"]},
            "data": [{"index": i, **r} for i, r in enumerate(rows)],
        },
        "split": {"columns": list(columns), "index": at, "data": [list(r.values()) for r in rows]},
        "columns": {n: dict(zip(at, values, strict=True)) for n, values in columns.items()},
        "index": dict(zip(at, rows, strict=True)),
        "lists": columns,
    }[form]


@pytest.mark.parametrize("form", ["key", "table", "split", "columns", "index", "lists"])
@pytest.mark.parametrize("indent", [None, 1])
def test_rows_in_one_object(write: Write, form: str, indent: int | None) -> None:
    rows = reviews(40)
    task = read_file(write("a.json", json.dumps(nested(form, rows), indent=indent)))
    assert task.fingerprint == read_file(write("b.json", rows)).fingerprint
    assert "not used" not in task.notes[0]


def test_an_object_of_splits_keeps_them(write: Write) -> None:
    rows = reviews(40)
    text = json.dumps({"train": rows[:20], "dev": rows[20:30], "test": rows[30:]})
    task = read_file(write("a.json", text))
    assert task.card.rows == {"train": 20, "validation": 10, "test": 10}
    assert not task.made_splits


def test_a_nesting_that_is_not_known_is_named(write: Write, refused: Refused) -> None:
    text = json.dumps({"good": reviews(4), "bad": reviews(4), "version": 1}, indent=1)
    error = refused(lambda: read_file(write("a.json", text)))
    assert "one object with 3 keys: 'good', 'bad' and 'version'" in error.found
    assert "SQuAD's" in error.why


@pytest.mark.parametrize("style", ["python", "json", "numpy"])
def test_lists_written_as_text_are_lists(write: Write, style: str) -> None:
    words, tags = ["it's", 'a "b"', "Rome,", "1"], ["O", "O", "B-LOC", "O"]
    as_text = {
        "python": repr,
        "json": json.dumps,
        "numpy": lambda items: "[" + "\n ".join(map(repr, items)) + "]",
    }[style]
    rows = [{"tokens": as_text([*words, str(i)]), "tags": as_text([*tags, "O"])} for i in range(12)]
    task = read_file(write("a.csv", rows))
    assert task.kind == "tagging"
    assert task.label_names == ("O", "B-LOC")
    assert {tuple(t[:4]) for s in task.splits for t in task.column(s, "tokens")} == {tuple(words)}
    ids = [{**r, "tags": "[0, 0, 3, 0, 0]"} for r in rows]
    assert read_file(write("b.tsv", ids)).label_names == ("0", "3")


def test_brackets_alone_make_no_list(write: Write) -> None:
    rows = [{"text": f"text {i}", "label": ("[spam]", "[ham]")[i % 2]} for i in range(12)]
    assert read_file(write("a.csv", rows)).label_names == ("[ham]", "[spam]")


def test_json_may_hold_lines(write: Write) -> None:
    assert len(read_file(write("a.json", "\n".join(json_lines(reviews()))))) == 12


def test_a_name_missing_in_some_lines_is_a_missing_value(write: Write, refused: Refused) -> None:
    rows = reviews()
    del rows[0]["label"], rows[11]["label"]
    error = refused(lambda: read_file(write("a.jsonl", rows)))
    assert "no label in 2 rows of 12 (rows 1 and 12)" in error.found


@pytest.mark.parametrize("column", ["text", "label"])
def test_mixed_types_are_refused_with_the_odd_row(
    write: Write, refused: Refused, column: str
) -> None:
    rows = reviews()
    rows[6][column] = 5
    error = refused(lambda: read_file(write("a.jsonl", rows)))
    assert f"column `{column}`: row 7 holds a whole number, most other rows text" in error.found
    assert "one type" in error.why
    assert "Correct the row" in error.remedy


def test_mixed_labels_are_words_where_the_user_wants_classes(write: Write) -> None:
    rows = [{"text": f"text {i}", "label": i % 2 if i % 3 else "unsure"} for i in range(12)]
    task = read_file(write("a.jsonl", rows), kind="classification")
    assert task.label_names == ("0", "1", "unsure")


def test_mixed_types_in_a_column_that_is_not_used_do_not_matter(write: Write) -> None:
    rows = [{**r, "meta": i if i % 2 else {"a": [1, "b"]}} for i, r in enumerate(reviews())]
    rows[3]["number"] = 2**70
    assert len(read_file(write("a.jsonl", rows))) == 12


def test_lists_of_mixed_types_name_the_row(write: Write, refused: Refused) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["O", "X"]} for _ in range(6)]
    rows[4]["tags"] = ["O", 1]
    error = refused(lambda: read_file(write("a.jsonl", rows), text="tokens", label="tags"))
    assert "column `tags`: row 5" in error.found


def test_numbers_beyond_64_bits_in_nested_cells(write: Write, refused: Refused) -> None:
    rows = [{**row, "label": [[], [10**30]][i % 2]} for i, row in enumerate(reviews())]
    assert "column `label`" in refused(lambda: read_file(write("a.jsonl", rows))).found


def test_a_number_of_5000_digits_is_a_word(write: Write, refused: Refused) -> None:
    rows = [{**row, "label": ("9" * 5000, "1,5")[i % 2]} for i, row in enumerate(reviews())]
    assert read_file(write("a.csv", rows)).n_classes == 2


@pytest.mark.parametrize("answer", [("b", "two"), (2, 2), ("b", 2.5), ("b", [[2]])])
def test_answers_of_another_type_are_refused(
    write: Write, refused: Refused, answer: tuple[Any, Any]
) -> None:
    rows = [
        {"question": f"which {i}?", "context": "a b",
         "answers": [{"text": answer[0], "answer_start": answer[1]}]} for i in range(9)
    ]  # fmt: skip
    path = write("a.jsonl", "\n".join(json_lines(rows)))
    refused(lambda: Task.from_file(path, kind="span_qa"))


@pytest.mark.parametrize("broken", ["qas", "answers", "paragraphs"])
def test_squad_with_a_level_that_is_no_list_is_refused(
    write: Write, refused: Refused, broken: str
) -> None:
    question = {"id": "1", "question": "which?", "answers": [{"text": "b", "answer_start": 2}]}
    paragraph = {"context": "a b", "qas": [question]}
    article = {"title": "t", "paragraphs": [paragraph]}
    level = {"qas": paragraph, "answers": question, "paragraphs": article}[broken]
    for value in ("words", [1], {"a": 1}, 3):
        level[broken] = value
        refused(lambda: read_file(write("a.json", json.dumps({"data": [article]}))))


def test_half_an_emoji_is_replaced(write: Write) -> None:
    rows = [*json_lines(reviews(4)), '{"text": "cut \\ud83d", "label": "good"}']
    task = read_file(write("a.jsonl", "\n".join(rows)))
    assert any("cut \ufffd" in t for s in task.splits for t in task.column(s, "text"))


# -- what Parquet and Arrow files carry --------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_class_names_in_the_metadata_are_kept(tmp_path: Path, suffix: str) -> None:
    features = {"label": {"names": ["neg", "pos", "never"], "_type": "ClassLabel"},
                "text": {"dtype": "string", "_type": "Value"}}  # fmt: skip
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(12)]
    table = pa.Table.from_pylist(rows).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    assert read_file(path).label_names == ("neg", "pos")


# -- datasets objects --------------------------------------------------------------------------


def test_a_dataset_keeps_its_class_names_and_selection() -> None:
    from datasets import Dataset

    dataset = Dataset.from_list(reviews(40)).class_encode_column("label")
    task = Task.from_dataset(dataset.select(range(30)).shuffle(seed=1))
    assert task.label_names == ("bad", "good")
    assert len(task) == 30
    assert task.made_splits


def test_a_dataset_dict_keeps_its_splits() -> None:
    from datasets import Dataset, DatasetDict

    parts = {"train": reviews(20), "dev": reviews(6), "test": reviews(8)}
    task = read_dataset(
        DatasetDict({s: Dataset.from_list(rows) for s, rows in parts.items()}), name="mine"
    )
    assert task.card.rows == {"train": 20, "validation": 6, "test": 8}
    assert task.name == "mine"
    assert not task.made_splits


def test_rows_of_a_dataset_dict_are_named_with_their_split(refused: Refused) -> None:
    rows = reviews(8)
    rows[2]["text"] = ""
    error = refused(
        lambda: read_dataset(
            {"train": pa.Table.from_pylist(reviews(20)), "test": pa.Table.from_pylist(rows)}
        )
    )
    assert "(row 3 of split 'test')" in error.found


def test_splits_without_train_are_refused(refused: Refused) -> None:
    table = pa.Table.from_pylist(reviews())
    error = refused(lambda: read_dataset({"en": table, "fr": table}))
    assert "the splits en and fr, none of them train" in error.found


def test_splits_of_other_types_are_refused(refused: Refused) -> None:
    rows = [{"text": f"text {i}", "label": {"a": i}} for i in range(4)]
    error = refused(
        lambda: read_dataset(
            {"train": pa.Table.from_pylist(reviews()), "test": pa.Table.from_pylist(rows)}
        )
    )
    assert "columns of different types" in error.found


def test_tagging_of_a_dataset_with_declared_tags() -> None:
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets.features import List

    tags = List(ClassLabel(names=["O", "B-X", "I-X"]))
    features = Features({"tokens": List(Value("string")), "ner_tags": tags})
    rows = [{"tokens": ["a", "b"], "ner_tags": [0, 1]} for _ in range(8)]
    task = read_dataset(Dataset.from_list(rows, features=features))
    assert task.kind == "tagging"
    assert task.label_names == ("O", "B-X")


class Streams:
    """What polars' frames are to us: something that streams Arrow."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, schema: object = None) -> object:
        return self._table.__arrow_c_stream__(schema)


def test_frames_and_lists_of_rows_are_the_same_task() -> None:
    import pandas as pd

    rows = reviews(20)
    told = read_dataset(pa.Table.from_pylist(rows))
    frame = pd.DataFrame(rows, index=range(100, 120))
    for data in (rows, frame, Streams(pa.Table.from_pylist(rows)), {"train": frame}):
        assert Task.of(data).fingerprint == told.fingerprint
    assert Task.of(told) is told
    both = Task.of({"train": frame, "test": rows[:6]})
    assert both.card.rows == {"train": 20, "test": 6}
    assert not both.made_splits
    # A key that a row lacks is an empty cell, also where the first row lacks it.
    lacking = [{"text": "no label here"}, *rows]
    assert len(Task.from_dataset(lacking, drop_unlabelled=True)) == 20


def test_a_column_of_several_types_is_refused(refused: Refused) -> None:
    import pandas as pd

    rows = [*reviews(6), {"text": "seven", "label": {"a": 1}}]
    for data in (rows, pd.DataFrame(rows)):
        assert "one type" in refused(lambda data=data: read_dataset(data)).why


def test_other_objects_are_refused(refused: Refused) -> None:
    error = refused(lambda: read_dataset(object()))  # type: ignore[arg-type]
    assert "builtins.object" in error.found
    assert "pandas" in error.why
    assert "no splits" in refused(lambda: read_dataset({})).found


# -- the hub ------------------------------------------------------------------------------------


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local folder laid out like a dataset on the hub, with two configurations."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "movies"
    features = {"text": {"dtype": "string", "_type": "Value"},
                "label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}  # fmt: skip
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for config in ("plain", "hidden"):
        (folder / config).mkdir(parents=True)
        for split, n in (("train", 40), ("test", 10)):
            hide = config == "hidden" and split == "test"
            rows = [{"text": f"{split} text {i}", "label": -1 if hide else i % 2} for i in range(n)]
            table = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
            pq.write_table(table, folder / config / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\n"
        "license: cc-by-4.0\n"
        "configs:\n"
        + "".join(
            f"- config_name: {config}\n"
            "  data_files:\n"
            f"  - split: train\n    path: {config}/train-*\n"
            f"  - split: test\n    path: {config}/test-*\n"
            for config in ("plain", "hidden")
        )
        + "---\n"
    )
    return folder


def test_a_hub_folder(hub_folder: Path) -> None:
    task = Task.from_hub(str(hub_folder), "plain")
    assert task.name == "movies-plain"
    assert task.label_names == ("neg", "pos")
    assert task.card.rows == {"train": 40, "test": 10}
    assert task.card.hub_id == str(hub_folder)
    assert task.card.load == f'datasets.load_dataset("{hub_folder}", "plain")'
    assert not task.made_splits


def test_one_split_of_a_hub_folder_is_split_anew(hub_folder: Path) -> None:
    task = read_hub(str(hub_folder), "plain", "train", name="mine", max_characters=16)
    assert task.name == "mine"
    assert task.made_splits
    assert len(task) == 40
    assert task.card.load.endswith('"plain", split="train")')
    assert {len(t) for s in task.splits for t in task.column(s, "text")} <= set(range(17))


def test_a_hidden_test_split_is_left_out(hub_folder: Path) -> None:
    task = read_hub(str(hub_folder), "hidden")
    assert task.made_splits
    assert len(task) == 40
    assert any("split 'test' left out" in note for note in task.notes)


def test_an_unknown_configuration_or_split_is_refused(hub_folder: Path, refused: Refused) -> None:
    error = refused(lambda: read_hub(str(hub_folder), "fancy"))
    assert "configuration 'fancy'" in error.found
    assert "plain" in error.found
    error = refused(lambda: read_hub(str(hub_folder), "plain", "later"))
    assert "split 'later'" in error.found
    assert "configurations and splits" in error.remedy
    error = refused(lambda: read_hub(str(hub_folder)))
    assert "plain" in error.found


def test_a_dataset_that_is_not_there_is_refused_with_its_id(
    tmp_path: Path, refused: Refused
) -> None:
    error = refused(lambda: read_hub("nobody/no-such-dataset-at-all"))
    assert "'nobody/no-such-dataset-at-all'" in error.found
    assert "HF_HUB_OFFLINE" in error.remedy
    error = refused(lambda: read_hub(str(tmp_path / "nowhere")))
    assert "nowhere" in error.found
    assert "spelling" in error.remedy


def test_a_dataset_with_code_is_refused(tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("raise SystemExit('this must not run')")
    error = refused(lambda: read_hub(str(folder)))
    assert "scripted" in error.found
