"""Reading tasks from files, from ``datasets`` objects and from the hub.

All go one way: Arrow tables, then the choice of columns
(:mod:`taskscout.tasks.columns`), then the checks (:mod:`taskscout.tasks.checks`), then a
:class:`~taskscout.tasks.task.Task`. Pickles are never read, and ``datasets`` is imported only
to load from the hub.
"""

from __future__ import annotations

import ast
import csv
import difflib
import io
import json
import re
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from taskscout.errors import DataError
from taskscout.tasks.arrow import number_array, take, text_array
from taskscout.tasks.checks import Settings, check
from taskscout.tasks.columns import NO_SPLITS, Named, choose_columns
from taskscout.tasks.nested_json import rows_of_object
from taskscout.tasks.raw import LISTED, Odd, RawTable, class_list, count, join, option, quote
from taskscout.tasks.split_names import meanings
from taskscout.tasks.task import SPLITS, Kind, Task, TaskCard

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def read_file(
    path: str | Path,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    choices: str | None = None,
    kind: Kind | None = None,
    name: str | None = None,
    split_column: str | None = None,
    drop_unlabelled: bool = False,
    drop_empty: bool = False,
    drop_rare: bool = False,
    max_characters: int = 100_000,
    encoding: str = "utf-8",
) -> Task:
    """Read a task from a CSV, TSV, JSON lines, JSON, Parquet or Arrow file.

    Columns that are not named are inferred (:func:`~taskscout.tasks.columns.choose_columns`);
    the first of the task's notes says what was chosen. A column ``split`` is honoured, its values
    read by :mod:`taskscout.tasks.split_names`, or refused where one is not understood; a file
    without one is split by :meth:`Task.with_splits`.

    Parameters
    ----------
    path
        The file; its ending tells the format.
    text, pair, label, choices
        Column names. For tagging, ``text`` is the tokens and ``label`` their tags; for span QA
        ``text`` is the question, ``pair`` the context and ``label`` the answers; for
        text-to-text ``text`` is the prompt and ``label`` the completion.
    kind
        One of :data:`~taskscout.tasks.task.KINDS`; inferred by default.
    name
        The task's name; the file's by default.
    split_column
        The column that assigns rows to splits; ``"none"`` ignores all splits that the data have,
        and all rows are split anew.
    drop_unlabelled, drop_empty, drop_rare
        Leave out rows without a label, rows with an empty text, classes with fewer than two
        examples. Without these, such rows are an error.
    max_characters
        Longer texts are cut to this many characters.
    encoding
        Encoding of CSV, TSV and JSON files; a byte-order mark is accepted.

    Raises
    ------
    DataError
        Where the file is missing, empty or malformed, or its data cannot be used.
    """
    path = Path(path)
    raw = _read(path, encoding)
    options = _Options(
        Named(text, pair, label, choices, kind, split_column),
        Settings(drop_unlabelled, drop_empty, drop_rare, max_characters),
    )
    return _task(raw, options, TaskCard(name=name or path.stem))


def read_dataset(
    dataset: Dataset | DatasetDict | pa.Table | Mapping[str, pa.Table],
    *,
    name: str = "dataset",
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    choices: str | None = None,
    kind: Kind | None = None,
    split_column: str | None = None,
    drop_unlabelled: bool = False,
    drop_empty: bool = False,
    drop_rare: bool = False,
    max_characters: int = 100_000,
) -> Task:
    """Wrap a ``datasets`` object or Arrow tables; class names and memory maps are kept.

    Splits are kept where one of them is for training, under our names of splits
    (:mod:`taskscout.tasks.split_names`: ``dev`` becomes ``validation``); a single split is split
    anew. A split in which no row has a label is left out.

    Parameters
    ----------
    dataset
        One dataset or table, or several by split.
    name
        The task's name.
    text, pair, label, choices, kind, split_column, drop_unlabelled, drop_empty, drop_rare, \
    max_characters
        As for :func:`read_file`.

    Raises
    ------
    DataError
        Where it is no dataset, or its data cannot be used.
    """
    options = _Options(
        Named(text, pair, label, choices, kind, split_column),
        Settings(drop_unlabelled, drop_empty, drop_rare, max_characters),
    )
    return _task(_from_dataset(dataset, name), options, TaskCard(name=name))


def read_hub(
    hub_id: str,
    config: str | None = None,
    split: str | None = None,
    *,
    name: str | None = None,
    **options: Any,
) -> Task:
    """Load a dataset from the hub, or from a local folder laid out like one.

    Code in the dataset's repository is never run.

    Parameters
    ----------
    hub_id
        ``owner/name`` on the hub, or a folder.
    config
        Configuration, where the dataset has several.
    split
        One split only, such as ``train`` or ``train[:1000]``; it is split anew.
    name
        The task's name; by default the last part of ``hub_id``, with the configuration.
    **options
        As for :func:`read_dataset`.

    Raises
    ------
    DataError
        Where the hub cannot be reached, has no such dataset, configuration or split, or the data
        cannot be used.
    """
    from datasets import load_dataset

    try:
        dataset = load_dataset(hub_id, config, split=split)
    except Exception as error:  # load_dataset raises most of what there is
        raise _hub_error(hub_id, config, split, error) from error
    last = hub_id.rstrip("/").rsplit("/", 1)[-1]
    task = read_dataset(dataset, name=name or (f"{last}-{config}" if config else last), **options)
    first = next(iter(dataset.values())) if isinstance(dataset, dict) else dataset
    arguments = [f'"{hub_id}"'] + ([f'"{config}"'] if config else [])
    arguments += [f'split="{split}"'] if split else []
    card = replace(
        task.card,
        hub_id=hub_id,
        load=f"datasets.load_dataset({', '.join(arguments)})",
        licence=first.info.license or "",
        homepage=first.info.homepage or "",
        citation=first.info.citation or "",
    )
    return replace(task, card=card)


def _hub_error(hub_id: str, config: str | None, split: str | None, error: Exception) -> DataError:
    said = " ".join(str(error).split("\n")[:2]).strip().rstrip(".") or type(error).__name__
    asked = f"dataset {hub_id!r}"
    asked += f", configuration {config!r}" if config else ""
    asked += f", split {split!r}" if split else ""
    if "Dataset scripts are no longer supported" in said or "trust_remote_code" in said:
        return DataError(
            f"The {asked} is loaded by code in its repository.",
            "taskscout does not run code that comes with data.",
            "Look for a Parquet copy of it on the hub, or save it as a file and give the file.",
        )
    if isinstance(error, ConnectionError | TimeoutError):
        return DataError(
            f"The {asked} cannot be loaded: the hub cannot be reached ({said}).",
            "The data are not on this machine.",
            "Check the network and HF_HUB_OFFLINE, or give a file or a local folder.",
        )
    if isinstance(error, FileNotFoundError) or type(error).__name__ == "DataFilesNotFoundError":
        return DataError(
            f"The {asked} is neither on the hub nor a local folder with data files ({said}).",
            "A hub id reads owner/name; private and gated datasets need a login.",
            "Check the spelling, or log in with `hf auth login`.",
        )
    return DataError(
        f"The {asked} cannot be loaded ({type(error).__name__}: {said}).",
        "The id was understood, but not this configuration or split of it, or its files cannot "
        "be read.",
        "Give one of the configurations and splits that the dataset has.",
    )


# -- from raw tables to a task ------------------------------------------------------


@dataclass(frozen=True)
class _Options:
    named: Named
    settings: Settings


def _task(raw: RawTable, options: _Options, card: TaskCard) -> Task:
    """Choose columns, check, and split."""
    names = raw.table.column_names
    twice = [n for n, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(
            f"{raw.origin} has {names.count(twice[0])} columns named {quote(twice[0])}.",
            "Which of them is meant cannot be told.",
            "Give each column its own name.",
        )
    if not len(raw):
        raise DataError(
            f"{raw.origin} has columns ({', '.join(map(quote, names))}) but no rows.",
            "There is nothing to learn from.",
            "Add examples, or give another file.",
        )
    columns = choose_columns(raw, options.named)
    splits, about_splits = _splits(raw, columns.split, options.named)
    checked = check(
        raw, columns, splits, options.settings, kind_named=options.named.kind is not None
    )
    stays = {s: rows[checked.keep[rows]] for s, rows in splits.items()}
    stays = {s: rows for s, rows in stays.items() if len(rows)}
    if len(splits) > 1 and "train" not in stays:
        which = f"the splits {join(list(splits), len(splits))}"
        raise DataError(
            f"{raw.origin} has {which}, none of them train."
            if "train" not in splits
            else f"{raw.origin} has {which}, but no row of train that can be used.",
            "Which one to learn from cannot be told.",
            "Name one of the splits train, give one split only, or have splits made of all rows: "
            f"{option('split_column', NO_SPLITS)}.",
        )
    notes = [columns.sentence(checked.about_labels), *raw.notes]
    notes += [about_splits[s] for s in stays if s in about_splits]
    notes += checked.notes
    if len(stays) > 1:
        tables = {s: take(checked.table, rows) for s, rows in stays.items()}
        task = Task(card.name, columns.kind, tables, checked.label_names, card, tuple(notes))
        return task
    whole = take(checked.table, np.flatnonzero(checked.keep))
    task = Task(card.name, columns.kind, {"train": whole}, checked.label_names, card)
    made = task.with_splits()
    if set(made.tables) == {"train"}:  # a handful of rows, or one text throughout
        notes.append("too few different texts to make splits: all rows are for training")
        return replace(task, notes=tuple(notes))
    sizes = ", ".join(f"{s} {made.tables[s].num_rows:,}" for s in made.splits)
    notes.append(f"splits made by a hash of the text: {sizes}")
    lacking = made.classes_lacking()
    for split in SPLITS:
        if split not in made.tables:
            notes.append(f"too few different texts for a {split} split")
        elif split in lacking:
            n = len(lacking[split])
            notes.append(
                f"no {split} row has the {'label' if n == 1 else f'{n:,} labels'} "
                f"{class_list(lacking[split])}: too few different texts"
            )
    return replace(made, notes=tuple(notes))


def _splits(
    raw: RawTable, column: str | None, named: Named
) -> tuple[dict[str, NDArray[np.int64]], dict[str, str]]:
    """Find row positions of each split, under our names of splits, and what to say of some."""
    rows: dict[object, NDArray[np.int64]]
    if named.ignores_splits(raw):
        return {}, {}
    if column is None:
        rows = {s: np.asarray(r, np.int64) for s, r in raw.splits.items()}
    else:
        values = raw.table[column].to_pylist()
        codes = {v: code for code, v in enumerate(dict.fromkeys(values))}
        at = np.array([codes[v] for v in values])
        rows = {v: np.flatnonzero(at == code) for v, code in codes.items()}
    ours = meanings(rows)
    out: dict[str, NDArray[np.int64]] = {}
    for name, split in ours.items():
        before = out.get(split, rows[name][:0])
        out[split] = np.sort(np.concatenate([before, rows[name]]))
    notes = {}
    for split in out:
        names = [n for n, s in ours.items() if s == split]
        if split not in SPLITS:
            notes[split] = f"rows of split {split!r} neither train nor test"
        elif len(out) == 1 and split != "train":
            notes[split] = f"all rows are of split {names[0]!r}, so splits are made of them"
        elif any(str(n).strip().lower() != split for n in names):
            which = join([repr(n) for n in names], len(names))
            notes[split] = f"rows of split {which} are the {split} rows"
    return out, notes


# -- datasets objects ---------------------------------------------------------------


def _from_dataset(dataset: Any, origin: str) -> RawTable:
    parts = dict(dataset) if isinstance(dataset, Mapping) else {"": dataset}
    tables: dict[str, pa.Table] = {}
    names: dict[str, tuple[str, ...]] = {}
    for split, part in parts.items():
        if isinstance(part, pa.Table):
            tables[split] = part
            names |= _declared_names(part.schema)
        elif (
            hasattr(part, "with_format") and hasattr(part, "features") and hasattr(part, "num_rows")
        ):
            tables[split] = part.with_format("arrow")[:]
            names |= {c: n for c, f in part.features.items() if (n := _feature_names(f))}
        else:
            kind = f"{type(part).__module__.split('.')[0]}.{type(part).__name__}"
            frames = "datasets.Dataset.from_pandas(frame, preserve_index=False)"
            raise DataError(
                f"{kind} is no dataset that taskscout reads.",
                "It reads datasets.Dataset, datasets.DatasetDict and Arrow tables, whose rows can "
                "be counted.",
                f"Convert it, e.g. {frames}."
                if kind == "pandas.DataFrame"
                else "Convert it to a datasets.Dataset, or save it as a file.",
            )
    if not tables:
        raise DataError(f"{origin} has no splits.", "There is nothing to read.", "Give data.")
    try:
        table = pa.concat_tables(
            [t.replace_schema_metadata(None) for t in tables.values()], promote_options="permissive"
        )
    except pa.ArrowException as error:
        raise DataError(
            f"The splits of {origin} have columns of different types ({error}).",
            "They are read as one task.",
            "Give one split, or make the types equal.",
        ) from error
    splits, start = {}, 0
    for split, part in tables.items():
        splits[split] = range(start, start + part.num_rows)
        start += part.num_rows
    numbers = range(1, table.num_rows + 1)
    return RawTable(
        origin, _decoded(table), numbers, splits if len(splits) > 1 else {}, label_names=names
    )


def _feature_names(feature: Any) -> tuple[str, ...]:
    """Get class names of a ``ClassLabel``, or of a list of such."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    names = getattr(feature, "names", None) or getattr(
        getattr(feature, "feature", None), "names", None
    )
    return tuple(names or ())


def _declared_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Find class names that ``datasets`` wrote into the metadata of a Parquet or Arrow file."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    if not metadata:
        return {}
    try:
        features = json.loads(metadata)["info"]["features"]
        found = {}
        for column, feature in features.items():
            if isinstance(feature, list) and feature:
                feature = feature[0]
            if isinstance(feature, dict):
                inner = feature.get("feature")
                names = feature.get("names") or (isinstance(inner, dict) and inner.get("names"))
                if names:
                    found[column] = tuple(map(str, names))
        return found
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _decoded(table: pa.Table) -> pa.Table:
    """Replace dictionary-encoded columns (pandas categories) by their values."""
    for at, f in enumerate(table.schema):
        if pa.types.is_dictionary(f.type):
            table = table.set_column(at, f.name, pc.cast(table.column(at), f.type.value_type))
    return table


# -- files ----------------------------------------------------------------------------


def _read(path: Path, encoding: str) -> RawTable:
    """Read a file by its ending."""
    read = _FORMATS.get(path.suffix.lower())
    if not path.exists():
        raise _missing_file(path)
    if path.is_dir():
        raise _folder(path)
    if read is None:
        advice = {
            ".xlsx": "In the spreadsheet, save it as CSV UTF-8.",
            ".xls": "In the spreadsheet, save it as CSV UTF-8.",
            ".ods": "In the spreadsheet, save it as CSV UTF-8.",
            ".pkl": "A pickle can run code and is never read: save the data as Parquet.",
            ".pickle": "A pickle can run code and is never read: save the data as Parquet.",
            ".gz": "Unpack it first.",
            ".zip": "Unpack it first.",
            ".bz2": "Unpack it first.",
            ".xz": "Unpack it first.",
            ".zst": "Unpack it first.",
        }
        raise DataError(
            f"{path} has the unknown format {path.suffix or '(no ending)'!r}.",
            f"The ending tells the format; known are {', '.join(_FORMATS)}.",
            advice.get(path.suffix.lower(), "Rename the file after what it holds, or convert it."),
        )
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.", "It has 0 bytes.", "Give a file with examples.")
        return read(path, encoding)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read.",
            f"The system says: {error.strerror or error}.",
            "Check the file and its permissions.",
        ) from error


def _missing_file(path: Path) -> DataError:
    folder = path.parent
    if not folder.is_dir():
        return DataError(
            f"There is no file {path}.",
            f"The folder {folder} does not exist either.",
            "Check the path.",
        )
    files = sorted(f.name for f in folder.iterdir() if f.suffix.lower() in _FORMATS)
    close = difflib.get_close_matches(path.name, files, n=3, cutoff=0.5)
    shown = close or files[:5]
    there = (
        f"has {join(shown, len(shown) if close else len(files))}" if shown else "has no data file"
    )
    return DataError(
        f"There is no file {path}.",
        f"The folder {folder.resolve()} {there}.",
        f"Did you mean {close[0]}?" if close else "Check the path.",
    )


def _folder(path: Path) -> DataError:
    files = sorted(f.name for f in path.iterdir() if f.suffix.lower() in _FORMATS)
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        remedy = f"In Python: Task.from_dataset(datasets.load_from_disk({str(path)!r}))."
    elif files:
        remedy = f"Give one of its files: {join(files[:5], len(files))}."
    else:
        remedy = "Give a file, or load a folder laid out like a hub dataset with Task.from_hub."
    return DataError(f"{path} is a folder.", "One task is read from one file.", remedy)


def _text(path: Path, encoding: str, row_at: Callable[[str], int]) -> str:
    """Decode a text file; a byte that cannot be decoded is told with its row."""
    data = path.read_bytes()
    is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    try:
        return data.decode("utf-8-sig" if is_utf8 else encoding)
    except LookupError as error:
        raise DataError(
            f"There is no encoding {encoding!r}.",
            f"{path} cannot be decoded without.",
            f"Give one such as utf-8, latin-1 or cp1252 with {option('encoding')}.",
        ) from error
    except UnicodeDecodeError as error:
        start = error.start
        before = data[:start].decode(encoding, "replace")
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise DataError(
            f"{path}, row {row_at(before)}: byte {start + 1:,} (0x{data[start]:02x}) cannot be "
            f"decoded.",
            f"The file is not {encoding} throughout"
            + ("; it begins like UTF-16." if utf16 else "."),
            f"Save it as UTF-8, or give its encoding, such as "
            f"{'utf-16' if utf16 else 'cp1252'}, with {option('encoding')}.",
        ) from error


# CSV and TSV


@contextmanager
def _unlimited_fields() -> Iterator[None]:
    """Lift the csv module's limit of 131,072 characters per field."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv(path: Path, encoding: str) -> RawTable:
    text = _text(path, encoding, _records)
    header = re.sub(r'"[^"]*"', "", text.lstrip().split("\n", 1)[0])
    delimiter = next((d for d in ",;\t|" if d in header), ",")
    notes = () if delimiter == "," else (f"fields are separated by {delimiter!r}",)
    with _unlimited_fields():
        return _delimited(path, _rows(path, text, delimiter), notes)


def _tsv(path: Path, encoding: str) -> RawTable:
    """Read TSV, with quoted fields or with quotes as plain characters.

    Quotes are plain where reading them as quotes fails or would join lines, and every line has
    the right number of fields without. A file that reads both ways, its quoted texts holding
    separators and line breaks in just such places, is taken to have plain quotes: published TSV
    has these far more often.
    """
    text = _text(path, encoding, lambda before: before.count("\n") + 1)
    lines = enumerate(text.replace("\r\n", "\n").split("\n"), 1)
    plain = [(n, line.split("\t")) for n, line in lines if line.strip()]
    fits = len({len(fields) for _, fields in plain}) == 1
    with _unlimited_fields():
        try:
            rows = list(_rows(path, text, "\t"))
        except DataError:
            if not fits:
                raise
            rows = plain
        if fits and len(rows) != len(plain):
            rows = plain
        return _delimited(path, rows, ())


def _records(before: str) -> int:
    """Count the records that begin in a text, the last of them unfinished."""
    with _unlimited_fields():
        n = sum(1 for _ in csv.reader(io.StringIO(before, newline="")))
    return n + (not before or before.endswith("\n"))


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield records and their numbers, the header being 1; blank lines count but are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        for number, fields in enumerate(reader, 1):
            if fields:
                yield number, fields
    except csv.Error as error:
        raise DataError(
            f"{path}, row {number + 1}: {error}.",
            "A field that holds quotes, line breaks or the separator stands in double quotes, "
            "and quotes inside it are doubled.",
            "Correct the row, or save the file anew from the program it comes from.",
        ) from error


def _delimited(
    path: Path,
    rows: Iterator[tuple[int, list[str]]] | list[tuple[int, list[str]]],
    notes: tuple[str, ...],
) -> RawTable:
    rows = iter(rows)
    _, header = next(rows, (0, []))
    if not any(h.strip() for h in header):
        raise DataError(
            f"{path} is empty.", "It has no row with column names.", "Give a file with examples."
        )
    names = [h.strip() or f"(column {i})" for i, h in enumerate(header, 1)]
    numbers: list[int] = []
    records: list[list[str]] = []
    for number, fields in rows:
        if len(fields) != len(names):
            raise DataError(
                f"{path}, row {number} has {count(len(fields), 'field')}.",
                f"The first row names {count(len(names), 'column')}.",
                "Correct the row; a text that holds the separator stands in double quotes.",
            )
        numbers.append(number)
        records.append(fields)
    columns = list(zip(*records, strict=True)) or [()] * len(names)
    arrays = [_unpacked_lists(c) or text_array(c) for c in columns]
    table = pa.Table.from_arrays(arrays, names=names)
    return RawTable(str(path), table, numbers, has_header=True, notes=notes)


_LIST_ITEM = re.compile(
    r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+)(?:\s*(?:,|$)|\s+)""", re.DOTALL
)


def _unpacked_lists(cells: Sequence[str]) -> pa.Array | None:
    """Read a column of lists written as text, as pandas and NumPy write them; None for others.

    All cells that are not empty are lists of quoted words or of whole numbers, in the manner of
    Python, JSON or NumPy: ``['O', 'B-LOC']``, ``["a"]``, ``[0, 1]``, ``['O' 'O']``.
    """
    if not any(c.strip() for c in cells):
        return None
    lists: list[list[Any] | None] = []
    for cell in cells:
        items = _list_items(cell.strip()) if cell.strip() else None
        if items is None and cell.strip():
            return None
        lists.append(items)
    if all(isinstance(v, int) for items in lists for v in items or ()):
        return pa.array(lists, pa.list_(pa.int64()))
    texts = [items if items is None else [str(v) for v in items] for items in lists]
    return pa.array(texts, pa.list_(pa.string()))


def _list_items(text: str) -> list[str | int] | None:
    """Read one list; None where it is no list of words or whole numbers."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        pass
    else:
        return found if all(type(v) in (str, int) for v in found) else None
    items: list[str | int] = []
    inside = text[1:-1].strip()
    at = 0
    while at < len(inside):
        match = _LIST_ITEM.match(inside, at)
        if not match:
            return None
        try:
            items.append(ast.literal_eval(match[1]))
        except (ValueError, SyntaxError):
            return None
        at = match.end()
    return items


# JSON


def _json_lines(path: Path, encoding: str) -> RawTable:
    text = _text(path, encoding, lambda before: before.count("\n") + 1)
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return _objects(path, ((n, _loads(path, n, line)) for n, line in lines))


def _json(path: Path, encoding: str) -> RawTable:
    """Read a list of objects, one object that holds the rows, or lines of objects."""
    text = _text(path, encoding, lambda before: before.count("\n") + 1)
    if text.lstrip().startswith("{"):
        try:
            whole = json.loads(text, object_pairs_hook=_object)
        except (ValueError, RecursionError):
            return _json_lines(path, encoding)
        table = rows_of_object(whole)
        if table is None and "\n" in text.strip():
            raise DataError(
                f"{path} is one object with {count(len(whole), 'key')}: "
                f"{join([repr(k) for k in list(whole)[:LISTED]], len(whole))}.",
                "None of the usual nestings (SQuAD's, those of pandas, one key that holds the "
                "rows, a key per split) fits it, so where the rows are cannot be told.",
                'Save them as a list of objects: [{"text": ..., "label": ...}, ...].',
            )
        if table is None:
            return _json_lines(path, encoding)
        rows, splits, note = table
        raw = _objects(path, enumerate(rows, 1))
        return replace(raw, splits=splits, notes=(note,))
    if not text.lstrip().startswith("["):
        return _json_lines(path, encoding)
    try:
        rows = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON ({error}).",
            "It begins like a list of objects.",
            "Correct it, or save it as JSON lines (one object per line).",
        ) from error
    return _objects(path, enumerate(rows, 1))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [k for k, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} twice")
    return out


def _loads(path: Path, row: int, line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        whole = ""
        if line.strip() in ("{", "["):
            whole = " One object must not run over several lines."
        raise DataError(
            f"{path}, row {row} is not valid JSON ({error}).",
            "Each line holds one object with the names of the columns." + whole,
            "Correct the line.",
        ) from error


def _objects(path: Path, rows: Iterator[tuple[int, Any]] | enumerate[Any]) -> RawTable:
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {}
    for position, (number, row) in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, row {number} holds {_json_type(row)}, not an object.",
                "Each row is an object with the names of the columns.",
                'Write rows as {"text": ..., "label": ...}.',
            )
        for key, value in row.items():
            column = columns.setdefault(key, [])
            column += [None] * (position - len(column))
            column.append(value)
        numbers.append(number)
    if not columns:
        raise DataError(f"{path} is empty.", "It has no row.", "Give a file with examples.")
    arrays: dict[str, pa.Array] = {}
    odd: dict[str, Odd] = {}
    for key, values in columns.items():
        values += [None] * (len(numbers) - len(values))
        arrays[key], strange = _array(values)
        if strange:
            odd[key] = strange
    return RawTable(str(path), pa.table(arrays), numbers, odd=odd)


def _array(values: list[Any]) -> tuple[pa.Array, Odd | None]:
    """Make an Arrow array; values of mixed types become text, and the odd one is told."""
    types = [None if v is None else _json_type(v) for v in values]
    found = Counter(t for t in types if t)
    missing = np.array([v is None for v in values], dtype=bool)
    if not found:
        return pa.nulls(len(values)), None
    if found.keys() == {"text"}:
        return text_array([None if v is None else _mended(v) for v in values]), None
    if found.keys() == {"true or false"}:
        return number_array(np.array([bool(v) for v in values]), missing), None
    if found.keys() <= {"a whole number", "a number"}:
        whole = len(found) == 1 and "a whole number" in found
        try:
            filled = [v or 0 for v in values]
            return number_array(np.array(filled, np.int64 if whole else np.float64), missing), None
        except OverflowError:  # more than 64 bits: an id, kept as text
            return text_array([None if v is None else str(v) for v in values]), None
    if found.keys() <= {"a list", "an object"} and len(found) == 1:
        try:
            return pa.array(values), None
        except (pa.ArrowException, UnicodeEncodeError):
            row = bisect_left(range(len(values)), True, key=lambda i: _clashes(values[: i + 1]))
            odd = Odd(row, "values of another type", found.most_common(1)[0][0] + " of one type")
    else:
        usual = found.most_common(1)[0][0]
        row = next(i for i, t in enumerate(types) if t and t != usual)
        odd = Odd(row, str(types[row]), usual)
    texts = [v if isinstance(v, str) else json.dumps(v) for v in values]
    return text_array(
        [None if v is None else _mended(t) for v, t in zip(values, texts, strict=True)]
    ), odd


def _clashes(values: list[Any]) -> bool:
    """Whether nested values have no common Arrow type."""
    try:
        pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError):
        return True
    return False


def _mended(text: str) -> str:
    """Replace half surrogate pairs, as tweets cut in an emoji have, by U+FFFD."""
    return (
        text
        if text.isascii()
        else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def _json_type(value: Any) -> str:
    names: dict[type, str] = {
        str: "text", bool: "true or false", int: "a whole number", float: "a number",
        list: "a list", dict: "an object",
    }  # fmt: skip
    return names.get(type(value), "nothing")


# Parquet and Arrow


def _parquet(path: Path, encoding: str) -> RawTable:
    del encoding
    try:
        return _arrow_table(path, pq.ParquetFile(path, memory_map=True).read())
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "Parquet", error) from error


def _arrow(path: Path, encoding: str) -> RawTable:
    """Read the Arrow IPC file or stream format, memory-mapped."""
    del encoding
    try:
        source = pa.memory_map(str(path))
        try:
            return _arrow_table(path, pa.ipc.open_file(source).read_all())
        except pa.ArrowInvalid:
            source.seek(0)
            return _arrow_table(path, pa.ipc.open_stream(source).read_all())
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "Arrow", error) from error


def _damaged(path: Path, format_name: str, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as {format_name} ({error}).",
        "It is damaged or of another format than its ending says.",
        "Write it anew, or rename it after what it holds.",
    )


def _arrow_table(path: Path, table: pa.Table) -> RawTable:
    names = _declared_names(table.schema)
    numbers = range(1, table.num_rows + 1)
    return RawTable(str(path), _decoded(table), numbers, label_names=names)


_FORMATS: dict[str, Callable[[Path, str], RawTable]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
