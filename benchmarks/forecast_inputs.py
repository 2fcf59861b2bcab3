"""Scores of methods and facts about targets, from which forecasts are fitted.

    python -m benchmarks.forecast_inputs                    # block lora-200-full
    python -m benchmarks.forecast_inputs --block wide       # a study file in benchmarks/grids
    python -m benchmarks.forecast_inputs --cheap            # leaves out the real source models
    python -m benchmarks.forecast_inputs --facts            # facts anew, scores as they are

Writes two small tables beside the other results: ``forecast_scores.parquet`` (block, method,
target, source, score; source ``none`` is "use no source") and ``forecast_targets.parquet`` (block
and one column per fact). Rows of other blocks stay. A target is read as ``rank`` reads it: the
rows that the grid's training saw, no test row.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._data import catalogue
from benchmarks._grids import block
from benchmarks._report import RESULTS
from taskscout import Pool, Workbench
from taskscout.methods import DEFAULT
from taskscout.methods.expression import parse_method
from taskscout.methods.gains import Gains
from taskscout.methods.target_facts import evidence_of, target_facts
from taskscout.studies.predictions import Materials, Predicted, predict
from taskscout.tasks.names import NONE

SCORES = RESULTS / "forecast_scores.parquet"
TARGETS = RESULTS / "forecast_targets.parquet"
#: Methods that cost one embedding of the target or less.
CHEAP = (DEFAULT, "esm-logme", "esm-nleep", "format", "vocabulary", "sentence-embedding",
         "text-embedding", "nearest-example", "size")  # fmt: skip
#: Methods that run every source's model on the target; the models' outputs are shared.
REAL = ("logme", "nleep")
#: Rows of each target that the grid's training saw.
EXAMPLES = 200
Rows = list[dict[str, object]]


def score_rows(block_name: str, gains: Gains, predicted: list[Predicted]) -> Rows:
    """One row per method, target and source that has a score."""
    rows = []
    for each in predicted:
        for i, target in enumerate(gains.targets):
            values = (*each.scores[i], each.none[i])
            for source, score in zip((*gains.sources, NONE), values, strict=True):
                if not np.isnan(score):
                    rows.append({"block": block_name, "method": each.method, "target": target,
                                 "source": source, "score": float(score)})  # fmt: skip
    return rows


def replace_block(path: Path, block_name: str, rows: Rows) -> None:
    """Write a table's rows of one block anew and keep those of the others."""
    kept = pq.read_table(path).to_pylist() if path.is_file() else []
    kept = [r for r in kept if r["block"] != block_name]
    pq.write_table(pa.Table.from_pylist([*kept, *rows]), path, compression="zstd")


def fact_rows(block_name: str, gains: Gains, materials: Materials, bench: Workbench) -> Rows:
    """One row per target: its facts, and the evidence that its stored scores hold."""
    scores = pq.read_table(SCORES).to_pylist()
    method, rows = parse_method(DEFAULT), []
    for name in gains.targets:
        target = materials.target(name)
        if target is None:
            continue
        asked = (block_name, DEFAULT, name)
        known = [r["score"] for r in scores if (r["block"], r["method"], r["target"]) == asked]
        rows.append({"block": block_name, "target": name,
                     "family": materials.catalogue.family(name),
                     **target_facts(target, bench),
                     "evidence": evidence_of(target, method, np.array(known))})  # fmt: skip
        bench.forget(target)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--block", default="lora-200-full")
    parser.add_argument("--cheap", action="store_true", help="without the real source models")
    parser.add_argument("--facts", action="store_true", help="facts alone, scores as they are")
    options = parser.parse_args()
    gains = block(options.block)
    bench = Workbench()
    materials = Materials(catalogue(), Pool.builtin(), default_size=EXAMPLES)
    predicted: list[Predicted] = []
    for methods in () if options.facts else (CHEAP, () if options.cheap else REAL):
        if methods:
            start = time.process_time()
            asked = predict(
                gains,
                methods,
                materials,
                bench,
                progress=lambda *step: print(*step, file=sys.stderr, flush=True),
            )
            print(f"{', '.join(methods)}: {time.process_time() - start:.0f} processor seconds")
            print("\n".join(asked.notes))
            predicted += asked.predicted
            replace_block(SCORES, options.block, score_rows(options.block, gains, predicted))
    replace_block(TARGETS, options.block, fact_rows(options.block, gains, materials, bench))


if __name__ == "__main__":
    main()
