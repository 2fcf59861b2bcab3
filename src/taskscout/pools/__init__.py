"""Pools: sources' cards and descriptions at rest."""

from taskscout.pools.pool import Pool

__all__ = ["Pool"]
