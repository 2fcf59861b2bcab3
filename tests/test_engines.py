"""Where work runs: order, results, errors, and what a process leaves behind."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from taskscout.engines import processes_available, run
from taskscout.errors import PoolError


def double(job: int) -> int:
    return 2 * job


def fail_at_two(job: int) -> int:
    if job == 2:
        raise PoolError("Two was found.", "It is even.", "Leave it out.")
    return job


def where(job: int) -> tuple[int, str | None, int]:
    import torch

    return os.getpid(), os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()


def test_one_process_keeps_the_order():
    assert list(run(double, [3, 1, 2])) == [(3, 6), (1, 2), (2, 4)]
    assert list(run(double, [])) == []


def test_one_process_is_this_one():
    pids = []
    for _, pid in run(lambda job: os.getpid(), [1, 2]):
        pids.append(pid)
    assert set(pids) == {os.getpid()}
    # A single job is not worth a process.
    assert next(run(lambda job: os.getpid(), [1], processes=4))[1] == os.getpid()


def test_one_process_works_as_results_are_taken():
    done = []
    results = run(lambda job: done.append(job) or job, [1, 2, 3])
    assert done == []
    next(results)
    assert done == [1]
    assert [job for job, _ in results] == [2, 3]


def test_errors_come_through():
    seen = []
    with pytest.raises(PoolError, match="Two was found"):
        for job, _ in run(fail_at_two, [0, 1, 2, 3]):
            seen.append(job)
    assert seen == [0, 1]


def test_processes_available():
    assert 1 <= processes_available() <= (os.cpu_count() or 1)


def test_two_processes(monkeypatch: pytest.MonkeyPatch):
    """Results of all jobs, one thread each, and this process's environment as it was."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    found = dict(run(where, [1, 2, 3, 4], processes=2))
    assert sorted(found) == [1, 2, 3, 4]
    pids = {pid for pid, _, _ in found.values()}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids
    assert {(variable, threads) for _, variable, threads in found.values()} == {("1", 1)}
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in os.environ


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(PoolError("Two was found.", "It is even.", "Leave it out.")))
    assert isinstance(error, PoolError)
    assert str(error) == "Two was found. It is even. Leave it out."
    assert error.remedy == "Leave it out."


def hold_and_wait(path: str) -> None:
    with FileLock(path):
        time.sleep(600)


STARTER = """
import sys
from taskscout.engines import run
from tests.test_engines import hold_and_wait

if __name__ == "__main__":
    list(run(hold_and_wait, sys.argv[1:], processes=2))
"""


def test_workers_end_with_whoever_started_them(tmp_path: Path):
    """Also where that was killed and could tell them nothing."""
    script = tmp_path / "start.py"
    script.write_text(STARTER)
    locks = [FileLock(tmp_path / f"{i}.lock") for i in range(2)]
    root = Path(__file__).resolve().parents[1]
    starter = subprocess.Popen(
        [sys.executable, script, *(lock.lock_file for lock in locks)],
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        end = time.monotonic() + 120
        while not all(map(_is_held, locks)):
            assert time.monotonic() < end, "the workers never began"
            time.sleep(0.1)
    finally:
        starter.kill()
        starter.wait()
    for lock in locks:
        lock.acquire(timeout=60)
        lock.release()


def _is_held(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False
