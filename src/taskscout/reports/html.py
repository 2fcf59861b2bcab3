"""Reports as one self-contained HTML file: no request to anywhere when it is opened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from taskscout.reports.pages import render
from taskscout.reports.studies import (
    digits_of,
    interval,
    narrower_tables,
    number,
    probability,
    reach,
    verdict,
)
from taskscout.studies.comparison import Comparison
from taskscout.studies.comparison_rows import CONTROLS, ORACLE, RANDOM, Difference, Row
from taskscout.studies.metrics import Metric, get_metric

_BLUE, _GREY, _ORANGE = "#0969da", "#8c959f", "#bc4c00"
#: Pairs in a table of differences, at most.
_PAIRS = 40
#: Methods whose pruning curves are shown at first; the others by a click on the legend.
_CURVES = 6


def study_page(comparison: Comparison) -> str:
    """Render a comparison as one HTML page.

    Parameters
    ----------
    comparison
        What :func:`taskscout.studies.comparison.compare` gives.

    Returns
    -------
    The page; the library that draws its figures stands in it (5 MB).
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    figures = {
        "ladder": _ladder(comparison),
        "differences": _differences_figure(comparison),
        "cost": _cost_figure(comparison),
        "targets": _targets_figure(comparison),
        "seeds": _seeds_figure(comparison),
        "pruning": _pruning_figure(comparison),
        "grid": _grid_figure(comparison),
    }
    gains = comparison.gains
    digits = digits_of(comparison.by)
    timed = not math.isnan(comparison.embedding_seconds)
    return render(
        "study.html",
        title=comparison.title,
        grid=f"{len(gains.sources)} sources, {len(gains.targets)} targets, "
        f"{len(gains.seed_names)} seed{'s' if len(gains.seed_names) > 1 else ''}",
        settings=[(k, _text(v)) for k, v in comparison.settings.items()],
        plotly=Markup(get_plotlyjs()),  # the library's own code
        figures={k: Markup(v) for k, v in figures.items()},  # plotly escapes
        by=comparison.by,
        metrics=[get_metric(n) for n in comparison.metrics],
        verdict=verdict(comparison),
        reach=reach(comparison),
        table=_table(comparison),
        narrower=[
            {
                "targets": len(table.gains.targets),
                "names": ", ".join(table.gains.targets),
                "verdict": verdict(table),
                "table": [r for r in _table(table) if r["method"] in methods],
            }
            for table, methods in narrower_tables(comparison)
        ],
        families=[
            (
                "Against a random order and the prior",
                _differences(comparison.against_controls, digits),
            ),
            ("Methods against one another", _differences(comparison.between_methods, digits)),
        ],
        smallest_p=f"{comparison.smallest_p:.2g}",
        costs=_costs(comparison),
        embedding=f" ({comparison.embedding_seconds:.2f} s here)" if timed else "",
        seeds=[
            {
                "seed": s["seed"],
                "first": s["first"] or "–",
                "place": s["place_of_first"] or "–",
                "tau": number(s["tau"], 2),
            }
            for s in comparison.seed_study()
        ],
        saved_what="the training time"
        if not np.isnan(gains.seconds[~np.isnan(gains.mean_scores)]).any()
        else "the share of pairs",
        notes=comparison.notes,
    )


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(comparison: Comparison) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Row]] = {}
    for row in comparison.rows:
        rows.setdefault(row.method, {})[row.metric] = row
    best = {}
    for name in comparison.metrics:
        values = [
            r[name].value
            for m, r in rows.items()
            if m not in CONTROLS and not math.isnan(r[name].value)
        ]
        if values:
            best[name] = max(values) if get_metric(name).better == "higher" else min(values)
    out = []
    for method in comparison.methods:
        cells = []
        for name in comparison.metrics:
            row = rows[method][name]
            digits = digits_of(get_metric(name))
            cells.append(
                {
                    "value": number(row.value, digits),
                    "interval": interval(row.low, row.high, digits),
                    "best": method not in CONTROLS and row.value == best.get(name),
                }
            )
        targets = rows[method][comparison.metrics[0]].targets
        out.append(
            {"method": method, "control": method in CONTROLS, "cells": cells, "targets": targets}
        )
    return out


def _differences(differences: Sequence[Difference], digits: int) -> list[dict[str, Any]]:
    """The first differences of a family, as text."""
    return [
        {
            "better": d.better,
            "worse": d.worse,
            "by": number(abs(d.difference), digits),
            "interval": interval(d.low, d.high, digits),
            "p": probability(d.p),
            "p_adjusted": probability(d.p_adjusted),
            "real": "yes" if d.real else "no",
            "targets": d.targets,
        }
        for d in differences[:_PAIRS]
    ]


def _costs(comparison: Comparison) -> list[dict[str, str]]:
    from taskscout.reports.terminal import size

    costs = {p.method: p for p in comparison.predicted}
    out = []
    for method in comparison.methods:
        cost = costs.get(method)
        if cost is None or math.isnan(cost.seconds):
            continue
        value = comparison.row(method, comparison.by.name).value
        out.append(
            {
                "method": method,
                "value": number(value, digits_of(comparison.by)),
                "seconds": number(cost.seconds, 3),
                "bytes": "–" if math.isnan(cost.bytes_per_source) else size(cost.bytes_per_source),
                "offline": number(cost.offline_seconds, 2),
            }
        )
    return out


# -- figures ----------------------------------------------------------------------------------


def _figure(traces: Sequence[Any], *, height: int, **layout: Any) -> str:
    """One figure as a fragment of a page that already holds the library."""
    import plotly.graph_objects as go

    figure = go.Figure(list(traces))
    settings = {
        "template": "plotly_white",
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 20, "b": 40},
        # Legible on the light page and on the dark one.
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#7a828c"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        **layout,
    }
    figure.update_layout(**settings)
    lines = dict.fromkeys(("gridcolor", "zerolinecolor"), "rgba(128,136,145,0.3)")
    figure.update_yaxes(automargin=True, **lines)
    figure.update_xaxes(automargin=True, **lines)
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displayModeBar": False}
    )
    return text


def _axis(metric: Metric) -> str:
    return f"{metric.name}{', ' + metric.unit if metric.unit else ''}"


def _tall(n: int) -> int:
    return max(220, 90 + 24 * n)


def _ladder(comparison: Comparison) -> str:
    """Methods one above another by the first metric, with intervals."""
    import plotly.graph_objects as go

    by = comparison.by
    rows = [comparison.row(m, by.name) for m in reversed(comparison.methods)]
    rows = [r for r in rows if not math.isnan(r.value)]
    ends = [(r.value, r.value) if math.isnan(r.low) else (r.low, r.high) for r in rows]
    trace = go.Scatter(
        x=[r.value for r in rows],
        y=[r.method for r in rows],
        mode="markers",
        marker={
            "size": 10,
            "color": [_GREY if r.method in CONTROLS else _BLUE for r in rows],
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - r.value for r, (_, high) in zip(rows, ends, strict=True)],
            "arrayminus": [r.value - low for r, (low, _) in zip(rows, ends, strict=True)],
            "color": _GREY,
        },
    )
    return _figure([trace], height=_tall(len(rows)), xaxis_title=_axis(by), showlegend=False)


def _differences_figure(comparison: Comparison) -> str:
    """All pairs as a matrix: row minus column, a star where it is real."""
    import plotly.graph_objects as go

    names = [m for m in comparison.methods if m != ORACLE]
    at = {n: i for i, n in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    stars = [[""] * len(names) for _ in names]
    for d in comparison.differences:
        i, j = at[d.better], at[d.worse]
        matrix[i, j], matrix[j, i] = d.difference, -d.difference
        if d.real:
            stars[i][j] = stars[j][i] = "★"
    trace = go.Heatmap(
        z=matrix,
        x=names,
        y=names,
        text=stars,
        texttemplate="%{text}",
        colorscale="RdBu",
        reversescale=comparison.by.better == "lower",
        zmid=0,
        hovertemplate="%{y} minus %{x}: %{z:.3f}<extra></extra>",
        colorbar={"title": "row − column"},
    )
    return _figure([trace], height=_tall(len(names)) + 80, yaxis={"autorange": "reversed"})


def _cost_figure(comparison: Comparison) -> str:
    """Quality against seconds per target."""
    import plotly.graph_objects as go

    by = comparison.by
    known = [p for p in comparison.predicted if p.seconds > 0]
    if not known:
        return "<p>No method's time is known.</p>"
    trace = go.Scatter(
        x=[p.seconds for p in known],
        y=[comparison.row(p.method, by.name).value for p in known],
        text=[p.method for p in known],
        mode="markers+text",
        textposition="top center",
        marker={"size": 10, "color": _BLUE},
        hovertemplate="%{text}: %{y:.3f}, %{x:.3g} s<extra></extra>",
    )
    return _figure(
        [trace],
        height=420,
        xaxis={"type": "log", "title": "seconds per target"},
        yaxis_title=_axis(by),
        showlegend=False,
    )


def _targets_figure(comparison: Comparison) -> str:
    """The first metric of every method on every target."""
    import plotly.graph_objects as go

    by = comparison.by
    names = list(comparison.methods)
    trace = go.Heatmap(
        z=np.stack([comparison.values[m][by.name] for m in names]),
        x=list(comparison.gains.targets),
        y=names,
        colorscale="Viridis",
        reversescale=by.better == "lower",
        colorbar={"title": _axis(by)},
        hovertemplate="%{y} on %{x}: %{z:.3f}<extra></extra>",
    )
    return _figure([trace], height=_tall(len(names)) + 80, yaxis={"autorange": "reversed"})


def _seeds_figure(comparison: Comparison) -> str:
    """The first metric under each seed alone, and under all."""
    import plotly.graph_objects as go

    by = comparison.by
    names = [m for m in reversed(comparison.methods) if comparison.by_seed[m][by.name]]
    seeds = comparison.gains.seed_names
    x, y, text = [], [], []
    for name in names:
        for seed, value in zip(seeds, comparison.by_seed[name][by.name], strict=True):
            x.append(value)
            y.append(name)
            text.append(f"seed {seed}")
    traces = [
        go.Scatter(
            x=x, y=y, text=text, mode="markers", name="one seed",
            marker={"size": 7, "color": _ORANGE, "opacity": 0.6},
            hovertemplate="%{y}, %{text}: %{x:.3f}<extra></extra>",
        ),
        go.Scatter(
            x=[comparison.row(n, by.name).value for n in names], y=names, mode="markers",
            name="all seeds", marker={"symbol": "line-ns-open", "size": 16, "color": _BLUE},
        ),
    ]  # fmt: skip
    return _figure(traces, height=_tall(len(names)), xaxis_title=_axis(by))


def _pruning_figure(comparison: Comparison) -> str:
    """Best result kept against what is saved."""
    import plotly.graph_objects as go

    traces = []
    shown = [m for m in comparison.methods if m in comparison.pruning]
    for i, name in enumerate(shown):
        curve = comparison.pruning[name]
        visible = i < _CURVES or name in CONTROLS
        traces.append(
            go.Scatter(
                x=curve.saved,
                y=curve.kept,
                mode="lines+markers",
                name=name,
                visible=True if visible else "legendonly",
                line={"dash": "dot", "color": _GREY} if name == RANDOM else {},
                hovertemplate=name + ": %{y:.2f}% kept, %{x:.0f}% saved<extra></extra>",
            )
        )
    return _figure(traces, height=420, xaxis_title="saved, %", yaxis_title="best result kept, %")


def _grid_figure(comparison: Comparison) -> str:
    """Gains, sources × targets, the most helpful sources first."""
    import plotly.graph_objects as go

    gains = comparison.gains
    values = gains.points
    known = np.where(np.isnan(values), 0.0, values).sum(1) / np.maximum(
        (~np.isnan(values)).sum(1), 1
    )
    order = np.argsort(-known, kind="stable")
    far = float(np.nanquantile(np.abs(values), 0.98)) if not np.isnan(values).all() else 1.0
    trace = go.Heatmap(
        z=values[order],
        x=list(gains.targets),
        y=[gains.sources[i] for i in order],
        colorscale="RdBu",
        zmid=0,
        zmin=-far,
        zmax=far,
        colorbar={"title": "points"},
        hovertemplate="%{y} → %{x}: %{z:.2f} points<extra></extra>",
    )
    return _figure([trace], height=max(300, 120 + 16 * len(order)), yaxis={"autorange": "reversed"})
