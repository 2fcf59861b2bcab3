"""Space maps of several ranks against real transfer: bytes a source, and quality on our grid.

Maps are fitted anew for every source of the grid from the pool's tuned models, at each rank from
the same moments, and rank the grid's targets as ``esm-logme`` does; the real source models stand
beside.
"""

from __future__ import annotations

import numpy as np

from benchmarks._data import catalogue
from benchmarks._report import markdown, publish
from benchmarks.study import GRID, WHERE, value, whole_seeds
from taskscout import Encoder, Pool, Workbench
from taskscout.methods.fusion import parse_method
from taskscout.methods.method import Description
from taskscout.methods.transferability import SpaceMapMethod
from taskscout.pools.sources import origin_of
from taskscout.studies.comparison import RANDOM, compare
from taskscout.studies.predictions import Materials, Predicted, predict
from taskscout.studies.published import read_runs

RANKS = (4, 8, 16, 32, 384)
METRICS = ("regret@1", "regret@3", "regret@5", "spearman", "pick-gain")
#: Parameters of MiniLM in float32, and hfselect's full map with its bias.
FULL_MODEL, PEER_MAP = 22_713_216 * 4, (384 * 384 + 384) * 4


def maps_of(source: str, pool: Pool, encoder: Encoder) -> dict[int, Description]:
    """A source's maps by rank, all from one pair of embeddings."""
    bench = Workbench(encoder)
    task = catalogue().task(source)
    bench.adopt(task, origin_of(source, pool, encoder).model())
    out = {}
    for rank in RANKS:
        method = parse_method("esm-logme")
        assert isinstance(method, SpaceMapMethod)
        method.rank = rank
        out[rank] = method.describe(task, bench)
    return out


def main() -> None:
    """Run and publish."""
    gains = whole_seeds(read_runs(GRID, where=WHERE, unit="fraction"))
    pool, encoder, bench = Pool.builtin(), Encoder(), Workbench()
    maps = {}
    for source in gains.sources:
        maps[source] = maps_of(source, pool, encoder)
        print(source, flush=True)
    materials = Materials(catalogue=catalogue(), pool=pool, default_size=200)
    method = parse_method("esm-logme")
    scores = {r: np.full((len(gains.targets), len(gains.sources)), np.nan) for r in RANKS}
    for i, name in enumerate(gains.targets):
        target = materials.target(name)
        assert target is not None
        at = [j for j, s in enumerate(gains.sources) if s != name]
        for rank in RANKS:
            chosen = [maps[gains.sources[j]][rank] for j in at]
            scores[rank][i, at] = method.score(target, chosen, bench)
        bench.forget(target)
    none = np.full(len(gains.targets), np.nan)
    # A map is its two factors and its offset in half precision; heads are the target's no business.
    size = {r: 2 * ((2 * r if r < 384 else 384) * 384 + 384) for r in RANKS}
    named = {r: f"rank {r}" if r < 384 else "full" for r in RANKS}
    predicted = [Predicted(named[r], scores[r], none) for r in RANKS]
    asked = predict(gains, ["logme"], materials, bench)
    c = compare(gains, [*predicted, *asked.predicted], metrics=METRICS, title="Ranks")
    rows = [
        (named[r], f"{size[r]:,}", f"1/{FULL_MODEL / size[r]:,.0f}", f"1/{PEER_MAP / size[r]:.0f}",
         *(value(c, named[r], m) for m in METRICS))
        for r in RANKS
    ]  # fmt: skip
    rows += [(m, "–", "–", "–", *(value(c, m, x) for x in METRICS)) for m in ("logme", RANDOM)]
    text = (
        f"`esm-logme` with maps of each rank on {len(gains.sources)} sources and "
        f"{len(gains.targets)} targets of 200 examples, seeds {len(gains.seed_names)}; `logme` is "
        "the same evidence on the real source models' features. Bytes are those of a map in half "
        "precision, against MiniLM in float32 and hfselect's map (float32, full).\n\n"
        + markdown(("map", "bytes", "of a full model", "of hfselect's map", *METRICS), rows)
    )
    data = {"rows": [vars(r) for r in c.rows], "bytes": {named[r]: size[r] for r in RANKS}}
    publish("map_ranks", "Ranks of maps against real transfer", text, data)


if __name__ == "__main__":
    main()
