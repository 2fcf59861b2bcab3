"""Engines: the same work in this process, in local processes and on 1, 2 and 4 Ray workers.

    python -m benchmarks.cluster

Two pieces of work, both real: describing sources of the built-in pool anew from their data, and a
block of a grid. Each Ray worker is a node of one processor with its own object store, so whatever
it needs travels to it. Then, on paper, a pool of the size of the hub from the measured constants.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._data import catalogue
from benchmarks._peers import load
from benchmarks._report import markdown, publish
from taskscout import Pool, Workbench
from taskscout.engines import Engine, Here, LocalProcesses, RayCluster
from taskscout.models.cache import NoCache
from taskscout.pools.build import describe_pool
from taskscout.studies.grid import Plan, run_grid
from taskscout.studies.store import GridStore
from taskscout.studies.study_file import GridStudy

WORKERS = (1, 2, 4)
REPEATS = 3
#: Described by what needs their texts embedded, nothing tuned.
SOURCES = ("sst2", "ag_news", "trec_fine", "subj", "cola", "mrpc", "snli", "tweet_irony")
METHOD = "text-embedding-pooler"
BLOCK: dict[str, Any] = {
    "name": "block",
    "pool": "builtin",
    "sources": ["sst2", "ag_news", "trec_fine", "snli"],
    "targets": ["rotten_tomatoes", "tweet_emotion"],
    "tunings": ["head"],
    "sizes": [50],
    "seeds": [0],
}
HUB = 100_000


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    """A head that takes no work, and so many nodes of one processor."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(workers):
            made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


def described(engine: Engine, folder: Path) -> float:
    """Describe the sources; wall seconds."""
    builtin, pool = Pool.builtin(), Pool.create(folder, encoder=Pool.builtin().encoder)
    for name in SOURCES:
        source = builtin.source(name)
        pool.add(source.card, source.tuning, [builtin.description(name, "tuned")])
    bench = Workbench(cache=NoCache())
    begun = time.perf_counter()
    describe_pool(pool, [METHOD], lambda s: catalogue().task(s.name), bench, engine=engine)
    spent = time.perf_counter() - begun
    assert all("text-embedding-pooler" in s.headers for s in Pool.open(folder))
    return spent


def gridded(engine: Engine, folder: Path) -> float:
    """Run the block of a grid; wall seconds."""
    plan, store = Plan(GridStudy(**BLOCK)), GridStore(folder / "grid.sqlite")
    begun = time.perf_counter()
    run_grid(plan, store, folder / "sources", engine=engine)
    spent = time.perf_counter() - begun
    assert len(store.results()) == len(plan.cells)
    assert not any(r.error for r in store.results())
    return spent


def once(engine: Engine) -> dict[str, float]:
    """Both pieces of work, the first time (workers start) and the second."""
    out = {}
    with tempfile.TemporaryDirectory() as base:
        for name, work in (("describing", described), ("grid", gridded)):
            for turn in ("first", "second"):
                folder = Path(base) / f"{name}-{turn}"
                if work is gridded:
                    folder.mkdir()
                out[f"{name} {turn}"] = work(engine, folder)
    return out


def main() -> None:
    """Run and publish."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS
    runs: dict[str, list[dict[str, float]]] = {}
    loads = []
    for _ in range(repeats):
        loads.append(load())
        for name, engine in (("this process", Here()), ("2 local processes", LocalProcesses(2))):
            runs.setdefault(name, []).append(once(engine))
            print(name, runs[name][-1], flush=True)
        for workers in WORKERS:
            name = f"{workers} Ray worker{'s' * (workers > 1)}"
            with cluster(workers) as address:
                runs.setdefault(name, []).append(once(RayCluster(address)))
            print(name, runs[name][-1], flush=True)
    report(runs, loads)


def report(runs: dict[str, list[dict[str, float]]], loads: list[str]) -> None:
    """Publish tables and the simulation."""
    names = ("describing first", "describing second", "grid first", "grid second")
    middle = {
        side: {n: statistics.median(r[n] for r in found) for n in names}
        for side, found in runs.items()
    }
    base = middle["this process"]
    rows = [
        (side, *(f"{m[n]:.1f} ({m[n] / base[n]:.2f})" for n in names)) for side, m in middle.items()
    ]
    cells = len(Plan(GridStudy(**BLOCK)).cells)
    jobs = {"describing": len(SOURCES), "grid": cells}
    overhead = {
        n: (middle["1 Ray worker"][f"{n} second"] - base[f"{n} second"]) / count
        for n, count in jobs.items()
    }
    start = middle["1 Ray worker"]["describing first"] - middle["1 Ray worker"]["describing second"]
    hub = simulate(max(overhead["describing"], 0.0), start)
    text = (
        f"Wall seconds, medians of {len(next(iter(runs.values())))} runs, sides taking turns; in "
        f"brackets relative to this process. *describing*: {len(SOURCES)} sources by "
        f"`{METHOD}`, nothing cached; *grid*: {cells} cells that tune a head. The first run on an "
        "engine starts its workers, which import torch; the second finds Ray's still there. Ray "
        "workers share two cores with each other, the head and this process: what is to be seen "
        f"is overhead. Beyond the work itself a job on one Ray worker takes "
        f"{1000 * overhead['describing']:.0f} ms (describing) and {1000 * overhead['grid']:.0f} ms "
        f"(grid) more than here, and starting a worker {start:.1f} s. "
        f"Meanwhile {loads[0]} at the start, {loads[-1]} at the end.\n\n"
        + markdown(("engine", *names), rows)
        + "\n\n"
        + hub["text"]
    )
    data = {"runs": runs, "overhead_seconds": overhead, "start_seconds": start, "hub": hub["data"]}
    publish("cluster", "Engines, and a pool of the size of the hub", text, data, "ray")


def simulate(overhead: float, start: float) -> dict[str, Any]:
    """A pool of a hundred thousand sources on a cluster, from what is measured elsewhere.

    Seconds of tuning and bytes are those that the built-in pool's headers say; a source's data
    are its packed training texts as the tuning budget takes them.
    """
    pool = Pool.builtin()
    tuning = statistics.mean(s.tuning["seconds"] for s in pool)
    bytes_out = sum(f.stat().st_size for f in pool.folder.iterdir()) / len(pool)
    texts = statistics.mean(
        sum(map(len, catalogue().task(s.name).sample(1500).inputs("train")[0])) for s in pool
    )
    # A map's header counts the tuning too.
    describing = statistics.mean(
        max(s.headers["space-map"]["seconds"] - s.tuning["seconds"], 0.0) for s in pool
    )
    write = seconds_of_writing(pool)
    job = tuning + describing + overhead
    rows = []
    for workers in (16, 256, 4096):
        hours = (HUB * job / workers + start) / 3600
        down, up = HUB * texts, HUB * bytes_out
        head = (down + up) / (hours * 3600) / 1e6
        busy = HUB * write / (hours * 3600)
        rows.append(
            (f"{workers:,}", f"{hours:,.1f}", f"{HUB * job / 3600:,.0f}",
             f"{HUB * job / 3600 * PRICE:,.0f}", f"{down / 1e9:.0f}", f"{up / 1e9:.0f}",
             f"{head:.1f}", f"{HUB / (hours * 3600):.1f}", f"{100 * busy:.1f}%")
        )  # fmt: skip
    text = (
        f"**On paper, {HUB:,} sources** with this recipe: {tuning:.0f} s of tuning a source on one "
        f"core here, {describing:.0f} s of describing, {1000 * overhead:.0f} ms of Ray; "
        f"{texts / 1000:.0f} KB of texts to a worker and {bytes_out / 1000:.0f} KB back. Money at "
        f"${PRICE} a core hour. The driver writes each source's file ({1000 * write:.0f} ms) and "
        f"moves the bytes of all, so it is what saturates first: at {1 / write:.0f} sources a "
        f"second, which takes {job / write:,.0f} workers. Before that every source's data are "
        "fetched from the hub once, at the rate in the table, which a hub may limit. Ranking "
        "against such a pool takes ten times what 10,000 sources take above.\n\n"
        + markdown(
            ("workers", "hours", "core hours", "$", "texts moved, GB", "pool, GB",
             "MB a second through the driver", "sources a second", "driver busy writing"),
            rows,
        )
    )  # fmt: skip
    constants = {
        "tuning": tuning, "describing": describing, "bytes": bytes_out, "texts": texts,
        "write": write,
    }  # fmt: skip
    return {"text": text, "data": {"constants": constants, "rows": rows}}


def seconds_of_writing(pool: Pool) -> float:
    """Take the time that the driver needs to write a source with all its descriptions."""
    found = []
    with tempfile.TemporaryDirectory() as base:
        own = Pool.create(Path(base) / "pool", encoder=pool.encoder)
        for name in list(pool.names)[:20]:
            source = pool.source(name)
            held = [pool.description(name, k) for k in source.headers]
            begun = time.perf_counter()
            own.add(source.card, source.tuning, held)
            found.append(time.perf_counter() - begun)
    return statistics.median(found)


#: Dollars a core hour of an ordinary cloud machine, on demand.
PRICE = 0.05


if __name__ == "__main__":
    main()
