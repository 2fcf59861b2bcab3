"""A pool's sources as a transfer takes them: with their tuned model, and their data if at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taskscout.errors import PoolError, TaskscoutError, TransferError
from taskscout.methods import DEFAULT
from taskscout.methods.source_features import TUNED
from taskscout.models.encoder import Encoder
from taskscout.models.tuned_model import TunedModel
from taskscout.pools.build import tuned_model
from taskscout.pools.own import HINT, pool_or_hint
from taskscout.pools.pool import Pool
from taskscout.pools.source_data import data_of, fetch_command, has_data
from taskscout.ranking import rank
from taskscout.tasks import Task
from taskscout.tasks.names import NONE
from taskscout.tasks.overlap import MOST_OVERLAP
from taskscout.transfer.origin import Origin

if TYPE_CHECKING:
    from taskscout.models.workbench import Workbench
    from taskscout.tasks.catalogue import Catalogue


def origin_of(
    name: str,
    pool: Pool | None,
    encoder: Encoder,
    *,
    catalogue: Catalogue | None = None,
) -> Origin:
    """Find a source by its name, or by where its data are.

    Parameters
    ----------
    name
        A source of the pool, a task of the catalogue, a data file, or ``hub:owner/name``
        (``hub:owner/name:configuration``).
    pool
        Its adapters are used where they were made with this encoder.
    encoder
        What the target is trained with.
    catalogue
        Labelled datasets on disk, by name.

    Raises
    ------
    TransferError
        If nothing of that name is at hand.
    """
    if name.startswith("hub:"):
        repository, _, config = name.removeprefix("hub:").partition(":")
        return Origin.of(Task.from_hub(repository, config or None))
    path = Path(name).expanduser()
    if path.is_file():
        return Origin.of(Task.from_file(path))
    if path.is_dir() and (pool is None or name not in pool):
        return Origin.of(Task.from_hub(str(path)))
    in_catalogue = catalogue is not None and name in catalogue.entries
    if pool is not None and name in pool:
        source = pool.source(name)
        card = source.card
        data = (lambda: data_of(card, catalogue)) if has_data(card, catalogue) else None

        def adapted() -> TunedModel:
            return tuned_model(pool.description(name, TUNED), source.tuning, encoder)

        fits = pool.encoder["fingerprint"] == encoder.fingerprint and TUNED in source.headers
        return Origin(card, adapted if fits else None, data, fetch_command(card), source.tuning)
    if in_catalogue and catalogue is not None:
        return Origin(catalogue.card(name), data=_from_catalogue(catalogue, name))
    places = [f"{len(pool)} sources of the pool {pool.folder}"] if pool is not None else []
    places += [f"{len(catalogue)} tasks of the catalogue"] if catalogue is not None else []
    remedy = "Give a file, hub:owner/name, or a source's name: taskscout pool list"
    if pool is not None:
        try:
            pool.source(name)
        except PoolError as error:
            remedy = f"{error.why} {remedy}"
    raise TransferError(
        f"There is no source {name!r}.",
        f"It is neither a file nor among the {' or the '.join(places) or 'sources: none is given'}"
        ".",
        remedy,
    )


def origins_of(
    sources: Sequence[str | Path | Task | Origin],
    pool: Pool | None,
    encoder: Encoder,
    *,
    catalogue: Catalogue | None = None,
) -> list[Origin]:
    """Find several sources; see :func:`origin_of`. Tasks and origins are taken as they are.

    Raises
    ------
    TransferError
        If one is not at hand, or named twice.
    """
    catalogue = catalogue or catalogue_of_environment()
    origins = []
    for source in sources:
        if isinstance(source, Task):
            source = Origin.of(source)
        elif not isinstance(source, Origin):
            source = origin_of(str(source), pool, encoder, catalogue=catalogue)
        origins.append(source)
    source_names = [origin.name for origin in origins]
    twice = [name for name in source_names if source_names.count(name) > 1]
    if twice:
        raise TransferError(
            f"Source {twice[0]!r} is named twice.",
            "Each source is gone through once.",
            "Name it once.",
        )
    return origins


def _from_catalogue(catalogue: Catalogue, name: str) -> Callable[[], Task]:
    return lambda: catalogue.task(name)


def overlap_with(target: Task, origin: Origin, pool: Pool | None) -> float:
    """Estimated share of the target's texts that a source contains, 0 to 1; NaN if unknown."""
    from taskscout.pools.build import OVERLAP
    from taskscout.tasks.overlap import share_contained, text_hashes

    hashes = text_hashes(target)
    if pool is not None and origin.name in pool and OVERLAP in pool.source(origin.name).headers:
        sketch = pool.description(origin.name, OVERLAP)
        return share_contained(hashes, sketch.arrays["sketch"], sketch.header["size"])
    if isinstance(origin.data, Task):
        return len(set(hashes.tolist()) & set(text_hashes(origin.data).tolist())) / max(
            len(set(hashes.tolist())), 1
        )
    return float("nan")


def overlap_notes(target: Task, origins: Sequence[Origin], pool: Pool | None) -> list[str]:
    """A line for each source that holds texts of the target."""
    out = []
    for origin in origins:
        share = overlap_with(target, origin, pool)
        if share > MOST_OVERLAP:
            out.append(
                f"source {origin.name} holds {share:.0%} of the target's texts, so test scores "
                "through it may say little about new texts"
            )
    return out


def catalogue_of_environment() -> Catalogue | None:
    """The catalogue that ``TASKSCOUT_DATA`` names; None where it names none."""
    from taskscout.tasks.catalogue import ENVIRONMENT_VARIABLE, Catalogue

    return Catalogue.find() if os.environ.get(ENVIRONMENT_VARIABLE) else None


def chosen_by_ranking(
    target: Task,
    pool: Pool | None,
    bench: Workbench,
    *,
    top: int = 1,
    method: str = DEFAULT,
    catalogue: Catalogue | None = None,
    needs_data: bool = False,
) -> tuple[list[Origin], list[str]]:
    """The first sources of a ranking, and lines for the user about the choice.

    The pool is that of the encoder where none is given. Sources that hold the target's texts are
    left out. Where a source's data are needed and cannot
    be had, the next one takes its place, and a line says so.

    Raises
    ------
    TransferError
        If no source that was ranked can be used; the reason is the first one's.
    """
    ranking = rank(target, pool, method, bench=bench, exclude_overlap=MOST_OVERLAP)
    ranked = [r.name for r in ranking.sources if r.name != NONE and r.score == r.score]
    pool = pool_or_hint(pool, bench)[0]
    notes = [note for note in ranking.notes if note.startswith(HINT)]
    if ranking.sources and ranking.sources[0].name == NONE:
        notes.append(f"{method} ranks 'none' first: it expects no source to help this target")
    chosen: list[Origin] = []
    first_error: TaskscoutError | None = None
    for name in ranked:
        if len(chosen) == top:
            break
        (origin,) = origins_of([name], pool, bench.encoder, catalogue=catalogue)
        if needs_data or not origin.has_model:
            try:
                origin.task()
            except TaskscoutError as error:
                first_error = first_error or error
                notes.append(f"source {name} was passed over: its data cannot be had")
                continue
        chosen.append(origin)
    if not chosen:
        raise first_error or TransferError(
            f"{method} ranks no source for target {target.name!r}.",
            "Without one there is nothing to train through.",
            "Name a source, or train the target alone with strategy 'none'.",
        )
    notes.append(f"{method} ranks first: {', '.join(o.name for o in chosen)}")
    return chosen, notes
