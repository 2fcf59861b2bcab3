"""Methods held against a grid of real transfer: quality, cost, consistency, and what is real.

:func:`compare` takes predictions of any number of methods (:func:`taskscout.studies.predictions.
predict`, or ready-made ones) and a grid, and gives one :class:`Comparison`: every metric of every
method with a bootstrap interval over targets and seeds, between the random floor, the source prior
and the split-half ceiling; paired differences of all methods; what one seed would have said; and
pruning curves.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import StudyError
from taskscout.files import write_atomically
from taskscout.methods.gains import NONE, Gains
from taskscout.studies.metrics import (
    DEFAULT_METRICS,
    Metric,
    Order,
    PruningCurve,
    Truth,
    get_metric,
    holm,
    interval,
    permutation_test,
    pruning_curve,
    seed_draws,
    split_half_ceiling,
)
from taskscout.studies.predictions import Predicted, prior_of

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]

#: Names of the controls that every comparison has.
RANDOM, PRIOR, CEILING = "random order", "source-prior", "split-half ceiling"
#: Below this adjusted p, a difference is called real.
REAL = 0.05
#: Resampled seeds per target.
SEED_DRAWS = 100


@dataclass(frozen=True)
class Row:
    """One metric of one method.

    Attributes
    ----------
    method, metric
        Names.
    value
        Mean over targets.
    low, high
        95% bootstrap interval over targets and seeds.
    over_targets
        Standard deviation over targets.
    over_seeds
        Standard deviation of the mean over targets when the truth rests on one seed at a time.
    targets
        How many the mean is over.
    """

    method: str
    metric: str
    value: float
    low: float
    high: float
    over_targets: float
    over_seeds: float
    targets: int


@dataclass(frozen=True)
class Difference:
    """Two methods, target by target, under one metric.

    Attributes
    ----------
    metric
        Its name.
    better, worse
        The methods; ``better`` has the better mean over the targets that both apply to.
    difference
        Mean of better minus worse; negative for metrics where lower is better.
    low, high
        95% bootstrap interval over targets and seeds, both methods under the same draws.
    p, p_holm
        Sign-flip permutation test, and adjusted for all pairs of this comparison (Holm).
    targets
        That both apply to.
    """

    metric: str
    better: str
    worse: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    targets: int

    @property
    def real(self) -> bool:
        """Whether the adjusted p is below 0.05."""
        return self.p_holm < REAL


@dataclass(frozen=True)
class Comparison:
    """Methods held against a grid.

    Attributes
    ----------
    title
        Of the report.
    gains
        The grid.
    predicted
        The methods' scores and costs, the source prior among them.
    metrics
        Names; the first one is what methods are listed by.
    rows
        Every metric of every method and control.
    values
        The same per target: by method and metric, one value per target.
    by_seed
        By method and metric, the mean over targets under each seed alone.
    differences
        All pairs of methods under the first metric, smallest p first.
    pruning
        A curve per method.
    notes
        What was left out, and why.
    embedding_seconds
        To embed a target once for all methods; NaN where none was embedded.
    """

    title: str
    gains: Gains
    predicted: tuple[Predicted, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    values: Mapping[str, Mapping[str, Array]]
    by_seed: Mapping[str, Mapping[str, tuple[float, ...]]]
    differences: tuple[Difference, ...]
    pruning: Mapping[str, PruningCurve]
    notes: tuple[str, ...] = ()
    embedding_seconds: float = math.nan
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by(self) -> Metric:
        """What methods are listed by."""
        return get_metric(self.metrics[0])

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of methods and controls, best first by the first metric."""
        return _best_first(
            {r.method: r.value for r in self.rows if r.metric == self.by.name}, self.by
        )

    def row(self, method: str, metric: str) -> Row:
        """One row.

        Raises
        ------
        StudyError
            If there is none.
        """
        for row in self.rows:
            if (row.method, row.metric) == (method, metric):
                return row
        raise StudyError(
            f"This comparison has no {metric!r} of {method!r}.",
            f"It has the methods {', '.join(self.methods)} and the metrics "
            f"{', '.join(self.metrics)}.",
            "Ask for one of these.",
        )

    def against(self, other: str) -> dict[str, Difference]:
        """Differences of all methods from one of them, by method."""
        return {
            d.worse if d.better == other else d.better: d
            for d in self.differences
            if other in (d.better, d.worse)
        }

    def seed_study(self) -> list[dict[str, Any]]:
        """What the comparison by the first metric would have said with one seed.

        Returns
        -------
        One entry per seed: its name, the method it puts first, the places (from 1) that it and
        the true first method of all seeds change, and Kendall's tau of the two orders of methods.
        Empty where the grid has one seed.
        """
        names = [m for m in self.methods if m not in (CEILING,)]
        if len(self.gains.seed_names) < 2 or len(names) < 2:
            return []
        from scipy.stats import kendalltau

        sign = 1.0 if self.by.better == "higher" else -1.0
        everything = np.array([self.row(m, self.by.name).value for m in names])
        out = []
        for k, seed in enumerate(self.gains.seed_names):
            alone = np.array([self.by_seed[m][self.by.name][k] for m in names])
            known = ~np.isnan(alone)
            order = sorted(
                np.flatnonzero(known).tolist(), key=lambda i: (-sign * alone[i], names[i])
            )
            tau = kendalltau(everything[known], alone[known])[0] if known.sum() > 1 else math.nan
            out.append(
                {
                    "seed": seed,
                    "first": names[order[0]] if order else None,
                    "place_of_first": 1 + order.index(0) if 0 in order else None,
                    "tau": float(tau),
                }
            )
        return out

    # -- tables ---------------------------------------------------------------------------

    def score_table(self) -> pa.Table:
        """Every score: method, target, source, score, and what transfer gave."""
        import pyarrow as pa

        columns: dict[str, list[Any]] = {
            n: [] for n in ("method", "target", "source", "score", "true_score", "gain")
        }
        truth, gain = self.gains.mean_scores.T, self.gains.points.T
        for each in self.predicted:
            for i, target in enumerate(self.gains.targets):
                for j, source in enumerate((*self.gains.sources, NONE)):
                    none = source == NONE
                    score = each.none[i] if none else each.scores[i, j]
                    true = self.gains.mean_alone[i] if none else truth[i, j]
                    if math.isnan(score) or math.isnan(true):
                        continue
                    row = (each.method, target, source, score, true, 0.0 if none else gain[i, j])
                    for column, value in zip(columns.values(), row, strict=True):
                        column.append(value)
        return pa.table(columns)

    def metric_table(self) -> pa.Table:
        """Every metric of every method, with interval, spreads and costs."""
        import pyarrow as pa

        costs = {p.method: p for p in self.predicted}
        rows = []
        for row in self.rows:
            cost = costs.get(row.method)
            rows.append(
                {
                    **asdict(row),
                    "unit": get_metric(row.metric).unit,
                    "better": get_metric(row.metric).better,
                    "seconds_per_target": cost.seconds if cost else math.nan,
                    "bytes_per_source": cost.bytes_per_source if cost else math.nan,
                    "offline_seconds": cost.offline_seconds if cost else math.nan,
                }
            )
        return pa.Table.from_pylist(rows)

    def difference_table(self) -> pa.Table:
        """All pairs of methods under the first metric."""
        import pyarrow as pa

        return pa.Table.from_pylist([{**asdict(d), "real": d.real} for d in self.differences])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN becomes null."""
        out = {
            "title": self.title,
            "settings": dict(self.settings),
            "sources": list(self.gains.sources),
            "targets": list(self.gains.targets),
            "seeds": list(self.gains.seed_names),
            "metrics": {
                n: {
                    k: v
                    for k, v in asdict(get_metric(n)).items()
                    if k in ("better", "unit", "about")
                }
                for n in self.metrics
            },
            "methods": list(self.methods),
            "rows": [asdict(r) for r in self.rows],
            "differences": [{**asdict(d), "real": d.real} for d in self.differences],
            "seed_study": self.seed_study(),
            "by_seed": {m: {k: list(v) for k, v in by.items()} for m, by in self.by_seed.items()},
            "costs": {
                p.method: {
                    "seconds_per_target": p.seconds,
                    "bytes_per_source": p.bytes_per_source,
                    "offline_seconds": p.offline_seconds,
                }
                for p in self.predicted
            },
            "embedding_seconds": self.embedding_seconds,
            "pruning": {m: c.to_dict() for m, c in self.pruning.items()},
            "notes": list(self.notes),
        }
        plain: dict[str, Any] = _plain(out)
        return plain

    def write(self, folder: str | Path) -> list[Path]:
        """Write all tables into a folder, each beside and renamed.

        ``scores`` and ``metrics`` as Parquet and CSV, ``differences.csv`` and ``study.json``. The
        HTML report is :func:`taskscout.reports.html.study_page`, the Markdown table
        :func:`taskscout.reports.studies.markdown_table`.

        Returns
        -------
        The files.

        Raises
        ------
        StudyError
            If they cannot be written.
        """
        folder = Path(folder).expanduser()
        tables = {"scores": self.score_table(), "metrics": self.metric_table()}
        files = {
            **{f"{n}.parquet": _parquet(t) for n, t in tables.items()},
            **{f"{n}.csv": _csv(t) for n, t in tables.items()},
            "differences.csv": _csv(self.difference_table()),
            "study.json": (json.dumps(self.to_dict(), indent=1) + "\n").encode(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                write_atomically(folder / name, data)
        except OSError as error:
            raise StudyError(
                f"{folder} cannot be written ({error.strerror}).",
                "The results have no place to go.",
                "Give a folder that may be written.",
            ) from error
        return [folder / name for name in files]


def compare(
    gains: Gains,
    predicted: Sequence[Predicted],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    by: str | None = None,
    gold: Array | None = None,
    title: str = "Methods against real transfer",
    notes: Sequence[str] = (),
    embedding_seconds: float = math.nan,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Comparison:
    """Hold methods against a grid.

    Parameters
    ----------
    gains
        The grid. Its seeds are resampled for intervals, so one of a single seed gives intervals
        over targets only.
    predicted
        Scores of methods; the source prior is added where it is missing and can be computed.
    metrics
        Names (:func:`taskscout.studies.metrics.get_metric`).
    by
        The metric that methods are listed and compared pair by pair by; None for the first.
    gold
        What the true order is by, targets × sources; None for the scores.
    title, notes, embedding_seconds, settings
        For the report.
    seed
        Of resampling.

    Returns
    -------
    Comparison

    Raises
    ------
    StudyError
        If a metric is unknown, the grid has no cell, or two methods have one name.
    """
    by = by or metrics[0]
    names = tuple(dict.fromkeys((by, *metrics)))
    chosen = [get_metric(n) for n in names]
    if not len(gains.targets) or not (~np.isnan(gains.mean_scores)).any():
        raise StudyError(
            "The grid has no transfer result.",
            "There is nothing to hold methods against.",
            "Give a grid with runs, or choose other rows with --where.",
        )
    every = list(predicted)
    if PRIOR not in {p.method for p in every} and not np.isnan(gains.points).all():
        every.append(prior_of(gains))
    called = [p.method for p in every]
    if len(set(called)) < len(called):
        twice = next(n for n in called if called.count(n) > 1)
        raise StudyError(
            f"Two methods are called {twice!r}.",
            "A comparison has one row per name.",
            "Leave one out, or rename it.",
        )
    scores, alone = gains.mean_scores.T, gains.mean_alone
    truth = Truth(scores, alone, gold)
    one_seed = len(gains.seed_names) < 2
    rng = np.random.default_rng(seed)
    if one_seed:
        drawn = Truth(scores[None], alone[None], None if gold is None else gold[None])
    else:
        some, nones = seed_draws(gains, SEED_DRAWS, rng)
        # A gold order given from outside rests on all seeds: it stays.
        drawn = Truth(some, nones, None if gold is None else np.broadcast_to(gold, some.shape))
    values: dict[str, dict[str, Array]] = {}
    resampled: dict[str, dict[str, Array]] = {}
    by_seed: dict[str, dict[str, tuple[float, ...]]] = {}
    singles = [gains.with_seeds([k]) for k in range(len(gains.seed_names))]
    single_truths = [
        Truth(
            s.mean_scores.T,
            s.mean_alone,
            None if gold is None else np.where(np.isnan(s.mean_scores.T), np.nan, gold),
        )
        for s in singles
    ]
    floor = Predicted(RANDOM, np.zeros(scores.shape), np.full(len(alone), np.nan))
    for each in (floor, *every):
        order = Order(each.scores, truth.candidates, each.none)
        values[each.method] = {m.name: m.function(order, truth) for m in chosen}
        resampled[each.method] = {m.name: m.function(order, drawn) for m in chosen}
        orders = [Order(each.scores, t.candidates, each.none) for t in single_truths]
        by_seed[each.method] = {
            m.name: tuple(
                _mean(m.function(o, t)) for o, t in zip(orders, single_truths, strict=True)
            )
            for m in chosen
        }
    ceiling = None if gold is not None else split_half_ceiling(names, gains)
    if ceiling is not None:
        values[CEILING] = ceiling
        resampled[CEILING] = {n: v[None] for n, v in ceiling.items()}
        by_seed[CEILING] = dict.fromkeys(names, ())
    rows = []
    for method, found in values.items():
        for metric in chosen:
            v = found[metric.name]
            mean = _mean(v)
            low, high = interval(
                resampled[method][metric.name], mean, seed=seed, low=metric.low, high=metric.high
            )
            known = v[~np.isnan(v)]
            singles_known = [x for x in by_seed[method][metric.name] if not math.isnan(x)]
            rows.append(
                Row(
                    method,
                    metric.name,
                    mean,
                    low,
                    high,
                    float(known.std(ddof=1)) if len(known) > 1 else math.nan,
                    float(np.std(singles_known, ddof=1)) if len(singles_known) > 1 else math.nan,
                    len(known),
                )
            )
    return Comparison(
        title=title,
        gains=gains,
        predicted=tuple(every),
        metrics=names,
        rows=tuple(rows),
        values=values,
        by_seed=by_seed,
        differences=_differences(chosen[0], values, resampled, seed),
        pruning=_pruning(gains, every),
        notes=tuple(notes),
        embedding_seconds=embedding_seconds,
        settings=dict(settings or {}),
    )


def _differences(
    metric: Metric,
    values: Mapping[str, Mapping[str, Array]],
    resampled: Mapping[str, Mapping[str, Array]],
    seed: int,
) -> tuple[Difference, ...]:
    """All pairs of methods but the ceiling, under one metric."""
    names = [n for n in values if n != CEILING]
    pairs = list(combinations(names, 2))
    if not pairs:
        return ()
    apart = np.stack([values[a][metric.name] - values[b][metric.name] for a, b in pairs], 1)
    p = permutation_test(apart, seed=seed)
    adjusted = holm(p.tolist())
    out = []
    for i, (a, b) in enumerate(pairs):
        d = apart[:, i]
        mean = _mean(d)
        draws = resampled[a][metric.name] - resampled[b][metric.name]
        low, high = interval(draws, mean, seed=seed)
        if (mean < 0) == (metric.better == "higher") and mean != 0:
            a, b, mean, low, high = b, a, -mean, -high, -low
        out.append(
            Difference(
                metric.name, a, b, mean, low, high, float(p[i]), adjusted[i],
                int((~np.isnan(d)).sum()),
            )
        )  # fmt: skip
    return tuple(sorted(out, key=lambda d: (math.isnan(d.p), d.p, -abs(d.difference))))


def _pruning(gains: Gains, predicted: Sequence[Predicted]) -> dict[str, PruningCurve]:
    scores, seconds = gains.mean_scores.T, gains.seconds.T
    out = {RANDOM: pruning_curve(np.zeros(scores.shape), scores, seconds=seconds)}
    for each in predicted:
        order = Order(each.scores, ~np.isnan(scores))
        if not order.applies.any():
            continue
        own = 0.0 if math.isnan(each.seconds) else each.seconds * int(order.applies.sum())
        out[each.method] = pruning_curve(each.scores, scores, seconds=seconds, cost=own)
    return out


def _best_first(values: Mapping[str, float], metric: Metric) -> tuple[str, ...]:
    sign = -1.0 if metric.better == "higher" else 1.0
    return tuple(sorted(values, key=lambda n: (math.isnan(values[n]), sign * values[n], n)))


def _mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return None if not math.isfinite(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _csv(table: pa.Table) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in table.to_pylist():
        writer.writerow("" if isinstance(v, float) and math.isnan(v) else v for v in row.values())
    return out.getvalue().encode()
