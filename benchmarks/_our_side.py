"""Our side of comparisons, in a process of its own, so that its memory can be told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._peers import serve

_held: dict[str, Any] = {}


def prepare(file: str, precision: str) -> dict[str, Any]:
    """Load the encoder and the texts."""
    import pyarrow as pa
    import torch

    from taskscout import Encoder, Task

    torch.set_num_threads(1)
    data = np.load(file, allow_pickle=False)
    table = pa.table({"text": data["texts"].tolist(), "label": data["labels"]})
    names = tuple(map(str, range(int(data["labels"].max()) + 1)))
    _held["task"] = Task("target", "classification", {"train": table}, names)
    _held["encoder"] = Encoder(precision=precision)
    _held["encoder"].warm_up()
    return {}


def rank(pool: str, cache: str, *, published: bool) -> dict[str, Any]:
    """Rank against a pool on disk; ``published`` scores as the peer does, for n >= d."""
    from taskscout import Pool, Workbench
    from taskscout import rank as rank_sources
    from taskscout.methods.method import get_method
    from taskscout.models.cache import EmbeddingCache

    options = {"centring": "none", "unit_norm": False} if published else {}
    wall, processor = time.perf_counter(), time.process_time()
    bench = Workbench(_held["encoder"], cache=EmbeddingCache(Path(cache)))
    opened = Pool.open(pool)
    open_seconds = time.perf_counter() - wall
    ranking = rank_sources(_held["task"], opened, get_method("esm-logme", **options), bench=bench)
    return {
        "seconds": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
        "open": open_seconds,
        "embedding": ranking.seconds["embedding"],
        "scoring": ranking.seconds["scoring"],
        "scores": {r.name: r.score for r in ranking.sources} if len(ranking) < 100 else {},
    }


if __name__ == "__main__":
    serve(globals())
