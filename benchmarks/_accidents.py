"""Small accidents to the files of a pool: a flipped bit, a cut, a swap, an edited field."""

# ruff: noqa: ARG001  # every accident takes the same arguments

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file


def accident(folder: Path, other: Path, chance: random.Random) -> str:
    """Let one accident happen to a pool, and say which.

    Parameters
    ----------
    folder
        The pool; it is changed.
    other
        Another pool with files of the same names.
    chance
        Chooses the accident and its place.
    """
    while True:
        path = chance.choice(_files(folder))
        kind = chance.choice(ACCIDENTS)
        said = kind(path, folder, other, chance)
        if said:
            return f"{kind.__name__.strip('_')} {path.relative_to(folder)}{said}"


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def _flip_bit(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    # Half of them in the first kilobyte, where headers are.
    at = chance.randrange(len(data) if chance.random() < 0.5 else min(len(data), 1000))
    data[at] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(data))
    return f" at {at}"


def _change_byte(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    data[at] = (data[at] + chance.randrange(1, 256)) % 256
    path.write_bytes(bytes(data))
    return f" at {at}"


def _zero_some(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    length = min(len(data) - at, chance.choice([1, 16, 512, 4096]))
    if not any(data[at : at + length]):
        return ""
    data[at : at + length] = bytes(length)
    path.write_bytes(bytes(data))
    return f" at {at}"


def _cut(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    length = chance.randrange(path.stat().st_size)
    os.truncate(path, length)
    return f" to {length}"


def _append(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    with path.open("ab") as file:
        file.write(bytes(chance.randrange(256) for _ in range(chance.choice([1, 8, 4096]))))
    return " something"


def _swap(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    second = chance.choice(_files(folder))
    first, data = path.read_bytes(), second.read_bytes()
    if first == data:
        return ""
    path.write_bytes(data)
    second.write_bytes(first)
    return f" with {second.name}"


def _exchange(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    theirs = other / path.relative_to(folder)
    if path.parent != folder:
        return ""  # a whole loose source of that name is one that somebody put there
    if not theirs.is_file() or theirs.read_bytes() == path.read_bytes():
        return ""
    path.write_bytes(theirs.read_bytes())
    return " for another pool's"


def _remove(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    if path.parent != folder:
        return ""  # a loose source that is removed is no accident: pool remove does no other
    path.unlink()
    return " "


def _pipe(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    path.unlink()
    os.mkfifo(path)
    return " in its place"


def _folder(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return " in its place"


def _device(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    path.unlink()
    path.symlink_to("/dev/zero")
    return " in its place"


def _edit(path: Path, folder: Path, other: Path, chance: random.Random) -> str:
    """Another value in one field of JSON, metadata or table, and no other checksum."""
    before = path.read_bytes()
    said = _edited(path, chance)
    return "" if path.read_bytes() == before else said


def _edited(path: Path, chance: random.Random) -> str:
    if path.suffix == ".json":
        data = json.loads(path.read_bytes())
        said = _other_value(data, chance)
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        return said
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        table = parquet.read_table(path)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        column = chance.choice(list(columns))
        row = chance.randrange(table.num_rows)
        columns[column][row] = _other_text(columns[column][row], chance)
        parquet.write_table(pa.table(columns, schema=table.schema), path)
        return f" {column}"
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    if not metadata:
        return ""
    key = chance.choice(sorted(metadata))
    metadata[key] = _other_text(metadata[key], chance)
    save_file(arrays, path, metadata)
    return f" metadata {key}"


def _other_text(text: str | None, chance: random.Random) -> str:
    try:
        data = json.loads(text or "")
    except ValueError:
        return f"{text}x"
    if not isinstance(data, dict | list) or not data:
        return f"{text}1"
    _other_value(data, chance)
    return json.dumps(data, sort_keys=True, ensure_ascii=False)


def _other_value(data: Any, chance: random.Random) -> str:
    """Change one leaf of nested JSON in place; its path."""
    at = ""
    while True:
        key = chance.choice(list(data) if isinstance(data, dict) else range(len(data)))
        at += f" {key}"
        value = data[key]
        if isinstance(value, dict | list) and value:
            data = value
            continue
        data[key] = chance.choice(
            [None, [], {}, "other", 7, -1.5, True]
            + ([value + 1] if isinstance(value, int | float) else [f"{value}x"])
        )
        return at


ACCIDENTS: tuple[Callable[[Path, Path, Path, random.Random], str], ...] = (
    _flip_bit, _flip_bit, _flip_bit, _change_byte, _change_byte, _zero_some, _cut, _append, _swap,
    _exchange, _remove, _pipe, _folder, _device, _edit, _edit, _edit,
)  # fmt: skip
