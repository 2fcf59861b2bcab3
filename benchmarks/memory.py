"""Does peak memory grow with the number of sources?

The built-in pool's space maps are replicated under other names to pools of 50 and 5,000 sources,
and one target is ranked against each in a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks._data import catalogue
from benchmarks._report import markdown, publish
from taskscout import Pool, Workbench, rank
from taskscout.pools.pool import Pool as PoolClass
from taskscout.pools.pool import Source, _Packed

SIZES = (50, 5000)


def replicated(folder: Path, size: int) -> None:
    """A packed pool of ``size`` sources that repeats the built-in pool's maps and sketches."""
    pool = Pool.builtin()
    names = [pool.names[i % len(pool)] for i in range(size)]
    folder.mkdir()
    headers = {}
    for key in ("space-map", "overlap"):
        described = [(f"{n}-{i}", pool.description(n, key).arrays) for i, n in enumerate(names)]
        _Packed.write(folder / f"packed-{key}.safetensors", described)
    sources = []
    for i, name in enumerate(names):
        source = pool.source(name)
        headers = {k: source.headers[k] for k in ("space-map", "overlap")}
        card = replace(source.card, name=f"{name}-{i}")
        sources.append(Source(card, source.tuning, headers).to_dict())
    header = {"format": 1, "encoder": dict(pool.encoder), "sources": sources}
    PoolClass._write_header(folder, header)


def one(folder: str) -> None:
    """Rank one target against one pool and print peak memory and seconds."""
    target = catalogue().task("rotten_tomatoes").sample(1000)
    ranking = rank(target, Pool.open(folder), bench=Workbench())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": peak, "scoring": ranking.seconds["scoring"], "n": len(ranking)}))


def main() -> None:
    """Run and publish."""
    found = {}
    with tempfile.TemporaryDirectory() as base:
        rank(catalogue().task("rotten_tomatoes").sample(1000))  # fill the cache
        for size in SIZES:
            folder = Path(base) / str(size)
            replicated(folder, size)
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.memory", str(folder)],
                capture_output=True,
                check=True,
                text=True,
            )
            found[size] = json.loads(done.stdout.splitlines()[-1])
            found[size]["pool_mb"] = sum(p.stat().st_size for p in folder.iterdir()) / 1e6
    rows = [
        (f"{n:,}", f"{r['pool_mb']:.1f}", f"{r['peak_mb']:.0f}", f"{r['scoring']:.1f}")
        for n, r in found.items()
    ]
    text = (
        "Peak resident memory of a process that ranks 1,000 texts (embeddings cached) against a "
        "pool of so many sources, the built-in ones repeated.\n\n"
        + markdown(("sources", "pool on disk, MB", "peak memory, MB", "scoring, s"), rows)
    )
    publish("memory", "Memory against the number of sources", text, {"sizes": found})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1])
    else:
        main()
