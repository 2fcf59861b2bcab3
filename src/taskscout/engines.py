"""Where work runs: in this process, or in local processes side by side."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def processes_available() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_thread() -> None:
    """Start-up of a worker: one thread each, so that workers do not wait for one another."""
    import torch

    torch.set_num_threads(1)


def run(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, processes: int = 1
) -> Iterator[tuple[Job, Result]]:
    """Yield (job, result) as jobs finish.

    Parameters
    ----------
    function
        A module-level function of one job; jobs and results travel between processes.
    jobs
        What to do, in the order to start it.
    processes
        1 runs in this process, in order; more start fresh processes with one thread each.

    Raises
    ------
    Whatever ``function`` raises, after the running jobs have ended.
    """
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, function(job)
        return
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=_one_thread) as pool:
            pending = {pool.submit(function, job): job for job in jobs}
            try:
                while pending:
                    finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield pending.pop(future), future.result()
            finally:
                for future in pending:
                    future.cancel()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
