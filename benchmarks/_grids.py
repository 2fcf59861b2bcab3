"""Our grid of real transfers, in the blocks that study files name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks._report import RESULTS
from taskscout.methods.gains import Gains
from taskscout.studies.published import read_runs
from taskscout.studies.study_file import read_study

STUDIES = Path(__file__).parent / "grids"
GRID = RESULTS / "grid.parquet"
#: The setting of most runs of the first grid. Its targets drew their heads as their sources did,
#: which sank one run in a hundred; ``draws=shared`` was put into the column ``recipe`` when that
#: was mended, so that no later run is taken for one of these.
WHERE = {
    "encoder": "default", "tuning": "lora", "size": "200", "recipe": "dropout=0.0, draws=shared"
}  # fmt: skip
#: What blocks differ in from that.
DIFFERENT = {
    "wide": {
        "recipe": "batch_size=8, dropout=0.0, head_learning_rate=0.001, learning_rate=0.001, "
        "least_steps=200"
    }
}
#: The study file of the block that has most seeds.
BLOCK = "lora-200"


def setting_of(study: str) -> dict[str, str]:
    """The setting of a block's runs."""
    return {**WHERE, **DIFFERENT.get(study, {})}


def block(study: str = BLOCK, *, grid: Path = GRID, **changed: str) -> Gains:
    """Runs with the sources and targets of a study file, in one setting.

    Seeds that are not finished are left out: they would weigh on some pairs only. A block that
    is run target by target (one of :data:`DIFFERENT`) keeps the targets that are finished instead.

    Parameters
    ----------
    study
        Name of a file in ``benchmarks/grids``.
    grid
        Table of results.
    changed
        What differs from the block's own setting (:func:`setting_of`).
    """
    asked = read_study(STUDIES / f"{study}.yaml")
    gains = read_runs(grid, where={**setting_of(study), **changed}, unit="fraction")
    gains = gains.with_targets(asked.targets).with_sources(asked.sources)
    if study in DIFFERENT:
        cells = (~np.isnan(gains.scores)).sum(0)  # targets × seeds
        whole = (cells == cells[:, :1]).all(1) & (cells[:, 0] > 0)
        gains = gains.with_targets(t for t, w in zip(gains.targets, whole, strict=True) if w)
    cells = (~np.isnan(gains.scores)).sum((0, 1))
    return gains.with_seeds(np.flatnonzero(cells == cells.max()).tolist())
