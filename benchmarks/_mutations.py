"""Files of every format that taskscout reads, and small changes that leave most of each intact.

A change of a byte of a text file is mostly another text; of a compressed one it is mostly noise.
So what is changed is the structure: a cell, a key, a nested value, a footer, an offset, a cell of a
database, the file within an archive. A third of the changes are of plain bytes all the same.
"""

# ruff: noqa: ARG001  # every change takes the same arguments

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import os
import random
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors.numpy import save

ROWS = 24
STUDY = {
    "name": "a study", "sources": ["one", "two"], "targets": ["three"], "sizes": [200, "all"],
    "seeds": [0, 1], "recipe": {"epochs": 3, "learning_rate": "3e-5"}, "pool": "~/a pool",
    "encoders": [{"name": "default", "max_length": 64}],
}  # fmt: skip
#: Values that have broken readers: of the wrong type, without end, or a machine's.
HOSTILE: tuple[Any, ...] = (
    None, True, "", " ", "\0", "-", "-1", -1, "NaN", float("nan"), float("inf"), "1e400", 10**30,
    "9" * 5000, 2**63, "[" * 3000, [], {}, [[]], [None], {"text": [], "label": []}, [1, "a", None],
    "\ud800", "\x1b[31m", "[/]", "=1+1", "0,5", "1,000", "50%", "010", "TRUE", "x" * 20_000,
    "a\nb", '"', "'", "..", "2026-13-45", "\u202e", "\ufeff", {"text": "x", "answer_start": "y"},
    {"text": ["x"], "answer_start": [10**20]}, "['O', 'B-LOC']", "train", 1.5,
)  # fmt: skip
#: Whole values of YAML that no dump of HOSTILE makes.
_YAML = (
    "!!int abc", "!!timestamp 2026-13-45", "2026-13-45", "2026-02-30 25:61:61", "!!float x", "~",
    "!!python/object:os.system {}", "*nobody", "9" * 5000, "[" * 3000, "!!binary '%'", "0x", "1:99",
    "? [a]", "{{a: b}: c}", "&a [*a]", "!!set {a, b}", "<<", "~/x", "!!bool 3", "0b", "1_0", ".inf",
)  # fmt: skip
_WORDS = (-1, 0, 1, 2, 3, 7, 255, 65_536, 2**24, 2**31 - 1, -(2**31))
_LONGS = (-1, 0, 1, 8, 64, 2**31, 2**32, 2**40, 2**63 - 1, -(2**63))


@dataclass(frozen=True)
class Sample:
    """A sound file.

    Attributes
    ----------
    name
        Its ending tells the format.
    reads
        Who reads it: ``task``, ``study``, ``grid``, ``runs``, ``scores``, ``calibration``,
        ``topics`` or ``catalogue``.
    data
        Its bytes.
    """

    name: str
    reads: str
    data: bytes


def samples() -> list[Sample]:
    """One sound file of every format and layout, the same each time."""
    out = [Sample(name, "task", data) for name, data in _tables()]
    out += [Sample(name, "task", _text_file(name, rows)) for name, rows in _text_rows()]
    nested = (
        {"version": "v2", "data": [{"title": "t", "paragraphs": [{"context": "a b c", "qas": [
            {"id": str(i), "question": f"which {i}?",
             "answers": [{"text": "b", "answer_start": 2}]} for i in range(ROWS)]}]}]},
        {"columns": ["text", "label"], "data": [[f"text {i}", i % 2] for i in range(ROWS)]},
        {"text": {str(i): f"text {i}" for i in range(ROWS)},
         "label": {str(i): i % 2 for i in range(ROWS)}},
        {s: [{"text": f"{s} {i}", "label": i % 2} for i in range(ROWS)] for s in ("train", "dev")},
    )  # fmt: skip
    out += [Sample(f"{i}.json", "task", json.dumps(each).encode()) for i, each in enumerate(nested)]
    out += _packed(rows := _text_file("reviews.csv", _text_rows()[0][1]))
    out.append(Sample("western.csv", "task", rows.replace(b"fine", b"fin\xe9")))
    out.append(Sample("reviews.txt", "task", rows.replace(b",", b"\t")))
    fasttext = (f"__label__{'ab'[i % 2]} a text {i}" for i in range(ROWS))
    out.append(Sample("fasttext.txt", "task", "\n".join(fasttext).encode()))
    out.append(Sample("study.yaml", "study", yaml.safe_dump(STUDY).encode()))
    runs = [
        {"source": s, "target": t, "score": 0.5 + i / 100, "seed": i, "tuning": "lora"}
        for s in ("none", "one", "two") for t in ("three", "four") for i in range(3)
    ]  # fmt: skip
    out.append(Sample("runs.csv", "runs", _text_file("runs.csv", runs)))
    out.append(Sample("runs.parquet", "runs", _parquet(pa.Table.from_pylist(runs))))
    scores = [
        {"method": "m", "target": t, "source": s, "score": 0.5}
        for s in ("one", "two") for t in ("three", "four")
    ]  # fmt: skip
    out.append(Sample("scores.csv", "scores", _text_file("scores.csv", scores)))
    out += _grids()
    entries = [{"task_id": "a", "file": "a.parquet", "kind": "classification", "category": "nli"}]
    out.append(Sample("tasks.json", "catalogue", json.dumps({"tasks": entries}).encode()))
    arrays = {"weights": np.ones((3, 4)), "terms": np.arange(4), "shares": np.ones((2, 3)),
              "documents": np.ones((2, 16), "u1")}  # fmt: skip
    meta = json.dumps({"prior": 0.1, "vocabulary": "v", "seed": 0})
    out.append(Sample("topics.safetensors", "topics", save(arrays, {"taskscout": meta})))
    return out


def mutated(sample: Sample, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    """The bytes of a sample with one to four changes, and which."""
    suffix = sample.name.rsplit(".", 1)[-1]
    data, said = sample.data, []
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        change = _STRUCTURED.get(suffix, _binary)
        if chance.random() < 0.33:
            change = _plain
        try:
            data, what = change(data, others, chance)
        except Exception:  # a change before has left no structure
            data, what = _plain(data, others, chance)
        said.append(what)
    return data, f"{sample.name}: {', '.join(said)}"


# -- sound files --------------------------------------------------------------------------


def _arrow_rows() -> pa.Table:
    i = range(ROWS)
    return pa.table({
        "text": pa.array([f"this is review number {k} of many" if k % 7 else None for k in i]),
        "label": pa.array([k % 3 for k in i]),
        "big": pa.array([f"large {k}" for k in i], pa.large_string()),
        "category": pa.array([("a", "b", "c")[k % 3] for k in i]).dictionary_encode(),
        "tags": pa.array([[f"t{j}" for j in range(k % 4)] for k in i], pa.list_(pa.string())),
        "ids": pa.array([list(range(k % 4)) for k in i], pa.large_list(pa.int32())),
        "answers": pa.array([{"text": ["x"], "answer_start": [k]} for k in i]),
        "score": pa.array([k / 3 if k % 5 else None for k in i]),
        "flag": pa.array([k % 2 == 0 for k in i]),
    })  # fmt: skip


def _tables() -> list[tuple[str, bytes]]:
    rows = _arrow_rows()
    features = {"info": {"features": {"label": {"names": ["x", "y", "z"], "_type": "ClassLabel"}}}}
    named = rows.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
    view = named.append_column("view", rows["text"].cast(pa.string_view()))
    plain = rows.select(["text", "label", "score", "flag"])
    encodings = {"text": "DELTA_BYTE_ARRAY", "label": "DELTA_BINARY_PACKED",
                 "score": "BYTE_STREAM_SPLIT"}  # fmt: skip
    tagging = pa.table({"tokens": rows["tags"], "ner_tags": rows["ids"]})
    out = [
        (f"{each}.parquet", _parquet(named, compression=each, row_group_size=10))
        for each in ("none", "snappy", "zstd", "gzip", "lz4", "brotli")
    ]
    out.append(("v2.parquet", _parquet(named, data_page_version="2.0", use_dictionary=False)))
    delta = {"column_encoding": encodings, "use_dictionary": False, "compression": "none"}
    out.append(("delta.parquet", _parquet(plain, **delta)))
    out.append(("tagging.parquet", _parquet(tagging)))
    for compression in (None, "lz4", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=compression)
        for name, new in (("arrow", pa.ipc.new_file), ("feather", pa.ipc.new_stream)):
            sink = io.BytesIO()
            with new(sink, view.schema, options=options) as writer:
                writer.write_table(view, max_chunksize=10)
            out.append((f"{compression}.{name}", sink.getvalue()))
    return out


def _parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _text_rows() -> list[tuple[str, list[dict[str, Any]]]]:
    i = range(ROWS)
    reviews = [{"id": k, "text": f"review {k}, fine", "label": ("a", "b")[k % 2]} for k in i]
    pairs = [{"sentence1": f"a {k}", "sentence2": "b", "score": f"{k % 7},{k % 10}"} for k in i]
    splits = [{**r, "split": ("train", "dev", "test")[k % 3]} for k, r in enumerate(reviews)]
    tags = [{"tokens": ["a", "b"], "ner_tags": ["O", "B-X"]} for _ in i]
    written = [{k: str(v) for k, v in row.items()} for row in tags]
    choices = [{"question": "q", "choices": ["1", "2", "3"], "answer": k % 3} for k in i]
    return [
        ("reviews.csv", reviews), ("pairs.csv", pairs), ("splits.tsv", splits),
        ("tags.csv", written),
        ("reviews.jsonl", reviews), ("tags.jsonl", tags), ("choices.jsonl", choices),
        ("splits.json", splits),
    ]  # fmt: skip


def _text_file(name: str, rows: list[dict[str, Any]]) -> bytes:
    suffix = name.rsplit(".", 1)[-1]
    if suffix == "jsonl":
        return "\n".join(map(json.dumps, rows)).encode()
    if suffix == "json":
        return json.dumps(rows).encode()
    return _delimited([list(rows[0]), *(list(r.values()) for r in rows)], "\t" * (suffix == "tsv"))


def _delimited(rows: list[list[Any]], delimiter: str = "") -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter or ",").writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


def _packed(rows: bytes) -> list[Sample]:
    """The same rows packed, in an archive of splits, and in workbooks."""
    out = [Sample("reviews.csv.gz", "task", gzip.compress(rows, mtime=0))]
    out.append(Sample("reviews.csv.bz2", "task", bz2.compress(rows)))
    files = {"data/train.csv": rows, "data/test.csv": rows, "README.md": b"what it is"}
    out.append(Sample("reviews.zip", "task", _zipped(files)))
    records = list(csv.reader(io.StringIO(rows.decode(), newline="")))
    book = openpyxl.Workbook()
    for record in records:
        book.active.append([int(cell) if cell.isdecimal() else cell for cell in record])
    sink = io.BytesIO()
    book.save(sink)
    out.append(Sample("reviews.xlsx", "task", sink.getvalue()))
    out.append(Sample("reviews.ods", "task", ods(records)))
    return out


def ods(*sheets: list[list[str]]) -> bytes:
    """An OpenDocument spreadsheet as LibreOffice writes it, as far as cells go."""
    names = ("office", "table", "text")
    spaces = " ".join(f'xmlns:{n}="urn:oasis:names:tc:opendocument:xmlns:{n}:1.0"' for n in names)
    tables = []
    for at, records in enumerate(sheets, 1):
        rows = "".join(
            f"<table:table-row>{''.join(map(_ods_cell, r))}</table:table-row>" for r in records
        )
        tables.append(f'<table:table table:name="Sheet{at}">{rows}</table:table>')
    body = f"<office:body><office:spreadsheet>{''.join(tables)}</office:spreadsheet></office:body>"
    content = f"<office:document-content {spaces}>{body}</office:document-content>"
    return _zipped({"content.xml": content.encode(), "mimetype": b"application/vnd.oasis"})


def _ods_cell(value: str) -> str:
    if not value:
        return '<table:table-cell table:number-columns-repeated="1"/>'
    if value.replace(".", "").isdecimal():
        kind = f'office:value-type="float" office:value="{value}"'
    elif value in ("TRUE", "FALSE"):
        kind = f'office:value-type="boolean" office:boolean-value="{value.lower()}"'
    else:
        kind = 'office:value-type="string"'
    return f"<table:table-cell {kind}><text:p>{escape(value)}</text:p></table:table-cell>"


def _zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return sink.getvalue()


def _grids() -> list[Sample]:
    from taskscout.studies.store import CellResult, GridStore, to_table

    results = [
        CellResult(
            f"{s} {t} {k}", s, t, "default", "sequential", "lora", 200, k, 0.5,
            {"score": 0.5, "f1": 0.4}, 1.0, 2.0, made={"host": "here"},
        )
        for s in ("none", "one") for t in ("two", "three") for k in (0, 1)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        store = GridStore(Path(folder) / "grid.sqlite")
        store.put(results)
        data = store.path.read_bytes()
    return [
        Sample("grid.sqlite", "grid", data),
        Sample("grid.parquet", "grid", _parquet(to_table(results))),
    ]


# -- changes ------------------------------------------------------------------------------

Change = Callable[[bytes, list[Sample], random.Random], tuple[bytes, str]]


def _plain(data: bytes, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    """Bits, bytes, runs of zeros, pieces left out, repeated, or of another file."""
    out = bytearray(data)
    at = chance.randrange(len(out)) if out else 0
    length = chance.choice([1, 4, 16, 64, 1000])
    kind = chance.choice(["bit", "byte", "zero", "cut", "out", "again", "other"])
    if kind == "bit" and out:
        out[at] ^= 1 << chance.randrange(8)
    elif kind == "byte" and out:
        out[at] = chance.randrange(256)
    elif kind == "zero":
        out[at : at + length] = bytes(len(out[at : at + length]))
    elif kind == "cut":
        del out[at:]
    elif kind == "out":
        del out[at : at + length]
    elif kind == "again":
        out[at:at] = out[at : at + length]
    else:
        other = chance.choice(others).data
        start = chance.randrange(len(other))
        out[at : at + length] = other[start : start + length]
    return bytes(out), f"{kind} at {at}"


def _binary(data: bytes, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    """Numbers of four and eight bytes at their places, and the footer of a Parquet file."""
    out = bytearray(data)
    if data[-4:] == b"PAR1" and len(data) > 12 and chance.random() < 0.5:
        length = min(struct.unpack("<I", data[-8:-4])[0], len(data) - 12)
        at = len(data) - 8 - chance.randrange(length + 1)
        out[at] = chance.choice([out[at] ^ 1, (out[at] + 1) % 256, 0, 0x7F, 0x80, 0xFF])
        return bytes(out), f"footer at {at}"
    width, numbers = chance.choice([("i", _WORDS), ("q", _LONGS)])
    size = struct.calcsize(width)
    at = chance.randrange(max(len(out) - size, 1)) // size * size
    (number,) = struct.unpack_from(f"<{width}", out, at)
    near = max(min(number + chance.choice([-8, -1, 1, 8, 64, 1000]), max(numbers)), min(numbers))
    struct.pack_into(f"<{width}", out, at, chance.choice([near, chance.choice(numbers)]))
    return bytes(out), f"number at {at}"


def _csv(data: bytes, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    """A cell, the header, the separator, quotes or the encoding."""
    text = data.decode("utf-8", "surrogatepass")
    kind = chance.choice(["cell", "cell", "cell", "header", "encoding", "separator", "raw", "row"])
    delimiter = "\t" if "\t" in text[:200] else ","
    if kind == "encoding":
        encoding = chance.choice(["utf-16", "utf-8-sig", "utf-16-le", "cp037", "utf-32"])
        return text.encode(encoding, "replace"), f"as {encoding}"
    if kind == "raw":
        at = chance.randrange(len(text) + 1)
        text = text[:at] + str(chance.choice(HOSTILE)) + text[at:]
        return text.encode("utf-8", "surrogatepass"), f"text at {at}"
    rows: list[list[Any]] = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    if kind == "separator":
        return _delimited(rows, chance.choice(";|\t ^")), "another separator"
    at = 0 if kind == "header" else chance.randrange(len(rows))
    if kind == "row" or not rows[at]:
        rows[at : at + 1] = chance.choice([[], [rows[at], rows[at]], [rows[at][:1]], [[]]])
        return _delimited(rows, delimiter), f"row {at}"
    column = chance.randrange(len(rows[at]))
    rows[at][column] = chance.choice(HOSTILE)
    return _delimited(rows, delimiter), f"cell {at}, {column}"


def _json(data: bytes, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    """One value of a tree."""
    tree = json.loads(data)
    said = _other_value(tree, chance)
    return json.dumps(tree).encode(), said


def _json_lines(data: bytes, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    lines[at], said = _json(lines[at], others, chance)
    return b"\n".join(lines), f"line {at}{said}"


def _yaml(data: bytes, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    if chance.random() < 0.5:
        tree = yaml.safe_load(data)
        said = _other_value(tree, chance)
        return yaml.safe_dump(tree).encode("utf-8", "surrogatepass"), said
    lines = data.decode().splitlines()
    at = chance.randrange(len(lines))
    key, mark, _ = lines[at].partition(":")
    value = chance.choice(_YAML)
    lines[at] = f"{key}{mark or '-'} {value}"
    return "\n".join(lines).encode(), f"line {at}: {value[:20]}"


def _other_value(tree: Any, chance: random.Random) -> str:
    """Put another value, or another key, into nested lists and mappings, in place."""
    at = ""
    while True:
        if not tree or not isinstance(tree, dict | list):
            raise ValueError("nothing to change")
        key = chance.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        at += f" {key}"[:30]
        value = tree[key]
        if isinstance(value, dict | list) and value and chance.random() < 0.85:
            tree = value
            continue
        if isinstance(tree, dict) and chance.random() < 0.3:
            tree[str(chance.choice(HOSTILE))[:50]] = tree.pop(key)
            return f"{at} renamed"
        if chance.random() < 0.15:
            del tree[key]
            return f"{at} left out"
        tree[key] = chance.choice(HOSTILE)
        return at


def _sqlite(data: bytes, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    """One cell of the table, of any type."""
    if chance.random() < 0.3:
        return _binary(data, others, chance)
    with tempfile.NamedTemporaryFile(suffix=".sqlite") as file:
        Path(file.name).write_bytes(data)
        db = sqlite3.connect(file.name)
        with db:
            names = [row[1] for row in db.execute("PRAGMA table_info(cells)")]
            column = chance.choice(names)
            key = chance.choice(db.execute("SELECT key FROM cells").fetchall())[0]
            value = chance.choice([
                None, b"\xff\x00", "text", "[]", "{", '{"score": "x"}', "NaN", 1, -1.5, 2**62,
                "[" * 3000, '{"score": 1e999}', "null", "\udc80".encode("utf-8", "surrogatepass"),
            ])  # fmt: skip
            db.execute(f"UPDATE cells SET {column} = ? WHERE key = ?", (value, key))
        db.close()
        return Path(file.name).read_bytes(), f"{column} = {str(value)[:20]}"


def _gzip(data: bytes, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    inner, said = _csv(gzip.decompress(data), others, chance)
    return gzip.compress(inner, mtime=0), f"inside {said}"


def _zip(data: bytes, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    """One file of an archive: its bytes, its name, or another beside it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    name = chance.choice(list(parts))
    suffix = name.rsplit(".", 1)[-1]
    kind = chance.random()
    if kind < 0.7:
        change = chance.choice([_STRUCTURED.get(suffix, _markup), _plain])
        parts[name], said = change(parts[name], others, chance)
    elif kind < 0.85:
        other = chance.choice(["../out.csv", "/etc/x.csv", "a/b/c.csv", "x.pkl", "", "a.csv", "\0"])
        parts[other] = parts.pop(name)
        said = f"renamed {other!r}"
    else:
        sample = chance.choice(others)
        parts[sample.name] = sample.data
        said = f"with {sample.name}"
    parts = {part or "x": content for part, content in parts.items()}
    return _zipped(parts), f"inside {name} {said}"


def _markup(data: bytes, others: list[Sample], chance: random.Random) -> tuple[bytes, str]:
    """A tag or a value in XML."""
    text = data.decode("utf-8", "replace")
    places = [at for at, letter in enumerate(text) if letter in '<>"']
    if not places:
        return _plain(data, others, chance)
    at = chance.choice(places)
    end = text.find(">", at) + 1
    piece = chance.choice(["", "<a>", "&x;", "99999999999", text[at:end] * 2, "<v>1e999</v>"])
    return (text[:at] + piece + text[end:]).encode(), f"markup at {at}"


_STRUCTURED: dict[str, Change] = {
    "csv": _csv, "tsv": _csv, "json": _json, "jsonl": _json_lines, "yaml": _yaml,
    "sqlite": _sqlite, "gz": _gzip, "txt": _csv, "zip": _zip, "xlsx": _zip,
    "ods": _zip, "xml": _markup,
}  # fmt: skip


def put_in_place(path: Path, chance: random.Random) -> str:
    """Put something that is no file of bytes at a path, and say what."""
    kind = chance.choice(["a pipe", "a folder", "a device", "a link to itself", "nothing"])
    path.unlink(missing_ok=True)
    match kind:
        case "a pipe":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case "a device":
            path.symlink_to("/dev/zero")
        case "a link to itself":
            path.symlink_to(path.name)
    return kind
