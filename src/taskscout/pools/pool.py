"""A pool: sources' cards and descriptions in a folder.

A pool is a folder that holds

``pool.json``
    what was described with which encoder and recipe; in a packed pool the cards too;
``sources/NAME.safetensors``
    one loose source: its arrays by ``<key>/<array>``, its card and headers in the file's
    metadata. Written beside and renamed, so a source is there whole or not at all;
``packed-KEY.safetensors``
    all packed sources' arrays of one description key, one after another, so that a ranking maps
    into memory the columns it reads and no others;
``WHAT-DIGEST.safetensors``
    a file that belongs to all sources together, such as a topic model over their terms.

Loose and packed sources live side by side; a loose one of the same name wins.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_bytes

from taskscout.errors import PoolError
from taskscout.methods.method import Description
from taskscout.tasks import TaskCard

FORMAT = 1
_META = "taskscout"
#: What reading a damaged file can raise.
_UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError)
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


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside and rename: the file holds the old bytes or the new, whenever killed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
        return self.card.name

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


class _Packed:
    """The packed arrays of one key: flat, one source after another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="numpy")
            self._text = self._file.metadata()[_META]
            meta = json.loads(self._text)
            self.names: list[str] = meta["sources"]
            self.shapes: dict[str, list[list[int] | None]] = meta["shapes"]
            self.checksum: str = meta["checksum"]
            self._at = {name: i for i, name in enumerate(self.names)}
            self._offsets = {
                array: np.concatenate(
                    [[0], np.cumsum([0 if s is None else int(np.prod(s)) for s in shapes])]
                )
                for array, shapes in self.shapes.items()
            }
        except _UNREADABLE as error:
            raise PoolError(
                f"{path} cannot be read ({type(error).__name__}).",
                "It is missing, cut short or not a taskscout pool file.",
                "Install or copy the pool again.",
            ) from error

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Arrays of one source, read from the map."""
        i = self._at[name]
        out = {}
        for array, shapes in self.shapes.items():
            shape = shapes[i]
            if shape is not None:
                start, stop = map(int, self._offsets[array][i : i + 2])
                if start < stop:
                    flat = self._file.get_slice(array)[start:stop]
                elif self._offsets[array][-1]:  # safetensors refuses an empty slice
                    flat = self._file.get_slice(array)[0:1][:0]
                else:
                    flat = self._file.get_tensor(array)
                out[array] = flat.reshape(shape)
        return out

    def verify(self) -> bool:
        """Whether the bytes still have the checksum they were written with."""
        try:
            flat = {name: self._file.get_tensor(name) for name in self._file.keys()}  # noqa: SIM118
            meta = {"sources": self.names, "shapes": self.shapes, "checksum": self.checksum}
            text = _canonical([self.names, self.shapes])
            return self._text == _canonical(meta) and _checksum(flat, text) == self.checksum
        except _UNREADABLE:
            return False

    @staticmethod
    def write(path: Path, described: Sequence[tuple[str, Mapping[str, NDArray[Any]]]]) -> None:
        """Pack (name, arrays) of sources into one file."""
        names = [name for name, _ in described]
        columns = sorted({a for _, arrays in described for a in arrays})
        shapes: dict[str, list[list[int] | None]] = {}
        flat: dict[str, NDArray[Any]] = {}
        for column in columns:
            found = [arrays.get(column) for _, arrays in described]
            shapes[column] = [None if a is None else list(a.shape) for a in found]
            flat[column] = np.concatenate([a.ravel() for a in found if a is not None])
        text = _canonical([names, shapes])
        meta = {"sources": names, "shapes": shapes, "checksum": _checksum(flat, text)}
        write_atomically(path, save_bytes(flat, {_META: _canonical(meta)}))


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
        self._sources: dict[str, Source] = {
            s["card"]["name"]: Source.from_dict(s) for s in header.get("sources", ())
        }
        self._loose: dict[str, Path] = {}
        for path in sorted((folder / "sources").glob("[!.]*.safetensors")):
            self._loose[path.stem] = path
            self._sources[path.stem] = self._read_loose(path)

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
        pool = cls(folder, {"format": FORMAT, "encoder": dict(encoder), "sources": []})
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
        return tuple(sorted(self._sources))

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, name: str) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[Source]:
        return (self._sources[n] for n in self.names)

    def __repr__(self) -> str:
        return f"Pool({str(self.folder)!r}, {len(self)} sources)"

    def source(self, name: str) -> Source:
        """Card, tuning and headers of one source.

        Raises
        ------
        PoolError
            If there is no such source; names the closest.
        """
        if name not in self._sources:
            import difflib

            close = difflib.get_close_matches(name, self.names, 3)
            raise PoolError(
                f"The pool {self.folder} has no source {name!r}.",
                f"Close names: {', '.join(close)}." if close else "No name is close to it.",
                "See them all: taskscout pool list",
            )
        return self._sources[name]

    def described(self, key: str) -> tuple[str, ...]:
        """Names of the sources that have a description of that key."""
        return tuple(n for n in self.names if key in self._sources[n].headers)

    def description(self, name: str, key: str) -> Description:
        """One description; arrays are read now."""
        source = self.source(name)
        if key not in source.headers:
            raise PoolError(
                f"Source {name!r} has no description {key!r}.",
                f"It has {', '.join(sorted(source.headers))}.",
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
        return Description(key, name, source.headers[key], arrays)

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
        if name in self._sources and not replace:
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
        self._sources[name] = source
        self._loose[name] = path

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
        packed = {s["card"]["name"]: s for s in self._header.get("sources", ())}
        if name in packed:
            self._sources[name] = Source.from_dict(packed[name])
        else:
            del self._sources[name]

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
        sources = []
        for source in self:
            data = source.to_dict()
            data["headers"] = {k: v for k, v in data["headers"].items() if k in keys}
            sources.append(data)
        header = {k: v for k, v in self._header.items() if k != "files"}
        self._write_header(folder, {**header, "sources": sources})
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
        keys = {k for s in self._header.get("sources", ()) for k in s["headers"]}
        for key in sorted(keys):
            try:
                good = self._packed_file(key).verify()
            except PoolError as error:
                problems.append(error.found)
                continue
            if not good:
                problems.append(f"{self._packed_file(key).path}: the checksum does not match.")
        return problems
