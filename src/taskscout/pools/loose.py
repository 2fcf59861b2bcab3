"""Loose sources: one safetensors file each, which can be added, replaced and removed.

A file holds the arrays of all descriptions by ``KEY/ARRAY``, and in its metadata the source, a
checksum of the source alone, compared when the pool is opened, and one of the source and all
arrays, compared when the first array is read. Files of format 1 and 2 have the second alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from taskscout.files import write_atomically
from taskscout.methods.method import Description
from taskscout.pools.integrity import (
    METADATA,
    NAME,
    UNREADABLE,
    canonical,
    checksum,
    damaged,
    require_regular,
)
from taskscout.pools.records import Source

_REMEDY = "Remove the file and add the source again."


class LooseSource:
    """A source in a file of its own.

    Parameters
    ----------
    path
        The file, named as the source.

    Raises
    ------
    PoolError
        If the file is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays_checked = False
        try:
            require_regular(path)
            with safe_open(path, framework="numpy") as file:
                text = file.metadata()[METADATA]
            meta = json.loads(text)
            if text != canonical(meta):
                raise ValueError("the checksum does not match")
            self._checksum = meta["checksum"]
            if meta.keys() == {"source", "checksum"}:  # format 1 or 2
                self.check()
            elif meta.keys() != {"source", "source_checksum", "checksum"} or meta[
                "source_checksum"
            ] != checksum({}, canonical(meta["source"])):
                raise ValueError("the checksum does not match")
            self.source = Source.from_dict(meta["source"])
            if self.source.name != path.stem or not NAME.fullmatch(path.stem):
                raise ValueError(f"it holds the source {self.source.name!r}")
        except UNREADABLE as error:
            raise damaged(path, error, _REMEDY) from error

    def arrays(self, key: str) -> dict[str, NDArray[Any]]:
        """The arrays of one description."""
        if not self._arrays_checked:
            self.check()
        try:
            require_regular(self.path)
            with safe_open(self.path, framework="numpy") as file:
                names = [n for n in file.keys() if n.startswith(f"{key}/")]  # noqa: SIM118  # not a dict
                return {n.removeprefix(f"{key}/"): file.get_tensor(n) for n in names}
        except UNREADABLE as error:
            raise damaged(self.path, error, _REMEDY) from error

    def check(self) -> None:
        """Compare the source and all arrays with their checksum.

        Raises
        ------
        PoolError
            If a byte differs.
        """
        try:
            require_regular(self.path)
            with safe_open(self.path, framework="numpy") as file:
                text = file.metadata()[METADATA]
                arrays = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118  # not a dict
            meta = json.loads(text)
            # Not that of another source, put there since the pool was opened.
            same = self._checksum == checksum(arrays, canonical(meta["source"]))
            if not same or text != canonical(meta):
                raise ValueError("the checksum does not match")
        except UNREADABLE as error:
            raise damaged(self.path, error, _REMEDY) from error
        self._arrays_checked = True


def write_loose(path: Path, source: Source, descriptions: Sequence[Description]) -> None:
    """Write a source with its descriptions, whole or not at all."""
    arrays = {
        f"{description.key}/{name}": np.asarray(array, order="C")
        for description in descriptions
        for name, array in description.arrays.items()
    }
    data = source.to_dict()
    text = canonical(data)
    meta = {
        "source": data,
        "source_checksum": checksum({}, text),
        "checksum": checksum(arrays, text),
    }
    write_atomically(path, save(arrays, {METADATA: canonical(meta)}))
