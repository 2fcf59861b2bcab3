"""Which columns of a table are the text, its pair, the label: by name, then by what they hold."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from taskscout.errors import DataError
from taskscout.tasks.column_names import (
    CHOICE_SERIES,
    CHOICES,
    COMPLETIONS,
    COMPLETIONS_SURE,
    CORRECT,
    JUDGED_BY,
    LABELS,
    LABELS_SURE,
    PAIRS,
    PASSAGES,
    RATINGS,
    SPLIT_COLUMNS,
    SPLIT_COLUMNS_SURE,
    STEMS,
    TAGS,
    TEXTS,
    TEXTS_LAST,
    TEXTS_SURE,
    TOKENS,
    plain,
)
from taskscout.tasks.kinds import KINDS, SPLITS, Kind
from taskscout.tasks.labels import (
    Labels,
    are_classes,
    is_list,
    is_scalar,
    is_string,
    read_labels,
)
from taskscout.tasks.raw import LISTED, RawTable, join, option, quote, quoted
from taskscout.tasks.split_names import is_understood

#: What the user gives as the column of splits to have splits made whatever the data say.
NO_SPLITS = "none"


@dataclass(frozen=True)
class Named:
    """What the user named; it overrides what would be inferred.

    ``text``, ``pair`` and ``label`` are, for tagging, the tokens and their tags; for span QA the
    question, the context and the answers; for text-to-text the prompt and the completion.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    choices: str | None = None
    kind: Kind | None = None
    split_column: str | None = None

    def ignores_splits(self, raw: RawTable) -> bool:
        """Whether the user wants splits made anew: ``none``, where no column is called so."""
        name = self.split_column
        return name == NO_SPLITS and name not in raw.table.column_names


@dataclass(frozen=True)
class Columns:
    """The columns chosen from a table.

    Attributes
    ----------
    kind
        Kind of the task.
    roles
        The table's columns by role: ``text``, ``pair``, ``label``, ``choices`` (one column, or a
        series) and ``start`` (where an answer begins), in the order they are told.
    split
        The column that assigns rows to splits, if any.
    unused
        The other columns.
    remarks
        What was decided by a rule the user may want to overrule.
    """

    kind: Kind
    roles: Mapping[str, tuple[str, ...]]
    split: str | None = None
    unused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    def __getitem__(self, role: str) -> str:
        return self.roles[role][0]

    def get(self, role: str) -> str | None:
        """Get the (first) column of a role, None where there is none."""
        return self.roles[role][0] if role in self.roles else None

    def sentence(self, about_label: str = "") -> str:
        """Say in one line what was chosen.

        Parameters
        ----------
        about_label
            What is known of the labels by now, such as ``2 classes: no, yes``.
        """
        parts = [f"{role}: {quoted(names)}" for role, names in self.roles.items()]
        if about_label and "label" in self.roles:
            at = list(self.roles).index("label")
            parts[at] += f" ({about_label})"
        parts.append(f"kind: {self.kind}")
        if self.split:
            parts.append(f"splits: {quote(self.split)}")
        if self.unused:
            parts.append(f"not used: {quoted(self.unused)}")
        return "; ".join(parts)


def choose_columns(raw: RawTable, named: Named | None = None) -> Columns:
    """Choose the columns of a table.

    Names are tried first, then types and the number of distinct values. Whatever the user named
    is taken; where the user names a text but no pair, there is no pair.

    Raises
    ------
    DataError
        Where a named column is missing, or a needed one cannot be found or is ambiguous; the
        candidates are listed.
    """
    named = named or Named()
    if named.kind is not None and named.kind not in KINDS:
        raise DataError(
            f"There is no kind {named.kind!r}.",
            f"A task is of kind {join(KINDS, len(KINDS))}.",
            f"Give one of these with {option('kind')}.",
        )
    return _Chooser(raw, named).choose()


class _Chooser:
    """One choice: the table, what the user named, and the columns still free."""

    def __init__(self, raw: RawTable, named: Named) -> None:
        self.raw = raw
        self.named = named
        for given in ("text", "pair", "label", "choices", "split_column"):
            name = getattr(named, given)
            if name is None or (given == "split_column" and named.ignores_splits(raw)):
                continue
            if name not in raw.table.column_names:
                self._missing(name, given)
        given_names = [n for n in (named.text, named.pair, named.label, named.choices) if n]
        twice = [n for n in given_names if given_names.count(n) > 1]
        if twice:
            raise DataError(
                f"{raw.origin}: column {quote(twice[0])} is named for two purposes.",
                "Text, pair and label are different columns.",
                "Name each column once.",
            )
        self.split = self._split_column()
        taken = {named.text, named.pair, named.label, named.choices, self.split}
        nulls = {c for c in raw.table.column_names if raw.table[c].null_count == raw.table.num_rows}
        empty = {c for c in nulls if plain(c) not in LABELS_SURE[:3]}  # refused by name later
        self.free: list[str] = [c for c in raw.table.column_names if c not in taken | empty]

    def choose(self) -> Columns:
        structured = {
            "tagging": self._tagging,
            "multiple_choice": self._multiple_choice,
            "classification": self._judged_answer,
            "span_qa": self._span_qa,
            "text_to_text": self._text_to_text,
        }
        kind = self.named.kind or self._kind_of_named()
        if kind in structured and kind != "classification":
            found = structured[kind]()
            return found or self._incomplete(kind)
        unnamed = not (self.named.text or self.named.pair or self.named.label)
        if unnamed and kind == "classification":
            return self._judged_answer() or self._sequence(kind)
        if unnamed and kind is None:
            for find in structured.values():
                found = find()
                if found:
                    return found
        return self._sequence(kind)

    # -- helpers ----------------------------------------------------------------

    def _type(self, name: str) -> pa.DataType:
        return self.raw.table.schema.field(name).type

    def _find(self, names: Iterable[str], but: Sequence[str | None] = ()) -> list[str]:
        """Find the free columns that bear one of these names, in the order of the names."""
        by_name = {plain(c): c for c in reversed(self.free) if c not in but}
        return [by_name[n] for n in names if n in by_name]

    def _first(self, named: str | None, names: Iterable[str], test: str) -> str | None:
        """Take the user's column, or else the first of these names that passes a test."""
        if named:
            return named
        passes = {"string": is_string, "list": is_list, "scalar": is_scalar}[test]
        return next((c for c in self._find(names) if passes(self._type(c))), None)

    def _result(
        self, kind: Kind, roles: Mapping[str, str | Sequence[str] | None], *remarks: str
    ) -> Columns:
        chosen = {
            role: (names,) if isinstance(names, str) else tuple(names)
            for role, names in roles.items()
            if names
        }
        used = {c for names in chosen.values() for c in names} | {self.split}
        unused = tuple(c for c in self.raw.table.column_names if c not in used)
        return Columns(kind, chosen, self.split, unused, tuple(r for r in remarks if r))

    def _missing(self, name: str, given: str) -> NoReturn:
        names = self.raw.table.column_names
        close = difflib.get_close_matches(name, names, n=1)
        raise DataError(
            f"{self.raw.origin} has no column {quote(name)}.",
            f"Its columns are {quoted(names)}.",
            f"Give one of these with {option(given)}"
            + (f"; did you mean {quote(close[0])}?" if close else "."),
        )

    def _split_column(self) -> str | None:
        """Find the column that assigns rows to splits; one with a strange value is refused.

        Were such a column passed over, all rows would be split anew, official test rows with them.
        """
        named = self.named.split_column
        if self.named.ignores_splits(self.raw) or (self.raw.splits and not named):
            return None
        own = {self.named.text, self.named.pair, self.named.label, self.named.choices}
        candidates = [named] if named else [
            c for n in SPLIT_COLUMNS_SURE + SPLIT_COLUMNS for c in self.raw.table.column_names
            if plain(c) == n and c not in own
        ]  # fmt: skip
        for name in candidates:
            column = self.raw.table[name]
            if not is_scalar(column.type):
                continue
            values = pc.unique(column).to_pylist()
            strange = [v for v in values if not is_understood(v)]
            if not strange:
                return name
            sure = bool(named) or plain(name) in SPLIT_COLUMNS_SURE
            if sure or len(strange) < len(values):
                row = column.to_pylist().index(strange[0])
                others = [repr(v) for v in strange[1:LISTED]]
                and_so = f", other rows {join(others, len(strange) - 1)}" if others else ""
                raise DataError(
                    f"{self.raw.at(name)}: {self.raw.place(row)} holds "
                    f"{'nothing' if strange[0] is None else repr(strange[0])}{and_so}.",
                    f"A split is one of {join(SPLITS, len(SPLITS))} (or valid, val, dev, eval, "
                    "and longer names that begin so, such as test_ood); whether other rows are "
                    "for training or for testing cannot be told.",
                    f"Rename it; or ignore the column and have splits made of all rows: "
                    f"{option('split_column', NO_SPLITS)}.",
                )
        return None

    def _incomplete(self, kind: Kind) -> NoReturn:
        needs = {
            "tagging": "a list of tokens (--text) and a list of tags (--label)",
            "span_qa": "a question (--text), a context (--pair) and answers with their "
            "start (--label)",
            "multiple_choice": "a text (--text), a list of choices (--choices) and the number of "
            "the right one (--label)",
            "text_to_text": "a prompt (--text) and a completion (--label), both text",
        }
        types = ", ".join(f"{quote(f.name)} ({f.type})" for f in self.raw.table.schema)
        raise DataError(
            f"{self.raw.origin} has no columns for a {kind} task: {types}.",
            f"It needs {needs[kind]}.",
            f"Name the columns, or choose another kind with {option('kind')}.",
        )

    def _kind_of_named(self) -> Kind | None:
        """Tell the kind by the types of the columns the user named."""
        text, label = self.named.text, self.named.label
        if self.named.choices:
            return "multiple_choice"
        if text and is_list(self._type(text)):
            return "tagging"
        if label and _is_answers(self._type(label)):
            return "span_qa"
        return None

    # -- kinds with columns of their own ------------------------------------------

    def _tagging(self) -> Columns | None:
        tokens = self._first(self.named.text, TOKENS, "list")
        tags = self._first(self.named.label, TAGS, "list")
        if tokens is None or tags is None:
            return None
        return self._result("tagging", {"text": tokens, "label": tags})

    def _multiple_choice(self) -> Columns | None:
        choices: list[str] = [self.named.choices] if self.named.choices else [
            c for c in self._find(CHOICES)
            if _is_choice_list(self._type(c)) or _is_keyed_choices(self._type(c))
        ][:1]  # fmt: skip
        if not choices:
            series: dict[str, list[str]] = {}
            for column in self.free:
                match = CHOICE_SERIES.fullmatch(plain(column))
                if match and is_string(self._type(column)):
                    series.setdefault(match[1], []).append(column)
            choices = max(series.values(), key=len, default=[])
            choices = sorted(choices, key=plain) if len(choices) > 1 else []
        if not choices:
            return None
        self.free = [c for c in self.free if c not in choices]
        label = self._first(self.named.label, CORRECT, "scalar")
        self.free = [c for c in self.free if c != label]
        passage = self._first(self.named.pair, PASSAGES, "string")
        stem = self._first(self.named.text, STEMS, "string")
        if not label or not (stem or passage):
            return None
        if self.named.text or self.named.pair or not (stem and passage):
            text, pair = (stem, self.named.pair) if stem else (passage, None)
        else:
            text, pair = passage, stem  # the passage first, then the question about it
        given = self._find(["text_pair"])
        if not pair and not self.named.text and given:
            pair = given[0]
        return self._result(
            "multiple_choice", {"text": text, "pair": pair, "choices": choices, "label": label}
        )

    def _judged_answer(self) -> Columns | None:
        """Find a question, its context and an answer that a label of a few values judges.

        The answer is no span to be found, for it is given: it is read with its question, as what
        the label speaks of, beside the context.
        """
        question = self._first(None, ("question", "query"), "string")
        context = self._first(None, JUDGED_BY, "string")
        answer = self._first(None, ("answer", "answer_text", "response"), "string")
        label = next((c for c in self._find(LABELS_SURE) if self._is_label(c)), None)
        starts = self._find(("answer_start", "start", "start_position"))
        if not (question and context and answer and label) or starts:
            return None
        if read_labels(self.raw, label).style == "float":
            return None
        remark = f"{quote(label)} is read as a verdict on {quote(answer)}"
        remark += f"; to find the answers in {quote(context)}: {option('kind', 'span_qa')}"
        roles = {"text": (question, answer), "pair": context, "label": label}
        return self._result("classification", roles, remark)

    def _span_qa(self) -> Columns | None:
        question = self._first(self.named.text, ("question", "query"), "string")
        context = self._first(self.named.pair, ("context", "passage", "paragraph"), "string")
        if not question or not context:
            return None
        answers = self.named.label or next(iter(self._find(("answers", "answer"))), None)
        if answers and _is_answers(self._type(answers)):
            return self._result("span_qa", {"text": question, "pair": context, "label": answers})
        answer = self.named.label or next(
            (c for c in self._find(("answer_text", "answer")) if is_string(self._type(c))), None
        )
        start = self._first(None, ("answer_start", "start", "start_position"), "scalar")
        if answer and start:
            roles = {"text": question, "pair": context, "label": answer, "start": start}
            return self._result("span_qa", roles)
        if answer and (self.named.kind == "span_qa" or self._lies_in(answer, context)):
            remark = f"where the answers start was found by searching {quote(context)}"
            roles = {"text": question, "pair": context, "label": answer}
            return self._result("span_qa", roles, remark)
        return None

    def _lies_in(self, answer: str, context: str) -> bool:
        """Whether nearly all of the first hundred answers occur in their context."""
        rows = self.raw.table.select([answer, context]).slice(0, 100).to_pylist()
        pairs = [(r[answer], r[context]) for r in rows if r[answer] and r[context]]
        return bool(pairs) and sum(a in c for a, c in pairs) >= 0.9 * len(pairs)

    def _text_to_text(self) -> Columns | None:
        if self.named.text and self.named.label:
            roles = {"text": self.named.text, "pair": self.named.pair, "label": self.named.label}
            return self._result("text_to_text", roles)
        if self.named.kind is None and self._find(("label", "labels")):
            return None
        for sure, pairs in ((True, COMPLETIONS_SURE), (False, COMPLETIONS)):
            for names in pairs:
                prompt = self._first(self.named.text, names[:1], "string")
                completion = self._first(self.named.label, names[1:], "string")
                if not prompt or not completion or prompt == completion:
                    continue
                if sure or self.named.kind or self._is_free_text(completion):
                    more = self.named.pair
                    if names[0] == "instruction" and not more:
                        more = self._first(None, ("input",), "string")
                    roles = {"text": prompt, "pair": more, "label": completion}
                    return self._result("text_to_text", roles)
        return None

    def _is_free_text(self, name: str) -> bool:
        """Whether a text column has too many distinct values to be classes."""
        labels = read_labels(self.raw, name)
        return labels.style == "text" and len(labels.values) > max(2, min(50, labels.rows // 2))

    # -- sequence kinds -------------------------------------------------------------

    def _sequence(self, kind: Kind | None) -> Columns:
        text, pair = self._text_by_name()
        label = self.named.label or self._label_by_name((text, pair))
        text = text or self._text_by_type(label)
        label = label or self._label_by_type((text, pair))
        labels = read_labels(self.raw, label)
        remark = ""
        if kind is None:
            kind, remark = self._sequence_kind(labels, label)
        return self._result(kind, {"text": text, "pair": pair, "label": label}, remark)

    def _text_by_name(self) -> tuple[str | None, str | None]:
        if self.named.text:
            return self.named.text, self.named.pair
        if not self.named.pair:
            for names in PAIRS:
                found = self._find(names)
                if len(found) == 2 and all(is_string(self._type(c)) for c in found):
                    weak = names[1] in ("answer", "aspect")
                    if not weak or self._find(LABELS_SURE + LABELS, found):
                        return found[0], found[1]
        # A column of mixed types is held as text, so it is found here and refused later.
        sure = self._first(None, TEXTS_SURE, "string")
        if sure:
            return sure, self.named.pair
        for usual in (TEXTS, TEXTS_LAST):
            found = [c for c in self._find(usual) if is_string(self._type(c))]
            if len(found) > 1:
                found = [c for c in found if self._is_prose(c)] or found
            if len(found) > 1:
                self._ambiguous_text(found)
            if found:
                return found[0], self.named.pair
        return None, self.named.pair

    def _text_by_type(self, label: str | None) -> str:
        found = [c for c in self.free if c != label and self._is_prose(c)]
        if len(found) == 1:
            return found[0]
        if found:
            self._ambiguous_text(found)
        named = self._find(TEXTS_SURE + TEXTS, (label,))
        if named:
            return named[0]  # of another type than text: the checks refuse it and tell the type
        raise DataError(
            f"{self.raw.origin} has no column that looks like text.",
            f"Its columns are {quoted(self.raw.table.column_names)}; none has a usual name "
            "(text, sentence, review, ...) or holds mostly different texts.",
            f"Name the column with {option('text')}.",
        )

    def _is_prose(self, name: str) -> bool:
        """Whether a column's first thousand cells are mostly different texts of some length."""
        if not is_string(self._type(name)):
            return False
        cells = [t for t in self.raw.table[name].slice(0, 1000).to_pylist() if t and t.strip()]
        words = [t for t in cells if " " in t.strip()]
        return len(words) * 2 > len(cells) and len(set(cells)) * 2 > len(cells)

    def _ambiguous_text(self, found: Sequence[str]) -> NoReturn:
        raise DataError(
            f"{self.raw.origin} has several columns that may be the text: {quoted(found)}.",
            "Which one is meant cannot be told from their names or contents.",
            f"Name it with {option('text')}; if two of them belong together, name the second "
            f"with {option('pair')}.",
        )

    def _label_by_name(self, taken: Sequence[str | None]) -> str | None:
        sure = [c for c in self._find(LABELS_SURE, taken) if self._may_be_label(c)]
        fit = [c for c in sure if self._is_label(c)]
        if fit or (sure and plain(sure[0]) in LABELS_SURE[:3]):
            return (fit or sure)[0]
        found = [c for c in self._find(LABELS, taken) if self._may_be_label(c)]
        fit = [c for c in found if self._is_label(c)]
        if len(fit) > 1:
            self._ambiguous_label(fit)
        # A column with a label's name that holds none is better refused by name than passed over.
        return next(iter(fit or sure or found), None)

    def _label_by_type(self, taken: Sequence[str | None]) -> str:
        rest = [c for c in self.free if c not in taken]
        found = [c for c in rest if self._may_be_label(c) and self._is_label(c)]
        if len(found) > 1:
            self._ambiguous_label(found)
        if not found:
            raise DataError(
                f"{self.raw.origin} has no column that looks like a label.",
                (f"Left besides the text: {quoted(rest)}; none" if rest else "No column is left "
                 "besides the text; none") + " has a usual name (label, class, score, ...) or "
                "holds a few classes.",
                f"Name the column with {option('label')}, or add one.",
            )  # fmt: skip
        return found[0]

    def _may_be_label(self, name: str) -> bool:
        dtype = self._type(name)
        return is_scalar(dtype) or is_list(dtype) or pa.types.is_null(dtype)

    def _is_label(self, name: str) -> bool:
        """Whether a column holds a few classes, or numbers with a fraction."""
        if not is_scalar(self._type(name)):
            return False
        labels = read_labels(self.raw, name)
        if labels.style == "float":
            return len(labels.values) > 1
        if labels.style == "integer":
            return len(labels.values) > 1 and are_classes(labels)
        return 2 <= len(labels.values) <= max(2, min(200, labels.rows // 2))

    def _ambiguous_label(self, found: Sequence[str]) -> NoReturn:
        raise DataError(
            f"{self.raw.origin} has several columns that may be the label: {quoted(found)}.",
            "Which one is meant cannot be told from their names or contents.",
            f"Name it with {option('label')}.",
        )

    def _sequence_kind(self, labels: Labels, name: str) -> tuple[Kind, str]:
        """Tell classes from quantities, with a remark where the user may see it otherwise."""
        if name in self.raw.label_names or labels.style in ("text", "boolean"):
            return "classification", ""
        whole = all(float(v).is_integer() for v in labels.values)
        as_classes = f"--task-kind classification reads them as {len(labels.values)} classes"
        if labels.style == "float":
            few = whole and 1 < len(labels.values) <= 20
            remark = (
                f"{quote(name)} holds floats, though whole numbers only, and is read as numbers"
            )
            return "regression", f"{remark}; {as_classes}" if few else ""
        if are_classes(labels):
            return "classification", self._about_order(labels, name)
        n = len(labels.values)
        if n == labels.rows and n > 10 and max(labels.values) - min(labels.values) == n - 1:
            raise DataError(
                f"{self.raw.at(name)} counts the rows: {min(labels.values)} to "
                f"{max(labels.values)}, each once.",
                "A row number says nothing about the text.",
                f"Name the label column with {option('label')}, or say that these are "
                f"quantities: {option('kind', 'regression')}.",
            )
        return "regression", f"{quote(name)} holds {n:,} different whole numbers and is read as " \
            f"numbers; {as_classes}"  # fmt: skip

    def _about_order(self, labels: Labels, name: str) -> str:
        """Say that ratings have an order which classes lose."""
        low, high = min(labels.values), max(labels.values)
        n = len(labels.values)
        if plain(name) not in RATINGS or n < 3 or high - low + 1 != n:
            return ""
        return (
            f"{quote(name)} holds ratings from {low} to {high} and is read as {n} classes, without "
            f"their order; as numbers: {option('kind', 'regression')}"
        )


def _is_choice_list(dtype: pa.DataType) -> bool:
    """Whether a type is a list of texts or numbers."""
    inner = dtype.value_type if is_list(dtype) else dtype
    is_number = pa.types.is_integer(inner) or pa.types.is_floating(inner)
    return is_list(dtype) and (is_string(inner) or is_number)


def _is_keyed_choices(dtype: pa.DataType) -> bool:
    """Whether a type is ``{"text": [...], "label": [...]}``, as ARC writes choices."""
    return pa.types.is_struct(dtype) and {"text", "label"} <= {f.name for f in dtype}


def _is_answers(dtype: pa.DataType) -> bool:
    """Whether a type is SQuAD's ``{"text": [...], "answer_start": [...]}`` or a list of such."""
    if is_list(dtype):
        dtype = dtype.value_type
    return pa.types.is_struct(dtype) and {"text", "answer_start"} <= {f.name for f in dtype}
