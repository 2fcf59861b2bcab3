"""Comparisons of methods in words and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from taskscout.methods.calibration import Calibration
from taskscout.studies.comparison import Comparison
from taskscout.studies.comparison_rows import (
    CONTROLS,
    ORACLE,
    PRIOR,
    RANDOM,
    REAL,
    Difference,
)
from taskscout.studies.metrics import Metric, get_metric
from taskscout.studies.variance import VarianceComponents

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Metrics shown in the terminal.
_COLUMNS = 6


def digits_of(metric: Metric) -> int:
    """Decimals that a metric is shown with."""
    return 3 if metric.unit == "" else 2


def number(value: float | None, digits: int) -> str:
    """A value, or a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(low: float, high: float, digits: int) -> str:
    """Both ends, or nothing where there is no interval."""
    return "" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def probability(value: float) -> str:
    """A p value."""
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def reach(comparison: Comparison) -> str:
    """One sentence on what the design can show: targets, smallest p, agreement of seeds."""
    n = len(comparison.gains.targets)
    least = comparison.smallest_p
    said = f"{n} target{'s' if n != 1 else ''}: the smallest p they can give is {least:.2g}"
    if least >= REAL:
        said += f", so no difference can be called real (p < {REAL})"
    trust = comparison.reliability
    if not math.isnan(trust.between_seeds):
        said += (
            f". Two seeds agree on the order of sources by Spearman {trust.between_seeds:.2f}, so "
            f"the mean of {trust.seeds} is reliable by {trust.of_the_mean:.2f} (Spearman-Brown)"
        )
        if not math.isnan(trust.attainable):
            said += f" and no method can be expected to correlate above {trust.attainable:.2f}"
    return f"{said}."


def verdict(comparison: Comparison) -> list[str]:
    """Two or three sentences that say what a comparison found."""
    by = comparison.by
    methods = [m for m in comparison.methods if m not in (RANDOM, ORACLE)]
    known = [m for m in methods if not math.isnan(comparison.row(m, by.name).value)]
    if not known:
        return [f"No method has a value of {by.name} on this grid."]
    first = known[0]
    row = comparison.row(first, by.name)
    digits = digits_of(by)
    floor = comparison.row(RANDOM, by.name).value
    ends = interval(row.low, row.high, digits)
    said = (
        f"{first} comes first by {by.name}: {number(row.value, digits)}"
        f"{' ' + by.unit if by.unit else ''}{f' ({ends})' if ends else ''}"
    )
    if (row.value > floor) == (by.better == "higher") and row.value != floor:
        said += f"; a random order has {number(floor, digits)}"
    else:
        said += f", no better than the {number(floor, digits)} of a random order"
    if ORACLE in comparison.values and by.linear:
        said += f", the honest oracle {number(comparison.row(ORACLE, by.name).value, digits)}"
    out = [f"{said}."]
    apart = comparison.against(first)
    close = [m for m in known[1:] if m in apart and not apart[m].real]
    behind = [m for m in known[1:] if m in apart and apart[m].real]
    if known[1:]:
        out.append(
            f"It is really better than {len(behind)} of the {len(known) - 1} other methods"
            + (f"; not told apart from it: {_some(close)}." if close else ".")
        )
    lowest = comparison.against(RANDOM)
    better = [m for m in known if m in lowest and lowest[m].real and lowest[m].better == m]
    out.append(
        f"Really better than a random order: {_some(better)}."
        if better
        else "No method is really better than a random order."
    )
    prior = comparison.against(PRIOR)
    above = [m for m in known if m in prior and prior[m].real and prior[m].better == m]
    if prior:
        out.append(
            f"Really better than the target-blind source prior: {_some(above)}."
            if above
            else "No method is really better than the target-blind source prior."
        )
    return out


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def markdown_table(
    comparison: Comparison, metrics: Sequence[str] = (), methods: Sequence[str] = ()
) -> str:
    """Tables for the docs: methods, best first, with quality, cost and consistency.

    Methods that serve fewer targets than the others have a table of their own below, under a line
    that says on how many targets it compares.

    Parameters
    ----------
    comparison
        What is shown.
    metrics
        Columns; empty for the first few.
    methods
        Rows; empty for all.

    Returns
    -------
    Markdown, one table per set of targets.
    """
    shown = [get_metric(m) for m in (metrics or comparison.metrics[:_COLUMNS])]
    parts = [_markdown_of(comparison, shown, [m for m in comparison.methods if _is(m, methods)])]
    listed = set(comparison.methods)
    for table, rows in narrower_tables(comparison):
        new = [m for m in rows if m not in listed and _is(m, methods)]
        listed |= set(rows)
        if new:
            parts.append(
                f"On {len(table.gains.targets)} targets, all that these methods serve:\n\n"
                + _markdown_of(table, shown, [m for m in rows if m in new or not methods])
            )
    return "\n".join(parts)


def _is(name: str, among: Sequence[str]) -> bool:
    """Whether a row was asked for; without names, all are."""
    return not among or name in among


def _markdown_of(comparison: Comparison, shown: Sequence[Metric], methods: Sequence[str]) -> str:
    """One Markdown table, on the targets of one comparison."""
    by = comparison.by
    digits = digits_of(by)
    against_controls = [comparison.against(RANDOM), comparison.against(PRIOR)]
    head = [
        "method",
        *(f"{m.name}{f', {m.unit}' if m.unit else ''}" for m in shown),
        f"sd over targets ({by.name})",
        "sd over seeds",
        "against random",
        "against the prior",
        "s per target",
        "kB per source",
        "targets",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    costs = {p.method: p for p in comparison.predicted}
    for name in methods:
        first = comparison.row(name, by.name)
        cells = [name]
        for metric in shown:
            row = comparison.row(name, metric.name)
            ends = interval(row.low, row.high, digits_of(metric))
            value = number(row.value, digits_of(metric))
            cells.append(f"{value} ({ends})" if ends else value)
        held_against = [_against(control.get(name), name, digits) for control in against_controls]
        cost = costs.get(name)
        cells += [
            number(first.over_targets, digits),
            number(first.over_seeds, digits),
            *held_against,
            number(cost.seconds if cost else None, 3),
            number(cost.bytes_per_source / 1000 if cost else None, 1),
            str(first.targets),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _against(difference: Difference | None, name: str, digits: int) -> str:
    """A method's difference from a control, with its adjusted p."""
    if difference is None or math.isnan(difference.p_adjusted):
        return "–"
    sign = 1 if difference.better == name else -1
    p = probability(difference.p_adjusted)
    real = " (real)" if difference.real else ""
    return f"{sign * difference.difference:+.{digits}f}, p {p if p[0] == '<' else f'= {p}'}{real}"


def comparison_table(comparison: Comparison, methods: Sequence[str] = ()) -> Table:
    """Methods, best first, with the first few metrics and their intervals, and time.

    Parameters
    ----------
    comparison
        What is shown.
    methods
        Rows; empty for all.
    """
    from rich.table import Table

    metrics = [get_metric(n) for n in comparison.metrics[:_COLUMNS]]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("method", no_wrap=True)
    for i, metric in enumerate(metrics):
        unit = f", {metric.unit}" if metric.unit else ""
        table.add_column(metric.name + unit, justify="right", no_wrap=i == 0)
    table.add_column("s/target", justify="right")
    table.add_column("targets", justify="right")
    costs = {p.method: p for p in comparison.predicted}
    for name in methods or comparison.methods:
        rows = [comparison.row(name, m.name) for m in metrics]
        first, digits = rows[0], digits_of(metrics[0])
        ends = interval(first.low, first.high, digits)
        cells = [f"{number(first.value, digits)}{f' ({ends})' if ends else ''}"]
        cells += [number(r.value, digits_of(m)) for r, m in zip(rows[1:], metrics[1:], strict=True)]
        seconds = number(costs[name].seconds, 3) if name in costs else "–"
        control = name in CONTROLS
        table.add_row(
            name, *cells, seconds, str(first.targets), style="italic" if control else None
        )
    return table


def narrower_tables(comparison: Comparison) -> list[tuple[Comparison, list[str]]]:
    """Comparisons on fewer targets, with the rows worth showing of each.

    Those are the methods that no wider comparison has, the controls, and the best method of the
    widest, so that there is something to hold them against.
    """
    shown = set(comparison.methods)
    best = next((m for m in comparison.methods if m not in CONTROLS), None)
    tables = []
    for table in comparison.narrower:
        new = set(table.methods) - shown
        shown |= new
        rows = [m for m in table.methods if m in new or m in CONTROLS or m == best]
        tables.append((table, rows))
    return tables


def show_comparison(comparison: Comparison, console: Console) -> None:
    """The whole answer: what was compared, the table, the verdict, notes."""
    from rich.text import Text

    gains = comparison.gains
    several = len(gains.seed_names) > 1
    console.print(
        f"{len(gains.sources)} sources, {len(gains.targets)} targets, "
        f"{len(gains.seed_names)} {'seeds' if several else 'seed'}; 95% intervals over targets"
        f"{' and seeds' if several else ''}; controls in italics"
    )
    console.print()
    console.print(comparison_table(comparison))
    console.print()
    for sentence in (*verdict(comparison), reach(comparison)):
        console.print(Text(sentence))
    for table, methods in narrower_tables(comparison):
        console.print()
        console.print(
            f"On {len(table.gains.targets)} targets, all that these methods serve "
            f"({_some(table.gains.targets)}):"
        )
        console.print()
        console.print(comparison_table(table, methods))
        console.print()
        for sentence in verdict(table):
            console.print(Text(sentence))
    if comparison.narrower:
        console.print()
    seeds = comparison.seed_study()
    if seeds:
        same = sum(s["place_of_first"] == 1 for s in seeds)
        console.print(
            Text(
                f"With one seed alone, {same} of {len(seeds)} seeds put the same method first; "
                f"Kendall's tau with the order of all seeds {min(s['tau'] for s in seeds):.2f} to "
                f"{max(s['tau'] for s in seeds):.2f}."
            )
        )
    for note in comparison.notes:
        console.print(Text(note), style="dim")


#: What the parts of a grid's variance say.
_PARTS = {
    "source": "what a source adds on every target (strength)",
    "interaction": "what it adds on one target and not on others (match)",
    "target": "what a target gains from any source",
    "seed": "what a seed moves for all runs of a target",
    "run": "noise of a single run",
    "noise": "of it, what is left in a cell's mean over its seeds",
}


def show_variance(components: VarianceComponents, console: Console) -> None:
    """Where the variance of a grid comes from, and whether that is strength or match."""
    from rich.table import Table
    from rich.text import Text

    console.print(
        f"{components.sources} sources, {components.targets} targets, {components.seeds} "
        f"{'seeds' if components.seeds > 1 else 'seed'}; squared points, 95% intervals over targets"
    )
    console.print()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("part", no_wrap=True)
    table.add_column("variance", justify="right", no_wrap=True)
    table.add_column("95%", justify="right", no_wrap=True)
    table.add_column("what")
    for name, about in _PARTS.items():
        value = getattr(components, name)
        ends = "" if math.isnan(value) else interval(*components.intervals[name], 2)
        table.add_row(name, number(value, 2), ends, about)
    console.print(table)
    console.print()
    if math.isnan(components.run):
        said = "Every pair was run once: interaction and noise cannot be told apart."
    elif math.isnan(components.strength):
        said = "The sources of a target do not differ by more than noise."
    else:
        low, high = (100 * v for v in components.intervals["strength"])
        said = (
            f"Of what really tells the sources of a target apart, {100 * components.strength:.0f}% "
            f"({low:.0f} to {high:.0f}%) is strength, the rest match."
        )
    console.print(Text(said))


def show_calibration(calibration: Calibration, console: Console) -> None:
    """What a calibration rests on, and what its forecasts of unseen targets were worth."""
    r, setting = calibration.report, calibration.setting
    reads = ", ".join(calibration.methods) or "cards and sources' own gains alone"
    oracle = r["honest oracle gains"]
    beside = "" if oracle is None else f", choosing by the other seeds' results {oracle:+.1f}"
    for line in (
        f"Fitted on {len(calibration.sources)} sources, {r['targets']} targets of "
        f"{setting['size']} examples ({setting['tuning']}); reads {reads}.",
        f"On targets left out, intervals of {calibration.level:.0%} held "
        f"{r['rows covered']:.0%} of all gains ({r['row width']:.1f} points wide)",
        f"and {r['picks covered']:.0%} of those of recommended sources ({r['pick width']:.1f}); "
        f"runs alone differ by {r['noise']:.1f}.",
        f"Following the advice gained {r['advice gains']:+.1f} points, the mean source "
        f"{r['mean source gains']:+.1f}{beside}.",
    ):
        console.print(line, markup=False, soft_wrap=True)
