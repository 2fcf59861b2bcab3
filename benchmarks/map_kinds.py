"""Space maps of several ranks against real transfer: bytes a source, and quality on our grid.

Maps are fitted anew for every source of the grid from the pool's tuned models, at each rank from
the same moments, and rank the grid's targets as ``esm-logme`` does; the real source models stand
beside. They are fitted twice: on the source's own texts, as the paper and our pools have it, and
on texts of all tasks of the pool but the targets, the same for every source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks._data import catalogue
from benchmarks._report import markdown, publish
from benchmarks.study import GRID, WHERE, value, whole_seeds
from taskscout import Encoder, Pool, Workbench
from taskscout.methods.fusion import parse_method
from taskscout.methods.method import Description
from taskscout.methods.space_map import Moments, SpaceMap, fit_maps
from taskscout.methods.transferability import SpaceMapMethod
from taskscout.pools.sources import origin_of
from taskscout.studies.comparison import RANDOM, compare
from taskscout.studies.predictions import Materials, Predicted, predict
from taskscout.studies.published import read_runs

RANKS = (4, 8, 16, 32, 384)
METRICS = ("regret@1", "regret@3", "regret@5", "spearman", "pick-gain")
#: Parameters of MiniLM in float32, and hfselect's full map with its bias.
FULL_MODEL, PEER_MAP = 22_713_216 * 4, (384 * 384 + 384) * 4


#: Texts of each task that a map of the second kind is fitted on, and characters at most.
TEXTS, LONGEST = 40, 800
#: How the two kinds are called.
OWN, SHARED = "own texts", "shared texts"


class SharedTexts:
    """Texts of all tasks of the pool but some, and what a model makes of them."""

    def __init__(self, pool: Pool, without: Sequence[str], encoder: Encoder) -> None:
        self.encoder = encoder
        self.single: list[str] = []
        self.paired: list[tuple[str, str]] = []
        for name in pool.names:
            if name in without:
                continue
            texts, pairs = catalogue().task(name).sample(2 * TEXTS).inputs("train")
            if pairs is None:
                self.single += [t for t in texts if len(t) <= LONGEST][:TEXTS]
            else:
                both = zip(texts, pairs, strict=True)
                self.paired += [p for p in both if len(p[0]) + len(p[1]) <= LONGEST][:TEXTS]
        held_out = np.random.default_rng(0).random(len(self.single) + len(self.paired)) < 0.2
        self.held_out = held_out
        self.base = self._encoded(None)

    def _encoded(self, model: Any) -> np.ndarray:
        first, second = [p[0] for p in self.paired], [p[1] for p in self.paired]
        return np.concatenate(
            [self.encoder.encode(self.single, model=model),
             self.encoder.encode(first, second, model=model)]
        )  # fmt: skip

    def maps(self, source: str, model: Any) -> dict[int, Description]:
        """A source's maps by rank, fitted on these texts."""
        tuned = self._encoded(model)
        train, held_out = (
            Moments.of(self.base[rows], tuned[rows]) for rows in (~self.held_out, self.held_out)
        )
        found = fit_maps(train, held_out, ranks=RANKS)
        return {r: self._described(source, m.half()) for r, m in zip(RANKS, found, strict=True)}

    def _described(self, source: str, found: SpaceMap) -> Description:
        header = {
            "scale": found.scale, "rank": found.rank, "encoder": self.encoder.fingerprint,
        }  # fmt: skip
        arrays = {"inner": found.inner, "outer": found.outer, "offset": found.offset}
        return Description("space-map", source, header, arrays)


def own_maps(source: str, bench: Workbench) -> dict[int, Description]:
    """A source's maps by rank, as pools have them, all from one pair of embeddings."""
    out = {}
    for rank in RANKS:
        method = parse_method("esm-logme")
        assert isinstance(method, SpaceMapMethod)
        method.rank = rank
        out[rank] = method.describe(catalogue().task(source), bench)
    return out


def explained(mapped: np.ndarray, real: np.ndarray) -> float:
    """R² of what the source's model makes of a target's texts."""
    real = real.astype(np.float64)
    return 1 - float(((mapped - real) ** 2).sum() / ((real - real.mean(0)) ** 2).sum())


def main() -> None:
    """Run and publish."""
    gains = whole_seeds(read_runs(GRID, where=WHERE, unit="fraction"))
    pool, encoder, bench = Pool.builtin(), Encoder(), Workbench()
    shared = SharedTexts(pool, gains.targets, encoder)
    maps: dict[tuple[str, int], dict[str, Description]] = {}
    for source in gains.sources:
        tuned, own = origin_of(source, pool, encoder).model(), Workbench(encoder)
        own.adopt(catalogue().task(source), tuned)
        kinds = {OWN: own_maps(source, own), SHARED: shared.maps(source, tuned.model.body)}
        for kind, by_rank in kinds.items():
            for rank, found in by_rank.items():
                maps.setdefault((kind, rank), {})[source] = found
        print(source, flush=True)
    materials = Materials(catalogue=catalogue(), pool=pool, default_size=200)
    asked = predict(gains, ["logme"], materials, bench).predicted[0]
    method = parse_method("esm-logme")
    assert isinstance(method, SpaceMapMethod)
    scores = {k: np.full((len(gains.targets), len(gains.sources)), np.nan) for k in maps}
    r2: dict[tuple[str, int], list[float]] = {k: [] for k in maps}
    agrees: dict[tuple[str, int], list[float]] = {k: [] for k in maps}
    for i, name in enumerate(gains.targets):
        target = materials.target(name)
        assert target is not None
        at = [j for j, s in enumerate(gains.sources) if s != name]
        real = {
            gains.sources[j]: bench.source_embeddings(
                target, pool.description(gains.sources[j], "tuned").arrays
            )
            for j in at
        }
        for key, by_source in maps.items():
            chosen = [by_source[s] for s in real]
            scores[key][i, at] = method.score(target, chosen, bench)
            both = np.isfinite(scores[key][i]) & np.isfinite(asked.scores[i])
            agrees[key].append(spearmanr(scores[key][i, both], asked.scores[i, both])[0])
            for source, found in zip(real, chosen, strict=True):
                mapped = method.features(target, found, bench)
                assert mapped is not None
                r2[key].append(explained(mapped, real[source]))
        bench.forget(target)
    none = np.full(len(gains.targets), np.nan)
    # A map is its two factors and its offset in half precision; heads are the target's no business.
    size = {r: 2 * ((2 * r if r < 384 else 384) * 384 + 384) for r in RANKS}
    named = {(k, r): f"rank {r}, {k}" if r < 384 else f"full, {k}" for k, r in maps}
    predicted = [Predicted(named[k], scores[k], none) for k in maps]
    c = compare(gains, [*predicted, asked], metrics=METRICS, title="Ranks")
    rows = [
        (named[k, r], f"{size[r]:,}", f"1/{FULL_MODEL / size[r]:,.0f}",
         f"1/{PEER_MAP / size[r]:.0f}", f"{np.mean(r2[k, r]):.2f}", f"{np.mean(agrees[k, r]):.2f}",
         *(value(c, named[k, r], m) for m in METRICS))
        for k, r in maps
    ]  # fmt: skip
    rows += [
        (m, "–", "–", "–", "–", "–", *(value(c, m, x) for x in METRICS)) for m in ("logme", RANDOM)
    ]
    heads = ("map", "bytes", "of a full model", "of hfselect's map", "explained", "as logme")
    text = (
        f"`esm-logme` with maps of each rank on {len(gains.sources)} sources and "
        f"{len(gains.targets)} targets of 200 examples, seeds {len(gains.seed_names)}; `logme` is "
        "the same evidence on the real source models' features. Bytes are those of a map in half "
        "precision, against MiniLM in float32 and hfselect's map (float32, full). *explained* is "
        "the R² of what the source's model makes of the targets' texts, *as logme* the Spearman "
        "correlation of the scores with those of `logme`. *Own texts* are at most 1,000 of the "
        f"source's, as pools have it; *shared texts* are {len(shared.base):,} of all tasks of the "
        "pool but the targets, the same for every source.\n\n" + markdown((*heads, *METRICS), rows)
    )
    data = {
        "rows": [vars(r) for r in c.rows],
        "bytes": {named[k, r]: size[r] for k, r in maps},
        "explained": {named[k]: float(np.mean(v)) for k, v in r2.items()},
        "as logme": {named[k]: float(np.mean(v)) for k, v in agrees.items()},
    }
    publish("map_ranks", "Ranks of maps against real transfer", text, data)


if __name__ == "__main__":
    main()
