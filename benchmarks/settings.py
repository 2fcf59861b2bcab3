"""Do rankings of sources carry over from 200 examples to 1,000, and from LoRA to full fine-tuning?

    python -m benchmarks.settings

Reads those blocks of ``benchmarks/grids/settings.yaml`` that our grid has, and of
``full-slower.yaml``, which asks whether it is the rate of full fine-tuning; compares the gains of
sources target by target, for the pairs and seeds that both settings have; and what some methods
choose in each.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks._carry import HEADS, Carried
from benchmarks._data import catalogue
from benchmarks._grids import GRID, WHERE, block
from benchmarks._report import markdown, publish
from benchmarks.study import value
from taskscout import Pool, Workbench
from taskscout.methods import DEFAULT
from taskscout.methods.gains import Gains
from taskscout.studies.comparison import Comparison, compare
from taskscout.studies.comparison_rows import PRIOR, RANDOM
from taskscout.studies.predictions import Materials, predict

FIRST = "200 examples, LoRA"
#: As grids name it.
SLOWER = "dropout=0.0, learning_rate=3e-05, draws=shared"
#: What is changed against 200 examples by LoRA, and how it is called.
OTHERS = {
    "1,000 examples, LoRA": {"size": "1000"},
    "200 examples, full fine-tuning": {"tuning": "full"},
    "1,000 examples, full fine-tuning": {"tuning": "full", "size": "1000"},
    "200 examples, full fine-tuning at 3e-5": {"tuning": "full", "recipe": SLOWER},
}
METHODS = (DEFAULT, "esm-logme", "logme", "nleep", "text-embedding")


def held(gains: Gains, size: str, pool: Pool, bench: Workbench) -> Comparison:
    """What methods choose, given the rows that training saw."""
    materials = Materials(catalogue=catalogue(), pool=pool, default_size=int(size))
    asked = predict(gains, METHODS, materials, bench)
    return compare(gains, asked.predicted, metrics=("pick-gain",), notes=asked.notes)


def main() -> None:
    """Compare and publish."""
    cells = pd.read_parquet(GRID, columns=["tuning", "size", "recipe"]).astype(str)
    run = set(cells.itertuples(index=False, name=None))
    settings = {name: {**WHERE, **change} for name, change in OTHERS.items()}
    grids = {
        name: block("settings", **where)
        for name, where in settings.items()
        if (where["tuning"], where["size"], where["recipe"]) in run
    }
    texts, data = [], {}
    for name, second in grids.items():
        found = Carried.of(block(), second)
        texts.append(
            f"**{name}**: {len(found.sources)} sources on {len(found.targets)} targets, seeds "
            f"{', '.join(map(str, found.seeds))}. {found.sentences()}\n\n"
            + markdown(HEADS, found.rows())
        )
        data[name] = found.to_dict()
    first = block("settings")
    seeds = {s for g in grids.values() for s in g.seed_names}
    first = first.with_seeds([i for i, s in enumerate(first.seed_names) if s in seeds])
    grids = {FIRST: first, **grids}
    pool, bench = Pool.builtin(), Workbench()
    compared = {
        name: held(g, settings.get(name, WHERE)["size"], pool, bench) for name, g in grids.items()
    }
    rows = [
        (
            name,
            f"{g.mean_alone.mean():.1f}",
            f"{np.nanmax(g.points, 0).mean():+.1f}",
            f"{np.nanmean(g.points):+.1f}",
            f"{(g.points[~np.isnan(g.points)] < 0).mean():.0%}",
            *(value(compared[name], m, "pick-gain") for m in (*METHODS, PRIOR, RANDOM)),
        )
        for name, g in grids.items()
    ]
    heads = ("setting", "target alone", "best source", "mean source", "hurt")
    text = (
        "The same sources and targets in each setting, in points. The target's own score, what the "
        "best source and the mean source gain, how many transfers hurt; and what the first pick of "
        "a method gains, which sees the examples that training saw. 95% bootstrap intervals over "
        "targets: with so few targets they are wide.\n\n"
        + markdown((*heads, *METHODS, PRIOR, RANDOM), rows)
        + f"\n\nThe order of the sources against that of {FIRST}:\n\n"
        + "\n\n".join(texts)
    )
    stored = {"carried": data, "rows": {n: [vars(r) for r in c.rows] for n, c in compared.items()}}
    publish("settings", "Rankings with more examples, and with full fine-tuning", text, stored)


if __name__ == "__main__":
    main()
