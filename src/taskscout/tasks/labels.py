"""Label columns: their distinct values, and whether these are classes or numbers."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from taskscout.errors import DataError
from taskscout.tasks.arrow import integers, is_null, list_lengths
from taskscout.tasks.raw import RawTable, count, option
from taskscout.tasks.written_numbers import are_codes, is_like_a_number, is_number, read_numbers

Style = Literal["text", "boolean", "integer", "float"]
#: What labels are read for: classes, whose spelling counts, or numbers; None to find out which.
Purpose = Literal["classes", "numbers"] | None

_EXACT = re.compile(r"0|-?[1-9][0-9]*")
#: Words that stand for "no value" among numbers; among words they may well be classes.
_NOT_A_NUMBER = {"na", "n/a", "nan", "null", "none", "-", "?"}
#: Signs that stand for "no label" among words, as SNLI's "-" where its annotators disagree.
_NO_LABEL = {"-", "--", "---", "\u2013", "\u2014", "?", "#n/a", "<na>"}


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
    remark
        How texts were read as numbers, or why not, where that is no matter of course.
    unclear
        Why numbers cannot be read although they are numbers; then ``style`` is text.
    """

    style: Style
    values: list[Any]
    codes: NDArray[np.int64]
    odd: int | None = None
    remark: str = ""
    unclear: str = ""

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
        return replace(self, values=[v for v in self.values if v != value], codes=codes)

    def stands_for_no_label(self) -> str | None:
        """Find a sign such as "-" among words: a gap, not a class, where two classes are left."""
        for sign in self.values if self.style == "text" else ():
            others = [v for v in self.values if v != sign]
            spoken = all(any(c.isalnum() for c in v) for v in others)
            if sign.lower() in _NO_LABEL and len(others) > 1 and spoken:
                return str(sign)
        return None

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


def alike(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Group names that differ only in case, in spaces or by Unicode form.

    Examples
    --------
    >>> alike(["Good", "good", "bad", "caf\u00e9", "cafe\u0301", "not  so", "not so"])
    [('Good', 'good'), ('caf\u00e9', 'cafe\u0301'), ('not  so', 'not so')]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(key, []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def read_labels(raw: RawTable, name: str, purpose: Purpose = None) -> Labels:
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
    return distinct(column, purpose)


def distinct(column: Any, purpose: Purpose = None) -> Labels:
    """Find the distinct values of an Arrow column of words, booleans or numbers.

    Texts that read as numbers throughout become numbers, unless they are written as codes are
    (:func:`~taskscout.tasks.written_numbers.are_codes`) and are few enough to be classes. Read for
    classes, different texts stay different, and as they are spelt.
    """
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
    return _parsed(found, codes, purpose)


def _parsed(found: list[str], codes: NDArray[np.int64], purpose: Purpose) -> Labels:
    """Read distinct texts as the narrowest style that all of them share."""
    present = [t for t in found if t and t.lower() != "nan"]
    digits = [t for t in present if t.lower() not in _NOT_A_NUMBER]
    numbers = read_numbers(digits) if digits else None

    def words(texts: list[str]) -> Labels:
        stay = set(texts)
        return _merged("text", [t if t in stay else None for t in found], codes)

    if numbers is None:
        lower = {t.lower() for t in present}
        if len(lower) < len(present) and lower <= {"true", "false"}:  # true and TRUE: one class
            truth = [t.lower() == "true" if t.lower() in lower else None for t in found]
            return _merged("boolean", truth, codes)
        text = words(present)
        return replace(text, odd=_odd(text))
    if numbers.unclear:
        return replace(words(present), unclear=numbers.unclear)
    exact = all(map(_is_exact, digits))
    like_codes = not numbers.remark and are_codes(digits) and _are_few(words(digits))
    if not exact and (purpose == "classes" or (purpose is None and like_codes)):
        written = ", ".join(sorted(digits)[:4])
        remark = f"{written}{', ...' if len(digits) > 4 else ''} are read as words"
        return replace(words(digits), remark=remark)
    # What has a percent sign or a comma is a quantity, so no class id.
    whole = not numbers.remark and all(isinstance(v, int) for v in numbers.values)
    value = dict(zip(digits, numbers.values if whole else map(float, numbers.values), strict=True))
    read = _merged("integer" if whole else "float", [value.get(t) for t in found], codes)
    return replace(read, remark=numbers.remark)


def _is_exact(text: str) -> bool:
    """Whether a text is just what its whole number is written as."""
    return bool(_EXACT.fullmatch(text))


def _are_few(labels: Labels) -> bool:
    n, d = labels.rows, len(labels.values)
    return d < n and (d <= 10 or d <= min(50, n // 2))


def _odd(labels: Labels) -> int | None:
    """Find the first row that is no number where nine in ten are; codes such as 010 are not odd."""
    plain = np.array([is_number(t) for t in labels.values], dtype=bool)
    numbers = plain[labels.codes[~labels.missing]]
    if not len(numbers) or not 0.9 <= numbers.mean() < 1:
        return None
    if _are_few(labels) and all(map(is_like_a_number, labels.values)):
        return None
    return int(np.flatnonzero(~labels.missing)[np.flatnonzero(~numbers)[0]])


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
