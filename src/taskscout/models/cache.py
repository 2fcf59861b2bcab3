"""Embeddings on disk: one row per text, in SQLite.

The file can be shared by processes, killed at any moment and thrown away at will. Nothing that is
wrong with it ever stops a run: a damaged file is moved aside, a folder that cannot be written
switches the cache off, and either is said once in the log.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import ModelError, TaskscoutError
from taskscout.models.cache_file import PAGE_SIZE, CacheFile, free_pages, pages, shrink, transaction

T = TypeVar("T")
#: Vectors, None if none is known, and the mask of those found.
Rows = tuple[NDArray[np.float32] | None, NDArray[np.bool_]]

log = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 2 * 2**30

#: The layout's version is part of the name: a later layout takes another file.
_FILE_NAME = "embeddings-1.sqlite"
#: Rows per batch; a batch is what is marked as used, and what is evicted, as a whole.
_BATCH = 1024
#: Keys asked for per query, below SQLite's limit on variables.
_CHUNK = 1000
#: A use within so many seconds of the last recorded one is not recorded.
_GRAIN = 60.0
#: Eviction stops at this share of the limit, so that not every write evicts.
_LOW_WATER = 0.9
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

    @property
    def id(self) -> str:
        """A short name, by which ``taskscout cache`` shows it and clears it."""
        return hashlib.blake2b(self.space.encode(), digest_size=4).hexdigest()


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
    """Bytes of a size such as ``2GB``, ``500 MiB`` or ``1000000``.

    Raises
    ------
    TaskscoutError
        If the text is no size.

    Examples
    --------
    >>> parse_size("1.5 kB"), parse_size("1.5 KiB")
    (1500, 1536)
    """
    from pydantic import ByteSize, TypeAdapter

    try:
        # pydantic reads as far as it understands: 2,5GB would be two bytes.
        if not re.fullmatch(r"\s*[0-9.]+\s*[A-Za-z]*\s*", text):
            raise ValueError
        return TypeAdapter(ByteSize).validate_python(text.strip())
    except (ValueError, OverflowError):
        raise TaskscoutError(
            f"The size {text!r} cannot be read.",
            "A size is a number with or without a unit.",
            "Write it like 500MB or 2GiB (TASKSCOUT_CACHE_SIZE and TASKSCOUT_TUNED_CACHE_SIZE "
            "set the limits of the cache).",
        ) from None


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
        self._file = CacheFile(self.path, _SCHEMA)

    def __repr__(self) -> str:
        return f"EmbeddingCache({str(self.folder)!r}, max_bytes={self.max_bytes})"

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
        return self._file.do(lambda db: self._get(db, space, keys), nothing)

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
            self._file.do(lambda db: self._put(db, space, keys, rows), None)

    def label(self, space: str, text: str) -> None:
        """Name a space for people, as ``taskscout cache`` shows it."""

        def write(db: sqlite3.Connection) -> None:
            label = db.execute("SELECT label FROM spaces WHERE name = ?", (space,)).fetchone()
            if label != (text,):
                db.execute(
                    "INSERT INTO spaces (name, label) VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET label = excluded.label",
                    (space, text),
                )

        self._file.do(write, None)

    def info(self) -> CacheInfo:
        """Tell what the cache holds; nothing where it is switched off."""
        nothing = CacheInfo(self.path, self._file.bytes(), self.max_bytes, 0, ())
        return self._file.do(self._info, nothing) if self.path.exists() else nothing

    def clear(self, space: str | None = None) -> int:
        """Remove the vectors of a space, or of all, and give the disk space back.

        Returns
        -------
        The number of vectors removed.
        """
        if not self.path.exists():
            return 0
        return self._file.do(lambda db: self._clear(db, space), 0)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        self._file.close()

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
        with transaction(db):
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
        limit = self.max_bytes // PAGE_SIZE
        if pages(db) <= limit:
            return
        while pages(db) - free_pages(db) > _LOW_WATER * limit:
            with transaction(db):
                oldest = db.execute("SELECT id FROM batches ORDER BY used, id LIMIT 1").fetchone()
                if oldest is None:
                    break
                _delete_batch(db, oldest[0])
        shrink(db, limit)

    def _clear(self, db: sqlite3.Connection, space: str | None) -> int:
        which = "SELECT id FROM spaces WHERE ? IS NULL OR name = ?"
        batches = db.execute(f"SELECT id FROM batches WHERE space IN ({which})", (space, space))
        removed = 0
        for (batch,) in batches.fetchall():
            with transaction(db):
                removed += _delete_batch(db, batch)
        with transaction(db):
            # Not while another process has put something there since.
            db.execute(
                f"DELETE FROM spaces WHERE id IN ({which}) "
                "AND id NOT IN (SELECT space FROM batches)",
                (space, space),
            )
        shrink(db, 0)
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
        return CacheInfo(self.path, self._file.bytes(), self.max_bytes, entries, spaces)


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


def _delete_batch(db: sqlite3.Connection, batch: int) -> int:
    """Delete a batch with its vectors; the number of vectors."""
    removed = db.execute("DELETE FROM vectors WHERE batch = ?", (batch,)).rowcount
    db.execute("DELETE FROM batches WHERE id = ?", (batch,))
    return removed


def cache_at(folder: Path | None) -> EmbeddingCache | NoCache:
    """Open the cache that a job names by its folder; None stands for one that keeps nothing."""
    return NoCache() if folder is None else EmbeddingCache(folder)
