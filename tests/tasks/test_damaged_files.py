"""Parquet and Arrow files whose bytes lie: an error in three parts, in a process that lives on.

Before files were read instead of mapped, and validated in full, each of the Arrow files here ended
the process. They are read in a process of their own, so that a fault fails one test.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks._mutations import HOSTILE, mutated, samples

from taskscout.errors import DataError
from taskscout.tasks import arrow_files
from taskscout.tasks.arrow_files import read_ipc, read_parquet

N = 8
TEXTS = [f"text number {i}" for i in range(N)]


def offsets(lengths: list[int], width: str) -> bytes:
    out = [0]
    for length in lengths:
        out.append(out[-1] + length)
    return struct.pack(f"<{len(out)}{width}", *out)


def arrow(column: pa.Array, new: Callable = pa.ipc.new_file) -> bytes:
    table = pa.table({"text": TEXTS, "label": column})
    sink = io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    assert len(old) == len(new)
    return data.replace(old, new)


def with_number(old: bytes, at: int, number: int, width: str = "i") -> bytes:
    numbers = list(struct.unpack(f"<{len(old) // struct.calcsize(width)}{width}", old))
    numbers[at] = number
    return struct.pack(f"<{len(numbers)}{width}", *numbers)


def lying_files() -> dict[str, bytes]:
    """Sound but for one number."""
    out = {}
    words = pa.array([f"label {i}" for i in range(N)])
    ends = offsets([7] * N, "i")
    for name, at, number in (
        ("a text beyond its buffer", N, 2**31 - 1),
        ("a text before its buffer", 3, -5),
        ("a text that ends before it begins", 3, 2),
        ("texts of gigabytes", 4, 2**30),
    ):
        for form, new in (("arrow", pa.ipc.new_file), ("feather", pa.ipc.new_stream)):
            data = arrow(words, new)
            out[f"{name}.{form}"] = replaced(data, ends, with_number(ends, at, number))
    wide = offsets([7] * N, "q")
    data = arrow(words.cast(pa.large_string()))
    out["a large text.arrow"] = replaced(data, wide, with_number(wide, N, 2**62, "q"))
    lists = pa.array([[i, i, i] for i in range(N)])
    ends = offsets([3] * N, "i")
    for name, at, number in (("a list beyond its values", N, 10**6), ("a negative list", 2, -1)):
        out[f"{name}.arrow"] = replaced(arrow(lists), ends, with_number(ends, at, number))
    classes = pa.array(["a", "b"] * (N // 2)).dictionary_encode()
    codes = struct.pack(f"<{N}i", *([0, 1] * (N // 2)))
    for name, number in (("a class that is none", 10**8), ("a negative class", -(10**8))):
        out[f"{name}.arrow"] = replaced(arrow(classes), codes, with_number(codes, 2, number))
    whole = arrow(pa.array(["x" * 5000] * N))
    out["cut short.arrow"] = whole[: len(whole) // 2]
    out["cut in its footer.arrow"] = whole[:-20]
    out["text that is no UTF-8.arrow"] = replaced(arrow(words), b"label 3", b"label \xff")
    return out


_READ_ALL = """
import json, sys
from pathlib import Path
from taskscout.errors import TaskscoutError
from taskscout.tasks import Task
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(json.dumps(path.name), flush=True)
    try:
        task = Task.from_file(path, drop_empty=True, drop_unlabelled=True, drop_rare=True)
        task.fingerprint
        came = "read"
    except TaskscoutError as error:
        came = "refused" if error.found and error.why and error.remedy else "incomplete"
    except Exception as error:
        came = repr(error)
    print(json.dumps(came), flush=True)
"""


def read_all(folder: Path) -> dict[str, str]:
    """Read the files of a folder in a process of its own: what came of each, by name."""
    process = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(folder)], capture_output=True, text=True, timeout=300
    )
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, (lines[-1:], process.stderr[-500:])
    return dict(zip(lines[::2], lines[1::2], strict=True))


def test_numbers_that_point_nowhere_are_refused(tmp_path: Path):
    files = lying_files()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert read_all(tmp_path) == dict.fromkeys(files, "refused")


def test_what_ended_the_process_once_is_refused():
    """Files of the campaign: each raised in C++ code that nothing in Python can catch."""
    folder = Path(__file__).parent / "damaged"
    assert set(read_all(folder).values()) == {"refused"}


def test_changed_files_of_every_format(tmp_path: Path):
    """The short version of ``python -m benchmarks.robustness files``."""
    every = samples()
    tasks = [each for each in every if each.reads == "task"]
    for number in range(600):
        chance = random.Random(10**6 + number)
        sample = tasks[number % len(tasks)]
        data, _ = mutated(sample, every, chance)
        (tmp_path / f"{number}-{sample.name}").write_bytes(data)
    came = read_all(tmp_path)
    assert len(came) == 600
    assert set(came.values()) == {"read", "refused"}, {
        n: c for n, c in came.items() if c not in ("read", "refused")
    }


def test_the_changes_of_the_campaign_change_something():
    every = samples()
    assert len(HOSTILE) > 40
    changed = [mutated(s, every, random.Random(i))[0] != s.data for i, s in enumerate(every * 3)]
    assert sum(changed) > 0.9 * len(changed)


# -- small files that unpack to gigabytes ---------------------------------------------------


def test_a_text_repeated_without_end_is_not_unpacked(tmp_path: Path):
    codes = pa.array([0] * 200_000, pa.int32())
    texts = pa.DictionaryArray.from_arrays(codes, pa.array(["x" * 1_000_000]))  # 200 GB
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", compression="zstd")
    pq.write_table(pa.table({"text": texts}), tmp_path / "b.parquet", store_schema=False)
    table = pa.table({"text": texts})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name, read in (("a.parquet", read_parquet), ("b.parquet", read_parquet)):
        assert (tmp_path / name).stat().st_size < 100_000
        with pytest.raises(DataError, match="more than 4 GiB once it is unpacked"):
            read(tmp_path / name)
    with pytest.raises(DataError, match="more than 4 GiB once it is unpacked"):
        read_ipc(tmp_path / "a.arrow")


def test_rows_without_end_are_counted_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = pa.table({"label": pa.nulls(2_000_000, pa.int64())})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    monkeypatch.setattr(arrow_files, "LARGEST", 10**6)
    with pytest.raises(DataError, match="unpacked"):
        read_parquet(tmp_path / "a.parquet")


# -- what is sound is read as it was ----------------------------------------------------------


def test_every_encoding_of_texts_is_read(tmp_path: Path):
    texts = [f"a text of some length, number {i % 5}" for i in range(20_000)]
    table = pa.table({"text": texts, "label": [i % 3 for i in range(20_000)]})
    encodings = ("PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", None)
    for at, encoding in enumerate(encodings):
        path = tmp_path / f"{at}.parquet"
        chosen = {"use_dictionary": ["text"]} if encoding is None else {
            "use_dictionary": False, "column_encoding": {"text": encoding}
        }  # fmt: skip
        pq.write_table(table, path, row_group_size=7_000, **chosen)
        assert read_parquet(path).to_pydict() == table.to_pydict()


def test_categories_and_views_come_as_their_values(tmp_path: Path):
    views = pa.array(TEXTS).cast(pa.string_view())
    classes = pa.array(["a", None] * (N // 2)).dictionary_encode()
    numbers = pa.array([10, 20] * (N // 2)).dictionary_encode()
    table = pa.table({"view": views, "class": classes, "number": numbers})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    read = read_ipc(tmp_path / "a.arrow")
    assert read.to_pydict() == table.to_pydict()
    assert read.schema.types == [pa.string_view(), pa.large_string(), pa.int64()]
    pq.write_table(table.drop_columns(["view"]), tmp_path / "a.parquet")
    read = read_parquet(tmp_path / "a.parquet")
    assert read.to_pydict() == table.drop_columns(["view"]).to_pydict()


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path):
    table = pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_parquet(tmp_path / "a.parquet").column_names == ["text", "label"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_file(tmp_path: Path, refused: Callable[..., DataError]):
    from taskscout.tasks.readers import read_file

    os.mkfifo(tmp_path / "a.csv")
    (tmp_path / "b.csv").symlink_to("/dev/zero")
    for name in ("a.csv", "b.csv"):
        error = refused(lambda: read_file(tmp_path / name))  # noqa: B023
        assert "is no ordinary file" in error.found
