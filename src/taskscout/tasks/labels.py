"""Label columns: their distinct values, and whether these are classes or numbers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from taskscout.errors import DataError
from taskscout.tasks.arrow import integers, is_null, list_lengths
from taskscout.tasks.raw import RawTable, count, option

Style = Literal["text", "boolean", "integer", "float"]

# A code with a leading zero (007) is a word.
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)")
_FLOAT = re.compile(
    r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE
)
#: Words that stand for "no value" among numbers; among words they may well be classes.
_NOT_A_NUMBER = {"na", "n/a", "nan", "null", "none", "-", "?"}


@dataclass(frozen=True)
class Labels:
    """The distinct values of a label column.

    Attributes
    ----------
    style
        What the values are. Text that reads as numbers throughout is numbers.
    values
        Distinct values in the order of their first row.
    codes
        For each row the position of its value in ``values``; -1 where the label is missing.
    odd
        The first row that holds a word where nine rows in ten hold numbers.
    """

    style: Style
    values: list[Any]
    codes: NDArray[np.int64]
    odd: int | None = None

    @property
    def missing(self) -> NDArray[np.bool_]:
        """True for rows without a label."""
        return self.codes < 0

    @property
    def rows(self) -> int:
        """Number of rows with a label."""
        return int((self.codes >= 0).sum())

    def without(self, value: Any) -> Labels:
        """Count one value as missing."""
        at = self.values.index(value)
        codes = np.where(self.codes == at, -1, self.codes - (self.codes > at))
        return Labels(self.style, [v for v in self.values if v != value], codes, self.odd)

    def as_text(self) -> Labels:
        """Read the values as words."""
        return Labels("text", [name_of(v) for v in self.values], self.codes)


def is_string(dtype: pa.DataType) -> bool:
    """Whether an Arrow type holds text."""
    types = pa.types
    return bool(
        types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype)
    )


def is_list(dtype: pa.DataType) -> bool:
    """Whether an Arrow type holds lists."""
    types = pa.types
    return bool(
        types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype)
    )


def is_scalar(dtype: pa.DataType) -> bool:
    """Whether an Arrow type holds one value per cell."""
    return not (pa.types.is_nested(dtype) or pa.types.is_binary(dtype) or pa.types.is_null(dtype))


def as_float64(column: Any) -> Any:
    """Cast to 64-bit floats; a 32-bit float becomes the same shortest decimal, so 3.6 is 3.6."""
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        column = pc.cast(pc.cast(column, pa.float32()), pa.string())
    return pc.cast(column, pa.float64())


def name_of(value: Any) -> str:
    """Name the class a value stands for: 1.0 is ``1``, True is ``true``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def read_labels(raw: RawTable, name: str) -> Labels:
    """Find the distinct labels of a column, nested lists of one element unpacked.

    Empty text, ``nan`` and nulls are missing labels.

    Raises
    ------
    DataError
        Where a cell holds no single value.
    """
    column = raw.table[name]
    if pa.types.is_null(column.type):
        return Labels("text", [], np.full(len(raw), -1, dtype=np.int64))
    if is_list(column.type):
        lengths = list_lengths(column)
        several = np.flatnonzero((lengths != 1) & ~is_null(column))
        if len(several):
            row = int(several[0])
            raise DataError(
                f"{raw.at(name)}: several labels or none in {count(len(several), 'row')}; "
                f"{raw.place(row)} holds {column[row].as_py()}.",
                "taskscout reads one label per example.",
                f"Keep the rows with exactly one label, or name another column with "
                f"{option('label')}.",
            )
        column = pc.list_element(column, 0)
    if not is_scalar(column.type):
        raise DataError(
            f"{raw.at(name)} holds values of type {column.type}.",
            "A label is a word or a number.",
            f"Name another column with {option('label')}.",
        )
    return distinct(column)


def distinct(column: Any) -> Labels:
    """Find the distinct values of an Arrow column of words, booleans or numbers."""
    types = pa.types
    if types.is_floating(column.type) or types.is_decimal(column.type):
        column = as_float64(column)
    elif not (types.is_boolean(column.type) or types.is_integer(column.type)):
        column = pc.utf8_trim_whitespace(pc.cast(column, pa.large_string()))
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    encoded = pc.dictionary_encode(column)
    found = encoded.dictionary.to_pylist()
    codes = integers(encoded.indices, -1)
    if types.is_boolean(column.type):
        return Labels("boolean", found, codes)
    if types.is_integer(column.type):
        return Labels("integer", found, codes)
    if types.is_floating(column.type):
        return _merged("float", [None if math.isnan(v) else v for v in found], codes)
    return _parsed(found, codes)


def _parsed(found: list[str], codes: NDArray[np.int64]) -> Labels:
    """Read distinct texts as the narrowest style that all of them share."""
    present = [t for t in found if t and t.lower() != "nan"]
    numeric = [bool(_FLOAT.fullmatch(t)) for t in present]
    words = {t.lower() for t, is_number in zip(present, numeric, strict=True) if not is_number}
    if any(numeric) and words <= _NOT_A_NUMBER:
        present = [t for t, is_number in zip(present, numeric, strict=True) if is_number]
        read = int if all(_INTEGER.fullmatch(t) for t in present) else float
        kept = set(present)
        style: Style = "integer" if read is int else "float"
        return _merged(style, [read(t) if t in kept else None for t in found], codes)
    if present and {t.lower() for t in present} <= {"true", "false"}:
        kept = set(present)
        values = [t.lower() == "true" if t in kept else None for t in found]
        return _merged("boolean", values, codes)
    kept = set(present)
    labels = _merged("text", [t if t in kept else None for t in found], codes)
    is_number = np.array([bool(_FLOAT.fullmatch(t)) for t in labels.values], dtype=bool)
    numbers = is_number[labels.codes[~labels.missing]]
    odd = None
    if len(numbers) and 0.9 <= numbers.mean() < 1:
        odd = int(np.flatnonzero(~labels.missing)[np.flatnonzero(~numbers)[0]])
    return Labels("text", labels.values, labels.codes, odd)


def _merged(style: Style, read: list[Any], codes: NDArray[np.int64]) -> Labels:
    """Join values that read the same (1.0 and 1.00); None is missing."""
    positions: dict[Any, int] = {}
    for value in read:
        if value is not None:
            positions.setdefault(value, len(positions))
    table = np.array([-1 if v is None else positions[v] for v in read] + [-1], dtype=np.int64)
    return Labels(style, list(positions), table[codes])


def are_classes(labels: Labels) -> bool:
    """Whether integers are class ids rather than quantities.

    They are where there are at most 10 distinct values (or 50, with two rows or more for each on
    average), not every row its own; or where they count from 0 or 1 without a gap, with five rows
    or more for each on average, as class ids do.
    """
    n, d = labels.rows, len(labels.values)
    if d <= 2:
        return True
    if d < n and (d <= 10 or d <= min(50, n // 2)):
        return True
    low, high = min(labels.values), max(labels.values)
    return low in (0, 1) and high - low + 1 == d and d <= n // 5
