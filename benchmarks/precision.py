"""What bfloat16 changes: embeddings and rankings against float32, on real tasks."""

from __future__ import annotations

import time

import numpy as np
from scipy.stats import spearmanr

from benchmarks._data import catalogue
from benchmarks._report import markdown, publish
from taskscout import Encoder, Pool, Workbench, rank
from taskscout.methods import DEFAULT
from taskscout.models.cache import NoCache

TARGETS = ("rotten_tomatoes", "tweet_emotion", "rte", "hwu64")


def main() -> None:
    """Run and publish."""
    data, pool = catalogue(), Pool.builtin()
    rows, stored = [], {}
    for name in TARGETS:
        task = data.task(name).sample(300)
        scores, embeddings, seconds = {}, {}, {}
        for precision in ("fp32", "bf16"):
            bench = Workbench(Encoder(precision=precision), cache=NoCache())
            bench.encoder.warm_up()
            start = time.perf_counter()
            embeddings[precision] = bench.embeddings(task)
            seconds[precision] = time.perf_counter() - start
            ranking = rank(task, pool, bench=bench)
            scores[precision] = {r.name: r.score for r in ranking.sources}
        a, b = (embeddings[p].astype(np.float64) for p in ("fp32", "bf16"))
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        names = list(scores["fp32"])
        x, y = ([scores[p][n] for n in names] for p in ("fp32", "bf16"))
        top = [set(sorted(names, key=scores[p].get, reverse=True)[:10]) for p in scores]
        stored[name] = {
            "least_cosine": float(cosine.min()),
            "largest_score_difference": float(np.abs(np.subtract(x, y)).max()),
            "spread_of_scores": float(np.ptp(x)),
            "spearman": float(spearmanr(x, y)[0]),
            "top10": len(top[0] & top[1]),
            "speedup": seconds["fp32"] / seconds["bf16"],
        }
        s = stored[name]
        rows.append(
            (name, f"{s['least_cosine']:.5f}", f"{s['largest_score_difference']:.1e}",
             f"{s['spread_of_scores']:.1e}", f"{s['spearman']:.4f}", f"{s['top10']} of 10",
             f"{s['speedup']:.1f}×")
        )  # fmt: skip
    columns = ("target", "least cosine", "largest score difference", "spread of scores",
               "Spearman", "same first ten", "faster")  # fmt: skip
    text = (
        "bfloat16 autocast against float32: the least cosine between the two embeddings of a text, "
        f"the largest difference of a `{DEFAULT}` score beside the spread between best and worst "
        "source, the rank correlation of the two orders, and the time ratio of embedding (one run; "
        "an indication only). 300 texts each.\n\n" + markdown(columns, rows)
    )
    publish("precision", "bfloat16 against float32", text, stored)


if __name__ == "__main__":
    main()
