"""Small files in every format, and errors taken apart."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskscout.errors import DataError

Rows = list[dict[str, Any]]


def write_rows(path: Path, rows: Rows) -> Path:
    """Write rows in the format of the file's ending."""
    suffix = path.suffix
    if suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "\t" if suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".arrow":
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    elif suffix == ".feather":  # the stream format, as datasets writes its caches
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        raise ValueError(suffix)
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write("a.csv", rows)`` or ``write("a.csv", "text,label\\n...")`` or bytes."""

    def _write(name: str, content: Rows | str | bytes) -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_bytes(content.encode())
        else:
            write_rows(path, content)
        return path

    return _write


@pytest.fixture
def refused() -> Callable[..., DataError]:
    """``refused(call)`` gives the error that ``call()`` raises, with its three parts filled."""

    def _refused(call: Callable[[], Any]) -> DataError:
        with pytest.raises(DataError) as caught:
            call()
        error = caught.value
        for part in (error.found, error.why, error.remedy):
            assert part.strip()
            assert part.rstrip().endswith((".", "?"))
        return error

    return _refused


def reviews(n: int = 12) -> Rows:
    """``n`` rows with a text and one of two labels in words."""
    return [
        {"text": f"this is review number {i}", "label": ("bad", "good")[i % 2]} for i in range(n)
    ]
