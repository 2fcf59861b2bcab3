"""Embeddings on disk: one row per text, in SQLite.

The file can be shared by processes, killed at any moment and thrown away at will. Nothing that is
wrong with it ever stops a run: a damaged file is moved aside, a folder that cannot be written
switches the cache off, and either is said once in the log.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import ModelError, TaskscoutError

T = TypeVar("T")
#: Vectors, None if none is known, and the mask of those found.
Rows = tuple[NDArray[np.float32] | None, NDArray[np.bool_]]

log = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 2 * 2**30

#: "TSCT": marks a file as ours among SQLite files.
_APPLICATION_ID = 0x54534354
#: The layout's version is part of the name: a later layout takes another file.
_FILE_NAME = "embeddings-1.sqlite"
#: Rows of 384 floats fill pages of 16 KiB to 96 %.
_PAGE_SIZE = 16384
#: Seconds to wait for another process that writes.
_PATIENCE = 30.0
#: Rows per batch; a batch is what is marked as used, and what is evicted, as a whole.
_BATCH = 1024
#: Keys asked for per query, below SQLite's limit on variables.
_CHUNK = 1000
#: A use within so many seconds of the last recorded one is not recorded.
_GRAIN = 60.0
#: Pages given back to the file system per transaction.
_VACUUM_PAGES = 2000
#: Eviction stops at this share of the limit, so that not every write evicts.
_LOW_WATER = 0.9
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: Connections that a forked child got from its parent: it must neither use nor close them.
_inherited: list[sqlite3.Connection] = []

_SCHEMA = """
CREATE TABLE spaces (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, label TEXT NOT NULL DEFAULT '',
    dimension INTEGER
);
CREATE TABLE batches (id INTEGER PRIMARY KEY, space INTEGER NOT NULL, used REAL NOT NULL);
CREATE INDEX batches_by_use ON batches (used);
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, space INTEGER NOT NULL,
    key BLOB NOT NULL, vector BLOB NOT NULL
);
CREATE UNIQUE INDEX vectors_by_key ON vectors (space, key);
CREATE INDEX vectors_by_batch ON vectors (batch);
"""


@dataclass(frozen=True)
class SpaceInfo:
    """What the cache holds of one space.

    Attributes
    ----------
    space
        Key of the space: fingerprint of model and settings.
    label
        Its name for people; may be empty.
    entries
        Vectors.
    bytes
        Bytes of the vectors, without what the file needs around them.
    used
        When one was last read or written, to the minute, in UTC.
    """

    space: str
    label: str
    entries: int
    bytes: int
    used: datetime


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds.

    Attributes
    ----------
    path
        The file; None for :class:`NoCache`.
    bytes
        Its size on disk.
    max_bytes
        The size it is kept below.
    entries
        Vectors in all spaces.
    spaces
        The spaces, last used first.
    """

    path: Path | None
    bytes: int
    max_bytes: int
    entries: int
    spaces: tuple[SpaceInfo, ...]


def parse_size(text: str) -> int:
    """Bytes of a size such as ``2GB``, ``500 MiB`` or ``1000000``; units are powers of 1024.

    Raises
    ------
    TaskscoutError
        If the text is no size.

    Examples
    --------
    >>> parse_size("1.5 kB")
    1536
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    if match is None:
        raise TaskscoutError(
            f"The size {text!r} cannot be read.",
            "A size is a number with or without a unit.",
            "Write it like 500MB or 2GB (TASKSCOUT_CACHE_SIZE and TASKSCOUT_TUNED_CACHE_SIZE "
            "set the limits of the cache).",
        )
    number, unit = match.groups()
    return int(float(number) * 1024 ** " kmgt".index(unit.lower() or " "))


def limit_of(variable: str, given: int, default: int) -> int:
    """The limit that was given; where that is the default, the size an environment variable says.

    Raises
    ------
    TaskscoutError
        If what the variable says is no size.
    """
    size = os.environ.get(variable)
    return parse_size(size) if size and given == default else given


def default_folder() -> Path:
    """``TASKSCOUT_CACHE``, else the user's cache folder of this system."""
    named = os.environ.get("TASKSCOUT_CACHE")
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("taskscout"))


class EmbeddingCache:
    """Vectors by space and key, in one SQLite file.

    Parameters
    ----------
    folder
        Where the file is; None for ``TASKSCOUT_CACHE``, else the user's cache folder.
    max_bytes
        The file is kept below this size by dropping what was used longest ago.
        ``TASKSCOUT_CACHE_SIZE`` (such as ``2GB``) stands in for the default.

    Notes
    -----
    Nothing is opened or created before the first call. Rows written by one :meth:`put` share a
    record of their last use, so a read costs at most a few small writes, and none within a
    minute of the last.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = default_folder() if folder is None else Path(folder)
        self.max_bytes = limit_of("TASKSCOUT_CACHE_SIZE", max_bytes, DEFAULT_MAX_BYTES)
        self.path = self.folder / _FILE_NAME
        self._lock = threading.RLock()
        self._opened: tuple[int, sqlite3.Connection] | None = None
        self._off = False
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"EmbeddingCache({str(self.folder)!r}, max_bytes={self.max_bytes})"

    def __del__(self) -> None:
        if getattr(self, "_opened", None) is not None:
            self.close()

    # -- reading and writing ----------------------------------------------------------

    def get(self, space: str, keys: Sequence[bytes]) -> Rows:
        """Vectors of some keys.

        Parameters
        ----------
        space
            Fingerprint of model and settings.
        keys
            n digests; one may occur more than once.

        Returns
        -------
        vectors, found
            The vectors (n × d; zeros where unknown; None if none is known), yours to change,
            and the mask of the rows that were found.
        """
        nothing: Rows = None, np.zeros(len(keys), bool)
        if not len(keys):
            return nothing
        return self._do(lambda db: self._get(db, space, keys), nothing)

    def put(self, space: str, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Keep vectors: all of them, in one transaction, or none.

        What is known already stays as it is. A block larger than the whole cache is not kept.

        Parameters
        ----------
        space
            Fingerprint of model and settings.
        keys
            n digests.
        vectors
            n × d.

        Raises
        ------
        ModelError
            If the vectors are not n × d, or d differs from that of the vectors in the space.
        """
        rows = np.ascontiguousarray(vectors, "<f4")
        if rows.ndim != 2 or len(rows) != len(keys):
            raise ModelError(
                f"{len(keys)} keys came with vectors of shape {rows.shape}.",
                "The cache keeps one vector per key.",
                "Give n keys and an n x d array.",
            )
        if len(rows) > 0 and rows.nbytes <= self.max_bytes:
            self._do(lambda db: self._put(db, space, keys, rows), None)

    def label(self, space: str, text: str) -> None:
        """Name a space for people, as ``taskscout cache`` shows it."""

        def write(db: sqlite3.Connection) -> None:
            known = db.execute("SELECT label FROM spaces WHERE name = ?", (space,)).fetchone()
            if known != (text,):
                db.execute(
                    "INSERT INTO spaces (name, label) VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET label = excluded.label",
                    (space, text),
                )

        self._do(write, None)

    def info(self) -> CacheInfo:
        """Tell what the cache holds; nothing where it is switched off."""
        nothing = CacheInfo(self.path, self._bytes(), self.max_bytes, 0, ())
        return self._do(self._info, nothing) if self.path.exists() else nothing

    def clear(self, space: str | None = None) -> int:
        """Remove the vectors of a space, or of all, and give the disk space back.

        Returns
        -------
        The number of vectors removed.
        """
        if not self.path.exists():
            return 0
        return self._do(lambda db: self._clear(db, space), 0)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is not None:
                process, db = opened
                if process == os.getpid():
                    db.close()
                else:
                    _inherited.append(db)

    # -- what is done inside the file ---------------------------------------------------

    @staticmethod
    def _get(db: sqlite3.Connection, space: str, keys: Sequence[bytes]) -> Rows:
        at: dict[bytes, int] = {}
        for key in keys:
            at.setdefault(key, len(at))
        found = np.zeros(len(at), bool)
        vectors: NDArray[np.float32] | None = None
        row = db.execute("SELECT id, dimension FROM spaces WHERE name = ?", (space,)).fetchone()
        if row is not None and row[1] is not None:
            number, dimension = row
            distinct = list(at)
            batches: set[int] = set()
            for start in range(0, len(distinct), _CHUNK):
                chunk = distinct[start : start + _CHUNK]
                hits = db.execute(
                    "SELECT key, batch, vector FROM vectors WHERE space = ? AND key IN "
                    f"({','.join('?' * len(chunk))})",
                    (number, *chunk),
                ).fetchall()
                if not hits:
                    continue
                if vectors is None:
                    vectors = np.zeros((len(at), dimension), np.float32)
                rows = [at[key] for key, _, _ in hits]
                blob = b"".join(vector for _, _, vector in hits)
                vectors[rows] = np.frombuffer(blob, "<f4").reshape(len(hits), dimension)
                found[rows] = True
                batches.update(batch for _, batch, _ in hits)
            # A use that is not recorded costs little; it is no reason to do without the rows.
            with suppress(sqlite3.OperationalError):
                EmbeddingCache._mark_used(db, sorted(batches))
        if len(at) == len(keys):
            return vectors, found
        order = [at[key] for key in keys]
        return None if vectors is None else vectors[order], found[order]

    @staticmethod
    def _mark_used(db: sqlite3.Connection, batches: Sequence[int]) -> None:
        now = time.time()
        for start in range(0, len(batches), _CHUNK):
            chunk = batches[start : start + _CHUNK]
            where = f"used < ? AND id IN ({','.join('?' * len(chunk))})"
            values = (now - _GRAIN, *chunk)
            if db.execute(f"SELECT 1 FROM batches WHERE {where} LIMIT 1", values).fetchone():
                db.execute(f"UPDATE batches SET used = ? WHERE {where}", (now, *values))

    def _put(
        self,
        db: sqlite3.Connection,
        space: str,
        keys: Sequence[bytes],
        rows: NDArray[np.float32],
    ) -> None:
        with _transaction(db):
            db.execute("INSERT OR IGNORE INTO spaces (name) VALUES (?)", (space,))
            number, dimension = db.execute(
                "SELECT id, dimension FROM spaces WHERE name = ?", (space,)
            ).fetchone()
            if dimension is None:
                db.execute("UPDATE spaces SET dimension = ? WHERE id = ?", (rows.shape[1], number))
            elif dimension != rows.shape[1]:
                raise ModelError(
                    f"The cache holds vectors of {dimension} numbers for the space {space}; "
                    f"these have {rows.shape[1]}.",
                    "One model with one set of settings makes vectors of one width.",
                    f"If the model changed, clear the space: taskscout cache clear {space}",
                )
            now = time.time()
            for start in range(0, len(rows), _BATCH):
                batch = db.execute(
                    "INSERT INTO batches (space, used) VALUES (?, ?)", (number, now)
                ).lastrowid
                written = db.executemany(
                    "INSERT OR IGNORE INTO vectors (batch, space, key, vector) VALUES (?, ?, ?, ?)",
                    (
                        (batch, number, keys[i], rows[i].tobytes())
                        for i in range(start, min(start + _BATCH, len(rows)))
                    ),
                ).rowcount
                if not written:
                    db.execute("DELETE FROM batches WHERE id = ?", (batch,))
        self._evict(db)

    def _evict(self, db: sqlite3.Connection) -> None:
        """Drop what was used longest ago while the file is too large."""
        limit = self.max_bytes // _PAGE_SIZE
        if _pages(db) <= limit:
            return
        while _pages(db) - _free_pages(db) > _LOW_WATER * limit:
            with _transaction(db):
                oldest = db.execute("SELECT id FROM batches ORDER BY used, id LIMIT 1").fetchone()
                if oldest is None:
                    break
                _delete_batch(db, oldest[0])
        _shrink(db, limit)

    def _clear(self, db: sqlite3.Connection, space: str | None) -> int:
        which = "SELECT id FROM spaces WHERE ? IS NULL OR name = ?"
        batches = db.execute(f"SELECT id FROM batches WHERE space IN ({which})", (space, space))
        removed = 0
        for (batch,) in batches.fetchall():
            with _transaction(db):
                removed += _delete_batch(db, batch)
        with _transaction(db):
            # Not while another process has put something there since.
            db.execute(
                f"DELETE FROM spaces WHERE id IN ({which}) "
                "AND id NOT IN (SELECT space FROM batches)",
                (space, space),
            )
        _shrink(db, 0)
        return removed

    def _info(self, db: sqlite3.Connection) -> CacheInfo:
        rows = db.execute(
            "SELECT name, label, COALESCE(dimension, 0), "
            "(SELECT COUNT(*) FROM vectors WHERE vectors.space = spaces.id), "
            "(SELECT MAX(used) FROM batches WHERE batches.space = spaces.id) AS last "
            "FROM spaces ORDER BY last DESC, name"
        ).fetchall()
        spaces = tuple(
            SpaceInfo(
                name,
                label,
                entries,
                4 * dimension * entries,
                datetime.fromtimestamp(used, UTC),
            )
            for name, label, dimension, entries, used in rows
            if entries
        )
        entries = sum(s.entries for s in spaces)
        return CacheInfo(self.path, self._bytes(), self.max_bytes, entries, spaces)

    # -- the file itself ------------------------------------------------------------------

    def _bytes(self) -> int:
        total = 0
        for path in (self.path, *_companions(self.path)):
            try:
                total += path.stat().st_size
            except OSError:
                continue
        return total

    def _do(self, action: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Run an action on the open file; ``otherwise`` where the file does not let it."""
        with self._lock:
            if self._off:
                return otherwise
            try:
                try:
                    return action(self._connection())
                except sqlite3.DatabaseError as error:
                    if _code(error) not in _DAMAGED:
                        raise
                    self._replace()
                    return action(self._connection())
            except sqlite3.Error as error:
                code = _code(error)
                if code is None:
                    raise  # not the file's fault, but ours
                if code in _BUSY:
                    self._tell("is held by another process; going on without it for now", error)
                else:
                    self._switch_off(error)
            except OSError as error:
                self._switch_off(error)
        return otherwise

    def _tell(self, what: str, error: Exception | None = None) -> None:
        """Say something about the file in the log, once."""
        if what not in self._told:
            self._told.add(what)
            reason = "" if error is None else f" ({error})"
            log.warning("The embedding cache %s %s%s.", self.path, what, reason)

    def _switch_off(self, error: Exception) -> None:
        self._off = True
        self._tell("cannot be used; embeddings are not kept", error)
        try:
            self.close()
        except sqlite3.Error:
            self._opened = None

    def _connection(self) -> sqlite3.Connection:
        if self._opened is not None and self._opened[0] != os.getpid():
            self.close()
        if self._opened is not None:
            return self._opened[1]
        db = self._connect() or self._begin()
        self._opened = os.getpid(), db
        return db

    def _connect(self) -> sqlite3.Connection | None:
        """Open the file; None where it is missing, damaged or not ours."""
        if not self.path.exists():
            return None
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if _pragma(db, "application_id") == _APPLICATION_ID:
                # A process that is killed loses nothing; a machine that is may lose the last rows.
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute("PRAGMA wal_autocheckpoint = 256")
                db.execute(f"PRAGMA journal_size_limit = {256 * _PAGE_SIZE}")
                return db
        except sqlite3.Error as error:
            db.close()
            if _code(error) in _DAMAGED:
                return None
            raise
        db.close()
        return None

    def _begin(self) -> sqlite3.Connection:
        """Begin a new file, unless another process has just done so."""
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{_FILE_NAME}.lock", timeout=_PATIENCE):
            db = self._connect()
            if db is not None:
                return db
            self._move_aside()
            temporary = self.path.with_name(f".{_FILE_NAME}.new")
            for path in (temporary, *_companions(temporary)):
                path.unlink(missing_ok=True)
            _create(temporary)
            os.replace(temporary, self.path)
            db = self._connect()
            if db is None:
                raise OSError(f"{self.path} cannot be read back")
            return db

    def _replace(self) -> None:
        """Move a file aside that turned out damaged in use."""
        from filelock import FileLock

        self.close()
        with FileLock(self.folder / f"{_FILE_NAME}.lock", timeout=_PATIENCE):
            db = self._connect()
            if db is not None:
                # Another process may have replaced it already.
                try:
                    sound = db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
                except sqlite3.DatabaseError:
                    sound = False
                db.close()
                if sound:
                    return
            self._move_aside()

    def _move_aside(self) -> None:
        if self.path.exists() and self.path.stat().st_size:
            stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
            aside = self.path.with_name(f"{_FILE_NAME}.damaged-{stamp}")
            os.replace(self.path, aside)
            self._tell(f"was damaged or not ours; it is now {aside.name}, and a new one begins")
        for path in (self.path, *_companions(self.path)):
            path.unlink(missing_ok=True)


class NoCache:
    """A cache that keeps nothing, for ``--no-cache``."""

    folder: None = None

    def get(self, space: str, keys: Sequence[bytes]) -> Rows:
        """Nothing is known."""
        del space
        return None, np.zeros(len(keys), bool)

    def put(self, space: str, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Keep nothing."""

    def label(self, space: str, text: str) -> None:
        """Keep nothing."""

    def info(self) -> CacheInfo:
        """Nothing is held."""
        return CacheInfo(None, 0, 0, 0, ())

    def clear(self, space: str | None = None) -> int:
        """Nothing is there to remove."""
        del space
        return 0

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Write whole, or not at all."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _companions(path: Path) -> tuple[Path, ...]:
    """Name the files that SQLite may keep beside a database."""
    return tuple(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))


def _code(error: sqlite3.Error) -> int | None:
    """Primary result code of an error of the file; None for a mistake in its use."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _create(path: Path) -> None:
    """Write an empty cache file."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        # These hold only if set before anything is written.
        db.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.executescript(_SCHEMA)
        db.execute("PRAGMA journal_mode = WAL")
    finally:
        db.close()


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _pages(db: sqlite3.Connection) -> int:
    return _pragma(db, "page_count")


def _free_pages(db: sqlite3.Connection) -> int:
    return _pragma(db, "freelist_count")


def _delete_batch(db: sqlite3.Connection, batch: int) -> int:
    """Delete a batch with its vectors; the number of vectors."""
    removed = db.execute("DELETE FROM vectors WHERE batch = ?", (batch,)).rowcount
    db.execute("DELETE FROM batches WHERE id = ?", (batch,))
    return removed


def _shrink(db: sqlite3.Connection, pages: int) -> None:
    """Give unused pages back to the file system until the file has ``pages``, or none is left."""
    while (excess := min((before := _pages(db)) - pages, _free_pages(db), _VACUUM_PAGES)) > 0:
        # One step of the statement frees one page: all have to be fetched.
        db.execute(f"PRAGMA incremental_vacuum({excess})").fetchall()
        if _pages(db) >= before:
            break
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def cache_at(folder: Path | None) -> EmbeddingCache | NoCache:
    """Open the cache that a job names by its folder; None stands for one that keeps nothing."""
    return NoCache() if folder is None else EmbeddingCache(folder)
