"""The study of Pugantsov & McCreadie 2023: divergences that say which domains not to train on.

Domains are tasks of one label scheme. A model tuned on one answers for each other without
training there. Every divergence between texts orders a target's domains before anything is
trained; dropping the worst of them saves time, at a loss or without. The study gives the time
saved end to end (the divergence's own time counted) at every threshold, and the most of it while
the best result stays what it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskscout.engines import Engine, Files, Here, LazyJobs
from taskscout.errors import StudyError
from taskscout.methods.method import get_method
from taskscout.models.recipe import Recipe
from taskscout.studies.multitask import RowLog
from taskscout.studies.pruning import PruningCurve, pruning_curve
from taskscout.tasks import Task
from taskscout.tasks.overlap import MOST_OVERLAP
from taskscout.transfer.origin import Origin
from taskscout.transfer.strategies import transfer
from taskscout.transfer.zero_shot import plain

if TYPE_CHECKING:
    from taskscout.models.workbench import Workbench
    from taskscout.tasks.catalogue import Catalogue

Array = NDArray[np.float64]


def scheme_of(task: Task) -> tuple[str, ...]:
    """The label scheme of a task: its label names, whatever their order and spelling."""
    return tuple(sorted(plain(n) for n in task.label_names))


def domains_of(catalogue: Catalogue, labels: Sequence[str]) -> list[str]:
    """Names of a catalogue's classification tasks that have exactly these labels.

    Raises
    ------
    StudyError
        If there are fewer than three, or some of them differ in whether they read pairs.
    """
    wanted = tuple(sorted(plain(n) for n in labels))
    found = [
        n
        for n in catalogue.names
        if catalogue.kind(n) == "classification"
        and tuple(sorted(plain(x) for x in catalogue.entry(n).get("label_names") or ())) == wanted
    ]
    if len(found) < 3:
        raise StudyError(
            f"{len(found)} tasks of the catalogue have the labels {', '.join(labels)}.",
            "A study of domains needs at least three of one label scheme.",
            "Name other labels, or the tasks with --domains.",
        )
    return found


@dataclass(frozen=True)
class Pair:
    """A source's model applied to a target: score as a fraction, and seconds."""

    source: str
    target: str
    score: float
    source_seconds: float
    scoring_seconds: float


@dataclass
class ZeroShotStudy:
    """Pairs of domains, divergences between them, and what pruning by these saves.

    Attributes
    ----------
    domains
        Names; rows (targets) and columns (sources) of the matrices.
    scores
        Zero-shot score per target and source, NaN where the pair was not run.
    seconds
        What a target pays for a pair: the source's tuning and the scoring.
    source_seconds
        Of each source's tuning.
    predicted
        Minus the divergence, per method.
    costs
        Seconds a divergence took for all domains.
    random
        Orders drawn at random, what any method has to beat.
    """

    domains: tuple[str, ...]
    scores: Array
    seconds: Array
    source_seconds: Array
    predicted: dict[str, Array] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    random: list[Array] = field(default_factory=list)

    def curve(self, method: str, *, steps: int = 20) -> PruningCurve:
        """Time saved and best result kept, per share of each target's domains dropped."""
        return self._curve(self.predicted[method], self.costs[method], steps)

    def _curve(self, order: Array, cost: float, steps: int) -> PruningCurve:
        return pruning_curve(order, self.scores, seconds=self.seconds, cost=cost, steps=steps)

    def shared(self, method: str, *, steps: int = 20) -> PruningCurve:
        """The same under one threshold for all pairs, each source being tuned once for all targets.

        Pairs whose divergence lies above the threshold are dropped, wherever they are; a source is
        tuned if one of its pairs is left. A target that has no pair left keeps its least divergent
        one.
        """
        return self._shared(self.predicted[method], self.costs[method], steps)

    def _shared(self, order: Array, cost: float, steps: int) -> PruningCurve:
        there = ~np.isnan(self.scores) & ~np.isnan(order)
        best = np.nanmax(np.where(there, self.scores, np.nan), 1)
        scoring = self.seconds - self.source_seconds[None, :]
        whole = float(self.source_seconds[there.any(0)].sum() + scoring[there].sum())
        shares = np.arange(steps) / steps
        kept, same, saved = [], [], []
        for share in shares:
            threshold = np.quantile(order[there], share)
            left = there & (order >= threshold)
            for row in np.flatnonzero(~left.any(1) & there.any(1)):
                left[row, np.nanargmax(np.where(there[row], order[row], np.nan))] = True
            found = np.nanmax(np.where(left, self.scores, np.nan), 1)
            spent = float(self.source_seconds[left.any(0)].sum() + scoring[left].sum())
            kept.append(100 * float(np.mean(found / best)))
            same.append(100 * float(np.mean(found >= best - 1e-12)))
            saved.append(100 * (1 - (spent + cost) / whole))
        return PruningCurve(100 * shares, np.array(kept), np.array(same), np.array(saved))

    def summary(self, *, steps: int = 20) -> list[dict[str, Any]]:
        """One line per method: most time saved at equal best result, and within 1% of it.

        The last line is the mean over random orders.
        """
        lines = [
            {"method": m, **self._line(order, self.costs[m], steps)}
            for m, order in self.predicted.items()
        ]
        lines.sort(key=lambda x: (-x["saved_within_1_percent"], -x["saved"], x["method"]))
        if self.random:
            drawn = [self._line(order, 0.0, steps) for order in self.random]
            known = {k: [d[k] for d in drawn if not np.isnan(d[k])] for k in drawn[0]}
            means = {k: float(np.mean(v)) if v else float("nan") for k, v in known.items()}
            lines.append({"method": f"random order, mean of {len(drawn)}", **means})
        return lines

    def _line(self, order: Array, cost: float, steps: int) -> dict[str, Any]:
        from scipy.stats import spearmanr

        alone, shared = self._curve(order, cost, steps), self._shared(order, cost, steps)
        there = ~np.isnan(self.scores) & ~np.isnan(order)
        per_target = [
            spearmanr(order[t][there[t]], self.scores[t][there[t]])[0]
            for t in range(len(self.domains))
            if there[t].sum() > 2 and np.ptp(order[t][there[t]]) > 0
        ]
        return {
            "saved": alone.saving(),
            "saved_within_1_percent": alone.saving(1.0),
            "saved_shared": shared.saving(),
            "saved_shared_within_1_percent": shared.saving(1.0),
            "same_best_at_half": float(alone.same_best[steps // 2]),
            "spearman": float(np.mean(per_target)) if per_target else float("nan"),
            "seconds": cost,
        }

    def to_dict(self, *, steps: int = 20) -> dict[str, Any]:
        """Plain JSON types; NaN becomes null."""

        def plain_matrix(values: Array) -> list[list[float | None]]:
            return [[None if np.isnan(v) else float(v) for v in row] for row in values]

        return {
            "domains": list(self.domains),
            "scores": plain_matrix(self.scores),
            "seconds": plain_matrix(self.seconds),
            "source_seconds": self.source_seconds.tolist(),
            "methods": {
                m: {
                    "predicted": plain_matrix(p),
                    "seconds": self.costs[m],
                    "per_target": self.curve(m, steps=steps).to_dict(),
                    "shared": self.shared(m, steps=steps).to_dict(),
                }
                for m, p in self.predicted.items()
            },
            "summary": [
                {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in x.items()}
                for x in self.summary(steps=steps)
            ],
        }

    def markdown(self, *, steps: int = 20) -> str:
        """The summary, and per method the time saved and the best kept at every threshold."""
        head = (
            "| divergence | time saved, best unchanged | within 1% of the best | sources tuned "
            "once: unchanged | within 1% | best kept at half, % | Spearman | own time, s |"
            "\n" + "|---" * 8 + "|\n"
        )
        lines = [
            f"| {x['method']} | {x['saved']:z.0f}% | {x['saved_within_1_percent']:z.0f}% | "
            f"{x['saved_shared']:z.0f}% | {x['saved_shared_within_1_percent']:z.0f}% | "
            f"{x['same_best_at_half']:.0f} | {x['spearman']:+.2f} | {x['seconds']:.1f} |"
            for x in self.summary(steps=steps)
        ]
        out = [head + "\n".join(lines), ""]
        out.append("Best kept in percent / time saved in percent, by the share of domains dropped:")
        out.append("")
        some = range(0, steps, max(1, steps // 10))
        out.append("| divergence | " + " | ".join(f"{100 * i / steps:.0f}%" for i in some) + " |")
        out.append("|---" * (1 + len(some)) + "|")
        for method in self.predicted:
            curve = self.curve(method, steps=steps)
            cells = " | ".join(f"{curve.kept[i]:.1f} / {curve.saved[i]:z.0f}" for i in some)
            out.append(f"| {method} | {cells} |")
        return "\n".join(out) + "\n"


def run_study(
    tasks: Mapping[str, Task],
    bench: Workbench,
    methods: Sequence[str],
    *,
    recipe: Recipe,
    overlap: Callable[[str, str], float] | None = None,
    controls: int = 20,
    folder: Path | None = None,
    engine: Engine | None = None,
    report: Callable[[str], object] = str,
) -> ZeroShotStudy:
    """Run what is missing of a study.

    Parameters
    ----------
    tasks
        Domains by name, all of one label scheme, with training and test rows.
    bench
        Tunes each domain once; it keeps the models where it has a cache.
    methods
        Names of divergences (or of any methods that need no labels of the target).
    recipe
        How domains are tuned.
    overlap
        Share of texts two domains have in common, 0 to 1; pairs above 1% are left out.
    controls
        Number of random orders.
    folder
        Pairs are appended to its ``rows.jsonl`` as they come, and those there are not run again.
    engine
        Where domains are tuned, each with its pairs, which come together at the end. In this
        process, which None stands for, they come one after the other.
    report
        Called with one line per pair and per method.

    Raises
    ------
    StudyError
        If the domains are too few, of several label schemes, or a method needs labels.
    """
    names = tuple(sorted(tasks))
    _check(tasks, methods)
    identity = {
        "tasks": {n: tasks[n].fingerprint for n in names},
        "encoder": bench.encoder.space,
        "recipe": recipe.to_dict(),
    }
    log = RowLog(folder, identity, lambda d: Pair(**d))
    done = {(p.source, p.target) for p in log.rows}
    asked = {
        source: [
            target
            for target in names
            if target != source
            and not (overlap is not None and overlap(source, target) > MOST_OVERLAP)
        ]
        for source in names
    }
    missing = {
        source: [t for t in targets if (source, t) not in done] for source, targets in asked.items()
    }

    def job_of(source: str) -> DomainJob:
        targets = tuple(tasks[t] for t in missing[source])
        return DomainJob(
            tasks[source], targets, bench.encoder.arguments, recipe, bench.cache.folder
        )

    def keep(pair: Pair) -> None:
        log.append(pair)
        report(f"{pair.source} > {pair.target}: {100 * pair.score:.1f}")

    jobs = LazyJobs([source for source, targets in missing.items() if targets], job_of)
    if engine is None or isinstance(engine, Here):
        for job in jobs:
            for pair in pairs_of(job, bench):
                keep(pair)
    else:
        for _, made in engine.run(run_domain, jobs):
            for pair in made:
                keep(pair)
    n, at = len(names), {name: i for i, name in enumerate(names)}
    scores, seconds, source_seconds = np.full((n, n), np.nan), np.full((n, n), np.nan), np.zeros(n)
    for pair in log.rows:
        if pair.target in asked[pair.source]:
            s, t = at[pair.source], at[pair.target]
            scores[t, s] = pair.score
            source_seconds[s] = pair.source_seconds
            seconds[t, s] = pair.source_seconds + max(pair.scoring_seconds, 0.0)
    study = ZeroShotStudy(names, scores, seconds, source_seconds)
    for name in methods:
        study.predicted[name], study.costs[name] = divergences(tasks, names, bench, name)
        report(f"{name}: {study.costs[name]:.1f} s")
    for draw in range(controls):
        order = np.random.default_rng(draw).random((n, n))
        np.fill_diagonal(order, np.nan)
        study.random.append(order)
    return study


@dataclass(frozen=True)
class DomainJob:
    """A domain to be tuned, and those that its model is to answer for."""

    source: Task
    targets: tuple[Task, ...]
    encoder: dict[str, Any]
    recipe: Recipe
    cache: Path | None

    def __str__(self) -> str:
        return self.source.name


def run_domain(job: DomainJob, _: Files) -> list[Pair]:
    """Tune a domain and let its model answer."""
    from taskscout.models.cache import cache_at
    from taskscout.models.encoder import encoder_of
    from taskscout.models.workbench import Workbench

    bench = Workbench(encoder_of(job.encoder), cache=cache_at(job.cache))
    return list(pairs_of(job, bench))


def pairs_of(job: DomainJob, bench: Workbench) -> Iterator[Pair]:
    """Tune a domain, then answer for target by target."""
    for target in job.targets:
        run = transfer(
            target, [Origin.of(job.source)], bench, strategy="zero_shot", source_recipe=job.recipe
        )
        yield Pair(job.source.name, target.name, run.score, run.source_seconds, run.seconds)
    bench.forget(job.source)


def divergences(
    tasks: Mapping[str, Task], names: Sequence[str], bench: Workbench, method: str
) -> tuple[Array, float]:
    """Score of every source for every target (targets × sources, NaN on the diagonal), and seconds.

    The time is that of describing every domain and comparing all pairs, embedding included the
    first time a method needs it.
    """
    made = get_method(method)
    readable = [tasks[n].for_choosing() for n in names]
    begun = time.perf_counter()
    descriptions = [made.describe(task, bench) for task in readable]
    rows = [made.score(task, descriptions, bench) for task in readable]
    seconds = time.perf_counter() - begun
    out = np.array(rows, np.float64)
    np.fill_diagonal(out, np.nan)
    return out, seconds


def _check(tasks: Mapping[str, Task], methods: Sequence[str]) -> None:
    schemes: dict[tuple[str, ...], list[str]] = {}
    for name, task in tasks.items():
        schemes.setdefault(scheme_of(task), []).append(name)
    if len(schemes) > 1:
        (one, those), (other, these) = list(schemes.items())[:2]
        raise StudyError(
            f"{those[0]!r} has the labels {', '.join(one)}, {these[0]!r} {', '.join(other)}.",
            "A model answers for a domain it was not trained on only with that domain's labels.",
            "Name domains of one label scheme, or the scheme with --labels.",
        )
    if len(tasks) < 3:
        raise StudyError(
            f"There are {len(tasks)} domains.",
            "With fewer than three there is nothing to choose between.",
            "Name three or more.",
        )
    for name in methods:
        needs = get_method(name).needs
        if needs:
            raise StudyError(
                f"{name} needs {', '.join(sorted(needs))}.",
                "The targets of this study have no labels and nothing is trained on them.",
                "Choose divergences: taskscout methods",
            )
