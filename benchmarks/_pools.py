"""Pools of many sources: the built-in pool's maps and sketches, repeated under other names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from taskscout import Pool
from taskscout.methods.method import Description
from taskscout.pools.pool import FORMAT, Source, _File, _Packed, _Table
from taskscout.pools.pool import Pool as PoolClass

KEYS = ("layered-map", "space-map", "overlap")


def replicated(folder: Path, size: int) -> Pool:
    """Write a packed pool of ``size`` sources, source ``i`` being the built-in one ``i mod n``.

    In the order of their names, as ``Pool.pack`` writes.
    """
    pool = Pool.builtin()
    folder.mkdir(parents=True)
    names = sorted((f"{pool.names[i % len(pool)]}-{i}", i % len(pool)) for i in range(size))
    for key in KEYS:
        kept: dict[str, Description] = {n: pool.description(n, key) for n in pool.names}
        described = [(name, kept[pool.names[of]].arrays) for name, of in names]
        _Packed.write(folder / f"packed-{key}.safetensors", described)
    sources = []
    for name, of in names:
        source = pool.source(pool.names[of])
        headers = {key: source.headers[key] for key in KEYS}
        sources.append(Source(replace(source.card, name=name), source.tuning, headers))
    _File.write(folder / "sources.safetensors", _Table.arrays(sources, KEYS))
    header = {"format": FORMAT, "encoder": dict(pool.encoder), "packed": size}
    PoolClass._write_header(folder, header)
    return Pool.open(folder)


def megabytes(folder: Path) -> float:
    """Size on disk."""
    return sum(p.stat().st_size for p in folder.iterdir()) / 1e6
