"""How time and memory of scoring grow: with sources, examples, dimensions and classes.

Every factor is varied alone, from 1,000 examples, d = 384, rank 16, 4 classes and 1,000 sources.
Features, labels and maps are random numbers with a spectrum like an encoder's: what is measured
here does not look at them. The exponent is the slope of a line through the logarithms.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._peers import load
from benchmarks._report import markdown, publish
from taskscout.methods.evidence import MapEvidence
from taskscout.methods.statistics import TargetStatistics

USUAL = {"sources": 1000, "examples": 1000, "dimension": 384, "classes": 4}
VARIED = {
    "sources": (10, 100, 1000, 10_000),
    "examples": (30, 100, 1000, 10_000, 100_000),
    "dimension": (384, 512, 768, 1024),
    "classes": (2, 5, 15, 50, 150),
}
RANK, BATCH, BLOCK = 16, 32, 4096
#: How often each point is measured; the dearest one less.
REPEATS = 5


def blocks(examples: int, dimension: int, classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of rows: embeddings whose classes differ in their means, and label columns."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(classes, dimension)) / np.sqrt(dimension)
    spread = np.arange(1, dimension + 1.0) ** -0.5
    for start in range(0, examples, BLOCK):
        n = min(BLOCK, examples - start)
        labels = np.arange(start, start + n) % classes
        rows = rng.standard_normal((n, dimension), np.float32) * spread + means[labels]
        yield rows.astype(np.float32), (labels[:, None] == np.arange(classes)).astype(float)


def batches(sources: int, dimension: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Batches of maps, made as they are taken, half precision."""
    rng = np.random.default_rng(1)
    shape = (BATCH, dimension, RANK)
    inner, outer = (rng.normal(size=shape) / np.sqrt(dimension) for _ in range(2))
    outer = np.linalg.qr(outer)[0]
    inner, outer = inner.astype(np.float16), outer.astype(np.float16)
    for start in range(0, sources, BATCH):
        n = min(BATCH, sources - start)
        yield start, (rng.uniform(0.8, 1.2, n), inner[:n].copy(), outer[:n].copy())


def measure(sources: int, examples: int, dimension: int, classes: int) -> dict[str, float]:
    """Processor seconds of statistics and of scores."""
    spent: dict[str, list[float]] = {"statistics": [], "scores": []}
    held = list(blocks(examples, dimension, classes)) if examples <= BLOCK else None
    with threadpool_limits(1):
        for _ in range(REPEATS if sources * classes < 40_000 else 1):
            total = 0.0
            statistics: TargetStatistics | None = None
            for block in held or blocks(examples, dimension, classes):
                begun = time.process_time()
                part = TargetStatistics.of(*block)
                statistics = part if statistics is None else statistics + part
                total += time.process_time() - begun
            assert statistics is not None
            spent["statistics"].append(total)
            begun = time.process_time()
            for _ in MapEvidence(statistics).over(batches(sources, dimension)):
                pass
            spent["scores"].append(time.process_time() - begun)
    return {name: float(np.median(values)) for name, values in spent.items()}


def memory(sources: int, examples: int, dimension: int, classes: int) -> float:
    """Peak megabytes held by arrays while statistics stream and maps are scored."""
    tracemalloc.start()
    statistics = TargetStatistics.streamed(blocks(examples, dimension, classes))
    for _ in MapEvidence(statistics).over(batches(sources, dimension), threads=2):
        pass
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return peak


def slope(values: tuple[int, ...], measured: list[float]) -> float:
    """Exponent of a power law through the points."""
    return float(np.polyfit(np.log(values), np.log(np.maximum(measured, 1e-6)), 1)[0])


def main() -> None:
    """Run and publish."""
    rows, stored = [], {}
    for factor, values in VARIED.items():
        found = []
        for value in values:
            at = {**USUAL, factor: value}
            few = {**at, "sources": min(at["sources"], 200)} if factor != "sources" else at
            result = measure(**few)
            result["scores"] *= at["sources"] / few["sources"]
            result["memory"] = memory(**{**few, "sources": min(few["sources"], 2000)})
            found.append(result)
            print(at, result, flush=True)
        stored[factor] = dict(zip(map(str, values), found, strict=True))
        for name, unit in (("statistics", "s"), ("scores", "s"), ("memory", "MB")):
            measured = [f[name] for f in found]
            kind = f"{name}, {unit}"
            cells = ", ".join(f"{m:.3g} at {v:,}" for v, m in zip(values, measured, strict=True))
            rows.append((factor, kind, cells, f"{slope(values, measured):.2f}"))
    text = (
        "One factor at a time, the others at 1,000 sources, 1,000 examples, d = 384, 4 classes; "
        "rank 16, random features and maps. *statistics*: one pass over the rows; *scores*: all "
        "sources from them, both in processor seconds, medians of 5; *memory*: peak of all arrays "
        "with two threads. Except where sources are varied, 200 are scored and the time is taken "
        f"times five. Meanwhile {load()}.\n\n"
        + markdown(("factor", "what", "measured", "exponent"), rows)
    )
    publish("growth", "Growth", text, {"measured": stored, "load": load()})


if __name__ == "__main__":
    main()
