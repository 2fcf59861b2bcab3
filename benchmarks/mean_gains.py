"""What sources have gained on average over our grid's targets: ``pool build --top`` goes by it.

    python -m benchmarks.mean_gains

Writes ``mean_gains.json`` beside the built-in pool, from the block of the grid that has most
sources. It knows no target: a source's gain is the mean over the targets that it was tried on.
"""

from __future__ import annotations

import json

from benchmarks._grids import block
from taskscout.files import write_atomically
from taskscout.methods.gains import mean_of_known
from taskscout.pools import Pool
from taskscout.pools.builtin import builtin_folder


def mean_gains() -> dict[str, float]:
    """Mean gain in points by source of the built-in pool, best first."""
    gains, pool = block("lora-200-full"), Pool.builtin()
    means = dict(zip(gains.sources, mean_of_known(gains.points).tolist(), strict=True))
    ranked = sorted(means, key=lambda name: (-means[name], name))
    return {name: round(means[name], 2) for name in ranked if name in pool}


if __name__ == "__main__":
    text = json.dumps(mean_gains(), indent=1) + "\n"
    write_atomically(builtin_folder() / "mean_gains.json", text.encode())
