"""A grid on a Ray cluster of several local nodes, with a worker and a node killed on the way.

Each node is a process tree of its own, with its own object store, as on another machine.
"""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from taskscout.engines import Here, RayCluster
from taskscout.errors import PoolError
from taskscout.models.cache import NoCache
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.pools.build import describe_pool
from taskscout.studies.grid import run_grid
from taskscout.studies.store import GridStore
from tests.small import source_task
from tests.studies.conftest import plan_of, workplace  # noqa: F401  # fixtures

ray = pytest.importorskip("ray", reason="needs the extra 'ray'")


@pytest.fixture
def cluster():
    """A head that takes no work, and two nodes of one processor each."""
    from ray.cluster_utils import Cluster

    # A node that is gone is noticed in seconds, not in a minute.
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "_system_config": quick}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(num_cpus=1)
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def where(job: int, files) -> tuple[int, bytes, str | None]:
    time.sleep(0.3)
    return os.getpid(), files["data"], os.environ.get("OMP_NUM_THREADS")


def fail(job: int, files) -> int:
    raise PoolError("Two was found.", "It is even.", "Leave it out.")


def test_a_grid_survives_the_death_of_a_worker_and_of_a_node(cluster, plan_of, tmp_path):  # noqa: F811
    engine = RayCluster(cluster.address)

    # Files travel as bytes, both nodes take part, one thread each.
    (tmp_path / "data").write_bytes(b"abc")
    found = list(engine.run(where, range(8), lambda job: {"data": tmp_path / "data"}))
    assert sorted(job for job, _ in found) == list(range(8))
    assert {result[1:] for _, result in found} == {(b"abc", "1")}
    assert len({result[0] for _, result in found}) >= 2

    # An error of ours comes through as itself.
    with pytest.raises(PoolError, match="It is even"):
        list(engine.run(fail, [2]))

    plan, store = plan_of(), GridStore(tmp_path / "g.sqlite")
    disturbed = []

    def disturb(done, total, result):
        if done == 3:
            for line in os.popen("ps -eo pid,args").read().splitlines():
                if "ray::_remote" in line:
                    os.kill(int(line.split()[0]), signal.SIGKILL)
                    disturbed.append("worker")
                    break
        if done == 6:
            cluster.remove_node(next(n for n in cluster.worker_nodes))
            disturbed.append("node")

    run_grid(plan, store, tmp_path / "s", engine=engine, report=disturb)
    assert disturbed == ["worker", "node"]
    undisturbed = GridStore(tmp_path / "u.sqlite")
    run_grid(plan, undisturbed, tmp_path / "u", engine=Here())
    scores = {r.key: r.score for r in store.results()}
    assert scores == {r.key: r.score for r in undisturbed.results()}
    assert len(scores) == len(plan.cells)


def test_a_pool_is_described_by_the_cluster(cluster, small_pool, small_bench, tmp_path):
    """As in this process, though no worker can read the pool: jobs carry what they need of it."""
    names = "terms-cosine", "embeddings-euclidean"
    found = {}
    for where, engine in (("here", Here()), ("cluster", RayCluster(cluster.address))):
        pool = small_pool.unpack(tmp_path / where)
        bench = Workbench(small_bench.encoder, cache=NoCache())
        describe_pool(pool, names, lambda s: source_task(s.name), bench, engine=engine)
        found[where] = Pool.open(pool.folder)
    for source in found["here"]:
        assert source.headers.keys() > {"terms", "moments"}
        for key in source.headers:
            one, other = (p.description(source.name, key).arrays for p in found.values())
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)
