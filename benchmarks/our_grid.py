"""What our grid of real transfers holds, how it was made and what it cost.

    python -m benchmarks.our_grid

Made by ``taskscout grid run`` from the study files in ``benchmarks/grids``, which says what is
missing; the table is read from the results themselves.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks._grids import GRID, STUDIES
from benchmarks._report import RESULTS, markdown, publish
from taskscout.tasks.names import NONE

#: A grid on another encoder, beside ours.
TABLES = (GRID, RESULTS / "second_encoder.parquet")
SETTING = ["encoder", "tuning", "recipe"]
#: Points below the median of a pair's seeds from which a run is called failed.
FAILED = 8


def seeds_apart(cells: pd.DataFrame) -> str:
    """Say how far seeds lie apart, for pairs that have three or more."""
    runs = cells.pivot_table(index=[*SETTING, "size", "target", "source"], columns="seed",
                             values="score")  # fmt: skip
    runs = 100 * runs.dropna(thresh=3)
    spread = runs.std(axis=1)
    worst = spread.groupby("target").median().sort_values()
    below = runs.sub(runs.median(axis=1), axis=0) <= -FAILED
    return (
        f"Of the {len(runs):,} pairs with three seeds, direct training among them, the seeds' "
        f"standard deviation is {spread.median():.1f} points in the median, from "
        f"{worst.iloc[0]:.1f} ({worst.index[0]}) to {worst.iloc[-1]:.1f} ({worst.index[-1]}) by "
        f"target. Now and then a run fails: {below.to_numpy().sum()} of {runs.count().sum():,} lie "
        f"{FAILED} points or more below the median of their pair, so that some seed of "
        f"{below.any(axis=1).mean():.0%} of the pairs shows a loss that the others do not. Nearly "
        "all of these have seed 0, which is the sources' own: a target's head was then drawn as "
        "its source's had been, and began with large outputs along what the source had learnt. "
        "Since 2026-11-28 it is drawn otherwise; runs before have `draws=shared` in their recipe."
    )


def main() -> None:
    """Count and publish."""
    cells = pd.concat([pd.read_parquet(path) for path in TABLES])
    rows = []
    for (*setting, size, seed), found in cells.groupby([*SETTING, "size", "seed"]):
        pairs = found[found["source"] != NONE]
        rows.append(
            (*setting, f"{size:,}", str(seed), str(pairs["source"].nunique()),
             str(pairs["target"].nunique()), f"{len(found):,}",
             str(int((found["error"] != "").sum())), f"{found['seconds'].sum() / 3600:.1f}")
        )  # fmt: skip
    tuned = cells.drop_duplicates(["source", *SETTING])["source_seconds"].sum() / 3600
    total = cells["seconds"].sum() / 3600
    text = (
        f"{len(cells):,} cells: {total:.1f} hours of one thread each, two at a time, beside "
        f"{tuned:.1f} hours in which their sources were tuned. A cell takes "
        f"{np.median(cells['seconds']):.0f} s. Made by\n\n"
        "```\n"
        "taskscout grid merge benchmarks/results/grid.parquet --out grid.sqlite   # what is done\n"
        "taskscout grid run benchmarks/grids/STUDY.yaml --out grid.sqlite\n"
        "taskscout grid export grid.sqlite benchmarks/results/grid.parquet\n"
        "```\n\n"
        f"with {', '.join(f'`{p.name}`' for p in sorted(STUDIES.glob('*.yaml')))}; what they ask "
        "for and the table lacks is not run yet. A source that shares texts with a target is not "
        f"run on it, and every target is tuned without a source too.\n\n{seeds_apart(cells)}\n\n"
        + markdown(
            (*SETTING, "examples", "seed", "sources", "targets", "cells", "failed", "hours"),
            rows,
        )
    )  # fmt: skip
    publish("our_grid", "Our grid of real transfers", text, {"rows": rows}, "peft")


if __name__ == "__main__":
    main()
