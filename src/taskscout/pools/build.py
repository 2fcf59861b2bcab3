"""Making sources: tune the encoder on a task, describe it, and put both into a pool."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from taskscout.engines import run
from taskscout.errors import PoolError
from taskscout.methods.method import Description, get_method
from taskscout.models.encoder import Encoder
from taskscout.models.workbench import Workbench
from taskscout.pools.pool import Pool, write_atomically
from taskscout.tasks import Task
from taskscout.tasks.overlap import SKETCH_SIZE, sketch, text_hashes
from taskscout.tasks.task import SEQUENCE_KINDS

#: Keys of the two descriptions that belong to no method.
TUNED, OVERLAP = "tuned", "overlap"
#: Methods whose descriptions every source gets.
DEFAULT_METHODS: tuple[str, ...] = ("esm-logme",)


def encoder_header(encoder: Encoder) -> dict[str, Any]:
    """What a pool records of its encoder."""
    return {
        "model": encoder.model_id,
        "weights": encoder.weights_fingerprint,
        "fingerprint": encoder.fingerprint,
        "dimension": encoder.dimension,
        **encoder.settings,
    }


def describe_tuned(task: Task, bench: Workbench) -> Description:
    """The tuned model itself: adapter and head in half precision."""
    tuned = bench.tuned(task)
    model = tuned.model
    arrays = {name: a.astype(np.float16) for name, a in tuned.adapter.items()}
    arrays["head.weight"] = model.head.weight.detach().cpu().numpy().astype(np.float16)
    arrays["head.bias"] = model.head.bias.detach().cpu().numpy().astype(np.float16)
    header = {
        "kind": task.kind,
        "center": model.center,
        "scale": model.scale,
        "encoder": bench.encoder.fingerprint,
    }
    return Description(TUNED, task.name, header, arrays)


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
) -> str | None:
    """Tune the encoder on a task and add it to a pool with its descriptions.

    Parameters
    ----------
    pool
        Must have been begun with the workbench's encoder and pooling.
    task
        A classification or regression task.
    bench
        Its recipe is used and recorded.
    methods
        Whose descriptions to make.
    replace
        Overwrite a source of the same name.
    only_if_it_learns
        Leave the task out where its test score does not exceed the trivial baseline by more
        than one standard error.

    Returns
    -------
    None, or the reason why the task was left out.

    Raises
    ------
    PoolError
        If the pool has another encoder or pooling, or the kind cannot be tuned yet.
    """
    if pool.encoder["fingerprint"] != bench.encoder.fingerprint:
        raise PoolError(
            f"The pool {pool.folder} was begun with {pool.encoder['model']}, pooling "
            f"{pool.encoder['pooling']}.",
            "Its sources would not be comparable with one made with "
            f"{bench.encoder.model_id}, pooling {bench.encoder.pooling}.",
            "Use the same encoder and pooling, or another pool.",
        )
    if task.kind not in SEQUENCE_KINDS:
        raise PoolError(
            f"Task {task.name!r} is of kind {task.kind}.",
            f"Sources of kind {' and '.join(SEQUENCE_KINDS)} can be added.",
            "Leave it out.",
        )
    tuned = bench.tuned(task)
    scores = {k: round(v, 5) for k, v in tuned.scores.items()}
    if only_if_it_learns and scores["score"] <= scores["baseline"] + scores["error"]:
        return (
            f"does not train above its trivial baseline: test score {scores['score']:.3f}, "
            f"baseline {scores['baseline']:.3f}, standard error {scores['error']:.3f}"
        )
    descriptions = [describe_tuned(task, bench), describe_overlap(task)]
    made: dict[str, Description] = {}
    for name in methods:
        method = get_method(name)
        if method.key not in made:
            made[method.key] = method.describe(task, bench)
    tuning = {
        "recipe": bench.recipe.to_dict(),
        "scores": scores,
        "trained_on": tuned.trained_on,
        "seconds": round(tuned.seconds, 1),
        "fingerprint": task.fingerprint,
    }
    pool.add(task.card, tuning, [*descriptions, *made.values()], replace=replace)
    return None


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
    from taskscout.models.tuning import Recipe
    from taskscout.tasks.catalogue import Catalogue

    catalogue = Catalogue.open(job.catalogue)
    withheld = catalogue.withheld(job.name)
    reason = f"licence: {withheld}" if withheld else None
    if reason is None:
        bench = Workbench(Encoder(**job.encoder), recipe=Recipe(**job.recipe))
        reason = add_source(
            Pool.open(job.pool),
            catalogue.task(job.name),
            bench,
            methods=job.methods,
            only_if_it_learns=True,
            replace=True,
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
        Tasks to build; None for every classification and regression task.
    methods
        Whose descriptions to make.
    processes
        Sources built at a time.
    report
        Called with one line per source; by default nothing hears it.
    """
    from taskscout.models.tuning import Recipe
    from taskscout.tasks.catalogue import Catalogue

    opened = Catalogue.open(catalogue)
    pool = Pool.create(folder, encoder=encoder_header(encoder))
    if names is None:
        names = [n for n in opened.names if opened.kind(n) in SEQUENCE_KINDS]
    settings = asdict(Recipe(**(recipe or {})))
    model = {} if encoder.is_default else {"model": encoder.model_id}

    def left_out(name: str) -> Path:
        return pool.folder / "sources" / f"{name}.left_out.json"

    jobs = [
        BuildJob(
            str(catalogue), n, str(pool.folder), settings, {**model, **encoder.settings},
            tuple(methods),
        )
        for n in names
        if n not in pool and not left_out(n).exists()
    ]  # fmt: skip
    report(f"{len(names)} tasks, {len(names) - len(jobs)} done before, {len(jobs)} to do")
    for done, (job, reason) in enumerate(run(build_one, jobs, processes=processes), 1):
        report(f"{done}/{len(jobs)} {job.name}: {'left out, ' + reason if reason else 'added'}")
    reasons = {
        p.name.removesuffix(".left_out.json"): json.loads(p.read_text())
        for p in pool.folder.glob("sources/*.left_out.json")
    }
    pool = Pool.open(folder)
    pool.set_left_out(reasons)
    return pool
