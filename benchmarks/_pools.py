"""Pools of many sources: the built-in pool's maps and sketches, repeated under other names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taskscout import Pool
from taskscout.pools.packed import write_packed
from taskscout.pools.pool import Source

KEYS = ("layered-map", "space-map", "overlap")


def replicated(folder: Path, size: int) -> Pool:
    """Write a packed pool of ``size`` sources, source ``i`` being the built-in one ``i mod n``.

    In the order of their names, as ``Pool.pack`` writes.
    """
    pool = Pool.builtin()
    folder.mkdir(parents=True)
    names = sorted((f"{pool.names[i % len(pool)]}-{i}", i % len(pool)) for i in range(size))

    def described() -> Iterator[tuple[str, list[tuple[str, Mapping[str, Any]]]]]:
        for key in KEYS:
            arrays = [pool.description(name, key).arrays for name in pool.names]
            yield key, [(name, arrays[of]) for name, of in names]

    sources = []
    for name, of in names:
        source = pool.source(pool.names[of])
        headers = {key: source.headers[key] for key in KEYS}
        sources.append(Source(replace(source.card, name=name), source.tuning, headers))
    write_packed(folder, {"encoder": dict(pool.encoder)}, sources, described())
    return Pool.open(folder)


def megabytes(folder: Path) -> float:
    """Size on disk."""
    return sum(p.stat().st_size for p in folder.iterdir()) / 1e6
