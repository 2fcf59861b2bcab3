r"""Methods held against our own grid of real transfers, and what the papers claim beside it.

    python -m benchmarks.study               # methods that tune nothing on the target
    python -m benchmarks.study --block lora-200-full    # more sources and targets

The grid is ``benchmarks/results/grid.parquet``, made by ``taskscout grid run`` from the study
files in ``benchmarks/grids``. The first and the fifth paper tune the encoder on every source and
target (two hours on two processors; both commands go on where they were stopped):

    taskscout pool describe --out described --catalogue $TASKSCOUT_DATA --processes 2 \
        --method bitfit,prefix,task-embedding \
        $(python -m benchmarks.study --sources | sed 's/^/--only /')
    python -m benchmarks.study --tune --pool described
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks._data import catalogue
from benchmarks._grids import BLOCK, WHERE, block
from benchmarks._peers import load
from benchmarks._report import markdown, publish
from taskscout import Pool, Task, Workbench
from taskscout.engines import processes_available, run
from taskscout.methods import DEFAULT
from taskscout.methods.expression import parse_method
from taskscout.methods.gains import Gains
from taskscout.methods.method import get_method, method_names
from taskscout.models.cache import NoCache
from taskscout.models.recipe import Recipe, Tuning
from taskscout.reports.studies import narrower_tables
from taskscout.studies.comparison import Comparison, compare
from taskscout.studies.comparison_rows import ORACLE, PRIOR, RANDOM
from taskscout.studies.predictions import Materials, Predicted, predict

METRICS = (
    "regret@1", "regret@3", "regret@5", "spearman", "ndcg-rank", "ndcg-percent", "pick-gain",
    "hit@5",
)  # fmt: skip
#: Divergences of the second paper, whose pruning is compared.
DIVERGENCES = ("terms-", "topics-", "embeddings-")
#: What the first paper compares, which all read one prompt per task.
PROMPTS = (
    "prompt-mean", "prompt-flatten", "prompt-unigram", "prompt-bigram", "max", "max-reverse",
    "max-symmetric",
)  # fmt: skip
#: Fractions of a target's training after which the fifth paper reads its parameters.
EARLY = (0.1, 0.3)
TUPATE = ("prompt-mean-relative", "prefix-relative", "bitfit-relative", "lora-relative",
          "lora-product")  # fmt: skip
FISHER = ("task-embedding", "task-embedding-outputs")
#: Tunings that these methods read of a target, and which of them at early checkpoints too.
TUNINGS: dict[Tuning, tuple[float, ...]] = {
    "full": (),  # 90 MB each: with checkpoints they would drive the others from the cache
    "lora": EARLY, "prompt": EARLY, "bitfit": EARLY, "p-tuning-v2": EARLY,
}  # fmt: skip
#: Targets that are scored without a cache, to time it.
TIMED = 5
#: Maps choose ten sources, whose real models then order them; what ``rank --refine 10`` does.
REFINED = (f"{DEFAULT}>logme", "esm-logme>logme")
_OURS = "compat=true, centring=both, unit_norm=true"
#: Variants of one method, which have to be asked for one by one. The published formula is as
#: released: features are neither centred nor scaled.
VARIANTS = {
    "esm-logme, published formula": "esm-logme(compat=true)",
    "logme, published formula": "logme(compat=true)",
    "esm-logme, published formula on our features": f"esm-logme({_OURS})",
    "logme, published formula on our features": f"logme({_OURS})",
    "esm-logme, not centred": "esm-logme(centring=none, unit_norm=false)",
    "logme, not centred": "logme(centring=none, unit_norm=false)",
}


def value(c: Comparison, method: str, metric: str) -> str:
    """A metric of a method with its interval, and its targets where they are fewer than others'."""
    row = c.row(method, metric)
    if math.isnan(row.value):
        return "–"  # the honest oracle chooses anew under each seed and has one figure alone
    fewer = "" if method in c.methods else f" ({row.targets} targets)"
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]{fewer}"


def percent(share: float) -> str:
    """Whole percent, without a negative nought."""
    return f"{round(share)}%"


def table(
    c: Comparison, methods: Sequence[str], metrics: Sequence[str], by: dict[str, Predicted]
) -> str:
    """Quality with intervals, cost, and the number of targets."""
    rows = []
    for m in methods:
        p = by.get(m)
        seconds = "–" if p is None or math.isnan(p.seconds) else f"{p.seconds:.2f}"
        size = "–" if p is None or math.isnan(p.bytes_per_source) else f"{p.bytes_per_source:,.0f}"
        targets = max(c.row(m, x).targets for x in metrics)
        rows.append((m, *(value(c, m, x) for x in metrics), seconds, size, targets))
    return markdown(("method", *metrics, "seconds a target", "bytes a source", "targets"), rows)


def tables(c: Comparison, metrics: Sequence[str], by: dict[str, Predicted]) -> str:
    """The table of all targets, and one for each set of methods that serve fewer."""
    parts = [table(c, c.methods, metrics, by)]
    for narrower, methods in narrower_tables(c):
        parts.append(
            f"On {len(narrower.gains.targets)} targets, all that these methods serve, with the "
            "controls and the best method of the table above on the same targets:"
        )
        parts.append(table(narrower, methods, metrics, by))
    return "\n\n".join(parts)


def reachable(c: Comparison) -> str:
    """What choosing can bring: the honest oracle, where there are seeds to choose by."""
    if ORACLE not in c.methods:
        return ""
    return (
        "Choosing each target's source by all seeds but one gains "
        f"{value(c, ORACLE, 'pick-gain')} points under the seed left out (the honest oracle). "
    )


def seconds_without_cache(gains: Gains, materials: Materials) -> dict[str, float]:
    """Median seconds to score all sources for a target whose embeddings are at hand."""
    assert materials.pool is not None
    spent: dict[str, list[float]] = {"esm-logme": [], "logme": []}
    for name in gains.targets[:TIMED]:
        target = materials.target(name)
        assert target is not None
        for method in map(parse_method, spent):
            bench = Workbench(cache=NoCache())
            bench.embeddings(target)
            sources = [materials.pool.description(s, method.key) for s in gains.sources]
            begun = time.perf_counter()
            method.score(target, sources, bench)
            spent[method.name].append(time.perf_counter() - begun)
    return {name: float(np.median(found)) for name, found in spent.items()}


def order_of(c: Comparison, methods: Sequence[str], metric: str) -> str:
    """The methods from best to worst, with the metric's value."""
    found = sorted(((c.row(m, metric).value, m) for m in methods), reverse=True)
    return ", ".join(f"{m} {value:.2f}" for value, m in found)


def schulte(c: Comparison, by: dict[str, Predicted], seconds: dict[str, float]) -> str:
    """Maps in the place of source models."""
    esm, real = by["esm-logme"], by["logme"]
    rows = [
        (m, value(c, m, "regret@5"), value(c, m, "pick-gain"), value(c, m, "spearman"))
        for m in (DEFAULT, "esm-logme", "logme", *VARIANTS, PRIOR, RANDOM)
    ]
    adapter = 22.7e6 * 4  # MiniLM in float32, which the paper compares with
    return (
        "**Schulte et al. 2024**: space maps select ten times faster and 278 times smaller than "
        f"source models, at regret@5 2.95. Here: {seconds['logme'] / seconds['esm-logme']:.0f} "
        "times faster than one forward pass of every source model "
        f"({seconds['esm-logme']:.2f} s against {seconds['logme']:.0f} s a target whose embeddings "
        f"are at hand, nothing else cached; medians of {TIMED}), "
        f"{adapter / esm.bytes_per_source:.0f} times smaller than a float32 MiniLM and "
        f"{real.bytes_per_source / esm.bytes_per_source:.1f} times smaller than our adapters. A "
        "map is one linear change of the last layer, learnt from 1,000 texts: by how much `logme` "
        f"chooses better than `esm-logme` is what that leaves out. `{DEFAULT}`, whose maps read "
        f"the middle layer too, takes {by[DEFAULT].bytes_per_source:,.0f} bytes a source, "
        f"1/{adapter / by[DEFAULT].bytes_per_source:,.0f} of the model.\n\n"
        + markdown(("method", "regret@5", "pick-gain", "spearman"), rows)
    )


def pugantsov(c: Comparison) -> str:
    """Pairs pruned by divergence."""
    names = [m for m in c.pruning if m.startswith(DIVERGENCES)]
    saved = {m: (c.pruning[m].saving(0.0), c.pruning[m].saving(1.0)) for m in names}
    names.sort(key=lambda m: saved[m], reverse=True)
    rows = [(m, *map(percent, saved[m])) for m in names[:8]]
    rows += [
        (m, percent(c.pruning[m].saving(0.0)), percent(c.pruning[m].saving(1.0)))
        for m in (DEFAULT, "esm-logme", "logme", RANDOM, PRIOR)
        if m in c.pruning
    ]
    return (
        "**Pugantsov & McCreadie 2023**: pruning pairs by divergence saves 40% of the runtime "
        "and still finds the best pair. Here, over whole targets: the largest share of the sources "
        "that can be left out, the least similar first, while the best source of *every* target "
        f"stays, or the mean best score stays within 1%. The best eight of {len(names)} "
        "divergences, chosen after the fact, so these are upper bounds; a share that holds for "
        "these targets need not hold for the next.\n\n"
        + markdown(("method", "saved at the same best", "saved within 1%"), rows)
    )


def lin(c: Comparison) -> str:
    """Token matching against averaged prompts."""
    names = (*PROMPTS, "text-embedding", "size", RANDOM, PRIOR)
    rows = [
        (m, *(value(c, m, x) for x in ("ndcg-percent", "regret@3", "spearman")))
        for m in names
        if m in c.methods
    ]
    return (
        "**Lin et al. 2024**: MAX, the maximum inner product of prompt tokens, has the best nDCG "
        "(82.5%); embeddings of tuned prompts beat size and text embeddings by 2.59 to 3.96 "
        "points. One prompt of 100 tokens per task and one shared initialisation; the paper's nDCG "
        "has 2 to the score in percent as its gain. By it, here: "
        f"{order_of(c, ('max', 'prompt-mean', 'text-embedding', 'size', RANDOM), 'ndcg-percent')}; "
        "the intervals overlap.\n\n" + markdown(("method", "nDCG", "regret@3", "spearman"), rows)
    )


def xu(c: Comparison) -> str:
    """Tuned parameters at early checkpoints against Fisher task embeddings."""
    rows = []
    for m in (*TUPATE, *FISHER):
        early = [value(c, at(m, f), "spearman") if m in TUPATE else "–" for f in EARLY]
        rows.append((m, *early, value(c, m, "spearman"), value(c, m, "regret@3")))
    heads = [f"spearman at {f:.0%}" for f in EARLY]
    return (
        "**Zhou et al. 2022**: parameters of efficient tunings predict transfer better than Fisher "
        "TaskEmb, and after a tenth of the training already. The target's parameters are read "
        "after 10%, 30% and 100% of its tuning. By Spearman at the end, here: "
        f"{order_of(c, (*TUPATE, *FISHER), 'spearman')}. At 200 examples a tenth of the training "
        "is five steps.\n\n" + markdown(("method", *heads, "at 100%", "regret@3"), rows)
    )


def at(method: str, fraction: float) -> str:
    """A method that reads the target's parameters early."""
    return f"{method}(at={fraction:g})"


def one_seed(c: Comparison) -> str:
    """How results move with seeds."""
    rows = []
    for m in (DEFAULT, "esm-logme", "logme", PRIOR, "nearest-example"):
        seeds = c.by_seed[m]["regret@3"]
        rows.append((m, value(c, m, "regret@3"), ", ".join(f"{s:.2f}" for s in seeds)))
    return (
        "**Seeds**: regret@3 against the mean of all seeds, and against each seed alone.\n\n"
        + markdown(("method", "all seeds", "each seed alone"), rows)
    )


@dataclass(frozen=True)
class TuneJob:
    """A task to be tuned, so that the result is in the cache."""

    task: Task
    recipe: Recipe


def tune_one(job: TuneJob) -> None:
    """Tune a task, unless that is done."""
    Workbench().tuned(job.task, job.recipe)


def tune_all(gains: Gains, materials: Materials) -> None:
    """Tune the targets as the methods of the first and fifth papers read them."""
    jobs = []
    for tuning, checkpoints in TUNINGS.items():
        recipe = replace(Recipe().with_tuning(tuning), checkpoints=checkpoints)
        for name in gains.targets:
            task = materials.target(name)
            assert task is not None
            jobs.append(TuneJob(task, recipe))
    for done, (job, _) in enumerate(run(tune_one, jobs, processes=processes_available()), 1):
        print(f"{done}/{len(jobs)} {job.task.name}, {job.recipe.tuning}", flush=True)


def main() -> None:
    """Run and publish."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--pool", default="builtin")
    parser.add_argument("--block", default=BLOCK, help="a study file of benchmarks/grids")
    parser.add_argument("--sources", action="store_true", help="name them, one to a line")
    options = parser.parse_args()
    gains = block(options.block)
    if options.sources:
        print(*gains.sources, sep="\n")
        return
    data = catalogue()
    pool = Pool.builtin() if options.pool == "builtin" else Pool.open(options.pool)
    bench = Workbench()
    materials = Materials(
        catalogue=data, pool=pool, sizes={}, default_size=200, names={}, tune=options.tune
    )
    methods = [m for m in method_names() if not get_method(m).composed]
    methods = [m for m in (*methods, *REFINED) if parse_method(m).cost != "tuning"]
    if options.tune:
        tune_all(gains, materials)
        early = [at(m, f) for m in TUPATE for f in EARLY]
        methods += [*PROMPTS, *TUPATE, *FISHER, *early]
    asked = predict(gains, methods, materials, bench)
    named = {text: name for name, text in VARIANTS.items()}
    variants = predict(gains, list(named), materials, bench).predicted
    predicted = list(asked.predicted)
    for text, one in zip(named, variants, strict=True):
        predicted.append(replace(one, method=named[text]))
    by = {p.method: p for p in predicted}
    c = compare(gains, predicted, metrics=METRICS, title="Our grid", notes=asked.notes)
    seconds = seconds_without_cache(gains, materials)
    cells = int((~np.isnan(gains.points)).sum())
    seeds = len(gains.seed_names)
    hurt = float((gains.points[~np.isnan(gains.points)] < 0).mean())
    head = (
        f"{len(gains.sources)} sources on {len(gains.targets)} targets of 200 training examples, "
        f"{cells} pairs, {seeds} seed{'s' * (seeds > 1)}: a LoRA source of the built-in pool is "
        f"merged, then the target is tuned by LoRA. {reachable(c)}A random source gains "
        f"{c.row(RANDOM, 'pick-gain').value:+.1f}; {hurt:.0%} of the transfers hurt. Regret is in "
        "percent of the best score, `+none` counts training on the target alone among the "
        "candidates; `pick-gain` is the gain of the first pick in points. 95% bootstrap intervals "
        "over targets and seeds. Seconds are those of scoring; forward passes of source models "
        f"({seconds['logme']:.0f} s a target) are kept in the cache and count only where a method "
        f"is the first to ask for them, tuning not at all. At the end, {load()}.\n\n"
    )
    shown = ["regret@1", "regret@3", "regret@5", "spearman", "pick-gain"]
    text = head + tables(c, shown, by)
    stored = {
        "settings": WHERE,
        "block": options.block,
        "cells": cells,
        "rows": [vars(r) for r in c.rows],
        "narrower": [
            {"targets": t.gains.targets, "rows": [vars(r) for r in t.rows]} for t in c.narrower
        ],
        "pruning": {m: p.to_dict() for m, p in c.pruning.items()},
    }
    if options.block != BLOCK:
        title = f"{len(gains.sources)} sources on {len(gains.targets)} targets"
        publish(
            f"study-{options.block}", f"Methods against real transfer: {title}", text, stored,
            command=f"study --block {options.block}",
        )  # fmt: skip
        return
    text += "\n\n### What the papers claim, and what is measured here\n\n"
    claims = [schulte(c, by, seconds), pugantsov(c)]
    if options.tune:
        claims += [lin(c), xu(c)]
    text += "\n\n".join([*claims, one_seed(c)])
    publish("study", "Methods against real transfer", text, stored)


if __name__ == "__main__":
    main()
