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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._data import catalogue
from benchmarks._peers import load
from benchmarks._report import markdown, publish
from taskscout import Pool, Workbench
from taskscout.engines import Engine, Here, LocalProcesses, RayCluster
from taskscout.methods import DEFAULT
from taskscout.methods.method import get_method
from taskscout.methods.source_features import TUNED
from taskscout.models.cache import NoCache
from taskscout.pools.build import OVERLAP, describe_pool
from taskscout.pools.pool import Source
from taskscout.studies.grid import Plan, run_grid
from taskscout.studies.store import GridStore
from taskscout.studies.study_file import GridStudy

WORKERS = (1, 2, 4)
REPEATS = 5
#: Described by what needs their texts embedded, nothing tuned.
SOURCES = ("sst2", "ag_news", "trec_fine", "subj", "snli", "tweet_irony")
METHOD = "text-embedding-pooler"
BLOCK: dict[str, Any] = {
    "name": "block",
    "pool": "builtin",
    "sources": ["ag_news", "snli"],
    "targets": ["rotten_tomatoes", "tweet_emotion"],
    "sizes": [50],
    "recipe": {"max_steps": 10},
    "test_examples": 200,
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
    before = load()
    for _ in range(repeats):
        for name, engine in (("this process", Here()), ("2 local processes", LocalProcesses(2))):
            runs.setdefault(name, []).append(once(engine))
            print(name, runs[name][-1], flush=True)
        for workers in WORKERS:
            name = f"{workers} Ray worker{'s' * (workers > 1)}"
            with cluster(workers) as address:
                runs.setdefault(name, []).append(once(RayCluster(address)))
            print(name, runs[name][-1], flush=True)
    report(runs, before)


def report(runs: dict[str, list[dict[str, float]]], before: str) -> None:
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
    hub = simulate(max(0.0, *overhead.values()))
    text = (
        f"Wall seconds, medians of {len(next(iter(runs.values())))} runs, sides taking turns; in "
        f"brackets relative to this process. *describing*: {len(SOURCES)} sources by "
        f"`{METHOD}`, nothing cached; *grid*: {cells} cells of ten steps of LoRA, without a source "
        "and from sources of the pool. The first run on an engine starts its workers, which import "
        "torch; local processes are started again for the second, Ray's are still there. All share "
        "two cores with this process and Ray's own: what is to be seen is overhead. One Ray worker "
        "takes longer than this process by "
        f"{1000 * overhead['describing']:.0f} ms a job (describing) and "
        f"{1000 * overhead['grid']:.0f} ms (grid), what a second run starts anew included. Work "
        "worth distributing takes a minute a job. At the start, "
        + before
        + ".\n\n"
        + markdown(("engine", *names), rows)
        + "\n\n"
        + hub["text"]
    )
    data = {"runs": runs, "overhead_seconds": overhead, "hub": hub["data"]}
    publish("cluster", "Engines, and a pool of the size of the hub", text, data, "ray")


def simulate(overhead: float) -> dict[str, Any]:
    """A pool of a hundred thousand sources on a cluster, from what is measured elsewhere.

    Seconds of tuning and of descriptions are those that the built-in pool's headers say; a
    source's data are its packed training texts as the tuning budget takes them.
    """
    pool = Pool.builtin()
    texts = statistics.mean(
        sum(map(len, catalogue().task(s.name).sample(1500).inputs("train")[0])) for s in pool
    )
    everything = {k for s in pool for k in s.headers}
    kept = {"tuned model and the default's map": {TUNED, OVERLAP, get_method(DEFAULT).key},
            "all that the built-in pool has": everything}  # fmt: skip
    rows, constants = [], {}
    for what, keys in kept.items():
        seconds = statistics.mean(seconds_of(s, keys) for s in pool) + overhead
        write, size = writing(pool, keys)
        constants[what] = {"seconds": seconds, "write": write, "bytes": size}
        for workers in (16, 256, 4096):
            spent = HUB * seconds / workers
            down, up = HUB * texts, HUB * size
            rows.append(
                (what, f"{workers:,}", f"{spent / 3600:,.1f}", f"{HUB * seconds / 3600:,.0f}",
                 f"{HUB * seconds / 3600 * PRICE:,.0f}", f"{down / 1e9:.0f}", f"{up / 1e9:.0f}",
                 f"{(down + up) / spent / 1e6:.1f}", f"{HUB / spent:.1f}",
                 f"{100 * HUB * write / spent:.1f}%")
            )  # fmt: skip
    least = constants["tuned model and the default's map"]
    text = (
        f"**On paper, {HUB:,} sources**, from the seconds in the built-in pool's headers (one core "
        f"each): {least['seconds']:.0f} s a source for its tuned model and the map that the "
        f"default reads, {constants['all that the built-in pool has']['seconds']:.0f} s for all "
        "that the built-in pool has, a soft prompt and a Fisher embedding among it; "
        f"{1000 * overhead:.0f} ms of Ray are in it. "
        f"{texts / 1000:.0f} KB of texts go to a worker. Money at ${PRICE} a core "
        "hour. The driver writes each source's file "
        f"({1000 * least['write']:.1f} ms at least) and moves the bytes of all, so it is what "
        f"saturates first: at {1 / least['write']:.0f} sources a second, which takes "
        f"{least['seconds'] / least['write']:,.0f} workers. Before that every source's data are "
        "fetched from the hub once, at the rate in the table, which a hub may limit. Ranking "
        "against such a pool takes ten times what 10,000 sources take above.\n\n"
        + markdown(
            ("kept of a source", "workers", "hours", "core hours", "$", "texts moved, GB",
             "pool, GB", "MB a second through the driver", "sources a second",
             "driver busy writing"),
            rows,
        )
    )  # fmt: skip
    return {"text": text, "data": {"constants": constants, "texts": texts, "rows": rows}}


#: Descriptions made from the tuned model, whose seconds count its tuning.
_FROM_TUNED_MODEL = ("space-map", "layered-map", "task-embedding-outputs")


def seconds_of(source: Source, keys: Iterable[str]) -> float:
    """What tuning a source and making its descriptions took; tuning is counted once."""
    tuning: float = source.tuning["seconds"]
    total = tuning
    for key in set(keys) & set(source.headers) - {TUNED}:
        spent = source.headers[key].get("seconds", 0.0)
        total += max(0.0, spent - tuning) if key in _FROM_TUNED_MODEL else spent
    return total


def writing(pool: Pool, keys: Iterable[str]) -> tuple[float, float]:
    """Median seconds that the driver needs to write a source, and mean bytes of its file."""
    found, sizes = [], []
    with tempfile.TemporaryDirectory() as base:
        own = Pool.create(Path(base) / "pool", encoder=pool.encoder)
        for name in list(pool.names)[:20]:
            source = pool.source(name)
            held = [pool.description(name, k) for k in source.headers if k in set(keys)]
            begun = time.perf_counter()
            own.add(source.card, source.tuning, held)
            found.append(time.perf_counter() - begun)
            sizes.append(sum(d.size for d in held))
    return statistics.median(found), statistics.mean(sizes)


#: Dollars a core hour of an ordinary cloud machine, on demand.
PRICE = 0.05


if __name__ == "__main__":
    main()
