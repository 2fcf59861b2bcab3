"""Methods held against a grid of real transfer: quality, cost, consistency, and what is real.

:func:`compare` takes predictions of any number of methods (:func:`taskscout.studies.predictions.
predict`, or ready-made ones) and a grid, and gives one :class:`Comparison`: every metric of every
method with a bootstrap interval over targets and seeds, beside a random order, the source prior and
the honest oracle; each method's difference from a random order and from the prior, and of all
methods from one another; what one seed would have said; and pruning curves.

All methods of a comparison are held against the same targets. A method that serves fewer than the
others has its place in a comparison of its own (:attr:`Comparison.narrower`), on the targets that
it serves, together with all others that serve these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import StudyError
from taskscout.methods.gains import Gains, mean_of_known
from taskscout.studies.comparison_rows import (
    ORACLE,
    PRIOR,
    RANDOM,
    Difference,
    Measured,
    Row,
    differences_of,
    mean_over_targets,
    measurer,
    rows_of,
)
from taskscout.studies.metrics import DEFAULT_METRICS, Metric, Order, get_metric
from taskscout.studies.predictions import Predicted, prior_of
from taskscout.studies.pruning import PruningCurve, pruning_curve
from taskscout.studies.reliability import Reliability, honest_oracle, reliability
from taskscout.studies.significance import smallest_p

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Methods held against a grid, all of them on the same targets.

    Attributes
    ----------
    title
        Of the report.
    gains
        The grid, with the targets that all methods of this comparison serve.
    predicted
        The methods' scores and costs on these targets, the source prior among them.
    metrics
        Names; the first one is what methods are listed by.
    rows
        Every metric of every method and control.
    values
        The same per target: by method and metric, one value per target.
    by_seed
        By method and metric, the mean over targets under each seed alone.
    differences
        Under the first metric: each method against a random order and against the prior, then
        the methods against one another; smallest p first within each.
    pruning
        A curve per method.
    reliability
        How well the seeds agree on the order of sources.
    narrower
        Comparisons on fewer targets, for methods that do not serve all of these.
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
    reliability: Reliability
    narrower: tuple[Comparison, ...] = ()
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

    @property
    def against_controls(self) -> tuple[Difference, ...]:
        """Differences of methods from a random order and from the prior."""
        return tuple(d for d in self.differences if {d.better, d.worse} & {RANDOM, PRIOR})

    @property
    def between_methods(self) -> tuple[Difference, ...]:
        """Differences of methods from one another."""
        return tuple(d for d in self.differences if not {d.better, d.worse} & {RANDOM, PRIOR})

    @property
    def smallest_p(self) -> float:
        """Smallest p that a test over these targets can give, adjusted or not."""
        return smallest_p(len(self.gains.targets))

    @property
    def tables(self) -> tuple[Comparison, ...]:
        """All comparisons, this one and the narrower ones, widest first."""
        return (self, *self.narrower)

    def row(self, method: str, metric: str) -> Row:
        """One row; of a method that serves fewer targets, from the widest comparison that has it.

        Raises
        ------
        StudyError
            If there is none.
        """
        for table in self.tables:
            for row in table.rows:
                if (row.method, row.metric) == (method, metric):
                    return row
        methods = dict.fromkeys(m for table in self.tables for m in table.methods)
        raise StudyError(
            f"This comparison has no {metric!r} of {method!r}.",
            f"It has the methods {', '.join(methods)} and the metrics  {', '.join(self.metrics)}.",
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
        One entry per seed: its name, the method it puts first, the place (from 1) that it gives
        the first method of all seeds, and Kendall's tau of the two orders of methods. Empty where
        the grid has one seed.
        """
        names = [m for m in self.methods if m != ORACLE]
        if len(self.gains.seed_names) < 2 or len(names) < 2:
            return []
        from scipy.stats import kendalltau

        sign = 1.0 if self.by.better == "higher" else -1.0
        of_all_seeds = np.array([self.row(m, self.by.name).value for m in names])
        out = []
        for k, seed in enumerate(self.gains.seed_names):
            alone = np.array([self.by_seed[m][self.by.name][k] for m in names])
            known = ~np.isnan(alone)
            order = sorted(
                np.flatnonzero(known).tolist(), key=lambda i: (-sign * alone[i], names[i])
            )
            tau = kendalltau(of_all_seeds[known], alone[known])[0] if known.sum() > 1 else math.nan
            out.append(
                {
                    "seed": seed,
                    "first": names[order[0]] if order else None,
                    "place_of_first": 1 + order.index(0) if 0 in order else None,
                    "tau": float(tau),
                }
            )
        return out

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
            "smallest_p": self.smallest_p,
            "reliability": {
                "between_seeds": self.reliability.between_seeds,
                "of_the_mean": self.reliability.of_the_mean,
                "attainable": self.reliability.attainable,
            },
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
            "narrower": [c.to_dict() for c in self.narrower],
            "notes": list(self.notes),
        }
        plain: dict[str, Any] = _plain(out)
        return plain


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

    Methods stand together that serve the same targets. The comparison that comes back is the one
    on most targets; those on fewer are its :attr:`Comparison.narrower`, one for each set of
    targets that some method serves and no more, with every method that serves all of the set.

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
        Seed of the resampling.

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
    asked = list(predicted)
    if PRIOR not in {p.method for p in asked} and not np.isnan(gains.points).all():
        asked.append(prior_of(gains))
    called = [p.method for p in asked]
    if len(set(called)) < len(called):
        twice = next(n for n in called if called.count(n) > 1)
        raise StudyError(
            f"Two methods are called {twice!r}.",
            "A comparison has one row per name.",
            "Leave one out, or rename it.",
        )
    floor = Predicted(
        RANDOM, np.zeros(gains.mean_scores.T.shape), np.full(len(gains.targets), np.nan)
    )
    measure_one = measurer(gains, chosen, gold, seed)
    measured = {each.method: measure_one(each) for each in (floor, *asked)}
    if gold is None and (by_seed_left_out := honest_oracle(names, gains)):
        unknown = np.full((len(gains.seed_names), len(gains.targets)), np.nan)
        by_metric = {n: by_seed_left_out.get(n, unknown) for n in names}
        measured[ORACLE] = Measured(
            {n: mean_of_known(v.T) for n, v in by_metric.items()}, by_metric, by_metric
        )
    has_cells = ~np.isnan(gains.mean_scores.T)
    served = {
        p.method: tuple(np.flatnonzero((has_cells & ~np.isnan(p.scores)).any(1)).tolist())
        for p in asked
    }
    tables: list[Comparison] = []
    for targets in _target_sets(served):
        here = gains.with_targets(gains.targets[i] for i in targets)
        at = list(targets)
        methods = [p for p in asked if set(targets) <= set(served[p.method])]
        shown = (RANDOM, *(p.method for p in methods), *([ORACLE] if ORACLE in measured else []))
        values = {m: {n: v[at] for n, v in measured[m].all_seeds.items()} for m in shown}
        resampled = {m: {n: v[:, at] for n, v in measured[m].resampled.items()} for m in shown}
        by_seed = {
            m: {
                n: tuple(map(mean_over_targets, v[:, at])) for n, v in measured[m].each_seed.items()
            }
            for m in shown
        }
        restricted = tuple(replace(p, scores=p.scores[at], none=p.none[at]) for p in methods)
        tables.append(
            Comparison(
                title=title,
                gains=here,
                predicted=restricted,
                metrics=names,
                rows=rows_of(chosen, values, resampled, by_seed, seed),
                values=values,
                by_seed=by_seed,
                differences=differences_of(chosen[0], values, resampled, seed),
                pruning=_pruning(here, restricted),
                reliability=reliability(here),
                notes=tuple(notes) if not tables else (),
                embedding_seconds=embedding_seconds,
                settings=dict(settings or {}),
            )
        )
    return replace(tables[0], narrower=tuple(tables[1:]))


def _target_sets(served: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The sets of targets that methods serve, largest first; the prior's only if it is alone."""
    sets = {targets for method, targets in served.items() if method != PRIOR and targets}
    sets = sets or {targets for targets in served.values() if targets}
    return sorted(sets, key=lambda targets: (-len(targets), targets))


def _pruning(gains: Gains, predicted: Sequence[Predicted]) -> dict[str, PruningCurve]:
    scores, seconds = gains.mean_scores.T, gains.seconds.T
    curves = {RANDOM: pruning_curve(np.zeros(scores.shape), scores, seconds=seconds)}
    for each in predicted:
        order = Order(each.scores, ~np.isnan(scores))
        if not order.applies.any():
            continue
        own = 0.0 if math.isnan(each.seconds) else each.seconds * int(order.applies.sum())
        curves[each.method] = pruning_curve(each.scores, scores, seconds=seconds, cost=own)
    return curves


def _best_first(values: Mapping[str, float], metric: Metric) -> tuple[str, ...]:
    sign = -1.0 if metric.better == "higher" else 1.0
    return tuple(sorted(values, key=lambda n: (math.isnan(values[n]), sign * values[n], n)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return None if not math.isfinite(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value
