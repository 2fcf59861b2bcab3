"""Making sources: tune the encoder on a task, describe it, and put both into a pool."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import numpy as np

from taskscout.engines import Engine, Files, Here, LazyJobs, run
from taskscout.errors import PoolError
from taskscout.files import write_atomically
from taskscout.methods.descriptions import TERMS
from taskscout.methods.joint import leaves, split
from taskscout.methods.method import CARD, Description, get_method
from taskscout.methods.source_features import TUNED, describe_tuned
from taskscout.methods.term_divergence import TopicDivergence
from taskscout.methods.topics import ATTACHED, TopicModel
from taskscout.models.encoder import Encoder, encoder_of
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import TunedModel
from taskscout.models.workbench import Workbench
from taskscout.pools.pool import Pool, Source
from taskscout.pools.texts import describe_texts
from taskscout.tasks import Kind, Task
from taskscout.tasks.kinds import SEQUENCE_KINDS, SOURCE_KINDS
from taskscout.tasks.overlap import SKETCH_SIZE, sketch, text_hashes

#: Key of the description that belongs to no method.
OVERLAP = "overlap"
#: Methods whose descriptions every source gets.
DEFAULT_METHODS: tuple[str, ...] = ("layered-esm-logme", "esm-logme")


def encoder_header(encoder: Encoder) -> dict[str, Any]:
    """What a pool records of its encoder."""
    return {
        "model": encoder.model_id,
        "weights": encoder.weights_fingerprint,
        "fingerprint": encoder.fingerprint,
        "dimension": encoder.dimension,
        **encoder.settings,
    }


def describe_overlap(task: Task) -> Description:
    """The sketch by which a target finds its own texts in the source."""
    kept = sketch(text_hashes(task))
    return Description(OVERLAP, task.name, {"size": SKETCH_SIZE}, {"sketch": kept})


def add_source(
    pool: Pool,
    task: Task,
    bench: Workbench,
    *,
    methods: Iterable[str] = DEFAULT_METHODS,
    replace: bool = False,
    only_if_it_learns: bool = False,
    texts: bool = False,
) -> str | None:
    """Tune the encoder on a task and add it to a pool with its descriptions.

    Parameters
    ----------
    pool
        Must have been begun with the workbench's encoder and pooling.
    task
        A task of any kind but text-to-text.
    bench
        Its recipe is used and recorded.
    methods
        Whose descriptions to make.
    replace
        Overwrite a source of the same name.
    only_if_it_learns
        Leave the task out where its test score does not exceed the trivial baseline by more
        than one standard error.
    texts
        Keep some of the task's texts in the pool: what the maps of models that come without data
        are fitted on (:func:`taskscout.pools.add_model.add_model`).

    Returns
    -------
    None, or the reason why the task was left out.

    Raises
    ------
    PoolError
        If the pool has another encoder or pooling, the kind cannot be tuned yet, or the name
        cannot be taken.
    """
    check_encoder(pool, bench.encoder)
    check_kind(task)
    pool.check_name(task.card.name, replace=replace)
    made = make_source(
        task, bench, methods=methods, only_if_it_learns=only_if_it_learns, texts=texts
    )
    if isinstance(made, str):
        return made
    pool.add(task.card, *made, replace=replace)
    return None


def check_encoder(pool: Pool, encoder: Encoder) -> None:
    """Refuse an encoder, or a way of pooling, that is not the pool's.

    Raises
    ------
    PoolError
        If it is another.
    """
    if pool.encoder["fingerprint"] != encoder.fingerprint:
        raise PoolError(
            f"The pool {pool.folder} was begun with {pool.encoder['model']}, pooling "
            f"{pool.encoder['pooling']}.",
            "Its sources would not be comparable with one made with "
            f"{encoder.model_id}, pooling {encoder.pooling}.",
            "Use the same encoder and pooling, or another pool.",
        )


def check_kind(task: Task) -> None:
    """Refuse a task of a kind that cannot be a source.

    Raises
    ------
    PoolError
        If it cannot.
    """
    if task.kind not in SOURCE_KINDS:
        raise PoolError(
            f"Task {task.name!r} is of kind {task.kind}.",
            "A pool keeps encoders with heads, and what writes text is a language model; sources "
            f"of kind {', '.join(SOURCE_KINDS)} can be added.",
            "Where its outputs are few, name them as labels: --label, or kind='classification'.",
        )


def make_source(
    task: Task,
    bench: Workbench,
    *,
    methods: Iterable[str],
    only_if_it_learns: bool = False,
    texts: bool = False,
) -> tuple[dict[str, Any], list[Description]] | str:
    """Tune the encoder on a task and describe it; options as for :func:`add_source`.

    Returns
    -------
    What a pool records of the tuning, and the descriptions; or the reason why the task is left
    out.
    """
    tuned = bench.tuned(task)
    scores = {k: round(v, 5) for k, v in tuned.scores.items()}
    if only_if_it_learns and scores["score"] <= scores["baseline"] + scores["error"]:
        return (
            f"does not train above its trivial baseline: test score {scores['score']:.3f}, "
            f"baseline {scores['baseline']:.3f}, standard error {scores['error']:.3f}"
        )
    spent = {"seconds": round(tuned.seconds, 1)}
    adapter = describe_tuned(task, bench)
    descriptions = [
        replace_fields(adapter, header={**adapter.header, **spent}),
        describe_overlap(task),
        *describe(task, bench, methods, known=(TUNED, OVERLAP)).values(),
        *([describe_texts(task)] if texts and task.kind in SEQUENCE_KINDS else []),
    ]
    tuning = {
        "recipe": bench.recipe.to_dict(),
        "precision": bench.encoder.resolved_precision,
        "scores": scores,
        "trained_on": tuned.trained_on,
        "seconds": round(tuned.seconds, 1),
        "fingerprint": task.fingerprint,
    }
    return tuning, descriptions


def describe(
    task: Task, bench: Workbench, methods: Iterable[str], *, known: Iterable[str] = ()
) -> dict[str, Description]:
    """Make the descriptions that methods read, by key; each header says what it cost.

    Parameters
    ----------
    task
        The source.
    bench
        Tunes and embeds it, once for all methods.
    methods
        Names of methods.
    known
        Keys that are there already.

    Returns
    -------
    New descriptions by key. ``seconds`` in a header counts the tuning of the model too, where
    the description is made from it.
    """
    described: dict[str, Description] = {}
    for leaf in (leaf for name in methods for leaf in leaves(get_method(name))):
        if set(leaf.reads) <= {CARD, *known, *described}:
            continue
        tuning = bench.tuned(task).seconds if leaf.describes_from == "tuned model" else 0.0
        start = time.perf_counter()
        parts = split(leaf.describe(task, bench))
        seconds = time.perf_counter() - start + tuning
        for part in parts:
            if part.key not in (*known, *described, CARD):
                header = {**part.header, "seconds": round(seconds, 2)}
                described[part.key] = replace_fields(part, header=header)
    return described


def describe_pool(
    pool: Pool,
    methods: Sequence[str],
    task_of: Callable[[Source], Task],
    bench: Workbench,
    *,
    names: Sequence[str] | None = None,
    engine: Engine | None = None,
    report: Callable[[str], object] = str,
) -> None:
    """Add to the sources of a pool the descriptions that methods read and it lacks.

    A source whose tuned model is in the pool is not tuned again. Each source is written whole
    when it is done, so a run that was stopped goes on where it was. For methods over topics, one
    topic model is fitted over all sources and kept with the pool.

    Parameters
    ----------
    pool
        Changed in place, source by source.
    methods
        Names of methods.
    task_of
        Gives a source's data.
    bench
        Its encoder and cache are used, with each source's own recipe.
    names
        Sources to describe; None for all.
    engine
        Where sources are described; None for this process, one after the other. A job carries all
        that it needs, so the workers of a cluster need no shared disk.
    report
        Called with one line per source.

    Raises
    ------
    PoolError
        If the pool has no source of a name.
    """
    keys = {k for name in methods for k in get_method(name).reads} - {CARD}
    chosen = [pool.source(n) for n in (pool.names if names is None else names)]
    todo = [s for s in chosen if not keys <= set(s.headers)]
    no_data = [s.name for s in todo if "model" in s.tuning]
    if no_data:
        report(f"passed over, models that came without data: {', '.join(no_data)}")
        todo = [s for s in todo if s.name not in no_data]
    report(f"{len(chosen)} sources, {len(chosen) - len(todo)} described before, {len(todo)} to do")
    settings = bench.encoder.arguments

    def job_of(source: Source) -> DescribeJob:
        tuned = pool.description(source.name, TUNED) if TUNED in source.headers else None
        return DescribeJob(
            source.name,
            task_of(source),
            tuple(methods),
            tuple(source.headers),
            dict(source.tuning),
            tuned,
            settings,
            bench.cache.folder,
        )

    jobs = LazyJobs(todo, job_of)
    for done, (job, new) in enumerate((engine or Here()).run(describe_one, jobs), 1):
        source = pool.source(job.name)
        old = [pool.description(source.name, k) for k in source.headers]
        card = replace_fields(source.card, pair=job.task.card.pair)
        pool.add(card, source.tuning, [*old, *new.values()], replace=True)
        report(f"{done}/{len(todo)} {source.name}: {', '.join(new)}")
    if any(isinstance(get_method(name), TopicDivergence) for name in methods):
        topics = TopicModel.fit(pool.descriptions(TERMS))
        pool.attach(ATTACHED, topics.to_bytes())
        report(f"{topics.topics} topics over the terms of {len(topics.known)} sources")


@dataclass(frozen=True)
class DescribeJob:
    """One source of a pool to be described further, with all that takes of the pool."""

    name: str
    task: Task
    methods: tuple[str, ...]
    known: tuple[str, ...]
    tuning: dict[str, Any]
    tuned: Description | None
    encoder: dict[str, Any]
    cache: Path | None


def describe_one(job: DescribeJob, _: Files) -> dict[str, Description]:
    """Make the descriptions that a source of a pool lacks."""
    from taskscout.models.cache import cache_at

    recipe = Recipe(**job.tuning["recipe"])
    bench = Workbench(encoder_of(job.encoder), cache=cache_at(job.cache), recipe=recipe)
    if job.tuned is not None:
        bench.adopt(job.task, tuned_model(job.tuned, job.tuning, bench.encoder))
    return describe(job.task, bench, job.methods, known=job.known)


def tuned_model(tuned: Description, tuning: Mapping[str, Any], encoder: Encoder) -> TunedModel:
    """The tuned model that a pool carries, of its description and what is known of its tuning."""
    from taskscout.models.tuned_store import restored

    arrays = {
        name.replace("head.", "head/") if name.startswith("head.") else f"parameters/{name}": array
        for name, array in tuned.arrays.items()
    }
    meta = {
        "identity": {"recipe": {**tuning["recipe"], "checkpoints": ()}},
        "checkpoints": (),
        "kind": tuned.header["kind"],
        "center": tuned.header["center"],
        "scale": tuned.header["scale"],
        "initialisation": tuned.header.get("initialisation", ""),
        "scores": tuning["scores"],
        "seconds": tuning["seconds"],
        "trained_on": tuning["trained_on"],
    }
    return restored(meta, {k: v.astype(np.float32) for k, v in arrays.items()}, encoder)


@dataclass(frozen=True)
class BuildJob:
    """One source of a build, small enough to be sent to a worker."""

    catalogue: str
    name: str
    pool: str
    recipe: dict[str, Any]
    encoder: dict[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = DEFAULT_METHODS


def build_one(job: BuildJob) -> str | None:
    """Build one source of a catalogue; the reason where it is left out."""
    from taskscout.tasks.catalogue import Catalogue

    catalogue = Catalogue.open(job.catalogue)
    withheld = catalogue.withheld(job.name)
    reason = f"licence: {withheld}" if withheld else None
    if reason is None:
        bench = Workbench(encoder_of(job.encoder), recipe=Recipe(**job.recipe))
        reason = add_source(
            Pool.open(job.pool),
            catalogue.task(job.name),
            bench,
            methods=job.methods,
            only_if_it_learns=True,
            replace=True,
            texts=True,
        )
    if reason is not None:
        path = Path(job.pool) / "sources" / f"{job.name}.left_out.json"
        write_atomically(path, json.dumps(reason).encode())
    return reason


def build_pool(
    catalogue: str | Path,
    folder: str | Path,
    *,
    encoder: Encoder,
    recipe: dict[str, Any] | None = None,
    names: Sequence[str] | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    processes: int = 1,
    report: Callable[[str], object] = str,
) -> Pool:
    """Build a pool from a catalogue, source by source; what is there already is not redone.

    Parameters
    ----------
    catalogue
        Folder of ``tasks.json``, or that file.
    folder
        The pool.
    encoder
        What to tune.
    recipe
        Changes to the default :class:`Recipe`.
    names
        Tasks to build; None for every task of a kind that a pool keeps.
    methods
        Whose descriptions to make.
    processes
        Sources built at a time.
    report
        Called with one line per source; by default nothing hears it.
    """
    from taskscout.tasks.catalogue import Catalogue

    opened = Catalogue.open(catalogue)
    pool = Pool.create(folder, encoder=encoder_header(encoder))
    if names is None:
        names = [n for n in opened.names if opened.kind(n) in SOURCE_KINDS]
    settings = asdict(Recipe(**(recipe or {})))

    def left_out(name: str) -> Path:
        return pool.folder / "sources" / f"{name}.left_out.json"

    jobs = [
        BuildJob(
            str(catalogue), n, str(pool.folder), settings, encoder.arguments, tuple(methods),
        )
        for n in names
        if n not in pool and not left_out(n).exists()
    ]  # fmt: skip
    report(f"{len(names)} tasks, {len(names) - len(jobs)} done before, {len(jobs)} to do")
    for done, (job, reason) in enumerate(run(build_one, jobs, processes=processes), 1):
        report(f"{done}/{len(jobs)} {job.name}: {'left out, ' + reason if reason else 'added'}")
    pool = Pool.open(folder)
    reasons = {n: _not_built(opened.kind(n)) for n in opened.names if n not in pool}
    reasons |= {n: r for n, r in pool.left_out.items() if n not in pool and n not in names}
    for path in pool.folder.glob("sources/*.left_out.json"):
        reasons[path.name.removesuffix(".left_out.json")] = json.loads(path.read_text())
    pool.set_left_out(reasons)
    return pool


def _not_built(kind: Kind) -> str:
    """Say why a task of the catalogue is not in the pool, where nothing else is known."""
    if kind in SOURCE_KINDS:
        return "not built yet: taskscout pool build goes on where it stopped"
    return f"of kind {kind}: {', '.join(SOURCE_KINDS)} sources are built"
