"""CSV, TSV and plain text as raw tables: separators, quotes, the row of names, lists as text."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from taskscout.errors import DataError
from taskscout.tasks import column_names
from taskscout.tasks.arrow import text_array
from taskscout.tasks.raw import RawTable, count
from taskscout.tasks.written_numbers import is_number

_SEPARATORS = ",;\t|"
#: Excel's own first line, which names the separator and is no row.
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
#: So many records are looked at for the separator.
_LOOKED_AT = 100
#: A record and its number as a spreadsheet counts it.
Records = Sequence[tuple[int, Sequence[str]]]


def read_csv(path: str, text: str) -> RawTable:
    """Read text with one record per row, whatever separates its fields.

    Raises
    ------
    DataError
        Where a row cannot be read, or has another number of fields than the first.
    """
    line = _SEPARATOR_LINE.match(text)
    text = text[line.end() :] if line else text
    delimiter = line[1] if line else _separator(text)
    notes = () if delimiter == "," else (f"fields are separated by {delimiter!r}",)
    with _unlimited_fields():
        return table_of(path, list(_rows(path, text, delimiter, 2 if line else 1)), notes)


def read_tsv(path: str, text: str) -> RawTable:
    """Read TSV, with quoted fields or with quotes as plain characters.

    Quotes are plain where reading them as quotes fails or would join lines, and every line has
    the right number of fields without. A file that reads both ways, its quoted texts holding
    separators and line breaks in just such places, is taken to have plain quotes: published TSV
    has these far more often.

    Raises
    ------
    DataError
        As for :func:`read_csv`.
    """
    lines = enumerate(text.replace("\r\n", "\n").split("\n"), 1)
    plain = [(n, line.split("\t")) for n, line in lines if line.strip()]
    fits = len({len(fields) for _, fields in plain}) == 1
    with _unlimited_fields():
        try:
            rows = list(_rows(path, text, "\t"))
        except DataError:
            if not fits:
                raise
            rows = plain
        if fits and len(rows) != len(plain):
            rows = plain
        return table_of(path, rows, ())


def read_lines(path: str, text: str) -> RawTable:
    """Read a ``.txt`` file: fastText's lines, fields with a separator, or a text per line.

    Raises
    ------
    DataError
        As for :func:`read_csv`.
    """
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if lines and all(line.startswith(_FASTTEXT) for _, line in lines):
        labels, texts = zip(*(_fasttext(line) for _, line in lines), strict=True)
        table = pa.table({"text": text_array(texts), "label": pa.array(labels)})
        return RawTable(path, table, [n for n, _ in lines], notes=("read as fastText's lines",))
    with _unlimited_fields():
        separator = _consistent_separator(text)
        if separator is not None:
            return table_of(path, list(_rows(path, text, separator)), (
                f"fields are separated by {separator!r}",
            ))  # fmt: skip
    table = pa.table({"text": text_array([line.strip() for _, line in lines])})
    return RawTable(path, table, [n for n, _ in lines], notes=("read as one text per line",))


_FASTTEXT = "__label__"


def _fasttext(line: str) -> tuple[list[str], str]:
    """The labels and the text of a line of fastText's."""
    words = line.split()
    n = next((i for i, w in enumerate(words) if not w.startswith(_FASTTEXT)), len(words))
    return [w.removeprefix(_FASTTEXT) for w in words[:n]], " ".join(words[n:])


@contextmanager
def _unlimited_fields() -> Iterator[None]:
    """Lift the csv module's limit of 131,072 characters per field."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _separator(text: str) -> str:
    """The separator that all records agree on, else the first that the row of names has."""
    with _unlimited_fields():
        found = _consistent_separator(text)
    if found is not None:
        return found
    header = re.sub(r'"[^"]*"', "", text.lstrip().split("\n", 1)[0])
    return next((d for d in _SEPARATORS if d in header), ",")


def _consistent_separator(text: str) -> str | None:
    """The first separator by which the first records have equally many fields, two or more."""
    for separator in _SEPARATORS:
        sizes: set[int] = set()
        try:
            for at, fields in enumerate(_plain_records(text, separator)):
                sizes.add(len(fields))
                if at == _LOOKED_AT or len(sizes) > 1:
                    break
        except csv.Error:
            continue
        if len(sizes) == 1 and sizes != {1}:
            return separator
    return None


def _plain_records(text: str, separator: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    return (fields for fields in reader if fields)


def records_in(before: str) -> int:
    """Count the records that begin in a text, the last of them unfinished."""
    with _unlimited_fields():
        n = sum(1 for _ in csv.reader(io.StringIO(before, newline="")))
    return n + (not before or before.endswith("\n"))


def _rows(path: str, text: str, delimiter: str, first: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield records and their numbers from ``first`` on; blank lines count but are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = first - 1
    try:
        for number, fields in enumerate(reader, first):
            if fields:
                yield number, fields
    except csv.Error as error:
        raise DataError(
            f"{path}, row {number + 1}: {error}.",
            "A field that holds quotes, line breaks or the separator stands in double quotes, "
            "and quotes inside it are doubled.",
            "Correct the row, or save the file anew from the program it comes from.",
        ) from error


def table_of(path: str, rows: Records, notes: tuple[str, ...]) -> RawTable:
    """Make a table of records of texts, the first of them the names unless it is an example.

    Raises
    ------
    DataError
        Where there is no row, or one has another number of fields than the first.
    """
    _, header = rows[0] if rows else (0, [])
    if not any(h.strip() for h in header):
        raise DataError(
            f"{path} is empty.", "It has no row with column names.", "Give a file with examples."
        )
    for number, fields in rows:
        if len(fields) != len(header):
            raise DataError(
                f"{path}, row {number} has {count(len(fields), 'field')}.",
                f"The first row names {count(len(header), 'column')}.",
                "Correct the row; a text that holds the separator stands in double quotes.",
            )
    example = _example_in_header([fields for _, fields in rows])
    if example is None:
        names = [h.strip() or f"(column {i})" for i, h in enumerate(header, 1)]
        rows = rows[1:]
    else:
        names = [f"column {i}" for i in range(1, len(header) + 1)]
        notes += (
            f"no row of names: row 1 looks like an example, for it has {example}; columns are "
            f"called {names[0]} to {names[-1]}",
        )
    columns = list(zip(*(fields for _, fields in rows), strict=True)) or [()] * len(names)
    arrays = [_unpacked_lists(c) or text_array(c) for c in columns]
    table = pa.Table.from_arrays(arrays, names=names)
    return RawTable(path, table, [number for number, _ in rows], notes=notes)


def _example_in_header(records: Sequence[Sequence[str]]) -> str | None:
    """What in the first record shows that it is an example; None where it names columns.

    It is one where no field is a usual name of a column, and one of them stands again in the same
    column, among few different values as classes are, or is a number above numbers.
    """
    header, *rest = records
    if len(rest) < 3 or any(column_names.is_usual(name) for name in header):
        return None
    for name, column in zip(header, zip(*rest, strict=True), strict=True):
        values = set(column)
        few = 1 < len(values) <= max(2, min(200, len(rest) // 2))
        if name.strip() and name in values and few:
            return f"{name.strip()[:40]!r} as other rows have"
        if is_number(name.strip()) and all(is_number(v.strip()) for v in values if v.strip()):
            return f"the number {name.strip()} among numbers"
    return None


_LIST_ITEM = re.compile(
    r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+)(?:\s*(?:,|$)|\s+)""", re.DOTALL
)


def _unpacked_lists(cells: Sequence[str]) -> pa.Array | None:
    """Read a column of lists written as text, as pandas and NumPy write them; None for others.

    All cells that are not empty are lists of quoted words or of whole numbers, in the manner of
    Python, JSON or NumPy: ``['O', 'B-LOC']``, ``["a"]``, ``[0, 1]``, ``['O' 'O']``.
    """
    if not any(c.strip() for c in cells):
        return None
    lists: list[list[Any] | None] = []
    for cell in cells:
        items = _list_items(cell.strip()) if cell.strip() else None
        if items is None and cell.strip():
            return None
        lists.append(items)
    if all(isinstance(v, int) for items in lists for v in items or ()):
        return pa.array(lists, pa.list_(pa.int64()))
    texts = [items if items is None else [str(v) for v in items] for items in lists]
    return pa.array(texts, pa.list_(pa.string()))


def _list_items(text: str) -> list[str | int] | None:
    """Read one list; None where it is no list of words or whole numbers."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        pass
    else:
        return found if all(type(v) in (str, int) for v in found) else None
    items: list[str | int] = []
    inside = text[1:-1].strip()
    at = 0
    while at < len(inside):
        match = _LIST_ITEM.match(inside, at)
        if not match:
            return None
        try:
            items.append(ast.literal_eval(match[1]))
        except (ValueError, SyntaxError):
            return None
        at = match.end()
    return items
