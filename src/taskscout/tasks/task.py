"""The task: a dataset with a kind, canonical columns, splits, a card and a fingerprint.

Rows are held as Arrow tables, one per split. ``datasets`` takes more than a second to
import, so a ``datasets.DatasetDict`` is made from the same buffers only when asked for
(:attr:`Task.dataset`); the other way round, :meth:`Task.from_dataset` keeps the memory map
of the dataset it is given.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from taskscout.errors import DataError
from taskscout.notebook import table_html
from taskscout.tasks import splitting
from taskscout.tasks.arrow import integers, is_null, list_lengths
from taskscout.tasks.arrow import take as take_rows
from taskscout.tasks.card import TaskCard
from taskscout.tasks.kinds import COLUMNS, LABEL, SEQUENCE_KINDS, SPLITS, Kind
from taskscout.tasks.raw import class_list

if TYPE_CHECKING:
    import pandas as pd
    from datasets import DatasetDict

    from taskscout.tasks.readers import Rows, TaskParts


def _digest(parts: Iterable[bytes], key: bytes = b"") -> bytes:
    """Sixteen bytes that identify a sequence of byte strings (length-prefixed)."""
    h = hashlib.blake2b(digest_size=16, key=key)
    for part in parts:
        h.update(struct.pack("<q", len(part)))
        h.update(part)
    return h.digest()


def _encode(value: Any) -> bytes:
    """A canonical byte string of one cell: the same content gives the same bytes."""
    if value is None:
        return b"n"
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bool | int | np.integer):
        return b"i%d" % int(value)
    if isinstance(value, float | np.floating):
        return b"f" + struct.pack("<d", float(value))
    if isinstance(value, list | tuple):
        return b"l" + b"".join(
            struct.pack("<q", len(e)) + e for e in (_encode(item) for item in value)
        )
    raise TypeError(f"no canonical form for {type(value).__name__}")


@dataclass(frozen=True, eq=False)
class Task:
    """A dataset with a kind, canonical columns, splits, a card and a fingerprint.

    Attributes
    ----------
    name
        Short name, used in tables and file names.
    kind
        One of :data:`KINDS`.
    tables
        Arrow tables by split name, canonical columns only (:data:`COLUMNS`). For
        classification and tagging, ``label`` holds class ids.
    label_names
        Names of the classes, by id; empty for kinds without classes.
    card
        Name, licence, home page and so on.
    notes
        Lines for the user: what was inferred, dropped or truncated.
    made_splits
        True where the data came without splits and taskscout made them.
    """

    name: str
    kind: Kind
    tables: Mapping[str, pa.Table]
    label_names: tuple[str, ...] = ()
    card: TaskCard = None  # type: ignore[assignment]  # filled in __post_init__
    notes: tuple[str, ...] = ()
    made_splits: bool = False

    def __post_init__(self) -> None:
        required, optional = COLUMNS[self.kind]
        for split, table in self.tables.items():
            missing = [c for c in required if c not in table.column_names]
            if missing:
                raise DataError(
                    f"Task {self.name!r}, split {split!r}: no column {missing[0]!r}.",
                    f"A {self.kind} task has the columns {', '.join(required)}.",
                    "Rename the column, or name it when reading the file.",
                )
            extra = [c for c in table.column_names if c not in required + optional]
            if extra:
                raise DataError(
                    f"Task {self.name!r}, split {split!r}: column {extra[0]!r} is not canonical.",
                    f"A {self.kind} task has {', '.join(required + optional)} and no others.",
                    "Drop the column.",
                )
        card = self.card or TaskCard(name=self.name)
        card = replace(
            card,
            kind=self.kind,
            rows={s: t.num_rows for s, t in self.tables.items()},
            label_names=self.label_names,
            pair=self.is_pair if self.kind in SEQUENCE_KINDS else None,
        )
        object.__setattr__(self, "card", card)

    # -- where tasks come from ------------------------------------------------

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> Task:
        """Read CSV, TSV, JSONL, Parquet or Arrow; see :func:`taskscout.tasks.readers.read_file`."""
        from taskscout.tasks.readers import read_file

        return cls._of(read_file(path, **options))

    @classmethod
    def of(cls, data: Task | str | Path | Rows | Mapping[str, Rows]) -> Task:
        """Read a task from whatever holds it.

        Parameters
        ----------
        data
            A task, which is given back; a file; ``hub:owner/name`` or
            ``hub:owner/name:configuration``; or what :meth:`from_dataset` takes.

        Raises
        ------
        DataError
            Where it cannot be read.
        """
        if isinstance(data, Task):
            return data
        if isinstance(data, str) and data.startswith("hub:"):
            repository, _, config = data.removeprefix("hub:").partition(":")
            return cls.from_hub(repository, config or None)
        if isinstance(data, str | Path):
            return cls.from_file(data)
        return cls.from_dataset(data, name="target")

    @classmethod
    def from_dataset(cls, dataset: Rows | Mapping[str, Rows], **options: Any) -> Task:
        """Wrap rows as people hold them; see :func:`taskscout.tasks.readers.read_dataset`."""
        from taskscout.tasks.readers import read_dataset

        return cls._of(read_dataset(dataset, **options))

    @classmethod
    def from_hub(
        cls, hub_id: str, config: str | None = None, split: str | None = None, **options: Any
    ) -> Task:
        """Load from the hub or a local folder; see :func:`taskscout.tasks.readers.read_hub`."""
        from taskscout.tasks.readers import read_hub

        return cls._of(read_hub(hub_id, config, split, **options))

    @classmethod
    def _of(cls, parts: TaskParts) -> Task:
        """Make a task of what was read; splits are made where the data have none."""
        task = cls(
            parts.card.name, parts.kind, parts.tables, parts.label_names, parts.card, parts.notes
        )
        if set(task.tables) != {"train"}:
            return task
        split = task.with_splits()
        if set(split.tables) == {"train"}:  # a handful of rows, or one text throughout
            note = "too few different texts to make splits: all rows are for training"
            return replace(task, notes=(*task.notes, note))
        sizes = ", ".join(f"{s} {split.tables[s].num_rows:,}" for s in split.splits)
        notes = [*task.notes, f"splits made by a hash of the text: {sizes}"]
        lacking = split.classes_lacking()
        for name in SPLITS:
            if name not in split.tables:
                notes.append(f"too few different texts for a {name} split")
            elif name in lacking:
                n = len(lacking[name])
                notes.append(
                    f"no {name} row has the {'label' if n == 1 else f'{n:,} labels'} "
                    f"{class_list(lacking[name])}: too few different texts"
                )
        return replace(split, notes=tuple(notes))

    # -- what tasks hold --------------------------------------------------------

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, training first."""
        known = [s for s in SPLITS if s in self.tables]
        return (*known, *(s for s in self.tables if s not in known))

    @property
    def is_pair(self) -> bool:
        """Whether examples have a second text."""
        return any("text_pair" in t.column_names for t in self.tables.values())

    @property
    def n_classes(self) -> int:
        """Number of classes; 0 for kinds without classes."""
        return len(self.label_names)

    def __len__(self) -> int:
        return sum(t.num_rows for t in self.tables.values())

    def __repr__(self) -> str:
        rows = ", ".join(f"{s} {self.tables[s].num_rows:,}" for s in self.splits)
        return f"Task({self.name!r}, {self.kind}, {rows})"

    def _repr_html_(self) -> str:
        """Rows by split, and the first training rows, for a notebook."""
        first = next(iter(self.splits))
        shown = self.take({first: range(min(3, self.tables[first].num_rows))})
        frame = shown.to_pandas()
        rows = [[str(cell)[:100] for cell in row] for row in frame.itertuples(index=False)]
        return table_html(repr(self), [*frame.columns], rows)

    def to_pandas(self) -> pd.DataFrame:
        """All rows with their split, labels by name where there are classes."""
        import pandas as pd

        frames = []
        for split, table in self.rows():
            frame = table.to_pandas()
            if self.label_names and "label" in frame:
                frame["label"] = [None if v is None else self._named(v)
                                  for v in table.column("label").to_pylist()]  # fmt: skip
            frame.insert(0, "split", split)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """What the task is, as plain JSON types; its rows are in :meth:`to_pandas`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "rows": {split: table.num_rows for split, table in self.rows()},
            "columns": list(self.tables[self.splits[0]].column_names),
            "label_names": list(self.label_names),
            "made_splits": self.made_splits,
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
            "card": self.card.to_dict(),
        }

    @cached_property
    def dataset(self) -> DatasetDict:
        """The same rows as a ``datasets.DatasetDict``, with ``ClassLabel`` features."""
        from datasets import ClassLabel, Dataset, DatasetDict, Features
        from datasets.features import List

        out = {}
        for split in self.splits:
            table = self.tables[split]
            features = Features.from_arrow_schema(table.schema)
            if self.kind == "classification":
                features["label"] = ClassLabel(names=list(self.label_names))
            elif self.kind == "tagging":
                features["label"] = List(ClassLabel(names=list(self.label_names)))
            out[split] = Dataset(table.replace_schema_metadata(None)).cast(features)
        return DatasetDict(out)

    def column(self, split: str, name: str) -> list[Any]:
        """One column of one split as Python values."""
        if split not in self.tables:
            raise DataError(
                f"Task {self.name!r} has no split {split!r}.",
                f"Its splits are {', '.join(self.splits)}.",
                "Ask for one of these.",
            )
        values: list[Any] = self.tables[split].column(name).to_pylist()
        return values

    def inputs(self, split: str) -> tuple[list[str], list[str] | None]:
        """The texts an encoder reads, and their second texts where there are any.

        Tokens are joined by spaces; a question is paired with its context; the choices of a
        multiple-choice example follow its text.
        """
        if self.kind == "tagging":
            return [" ".join(tokens) for tokens in self.column(split, "tokens")], None
        if self.kind == "span_qa":
            return self.column(split, "question"), self.column(split, "context")
        if self.kind == "text_to_text":
            return self.column(split, "prompt"), None
        texts = self.column(split, "text")
        pairs = None
        if "text_pair" in self.tables[split].column_names:
            pairs = [p or "" for p in self.column(split, "text_pair")]
        if self.kind == "multiple_choice":
            choices = [" ".join(c) for c in self.column(split, "choices")]
            texts = [f"{t} {c}" for t, c in zip(texts, choices, strict=True)]
        return texts, pairs

    def labels(self, split: str) -> NDArray[Any]:
        """Labels of a sequence task: int64 class ids, or float64 values for regression."""
        if self.kind not in SEQUENCE_KINDS:
            raise DataError(
                f"Task {self.name!r} is of kind {self.kind}.",
                "Its examples have no single label.",
                f"Use a task of kind {' or '.join(SEQUENCE_KINDS)}.",
            )
        dtype = np.int64 if self.kind == "classification" else np.float64
        return np.asarray(self.column(split, "label"), dtype=dtype)

    # -- identity -----------------------------------------------------------------

    def _row_digests(self, split: str, key: bytes = b"") -> list[bytes]:
        table = self.tables[split]
        names = sorted(table.column_names)
        columns = [table.column(n).to_pylist() for n in names]
        heads = [n.encode() for n in names]
        as_name = self.kind in ("classification", "tagging") and self.label_names
        if as_name:
            at = names.index("label")
            columns[at] = [self._named(v) for v in columns[at]]
        return [
            _digest(
                (p for h, v in zip(heads, row, strict=True) if v is not None
                 for p in (h, _encode(v))),
                key,
            )
            for row in zip(*columns, strict=True)
        ]  # fmt: skip

    def _named(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.label_names[v] for v in value]
        return self.label_names[value]

    @cached_property
    def fingerprint(self) -> str:
        """Thirty-two hex digits that change exactly when the content does.

        Content is the kind and, per split, the multiset of rows with labels by name. The
        order of rows and columns, the file format and the task's own name do not count.
        """
        parts = [self.kind.encode()]
        for split in sorted(self.tables):
            parts += [split.encode(), *sorted(self._row_digests(split))]
        return _digest(parts).hex()

    # -- selections -----------------------------------------------------------------

    def take(self, rows: Mapping[str, Sequence[int] | NDArray[np.int64]]) -> Task:
        """The given rows of the given splits, in that order; other splits are dropped."""
        tables = {s: take_rows(self.tables[s], r) for s, r in rows.items()}
        return replace(self, tables=tables)

    def sample(self, n: int, *, split: str = "train", seed: int = 0) -> Task:
        """At most ``n`` rows of one split; other splits stay.

        The choice is by a keyed hash of the content, so it does not depend on the order of
        the rows, and, for classification, each class keeps its share (largest remainders;
        no class loses its last example while there is room).
        """
        table = self.tables[split]
        if table.num_rows <= n:
            return self
        digests = self._row_digests(split, key=b"sample%d" % seed)
        order = sorted(range(len(digests)), key=digests.__getitem__)
        if self.kind == "classification" and not table["label"].null_count:
            order = _stratified(order, self.labels(split), n)
        chosen = sorted(order[:n])
        return replace(self, tables={**self.tables, split: take_rows(table, chosen)})

    def for_choosing(self, examples: int | None = None, *, seed: int = 0) -> Task:
        """Get the rows by which a source may be chosen, as one split ``train``.

        These are the training rows. Test rows choose nothing, for they prove the gain of what was
        chosen; validation rows choose no source either, for early stopping and the choice between
        the models that were trained look at them. It makes no difference who made the splits.
        Whatever chooses (rankings, refining, the target's side of a task embedding, the
        predictions of a study) is given this task, not the whole.

        A target whose rows have no labels at all is read whole: its rows prove nothing.

        Parameters
        ----------
        examples
            At most so many rows, each class at its share (:meth:`sample`); None for all.
        seed
            Seed of that sample.

        Raises
        ------
        DataError
            Where there are labels, but no training rows.
        """
        if "train" in self.tables:
            split = self.tables["train"]
        elif all(is_null(t.column(LABEL[self.kind])).all() for t in self.tables.values()):
            split = pa.concat_tables([self.tables[s] for s in self.splits])
        else:
            raise DataError(
                f"Task {self.name!r} has no training rows, only {' and '.join(self.splits)}.",
                "A source is chosen by training rows alone, so that test rows can tell what the "
                "choice is worth.",
                "Give training rows too, or make splits of these: task.with_splits().",
            )
        rows = replace(self, tables={"train": split})
        return rows if examples is None else rows.sample(examples, seed=seed)

    def with_splits(self, *, validation: float = 0.1, test: float = 0.2, seed: int = 0) -> Task:
        """Split all rows by a hash of their first text; existing splits are joined first.

        Rows that share their first text stay together, the order of the rows does not matter, and
        every class is in every split as far as its rows allow: from three different texts on it is
        in all three, from two on in training and test (:mod:`taskscout.tasks.splitting`). Adding
        rows moves few of the old ones to another split.
        """
        table = pa.concat_tables([self.tables[s] for s in self.splits])
        whole = replace(self, tables={"all": table})
        texts, _ = whole.inputs("all")
        place = splitting.places(
            texts, whole._classes("all"), validation=validation, test=test, seed=seed
        )
        order = (splitting.TRAIN, splitting.VALIDATION, splitting.TEST)
        rows = {s: np.flatnonzero(place == at) for s, at in zip(SPLITS, order, strict=True)}
        tables = {s: take_rows(table, r) for s, r in rows.items() if len(r)}
        return replace(self, tables=tables, made_splits=True)

    def classes_lacking(self) -> dict[str, tuple[str, ...]]:
        """Name the classes of which a split has no row, by split; only splits that lack some."""
        out = {}
        for split in self.splits:
            classes = self._classes(split)
            if classes is not None and self.label_names:
                there = set(classes[1].tolist())
                lacking = tuple(n for c, n in enumerate(self.label_names) if c not in there)
                out.update({split: lacking} if lacking else {})
        return out

    def _classes(self, split: str) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Pair the rows of a split with their classes; None for kinds without classes.

        A sentence has the classes of its tags, a question that of being answerable or not.
        """
        column = self.tables[split].column(LABEL[self.kind])
        if self.kind == "classification":
            labels = integers(column, -1)
            return np.flatnonzero(labels >= 0), labels[labels >= 0]
        if self.kind == "tagging":
            owners = np.repeat(np.arange(len(column)), list_lengths(column))
            return owners, integers(pc.list_flatten(column), -1)
        if self.kind == "span_qa":
            starts = integers(self.tables[split].column("answer_start"), -1)
            return np.arange(len(starts)), (starts >= 0).astype(np.int64)
        return None

    def rows(self) -> Iterator[tuple[str, pa.Table]]:
        """Splits and their tables, training first."""
        for split in self.splits:
            yield split, self.tables[split]


def _stratified(order: list[int], labels: NDArray[Any], n: int) -> list[int]:
    """``n`` entries of ``order`` with each class at its share of ``labels``."""
    by_class: dict[int, list[int]] = {}
    for i in order:
        by_class.setdefault(int(labels[i]), []).append(i)
    share = {c: n * len(rows) / len(order) for c, rows in by_class.items()}
    quota = {c: int(s) for c, s in share.items()}
    # Remainders, classes without any example first; ties by class id.
    queue = sorted(share, key=lambda c: (quota[c] > 0, quota[c] - share[c], c))
    for c in queue[: n - sum(quota.values())]:
        quota[c] += 1
    return [i for c in sorted(by_class) for i in by_class[c][: quota[c]]]
