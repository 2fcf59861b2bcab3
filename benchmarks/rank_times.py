"""Where the time of ``taskscout rank`` goes: 1,000 short texts, cold and warm.

Each run is a process of its own; "cold" has an empty cache, "warm" the cache of the run before.
The file systems' own cache is warm in both: what a second user of the machine would see.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._data import catalogue
from benchmarks._report import markdown, publish

REPEATS = 5


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
        for i in range(REPEATS):
            for kind in runs:
                cache = Path(folder) / f"cache{i}"
                command = [sys.executable, "-m", "taskscout", "rank", str(file), "--json"]
                start = time.perf_counter()
                done = subprocess.run(
                    command,
                    env={**__import__("os").environ, "TASKSCOUT_CACHE": str(cache)},
                    capture_output=True,
                    check=True,
                )
                total = time.perf_counter() - start
                seconds = json.loads(done.stdout)["seconds"]
                rest = total - sum(seconds.values())
                runs[kind].append({**seconds, "start and reading": rest, "total": total})
    columns = ("start and reading", "loading", "embedding", "scoring", "total")
    median = {
        kind: {c: float(np.median([r[c] for r in found])) for c in columns}
        for kind, found in runs.items()
    }
    rows = [(kind, *(f"{median[kind][c]:.2f}" for c in columns)) for kind in runs]
    text = (
        f"1,000 sentences of SST-2 against the built-in pool, seconds, medians of {REPEATS} "
        "processes. *loading* imports torch and transformers and reads the encoder; *start and "
        "reading* is everything that is not one of the others: Python, imports, the file, the "
        "pool's cards.\n\n" + markdown(("", *columns), rows)
    )
    publish("rank_times", "Ranking 1,000 texts, cold and warm", text, {"median": median, **runs})


if __name__ == "__main__":
    main()
