"""JSON and JSON lines as raw tables, with the odd cell of a column of mixed types told."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from taskscout.errors import DataError
from taskscout.tasks.arrow import number_array, text_array
from taskscout.tasks.nested_json import rows_of_object
from taskscout.tasks.raw import LISTED, Odd, RawTable, count, join


def read_json_lines(path: str, text: str) -> RawTable:
    """Read an object per line.

    Raises
    ------
    DataError
        Where a line is none.
    """
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return _objects(path, ((n, _loads(path, n, line)) for n, line in lines))


def read_json(path: str, text: str) -> RawTable:
    """Read a list of objects, one object that holds the rows, or lines of objects.

    Raises
    ------
    DataError
        Where it is neither, or where its rows are cannot be told.
    """
    if text.lstrip().startswith("{"):
        try:
            whole = json.loads(text, object_pairs_hook=_object)
        except (ValueError, RecursionError):
            return read_json_lines(path, text)
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
            return read_json_lines(path, text)
        rows, splits, note = table
        raw = _objects(path, enumerate(rows, 1))
        return replace(raw, splits=splits, notes=(note,))
    if not text.lstrip().startswith("["):
        return read_json_lines(path, text)
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


def _loads(path: str, row: int, line: str) -> Any:
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


def _objects(path: str, rows: Iterator[tuple[int, Any]] | enumerate[Any]) -> RawTable:
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
    return RawTable(path, pa.table(arrays), numbers, odd=odd)


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
