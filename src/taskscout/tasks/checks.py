"""From chosen columns to canonical tables, with the checks of each kind.

Every check names the file, the column and the first rows it finds, says why they cannot be
used, and what to do. Rows are left out only where the user asked for it, and then it is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from taskscout.errors import DataError
from taskscout.tasks.arrow import (
    integers,
    is_null,
    list_array,
    list_lengths,
    number_array,
    text_array,
)
from taskscout.tasks.columns import Columns
from taskscout.tasks.kinds import SEQUENCE_KINDS, Kind
from taskscout.tasks.labels import (
    Labels,
    Purpose,
    alike,
    as_float64,
    distinct,
    is_list,
    is_scalar,
    is_string,
    name_of,
    read_labels,
)
from taskscout.tasks.near_misses import PADDING, broken_rows, nearest_part, without_padding
from taskscout.tasks.raw import LISTED, RawTable, class_list, count, join, option, quote
from taskscout.tasks.written_numbers import is_like_a_number

_TEXT = pa.large_string()
_SCHEMAS: dict[Kind, dict[str, pa.DataType]] = {
    "classification": {"text": _TEXT, "text_pair": _TEXT, "label": pa.int64()},
    "regression": {"text": _TEXT, "text_pair": _TEXT, "label": pa.float64()},
    "tagging": {"tokens": pa.list_(pa.string()), "label": pa.list_(pa.int64())},
    "span_qa": {
        "question": _TEXT,
        "context": _TEXT,
        "answer_text": _TEXT,
        "answer_start": pa.int64(),
    },
    "multiple_choice": {
        "text": _TEXT,
        "text_pair": _TEXT,
        "choices": pa.list_(pa.string()),
        "label": pa.int64(),
    },
    "text_to_text": {"prompt": _TEXT, "completion": _TEXT},
}


def canonical(table: pa.Table, kind: Kind) -> pa.Table:
    """Cast canonical columns to the Arrow types of a kind, in their canonical order.

    Texts are ``large_string``, so no column is too large for 32-bit offsets. A 32-bit float
    becomes the 64-bit float of the same shortest decimal, so that 3.6 is 3.6 whatever the
    precision of the file.
    """
    columns = {}
    for name, dtype in _SCHEMAS[kind].items():
        if name in table.column_names:
            column = table[name]
            is_number = dtype == pa.float64()
            columns[name] = as_float64(column) if is_number else pc.cast(column, dtype)
    return pa.table(columns)


@dataclass(frozen=True)
class Settings:
    """What the user allows to be left out or cut.

    Attributes
    ----------
    drop_unlabelled
        Leave out rows without a label.
    drop_empty
        Leave out rows with an empty text.
    drop_rare
        Leave out classes with fewer than two examples.
    max_characters
        Longer texts are cut to this many characters.
    """

    drop_unlabelled: bool = False
    drop_empty: bool = False
    drop_rare: bool = False
    max_characters: int = 100_000

    def __post_init__(self) -> None:
        if self.max_characters < 1:
            raise DataError(
                f"Texts cannot be cut to {self.max_characters} characters.",
                "Nothing would be left of them.",
                f"Give a number from 1 on with {option('max_characters')}.",
            )


@dataclass(frozen=True)
class Checked:
    """Canonical columns of all rows, and which rows stay.

    Attributes
    ----------
    table
        Canonical columns, one row per row read.
    keep
        True for the rows that stay.
    label_names
        Names of the classes by id.
    about_labels
        The labels in a few words, for the line that says what was inferred.
    notes
        What was left out, cut or assumed.
    """

    table: pa.Table
    keep: NDArray[np.bool_]
    label_names: tuple[str, ...]
    about_labels: str
    notes: tuple[str, ...]


def check(
    raw: RawTable,
    columns: Columns,
    splits: Mapping[str, NDArray[np.int64]],
    settings: Settings | None = None,
    *,
    kind_named: bool = False,
) -> Checked:
    """Make the canonical columns of a table and check them.

    Parameters
    ----------
    raw
        The rows.
    columns
        The chosen columns.
    splits
        Row positions of each split, empty where the data have none. A split in which no row has
        a label is left out, as the hidden test sets of the hub are.
    settings
        What may be left out or cut.
    kind_named
        True where the user named the kind: -1 is then a class like any other, and numbers among
        words are words.

    Raises
    ------
    DataError
        Where the data cannot be used.
    """
    run = _Check(raw, columns, splits, settings or Settings(), kind_named)
    make: dict[Kind, Callable[[], dict[str, Any]]] = {
        "classification": run.classification,
        "regression": run.regression,
        "tagging": run.tagging,
        "span_qa": run.span_qa,
        "multiple_choice": run.multiple_choice,
        "text_to_text": run.text_to_text,
    }
    try:
        table = canonical(pa.table(make[columns.kind]()), columns.kind)
    except DataError:
        if not run.faults:
            raise  # else it may be a consequence of these
    if run.faults:
        raise _together(run.faults)
    return Checked(table, run.keep, run.names, run.about, (*columns.remarks, *run.notes))


@dataclass
class _Check:
    raw: RawTable
    columns: Columns
    splits: Mapping[str, NDArray[np.int64]]
    settings: Settings
    kind_named: bool
    names: tuple[str, ...] = ()
    about: str = ""
    no_label: tuple[str, str] | None = None
    hidden_by: str = ""
    notes: list[str] = field(default_factory=list)
    faults: list[DataError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keep: NDArray[np.bool_] = np.ones(len(self.raw), dtype=bool)

    # -- one method per kind ------------------------------------------------------

    def classification(self) -> dict[str, Any]:
        columns = self._texts()
        labels = self._labels()
        self._refuse_undeclared(labels)
        self._leave_out_unlabelled(labels.missing)
        columns["label"] = number_array(self._class_ids(labels))
        return self._cut(columns)

    def regression(self) -> dict[str, Any]:
        columns = self._texts()
        labels = self._labels()
        name = self.columns["label"]
        self._leave_out_unlabelled(labels.missing)
        if labels.style not in ("integer", "float"):
            odd = self._first_odd(labels)
            raise DataError(
                f"{self.raw.at(name)}: {self.raw.place(odd)} holds {self._cell(name, odd)!r}.",
                "A regression label is a number.",
                f"Correct the row, or read all as words: {option('kind', 'classification')}.",
            )
        values = np.array([*map(float, labels.values), np.nan])[labels.codes]
        infinite = np.flatnonzero(np.isinf(values) & self.keep)
        if len(infinite):
            raise DataError(
                f"{self.raw.at(name)}: an infinite label in {count(len(infinite), 'row')} "
                f"({self.raw.places(infinite)}).",
                "No error can be measured against an infinite number.",
                "Correct or remove these rows.",
            )
        kept = values[self.keep]
        if len(np.unique(kept)) < 2:
            raise DataError(
                f"{self.raw.at(name)}: every row has the label {kept[0]:g}.",
                "Where all labels are equal there is nothing to predict.",
                f"Add rows with other labels, or name another column with {option('label')}.",
            )
        self.about = f"numbers from {kept.min():g} to {kept.max():g}"
        columns["label"] = number_array(values)
        return self._cut(columns)

    def tagging(self) -> dict[str, Any]:
        tokens = self._list("text", "a list of tokens")
        tags = self._list("label", "a list of tags")
        tokens = pc.cast(tokens, pa.list_(pa.string()))
        if any(str(v) == str(PADDING) for v in pc.unique(pc.list_flatten(tags)).to_pylist()):
            words, of_words, gone = without_padding(tokens.to_pylist(), tags.to_pylist())
            tokens, tags = pa.array(words, tokens.type), pa.array(of_words, tags.type)
            self.notes.append(f"{count(gone, 'tag')} of {PADDING}, which is padding, left out")
        n_tokens, n_tags = list_lengths(tokens), list_lengths(tags)
        self._leave_out_empty(n_tokens == 0, "text", "no tokens")
        self._leave_out_unlabelled(is_null(tags))
        uneven = np.flatnonzero((n_tokens != n_tags) & self.keep)
        if len(uneven):
            row = int(uneven[0])
            raise DataError(
                f"{self.raw.origin}: {self.raw.place(row)} has {n_tokens[row]:,} tokens in "
                f"{quote(self.columns['text'])} but {n_tags[row]:,} tags in "
                f"{quote(self.columns['label'])}; so have {count(len(uneven), 'row')} in all.",
                "Every token needs exactly one tag.",
                "Correct these rows, or name other columns with --text and --label.",
            )
        owners = np.repeat(np.arange(len(self.raw)), n_tags)
        labels = distinct(pc.list_flatten(tags), "classes")
        gaps = np.zeros(len(self.raw), dtype=bool)
        gaps[owners[labels.missing]] = True
        gaps[np.repeat(np.arange(len(self.raw)), n_tokens)[is_null(pc.list_flatten(tokens))]] = True
        gaps &= self.keep
        if gaps.any():
            raise DataError(
                f"{self.raw.at(self.columns['label'])}: {self.raw.place(int(gaps.argmax()))} "
                "has a token without a tag, or a tag without a token.",
                "Every token needs exactly one tag.",
                "Correct the row; the usual tag for 'nothing here' is O.",
            )
        self._refuse_undeclared(labels, owners)
        ids = self._ids_by_name(labels, labels.codes[self.keep[owners]])
        if len(self.names) < 2:
            raise DataError(
                f"{self.raw.at(self.columns['label'])}: every tag is "
                f"{class_list(self.names) or 'missing'}.",
                "Where all tags are equal there is nothing to predict.",
                f"Name another column with {option('label')}.",
            )
        self.about = f"{count(len(self.names), 'class')}: {class_list(self.names)}"
        broken = broken_rows(self.names, ids, owners)
        broken = broken[self.keep[broken]]
        if len(broken):
            self.notes.append(
                f"{count(len(broken), 'row')} with an entity that goes on (I-) where none began "
                f"({self.raw.places(broken)}): kept, and read as a beginning"
            )
        if not any(n[1:2] == "-" for n in self.names):
            named = self.raw.label_names.get(self.columns["label"]) or labels.style == "text"
            lack = "do not say where an entity begins (B-, I-)" if named else "have no names"
            self.notes.append(
                f"the tags {lack}: models are scored by accuracy and macro-F1, not by entity F1"
            )
        offsets = np.concatenate([[0], np.cumsum(n_tags)])
        return {"tokens": tokens, "label": list_array(offsets, number_array(ids))}

    def span_qa(self) -> dict[str, Any]:
        columns = self._texts("question", "context")
        contexts = columns["context"].to_pylist()
        answers, starts = self._answers(contexts)
        for row in np.flatnonzero(self.keep):
            text, start, context = answers[row], starts[row], contexts[row] or ""
            if start >= 0 and context[start : start + len(text)] != text:
                found = context[start : start + len(text)]
                raise DataError(
                    f"{self.raw.at(self.columns['label'])}: {self.raw.place(int(row))} says that "
                    f"the answer {text[:80]!r} begins at character {start:,}, but the context "
                    + (f"has {found[:80]!r} there." if found else f"ends at {len(context):,}."),
                    "An answer is a part of its context, counted in characters from 0."
                    + _where_it_is(text, context),
                    "Correct the row; an unanswerable question has start -1 and an empty answer.",
                )
            if start >= 0 and start + len(text) > self.settings.max_characters:
                raise DataError(
                    f"{self.raw.at(self.columns['pair'])}: in {self.raw.place(int(row))} the "
                    f"answer lies beyond character {self.settings.max_characters:,}.",
                    "Longer contexts are cut, and this cut would lose the answer.",
                    f"Allow longer texts with {option('max_characters')}.",
                )
        none = int(sum(starts[r] < 0 for r in np.flatnonzero(self.keep)))
        self.about = f"{none:,} unanswerable" if none else ""
        columns["answer_text"] = text_array(answers)
        columns["answer_start"] = number_array(np.array(starts, np.int64))
        return self._cut(columns)

    def multiple_choice(self) -> dict[str, Any]:
        columns = self._texts()
        values: list[Any]
        choices, keys = self._choices()
        name = self.columns["label"]
        texts = self._answers_by_text(choices) if not any(keys) else None
        if texts is None:
            labels = self._labels()
            values = [labels.values[c] if c >= 0 else None for c in labels.codes]
        else:
            values = list(texts)
        self._leave_out_unlabelled(np.array([v is None for v in values]))
        for row in np.flatnonzero(self.keep):
            if len(choices[row]) < 2 or not all(isinstance(c, str) for c in choices[row]):
                raise DataError(
                    f"{self.raw.at(self.columns['choices'])}: {self.raw.place(int(row))} has "
                    f"{count(sum(isinstance(c, str) for c in choices[row]), 'choice')}.",
                    "A choice is made between two texts at least.",
                    f"Correct the row, or name other columns with {option('choices')}.",
                )
        base = 0
        if texts is None and labels.style == "integer":
            present = [(values[r], len(choices[r])) for r in np.flatnonzero(self.keep)]
            # Numbers that start at 1 and reach the number of choices count from 1.
            base = int(all(v >= 1 for v, _ in present) and any(v == k for v, k in present))
            if base:
                self.notes.append(f"{quote(name)} counts the choices from 1")
        ids = np.zeros(len(self.raw), dtype=np.int64)
        for row in np.flatnonzero(self.keep):
            at = _choice_at(values[row], choices[row], keys[row], base)
            if at is None:
                raise DataError(
                    f"{self.raw.at(name)}: {self.raw.place(int(row))} has the label "
                    f"{values[row]!r}, but {len(choices[row])} choices.",
                    "A label is the number of a choice (from 0, or from 1 throughout), its "
                    "letter, or its text.",
                    f"Correct the row, or name another column with {option('label')}.",
                )
            ids[row] = at
        twice = [
            r
            for r in np.flatnonzero(self.keep)
            if isinstance(values[r], str) and choices[r].count(values[r]) > 1
        ]
        if twice:
            self.notes.append(
                f"{count(len(twice), 'row')} with an answer that several of the choices are "
                f"({self.raw.places(np.array(twice))}): the first of them counts as right"
            )
        columns["choices"] = list_array(
            np.concatenate([[0], np.cumsum([len(c) for c in choices])]),
            text_array([c for row in choices for c in row]),
        )
        columns["label"] = number_array(ids)
        most = max((len(choices[r]) for r in np.flatnonzero(self.keep)), default=0)
        self.about = f"one of {most}"
        return self._cut(columns)

    def text_to_text(self) -> dict[str, Any]:
        prompt = self._text("text")
        completion = self._text("label")
        self._leave_out_empty(_empty(prompt), "text")
        self._leave_out_empty(_empty(completion), "label")
        if "pair" in self.columns.roles:
            parts = zip(prompt.to_pylist(), self._text("pair").to_pylist(), strict=True)
            joined = ["\n\n".join(t for t in two if t and t.strip()) for two in parts]
            prompt = text_array(joined)
        return self._cut({"prompt": prompt, "completion": completion})

    # -- texts ------------------------------------------------------------------------

    def _text(self, role: str, name: str | None = None) -> pa.ChunkedArray:
        """Get a text column as it stands, by default a role's first; other types are refused."""
        name = name or self.columns[role]
        self._refuse_mixed(name, f"Correct the row, or name another column with --{role}.")
        column = self.raw.table[name]
        if pa.types.is_null(column.type):
            return pc.cast(column, _TEXT)
        if not is_string(column.type):
            raise DataError(
                f"{self.raw.at(name)} holds values of type {column.type}.",
                "Text is needed here.",
                f"Name another column with {option(role)}.",
            )
        return pc.cast(column, _TEXT)

    def _texts(self, first: str = "text", second: str = "text_pair") -> dict[str, Any]:
        """Make the text columns.

        Empty first texts are refused or left out; so are empty contexts of span QA, while other
        second texts may be empty.
        """
        columns = {first: self._text("text")}
        if len(self.columns.roles["text"]) > 1:  # a question and the answer to be judged
            joined = [self._text("text", name) for name in self.columns.roles["text"]]
            rows = zip(*(c.to_pylist() for c in joined), strict=True)
            columns[first] = pa.chunked_array(
                [text_array(["\n\n".join(t for t in row if t and t.strip()) for row in rows])]
            )
        self._leave_out_empty(_empty(columns[first]), "text")
        if "pair" in self.columns.roles:
            pair = self._text("pair")
            empty = _empty(pair)
            if self.columns.kind == "span_qa":
                self._leave_out_empty(empty, "pair")
            elif (empty & self.keep).any():
                n = count(int((empty & self.keep).sum()), "row")
                self.notes.append(f"{n} without a second text in {quote(self.columns['pair'])}")
            columns[second] = pair
        return columns

    def _leave_out_empty(
        self, empty: NDArray[np.bool_], role: str, what: str = "an empty text"
    ) -> None:
        self._leave_out(
            empty,
            drop=self.settings.drop_empty,
            found=f"{self.raw.at(self.columns[role])}: {what} in {{n}} ({{rows}}).",
            why="A model has nothing to read there.",
            remedy=f"Fill them in, or leave these rows out with {option('drop_empty')}.",
            note=f"{{n}} with {what} left out ({{rows}})",
        )

    def _cut(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Cut texts that are longer than the settings allow."""
        limit = self.settings.max_characters
        for name, column in columns.items():
            if name in ("label", "choices", "answer_text", "answer_start"):
                continue
            rows = np.flatnonzero((integers(pc.utf8_length(column), 0) > limit) & self.keep)
            if len(rows):
                columns[name] = pc.utf8_slice_codeunits(column, 0, limit)
                self.notes.append(
                    f"{count(len(rows), 'text')} longer than {limit:,} characters cut to that "
                    f"length ({self.raw.places(rows)}); change it with {option('max_characters')}"
                )
        return columns

    # -- labels -----------------------------------------------------------------------

    def _labels(self) -> Labels:
        """Read the label column; mixed types are refused unless the user wants classes."""
        name = self.columns["label"]
        kind = self.columns.kind
        classes = kind == "classification"
        as_words = classes and self.kind_named
        if not as_words:
            self._refuse_mixed(
                name,
                "Correct the row"
                + (
                    f", or read all as words: {option('kind', 'classification')}."
                    if classes
                    else "."
                ),
            )
        purposes: dict[Kind, Purpose] = {"classification": "classes", "regression": "numbers"}
        labels = read_labels(self.raw, name, purposes.get(kind))
        if labels.unclear and not as_words and kind in SEQUENCE_KINDS:
            raise DataError(
                f"{self.raw.at(name)} holds numbers that read in two ways: {labels.unclear}.",
                "A number is read with a decimal point or a decimal comma throughout.",
                "Write all of them with a decimal point, without separators of thousands and with "
                "a percent sign on all or none; or read all as words: "
                f"{option('kind', 'classification')}.",
            )
        if labels.remark and not as_words:
            self.notes.append(
                f"{quote(name)}: {labels.remark}"
                + (f"; as numbers: {option('kind', 'regression')}" if classes else "")
            )
        if labels.odd is not None and not as_words and classes:
            raise DataError(
                f"{self.raw.at(name)}: {self.raw.place(labels.odd)} holds "
                f"{self._cell(name, labels.odd)!r}, where nearly all rows hold numbers.",
                "A label column holds numbers or words, not both.",
                "Correct the row, leave the cell empty, or read all as words: "
                f"{option('kind', 'classification')}.",
            )
        declared = name in self.raw.label_names
        numbers = labels.style in ("integer", "float")
        if numbers and -1 in labels.values and self._hides(labels, declared):
            labels = labels.without(-1)
            self.hidden_by = " (-1 throughout marks hidden labels)"
            if classes and not declared:
                meaning = "Among labels that count from 0, -1 marks a hidden label, as on the hub"
                self.no_label = "-1", meaning
        sign = labels.stands_for_no_label() if classes and not as_words else None
        if sign is not None and sign not in self.raw.label_names.get(name, ()):
            labels = labels.without(sign)
            self.hidden_by = f" ({sign!r} throughout marks no label)"
            meaning = f"Among words, {sign!r} marks no label, as where annotators disagree"
            self.no_label = repr(sign), meaning
        return labels

    def _hides(self, labels: Labels, declared: bool) -> bool:
        """Whether -1 marks a hidden label, as on the hub, rather than a class or a quantity.

        It does where class names are declared, where a whole split has it, and where the other
        labels count from 0, unless the user named the kind.
        """
        at = labels.values.index(-1)
        whole = any(len(r) and (labels.codes[r] == at).all() for r in self.splits.values())
        others = [v for v in labels.values if v != -1]
        if self.columns.kind == "regression":
            # Among quantities, -1 may well be one; not where a split has nothing else and no
            # other quantity is below 0.
            return whole and bool(others) and min(others) >= 0
        return declared or whole or (not self.kind_named and bool(others) and min(others) == 0)

    def _refuse_undeclared(self, labels: Labels, owners: NDArray[np.int64] | None = None) -> None:
        """Refuse ids for which the data declare no class name; ``owners`` are the rows of tags."""
        name = self.columns["label"]
        names = self.raw.label_names.get(name)
        if names is None or labels.style == "text":
            return
        strange = [v for v in labels.values if not 0 <= int(v) < len(names)]
        if strange:
            at = int(np.flatnonzero(labels.codes == labels.values.index(strange[0]))[0])
            row = at if owners is None else int(owners[at])
            raise DataError(
                f"{self.raw.at(name)}: {self.raw.place(row)} has the label {strange[0]}.",
                f"The column declares {count(len(names), 'class')} (ids 0 to {len(names) - 1}).",
                "Correct the row, or the class names the data declare.",
            )

    def _first_odd(self, labels: Labels) -> int:
        """Find the first row whose label is not a number."""
        if labels.odd is not None:
            return labels.odd
        strange = [i for i, v in enumerate(labels.values) if isinstance(v, bool | str)]
        numeric = [i for i in strange if _is_number(labels.values[i])]
        odd = set(strange) - set(numeric) or set(strange)
        return int(np.flatnonzero(np.isin(labels.codes, sorted(odd)))[0])

    def _leave_out_unlabelled(self, missing: NDArray[np.bool_]) -> None:
        name = self.columns["label"]
        if missing.all():
            raise DataError(
                f"{self.raw.at(name)}: no row has a label.",
                "Without labels there is nothing to predict.",
                f"Fill the column in, or name another with {option('label')}.",
            )
        for split, rows in self.splits.items():
            if len(rows) and missing[rows].all():
                self.keep[rows] = False
                n = count(len(rows), "row")
                self.notes.append(
                    f"split {split!r} left out: none of its {n} has a label{self.hidden_by}"
                )
        why = "An example without a label can be neither learnt from nor scored."
        remedy = f"Fill them in, or leave these rows out with {option('drop_unlabelled')}."
        if self.no_label:
            sign, meaning = self.no_label
            why += f" {meaning}."
            remedy += f" If {sign} is a class, say so: {option('kind', 'classification')}."
        self._leave_out(
            missing,
            drop=self.settings.drop_unlabelled,
            found=f"{self.raw.at(name)}: no label in {{n}} of {len(self.raw):,} ({{rows}}).",
            why=why,
            remedy=remedy,
            note="{n} without a label left out ({rows})",
        )

    def _class_ids(self, labels: Labels) -> NDArray[np.int64]:
        """Give numbers to the classes that stay, and check that each can be learnt and tested."""
        name = self.columns["label"]
        rows = int(self.keep.sum())
        in_use = labels.codes[self.keep]
        n_classes = len(np.unique(in_use))
        unique = n_classes == rows or (rows >= 20 and n_classes > rows // 2)
        if labels.style == "text" and unique and n_classes > 2:
            raise DataError(
                f"{self.raw.at(name)}: {n_classes:,} different labels in {count(rows, 'row')}.",
                "A column of almost only different strings is a text or an id, not a label.",
                f"Name the label column with {option('label')}.",
            )
        ids = self._ids_by_name(labels, in_use)
        sizes = np.bincount(ids[self.keep], minlength=len(self.names))
        if len(self.names) < 2:
            raise DataError(
                f"{self.raw.at(name)}: all {count(rows, 'row')} have the label "
                f"{self.names[0] if self.names else None!r}.",
                "With one class only there is nothing to predict.",
                f"Add rows of another class, or name another column with {option('label')}.",
            )
        rare = np.flatnonzero(sizes < 2)
        if len(rare) and not self.faults:
            self._leave_out_rare(labels, ids, rare)
            ids = self._ids_by_name(labels, labels.codes[self.keep])
            if len(self.names) < 2:
                raise DataError(
                    f"{self.raw.at(name)}: {count(len(self.names), 'class')} left once classes "
                    "with fewer than two examples are left out.",
                    "With one class only there is nothing to predict.",
                    "Add examples.",
                )
        self._remark_alike()
        self.about = f"{count(len(self.names), 'class')}: {class_list(self.names)}"
        return ids

    def _remark_alike(self) -> None:
        """Say which classes differ only in what is easily written in two ways."""
        groups = alike(self.names)
        if groups:
            shown = [" and ".join(map(repr, group)) for group in groups[:LISTED]]
            self.notes.append(
                f"classes that differ only in case, spaces or Unicode form: "
                f"{join(shown, len(groups))}; if they are one, write them alike"
            )

    def _leave_out_rare(
        self, labels: Labels, ids: NDArray[np.int64], rare: NDArray[np.int64]
    ) -> None:
        names = [repr(self.names[c]) for c in rare]
        shown = join(names[:8], len(names))
        has = "has" if len(rare) == 1 else "have"
        numbers = f" If the labels are quantities: {option('kind', 'regression')}."
        self._leave_out(
            np.isin(ids, rare),
            drop=self.settings.drop_rare,
            found=f"{self.raw.at(self.columns['label'])}: {count(len(rare), 'class')} {has} fewer "
            f"than two examples: {shown} ({{rows}}).",
            why="One example cannot be both learnt from and tested on.",
            remedy="Add examples, merge the class with another, or leave it out with "
            f"{option('drop_rare')}." + (numbers if labels.style == "integer" else ""),
            note=f"{count(len(rare), 'class')} with fewer than two examples left out: {shown}",
        )

    def _ids_by_name(self, labels: Labels, in_use: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give numbers to the classes in use: as declared, else by size or by letters.

        Sets ``names``; returns one id per code, 0 where the label is missing.
        """
        used = [int(c) for c in np.unique(in_use[in_use >= 0])]
        declared = self.raw.label_names.get(self.columns["label"])
        if labels.style == "text":
            declared_order = {n: i for i, n in enumerate(declared or ())}
            last = len(declared_order)
            first = "O" if self.columns.kind == "tagging" else None
            used.sort(
                key=lambda c: (
                    declared_order.get(labels.values[c], last),
                    labels.values[c] != first,
                    labels.values[c],
                )
            )
        else:
            used.sort(key=lambda c: labels.values[c])
        values = [labels.values[c] for c in used]
        if declared and labels.style != "text":
            self.names = tuple(declared[int(v)] for v in values)
        else:
            self.names = self._names_beside(labels, used) or tuple(name_of(v) for v in values)
        table = np.zeros(len(labels.values) + 1, dtype=np.int64)
        table[used] = np.arange(len(used))
        return table[labels.codes]

    def _names_beside(self, labels: Labels, used: Sequence[int]) -> tuple[str, ...]:
        """Take class names from a column ``label_text`` that matches the ids one to one."""
        beside = {"label": "label_text", "labels": "label_text", "label_id": "label"}
        other = beside.get(self.columns["label"])
        if self.columns.kind != "classification" or labels.style != "integer":
            return ()
        if other not in self.columns.unused:
            return ()
        if not is_string(self.raw.table[other].type):
            return ()
        names = distinct(self.raw.table[other])
        pairs = set(zip(labels.codes[self.keep], names.codes[self.keep], strict=True))
        by_code = dict(pairs)
        if (
            len(pairs) != len(used)
            or len(set(by_code.values())) != len(used)
            or -1 in by_code.values()
        ):
            return ()
        return tuple(str(names.values[by_code[c]]) for c in used)

    # -- columns of the structured kinds --------------------------------------------------

    def _list(self, role: str, what: str) -> pa.ChunkedArray:
        name = self.columns[role]
        self._refuse_mixed(name, "Correct the row.")
        column = self.raw.table[name]
        fits = is_string if role == "text" else is_scalar
        if not is_list(column.type) or not fits(column.type.value_type):
            raise DataError(
                f"{self.raw.at(name)} holds values of type {column.type}.",
                f"For tagging, each cell is {what}.",
                f"Name another column with {option(role)}, or another kind with {option('kind')}.",
            )
        return column

    def _answers(self, contexts: Sequence[str | None]) -> tuple[list[str], list[int]]:
        """Find the text and start of the first answer of each row; ``""`` and -1 where none."""
        cells = self.raw.table[self.columns["label"]].to_pylist()
        starts: Sequence[int | None]
        if "start" in self.columns.roles:
            starts = self._whole_numbers(self.columns["start"])
        elif any(isinstance(c, dict | list) for c in cells):
            firsts = [_first_answer(c) for c in cells]
            cells, starts = [t for t, _ in firsts], [s for _, s in firsts]
            for row, (text, start) in enumerate(firsts):
                if not isinstance(text, str | None) or not isinstance(start, int | None):
                    raise DataError(
                        f"{self.raw.at(self.columns['label'])}: {self.raw.place(row)} holds the "
                        f"answer {str(text)[:80]!r} at {str(start)[:80]!r}.",
                        "An answer is a text, and its start a whole number of characters from 0.",
                        "Correct the row.",
                    )
        else:
            starts = [
                (c or "").find(t) if t else None for t, c in zip(cells, contexts, strict=True)
            ]
            lost = [r for r in np.flatnonzero(self.keep).tolist() if starts[r] == -1]
            if lost:
                near = nearest_part(cells[lost[0]], contexts[lost[0]] or "")
                raise DataError(
                    f"{self.raw.at(self.columns['label'])}: the answer {cells[lost[0]][:80]!r} of "
                    f"{self.raw.place(int(lost[0]))} does not occur in its context.",
                    "A span answer is a part of its context, letter by letter."
                    + (f" Nearest to it is {near[:80]!r}." if near else ""),
                    "Correct the row, add a column answer_start, or read the file as "
                    f"{option('kind', 'text_to_text')}.",
                )
        begins = [
            -1 if not t or s is None or s < 0 else s for t, s in zip(cells, starts, strict=True)
        ]
        return ["" if b < 0 else str(t) for t, b in zip(cells, begins, strict=True)], begins

    def _whole_numbers(self, name: str) -> list[int | None]:
        labels = read_labels(self.raw, name, "numbers")
        values = [None if c < 0 else labels.values[c] for c in labels.codes]
        for row, value in enumerate(values):
            if value is not None and (isinstance(value, str) or not float(value).is_integer()):
                raise DataError(
                    f"{self.raw.at(name)}: {self.raw.place(row)} holds {value!r}.",
                    "The start of an answer is a whole number of characters from 0.",
                    "Correct the row.",
                )
        return [None if v is None else int(v) for v in values]

    def _choices(self) -> tuple[list[list[Any]], list[list[str] | None]]:
        """Get the choices of each row, and the keys they are told by where the data have keys."""
        names = self.columns.roles["choices"]
        for name in names:
            self._refuse_mixed(name, "Correct the row.")
        keys: list[list[str] | None] = [None] * len(self.raw)
        cells = [self.raw.table[name].to_pylist() for name in names]
        if len(names) > 1:
            return [[c for c in row if c] for row in zip(*cells, strict=True)], keys
        if pa.types.is_struct(self.raw.table[names[0]].type):
            keys = [c and [str(k) for k in c["label"] or ()] for c in cells[0]]
            return [list((c and c["text"]) or ()) for c in cells[0]], keys
        lists = [c if isinstance(c, list) else [] for c in cells[0]]
        return [[v if v is None else str(v) for v in c] for c in lists], keys

    def _answers_by_text(self, choices: Sequence[Sequence[str | None]]) -> list[str | None] | None:
        """Get answers that are numbers and the texts of choices; None where they are places.

        Where the answer "3" stands among the choices 3, 4, 1, 2, it is that choice. Numbers are
        read so where nine answers in ten stand among their own choices: the others are then
        refused by name. A column of numbers beside choices that are words or texts counts places.
        """
        name = self.columns["label"]
        column = self.raw.table[name]
        first = self.raw.table[self.columns["choices"]].type
        alike = is_string(column.type) or (is_list(first) and not is_string(first.value_type))
        if not alike or not is_scalar(column.type) or self.raw.odd.get(name):
            return None
        cells = [None if v is None else str(v).strip() for v in column.to_pylist()]
        own = [{c.strip() for c in row if c} for row in choices]
        stands = np.array([c in o for c, o in zip(cells, own, strict=True)])
        gap = np.array([not c or c == "-1" for c in cells]) & ~stands
        asked = self.keep & ~gap
        numbers = [is_like_a_number(c or "") for c in np.array(cells, dtype=object)[asked]]
        if not any(numbers) or stands[asked].mean() < 0.9:
            return None
        self.notes.append(f"{quote(name)} is read as the text of a choice, not as its place")
        return [None if g else c for c, g in zip(cells, gap, strict=True)]

    # -- what all share -----------------------------------------------------------------

    def _refuse_mixed(self, name: str, remedy: str) -> None:
        odd = self.raw.odd.get(name)
        if odd:
            raise DataError(
                f"{self.raw.at(name)}: {self.raw.place(odd.row)} holds {odd.type}, most other "
                f"rows {odd.usual}.",
                "The cells of a column have one type.",
                remedy,
            )

    def _cell(self, name: str, row: int) -> Any:
        return self.raw.table[name][row].as_py()

    def _leave_out(
        self, bad: NDArray[np.bool_], *, drop: bool, found: str, why: str, remedy: str, note: str
    ) -> None:
        """Leave rows out where the user allows it, note a fault where not.

        The faulty rows are left out of what is checked next, so that one run tells all faults.
        """
        rows = np.flatnonzero(bad & self.keep)
        if not len(rows):
            return
        words = {"n": count(len(rows), "row"), "rows": self.raw.places(rows)}
        self.keep[rows] = False
        if not drop:
            self.faults.append(DataError(_fill(found, words), why, remedy))
            if not self.keep.any():
                raise self.faults[-1]
            return
        self.notes.append(_fill(note, words))
        if not self.keep.any():
            raise DataError(_fill(found, words), "No row is left without these.", "Fill them in.")


def _together(faults: Sequence[DataError]) -> DataError:
    """One error for several faults of one file."""
    found = " Also: ".join(fault.found for fault in faults)
    why, remedy = (
        " ".join(dict.fromkeys(getattr(fault, part) for fault in faults))
        for part in ("why", "remedy")
    )
    return DataError(found, why, remedy)


def _fill(text: str, words: Mapping[str, str]) -> str:
    """Fill {n} and {rows}; other braces, which may come from users' names, stay."""
    for key, value in words.items():
        text = text.replace("{" + key + "}", value)
    return text


def _empty(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Find texts that are null, empty or white space only."""
    empty: NDArray[np.bool_] = integers(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0) == 0
    return empty


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return not isinstance(text, bool)


def _where_it_is(answer: str, context: str) -> str:
    """Say where an answer stands, or what stands there that is most like it."""
    at = context.find(answer)
    if at >= 0:
        return f" It stands at character {at:,}."
    near = nearest_part(answer, context)
    return f" Nearest to it is {near[:80]!r}." if near else ""


def _first_answer(cell: Any) -> tuple[str | None, int | None]:
    """Read SQuAD's answers: a dictionary of lists, or a list of dictionaries."""
    if isinstance(cell, list):
        cell = cell[0] if cell else None
    if not cell:
        return None, None
    text, start = cell["text"], cell["answer_start"]
    if isinstance(text, list):
        text = text[0] if text else None
    if isinstance(start, list):
        start = start[0] if start else None
    return text, start


def _choice_at(
    value: Any, choices: Sequence[str], keys: Sequence[str] | None, base: int
) -> int | None:
    """Find the position of the right choice from its number, key, text or letter."""
    if keys and str(value) in keys:
        return keys.index(str(value))
    if isinstance(value, str):
        texts = [c.strip() for c in choices]
        if value in texts:
            return texts.index(value)
        letter = ord(value.upper()) - ord("A") if len(value) == 1 else -1
        return letter if 0 <= letter < len(choices) else None
    if isinstance(value, bool) or not float(value).is_integer():
        return None
    at = int(value) - base
    return at if 0 <= at < len(choices) else None
