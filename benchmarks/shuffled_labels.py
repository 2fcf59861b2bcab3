"""How strong is the evidence of real labels, and of the same labels shuffled?

    python -m benchmarks.shuffled_labels

What a ranking asks before it forecasts: does the best source explain the labels better than
nothing does, by :data:`taskscout.methods.forecast.LEAST_EVIDENCE` nats or more?
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from benchmarks._data import catalogue
from benchmarks._grids import STUDIES
from benchmarks._report import markdown, publish
from benchmarks.forecast_inputs import EXAMPLES
from taskscout import Pool, Task, Workbench
from taskscout.methods import DEFAULT
from taskscout.methods.asking import ask, held
from taskscout.methods.expression import parse_method
from taskscout.methods.forecast import LEAST_EVIDENCE
from taskscout.methods.target_facts import evidence_of
from taskscout.pools.shelf import PoolShelf
from taskscout.studies.predictions import Materials
from taskscout.studies.study_file import read_study

SHUFFLES = 5


def shuffled(target: Task, seed: int) -> Task:
    """The target with its labels dealt out anew."""
    table = target.tables["train"]
    order = np.random.default_rng(seed).permutation(table.num_rows)
    column = table.column_names.index("label")
    dealt = table.set_column(column, "label", table["label"].take(pa.array(order)))
    return replace(target, tables={"train": dealt})


def main() -> None:
    pool, bench, method = Pool.builtin(), Workbench(), parse_method(DEFAULT)
    shelf, materials = PoolShelf(pool), Materials(catalogue(), pool, default_size=EXAMPLES)
    method.expect(bench)

    def evidence(target: Task) -> float:
        names = [n for n in held(method, pool.names, shelf) if n != target.name]
        answer = ask(method, target, names, shelf, bench, weighed=0)
        bench.forget(target)
        return evidence_of(target, method, np.append(answer.scores, answer.none))

    real: dict[str, float] = {}
    dealt: dict[str, list[float]] = {}
    for name in read_study(STUDIES / "wide.yaml").targets:
        target = materials.target(name)
        assert target is not None
        real[name] = evidence(target)
        dealt[name] = [evidence(shuffled(target, seed)) for seed in range(SHUFFLES)]
    values, null = np.array(list(real.values())), np.concatenate(list(dealt.values()))
    rows = [
        (
            f"{least:.0f}",
            f"{(values >= least).sum()} of {len(values)}",
            f"{(null >= least).mean():.0%}",
        )
        for least in (1, 2, LEAST_EVIDENCE, 4, 5)
    ]
    weak = ", ".join(f"{n} {v:.1f}" for n, v in sorted(real.items()) if v < LEAST_EVIDENCE)
    text = (
        f"The {len(values)} targets of the wide grid, {EXAMPLES} examples each, and each with its "
        f"labels shuffled {SHUFFLES} times. Evidence: nats by which the best of the pool's maps "
        f"explains the labels better than nothing does. A ranking asks for {LEAST_EVIDENCE:.0f}; "
        f"below that it forecasts nothing and advises to train directly.\n\n"
        + markdown(("nats", "real labels with as much", "shuffled labels with as much"), rows)
        + f"\n\nReal targets with less than {LEAST_EVIDENCE:.0f}: {weak}."
    )
    publish("shuffled_labels", "Labels that no text explains", text,
            {"real": real, "shuffled": dealt, "least": LEAST_EVIDENCE})  # fmt: skip


if __name__ == "__main__":
    main()
