"""What starting costs: importing, help, opening a pool, and a whole warm ranking of 1,000 texts.

Every run is a process of its own. Processor time is what counts where other work holds the machine.
"""

from __future__ import annotations

import csv
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
FILE = "FILE.csv"
STARTS = {
    "python -c pass": ["-c", "pass"],
    "import taskscout": ["-c", "import taskscout"],
    "taskscout --help": ["-m", "taskscout", "--help"],
    "Pool.builtin()": ["-c", "from taskscout import Pool; Pool.builtin()"],
    "taskscout rank, warm": ["-m", "taskscout", "rank", FILE],
}


def spent(arguments: Sequence[str], cache: Path) -> tuple[float, float]:
    """Wall and processor seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "TASKSCOUT_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run and publish."""
    task = catalogue().task("sst2").sample(1000)
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sst2.csv"
        with file.open("w", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["text", "label"])
            names = task.label_names
            labels = (names[i] for i in task.labels("train"))
            writer.writerows(zip(task.inputs("train")[0], labels, strict=True))
        commands = {n: [str(file) if a == FILE else a for a in c] for n, c in STARTS.items()}
        cache = Path(folder) / "cache"
        spent(commands["taskscout rank, warm"], cache)  # the cold one, which fills the cache
        for _ in range(REPEATS):
            for name, command in commands.items():
                runs[name].append(spent(command, cache))
    rows = [
        (f"`{name}`", f"{np.median([r[1] for r in found]):.2f}",
         f"{np.median([r[0] for r in found]):.2f}")
        for name, found in runs.items()
    ]  # fmt: skip
    text = (
        f"Seconds, medians of {REPEATS} processes. Meanwhile {load()}, so wall seconds are longer "
        "than they need be.\n\n" + markdown(("", "processor", "wall"), rows)
    )
    publish("start_up", "Starting", text, {"runs": runs})


if __name__ == "__main__":
    main()
