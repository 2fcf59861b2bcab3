"""A pool for another model: tuned on the sources that a pool has, described as its sources are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskscout.engines import Engine, Files, Here, LazyJobs
from taskscout.errors import DataError, PoolError
from taskscout.methods.method import Description
from taskscout.models.encoder import Encoder, encoder_of
from taskscout.models.recipe import Recipe
from taskscout.models.sizing import sized_recipe
from taskscout.models.workbench import Workbench
from taskscout.pools.build import (
    DEFAULT_METHODS,
    check_encoder,
    check_kind,
    encoder_header,
    make_source,
)
from taskscout.pools.builtin import builtin_folder
from taskscout.pools.pool import Pool, Source
from taskscout.pools.source_data import data_of
from taskscout.tasks import Task

if TYPE_CHECKING:
    from taskscout.tasks.catalogue import Catalogue

#: How a reason begins that may be gone the next time: such a source is tried again.
NO_DATA = "its data cannot be had: "


def mean_gains() -> dict[str, float]:
    """Mean gain in points of built-in sources over the targets of our grid, on the default encoder.

    They know no target. Sources that the grid lacks are not among them (``benchmarks.mean_gains``).
    """
    gains: dict[str, float] = json.loads((builtin_folder() / "mean_gains.json").read_bytes())
    return gains


def chosen_sources(
    pattern: Pool, *, names: Sequence[str] | None = None, top: int | None = None
) -> list[Source]:
    """Choose among the sources of a pool: by name, or those that have helped most.

    Parameters
    ----------
    pattern
        The pool.
    names
        Sources to take; None for all.
    top
        Take so many of them, by :func:`mean_gains`; those that have no such figure come last, by
        name.

    Raises
    ------
    PoolError
        If the pool lacks a source that is named.
    """
    sources = [pattern.source(n) for n in (pattern.names if names is None else names)]
    if top is None:
        return sources
    gains = mean_gains()
    sources.sort(key=lambda s: (-gains.get(s.name, float("-inf")), s.name))
    return sources[:top]


@dataclass(frozen=True)
class TuneJob:
    """One source to tune a model on, with its data, or the reason why it has none."""

    name: str
    task: Task | str
    recipe: dict[str, Any]
    encoder: dict[str, Any]
    methods: tuple[str, ...]


def tune_one(job: TuneJob, _: Files) -> tuple[dict[str, Any], list[Description]] | str:
    """Tune the model on one source; the reason where the source is left out."""
    if isinstance(job.task, str):
        return job.task
    bench = Workbench(encoder_of(job.encoder), recipe=Recipe(**job.recipe))
    return make_source(job.task, bench, methods=job.methods, only_if_it_learns=True, texts=True)


def build_like(
    pattern: Pool,
    folder: str | Path,
    *,
    encoder: Encoder,
    recipe: Recipe | None = None,
    names: Sequence[str] | None = None,
    top: int | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    catalogue: Catalogue | None = None,
    engine: Engine | None = None,
    report: Callable[[str], object] = str,
) -> Pool:
    """Tune a model on the sources of another model's pool, and make a pool of what comes out.

    A source is written whole when it is done, so a build that was stopped goes on where it was. A
    source whose data cannot be had, or on which the model does not learn, is left out; the pool
    keeps the reason. One whose data could not be had is tried again the next time.

    Parameters
    ----------
    pattern
        The pool whose sources are taken; its cards say where the data are.
    folder
        The pool to make, or to go on with.
    encoder
        The model.
    recipe
        How it is tuned; None for what fits its size.
    names, top
        As for :func:`chosen_sources`.
    methods
        Whose descriptions to make.
    catalogue
        Labelled datasets on disk, which are looked at before the hub.
    engine
        Where sources are tuned; None for this process, one after the other. A job carries its
        data, so the workers of a cluster need no shared disk.
    report
        Called with one line per source.

    Raises
    ------
    PoolError
        If the pattern lacks a source, the folder holds a pool of another encoder, or no source
        could be made.
    """
    recipe = recipe or sized_recipe(encoder)
    sources = chosen_sources(pattern, names=names, top=top)
    pool = Pool.create(folder, encoder=encoder_header(encoder), write=False)
    check_encoder(pool, encoder)
    left_out = {n: r for n, r in pool.left_out.items() if not r.startswith(NO_DATA)}
    todo = [s for s in sources if s.name not in pool and s.name not in left_out]
    report(f"{len(sources)} sources, {len(sources) - len(todo)} done before, {len(todo)} to do")

    def job_of(source: Source) -> TuneJob:
        task: Task | str
        try:
            task = data_of(source.card, catalogue)
            check_kind(task)
            task = replace(task, card=source.card)
        except (DataError, PoolError) as error:
            task = f"{NO_DATA}{error.found}"
        return TuneJob(source.name, task, recipe.to_dict(), encoder.arguments, tuple(methods))

    engine = engine or Here()
    for done, (job, made) in enumerate(engine.run(tune_one, LazyJobs(todo, job_of)), 1):
        if isinstance(made, str):
            left_out[job.name] = made
        else:
            assert isinstance(job.task, Task)
            pool.add(job.task.card, *made)
        said = f"left out, {made}" if isinstance(made, str) else "added"
        report(f"{done}/{len(todo)} {job.name}: {said}")
        if len(pool):
            pool.set_left_out(left_out)
    if not len(pool):
        raise PoolError(
            f"None of the {len(sources)} sources could be made for {encoder.model_id}.",
            "; ".join(dict.fromkeys(left_out.values())),
            "Give a folder of labelled datasets with --catalogue, or build where there is a "
            "network.",
        )
    return pool
