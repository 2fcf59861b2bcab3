"""Does a source help a target of 200 examples? Sequential transfer from the built-in pool.

Each target is trained with and without its source, same seeds, same recipe. Runs are kept as they
come, so a benchmark that is stopped goes on. The pairs were chosen before any was run: a source of
the pool whose data are large, and a target of the same family that shares no texts with it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks._data import catalogue
from benchmarks._report import RESULTS, markdown, publish
from taskscout import Encoder, Pool, Workbench
from taskscout.models.cache import NoCache
from taskscout.models.recipe import Recipe
from taskscout.tasks import Task
from taskscout.transfer.comparison import compare_over_seeds, paired_interval
from taskscout.transfer.sources import origin_of
from taskscout.transfer.strategies import transfer

#: Short texts first: they cost least.
PAIRS = (
    ("clinc150", "hwu64"),
    ("go_emotions", "tweet_emotion"),
    ("tweet_offensive", "tweet_hate"),
    ("tweet_sentiment", "financial_phrasebank"),
    ("qqp", "mrpc"),
    ("mnli", "scitail"),
    ("snli", "rte"),
    ("sst2", "amazon_kitchen"),
)
SEEDS = (0, 1, 2)
COLUMNS = ("none", "with")
EXAMPLES, TEST_ROWS = 200, 500


def target_of(name: str) -> Task:
    """200 training examples and at most 500 test rows, the same for every seed."""
    task = catalogue().task(name)
    task = replace(task, tables={s: task.tables[s] for s in ("train", "test")})
    return task.sample(EXAMPLES).sample(TEST_ROWS, split="test")


def main() -> None:
    """Run what is missing and publish."""
    kept = RESULTS / "transfer_runs.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    pool, encoder = Pool.builtin(), Encoder()
    recipe = Recipe(tokens=10**9)
    for source, target in PAIRS:
        key = f"{source} > {target}"
        if key in found:
            continue
        comparison = compare_over_seeds(
            target_of(target),
            [origin_of(source, pool, encoder)],
            Workbench(encoder, cache=NoCache()),
            recipe=recipe,
            seeds=SEEDS,
        )
        found[key] = {
            **comparison.to_dict(),
            "seconds": float(np.mean([t.seconds for t in comparison.transfers])),
        }
        kept.write_text(json.dumps(found, indent=1) + "\n")
        print(key, comparison.verdict, flush=True)
    for source, target in PAIRS:
        run = found[f"{source} > {target}"]
        if "merged" not in run:
            origin = origin_of(source, pool, encoder)
            run["merged"] = [
                transfer(
                    target_of(target), [origin], Workbench(encoder, cache=NoCache()),
                    recipe=recipe, seed=seed, merge=True,
                ).scores["score"]
                for seed in SEEDS
            ]  # fmt: skip
            kept.write_text(json.dumps(found, indent=1) + "\n")
    rows = []
    for source, target in PAIRS:
        run = found[f"{source} > {target}"]
        low, high = (100 * x for x in run["interval"])
        rows.append(
            (
                source, target,
                *(f"{100 * run[k]['mean']:.1f} ± {100 * run[k]['sd']:.1f}" for k in COLUMNS),
                f"{100 * run['difference']:+.1f}", f"{low:+.1f} to {high:+.1f}",
                {"gain": "helps", "loss": "hurts"}.get(run["outcome"], "within noise"),
                f"{100 * (np.mean(run['merged']) - run['none']['mean']):+.1f}",
            )
        )  # fmt: skip
    gains = np.array([100 * found[f"{s} > {t}"]["difference"] for s, t in PAIRS])
    low, high = paired_interval(gains)
    wins = int((gains > 0).sum())
    runs = [found[f"{s} > {t}"] for s, t in PAIRS]
    merged = np.array([100 * (np.mean(r["merged"]) - r["none"]["mean"]) for r in runs])
    text = (
        f"Sequential transfer by LoRA from the built-in pool into {EXAMPLES} training examples of "
        f"the target, {len(SEEDS)} seeds, at most {TEST_ROWS:,} test rows; score (mean of accuracy "
        "and macro-F1) in points, ± standard deviation over seeds. The interval (95%) resamples "
        "seeds and test rows. A source was tuned on at most 1,500 of its examples when the pool "
        "was built; its adapter is carried on.\n\n"
        + markdown(
            ("source", "target", "target alone", "through the source", "difference", "interval",
             "verdict", "difference if merged"), rows,
        )
        + f"\n\nOn average over the {len(PAIRS)} pairs {gains.mean():+.1f} points "
        f"({low:+.1f} to {high:+.1f} over pairs); {wins} gain, {len(PAIRS) - wins} lose. With the "
        "source's adapter merged into the encoder and a fresh one for the target (`--merge`, and "
        f"what grids do) {merged.mean():+.1f}."
    )  # fmt: skip
    publish("transfer", "Sequential transfer into 200 examples", text, {"runs": found}, "peft")


if __name__ == "__main__":
    main()
