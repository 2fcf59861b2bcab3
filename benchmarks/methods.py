"""Every selection method over the catalogue: what it costs, and what it puts first.

Each classification and regression task of the catalogue is a target of so many rows; it is ranked
against a pool, its own entry and every source that shares texts with it excluded, by the same
``rank`` that users call. A *family* is that of ``benchmarks.families``. Methods that run every
source's model, and those that tune the target, see the first few targets of a fixed random order;
any method stops taking targets when it has used up its seconds.

Results are kept method by method, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._data import catalogue
from benchmarks._report import markdown, publish
from taskscout import Pool, Task, Workbench, rank
from taskscout.errors import TaskscoutError
from taskscout.files import write_atomically
from taskscout.methods import DEFAULT
from taskscout.methods.expression import parse_method
from taskscout.methods.method import Cost, Description, Method, method_names
from taskscout.methods.source_features import TUNED
from taskscout.methods.topics import ATTACHED
from taskscout.models.cache import NoCache, default_folder
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.pools.build import describe
from taskscout.tasks.catalogue import Catalogue
from taskscout.tasks.kinds import SEQUENCE_KINDS
from taskscout.tasks.names import NONE

#: Beside every method by its name.
VARIANTS = (
    "esm-logme(centring=none,unit-norm=false)",
    "esm-logme(compat=true)",
    f"rrf({DEFAULT},vocabulary)",
    f"rrf({DEFAULT},format)",
    f"zscore({DEFAULT},sentence-embedding)",
    f"{DEFAULT}>logme",
    "esm-logme>logme",
)
#: Orders of ``random`` that are averaged for each target.
DRAWS = 100
#: A share of hits over fewer targets than this says nothing.
LEAST = 5
#: Cost classes that see few targets.
FEW: tuple[Cost, ...] = ("source models", "tuning")


class Clock:
    """Processor seconds of this process, by what they were spent on."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(("scoring", "embedding", "tuning"), 0.0)

    def time(self, owner: Any, name: str, what: str) -> None:
        """Time a function of a class or an object from now on."""
        function = getattr(owner, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.spent[what] += time.process_time() - start

        setattr(owner, name, wrapper)


def targets(data: Catalogue, pool: Pool, rows: int) -> Iterator[tuple[Task, list[str], list[str]]]:
    """Targets in a fixed random order, with the sources left out and the relatives left."""
    order = np.random.default_rng(0).permutation(data.names).tolist()
    for name in order:
        if data.kind(name) not in SEQUENCE_KINDS:
            continue
        shared = data.shares_texts_with(name)
        out = [
            n for n in pool.names if n == name or n in shared or name in data.shares_texts_with(n)
        ]
        left = [n for n in pool.names if n not in out]
        relatives = [n for n in left if data.family(n) == data.family(name)]
        if relatives:
            yield data.task(name).for_choosing(rows), out, relatives


class Results:
    """What was measured, by method and target, in a file."""

    def __init__(self, path: Path, setting: Mapping[str, Any]) -> None:
        self.path = path
        self.data: dict[str, Any] = {"setting": dict(setting), "methods": {}, "shared": {}}
        if path.exists():
            found = json.loads(path.read_text())
            if found["setting"] == self.data["setting"]:
                self.data = found

    def __getitem__(self, method: str) -> dict[str, Any]:
        found: dict[str, Any] = self.data["methods"].setdefault(method, {"targets": {}})
        return found

    def save(self) -> None:
        """Write the file anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(self.data, indent=1).encode())


def measure(
    name: str,
    pool: Pool,
    found: dict[str, Any],
    given: Sequence[tuple[Task, list[str], list[str]]],
    encoder: Encoder,
    seconds: float,
    clock: Clock,
    results: Results,
) -> None:
    """Rank the targets by one method and add what came out to its results."""
    used = sum(t["used"] for t in found["targets"].values())
    for target, excluded, relatives in given:
        if target.name in found["targets"]:
            continue
        if used > seconds:
            break
        method = parse_method(name, pool_model=pool.attached(ATTACHED))
        bench = Workbench(encoder)
        bench.embeddings(target)
        clock.spent = dict.fromkeys(clock.spent, 0.0)
        clock.time(method, "score", "scoring")
        start = time.process_time()
        try:
            ranking = rank(target, pool, method, bench=bench, exclude=excluded, examples=10**6)
        except TaskscoutError as error:
            found["refused"] = f"{error.found} {error.why}"
            # A method may serve some kinds of targets only; what else it says, it says of all.
            if target.kind in method.kinds:
                return
            continue
        used += time.process_time() - start
        (cost,) = ranking.costs.values()
        first = [s.name for s in ranking.sources if s.name != NONE and not math.isnan(s.score)]
        spent = clock.spent
        found["targets"][target.name] = {
            "first": first[0],
            "hit": first[0] in relatives,
            "hit3": any(n in relatives for n in first[:3]),
            "chance": len(relatives) / (len(pool) - len(excluded)),
            "sources": len(first),
            "seconds": max(0.0, spent["scoring"] - spent["embedding"] - spent["tuning"]),
            "tuning": spent["tuning"] if bench.tunings else 0.0,
            "bytes": cost.bytes_per_source,
            "offline": cost.offline_seconds,
            "used": time.process_time() - start,
        }
        results.save()


def floor(
    found: dict[str, Any], given: Sequence[tuple[Task, list[str], list[str]]], pool: Pool
) -> None:
    """Average many random orders for each target in place of one."""
    from taskscout.methods.baselines import RandomOrder

    for target, excluded, relatives in given:
        sources = [Description("card", n) for n in pool.names if n not in excluded]
        hits = [
            sources[int(np.argmax(RandomOrder(seed=s).score(target, sources, None)))].source  # type: ignore[arg-type]
            in relatives
            for s in range(DRAWS)
        ]
        if target.name in found["targets"]:
            found["targets"][target.name]["hit"] = float(np.mean(hits))


@contextmanager
def timed(shared: dict[str, float], what: str, times: int = 1) -> Iterator[None]:
    """Note the processor seconds of what stands under it."""
    start = time.process_time()
    yield
    shared[what] = (time.process_time() - start) / times


def shared_work(
    pool: Pool,
    given: Sequence[tuple[Task, list[str], list[str]]],
    encoder: Encoder,
    results: Results,
) -> None:
    """Time what methods share, without any cache: embedding, source models, tuning."""
    shared = results.data["shared"]
    if "embedding" in shared:
        return
    few = [t for t, _, _ in given[:5]]
    bench = Workbench(encoder, cache=NoCache())
    bench.embeddings(few[0])  # loads the model
    with timed(shared, "embedding", len(few)):
        for target in few:
            Workbench(encoder, cache=NoCache()).embeddings(target)
    adapters = [pool.description(n, TUNED).arrays for n in pool.names[:3]]
    bench.source_embeddings(few[0], adapters[0])
    with timed(shared, "source model", 2 * len(few[1:])):
        for target in few[1:]:
            for adapter in adapters[1:]:
                bench.source_embeddings(target, adapter)
    results.save()


def describe_one(
    name: str, data: Catalogue, pool: Pool, encoder: Encoder, found: dict[str, Any]
) -> None:
    """Describe one source for a method whose descriptions the pool lacks: seconds and bytes."""
    source = pool.source(next(n for n in pool.names if pool.source(n).tuning["trained_on"] >= 1000))
    bench = Workbench(encoder, recipe=Recipe(**source.tuning["recipe"]))
    start = time.process_time()
    made = describe(data.task(source.name), bench, [name], known=source.headers)
    found["offline"] = time.process_time() - start
    found["bytes"] = float(sum(d.size for d in made.values()))
    found["described"] = source.name


def row(
    name: str, method: Method, pool: Pool, found: dict[str, Any], shared: Mapping[str, float]
) -> list[str]:
    """One line of the table."""
    measured = list(found["targets"].values())
    if not measured:
        once = number(found["offline"]) if "offline" in found else "–"
        size = kilobytes(found["bytes"]) if "bytes" in found else "–"
        why = "not measured"
        if not any(k == "card" or pool.described(k) for k in method.reads):
            why = "not in the pool"
        if "grid" in method.needs:
            why = "needs a grid"
        if method.composed:
            why = "made of others"
        return [f"`{name}`", method.cost, "–", "–", "–", size, once, why, "–", "0"]
    mean = {
        k: float(np.mean([t[k] for t in measured])) for k in ("hit", "chance", "bytes", "sources")
    }
    # The first target pays for imports; others may wait for other work on the machine.
    mean["seconds"] = float(np.median([t["seconds"] for t in measured]))
    offline_ = [t["offline"] for t in measured if t["offline"] is not None]
    offline = float(np.nanmean(offline_)) if np.isfinite(offline_).any() else math.nan
    tuning = [t["tuning"] for t in measured if t["tuning"] > 0]
    whole = mean["seconds"]
    if method.cost in ("embedding", "source models", "tuning"):
        whole += shared.get("embedding", math.nan)
    if method.cost == "source models":
        passes = 10 if ">" in name else mean["sources"]
        whole += passes * shared.get("source model", math.nan)
    if method.cost == "tuning":
        whole += float(np.mean(tuning)) if tuning else shared.get("tuning", math.nan)
    # Targets are the sample; the mean over random orders has less spread than a yes or no.
    error = float(np.std([t["hit"] for t in measured])) / math.sqrt(max(1, len(measured) - 1))
    return [
        f"`{name}`",
        method.cost,
        number(mean["seconds"]),
        number(whole),
        number(1000 * mean["seconds"] / mean["sources"]),
        kilobytes(mean["bytes"]),
        number(offline),
        f"{mean['hit']:.0%} ± {error:.0%}" if len(measured) >= LEAST else "–",
        f"{mean['chance']:.0%}",
        str(len(measured)),
    ]


def number(value: float) -> str:
    """Two significant digits."""
    if math.isnan(value):
        return "–"
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"


def kilobytes(value: float) -> str:
    """Thousands of bytes."""
    return "0" if value == 0 else number(value / 1000)


def main() -> None:
    """Measure what is not measured yet, and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", default="builtin")
    parser.add_argument("--rows", type=int, default=200, help="of each target")
    parser.add_argument("--few", type=int, default=12, help="targets for costly methods")
    parser.add_argument("--seconds", type=float, default=180, help="processor time, per method")
    parser.add_argument("--method", action="append", help="only these")
    parser.add_argument("--cost", action="append", help="only methods of these cost classes")
    parser.add_argument("--describe", action="store_true", help="one source where the pool lacks")
    parser.add_argument("--no-publish", action="store_true")
    options = parser.parse_args()
    data = catalogue()
    pool = Pool.builtin() if options.pool == "builtin" else Pool.open(options.pool)
    encoder = Encoder()
    setting = {"rows": options.rows, "sources": list(pool.names), "encoder": encoder.fingerprint}
    results = Results(default_folder() / "benchmark-methods.json", setting)
    given = list(targets(data, pool, options.rows))
    names = [*method_names(), *(v for v in VARIANTS if v not in method_names())]
    shared_work(pool, given, encoder, results)
    clock = Clock()
    clock.time(Workbench, "_embed", "embedding")
    clock.time(Workbench, "tuned", "tuning")
    for name in names:
        method = parse_method(name)
        if options.method and name not in options.method:
            continue
        if options.cost and method.cost not in options.cost:
            continue
        found = results[name]
        chosen = given[: options.few] if method.cost in FEW else given
        measure(name, pool, found, chosen, encoder, options.seconds, clock, results)
        if name == "random":
            floor(found, given, pool)
        if options.describe and not found["targets"] and method.cost == "tuning":
            describe_one(name, data, pool, encoder, found)
        results.save()
        print(name, len(found["targets"]), found.get("refused", ""), flush=True)
    if options.no_publish:
        return
    tuned = [
        t["tuning"]
        for found in results.data["methods"].values()
        for t in found["targets"].values()
        if t["tuning"] > 0
    ]
    shared = dict(results.data["shared"])
    if tuned:
        shared["tuning"] = float(np.mean(tuned))
    table = [row(n, parse_method(n), pool, results[n], shared) for n in names]
    text = (
        f"{options.rows} rows of each target of the catalogue, ranked against a pool of "
        f"{len(pool)} sources, its own entry and all sources that share texts with it left out; "
        "tasks without a relative left are not counted. Times are processor seconds, which other "
        "work on the machine does not lengthen. *Own*: of the method itself, for one target "
        "against all sources, median over targets; *in all*: with the work it shares with other "
        f"methods, which is embedding the target ({shared['embedding']:.2g} s), one pass of each "
        f"source's model ({shared['source model']:.2g} s per source), or tuning the target "
        f"({shared.get('tuning', math.nan):.0f} s, LoRA); *ms per pair*: own time by source. "
        "*Offline* is what one source costs once, by the clock, its own tuning included where "
        "the method reads its model. ± is the standard error over targets. Costly methods see "
        f"the first {options.few} targets of a fixed random order, and some see fewer, so "
        "compare their hits with *by chance* and among themselves.\n\n"
        + markdown(
            ("method", "cost", "own, s", "in all, s", "ms per pair", "kB per source",
             "offline, s", "family first", "by chance", "targets"),
            table,
        )
    )  # fmt: skip
    publish("methods", "All methods: cost, and what they put first", text, results.data)


if __name__ == "__main__":
    main()
