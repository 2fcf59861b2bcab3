"""Calibrations that lie beside a pool: what turns its methods' scores into points.

They are files ``calibrations/NAME.safetensors`` in a pool's folder. Those of the built-in pool
serve every pool of its encoder: sources that their grid did not have are forecast with less
certainty.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from taskscout.methods.calibration import Calibration
from taskscout.pools.builtin import builtin_folder
from taskscout.pools.pool import Pool

FOLDER = "calibrations"


def calibrations_of(pool: Pool) -> list[Calibration]:
    """Read those of a pool, then those of the built-in pool.

    Raises
    ------
    DataError
        If a file is damaged.
    """
    folders = dict.fromkeys((Path(pool.folder).resolve(), builtin_folder().resolve()))
    paths = [p for f in folders for p in sorted((f / FOLDER).glob("*.safetensors"))]
    return [Calibration.load(p) for p in paths]


def best_fitting(
    calibrations: Sequence[Calibration],
    *,
    encoder: str,
    kind: str,
    rows: int,
    methods: Collection[str],
) -> Calibration | None:
    """Choose the calibration that belongs to a ranking; None where none does.

    Parameters
    ----------
    calibrations
        To choose from; of equals the first.
    encoder
        Fingerprint of the encoder.
    kind, rows
        Of the target: one of the kinds that were measured; the size that is nearest by ratio.
    methods
        Whose scores there are. One that reads several of them goes before one that reads fewer,
        and one that reads none serves where there are none.
    """
    fitting = [
        c
        for c in calibrations
        if c.setting.get("encoder") == encoder
        and kind in c.setting.get("kinds", ())
        and set(c.methods) <= set(methods)
        and (c.methods or not methods)
    ]
    return min(
        fitting,
        key=lambda c: (abs(math.log(max(rows, 1) / max(float(c.setting.get("size", 1)), 1))),
                       -len(c.methods)),
        default=None,
    )  # fmt: skip
