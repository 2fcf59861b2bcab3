"""Ranking end to end against ``hfselect``: the same encoder weights, texts, labels and maps.

    TASKSCOUT_PEERS=.../bin/python python -m benchmarks.ranking

Both sides score 1,000 texts of Rotten Tomatoes against so many sources, one thread each for
BLAS and torch, in turns, in processes of their own. The peer's maps are the same ones written
out as full matrices, and are in its memory before the clock starts; ours are read from a pool's
files within it. Importing and loading the encoder are outside it on both sides.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._data import catalogue
from benchmarks._peers import Side, load, median, peers_python
from benchmarks._pools import megabytes, replicated
from benchmarks._report import markdown, publish
from taskscout import Encoder, Pool

#: Sources, and how often the peer ranks them (we as it does, as often; by default five times).
PEER = {10: 3, 200: 3, 1000: 1}
SIZES = (10, 200, 1000, 10_000)
REPEATS = 5
TARGET = "rotten_tomatoes"


def main() -> None:
    """Run and publish."""
    with tempfile.TemporaryDirectory() as base:
        run(Path(base))


def run(base: Path) -> None:
    pool = Pool.builtin()
    task = catalogue().task(TARGET).for_choosing(1000)
    file, maps = base / "target.npz", base / "maps.npz"
    np.savez(file, texts=np.array(task.inputs("train")[0]), labels=task.labels("train"))
    found = [pool.description(n, "space-map") for n in pool.names]
    arrays = {a: np.stack([d.arrays[a] for d in found]) for a in ("inner", "outer", "offset")}
    np.savez(maps, scale=[d.header["scale"] for d in found], **arrays)
    sizes = [n for n in SIZES if len(sys.argv) < 2 or n <= int(sys.argv[1])]
    disk = {}
    for n in sizes:
        replicated(base / str(n), n)
        disk[n] = megabytes(base / str(n))
    ours: dict[int, dict[str, list[dict[str, Any]]]] = {n: {} for n in sizes}
    theirs: dict[int, list[dict[str, Any]]] = {n: [] for n in sizes}
    sides = {}
    loads = []
    peer = Side("_peer_side", peers_python())
    peer("prepare", folder=str(Encoder().folder), file=str(file), maps=str(maps))
    for precision in ("fp32", "auto"):
        sides[precision] = Side("_our_side")
        sides[precision]("prepare", file=str(file), precision=precision)
    difference = 0.0
    for n in sizes:
        for i in range(REPEATS):
            if i < PEER.get(n, 0):
                theirs[n].append(peer("rank", count=n))
            for precision, side in sides.items():
                if precision == "fp32" and i >= PEER.get(n, 0):
                    continue
                cache = base / f"cache-{precision}"
                shutil.rmtree(cache, ignore_errors=True)
                for kind in ("cold", "warm"):
                    published = precision == "fp32"
                    answer = side(
                        "rank", pool=str(base / str(n)), cache=str(cache), published=published
                    )
                    ours[n].setdefault(f"{kind} {precision}", []).append(answer)
            loads.append(load())
            print(n, i, loads[-1], flush=True)
        if n in PEER and ours[n]["cold fp32"][0]["scores"]:
            mine = ours[n]["cold fp32"][0]["scores"]
            for i, score in enumerate(theirs[n][0]["scores"]):
                named = mine[f"{pool.names[i % len(pool)]}-{i}"]
                difference = max(difference, abs(named - score))
        for runs in (theirs[n], *ours[n].values()):
            for each in runs:
                each.pop("scores", None)
        done = [size for size in sizes if ours[size]]
        own = sum(found[0].arrays[a].nbytes for a in ("inner", "outer", "offset"))
        report(done, ours, theirs, disk, difference, loads, own, arrays["offset"].shape[1])
    for side in (peer, *sides.values()):
        side.close()


def peak(runs: list[dict[str, Any]]) -> str:
    """Median peak memory, where it was measured."""
    return f"{median(runs, 'peak_mb'):.0f}" if runs and "peak_mb" in runs[0] else "not measured"


def report(
    sizes: list[int],
    ours: dict[int, dict[str, list[dict[str, Any]]]],
    theirs: dict[int, list[dict[str, Any]]],
    disk: dict[int, float],
    difference: float,
    loads: list[str],
    own: int,
    d: int,
) -> None:
    """Publish what has been measured so far."""
    rows = []
    for n in sizes:
        cold, warm, plain = (ours[n].get(k, []) for k in ("cold fp32", "warm auto", "cold auto"))
        row = [f"{n:,}"]
        for side in (theirs[n], plain, cold, warm):
            row.append(f"{median(side, 'processor'):.2f}" if side else "not run")
        for side in (plain, cold, warm):
            if theirs[n]:
                ratio = median(theirs[n], "processor") / median(side, "processor")
                wall = median(theirs[n], "seconds") / median(side, "seconds")
                row.append(f"{ratio:.0f}× ({wall:.0f}×)")
            else:
                row.append("")
        row.extend((peak(theirs[n]), peak(plain)))
        rows.append(row)
    columns = (
        "sources", "hfselect", "cold", "cold, fp32", "warm", "cold", "cold, fp32", "warm",
        "hfselect, MB", "taskscout, MB",
    )  # fmt: skip
    phases = [
        (
            f"{n:,}",
            *(
                (
                    f"{median(theirs[n], 'embedding processor'):.1f}",
                    f"{median(theirs[n], 'logme processor'):.2f}",
                )
                if theirs[n]
                else ("", "")
            ),
            f"{median(ours[n]['cold auto'], 'embedding'):.2f}",
            f"{median(ours[n]['cold fp32'], 'embedding'):.2f}" if theirs[n] else "",
            f"{median(ours[n]['warm auto'], 'scoring'):.2f}",
            f"{median(ours[n]['warm auto'], 'seconds'):.2f}",
            f"{1000 * median(ours[n]['warm auto'], 'open'):.0f}",
            f"{disk[n]:.1f}",
        )
        for n in sizes
    ]
    full = 4 * d * (d + 1)
    count = sum(p.numel() for p in Encoder().load_model().parameters())
    text = (
        f"1,000 texts of Rotten Tomatoes, d = {d}, rank 16. Processor seconds, medians; then how "
        "many times fewer (and in wall time). *fp32*: embedded and scored as the peer does; where "
        "both rank, the largest difference of a score is "
        f"{difference:.1e} (the embeddings are float32). Without it: our defaults, bf16 where the "
        "processor has it. *warm*: the target's statistics are cached. Runs of the peer: "
        + ", ".join(f"{v} at {k:,}" for k, v in PEER.items() if k in sizes)
        + f"; ours {REPEATS}. 10,000 sources were not run on the peer: it would hold 15 GB of "
        "mapped embeddings and 6 GB of maps.\n\n"
        + markdown(columns, rows)
        + "\n\nPhases. The peer's in processor seconds; ours in wall seconds, all threads.\n\n"
        + markdown(
            (
                "sources",
                "hfselect: embedding",
                "hfselect: LogME",
                "embedding",
                "embedding, fp32",
                "all else, warm",
                "warm, in all",
                "opening the pool, ms",
                "pool on disk, MB",
            ),
            phases,
        )
        + f"\n\nA map takes {own / 1000:.1f} KB, hfselect's {full / 1000:.0f} KB "
        f"(1/{full / own:.0f}), the full model in fp32 {4 * count / 1e6:.0f} MB "
        f"(1/{4 * count / own:,.0f}). Meanwhile {loads[0]} at the start, {loads[-1]} at the end."
    )
    stored = {"target": TARGET, "theirs": theirs, "ours": ours, "difference": difference,
              "disk_mb": disk, "loads": loads}  # fmt: skip
    publish("ranking", "Ranking end to end, against hfselect", text, stored)


if __name__ == "__main__":
    main()
