"""Grids: every source on every target, really trained, resumable cell by cell."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from taskscout.engines import Engine, Files, LazyJobs, LocalProcesses
from taskscout.errors import StudyError, TaskscoutError
from taskscout.models.recipe import Recipe, Tuning
from taskscout.studies.store import CellResult, GridStore
from taskscout.studies.study_file import EncoderSettings, GridStudy, Strategy
from taskscout.tasks.catalogue import Catalogue
from taskscout.tasks.kinds import SOURCE_KINDS
from taskscout.tasks.names import NONE
from taskscout.tasks.overlap import MOST_OVERLAP

if TYPE_CHECKING:
    from taskscout.models.encoder import Encoder
    from taskscout.pools.pool import Pool
    from taskscout.tasks import Task, TaskCard

#: Part of every cell's key: what changes the outcome of a cell raises it. 2: a target draws neither
#: its head nor its LoRA factors as its source drew them.
FORMAT = 2
#: Short examples trained a second by one process, where nothing was measured yet.
_ASSUMED_RATE = 60.0

Report = Callable[[int, int, CellResult], object]


@dataclass(frozen=True)
class SourceJob:
    """One source to be tuned: content and settings."""

    key: str
    task: Task
    encoder: EncoderSettings
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One transfer to be run.

    Attributes
    ----------
    key
        Digest of the contents of source and target and of every setting.
    source_key
        Names the file of the source's tuned model; empty for ``none``.
    recipe
        What the study changes of the target's default recipe.
    """

    key: str
    source: str
    source_key: str
    target: str
    encoder: EncoderSettings
    strategy: Strategy | Literal["none"]
    tuning: Tuning
    size: int
    seed: int
    recipe: str = "default"

    def __str__(self) -> str:
        return f"{self.source} -> {self.target} ({self.tuning}, {self.size or 'all'}, {self.seed})"


@dataclass(frozen=True)
class CellJob:
    """A cell with what a worker needs that shares no disk."""

    cell: Cell
    target: Task
    recipe: dict[str, Any]
    source: TaskCard | None = None

    def __str__(self) -> str:
        return str(self.cell)


@dataclass(frozen=True)
class Estimate:
    """What is left of a grid.

    Attributes
    ----------
    cells, done
        In all, and finished.
    sources
        Source models still to be tuned.
    hours
        With as many processes as asked, from the mean seconds of like cells where there are
        any, else from an assumed rate.
    measured
        Whether all of it rests on measured cells.
    megabytes
        On disk when it is done: source models and results.
    """

    cells: int
    done: int
    sources: int
    hours: float
    measured: bool
    megabytes: float


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


@lru_cache(maxsize=4)
def _encoder(settings: EncoderSettings) -> Encoder:
    from taskscout.models.encoder import Encoder

    return Encoder(**settings.model_dump(exclude={"name"}))


class Plan:
    """All cells of a study, and what has to be there for them.

    Seeds are outermost, then sizes and tunings, then targets; so whatever is finished when a
    grid is stopped is whole seeds over whole targets, but for one.

    Parameters
    ----------
    study
        What to run.
    catalogue
        None for the study's own, else TASKSCOUT_DATA.
    """

    def __init__(self, study: GridStudy, *, catalogue: Catalogue | None = None) -> None:
        self.study = study
        if catalogue is None:
            found = study.catalogue
            catalogue = Catalogue.open(found) if found is not None else Catalogue.find()
        self.catalogue = catalogue
        self.sources: tuple[str, ...] = self._source_names()
        for name in (*self.sources, *study.targets):
            if self.catalogue.kind(name) not in SOURCE_KINDS:
                raise StudyError(
                    f"Task {name!r} is of kind {self.catalogue.kind(name)}.",
                    f"A grid runs tasks of kind {', '.join(SOURCE_KINDS)}.",
                    "Leave it out of the study.",
                )
        self._targets: dict[tuple[str, int], Task] = {}

    def _source_names(self) -> tuple[str, ...]:
        if self.study.sources != "all":
            return tuple(self.study.sources)
        if self.pool is not None:
            return tuple(s.name for s in self.pool if s.name in self.catalogue.entries)
        return tuple(n for n in self.catalogue if self.catalogue.kind(n) in SOURCE_KINDS)

    @cached_property
    def pool(self) -> Pool | None:
        """Where tuned sources are taken from."""
        from taskscout.pools.pool import Pool

        if self.study.pool is None:
            return None
        return Pool.builtin() if self.study.pool == "builtin" else Pool.open(self.study.pool)

    def target(self, name: str, size: int) -> Task:
        """A target with ``size`` training examples (0 for all) and its test rows."""
        if (name, size) not in self._targets:
            task = self.catalogue.task(name)
            task = task.sample(size) if size else task
            task = task.sample(self.study.test_examples, split="test")
            tables = {s: task.tables[s] for s in ("train", "test")}
            self._targets[name, size] = replace(task, tables=tables)
        return self._targets[name, size]

    def recipe(self, tuning: Tuning, seed: int) -> Recipe:
        """How a target is tuned: the study's changes to the default, all rows, all tokens."""
        settings = {"tokens": 10**9, **self.study.recipe}
        return Recipe(
            tuning=tuning, seed=seed, examples=10**9,
            test_examples=self.study.test_examples, **settings,
        )  # fmt: skip

    def _changes(self, tuning: Tuning) -> str:
        """What the study changes of the default recipe, whatever else it repeats of it."""
        default, own = Recipe(tuning=tuning), self.recipe(tuning, 0)
        changed = {f: getattr(own, f) for f in sorted(self.study.recipe)}
        told = [f"{f}={v}" for f, v in changed.items() if v != getattr(default, f)]
        return ", ".join(told) or "default"

    def source_recipe(self, tuning: Tuning) -> Recipe:
        """How a source is tuned that no pool has."""
        return Recipe(
            tuning=tuning, seed=self.study.source_seed, examples=self.study.source_examples,
            **self.study.source_recipe,
        )  # fmt: skip

    def _in_pool(self, name: str, settings: EncoderSettings, tuning: Tuning) -> bool:
        """Tell whether the pool has this source tuned so, with this encoder."""
        pool = self.pool
        if pool is None or name not in pool:
            return False
        same = pool.encoder["fingerprint"] == _encoder(settings).fingerprint
        return bool(same and pool.source(name).tuning["recipe"]["tuning"] == tuning)

    @cached_property
    def _source_keys(self) -> dict[tuple[str, EncoderSettings, Tuning], str]:
        keys = {}
        for settings in self.study.encoders:
            for tuning in self.study.tunings:
                for name in self.sources:
                    if self._in_pool(name, settings, tuning):
                        assert self.pool is not None
                        kept = self.pool.source(name).tuning
                        what = {"task": kept["fingerprint"], "recipe": kept["recipe"]}
                    else:
                        what = {
                            "task": self.catalogue.task(name).fingerprint,
                            "recipe": self.source_recipe(tuning).to_dict(),
                        }
                    what["encoder"] = _encoder(settings).fingerprint
                    keys[name, settings, tuning] = _digest(what)
        return keys

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells in the order to run them, without a source first."""
        out = []
        study = self.study
        for seed in study.seeds:
            for settings in study.encoders:
                for size in study.sizes:
                    for tuning in study.tunings:
                        for name in study.targets:
                            for source in (NONE, *self.sources):
                                for strategy in self._strategies(source, name):
                                    out.append(
                                        self._cell(source, name, settings, strategy, tuning,
                                                   0 if size == "all" else size, seed)
                                    )  # fmt: skip
        return tuple(out)

    def _strategies(self, source: str, target: str) -> tuple[Strategy | Literal["none"], ...]:
        """What can be run with a source on a target."""
        if source == NONE:
            return ("none",)
        if source == target or self._overlap(source, target):
            return ()
        return tuple(
            s for s in self.study.strategies if s != "zero_shot" or self._answers(source, target)
        )

    def _answers(self, source: str, target: str) -> bool:
        """Tell whether a source's head has an answer for every label of a target."""
        from taskscout.errors import TransferError
        from taskscout.transfer.zero_shot import match_labels

        kinds = {self.catalogue.kind(source), self.catalogue.kind(target)}
        if len(kinds) > 1:
            return False
        try:
            match_labels(self._card(source).label_names, self._card(target).label_names)
        except TransferError:
            return False
        return True

    def _overlap(self, source: str, target: str) -> bool:
        return source != NONE and self.catalogue.overlap(source, target) > MOST_OVERLAP

    def _cell(
        self, source: str, target: str, settings: EncoderSettings,
        strategy: Strategy | Literal["none"], tuning: Tuning, size: int, seed: int,
    ) -> Cell:  # fmt: skip
        source_key = "" if source == NONE else self._source_keys[source, settings, tuning]
        key = _digest(
            {
                "format": FORMAT,
                "source": source_key,
                "target": self.target(target, size).fingerprint,
                "encoder": _encoder(settings).fingerprint,
                "strategy": strategy,
                "recipe": self.recipe(tuning, seed).to_dict(),
            }
        )
        return Cell(
            key, source, source_key, target, settings, strategy, tuning, size, seed,
            self._changes(tuning),
        )  # fmt: skip

    def job(self, cell: Cell) -> CellJob:
        """A cell with its target's rows and recipe."""
        recipe = self.recipe(cell.tuning, cell.seed).to_dict()
        card = None if cell.source == NONE else self._card(cell.source)
        return CellJob(cell, self.target(cell.target, cell.size), recipe, card)

    def _card(self, name: str) -> TaskCard:
        """A source's card with its label names, which zero-shot transfer goes by."""
        card = self.catalogue.card(name)
        names = tuple(self.catalogue.entry(name).get("label_names") or ())
        return replace(card, label_names=names)

    def source_job(self, cell: Cell) -> SourceJob:
        """The tuning that a cell's source needs."""
        recipe = self.source_recipe(cell.tuning).to_dict()
        return SourceJob(cell.source_key, self.catalogue.task(cell.source), cell.encoder, recipe)

    def from_pool(self, cell: Cell) -> bytes | None:
        """The tuned model of a cell's source as the pool has it, or None."""
        from taskscout.models.tuned_store import to_bytes
        from taskscout.transfer.sources import origin_of

        if not self._in_pool(cell.source, cell.encoder, cell.tuning):
            return None
        return to_bytes(origin_of(cell.source, self.pool, _encoder(cell.encoder)).model())

    def estimate(self, store: GridStore | None, folder: Path, processes: int) -> Estimate:
        """Say what is left: cells, hours, disk."""
        known = store.results() if store is not None else []
        done = {r.key for r in known if not r.error}
        left = [c for c in self.cells if c.key not in done]
        seconds: dict[tuple[str, str, str, int], list[float]] = {}
        for r in known:
            if not r.error:
                seconds.setdefault((r.encoder, r.tuning, r.recipe, r.size), []).append(r.seconds)
        total, measured = 0.0, True
        for cell in left:
            like = seconds.get((cell.encoder.name, cell.tuning, cell.recipe, cell.size))
            if like:
                total += float(np.mean(like))
            else:
                measured = False
                total += self._examples(cell) / _ASSUMED_RATE
        sources = {
            c.source_key: c
            for c in left
            if c.source_key
            and not source_path(folder, c.source_key).is_file()
            and not self._in_pool(c.source, c.encoder, c.tuning)
        }
        for cell in sources.values():
            measured = False
            recipe = self.source_recipe(cell.tuning)
            total += recipe.examples * recipe.epochs / _ASSUMED_RATE
        full = sum(c.tuning == "full" for c in sources.values())
        weights = max((_weights_megabytes(c.encoder) for c in sources.values()), default=0.0)
        return Estimate(
            len(self.cells),
            len(self.cells) - len(left),
            len(sources),
            total / 3600 / max(processes, 1),
            measured,
            full * weights + (len(sources) - full) * 1.0 + 1e-3 * len(self.cells),
        )

    def _examples(self, cell: Cell) -> float:
        """Examples that a cell passes through the model, a test example counted as a third."""
        recipe = self.recipe(cell.tuning, cell.seed)
        n = len(self.target(cell.target, cell.size).tables["train"])
        steps = -(-n // recipe.batch_size)
        epochs = min(20, max(recipe.epochs, -(-recipe.least_steps // steps)))
        return n * epochs + self.study.test_examples / 3


def _weights_megabytes(settings: EncoderSettings) -> float:
    return sum(p.stat().st_size for p in _encoder(settings).folder.glob("*.safetensors")) / 1e6


# -- source models as files ---------------------------------------------------------------


def source_path(folder: Path, key: str) -> Path:
    """The file of a source's tuned model."""
    return folder / f"{key}.safetensors"


# -- what workers do ----------------------------------------------------------------------


def _made() -> dict[str, Any]:
    import torch
    import transformers

    from taskscout import __version__

    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": platform.machine(),
        "taskscout": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def run_source(job: SourceJob, _: Files) -> bytes:
    """Tune a source; what comes back is its file."""
    from taskscout.models.tuned_store import to_bytes
    from taskscout.models.tuning import tune

    tuned = tune(job.task, _encoder(job.encoder), Recipe(**job.recipe), evaluate=None)
    return to_bytes(tuned)


def run_cell(job: CellJob, files: Files) -> CellResult:
    """Train a target, from its source where there is one, and score it.

    Where a source was tuned by LoRA, its adapter is merged and the target gets one of its own.
    A :class:`TaskscoutError` becomes the result's error, so one impossible cell stops no grid.
    """
    from taskscout.models.cache import NoCache
    from taskscout.models.tuned_store import from_bytes
    from taskscout.models.workbench import Workbench
    from taskscout.transfer.origin import Origin
    from taskscout.transfer.strategies import transfer

    cell, began = job.cell, time.perf_counter()
    encoder, recipe = _encoder(cell.encoder), Recipe(**job.recipe)
    common: dict[str, Any] = {
        name: getattr(cell, name)
        for name in ("key", "source", "target", "strategy", "tuning", "size", "seed", "recipe")
    } | {"encoder": cell.encoder.name, "made": _made()}
    try:
        origins = []
        if cell.source != NONE:
            assert job.source is not None
            origins.append(Origin(job.source, from_bytes(files["source"], encoder)))
        out = transfer(
            job.target, origins, Workbench(encoder, cache=NoCache(), recipe=recipe),
            strategy=cell.strategy, recipe=recipe, merge=True,
        )  # fmt: skip
    except TaskscoutError as error:
        return CellResult(**common, score=None, error=str(error))
    scores = {k: round(v, 6) for k, v in out.scores.items()}
    return CellResult(
        **common,
        score=scores["score"],
        scores=scores,
        seconds=round(time.perf_counter() - began, 2),
        source_seconds=round(sum(o.model().seconds for o in origins), 2),
    )


# -- running ------------------------------------------------------------------------------


def run_grid(
    plan: Plan,
    store: GridStore,
    folder: str | Path,
    *,
    engine: Engine | None = None,
    report: Report | None = None,
    note: Callable[[str], object] = str,
) -> None:
    """Run what is missing of a plan.

    Parameters
    ----------
    plan
        The cells.
    store
        Where each result is committed as it comes.
    folder
        Where the tuned sources are kept.
    engine
        Where the work runs; None for local processes, one for each processor.
    report
        Called with (done, total, result) after each cell.
    note
        Called with a line on what is going on.

    Raises
    ------
    EngineError
        If workers die again and again.
    StudyError
        If the grid's file cannot be written.
    """
    from taskscout.files import write_atomically

    engine = engine or LocalProcesses()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = store.done()
    left = [c for c in plan.cells if c.key not in done]
    missing: dict[str, Cell] = {}
    for cell in left:
        path = source_path(folder, cell.source_key)
        if not cell.source_key or path.is_file():
            continue
        kept = plan.from_pool(cell)
        if kept is not None:
            write_atomically(path, kept)
        else:
            missing[cell.source_key] = cell
    if missing:
        note(f"{len(missing)} sources to tune")
        jobs = LazyJobs(list(missing.values()), plan.source_job)
        for job, data in engine.run(run_source, jobs):
            write_atomically(source_path(folder, job.key), data)
            note(f"{job.task.name} tuned")

    def files(job: CellJob) -> dict[str, Path]:
        key = job.cell.source_key
        return {"source": source_path(folder, key)} if key else {}

    total = len(plan.cells)
    finished = total - len(left)
    note(f"{total} cells, {finished} done before, {len(left)} to do")
    for _, result in engine.run(run_cell, LazyJobs(left, plan.job), files):
        store.put([result])
        finished += 1
        if report is not None:
            report(finished, total, result)
