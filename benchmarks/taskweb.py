"""TaskWeb's published table reproduced, and our methods in it.

The grid is TaskWeb's (Kim et al. 2023): T5-large, 22 sources, 21 targets of 1,000 examples, 8
seeds. Its four published methods and two references are scored from the published files; our
methods from the task texts of the labelled datasets, in which 21 of the 22 tasks go by the same
name and squad_v2 is a sample of 2,000 rows.

    python -m benchmarks.taskweb --published FOLDER

``FOLDER`` holds ``taskweb_grid.parquet`` and ``taskweb_predictions.csv``; by default
``../shared/published``. ``--tune`` also tunes the sources that the built-in pool lacks, for the
methods that read space maps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks._data import catalogue
from benchmarks._report import ROOT, markdown, publish
from taskscout import Pool, Workbench
from taskscout.methods import DEFAULT
from taskscout.reports.studies import digits_of, interval, number, probability, reach
from taskscout.studies.comparison import Comparison, compare
from taskscout.studies.comparison_rows import CONTROLS, ORACLE, PRIOR, RANDOM
from taskscout.studies.metrics import get_metric
from taskscout.studies.predictions import Materials, Predicted, predict
from taskscout.studies.published import TASKWEB_COLUMNS, TaskWeb, read_taskweb, taskweb_table
from taskscout.tasks.kinds import SEQUENCE_KINDS

NAMES = {"squad_v2": "squad_v2_sample"}
#: Methods that read texts or cards, of every kind of task.
TEXTS = (
    "taskshop(retrieval-of-experts)",
    "taskshop(nearest-example)",
    "taskshop(vocabulary)",
    "retrieval-of-experts",
    "nearest-example",
    "sentence-embedding",
    "text-embedding",
    "embeddings-frechet",
    "embeddings-a-distance",
    "vocabulary",
    "terms-jensen-shannon",
    "topics-jensen-shannon",
    "format",
    "size",
)
#: Methods that need labels of the target and a tuned source: classification and regression.
LABELS = (DEFAULT, "esm-logme", "esm-linear-probe", "esm-knn")
#: Rows of targets with fewer than 1,000 (published README).
SIZES = {"cb": 250, "copa": 400, "wsc": 554}
METRICS = ("ndcg-rank", "regret@1", "regret@3", "mean-regret@5", "spearman", "pick-gain",
           "negative-rate")  # fmt: skip


def report(what: str, done: int, total: int) -> None:
    """A line on stderr now and then."""
    if what.endswith(("sources", "targets")):
        print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)


def as_published(taskweb: TaskWeb, predicted: list[Predicted]) -> str:
    """The published table with further rows."""
    rows = taskweb_table(taskweb, (*taskweb.predictions, taskweb.prior(), *predicted))
    theirs = [p.method for p in taskweb.predictions]
    lines = []
    for method in (*theirs, "random", "mean over other targets", *(p.method for p in predicted)):
        name = f"*{method}*" if method in (*theirs, "random", "mean over other targets") else method
        lines.append((name, *(f"{n:.2f} / {r:.2f}" for n, r in rows[method].values())))
    return markdown(("method", *TASKWEB_COLUMNS), lines)


def with_intervals(found: Comparison) -> str:
    """Methods with intervals, and what stands against the prior and the random floor."""
    prior, floor = found.against(PRIOR), found.against(RANDOM)
    shown = [get_metric(n) for n in found.metrics]
    head = [f"{m.name}{f', {m.unit}' if m.unit else ''}" for m in shown]
    lines = []
    for name in found.methods:
        cells = [f"*{name}*" if name in CONTROLS else name]
        for i, metric in enumerate(shown):
            row = found.row(name, metric.name)
            text = number(row.value, digits_of(metric))
            if i < 3:
                text += f" ({interval(row.low, row.high, digits_of(metric))})"
            cells.append(text)
        for other in (floor, prior):
            d = other.get(name)
            sign = 1 if d is not None and d.better == name else -1
            cells.append(
                "–"
                if d is None
                else f"{sign * d.difference:+.3f}, p {probability(d.p_adjusted).replace('< ', '<')}"
            )
        lines.append(cells)
    return markdown(("method", *head, "against random", "against the prior"), lines)


def seeds(found: Comparison) -> str:
    """What one seed would have said."""
    said = found.seed_study()
    same = sum(s["place_of_first"] == 1 for s in said)
    taus = [s["tau"] for s in said]
    methods = [m for m in found.methods if m not in (RANDOM, ORACLE)]
    spread = [found.row(m, found.by.name).over_seeds for m in methods]
    return (
        f"With the truth of one seed instead of {len(said)}, {same} of {len(said)} seeds put the "
        f"same method first; Kendall's tau with the order of methods under all seeds is "
        f"{min(taus):.2f} to {max(taus):.2f}. A method's {found.by.name} moves by "
        f"{min(spread):.3f} to {max(spread):.3f} (standard deviation over seeds)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--published", type=Path, default=ROOT.parent / "shared" / "published")
    parser.add_argument("--setting", default="t5l_finetune")
    parser.add_argument("--tune", action="store_true", help="sources that the pool lacks")
    options = parser.parse_args()
    taskweb = read_taskweb(options.published, options.setting)
    data, pool, bench = catalogue(), Pool.builtin(), Workbench(progress=report)
    gains = taskweb.gains
    materials = Materials(
        data, pool, sizes=SIZES, default_size=1000, names=NAMES, tune=options.tune
    )
    texts = predict(gains, TEXTS, materials, bench, progress=report)
    everything = compare(gains, (*taskweb.predictions, *texts.predicted), metrics=METRICS)

    # The block of classification and regression, where methods that read labels apply.
    kinds = {n: data.kind(NAMES.get(n, n)) for n in (*gains.sources, *gains.targets)}
    block = gains.with_targets(t for t in gains.targets if kinds[t] in SEQUENCE_KINDS)
    labels = predict(block, LABELS, materials, bench, progress=report)
    held = ~np.isnan(labels.predicted[0].scores).all(0)
    scores = np.where(held[:, None, None], block.scores, np.nan)
    block = type(block)(
        block.sources, block.targets, scores, block.alone, block.seed_names, block.seconds
    )
    at = [gains.targets.index(t) for t in block.targets]
    others = [
        Predicted(p.method, p.scores[at], p.none[at], p.seconds, p.bytes_per_source)
        for p in (*taskweb.predictions, *texts.predicted)
    ]
    part = compare(block, (*labels.predicted, *others), metrics=METRICS)
    sources = [s for s, h in zip(block.sources, held, strict=True) if h]

    published = as_published(taskweb, list(texts.predicted))
    # Sources without a map are no part of the block, so none of its methods puts them last.
    notes = "\n".join(
        f"- {n}" for n in (*texts.notes, *(n for n in labels.notes if "has no score" not in n))
    )
    where = "" if options.tune else " in the built-in pool of that day"
    text = f"""TaskWeb's transfers of T5-large, 8 seeds. First the published table (Kim et al.
2023):
NDCG (rank gain, higher is better) / Regret@5 in percent (mean of five, lower is better) by
category of target, 20 targets. Rows in italics are the published methods and references, computed
from the published scores by `taskscout study taskweb`; they equal the published figures to the
second decimal (`tests/studies/test_published.py`; *random* is the exact expectation, the published
row 300 draws). The other rows are ours, from the task texts: at most 1,000 training rows of each
target, drawn anew and so not the rows TaskWeb trained on; sources are the samples of at most
8,000 rows of our catalogue, squad_v2 one of 2,000. Multiple choice is read as the text with its
choices appended. Similarities come from MiniLM-L6, transfers from T5-large. `taskshop` sees the
grid without the target's own results; TaskWeb chose its weight on PIQA, which is left out.

{published}

The same under several metrics, all 21 targets, truth the mean score over seeds, 95% bootstrap
intervals over targets and seeds. The last columns are differences in {everything.by.name} from a
random order and from the target-blind prior, with p of a sign-flip test over targets, adjusted
for all of these comparisons together (max-T). {reach(everything)}

{with_intervals(everything)}

{seeds(everything)}

Methods that read labels apply to classification and regression only: {len(block.targets)} targets,
{len(sources)} sources that have a space map{where}
({", ".join(sources)}); every method on the same pairs.

{with_intervals(part)}

{f"Left out or missing:{chr(10)}{chr(10)}{notes}" if notes else ""}"""
    publish(
        "taskweb",
        "TaskWeb: published methods and ours on published transfer",
        text,
        {
            "setting": options.setting,
            "table": {
                m: {c: list(v) for c, v in row.items()}
                for m, row in taskweb_table(
                    taskweb, (*taskweb.predictions, taskweb.prior(), *texts.predicted)
                ).items()
            },
            "everything": everything.to_dict(),
            "block": part.to_dict(),
        },
    )


if __name__ == "__main__":
    main()
