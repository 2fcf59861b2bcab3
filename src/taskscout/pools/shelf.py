"""A pool's descriptions and cards, as methods are given them."""

from __future__ import annotations

import math

from taskscout.methods.method import CARD, Description
from taskscout.pools.pool import Pool


class PoolShelf:
    """What a pool keeps of its sources, read when it is asked for; see ``methods.asking.Shelf``."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._described: dict[str, frozenset[str]] = {}

    def holds(self, source: str, key: str) -> bool:
        """Whether the pool has a source's description of a key; every source has a card."""
        if key not in self._described:
            names = self._pool.names if key == CARD else self._pool.described(key)
            self._described[key] = frozenset(names)
        return source in self._described[key]

    def read(self, source: str, key: str) -> Description:
        """Read a description, or make one of the card."""
        if key == CARD:
            return Description(key, source, self._pool.source(source).card.to_dict())
        return self._pool.description(source, key)

    def seconds(self, source: str, key: str) -> float:
        """What making it took, as its header says; nothing for a card."""
        header = self._pool.header(source, key) if key != CARD else {"seconds": 0.0}
        return float((header or {}).get("seconds", math.nan))
