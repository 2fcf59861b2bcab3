"""Do rankings of sources carry over from 200 examples to 1,000, and from LoRA to full fine-tuning?

    python -m benchmarks.settings

Reads those blocks of ``benchmarks/grids/settings.yaml`` that our grid has, and compares the gains
of sources target by target, for the pairs and seeds that both settings have.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks._carry import HEADS, Carried
from benchmarks._grids import GRID, WHERE, block
from benchmarks._report import markdown, publish

#: What is changed against 200 examples by LoRA, and how it is called.
OTHERS = {
    "1,000 examples": {"size": "1000"},
    "full fine-tuning": {"tuning": "full"},
    "full fine-tuning, 1,000 examples": {"tuning": "full", "size": "1000"},
}


def main() -> None:
    """Compare and publish."""
    first = block()
    cells = pd.read_parquet(GRID, columns=["tuning", "size"])
    run = set(zip(cells["tuning"], cells["size"].astype(str), strict=True))
    texts, data = [], {}
    for name, change in OTHERS.items():
        setting = {**WHERE, **change}
        if (setting["tuning"], setting["size"]) not in run:
            continue
        found = Carried.of(first, block("settings", **change))
        best, mean = (f(found.second, 1).mean() for f in (np.nanmax, np.nanmean))
        texts.append(
            f"**{name}**: {len(found.sources)} sources on {len(found.targets)} targets, seeds "
            f"{', '.join(map(str, found.seeds))}; the best source gains {best:+.1f} points, a "
            f"random one {mean:+.1f}. {found.sentences()}\n\n" + markdown(HEADS, found.rows())
        )
        data[name] = found.to_dict()
    text = "The first setting is 200 examples by LoRA.\n\n" + "\n\n".join(texts)
    publish("settings", "Rankings with more examples, and with full fine-tuning", text, data)


if __name__ == "__main__":
    main()
