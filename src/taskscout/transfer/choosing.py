"""Choosing what to train through: the forecast, trials of its short list, and the decision."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskscout.errors import MethodError, TaskscoutError
from taskscout.forecasting import next_command
from taskscout.methods import DEFAULT
from taskscout.methods.forecast import Advice
from taskscout.models.workbench import Workbench
from taskscout.pools.own import pool_or_hint
from taskscout.pools.pool import Pool
from taskscout.ranking import Ranking, rank
from taskscout.tasks import Task
from taskscout.tasks.names import NONE
from taskscout.transfer.origin import Origin
from taskscout.transfer.recipes import target_recipe
from taskscout.transfer.sources import origins_of
from taskscout.transfer.trials import (
    ROWS,
    SCORED,
    STEPS,
    KeptRuns,
    Race,
    race,
    runs_at_most,
)

if TYPE_CHECKING:
    from taskscout.methods.calibration import Calibration
    from taskscout.models.recipe import Recipe
    from taskscout.tasks.catalogue import Catalogue
    from taskscout.tasks.readers import Rows

#: A step's time in that of embedding its texts: forward, backward and what is between.
_STEP = 3.5
#: Texts that are embedded to know how fast this machine is.
_TIMED = 16


@dataclass(frozen=True)
class Decision:
    """What to train through, and why.

    Attributes
    ----------
    ranking
        With the forecast and the advice before any trial.
    advice
        After the trials, where there were some.
    origin
        The source that is advised; None to train directly.
    race
        The trials; None where there were none.
    """

    ranking: Ranking
    advice: Advice
    origin: Origin | None
    race: Race | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for ``result.json``."""
        said = self.ranking.to_dict()
        return {
            "advice": self.advice.to_dict(),
            "before_trials": said["advice"],
            "trials": None if self.race is None else self.race.to_dict(),
            "forecast": [{"name": s["name"], "gain": s["gain"], "score": s["score"]}
                         for s in said["sources"][:10]],
            "calibration": said["calibration"],
            "about_gains": said["about_gains"],
        }  # fmt: skip

    @property
    def lines(self) -> list[str]:
        """The decision in words, for the screen and the model card."""
        tried = ""
        runs = 0 if self.race is None else sum(r.source != NONE for r in self.race.runs)
        if runs:
            tried = f" (after {runs} trial run{'s' * (runs != 1)} on training rows)"
        return [f"{self.advice.sentence}{tried}"]


def decide(
    target: Task,
    pool: Pool | None,
    bench: Workbench,
    *,
    trial: int,
    recipe: Recipe,
    method: str = DEFAULT,
    calibration: Calibration | str | Path | None = None,
    catalogue: Catalogue | None = None,
    seconds: float | None = None,
    keep: Path | None = None,
    typed: str = "",
    report: Callable[[str], object] | None = None,
    **choosing: Any,
) -> tuple[Decision | None, Ranking]:
    """Forecast, try the short list on the training rows, and decide.

    Parameters
    ----------
    target, pool, bench
        As for :func:`taskscout.rank`.
    trial
        Sources that are tried; 0 for none.
    recipe
        How the target is to be tuned.
    method, calibration, typed, **choosing
        As for :func:`taskscout.rank`.
    catalogue
        Data of sources of which the pool has no model.
    seconds
        That trials may take.
    keep
        File that keeps finished trials until they are decided by.
    report
        Called with lines.

    Returns
    -------
    The decision, None where there is no calibration for this target; and the ranking.
    """
    tell = report or (lambda _: None)
    ranking = rank(target, pool, method, bench=bench, calibration=calibration, typed=typed,
                   **choosing)  # fmt: skip
    if ranking.advice is None:
        return None, ranking
    forecast, advice = ranking.forecast, ranking.advice
    pool = pool_or_hint(pool, bench)[0]
    if forecast is None:  # no text explains the labels: there is nothing to try
        return Decision(ranking, advice, None), ranking
    cards = {r.name: r.card for r in ranking.sources if r.card is not None}
    usable: list[Origin] = []
    for name in forecast.short_list(len(cards), cards):
        if len(usable) == max(trial, 1):
            break
        (origin,) = origins_of([name], pool, bench.encoder, catalogue=catalogue)
        if origin.has_model or _has_data(origin):
            usable.append(origin)
    names = [o.name for o in usable]
    finished = None
    if trial and usable:
        for line in (advice.sentence, ranking.about_gains):
            tell(line)
        expected = _seconds_per_run(target, bench, recipe) * runs_at_most(len(usable))
        bound = "" if seconds is None else f", {seconds / 60:.1f} min at most"
        tell(
            f"trying {', '.join(names)} and none on the training rows: {runs_at_most(len(usable))} "
            f"short runs at most, about {max(expected / 60, 0.1):.1f} min{bound}"
        )
        identity = json.dumps([target.fingerprint, bench.encoder.space, recipe.to_dict(), names])
        kept = KeptRuns(keep, hashlib.sha256(identity.encode()).hexdigest())
        finished = race(target, usable, forecast, bench, recipe=recipe, seconds=seconds,
                        kept=kept, report=tell)  # fmt: skip
        # The winner is one of those that were tried.
        untried = set(forecast.names) - set(names)
        forecast = replace(finished.forecast, never=finished.forecast.never | untried)
        advice = replace(forecast.advice, command=ranking.advice.command)
        if advice.source != ranking.advice.source:
            advice = replace(advice, command=next_command(advice.source, typed, target.name))
    chosen = next((o for o in usable if o.name == advice.source), None)
    if advice.source is not None and chosen is None:  # without trials, and without its data
        chosen = next((o for o in usable if forecast.expected[o.name] > 0), None)
    return Decision(ranking, advice, chosen, finished), ranking


def _has_data(origin: Origin) -> bool:
    try:
        origin.task()
    except TaskscoutError:
        return False
    return True


def _seconds_per_run(target: Task, bench: Workbench, recipe: Recipe) -> float:
    """Estimate what a trial takes from how long a few texts take to embed."""
    rows = target.for_choosing(ROWS)
    texts, pairs = rows.inputs("train")
    few = slice(0, _TIMED)
    bench.encoder.warm_up()
    passes = []
    for _ in range(3):  # the first one also makes room; others may be disturbed
        start = time.perf_counter()
        bench.encoder.encode(texts[few], None if pairs is None else pairs[few])
        passes.append(time.perf_counter() - start)
    per_text = min(passes) / len(texts[few])
    learnt = (1 - SCORED) * len(texts)
    steps = max(recipe.least_steps, recipe.epochs * math.ceil(learnt / recipe.batch_size))
    steps = min(steps, recipe.max_steps or STEPS, STEPS)
    return per_text * (_STEP * steps * recipe.batch_size + SCORED * len(texts))


def advise(
    target: Task | str | Path | Rows | Mapping[str, Rows],
    pool: Pool | str | Path | None = None,
    method: str = DEFAULT,
    *,
    bench: Workbench | None = None,
    trial: int = 0,
    recipe: Recipe | None = None,
    minutes: float | None = None,
    report: Callable[[str], object] | None = None,
    **choosing: Any,
) -> Advice:
    """Say what to do about a target: which source to fine-tune on first, or none.

    Parameters
    ----------
    target
        A task, or what :meth:`Task.of` reads.
    pool
        A pool or its folder; None for that of the encoder.
    method
        The method whose scores are read.
    bench
        Embeds and caches; None for the embedded default encoder with the user's cache.
    trial
        How many sources are tried for real on the target's training rows first: none unless it is
        said, minutes where it is.
    recipe
        How trials are tuned; None for LoRA as :func:`taskscout.train` does it.
    minutes
        That trials may take.
    report
        Called with lines.
    **choosing
        Further options of :func:`taskscout.rank`: ``calibration``, ``commercial``, ``kinds``,
        ``domains``, ``exclude``, ``examples``.

    Returns
    -------
    Advice

    Raises
    ------
    MethodError
        If there is no calibration for this encoder and kind of target, so that nothing can be
        said in points; the ranking still can be made.
    """
    if not isinstance(target, Task):
        import shlex

        if isinstance(target, str | Path):
            choosing.setdefault("typed", shlex.quote(str(target)))
        target = Task.of(target)
    if isinstance(pool, str | Path):
        pool = Pool.open(pool)
    bench = bench or Workbench()
    decision, ranking = decide(
        target, pool, bench, trial=trial, recipe=recipe or target_recipe(encoder=bench.encoder),
        method=method, seconds=None if minutes is None else 60 * minutes, report=report,
        **choosing,
    )  # fmt: skip
    if decision is None:
        raise MethodError(
            ranking.about_gains or "No gains were asked for.",
            "Advice is in points, and nothing turns scores into points here.",
            "Look at the order alone: taskscout.rank",
        )
    return decision.advice
