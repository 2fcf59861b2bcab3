"""Arrow arrays from Python values without pandas.

``pyarrow.array`` imports pandas, where it is installed, to see whether it was given a Series;
that takes a good part of the time in which a small file is read. These make the few kinds of
array that a task needs from their buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def _bits(mask: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(mask, bitorder="little"))


def text_array(values: Sequence[str | None]) -> pa.LargeStringArray:
    """Make an array of texts.

    Raises
    ------
    UnicodeEncodeError
        Where a text holds half a surrogate pair.
    """
    encoded = [b"" if v is None else v.encode() for v in values]
    offsets = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum([len(e) for e in encoded], out=offsets[1:])
    valid = np.array([v is not None for v in values], dtype=bool)
    return pa.LargeStringArray.from_buffers(
        len(values),
        pa.py_buffer(offsets),
        pa.py_buffer(b"".join(encoded)),
        None if valid.all() else _bits(valid),
    )


def number_array(values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Make an array of int64, float64 or booleans from NumPy's, with nulls where missing."""
    types = {"i": pa.int64(), "f": pa.float64(), "b": pa.bool_()}
    dtype = types[values.dtype.kind]
    if values.dtype.kind == "b":
        data = _bits(values)
    else:
        data = pa.py_buffer(np.ascontiguousarray(values, f"{values.dtype.kind}8"))
    valid = None if missing is None or not missing.any() else _bits(~missing)
    return pa.Array.from_buffers(dtype, len(values), [valid, data])


def list_array(offsets: NDArray[Any], values: pa.Array) -> pa.ListArray:
    """Make an array of lists; list ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""
    data = pa.py_buffer(np.ascontiguousarray(offsets, np.int32))
    dtype = pa.list_(values.type)
    return pa.Array.from_buffers(dtype, len(offsets) - 1, [None, data], children=[values])


def take(table: pa.Table, rows: Sequence[int] | NDArray[np.int64]) -> pa.Table:
    """Take rows by position, without a copy where they follow one another."""
    rows = np.asarray(rows, dtype=np.int64)
    n = len(rows)
    if n and int(rows[-1]) - int(rows[0]) + 1 == n and bool((np.diff(rows) == 1).all()):
        return table.slice(int(rows[0]), n)
    return table.take(number_array(rows))


def is_null(column: Any) -> NDArray[np.bool_]:
    """Find nulls of an array or chunked array."""
    masks = [_unpacked(chunk.is_null()) for chunk in _chunks(column)]
    return np.concatenate([np.zeros(0, dtype=bool), *masks])


def integers(column: Any, missing: int) -> NDArray[np.int64]:
    """Get the values of an integer array or chunked array, with a stand-in for nulls."""
    parts = [np.zeros(0, dtype=np.int64)]
    for chunk in _chunks(column):
        width = (
            f"{'u' if pa.types.is_unsigned_integer(chunk.type) else 'i'}{chunk.type.bit_width // 8}"
        )
        data = np.frombuffer(chunk.buffers()[1] or b"", width)
        values = data[chunk.offset : chunk.offset + len(chunk)].astype(np.int64)
        if chunk.null_count:
            values[_unpacked(chunk.is_null())] = missing
        parts.append(values)
    return np.concatenate(parts)


def list_lengths(column: Any) -> NDArray[np.int64]:
    """Count the values of each list, 0 where there is no list."""
    return integers(pc.list_value_length(column), 0)


def _chunks(column: Any) -> list[Any]:
    return list(column.chunks) if isinstance(column, pa.ChunkedArray) else [column]


def _unpacked(array: pa.BooleanArray) -> NDArray[np.bool_]:
    bits = np.frombuffer(array.buffers()[1] or b"", np.uint8)
    unpacked = np.unpackbits(bits, bitorder="little").astype(bool)
    return unpacked[array.offset : array.offset + len(array)]
