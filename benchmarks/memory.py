"""Does peak memory grow with the number of sources? And how long does opening a pool take?

The built-in pool's space maps are replicated under other names, and one target is ranked against
each pool in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._data import catalogue
from benchmarks._peers import load, peak_megabytes
from benchmarks._pools import megabytes, replicated
from benchmarks._report import markdown, publish
from taskscout import Pool, Workbench, rank

SIZES = (50, 5000, 10_000)
REPEATS = 3


def one(folder: str) -> None:
    """Rank one target against one pool; print peak memory and seconds."""
    target = catalogue().task("rotten_tomatoes").sample(1000)
    bench = Workbench()
    start = time.perf_counter()
    pool = Pool.open(folder)
    opened = time.perf_counter() - start
    before = peak_megabytes()
    processor = time.process_time()
    ranking = rank(target, pool, bench=bench)
    processor = time.process_time() - processor
    peak = peak_megabytes()
    found = {
        "peak_mb": peak,
        "own_mb": own_megabytes(),
        "before_mb": before,
        "open": opened,
        "processor": processor,
    }
    print(json.dumps({**found, "scoring": ranking.seconds["scoring"], "n": len(ranking)}))


def own_megabytes() -> float:
    """Memory of this process alone, without the pages of files that it has mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def main() -> None:
    """Run and publish."""
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in SIZES}
    disk = {}
    with tempfile.TemporaryDirectory() as base:
        rank(catalogue().task("rotten_tomatoes").sample(1000))  # fill the cache
        for size in SIZES:
            replicated(Path(base) / str(size), size)
            disk[size] = megabytes(Path(base) / str(size))
        for _ in range(REPEATS):
            for size in SIZES:
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.memory", str(Path(base) / str(size))],
                    capture_output=True,
                    check=True,
                    text=True,
                )
                runs[size].append(json.loads(done.stdout.splitlines()[-1]))
    median = {n: {k: float(np.median([r[k] for r in found])) for k in found[0]}
              for n, found in runs.items()}  # fmt: skip
    rows = [
        (f"{n:,}", f"{disk[n]:.1f}", f"{1000 * m['open']:.0f}", f"{m['before_mb']:.0f}",
         f"{m['peak_mb']:.0f}", f"{m['own_mb']:.0f}", f"{m['processor']:.1f}",
         f"{m['scoring']:.1f}")
        for n, m in median.items()
    ]  # fmt: skip
    few, many = min(SIZES), max(SIZES)
    each = 1000 * (median[many]["peak_mb"] - median[few]["peak_mb"]) / (many - few)
    text = (
        "A process that ranks 1,000 texts (statistics cached) against a pool of so many sources, "
        f"the built-in ones repeated; medians of {REPEATS} processes. Memory grows by "
        f"{each:.1f} KB a source. The peak counts pages of the pool's mapped files, which belong "
        "to the page cache and go back to the system when it needs them; the process's own memory, "
        "read after the ranking, holds cards and the rows of the answer. "
        f"Meanwhile {load()}, so wall seconds are longer than they need be.\n\n"
        + markdown(
            (
                "sources",
                "pool on disk, MB",
                "opening, ms",
                "memory before, MB",
                "peak memory, MB",
                "its own, MB",
                "ranking, processor s",
                "wall s",
            ),
            rows,
        )
    )
    publish("memory", "Memory against the number of sources", text, {"runs": runs})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1])
    else:
        main()
