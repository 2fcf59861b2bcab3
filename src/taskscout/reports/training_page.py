"""A training as one HTML page: paired differences, scores, what is taken for what, and changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskscout.reports.pages import Axis, link, reading_of, render, shortened
from taskscout.tasks.names import NONE

if TYPE_CHECKING:
    from taskscout.tasks import Task, TaskCard
    from taskscout.transfer.result import Transfer
    from taskscout.transfer.train import TrainResult

#: Classes of a confusion matrix that can still be read.
_CLASSES = 20
#: Rows shown of those that the sources put right, and of those that they put wrong.
_EXAMPLES = 5


def training_page(result: TrainResult, target: Task) -> str:
    """Render a training as one HTML page that needs no network.

    Parameters
    ----------
    result
        Of ``target``; what ``result.json`` holds stands in the page too.
    target
        Its test rows are shown where the sources change the answer.
    """
    data = dict(result.details)
    names = ", ".join(card.name for card in result.sources)
    scored = [r for r in result.runs if r.scores]
    strategies = list(dict.fromkeys(r.strategy for r in scored))
    seeds = list(dict.fromkeys(r.seed for r in scored))
    baseline = scored[0].scores.get("baseline") if scored else None
    return render(
        "training.html",
        title=f"taskscout: training {result.target}",
        target=result.target,
        through=f" through {names}" if names else "",
        verdict=result.verdict or result.chosen.why,
        why=result.chosen.why if result.verdict else "",
        summary=f"Strategy {result.strategy}, {result.runs[0].tuning}, {len(seeds)} "
        f"seed{'s' * (len(seeds) != 1)}, {result.runs[0].trained_on:,} training rows.",
        chart=_differences(result),
        interval=_about_interval(result),
        metric=_metric(scored),
        baseline="" if baseline is None else f"{100 * baseline:.1f}",
        seeds=seeds,
        runs=[
            _strategy_row([r for r in scored if r.strategy == s], seeds, result.chosen.strategy)
            for s in strategies
        ],
        confusions=_confusions(target, scored, strategies),
        changed=_changed(target, result),
        reading=reading_of(target, result.notes),
        cards=[_card(card) for card in result.sources],
        command=data.get("command", ""),
        settings=[
            ("encoder", data.get("encoder", "")),
            *((k, v) for k, v in (data.get("versions") or {}).items()),
            *((k.replace("_", " "), v) for k, v in (data.get("recipe") or {}).items()),
        ],
        data=data,
    )


def _differences(result: TrainResult) -> dict[str, Any] | None:
    """Lay out the paired differences, and their mean with its interval."""
    comparison = result.comparison
    if comparison is None:
        return None
    seeds = [r.seed for r in comparison.transfers]
    rows: list[tuple[str, float, tuple[float, float] | None]] = [
        (f"seed {seed}", 100 * float(d), None)
        for seed, d in zip(seeds, comparison.differences, strict=True)
    ]
    ends = None
    if comparison.interval is not None:
        ends = 100 * comparison.interval[0], 100 * comparison.interval[1]
        rows.append(("mean", 100 * comparison.difference, ends))
    axis = Axis.over([0.0, *(value for _, value, _ in rows), *(ends or ())])
    out = []
    for name, value, interval in rows:
        low, high = interval or (min(value, 0.0), max(value, 0.0))
        out.append(
            {
                "place": "",
                "name": name,
                "about": "",
                "more": "",
                "mark": "",
                "kind": "below" if value < 0 else "",
                "at": axis.at(value),
                "left": axis.at(low),
                "width": axis.width(low, high),
                "text": f"{value:+.1f}",
                "interval": f"{low:+.1f} to {high:+.1f}" if interval else "",
                "numbers": {"difference": value / 100},
            }
        )
    return {"rows": out, "ticks": axis.ticks(), "zero": axis.at(0.0)}


def _about_interval(result: TrainResult) -> str:
    comparison = result.comparison
    if comparison is None or comparison.interval is None:
        return "one seed gives no interval."
    over = "seeds and test rows" if comparison.rows_resampled else "seeds"
    return f"the bar of the mean is its 95% interval over {over}."


def _metric(scored: Sequence[Transfer]) -> str:
    """Name what a score is made of, where a run says so."""
    if not scored:
        return ""
    parts = [k for k in scored[0].scores if k not in ("score", "baseline", "error")]
    return f" (beside it the runs have {', '.join(parts)})" if parts else ""


def _strategy_row(runs: Sequence[Transfer], seeds: Sequence[int], chosen: str) -> dict[str, Any]:
    of = {r.seed: r for r in runs}
    validation = [float(r.validation.get("score", math.nan)) for r in runs]
    known = [v for v in validation if not math.isnan(v)]
    return {
        "strategy": runs[0].strategy,
        "chosen": runs[0].strategy == chosen,
        "scores": [f"{100 * of[s].score:.1f}" if s in of else "–" for s in seeds],
        "mean": f"{100 * float(np.mean([r.score for r in runs])):.1f}",
        "validation": f"{100 * float(np.mean(known)):.1f}" if known else "–",
        "seconds": f"{sum(r.seconds + r.source_seconds for r in runs):.0f}",
    }


def _answers(runs: Sequence[Transfer]) -> NDArray[np.int64] | None:
    """Give the class that each run answers for each test row, runs × rows; None if not kept."""
    if not runs or any(r.outputs is None for r in runs):
        return None
    return np.stack([r.outputs.argmax(1) for r in runs if r.outputs is not None])


def _confusions(
    target: Task, scored: Sequence[Transfer], strategies: Sequence[str]
) -> list[dict[str, Any]]:
    """Count answers by true class, for each strategy."""
    if target.kind != "classification" or not 2 <= target.n_classes <= _CLASSES:
        return []
    labels, k = target.labels("test"), target.n_classes
    out = []
    for strategy in strategies:
        answers = _answers([r for r in scored if r.strategy == strategy])
        if answers is None:
            continue
        cells = np.bincount((labels * k + answers).ravel(), minlength=k * k).reshape(k, k)
        share = cells / np.maximum(cells.sum(1, keepdims=True), 1)
        title = "Trained on the target alone" if strategy == NONE else "Through the sources"
        out.append(
            {
                "title": title,
                "names": list(target.label_names),
                "rows": [
                    {
                        "name": name,
                        "cells": [
                            {"n": int(n), "strength": round(60 * s)}
                            for n, s in zip(cells[i].tolist(), share[i].tolist(), strict=True)
                        ],
                    }
                    for i, name in enumerate(target.label_names)
                ],
            }
        )
    return out


def _changed(target: Task, result: TrainResult) -> list[dict[str, Any]]:
    """Show test rows whose answer the sources change in most seeds, for better and for worse."""
    comparison = result.comparison
    if comparison is None or target.kind != "classification":
        return []
    with_sources, alone = _answers(comparison.transfers), _answers(comparison.alone)
    if with_sources is None or alone is None:
        return []
    labels, (texts, pairs) = target.labels("test"), target.inputs("test")
    gain = (with_sources == labels).mean(0) - (alone == labels).mean(0)
    out = []
    for id_, title, sign in (
        ("right", "Put right by the sources", 1),
        ("wrong", "Put wrong by the sources", -1),
    ):
        changed = np.flatnonzero(sign * gain > 0.5)
        rows = changed[np.argsort(-sign * gain[changed], kind="stable")][:_EXAMPLES]
        examples = []
        here = " The first of them; these texts of yours stand in this file." if len(rows) else ""
        for row in rows.tolist():
            text = texts[row] if pairs is None else f"{texts[row]}\n{pairs[row]}"
            examples.append(
                {
                    "text": shortened(text),
                    "label": target.label_names[labels[row]],
                    "with": _said(with_sources[:, row], target),
                    "without": _said(alone[:, row], target),
                }
            )
        out.append(
            {
                "id": id_,
                "title": title,
                "about": f"{len(changed):,} of {len(labels):,} test rows change so in more than "
                f"half of the seeds.{here}",
                "examples": examples,
            }
        )
    return out


def _said(answers: NDArray[np.int64], target: Task) -> str:
    """Name the answers of all seeds, each once."""
    return " or ".join(target.label_names[a] for a in dict.fromkeys(answers.tolist()))


def _card(card: TaskCard) -> dict[str, str]:
    where = card.load or card.homepage
    return {
        "name": card.name,
        "licence": card.licence or "not stated",
        "commercial": {"unstated": "not stated"}.get(card.commercial, card.commercial),
        "domain": card.domain or card.category,
        "where": where,
        "link": link(where),
    }
