"""How pools were kept before format 3; they are read as ever, and written anew by ``pool pack``.

``sources.safetensors`` of format 2 held what ``sources.parquet`` holds, a column per field as
UTF-8 bytes with the ends of its texts beside them; format 1 had it in ``pool.json``, and the
shapes of packed arrays in the metadata of their file. The header knew of no other file's
checksum: each file carries its own, of the arrays in it.
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

from taskscout.pools.integrity import METADATA, canonical, checksum, read_regular, require_regular

TABLE = "sources.safetensors"
#: The layout of packed files is still that of format 2.
PACKED_FORMAT = 2


def texts_of(file: Any, column: str) -> list[str]:
    """The texts of a column that is kept as UTF-8 bytes and ends."""
    data = file.get_tensor(column).tobytes()
    ends = file.get_tensor(f"{column}#ends")
    if len(ends) and (ends[-1] != len(data) or (np.diff(ends, prepend=0) < 0).any()):
        raise ValueError(f"{column} has another size than its texts")
    if data and not len(ends):
        raise ValueError(f"{column} has another size than its texts")
    stops = ends.tolist()
    return [data[a:b].decode() for a, b in zip([0, *stops], stops, strict=False)]


def columns_of(path: Path) -> dict[str, list[str | None]]:
    """The columns of format 2, the file's checksum compared, as format 3 has them."""
    require_sound(path)
    with safe_open(path, framework="numpy") as file:
        names = [name for name in file.keys() if not name.endswith("#ends")]  # noqa: SIM118  # not a dict
        return {name: [text or None for text in texts_of(file, name)] for name in names}


def shape_tables(meta: dict[str, Any]) -> dict[str, NDArray[np.int64]]:
    """The shapes that format 1 kept in the metadata of a packed file, by array."""
    return {array: shape_table(shapes) for array, shapes in meta["shapes"].items()}


def shape_table(shapes: Sequence[Sequence[int] | None]) -> NDArray[np.int64]:
    """Number of axes, -1 for none, and the axes of each shape, one per row."""
    width = max((len(shape) for shape in shapes if shape is not None), default=0)
    out = np.full((len(shapes), 1 + width), -1, np.int64)
    for row, shape in zip(out, shapes, strict=True):
        if shape is not None:
            row[0] = len(shape)
            row[1 : 1 + len(shape)] = shape
    return out


def require_sound(path: Path) -> None:
    """Compare a file of format 1 or 2 with the checksum that it carries.

    Raises
    ------
    ValueError
        If a byte differs.
    """
    require_regular(path)
    with safe_open(path, framework="numpy") as file:
        text = file.metadata()[METADATA]
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    meta = json.loads(text)
    if "shapes" in meta:  # format 1
        held = {"sources": meta["sources"], "shapes": meta["shapes"]}
        expected = checksum(arrays, canonical([meta["sources"], meta["shapes"]]))
    else:
        held, expected = {"format": PACKED_FORMAT}, checksum(arrays, "")
    same = text == canonical({**held, "checksum": expected})
    # What pads the header, and the order of its entries, belong to no array.
    if not same or save(arrays, {METADATA: text}) != read_regular(path):
        raise ValueError("the checksum does not match")
