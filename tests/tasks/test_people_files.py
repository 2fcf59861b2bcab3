"""Files as people have them: packed, in workbooks, in folders, from Excel, without a header."""

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import lzma
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks._mutations import ods

from taskscout.errors import DataError
from taskscout.tasks import Task, file_formats, spreadsheets

from .conftest import Rows, reviews, write_rows

Refused = Callable[[Callable[[], Any]], DataError]
read_file = Task.from_file
Write = Callable[..., Path]


def records(rows: Rows) -> list[list[Any]]:
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def workbook(*sheets: list[list[Any]], names: tuple[str, ...] = ()) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for at, rows in enumerate(sheets):
        sheet = book.create_sheet(names[at] if names else None)
        for row in rows:
            sheet.append(row)
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


# -- packed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["csv", "tsv", "jsonl", "json", "parquet", "arrow"])
@pytest.mark.parametrize(
    ("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
)
def test_packed_files(write: Write, inner: str, ending: str, pack: Callable[[bytes], bytes]):
    plain = write(f"a.{inner}", reviews(30))
    task = read_file(write(f"a.{inner}.{ending}", pack(plain.read_bytes())))
    assert task.fingerprint == read_file(plain).fingerprint


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip"])
def test_what_cannot_be_unpacked_is_refused(write: Write, refused: Refused, ending: str):
    error = refused(lambda: read_file(write(f"a.csv.{ending}", b"no archive at all")))
    assert "cannot be unpacked" in error.found
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(ending)
    whole = packed(b"text,label\n" * 50) if packed else zipped({"a.csv": b"text,label\n" * 50})
    assert "unpacked" in refused(lambda: read_file(write(f"b.csv.{ending}", whole[:-15]))).found


def test_a_bomb_is_not_unpacked(write: Write, refused: Refused, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(file_formats, "_LARGEST", 10**6)
    bomb = gzip.compress(b"text,label\n" + b"a,b\n" * 10**6)
    assert len(bomb) < 10**5
    assert "once it is unpacked" in refused(lambda: read_file(write("a.csv.gz", bomb))).found
    inner = zipped({"a.csv": b"text,label\n" + b"a,b\n" * 10**6})
    assert "too large" in refused(lambda: read_file(write("a.zip", inner))).found


# -- several files ------------------------------------------------------------------------------


def split_files(folder: Path, names: tuple[str, ...]) -> dict[str, Rows]:
    folder.mkdir()
    rows = reviews(30 * len(names))
    parts = {name: rows[30 * at : 30 * at + 30] for at, name in enumerate(names)}
    for name, part in parts.items():
        write_rows(folder / name, part)
    return parts


@pytest.mark.parametrize("form", ["folder", "zip", "zip of a folder"])
@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "dev.csv", "test.csv"), ("train.jsonl", "valid.jsonl", "test.jsonl"),
        ("reviews_train.tsv", "reviews_validation.tsv", "reviews_test.tsv"),
        ("train.parquet", "validation-00000.parquet", "test.csv"),
    ],
    ids=str,
)  # fmt: skip
def test_files_that_are_splits(tmp_path: Path, form: str, names: tuple[str, ...]):
    folder = tmp_path / "data"
    parts = split_files(folder, names)
    (folder / "README.md").write_text("What it is.")
    (folder / ".DS_Store").write_bytes(b"\0")
    path = folder
    if form != "folder":
        inside = "data/" if form.endswith("folder") else ""
        files = {inside + f.name: f.read_bytes() for f in folder.iterdir()}
        path = tmp_path / "data.zip"
        path.write_bytes(zipped({**files, "__MACOSX/._train.csv": b"\0"}))
    task = read_file(path)
    assert not task.made_splits
    assert task.card.rows == {"train": 30, "validation": 30, "test": 30}
    for split, part in zip(("train", "validation", "test"), parts.values(), strict=True):
        assert task.column(split, "text") == [row["text"] for row in part]
    assert any("the splits are the files" in note and names[0] in note for note in task.notes)


def test_a_folder_or_zip_of_one_file(tmp_path: Path, write: Write):
    plain = write("reviews.csv", reviews(30))
    expected = read_file(plain).fingerprint
    assert read_file(tmp_path).fingerprint == expected
    assert "read from reviews.csv" in read_file(tmp_path).notes
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"x/reviews.csv": plain.read_bytes(), "x/LICENSE": b"MIT"}))
    assert read_file(path).fingerprint == expected


def test_rows_of_a_split_are_counted_in_its_file(tmp_path: Path, refused: Refused):
    folder = tmp_path / "data"
    split_files(folder, ("train.csv", "test.csv"))
    (folder / "test.csv").write_text("text,label\nall is well here,good\n,bad\n")
    error = refused(lambda: read_file(folder))
    assert "an empty text in 1 row (row 3 of split 'test')" in error.found


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("train.csv", "more.csv"), ("notes.md",)])
def test_files_whose_names_say_no_splits_are_refused(
    tmp_path: Path, refused: Refused, names: tuple[str, ...]
):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("text,label\na b,c\n")
    for name in names:
        assert name in refused(lambda: read_file(folder)).found
    path = tmp_path / "data.zip"
    path.write_bytes(zipped(dict.fromkeys(names, b"text,label\na b,c\n")))
    assert "one for each split" in refused(lambda: read_file(path)).why


def test_no_name_in_an_archive_becomes_a_file(tmp_path: Path, write: Write):
    data = write("reviews.csv", reviews()).read_bytes()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a.zip").write_bytes(zipped({"../../out.csv": data}))
    before = sorted(tmp_path.rglob("*"))
    try:
        read_file(inside / "a.zip")
    except DataError:
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_with_a_password_is_refused(write: Write, refused: Refused):
    data = bytearray(zipped({"a.csv": b"text,label\n"}))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    assert "password" in refused(lambda: read_file(write("a.zip", bytes(data)))).found


# -- workbooks ------------------------------------------------------------------------------------


def test_a_workbook(write: Write):
    rows = [{"id": i, **row} for i, row in enumerate(reviews(40))]
    task = read_file(write("a.xlsx", workbook(records(rows))))
    assert task.fingerprint == read_file(write("a.csv", rows)).fingerprint
    texts = [[str(cell) for cell in record] for record in records(rows)]
    assert read_file(write("a.ods", ods(texts))).fingerprint == task.fingerprint


def test_cells_come_as_they_are_shown(write: Write):
    head = ["text", "label", "day", "share", "none"]
    day = datetime.datetime(2026, 11, 28)
    body = [[f"text {i}", (True, False)[i % 2], day, 0.25 + i, None] for i in range(8)]
    path = write("a.xlsx", workbook([head, *body]))
    raw = file_formats.read_table(path)
    first = raw.table.to_pylist()[0]
    assert first == {
        "text": "text 0",
        "label": "TRUE",
        "day": "2026-11-28",
        "share": "0.25",
        "none": "",
    }
    assert read_file(path).label_names == ("FALSE", "TRUE")
    numbers = [["text", "score"], *([f"text {i}", i / 4] for i in range(8))]
    assert read_file(write("b.xlsx", workbook(numbers))).kind == "regression"
    classes = [["text", "label"], *([f"text {i}", float(i % 2)] for i in range(8))]
    assert read_file(write("c.xlsx", workbook(classes))).label_names == ("0", "1")


def test_rows_are_counted_as_the_sheet_does(write: Write, refused: Refused):
    rows = [[], ["text", "label"], [], *([f"text {i}", "ab"[i % 2]] for i in range(5)), [None, "a"]]
    error = refused(lambda: read_file(write("a.xlsx", workbook(rows))))
    assert "an empty text in 1 row (row 9)" in error.found


def test_sheets(write: Write):
    table, note = records(reviews(30)), [["what"], ["this is"], ["a note"]]
    task = read_file(write("a.xlsx", workbook(table, note, names=("Tickets", "Notes"))))
    assert "read from sheet 'Tickets'; not read: 'Notes'" in task.notes
    names = ("train", "dev", "test")
    task = read_file(write("b.xlsx", workbook(table, table[:9], table[:7], names=names)))
    assert task.card.rows == {"train": 30, "validation": 8, "test": 6}
    empty = workbook([], table, names=("Sheet1", "Data"))
    assert len(read_file(write("c.xlsx", empty))) == 30


@pytest.mark.parametrize("name", ["a.xlsx", "a.ods"])
def test_a_damaged_workbook_is_refused(write: Write, refused: Refused, name: str):
    table = records(reviews(30))
    whole = workbook(table) if name == "a.xlsx" else ods(table)
    for data in (whole[: len(whole) // 2], b"no workbook", zipped({"other": b"x"})):
        error = refused(lambda: read_file(write(name, data)))  # noqa: B023
        assert "cannot be read as" in error.found
    nothing = workbook([["text", "label"]]) if name == "a.xlsx" else ods([["text", "label"]])
    assert "no sheet with rows" in refused(lambda: read_file(write(name, nothing))).found


def with_part(data: bytes, part: str, old: bytes, new: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert old in parts[part]
    return zipped({**parts, part: parts[part].replace(old, new, 1)})


def test_a_cell_in_the_last_corner_takes_no_memory(write: Write, refused: Refused):
    """By a reader that keeps a sheet as a rectangle, this ended the process."""
    whole = workbook(records(reviews(30)))
    far = with_part(whole, "xl/worksheets/sheet1.xml", b'r="A9"', b'r="XFD1048576"')
    refused(lambda: read_file(write("a.xlsx", far)))
    dimension = with_part(
        whole, "xl/worksheets/sheet1.xml", b'ref="A1:B31"', b'ref="A1:XFD1048576"'
    )
    assert len(read_file(write("b.xlsx", dimension))) == 30
    table = [[str(c) for c in record] for record in records(reviews(30))]
    for attribute in ("columns", "rows"):
        row = b"<table:table-row>" if attribute == "rows" else b"<table:table-cell "
        many = row[:-1] + f' table:number-{attribute}-repeated="999999999"'.encode() + row[-1:]
        path = write("a.ods", with_part(ods(table), "content.xml", row, many))
        error = refused(lambda: read_file(path))  # noqa: B023
        assert "more than" in error.found


def test_entities_without_end_are_not_unfolded(write: Write, refused: Refused):
    lol = b"<!DOCTYPE x [<!ENTITY a0 'lol'>" + b"".join(
        f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>".encode() for i in range(1, 12)
    ) + b"]>"  # fmt: skip
    content = with_part(
        ods(records(reviews(9))), "content.xml", b"this is review number 0", b"&a11;"
    )
    bomb = with_part(
        content, "content.xml", b"<office:document-content", lol + b"<office:document-content"
    )
    refused(lambda: read_file(write("a.ods", bomb)))


def test_without_openpyxl_the_extra_is_named(
    write: Write, refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    path = write("a.xlsx", workbook(records(reviews())))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    error = refused(lambda: read_file(path))
    assert "pip install 'taskscout[excel]'" in error.remedy


def test_a_workbook_that_is_too_large_is_refused(
    write: Write, refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spreadsheets, "_CELLS", 40)
    assert (
        "40 cells"
        in refused(lambda: read_file(write("a.xlsx", workbook(records(reviews(30)))))).found
    )
    monkeypatch.setattr(spreadsheets, "_LARGEST", 100)
    assert "more than" in refused(lambda: read_file(write("a.ods", ods(records(reviews(3)))))).found


# -- from Excel, and without a row of names ---------------------------------------------------------


def test_the_line_by_which_excel_names_the_separator(write: Write, refused: Refused):
    rows = [f'"eins, zwei {i}";{("gut", "schlecht")[i % 2]}' for i in range(20)]
    path = write("a.csv", "sep=;\r\n" + "\r\n".join(["text;label", *rows]))
    task = read_file(path)
    assert task.label_names == ("gut", "schlecht")
    assert len(task) == 20
    rows[3] = ";gut"
    assert (
        "row 6"
        in refused(
            lambda: read_file(write("a.csv", "sep=;\n" + "\n".join(["text;label", *rows])))
        ).found
    )


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_comma_in_the_first_row_is_no_separator(write: Write, separator: str):
    rows = [f"one, two, number {i}{separator}{'ab'[i % 2]}" for i in range(20)]
    path = write("a.csv", "\n".join([f"text, as written{separator}label", *rows]))
    assert read_file(path, text="text, as written").n_classes == 2


@pytest.mark.parametrize(
    "labels", [("good", "bad"), ("0", "1"), ("3.5", "1.25")], ids=["words", "ids", "numbers"]
)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "xlsx"])
def test_a_file_without_names(write: Write, labels: tuple[str, str], suffix: str):
    rows = [[f"here is a text with the number {i}", labels[i % 2]] for i in range(30)]
    if suffix == "xlsx":
        path = write("a.xlsx", workbook(rows))
    else:
        mark = "," if suffix == "csv" else "\t"
        path = write(f"a.{suffix}", "\n".join(mark.join(row) for row in rows))
    task = read_file(path)
    assert len(task) == 30
    assert task.kind == ("regression" if labels[0] == "3.5" else "classification")
    assert any(n.startswith("no row of names: row 1 looks like an example") for n in task.notes)
    assert "label: `column 2`" in task.notes[0]


@pytest.mark.parametrize(
    "names", [("text", "good"), ("0", "1"), ("message body", "bug?"), ("a", "b")]
)
def test_a_row_of_names_stays_one(write: Write, names: tuple[str, str]):
    rows = [f"here is a text with the number {i},{('good', 'bad')[i % 2]}" for i in range(30)]
    task = read_file(write("a.csv", "\n".join([",".join(names), *rows])))
    assert len(task) == 30
    assert f"label: `{names[1]}`" in task.notes[0]


# -- plain text -------------------------------------------------------------------------------------


def test_lines_of_fasttext(write: Write):
    rows = [f"__label__{('good', 'bad')[i % 2]} text number {i}" for i in range(30)]
    task = read_file(write("a.txt", "\n".join(rows)))
    assert task.label_names == ("bad", "good")
    assert "text number 0" in [t for s in task.splits for t in task.column(s, "text")]


def test_text_with_a_separator(write: Write):
    rows = [f"text number {i}, and more\t{('good', 'bad')[i % 2]}" for i in range(30)]
    task = read_file(write("a.txt", "\n".join(rows)))
    assert (len(task), task.n_classes) == (30, 2)


def test_a_text_per_line_has_no_label(write: Write, refused: Refused):
    path = write("a.txt", "\n".join(f"line {i}" + ", or so" * (i % 3) for i in range(30)))
    assert "no column that looks like a label" in refused(lambda: read_file(path)).found
    assert file_formats.read_table(path).table.column_names == ["text"]


def test_a_parquet_file_in_a_zip(tmp_path: Path):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(reviews(30)), sink)
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"a.parquet": sink.getvalue()}))
    assert len(read_file(path)) == 30


def test_what_openpyxl_leaves_out_is_no_matter_of_the_user(
    write: Write, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    load = openpyxl.load_workbook

    def warning(*arguments: Any, **options: Any) -> Any:
        warnings.warn(
            "Data Validation extension is not supported and will be removed", stacklevel=1
        )
        return load(*arguments, **options)

    monkeypatch.setattr(openpyxl, "load_workbook", warning)
    assert len(read_file(write("a.xlsx", workbook(records(reviews(30)))))) == 30
    assert not recwarn.list
