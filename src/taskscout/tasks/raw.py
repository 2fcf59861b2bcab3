"""Rows as they were read, before any column is chosen; and the words errors use for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: How many rows, columns or classes an error or note lists by name.
LISTED = 8


@dataclass(frozen=True)
class Odd:
    """The first cell of a column whose type is not that of most cells."""

    row: int
    type: str
    usual: str


@dataclass(frozen=True)
class RawTable:
    """Rows as they were read.

    Attributes
    ----------
    origin
        What the user knows the rows by: a file name, a hub id.
    table
        All rows of all splits.
    numbers
        The number of each row as the user sees it: in CSV and TSV the header is row 1, in JSON
        lines it is the line, elsewhere the first example is row 1.
    splits
        Rows of each split, where the data came in splits; row numbers start anew in each.
    label_names
        Names of the classes by column, where the data declare them (``ClassLabel``).
    odd
        Columns of mixed types, which ``table`` holds as text.
    notes
        Lines for the user on how the rows were read.
    """

    origin: str
    table: pa.Table
    numbers: Sequence[int]
    splits: Mapping[str, range] = field(default_factory=dict)
    label_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    odd: Mapping[str, Odd] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def place(self, row: int) -> str:
        """Name one row as the user sees it: ``row 17`` or ``row 17 of split 'test'``."""
        for split, rows in self.splits.items():
            if row in rows:
                return f"row {self.numbers[row]} of split {split!r}"
        return f"row {self.numbers[row]}"

    def places(self, rows: Sequence[int] | NDArray[np.int64]) -> str:
        """Name some rows, the first few by number."""
        first = [self.place(int(r)) for r in rows[:LISTED]]
        if len(first) > 1 and not self.splits:
            first = [p.removeprefix("row ") for p in first]
            first[0] = f"rows {first[0]}"
        return join(first, len(rows))

    def at(self, column: str) -> str:
        """Name a column with its file, as errors begin."""
        return f"{self.origin}, column {quote(column)}"


def quote(name: str) -> str:
    """Put a column name in backquotes, cut to a readable length."""
    return f"`{name if len(name) <= 60 else name[:57] + '...'}`"


def quoted(names: Iterable[str]) -> str:
    """Put column names in backquotes, separated by commas."""
    return ", ".join(quote(n) for n in names)


def join(parts: Sequence[str], total: int) -> str:
    """Join the first few of ``total`` parts: ``a, b and c``, or ``a, b and 12 more``."""
    parts = list(parts)
    if total > len(parts):
        parts.append(f"{total - len(parts):,} more")
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def count(n: int, noun: str) -> str:
    """Count in words a reader accepts: ``1 row``, ``1,200 rows``, ``2 classes``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{n:,} {noun if n == 1 else plural}"


def class_list(names: Sequence[str]) -> str:
    """Name the first classes."""
    shown = ", ".join(n if len(n) <= 40 else n[:37] + "..." for n in names[:LISTED])
    return shown + (", ..." if len(names) > LISTED else "")


#: Flags that are not named like the parameter: ``--kind`` selects sources by their cards.
_FLAGS = {"kind": "task-kind"}


def option(name: str, value: str = "") -> str:
    """Name an option on the command line and in Python.

    ``option("label")`` is ``--label (label= in Python)``; switches get ``=True``.
    """
    flag = f"--{_FLAGS.get(name, name.replace('_', '-'))} {value}".rstrip()
    python = "True" if name.startswith("drop_") else value and repr(value)
    return f"{flag} ({name}={python} in Python)"
