"""Trials: short real runs of a few sources on the target's own training rows, raced.

A trial trains as the transfer itself does, through one source, on a part of the training rows and
is scored on the rest of them; ``none`` runs beside it, on the same rows and from the same seed. The
race is successive halving over seeds (Jamieson and Talwalkar 2016, AISTATS, algorithm 1, with
seeds for a budget): every round is another seed on another cut of the rows, after each the better
half stays, by the forecast that has taken in all runs so far, and it ends early where one is
clearly ahead. No test row is read, and no validation row.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taskscout.files import write_atomically
from taskscout.methods.forecast import Forecast, Trial
from taskscout.tasks import Task
from taskscout.transfer.comparison import resampled_differences
from taskscout.transfer.origin import Origin
from taskscout.transfer.result import NONE, Budget, Transfer
from taskscout.transfer.strategies import transfer

if TYPE_CHECKING:
    from taskscout.models.recipe import Recipe
    from taskscout.models.workbench import Workbench

#: Sources that are tried unless it is said.
SHORT_LIST = 3
#: Rounds, each with a seed of its own.
ROUNDS = 3
#: Seed of the first round: what is trained afterwards begins with seed 0.
FIRST_SEED = 100
#: Training rows of the target that a race uses, at most, and the share that scores.
ROWS, SCORED = 1000, 0.25
#: Steps of a trial, at most.
STEPS = 64
#: Probability with which one has to be ahead of all others, or all behind ``none``, to end a race.
CLEAR = 0.9


@dataclass(frozen=True)
class TrialRun:
    """One short run.

    Attributes
    ----------
    source
        Its name, or ``none``.
    seed
        Of the tuning, and of the cut of the training rows.
    score
        On the rows held back, as a fraction.
    gain
        Points above ``none`` of the same seed; 0 for ``none``.
    error
        Standard error of the gain from the choice of rows, in points; 0 where it is not known.
    seconds
        That it took.
    """

    source: str
    seed: int
    score: float
    gain: float = 0.0
    error: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Race:
    """What came of a race.

    Attributes
    ----------
    runs
        All of them, in order.
    forecast
        That has taken them in.
    ended
        Why it ended, in words.
    """

    runs: tuple[TrialRun, ...]
    forecast: Forecast
    ended: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that were used."""
        return tuple(sorted({r.seed for r in self.runs}))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: the runs, and what is expected of each source after them."""
        tried = {r.source for r in self.runs}
        return {
            "runs": [asdict(r) for r in self.runs],
            "seeds": list(self.seeds),
            "ended": self.ended,
            "after": {r.source: r.to_dict() for r in self.forecast.rows if r.source in tried},
        }


class KeptRuns:
    """Runs of a race on disk, so that one that was stopped goes on.

    Parameters
    ----------
    path
        The file; None keeps nothing.
    key
        What tells this race from others; runs of another are not read.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self._key = path, key
        self.runs: list[TrialRun] = []
        if path is not None and path.is_file():
            try:
                data = json.loads(path.read_text())
                if data["key"] == key:
                    self.runs = [TrialRun(**r) for r in data["runs"]]
            except (OSError, ValueError, KeyError, TypeError):
                self.runs = []

    def get(self, source: str, seed: int) -> TrialRun | None:
        """A run that was finished before."""
        return next((r for r in self.runs if (r.source, r.seed) == (source, seed)), None)

    def add(self, run: TrialRun) -> None:
        """Keep a run."""
        self.runs.append(run)
        if self.path is not None:
            data = {"key": self._key, "runs": [asdict(r) for r in self.runs]}
            write_atomically(self.path, json.dumps(data).encode())

    def remove(self) -> None:
        """Remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def runs_at_most(sources: int, rounds: int = ROUNDS) -> int:
    """Number of runs of a race that nothing ends early, those of ``none`` included."""
    total = 0
    for _ in range(rounds):
        total += sources + 1
        sources = math.ceil(sources / 2)
    return total


def trials_of(runs: Sequence[TrialRun]) -> list[Trial]:
    """Average the runs of each source into evidence."""
    out = []
    for name in dict.fromkeys(r.source for r in runs if r.source != NONE):
        own = [r for r in runs if r.source == name]
        error = math.sqrt(sum(r.error**2 for r in own)) / len(own)
        out.append(Trial(name, float(np.mean([r.gain for r in own])), len(own), error))
    return out


def race(
    target: Task,
    origins: Sequence[Origin],
    forecast: Forecast,
    bench: Workbench,
    *,
    recipe: Recipe,
    seconds: float | None = None,
    rounds: int = ROUNDS,
    kept: KeptRuns | None = None,
    report: Callable[[str], object] | None = None,
) -> Race:
    """Race sources on the target's training rows, and take the runs into the forecast.

    Parameters
    ----------
    target
        Of which the training rows are read, :data:`ROWS` at most.
    origins
        The short list, most promising first; each with a tuned model or data at hand.
    forecast
        Of the target, before any trial; it has to name every origin.
    bench
        Its encoder is where everything starts from.
    recipe
        How the target is tuned; a trial makes no more than :data:`STEPS` steps.
    seconds
        Of all runs: each gets what would be its share were there one round only, and after the
        first round none begins that would, by the time of those before it, end later.
    rounds
        Seeds, at most.
    kept
        Runs that were finished before.
    report
        Called with a line for each run.
    """
    kept, tell = kept or KeptRuns(None, ""), report or (lambda _: None)
    rows = target.for_choosing(ROWS)
    share = Budget(seconds=None if seconds is None else seconds / (len(origins) + 1))
    short = replace(recipe, max_steps=min(recipe.max_steps or STEPS, STEPS), early_stopping=0)
    remaining = list(origins)
    begun, total, longest = time.perf_counter(), runs_at_most(len(remaining), rounds), 0.0
    runs: list[TrialRun] = []
    after, ended = forecast, f"{rounds} rounds were run"
    for seed in range(FIRST_SEED, FIRST_SEED + rounds):
        inner = rows.with_splits(validation=0.0, test=SCORED, seed=seed)
        beside: Transfer | None = None
        if "test" not in inner.tables:
            ended = "the training rows are too few to hold any back"
            break
        for origin in (None, *remaining):
            name = NONE if origin is None else origin.name
            run = kept.get(name, seed)
            if run is None:
                spent = time.perf_counter() - begun
                if seconds is not None and seed > FIRST_SEED and spent + longest > seconds:
                    ended = f"the time for trials was up after {spent:.0f} s"
                    break
                start = time.perf_counter()
                done = transfer(
                    inner, [] if origin is None else [origin], bench,
                    strategy=NONE if origin is None else "sequential", recipe=short, seed=seed,
                    budget=share,
                )  # fmt: skip
                done.tuned = None
                if origin is None:
                    beside = done
                took = time.perf_counter() - start
                longest = max(longest, took)
                run = _run(inner, name, seed, done, beside, kept.get(NONE, seed), took)
                kept.add(run)
            runs.append(run)
            gain = "" if origin is None else f", {run.gain:+.1f}"
            tell(
                f"trial {name}, seed {seed}: {100 * run.score:.1f}{gain} ({run.seconds:.0f} s; "
                f"{len(runs)} of {total} at most)"
            )
        else:
            after = forecast.with_trials(trials_of(runs))
            by_mean = after.expected
            remaining.sort(key=lambda o: -by_mean[o.name])
            clear = _clear(after, [o.name for o in remaining])
            if clear:
                ended = clear
                break
            remaining = remaining[: math.ceil(len(remaining) / 2)]
            continue
        after = forecast.with_trials(trials_of(runs))
        break
    tell(f"trials ended: {ended}")
    return Race(tuple(runs), after, ended)


def _run(
    inner: Task,
    name: str,
    seed: int,
    done: Transfer,
    beside: Transfer | None,
    kept_none: TrialRun | None,
    seconds: float,
) -> TrialRun:
    """Compare a run with that of ``none``; its error needs both runs' outputs."""
    alone = beside.score if beside is not None else kept_none.score if kept_none else done.score
    error = 0.0
    if beside is not None and beside is not done:
        differences = resampled_differences(inner, [done], [beside], rows=200)
        error = 0.0 if differences is None else 100 * float(differences[1:].std())
    return TrialRun(name, seed, done.score, 100 * (done.score - alone), error, seconds)


def _clear(forecast: Forecast, remaining: Sequence[str]) -> str:
    """Say that one source is clearly ahead, or that all are behind ``none``; empty if neither."""
    first, *others = remaining
    above = forecast.ahead(first, None)
    if above >= CLEAR and all(forecast.ahead(first, other) >= CLEAR for other in others):
        return f"{first} is ahead of all others and of none ({CLEAR:.0%} sure of each)"
    if all(forecast.ahead(name, None) <= 1 - CLEAR for name in remaining):
        return f"training directly is ahead of every source ({CLEAR:.0%} sure of each)"
    return ""
