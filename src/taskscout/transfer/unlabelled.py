"""A target without labels, which zero-shot transfer answers for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from taskscout.errors import TransferError
from taskscout.tasks import Task
from taskscout.tasks.file_formats import read_table
from taskscout.tasks.labels import is_string


def read_unlabelled(
    path: Path,
    names: Sequence[str] | None,
    *,
    text: str | None = None,
    pair: str | None = None,
    encoding: str | None = None,
) -> Task:
    """Read a target that has no labels: all its rows, as the split ``test``.

    Parameters
    ----------
    path
        The file.
    names
        The labels there are to choose between; None where that does not matter.
    text, pair
        Columns of the text and of the second text.
    encoding
        Of a text file.

    Raises
    ------
    TransferError
        If the text's column is not plain, or fewer than two labels are named.
    """
    if names is not None and (len(set(names)) < 2 or len(set(names)) != len(names)):
        raise TransferError(
            f"--labels names {', '.join(names) or 'nothing'}.",
            "There is something to choose between two labels or more, each named once.",
            "Name them all: --labels negative,positive",
        )
    table = read_table(path, encoding).table
    words = [c for c in table.column_names if is_string(table[c].type)]
    for given in (c for c in (text, pair) if c is not None):
        if given not in table.column_names:
            raise TransferError(
                f"{path} has no column {given!r}.",
                f"Its columns are {', '.join(table.column_names)}.",
                "Name one of these.",
            )
    if text is None:
        plain = [c for c in words if c.lower() in ("text", "sentence", "content", "body")]
        if len(words) != 1 and len(plain) != 1:
            raise TransferError(
                f"{path} has {len(words)} columns of text ({', '.join(words) or 'none'}).",
                "It does not show which one is to be read.",
                "Name it with --text.",
            )
        text = plain[0] if len(plain) == 1 else words[0]
    texts = [t or "" for t in table[text].cast(pa.string()).to_pylist()]
    columns: dict[str, Any] = {"text": texts, "label": pa.nulls(len(texts), pa.int64())}
    if pair is not None:
        columns["text_pair"] = [t or "" for t in table[pair].cast(pa.string()).to_pylist()]
    return Task(path.stem, "classification", {"test": pa.table(columns)}, tuple(names or ()))
