"""What methods predict for the pairs of a grid: each is asked as a ranking would ask it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError, StudyError, TaskscoutError
from taskscout.methods.fusion import parse_method
from taskscout.methods.gains import Gains, read_table
from taskscout.methods.joint import Joint, Parts, reads, split
from taskscout.methods.method import Description, Method, method_names
from taskscout.models.workbench import Workbench
from taskscout.pools.pool import Pool
from taskscout.ranking import ALL, COMPOSED, rows_for_ranking
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
        size = self.sizes.get(name, self.default_size)
        return rows_for_ranking(task, size or len(task))

    def card(self, name: str) -> TaskCard | None:
        """The card of a source, or None."""
        if self.pool is not None and name in self.pool:
            return self.pool.source(name).card
        task = self.task(name)
        return None if task is None else task.card


def leaves(method: Method) -> Iterator[Method]:
    """The methods that one is made of; itself where it is made of none."""
    members: Sequence[Method] = getattr(method, "methods", ())
    base: Method | None = getattr(method, "base", None)
    if base is not None:
        members = [base]
    if not members:
        yield method
    for member in members:
        yield from leaves(member)


def tunes(method: Method) -> bool:
    """Whether describing a source for a method takes a tuned model, or scoring a target does."""
    return any(
        m.cost == "tuning" or "tuned source" in m.needs or m.key == "space-map"
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
        others and, unless tuning is allowed, tunes nothing on the target.
    materials
        Where data and descriptions are.
    bench
        With the grid's encoder.
    progress
        Called with (what, done, total).

    Raises
    ------
    MethodError
        If a method is unknown, or named twice.
    StudyError
        If no target's data are at hand.
    """
    written = _written(methods, tune=materials.tune)
    made = [_make(m, gains) for m in written]
    named = [m.name for m in made]
    twice = [n for n in named if named.count(n) > 1]
    if twice:
        raise MethodError(
            f"{twice[0]} was asked for more than once.",
            "A study has one row per name of a method.",
            "Name it once.",
        )
    notes: list[str] = []
    usable = []
    for text, method in zip(written, made, strict=True):
        target_tuned = any(m.cost == "tuning" for m in leaves(method))
        if target_tuned and not materials.tune:
            notes.append(f"{method.name} is not shown: it tunes the encoder; allow it with --tune.")
        else:
            usable.append((text, method))
    t, s = len(gains.targets), len(gains.sources)
    scores = {m.name: np.full((t, s), np.nan) for _, m in usable}
    nones = {m.name: np.full(t, np.nan) for _, m in usable}
    seconds: dict[str, list[float]] = {m.name: [] for _, m in usable}
    sizes: dict[str, list[int]] = {m.name: [] for _, m in usable}
    reasons: dict[str, dict[str, list[str]]] = {m.name: {} for _, m in usable}
    describer = Describer(materials, bench)
    for j, source in enumerate(gains.sources):
        if progress is not None:
            progress("describing sources", j, s)
        describer.prepare(source, [m for _, m in usable])
    missing, embedding = [], []
    embeds = any(m.cost not in _NO_EMBEDDING for _, m in usable)
    for i, name in enumerate(gains.targets):
        target = materials.target(name)
        if progress is not None:
            progress("scoring targets", i, t)
        if target is None:
            missing.append(name)
            continue
        start = time.perf_counter()
        if embeds:
            bench.embeddings(target)
        embedding.append(time.perf_counter() - start)
        others = [j for j, source in enumerate(gains.sources) if source != name]
        for text, method in usable:
            if target.kind not in method.kinds:
                reasons[method.name].setdefault(f"targets of kind {target.kind}", []).append(name)
                continue
            found = [(j, describer.get(gains.sources[j], method)) for j in others]
            known = [(j, d) for j, d in found if d is not None]
            if not known:
                reasons[method.name].setdefault("no source has what it reads", []).append(name)
                continue
            asked = _without(text, method, gains, name)
            none = asked.none(bench)
            sources = [d for _, d in known] + ([none] if none is not None else [])
            start = time.perf_counter()
            try:
                values = asked.score(target, sources, bench)
            except TaskscoutError as error:
                reasons[method.name].setdefault(f"{error.found} {error.why}", []).append(name)
                continue
            seconds[method.name].append(time.perf_counter() - start)
            scores[method.name][i, [j for j, _ in known]] = values[: len(known)]
            if none is not None:
                nones[method.name][i] = values[-1]
            if not sizes[method.name]:
                sizes[method.name] = [d.size for _, d in known]
        bench.forget(target)
    if len(missing) == t:
        raise StudyError(
            f"The data of none of the {t} targets are at hand ({', '.join(missing[:4])}…).",
            "Methods look at a target's texts.",
            "Give the catalogue that has them (--catalogue, or TASKSCOUT_DATA); a grid with other "
            "names is matched by --rename GRID=CATALOGUE.",
        )
    if missing:
        notes.append(f"no data for {_some(missing)}: not scored by any method")
    out = []
    for _, method in usable:
        why = reasons[method.name]
        notes += [f"{method.name} leaves out {_some(n)}: {r}" for r, n in why.items()]
        if np.isnan(scores[method.name]).all():
            notes.append(f"{method.name} is not shown: it scores no pair of this grid")
            continue
        held = [j for j in range(s) if not np.isnan(scores[method.name][:, j]).all()]
        if len(held) < s:
            lost = [gains.sources[j] for j in range(s) if j not in held]
            notes.append(f"{method.name} has no score for {_some(lost)}: they come last, tied")
        out.append(
            Predicted(
                method.name,
                scores[method.name],
                nones[method.name],
                float(np.mean(seconds[method.name])),
                float(np.mean(sizes[method.name])),
                _offline(describer, method, [gains.sources[j] for j in held]),
            )
        )
    return Asked(tuple(out), tuple(notes), float(np.mean(embedding)) if embedding else 0.0)


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


def _make(method: str | Method, gains: Gains) -> Method:
    return parse_method(method, gains=gains) if isinstance(method, str) else method


def _without(text: str | Method, method: Method, gains: Gains, target: str) -> Method:
    """The method as it is without the target's own transfer results."""
    if isinstance(text, str) and "grid" in method.needs:
        return _make(text, gains.with_targets(t for t in gains.targets if t != target))
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
