"""Whether the files of a pool still are what was written: checksums, and one error for damage."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from taskscout.errors import PoolError

#: Under this name our own text stands in the metadata of a safetensors file.
METADATA = "taskscout"
#: What reading a damaged file can raise.
UNREADABLE = (
    OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError, AttributeError,
    RuntimeError, OverflowError, MemoryError,
)  # fmt: skip
#: Names of sources, description keys and attachments: they become names of files.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def canonical(data: Any) -> str:
    """The one JSON text of some data, which is what checksums are taken of."""
    return json.dumps(data, sort_keys=True, ensure_ascii=False)


def checksum(arrays: Mapping[str, NDArray[Any]], text: str) -> str:
    """Hex SHA-256 of arrays (by name, with type and shape) and a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def require_regular(path: Path) -> None:
    """Refuse what is no ordinary file: a pipe would wait for a writer, a device never end.

    Raises
    ------
    OSError
        If the path is missing, or names a folder, a pipe or a device.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not an ordinary file")


def read_regular(path: Path) -> bytes:
    """All bytes of an ordinary file; see :func:`require_regular`."""
    require_regular(path)
    return path.read_bytes()


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of an ordinary file, read piece by piece."""
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: Path, reason: Exception | str, remedy: str = "") -> PoolError:
    """The error for a file of a pool that cannot be used."""
    if isinstance(reason, Exception):
        first = (str(reason).strip().splitlines() or [""])[0]
        reason = f"{type(reason).__name__}: {first}" if first else type(reason).__name__
    return PoolError(
        f"{path} cannot be read ({reason}).",
        "It is missing, cut short, changed since it was written, or not a taskscout pool file.",
        remedy or "Install or copy the pool again.",
    )
