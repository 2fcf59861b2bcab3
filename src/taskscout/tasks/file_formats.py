"""From files to raw tables: CSV, TSV, JSON, JSON lines, Parquet and Arrow.

Nothing is inferred here but the separator and the nesting. Pickles are never read.
"""

from __future__ import annotations

import ast
import csv
import difflib
import io
import json
import re
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from taskscout.errors import DataError
from taskscout.tasks.arrow import number_array, text_array
from taskscout.tasks.arrow_files import read_ipc, read_parquet
from taskscout.tasks.dataset_tables import declared_names
from taskscout.tasks.nested_json import rows_of_object
from taskscout.tasks.raw import LISTED, Odd, RawTable, count, join, option


def read_table(path: Path, encoding: str) -> RawTable:
    """Read a file by its ending.

    Raises
    ------
    DataError
        Where the file is missing, empty or malformed, or of a format that is not known.
    """
    read = _FORMATS.get(path.suffix.lower())
    if not path.exists():
        raise _missing_file(path)
    if path.is_dir():
        raise _folder(path)
    if read is None:
        advice = {
            ".xlsx": "In the spreadsheet, save it as CSV UTF-8.",
            ".xls": "In the spreadsheet, save it as CSV UTF-8.",
            ".ods": "In the spreadsheet, save it as CSV UTF-8.",
            ".pkl": "A pickle can run code and is never read: save the data as Parquet.",
            ".pickle": "A pickle can run code and is never read: save the data as Parquet.",
            ".gz": "Unpack it first.",
            ".zip": "Unpack it first.",
            ".bz2": "Unpack it first.",
            ".xz": "Unpack it first.",
            ".zst": "Unpack it first.",
        }
        raise DataError(
            f"{path} has the unknown format {path.suffix or '(no ending)'!r}.",
            f"The ending tells the format; known are {', '.join(_FORMATS)}.",
            advice.get(path.suffix.lower(), "Rename the file after what it holds, or convert it."),
        )
    if not path.is_file():
        raise DataError(
            f"{path} is no ordinary file.",
            "A pipe or device may never end.",
            "Save its data in a file, and give that.",
        )
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.", "It has 0 bytes.", "Give a file with examples.")
        return read(path, encoding)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read.",
            f"The system says: {error.strerror or error}.",
            "Check the file and its permissions.",
        ) from error


def _missing_file(path: Path) -> DataError:
    folder = path.parent
    if not folder.is_dir():
        return DataError(
            f"There is no file {path}.",
            f"The folder {folder} does not exist either.",
            "Check the path.",
        )
    files = sorted(f.name for f in folder.iterdir() if f.suffix.lower() in _FORMATS)
    close = difflib.get_close_matches(path.name, files, n=3, cutoff=0.5)
    shown = close or files[:5]
    there = (
        f"has {join(shown, len(shown) if close else len(files))}" if shown else "has no data file"
    )
    return DataError(
        f"There is no file {path}.",
        f"The folder {folder.resolve()} {there}.",
        f"Did you mean {close[0]}?" if close else "Check the path.",
    )


def _folder(path: Path) -> DataError:
    files = sorted(f.name for f in path.iterdir() if f.suffix.lower() in _FORMATS)
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        remedy = f"In Python: Task.from_dataset(datasets.load_from_disk({str(path)!r}))."
    elif files:
        remedy = f"Give one of its files: {join(files[:5], len(files))}."
    else:
        remedy = "Give a file, or load a folder laid out like a hub dataset with Task.from_hub."
    return DataError(f"{path} is a folder.", "One task is read from one file.", remedy)


def _text(path: Path, encoding: str, row_at: Callable[[str], int]) -> str:
    """Decode a text file; a byte that cannot be decoded is told with its row."""
    data = path.read_bytes()
    is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    try:
        return data.decode("utf-8-sig" if is_utf8 else encoding)
    except LookupError as error:
        raise DataError(
            f"There is no encoding {encoding!r}.",
            f"{path} cannot be decoded without.",
            f"Give one such as utf-8, latin-1 or cp1252 with {option('encoding')}.",
        ) from error
    except UnicodeDecodeError as error:
        start = error.start
        before = data[:start].decode(encoding, "replace")
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise DataError(
            f"{path}, row {row_at(before)}: byte {start + 1:,} (0x{data[start]:02x}) cannot be "
            f"decoded.",
            f"The file is not {encoding} throughout"
            + ("; it begins like UTF-16." if utf16 else "."),
            f"Save it as UTF-8, or give its encoding, such as "
            f"{'utf-16' if utf16 else 'cp1252'}, with {option('encoding')}.",
        ) from error


# CSV and TSV


@contextmanager
def _unlimited_fields() -> Iterator[None]:
    """Lift the csv module's limit of 131,072 characters per field."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv(path: Path, encoding: str) -> RawTable:
    text = _text(path, encoding, _records)
    header = re.sub(r'"[^"]*"', "", text.lstrip().split("\n", 1)[0])
    delimiter = next((d for d in ",;\t|" if d in header), ",")
    notes = () if delimiter == "," else (f"fields are separated by {delimiter!r}",)
    with _unlimited_fields():
        return _delimited(path, _rows(path, text, delimiter), notes)


def _tsv(path: Path, encoding: str) -> RawTable:
    """Read TSV, with quoted fields or with quotes as plain characters.

    Quotes are plain where reading them as quotes fails or would join lines, and every line has
    the right number of fields without. A file that reads both ways, its quoted texts holding
    separators and line breaks in just such places, is taken to have plain quotes: published TSV
    has these far more often.
    """
    text = _text(path, encoding, lambda before: before.count("\n") + 1)
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
        return _delimited(path, rows, ())


def _records(before: str) -> int:
    """Count the records that begin in a text, the last of them unfinished."""
    with _unlimited_fields():
        n = sum(1 for _ in csv.reader(io.StringIO(before, newline="")))
    return n + (not before or before.endswith("\n"))


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield records and their numbers, the header being 1; blank lines count but are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        for number, fields in enumerate(reader, 1):
            if fields:
                yield number, fields
    except csv.Error as error:
        raise DataError(
            f"{path}, row {number + 1}: {error}.",
            "A field that holds quotes, line breaks or the separator stands in double quotes, "
            "and quotes inside it are doubled.",
            "Correct the row, or save the file anew from the program it comes from.",
        ) from error


def _delimited(
    path: Path,
    rows: Iterator[tuple[int, list[str]]] | list[tuple[int, list[str]]],
    notes: tuple[str, ...],
) -> RawTable:
    rows = iter(rows)
    _, header = next(rows, (0, []))
    if not any(h.strip() for h in header):
        raise DataError(
            f"{path} is empty.", "It has no row with column names.", "Give a file with examples."
        )
    names = [h.strip() or f"(column {i})" for i, h in enumerate(header, 1)]
    numbers: list[int] = []
    records: list[list[str]] = []
    for number, fields in rows:
        if len(fields) != len(names):
            raise DataError(
                f"{path}, row {number} has {count(len(fields), 'field')}.",
                f"The first row names {count(len(names), 'column')}.",
                "Correct the row; a text that holds the separator stands in double quotes.",
            )
        numbers.append(number)
        records.append(fields)
    columns = list(zip(*records, strict=True)) or [()] * len(names)
    arrays = [_unpacked_lists(c) or text_array(c) for c in columns]
    table = pa.Table.from_arrays(arrays, names=names)
    return RawTable(str(path), table, numbers, has_header=True, notes=notes)


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


# JSON


def _json_lines(path: Path, encoding: str) -> RawTable:
    text = _text(path, encoding, lambda before: before.count("\n") + 1)
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return _objects(path, ((n, _loads(path, n, line)) for n, line in lines))


def _json(path: Path, encoding: str) -> RawTable:
    """Read a list of objects, one object that holds the rows, or lines of objects."""
    text = _text(path, encoding, lambda before: before.count("\n") + 1)
    if text.lstrip().startswith("{"):
        try:
            whole = json.loads(text, object_pairs_hook=_object)
        except (ValueError, RecursionError):
            return _json_lines(path, encoding)
        table = rows_of_object(whole)
        if table is None and "\n" in text.strip():
            raise DataError(
                f"{path} is one object with {count(len(whole), 'key')}: "
                f"{join([repr(k) for k in list(whole)[:LISTED]], len(whole))}.",
                "None of the usual nestings (SQuAD's, those of pandas, one key that holds the "
                "rows, a key per split) fits it, so where the rows are cannot be told.",
                'Save them as a list of objects: [{"text": ..., "label": ...}, ...].',
            )
        if table is None:
            return _json_lines(path, encoding)
        rows, splits, note = table
        raw = _objects(path, enumerate(rows, 1))
        return replace(raw, splits=splits, notes=(note,))
    if not text.lstrip().startswith("["):
        return _json_lines(path, encoding)
    try:
        rows = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON ({error}).",
            "It begins like a list of objects.",
            "Correct it, or save it as JSON lines (one object per line).",
        ) from error
    return _objects(path, enumerate(rows, 1))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [k for k, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} twice")
    return out


def _loads(path: Path, row: int, line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        whole = ""
        if line.strip() in ("{", "["):
            whole = " One object must not run over several lines."
        raise DataError(
            f"{path}, row {row} is not valid JSON ({error}).",
            "Each line holds one object with the names of the columns." + whole,
            "Correct the line.",
        ) from error


def _objects(path: Path, rows: Iterator[tuple[int, Any]] | enumerate[Any]) -> RawTable:
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {}
    for position, (number, row) in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, row {number} holds {_json_type(row)}, not an object.",
                "Each row is an object with the names of the columns.",
                'Write rows as {"text": ..., "label": ...}.',
            )
        for key, value in {_mended(k): v for k, v in row.items()}.items():
            column = columns.setdefault(key, [])
            column += [None] * (position - len(column))
            column.append(value)
        numbers.append(number)
    if not columns:
        raise DataError(f"{path} is empty.", "It has no row.", "Give a file with examples.")
    arrays: dict[str, pa.Array] = {}
    odd: dict[str, Odd] = {}
    for key, values in columns.items():
        values += [None] * (len(numbers) - len(values))
        arrays[key], strange = _array(values)
        if strange:
            odd[key] = strange
    return RawTable(str(path), pa.table(arrays), numbers, odd=odd)


#: What Arrow raises for nested values without a common type, or beyond 64 bits.
_NO_ARRAY = (pa.ArrowException, UnicodeEncodeError, OverflowError, RecursionError)


def _array(values: list[Any]) -> tuple[pa.Array, Odd | None]:
    """Make an Arrow array; values of mixed types become text, and the odd one is told."""
    types = [None if v is None else _json_type(v) for v in values]
    found = Counter(t for t in types if t)
    missing = np.array([v is None for v in values], dtype=bool)
    if not found:
        return pa.nulls(len(values)), None
    if found.keys() == {"text"}:
        return text_array([None if v is None else _mended(v) for v in values]), None
    if found.keys() == {"true or false"}:
        return number_array(np.array([bool(v) for v in values]), missing), None
    if found.keys() <= {"a whole number", "a number"}:
        whole = len(found) == 1 and "a whole number" in found
        try:
            filled = [v or 0 for v in values]
            return number_array(np.array(filled, np.int64 if whole else np.float64), missing), None
        except OverflowError:  # more than 64 bits: an id, kept as text
            return text_array([None if v is None else str(v) for v in values]), None
    if found.keys() <= {"a list", "an object"} and len(found) == 1:
        try:
            return pa.array(values), None
        except _NO_ARRAY:
            row = bisect_left(range(len(values)), True, key=lambda i: _clashes(values[: i + 1]))
            odd = Odd(row, "values of another type", found.most_common(1)[0][0] + " of one type")
    else:
        usual = found.most_common(1)[0][0]
        row = next(i for i, t in enumerate(types) if t and t != usual)
        odd = Odd(row, str(types[row]), usual)
    texts = [v if isinstance(v, str) else json.dumps(v) for v in values]
    return text_array(
        [None if v is None else _mended(t) for v, t in zip(values, texts, strict=True)]
    ), odd


def _clashes(values: list[Any]) -> bool:
    """Whether nested values have no common Arrow type."""
    try:
        pa.array(values)
    except _NO_ARRAY:
        return True
    return False


def _mended(text: str) -> str:
    """Replace half surrogate pairs, as tweets cut in an emoji have, by U+FFFD."""
    return (
        text
        if text.isascii()
        else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def _json_type(value: Any) -> str:
    names: dict[type, str] = {
        str: "text", bool: "true or false", int: "a whole number", float: "a number",
        list: "a list", dict: "an object",
    }  # fmt: skip
    return names.get(type(value), "nothing")


# Parquet and Arrow


def _parquet(path: Path, encoding: str) -> RawTable:
    del encoding
    return _arrow_table(path, read_parquet(path))


def _arrow(path: Path, encoding: str) -> RawTable:
    del encoding
    return _arrow_table(path, read_ipc(path))


def _arrow_table(path: Path, table: pa.Table) -> RawTable:
    numbers = range(1, table.num_rows + 1)
    return RawTable(str(path), table, numbers, label_names=declared_names(table.schema))


_FORMATS: dict[str, Callable[[Path, str], RawTable]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
