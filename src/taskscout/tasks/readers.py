"""Reading tasks from files, from ``datasets`` objects and from the hub.

All go one way: Arrow tables (:mod:`taskscout.tasks.file_formats`), then the choice of columns
(:mod:`taskscout.tasks.columns`), then the checks (:mod:`taskscout.tasks.checks`), then the parts
of a task, which ``Task.from_file`` and its like put together. Pickles are never read, and
``datasets`` is imported only to load from the hub.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskscout.errors import DataError
from taskscout.tasks.arrow import take
from taskscout.tasks.card import TaskCard
from taskscout.tasks.checks import Settings, check
from taskscout.tasks.columns import NO_SPLITS, Named, choose_columns
from taskscout.tasks.dataset_tables import table_of_dataset
from taskscout.tasks.file_formats import read_table
from taskscout.tasks.kinds import SPLITS, Kind
from taskscout.tasks.raw import RawTable, join, option, quote
from taskscout.tasks.split_names import meanings

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class TaskParts:
    """What was read: the parts that :class:`~taskscout.tasks.task.Task` is made of.

    Splits that the data do not have are made by the task (:meth:`Task.with_splits`): then
    ``tables`` holds all rows as ``train``. The other attributes are those of a task.
    """

    kind: Kind
    tables: Mapping[str, pa.Table]
    label_names: tuple[str, ...]
    card: TaskCard
    notes: tuple[str, ...]


#: Rows as people hold them.
Rows: TypeAlias = "Dataset | DatasetDict | pa.Table | pd.DataFrame | Sequence[Mapping[str, Any]]"


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
    encoding: str | None = None,
) -> TaskParts:
    """Read a task from a file, or from a folder or zip of one file for each split.

    Files are CSV, TSV, text, JSON lines, JSON, Excel and OpenDocument workbooks, Parquet and
    Arrow; text files also packed by gzip, bzip2 or xz.

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
        One of :data:`~taskscout.tasks.kinds.KINDS`; inferred by default.
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
        Encoding of text files. By default UTF-8, UTF-16 where a mark or the bytes say so, and
        else Windows' cp1252 where that reads as text, which is said.

    Raises
    ------
    DataError
        Where the file is missing, empty or malformed, or its data cannot be used.
    """
    path = Path(path)
    raw = read_table(path, encoding)
    options = _Options(
        Named(text, pair, label, choices, kind, split_column),
        Settings(drop_unlabelled, drop_empty, drop_rare, max_characters),
    )
    return _parts(raw, options, TaskCard(name=name or path.stem))


def read_dataset(
    dataset: Rows | Mapping[str, Rows],
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
) -> TaskParts:
    """Wrap a ``datasets`` object, frames, Arrow tables or lists of rows; class names are kept.

    Splits are kept where one of them is for training, under our names of splits
    (:mod:`taskscout.tasks.split_names`: ``dev`` becomes ``validation``); a single split is split
    anew. A split in which no row has a label is left out.

    Parameters
    ----------
    dataset
        A ``datasets.Dataset`` or ``DatasetDict`` (whose memory map is kept), a frame of pandas or
        polars, an Arrow table, or a list of dictionaries; or several of these by split.
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
    return _parts(table_of_dataset(dataset, name), options, TaskCard(name=name))


def read_hub(
    hub_id: str,
    config: str | None = None,
    split: str | None = None,
    *,
    name: str | None = None,
    **options: Any,
) -> TaskParts:
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
    parts = read_dataset(dataset, name=name or (f"{last}-{config}" if config else last), **options)
    first = next(iter(dataset.values())) if isinstance(dataset, dict) else dataset
    arguments = [f'"{hub_id}"'] + ([f'"{config}"'] if config else [])
    arguments += [f'split="{split}"'] if split else []
    card = replace(
        parts.card,
        hub_id=hub_id,
        load=f"datasets.load_dataset({', '.join(arguments)})",
        licence=first.info.license or "",
        homepage=first.info.homepage or "",
        citation=first.info.citation or "",
    )
    return replace(parts, card=card)


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


def _parts(raw: RawTable, options: _Options, card: TaskCard) -> TaskParts:
    """Choose columns, check, and tell the splits apart."""
    names = [name or f"(column {i})" for i, name in enumerate(raw.table.column_names, 1)]
    raw = replace(raw, table=raw.table.rename_columns(names))
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
        tables = {split: take(checked.table, rows) for split, rows in stays.items()}
    else:
        tables = {"train": take(checked.table, np.flatnonzero(checked.keep))}
    return TaskParts(columns.kind, tables, checked.label_names, card, tuple(notes))


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
