"""Results in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from taskscout.ranking import RankedSource, Ranking
from taskscout.tasks.names import NONE
from taskscout.tasks.overlap import MOST_OVERLAP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from taskscout.methods.gains import Gains

#: How a card's answer on commercial use is shown after its licence.
_COMMERCIAL = {"yes": "", "no": " [nc]", "unstated": " [?]"}
#: Columns of a terminal from which on all of a ranking's are shown beside gains.
WIDE = 110
LICENCE_LEGEND = "[nc] non-commercial · [?] the licence does not say"


def number(value: float, digits: int = 4) -> str:
    """A score, or a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def size(bytes_: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "KB", "MB"):
        if bytes_ < 1000:
            return f"{bytes_:.0f} {unit}" if unit == "B" else f"{bytes_:.1f} {unit}"
        bytes_ /= 1000
    return f"{bytes_:.1f} GB"


def short_licence(licence: str, commercial: str, *, longest: int = 28) -> str:
    """The first clause of a licence, with a mark where commercial use is not plainly allowed."""
    first = licence.split(";")[0].split("(")[0].strip() or "not stated"
    if len(first) > longest:
        first = first[: longest - 1].rstrip() + "…"
    return first + _COMMERCIAL[commercial]


def points(value: float) -> str:
    """A gain in points with its sign, or a dash where there is none."""
    return f"{value:+.1f}" if math.isfinite(value) else "–"


def gain_cells(row: RankedSource) -> list[str]:
    """Expected gain, its interval and the chance of any."""
    gain = row.gain
    if gain is None or row.name == NONE:
        return ["0.0", "", ""]
    chance = f"{gain.chance:.0%}"
    return [points(gain.expected), f"{points(gain.low)} to {points(gain.high)}", chance]


def ranking_table(ranking: Ranking, *, width: int = WIDE) -> Table:
    """Rank, source, gains, scores, domain, size, licence and where to get it.

    What ``taskscout pool show`` has too makes room: the rows for gains, licence and place in a
    narrow terminal.
    """
    forecast = ranking.forecast
    narrow = width < WIDE
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("source", no_wrap=True, min_width=12, overflow="ellipsis")
    if forecast is not None:
        for column in ("gain", f"{forecast.calibration.level:.0%}", "chance"):
            table.add_column(column, justify="right", no_wrap=True)
    for method in ranking.methods:
        table.add_column(method if len(ranking.methods) > 1 else "score", justify="right")
    table.add_column("domain", overflow="ellipsis", no_wrap=True)
    if forecast is None:
        table.add_column("rows", justify="right")
    if not narrow:
        table.add_column("licence", overflow="ellipsis", no_wrap=True)
        table.add_column("where to get it", overflow="fold")
    for row in ranking.sources:
        scores = [number(row.scores[m]) for m in ranking.methods]
        if forecast is not None:
            scores = [*gain_cells(row), *scores]
        if row.name == NONE or row.card is None:
            cells = ["none", *scores, "fine-tune directly"]
            table.add_row(str(row.rank), *cells, style="italic")
            continue
        name = Text(row.name)
        if row.overlap >= MOST_OVERLAP:
            name.append(f" !{row.overlap:.0%}", style="yellow")
        card = row.card
        about = [card.domain or card.category]
        if forecast is None:
            about.append(f"{sum(card.rows.values()):,}")
        if not narrow:
            about.append(short_licence(card.licence, card.commercial))
            about.append(card.hub_id or card.homepage or card.load)
        table.add_row(str(row.rank), name, *scores, *map(Text, about))
    return table


def show_ranking(ranking: Ranking, console: Console, *, top: int) -> None:
    """The whole answer: what was read, the table, what was not used, where the time went."""
    for note in ranking.notes:
        console.print(Text(note), style="dim")
    console.print(Text(what_was_read(ranking)))
    console.print()
    shown = ranking.top(top)
    console.print(ranking_table(shown, width=console.width))
    console.print()
    if any(r.overlap >= MOST_OVERLAP for r in shown.sources):
        console.print("!n%: share of your texts that the source contains", style="dim")
    if console.width >= WIDE and any(
        r.card is not None and r.card.commercial != "yes" for r in shown.sources
    ):
        console.print(Text(LICENCE_LEGEND), style="dim")
    if ranking.left_out:
        console.print(Text(f"not ranked: {_grouped(ranking.left_out)}"), style="dim")
    console.print(Text(spent(ranking)), style="dim")
    if ranking.about_gains:
        console.print(Text(ranking.about_gains), style="dim")
    if ranking.advice is None:
        console.print(Text(verdict(ranking)))
        return
    console.print(Text(ranking.advice.sentence), style="bold")
    if ranking.advice.command:
        console.print(Text(ranking.advice.command), soft_wrap=True)


def what_was_read(ranking: Ranking) -> str:
    """Which rows of the target were used, and how many of other splits were left alone."""
    used = f"{ranking.rows:,}"
    if ranking.rows != ranking.of:
        used += f" of {ranking.of:,}"
    n_sources = sum(r.name != NONE for r in ranking.sources)
    if not ranking.left_alone:
        return f"{ranking.target}: {used} rows against {n_sources} sources"
    others = " and ".join(f"{n:,} {split}" for split, n in ranking.left_alone.items())
    return (
        f"{ranking.target}: {used} training rows against {n_sources} sources "
        f"({others} rows left alone: they choose nothing)"
    )


def verdict(ranking: Ranking) -> str:
    """What the ranking says in one sentence, without claiming more than a score says."""
    sources = [r for r in ranking.sources if r.name != NONE]
    none = next((r for r in ranking.sources if r.name == NONE), None)
    if not sources:
        return "No source was ranked."
    # A source that holds the target's own texts may lead for that reason alone.
    best = next((r for r in sources if not r.overlap >= MOST_OVERLAP), sources[0])
    if none is None:
        return f"First to try: {best.name}."
    if none.rank < best.rank:
        return "No source scores above the untouched encoder: fine-tune directly."
    above = sum(r.rank < none.rank for r in ranking.sources)
    return (
        f"First to try: {best.name}. {above} of {len(ranking) - 1} sources score above the "
        "untouched encoder (none)."
    )


def spent(ranking: Ranking) -> str:
    """Where the time went, and what the cache saved."""
    seconds = ranking.seconds
    parts = []
    if ranking.embedded:
        parts.append(f"loaded the encoder in {seconds['loading']:.1f} s")
        parts.append(f"embedded {ranking.embedded:,} texts in {seconds['embedding']:.1f} s")
    if ranking.recalled:
        parts.append(f"{ranking.recalled:,} embeddings from the cache")
    parts.append(f"scored in {seconds['scoring']:.2f} s")
    return " · ".join(parts)


def _grouped(left_out: Mapping[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    parts = []
    for reason, names in sorted(by_reason.items(), key=lambda p: -len(p[1])):
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        parts.append(f"{listed} ({reason})")
    return "; ".join(parts)


def cost_table(ranking: Ranking) -> Table:
    """What each method cost: offline per source, online per target and pair."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("method")
    for column in ("offline, s per source", "bytes per source", "s per target", "ms per pair"):
        table.add_column(column, justify="right")
    for name, cost in ranking.costs.items():
        table.add_row(
            Text(name),
            number(cost.offline_seconds, 1),
            size(cost.bytes_per_source),
            number(cost.seconds, 2),
            number(1000 * cost.seconds_per_pair, 2),
        )
    return table


def gains_table(gains: Gains) -> Table:
    """A heat map: sources by their mean gain, targets by theirs, gains in points.

    Green is a gain, red a loss, full colour from ten points on.
    """
    import numpy as np

    def mean(values: NDArray[np.float64]) -> float:
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else math.nan

    points = gains.points
    rows = sorted(range(len(gains.sources)), key=lambda i: _last(-mean(points[i])))
    columns = sorted(range(len(gains.targets)), key=lambda j: _last(-mean(points[:, j])))
    table = Table(box=None, pad_edge=False)
    table.add_column("source", no_wrap=True)
    table.add_column("mean", justify="right")
    for j in columns:
        table.add_column(Text(gains.targets[j], overflow="fold"), justify="right", min_width=5)
    for i in rows:
        cells = [_heat(mean(points[i]))] + [_heat(float(points[i, j])) for j in columns]
        table.add_row(gains.sources[i], *cells)
    best = [float(np.nanmax(c)) if not np.isnan(c).all() else math.nan for c in points.T]
    table.add_section()
    overall = mean(np.array(best))
    table.add_row("best source", _heat(overall), *(_heat(best[j]) for j in columns))
    return table


def _last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _heat(points: float) -> Text:
    if math.isnan(points):
        return Text("·", style="dim")
    strength = round(30 + 120 * min(abs(points), 10) / 10)
    colour = f"rgb(0,{strength},0)" if points > 0 else f"rgb({strength},0,0)"
    return Text(f"{points:+.1f}", style=f"white on {colour}")
