"""Shows what came of a training: a table of scores per seed, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from taskscout.transfer.result import Transfer
    from taskscout.transfer.train import TrainResult


def runs_table(runs: Sequence[Transfer]) -> Table:
    """One row per strategy: score per seed, mean and standard deviation, in points."""
    from rich.table import Table

    strategies = list(dict.fromkeys(r.strategy for r in runs))
    seeds = list(dict.fromkeys(r.seed for r in runs))
    table = Table(box=None, pad_edge=False)
    table.add_column("strategy")
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    if len(seeds) > 1:
        table.add_column("mean", justify="right")
        table.add_column("sd", justify="right")
    table.add_column("training, s", justify="right")
    for strategy in strategies:
        of = {r.seed: r for r in runs if r.strategy == strategy}
        cells = [f"{100 * of[s].score:.1f}" if s in of else "" for s in seeds]
        if len(seeds) > 1:
            scores = np.array([r.score for r in of.values()])
            cells += [f"{100 * scores.mean():.1f}", f"{100 * scores.std(ddof=1):.1f}"]
        cells.append(f"{sum(r.seconds + r.source_seconds for r in of.values()):.0f}")
        table.add_row(strategy, *cells)
    return table


def show_training(result: TrainResult, console: Console) -> None:
    """Print the table, what an answer without reading scores, the verdict and the notes."""
    from rich.text import Text

    scored = [r for r in result.runs if r.scores]
    if scored:
        console.print(runs_table(scored))
        baseline = scored[0].scores.get("baseline")
        if baseline is not None:
            console.print(
                f"test scores in points; an answer that reads no text: {100 * baseline:.1f}"
            )
    if result.verdict:
        console.print(Text(result.verdict, style="bold"))
    for note in result.notes:
        console.print(Text(f"note: {note}"))
