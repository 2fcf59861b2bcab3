"""A pool: sources' cards and descriptions in a folder.

A pool is a folder that holds

``pool.json``
    what was described with which encoder and recipe, and how many sources are packed;
``sources/NAME.safetensors``
    one loose source: its arrays by ``<key>/<array>``, its card and headers in the file's
    metadata. Written beside and renamed, so a source is there whole or not at all;
``sources.safetensors``
    what is known of all packed sources, a column per field: ``name``, ``card``, ``tuning`` and
    ``header/KEY`` are texts (JSON but for the names), one after another in UTF-8, and
    ``COLUMN#ends`` says where each ends; an empty header is none;
``packed-KEY.safetensors``
    all packed sources' arrays of one description key: ``data/ARRAY`` holds them flat, one source
    after another, ``shape/ARRAY`` their shapes (number of axes, or -1 where a source has no such
    array, then the axes), ``name`` whose they are;
``WHAT-DIGEST.safetensors``
    a file that belongs to all sources together, such as a topic model over their terms.

Packed files are read by position: opening a pool reads the names, and a ranking the columns and
rows it uses, so that what a process holds does not grow with the pool. Their metadata holds a
SHA-256 of all arrays. Loose and packed sources live side by side; a loose one of the same name
wins. Format 1 kept what ``sources.safetensors`` holds in ``pool.json``, and names and shapes in
the packed files' metadata; it is read as ever.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_bytes

from taskscout.errors import PoolError
from taskscout.files import write_atomically
from taskscout.methods.method import Description
from taskscout.tasks import TaskCard

FORMAT = 2
_META = "taskscout"
_TABLE = "sources.safetensors"
#: NumPy's names of the types that safetensors files name so.
_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4",
    "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
#: What reading a damaged file can raise.
_UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError)
#: Bytes of a column read at a time by who walks along it.
_AHEAD = 1 << 18
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def _checksum(arrays: Mapping[str, NDArray[Any]], text: str) -> str:
    """Hex SHA-256 of arrays (by name, with type and shape) and a text."""
    h = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        h.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        h.update(array.tobytes())
    return h.hexdigest()


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False)


def _header_bytes(header: Mapping[str, Any]) -> bytes:
    return (json.dumps(header, indent=1, ensure_ascii=False) + "\n").encode()


def _unreadable_source(path: Path, error: Exception) -> PoolError:
    return PoolError(
        f"{path} cannot be read ({type(error).__name__}).",
        "It was cut short or changed.",
        "Remove the file and add the source again.",
    )


@dataclass(frozen=True)
class Source:
    """One source of a pool.

    Attributes
    ----------
    card
        What it is, its licence, where to get it.
    tuning
        Recipe, test scores, examples and seconds of its tuned model.
    headers
        Headers of its descriptions, by key.
    """

    card: TaskCard
    tuning: Mapping[str, Any]
    headers: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The card's name."""
        table, row = self.__dict__.get("_packed", (None, 0))
        name: str = self.card.name if table is None else table.names[row]
        return name

    @classmethod
    def _of(cls, table: _Table, row: int) -> Source:
        """A packed source, whose parts are read when first asked for."""
        out = object.__new__(cls)
        object.__setattr__(out, "_packed", (table, row))
        return out

    def __getattr__(self, part: str) -> Any:
        # Reached only for what is not there yet.
        if part not in ("card", "tuning", "headers") or "_packed" not in self.__dict__:
            raise AttributeError(part)
        table, row = self.__dict__["_packed"]
        value = getattr(table, part)(row)
        object.__setattr__(self, part, value)
        return value

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "card": self.card.to_dict(),
            "tuning": dict(self.tuning),
            "headers": {k: dict(v) for k, v in self.headers.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Source:
        """The inverse of :meth:`to_dict`."""
        return cls(TaskCard.from_dict(data["card"]), data["tuning"], data["headers"])


class _File:
    """A safetensors file of which parts are read by their position, when they are used.

    safetensors' own reader maps the file and copies from the map, and what it has touched stays
    counted as the process's memory; so would any map. Reading by position holds nothing.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._closing = weakref.finalize(self, os.close, self._descriptor)
        begin = 8 + int.from_bytes(self._read(0, 8), "little")
        size = os.fstat(self._descriptor).st_size
        if begin > size:
            raise ValueError("the file is cut short")
        header = json.loads(self._read(8, begin - 8))
        self.text: str = header.pop("__metadata__")[_META]
        self._where: dict[str, tuple[np.dtype[Any], tuple[int, ...], int]] = {}
        self._held: dict[str, tuple[int, bytes]] = {}
        end = begin
        for name, entry in header.items():
            start, stop = (begin + at for at in entry["data_offsets"])
            dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
            if stop - start != dtype.itemsize * math.prod(shape):
                raise ValueError(f"{name} has another size than its shape")
            self._where[name] = dtype, shape, start
            end = max(end, stop)
        if end != size:
            raise ValueError(f"{size} bytes, not {end}")

    def _read(self, start: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            data = os.pread(self._descriptor, size, start)
        else:
            os.lseek(self._descriptor, start, os.SEEK_SET)
            data = os.read(self._descriptor, size)
        if len(data) != size:
            raise ValueError("the file is cut short")
        return data

    def names(self, prefix: str) -> list[str]:
        """Names of arrays that begin so, without that."""
        return [n.removeprefix(prefix) for n in self._where if n.startswith(prefix)]

    def length(self, name: str) -> int:
        """Numbers in an array."""
        return math.prod(self._where[name][1])

    def array(self, name: str) -> NDArray[Any]:
        """One array, whole."""
        return self.part(name, 0, self.length(name)).reshape(self._where[name][1])

    def part(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Some consecutive numbers of an array; they cannot be written to."""
        dtype, shape, begin = self._where[name]
        width = dtype.itemsize
        at, size = begin + start * width, (stop - start) * width
        first, held = self._held.get(name, (at, b""))
        if not first <= at <= at + size <= first + len(held):
            # Who goes on where the last part ended will go on: each call costs more than its bytes.
            if first <= at <= first + len(held) and held:
                most = begin + width * math.prod(shape) - at
                size = max(size, min(_AHEAD, most))
            first, held = at, self._read(at, size)
            if size <= _AHEAD:
                self._held[name] = first, held
        return np.frombuffer(held, dtype, stop - start, at - first)

    @staticmethod
    def write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write arrays and their checksum."""
        meta = {"checksum": _checksum(arrays, ""), "format": FORMAT}
        write_atomically(path, save_bytes(dict(arrays), {_META: _canonical(meta)}))


def _sound(path: Path) -> bool:
    """Whether a packed file's bytes still have the checksum they were written with."""
    try:
        with safe_open(path, framework="numpy") as f:  # strict about the file's own header
            text = f.metadata()[_META]
            flat = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  # not a dict
        meta = json.loads(text)
        if "shapes" in meta:  # format 1
            kept = {"sources": meta["sources"], "shapes": meta["shapes"]}
            checksum = _checksum(flat, _canonical([meta["sources"], meta["shapes"]]))
        else:
            kept, checksum = {"format": FORMAT}, _checksum(flat, "")
        if text != _canonical({**kept, "checksum": checksum}):
            return False
        # What pads the header, and the order of its entries, belong to no array.
        return bool(save_bytes(flat, {_META: text}) == path.read_bytes())
    except _UNREADABLE:
        return False


class _Texts(Sequence[str]):
    """A column of texts, decoded one by one."""

    def __init__(self, read: Callable[[int, int], NDArray[np.uint8]], ends: NDArray[Any]) -> None:
        self._read, self._ends = read, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: Any) -> Any:
        start = int(self._ends[row - 1]) if row else 0
        return self._read(start, int(self._ends[row])).tobytes().decode()

    def filled(self) -> NDArray[np.int64]:
        """Rows whose text is not empty."""
        return np.flatnonzero(np.diff(self._ends, prepend=0))

    def all(self) -> list[str]:
        """All texts."""
        ends = self._ends.tolist()
        whole = self._read(0, ends[-1] if ends else 0).tobytes()
        return [whole[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]

    @classmethod
    def of(cls, file: _File, column: str) -> _Texts:
        """From a file."""
        ends = file.array(f"{column}#ends")
        if len(ends) and (ends[-1] != file.length(column) or (np.diff(ends, prepend=0) < 0).any()):
            raise ValueError(f"{column} has another size than its texts")
        return cls(lambda start, stop: file.part(column, start, stop), ends)

    @staticmethod
    def arrays(column: str, texts: Iterable[str]) -> dict[str, NDArray[Any]]:
        """The arrays that keep a column."""
        parts = [text.encode() for text in texts]
        return {
            column: np.frombuffer(b"".join(parts), np.uint8),
            f"{column}#ends": np.cumsum([len(part) for part in parts], dtype=np.int64),
        }


class _Table:
    """What is known of packed sources, parsed row by row when it is asked for."""

    def __init__(self, columns: Mapping[str, _Texts]) -> None:
        self._columns = columns
        self.names: list[str] = columns["name"].all()
        self.at = {name: row for row, name in enumerate(self.names)}
        self.keys = [c.removeprefix("header/") for c in columns if c.startswith("header/")]

    @classmethod
    def open(cls, path: Path) -> _Table:
        """From ``sources.safetensors``."""
        try:
            file = _File(path)
            names = [n for n in file.names("") if not n.endswith("#ends")]
            return cls({name: _Texts.of(file, name) for name in names})
        except _UNREADABLE as error:
            raise _unreadable_file(path, error) from error

    @staticmethod
    def arrays(sources: Sequence[Source], keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The arrays that keep sources, with the headers of some keys."""
        columns: dict[str, Iterable[str]] = {
            "name": (s.name for s in sources),
            "card": (_canonical(s.card.to_dict()) for s in sources),
            "tuning": (_canonical(dict(s.tuning)) for s in sources),
        }
        for key in keys:
            headers = (s.headers.get(key) for s in sources)
            columns[f"header/{key}"] = ["" if h is None else _canonical(dict(h)) for h in headers]
        out: dict[str, NDArray[Any]] = {}
        for column, rows in columns.items():
            out.update(_Texts.arrays(column, rows))
        return out

    @classmethod
    def of(cls, sources: Sequence[Source]) -> _Table:
        """From sources in memory, those of a pool of format 1."""
        keys = sorted({key for source in sources for key in source.headers})
        arrays = cls.arrays(sources, keys)
        names = [n for n in arrays if not n.endswith("#ends")]

        def texts(name: str) -> _Texts:
            blob = arrays[name]
            return _Texts(lambda start, stop: blob[start:stop], arrays[f"{name}#ends"])

        return cls({name: texts(name) for name in names})

    def card(self, row: int) -> TaskCard:
        """A source's card."""
        return TaskCard.from_dict(json.loads(self._columns["card"][row]))

    def tuning(self, row: int) -> dict[str, Any]:
        """How a source was tuned."""
        out: dict[str, Any] = json.loads(self._columns["tuning"][row])
        return out

    def header(self, row: int, key: str) -> dict[str, Any] | None:
        """The header of one description, or None where there is none."""
        text = self._columns[f"header/{key}"][row] if key in self.keys else ""
        out: dict[str, Any] | None = json.loads(text) if text else None
        return out

    def headers(self, row: int) -> dict[str, dict[str, Any]]:
        """All headers of a source."""
        found = {key: self.header(row, key) for key in self.keys}
        return {key: header for key, header in found.items() if header is not None}

    def described(self, key: str) -> list[str]:
        """Names of sources that have a description of that key."""
        if key not in self.keys:
            return []
        return [self.names[row] for row in self._columns[f"header/{key}"].filled().tolist()]


def _unreadable_file(path: Path, error: Exception) -> PoolError:
    return PoolError(
        f"{path} cannot be read ({type(error).__name__}).",
        "It is missing, cut short or not a taskscout pool file.",
        "Install or copy the pool again.",
    )


class _Packed:
    """The packed arrays of one key: flat, one source after another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = _File(path)
            meta = json.loads(self._file.text)
            if "shapes" in meta:  # format 1
                names, shapes = meta["sources"], meta["shapes"]
                found = [(a, a, _shape_table(s)) for a, s in shapes.items()]
            else:
                names = _Texts.of(self._file, "name").all()
                found = [
                    (a, f"data/{a}", self._file.array(f"shape/{a}"))
                    for a in self._file.names("data/")
                ]
            self._at = {name: i for i, name in enumerate(names)}
            self._columns = []
            for array, kept, table in found:
                axes = table[:, 1:]
                used = np.arange(axes.shape[1]) < table[:, :1]
                sizes = np.where(table[:, 0] < 0, 0, np.where(used, axes, 1).prod(1))
                ends = np.concatenate([[0], np.cumsum(sizes)])
                if len(table) != len(names) or ends[-1] != self._file.length(kept):
                    raise ValueError(f"{array} has another size than its shapes")
                self._columns.append((array, kept, table, ends.tolist()))
        except _UNREADABLE as error:
            raise _unreadable_file(path, error) from error

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Arrays of one source, read now."""
        row = self._at[name]
        out = {}
        for array, kept, table, ends in self._columns:
            count = int(table[row, 0])
            if count >= 0:
                flat = self._file.part(kept, ends[row], ends[row + 1])
                out[array] = flat.reshape(table[row, 1 : 1 + count])
        return out

    @staticmethod
    def write(path: Path, described: Sequence[tuple[str, Mapping[str, NDArray[Any]]]]) -> None:
        """Pack (name, arrays) of sources into one file."""
        out = _Texts.arrays("name", (name for name, _ in described))
        for column in sorted({a for _, arrays in described for a in arrays}):
            found = [arrays.get(column) for _, arrays in described]
            out[f"shape/{column}"] = _shape_table([None if a is None else a.shape for a in found])
            out[f"data/{column}"] = np.concatenate([a.ravel() for a in found if a is not None])
        _File.write(path, out)


def _shape_table(shapes: Sequence[Sequence[int] | None]) -> NDArray[np.int64]:
    """Number of axes, -1 for none, and the axes of each shape, one per row."""
    width = max((len(s) for s in shapes if s is not None), default=0)
    out = np.full((len(shapes), 1 + width), -1, np.int64)
    for row, shape in zip(out, shapes, strict=True):
        if shape is not None:
            row[0] = len(shape)
            row[1 : 1 + len(shape)] = shape
    return out


class Descriptions(Sequence[Description]):
    """Descriptions of one key for some sources, read when asked for."""

    def __init__(self, pool: Pool, key: str, names: Sequence[str]) -> None:
        self._pool, self._key, self._names = pool, key, names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Description: ...
    @overload
    def __getitem__(self, index: slice) -> Descriptions: ...
    def __getitem__(self, index: int | slice) -> Description | Descriptions:
        if isinstance(index, slice):
            return Descriptions(self._pool, self._key, self._names[index])
        return self._pool.description(self._names[index], self._key)


class Pool:
    """Sources' cards and descriptions in a folder.

    Open one with :meth:`Pool.builtin` or :meth:`Pool.open`, begin one with :meth:`Pool.create`.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.folder = folder
        self._header = dict(header)
        self._packed: dict[str, _Packed] = {}
        if "packed" in header:
            self._table = _Table.open(folder / _TABLE)
            if len(self._table.names) != header["packed"]:
                raise PoolError(
                    f"{folder / _TABLE} holds {len(self._table.names)} sources.",
                    f"The pool.json beside it speaks of {header['packed']}.",
                    "Install or copy the pool again.",
                )
        else:
            self._table = _Table.of([Source.from_dict(s) for s in header.get("sources", ())])
        self._added: dict[str, Source] = {}
        self._loose: dict[str, Path] = {}
        for path in sorted((folder / "sources").glob("[!.]*.safetensors")):
            self._loose[path.stem] = path
            self._added[path.stem] = self._read_loose(path)
        self._names: tuple[str, ...] | None = None

    # -- opening --------------------------------------------------------------------

    @classmethod
    def builtin(cls) -> Pool:
        """The pool that comes with taskscout."""
        from taskscout.pools.builtin import builtin_folder

        return cls.open(builtin_folder())

    @classmethod
    def open(cls, folder: str | Path) -> Pool:
        """Open a pool folder.

        Raises
        ------
        PoolError
            If the folder is no pool, or one of a later version of taskscout.
        """
        folder = Path(folder).expanduser()
        path = folder / "pool.json"
        if not path.is_file():
            raise PoolError(
                f"{folder} holds no pool.json.",
                "A pool is a folder that taskscout wrote.",
                f"Begin one: taskscout pool add FILE --pool {folder}",
            )
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
            version = int(header["format"])
            if version > FORMAT:
                raise PoolError(
                    f"{path} has format {version}.",
                    f"This taskscout reads formats up to {FORMAT}.",
                    "Upgrade it: pip install --upgrade taskscout",
                )
            pool = cls(folder, header)
            _ = pool.encoder["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PoolError(
                f"{path} is not a pool's header ({type(error).__name__}: {error}).",
                "It was cut short or changed by hand.",
                "Restore it from a copy, or build the pool again.",
            ) from error
        return pool

    @classmethod
    def create(cls, folder: str | Path, *, encoder: Mapping[str, Any], write: bool = True) -> Pool:
        """Begin an empty pool, or open the one that is there.

        Parameters
        ----------
        folder
            Made where it is missing.
        encoder
            What :func:`taskscout.pools.build.encoder_header` gives.
        write
            False leaves the disk as it is until the first source is added.
        """
        folder = Path(folder).expanduser()
        if (folder / "pool.json").exists():
            return cls.open(folder)
        pool = cls(folder, {"format": FORMAT, "encoder": dict(encoder)})
        if write:
            pool._begin()
        return pool

    def _begin(self) -> None:
        """Write the header where there is none yet."""
        if not (self.folder / "pool.json").exists():
            (self.folder / "sources").mkdir(parents=True, exist_ok=True)
            self._write_header(self.folder, self._header)

    @staticmethod
    def _write_header(folder: Path, header: Mapping[str, Any]) -> None:
        body = {k: v for k, v in header.items() if k != "checksum"}
        body["checksum"] = _checksum({}, _canonical(body))
        write_atomically(folder / "pool.json", _header_bytes(body))

    # -- reading --------------------------------------------------------------------

    @property
    def encoder(self) -> Mapping[str, Any]:
        """Model id, fingerprint and pooling of the encoder its sources were tuned on."""
        encoder: Mapping[str, Any] = self._header["encoder"]
        return encoder

    @property
    def left_out(self) -> Mapping[str, str]:
        """Tasks that were considered and are not in the pool, with the reason."""
        out: Mapping[str, str] = self._header.get("left_out", {})
        return out

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources, in order."""
        if self._names is None:
            self._names = tuple(sorted({*self._table.names, *self._added}))
        return self._names

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._added or name in self._table.at

    def __iter__(self) -> Iterator[Source]:
        return (self.source(n) for n in self.names)

    def __repr__(self) -> str:
        return f"Pool({str(self.folder)!r}, {len(self)} sources)"

    def source(self, name: str) -> Source:
        """Card, tuning and headers of one source.

        Raises
        ------
        PoolError
            If there is no such source; names the closest.
        """
        if name not in self:
            import difflib

            close = difflib.get_close_matches(name, self.names, 3)
            raise PoolError(
                f"The pool {self.folder} has no source {name!r}.",
                f"Close names: {', '.join(close)}." if close else "No name is close to it.",
                "See them all: taskscout pool list",
            )
        known = self._added.get(name)
        return known if known is not None else Source._of(self._table, self._table.at[name])

    def described(self, key: str) -> tuple[str, ...]:
        """Names of the sources that have a description of that key."""
        packed = {n for n in self._table.described(key) if n not in self._added}
        loose = {n for n, source in self._added.items() if key in source.headers}
        return tuple(sorted(packed | loose))

    def description(self, name: str, key: str) -> Description:
        """One description; arrays are read now."""
        header = self.header(name, key)
        if header is None:
            raise PoolError(
                f"Source {name!r} has no description {key!r}.",
                f"It has {', '.join(sorted(self.source(name).headers))}.",
                "Choose a method that reads one of these, or describe the source again.",
            )
        if name in self._loose:
            arrays = self._read_arrays(self._loose[name], key)
        else:
            packed = self._packed_file(key)
            if name not in packed:
                raise PoolError(
                    f"{packed.path} does not hold source {name!r}.",
                    "It belongs to another pool than the pool.json beside it.",
                    "Install or copy the pool again.",
                )
            arrays = packed.arrays(name)
        return Description(key, name, header, arrays)

    def header(self, name: str, key: str) -> Mapping[str, Any] | None:
        """The header of one description, without the others; None where there is none."""
        if name in self._added or name not in self._table.at:
            return self.source(name).headers.get(key)
        return self._table.header(self._table.at[name], key)

    def descriptions(self, key: str, names: Sequence[str] | None = None) -> Descriptions:
        """Descriptions of one key, read one by one as a method walks over them."""
        return Descriptions(self, key, self.described(key) if names is None else names)

    def _packed_file(self, key: str) -> _Packed:
        if key not in self._packed:
            self._packed[key] = _Packed(self.folder / f"packed-{key}.safetensors")
        return self._packed[key]

    @staticmethod
    def _read_loose(path: Path) -> Source:
        try:
            with safe_open(path, framework="numpy") as f:
                return Source.from_dict(json.loads(f.metadata()[_META])["source"])
        except _UNREADABLE as error:
            raise _unreadable_source(path, error) from error

    @staticmethod
    def _read_arrays(path: Path, key: str) -> dict[str, NDArray[Any]]:
        try:
            with safe_open(path, framework="numpy") as f:
                prefix = f"{key}/"
                return {
                    n.removeprefix(prefix): f.get_tensor(n)
                    for n in f.keys()  # noqa: SIM118  # not a dict
                    if n.startswith(prefix)
                }
        except _UNREADABLE as error:
            raise _unreadable_source(path, error) from error

    # -- changing ---------------------------------------------------------------------

    def check_name(self, name: str, *, replace: bool = False) -> None:
        """Refuse a name that a source cannot have here, before work is put into it.

        Raises
        ------
        PoolError
            If the name is taken (and not ``replace``) or cannot be a file name.
        """
        if not _NAME.fullmatch(name) or len(name) > 100 or name == "none":
            raise PoolError(
                f"{name!r} cannot name a source.",
                "A name has at most 100 letters, digits, '.', '_' and '-', and is not 'none'.",
                "Give another with --name.",
            )
        if name in self and not replace:
            raise PoolError(
                f"The pool {self.folder} has a source {name!r} already.",
                "Two sources of one name could not be told apart.",
                "Give another name with --name, or replace it with --replace.",
            )

    def add(
        self,
        card: TaskCard,
        tuning: Mapping[str, Any],
        descriptions: Iterable[Description],
        *,
        replace: bool = False,
    ) -> None:
        """Add a source, whole or not at all.

        Raises
        ------
        PoolError
            If the name is taken (and not ``replace``) or cannot be a file name.
        """
        name = card.name
        self.check_name(name, replace=replace)
        descriptions = list(descriptions)
        source = Source(card, tuning, {d.key: d.header for d in descriptions})
        arrays = {f"{d.key}/{a}": v for d in descriptions for a, v in d.arrays.items()}
        arrays = {k: np.asarray(v, order="C") for k, v in arrays.items()}
        meta: dict[str, Any] = {"source": source.to_dict()}
        meta["checksum"] = _checksum(arrays, _canonical(source.to_dict()))
        path = self.folder / "sources" / f"{name}.safetensors"
        self._begin()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save_bytes(arrays, {_META: _canonical(meta)}))
        self._added[name] = source
        self._loose[name] = path
        self._names = None

    def remove(self, name: str) -> None:
        """Remove a loose source.

        Raises
        ------
        PoolError
            If there is no such source, or it is packed.
        """
        self.source(name)
        if name not in self._loose:
            raise PoolError(
                f"Source {name!r} is packed in {self.folder}.",
                "Packed files are not changed in place.",
                f"Leave it out of a ranking instead: taskscout rank FILE --exclude {name}",
            )
        self._loose.pop(name).unlink()
        del self._added[name]
        self._names = None

    def set_left_out(self, reasons: Mapping[str, str]) -> None:
        """Record why tasks are not in the pool."""
        self._header["left_out"] = dict(sorted(reasons.items()))
        self._write_header(self.folder, self._header)

    def attached(self, what: str) -> Path | None:
        """Find a file that was attached; None where there is none."""
        kept = self._header.get("files", {}).get(what)
        return None if kept is None else self.folder / kept["name"]

    def attach(self, what: str, data: bytes) -> None:
        """Keep a file that belongs to all sources together, in place of the one there was."""
        digest = hashlib.sha256(data).hexdigest()
        old = self.attached(what)
        # Named by its content: whenever killed, the header names a whole file.
        path = self.folder / f"{what}-{digest[:16]}.safetensors"
        self._begin()
        write_atomically(path, data)
        files = {**self._header.get("files", {}), what: {"name": path.name, "sha256": digest}}
        self._header["files"] = files
        self._write_header(self.folder, self._header)
        if old is not None and old != path:
            old.unlink(missing_ok=True)

    def _attach_to(self, other: Pool) -> None:
        for what, kept in self._header.get("files", {}).items():
            other.attach(what, (self.folder / kept["name"]).read_bytes())

    def unpack(self, folder: str | Path) -> Pool:
        """Write all sources to another folder as loose files, which can be changed."""
        out = Pool.create(folder, encoder=self.encoder)
        self._attach_to(out)
        if self.left_out:
            out.set_left_out(self.left_out)
        for source in self:
            if source.name not in out:
                parts = [self.description(source.name, key) for key in source.headers]
                out.add(source.card, source.tuning, parts)
        return out

    def pack(self, folder: str | Path, *, keys: Sequence[str] | None = None) -> Pool:
        """Write all sources to another folder as one file per description key."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        every = sorted({k for s in self for k in s.headers})
        keys = every if keys is None else list(keys)
        for key in keys:
            described = [(n, self.description(n, key).arrays) for n in self.described(key)]
            _Packed.write(folder / f"packed-{key}.safetensors", described)
        sources = list(self)
        _File.write(folder / _TABLE, _Table.arrays(sources, keys))
        header = {k: v for k, v in self._header.items() if k not in ("sources", "files")}
        self._write_header(folder, {**header, "format": FORMAT, "packed": len(sources)})
        packed = Pool.open(folder)
        self._attach_to(packed)
        return packed

    def verify(self) -> list[str]:
        """What is wrong with the files, one sentence each; an empty list when all is well.

        Every array, header and card is compared with the checksum it was written with.
        """
        problems = []
        path = self.folder / "pool.json"
        try:
            data = path.read_bytes()
            header = json.loads(data)
            body = {k: v for k, v in header.items() if k != "checksum"}
            good = header["checksum"] == _checksum({}, _canonical(body))
            # A changed bit can leave a text that says the same, such as 1e-5 as 1E-5.
            good &= data == _header_bytes(header)
        except _UNREADABLE:
            good = False
        if not good:
            problems.append(f"{path}: the checksum does not match.")
        for kept in self._header.get("files", {}).values():
            path = self.folder / kept["name"]
            if (
                not path.is_file()
                or hashlib.sha256(path.read_bytes()).hexdigest() != kept["sha256"]
            ):
                problems.append(f"{path}: the checksum does not match.")
        for path in self._loose.values():
            try:
                with safe_open(path, framework="numpy") as f:
                    text = f.metadata()[_META]
                    arrays = {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118  # not a dict
                meta = json.loads(text)
                good = text == _canonical(meta)
                good &= meta["source"]["card"]["name"] == path.stem
                good &= meta["checksum"] == _checksum(arrays, _canonical(meta["source"]))
            except _UNREADABLE:
                good = False
            if not good:
                problems.append(f"{path}: the checksum does not match.")
        packed = [self.folder / f"packed-{key}.safetensors" for key in self._table.keys]
        if "packed" in self._header:
            packed.append(self.folder / _TABLE)
        for path in packed:
            if not path.exists():
                problems.append(f"{path} is missing.")
            elif not _sound(path):
                problems.append(f"{path}: the checksum does not match.")
        return problems
