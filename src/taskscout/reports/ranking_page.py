"""A ranking as one HTML page: advice, gains or scores, map, agreement, texts, what was read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskscout.errors import TaskscoutError
from taskscout.forecasting import NO_GAINS
from taskscout.pools.surroundings import TargetExample, data_at_hand, nearest_examples, pool_map
from taskscout.ranking import Ranking, rank
from taskscout.reports.pages import Axis, link, plane, reading_of, render, shortened, versions
from taskscout.reports.terminal import number, size, spent, verdict, what_was_read
from taskscout.tasks.names import NONE
from taskscout.tasks.overlap import MOST_OVERLAP

if TYPE_CHECKING:
    from taskscout.models.workbench import Workbench
    from taskscout.pools import Pool
    from taskscout.tasks import Task
    from taskscout.tasks.catalogue import Catalogue

#: Methods asked beside a single one, so that agreement can be seen: they read the embeddings
#: that the ranking made, words or cards, and take about two seconds together.
SECOND_OPINIONS = (
    "text-embedding", "nearest-example", "esm-logme", "esm-knn", "vocabulary", "format",
)  # fmt: skip
#: Sources shown before the rest is unfolded.
_FIRST = 15
_COMMERCIAL = {"yes": "yes", "no": "no", "unstated": "not stated", None: "–"}


def ranking_page(
    ranking: Ranking,
    target: Task,
    pool: Pool,
    bench: Workbench,
    *,
    examples: int = 1000,
    seed: int = 0,
    catalogue: Catalogue | None = None,
    command: str = "",
) -> str:
    """Render a ranking as one HTML page that needs no network.

    Parameters
    ----------
    ranking
        Of ``target`` over ``pool``; every number shown is one of :meth:`Ranking.to_dict`, which
        stands in the page too.
    target, pool, bench, examples, seed
        As they were given to :func:`taskscout.ranking.rank`: the map and the nearest texts read
        the embeddings that the ranking made.
    catalogue
        Labelled datasets on disk, for the texts of sources; None shows sources without theirs.
    command
        What was typed.
    """
    data = ranking.to_dict()
    readable = target.for_choosing().sample(examples, seed=seed)
    names = [r.name for r in ranking.sources if r.name != NONE]
    near: tuple[TargetExample, ...] = ()
    if bench.encoder.fingerprint == pool.encoder["fingerprint"]:
        near = nearest_examples(
            readable, pool, bench, names, data=lambda source: data_at_hand(source, catalogue)
        )  # fmt: skip
    cards = [_card(r) for r in data["sources"] if r["name"] != NONE]
    shared = [c for c in cards if c["shares"]]
    parts = [
        ("sources", "sources"), ("map", "map"), ("agreement", "agreement"), ("texts", "texts"),
        ("read", "what was read"), ("cards", "licences and overlap"), ("costs", "costs"),
        ("repeat", "how to repeat it"),
    ]  # fmt: skip
    return render(
        "ranking.html",
        title=f"taskscout: sources for {ranking.target}",
        target=ranking.target,
        advice=(data.get("advice") or {}).get("sentence") or verdict(ranking),
        next=[(data["advice"])["command"]] if (data.get("advice") or {}).get("command") else [],
        used=what_was_read(ranking) + ".",
        parts=parts,
        chart=_chart(data),
        plane=_plane(ranking, readable, pool, bench, names),
        no_map="There is no map: the pool keeps no mean embedding of four of its sources. Make "
        "them in a pool of yours: taskscout pool describe --method text-embedding",
        agreement=_agreement(_with_second_opinions(ranking, target, pool, bench, examples, seed)),
        examples=[
            {
                "text": shortened(example.text),
                "label": example.label,
                "nearest": [
                    {
                        "similarity": f"{each.similarity:.2f}",
                        "source": each.source,
                        "text": None if each.text is None else shortened(each.text),
                    }
                    for each in example.nearest
                ],
            }
            for example in near
        ],
        some_texts_missing=any(n.text is None for e in near for n in e.nearest),
        no_examples="The pool keeps no embeddings of its sources' texts made with this encoder. "
        "Make them in a pool of yours: taskscout pool describe --method nearest-example",
        reading=reading_of(target, [*ranking.notes, _lengths(readable, bench)]),
        cards=cards,
        shared=", ".join(f"{c['name']} ({c['overlap']})" for c in shared),
        none_shared=f"None of these sources holds {MOST_OVERLAP:.0%} or more of your texts, as "
        "far as their sketches tell."
        if any(c["overlap"] != "–" for c in cards)
        else "Whether sources hold texts of yours is not known: the pool has no sketches of them.",
        left_out=_reasons(ranking.left_out),
        spent=spent(ranking) + ".",
        costs=[
            {
                "method": name,
                "offline": number(cost.offline_seconds, 1),
                "bytes": size(cost.bytes_per_source),
                "seconds": number(cost.seconds, 2),
                "pair": number(1000 * cost.seconds_per_pair, 2),
            }
            for name, cost in ranking.costs.items()
        ],
        command=command,
        versions=[("pool", f"{len(pool)} sources, {pool.folder.name}"), *versions(bench.encoder)],
        data=data,
    )


# -- sources, as bars --------------------------------------------------------------------------


def _chart(data: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out expected gains where there is a forecast, else the scores of the first method."""
    rows = data["sources"]
    if any(r.get("gain") for r in rows if r["name"] != NONE):
        return {
            "title": "Expected gains",
            "unit": "points",
            "about": "Points above fine-tuning directly (none), which is the dark line; the bar "
            f"is the interval, the dot what is expected. {data['about_gains']}",
            "parts": _parts([_gain_row(r) for r in rows], 0.0),
        }
    line = next((r["score"] for r in rows if r["name"] == NONE), None)
    about = (
        "This method has no score for fine-tuning directly."
        if line is None
        else "The dark line is none, fine-tuning directly; orange scores below it."
    )
    return {
        "title": "Scores",
        "unit": "score",
        "about": f"The score of {data['methods'][0]}: higher is better, and it is no number of "
        f"points. {about} {data.get('about_gains', '')}",
        "parts": _parts([_score_row(r, line) for r in rows], line),
    }


def _parts(rows: Sequence[dict[str, Any]], line: float | None) -> list[dict[str, Any]]:
    """Split rows into those shown and those to unfold, each drawn on an axis of its own."""
    parts = []
    for some in (rows[:_FIRST], rows[_FIRST:]):
        if not some:
            continue
        ends = [v for row in some for v in row["numbers"].values() if v is not None]
        axis = Axis.over([*ends, *([] if line is None else [line])])
        for row in some:
            _draw(row, axis, line)
        parts.append(
            {"rows": some, "ticks": axis.ticks(), "zero": "" if line is None else axis.at(line)}
        )
    return parts


def _draw(row: dict[str, Any], axis: Axis, line: float | None) -> None:
    """Place a row's dot, and its bar: the interval, or from the line to the score."""
    numbers = row["numbers"]
    if "score" in numbers:
        value, low, high = numbers["score"], numbers["score"], axis.low if line is None else line
    else:
        value, low, high = numbers["expected"], numbers["low"], numbers["high"]
        low, high = axis.low if low is None else low, axis.high if high is None else high
    if value is None:
        return
    low, high = min(low, high), max(low, high)
    row |= {"at": axis.at(value), "left": axis.at(low), "width": axis.width(low, high)}


def _gain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out one source's expected gain."""
    gain = row["gain"] or dict.fromkeys(("expected", "low", "high", "chance"))
    expected, low, high = (_known(gain[k]) for k in ("expected", "low", "high"))
    none = row["name"] == NONE
    interval = ""
    if not none and gain["expected"] is not None:
        ends = (f"{low:+.1f}" if low == low else "…", f"{high:+.1f}" if high == high else "…")
        interval = f"{ends[0]} to {ends[1]}"
    return {
        **_row(row, below=expected < 0),
        "text": "0" if none else "–" if math.isnan(expected) else f"{expected:+.1f}",
        "interval": interval,
        "numbers": {k: gain[k] for k in ("expected", "low", "high")},
    }


def _score_row(row: Mapping[str, Any], line: float | None) -> dict[str, Any]:
    """Lay out one source's score."""
    score = row["score"]
    return {
        **_row(row, below=None not in (line, score) and score < line),
        "text": number(_known(score)),
        "interval": "",
        "numbers": {"score": score},
    }


def _row(row: Mapping[str, Any], *, below: bool) -> dict[str, Any]:
    """Lay out what every row of bars says of its source."""
    none = row["name"] == NONE
    overlap = row["overlap"]
    return {
        "place": row["rank"],
        "name": row["name"],
        "about": "fine-tune directly" if none else row["category"],
        "more": "" if row["domain"] == row["category"] else row["domain"],
        "at": "",
        "left": "",
        "width": "",
        "mark": f"holds {overlap:.0%} of your texts" if (overlap or 0) >= MOST_OVERLAP else "",
        "kind": "none" if none else "below" if below else "",
    }


def _known(value: float | None) -> float:
    return math.nan if value is None else value


# -- map and agreement -------------------------------------------------------------------------


def _plane(
    ranking: Ranking, target: Task, pool: Pool, bench: Workbench, names: Sequence[str]
) -> dict[str, Any] | None:
    shown = pool_map(pool, names, target, bench)
    if shown is None:
        return None
    rows = {r.name: r for r in ranking.sources}
    cards = {n: pool.source(n).card for n in shown.names}
    out = plane(
        shown,
        cards,
        target=ranking.target,
        titles={
            n: f"{n}: rank {rows[n].rank}, {cards[n].category or cards[n].domain or 'no category'}"
            for n in shown.names
        },
        links={n: f"source-{rows[n].rank}" for n in shown.names},
    )
    if shown.target is not None:
        far = ((shown.points - shown.target) ** 2).sum(1)
        near = [shown.names[i] for i in far.argsort()[:5]]
        out["near"] = f"Nearest to {ranking.target} on the map: {', '.join(near)}."
    return out


def _with_second_opinions(
    ranking: Ranking, target: Task, pool: Pool, bench: Workbench, examples: int, seed: int
) -> list[dict[str, Any]]:
    """Give each method's scores; a ranking by one method is set beside cheap others.

    Sources that hold texts of the target are left out: that is no merit of theirs.
    """
    ranked = [r for r in ranking.sources if r.name != NONE and not r.overlap >= MOST_OVERLAP]
    columns = [
        {"method": m, "scores": {r.name: r.scores[m] for r in ranked}} for m in ranking.methods
    ]
    if len(columns) > 1 or not ranked:
        return columns
    names = {r.name for r in ranked}
    exclude = [n for n in pool.names if n not in names]
    for method in SECOND_OPINIONS:
        if method in ranking.methods:
            continue
        try:
            other = rank(target, pool, method, bench=bench, examples=examples, seed=seed,
                         exclude=exclude, calibration=NO_GAINS)  # fmt: skip
        except TaskscoutError:
            continue  # it serves another kind of target, or this pool lacks what it reads
        scores = {r.name: r.score for r in other.sources if r.name != NONE}
        columns.append({"method": method, "scores": scores})
    return columns


def _agreement(columns: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Correlate the orders of methods, and say in a sentence what the first one stands alone in."""
    from scipy.stats import spearmanr

    if len(columns) < 2:
        return None
    correlations: dict[tuple[int, int], float] = {}
    for i, j in itertools.combinations(range(len(columns)), 2):
        one, other = columns[i]["scores"], columns[j]["scores"]
        both = [n for n in one if n in other and not math.isnan(one[n] + other[n])]
        value = math.nan
        if len(both) > 2:
            value = float(spearmanr([one[n] for n in both], [other[n] for n in both]).statistic)
        correlations[i, j] = correlations[j, i] = value
    firsts = [_first_three(c["scores"]) for c in columns]
    methods = [c["method"] for c in columns]
    if not firsts[0]:
        return None
    alike = sum(firsts[0][:1] == other[:1] for other in firsts[1:])
    among = sum(firsts[0][0] in other for other in firsts[1:])
    rows = []
    for i, method in enumerate(methods):
        cells = []
        for j in range(len(methods)):
            value = 1.0 if i == j else round(correlations[i, j], 2) + 0.0  # no -0.00
            strength = 0.0 if math.isnan(value) else max(value, 0.0)
            cells.append({"text": number(value, 2), "strength": round(60 * strength)})
        rows.append({"method": method, "cells": cells, "first": ", ".join(firsts[i])})
    return {
        "methods": methods,
        "rows": rows,
        "sentence": f"{methods[0]} puts {firsts[0][0]} first; of {len(methods) - 1} other "
        f"methods, {alike} {'does' if alike == 1 else 'do'} so too, and {among} "
        f"{'has' if among == 1 else 'have'} it among the first three.",
    }


def _first_three(scores: Mapping[str, float]) -> list[str]:
    known = [n for n in scores if not math.isnan(scores[n])]
    return sorted(known, key=lambda n: (-scores[n], n))[:3]


# -- cards and what was read -------------------------------------------------------------------


def _card(row: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out one source's card."""
    overlap = row["overlap"]
    return {
        "rank": row["rank"],
        "name": row["name"],
        "overlap": "–" if overlap is None else f"{overlap:.0%}",
        "shares": overlap is not None and overlap >= MOST_OVERLAP,
        "licence": row["licence"] or "not stated",
        "commercial": _COMMERCIAL[row["commercial"]],
        "rows": "–" if row["rows"] is None else f"{row['rows']:,}",
        "category": row["category"],
        "domain": row["domain"],
        "language": row["language"] or "",
        "test_score": number(_known(row["test_score"]), 3),
        "where": row["where"],
        "link": link(row["where"]),
    }


def _reasons(left_out: Mapping[str, str]) -> list[tuple[str, str]]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    return [(reason, ", ".join(names)) for reason, names in by_reason.items()]


def _lengths(target: Task, bench: Workbench) -> str:
    """Say how many of the texts that were used are longer than the encoder reads."""
    longer = bench.encoder.count_longer(*target.inputs("train"))
    n, most = len(target), bench.encoder.max_length
    if not longer:
        return f"none of {n:,} texts is longer than the {most} tokens that the encoder reads"
    return f"{longer:,} of {n:,} texts are longer than {most} tokens; the encoder reads that much"
