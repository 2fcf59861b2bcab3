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
from taskscout.methods.fusion import parse_method
from taskscout.methods.gains import Gains, read_table
from taskscout.methods.joint import Joint, Parts, announce, leaves, reads, split
from taskscout.methods.method import Description, Method, method_names
from taskscout.methods.topics import ATTACHED
from taskscout.models.workbench import Workbench
from taskscout.pools.build import FROM_TUNED
from taskscout.pools.pool import Pool
from taskscout.ranking import ALL, COMPOSED
from taskscout.tasks import Task, TaskCard
from taskscout.tasks.catalogue import Catalogue

Array = NDArray[np.float64]

#: Description of a source's card, which needs no making.
CARD = "card"
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
    return any(
        m.cost == "tuning" or "tuned source" in m.needs or m.key in FROM_TUNED
        for m in leaves(method)
    )


class Describer:
    """Descriptions of a grid's sources: the pool's where it has them, else made once."""

    def __init__(self, materials: Materials, bench: Workbench) -> None:
        self._materials, self._bench = materials, bench
        self._made: dict[tuple[str, str], Description | None] = {}
        #: Seconds that making took, by key and source.
        self.seconds: dict[tuple[str, str], float] = {}
        pool = materials.pool
        fits = pool is not None and pool.encoder["fingerprint"] == bench.encoder.fingerprint
        self._pool = pool if fits else None

    @property
    def attached(self) -> dict[str, Any]:
        """Options that the pool has for methods: its topic model."""
        topics = None if self._pool is None else self._pool.attached(ATTACHED)
        return {} if topics is None else {"pool_model": topics}

    def prepare(self, source: str, methods: Iterable[Method]) -> None:
        """Make what methods read of a source and the pool does not have, all at one sitting."""
        task: Task | None = None
        for method in methods:
            for key in reads(method):
                if self._in_pool(source, key) or (key, source) in self._made:
                    continue
                self._made[key, source] = None
                if key == CARD:
                    self._take_card(source)
                    continue
                maker = next((m for m in leaves(method) if key in reads(m)), None)
                if maker is None or (tunes(maker) and not self._materials.tune):
                    continue
                task = task or self._materials.task(source)
                if task is None:
                    continue
                self._make(task, maker)
        if task is not None:
            self._bench.forget(task)

    def get(self, source: str, method: Method) -> Description | None:
        """What a method reads of a prepared source; None where nothing of it can be had."""
        held = [
            k
            for k in reads(method)
            if self._in_pool(source, k) or self._made.get((k, source)) is not None
        ]
        if not held:
            return None
        if len(reads(method)) == 1:
            return self._read(source, held[0])
        return Joint("+".join(held), source, parts=Parts(held, lambda k: self._read(source, k)))

    def _in_pool(self, source: str, key: str) -> bool:
        return (
            self._pool is not None
            and source in self._pool
            and key in self._pool.source(source).headers
        )

    def _read(self, source: str, key: str) -> Description:
        if self._in_pool(source, key):
            assert self._pool is not None
            found = self._pool.source(source).headers[key]
            self.seconds.setdefault((key, source), float(found.get("seconds", np.nan)))
            return self._pool.description(source, key)
        made = self._made[key, source]
        assert made is not None  # get() only names what is there
        return made

    def _take_card(self, source: str) -> None:
        card = self._materials.card(source)
        if card is not None:
            self._made[CARD, source] = Description(CARD, source, card.to_dict())
            self.seconds[CARD, source] = 0.0

    def _make(self, task: Task, maker: Method) -> None:
        """Describe a source for one method, if that can be done."""
        start = time.perf_counter()
        try:
            described = split(maker.describe(task, self._bench))
        except TaskscoutError:
            return  # such as a kind of task that this method cannot describe
        for each in described:
            self._made[each.key, task.name] = each
            self.seconds[each.key, task.name] = time.perf_counter() - start


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
    written = _written(methods, tune=materials.tune)
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
        self.sizes: list[int] = []
        self.reasons: dict[str, list[str]] = {}

    def ask(
        self, i: int, target: Task, describer: Describer, gains: Gains, bench: Workbench
    ) -> None:
        """Ask for the scores of one target, or note why there are none."""
        if target.kind not in self.method.kinds:
            self.reasons.setdefault(f"targets of kind {target.kind}", []).append(target.name)
            return
        found = {
            j: description
            for j, source in enumerate(gains.sources)
            if source != target.name
            and (description := describer.get(source, self.method)) is not None
        }
        if not found:
            self.reasons.setdefault("no source has what it reads", []).append(target.name)
            return
        method = _without(self.written, self.method, gains, target.name, describer.attached)
        none = method.none(bench)
        sources = [*found.values(), *([none] if none is not None else [])]
        start = time.perf_counter()
        try:
            values = method.score(target, sources, bench)
        except TaskscoutError as error:
            self.reasons.setdefault(f"{error.found} {error.why}", []).append(target.name)
            return
        self.seconds.append(time.perf_counter() - start)
        self.scores[i, list(found)] = values[: len(found)]
        if none is not None:
            self.none[i] = values[-1]
        self.sizes = self.sizes or [d.size for d in found.values()]

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
        held = [
            s for s, x in zip(gains.sources, self.scores.T, strict=True) if not np.isnan(x).all()
        ]
        return Predicted(
            self.name,
            self.scores,
            self.none,
            float(np.mean(self.seconds)),
            float(np.mean(self.sizes)),
            _offline(describer, self.method, held),
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


def _written(methods: Iterable[str | Method], *, tune: bool) -> list[str | Method]:
    """Methods without repetitions, ``all`` spelt out."""
    out: dict[str | Method, None] = {}
    for each in methods:
        if each != ALL:
            out[each] = None
            continue
        for name in method_names():
            if name not in COMPOSED and (tune or parse_method(name).cost != "tuning"):
                out[name] = None
    return list(out)


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


def _offline(describer: Describer, method: Method, sources: Sequence[str]) -> float:
    """Mean seconds to describe one source for a method."""
    totals = [sum(describer.seconds.get((k, s), 0.0) for k in reads(method)) for s in sources]
    return float(np.mean(totals)) if totals else float("nan")


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
