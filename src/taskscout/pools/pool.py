"""A pool: sources' cards and descriptions in a folder.

A pool is a folder that holds

``pool.json``
    what was described with which encoder, the names and SHA-256 of the files below, and a
    checksum of its own (:mod:`taskscout.pools.records`);
``sources/NAME.safetensors``
    one loose source (:mod:`taskscout.pools.loose`). Written beside and renamed, so a source is
    there whole or not at all;
``sources.parquet`` and ``packed-KEY.safetensors``
    all packed sources, cards and arrays (:mod:`taskscout.pools.packed`);
``WHAT-DIGEST.safetensors``
    a file that belongs to all sources together, such as a topic model over their terms.

Loose and packed sources live side by side; a loose one of the same name wins. Each file is
compared with its checksum when it is first used, so that no ranking rests on a changed byte.
Pools of format 1 and 2 are read as ever (:mod:`taskscout.pools.old_formats`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from taskscout.errors import PoolError
from taskscout.files import new_folder, write_atomically
from taskscout.methods.method import Description
from taskscout.notebook import table_html
from taskscout.pools import old_formats
from taskscout.pools.header import check_header, read_header, validated, write_header
from taskscout.pools.integrity import (
    NAME,
    UNREADABLE,
    damaged,
    sha256_of,
)
from taskscout.pools.loose import LooseSource, write_loose
from taskscout.pools.packed import (
    PackedArrays,
    SourceTable,
    columns_of,
    packed_name,
    write_packed,
)
from taskscout.pools.records import FORMAT, FileEntry, PoolHeader, Source
from taskscout.tasks import TaskCard

if TYPE_CHECKING:
    import pandas as pd

#: Sources that a notebook shows.
_SHOWN = 10
__all__ = ["Descriptions", "Pool", "Source"]


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

    def __init__(self, folder: Path, header: PoolHeader) -> None:
        self.folder = folder
        self._header = header
        self._encoder = header.encoder.model_dump()
        self._table = _open_table(folder, header)
        self._packed: dict[str, PackedArrays] = {}
        self._checked: set[str] = set()
        self._loose = {path.stem: LooseSource(path) for path in _loose_paths(folder)}
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
            If the folder is no pool, one of a later version of taskscout, or damaged.
        """
        folder = Path(folder).expanduser()
        path = folder / "pool.json"
        if not path.exists():
            raise PoolError(
                f"{folder} holds no pool.json.",
                "A pool is a folder that taskscout wrote.",
                f"Begin one: taskscout pool add FILE --pool {folder}",
            )
        return cls(folder, read_header(path))

    @classmethod
    def from_hub(cls, repo_id: str, revision: str | None = None) -> Pool:
        """Open a pool of the hub, or the copy of it in the hub's cache; nothing else is written.

        Parameters
        ----------
        repo_id
            ``owner/name`` of a dataset repository (:func:`taskscout.pools.hub.push`).
        revision
            A branch, tag or commit; None for the newest.

        Raises
        ------
        TaskscoutError
            If it cannot be had, or is no pool.
        """
        from taskscout.pools.hub_files import snapshot

        return cls.open(snapshot(repo_id, revision))

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

        Raises
        ------
        PoolError
            If the pool that is there cannot be opened, or the encoder lacks a field.
        """
        folder = Path(folder).expanduser()
        path = folder / "pool.json"
        if path.exists():
            return cls.open(folder)
        pool = cls(folder, validated(path, {"format": FORMAT, "encoder": dict(encoder)}))
        if write:
            with pool._writing():
                pass
        return pool

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Change the pool while no other process does, from what is on disk by now.

        Raises
        ------
        PoolError
            If another process has begun a pool of another encoder there meanwhile.
        """
        from filelock import FileLock

        (self.folder / "sources").mkdir(parents=True, exist_ok=True)
        path = self.folder / "pool.json"
        with FileLock(self.folder / ".lock"):
            if path.exists():
                header = read_header(path)
                if header.encoder != self._header.encoder:
                    raise PoolError(
                        f"{self.folder} holds a pool of the encoder {header.encoder.model} by now.",
                        "Sources of two encoders cannot be compared.",
                        "Name another folder.",
                    )
                self._header = header
            else:
                write_header(self.folder, self._header)
            yield

    # -- reading --------------------------------------------------------------------

    @property
    def encoder(self) -> Mapping[str, Any]:
        """Model id, fingerprint and pooling of the encoder its sources were tuned on."""
        return self._encoder

    @property
    def left_out(self) -> Mapping[str, str]:
        """Tasks that were considered and are not in the pool, with the reason."""
        return self._header.left_out

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources, in order."""
        if self._names is None:
            self._names = tuple(sorted({*self._table.names, *self._loose}))
        return self._names

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._loose or name in self._table.row_of

    def __iter__(self) -> Iterator[Source]:
        return (self.source(n) for n in self.names)

    def __repr__(self) -> str:
        return f"Pool({str(self.folder)!r}, {len(self)} sources)"

    def _repr_html_(self) -> str:
        """The first sources, for a notebook."""
        cards = [source.card for source in list(self)[:_SHOWN]]
        rows = [[c.name, c.kind, c.domain or c.category, sum(c.rows.values()), c.licence]
                for c in cards]  # fmt: skip
        return table_html(repr(self), ["source", "kind", "domain", "rows", "licence"], rows)

    def to_dict(self) -> dict[str, Any]:
        """Encoder, sources' cards, and what was left out, as plain JSON types."""
        return {
            "folder": str(self.folder),
            "encoder": dict(self.encoder),
            "sources": [source.card.to_dict() for source in self],
            "left_out": dict(self.left_out),
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row per source: its card, and its own test score."""
        import pandas as pd

        rows = []
        for source in self:
            card = source.card.to_dict()
            rows.append(
                {
                    **card,
                    "rows": sum(card["rows"].values()),
                    "classes": len(card.pop("label_names")),
                    "test_score": source.tuning.get("scores", {}).get("score"),
                }
            )
        return pd.DataFrame(rows)

    def source(self, name: str) -> Source:
        """Card, tuning and headers of one source.

        Raises
        ------
        PoolError
            If there is no such source; names the closest.
        """
        if name in self._loose:
            return self._loose[name].source
        if name in self._table.row_of:
            return self._table.source(self._table.row_of[name])
        import difflib

        close = difflib.get_close_matches(name, self.names, 3)
        raise PoolError(
            f"The pool {self.folder} has no source {name!r}.",
            f"Close names: {', '.join(close)}." if close else "No name is close to it.",
            "See them all: taskscout pool list",
        )

    def described(self, key: str) -> tuple[str, ...]:
        """Names of the sources that have a description of that key."""
        packed = {n for n in self._table.described(key) if n not in self._loose}
        loose = {n for n, each in self._loose.items() if key in each.source.headers}
        return tuple(sorted(packed | loose))

    def description(self, name: str, key: str) -> Description:
        """One description; arrays are read now.

        Raises
        ------
        PoolError
            If there is no such source or description, or its file is damaged.
        """
        header = self.header(name, key)
        if header is None:
            raise PoolError(
                f"Source {name!r} has no description {key!r}.",
                f"It has {', '.join(sorted(self.source(name).headers))}.",
                "Choose a method that reads one of these, or describe the source again.",
            )
        if name in self._loose:
            return Description(key, name, header, self._loose[name].arrays(key))
        packed = self._packed_arrays(key)
        if name not in packed:
            raise PoolError(
                f"{packed.path} does not hold source {name!r}.",
                "It belongs to another pool than the pool.json beside it.",
                "Install or copy the pool again.",
            )
        return Description(key, name, header, packed.arrays(name))

    def header(self, name: str, key: str) -> Mapping[str, Any] | None:
        """The header of one description, without the others; None where there is none."""
        if name in self._loose or name not in self._table.row_of:
            return self.source(name).headers.get(key)
        return self._table.header(self._table.row_of[name], key)

    def descriptions(self, key: str, names: Sequence[str] | None = None) -> Descriptions:
        """Descriptions of one key, read one by one as a method walks over them."""
        return Descriptions(self, key, self.described(key) if names is None else names)

    def _packed_arrays(self, key: str) -> PackedArrays:
        if key not in self._packed:
            if isinstance(self._header.packed, dict):
                if key not in self._header.packed:
                    raise damaged(self.folder / "pool.json", f"it names no file for {key!r}")
                entry = self._header.packed[key]
                self._packed[key] = PackedArrays(self.folder / entry.name, entry.sha256)
            else:
                self._packed[key] = PackedArrays(self.folder / packed_name(key), None)
        return self._packed[key]

    # -- changing ---------------------------------------------------------------------

    def check_name(self, name: str, *, replace: bool = False) -> None:
        """Refuse a name that a source cannot have here, before work is put into it.

        Raises
        ------
        PoolError
            If the name is taken (and not ``replace``) or cannot be a file name.
        """
        if not NAME.fullmatch(name) or len(name) > 100 or name == "none":
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
        self.check_name(card.name, replace=replace)
        described = list(descriptions)
        source = Source(card, tuning, {d.key: d.header for d in described})
        path = self.folder / "sources" / f"{card.name}.safetensors"
        with self._writing():
            if path.exists() and not replace and card.name not in self._loose:
                self._loose[card.name] = LooseSource(path)  # of another process, meanwhile
                self.check_name(card.name)
            write_loose(path, source, described)
        self._loose[card.name] = LooseSource(path)
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
        self._loose.pop(name).path.unlink()
        self._names = None

    def set_left_out(self, reasons: Mapping[str, str]) -> None:
        """Record why tasks are not in the pool."""
        with self._writing():
            self._change_header(left_out=dict(sorted(reasons.items())))

    def _change_header(self, **fields: Any) -> None:
        header = self._header.model_copy(update=fields)
        write_header(self.folder, header)
        self._header = header

    def attached(self, what: str) -> Path | None:
        """Find a file that was attached, as it was written; None where there is none.

        Raises
        ------
        PoolError
            If it is missing, or not what was attached.
        """
        entry = self._header.files.get(what)
        if entry is None:
            return None
        path = self.folder / entry.name
        if entry.sha256 not in self._checked:
            _check(path, entry)
            self._checked.add(entry.sha256)
        return path

    def attach(self, what: str, data: bytes) -> None:
        """Keep a file that belongs to all sources together, in place of the one there was."""
        digest = hashlib.sha256(data).hexdigest()
        # Named by its content: whenever killed, the header names a whole file.
        entry = FileEntry(name=f"{what}-{digest[:16]}.safetensors", sha256=digest)
        with self._writing():
            old = self._header.files.get(what)
            write_atomically(self.folder / entry.name, data)
            self._change_header(files={**self._header.files, what: entry})
            if old is not None and old.name != entry.name:
                (self.folder / old.name).unlink(missing_ok=True)

    def _attach_to(self, other: Pool) -> None:
        for what in self._header.files:
            path = self.attached(what)
            if path is not None:
                other.attach(what, path.read_bytes())

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
        """Write all sources to a new folder as one file per description key.

        Parameters
        ----------
        folder
            Missing, or empty. It is there whole or not at all.
        keys
            Whose descriptions to take along; None for all.

        Raises
        ------
        PoolError
            If the folder holds something.
        """
        folder = Path(folder).expanduser().absolute()
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise PoolError(
                f"{folder} is there already.",
                "A pool is packed into a folder of its own, whole or not at all.",
                "Name a new folder, or remove this one first.",
            )
        if keys is None:
            keys = sorted({key for source in self for key in source.headers})
        described = (
            (key, [(n, self.description(n, key).arrays) for n in self.described(key)])
            for key in keys
        )
        with new_folder(folder) as temporary:
            write_packed(temporary, self._header.to_dict(), list(self), described)
            self._attach_to(Pool.open(temporary))
        return Pool.open(folder)

    def verify(self) -> list[str]:
        """What is wrong with the files, one sentence each; an empty list when all is well.

        Every file is compared with the checksum it was written with, and every card is read.
        """
        problems: list[str] = []
        for path, check in self._checks():
            try:
                check()
            except (PoolError, *UNREADABLE):
                what = ": the checksum does not match." if path.exists() else " is missing."
                problems.append(f"{path}{what}")
        for name in () if problems else self.names:
            try:
                self.source(name)
            except PoolError as error:
                problems.append(f"{name}: {error.found}")
        return problems

    def _checks(self) -> Iterator[tuple[Path, Callable[[], object]]]:
        """Every file with what compares it with its checksum, and raises where they differ."""
        path, header = self.folder / "pool.json", self._header
        yield path, partial(check_header, path)
        entries = [*header.files.values()]
        if isinstance(header.packed, dict):
            entries += [*header.packed.values()]
        if header.table is not None:
            entries.append(header.table)
        for entry in entries:
            yield self.folder / entry.name, partial(_check, self.folder / entry.name, entry)
        if header.format < 3:
            old = [packed_name(key) for key in self._table.keys]
            for name in [old_formats.TABLE, *old] if header.packed is not None else old:
                yield self.folder / name, partial(old_formats.require_sound, self.folder / name)
        for loose in self._loose.values():
            yield loose.path, partial(_check_loose, loose.path)


def _check(path: Path, entry: FileEntry) -> None:
    """Compare a file with its entry in ``pool.json``."""
    try:
        if sha256_of(path) != entry.sha256:
            raise ValueError("the checksum does not match")
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def _check_loose(path: Path) -> None:
    LooseSource(path).check()


def _open_table(folder: Path, header: PoolHeader) -> SourceTable:
    """The packed sources of a pool of any format."""
    if header.table is not None:
        return SourceTable.open(folder / header.table.name, header.table.sha256)
    path = folder / "pool.json"
    try:
        if header.packed is not None:
            path = folder / old_formats.TABLE
            columns = old_formats.columns_of(path)
            if len(columns["name"]) != header.packed:
                raise ValueError(f"pool.json beside it speaks of {header.packed} sources")
        else:
            sources = [Source.from_dict(each) for each in header.sources]
            columns = columns_of(sources, sorted({key for s in sources for key in s.headers}))
    except UNREADABLE as error:
        raise damaged(path, error) from error
    return SourceTable.of(path, columns)


def _loose_paths(folder: Path) -> list[Path]:
    """Files of loose sources, without those that a killed process left half written."""
    try:
        paths = [Path(entry.path) for entry in os.scandir(folder / "sources")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise damaged(folder / "sources", error) from error
    return sorted(p for p in paths if p.suffix == ".safetensors" and not p.name.startswith("."))
