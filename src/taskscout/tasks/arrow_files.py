"""Parquet and Arrow files as tables, whatever their bytes are.

Arrow trusts what a file says of itself: an offset beyond its buffer, or the end of a file that is
cut short while it is mapped, ends the process. So files are read instead of mapped, every array is
validated in full before anything looks at it, and a file of a few kilobytes that unpacks to
terabytes is refused before it does. The price is memory for the rows, and about as much time for
the checks as for the reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from taskscout.errors import DataError, first_line

#: Bytes of the largest table that is read; larger ones are refused.
LARGEST = 4 * 2**30
#: Rows that are unpacked before their size is looked at.
_ROWS_AT_ONCE = 8192
#: What pyarrow raises where a file is not what it says.
_UNREADABLE = (
    pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError, SystemError,
)  # fmt: skip


def read_parquet(path: Path | str, data: bytes | None = None) -> pa.Table:
    """Read a Parquet file, or the bytes of one; pandas' categories come as their values.

    Raises
    ------
    DataError
        Where it is damaged, no Parquet file, or holds more than :data:`LARGEST` bytes.
    """
    try:
        with _opened(path, data) as source:
            # No look at the metadata of row groups: what is wrong there ends the process.
            schema = pq.ParquetFile(source).schema_arrow
            # A text that is repeated a million times stays one until the sizes were added up.
            texts = [f.name for f in schema if _has_offsets(_plain(f.type))]
            try:
                return _read_parquet(path, source, schema, _ROWS_AT_ONCE, texts)
            except OSError:  # not implemented for texts that are kept as differences
                return _read_parquet(path, source, schema, _ROWS_AT_ONCE // 64, [])
    except _UNREADABLE as error:
        raise _damaged(path, "Parquet", error) from error


def _opened(path: Path | str, data: bytes | None) -> pa.NativeFile:
    return pa.OSFile(str(path)) if data is None else pa.BufferReader(data)


def _read_parquet(
    path: Path | str, source: pa.NativeFile, schema: pa.Schema, rows: int, once: list[str]
) -> pa.Table:
    reader = pq.ParquetFile(source, read_dictionary=once)
    return _table(path, schema, reader.iter_batches(batch_size=rows))


def read_ipc(path: Path | str, data: bytes | None = None) -> pa.Table:
    """Read a file, or the bytes of one, in the Arrow IPC file or stream format, or Feather.

    Raises
    ------
    DataError
        Where it is damaged, no Arrow file, or holds more than :data:`LARGEST` bytes.
    """
    try:
        with _opened(path, data) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            if not is_file:
                stream = pa.ipc.open_stream(source)
                return _table(path, stream.schema, stream)
            file = pa.ipc.open_file(source)
            batches = map(file.get_batch, range(file.num_record_batches))
            return _table(path, file.schema, batches)
    except _UNREADABLE as error:
        raise _damaged(path, "Arrow", error) from error


def decoded(table: pa.Table) -> pa.Table:
    """Replace dictionary-encoded columns (pandas' categories) by their values."""
    for at, f in enumerate(table.schema):
        if pa.types.is_dictionary(f.type):
            values = pc.cast(table.column(at), _plain(f.type))
            table = table.set_column(at, f.name, values)
    return table


def _table(path: Path | str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Join batches, each validated before anything else touches it."""
    _require_names(schema)
    parts, size = [], 0
    for batch in batches:
        batch.validate(full=True)
        size += sum(map(_size, batch.columns))
        if size > LARGEST:
            raise DataError(
                f"{path} holds more than {LARGEST / 2**30:g} GiB once it is unpacked.",
                "So much is not read into memory; a source is chosen by a thousand rows.",
                "Give a sample of its rows.",
            )
        parts.append(decoded(pa.Table.from_batches([batch])))
    if not parts:
        return pa.schema([pa.field(f.name, _plain(f.type)) for f in schema]).empty_table()
    return pa.concat_tables(parts).replace_schema_metadata(schema.metadata)


def _require_names(fields: Iterable[pa.Field]) -> None:
    """Look at every name, for one that is no text raises only when it is looked at."""
    for field in fields:
        _ = field.name
        _require_names(field.type.field(i) for i in range(field.type.num_fields))


def _plain(dtype: pa.DataType) -> pa.DataType:
    """The type of a column without its dictionary; texts with 64-bit offsets."""
    if not pa.types.is_dictionary(dtype):
        return dtype
    value = dtype.value_type
    return pa.large_string() if pa.types.is_string(value) else value


def _size(column: pa.Array) -> int:
    """Bytes of a column once every value of it stands for itself."""
    if pa.types.is_dictionary(column.type):
        values = column.dictionary
        if _has_offsets(values.type):
            lengths = pc.take(pc.binary_length(values), column.indices)
            return int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0)
        return int(values.nbytes) * len(column) // max(len(values), 1)
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        views = np.frombuffer(column.buffers()[1], np.int32).reshape(-1, 4)
        return int(views[column.offset : column.offset + len(column), 0].sum(dtype=np.int64))
    return int(column.nbytes)


def _has_offsets(dtype: pa.DataType) -> bool:
    types = pa.types
    return any(
        is_one(dtype)
        for is_one in (
            types.is_string,
            types.is_large_string,
            types.is_binary,
            types.is_large_binary,
        )
    )


def _damaged(path: Path | str, format_name: str, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as {format_name} ({first_line(error)}).",
        "It is damaged or of another format than its ending says.",
        "Write it anew, or rename it after what it holds.",
    )
