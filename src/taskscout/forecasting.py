"""What a ranking adds to its scores: the calibration that fits, the forecast, the next command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from taskscout.errors import MethodError
from taskscout.methods.asking import Answer
from taskscout.methods.calibration import Calibration
from taskscout.methods.forecast import Forecast
from taskscout.methods.method import Method
from taskscout.methods.target_facts import evidence_of, target_facts, unlabelled
from taskscout.models.workbench import Workbench
from taskscout.pools.calibrations import best_fitting, calibrations_of
from taskscout.pools.pool import Pool
from taskscout.tasks import Task, TaskCard

#: In place of a calibration: no gains.
NO_GAINS = "none"
#: Cost classes of methods that read every source's model, where each source more costs seconds.
DEAR = ("source models", "tuning")
_MAKE = (
    "To have them, run real transfers (taskscout grid run STUDY), then: taskscout study calibrate "
    "GRID --out FILE, and rank with --calibration FILE."
)
NOT_MEASURED = f"No gains are shown: nothing was measured with this encoder. {_MAKE}"


def calibration_for(
    given: Calibration | str | Path | None,
    target: Task,
    pool: Pool,
    bench: Workbench,
    methods: Sequence[Method],
) -> tuple[Calibration | None, str]:
    """Find the calibration of a ranking, or say in a sentence why it shows no gains.

    Parameters
    ----------
    given
        A calibration or its file, which has to belong to the encoder and the target's kind;
        ``none`` for no gains; None for the best of the pool's and the built-in ones.
    target
        With the rows that are scored.
    pool, bench
        What the sources are described with, and the encoder.
    methods
        That are asked.

    Raises
    ------
    DataError
        If the file cannot be read.
    MethodError
        If the calibration given is of another encoder or other kinds.
    """
    if given == NO_GAINS:
        return None, ""
    names = {m.name for m in methods}
    encoder = bench.encoder.fingerprint
    if given is not None:
        calibration = given if isinstance(given, Calibration) else Calibration.load(given)
        wrong = calibration.differs(encoder=encoder, kind=target.kind)
        if wrong:
            raise MethodError(
                f"The calibration does not fit: {wrong[0]}",
                "Points measured with one model and kind of task say nothing of another's.",
                "Leave --calibration out, or make one: taskscout study calibrate GRID --out FILE",
            )
        return calibration, ""
    at_hand = [c for c in calibrations_of(pool) if c.setting.get("encoder") == encoder]
    if not at_hand:
        return None, NOT_MEASURED
    kinds = sorted({k for c in at_hand for k in c.setting.get("kinds", ())})
    if target.kind not in kinds:
        return None, (
            f"No gains are shown: transfers into {' and '.join(kinds)} were measured, none into "
            f"{target.kind}. {_MAKE}"
        )
    if unlabelled(target):
        names = set()  # scores without labels are in no calibration; cards and other targets are
    found = best_fitting(
        at_hand, encoder=encoder, kind=target.kind, rows=len(target), methods=names
    )
    if found is None:
        readable = sorted({", ".join(c.methods) for c in at_hand if c.methods})
        return None, (
            f"No gains are shown: they are forecast from scores of {' or of '.join(readable)}."
        )
    return found, ""


def reference_sources(calibration: Calibration | None, methods: Sequence[Method]) -> set[str]:
    """Sources to score beside those that are ranked, so that a filter changes no forecast.

    No source more where a method that is read runs every source's model.
    """
    if calibration is None or any(
        m.name in calibration.methods and m.cost in DEAR for m in methods
    ):
        return set()
    return set(calibration.sources)


def forecast_for(
    calibration: Calibration,
    target: Task,
    answers: Mapping[str, Answer],
    methods: Sequence[Method],
    cards: Mapping[str, TaskCard],
    bench: Workbench,
    never: Collection[str],
) -> tuple[Forecast | None, str]:
    """Forecast the gains of ranked sources, or say in a sentence why that cannot be done.

    Parameters
    ----------
    calibration
        Turns scores into points.
    target
        With the rows that were scored.
    answers, methods
        Of the ranking.
    cards
        Of the sources that are ranked.
    bench
        Has the target's embeddings.
    never
        Sources that hold texts of the target.
    """
    unanswered = [m for m in calibration.methods if m not in answers]
    if unanswered:
        return None, f"No gains are shown: {unanswered[0]} gave no scores."
    facts, evidence = target_facts(target, bench), [math.nan]
    scores = {}
    for method in methods:
        if method.name not in calibration.methods:
            continue
        answer = answers[method.name]
        scores[method.name] = dict(zip(answer.sources, map(float, answer.scores), strict=True))
        of_grid = [s for s in calibration.sources if s in scores[method.name]]
        if len(of_grid) < len(calibration.sources) / 2 and method.cost in DEAR:
            return None, (
                f"No gains are shown: too few of the sources that were measured have a score of "
                f"{method.name} ({len(of_grid)} of {len(calibration.sources)})."
            )
        values = [*answer.scores, math.nan if answer.none is None else answer.none]
        evidence.append(evidence_of(target, method, np.array(values)))
    if not np.isnan(evidence).all():
        facts["evidence"] = float(np.nanmax(evidence))
    return Forecast.of(calibration, scores, cards, facts, never=never), ""


def measured(calibration: Calibration, target: Task) -> str:
    """Say what the gains of a forecast stand for, and how far this target is from that."""
    rows = len(target)
    setting = calibration.setting
    n = setting.get("targets")
    on = f"{n} targets" if n else "targets"
    far = calibration.differs(rows=rows)
    size = f"{setting.get('size')} examples" + (
        f", and this one has {rows:,}: take them for a rough guide" if far else ""
    )
    said = (
        f"Gains are points above training on the target alone, as measured by "
        f"{setting.get('tuning')} on {on} of {size}. With full fine-tuning most sources lose."
    )
    if not unlabelled(target):
        return said
    return (
        "Without labels, gains follow from what sources brought to other targets and from their "
        f"cards alone. {said} Label fifty rows or more: what they say of a source is then read "
        "too, and a trial becomes possible."
    )


def next_command(source: str | None, typed: str, name: str) -> str:
    """Write out what to do next.

    Parameters
    ----------
    source
        The one that is advised; None for none.
    typed
        The target's file and the options that read it, as typed after ``taskscout train``; empty
        for a target that is no file.
    name
        Of the target.
    """
    out = shlex.quote(f"{name}-model")
    if not typed:
        through = f"sources=[{source!r}]" if source else 'strategy="none"'
        return f"taskscout.train(target, {through}, out={f'{name}-model'!r})"
    through = f"--sources {shlex.quote(source)}" if source else "--strategy none"
    return f"taskscout train {typed} {through} --out {out}"
