"""Kinds of maps: which layers they read, which texts they are fitted on, and which rank they have.

    python -m benchmarks.map_kinds

Maps are fitted anew for every source of our grid from the pool's tuned models. They read the
encoder's last layer, as the paper and ``esm-logme`` have it, or the middle one too, as
``layered-esm-logme``; they are fitted on the source's own texts, as the paper and our pools have
it, or on texts of all tasks of the pool but the targets, the same for every source. What they are
held against: what the source's real model makes of the targets' texts, ``logme`` on it, and real
transfer; and for targets that are not in the grid, the first two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from benchmarks._data import catalogue
from benchmarks._grids import block
from benchmarks._report import markdown, publish
from benchmarks.study import value
from taskscout import Encoder, Pool, Task, Workbench
from taskscout.methods.evidence_rows import evidence_rows
from taskscout.methods.expression import parse_method
from taskscout.methods.feature_score import FeatureScore
from taskscout.methods.method import Description
from taskscout.methods.space_map import Moments, fit_maps
from taskscout.studies.comparison import compare
from taskscout.studies.comparison_rows import RANDOM
from taskscout.studies.predictions import Materials, Predicted
from taskscout.transfer.sources import origin_of

METHODS = {"last layer": "esm-logme", "two layers": "layered-esm-logme"}
OWN, SHARED = "own", "shared"
RANKS = (4, 8, 16, 32, 384)
METRICS = ("regret@1", "regret@3", "regret@5", "spearman", "pick-gain")
#: Parameters of MiniLM in float32, and hfselect's full map with its bias.
FULL_MODEL, PEER_MAP = 22_713_216 * 4, (384 * 384 + 384) * 4
#: Shared texts of each task, and characters at most.
TEXTS, LONGEST = 40, 800
#: Targets outside the grid.
OTHERS = 12


class Kind(NamedTuple):
    """What a map reads, the texts it is fitted on, and its rank."""

    reads: str
    texts: str
    rank: int

    def __str__(self) -> str:
        rank = f"rank {self.rank}" if self.rank < 384 else "full"
        return f"{self.reads}, {self.texts} texts, {rank}"

    @property
    def bytes(self) -> int:
        """Of its two factors (a full map: its matrix) and its offset, in half precision."""
        d = 384
        read = (1 + (self.reads == "two layers")) * d
        return 2 * (self.rank * (read + d) + d if self.rank < d else read * d + d)


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
        self.held_out = np.random.default_rng(0).random(len(self.single) + len(self.paired)) < 0.2
        self.base = self._encoded(None, middle=True)

    def _encoded(self, model: Any, *, middle: bool = False) -> np.ndarray:
        first, second = [p[0] for p in self.paired], [p[1] for p in self.paired]
        return np.concatenate(
            [self.encoder.encode(self.single, model=model, middle=middle),
             self.encoder.encode(first, second, model=model, middle=middle)]
        )  # fmt: skip

    def maps(self, source: str, model: Any) -> Iterator[tuple[Kind, Description]]:
        """A source's maps, fitted on these texts."""
        tuned = self._encoded(model)
        for reads in METHODS:
            base = self.base if reads == "two layers" else self.base[:, : tuned.shape[1]]
            train, held_out = (
                Moments.of(base[rows], tuned[rows]) for rows in (~self.held_out, self.held_out)
            )
            for rank, found in zip(RANKS, fit_maps(train, held_out, ranks=RANKS), strict=True):
                half = found.half()
                header = {
                    "scale": half.scale, "rank": half.rank, "encoder": self.encoder.fingerprint,
                }  # fmt: skip
                arrays = {"inner": half.inner, "outer": half.outer, "offset": half.offset}
                yield Kind(reads, SHARED, rank), Description("map", source, header, arrays)


def own_maps(source: str, bench: Workbench) -> Iterator[tuple[Kind, Description]]:
    """A source's maps, fitted as pools have them."""
    for reads, name in METHODS.items():
        for rank in RANKS:
            method = parse_method(name)
            assert isinstance(method, FeatureScore)
            method.backend.rank = rank
            yield Kind(reads, OWN, rank), method.describe(catalogue().task(source), bench)


def explained(mapped: np.ndarray, real: np.ndarray) -> float:
    """R² of what the source's model makes of a target's texts."""
    real = real.astype(np.float64)
    return 1 - float(((mapped - real) ** 2).sum() / ((real - real.mean(0)) ** 2).sum())


@dataclass
class Held:
    """Maps of all kinds held against the real source models on some targets.

    Attributes
    ----------
    targets
        Their names.
    scores
        Of every kind and of ``logme``, targets × sources.
    r2, agreement
        Mean R² of every kind over sources, and its Spearman correlation with ``logme``, by target.
    """

    targets: tuple[str, ...]
    scores: dict[Kind | str, np.ndarray] = field(default_factory=dict)
    r2: dict[Kind, list[float]] = field(default_factory=dict)
    agreement: dict[Kind, list[float]] = field(default_factory=dict)


def hold(
    targets: Mapping[str, Task],
    sources: Sequence[str],
    maps: Mapping[Kind, Mapping[str, Description]],
    pool: Pool,
    bench: Workbench,
) -> Held:
    """Score every target by every kind of map and by the real models."""
    shape = len(targets), len(sources)
    held = Held(tuple(targets), {k: np.full(shape, np.nan) for k in (*maps, "logme")})
    for i, (name, target) in enumerate(targets.items()):
        at = [j for j, s in enumerate(sources) if s != name]
        tuned = [pool.description(sources[j], "tuned") for j in at]
        real = [bench.source_embeddings(target, d.arrays) for d in tuned]
        held.scores["logme"][i, at] = parse_method("logme").score(target, tuned, bench)
        for kind, by_source in maps.items():
            method = parse_method(METHODS[kind.reads])
            assert isinstance(method, FeatureScore)
            chosen = [by_source[sources[j]] for j in at]
            found = method.score(target, chosen, bench)
            held.scores[kind][i, at] = found
            agreement = spearmanr(found, held.scores["logme"][i, at])[0]
            held.agreement.setdefault(kind, []).append(float(agreement))
            r2 = []
            for description, wanted in zip(chosen, real, strict=True):
                mapped = method.backend.features(evidence_rows(target), description, bench)
                assert mapped is not None
                r2.append(explained(np.asarray(mapped), wanted))
            held.r2.setdefault(kind, []).append(float(np.mean(r2)))
        bench.forget(target)
        print(name, flush=True)
    return held


def main() -> None:
    """Run and publish."""
    gains = block()
    pool, encoder, bench = Pool.builtin(), Encoder(), Workbench()
    left = [n for n in pool.names if n not in (*gains.sources, *gains.targets)]
    others = left[:: len(left) // OTHERS][:OTHERS]
    shared = SharedTexts(pool, (*gains.targets, *others), encoder)
    maps: dict[Kind, dict[str, Description]] = {}
    for source in gains.sources:
        tuned, own = origin_of(source, pool, encoder).model(), Workbench(encoder)
        own.adopt(catalogue().task(source), tuned)
        for found in (own_maps(source, own), shared.maps(source, tuned.model.body)):
            for kind, description in found:
                maps.setdefault(kind, {})[source] = description
        print(source, flush=True)
    materials = Materials(catalogue=catalogue(), pool=pool, default_size=200)
    held, outside = (
        hold({n: t for n in names if (t := materials.target(n))}, gains.sources, maps, pool, bench)
        for names in (gains.targets, others)
    )
    none = np.full(len(gains.targets), np.nan)
    predicted = [Predicted(str(k), scores, none) for k, scores in held.scores.items()]
    c = compare(gains, predicted, metrics=METRICS, title="Kinds of maps")
    rows = [
        (k, f"{k.bytes:,}", f"1/{FULL_MODEL / k.bytes:,.0f}", f"1/{PEER_MAP / k.bytes:.0f}",
         *(f"{np.mean(x[k]):.2f}" for x in (held.r2, held.agreement)),
         *(f"{np.mean(x[k]):.2f}" for x in (outside.r2, outside.agreement)),
         *(value(c, str(k), m) for m in METRICS))
        for k in maps
    ]  # fmt: skip
    rows += [(m, *("–",) * 7, *(value(c, m, x) for x in METRICS)) for m in ("logme", RANDOM)]
    heads = ("map", "bytes", "of a full model", "of hfselect's map", "explained", "as logme",
             "explained, others", "as logme, others")  # fmt: skip
    text = (
        f"LogME of maps of {len(gains.sources)} sources for {len(gains.targets)} targets of 200 "
        f"examples, held against {len(gains.seed_names)} seeds of real transfer; `logme` is the "
        "same evidence on the real source models' features. Bytes are those of a map in half "
        "precision, against MiniLM in float32 and hfselect's map (float32, full). *explained* is "
        "the R² of what the source's model makes of the targets' texts, *as logme* the Spearman "
        "correlation of the scores with those of `logme`, and *others* "
        f"{len(others)} targets that are not in the grid ({', '.join(others)}). *Own texts* are at "
        f"most 1,000 of the source's, as pools have it; *shared texts* are {len(shared.base):,} of "
        "all tasks of the pool but the targets, the same for every source.\n\n"
        + markdown((*heads, *METRICS), rows)
    )
    data = {
        "rows": [vars(r) for r in c.rows],
        "kinds": {
            str(k): {
                "bytes": k.bytes,
                "explained": held.r2[k],
                "as logme": held.agreement[k],
                "explained, others": outside.r2[k],
                "as logme, others": outside.agreement[k],
            }
            for k in maps
        },
    }
    publish("map_kinds", "Kinds of maps against real transfer", text, data)


if __name__ == "__main__":
    main()
