"""Fitting a space map: closed form against ``hfselect``'s own trainer, on the same pairs.

    TASKSCOUT_PEERS=.../bin/python python -m benchmarks.maps [SOURCE ...]

The pairs are real: base and tuned embeddings of a source's own training texts, the tuned model
being the built-in pool's. The trainer has the published settings: a linear layer, AdamW lr 1e-3,
10 epochs, batch 32 (Schulte et al. 2024). Both see the same rows; the closed form takes its
strength from a fifth of them and is then fitted on all. The error is measured on rows that neither
has seen. The sides take turns, in processes of their own, one thread each.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._data import catalogue
from benchmarks._peers import Side, load, peers_python
from benchmarks._report import markdown, publish
from taskscout import Pool, Workbench
from taskscout.methods.space_map import Moments, SpaceMap, choose_strength, fit_map, fit_maps

SOURCES = ("sst2", "snli", "go_emotions", "clinc150")
#: The one strength of a fit that chooses nothing, as the trainer does.
FIXED = 1.0
RANKS = (4, 8, 16, 32, 64)
REPEATS = 5
PAIRS, HELD_OUT = 1500, 500


def closed_form(x: np.ndarray, y: np.ndarray) -> tuple[SpaceMap, Moments]:
    """The full map: its strength from the first fifth, then fitted on all rows."""
    cut = len(x) // 5
    tail, head = Moments.of(x[:cut], y[:cut]), Moments.of(x[cut:], y[cut:])
    strength = choose_strength(head, tail)
    return fit_map(head + tail, tail, rank=None, strengths=[strength]), head + tail


def main() -> None:
    """Run and publish."""
    data, pool, bench = catalogue(), Pool.builtin(), Workbench()
    peer = Side("_peer_side", peers_python())
    rows, stored = [], {}
    with tempfile.TemporaryDirectory() as base:
        for name in sys.argv[1:] or SOURCES:
            task = data.task(name).sample(PAIRS).sample(HELD_OUT, split="test")
            adapter = pool.description(name, "tuned").arrays
            pairs = {
                split: (
                    bench.embeddings(task, split),
                    bench.source_embeddings(task, adapter, split, source=name),
                )
                for split in ("train", "test")
            }
            file = Path(base) / "pairs.npz"
            named = ("base", "tuned"), ("held_base", "held_tuned")
            np.savez(
                file,
                **{
                    n: a
                    for names, split in zip(named, ("train", "test"), strict=True)
                    for n, a in zip(names, pairs[split], strict=True)
                },
            )
            stored[name] = result = one(pairs, peer, file)
            result["seconds_of_tuning"] = float(pool.source(name).tuning.get("seconds", np.nan))
            rows.append(
                (name, f"{result['explained']:.3f}", f"{result['explained_by_trainer']:.3f}",
                 f"{result['error_ratio']:.2f}", f"{1000 * result['ours']:.0f}",
                 f"{1000 * result['fixed']:.0f}", f"{1000 * result['trainer']:.0f}",
                 f"{result['ratio']:.0f}×",
                 f"{result['ratio_fixed']:.0f}× ({result['error_ratio_fixed']:.2f})",
                 f"{result['strength']:.2g}", *(f"{v:.3f}" for v in result["by_rank"].values()),
                 f"{1000 * result['several']:.0f}")
            )  # fmt: skip
    peer.close()
    d = pairs["train"][0].shape[1]
    sizes = ", ".join(f"{2 * (2 * r * d + d) / 1000:.0f} KB at rank {r}" for r in RANKS)
    shares = [100 * r["several"] / (r["several"] + r["seconds_of_tuning"]) for r in stored.values()]
    text = (
        f"Held-out R² of the tuned embeddings, {PAIRS:,} pairs at most for fitting and {HELD_OUT} "
        f"held out, d = {d}. *error ratio*: held-out squared error, ours over the trainer's; "
        f"processor milliseconds on one thread, medians of {REPEATS} paired runs, choosing among "
        f"17 strengths included; *one strength*: {FIXED:g} without choosing, as the trainer "
        "chooses nothing, with its error ratio in brackets; *strength* in units of the mean "
        "eigenvalue; then R² at rank r in half precision, and the milliseconds that all five ranks "
        "and the full map take together. "
        f"A map takes {sizes}; full, in half precision, {2 * d * (d + 1) / 1000:.0f} KB, their "
        f"{4 * d * (d + 1) / 1000:.0f} KB. Fitting is {np.nanmin(shares):.2f}% to "
        f"{np.nanmax(shares):.2f}% of the time that tuning these sources and fitting takes. "
        f"Meanwhile {load()}.\n\n"
        + markdown(
            ("source", "closed form", "trainer", "error ratio", "closed form, ms",
             "one strength, ms", "trainer, ms", "faster", "one strength, faster", "strength",
             *(f"r = {r}" for r in RANKS), "all, ms"),
            rows,
        )
    )  # fmt: skip
    publish("maps", "Space maps: closed form against hfselect's trainer", text, stored)


def one(pairs: dict[str, tuple[np.ndarray, np.ndarray]], peer: Side, file: Path) -> dict[str, Any]:
    """Fit the maps of one source on both sides."""
    x, y = pairs["train"]
    held_out = Moments.of(*pairs["test"])
    ours, fixed, theirs, several = [], [], [], []
    with threadpool_limits(1):
        for _ in range(REPEATS):
            begun = time.process_time()
            space_map, moments = closed_form(x, y)
            ours.append(time.process_time() - begun)
            begun = time.process_time()
            whole = Moments.of(x, y)
            plain = fit_map(whole, whole, rank=None, strengths=[FIXED])
            fixed.append(time.process_time() - begun)
            answer = peer("fit", file=str(file))
            theirs.append(answer["processor"])
            begun = time.process_time()
            cut = len(x) // 5
            tail, head = Moments.of(x[:cut], y[:cut]), Moments.of(x[cut:], y[cut:])
            fit_maps(head, tail, ranks=(*RANKS, None))
            several.append(time.process_time() - begun)
    maps = fit_maps(moments, moments, ranks=RANKS, strengths=[space_map.strength])
    variance = held_out.yy / held_out.n - float((held_out.y**2).sum()) / held_out.n**2
    error = space_map.mean_squared_error(held_out)
    return {
        "pairs": len(x),
        "explained": space_map.explained(held_out),
        "explained_by_trainer": 1 - answer["error"] / variance,
        "error_ratio": error / answer["error"],
        "error_ratio_fixed": plain.mean_squared_error(held_out) / answer["error"],
        "fixed": float(np.median(fixed)),
        "ratio_fixed": float(np.median(np.array(theirs) / np.array(fixed))),
        "strength": space_map.strength,
        "ours": float(np.median(ours)),
        "trainer": float(np.median(theirs)),
        "several": float(np.median(several)),
        "ratio": float(np.median(np.array(theirs) / np.array(ours))),
        "by_rank": {r: m.half().explained(held_out) for r, m in zip(RANKS, maps, strict=True)},
    }


if __name__ == "__main__":
    main()
