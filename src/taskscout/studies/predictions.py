"""What methods predict for the pairs of a grid: each is asked as a ranking would ask it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError, StudyError, TaskscoutError
from taskscout.methods.asking import ask, held, offline_seconds
from taskscout.methods.expression import parse_method, spelt_out
from taskscout.methods.gains import Gains, read_table
from taskscout.methods.joint import announce, leaves, split
from taskscout.methods.method import CARD, Description, Method
from taskscout.methods.topics import ATTACHED
from taskscout.models.workbench import Workbench
from taskscout.pools.pool import Pool
from taskscout.pools.shelf import PoolShelf
from taskscout.tasks import Task, TaskCard
from taskscout.tasks.catalogue import Catalogue

Array = NDArray[np.float64]

#: Methods whose cost is no more than counting words read no embedding of the target.
_NO_EMBEDDING = ("card", "words")


@dataclass(frozen=True)
class Predicted:
    """What one method predicts for every pair of a grid, and what that cost.

    Attributes
    ----------
    method
        Its name.
    scores
        Targets × sources of the grid, higher is better, NaN where it has no score.
    none
        Score of "use no source" per target; NaN where it has none.
    seconds
        Mean time to score one target against all sources, without the embedding of the target
        that all methods share; NaN where unknown.
    bytes_per_source
        Mean size of what it reads of a source; NaN where unknown.
    offline_seconds
        Mean time to describe one source; NaN where unknown.
    """

    method: str
    scores: Array
    none: Array
    seconds: float = float("nan")
    bytes_per_source: float = float("nan")
    offline_seconds: float = float("nan")


def prior_of(gains: Gains) -> Predicted:
    """The target-blind control: mean gain of each source over all other targets.

    What the method ``source-prior`` says, without any data at hand.
    """
    scores = np.stack([gains.prior(gains.sources, target) for target in gains.targets])
    return Predicted("source-prior", scores, np.zeros(len(gains.targets)))


@dataclass
class Materials:
    """Where a study finds the data of a grid's tasks.

    Attributes
    ----------
    catalogue
        Labelled datasets by name; None where there are none.
    pool
        Its descriptions are used where it has them and its encoder is the workbench's.
    sizes
        Rows of each target that training saw, by name; 0 for the whole training split.
    default_size
        Of targets that ``sizes`` does not name.
    names
        Names of the grid's tasks in the catalogue, where they differ.
    tune
        Allow methods that tune the encoder on a source or target.
    """

    catalogue: Catalogue | None = None
    pool: Pool | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    default_size: int = 1000
    names: Mapping[str, str] = field(default_factory=dict)
    tune: bool = False

    def task(self, name: str) -> Task | None:
        """The data of a task under the grid's name, or None."""
        called = self.names.get(name, name)
        if self.catalogue is None or called not in self.catalogue.names:
            return None
        task = self.catalogue.task(called)
        return replace(task, name=name, card=replace(task.card, name=name))

    def target(self, name: str) -> Task | None:
        """A target with the rows that training saw, or None."""
        task = self.task(name)
        if task is None:
            return None
        return task.for_choosing(self.sizes.get(name, self.default_size) or None)

    def card(self, name: str) -> TaskCard | None:
        """The card of a source, or None."""
        if self.pool is not None and name in self.pool:
            return self.pool.source(name).card
        task = self.task(name)
        return None if task is None else task.card


def tunes(method: Method) -> bool:
    """Whether describing a source for a method takes a tuned model, or scoring a target does."""
    return any(m.cost == "tuning" or m.describes_from != "texts" for m in leaves(method))


class Describer:
    """Descriptions of a grid's sources: the pool's where it has them, else made once.

    A :class:`taskscout.methods.asking.Shelf`.
    """

    def __init__(self, materials: Materials, bench: Workbench) -> None:
        self._materials, self._bench = materials, bench
        #: None for what was tried and cannot be made.
        self._described: dict[tuple[str, str], Description | None] = {}
        self._seconds: dict[tuple[str, str], float] = {}
        pool = materials.pool
        fits = pool is not None and pool.encoder["fingerprint"] == bench.encoder.fingerprint
        self._pool = pool if fits else None
        self._shelf = None if self._pool is None else PoolShelf(self._pool)

    @property
    def attached(self) -> dict[str, Any]:
        """Options that the pool has for methods: its topic model."""
        topics = None if self._pool is None else self._pool.attached(ATTACHED)
        return {} if topics is None else {"pool_model": topics}

    def prepare(self, source: str, methods: Iterable[Method]) -> None:
        """Make what methods read of a source and the pool does not have, all at one sitting."""
        task: Task | None = None
        for method in (leaf for each in methods for leaf in leaves(each)):
            for key in method.reads:
                if self.holds(source, key) or (source, key) in self._described:
                    continue
                self._described[source, key] = None
                if key == CARD:
                    self._take_card(source)
                    continue
                if tunes(method) and not self._materials.tune:
                    continue
                task = task or self._materials.task(source)
                if task is not None:
                    self._make(task, method)
        if task is not None:
            self._bench.forget(task)

    def holds(self, source: str, key: str) -> bool:
        """Whether the pool has a description, or it was made."""
        if self._shelf is not None and self._shelf.holds(source, key):
            return True
        return self._described.get((source, key)) is not None

    def read(self, source: str, key: str) -> Description:
        """Read a description of the pool's, or hand out one that was made."""
        described = self._described.get((source, key))
        if described is not None:
            return described
        assert self._shelf is not None  # only what is held is read
        return self._shelf.read(source, key)

    def seconds(self, source: str, key: str) -> float:
        """What making a description took, as the pool says or as it was measured."""
        if (source, key) in self._seconds:
            return self._seconds[source, key]
        return float("nan") if self._shelf is None else self._shelf.seconds(source, key)

    def _take_card(self, source: str) -> None:
        card = self._materials.card(source)
        if card is not None:
            self._described[source, CARD] = Description(CARD, source, card.to_dict())
            self._seconds[source, CARD] = 0.0

    def _make(self, task: Task, method: Method) -> None:
        """Describe a source for one method, if that can be done."""
        start = time.perf_counter()
        try:
            parts = split(method.describe(task, self._bench))
        except TaskscoutError:
            return  # such as a kind of task that this method cannot describe
        for part in parts:
            self._described[task.name, part.key] = part
            self._seconds[task.name, part.key] = time.perf_counter() - start


@dataclass(frozen=True)
class Asked:
    """The outcome of :func:`predict`.

    Attributes
    ----------
    predicted
        One per method that says anything.
    notes
        Which methods, sources and targets were left out, and why.
    embedding_seconds
        Mean time to embed a target's rows, which methods share; 0 where all were cached.
    """

    predicted: tuple[Predicted, ...]
    notes: tuple[str, ...]
    embedding_seconds: float


def predict(
    gains: Gains,
    methods: Iterable[str | Method],
    materials: Materials,
    bench: Workbench,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Asked:
    """Ask methods for their scores of every source of a grid for each of its targets.

    Methods are used as a ranking uses them: described sources, a target's rows, scores. Those
    that learn from transfer results (``source-prior``, ``taskshop``) are given the grid without
    the target's own results. A target's rows are those that training saw.

    Parameters
    ----------
    gains
        The grid.
    methods
        As written on the command line, or made; ``all`` for every method that is not made of
        others and, unless tuning is allowed, tunes nothing on the target. One method with several
        options, ``esm-logme`` and ``esm-logme(compat=true)``, has a row for each.
    materials
        Where data and descriptions are.
    bench
        With the grid's encoder.
    progress
        Called with (what, done, total).

    Raises
    ------
    MethodError
        If a method is unknown, or two made ones have one name.
    StudyError
        If no target's data are at hand.
    """
    notes: list[str] = []
    usable: list[_Answers] = []
    describer = Describer(materials, bench)
    written, _ = spelt_out(methods, costly=materials.tune)
    for each in _named(written, gains, describer.attached):
        if any(m.cost == "tuning" for m in leaves(each.method)) and not materials.tune:
            notes.append(f"{each.name} is not shown: it tunes the encoder; allow it with --tune.")
        else:
            usable.append(each)
    announce((a.method for a in usable), bench)
    for j, source in enumerate(gains.sources):
        if progress is not None:
            progress("describing sources", j, len(gains.sources))
        describer.prepare(source, [a.method for a in usable])
    missing, embedding = [], []
    embeds = any(a.method.cost not in _NO_EMBEDDING for a in usable)
    for i, name in enumerate(gains.targets):
        if progress is not None:
            progress("scoring targets", i, len(gains.targets))
        target = materials.target(name)
        if target is None:
            missing.append(name)
            continue
        start = time.perf_counter()
        if embeds:
            bench.embeddings(target)
        embedding.append(time.perf_counter() - start)
        for answers in usable:
            answers.ask(i, target, describer, gains, bench)
        bench.forget(target)
    if len(missing) == len(gains.targets):
        raise StudyError(
            f"The data of none of the {len(missing)} targets are at hand "
            f"({', '.join(missing[:4])}…).",
            "Methods look at a target's texts.",
            "Give the catalogue that has them (--catalogue, or TASKSCOUT_DATA); a grid with other "
            "names is matched by --rename GRID=CATALOGUE.",
        )
    if missing:
        notes.append(f"no data for {_some(missing)}: not scored by any method")
    out = []
    for answers in usable:
        notes += answers.notes(gains)
        if not np.isnan(answers.scores).all():
            out.append(answers.predicted(describer, gains))
    return Asked(tuple(out), tuple(notes), float(np.mean(embedding)) if embedding else 0.0)


class _Answers:
    """What one method says of a grid, as it is asked target by target."""

    def __init__(self, name: str, written: str | Method, method: Method, gains: Gains) -> None:
        self.name, self.written, self.method = name, written, method
        self.scores = np.full((len(gains.targets), len(gains.sources)), np.nan)
        self.none = np.full(len(gains.targets), np.nan)
        self.seconds: list[float] = []
        self.sizes: list[float] = []
        self.reasons: dict[str, list[str]] = {}

    def ask(
        self, i: int, target: Task, describer: Describer, gains: Gains, bench: Workbench
    ) -> None:
        """Ask for the scores of one target, or note why there are none."""
        if target.kind not in self.method.kinds:
            self.reasons.setdefault(f"targets of kind {target.kind}", []).append(target.name)
            return
        others = [s for s in gains.sources if s != target.name]
        described = held(self.method, others, describer)
        if not described:
            self.reasons.setdefault("no source has what it reads", []).append(target.name)
            return
        method = _without(self.written, self.method, gains, target.name, describer.attached)
        weighed = 0 if self.sizes else None  # every source's description once, for its size
        try:
            answer = ask(method, target, described, describer, bench, weighed=weighed)
        except TaskscoutError as error:
            self.reasons.setdefault(f"{error.found} {error.why}", []).append(target.name)
            return
        self.seconds.append(answer.cost.seconds)
        self.scores[i, [gains.sources.index(n) for n in described]] = answer.scores
        if answer.none is not None:
            self.none[i] = answer.none
        if not self.sizes:
            self.sizes.append(answer.cost.bytes_per_source)

    def notes(self, gains: Gains) -> list[str]:
        """What was left out, and why."""
        out = [f"{self.name} leaves out {_some(n)}: {why}" for why, n in self.reasons.items()]
        lost = [s for s, x in zip(gains.sources, self.scores.T, strict=True) if np.isnan(x).all()]
        if len(lost) == len(gains.sources):
            out.append(f"{self.name} is not shown: it scores no pair of this grid")
        elif lost:
            out.append(f"{self.name} has no score for {_some(lost)}: they come last, tied")
        return out

    def predicted(self, describer: Describer, gains: Gains) -> Predicted:
        """All answers, and what they cost."""
        scored = [
            s for s, x in zip(gains.sources, self.scores.T, strict=True) if not np.isnan(x).all()
        ]
        return Predicted(
            self.name,
            self.scores,
            self.none,
            float(np.mean(self.seconds)),
            float(np.mean(self.sizes)),
            offline_seconds(self.method, scored, describer),
        )


def _named(
    written: Sequence[str | Method], gains: Gains, attached: Mapping[str, Any]
) -> list[_Answers]:
    """Make methods; where two have one name, as with other options, each goes as it is written."""
    made = [_make(w, gains, attached) for w in written]
    names = [m.name for m in made]
    called = [
        w if isinstance(w, str) and names.count(n) > 1 else n
        for w, n in zip(written, names, strict=True)
    ]
    twice = [n for n in called if called.count(n) > 1]
    if twice:
        raise MethodError(
            f"{twice[0]} was asked for more than once.",
            "A study has one row per name of a method.",
            "Name it once.",
        )
    return [_Answers(c, w, m, gains) for c, w, m in zip(called, written, made, strict=True)]


def _make(method: str | Method, gains: Gains, attached: Mapping[str, Any]) -> Method:
    if not isinstance(method, str):
        return method
    return parse_method(method, gains=gains, **attached)


def _without(
    text: str | Method, method: Method, gains: Gains, target: str, attached: Mapping[str, Any]
) -> Method:
    """The method as it is without the target's own transfer results."""
    if isinstance(text, str) and "grid" in method.needs:
        return _make(text, gains.with_targets(t for t in gains.targets if t != target), attached)
    return method


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def target_sizes(
    path: str | Path,
    where: Mapping[str, Any] | None = None,
    *,
    columns: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Rows of each target that training saw, from the column ``size`` of a table of runs.

    Empty where there is no such column; 0 stands for the whole training split.

    Raises
    ------
    StudyError
        If runs of one target have several sizes, or a size is not a number.
    """
    called = (columns or {}).get("target", "target")
    table = read_table(Path(path).expanduser(), texts=(called,))
    if "size" not in table.column_names:
        return {}
    held = {n: table.column(n).to_pylist() for n in (called, "size", *(where or {}))}
    out: dict[str, int] = {}
    for i, (target, size) in enumerate(zip(held[called], held["size"], strict=True)):
        if any(str(held[n][i]) != str(v) for n, v in (where or {}).items() if n != "strategy"):
            continue
        try:
            rows = 0 if size in (None, "", "all") else int(size)
        except ValueError:
            raise StudyError(
                f"{path}, row {i + 1}: the size is {size!r}.",
                "It is a number of rows, 0 for all.",
                "Mend the row, or give --size.",
            ) from None
        if out.setdefault(str(target), rows) != rows:
            raise StudyError(
                f"{path} has runs of {target!r} with {out[str(target)]} and with {rows} rows.",
                "Methods see as many rows as training saw.",
                f"Choose one: --where size={rows}",
            )
    return out


def without_shared_texts(gains: Gains, catalogue: Catalogue, share: float) -> tuple[Gains, int]:
    """Drop the pairs whose source holds more than a share of the target's texts.

    Returns
    -------
    The grid without them, and how many there were.
    """
    scores = gains.scores.copy()
    dropped = 0
    for j, target in enumerate(gains.targets):
        if target not in catalogue.names:
            continue
        held = catalogue.shares_texts_with(target)
        for i, source in enumerate(gains.sources):
            if held.get(source, 0.0) > share and not np.isnan(scores[i, j]).all():
                scores[i, j] = np.nan
                dropped += 1
    return replace(gains, scores=scores), dropped
