"""The main job: rank the sources of a pool for a target."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taskscout.errors import MethodError, PoolError, TaskscoutError
from taskscout.files import no_formula
from taskscout.forecasting import (
    NO_GAINS,
    NOT_MEASURED,
    calibration_for,
    forecast_for,
    measured,
    next_command,
    reference_sources,
)
from taskscout.methods import DEFAULT
from taskscout.methods.asking import Answer, MethodCost, ask, held
from taskscout.methods.calibration import Calibration
from taskscout.methods.evidence_rows import NoEvidenceError, evidence_rows
from taskscout.methods.expression import ALL, parse_method, spelt_out
from taskscout.methods.forecast import Advice, Forecast, SourceForecast
from taskscout.methods.joint import announce
from taskscout.methods.method import CARD, Method, get_method
from taskscout.methods.source_features import WORDS
from taskscout.methods.target_facts import unlabelled
from taskscout.methods.topics import ATTACHED
from taskscout.methods.two_stage import refined
from taskscout.models.workbench import Workbench
from taskscout.notebook import table_html
from taskscout.pools.build import OVERLAP
from taskscout.pools.own import pool_or_hint
from taskscout.pools.pool import Pool, Source
from taskscout.pools.shelf import PoolShelf
from taskscout.tasks import Task, TaskCard
from taskscout.tasks.kinds import SEQUENCE_KINDS
from taskscout.tasks.names import NONE
from taskscout.tasks.overlap import MOST_OVERLAP, share_contained, text_hashes

if TYPE_CHECKING:
    import pandas as pd

    from taskscout.tasks.readers import Rows


@dataclass(frozen=True)
class RankedSource:
    """One row of a ranking.

    Attributes
    ----------
    rank
        1 for the best.
    name
        The source, or ``none`` for "use no source".
    score
        Under the ranking's first method; higher is better, NaN where it does not apply.
    scores
        Under every method asked for.
    card
        The source's card; None for ``none``.
    overlap
        Estimated share of the target's texts that the source contains, 0 to 1: of those that were
        ranked or of the test rows, whichever is more; NaN if unknown.
    test_score
        The source's own test score after tuning; NaN if unknown.
    gain
        What it is expected to gain, in points; 0 for ``none``, and None without a forecast.
    """

    rank: int
    name: str
    score: float
    scores: Mapping[str, float]
    card: TaskCard | None = None
    overlap: float = math.nan
    test_score: float = math.nan
    gain: SourceForecast | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN becomes null."""

        def number(value: float) -> float | None:
            return None if math.isnan(value) else float(value)

        card = self.card or TaskCard(name=self.name)
        return {
            "rank": self.rank,
            "name": self.name,
            "gain": None if self.gain is None else self.gain.to_dict(),
            "score": number(self.score),
            "scores": {k: number(v) for k, v in self.scores.items()},
            "kind": card.kind if self.card else None,
            "category": card.category,
            "domain": card.domain,
            "language": card.language if self.card else None,
            "rows": sum(card.rows.values()) if self.card else None,
            "licence": card.licence,
            "commercial": card.commercial if self.card else None,
            "where": card.load or card.homepage,
            "overlap": number(self.overlap),
            "test_score": number(self.test_score),
        }


@dataclass(frozen=True)
class Ranking:
    """The ordered answer for one target.

    Attributes
    ----------
    target
        Name of the target.
    methods
        Methods asked for; the first one orders where there is no forecast.
    sources
        Rows, best first: by expected gain, or without a forecast by the first method's score.
        ``none`` is among them where it has one of the two.
    rows
        Training rows of the target that were used, and ``of`` how many there are.
    notes
        Lines for the user: what was read, what was not used and why.
    left_out
        Sources that were not ranked, with the reason.
    seconds
        Where the time went: ``loading``, ``embedding``, ``scoring``.
    embedded, recalled
        Texts embedded by a forward pass, and texts whose embedding was cached.
    costs
        What each method cost.
    left_alone
        Rows of the target's other splits, by split: they chose nothing.
    forecast
        Gains of the sources in points; None where there is no calibration for this ranking.
    advice
        What to do, and the next command; None without a calibration.
    about_gains
        What the gains rest on, or why there are none.
    """

    target: str
    methods: tuple[str, ...]
    sources: tuple[RankedSource, ...]
    rows: int
    of: int
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    embedded: int = 0
    recalled: int = 0
    costs: Mapping[str, MethodCost] = field(default_factory=dict)
    left_alone: Mapping[str, int] = field(default_factory=dict)
    forecast: Forecast | None = field(default=None, repr=False)
    advice: Advice | None = None
    about_gains: str = ""

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, rank: int) -> RankedSource:
        return self.sources[rank]

    def top(self, n: int) -> Ranking:
        """The first ``n`` sources, and the row ``none`` wherever it stands."""
        rows = [r for r in self.sources if r.name == NONE]
        best = [r for r in self.sources if r.name != NONE][:n]
        return replace(self, sources=tuple(sorted([*best, *rows], key=lambda r: r.rank)))

    def source(self, name: str) -> RankedSource:
        """The row of one source.

        Raises
        ------
        PoolError
            If it was not ranked.
        """
        for row in self.sources:
            if row.name == name:
                return row
        raise PoolError(
            f"{name!r} is not in this ranking.",
            self.left_out.get(name, "The pool has no such source."),
            "See the names with [row.name for row in ranking.sources].",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the rows stand under ``sources``, best first."""
        return {
            "target": self.target,
            "methods": list(self.methods),
            "rows": self.rows,
            "of": self.of,
            "left_alone": dict(self.left_alone),
            "advice": None if self.advice is None else self.advice.to_dict(),
            "about_gains": self.about_gains,
            "calibration": None
            if self.forecast is None
            else {
                **self.forecast.calibration.setting,
                "methods": list(self.forecast.calibration.methods),
                "level": self.forecast.calibration.level,
            },
            "sources": [r.to_dict() for r in self.sources],
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "embedded": self.embedded,
            "recalled": self.recalled,
            "costs": {
                name: {k: None if math.isnan(v) else v for k, v in asdict(cost).items()}
                for name, cost in self.costs.items()
            },
        }

    def to_json(self, *, indent: int | None = 1) -> str:
        """:meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def to_csv(self) -> str:
        """One line per row, one column per field and per method; no cell is a formula."""
        out = io.StringIO()
        flat = (_flat(r.to_dict()) for r in self.sources)
        rows = [{name: no_formula(cell) for name, cell in row.items()} for row in flat]
        writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else ["rank"])
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def to_pandas(self) -> pd.DataFrame:
        """One row per source, one column per field and per method."""
        import pandas as pd

        return pd.DataFrame([_flat(r.to_dict()) for r in self.sources])

    def _repr_html_(self) -> str:
        """The first ten rows and ``none``, for a notebook."""
        gains = ["gain, points"] if self.forecast is not None else []
        columns = ["#", "source", *gains, *self.methods, "domain", "licence"]
        rows = []
        for row in self.top(10).sources:
            card = row.card or TaskCard(name=row.name)
            numbers = [row.scores[m] for m in self.methods]
            if gains:
                numbers.insert(0, math.nan if row.gain is None else row.gain.expected)
            rows.append([row.rank, row.name, *numbers, card.domain or card.category, card.licence])
        said = f"{self.target}: {self.rows:,} rows used"
        if self.advice is not None:
            said = f"{said}. {self.advice.sentence}"
        return table_html(said, columns, rows)

    def __repr__(self) -> str:
        def short(row: RankedSource) -> str:
            number = f"{row.score:.4f}" if row.gain is None else f"{row.gain.expected:+.1f}"
            return f"{row.name} {number}"

        best = ", ".join(map(short, self.sources[:3]))
        return f"Ranking({self.target!r}, {self.methods[0]}, {len(self)} rows: {best}, …)"


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    scores, gain = row.pop("scores"), row.pop("gain")
    if gain is not None:
        first = {"rank": row.pop("rank"), "name": row.pop("name"), "gain": gain.pop("expected")}
        row = {**first, **{f"gain:{k}": v for k, v in gain.items()}, **row}
    return {**row, **{f"score:{k}": v for k, v in scores.items()}} if len(scores) > 1 else row


def rank(
    target: Task | str | Path | Rows | Mapping[str, Rows],
    pool: Pool | None = None,
    method: str | Method | Sequence[str | Method] = DEFAULT,
    *,
    bench: Workbench | None = None,
    grid: str | Path | None = None,
    refine: int | None = None,
    costly: bool = False,
    examples: int = 1000,
    commercial: bool = False,
    kinds: Sequence[str] = (),
    domains: Sequence[str] = (),
    exclude: Sequence[str] = (),
    exclude_overlap: float | None = None,
    seed: int = 0,
    calibration: Calibration | str | Path | None = None,
    typed: str = "",
) -> Ranking:
    """Rank the sources of a pool for a target.

    Parameters
    ----------
    target
        A task, or what :meth:`Task.of` reads: a file, ``hub:owner/name``, a frame of pandas or
        polars, a ``datasets`` object, a list of dictionaries.
    pool
        None for that of the encoder: the built-in one, or the one that was made for it. Without
        either, the order is that of the default encoder, and the first note says so.
    method
        One or several methods, by name or made with options; the first one orders where there is
        no forecast. For a target without labels one of :data:`WITHOUT_LABELS` takes the place of
        the default, which reads them. ``all``
        stands for every method that the target, the pool and the encoder allow, up to those
        that run every source's model; notes say why the others are not shown.
    bench
        Embeds and caches; None for the embedded default encoder with the user's cache.
    grid
        Measured transfer results (:class:`taskscout.methods.gains.Gains`), for methods that need
        them.
    refine
        Score the first so many sources of the first method again with the real source models
        (LogME on their features), and order them by that.
    costly
        Let ``all`` include methods that tune the encoder on the target too.
    examples
        At most this many of the target's training rows are used (stratified by class). Rows of
        other splits choose nothing (:meth:`Task.for_choosing`).
    commercial
        Only sources whose licence allows commercial use.
    kinds, domains
        Only sources of these kinds; of a domain or category that contains one of these words.
    exclude
        Names of sources to leave out; a note tells of one that the pool does not have.
    exclude_overlap
        Leave out sources that contain more than this share of the target's texts.
    seed
        Of the sample of rows.
    calibration
        What turns scores into points (``taskscout study calibrate``), or its file; the methods
        that it reads are asked too. None for the best-fitting one of the pool's and of those that
        come with taskscout, ``none`` to order by score.
    typed
        Target and options as typed after ``taskscout train``, for the next command of the advice;
        by default the file, where the target is one.

    Returns
    -------
    Ranking
        By expected gain where there is a calibration for the encoder and the target's kind.

    Raises
    ------
    MethodError
        If no method applies to the target, the pool and the encoder.
    PoolError
        If nothing is left to rank.
    """
    if (
        calibration is not None
        and calibration != NO_GAINS
        and not isinstance(calibration, Calibration)
    ):
        calibration = Calibration.load(calibration)
    if not isinstance(target, Task):
        if isinstance(target, str | Path):
            typed = typed or shlex.quote(str(target))
        target = Task.of(target)
    bench = bench or Workbench()
    pool, bench, hints = pool_or_hint(pool, bench)
    written = [method] if isinstance(method, str | Method) else list(method)
    readable = target.for_choosing()
    if written == [DEFAULT] and unlabelled(readable):
        written = [_without_labels(pool, pool.names).name]
    if isinstance(calibration, Calibration):
        written += [m for m in calibration.methods if m not in written]
    methods, method_notes = _methods(written, pool, grid, refine, costly)
    chosen = readable.sample(examples, seed=seed)
    others = {s: t.num_rows for s, t in target.rows() if s != "train"}
    fitted, about_gains = calibration_for(calibration, chosen, pool, bench, methods)
    if hints:  # points of the default encoder are not those of the user's
        fitted, about_gains = None, NOT_MEASURED

    start = time.perf_counter()
    # A workbench may have served other rankings before: what it has spent and made is theirs.
    before = dict(bench.seconds), bench.embedded, bench.recalled
    overlap = _overlaps(target, chosen, pool)
    names, left_out = _choose_sources(
        pool, overlap, exclude_overlap, commercial, kinds, domains, exclude
    )
    may_fail = written[0] == ALL  # a method that is named first has to apply
    asked = [n for n in pool.names if n in {*names, *reference_sources(fitted, methods)}]
    try:
        answers, refusals = _ask(methods, chosen, pool, asked, bench, may_fail=may_fail)
    except NoEvidenceError as error:
        if written != [DEFAULT]:
            raise
        methods = [_without_labels(pool, names)]
        answers, refusals = _ask(methods, chosen, pool, names, bench, may_fail=False)
        refusals.append(
            f"{methods[0].name}, which reads no labels, orders the sources: {error.found}"
        )
    ordering = next(m for m in methods if m.name in answers)
    for name in set(names) - set(answers[ordering.name].sources):
        left_out[name] = f"has no description {_keys(ordering)}"
    cards = {n: pool.source(n).card for n in answers[ordering.name].sources if n in set(names)}
    forecast: Forecast | None = None
    if fitted is not None:
        never = {n for n in cards if overlap.get(n, math.nan) >= MOST_OVERLAP}
        forecast, why_not = forecast_for(fitted, chosen, answers, methods, cards, bench, never)
        about_gains = why_not or measured(fitted, chosen)
    advice = None
    if forecast is not None:
        source = forecast.advice.source
        command = next_command(source, typed, target.name)
        if unlabelled(chosen):  # there is nothing to train on yet
            command = f"taskscout rank {typed}" if typed else ""
        advice = replace(forecast.advice, command=command)
    if forecast is not None and forecast.doubt:  # scores that say nothing make no forecast
        about_gains = f"No gains are shown: {forecast.doubt}."
        forecast = None
    rows = _ordered(answers, pool, cards, overlap, forecast)

    notes = [*hints, *target.notes, *_unknown(exclude, pool), *refusals, *method_notes]
    notes += _rows_notes(chosen, ordering, answers[ordering.name].sources, pool, bench)
    notes += _own_test_rows(target)
    flagged = [f"{r.name} ({r.overlap:.0%})" for r in rows if r.overlap >= MOST_OVERLAP]
    if flagged:
        notes.append(f"sources that contain texts of the target: {', '.join(flagged)}")
    seconds = {k: v - before[0].get(k, 0.0) for k, v in bench.seconds.items()}
    scoring = time.perf_counter() - start - sum(seconds.values())
    return Ranking(
        target=target.name,
        methods=tuple(answers),
        sources=rows,
        rows=len(chosen),
        of=len(readable),
        left_alone=others if len(readable) < len(target) else {},
        notes=tuple(notes),
        left_out=left_out,
        seconds={**seconds, "scoring": max(scoring, 0.0)},
        embedded=bench.embedded - before[1],
        recalled=bench.recalled - before[2],
        costs={name: a.cost for name, a in answers.items()},
        forecast=forecast,
        advice=advice,
        about_gains=about_gains,
    )


# -- filter ------------------------------------------------------------------------------------


def _choose_sources(
    pool: Pool,
    overlap: Mapping[str, float],
    exclude_overlap: float | None,
    commercial: bool,
    kinds: Sequence[str],
    domains: Sequence[str],
    exclude: Sequence[str],
) -> tuple[list[str], dict[str, str]]:
    """Names of the sources to rank, and of each one left out the reason."""
    left_out: dict[str, str] = {}
    for source in pool:
        reason = _filtered(source, commercial, kinds, domains, exclude)
        share = overlap.get(source.name, math.nan)
        if reason is None and exclude_overlap is not None and share > exclude_overlap:
            reason = f"contains {share:.0%} of the target's texts"
        if reason is not None:
            left_out[source.name] = reason
    names = [n for n in pool.names if n not in left_out]
    if not names:
        raise PoolError(
            f"None of the {len(pool)} sources of {pool.folder} is left to rank.",
            "; ".join(sorted(set(left_out.values()))[:3]) or "The pool is empty.",
            "Ask for less, or give another pool with --pool.",
        )
    return names, left_out


def _overlaps(target: Task, chosen: Task, pool: Pool) -> dict[str, float]:
    """Estimated share of the target's texts that each source contains, those of test rows too.

    Test rows choose nothing by this: a source that holds them is only kept from being advised.
    """
    hashes = [text_hashes(chosen)]
    if "test" in target.tables and "train" in target.tables:
        hashes.append(text_hashes(target, ["test"]))
    out = {}
    for d in pool.descriptions(OVERLAP):
        shares = [share_contained(h, d.arrays["sketch"], d.header["size"]) for h in hashes]
        known = [s for s in shares if not math.isnan(s)]
        out[d.source] = max(known, default=math.nan)
    return out


def _own_test_rows(target: Task) -> list[str]:
    """Say how many of a target's test texts stand in its training rows, if any do."""
    if not {"train", "test"} <= set(target.tables):
        return []
    of_test = text_hashes(target, ["test"])
    shared = int(np.isin(of_test, text_hashes(target, ["train"])).sum())
    if not shared:
        return []
    return [
        f"{shared:,} of {len(of_test):,} texts of the test rows are training texts too: scores on "
        "them say little about new texts"
    ]


def _unknown(exclude: Sequence[str], pool: Pool) -> list[str]:
    """Say which names to leave out are none of the pool's, and what may have been meant."""
    notes = []
    for name in exclude:
        if name not in pool:
            close = difflib.get_close_matches(name, pool.names, 3)
            meant = f"; close names: {', '.join(close)}" if close else ""
            notes.append(f"nothing to exclude: the pool has no source {name!r}{meant}")
    return notes


def _filtered(
    source: Source,
    commercial: bool,
    kinds: Sequence[str],
    domains: Sequence[str],
    exclude: Sequence[str],
) -> str | None:
    """Why a source is not wanted, or None; its card is read only where that takes it."""
    if source.name in exclude:
        return "excluded by name"
    if not (commercial or kinds or domains):
        return None
    card = source.card
    if commercial and card.commercial != "yes":
        return (
            "licence does not allow commercial use"
            if card.commercial == "no"
            else "licence does not say whether commercial use is allowed"
        )
    if kinds and card.kind not in kinds:
        return f"of kind {card.kind}"
    about = f"{card.domain} {card.category}".casefold()
    if domains and not any(d.casefold() in about for d in domains):
        return "of another domain"
    return None


# -- ask ---------------------------------------------------------------------------------------

#: Methods that read no labels, in the order in which they stand in for the default: the best on
#: our grid of real transfers, then those that need less of a pool (docs/benchmarks.md).
WITHOUT_LABELS = ("terms-kl-reverse", "text-embedding", "format")


def _without_labels(pool: Pool, names: Sequence[str]) -> Method:
    """Choose the first method without labels that the pool's descriptions allow."""
    methods = [get_method(name) for name in WITHOUT_LABELS]
    shelf = PoolShelf(pool)
    return next((m for m in methods if held(m, names, shelf)), methods[-1])


def _rows_notes(
    target: Task, method: Method, sources: Sequence[str], pool: Pool, bench: Workbench
) -> list[str]:
    """Say what a row of evidence is, where it is no example, and whose maps are of whole texts."""
    if target.kind in SEQUENCE_KINDS or "labels" not in method.needs:
        return []
    rows = evidence_rows(target, bench)
    notes = [f"read as {rows.said}"]
    headers = [pool.source(n).headers.get(k, {}) for n in sources for k in method.reads]
    maps = [h for h in headers if "strength" in h]
    of_texts = sum(WORDS not in h for h in maps)
    if rows.words is not None and of_texts:
        notes.append(
            f"{of_texts} of {len(maps)} sources have a map of whole texts only, which stands in "
            "for one of words"
        )
    return notes


def _methods(
    written: Sequence[str | Method],
    pool: Pool,
    grid: str | Path | None,
    refine: int | None,
    costly: bool,
) -> tuple[list[Method], list[str]]:
    """Make the methods asked for, and say which ``all`` leaves out, and why."""
    options: dict[str, Any] = {}
    topics = pool.attached(ATTACHED)
    if topics is not None:
        options["pool_model"] = topics
    if grid is not None:
        from taskscout.methods.gains import Gains

        options["gains"] = Gains.read(grid)
    spelt, notes = spelt_out(written, costly=costly)
    methods = [parse_method(m, **options) if isinstance(m, str) else m for m in spelt]
    if not methods:
        raise MethodError(
            "No method was named.", "Something has to order the sources.", f"Name {DEFAULT}."
        )
    if refine is not None and isinstance(written[0], str) and written[0] != ALL:
        methods[0] = refined(methods[0], refine)
    names = [m.name for m in methods]
    repeated = [n for n in names if names.count(n) > 1]
    if repeated:
        raise MethodError(
            f"{repeated[0]} was asked for more than once.",
            "A ranking has one column per name of a method.",
            "Name it once; to compare options of one method, rank once with each.",
        )
    return methods, notes


def _ask(
    methods: Sequence[Method],
    target: Task,
    pool: Pool,
    names: Sequence[str],
    bench: Workbench,
    *,
    may_fail: bool,
) -> tuple[dict[str, Answer], list[str]]:
    """Ask every method, by name; and say of those that do not apply why they are not shown.

    The first method has to apply unless it ``may_fail``; one at least has to.
    """
    shelf = PoolShelf(pool)
    answers: dict[str, Answer] = {}
    notes: list[str] = []
    refusal: TaskscoutError | None = None
    announce(methods, bench)
    for method in methods:
        try:
            answers[method.name] = _ask_one(method, target, pool, shelf, names, bench)
        except TaskscoutError as error:
            if method is methods[0] and not may_fail:
                raise
            refusal = refusal or error
            notes.append(f"{method.name} is not shown: {error.found} {error.why}")
    if refusal is not None and not answers:
        raise refusal
    return answers, notes


def _ask_one(
    method: Method,
    target: Task,
    pool: Pool,
    shelf: PoolShelf,
    names: Sequence[str],
    bench: Workbench,
) -> Answer:
    """Ask one method, or refuse with the remedy where it cannot serve this target or this pool."""
    if target.kind not in method.kinds:
        raise MethodError(
            f"{method.name} does not serve targets of kind {target.kind}.",
            f"It serves {', '.join(method.kinds)}.",
            "Choose another method: taskscout methods",
        )
    if method.reads != (CARD,) and pool.encoder["fingerprint"] != bench.encoder.fingerprint:
        raise MethodError(
            f"The pool was described with {pool.encoder['model']}, pooling "
            f"{pool.encoder['pooling']}, layers {pool.encoder['layers']}, at most "
            f"{pool.encoder['max_length']} tokens; the encoder here is {bench.encoder.model_id}, "
            f"pooling {bench.encoder.pooling}, layers {bench.encoder.layers}, at most "
            f"{bench.encoder.max_length} tokens.",
            "Descriptions made in one embedding space say nothing in another.",
            "Use the pool's encoder and pooling, or build a pool with this encoder.",
        )
    described = held(method, names, shelf)
    if not described:
        raise MethodError(
            f"No source has the description {_keys(method)} that {method.name} reads.",
            "It has to be made once per source.",
            f"Make it in a pool of yours: taskscout pool describe --method {method.name}",
        )
    answer = ask(method, target, described, shelf, bench)
    if np.isnan(answer.scores).all():
        raise MethodError(
            f"{method.name} applies to none of the {len(described)} sources.",
            "Every score is NaN.",
            "Choose another method, or another pool.",
        )
    return answer


def _keys(method: Method) -> str:
    """Name what a method reads of a source."""
    return " or ".join(repr(k) for k in method.reads)


# -- order -------------------------------------------------------------------------------------


def _ordered(
    answers: Mapping[str, Answer],
    pool: Pool,
    cards: Mapping[str, TaskCard],
    overlap: Mapping[str, float],
    forecast: Forecast | None,
) -> tuple[RankedSource, ...]:
    """Order the sources and ``none`` by expected gain, or else by the first method's score.

    The forecast's order is better than that of any score it reads, out of sample
    (docs/benchmarks/forecasts.md). ``none`` gains nothing, by definition.
    """
    scores = {
        method: dict(zip(answer.sources, map(float, answer.scores), strict=True))
        | ({} if answer.none is None else {NONE: answer.none})
        for method, answer in answers.items()
    }
    first = next(iter(scores.values()))
    gains = {}
    if forecast is not None:
        gains = {row.source: row for row in forecast.rows}
        if forecast.first is not None:
            gains[forecast.first.source] = forecast.first
        gains[NONE] = SourceForecast(NONE, 0.0, 0.0, 0.0, math.nan)
    names = [n for n in {*first, *gains} if n in cards or n == NONE]

    def place(name: str) -> tuple[bool, float, str]:
        value = gains[name].expected if gains else first[name]
        return math.isnan(value), -value, name

    return tuple(
        RankedSource(
            rank=i,
            name=name,
            score=first.get(name, math.nan),
            scores={m: s.get(name, math.nan) for m, s in scores.items()},
            card=cards.get(name),
            overlap=overlap.get(name, math.nan),
            test_score=_test_score(pool, name),
            gain=gains.get(name),
        )
        for i, name in enumerate(sorted(names, key=place), 1)
    )


def _test_score(pool: Pool, name: str) -> float:
    if name == NONE:
        return math.nan
    return float(pool.source(name).tuning.get("scores", {}).get("score", math.nan))
