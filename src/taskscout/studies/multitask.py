"""The study of Padmakumar et al. 2022: which sources to train on together, and at what cost.

Mixtures of sources are trained together (:mod:`taskscout.transfer.multitask`), each once; then
every target that no mixture has seen is tuned from each, over seeds. Mixtures are: all sources,
each group of one kind, the first k of a ranking for the target, and random subsets of k. The
target alone is the baseline. Beside each score stands what it cost in examples and seconds.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taskscout.engines import Engine, Files, Here, LazyJobs
from taskscout.errors import StudyError
from taskscout.models.encoder import encoder_of
from taskscout.models.recipe import Recipe
from taskscout.tasks import Task
from taskscout.tasks.overlap import MOST_OVERLAP
from taskscout.transfer.multitask import tune_together
from taskscout.transfer.result import NONE
from taskscout.transfer.strategies import Start, check_target, scored, tune_task

if TYPE_CHECKING:
    from taskscout.models.encoder import Encoder
    from taskscout.models.workbench import Workbench
    from taskscout.pools.pool import Pool
    from taskscout.tasks.catalogue import Catalogue

#: Kinds of mixtures, in the order of the tables.
TYPES = (NONE, "all", "group", "related", "random")


@dataclass(frozen=True)
class Mixture:
    """Sources that are trained together.

    Attributes
    ----------
    type
        One of :data:`TYPES`.
    name
        Of the group, the method, or the draw.
    sources
        Sorted names; none of them for the target alone.
    targets
        Targets it is tried on; a ranking's mixture serves its target only.
    """

    type: str
    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One target, tuned from one mixture by one seed.

    ``examples`` and ``seconds`` are the mixture's training (examples counted once), before the
    target's ``target_seconds``. ``score`` is a fraction.
    """

    type: str
    name: str
    sources: tuple[str, ...]
    target: str
    seed: int
    score: float
    examples: int
    seconds: float
    target_seconds: float


def group_of(task: Task) -> str:
    """Kind and form of a task: what its head answers, and whether it reads one text or two."""
    return f"{task.kind}, {'pairs' if task.is_pair else 'one text'}"


def unseen(
    sources: Iterable[str], targets: Sequence[str], catalogue: Catalogue
) -> tuple[list[str], dict[str, str]]:
    """Sources that are no target and share no texts with one, and why the others are not used."""
    kept, left_out = [], {}
    for name in sources:
        shared = [t for t in targets if catalogue.overlap(name, t) > MOST_OVERLAP]
        if name in targets:
            left_out[name] = "is a target"
        elif shared:
            left_out[name] = f"shares texts with {', '.join(shared)}"
        else:
            kept.append(name)
    return kept, left_out


def check_sizes(tasks: Mapping[str, Task], top: int) -> None:
    """Refuse sources too few to choose from.

    Raises
    ------
    StudyError
        If there are fewer than two sources, or fewer than a subset is to have.
    """
    if len(tasks) < 2 or not 0 < top <= len(tasks):
        raise StudyError(
            f"There are {len(tasks)} sources, and subsets of {top} are asked for.",
            "A study of subsets needs at least two sources, and subsets no larger than all.",
            "Name more sources, or give a smaller --top.",
        )


def mixtures(
    tasks: Mapping[str, Task],
    targets: Sequence[str],
    related: Mapping[str, Mapping[str, Sequence[str]]],
    *,
    top: int,
    draws: int,
    seed: int = 0,
) -> list[Mixture]:
    """Every mixture of the study.

    Parameters
    ----------
    tasks
        Sources by name.
    targets
        Names of the targets.
    related
        Order of sources, best first, by method and target.
    top
        k of the related subsets and of the random ones.
    draws
        Number of random subsets.
    seed
        Of the draws.

    Raises
    ------
    StudyError
        If there are fewer than two sources or the subsets have none of them.
    """
    check_sizes(tasks, top)
    names = sorted(tasks)
    out = [
        Mixture(NONE, NONE, (), tuple(targets)),
        Mixture("all", "all", tuple(names), tuple(targets)),
    ]
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(tasks[name]), []).append(name)
    out += [Mixture("group", g, tuple(members), tuple(targets)) for g, members in groups.items()]
    for method, orders in related.items():
        out += [
            Mixture("related", f"{method}, top {top}", tuple(sorted(order[:top])), (target,))
            for target, order in orders.items()
        ]
    rng = np.random.default_rng(seed)
    for draw in range(draws):
        chosen = rng.choice(names, size=top, replace=False)
        out.append(
            Mixture("random", f"draw {draw}", tuple(sorted(chosen.tolist())), tuple(targets))
        )
    return out


def orders_by(
    method: str,
    tasks: Mapping[str, Task],
    targets: Mapping[str, Task],
    pool: Pool,
    bench: Workbench,
) -> dict[str, list[str]]:
    """The order in which a method ranks the study's sources, per target.

    Raises
    ------
    StudyError
        If the pool lacks every source.
    """
    from taskscout.ranking import rank

    others = [n for n in pool.names if n not in tasks]
    if len(others) == len(pool):
        raise StudyError(
            f"The pool {pool.folder} holds none of the study's {len(tasks)} sources.",
            f"{method} ranks sources by what a pool describes.",
            "Build a pool of them: taskscout pool build --catalogue DIR --out POOL",
        )
    out = {}
    for name, target in targets.items():
        ranking = rank(target, pool, method, bench=bench, exclude=others)
        out[name] = [r.name for r in ranking.sources if r.name in tasks and r.score == r.score]
    return out


@dataclass
class MultitaskStudy:
    """Rows of a study, and what follows from them."""

    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def summary(self) -> list[dict[str, Any]]:
        """One line per mixture type and name: mean score, spread over seeds, gain, cost.

        ``gain`` is the mean over targets of the mean difference to ``none`` of the same seed;
        ``sd`` the mean over targets of the standard deviation over seeds, as in the paper;
        ``examples`` and ``seconds`` means over the targets' mixtures.
        """
        alone = {(r.target, r.seed): r.score for r in self.rows if r.type == NONE}
        lines = []
        for kind, name in dict.fromkeys(
            (r.type, "any draw" if r.type == "random" else r.name) for r in self.rows
        ):
            rows = [r for r in self.rows if r.type == kind and (kind == "random" or r.name == name)]
            targets = sorted({r.target for r in rows})
            per_target: list[float] = []
            spreads: list[float] = []
            gains: list[float] = []
            for target in targets:
                of = [r for r in rows if r.target == target]
                per_target.append(float(np.mean([r.score for r in of])))
                by_draw = [[r.score for r in of if r.name == d] for d in {r.name for r in of}]
                deviations = [float(np.std(x, ddof=1)) if len(x) > 1 else np.nan for x in by_draw]
                spreads.append(float(np.mean(deviations)))
                paired = [r.score - alone.get((r.target, r.seed), np.nan) for r in of]
                gains.append(float(np.mean(paired)))
            lines.append(
                {
                    "type": kind,
                    "name": name,
                    "targets": len(targets),
                    "sources": float(np.mean([len(r.sources) for r in rows])),
                    "score": float(np.mean(per_target)),
                    "sd": float(np.mean(spreads)),
                    "gain": float(np.mean(gains)),
                    "targets_gaining": int(np.sum(np.array(gains) > 0)),
                    "examples": float(np.mean([r.examples for r in rows])),
                    "seconds": float(np.mean([r.seconds for r in rows])),
                    "target_seconds": float(np.mean([r.target_seconds for r in rows])),
                }
            )
        return sorted(lines, key=lambda x: (TYPES.index(x["type"]), x["name"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "summary": self.summary(),
            "rows": [asdict(r) for r in self.rows],
            "left_out": self.left_out,
        }

    def markdown(self) -> str:
        """The summary, and a table of targets by mixtures, in points."""
        head = (
            "| mixture | sources | targets | score | sd over seeds | gain over none | targets that "
            "gain | examples | training together, s | target, s |\n" + "|---" * 10 + "|\n"
        )
        lines = [
            f"| {_label(x['type'], x['name'])} | {x['sources']:.0f} | {x['targets']} | "
            f"{100 * x['score']:.1f} | {100 * x['sd']:.1f} | {100 * x['gain']:+.1f} | "
            f"{x['targets_gaining']} | {x['examples']:,.0f} | {x['seconds']:.0f} | "
            f"{x['target_seconds']:.0f} |"
            for x in self.summary()
        ]
        targets = sorted({r.target for r in self.rows})
        columns = list(dict.fromkeys(_label(r.type, r.name) for r in self.rows))
        wide = ["", "| target | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for target in targets:
            cells = []
            for column in columns:
                of = [r.score for r in self.rows
                      if r.target == target and _label(r.type, r.name) == column]  # fmt: skip
                cells.append(f"{100 * np.mean(of):.1f}" if of else "")
            wide.append(f"| {target} | " + " | ".join(cells) + " |")
        return head + "\n".join([*lines, *wide]) + "\n"


def _label(kind: str, name: str) -> str:
    return kind if kind == name else f"{kind}: {name}"


def run_study(
    tasks: Mapping[str, Task],
    targets: Mapping[str, Task],
    bench: Workbench,
    planned: Sequence[Mixture],
    *,
    recipe: Recipe,
    target_recipe: Recipe,
    seeds: Sequence[int],
    temperature: float = 1.0,
    folder: Path | None = None,
    engine: Engine | None = None,
    report: Callable[[str], object] = str,
) -> MultitaskStudy:
    """Run what is missing of a study.

    Parameters
    ----------
    tasks, targets
        By name; a target may not be among the sources.
    bench
        Its encoder is where everything starts from.
    planned
        See :func:`mixtures`. One that equals another in its sources is trained once.
    recipe
        Of the training together; ``examples`` bounds each source.
    target_recipe, seeds
        Of the targets' tuning.
    temperature
        Of the mixing; the paper's is 1.
    folder
        Rows are appended to its ``rows.jsonl`` as they come, and what is there is not run again:
        the same sources, target and seed, whatever mixture they were trained for.
    engine
        Where mixtures are trained, each with its targets, whose rows come together at the end.
        In this process, which None stands for, they come one after the other.
    report
        Called with one line per row.

    Raises
    ------
    StudyError
        If a target is among the sources, or the folder holds another study.
    """
    seen = sorted(set(tasks) & set(targets))
    if seen:
        raise StudyError(
            f"{seen[0]!r} is both a source and a target.",
            "A study of transfer asks for targets that no training has seen.",
            "Leave it out on one side.",
        )
    for each in targets.values():
        check_target(each, NONE)
    identity = {
        "tasks": {n: t.fingerprint for n, t in sorted(tasks.items())},
        "targets": {n: t.fingerprint for n, t in sorted(targets.items())},
        "encoder": bench.encoder.space,
        "recipe": recipe.to_dict(),
        "target_recipe": target_recipe.to_dict(),
        "temperature": temperature,
    }
    log = RowLog(folder, identity, lambda d: Row(**{**d, "sources": tuple(d["sources"])}))
    known = {(r.sources, r.target, r.seed): r for r in log.rows}
    asked = [(m, target, seed) for m in planned for target in m.targets for seed in seeds]
    missing: dict[tuple[str, ...], dict[tuple[str, int], Mixture]] = {}
    for mixture, target, seed in asked:
        if (mixture.sources, target, seed) not in known:
            missing.setdefault(mixture.sources, {}).setdefault((target, seed), mixture)

    def job_of(sources: tuple[str, ...]) -> MixtureJob:
        return MixtureJob(
            tuple(tasks[n] for n in sources),
            tuple((targets[target], seed) for target, seed in missing[sources]),
            bench.encoder.arguments, recipe, target_recipe, temperature,
        )  # fmt: skip

    def keep(row: Row) -> None:
        mixture = missing[row.sources][row.target, row.seed]
        row = replace(row, type=mixture.type, name=mixture.name)
        known[row.sources, row.target, row.seed] = row
        log.append(row)
        name = _label(row.type, row.name)
        report(f"{name} > {row.target}, seed {row.seed}: {100 * row.score:.1f}")

    jobs = LazyJobs(list(missing), job_of)
    if engine is None or isinstance(engine, Here):
        for job in jobs:
            for row in rows_of(job, bench.encoder, report):
                keep(row)
    else:
        for _, made in engine.run(run_mixture, jobs):
            for row in made:
                keep(row)
    return MultitaskStudy(
        [replace(known[m.sources, t, s], type=m.type, name=m.name) for m, t, s in asked]
    )


@dataclass(frozen=True)
class MixtureJob:
    """Sources to be trained together once, and what is to be tuned from them."""

    sources: tuple[Task, ...]
    runs: tuple[tuple[Task, int], ...]
    encoder: dict[str, Any]
    recipe: Recipe
    target_recipe: Recipe
    temperature: float

    def __str__(self) -> str:
        return "+".join(t.name for t in self.sources) or NONE


def run_mixture(job: MixtureJob, _: Files) -> list[Row]:
    """Train a mixture and tune its targets."""
    return list(rows_of(job, encoder_of(job.encoder), str))


def rows_of(job: MixtureJob, encoder: Encoder, report: Callable[[str], object]) -> Iterator[Row]:
    """Train a mixture, then tune target by target; rows have neither type nor name yet."""
    start, examples, seconds = Start(), 0, 0.0
    if job.sources:
        report(f"training together: {', '.join(t.name for t in job.sources)}")
        together = tune_together(job.sources, encoder, job.recipe, temperature=job.temperature)
        examples, seconds = together.trained_on, together.seconds
        start = Start(
            str(job), together.recipe, together.parameters, lambda: copy.deepcopy(together.body)
        )
    for target, seed in job.runs:
        recipe = replace(job.target_recipe, seed=seed)
        given, values = start.for_tuning(recipe)
        tuned = tune_task(target, encoder, recipe, body=given, start=values)
        score = float(scored(tuned, target, "test", encoder)[1]["score"])
        sources = tuple(t.name for t in job.sources)
        yield Row("", "", sources, target.name, seed, score, examples, seconds, tuned.seconds)


class RowLog:
    """Rows of a study in a file of JSON lines, so that a study that is stopped goes on.

    Parameters
    ----------
    folder
        Of ``rows.jsonl`` and ``identity.json``; None keeps nothing.
    identity
        What the rows depend on; a folder of another study is refused.
    read
        Makes a row of its plain form.

    Raises
    ------
    StudyError
        If the folder holds the rows of another study.
    """

    def __init__(
        self,
        folder: Path | None,
        identity: Mapping[str, Any],
        read: Callable[[dict[str, Any]], Any],
    ) -> None:
        self.path = None if folder is None else folder / "rows.jsonl"
        self.rows: list[Any] = []
        if folder is None or self.path is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / "identity.json"
        text = json.dumps(identity, sort_keys=True, indent=1)
        if known.is_file() and known.read_text() != text:
            raise StudyError(
                f"{folder} holds the rows of a study with other tasks or settings.",
                "Rows of two studies cannot be told apart in one table.",
                "Give another folder with --out, or remove that one.",
            )
        known.write_text(text)
        if self.path.is_file():
            lines = self.path.read_text().splitlines(keepends=True)
            # A line that was cut short when the study was stopped is run again.
            whole = [line for line in lines if line.endswith("\n")]
            if len(whole) != len(lines):
                self.path.write_text("".join(whole))
            self.rows = [read(json.loads(line)) for line in whole]

    def append(self, row: Any) -> None:
        """Add a row; it is on disk when this returns."""
        self.rows.append(row)
        if self.path is not None:
            with self.path.open("a") as f:
                f.write(json.dumps(asdict(row)) + "\n")
                f.flush()
