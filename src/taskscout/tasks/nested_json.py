"""Rows in one JSON object: SQuAD's nesting, pandas' orientations, a key that holds the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskscout.tasks.split_names import is_understood

#: Rows, the rows of each split where the object has splits, and a line on how they were read.
Rows = tuple[list[dict[str, Any]], dict[str, range], str]


def rows_of_object(whole: Mapping[str, Any]) -> Rows | None:
    """Find the rows in an object; None where it is none of the forms known.

    - SQuAD's: ``{"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}``;
    - of splits: ``{"train": [rows], "test": [rows]}``;
    - a single list of objects under any key: ``{"data": [rows]}``, pandas' ``orient="table"``;
    - pandas' ``orient="split"``: ``{"columns": [...], "data": [[...]]}``;
    - pandas' usual ``orient="columns"``, ``{"text": {"0": ...}}``, and lists for the columns;
    - pandas' ``orient="index"``: ``{"0": {"text": ..., "label": ...}}``.
    """
    lists = {k: v for k, v in whole.items() if _is_rows(v)}
    data: Any = whole.get("data")
    rows: list[dict[str, Any]]
    if _is_squad(data):
        return _squad(data), {}, "read as SQuAD's JSON: a row per question"
    if len(lists) > 1 and all(map(is_understood, lists)):
        rows, splits = [], {}
        for name, part in lists.items():
            splits[name] = range(len(rows), len(rows) + len(part))
            rows += part
        return rows, splits, f"the splits are {', '.join(map(repr, lists))} of the file"
    if len(lists) == 1:
        ((key, rows),) = lists.items()
        index = _index(whole.get("schema"))
        rows = [{k: v for k, v in row.items() if k not in index} for row in rows]
        return rows, {}, f"the rows are those under {key!r}"
    names = whole.get("columns")
    if isinstance(names, list) and isinstance(data, list) and _are_equally_long([names, *data]):
        rows = [dict(zip(map(str, names), row, strict=True)) for row in data]
        return rows, {}, "read as pandas' split orientation"
    values = list(whole.values())
    if len(values) > 1 and _are_equally_long(values):
        return _transposed(whole, range(len(values[0]))), {}, "read as lists of columns"
    if len(values) > 1 and all(isinstance(v, dict) and v for v in values):
        keys = list(values[0])
        if all(k.isdecimal() for k in keys) and all(v.keys() == values[0].keys() for v in values):
            return _transposed(whole, keys), {}, "read as pandas' columns orientation"
        if all(k.isdecimal() for k in whole):
            return values, {}, "read as pandas' index orientation"
    return None


def _index(schema: Any) -> list[str]:
    """Name the columns of the index in the schema of pandas' table orientation."""
    return list(schema.get("primaryKey") or ()) if isinstance(schema, dict) else []


def _is_squad(articles: Any) -> bool:
    """Whether articles hold paragraphs, these questions, and these answers or none."""
    if not _is_rows(articles) or not all(_is_rows(row.get("paragraphs")) for row in articles):
        return False
    lists = [p.get("qas") or [] for row in articles for p in row["paragraphs"]]
    if not all(qas == [] or _is_rows(qas) for qas in lists):
        return False
    answers = [qa.get("answers") or [] for qas in lists for qa in qas]
    return all(each == [] or _is_rows(each) for each in answers)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(r, dict) for r in value)


def _are_equally_long(lists: Sequence[Any]) -> bool:
    return all(isinstance(v, list) and len(v) == len(lists[0]) > 1 for v in lists)


def _transposed(columns: Mapping[str, Any], keys: Sequence[Any]) -> list[dict[str, Any]]:
    return [{name: column[key] for name, column in columns.items()} for key in keys]


def _squad(articles: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make a row of each question, with its context and all its right answers."""
    return [
        {
            "question": qa.get("question"),
            "context": paragraph.get("context"),
            "answers": [
                {"text": a.get("text"), "answer_start": a.get("answer_start")}
                for a in qa.get("answers") or ()
            ],
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph.get("qas") or ()
    ]
