"""``pool.json``: read, checked and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskscout.errors import PoolError
from taskscout.files import write_atomically
from taskscout.pools.integrity import UNREADABLE, canonical, checksum, damaged, read_regular
from taskscout.pools.records import FORMAT, PoolHeader


def read_header(path: Path) -> PoolHeader:
    """Read and check the header of a pool."""
    try:
        data = json.loads(read_regular(path))
        version = int(data["format"])
    except UNREADABLE as error:
        raise _no_header(path, error) from error
    if version > FORMAT:
        raise PoolError(
            f"{path} has format {version}.",
            f"This taskscout reads formats up to {FORMAT}.",
            "Upgrade it: pip install --upgrade taskscout",
        )
    header = validated(path, data)
    if data.get("checksum") != header_checksum(data):
        raise _no_header(path, "the checksum does not match")
    return header


def validated(path: Path, data: Mapping[str, Any]) -> PoolHeader:
    """Make a header of plain JSON types, or say that the file is damaged."""
    try:
        return PoolHeader.model_validate(data)
    except UNREADABLE as error:
        raise _no_header(path, error) from error


def _no_header(path: Path, reason: Exception | str) -> PoolError:
    return damaged(path, reason, "Restore it from a copy, or build the pool again.")


def header_checksum(data: Mapping[str, Any]) -> str:
    """Checksum of all that a header says but its checksum."""
    return checksum({}, canonical({k: v for k, v in data.items() if k != "checksum"}))


def header_bytes(data: Mapping[str, Any]) -> bytes:
    """Make the bytes of ``pool.json``."""
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()


def check_header(path: Path) -> None:
    """Compare the bytes with what was written: 1E-5 for 1e-5 says the same, and is damage."""
    read_header(path)
    data = path.read_bytes()
    if data != header_bytes(json.loads(data)):
        raise _no_header(path, "the checksum does not match")


def write_header(folder: Path, header: PoolHeader) -> None:
    """Write ``pool.json`` with its checksum, whole or not at all."""
    data = header.to_dict()
    data["checksum"] = header_checksum(data)
    write_atomically(folder / "pool.json", header_bytes(data))
