"""Strength or match: does a source help everywhere, or the targets that it fits?

    python -m benchmarks.variance --published FOLDER

Choshen et al. 2023 (arXiv 2211.00107) claim that a source's gain hardly depends on the target, and
that a linear probe on MNLI finds the strong ones. The variance of gains is split on our grid, on
TaskWeb (Kim et al. 2023) and on the transfers that Choshen et al. published themselves. ``FOLDER``
holds ``taskweb_grid.parquet`` and ``model_recycling.parquet``; by default ``../shared/published``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from benchmarks._grids import block
from benchmarks._report import ROOT, markdown, publish
from taskscout import Pool
from taskscout.methods.gains import Gains, mean_of_known
from taskscout.studies.variance import FIGURES, VarianceComponents, variance_components

TASKWEB = ("t5l_finetune", "t5b_finetune", "t5s_finetune", "t5b_bitfit")
RECYCLING = ("roberta_base", "bert_base_uncased")


def probe_against_strength(path: Path, setting: str) -> float:
    """Spearman correlation of the published MNLI probe with a source's mean gain."""
    rows = pq.read_table(path).to_pylist()
    probe = {r["source"]: r["mnli_probe"] for r in rows if r["setting"] == setting}
    gains = Gains.read(path, where={"setting": setting})
    # Sources have one run: gains are over the mean of the direct runs.
    strength = np.nanmean(gains.mean_scores - gains.mean_alone, 1)
    pairs = [(probe[s], g) for s, g in zip(gains.sources, strength, strict=True) if probe[s]]
    return float(spearmanr(*zip(*pairs, strict=True))[0])


def own_probe_against_strength(gains: Gains) -> float:
    """Spearman correlation of the built-in pool's MNLI probe with a source's mean gain."""
    pool = Pool.builtin()
    probe = [pool.header(s, "mnli-probe")["accuracy"] for s in gains.sources]
    return float(spearmanr(probe, mean_of_known(gains.points))[0])


def cells(split: VarianceComponents) -> list[str]:
    """Figures with their intervals."""
    out = []
    for name in FIGURES:
        value, (low, high) = getattr(split, name), split.intervals[name]
        scale, digits = (100, 0) if name == "strength" else (1, 1)
        if np.isnan(value):
            out.append("–")
            continue
        unit = "%" if name == "strength" else ""
        ends = f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"
        out.append(f"{scale * value:.{digits}f}{unit} ({ends})")
    return out


def main() -> None:
    """Split, and publish."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--published", type=Path, default=ROOT.parent / "shared" / "published")
    folder = parser.parse_args().published
    recycling = folder / "model_recycling.parquet"
    grids = {"ours, LoRA, 200 examples": block("lora-200-full")}
    for setting in TASKWEB:
        where = {"setting": setting, "in_taskweb": 1}
        grids[f"TaskWeb, {setting}"] = Gains.read(folder / "taskweb_grid.parquet", where=where)
    for setting in RECYCLING:
        grids[f"model recycling, {setting}"] = Gains.read(recycling, where={"setting": setting})
    splits = {name: variance_components(gains) for name, gains in grids.items()}
    rows = [(name, f"{s.sources} × {s.targets}", *cells(s)) for name, s in splits.items()]
    probes = {s: probe_against_strength(recycling, s) for s in RECYCLING}
    probes["ours"] = own_probe_against_strength(grids["ours, LoRA, 200 examples"])
    shares = [s.strength for s in splits.values()]
    ours = splits["ours, LoRA, 200 examples"]
    text = (
        "Variance of gains in squared points, with 95% bootstrap intervals over targets. *source* "
        "is what a source adds on every target (strength), *interaction* what it adds on one and "
        "not on others (match), *target* what a target gains from any source, *seed* what a seed "
        "moves for all runs of a target, *run* the noise of one run, *noise* what of it is left "
        "in a cell's mean. *strength*: source / (source + interaction), the share of the real "
        "differences between the sources of a target that are the source's own.\n\n"
        f"**Mostly match.** Strength is {100 * min(shares):.0f} to {100 * max(shares):.0f}% of "
        "what really tells the sources of a target apart, on every grid, that of Choshen et al. "
        "among them. Their claim holds for what is strong (a target-blind prior finds good "
        "sources, and the MNLI probe agrees with a source's mean gain by Spearman "
        f"{probes['roberta_base']:.2f} on RoBERTa, {probes['bert_base_uncased']:.2f} on BERT and "
        f"{probes['ours']:.2f} on our MiniLM), "
        "not for how much choosing by the target could add. Model recycling has one run of each "
        "source: the spread of its 20 direct runs stands for the noise, which is as large as the "
        "interaction there and would look like it.\n\n"
        f"On our grid the variance of the sources' means would say source "
        f"{ours.source + (ours.interaction + ours.noise) / ours.targets:.1f}: with "
        f"{ours.targets} targets, a part of the interaction is left in it.\n\n"
        + markdown(("grid", "sources × targets", *FIGURES), rows)
    )
    publish(
        "variance",
        "Strength or match: where gains come from",
        text,
        {"splits": {n: s.to_dict() for n, s in splits.items()}, "mnli_probe_spearman": probes},
    )


if __name__ == "__main__":
    main()
