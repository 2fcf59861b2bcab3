"""Packed sources: one safetensors file of arrays per description key, one Parquet table of cards.

``packed-KEY.safetensors``
    all sources' arrays of one key: ``data/ARRAY`` holds them flat, one source after another,
    ``shape/ARRAY`` their shapes (number of axes, or -1 where a source has no such array, then the
    axes), ``name`` and ``name#ends`` whose they are;
``sources.parquet``
    one row per source: ``name``, ``card``, ``tuning`` and a column ``header/KEY`` per key, all
    but the name as JSON; null where a source has no such description.

``pool.json`` holds the SHA-256 of each. A file is compared with it when its first byte is used;
what a ranking then reads of it are slices of a memory map.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from taskscout.files import write_atomically
from taskscout.pools import old_formats
from taskscout.pools.header import write_header
from taskscout.pools.integrity import (
    METADATA,
    NAME,
    UNREADABLE,
    canonical,
    checksum,
    damaged,
    read_regular,
    sha256_of,
)
from taskscout.pools.records import FORMAT, FileEntry, PoolHeader, Source

TABLE = "sources.parquet"
#: Texts of all sources, in the order of their names; None where a source has nothing.
Column = list[str | None]
_HEADER = "header/"
#: A table that says it holds more than so many bytes is not unpacked.
_LARGEST_TABLE = 2 * 2**30


def packed_name(key: str) -> str:
    """Name of the file that holds the arrays of a key."""
    return f"packed-{key}.safetensors"


class PackedArrays:
    """The arrays of one key of all packed sources, read source by source.

    Parameters
    ----------
    path
        The file.
    sha256
        What its bytes have to have; None for a file of format 1 or 2, which carries a checksum.

    Raises
    ------
    PoolError
        If the file is not what was written.
    """

    def __init__(self, path: Path, sha256: str | None) -> None:
        self.path = path
        try:
            if sha256 is None:
                old_formats.require_sound(path)
            elif sha256_of(path) != sha256:
                raise ValueError("the checksum does not match")
            file = safe_open(path, framework="numpy")
            meta = json.loads(file.metadata()[METADATA])
            if "shapes" in meta:  # format 1
                names = meta["sources"]
                stored = {a: (a, t) for a, t in old_formats.shape_tables(meta).items()}
            else:
                names = old_formats.texts_of(file, "name")
                arrays = [n.removeprefix("data/") for n in file.keys() if n.startswith("data/")]  # noqa: SIM118  # not a dict
                stored = {a: (f"data/{a}", file.get_tensor(f"shape/{a}")) for a in arrays}
            self._row_of = {name: row for row, name in enumerate(names)}
            self._columns = []
            for array, (name, table) in stored.items():
                flat = file.get_slice(name)
                (length,) = flat.get_shape()
                # safetensors refuses the slice 0:0 of an array that has no numbers at all.
                empty = flat[0:0] if length else file.get_tensor(name)
                ends = _ends(array, table, length, len(names))
                self._columns.append((array, flat, empty, table, ends))
        except UNREADABLE as error:
            raise damaged(path, error) from error

    def __contains__(self, name: str) -> bool:
        return name in self._row_of

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of one source."""
        row = self._row_of[name]
        out = {}
        try:
            for array, flat, empty, table, ends in self._columns:
                axes = int(table[row, 0])
                if axes >= 0:
                    start, stop = ends[row], ends[row + 1]
                    numbers = flat[start:stop] if stop > start else empty
                    out[array] = numbers.reshape(table[row, 1 : 1 + axes])
        except UNREADABLE as error:
            raise damaged(self.path, error) from error
        return out


def _ends(array: str, table: NDArray[np.int64], length: int, sources: int) -> list[int]:
    """Where each source's numbers begin and end in a flat array of all.

    Raises
    ------
    ValueError
        If the shapes are not those of the array.
    """
    if table.dtype != np.int64 or table.ndim != 2:
        raise ValueError(f"the shapes of {array} are no whole numbers in rows")
    axes = table[:, 1:]
    used = np.arange(axes.shape[1]) < table[:, :1]
    sizes = np.where(table[:, 0] < 0, 0, np.where(used, axes, 1).prod(1))
    ends = np.concatenate([[0], np.cumsum(sizes)])
    if len(table) != sources or (axes[used] < 0).any() or ends[-1] != length:
        raise ValueError(f"{array} has another size than its shapes")
    out: list[int] = ends.tolist()
    return out


class PackedHeaders(Mapping[str, Mapping[str, Any]]):
    """Headers of one packed source by key, each parsed when it is asked for."""

    def __init__(self, table: SourceTable, row: int) -> None:
        self._table, self._row = table, row

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        header = self._table.header(self._row, key)
        if header is None:
            raise KeyError(key)
        return header

    def __contains__(self, key: object) -> bool:
        return key in self._table.keys and self._table.has(self._row, str(key))

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._table.keys if self._table.has(self._row, key))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class SourceTable:
    """What is known of packed sources, parsed row by row when it is asked for.

    Parameters
    ----------
    path
        Named in errors.
    columns
        Names of the columns.
    read
        Reads a column by its name, None where a source has nothing in it; called when the column
        is first used.

    Raises
    ------
    PoolError
        If the table is not one of a pool's sources.
    """

    def __init__(self, path: Path, columns: Sequence[str], read: Callable[[str], Column]) -> None:
        self.path = path
        self._read = read
        self._columns: dict[str, Column] = {}
        self._sources: dict[int, Source] = {}
        self.keys = [n.removeprefix(_HEADER) for n in columns if n.startswith(_HEADER)]
        try:
            if not all(NAME.fullmatch(key) for key in self.keys):
                raise ValueError("a column has no name that a file can have")
            self.names = [name or "" for name in self._column("name")]
            bad = [name for name in self.names if not NAME.fullmatch(name)]
            if bad:
                raise ValueError(f"{bad[0]!r} cannot name a source")
            self.row_of = {name: row for row, name in enumerate(self.names)}
            if len(self.row_of) != len(self.names):
                raise ValueError("two sources have one name")
        except UNREADABLE as error:
            raise damaged(path, error) from error

    @classmethod
    def open(cls, path: Path, sha256: str) -> SourceTable:
        """Open ``sources.parquet``, compared with its checksum.

        Raises
        ------
        PoolError
            If it is not what was written.
        """
        import pyarrow as pa
        from pyarrow import parquet

        try:
            # Of bytes in memory: a map of a file that is cut meanwhile would end the process.
            data = read_regular(path)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ValueError("the checksum does not match")
            file = parquet.ParquetFile(pa.BufferReader(data))
            groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
            if sum(group.total_byte_size for group in groups) > _LARGEST_TABLE:
                raise ValueError("larger than any pool's table")
            if {field.type for field in file.schema_arrow} - {pa.string()}:
                raise ValueError("a column holds no texts")
        except UNREADABLE as error:
            raise damaged(path, error) from error

        def read(column: str) -> Column:
            texts = file.read(columns=[column]).column(0)
            texts.validate(full=True)
            out: Column = texts.to_pylist()
            return out

        return cls(path, file.schema_arrow.names, read)

    @classmethod
    def of(cls, path: Path, columns: Mapping[str, Column]) -> SourceTable:
        """A table that is in memory, as those of format 1 and 2 are."""
        return cls(path, list(columns), columns.__getitem__)

    def _column(self, name: str) -> Column:
        if name not in self._columns:
            try:
                self._columns[name] = self._read(name)
            except UNREADABLE as error:
                raise damaged(self.path, error) from error
        return self._columns[name]

    def _parsed(self, column: str, row: int) -> Any:
        text = self._column(column)[row]
        return None if text is None else json.loads(text)

    def source(self, row: int) -> Source:
        """Card, tuning and headers of a source."""
        if row not in self._sources:
            try:
                card, tuning = self._parsed("card", row), self._parsed("tuning", row)
                source = Source.of(card, tuning, PackedHeaders(self, row))
                if source.name != self.names[row]:
                    raise ValueError(f"row {row} has two names")
            except UNREADABLE as error:
                raise damaged(self.path, error) from error
            self._sources[row] = source
        return self._sources[row]

    def has(self, row: int, key: str) -> bool:
        """Whether a source has a description of a key."""
        return self._column(_HEADER + key)[row] is not None

    def header(self, row: int, key: str) -> dict[str, Any] | None:
        """The header of one description, or None where there is none."""
        if key not in self.keys:
            return None
        try:
            header = self._parsed(_HEADER + key, row)
            if not isinstance(header, dict | None):
                raise ValueError(f"the header {key} of row {row} is no mapping")
        except UNREADABLE as error:
            raise damaged(self.path, error) from error
        return header

    def described(self, key: str) -> list[str]:
        """Names of sources that have a description of a key."""
        if key not in self.keys:
            return []
        texts = self._column(_HEADER + key)
        return [name for name, text in zip(self.names, texts, strict=True) if text is not None]


def columns_of(sources: Sequence[Source], keys: Sequence[str]) -> dict[str, Column]:
    """The columns that keep sources, with the headers of some keys."""
    columns: dict[str, Column] = {
        "name": [s.name for s in sources],
        "card": [canonical(s.card.to_dict()) for s in sources],
        "tuning": [canonical(dict(s.tuning)) for s in sources],
    }
    for key in keys:
        headers = (s.headers.get(key) for s in sources)
        columns[_HEADER + key] = [None if h is None else canonical(dict(h)) for h in headers]
    return columns


def write_table(folder: Path, sources: Sequence[Source], keys: Sequence[str]) -> FileEntry:
    """Write ``sources.parquet``; its entry for ``pool.json``."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = columns_of(sources, keys)
    table = pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd", write_statistics=False)
    return _write(folder / TABLE, sink.getvalue())


def write_arrays(
    folder: Path, key: str, described: Sequence[tuple[str, Mapping[str, NDArray[Any]]]]
) -> FileEntry:
    """Write the arrays of one key, as (name, arrays) of its sources; their file's entry."""
    names = [name.encode() for name, _ in described]
    out: dict[str, NDArray[Any]] = {
        "name": np.frombuffer(b"".join(names), np.uint8),
        "name#ends": np.cumsum([len(name) for name in names], dtype=np.int64),
    }
    for column in sorted({array for _, arrays in described for array in arrays}):
        of_sources = [arrays.get(column) for _, arrays in described]
        shapes = [None if array is None else array.shape for array in of_sources]
        out[f"shape/{column}"] = old_formats.shape_table(shapes)
        out[f"data/{column}"] = np.concatenate([a.ravel() for a in of_sources if a is not None])
    meta = {"checksum": checksum(out, ""), "format": old_formats.PACKED_FORMAT}
    return _write(folder / packed_name(key), save(out, {METADATA: canonical(meta)}))


def _write(path: Path, data: bytes) -> FileEntry:
    write_atomically(path, data)
    return FileEntry(name=path.name, sha256=hashlib.sha256(data).hexdigest())


def write_packed(
    folder: Path,
    header: Mapping[str, Any],
    sources: Sequence[Source],
    described: Iterable[tuple[str, Sequence[tuple[str, Mapping[str, NDArray[Any]]]]]],
) -> None:
    """Write the files of a packed pool into an empty folder.

    Parameters
    ----------
    folder
        Where; it exists.
    header
        At least the ``encoder``, as ``pool.json`` has it.
    sources
        Cards, tunings and headers.
    described
        Per key the names and arrays of its sources, in the order of the names.
    """
    packed = {key: write_arrays(folder, key, arrays) for key, arrays in described}
    table = write_table(folder, sources, list(packed))
    of_these_files = {"files", "sources", "checksum"}
    fields = {name: value for name, value in header.items() if name not in of_these_files}
    fields |= {"format": FORMAT, "table": table, "packed": packed}
    write_header(folder, PoolHeader.model_validate(fields))
