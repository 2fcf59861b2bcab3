"""Forecasts of gains held against real transfers that they have not seen.

    python -m benchmarks.forecast                  # block lora-200-full, and public grids
    python -m benchmarks.forecast --block wide     # after benchmarks.forecast_inputs --block wide

Writes ``results/forecast.json`` and ``docs/benchmarks/forecasts.md``; with ``--ship`` also the
calibrations that come with taskscout, beside the built-in pool (``--out FOLDER``: somewhere else).
"""

# ruff: noqa: E501

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._grids import block, setting_of
from benchmarks._report import ROOT, markdown, publish
from benchmarks.forecast_inputs import SCORES, TARGETS
from taskscout import Encoder, Pool
from taskscout.methods import DEFAULT
from taskscout.methods.two_stage import KEEP, chained
from taskscout.pools.builtin import builtin_folder
from taskscout.pools.calibrations import FOLDER
from taskscout.studies import calibration as c
from taskscout.studies.metrics import measure
from taskscout.studies.predictions import Predicted
from taskscout.studies.published import read_taskweb, taskweb_table

#: The block of our grid that is read unless another is named.
BLOCK = "lora-200-full"
#: Maps over the pool, then real models on the ten best: ``rank --refine 10``.
REFINED = f"{DEFAULT}>logme"
#: What a forecast reads: cards and sources' own gains alone; maps; real source models.
READS = {
    "prior and cards": (),
    "maps": (DEFAULT,),
    "maps, then ten models": (REFINED,),
    "real models": ("logme",),
}
SINGLE = (DEFAULT, "esm-logme", "logme", "format", "vocabulary", "sentence-embedding")
BOOTSTRAPS = 4000


def evidence(name: str, methods: tuple[str, ...]) -> c.Evidence:
    """A block of our grid with the scores kept for it."""
    gains = block(name)
    scores, facts = pd.read_parquet(SCORES), pd.read_parquet(TARGETS)
    scores, facts = scores[scores["block"] == name], facts[facts["block"] == name]
    pool = Pool.builtin()

    def table(method: str) -> np.ndarray:
        if method == REFINED:
            first, second = table(DEFAULT), table("logme")
            kept = np.argsort(np.argsort(np.where(np.isnan(first), np.inf, -first), 1), 1) < KEEP
            return np.stack([chained(a, np.where(k, b, np.nan))
                             for a, b, k in zip(first, second, kept, strict=True)])  # fmt: skip
        return (
            scores[scores["method"] == method]
            .pivot(index="target", columns="source", values="score")
            .reindex(index=list(gains.targets), columns=list(gains.sources))
            .to_numpy()
        )

    return c.Evidence(
        gains,
        {m: table(m) for m in methods},
        {s: pool.source(s).card for s in gains.sources if s in pool},
        facts.drop(columns=["block", "family"]).set_index("target").to_dict("index"),
    )  # fmt: skip


def mean(values: np.ndarray) -> str:
    """Mean over targets with its 95% bootstrap interval."""
    known = values[~np.isnan(values)]
    drawn = np.random.default_rng(0).integers(0, len(known), (BOOTSTRAPS, len(known)))
    low, high = np.quantile(known[drawn].mean(1), [0.025, 0.975])
    return f"{known.mean():.2f} ({low:.2f} to {high:.2f})"


def coverage(table: list[dict[str, Any]]) -> dict[str, float]:
    """What intervals cover and how wide they are."""
    of = pd.DataFrame(table)
    wide = (of["high"] - of["low"]).replace(np.inf, np.nan)
    return {"rows covered": of["covered"].mean(), "row width": of["width"].mean(),
            "picks covered": of["pick_covered"].mean(), "pick width": wide.mean(),
            "brier": of["brier"].mean(),
            "brier of the base rate": (of["helped"].mean() * (1 - of["helped"].mean()))}  # fmt: skip


def ours(name: str) -> tuple[str, dict[str, Any]]:
    """Our own grid, by target and by family."""
    facts = pd.read_parquet(TARGETS).query("block == @name")
    families = dict(zip(facts["target"], facts["family"], strict=True))
    data = evidence(name, SINGLE)
    gains = data.gains
    oracle = c.honest_oracle(gains)
    prior = np.stack([gains.prior(gains.sources, t) for t in gains.targets])
    orders = {"source-prior": prior, **data.scores}
    stored: dict[str, Any] = {"block": name, "oracle": oracle.tolist()}
    found = {}
    for reads, methods in READS.items():
        part = evidence(name, methods)
        for left_out, groups in (("target", None), ("family", families)):
            found[reads, left_out] = c.out_of_sample(part, groups)
    orders |= {f"forecast, {reads}": found[reads, "target"].expected for reads in READS}
    truth = gains.mean_scores.T
    regrets = {
        m: measure(("regret@1", "regret@3", "spearman"), p, truth) for m, p in orders.items()
    }
    first = {m: np.array([gains.points[np.nanargmax(np.where(np.isnan(gains.points[:, j]), np.nan,
             p[j])), j] for j in range(len(gains.targets))]) for m, p in orders.items()}  # fmt: skip
    best = "forecast, maps"
    quality = [
        (m, mean(first[m]), f"{np.mean(first[m]) / np.mean(oracle):.0%}",
         mean(regrets[m]["regret@1"]), mean(regrets[m]["regret@3"]),
         f"{np.nanmean(regrets[m]['spearman']):.2f}",
         f"{np.nanmean(c.pairwise_accuracy(gains, orders[m])):.0%}",
         "–" if m == best else mean(regrets[best]["regret@1"] - regrets[m]["regret@1"]))
        for m in orders
    ]  # fmt: skip
    held, advised = [], []
    for (reads, left_out), each in found.items():
        table = each.table()
        said = coverage(table)
        held.append((reads, left_out, f"{said['rows covered']:.0%}", f"{said['row width']:.1f}",
                     f"{said['picks covered']:.0%}", f"{said['pick width']:.1f}",
                     f"{said['brier']:.3f}", f"{said['brier of the base rate']:.3f}",
                     mean(np.array([r["gain"] for r in table]))))  # fmt: skip
        stored[f"{reads}, {left_out} left out"] = {"table": table, **said}
        if reads == "maps" and left_out == "family":
            frame = pd.DataFrame(table)
            for family, rows in frame.groupby("group"):
                advised.append((family, len(rows), f"{rows['gain'].mean():+.1f}",
                                f"{rows['covered'].mean():.0%}",
                                ", ".join(f"{t}: {a if isinstance(a, str) else 'none'} {g:+.1f}" for t, a, g in zip(
                                    rows["target"], rows["advised"], rows["gain"], strict=True))))  # fmt: skip
    blind = {t: [gains.sources[i] for i in np.argsort(-prior[j])]
             for j, t in enumerate(gains.targets)}  # fmt: skip
    raced = []
    for n in (0, 1, 3, 5):
        cells = [c.race(found[r, "target"], n) for r in READS]
        raw = c.race(found["maps", "target"], n, known_first=blind, fold=False)
        raced.append((n, *(mean(x) for x in cells), mean(raw)))
        stored[f"{n} trials"] = {r: x.tolist() for r, x in zip(READS, cells, strict=True)}
        stored[f"{n} trials"]["blind"] = raw.tolist()
    noise = float(np.sqrt(c.run_variance(gains) / len(gains.seed_names)))
    stored["quality"] = {m: {"first": first[m].tolist(), **{k: v.tolist() for k, v in r.items()}}
                         for m, r in regrets.items()}  # fmt: skip
    text = (
        f"Our grid, {len(gains.sources)} sources on {len(gains.targets)} targets, "
        f"{len(gains.seed_names)} seeds. The honest oracle gains {mean(oracle)} points. Every "
        "forecast is of a target left out of the fit, with all that follows from its results; "
        "which terms a forecast has was looked at on these targets, and so is chosen on them. "
        "First pick: gain in points of the source put first, with 95% bootstrap intervals over "
        "targets; pairs: order of sources that differ by more than a standard error; the last "
        "column is the regret@1 of *forecast, maps* minus the row's.\n\n"
        + markdown(("method", "first pick", "of the oracle", "regret@1", "regret@3", "spearman",
                    "pairs", "paired"), quality)
        + "\n\nIntervals of 80%, and what following the advice (a source, or none) gains. Seeds' "
        f"noise alone makes an interval {2 * 1.2816 * noise:.1f} points wide.\n\n"
        + markdown(("reads", "left out", "rows covered", "width", "picks covered", "width",
                    "Brier", "base rate's", "advice gains"), held)
        + "\n\nFollowing the advice, family by family (maps, the family left out):\n\n"
        + markdown(("family", "targets", "gain", "rows covered", "advice"), advised)
        + "\n\nTrials: one seed's real result of each of n sources, taken in as evidence, judged on "
        "the other seeds. It is a trial at its best: a real one trains on fewer rows. *Blind*: a "
        "list by the prior, and the best of its trials.\n\n"
        + markdown(("trials", *READS, "blind"), raced)
    )  # fmt: skip
    return text, stored


def public(folder: Path) -> tuple[str, dict[str, Any]]:
    """TaskWeb's T5-large, by sources' gains on other targets and by small models' runs."""
    taskweb = read_taskweb(folder)
    small = {s: read_taskweb(folder, s).gains.points.T for s in ("t5s_finetune", "t5b_finetune")}
    rows, held, stored = [], [], {}
    for name, scores in (("prior", {}), ("small models' runs", small)):
        found = c.out_of_sample(c.Evidence(taskweb.gains, scores))
        said = coverage(found.table())
        predicted = Predicted(name, found.expected, np.zeros(len(taskweb.gains.targets)))
        ndcg, regret = taskweb_table(taskweb, [predicted])[name]["all"]
        one = np.nanmean(measure(("regret@1",), found.expected, taskweb.judged)["regret@1"])
        rows.append((name, f"{ndcg:.1f}", f"{regret:.2f}", f"{one:.2f}"))
        held.append((name, f"{said['rows covered']:.0%}", f"{said['picks covered']:.0%}"))
        stored[name] = {"ndcg": ndcg, "regret@5": regret, "regret@1": float(one), **said}
    text = (
        "TaskWeb, T5-large, as its README scores it (best known: nDCG 71.5, "
        "regret@5 2.07). A forecast without small models' runs sees no target at all here.\n\n"
        + markdown(("forecast from", "nDCG", "regret@5", "regret@1"), rows) + "\n\n"
        + markdown(("forecast from", "rows covered", "picks covered"), held)
    )  # fmt: skip
    return text, stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--block", default=BLOCK)
    parser.add_argument("--published", type=Path, default=ROOT.parent / "shared" / "published")
    parser.add_argument("--out", type=Path, help="folder for the calibrations")
    parser.add_argument("--ship", action="store_true", help="put them beside the built-in pool")
    options = parser.parse_args()
    text, stored = ours(options.block)
    beside, taskweb = public(options.published)
    command = "forecast" if options.block == BLOCK else f"forecast --block {options.block}"
    publish(
        "forecast", "Forecasts held against transfers they have not seen",
        f"{text}\n\n### TaskWeb\n\n{beside}", {**stored, "taskweb": taskweb}, command=command,
    )  # fmt: skip
    folder = builtin_folder() / FOLDER if options.ship else options.out
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for reads, methods in READS.items():
            report = stored[f"{reads}, target left out"]
            fitted(options.block, methods, report).save(folder / f"{file_name(reads)}.safetensors")


def file_name(reads: str) -> str:
    """Name of a calibration's file."""
    return reads.replace(",", "").replace(" ", "-")


def fitted(name: str, methods: tuple[str, ...], report: dict[str, Any]) -> c.Calibration:
    """The calibration of a block, with what was measured of it out of sample."""
    data = evidence(name, methods)
    where = setting_of(name)
    setting = {
        "encoder": Encoder().fingerprint, "model": Encoder().model_id, "tuning": where["tuning"],
        "recipe": where["recipe"], "size": int(where["size"]), "block": name,
        "kinds": ["classification", "regression"],
        "targets": sum(bool(data.candidates(t)) for t in data.gains.targets),
    }  # fmt: skip
    return c.calibrate(
        data, setting=setting, report={k: v for k, v in report.items() if k != "table"}
    )


if __name__ == "__main__":
    main()
