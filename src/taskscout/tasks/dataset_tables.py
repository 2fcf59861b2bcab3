"""From ``datasets`` objects, frames and rows to raw tables, with the class names they declare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from taskscout.errors import DataError
from taskscout.tasks.arrow_files import decoded
from taskscout.tasks.raw import Odd, RawTable


def table_of_dataset(dataset: Any, origin: str) -> RawTable:
    """Join the splits of a dataset to one table.

    Raises
    ------
    DataError
        Where it is no dataset, has no splits, or its splits have columns of different types.
    """
    parts = dict(dataset) if isinstance(dataset, Mapping) else {"": dataset}
    tables: dict[str, pa.Table] = {}
    names: dict[str, tuple[str, ...]] = {}
    for split, part in parts.items():
        if hasattr(part, "with_format") and hasattr(part, "features") and hasattr(part, "num_rows"):
            tables[split] = part.with_format("arrow")[:]
            names |= {c: n for c, f in part.features.items() if (n := _feature_names(f))}
            continue
        tables[split] = _arrow_of(part, origin)
        names |= declared_names(tables[split].schema)
    if not tables:
        raise DataError(f"{origin} has no splits.", "There is nothing to read.", "Give data.")
    parts = {
        split: RawTable(origin, decoded(each), range(1, each.num_rows + 1), label_names=names)
        for split, each in tables.items()
    }
    return joined(origin, parts)


def joined(origin: str, parts: Mapping[str, RawTable]) -> RawTable:
    """Join tables of the same columns to one, with a split for each where there are several.

    Raises
    ------
    DataError
        Where a column has two types.
    """
    try:
        table = pa.concat_tables(
            [part.table.replace_schema_metadata(None) for part in parts.values()],
            promote_options="permissive",
        )
    except pa.ArrowException as error:
        raise DataError(
            f"The splits of {origin} have columns of different types ({error}).",
            "They are read as one task.",
            "Give one split, or make the types equal.",
        ) from error
    splits: dict[str, range] = {}
    numbers: list[int] = []
    odd: dict[str, Odd] = {}
    label_names: dict[str, tuple[str, ...]] = {}
    for split, part in parts.items():
        start = len(numbers)
        splits[split] = range(start, start + len(part))
        numbers += part.numbers
        odd = {c: replace(o, row=o.row + start) for c, o in part.odd.items()} | odd
        label_names |= part.label_names
    notes = tuple(dict.fromkeys(note for part in parts.values() for note in part.notes))
    return RawTable(
        origin, table, numbers, splits if len(splits) > 1 else {}, label_names, odd, notes
    )


def _arrow_of(data: Any, origin: str) -> pa.Table:
    """Make a table of rows as people hold them.

    Parameters
    ----------
    data
        An Arrow table; a frame of pandas, polars or of anything else that streams Arrow
        (``__arrow_c_stream__``); or a list of dictionaries, whose missing keys are empty cells.
    origin
        What errors call it.

    Raises
    ------
    DataError
        If it is none of these, or a column holds values of several types.
    """
    kind = f"{type(data).__module__.split('.')[0]}.{type(data).__name__}"
    try:
        if isinstance(data, pa.Table):
            return data
        if kind == "pandas.DataFrame":
            frame = data.rename(columns=str)
            return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        if hasattr(data, "__arrow_c_stream__"):
            return pa.table(data)
        if isinstance(data, Sequence) and data and all(isinstance(r, Mapping) for r in data):
            columns = dict.fromkeys(str(key) for row in data for key in row)
            return pa.table({c: [row.get(c) for row in data] for c in columns})
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"{origin} has a column that cannot be read: {' '.join(str(error).split())}.",
            "The values of a column have one type.",
            "Make them all words, or all numbers.",
        ) from error
    raise DataError(
        f"{kind} is no dataset that taskscout reads.",
        "It reads datasets.Dataset and DatasetDict, frames of pandas and polars, Arrow tables and "
        "lists of dictionaries, whose rows can be counted.",
        "Convert it to one of these, or save it as a file.",
    )


def _feature_names(feature: Any) -> tuple[str, ...]:
    """Get class names of a ``ClassLabel``, or of a list of such."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    names = getattr(feature, "names", None) or getattr(
        getattr(feature, "feature", None), "names", None
    )
    return tuple(names or ())


def declared_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Find class names that ``datasets`` wrote into the metadata of a Parquet or Arrow file."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    if not metadata:
        return {}
    try:
        features = json.loads(metadata)["info"]["features"]
        found = {}
        for column, feature in features.items():
            if isinstance(feature, list) and feature:
                feature = feature[0]
            if isinstance(feature, dict):
                inner = feature.get("feature")
                names = feature.get("names") or (isinstance(inner, dict) and inner.get("names"))
                if names:
                    found[column] = tuple(map(str, names))
        return found
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
