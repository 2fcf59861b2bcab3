"""Files and folders written whole or not at all."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

#: After so many seconds what a process elsewhere, or one that took another's number, left is old.
_OLD = 24 * 3600.0
#: What spreadsheets take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def place_of(path: Path) -> Path:
    """The folder or file itself, or of those above it the nearest that is there."""
    path = path.expanduser().absolute()
    return next(p for p in (path, *path.parents) if p.exists())


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside and rename: the file holds the old bytes or the new, whenever killed.

    What a process that was killed left half written in the same folder is removed.
    """
    _remove_left_over(path.parent)
    temporary = _beside(path)
    try:
        with temporary.open("xb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside and rename: a missing or empty folder becomes a whole one, or stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path.parent)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def no_formula(cell: object) -> object:
    """A cell of a CSV file; a text that a spreadsheet would run as a formula has a ' before it.

    Examples
    --------
    >>> no_formula("=HYPERLINK(1)"), no_formula("a=b"), no_formula(-1.5)
    ("'=HYPERLINK(1)", 'a=b', -1.5)
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _beside(path: Path) -> Path:
    """A name beside a path that tells which process of which machine writes there."""
    writer = f"{_machine()}-{os.getpid()}-{secrets.token_hex(3)}"
    return path.with_name(f".{path.name}.{writer}.tmp")


def _machine() -> str:
    return f"{crc32(platform.node().encode()):08x}"


def _remove_left_over(folder: Path) -> None:
    """Remove what killed processes left: those of this machine that are gone, and any old one."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            parts = entry.name.split(".")
            if not (entry.name.startswith(".") and parts[-1] == "tmp" and len(parts) > 3):
                continue
            machine, _, rest = parts[-2].partition("-")
            process = rest.partition("-")[0]
            gone = machine == _machine() and process.isdecimal() and not _runs(int(process))
            if gone or (rest and time.time() - entry.stat().st_mtime > _OLD):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether a process of this machine runs; told on POSIX systems only."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
