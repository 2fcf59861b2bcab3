"""By which recipe does a target of 200 examples stop improving? For the wide grid.

    python -m benchmarks.grid_recipe

Each recipe tunes the same targets, with and without a source, and is scored on validation rows of
the catalogue that no grid reads. Runs are kept as they come; what is there is not run again.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace

import numpy as np

from benchmarks._data import catalogue
from benchmarks._grids import STUDIES
from benchmarks._report import RESULTS, markdown, publish
from taskscout.models.objectives import predict
from taskscout.models.recipe import Recipe
from taskscout.models.tuning import tune
from taskscout.studies.grid import NONE, Plan, _encoder
from taskscout.studies.study_file import read_study
from taskscout.transfer.sources import origin_of

RUNS = RESULTS / "grid_recipe_runs.json"
#: Batch size, steps and rate of body and head; the first is that of the grid before.
RECIPES = [
    (32, 49, 2e-3), (16, 104, 2e-3), (16, 104, 1e-3), (16, 208, 1e-3),
    (8, 125, 1e-3), (8, 200, 1e-3), (8, 250, 1e-3), (8, 400, 1e-3),
]  # fmt: skip
PAIRS = [
    (NONE, "rotten_tomatoes"), (NONE, "stsb"), (NONE, "cola"), (NONE, "tweet_emotion"),
    ("mnli", "mrpc"), ("clickbait", "stsb"),
]  # fmt: skip
VALIDATION_ROWS = 500


def main() -> None:
    runs = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    plan = Plan(read_study(STUDIES / "lora-200-full.yaml"), catalogue=catalogue())
    encoder = _encoder(plan.study.encoders[0])
    for source, target in PAIRS:
        for batch_size, steps, rate in RECIPES:
            key = f"{source}>{target}>{batch_size}x{steps}@{rate:g}"
            if key in runs:
                continue
            task = plan.target(target, 200)
            held = catalogue().task(target).sample(VALIDATION_ROWS, split="validation")
            task = replace(task, tables={**task.tables, "validation": held.tables["validation"]})
            body = None
            if source != NONE:
                model = origin_of(source, plan.pool, encoder).model().model
                body = copy.deepcopy(model.body)
            recipe = Recipe(
                tokens=10**9, examples=10**9, dropout=0.0, batch_size=batch_size,
                least_steps=steps, learning_rate=rate, head_learning_rate=rate,
            )  # fmt: skip
            begun = time.process_time()
            tuned = tune(task, encoder, recipe, body=body, evaluate=None)
            seconds = time.process_time() - begun
            scores = predict(tuned, task, encoder, "validation")[1]
            runs[key] = {
                "score": round(scores["score"], 4),
                "log_likelihood": round(scores["log_likelihood"], 3),
                "seconds": round(seconds, 1),
            }
            RUNS.write_text(json.dumps(runs, indent=1) + "\n")
            print(key, runs[key], flush=True)
    table = []
    for batch_size, steps, rate in RECIPES:
        keys = [f"{s}>{t}>{batch_size}x{steps}@{rate:g}" for s, t in PAIRS]
        cells = [runs[key] for key in keys]
        scores = [f"{100 * c['score']:.1f}" for c in cells]
        mean = 100 * np.mean([c["score"] for c in cells])
        seconds = np.mean([c["seconds"] for c in cells])
        table.append((batch_size, steps, f"{rate:g}", *scores, f"{mean:.1f}", f"{seconds:.0f}"))
    names = [t if s == NONE else f"{t} after {s}" for s, t in PAIRS]
    publish(
        "grid_recipe",
        "When does a target of 200 examples stop improving?",
        markdown(("batch", "steps", "rate", *names, "mean", "processor s"), table)
        + "\n\nScore in points on validation rows that no grid reads, one seed. The first recipe "
        "is that of the first grid, the wide grid takes batches of 8 and 200 steps at 1e-3.",
        {"runs": runs},
    )


if __name__ == "__main__":
    main()
