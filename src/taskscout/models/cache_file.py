"""A SQLite file that several processes share, that may be thrown away, and that never stops a run.

A damaged file is moved aside and a new one begun, a folder that cannot be written switches the
file off, and either is said once in the log.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

#: "TSCT": marks a file as ours among SQLite files.
_APPLICATION_ID = 0x54534354
#: Rows of 384 floats fill pages of 16 KiB to 96 %.
PAGE_SIZE = 16384
#: Seconds to wait for another process that writes.
_PATIENCE = 30.0
#: Pages given back to the file system per transaction.
_VACUUM_PAGES = 2000
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: Connections that a forked child got from its parent: it must neither use nor close them.
_inherited: list[sqlite3.Connection] = []


class CacheFile:
    """A SQLite file with some tables.

    Parameters
    ----------
    path
        Where it is; nothing is opened or made before the first call.
    schema
        The statements that make its tables.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self.path, self.folder = path, path.parent
        self._schema = schema
        self._lock = threading.RLock()
        self._opened: tuple[int, sqlite3.Connection] | None = None
        self._off = False
        self._told: set[str] = set()

    def __del__(self) -> None:
        if getattr(self, "_opened", None) is not None:
            self.close()

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

    def bytes(self) -> int:
        """Size on disk, with what SQLite keeps beside the file."""
        total = 0
        for path in (self.path, *_companions(self.path)):
            try:
                total += path.stat().st_size
            except OSError:
                continue
        return total

    def do(self, action: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Run an action on the open file; ``otherwise`` where the file does not let it."""
        with self._lock:
            if self._off:
                return otherwise
            try:
                try:
                    return action(self.connection())
                except sqlite3.DatabaseError as error:
                    if _code(error) not in _DAMAGED:
                        raise
                    self._replace()
                    return action(self.connection())
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

    def connection(self) -> sqlite3.Connection:
        """The open file, of this process; begun or moved aside where that takes it."""
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
                db.execute(f"PRAGMA journal_size_limit = {256 * PAGE_SIZE}")
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
        with FileLock(self.folder / f"{self.path.name}.lock", timeout=_PATIENCE):
            db = self._connect()
            if db is not None:
                return db
            self._move_aside()
            temporary = self.path.with_name(f".{self.path.name}.new")
            for path in (temporary, *_companions(temporary)):
                path.unlink(missing_ok=True)
            _create(temporary, self._schema)
            os.replace(temporary, self.path)
            db = self._connect()
            if db is None:
                raise OSError(f"{self.path} cannot be read back")
            return db

    def _replace(self) -> None:
        """Move a file aside that turned out damaged in use."""
        from filelock import FileLock

        self.close()
        with FileLock(self.folder / f"{self.path.name}.lock", timeout=_PATIENCE):
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
            aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
            os.replace(self.path, aside)
            self._tell(f"was damaged or not ours; it is now {aside.name}, and a new one begins")
        for path in (self.path, *_companions(self.path)):
            path.unlink(missing_ok=True)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
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


def _create(path: Path, schema: str) -> None:
    """Write an empty cache file."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        # These hold only if set before anything is written.
        db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.executescript(schema)
        db.execute("PRAGMA journal_mode = WAL")
    finally:
        db.close()


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def pages(db: sqlite3.Connection) -> int:
    """Pages of the file."""
    return _pragma(db, "page_count")


def free_pages(db: sqlite3.Connection) -> int:
    """Pages of the file that hold nothing."""
    return _pragma(db, "freelist_count")


def shrink(db: sqlite3.Connection, most: int) -> None:
    """Give free pages back to the file system until the file has ``most``, or none is free."""
    while (excess := min((before := pages(db)) - most, free_pages(db), _VACUUM_PAGES)) > 0:
        # One step of the statement frees one page: all have to be fetched.
        db.execute(f"PRAGMA incremental_vacuum({excess})").fetchall()
        if pages(db) >= before:
            break
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
