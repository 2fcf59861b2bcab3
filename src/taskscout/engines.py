"""Where work runs: in this process, in local processes side by side, or on a Ray cluster.

A job is done by a module-level function of the job and of the files it asks for. Files are read
from disk by workers that share it, and travel, once per node, to those that do not.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from taskscout.errors import EngineError

Job = TypeVar("Job")
Result = TypeVar("Result")

#: What reads a job's file by name: the bytes are there whether or not the disk is shared.
Files = Mapping[str, bytes]
FilesOf = Callable[[Job], Mapping[str, Path]]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: glibc hands large blocks back to the system and asks for them anew at every training step,
#: which costs a quarter of the time; others ignore these.
_MALLOC_VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_ARENA_MAX": "1",
}
#: A job whose worker died is started again so often.
RETRIES = 3


class LazyJobs(Sequence[Job]):
    """Jobs made when they are asked for, so that no more data are held than is worked on.

    Parameters
    ----------
    items
        One per job.
    make
        Makes a job of an item.
    """

    def __init__(self, items: Sequence[Any], make: Callable[[Any], Job]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return LazyJobs(self._items[i], self._make)
        return self._make(self._items[i])


def processes_available() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Engine(Protocol):
    """Runs jobs and yields each with its result as it finishes."""

    def run(
        self,
        function: Callable[[Job, Files], Result],
        jobs: Sequence[Job],
        files: FilesOf[Job] | None = None,
    ) -> Iterator[tuple[Job, Result]]:
        """Yield (job, result) as jobs finish, in no order.

        Parameters
        ----------
        function
            A module-level function of one job and its files' contents; jobs and results travel
            between processes.
        jobs
            What to do, in the order to start it.
        files
            Gives the files that a job needs, by name.

        Raises
        ------
        EngineError
            If a job's worker died more than :data:`RETRIES` times.
        Exception
            Whatever ``function`` raises, after the running jobs have ended.
        """


def _none(_: Any) -> Mapping[str, Path]:
    return {}


def _read(paths: Mapping[str, Path]) -> Files:
    return {name: path.read_bytes() for name, path in paths.items()}


class Here:
    """Runs jobs in this process, one after the other."""

    def run(
        self,
        function: Callable[[Job, Files], Result],
        jobs: Sequence[Job],
        files: FilesOf[Job] | None = None,
    ) -> Iterator[tuple[Job, Result]]:
        """See :meth:`Engine.run`."""
        for job in jobs:
            yield job, function(job, _read((files or _none)(job)))


@dataclass(frozen=True)
class _OnDisk(Generic[Job, Result]):
    """What a local process does: read a job's files, then the job."""

    function: Callable[[Job, Files], Result]

    def __call__(self, job: Job, paths: Mapping[str, Path]) -> Result:
        return self.function(job, _read(paths))


def _begin_worker(threads: int) -> None:
    """Start-up of a worker: few threads each, so that workers do not wait for one another.

    A worker ends with the process that started it, however that ended; a pool's own workers would
    wait for the next job forever.
    """
    import torch

    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _variables(threads: int) -> dict[str, str]:
    """The environment a worker starts in."""
    return {**_MALLOC_VARIABLES, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}


@contextmanager
def _worker_environment(threads: int) -> Iterator[None]:
    wanted = _variables(threads)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class LocalProcesses:
    """Runs jobs in fresh processes side by side.

    Attributes
    ----------
    processes
        How many; 0 for as many as there are processors.
    threads
        Threads of each.
    """

    processes: int = 0
    threads: int = 1

    def run(
        self,
        function: Callable[[Job, Files], Result],
        jobs: Sequence[Job],
        files: FilesOf[Job] | None = None,
    ) -> Iterator[tuple[Job, Result]]:
        """See :meth:`Engine.run`. A worker that dies is replaced and its job started again."""
        count = self.processes or processes_available()
        call, files = _OnDisk(function), files or _none
        waiting = list(range(len(jobs)))[::-1]
        deaths: dict[int, int] = {}
        with _worker_environment(self.threads):
            while waiting:
                with ProcessPoolExecutor(
                    count,
                    multiprocessing.get_context("spawn"),
                    initializer=_begin_worker,
                    initargs=(self.threads,),
                ) as pool:
                    running: dict[Future[Result], tuple[int, Job]] = {}
                    try:
                        while waiting or running:
                            # No more are handed out than can run, so a death costs only these.
                            while waiting and len(running) < count:
                                i = waiting.pop()
                                job = jobs[i]
                                running[pool.submit(call, job, files(job))] = i, job
                            finished, _ = wait(running, return_when=FIRST_COMPLETED)
                            for future in finished:
                                result = future.result()
                                yield running.pop(future)[1], result
                    except BrokenProcessPool as error:
                        lost = dict(running.values())
                        for i in lost:
                            deaths[i] = deaths.get(i, 0) + 1
                        hopeless = [i for i in lost if deaths[i] > RETRIES]
                        if hopeless:
                            raise EngineError(
                                f"The process that did {lost[hopeless[0]]} died "
                                f"{deaths[hopeless[0]]} times.",
                                "Something outside ends it: most often the machine is out of "
                                "memory.",
                                "Use fewer processes; what was finished is kept.",
                            ) from error
                        waiting.extend(sorted(lost, reverse=True))
                    finally:
                        for future in running:
                            future.cancel()


def _remote(
    function: Callable[[Job, Files], Result], job: Job, names: Sequence[str], *contents: bytes
) -> Result:
    """What a Ray worker does: contents come as arguments, so no disk need be shared."""
    return function(job, dict(zip(names, contents, strict=True)))


@dataclass(frozen=True)
class RayCluster:
    """Runs jobs on a Ray cluster; workers need no disk in common.

    Attributes
    ----------
    address
        Of the cluster; None for the one Ray finds, else one on this machine.
    processors, gpus
        What one job takes, as Ray counts them.
    """

    address: str | None = None
    processors: float = 1
    gpus: float = 0

    def run(
        self,
        function: Callable[[Job, Files], Result],
        jobs: Sequence[Job],
        files: FilesOf[Job] | None = None,
    ) -> Iterator[tuple[Job, Result]]:
        """See :meth:`Engine.run`. Ray starts the jobs of dead workers and nodes again."""
        try:
            import ray
        except ImportError as error:
            raise EngineError(
                "The package ray is not installed.",
                "The engine 'ray' runs jobs on a Ray cluster.",
                "Install it: pip install 'taskscout[ray]'",
            ) from error
        files = files or _none
        if not ray.is_initialized():
            try:
                ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            except (ConnectionError, OSError, ValueError, RuntimeError) as error:
                raise EngineError(
                    f"No Ray cluster answers at {self.address or 'the default address'} "
                    f"({str(error).splitlines()[0]}).",
                    "The engine 'ray' needs one.",
                    "Start one with: ray start --head, and give its address.",
                ) from error
        environment = {"env_vars": _variables(1)}
        remote = ray.remote(
            num_cpus=self.processors,
            num_gpus=self.gpus,
            max_retries=RETRIES,
            runtime_env=environment,
        )(_remote)
        slots = max(1, int(ray.cluster_resources().get("CPU", 1) / max(self.processors, 0.1)))
        put: dict[Path, Any] = {}
        running: dict[Any, Job] = {}
        waiting = list(range(len(jobs)))[::-1]
        try:
            while waiting or running:
                # Twice as many as run at once: workers never wait, and little is held.
                while waiting and len(running) < 2 * slots:
                    job = jobs[waiting.pop()]
                    paths = files(job)
                    for path in paths.values():
                        if path not in put:
                            put[path] = ray.put(path.read_bytes())
                    contents = [put[path] for path in paths.values()]
                    running[remote.remote(function, job, list(paths), *contents)] = job
                finished, _ = ray.wait(list(running), num_returns=1)
                for reference in finished:
                    job = running.pop(reference)
                    try:
                        result: Result = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise error.as_instanceof_cause() from None
                    except ray.exceptions.RayError as error:
                        raise EngineError(
                            f"The worker that did {job} died again and again.",
                            str(error).splitlines()[0],
                            "Look at the nodes' memory; what was finished is kept.",
                        ) from error
                    yield job, result
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def engine(
    name: str,
    *,
    processes: int = 0,
    threads: int = 1,
    address: str | None = None,
    gpus: float = 0,
) -> Engine:
    """Make the engine of that name.

    Raises
    ------
    EngineError
        If there is none.
    """
    if name == "here":
        return Here()
    if name == "local":
        return LocalProcesses(processes, threads)
    if name == "ray":
        return RayCluster(address, gpus=gpus)
    raise EngineError(
        f"There is no engine {name!r}.",
        "Work runs 'here' (this process), 'local' (processes side by side) or on 'ray'.",
        "Choose one of these.",
    )


@dataclass(frozen=True)
class _WithoutFiles(Generic[Job, Result]):
    function: Callable[[Job], Result]

    def __call__(self, job: Job, _: Files) -> Result:
        return self.function(job)


def run(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, processes: int = 1
) -> Iterator[tuple[Job, Result]]:
    """Yield (job, result) as jobs finish: in this process, in order, or in several.

    Parameters
    ----------
    function
        A module-level function of one job.
    jobs
        What to do, in the order to start it.
    processes
        1 runs in this process; more start fresh processes with one thread each.
    """
    alone = processes <= 1 or len(jobs) <= 1
    chosen: Engine = Here() if alone else LocalProcesses(processes)
    yield from chosen.run(_WithoutFiles(function), jobs)
