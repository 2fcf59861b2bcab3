"""Two sides of a comparison, each a process of its own in an environment of its own.

The peers pin packages that taskscout cannot share, so they have a virtual environment, made as
``.ci/peers`` makes it. ``TASKSCOUT_PEERS`` names its Python. A side answers one request at a time,
so both take turns within one run; each reports the wall time, its processor time and its peak
memory. Processor time is what to compare where other work holds the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PEERS = "TASKSCOUT_PEERS"


def peers_python() -> str:
    """Python of the peers' environment."""
    python = os.environ.get(PEERS, "")
    if not Path(python).is_file():
        raise SystemExit(
            f"{PEERS} has to name the Python of an environment with hf-dataset-selector==0.2.1 and "
            "transformer-ranker==0.2.0; .ci/peers shows how one is made."
        )
    return python


class Side:
    """A process that answers requests; its module's functions are what can be asked.

    Parameters
    ----------
    module
        A module of ``benchmarks`` that ends in ``serve(globals())``.
    python
        The interpreter; None for this one.
    threads
        BLAS, OpenMP and torch threads.
    """

    def __init__(self, module: str, python: str | None = None, *, threads: int = 1) -> None:
        count = {f"{k}_NUM_THREADS": str(threads) for k in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", f"benchmarks.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **count, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
            cwd=Path(__file__).resolve().parents[1],
        )

    def __call__(self, what: str, /, **arguments: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the side ended while it was asked to {what}")
        out: dict[str, Any] = json.loads(answer)
        return out

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def serve(functions: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer requests from standard input until it ends."""
    import tempfile
    import time

    answers = os.fdopen(os.dup(1), "w")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    if "hfselect" in " ".join(sys.argv) or "_peer" in sys.argv[0]:
        os.dup2(quiet, 2)  # progress bars
        os.chdir(tempfile.mkdtemp())  # importing hfselect writes a log file
    for request in sys.stdin:
        what, arguments = json.loads(request)
        wall, processor = time.perf_counter(), time.process_time()
        out = functions[what](**arguments)
        out.setdefault("seconds", time.perf_counter() - wall)
        out.setdefault("processor", time.process_time() - processor)
        out["peak_mb"] = peak_megabytes()
        answers.write(json.dumps(out) + "\n")
        answers.flush()


def peak_megabytes() -> float:
    """Peak resident memory of this process.

    Not ``ru_maxrss``: a process inherits that from the one that started it.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024


def median(runs: list[dict[str, Any]], what: str) -> float:
    """Median of one figure over runs."""
    return float(np.median([run[what] for run in runs]))


def load() -> str:
    """What else the machine does: processes that wanted to run in the last minute."""
    return f"{os.getloadavg()[0]:.1f} processes wanted to run on {os.cpu_count()} cores"
