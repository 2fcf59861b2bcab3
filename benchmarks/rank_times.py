"""Where the time of ``taskscout rank`` goes, and what starting costs: 1,000 short texts.

Each run is a process of its own; "cold" has an empty cache, "warm" the cache of the run before.
The file systems' own cache is warm in both: what a second user of the machine would see.
Processor time is what counts where other work holds the machine.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks._data import catalogue
from benchmarks._peers import load
from benchmarks._report import markdown, publish

REPEATS = 5
#: What else is started: code or arguments of the command line.
STARTS = {
    "Python alone": ["-c", "pass"],
    "import taskscout": ["-c", "import taskscout"],
    "taskscout --help": ["-m", "taskscout", "--help"],
}


def spent(arguments: Sequence[str], cache: Path) -> tuple[float, float, bytes]:
    """Wall and processor seconds of a process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "TASKSCOUT_CACHE": str(cache), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        check=True,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, processor, done.stdout


def main() -> None:
    """Run and publish."""
    task = catalogue().task("sst2").sample(1000)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sst2.csv"
        with file.open("w", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["text", "label"])
            names = task.label_names
            labels = (names[i] for i in task.labels("train"))
            writer.writerows(zip(task.inputs("train")[0], labels, strict=True))
        runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
        starts: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
        for i in range(REPEATS):
            cache = Path(folder) / f"cache{i}"
            for kind in runs:
                total, processor, out = spent(
                    ["-m", "taskscout", "rank", str(file), "--json"], cache
                )
                seconds = json.loads(out)["seconds"]
                rest = total - sum(seconds.values())
                found = {**seconds, "start and reading": rest, "total": total}
                runs[kind].append({**found, "processor": processor})
            for name, arguments in STARTS.items():
                starts[name].append(spent(arguments, cache)[:2])
    columns = ("start and reading", "loading", "embedding", "scoring", "total", "processor")
    median = {
        kind: {c: float(np.median([r[c] for r in found])) for c in columns}
        for kind, found in runs.items()
    }
    rows = [(kind, *(f"{median[kind][c]:.2f}" for c in columns)) for kind in runs]
    middle = {name: np.median(found, axis=0) for name, found in starts.items()}
    text = (
        f"1,000 sentences of SST-2 against the built-in pool, wall seconds, medians of {REPEATS} "
        "processes; *processor*: seconds of both processors together. *loading* imports torch and "
        "transformers and reads the encoder; *start and reading* is everything that is not one of "
        "the others: Python, imports, the file, the pool's cards. "
        f"Meanwhile {load()}, so wall seconds are longer than they need be.\n\n"
        + markdown(("", *columns), rows)
        + "\n\nStarting:\n\n"
        + markdown(
            ("", "wall s", "processor s"),
            [(f"`{n}`", f"{wall:.2f}", f"{cpu:.2f}") for n, (wall, cpu) in middle.items()],
        )
    )
    publish(
        "rank_times",
        "Ranking 1,000 texts, cold and warm",
        text,
        {"median": median, **runs, "starts": starts},
    )


if __name__ == "__main__":
    main()
