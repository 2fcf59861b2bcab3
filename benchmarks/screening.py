"""Screening: does the short list by principal components hold the sources that rank first?

Real targets, 1,000 rows each, against the built-in pool. The exact order is by the evidence of all
dimensions; the short list has the quarter of the sources that is best by so many components.
"""

from __future__ import annotations

import time

import numpy as np
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from benchmarks._data import catalogue
from benchmarks._peers import load
from benchmarks._report import markdown, publish
from taskscout import Pool, Workbench
from taskscout.methods.evidence import MapEvidence
from taskscout.methods.feature_score import label_matrix
from taskscout.methods.statistics import target_statistics

TARGETS = (
    "rotten_tomatoes", "tweet_emotion", "rte", "sst5", "stsb", "tweet_hate", "cola", "mrpc",
)  # fmt: skip
COMPONENTS = (32, 64, 128, 256)
REPEATS = 5


def main() -> None:
    """Run and publish."""
    data, pool, bench = catalogue(), Pool.builtin(), Workbench()
    found = [pool.description(n, "space-map") for n in pool.names]
    maps = (
        np.array([d.header["scale"] for d in found]),
        *(np.stack([d.arrays[a] for d in found]) for a in ("inner", "outer", "offset")),
    )
    stored: dict[str, dict[str, dict[str, float]]] = {}
    shortlist = -(-len(found) // 4)
    for name in TARGETS:
        task = data.task(name).for_choosing(1000)
        statistics = target_statistics(task, label_matrix(task), bench)
        results = {}
        for components in (None, *COMPONENTS):
            scorer = MapEvidence(statistics, components=components)
            scorer.prepare()
            spent = []
            with threadpool_limits(1):
                for _ in range(REPEATS):
                    begun = time.process_time()
                    scores = scorer(*maps)
                    spent.append(time.process_time() - begun)
            results[components] = scores, float(np.median(spent)) / len(found)
        exact = results[None][0]
        best = np.argsort(-exact)
        stored[name] = {"exact": {"seconds": results[None][1]}}
        for components in COMPONENTS:
            scores, seconds = results[components]
            short = set(np.argsort(-scores)[:shortlist].tolist())
            stored[name][str(components)] = {
                "seconds": seconds,
                "spearman": float(spearmanr(scores, exact)[0]),
                "first": float(best[0] in short),
                "ten": len(short & set(best[:10].tolist())) / 10,
            }
    rows = []
    seconds = {k: np.mean([s[k]["seconds"] for s in stored.values()]) for k in stored[TARGETS[0]]}
    for components in map(str, COMPONENTS):
        at = [s[components] for s in stored.values()]
        rows.append(
            (components, f"{np.mean([a['spearman'] for a in at]):.3f}",
             f"{min(a['spearman'] for a in at):.3f}", f"{np.mean([a['first'] for a in at]):.0%}",
             f"{np.mean([a['ten'] for a in at]):.0%}", f"{min(a['ten'] for a in at):.0%}",
             f"{1000 * seconds[components]:.2f}",
             f"{seconds['exact'] / (seconds[components] + seconds['exact'] / 4):.1f}×")
        )  # fmt: skip
    text = (
        f"{len(TARGETS)} real targets ({', '.join(TARGETS)}), 1,000 rows each, {len(found)} "
        f"sources, short list of {shortlist}. *recall*: share of the exact ten best that the short "
        "list holds, mean and worst target. Scoring a source exactly takes "
        f"{1000 * seconds['exact']:.2f} processor ms here; *faster* counts the short list's exact "
        f"scores too. Meanwhile {load()}.\n\n"
        + markdown(
            ("components", "Spearman", "worst", "first is on it", "recall", "worst",
             "ms per source", "faster"),
            rows,
        )
    )  # fmt: skip
    publish("screening", "Screening by principal components", text, {"targets": stored})


if __name__ == "__main__":
    main()
